//! Which directions act, where and how strongly.

use serde_json::{Value as Json, json};

use crate::spec::{Fields, Node, Spanned};

use super::super::Needs;
use super::super::action::Action;
use super::super::declare::{
    Declaration, Declared, Field, FieldType, KeyParts, Parameter, as_needed, declared, fields_of,
    parameters,
};
use super::super::field_types::with;
use super::super::parameters::DirectionStage;
use super::super::position::{EVERYWHERE, Selection};
use super::super::settings::Settings;
use super::super::steer::Places;

parameters! {
    /// A direction of another stage and how it acts.
    pub(in crate::stages) struct Steering {
        /// The directions that act; a `generate` stage without one steers nothing.
        direction: DirectionStage,
        places: Places,
        action: Action,
        /// At which tokens it acts: `"last_prompt"`, `"generated"`, `"both"`, or whatever `position` of `steer` may be.
        positions: Acts = "both",
    }
}

/// A word that stands for a selection.
type Word = (&'static str, fn() -> Selection);

/// Words for selections of generated tokens, with the last token of the prompt or without.
const WORDS: [Word; 3] = [
    ("last_prompt", Selection::last),
    ("generated", || Selection::generated(false)),
    ("both", || Selection::generated(true)),
];

/// Where a direction acts, in the prompt and in what is generated.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::stages) struct Acts(pub(super) Selection);

impl Steering {
    /// Where each edit of a run acts: its own, then what else is done.
    pub(in crate::stages) fn selections(&self) -> Vec<&Selection> {
        let own = &self.positions.0;
        let others = self.action.with.iter();
        let others = others.map(|also| also.position.as_ref().unwrap_or(own));
        [own].into_iter().chain(others).collect()
    }

    /// Where it acts, unless a word says it that needs no telling.
    pub(in crate::stages) fn position(&self) -> Option<&Selection> {
        let is_told = self.positions.word().is_none();
        is_told.then_some(&self.positions.0)
    }
}

impl Acts {
    /// The word for it, where it is one that needs no telling.
    pub(super) fn word(&self) -> Option<&'static str> {
        let known = WORDS.iter().find(|(_, selection)| selection() == self.0);
        known.map(|(word, _)| *word)
    }
}

impl Parameter for Acts {
    fn read(fields: &mut Fields<'_, '_>, declared: &Declared, _: &Settings) -> Option<Self> {
        let word = fields.node(declared.name).map(Node::as_str);
        let known = |word: &str| WORDS.iter().find(|(known, _)| *known == word);
        match word {
            None if fields.peek("mode").and_then(Node::as_str) == Some(EVERYWHERE) => {
                Some(Acts(Selection::all()))
            }
            None => Some(Acts(Selection::generated(true))),
            Some(word) => match word.and_then(known) {
                Some((_, selection)) => Some(Acts(selection())),
                None => {
                    let selection = fields.required::<Spanned<Selection>>(declared.name);
                    selection.map(|selection| Acts(selection.value))
                }
            },
        }
    }

    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        let own = match self.word() {
            Some(word) => word.into(),
            None => self.0.key(),
        };
        key.insert(name.to_string(), own);
    }

    fn list(declared: &Declared) -> Vec<Field> {
        let words: Json = WORDS.iter().map(|(word, _)| *word).collect();
        let mut fields = <Selection as Parameter>::list(declared);
        for field in &mut fields {
            let also = json!({ "anyOf": [{ "enum": words }, field.schema] });
            field.schema = with(also, &json!({}));
        }
        fields
    }
}

/// Without `direction` there is nothing that the other fields could apply to.
impl Parameter for Option<Steering> {
    fn read(fields: &mut Fields<'_, '_>, declared: &Declared, study: &Settings) -> Option<Self> {
        match fields.node("direction") {
            None => no_steering(fields).then_some(None),
            Some(_) => Steering::read(fields, declared, study).map(Some),
        }
    }

    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        let own = self.as_ref().map(Declaration::parameters);
        key.insert(name.to_string(), own.into());
    }

    fn add_needs(&self, needs: &mut Needs) {
        self.iter().for_each(|steering| steering.add_needs(needs));
    }

    fn list(_: &Declared) -> Vec<Field> {
        as_needed(fields_of::<Steering>())
    }
}

/// Whether no field asks for steering; α = 0 asks for none.
fn no_steering(fields: &mut Fields<'_, '_>) -> bool {
    let mut is_alone = true;
    let names = [
        "layer",
        "together",
        "site",
        "mode",
        "alpha_unit",
        "plane",
        "with",
        "when",
        "positions",
        "alpha",
    ];
    for name in names {
        let Some(node) = fields.node(name) else {
            continue;
        };
        let is_zero = |alphas: super::super::parameters::Alphas| alphas.values().eq(&[0.0]);
        if name == "alpha" && fields.optional(name).is_some_and(is_zero) {
            continue;
        }
        is_alone = false;
        fields
            .problems
            .error_at(&node.at, format!("`{name}` is given, but no `direction`"))
            .label("nothing is steered")
            .help("name the stage that makes the direction: `direction = \"…\"`");
    }
    is_alone
}
