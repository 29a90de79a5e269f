//! `direction`: v = mean(h | A) − mean(h | B), where A and B are prompts of high and low score.
//!
//! Means are accumulated in float64; the direction is stored with unit norm, with the norm it had before as `pre_norm` (Refusal Dial
//! study; Arditi et al., arXiv:2406.11717, call it difference of means). One direction per layer asked for; a layer where the two means are
//! the same has none, and is left out with a finding as long as another has one. Main table: one row per direction. `members`: the
//! prompts of A and B. `cosine`: between all directions of the stage. The same procedure on shuffled labels is the negative control in
//! `shuffled`.

mod extract;
mod figures;
mod findings;
mod tables;

use std::collections::HashMap;

use polars::prelude::DataFrame;
use serde_json::json;

use crate::model::Site;
use crate::prompts::PromptSet;
use crate::spec::{Choice, Fields, Layers, Problems};
use crate::stats;

use super::declare::{Together, declared, parameters};
use super::forecast::{check_scores, directions_of};
use super::parameters::{self, GroupSize, Model, Position, PromptsName, Scores, StageOf};
use super::settings::Settings;
use super::table;
use super::{Cost, Evaluate, Forecast, Inputs, Kind, Name, Output, Product, Stage, StageError};

pub(crate) use extract::Direction;
pub(super) use extract::{Groups, Recipe};
pub(super) use figures::figures;
pub(super) use findings::findings;
use tables::shuffled;
pub(super) use tables::{cosines, describe, members};

pub(super) static KIND: Kind = super::kind::<Extract>(
    "direction",
    2,
    Product::Directions,
    "difference of mean activations of high- and low-scoring prompts",
)
.with_figures(figures);

parameters! {
    struct Extract {
        /// The model whose activations are taken.
        model: Model,
        /// The prompts.
        prompts: PromptsName,
        /// Scores of the prompts, by which those of A and B are chosen.
        scores: StageOf<Scores>,
        /// The split that A and B are chosen from.
        split: Name,
        select: Select,
        /// Layers of the activations: a direction for each.
        layer: Layers,
        /// Site of the activations.
        site: Site = "resid_pre",
        /// Position of the activations, counted from the end of the prompt: -1 is its last token.
        position: Position = -1,
        /// Whether a prompt may be in A and in B.
        allow_overlap: bool = false,
        settings: Settings,
    }
}

/// What A and B are chosen by.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Rank,
    Threshold,
}

impl Choice for By {
    const CHOICES: &'static [(&'static str, Self, &'static str)] = &[
        (
            "top_bottom",
            Self::Rank,
            "the `n` highest and the `n` lowest scores",
        ),
        (
            "threshold",
            Self::Threshold,
            "scores above `t`, and the others",
        ),
    ];
}

parameters! {
    /// How A and B are chosen.
    #[derive(Clone, Debug, PartialEq)]
    enum Select {
        /// How A and B are chosen.
        by select: By = "top_bottom";
        TopBottom {
            /// How many prompts are in A, and in B; with `select = "top_bottom"`.
            n: GroupSize,
        },
        Threshold {
            /// Scores above it are in A, the others in B; with `select = "threshold"`.
            t as "threshold": f64 = 0.0,
        },
    }
}

impl Together for Select {
    fn read_together(fields: &mut Fields<'_, '_>, _: &Settings) -> Option<Self> {
        let by = match fields.node("select") {
            None => Some(By::Rank),
            Some(_) => fields.optional("select"),
        };
        let Some(by) = by else {
            fields.pass_over(&["n", "t"]);
            return None;
        };
        let belongs_elsewhere = |name, by: By, fields: &mut Fields<'_, '_>| {
            if let Some(node) = fields.node(name) {
                let message = format!("`{name}` belongs to `select = \"{}\"`", by.name());
                fields.problems().error_at(&node.at, message);
            }
        };
        match by {
            By::Rank => {
                let n = fields.required("n");
                belongs_elsewhere("t", By::Threshold, fields);
                Some(Select::TopBottom { n: n? })
            }
            By::Threshold => {
                belongs_elsewhere("n", By::Rank, fields);
                let t = fields.or("t", &json!(0.0))?;
                Some(Select::Threshold { t })
            }
        }
    }
}

impl Select {
    fn label(&self) -> String {
        match self {
            Select::TopBottom { n } => format!("top_bottom_{}", n.value),
            Select::Threshold { t } => format!("threshold_{t}"),
        }
    }
}

impl Stage for Extract {
    fn forecast(&self, inputs: &Inputs) -> Forecast {
        Forecast {
            directions: directions_of(&self.model, &[None], &self.layer, inputs),
            ..Forecast::about(std::slice::from_ref(&self.model), &self.prompts)
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        parameters::check_layers(
            &self.layer,
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
        let layers = parameters::layers(&self.layer, model.config().n_layers);
        let recipe = Recipe {
            model,
            prompts,
            layers: &layers,
            site: self.site,
            position: self.position.value,
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
