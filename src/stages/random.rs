//! `random`: the control. Unit vectors from a seeded standard normal, steered like the learned direction.
//!
//! A vector depends on (seed, d_model) alone, so layers share it: libtorch's CPU generator with `manual_seed(seed)`, float32. (The
//! published study drew on the GPU; its vectors cannot be made again elsewhere, their distribution can.) Table: that of a sweep.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{ModelHandle, Site, random_unit_vector};
use crate::spec::{Fields, Layers, Seeds};

use super::declare::Together;
use super::direction::Direction;
use super::parameters::{self, Alphas, DirectionStage, Models, Position, PromptsName};
use super::prelude::*;
use super::sweep::{self, AlphaUnit, Line, Mode, Set, Sweep};

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
        /// Site of the edit.
        site: Site = "resid_pre",
        /// How much of the direction is added, in units of `alpha_unit`.
        alpha: Alphas,
        unit: Unit,
        /// Position of the edit, counted from the end of the prompt: -1 is its last token.
        position: Position = -1,
        settings: Reads,
    }
}

parameters! {
    /// The unit of α. A random direction has no norm of its own: another unit than 1 needs a learned direction to take it from.
    group Unit {
        /// The unit of α.
        alpha_unit: AlphaUnit = "unit",
        /// The stage whose direction at a layer says how long a unit is there; where `alpha_unit` is not `unit`.
        reference: Option<DirectionStage>,
    }
}

impl Together for Unit {
    fn read_together(fields: &mut Fields<'_, '_>, _: &Settings) -> Option<Self> {
        let alpha_unit = fields.optional("alpha_unit").unwrap_or(AlphaUnit::Unit);
        let reference = match alpha_unit {
            AlphaUnit::Unit => None,
            AlphaUnit::PreNorm | AlphaUnit::ResidNorm => Some(fields.required("reference")?),
        };
        Some(Self {
            alpha_unit,
            reference,
        })
    }
}

impl Stage for Random {
    fn forecast(&self, inputs: &Inputs) -> Forecast {
        Forecast::of_sweep(&self.model, &self.prompts, inputs).reading(&self.settings)
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        inputs.check_layers(&self.layer, &self.model, problems);
        self.settings.check_answers(&self.prompts, inputs, problems);
        let Some(reference) = &self.unit.reference else {
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
            self.model.iter().map(layers).sum(),
            self.alpha.len(),
            sweep::prompt_count(inputs, &self.prompts),
        ]);
        self.settings.cost(rows, &self.model, inputs)
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let sweep = Sweep {
            models: inputs.models_named(&self.model)?,
            prompts,
            alphas: &self.alpha,
            position: self.position.value,
            mode: Mode::Add,
            reads: &self.settings,
        };
        let sets = sweep::sets_by_split(prompts);
        let mut without = BTreeSet::new();
        let lines = |model: &ModelHandle| self.lines(model, &sets, inputs, &mut without);
        // Models of different width need vectors of different length.
        let swept = sweep.run(|_, _| false, lines, evaluator)?;
        Ok(Output {
            parts: sweep::in_parts(swept),
            findings: self.left_out(&without).into_iter().collect(),
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

    /// Every vector at every layer of a model; layers that have none are added to those `without`.
    fn lines(
        &self,
        model: &ModelHandle,
        sets: &Arc<[Set]>,
        inputs: &Inputs,
        without: &mut BTreeSet<usize>,
    ) -> Result<Vec<Line>, StageError> {
        let config = model.config();
        let vector = |seed| Ok((seed, Arc::new(random_unit_vector(seed, config.d_model)?)));
        let vectors = self.seed.iter().map(vector);
        let vectors = vectors.collect::<Result<Vec<_>, StageError>>()?;
        let mut lines = Vec::new();
        for layer in parameters::layers(&self.layer, config.n_layers) {
            let Some(unit_length) = self.unit_length(layer, inputs)? else {
                without.insert(layer);
                continue;
            };
            lines.extend(vectors.iter().map(|(seed, vector)| Line {
                direction: "random".to_string(),
                seed: Some(*seed),
                layer,
                site: self.site,
                vector: Arc::clone(vector),
                unit_length,
                sets: Arc::clone(sets),
                builders: Arc::default(),
            }));
        }
        Ok(lines)
    }

    /// Length of one unit of α at a layer, by the reference direction there; none where it has none, as long as it has one elsewhere.
    fn unit_length(&self, layer: usize, inputs: &Inputs) -> Result<Option<f64>, StageError> {
        let Some(name) = &self.unit.reference else {
            return Ok(Some(1.0));
        };
        let directions = &inputs.stage(name)?.directions;
        let at = |layer| directions.iter().find(|d| d.layer == layer);
        let length = |d: &Direction| self.unit.alpha_unit.length(d.pre_norm, d.resid_norm);
        let found = at(layer).map(length);
        match found.is_some() || self.layers(inputs).into_iter().any(|l| at(l).is_some()) {
            true => Ok(found),
            false => Err(StageError::Data(format!(
                "stage `{}` has no direction at layer {layer} to take the unit of α from",
                name.value
            ))),
        }
    }

    /// What to say of layers that were left out.
    fn left_out(&self, layers: &BTreeSet<usize>) -> Option<String> {
        let reference = self.unit.reference.as_ref();
        let reference = reference.filter(|_| !layers.is_empty())?;
        let numbers: Vec<String> = layers.iter().map(usize::to_string).collect();
        Some(format!(
            "left out at layer {}: stage `{}` has no direction there to take the unit of α from",
            numbers.join(", "),
            reference.value
        ))
    }
}
