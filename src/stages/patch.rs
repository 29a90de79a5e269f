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

use std::sync::Arc;

use serde_json::Value as Json;

use crate::model::{HookPoint, ModelHandle, Site};
use crate::prompts::PromptSet;
use crate::spec::{Choice, Decode, Fields, Layers, Node, OneOrMany, Spanned, suggest};

use super::Needs;
use super::declare::{Declaration, Declared, Field, FieldType, KeyParts, Parameter};
use super::direction::Places;
use super::field_types::{choices, one_or_many};
use super::parameters::{self, Count, Floor, PromptsName, residual_sites};
use super::position::Position;
use super::prelude::*;
use super::sweep;

use experiment::{Effects, Experiment, Side, Variant};
use pairing::Pairing;

pub(super) static KIND: Kind = super::kind::<Patch>(
    "patch",
    3,
    Product::Patches,
    "effect of one run's activations on another's score",
    &TOLD,
);

const PAIRS: ColumnTold = ColumnTold::of("n", "pairs", "count");

static TOLD: Told = Told {
    computes: "The recipient's vector at (layer, site, position) is replaced by the donor's, and the rest of the run follows: `Δ = s(patched) − \
        s(recipient)`, and the recovery is `Δ / (s(donor) − s(recipient))` over pairs at least `floor` apart. With `pairing = \"models\"` \
        the same prompt in two models is a pair, with `\"prompts\"` two prompts in one model. `layer = [10, 14]` patches one layer at a \
        time; `cumulative = \"last_k\"` the last K layers at once, for every K.",
    tables: &[
        TableTold::of(
            "",
            "a row for each pair, site and layer",
            "donor_model recipient_model donor recipient split category site layer? k? score_donor score_recipient score_patched delta",
        ),
        TableTold::of(
            "mean",
            "a row for each site, layer and split",
            "site layer? k? split n mean_delta delta_low delta_high mean_recovery n_recovery n_left_out",
        )
        .but(&[PAIRS]),
    ],
    example: r#"
[stages.patch]
pairing = "prompts"
model = "inst"
prompts = "main"
donors = "harmful"
recipients = "edge"
limit = 4                      # pairs
layer = [10, 20]
site = ["resid_pre", "mlp_out"]
"#,
};

parameters! {
    struct Patch {
        pairing: Pairing,
        /// The prompts.
        prompts: PromptsName,
        layer: Depth,
        /// Sites that are patched, each by itself.
        site: Sites,
        /// Which tokens are patched, all at once, each by the one at the same place of the donor: an index, counted from the end below 0, a word, a
        /// window, a list of these.
        position: Position = -1,
        /// How far apart the scores of donor and recipient must be for a recovery.
        floor: Floor = 1.0,
        /// How many pairs at most; between models, of each split.
        limit: Option<Count>,
        settings: ReadsOne,
    }
}

/// The layers patched.
enum Depth {
    /// These, one at a time.
    Each(Layers),
    /// The last K at once, for every K.
    LastK,
}

choices! {
    enum Cumulative {
        /// the last K layers, for every K
        LastK = "last_k",
    }
}

/// `cumulative` or `layer`, of which there must be one.
impl Parameter for Depth {
    fn read(fields: &mut Fields<'_, '_>, _: &Declared, _: &Settings) -> Option<Self> {
        let Some(node) = fields.node("cumulative") else {
            return fields.required("layer").map(Depth::Each);
        };
        let cumulative = fields.optional::<Cumulative>("cumulative");
        if let Some(layer) = fields.node("layer") {
            fields
                .problems
                .error_at(&layer.at, "`layer` cannot stand beside `cumulative`")
                .label("`last_k` goes through every number of layers")
                .related(&node.at, "given here");
            return None;
        }
        cumulative.map(|Cumulative::LastK| Depth::LastK)
    }

    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        let patched = match self {
            Depth::Each(layers) => layers.key(),
            Depth::LastK => Cumulative::LastK.name().into(),
        };
        key.insert(name.to_string(), patched);
    }

    fn list(_: &Declared) -> Vec<Field> {
        let layer =
            "Layers that are patched, one at a time. One of `layer` and `cumulative` is given.";
        vec![
            Field::optional::<Cumulative>("cumulative", "Patches several layers at once."),
            Field::optional::<Layers>("layer", layer),
        ]
    }
}

/// Residual-sized sites, none twice under whatever name.
struct Sites(Vec<Site>);

impl Decode for Sites {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let names = OneOrMany::<String>::decode(node, problems)?;
        let mut sites = Vec::new();
        for name in &names.0 {
            let mut known = residual_sites().into_iter();
            match known.find(|(known, _)| *known == name.value) {
                Some((_, site)) if !sites.contains(&site) => sites.push(site),
                Some((_, site)) => {
                    let problem = format!("site `{}` is named twice", site.short_name());
                    problems.error_at(&name.at, problem).label("again here");
                }
                None => unknown_site(name, problems),
            }
        }
        (sites.len() == names.0.len()).then_some(Self(sites))
    }

    fn expected() -> String {
        OneOrMany::<String>::expected()
    }
}

impl FieldType for Sites {
    fn schema() -> Json {
        one_or_many(&Site::schema())
    }

    fn key(&self) -> Json {
        self.0.iter().map(|site| site.short_name()).collect()
    }

    fn refer(&self, needs: &mut Needs) {
        needs.sites.extend(&self.0);
    }
}

