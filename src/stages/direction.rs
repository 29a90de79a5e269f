//! `direction`: v = mean(h | A) − mean(h | B), where A and B are prompts of high and low score, by the score rule that `rule` names.
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

use serde_json::json;

use crate::model::Site;
use crate::prompts::PromptSet;
use crate::spec::{Choice, Fields, Layers};
use crate::stats;

use super::declare::Together;
use super::field_types::choices;
use super::forecast::{check_scores, directions_of};
use super::parameters::{self, GroupSize, Model, Position, PromptsName, ScoreStage};
use super::prelude::*;
use super::table;

pub(crate) use extract::Direction;
pub(super) use extract::{Groups, Recipe};
pub(super) use figures::figures;
pub(super) use findings::findings;
use tables::shuffled;
pub(super) use tables::{cosines, describe, members, members_of};

pub(super) static KIND: Kind = Kind {
    figures: Some(figures),
    ..super::kind::<Extract>(
        "direction",
        2,
        Product::Directions,
        "difference of mean activations of high- and low-scoring prompts",
        &TOLD,
    )
};

const SHUFFLED_NORM: ColumnTold = ColumnTold::of(
    "pre_norm",
    "norm of the difference of means of the shuffled groups",
    "as activations",
);
const SHUFFLED_COSINE: ColumnTold = ColumnTold::of(
    "cosine",
    "its cosine with the direction of that layer; blank where the groups do not differ",
    "−1 to 1",
);

static TOLD: Told = Told {
    computes: "`v = mean(h | A) − mean(h | B)`, where A are the `n` prompts of the split with the highest scores and B those with the lowest \
        (`select = \"top_bottom\"`), or those above a threshold and the rest (`\"threshold\"`); `h` is the activation at (layer, site, \
        position), means are accumulated in float64, and `v` is kept with norm 1 and the norm that it had as `pre_norm`. `layer = [10, \
        14]` makes two directions, one a layer. The labels of A and B shuffled, and the same computed again, are the negative control in \
        `shuffled`.",
    tables: &[
        TableTold::of("", "a row for each direction", told::DIRECTIONS),
        told::MEMBERS,
        told::COSINES,
        TableTold::of(
            "shuffled",
            "a row for each layer and shuffle",
            "layer shuffle pre_norm cosine",
        )
        .but(&[SHUFFLED_NORM, SHUFFLED_COSINE]),
    ],
    example: r#"
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 8
layer = [10, 20]
"#,
};

