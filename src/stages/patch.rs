//! `patch`: what happens to the score when a run is given another run's vector at one place.
//!
//! The recipient's vector at (layer, site, position) is replaced by the donor's; Δ = patched − recipient. Two pairings:
//!
//! - `models`: the same prompt in two models (the study: instruct into base), for which both must be fed identical ids;
//! - `prompts`: two prompts in the same model, paired by order within two splits, or by a field that both have.
//!
//! With `cumulative = "last_k"` the last K layers are patched at once, K = 1..n. Main table, one row per pair and place: `donor_model,
//! recipient_model, donor, recipient, split, category` (of the recipient), `site, layer` (or `k`), `score_donor, score_recipient,
//! score_patched, delta`. `mean`: per site, layer and split the mean of Δ, and of the recovery Δ / (donor − recipient) over pairs with
//! |donor − recipient| ≥ `floor`: below it there is no effect to recover, and the ratio is noise.

mod experiment;
mod pairing;

use serde_json::{Value as Json, json};

use crate::model::{HookPoint, ModelHandle, Site};
use crate::prompts::PromptSet;
use crate::spec::{Fields, Layers, OneOrMany, Problems, Spanned, choice, suggest};

use super::parameters::{self, Settings};
use super::sweep;
use super::{
    Cost, Evaluate, Forecast, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError,
    product,
};

use experiment::{Effects, Experiment, Side, Variant};
use pairing::Pairing;

pub(super) static KIND: Kind = Kind {
    name: "patch",
    version: 3,
    product: Product::Patches,
    about: "effect of one run's activations on another's score",
    decode,
};

/// How far apart donor and recipient must be for a recovery, unless the study says otherwise.
const DEFAULT_FLOOR: f64 = 1.0;

/// The layers patched.
enum Depth {
    /// These, one at a time.
    Each(Layers),
    /// The last K at once, for every K.
    LastK,
}

struct Patch {
    pairing: Pairing,
    prompts: Name,
    depth: Depth,
    sites: Vec<Site>,
    position: i64,
    floor: f64,
    limit: Option<usize>,
    settings: Settings,
}

fn decode(fields: &mut Fields<'_, '_>, settings: &Settings) -> Option<Box<dyn Stage>> {
    Some(Box::new(read(fields, settings)?))
}

fn read(fields: &mut Fields<'_, '_>, settings: &Settings) -> Option<Patch> {
    let pairing = Pairing::read(fields);
    let prompts = fields.required("prompts");
    let depth = depth(fields);
    let sites = sites(fields);
    let position = parameters::position(fields);
    let floor = floor(fields);
    let limit = count(fields, "limit");
    Some(Patch {
        pairing: pairing?,
        prompts: prompts?,
        depth: depth?,
        sites: sites?,
        position: position?,
        floor: floor?,
        limit: limit?.map(|limit| limit.value),
        settings: settings.clone(),
    })
}

/// Decodes `cumulative` or `layer`, of which there must be one.
fn depth(fields: &mut Fields<'_, '_>) -> Option<Depth> {
    let Some(node) = fields.node("cumulative") else {
        return fields.required("layer").map(Depth::Each);
    };
    let last_k = choice(node, fields.problems(), &[("last_k", ())]);
    if let Some(layer) = fields.node("layer") {
        fields
            .problems()
            .error_at(&layer.at, "`layer` cannot stand beside `cumulative`")
            .label("`last_k` goes through every number of layers")
            .related(&node.at, "given here");
        return None;
    }
    last_k.map(|()| Depth::LastK)
}

/// Decodes `site`: one residual-sized site or several.
fn sites(fields: &mut Fields<'_, '_>) -> Option<Vec<Site>> {
    let names: OneOrMany<String> = fields.required("site")?;
    let known = parameters::residual_sites();
    let mut sites = Vec::new();
    for name in &names.0 {
        match known.iter().find(|(known, _)| *known == name.value) {
            Some((_, site)) if !sites.contains(site) => sites.push(*site),
            Some((_, site)) => {
                let problem = format!("site `{}` is named twice", site.short_name());
                fields
                    .problems()
                    .error_at(&name.at, problem)
                    .label("again here");
            }
            None => unknown_site(name, fields.problems()),
        }
    }
    (sites.len() == names.0.len()).then_some(sites)
}

fn unknown_site(name: &Spanned<String>, problems: &mut Problems) {
    let known = Site::RESIDUAL.map(Site::short_name);
    let diagnostic = problems
        .error_at(
            &name.at,
            format!("`{}` is not a site that can be patched", name.value),
        )
        .help(format!("sites: `{}`", known.join("`, `")));
    if let Some(meant) = suggest(&name.value, known) {
        diagnostic.label(format!("did you mean `{meant}`?"));
    }
}

fn floor(fields: &mut Fields<'_, '_>) -> Option<f64> {
    let Some(floor) = fields.optional::<Spanned<f64>>("floor") else {
        return Some(DEFAULT_FLOOR);
    };
    if floor.value > 0.0 {
        return Some(floor.value);
    }
    fields
        .problems()
        .error_at(&floor.at, format!("floor `{}` is not above 0", floor.value))
        .label("where donor and recipient score the same there is nothing to recover");
    None
}

/// Decodes a count that must be at least 1 where it is given.
pub(super) fn count(
    fields: &mut Fields<'_, '_>,
    name: &'static str,
) -> Option<Option<Spanned<usize>>> {
    match fields.optional::<Spanned<usize>>(name) {
        Some(count) if count.value == 0 => {
            fields
                .problems()
                .error_at(&count.at, format!("`{name}` must be at least 1"));
            None
        }
        count => Some(count),
    }
}

