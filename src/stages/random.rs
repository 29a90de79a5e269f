//! `random`: the control. Unit vectors from a seeded standard normal, steered like the learned direction.
//!
//! A vector depends on (seed, d_model) alone, so layers share it: libtorch's CPU generator with `manual_seed(seed)`, float32. (The
//! published study drew on the GPU; its vectors cannot be made again elsewhere, their distribution can.) Table: that of a sweep.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{ModelHandle, Site, Vector, random_unit_vector};
use crate::spec::{Choice, Fields, Layers, Node, Seeds};

use super::action::{Acting, Action, AlphaUnit, Line, Mode, Taken, orthonormal, together};
use super::declare::{Declared, Field, KeyParts, Parameter};
use super::direction::Direction;
use super::field_types::OnlyIfTrue;
use super::parameters::{self, DirectionStage, Models, PromptsName};
use super::place::RANDOM;
use super::position::Position;
use super::prelude::*;
use super::sweep::{self, Sweep};

pub(super) static KIND: Kind = super::kind::<Random>(
    "random",
    1,
    Product::RandomSweep,
    "the same sweep with random directions, as a control",
    &TOLD,
);

static TOLD: Told = Told {
    computes: "The control: the sweep of `steer` with unit vectors drawn from a standard normal, one for each seed, the same at every layer \
        (libtorch's CPU generator, `manual_seed(seed)`, float32). N of them give a p of at least 1 / (N + 1): nineteen for 0.05. A \
        random direction has no norm of its own, so that another `alpha_unit` than `unit` takes the length from the stage that \
        `reference` names.",
    tables: &[told::SWEEP_TABLE, told::SWEEP_OF_RULE],
    example: r#"
[stages.random]
model = "inst"
prompts = "main"
seed = "0..4"
layer = [10, 20]
alpha = [-20, 0, 20]
"#,
};

parameters! {
    struct Random {
        /// Models that are steered, in the order of the table.
        model: Models,
        /// The prompts that are scored.
        prompts: PromptsName,
        /// One direction for each seed.
        seed: Seeds,
        /// Layers of the edit, `"all"` for every layer of each model.
        layer: Layers,
        /// Whether it acts at all of them at once.
        together: OnlyIfTrue = false,
        /// Site of the edit.
        site: Site = "resid_pre",
        action: Action,
        reference: Reference,
        /// Which tokens are edited, as `steer` has it.
        position: Position = -1,
        settings: Reads,
    }
}

/// The stage whose direction at a layer says what a random one does not: how long a unit of α is, where the groups' means are, how many span
/// what is taken out.
struct Reference(Option<DirectionStage>);

impl Reference {
    const NAME: &str = "reference";

    /// Whether what is done needs one.
    fn is_needed(fields: &Fields<'_, '_>) -> bool {
        let word = |name: &str| fields.peek(name).and_then(Node::as_str);
        let of_mode = [Mode::Ace, Mode::Leace, Mode::AblateSpan].map(Mode::name);
        let units = [AlphaUnit::PreNorm, AlphaUnit::ResidNorm].map(AlphaUnit::name);
        word("mode").is_some_and(|mode| of_mode.contains(&mode))
            || word("alpha_unit").is_some_and(|unit| units.contains(&unit))
    }
}

impl Parameter for Reference {
    fn read(fields: &mut Fields<'_, '_>, _: &Declared, _: &Settings) -> Option<Self> {
        match Self::is_needed(fields) {
            true => Some(Reference(Some(fields.required(Self::NAME)?))),
            false => Some(Reference(None)),
        }
    }

    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        self.0.add_key(name, key);
    }

    fn add_needs(&self, needs: &mut super::Needs) {
        self.0.add_needs(needs);
    }

    fn list(_: &Declared) -> Vec<Field> {
        let about = "The stage whose direction at a layer says how long a unit is there, where the means of its groups are, or how many directions span \
             what is taken out; where `alpha_unit` is not `unit`, or `mode` is `ace`, `leace` or `ablate_span`.";
        vec![Field::optional::<DirectionStage>(Self::NAME, about)]
    }
}

