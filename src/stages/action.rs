//! What a stage does with directions: how, how strongly, and what else at the same time. The edits that come of it are a [`Line`]'s.
//!
//! `steer`, `generate`, `holdout`, `random` and `xstest` have the same actions, so that whatever is done has its control and its texts.

mod acting;
mod line;
mod span;
mod when;

use serde_json::Value as Json;

use crate::spec::{Choice, Decode, Fields, Node, OneOrMany, Problems, Spanned, Value};

use super::declare::{
    Declared, Field, FieldType, KeyParts, Parameter, Table, as_needed, declared, fields_of,
    parameters,
};
use super::direction::Direction;
use super::field_types::choices;
use super::forecast::check_directions;
use super::parameters::{Alphas, DirectionStage};
use super::position::Selection;
use super::rules::Reads;
use super::settings::Settings;
use super::{Cost, Inputs, Name, Needs, StageError, product};

pub(super) use acting::{Acting, Taken};
pub(crate) use line::{Line, Set};
pub(super) use line::{ablated_everywhere, together};
pub(super) use span::orthonormal;
use when::When;
pub(super) use when::{Gate, Likeness, Over, Side, Similarity};

choices! {
    /// What is done with a direction, at its layer, site and positions unless it says more.
    pub(crate) enum Mode {
        /// h ← h + α·v
        Add = "add",
        /// h ← h − (h·v)v, without α
        Ablate = "ablate",
        /// the same at every layer
        AblateAll = "ablate_all",
        /// the same at the input of every block and at what attention and MLP add, in every token unless `position` says otherwise
        AblateEverywhere = "ablate_everywhere",
        /// h ← h − Σ (h·q)q over an orthonormal basis of all directions at a layer, without α
        AblateSpan = "ablate_span",
        /// h ← h − (h·v)v + (μ_B·v)v + α(μ_A − μ_B): α = 0 puts the component along v where B has it, 1 where A has it
        Ace = "ace",
        /// h ← h − v·r(h − μ), with the r for which the means of A and B become equal and h changes least, without α
        Leace = "leace",
        /// h's part in the plane of v and the direction of `plane` is turned to the angle α from v, in degrees, at its length
        Rotate = "rotate",
    }
}

choices! {
    /// What α is counted in. Norms are those of a direction's own site, before it was normalised.
    pub(crate) enum AlphaUnit {
        /// the unit direction
        Unit = "unit",
        /// the norm of the difference of means
        PreNorm = "pre_norm",
        /// the mean norm of the residual stream
        ResidNorm = "resid_norm",
    }
}

impl AlphaUnit {
    /// The length of one unit, for a direction.
    ///
    /// # Errors
    /// A direction that was made without what says it.
    pub(super) fn length(self, direction: &Direction) -> Result<f64, StageError> {
        match self {
            AlphaUnit::Unit => Ok(1.0),
            AlphaUnit::PreNorm => Ok(direction.pre_norm),
            AlphaUnit::ResidNorm => direction.resid_norm.ok_or_else(|| {
                StageError::Data(format!(
                    "how long the stream is at layer {} is not known of direction `{}`, which no activations were taken for; give the stage that \
                     reads it `prompts`, or take another `alpha_unit`",
                    direction.layer, direction.label
                ))
            }),
        }
    }
}

impl Mode {
    /// Whether it is done more or less.
    pub(crate) fn has_alpha(self) -> bool {
        matches!(self, Mode::Add | Mode::Ace | Mode::Rotate)
    }

    /// What stands behind the name of a direction with which that is done.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Mode::Add => "",
            Mode::Ablate => "_ablated",
            Mode::AblateAll => "_ablated_everywhere",
            Mode::AblateEverywhere => "_ablated_at_every_site",
            Mode::AblateSpan => "_span_ablated",
            Mode::Ace => "_ace",
            Mode::Leace => "_leace",
            Mode::Rotate => "_rotated",
        }
    }

    /// What the rows of a direction are called: what an ablation does must not be taken for a direction added with α = 0.
    pub(super) fn label(self, direction: &str) -> String {
        format!("{direction}{}", self.done())
    }

    /// What is done with the first direction of a name, as [`Mode::label`] says it.
    pub(super) fn done_in(label: &str) -> &'static str {
        let first = label.split('+').next().unwrap_or_default();
        let first = first.split("_from_layer_").next().unwrap_or_default();
        let all = Mode::CHOICES.iter().map(|(_, mode, _)| mode.done());
        let done = all.filter(|done| first.ends_with(done));
        done.max_by_key(|done| done.len()).unwrap_or_default()
    }
}

