//! `direction`: v = mean(h | A) − mean(h | B), where A and B are prompts of high and low score.
//!
//! Means are accumulated in float64; the direction is stored with unit norm, with the norm it had before as `pre_norm` (Refusal Dial
//! study; Arditi et al., arXiv:2406.11717, call it difference of means). One direction per layer asked for; a layer where the two means are
//! the same has none, and is left out with a finding as long as another has one. Main table: one row per direction. `members`: the
//! prompts of A and B. `cosine`: between all directions of the stage. The same procedure on shuffled labels is the negative control in
//! `shuffled`.

mod extract;
mod findings;
mod tables;

use std::collections::HashMap;

use polars::prelude::DataFrame;
use serde_json::{Value as Json, json};

use crate::model::Site;
use crate::prompts::PromptSet;
use crate::spec::{Fields, Layers, Problems, Spanned, choice};
use crate::stats;

use super::forecast::{check_scores, directions_of};
use super::parameters::{self, Settings};
use super::table;
use super::{
    Cost, Evaluate, Forecast, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError,
};

pub(crate) use extract::Direction;
pub(super) use extract::{Groups, Recipe};
pub(super) use findings::findings;
use tables::shuffled;
pub(super) use tables::{cosines, describe, members};

pub(super) static KIND: Kind = Kind {
    name: "direction",
    version: 2,
    product: Product::Directions,
    about: "difference of mean activations of high- and low-scoring prompts",
    decode,
};

/// How A and B are chosen.
#[derive(Clone, Debug, PartialEq)]
enum Select {
    TopBottom { n: Spanned<usize> },
    Threshold { t: f64 },
}

struct Extract {
    model: Name,
    prompts: Name,
    scores: Name,
    split: Name,
    select: Select,
    layers: Layers,
    site: Site,
    position: i64,
    allow_overlap: bool,
    settings: Settings,
}

fn decode(fields: &mut Fields<'_, '_>, settings: &Settings) -> Option<Box<dyn Stage>> {
    let model = fields.required("model");
    let prompts = fields.required("prompts");
    let scores = fields.required("scores");
    let split = fields.required("split");
    let select = select(fields);
    let layers = fields.required("layer");
    let site = parameters::site(fields);
    let position = parameters::position(fields);
    let allow_overlap = fields.or("allow_overlap", false);
    Some(Box::new(Extract {
        model: model?,
        prompts: prompts?,
        scores: scores?,
        split: split?,
        select: select?,
        layers: layers?,
        site: site?,
        position: position?,
        allow_overlap,
        settings: settings.clone(),
    }))
}

fn select(fields: &mut Fields<'_, '_>) -> Option<Select> {
    let by_rank = match fields.node("select") {
        None => Some(true),
        Some(node) => choice(
            node,
            fields.problems(),
            &[("top_bottom", true), ("threshold", false)],
        ),
    };
    let n = fields.optional::<Spanned<usize>>("n");
    let t = fields.optional::<Spanned<f64>>("t");
    let refuse = |fields: &mut Fields<'_, '_>, at: &crate::spec::Location, message: &str| {
        fields.problems().error_at(at, message.to_string());
        None
    };
    match (by_rank?, n, t) {
        (true, Some(n), None) if n.value > 0 => Some(Select::TopBottom { n }),
        (false, None, t) => Some(Select::Threshold {
            t: t.map_or(0.0, |t| t.value),
        }),
        (true, Some(n), None) => refuse(
            fields,
            &n.at,
            "`n` must be at least 1: a direction is made of two groups of prompts",
        ),
        // What cannot be decoded has been told.
        (true, None, None) => {
            if fields.node("n").is_none() {
                fields.required::<usize>("n");
            }
            None
        }
        (true, _, Some(t)) => refuse(fields, &t.at, "`t` belongs to `select = \"threshold\"`"),
        (false, Some(n), _) => refuse(fields, &n.at, "`n` belongs to `select = \"top_bottom\"`"),
    }
}

impl Select {
    fn label(&self) -> String {
        match self {
            Select::TopBottom { n } => format!("top_bottom_{}", n.value),
            Select::Threshold { t } => format!("threshold_{t}"),
        }
    }

    fn key(&self) -> Json {
        match self {
            Select::TopBottom { n } => json!({ "n": n.value }),
            Select::Threshold { t } => json!({ "threshold": t }),
        }
    }
}

impl Stage for Extract {
    fn needs(&self) -> Needs {
        Needs {
            models: vec![self.model.clone()],
            prompts: vec![self.prompts.clone()],
            stages: vec![(self.scores.clone(), Product::Scores)],
            ..Needs::default()
        }
    }

    fn parameters(&self) -> Json {
        json!({
            "model": self.model.value,
            "split": self.split.value,
            "select": self.select.key(),
            "layer": parameters::layers_key(&self.layers),
            "site": self.site.short_name(),
            "position": self.position,
            "allow_overlap": self.allow_overlap,
            "settings": self.settings.key(),
        })
    }

