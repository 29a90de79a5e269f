//! Which directions act, where and how strongly.

use crate::model::Positions;
use crate::spec::Fields;

use super::super::Needs;
use super::super::declare::{
    Declaration, Declared, Field, KeyParts, Parameter, as_needed, declared, fields_of, parameters,
};
use super::super::field_types::choices;
use super::super::parameters::{Alphas, DirectionStage};
use super::super::settings::Settings;
use super::super::steer::Places;
use super::super::sweep::AlphaUnit;

choices! {
    /// Where a direction acts.
    pub(super) enum Acts {
        /// the last token of the prompt
        LastPrompt = "last_prompt",
        /// every generated token
        Generated = "generated",
        /// both
        Both = "both",
    }
}

parameters! {
    /// A direction of another stage and how it acts.
    pub(super) struct Steering {
        /// The directions that act; nothing is steered where it is left out.
        direction: DirectionStage,
        places: Places,
        /// How much of the direction is added, in units of `alpha_unit`.
        alpha: Alphas,
        /// The unit of α.
        alpha_unit: AlphaUnit = "unit",
        /// At which tokens it acts.
        positions: Acts = "both",
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
    for name in ["layer", "site", "alpha_unit", "positions", "alpha"] {
        let Some(node) = fields.node(name) else {
            continue;
        };
        let is_zero = |alphas: Alphas| alphas.values().eq(&[0.0]);
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

impl Acts {
    /// The positions edited in a run that starts from a prompt of `length` tokens.
    pub(super) fn positions(self, length: usize) -> Positions {
        let last = length.saturating_sub(1);
        match self {
            Acts::LastPrompt => Positions::At(last),
            Acts::Generated => Positions::From(length),
            Acts::Both => Positions::From(last),
        }
    }
}
