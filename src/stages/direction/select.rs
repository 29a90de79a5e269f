//! Who is in A and in B: prompts of high and of low score, or groups that the study names.

use serde_json::json;

use crate::prompts::PromptSet;
use crate::spec::{Fields, Problems};
use crate::stages::declare::{Declared, Field, KeyParts, Parameter, declared};
use crate::stages::field_types::choices;
use crate::stages::forecast::check_scores;
use crate::stages::parameters::{self, GroupSize, ScoreStage};
use crate::stages::rules::OfRule;
use crate::stages::settings::Settings;
use crate::stages::{Inputs, Name, Needs, StageError};
use crate::stats;

use super::groups::{Named, Way, tell_misplaced};
use super::{Extract, Groups, Scored};

choices! {
    /// What A and B are chosen by.
    enum By {
        /// the `n` highest and the `n` lowest scores
        Rank = "top_bottom",
        /// scores above `t`, and the others
        Threshold = "threshold",
        /// splits that `a` and `b` name
        Splits = "splits",
        /// values of `column` that `a` and `b` name
        Column = "column",
        /// labels of the file `labels` that `a` and `b` name
        Labels = "labels",
    }
}

impl By {
    const SCORED: &'static [By] = &[By::Rank, By::Threshold];
    const NAMED: &'static [By] = &[By::Splits, By::Column, By::Labels];

    fn way(self) -> Option<Way> {
        match self {
            By::Rank | By::Threshold => None,
            By::Splits => Some(Way::Splits),
            By::Column => Some(Way::Column),
            By::Labels => Some(Way::Labels),
        }
    }
}

/// How A and B are chosen by score.
#[derive(Clone, Debug)]
pub(super) enum Cut {
    /// The `n` highest and the `n` lowest.
    TopBottom { n: GroupSize },
    /// Those above, and the others.
    Threshold { t: f64 },
}

/// How A and B are chosen.
pub(super) enum Members {
    Scored {
        scores: ScoreStage,
        rule: OfRule,
        split: Name,
        cut: Cut,
    },
    Named(Named),
}

/// The groups of a direction.
pub(super) struct Chosen<'a> {
    pub(super) groups: Groups,
    /// What to say of prompts that are in both.
    pub(super) overlap: Option<String>,
    /// The scores that they were chosen by.
    pub(super) scores: Option<Scored<'a>>,
}

impl Parameter for Members {
    fn read(fields: &mut Fields<'_, '_>, _: &Declared, study: &Settings) -> Option<Self> {
        let by = match fields.node("select") {
            None => Some(By::Rank),
            Some(_) => fields.optional("select"),
        };
        tell_misplaced(
            fields,
            by,
            &[
                ("scores", By::SCORED),
                ("rule", By::SCORED),
                ("split", By::SCORED),
                ("n", &[By::Rank, By::Splits, By::Column, By::Labels]),
                ("t", &[By::Threshold]),
                ("a", By::NAMED),
                ("b", By::NAMED),
                ("column", &[By::Column]),
                ("labels", &[By::Labels]),
            ],
        );
        let by = by?;
        if let Some(way) = by.way() {
            return Named::read(fields, way, study).map(Members::Named);
        }
        let scores = fields.required("scores");
        let rule = OfRule::read(fields, &declared!([] rule), study);
        let split = fields.required("split");
        let cut = match by {
            By::Threshold => fields.or("t", &json!(0.0)).map(|t| Cut::Threshold { t }),
            _ => fields.required("n").map(|n| Cut::TopBottom { n }),
        };
        Some(Members::Scored {
            scores: scores?,
            rule: rule?,
            split: split?,
            cut: cut?,
        })
    }

    fn add_key(&self, _: &'static str, key: &mut KeyParts) {
        match self {
            Members::Scored {
                rule, split, cut, ..
            } => {
                rule.add_key("rule", key);
                let cut = match cut {
                    Cut::TopBottom { n } => json!({ "n": n.value }),
                    Cut::Threshold { t } => json!({ "threshold": t }),
                };
                key.insert("select".to_string(), cut);
                key.insert("split".to_string(), json!(split.value));
            }
            Members::Named(named) => {
                key.insert("groups".to_string(), named.key());
            }
        }
    }

    fn add_needs(&self, needs: &mut Needs) {
        match self {
            Members::Scored { scores, .. } => Parameter::add_needs(scores, needs),
            Members::Named(named) => named.add_needs(needs),
        }
    }