fn unknown_site(name: &Spanned<String>, problems: &mut Problems) {
    let known = Site::RESIDUAL.map(Site::short_name);
    let message = format!("`{name}` is not a site that can be patched");
    let diagnostic = problems
        .error_at(&name.at, message)
        .help(format!("sites: `{}`", known.join("`, `")));
    if let Some(meant) = suggest(&name.value, known) {
        diagnostic.label(format!("did you mean `{meant}`?"));
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
        let numbers = match self {
            Depth::Each(layers) => parameters::layers(layers, n_layers),
            Depth::LastK => (1..=n_layers).collect(),
        };
        let variant = |site, number| Variant {
            site,
            number,
            layers: match self {
                Depth::Each(_) => vec![number],
                Depth::LastK => (n_layers - number..n_layers).collect(),
            },
        };
        let of_site = |&site| numbers.iter().map(move |&number| variant(site, number));
        sites.iter().flat_map(of_site).collect()
    }
}

impl Stage for Patch {
    fn forecast(&self, _inputs: &Inputs) -> Forecast {
        Forecast::about(&self.needs().models, &self.prompts).reading(&self.settings)
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        self.pairing.check(&self.prompts, inputs, problems);
        self.settings.check_answers(&self.prompts, inputs, problems);
        if let Depth::Each(layers) = &self.layer {
            // Of two models of one depth, which `pairing` asks for, one is enough.
            let (_, recipient) = self.pairing.models();
            inputs.check_layers(layers, std::slice::from_ref(recipient), problems);
        }
    }

    /// A script runs donor and recipient once per pair, and the recipient again for every site and layer.
    fn cost(&self, inputs: &Inputs) -> Cost {
        let (_, recipient) = self.pairing.models();
        let n_layers = inputs.n_layers(&recipient.value);
        let variants = self.layer.variants(&self.site.0, n_layers).len();
        let prompts = inputs.prompts.get(&self.prompts.value);
        let pairs = prompts.map_or(0, |set| self.pairing.pairs(set, self.limit()).len());
        let scores = product(&[pairs, 2 + variants]);
        let scores = self.settings.cost(scores, &self.needs().models, inputs);
        let taken = product(&[pairs, variants]);
        scores.and(Cost {
            cells_at_most: taken,
            equivalent_forward_passes: 0,
            token_passes: taken,
        })
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let experiment = self.experiment(inputs)?;
        let effects = experiment.measure(evaluator)?;
        let number = self.layer.column();
        let means = experiment.means(&effects, number, self.floor.value)?;
        Ok(Output {
            tables: vec![
                (String::new(), experiment.table(&effects, number)?),
                ("mean".to_string(), means),
            ],
            findings: self.findings(experiment.prompts, &effects),
            ..Output::default()
        })
    }
}

impl Patch {
    fn places(&self, model: &ModelHandle) -> Result<Places, StageError> {
        let places = Places::of(&self.position, model, &self.settings.chat)?;
        places.ok_or_else(|| {
            StageError::Data(format!(
                "an activation goes to the same place of another prompt, which `{}` does not name in prompts of different length; name it from one \
                 end: an index, a window such as `\"-5..\"`, `\"instruction_end\"`, `\"post_instruction\"`",
                *self.position
            ))
        })
    }

    fn limit(&self) -> Option<usize> {
        self.limit.as_ref().map(|limit| limit.value)
    }

    fn experiment<'a>(&'a self, inputs: &'a Inputs) -> Result<Experiment<'a>, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let (donor, recipient) = self.pairing.models();
        let models = [inputs.model(donor)?, inputs.model(recipient)?];
        let fed = sweep::tokens_of_each(&models, prompts, &self.settings)?;
        let mut fed = fed.into_iter();
        let mut side = |model: &Arc<ModelHandle>| -> Result<Side, StageError> {
            Ok(Side {
                name: model.name.clone(),
                fingerprint: model.fingerprint,
                n_layers: model.config().n_layers,
                tokens: fed.next().unwrap_or_default(),
                readings: self.settings.on(model)?,
            })
        };
        let [donor, recipient] = models.map(&mut side);
        let recipient = recipient?;
        Ok(Experiment {
            variants: self.layer.variants(&self.site.0, recipient.n_layers),
            pairs: self.pairing.pairs(prompts, self.limit()),
            places: self.places(inputs.model(&self.needs().models[0])?)?,
            rules: &self.settings.rules,
            donor: donor?,
            recipient,
            prompts,
        })
    }

    fn findings(&self, prompts: &PromptSet, effects: &Effects) -> Vec<String> {
        let mut findings: Vec<String> = self.pairing.finding(prompts).into_iter().collect();
        let rule = self.settings.main();
        if !rule.is_default() {
            findings.push(format!("scores are by the rule `{}`", rule.name));
        }
        let (all, floor) = (effects.donor.len(), self.floor.value);
        let scores = effects.donor.iter().zip(&effects.recipient);
        let close = scores.filter(|(donor, recipient)| (*donor - *recipient).abs() < floor);
        let left_out = close.count();
        if left_out > 0 {
            findings.push(format!(
                "{left_out} of {all} pairs are left out of the recovery: donor and recipient differ by less than {floor}"
            ));
        }
        let sites = self.site.0.iter();
        let streams = sites.filter(|site| HookPoint::block(0, **site).is_stream());
        let streams: Vec<&str> = streams.map(|site| site.short_name()).collect();
        // At an earlier position the keys and values of the layers patched still differ from K to K.
        if matches!(self.layer, Depth::LastK) && self.position.is_last() && !streams.is_empty() {
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
