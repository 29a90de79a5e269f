//! What is known of a stage's output before it has run: enough to check the stages that use it and to count their cells.

use std::collections::BTreeMap;

use crate::spec::{Layers, Problems};

use super::rules::Reads;
use super::{Inputs, Name, parameters};

/// What a stage will leave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Name of the prompt set its rows are about; none for a stage that only reads other stages.
    pub(crate) prompts: Option<String>,
    /// Names of the models its rows are about.
    pub(crate) models: Vec<String>,
    /// The directions it will make, in order. Empty where the model that decides their layers is not on this machine.
    pub(crate) directions: Vec<ExpectedDirection>,
    /// The values of the column `set` of its sweep, where it has one.
    pub(crate) sets: Vec<String>,
    /// Whether its rows differ in α.
    pub(crate) has_alpha: bool,
    /// Names of the score rules that it reads, that of its main table first.
    pub(crate) rules: Vec<String>,
}

/// A direction that a stage will make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExpectedDirection {
    /// Name of the model whose activations it is made of.
    pub(crate) model: String,
    /// Seed of the split behind it, if there is one.
    pub(crate) seed: Option<u64>,
    /// Layer of the activations.
    pub(crate) layer: usize,
}

impl Forecast {
    /// Of a sweep over all prompts of a set.
    pub(super) fn of_sweep(models: &[Name], prompts: &Name, inputs: &Inputs) -> Self {
        let set = inputs.prompts.get(&prompts.value);
        let splits = set.map_or(Vec::new(), |set| set.splits());
        Forecast {
            sets: splits.into_iter().map(String::from).collect(),
            has_alpha: true,
            ..Forecast::about(models, prompts)
        }
    }

    /// Of rows about prompts and models, and no more.
    pub(super) fn about(models: &[Name], prompts: &Name) -> Self {
        Forecast {
            prompts: Some(prompts.value.clone()),
            models: models.iter().map(|name| name.value.clone()).collect(),
            ..Forecast::default()
        }
    }

    /// The same of scores by these rules.
    pub(super) fn reading(self, reads: &Reads) -> Self {
        let rules = reads.names();
        Forecast { rules, ..self }
    }
}

impl Inputs {
    /// What is known of a stage of the study; nothing where it could not be decoded.
    pub(super) fn forecast(&self, stage: &Name) -> Option<&Forecast> {
        self.forecasts.get(&stage.value)
    }

    /// The directions that a stage will make.
    pub(super) fn expected_directions(&self, stage: &Name) -> &[ExpectedDirection] {
        self.forecast(stage).map_or(&[], |f| &f.directions)
    }

    /// The number of layers of a model; 0 for one that is not on this machine.
    pub(super) fn n_layers(&self, model: &str) -> usize {
        self.models.get(model).map_or(0, |m| m.config().n_layers)
    }
}

/// One direction a seed and layer.
pub(super) fn directions_of(
    model: &Name,
    seeds: &[Option<u64>],
    layers: &Layers,
    inputs: &Inputs,
) -> Vec<ExpectedDirection> {
    let n_layers = inputs.n_layers(&model.value);
    let mut layers = parameters::layers(layers, n_layers);
    // A layer that is not there is told where it is asked for.
    layers.retain(|&layer| n_layers == 0 || layer < n_layers);
    let of_seed = |&seed: &Option<u64>| {
        let at = layers.iter();
        at.map(move |&layer| ExpectedDirection {
            model: model.value.clone(),
            seed,
            layer,
        })
    };
    seeds.iter().flat_map(of_seed).collect()
}

/// Checks that a stage's directions fit the models they are to steer: their width, and the layers where they act if none are named.
pub(super) fn check_directions(
    stage: &Name,
    own_layers: bool,
    models: &[Name],
    inputs: &Inputs,
    problems: &mut Problems,
) {
    let directions = inputs.expected_directions(stage);
    if let Some(direction) = directions.first() {
        let maker = Name {
            value: direction.model.clone(),
            at: stage.at.clone(),
        };
        inputs.check_widths(&maker, models, problems);
    }
    for name in models.iter().filter(|_| own_layers) {
        let n_layers = inputs.n_layers(&name.value);
        let mut deep = directions.iter().filter(|d| d.layer >= n_layers);
        if let (Some(direction), true) = (deep.next(), n_layers > 0) {
            let layer = direction.layer;
            let message = format!(
                "stage `{stage}` makes a direction at layer {layer}, which model `{name}` does not have"
            );
            problems
                .error_at(&stage.at, message)
                .label(parameters::known_layers(n_layers))
                .help("name the layers to act at with `layer`, or steer another model");
        }
    }
}

impl Inputs {
    /// Checks that directions made in one model can be added to the residual streams of others.
    pub(super) fn check_widths(&self, maker: &Name, models: &[Name], problems: &mut Problems) {
        let width = |name: &Name| Some(self.models.get(&name.value)?.config().d_model);
        for name in models {
            let (Some(made), Some(steered)) = (width(maker), width(name)) else {
                continue;
            };
            if made != steered {
                let message =
                    format!("directions made in model `{maker}` do not fit model `{name}`");
                problems
                    .error_at(&name.at, message)
                    .label(format!("of width {steered}"))
                    .related(&maker.at, format!("of width {made}"));
            }
        }
    }
}

/// Checks that a score stage scores a model on a prompt set: scores are joined by id, and ids of different sets mean different prompts.
pub(super) fn check_scores(
    scores: &Name,
    model: &Name,
    prompts: &Name,
    inputs: &Inputs,
    problems: &mut Problems,
) {
    let Some(forecast) = inputs.forecast(scores) else {
        return;
    };
    // A name that stands for nothing has been told where it stands.
    let other = forecast
        .prompts
        .as_ref()
        .filter(|set| **set != prompts.value && inputs.prompts.contains_key(*set));
    if let Some(set) = other {
        let message = format!("stage `{scores}` scores the prompts of `{set}`, not of `{prompts}`");
        problems
            .error_at(&scores.at, message)
            .label("expected scores of the same prompts")
            .related(&prompts.at, "the prompts of this stage");
    }
    let known = |name: &String| inputs.models.contains_key(name);
    if !forecast.models.contains(&model.value) && forecast.models.iter().all(known) {
        let message = format!("stage `{scores}` does not score model `{model}`");
        problems
            .error_at(&scores.at, message)
            .label(format!("it scores `{}`", forecast.models.join("`, `")))
            .related(&model.at, "the model of this stage")
            .help(format!(
                "add `{model}` to the field `model` of stage `{scores}`"
            ));
    }
}

/// By name of the stage.
pub(crate) type Forecasts = BTreeMap<String, Forecast>;
