//! What a check found, level by level, as it is written to `verify.json` and shown.

use serde::Serialize;

use crate::model::Provenance;

use super::recomputed::Recomputed;

/// How a level ended, and the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Agrees,
    /// Not all that was asked could be checked; what was agrees.
    Unchecked,
    Disagrees,
}

/// Something that is not as it should be: where, and what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Problem {
    /// A file of the archive or a stage.
    pub(crate) place: String,
    pub(crate) what: String,
}

/// One level of the check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Level {
    pub(crate) name: &'static str,
    pub(crate) outcome: Outcome,
    /// What it shows where it agrees.
    pub(crate) proves: &'static str,
    /// What it does not show.
    pub(crate) proves_not: &'static str,
    /// What was compared, with how many of it.
    pub(crate) checked: Vec<String>,
    /// What disagrees.
    pub(crate) problems: Vec<Problem>,
    /// What could not be checked, and why.
    pub(crate) unchecked: Vec<Problem>,
    pub(crate) seconds: f64,
}

/// What the run itself found worth a reader's attention.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Finding {
    pub(crate) stage: String,
    pub(crate) text: String,
}

/// A shared file, checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Verified {
    /// Of the layout of this JSON.
    pub(crate) format: u32,
    pub(crate) outcome: Outcome,
    /// A sentence for each level, to be quoted.
    pub(crate) verdict: Vec<String>,
    /// The file's name.
    pub(crate) file: String,
    pub(crate) bytes: u64,
    /// In lower-case hexadecimal.
    pub(crate) sha256: String,
    pub(crate) study: String,
    pub(crate) title: Option<String>,
    pub(crate) question: Option<String>,
    /// When the run ended.
    pub(crate) ended: String,
    /// When it was checked, as RFC 3339 in UTC.
    pub(crate) checked: String,
    /// Where it was run, as the file says.
    pub(crate) there: Option<Provenance>,
    /// Where it was checked.
    pub(crate) here: Provenance,
    /// `intact`, `follows`, `recomputed`.
    pub(crate) levels: Vec<Level>,
    /// The numbers of the third level, where anything was computed.
    pub(crate) recomputed: Option<Recomputed>,
    /// What repeats the same draw.
    pub(crate) repeat: Option<String>,
    pub(crate) findings: Vec<Finding>,
}

/// Of the layout of `verify.json`.
pub(crate) const FORMAT: u32 = 1;

impl Outcome {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Outcome::Agrees => "agrees",
            Outcome::Unchecked => "not all checked",
            Outcome::Disagrees => "disagrees",
        }
    }

    /// The worse of some.
    pub(crate) fn worst(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        let rank = |outcome: &Outcome| *outcome as u8;
        outcomes
            .into_iter()
            .max_by_key(rank)
            .unwrap_or(Outcome::Agrees)
    }
}

impl Level {
    pub(super) fn intact() -> Self {
        Level::new(
            "intact",
            "the file is whole: each file in it has the size and the sha256 that it says, nothing is missing, nothing leads out of it",
            "who wrote it, or that it is true: whoever changes a file can change what is said of it, too",
        )
    }

    pub(super) fn follows() -> Self {
        Level::new(
            "follows",
            "every table, direction, statistic, figure and finding follows from the values stored in the file, the prompts and the study in it",
            "that the models gave these values; when and on what machine it was run is what the file says",
        )
    }

    pub(super) fn recomputed() -> Self {
        Level::new(
            "recomputed",
            "a random draw of the stored values, which nobody could foresee, is what the model named here gives on this machine",
            "anything of what is concluded from the values, or that the model is the one its name promises beyond its weights' hashes",
        )
    }

    fn new(name: &'static str, proves: &'static str, proves_not: &'static str) -> Self {
        Level {
            name,
            outcome: Outcome::Agrees,
            proves,
            proves_not,
            checked: Vec::new(),
            problems: Vec::new(),
            unchecked: Vec::new(),
            seconds: 0.0,
        }
    }

    pub(super) fn problem(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem {
            place: place.into(),
            what: what.into(),
        });
        self.outcome = Outcome::Disagrees;
    }

    pub(super) fn not_checked(&mut self, place: impl Into<String>, why: impl Into<String>) {
        self.unchecked.push(Problem {
            place: place.into(),
            what: why.into(),
        });
        self.outcome = Outcome::worst([self.outcome, Outcome::Unchecked]);
    }
}
