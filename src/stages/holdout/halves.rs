//! What is divided into halves, and who of the training half makes the direction: the prompts of one split, by their scores, or the two
//! groups that the study names.

use serde_json::json;

use crate::prompts::PromptSet;
use crate::spec::{Fields, Problems};
use crate::stages::declare::{Declared, Field, KeyParts, Parameter, declared};
use crate::stages::direction::{Groups, Named, Scored, Way, changed, tell_misplaced};
use crate::stages::field_types::choices;
use crate::stages::forecast::check_scores;
use crate::stages::parameters::{self, GroupSize, ScoreStage};
use crate::stages::rules::OfRule;
use crate::stages::settings::Settings;
use crate::stages::sweep::Set;
use crate::stages::{Inputs, Name, Needs, StageError};
use crate::stats;

use super::Holdout;

choices! {
    /// What the directions are made of.
    enum By {
        /// the `n` highest and the `n` lowest scores of the training half of `split`
        Rank = "top_bottom",
        /// the training halves of the splits that `a` and `b` name
        Splits = "splits",
        /// the same of values of `column`
        Column = "column",
        /// the same of labels of the file `labels`
        Labels = "labels",
    }
}

impl By {
    const NAMED: &'static [By] = &[By::Splits, By::Column, By::Labels];

    fn way(self) -> Option<Way> {
        match self {
            By::Rank => None,
            By::Splits => Some(Way::Splits),
            By::Column => Some(Way::Column),
            By::Labels => Some(Way::Labels),
        }
    }
}

/// What is divided.
pub(super) enum Halved {
    Split {
        scores: ScoreStage,
        rule: OfRule,
        split: Name,
        compare: Name,
        n: GroupSize,
    },
    Named(Named),
}

/// One seed's sets and the groups its direction is made from.
pub(super) struct Split {
    pub(super) seed: u64,
    /// What the direction is tried on.
    pub(super) sets: Vec<Set>,
    pub(super) groups: Groups,
}

impl Parameter for Halved {
    fn read(fields: &mut Fields<'_, '_>, _: &Declared, study: &Settings) -> Option<Self> {
        let by = match fields.node("select") {
            None => Some(By::Rank),
            Some(_) => fields.optional("select"),
        };
        tell_misplaced(
            fields,
            by,
            &[
                ("scores", &[By::Rank]),
                ("rule", &[By::Rank]),
                ("split", &[By::Rank]),
                ("compare", &[By::Rank]),
                ("a", By::NAMED),
                ("b", By::NAMED),
                ("column", &[By::Column]),
                ("labels", &[By::Labels]),
            ],
        );
        if let Some(way) = by?.way() {
            return Named::read(fields, way, study).map(Halved::Named);
        }
        let scores = fields.required("scores");
        let rule = OfRule::read(fields, &declared!([] rule), study);
        let (split, compare) = (fields.required("split"), fields.required("compare"));
        Some(Halved::Split {
            n: fields.required("n")?,
            scores: scores?,
            rule: rule?,
            split: split?,
            compare: compare?,
        })
    }

    fn add_key(&self, _: &'static str, key: &mut KeyParts) {
        match self {
            Halved::Split {
                rule,
                split,
                compare,
                n,
                ..
            } => {
                rule.add_key("rule", key);
                key.insert("split".to_string(), json!(split.value));
                key.insert("compare".to_string(), json!(compare.value));
                key.insert("n".to_string(), json!(n.value));
            }
            Halved::Named(named) => {
                key.insert("groups".to_string(), named.key());
            }
        }
    }

    fn add_needs(&self, needs: &mut Needs) {
        match self {
            Halved::Split { scores, .. } => Parameter::add_needs(scores, needs),
            Halved::Named(named) => named.add_needs(needs),
        }
    }

    fn list(_: &Declared) -> Vec<Field> {
        let mut fields = vec![
            Field {
                default: Some(json!("top_bottom")),
                ..Field::optional::<By>("select", "What the directions are made of.")
            },
            Field::optional::<ScoreStage>(
                "scores",
                "Scores of the prompts, where those that make a direction are chosen by them.",
            ),
            Field::optional::<Name>(
                "rule",
                "The score rule of these scores; the first that their stage has read where left out.",
            ),
            Field::optional::<Name>(
                "split",
                "The split that is divided into a half that makes a direction and a half that it is tried on; with `select = \"top_bottom\"`.",
            ),
            Field::optional::<Name>(
                "compare",
                "Another split that the directions are tried on, for comparison; with `select = \"top_bottom\"`. Of groups that are named \
                 both halves of both are.",
            ),
            Field::optional::<GroupSize>(
                "n",
                "How many prompts of the training half are in A, and in B; where groups are named, how many of each at most, the first in the \
                 file.",
            ),
        ];
        fields.extend(Named::list());
        fields
    }
}