parameters! {
    struct Extract {
        /// The model whose activations are taken.
        model: Model,
        /// The prompts.
        prompts: PromptsName,
        /// Scores of the prompts, by which those of A and B are chosen.
        scores: ScoreStage,
        /// The score rule of these scores; the first that their stage has read where left out.
        rule: OfRule,
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

choices! {
    /// What A and B are chosen by.
    enum By {
        /// the `n` highest and the `n` lowest scores
        Rank = "top_bottom",
        /// scores above `t`, and the others
        Threshold = "threshold",
    }
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
        for (name, of) in [("n", By::Rank), ("t", By::Threshold)] {
            let node = fields.node(name);
            if let Some(node) = node.filter(|_| by.is_some_and(|by| by != of)) {
                let message = format!("`{name}` belongs to `select = \"{}\"`", of.name());
                fields.problems.error_at(&node.at, message);
            }
        }
        match by? {
            By::Rank => fields.required("n").map(|n| Select::TopBottom { n }),
            By::Threshold => fields.or("t", &json!(0.0)).map(|t| Select::Threshold { t }),
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
        let model = std::slice::from_ref(&*self.model);
        inputs.check_layers(&self.layer, model, problems);
        check_scores(&self.scores, &self.model, &self.prompts, inputs, problems);
        self.rule.check(&self.scores, inputs, problems);
        let known = inputs.check_split(&self.split, &self.prompts, problems);
        if let (true, Select::TopBottom { n }) = (known, &self.select) {
            let of_split = self.of_split(inputs);
            let whose = format!("split `{}` has {of_split} prompts", self.split);
            parameters::check_group_size(n, of_split, &whose, self.allow_overlap, problems);
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let of_split = self.of_split(inputs);
        let members = match &self.select {
            Select::TopBottom { n } => n.value.saturating_mul(2).min(of_split),
            Select::Threshold { .. } => of_split,
        };
        let directions = self.forecast(inputs).directions.len();
        Cost::of_cells(product(&[members, directions]))
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let model = inputs.model(&self.model)?;
        let prompts = inputs.prompt_set(&self.prompts)?;
        let scores = Scored::read((&self.scores, &self.rule), &self.model, prompts, inputs)?;
        let (groups, overlap) = self.groups(&scores)?;
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
        let (directions, without) = recipe.directions(&groups, &activations, &scores)?;
        let mut found: Vec<String> = overlap.into_iter().collect();
        found.extend(recipe.left_out(&without));
        found.extend(findings(&directions));
        Ok(Output {
            tables: vec![
                (String::new(), describe(&directions)?),
                ("members".to_string(), members_of(&directions)?),
                ("cosine".to_string(), cosines(&directions)?),
                ("shuffled".to_string(), shuffled(&directions, &activations)?),
            ],
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

    fn groups(&self, scores: &Scored<'_>) -> Result<(Groups, Option<String>), StageError> {
        let of_split = parameters::split_indices(scores.prompts, &self.split.value);
        let values = scores.of(&of_split)?;
        match &self.select {
            Select::Threshold { t } => {
                let (above, others): (Vec<_>, Vec<_>) = of_split
                    .into_iter()
                    .zip(values)
                    .partition(|(_, score)| score > t);
                let indices =
                    |group: Vec<(usize, f64)>| group.into_iter().map(|(i, _)| i).collect();
                let groups = Groups {
                    top: indices(above),
                    bottom: indices(others),
                };
                Ok((groups, None))
            }
            Select::TopBottom { n } => {
                let selection = stats::top_bottom(&values, n.value)?;
                scores.groups(&of_split, &selection, self.allow_overlap, "the direction")
            }
        }
    }
}

/// The prompts of a set with their scores on a model.
pub(super) struct Scored<'a> {
    prompts: &'a PromptSet,
    /// Name of the score stage.
    stage: &'a Name,
    /// By index into the prompt set.
    scores: Vec<Option<f64>>,
}

impl<'a> Scored<'a> {
    pub(super) fn read(
        (stage, rule): (&'a Name, &OfRule),
        model: &Name,
        prompts: &'a PromptSet,
        inputs: &Inputs,
    ) -> Result<Self, StageError> {
        let scores = inputs.stage(stage)?;
        // A rule that is not the main table's has one of its own.
        let of_rule = rule.name().filter(|rule| scores.has_table(rule));
        let table = &scores.table(of_rule.unwrap_or_default())?;
        let models = table::read_text(table, "model")?;
        let ids = table::read_text(table, "id")?;
        let scores = table::read_numbers(table, "score")?;
        let rows = models.iter().zip(ids.into_iter().zip(scores));
        let of_model = rows.filter(|(name, _)| **name == model.value);
        let by_id: HashMap<String, f64> = of_model.map(|(_, row)| row).collect();
        if by_id.is_empty() {
            return Err(StageError::Data(format!(
                "the scores hold nothing of model `{model}`; add it to the score stage"
            )));
        }
        let all = prompts.prompts.iter();
        Ok(Scored {
            prompts,
            stage,
            scores: all.map(|p| by_id.get(&p.id).copied()).collect(),
        })
    }

    /// The scores of prompts, all of which must have one.
    pub(super) fn of(&self, prompts: &[usize]) -> Result<Vec<f64>, StageError> {
        let score = |&i: &usize| {
            let (stage, id) = (self.stage, &self.prompts.prompts[i].id);
            let missing = || format!("stage `{stage}` has no score for prompt `{id}`");
            self.scores[i].ok_or_else(|| StageError::Data(missing()))
        };
        prompts.iter().map(score).collect()
    }

    /// The groups selected from some of the prompts, and what to say of prompts that are in both: an error unless that is allowed.
    pub(super) fn groups(
        &self,
        from: &[usize],
        selection: &stats::Selection,
        allow_overlap: bool,
        what: &str,
    ) -> Result<(Groups, Option<String>), StageError> {
        let pick = |places: &[usize]| places.iter().map(|&place| from[place]).collect();
        let overlap = selection.overlap.iter();
        let ids: Vec<&String> = overlap
            .map(|&k| &self.prompts.prompts[from[k]].id)
            .collect();
        let finding = (!ids.is_empty()).then(|| in_both_groups(what, &ids));
        let groups = Groups {
            top: pick(&selection.top),
            bottom: pick(&selection.bottom),
        };
        match finding {
            Some(finding) if !allow_overlap => Err(StageError::Data(format!(
                "{finding}; lower `n`, or set `allow_overlap = true` to record this and go on"
            ))),
            finding => Ok((groups, finding)),
        }
    }
}

/// What to say of prompts that are in A and in B.
pub(super) fn in_both_groups<S: AsRef<str>>(what: &str, ids: &[S]) -> String {
    let ids: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
    format!(
        "{what}: {} prompts are both among the highest and the lowest scores: `{}`",
        ids.len(),
        ids.join("`, `")
    )
}