/// What is done with the directions of a stage.
#[derive(Clone, Debug)]
pub(crate) struct Action {
    pub(super) mode: Mode,
    /// How strongly; of what is done without α 0 alone.
    pub(super) alpha: Alphas,
    pub(super) alpha_unit: AlphaUnit,
    /// Whose directions span the plane of a rotation with the first ones.
    pub(super) plane: Option<DirectionStage>,
    /// What else is done in the same run, behind it where both are at one place.
    pub(super) with: Vec<Also>,
    /// On which prompts all of it is done; on all where it does not say.
    pub(super) when: Option<Table<When>>,
}

parameters! {
    /// What else is done in the same run.
    #[derive(Clone, Debug)]
    pub(crate) struct Also {
        /// The directions that act, too: the one of the same layer and seed as the first, or the only one there is.
        direction: DirectionStage,
        /// The layer at which it acts; the direction's own where left out.
        layer: Option<usize>,
        /// Where it acts, as the stage's own; there where left out.
        position: Option<Selection>,
        action: Alone,
    }
}

/// An action with nothing beside it.
#[derive(Clone, Debug)]
pub(crate) struct Alone(pub(super) Action);

/// The fields of an action; which of them there are, its mode decides.
fn fields_alone() -> Vec<Field> {
    let mode = declared!(["What is done with a direction."] mode "add");
    let alpha = declared!(["How strongly, in units of `alpha_unit`; not for an ablation. With `ace` in units of the difference of means, with `rotate` in degrees."] alpha);
    let unit = declared!(["The unit of α of a direction that is added."] alpha_unit "unit");
    let plane = "The stage whose direction spans the plane of a rotation with the first; with `mode = \"rotate\"`.";
    let fields = [
        <Mode as Parameter>::list(&mode),
        <Alphas as Parameter>::list(&alpha),
        <AlphaUnit as Parameter>::list(&unit),
        vec![Field::optional::<DirectionStage>("plane", plane)],
    ];
    as_needed(fields.concat())
}

impl Action {
    fn read_alone(fields: &mut Fields<'_, '_>) -> Option<Self> {
        let mode = fields.optional("mode").unwrap_or(Mode::Add);
        let none = || {
            OneOrMany(vec![Spanned {
                value: 0.0,
                at: fields.at.clone(),
            }])
        };
        let mut alpha = Some(none());
        if mode.has_alpha() {
            alpha = fields.required("alpha");
        }
        let mut alpha_unit = AlphaUnit::Unit;
        if mode == Mode::Add {
            alpha_unit = fields.optional("alpha_unit").unwrap_or(alpha_unit);
        }
        let plane = match mode {
            Mode::Rotate => Some(fields.required("plane")?),
            _ => None,
        };
        let of_others = [
            ("alpha", !mode.has_alpha()),
            ("alpha_unit", mode != Mode::Add),
            ("plane", mode != Mode::Rotate),
        ];
        for (name, is_of_others) in of_others {
            let Some(node) = fields.node(name).filter(|_| is_of_others) else {
                continue;
            };
            let (label, help) = match (name, mode) {
                ("plane", _) => ("of a rotation", "set `mode = \"rotate\"`".to_string()),
                ("alpha_unit", Mode::Ace) => (
                    "α counts differences of means",
                    format!("remove `{name}`, or set `mode = \"add\"`"),
                ),
                ("alpha_unit", Mode::Rotate) => (
                    "α counts degrees",
                    format!("remove `{name}`, or set `mode = \"add\"`"),
                ),
                _ => (
                    "plays no part",
                    format!("remove `{name}`, or set `mode = \"add\"`"),
                ),
            };
            let what = match mode.has_alpha() {
                true => format!("`{}`", mode.name()),
                false => "an ablation".to_string(),
            };
            let message = format!("`{name}` is given, but `mode` is {what}");
            fields
                .problems
                .error_at(&node.at, message)
                .label(label)
                .help(help);
            alpha = None;
        }
        Some(Action {
            mode,
            alpha: alpha?,
            alpha_unit,
            plane,
            with: Vec::new(),
            when: None,
        })
    }

    /// How many α there are, each with every combination of those of what else is done.
    pub(super) fn count(&self) -> usize {
        let with = self.with.iter().map(|also| also.action.0.alpha.len());
        with.fold(self.alpha.len(), usize::saturating_mul)
    }

    /// What its condition adds for so many prompts on each of some models: what they are like, and for each readout a run without the edit. No
    /// threshold adds any.
    pub(super) fn condition_cost(
        &self,
        prompts: usize,
        models: &[Name],
        reads: &Reads,
        inputs: &Inputs,
    ) -> Cost {
        if self.when.is_none() {
            return Cost::default();
        }
        let count = product(&[prompts, models.len()]);
        reads.cost(count, models, inputs).and(Cost::of_cells(count))
    }