    fn list(_: &Declared) -> Vec<Field> {
        let mut fields = vec![
            Field {
                default: Some(json!("top_bottom")),
                ..Field::optional::<By>("select", "How A and B are chosen.")
            },
            Field::optional::<ScoreStage>(
                "scores",
                "Scores of the prompts, where A and B are chosen by them.",
            ),
            Field::optional::<Name>(
                "rule",
                "The score rule of these scores; the first that their stage has read where left out.",
            ),
            Field::optional::<Name>(
                "split",
                "The split that A and B are chosen from by their scores.",
            ),
            Field::optional::<GroupSize>(
                "n",
                "How many prompts are in A, and in B, with `select = \"top_bottom\"`; where groups are named, how many of each at most, the \
                 first in the file.",
            ),
            Field {
                default: Some(json!(0.0)),
                ..Field::optional::<f64>(
                    "t",
                    "Scores above it are in A, the others in B; with `select = \"threshold\"`.",
                )
            },
        ];
        fields.extend(Named::list());
        fields
    }
}

impl Members {
    pub(super) fn label(&self) -> String {
        match self {
            Members::Scored { cut, .. } => match cut {
                Cut::TopBottom { n } => format!("top_bottom_{}", n.value),
                Cut::Threshold { t } => format!("threshold_{t}"),
            },
            Members::Named(named) => named.label(),
        }
    }

    pub(super) fn check(&self, stage: &Extract, inputs: &Inputs, problems: &mut Problems) {
        let prompts = &stage.prompts;
        match self {
            Members::Scored {
                scores,
                rule,
                split,
                cut,
            } => {
                check_scores(scores, &stage.model, prompts, inputs, problems);
                rule.check(scores, inputs, problems);
                let known = inputs.check_split(split, prompts, problems);
                if let (true, Cut::TopBottom { n }) = (known, cut) {
                    let of_split = count(split, prompts, inputs);
                    let whose = format!("split `{split}` has {of_split} prompts");
                    let overlap = stage.allow_overlap;
                    parameters::check_group_size(n, of_split, &whose, overlap, problems);
                }
            }
            Members::Named(named) => {
                named.groups(prompts, stage.allow_overlap, inputs, problems);
            }
        }
    }

    /// How many prompts are in A and in B together, at most.
    pub(super) fn count(&self, stage: &Extract, inputs: &Inputs) -> usize {
        match self {
            Members::Scored { split, cut, .. } => {
                let of_split = count(split, &stage.prompts, inputs);
                match cut {
                    Cut::TopBottom { n } => n.value.saturating_mul(2).min(of_split),
                    Cut::Threshold { .. } => of_split,
                }
            }
            Members::Named(named) => {
                let told = &mut Problems::default();
                let groups = named.groups(&stage.prompts, true, inputs, told);
                groups.map_or(0, |(groups, _)| {
                    let groups = named.bounded(groups);
                    groups.top.len() + groups.bottom.len()
                })
            }
        }
    }

    pub(super) fn choose<'a>(
        &'a self,
        stage: &Extract,
        prompts: &'a PromptSet,
        inputs: &Inputs,
    ) -> Result<Chosen<'a>, StageError> {
        let (scores, rule, split, cut) = match self {
            Members::Scored {
                scores,
                rule,
                split,
                cut,
            } => (scores, rule, split, cut),
            Members::Named(named) => {
                let told = &mut Problems::default();
                let found = named.groups(&stage.prompts, stage.allow_overlap, inputs, told);
                let (groups, overlap) = found.ok_or_else(changed)?;
                return Ok(Chosen {
                    groups: named.bounded(groups),
                    overlap: overlap.map(|told| format!("the direction: {told}")),
                    scores: None,
                });
            }
        };
        let scores = Scored::read((scores, rule), &stage.model, prompts, inputs)?;
        let of_split = parameters::split_indices(prompts, &split.value);
        let values = scores.of(&of_split)?;
        let (groups, overlap) = match cut {
            Cut::Threshold { t } => {
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
                (groups, None)
            }
            Cut::TopBottom { n } => {
                let selection = stats::top_bottom(&values, n.value)?;
                scores.groups(&of_split, &selection, stage.allow_overlap, "the direction")?
            }
        };
        Ok(Chosen {
            groups,
            overlap,
            scores: Some(scores),
        })
    }
}

/// How many prompts a split has; 0 where the set could not be read.
fn count(split: &Name, set: &Name, inputs: &Inputs) -> usize {
    let set = inputs.prompts.get(&set.value);
    set.map_or(0, |set| set.split(&split.value).count())
}

/// What groups are, is checked before anything is run.
pub(in crate::stages) fn changed() -> StageError {
    StageError::Internal("the groups of a direction changed after they were checked".to_string())
}