impl Halved {
    /// What a direction is called.
    pub(super) fn label(&self) -> String {
        match self {
            Halved::Split { n, .. } => format!("holdout_{}", n.value),
            Halved::Named(named) => format!("holdout_{}", named.label()),
        }
    }

    /// Names of the sets that each direction is tried on.
    pub(super) fn sets(&self) -> Vec<String> {
        let halves = |name: &str| [format!("{name}_train"), format!("{name}_holdout")];
        match self {
            Halved::Split { split, compare, .. } => {
                let [train, holdout] = halves(&split.value);
                vec![train, holdout, compare.value.clone()]
            }
            Halved::Named(named) => named.names().iter().flat_map(|n| halves(n)).collect(),
        }
    }

    /// How many prompts a direction is tried on, and how many make it at most.
    pub(super) fn counts(&self, stage: &Holdout, inputs: &Inputs) -> (usize, usize) {
        match self {
            Halved::Split {
                split, compare, n, ..
            } => {
                let set = inputs.prompts.get(&stage.prompts.value);
                let count = |split: &Name| set.map_or(0, |set| set.split(&split.value).count());
                (count(split) + count(compare), n.value.saturating_mul(2))
            }
            Halved::Named(named) => {
                let told = &mut Problems::default();
                let groups = named.groups(&stage.prompts, true, inputs, told);
                groups.map_or((0, 0), |(groups, _)| {
                    let tried = groups.top.len() + groups.bottom.len();
                    let makers = named.bounded(groups);
                    (tried, makers.top.len() + makers.bottom.len())
                })
            }
        }
    }

    pub(super) fn check(&self, stage: &Holdout, inputs: &Inputs, problems: &mut Problems) {
        match self {
            Halved::Split {
                scores,
                rule,
                split,
                compare,
                n,
            } => {
                rule.check(scores, inputs, problems);
                inputs.check_split(compare, &stage.prompts, problems);
                let maker = &stage.direction_model;
                check_scores(scores, maker, &stage.prompts, inputs, problems);
                if inputs.check_split(split, &stage.prompts, problems) {
                    check_split(stage, split, n, inputs, problems);
                }
            }
            Halved::Named(named) => {
                let overlap = stage.allow_overlap;
                let groups = named.groups(&stage.prompts, overlap, inputs, problems);
                let prompts = inputs.prompts.get(&stage.prompts.value);
                if let Some(((groups, _), prompts)) = groups.zip(prompts) {
                    check_groups(stage, named, &groups, prompts, problems);
                }
            }
        }
    }

    /// The sets and groups of every seed, and what to say of prompts that are in both groups.
    pub(super) fn splits(
        &self,
        stage: &Holdout,
        prompts: &PromptSet,
        inputs: &Inputs,
        scores: Option<&Scored<'_>>,
    ) -> Result<(Vec<Split>, Vec<String>), StageError> {
        let (mut splits, mut findings) = (Vec::new(), Vec::new());
        for seed in stage.seed.iter() {
            let (sets, groups, overlap) = match (self, scores) {
                (
                    Halved::Split {
                        split, compare, n, ..
                    },
                    Some(scores),
                ) => {
                    let of_split = parameters::split_indices(prompts, &split.value);
                    let [train, holdout] = halves(seed, prompts, &of_split, stage);
                    let (groups, overlap) =
                        ranked(seed, prompts, (&train, n.value), scores, stage)?;
                    let compared = parameters::split_indices(prompts, &compare.value);
                    (vec![train, holdout, compared], groups, overlap)
                }
                (Halved::Named(named), _) => {
                    let told = &mut Problems::default();
                    let found = named.groups(&stage.prompts, stage.allow_overlap, inputs, told);
                    let (groups, overlap) = found.ok_or_else(changed)?;
                    let [a, held_out_a] = in_file_order(seed, prompts, &groups.top, stage);
                    let [b, held_out_b] = in_file_order(seed, prompts, &groups.bottom, stage);
                    let makers = named.bounded(Groups {
                        top: a.clone(),
                        bottom: b.clone(),
                    });
                    // Who is in both does not depend on the seed.
                    let overlap = overlap.filter(|_| splits.is_empty());
                    let overlap = overlap.map(|told| format!("the holdout directions: {told}"));
                    (vec![a, held_out_a, b, held_out_b], makers, overlap)
                }
                (Halved::Split { .. }, None) => {
                    return Err(StageError::Internal("no scores were read".to_string()));
                }
            };
            findings.extend(overlap);
            splits.push(Split {
                seed,
                sets: self.sets().into_iter().zip(sets).collect(),
                groups,
            });
        }
        Ok((splits, findings))
    }
}