    fn forecast(&self, inputs: &Inputs) -> Forecast {
        Forecast {
            directions: directions_of(&self.model, &[None], &self.layers, inputs),
            ..Forecast::about(std::slice::from_ref(&self.model), &self.prompts)
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        parameters::check_layers(
            &self.layers,
            std::slice::from_ref(&self.model),
            inputs,
            problems,
        );
        check_scores(&self.scores, &self.model, &self.prompts, inputs, problems);
        let known = parameters::check_split(&self.split, &self.prompts, inputs, problems);
        if let (true, Select::TopBottom { n }) = (known, &self.select) {
            let of_split = self.of_split(inputs);
            let whose = format!("split `{}` has {of_split} prompts", self.split.value);
            parameters::check_group_size(n, of_split, &whose, self.allow_overlap, problems);
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let of_split = self.of_split(inputs);
        let members = match &self.select {
            Select::TopBottom { n } => n.value.saturating_mul(2).min(of_split),
            Select::Threshold { .. } => of_split,
        };
        Cost::of_cells(&[members, self.forecast(inputs).directions.len()])
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let model = inputs.model(&self.model)?;
        let prompts = inputs.prompt_set(&self.prompts)?;
        let table = inputs.stage(&self.scores)?.table("")?;
        let scores = scores_of(&table, &self.model, prompts)?;
        let (groups, mut found) = self.groups(prompts, &scores)?;
        let layers = parameters::layers(&self.layers, model.config().n_layers);
        let recipe = Recipe {
            model,
            prompts,
            layers: &layers,
            site: self.site,
            position: self.position,
            label: self.select.label(),
            seed: None,
            settings: &self.settings,
        };
        let activations = recipe.activations(&groups, evaluator)?;
        let extracted = recipe.directions(&groups, &activations, &scores)?;
        if !extracted.without.is_empty() {
            found.push(recipe.left_out(&extracted.without));
        }
        let directions = extracted.directions;
        found.extend(findings(&directions));
        let tables = vec![
            (String::new(), describe(&directions)?),
            ("members".to_string(), members(&directions)?),
            ("cosine".to_string(), cosines(&directions)?),
            ("shuffled".to_string(), shuffled(&directions, &activations)?),
        ];
        Ok(Output {
            tables,
            directions,
            findings: found,
            ..Output::default()
        })
    }
}

impl Extract {
    /// How many prompts the split has; 0 where the set could not be read.
    fn of_split(&self, inputs: &Inputs) -> usize {
        let set = inputs.prompts.get(&self.prompts.value);
        set.map_or(0, |set| set.split(&self.split.value).count())
    }

    fn groups(
        &self,
        prompts: &PromptSet,
        scores: &[Option<f64>],
    ) -> Result<(Groups, Vec<String>), StageError> {
        let of_split = parameters::split_indices(prompts, &self.split.value);
        let score = |&i: &usize| {
            scores[i].ok_or_else(|| {
                StageError::Data(format!(
                    "stage `{}` has no score for prompt `{}`",
                    self.scores.value, prompts.prompts[i].id
                ))
            })
        };
        let values = of_split.iter().map(score).collect::<Result<Vec<_>, _>>()?;
        let prompts_at = |places: &[usize]| places.iter().map(|&k| of_split[k]).collect();
        match &self.select {
            Select::Threshold { t } => {
                let (top, bottom): (Vec<usize>, _) =
                    (0..values.len()).partition(|&k| values[k] > *t);
                let groups = Groups {
                    top: prompts_at(&top),
                    bottom: prompts_at(&bottom),
                };
                Ok((groups, vec![]))
            }
            Select::TopBottom { n } => {
                let selection = stats::top_bottom(&values, n.value)
                    .map_err(|e| StageError::Data(e.to_string()))?;
                let groups = Groups {
                    top: prompts_at(&selection.top),
                    bottom: prompts_at(&selection.bottom),
                };
                let overlap: Vec<usize> = prompts_at(&selection.overlap);
                let finding =
                    overlap_finding(&overlap, prompts, self.allow_overlap, "the direction")?;
                Ok((groups, finding.into_iter().collect()))
            }
        }
    }
}

/// What to say of prompts that are in A and in B: an error, or a finding where overlap is allowed.
pub(super) fn overlap_finding(
    overlap: &[usize],
    prompts: &PromptSet,
    allowed: bool,
    what: &str,
) -> Result<Option<String>, StageError> {
    if overlap.is_empty() {
        return Ok(None);
    }
    let ids = overlap.iter().map(|&i| prompts.prompts[i].id.as_str());
    let ids: Vec<&str> = ids.collect();
    let message = format!(
        "{what}: {} prompts are both among the highest and the lowest scores: `{}`",
        ids.len(),
        ids.join("`, `")
    );
    match allowed {
        true => Ok(Some(message)),
        false => Err(StageError::Data(format!(
            "{message}; lower `n`, or set `allow_overlap = true` to record this and go on"
        ))),
    }
}

/// The score of each prompt of the set on the named model, from a score stage's table.
pub(super) fn scores_of(
    table: &DataFrame,
    model: &Name,
    prompts: &PromptSet,
) -> Result<Vec<Option<f64>>, StageError> {
    let models = table::read_text(table, "model")?;
    let ids = table::read_text(table, "id")?;
    let scores = table::read_numbers(table, "score")?;
    let rows = models.iter().zip(ids).zip(scores);
    let of_model = rows.filter(|((name, _), _)| **name == model.value);
    let by_id = of_model.map(|((_, id), score)| (id, score));
    let by_id: HashMap<String, f64> = by_id.collect();
    if by_id.is_empty() {
        return Err(StageError::Data(format!(
            "the scores hold nothing of model `{}`; add it to the score stage",
            model.value
        )));
    }
    let prompts = prompts.prompts.iter();
    Ok(prompts.map(|p| by_id.get(&p.id).copied()).collect())
}
