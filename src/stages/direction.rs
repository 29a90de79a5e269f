//! `direction`: v = mean(h | A) − mean(h | B), where A and B are prompts of high and low score, or groups that the study names (`groups`).
//!
//! Means are accumulated in float64; the direction is stored with unit norm, with the norm it had before as `pre_norm` (Refusal Dial
//! study; Arditi et al., arXiv:2406.11717, call it difference of means). One direction per layer asked for; a layer where the two means are
//! the same has none, and is left out with a finding as long as another has one. Main table: one row per direction. `members`: the
//! prompts of A and B. `cosine`: between all directions of the stage. The same procedure on shuffled labels is the negative control in
//! `shuffled`.

mod affine;
mod detection;
mod extract;
mod figures;
mod findings;
mod geometry;
mod groups;
mod how;
mod method;
mod sample;
mod select;
mod tables;
mod taken;

use std::collections::HashMap;

use crate::model::Site;
use crate::prompts::PromptSet;
use crate::spec::Layers;
use crate::stats;

use super::field_types::OnlyIfTrue;
use super::forecast::directions_of;
use super::parameters::{self, Model, PromptsName};
use super::prelude::*;
use super::table;

pub(crate) use affine::Affine;
pub(crate) use extract::Direction;
pub(super) use extract::{Groups, Places, Recipe, place_told};
pub(super) use figures::figures;
pub(super) use findings::findings;
pub(super) use groups::{Named, Way, tell_misplaced};
use how::Made;
pub(super) use method::How;
pub(super) use select::changed;
use select::{Chosen, Members};
use tables::shuffled;
pub(super) use tables::{cosines, describe, members, members_of};
use taken::Taken;

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

const DETECTION: &[ColumnTold] = &[
    ColumnTold::of("method", "how the direction is made", ""),
    ColumnTold::of("n_train", "prompts that it is made of", "count"),
    ColumnTold::of("n_top", "held-out prompts of A", "count"),
    ColumnTold::of("n_bottom", "held-out prompts of B", "count"),
    ColumnTold::of(
        "auroc_train",
        "among the prompts that it is made of, how well a direction of one half tells the other half apart: the mean of both ways",
        "0 to 1",
    ),
    ColumnTold::of(
        "auroc",
        "how often h·v of a held-out prompt of A is above that of one of B, ties for half",
        "0 to 1",
    ),
    ColumnTold::of(
        "auroc_low",
        "lower end of its 95 % interval: bootstrap over prompts, pairs as one",
        "0 to 1",
    ),
    ColumnTold::of("auroc_high", "upper end", "0 to 1"),
    ColumnTold::of(
        "chosen",
        "whether `auroc_train` is the highest there is, of equal ones with the longest `pre_norm` for its stream",
        "true or false",
    ),
];

const GEOMETRY: &[ColumnTold] = &[
    ColumnTold::of(
        "cosine_a_b",
        "cosine between the means of A and of B, of the activations as they are",
        "−1 to 1",
    ),
    ColumnTold::of(
        "cosine_a_v",
        "cosine between the mean of A and the direction",
        "−1 to 1",
    ),
    ColumnTold::of(
        "cosine_b_v",
        "cosine between the mean of B and the direction",
        "−1 to 1",
    ),
    ColumnTold::of("norm_a", "norm of the mean of A", "as activations"),
    ColumnTold::of("norm_b", "norm of the mean of B", "as activations"),
    ColumnTold::of(
        "silhouette",
        "mean over prompts of (distance to the other group − to its own) / the larger",
        "−1 to 1",
    ),
    ColumnTold::of(
        "auroc",
        "how often h·v of a prompt of A is above that of one of B, ties for half; on the prompts that made the direction, and so too good",
        "0 to 1",
    ),
];

static TOLD: Told = Told {
    computes: "`v = mean(h | A) − mean(h | B)`, where A are the `n` prompts of the split with the highest scores and B those with the lowest \
        (`select = \"top_bottom\"`), or those above a threshold and the rest (`\"threshold\"`); or groups that the study names, for which no \
        scores are needed: splits (`\"splits\"`, `a = \"harmful\"`, `b = \"harmless\"`), values of a column of the prompt file \
        (`\"column\"`), labels of a table (`\"labels\"`); `h` is the activation at (layer, site, \
        position), or its mean over all tokens of the prompt (`position = \"mean\"`), means are accumulated in float64, and `v` is kept with norm 1 and the norm that it had as `pre_norm`. `layer = [10, \
        14]` makes two directions, one a layer. The labels of A and B shuffled, and the same computed again, are the negative control in \
        `shuffled`. Instead of the difference of means `method` makes of A and B the first principal component (`\"pca\"`; its sign is that \
        of most pairs), the weights of a logistic regression (`\"logistic\"`), linear discriminant analysis (`\"lda\"`: `Σ⁻¹(μ_A − μ_B)`, with Σ \
        shrunk to a multiple of the identity after Ledoit and Wolf), or the mean of one group (`\"mean_a\"`, `\"mean_b\"`). Of all but the last two \
        `pre_norm` is `(μ_A − μ_B)·v`, so that α in its units goes from the level of B to that of A. With `held_out` a share of both groups makes no \
        direction: `detection` says how well `h·v` tells A from B there, and which direction is best by the others alone: by those of one half, \
        tried on the other.",
    tables: &[
        TableTold::of("", "a row for each direction", told::DIRECTIONS),
        told::MEMBERS,
        told::COSINES,
        TableTold::of(
            "shuffled",
            "a row for each layer and shuffle",
            "layer position? token? shuffle pre_norm cosine",
        )
        .but(&[SHUFFLED_NORM, SHUFFLED_COSINE]),
        TableTold::of(
            "detection",
            "where `held_out` is given, a row for each direction",
            "model direction method layer position? token? n_train n_top n_bottom auroc_train auroc auroc_low auroc_high chosen",
        )
        .but(DETECTION),
        TableTold::of(
            "geometry",
            "where `geometry` is true, a row for each direction, of the prompts that made it; `resid_post` of the last layer is before the final norm",
            "model direction layer site position? token? cosine_a_b cosine_a_v cosine_b_v norm_a norm_b pre_norm resid_norm silhouette auroc",
        )
        .but(GEOMETRY),
    ],
    example: r#"
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 8
layer = [10, 20]
held_out = 0.25
geometry = true

# The mean of a group, for what `combine` takes out.
[stages.mean]
kind = "direction"
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
method = "mean_b"
layer = [10, 20]
"#,
};