/// The training half of some prompts and the half held out, in the order of their ids.
fn halves(seed: u64, prompts: &PromptSet, of: &[usize], stage: &Holdout) -> [Vec<usize>; 2] {
    let ids = ids_of(prompts, of);
    let halves = stats::holdout_split(seed, &ids, stage.fraction.value);
    [halves.train, halves.holdout].map(|half| half.iter().map(|&k| of[k]).collect())
}

/// The same in file order.
fn in_file_order(seed: u64, prompts: &PromptSet, of: &[usize], stage: &Holdout) -> [Vec<usize>; 2] {
    let mut halves = halves(seed, prompts, of, stage);
    halves.iter_mut().for_each(|half| half.sort_unstable());
    halves
}

/// The groups of a seed, by the scores of its training half, and what to say of prompts that are in both.
fn ranked(
    seed: u64,
    prompts: &PromptSet,
    (train, n): (&[usize], usize),
    scores: &Scored<'_>,
    stage: &Holdout,
) -> Result<(Groups, Option<String>), StageError> {
    let ids = ids_of(prompts, train);
    let selection = stats::top_bottom_descending(&ids, &scores.of(train)?, n)
        .map_err(|error| StageError::Data(format!("holdout seed {seed}: {error}")))?;
    let count = train.len();
    let what = format!("holdout seed {seed}, {count} training prompts for {n} + {n}");
    scores.groups(train, &selection, stage.allow_overlap, &what)
}

/// Checks that every seed leaves prompts to try the direction on, and enough to make it of.
fn check_split(
    stage: &Holdout,
    split: &Name,
    n: &GroupSize,
    inputs: &Inputs,
    problems: &mut Problems,
) {
    let Some(prompts) = inputs.prompts.get(&stage.prompts.value) else {
        return;
    };
    let of_split = parameters::split_indices(prompts, &split.value);
    let sizes = stage.seed.iter().map(|seed| {
        let [train, holdout] = halves(seed, prompts, &of_split, stage);
        (train.len(), holdout.len(), seed)
    });
    let sizes: Vec<(usize, usize, u64)> = sizes.collect();
    if let Some((_, _, seed)) = sizes.iter().find(|(_, holdout, _)| *holdout == 0) {
        let message = format!("seed {seed} holds out none of the prompts of `{split}`");
        let at = stage.seed.0.iter().find(|s| s.value == *seed);
        problems
            .error_at(at.map_or(&split.at, |seed| &seed.at), message)
            .label("leaves nothing to try the direction on")
            .help("raise `fraction`, or add prompts to the split");
    }
    if let Some((train, _, seed)) = sizes.iter().min() {
        let whose = format!("seed {seed} leaves {train} training prompts");
        parameters::check_group_size(n, *train, &whose, stage.allow_overlap, problems);
    }
}

/// Checks that every seed leaves prompts of both groups in both halves.
fn check_groups(
    stage: &Holdout,
    named: &Named,
    groups: &Groups,
    prompts: &PromptSet,
    problems: &mut Problems,
) {
    let names = named.names();
    for seed in &stage.seed.0 {
        for (name, members) in names.iter().zip([&groups.top, &groups.bottom]) {
            let [train, holdout] = halves(seed.value, prompts, members, stage);
            let (what, label) = match (train.is_empty(), holdout.is_empty()) {
                (true, _) => (
                    "leaves no training prompts",
                    "nothing to make a direction of; lower `fraction`",
                ),
                (_, true) => (
                    "holds out none of the prompts",
                    "nothing to try it on; raise `fraction`",
                ),
                _ => continue,
            };
            let message = format!("seed {} {what} of `{name}`", seed.value);
            problems
                .error_at(&seed.at, message)
                .label(format!("leaves {label}, or add prompts to the group"));
        }
    }
}

fn ids_of<'a>(prompts: &'a PromptSet, indices: &[usize]) -> Vec<&'a str> {
    let prompts = indices.iter().map(|&i| &prompts.prompts[i]);
    prompts.map(|prompt| prompt.id.as_str()).collect()
}