impl Stage for Random {
    fn forecast(&self, inputs: &Inputs) -> Forecast {
        Forecast {
            has_alpha: self.action.mode.has_alpha(),
            ..Forecast::of_sweep(&self.model, &self.prompts, inputs).reading(&self.settings)
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        inputs.check_layers(&self.layer, &self.model, problems);
        self.settings.check_answers(&self.prompts, inputs, problems);
        self.action.check(&self.model, inputs, problems);
        self.position.check_of_prompt(problems);
        let Some(reference) = &self.reference.0 else {
            return;
        };
        let expected = inputs.expected_directions(reference).iter();
        let learned: Vec<usize> = expected.map(|direction| direction.layer).collect();
        let layers = self.layers(inputs);
        let without = layers.iter().find(|layer| !learned.contains(layer));
        if let (false, Some(layer)) = (learned.is_empty(), without) {
            let Name { value: stage, at } = &**reference;
            let message = format!(
                "stage `{stage}` makes no direction at layer {layer} to take the unit of α from"
            );
            problems
                .error_at(at, message)
                .label(format!("it makes directions at {learned:?}"));
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let layers = |model: &Name| {
            let n_layers = inputs.n_layers(&model.value);
            parameters::layers(&self.layer, n_layers).len()
        };
        let rows = product(&[
            self.seed.0.len(),
            match self.together.0 {
                true => self.model.len(),
                false => self.model.iter().map(layers).sum(),
            },
            self.action.count(),
            sweep::prompt_count(inputs, &self.prompts),
        ]);
        self.settings
            .cost(rows, &self.model, inputs)
            .over(self.position.expected_tokens())
            .and(self.action.condition_cost(
                sweep::prompt_count(inputs, &self.prompts),
                &self.model,
                &self.settings,
                inputs,
            ))
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let sweep = Sweep {
            models: inputs.models_named(&self.model)?,
            prompts,
            action: &self.action,
            position: &self.position,
            reads: &self.settings,
        };
        let sets = sweep::sets_by_split(prompts);
        let mut without = BTreeSet::new();
        let acting = self.action.acting(inputs)?;
        let lines = |model: &ModelHandle| {
            let lines = self.lines(model, &acting, inputs, &mut without)?;
            Ok(acting.finished(lines, model.config().n_layers, &sets))
        };
        // Models of different width need vectors of different length.
        let swept = sweep.run(|_, _| false, lines, evaluator)?;
        Ok(Output {
            parts: sweep::in_parts(swept),
            findings: [
                self.left_out(&without).into_iter().collect(),
                sweep.findings()?,
            ]
            .concat(),
            ..Output::default()
        })
    }
}

impl Random {
    /// All layers that are named, of the deepest model.
    fn layers(&self, inputs: &Inputs) -> Vec<usize> {
        let deepest = self.model.iter().map(|m| inputs.n_layers(&m.value)).max();
        parameters::layers(&self.layer, deepest.unwrap_or(0))
    }

    /// Every vector at every layer of a model; layers that have no direction to refer to are added to those `without`.
    fn lines(
        &self,
        model: &ModelHandle,
        acting: &Acting<'_>,
        inputs: &Inputs,
        without: &mut BTreeSet<usize>,
    ) -> Result<Vec<Line>, StageError> {
        let config = model.config();
        let mut lines = Vec::new();
        for layer in parameters::layers(&self.layer, config.n_layers) {
            let Some(beside) = self.beside(layer, inputs)? else {
                without.insert(layer);
                continue;
            };
            for seed in self.seed.iter() {
                let place = (layer, self.site);
                let beside_it = beside.first().copied();
                let taken = taken(seed, place, (config.d_model, beside_it), &self.action)?;
                lines.push(match self.action.mode {
                    Mode::AblateSpan => {
                        let count = self.dimensions(&beside, inputs)?;
                        acting.line_of_span(&taken, span(seed, count, config.d_model)?)?
                    }
                    _ => acting.line_of(&taken)?,
                });
            }
        }
        Ok(match self.together.0 {
            true => together(lines),
            false => lines,
        })
    }

    /// Of how many directions the span is whose control it is: of those at a layer, or, where there is one at most, of all of its seed.
    fn dimensions(&self, beside: &[&Direction], inputs: &Inputs) -> Result<usize, StageError> {
        let (Some(name), [only]) = (&self.reference.0, beside) else {
            return Ok(beside.len());
        };
        let all = inputs.stage(name)?.directions.iter();
        Ok(all.filter(|direction| direction.seed == only.seed).count())
    }

    /// The directions at a layer that it refers to, of which there need be none where it refers to no stage; none where the stage has none at this
    /// layer, as long as it has one elsewhere.
    fn beside<'d>(
        &self,
        layer: usize,
        inputs: &'d Inputs,
    ) -> Result<Option<Vec<&'d Direction>>, StageError> {
        let Some(name) = &self.reference.0 else {
            return Ok(Some(Vec::new()));
        };
        let directions = &inputs.stage(name)?.directions;
        let at = |layer| directions.iter().filter(move |d| d.layer == layer);
        let found: Vec<&Direction> = at(layer).collect();
        match found.is_empty() {
            false => Ok(Some(found)),
            true if self
                .layers(inputs)
                .into_iter()
                .any(|l| at(l).next().is_some()) =>
            {
                Ok(None)
            }
            true => Err(StageError::Data(format!(
                "stage `{}` has no direction at layer {layer} to refer to",
                name.value
            ))),
        }
    }