parameters! {
    struct Extract {
        /// The model whose activations are taken.
        model: Model,
        /// The prompts.
        prompts: PromptsName,
        members: Members,
        /// Layers of the activations: a direction for each.
        layer: Layers,
        /// Site of the activations.
        site: Site = "resid_pre",
        /// Which tokens the activations are taken at: an index, counted from the end below 0, a word, a window, a list of these. Of several each has
        /// a direction of its own at each layer. `"mean"` is the mean over all tokens of a prompt, those of the template among them.
        position: Taken = -1,
        /// Whether the means of A and B, and what LEACE reads, are kept with the directions, for `mode = "ace"` and `"leace"`.
        affine: OnlyIfTrue = false,
        how: Made,
        /// Whether the table `geometry` is made: how the groups and the direction lie to each other.
        geometry: OnlyIfTrue = false,
        /// Whether a prompt may be in A and in B.
        allow_overlap: bool = false,
        settings: Settings,
    }
}

impl Stage for Extract {
    fn forecast(&self, inputs: &Inputs) -> Forecast {
        Forecast {
            directions: {
                let places = self.count_places(inputs);
                let at_one = directions_of(&self.model, &[None], &self.layer, inputs);
                std::iter::repeat_n(at_one, places).flatten().collect()
            },
            ..Forecast::about(std::slice::from_ref(&self.model), &self.prompts)
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        let model = std::slice::from_ref(&*self.model);
        inputs.check_layers(&self.layer, model, problems);
        self.position.check(problems);
        self.members.check(self, inputs, problems);
        if self.affine.0 && !self.how.is_difference() {
            problems
                .error_at(&self.model.at, "`affine = true` belongs to `method = \"mean_difference\"`")
                .help("what `ace` and `leace` do is said of the difference of means; take one of the two out");
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let members = self.members.count(self, inputs);
        let directions = self.forecast(inputs).directions.len();
        Cost::of_cells(product(&[members, directions]))
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let model = inputs.model(&self.model)?;
        let prompts = inputs.prompt_set(&self.prompts)?;
        let Chosen {
            groups,
            overlap,
            scores,
        } = self.members.choose(self, prompts, inputs)?;
        let layers = parameters::layers(&self.layer, model.config().n_layers);
        let places = self.position.places(model, &self.settings)?;
        let recipe = Recipe {
            model,
            prompts,
            layers: &layers,
            site: self.site,
            places: &places,
            how: self.how.how,
            with_affine: self.affine.0,
            label: self.how.label(self.members.label()),
            seed: None,
            settings: &self.settings,
        };
        let divided = self.how.divided(groups, prompts)?;
        let groups = divided.made_of;
        let activations = recipe.activations(&groups, evaluator)?;
        let (directions, without) = recipe.directions(&groups, &activations, scores.as_ref())?;
        let mut found: Vec<String> = overlap.into_iter().collect();
        found.extend(recipe.left_out(&without));
        found.extend(self.position.findings(model, &self.settings)?);
        found.extend(findings(&directions));
        let mut tables = vec![
            (String::new(), describe(&directions)?),
            ("members".to_string(), members_of(&directions)?),
            ("cosine".to_string(), cosines(&directions)?),
        ];
        if self.how.is_of_both() {
            let of_shuffled = shuffled(&recipe.how, &directions, &activations)?;
            tables.push(("shuffled".to_string(), of_shuffled));
        }
        if self.geometry.0 {
            let lie = geometry::table(&directions, &activations)?;
            tables.push(("geometry".to_string(), lie));
        }
        if let Some(held_out) = &divided.held_out {
            let unseen = recipe.activations(&held_out.groups, evaluator)?;
            let detection = detection::Detection {
                how: recipe.how,
                seed: held_out.seed,
                directions: &directions,
                activations: &activations,
                unseen: &unseen,
                units: &divided.units,
                unseen_units: &held_out.units,
            };
            tables.push(("detection".to_string(), detection.table()?));
            found.extend(
                scores
                    .is_some()
                    .then(|| detection::of_own_score(&self.model)),
            );
        }
        Ok(Output {
            tables,
            directions,
            findings: found,
            ..Output::default()
        })
    }
}

impl Extract {
    /// How many places the position stands for, on the model; 1 where that is not known.
    fn count_places(&self, inputs: &Inputs) -> usize {
        let model = inputs.models.get(&self.model.value);
        let places = model.and_then(|m| self.position.places(m, &self.settings).ok());
        places.map_or(1, |places| places.count())
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