impl Depth {
    /// The name of the column that tells the layers apart.
    fn column(&self) -> &'static str {
        match self {
            Depth::Each(_) => "layer",
            Depth::LastK => "k",
        }
    }

    /// What is patched, site by site.
    fn variants(&self, sites: &[Site], n_layers: usize) -> Vec<Variant> {
        let layers: Vec<(usize, Vec<usize>)> = match self {
            Depth::Each(layers) => {
                let layers = parameters::layers(layers, n_layers).into_iter();
                layers.map(|layer| (layer, vec![layer])).collect()
            }
            Depth::LastK => {
                let last = |k| (k, (n_layers - k..n_layers).collect());
                (1..=n_layers).map(last).collect()
            }
        };
        let mut variants = Vec::with_capacity(sites.len() * layers.len());
        for &site in sites {
            variants.extend(layers.iter().cloned().map(|(number, layers)| Variant {
                site,
                number,
                layers,
            }));
        }
        variants
    }
}

impl Stage for Patch {
    fn needs(&self) -> Needs {
        let (donor, recipient) = self.pairing.models();
        let mut models = vec![donor.clone()];
        if recipient.value != donor.value {
            models.push(recipient.clone());
        }
        Needs {
            models,
            prompts: vec![self.prompts.clone()],
            stages: vec![],
            ..Needs::default()
        }
    }

    fn parameters(&self) -> Json {
        json!({
            "pairing": self.pairing.key(),
            "layer": match &self.depth {
                Depth::Each(layers) => parameters::layers_key(layers),
                Depth::LastK => json!("last_k"),
            },
            "site": self.sites.iter().map(|site| site.short_name()).collect::<Vec<_>>(),
            "position": self.position,
            "floor": self.floor,
            "limit": self.limit,
            "settings": self.settings.key(),
        })
    }

    fn forecast(&self, _inputs: &Inputs) -> Forecast {
        Forecast::about(&self.needs().models, &self.prompts)
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        self.pairing.check(&self.prompts, inputs, problems);
        if let Depth::Each(layers) = &self.depth {
            // Of two models of one depth, which `pairing` asks for, one is enough.
            let (_, recipient) = self.pairing.models();
            parameters::check_layers(layers, std::slice::from_ref(recipient), inputs, problems);
        }
    }

    /// A script runs donor and recipient once per pair, and the recipient again for every site and layer.
    fn cost(&self, inputs: &Inputs) -> Cost {
        let (_, recipient) = self.pairing.models();
        let n_layers = inputs.n_layers(&recipient.value);
        let variants = self.depth.variants(&self.sites, n_layers).len();
        let prompts = inputs.prompts.get(&self.prompts.value);
        let pairs = prompts.map_or(0, |set| self.pairing.pairs(set, self.limit).len());
        let cells = product(&[pairs, 2 + 2 * variants]);
        Cost {
            cells_at_most: cells,
            equivalent_forward_passes: product(&[pairs, 2 + variants]),
            token_passes: cells,
        }
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let experiment = self.experiment(inputs)?;
        let effects = experiment.measure(evaluator)?;
        let number = self.depth.column();
        Ok(Output {
            tables: vec![
                (String::new(), experiment.table(&effects, number)?),
                (
                    "mean".to_string(),
                    experiment.means(&effects, number, self.floor)?,
                ),
            ],
            findings: self.findings(experiment.prompts, &effects),
            ..Output::default()
        })
    }
}

impl Patch {
    fn experiment<'a>(&self, inputs: &'a Inputs) -> Result<Experiment<'a>, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let (donor_name, recipient_name) = self.pairing.models();
        let donor = self.side(inputs.model(donor_name)?, prompts)?;
        let recipient = match recipient_name.value == donor_name.value {
            true => donor.clone(),
            false => self.side(inputs.model(recipient_name)?, prompts)?,
        };
        if matches!(self.pairing, Pairing::Models { .. }) {
            let models = [inputs.model(donor_name)?, inputs.model(recipient_name)?];
            sweep::tokens_of_each(&models, prompts, &self.settings)?;
        }
        Ok(Experiment {
            variants: self.depth.variants(&self.sites, recipient.n_layers),
            pairs: self.pairing.pairs(prompts, self.limit),
            position: self.position,
            donor,
            recipient,
            prompts,
        })
    }

    fn side(&self, model: &ModelHandle, prompts: &PromptSet) -> Result<Side, StageError> {
        Ok(Side {
            name: model.name().to_string(),
            fingerprint: model.fingerprint(),
            n_layers: model.config().n_layers,
            tokens: sweep::tokens_of(model, prompts, &self.settings)?,
            readout: self.settings.readout(model)?,
        })
    }

    fn findings(&self, prompts: &PromptSet, effects: &Effects) -> Vec<String> {
        let mut findings: Vec<String> = self.pairing.finding(prompts).into_iter().collect();
        let scores = effects.donor.iter().zip(&effects.recipient);
        let close = scores.filter(|(donor, recipient)| (*donor - *recipient).abs() < self.floor);
        let left_out = close.count();
        if left_out > 0 {
            findings.push(format!(
                "{left_out} of {} pairs are left out of the recovery: donor and recipient differ by less than {}",
                effects.donor.len(),
                self.floor
            ));
        }
        let sites = self.sites.iter();
        let streams = sites.filter(|site| HookPoint::block(0, **site).is_stream());
        let streams: Vec<&str> = streams.map(|site| site.short_name()).collect();
        // At an earlier position the keys and values of the layers patched still differ from K to K.
        if matches!(self.depth, Depth::LastK) && self.position == -1 && !streams.is_empty() {
            findings.push(format!(
                "`{}`: one number for every K by construction, since replacing the stream at the last layer overwrites all below",
                streams.join("`, `")
            ));
        }
        findings
    }
}

#[cfg(test)]
mod tests;