    /// What to say of layers that were left out.
    fn left_out(&self, layers: &BTreeSet<usize>) -> Option<String> {
        let reference = self.reference.0.as_ref();
        let reference = reference.filter(|_| !layers.is_empty())?;
        let numbers: Vec<String> = layers.iter().map(usize::to_string).collect();
        Some(format!(
            "left out at layer {}: stage `{}` has no direction there to take the unit of α from",
            numbers.join(", "),
            reference.value
        ))
    }
}

/// The vector of a seed at a place, as long as the learned direction beside it, where there is one.
fn taken<'d>(
    seed: u64,
    (layer, site): (usize, Site),
    (d_model, beside): (usize, Option<&'d Direction>),
    action: &Action,
) -> Result<Taken<'d>, StageError> {
    Ok(Taken {
        label: RANDOM.to_string(),
        seed: Some(seed),
        layer,
        site,
        vector: vector(seed, 0, d_model)?,
        unit_length: beside.map_or(Ok(1.0), |d| action.alpha_unit.length(d))?,
        affine: beside.and_then(|d| d.affine.as_deref()),
        pre_norm: beside.map_or(1.0, |d| d.pre_norm),
        is_learned: false,
        builders: Arc::default(),
    })
}

/// So many random directions, seeds from 0, at every place where one of these acts by itself, as long as the first one there; instead of a span as
/// many together as it is of. `are_layers_named` as [`Acting::lines`] has it.
pub(super) fn lines_beside(
    directions: &[Direction],
    (action, acting): (&Action, &Acting<'_>),
    are_layers_named: bool,
    count: usize,
) -> Result<Vec<Line>, StageError> {
    let is_span = action.mode == Mode::AblateSpan;
    let place = |direction: &Direction| match is_span && are_layers_named {
        true => (0, direction.site),
        false => (direction.layer, direction.site),
    };
    let places = super::distinct(directions.iter().map(place));
    let mut lines = Vec::new();
    for there in places {
        let beside: Vec<&Direction> = directions.iter().filter(|d| place(d) == there).collect();
        let of_one_seed = beside.iter().filter(|d| d.seed == beside[0].seed).count();
        let d_model = beside[0].vector.values().len();
        for seed in 0..count as u64 {
            let here = (beside[0].layer, there.1);
            let taken = taken(seed, here, (d_model, Some(beside[0])), action)?;
            lines.push(match is_span {
                true => acting.line_of_span(&taken, span(seed, of_one_seed, d_model)?)?,
                false => acting.line_of(&taken)?,
            });
        }
    }
    Ok(lines)
}

/// An orthonormal basis of so many vectors of a seed.
fn span(seed: u64, count: usize, d_model: usize) -> Result<Vec<Arc<Vector>>, StageError> {
    let vectors = (0..count).map(|place| vector(seed, place, d_model));
    let vectors = vectors.collect::<Result<Vec<_>, _>>()?;
    Ok(orthonormal(vectors.iter().map(|vector| &**vector)))
}

/// A unit vector of a seed; of a span the first is that of the seed alone, the others are of seeds far from any that a study names.
fn vector(seed: u64, place: usize, d_model: usize) -> Result<Arc<Vector>, StageError> {
    let seed = seed.wrapping_add((place as u64) << 40);
    Ok(Arc::new(random_unit_vector(seed, d_model)?))
}