    /// Checks what else is done, and the plane of a rotation, against the models.
    pub(super) fn check(&self, models: &[Name], inputs: &Inputs, problems: &mut Problems) {
        if let Some(plane) = &self.plane {
            check_directions(plane, false, models, inputs, problems);
        }
        for also in &self.with {
            check_directions(
                &also.direction,
                also.layer.is_none(),
                models,
                inputs,
                problems,
            );
            also.action.0.check(models, inputs, problems);
        }
        if let Some(Table(when)) = &self.when {
            when.check(models, inputs, problems);
        }
    }

    /// What acts with it, with the directions of the stages that it names.
    pub(super) fn acting<'a>(&'a self, inputs: &'a Inputs) -> Result<Acting<'a>, StageError> {
        Acting::of(self, inputs)
    }
}

impl Parameter for Action {
    fn read(fields: &mut Fields<'_, '_>, _: &Declared, _: &Settings) -> Option<Self> {
        let alone = Action::read_alone(fields);
        let with = match fields.node("with") {
            None => Some(Vec::new()),
            Some(_) => fields.optional::<Alsos>("with").map(|with| with.0),
        };
        let when = match fields.node("when") {
            None => Some(None),
            Some(_) => fields.optional("when").map(Some),
        };
        Some(Action {
            with: with?,
            when: when?,
            ..alone?
        })
    }

    /// Nothing of what is not said: keys are what they were before it could be.
    fn add_key(&self, _: &'static str, key: &mut KeyParts) {
        if self.mode != Mode::Add {
            key.insert("mode".to_string(), self.mode.key());
        }
        key.insert("alpha".to_string(), self.alpha.key());
        key.insert("alpha_unit".to_string(), self.alpha_unit.key());
        if !self.with.is_empty() {
            let with = self
                .with
                .iter()
                .map(super::declare::Declaration::parameters);
            key.insert("with".to_string(), with.collect());
        }
        if let Some(when) = &self.when {
            key.insert("when".to_string(), when.key());
        }
    }

    fn add_needs(&self, needs: &mut Needs) {
        self.plane.iter().for_each(|plane| plane.refer(needs));
        self.with.iter().for_each(|also| also.add_needs(needs));
        self.when.iter().for_each(|when| when.refer(needs));
    }

    fn list(_: &Declared) -> Vec<Field> {
        let with = Field::optional::<Alsos>(
            "with",
            "What else is done in the same run, in this order behind the first; a list of tables.",
        );
        let when = Field::optional::<Table<When>>(
            "when",
            "On which prompts it is done: those whose unedited run is like a direction, or is not. On the others nothing is edited.",
        );
        [fields_alone(), vec![with, when]].concat()
    }
}

impl Parameter for Alone {
    fn read(fields: &mut Fields<'_, '_>, _: &Declared, _: &Settings) -> Option<Self> {
        Action::read_alone(fields).map(Alone)
    }

    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        self.0.add_key(name, key);
    }

    fn add_needs(&self, needs: &mut Needs) {
        self.0.add_needs(needs);
    }

    fn list(_: &Declared) -> Vec<Field> {
        fields_alone()
    }
}

/// A list of tables.
struct Alsos(Vec<Also>);

impl Decode for Alsos {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let Value::Array(items) = &node.value else {
            return problems.mismatch(node, &Self::expected());
        };
        let also = |item: &Node| {
            let mut fields = Fields::new(item, problems)?;
            let also = Also::read(&mut fields, &Declared::default(), &Settings::default());
            fields.finish();
            also
        };
        let read: Vec<Option<Also>> = items.iter().map(also).collect();
        read.into_iter().collect::<Option<_>>().map(Self)
    }

    fn expected() -> String {
        "a list of tables".into()
    }
}

impl FieldType for Alsos {
    fn schema() -> Json {
        let table = super::declare::object(&fields_of::<Also>());
        serde_json::json!({ "type": "array", "items": table })
    }

    fn key(&self) -> Json {
        Json::Null
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_read_off_a_name() {
        for (_, mode, _) in Mode::CHOICES {
            let label = mode.label("top_bottom_30");
            assert_eq!(Mode::done_in(&label), mode.done(), "{label}");
            let moved = format!("{label}_from_layer_3+other_ablated(2)");
            assert_eq!(Mode::done_in(&moved), mode.done(), "{moved}");
        }
    }
}
