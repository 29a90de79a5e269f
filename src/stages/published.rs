//! Files that somebody published: CSV with one row a prompt, and JSON that nests seeds, models, sets, layers and α.
//!
//! A file is read into rows, each of one number or text and what it is of. What the columns do not say (a layer, a seed, a site), the
//! file's name or its other fields may: `steering_holdout_layer20_hook_resid_pre_seed0.json`. The stage `import` makes tables of the
//! rows, and `dial diff` compares them; there is no other reader.

mod from_csv;
mod from_json;

use std::fmt;
use std::sync::LazyLock;

use regex::Regex;

/// What a row is of; what the file does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Of {
    /// Name of the model.
    pub(crate) model: Option<String>,
    /// Layer of the edit.
    pub(crate) layer: Option<u64>,
    /// How many of the last layers were patched.
    pub(crate) k: Option<u64>,
    /// Site of the edit, by its short name: `resid_pre`.
    pub(crate) site: Option<String>,
    /// Seed of the direction.
    pub(crate) seed: Option<u64>,
    /// α.
    pub(crate) alpha: Option<f64>,
    /// The prompts, by name: `harmful`, `edge_train`.
    pub(crate) set: Option<String>,
    /// The prompt.
    pub(crate) id: Option<String>,
    /// The prompt's category or type.
    pub(crate) category: Option<String>,
    /// The prompt's text.
    pub(crate) prompt: Option<String>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Measured {
    /// Of a prompt.
    Score {
        /// The score, in logits.
        score: f64,
        /// Whether it was called a refusal, where the file says so.
        refused: Option<bool>,
    },
    /// Of a set of prompts.
    Group {
        /// How many prompts.
        n: Option<u64>,
        /// Mean score.
        mean: Option<f64>,
        /// Standard deviation of the scores.
        std: Option<f64>,
        /// Share that is refused, 0 to 1.
        rate: Option<f64>,
    },
    /// Mean effect of a patch on a set of prompts, in logits.
    Effect {
        /// How many prompts.
        n: Option<u64>,
        /// The mean effect.
        delta: f64,
    },
    /// What a model wrote.
    Text(String),
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PublishedRow {
    /// The line it stands in, from 1; 0 in JSON.
    pub(crate) line: usize,
    /// What it is of.
    pub(crate) of: Of,
    /// What was measured.
    pub(crate) measured: Measured,
}

/// The prompts that built a direction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Builders {
    /// Seed of the split, where there was one.
    pub(crate) seed: Option<u64>,
    /// Layer of the direction.
    pub(crate) layer: Option<u64>,
    /// Share held out, where there was a split.
    pub(crate) fraction: Option<f64>,
    /// Ids of the highest scoring, in the order given.
    pub(crate) top: Vec<String>,
    /// Ids of the lowest scoring.
    pub(crate) bottom: Vec<String>,
    /// Sizes of the training half and of the half held out.
    pub(crate) halves: Option<(u64, u64)>,
}

/// A file, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Published {
    /// In file order.
    pub(crate) rows: Vec<PublishedRow>,
    /// The prompts behind the direction, where the file names them.
    pub(crate) builders: Option<Builders>,
}

/// Why a file could not be read as what it was said to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PublishedError {
    /// The file, with line and column where they are known.
    pub(crate) place: String,
    /// What is wrong, what was expected.
    pub(crate) message: String,
}

impl fmt::Display for PublishedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for PublishedError {}

/// Whether a CSV or JSON file has the shape of a published one, so that it is to be read here: JSON always has, and CSV where a
/// column is called as only a published table calls it.
pub(crate) fn is_published_shape(name: &str, text: &str) -> bool {
    is_json(name) || from_csv::is_published_shape(text)
}

/// The rows of a file of that name. `kind` is the kind of stage that would have made it.
///
/// # Errors
/// Text that is not CSV or JSON, columns or fields that are missing, values that are not of their type; with the place.
pub(crate) fn read(kind: &str, name: &str, text: &str) -> Result<Published, PublishedError> {
    let given = given(name);
    match is_json(name) {
        true => from_json::read(kind, name, text, &given),
        false => from_csv::read(kind, name, text, &given),
    }
}

/// The kind of stage that a file of this name is of, where the name says it.
pub(crate) fn kind_of(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let kinds = ["xstest", "holdout", "random", "patch", "steer", "score"];
    kinds.into_iter().find(|kind| name.contains(kind))
}

fn is_json(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".json")
}

/// Layer, seed and site that a file's name says.
fn given(name: &str) -> Of {
    static PATTERNS: LazyLock<[Option<Regex>; 3]> = LazyLock::new(|| {
        [
            r"layer_?(\d+)",
            r"seed(\d+)(?:\D|$)",
            r"(?:hook_)?(resid_pre|resid_mid|resid_post|attn_out|mlp_out)",
        ]
        .map(|pattern| Regex::new(pattern).ok())
    });
    let found = |pattern: &Option<Regex>| {
        let captures = pattern.as_ref()?.captures(name)?;
        Some(captures.get(1)?.as_str().to_string())
    };
    let [layer, seed, site] = &*PATTERNS;
    let number = |pattern| found(pattern).and_then(|text| text.parse().ok());
    Of {
        layer: number(layer),
        seed: number(seed),
        site: found(site),
        ..Of::default()
    }
}

/// A site's short name.
fn short_site(name: &str) -> String {
    name.trim_start_matches("hook_").to_string()
}

/// A set's name as stages call it.
fn set_name(name: &str) -> String {
    match name {
        "harm" => "harmful".to_string(),
        name => name.to_string(),
    }
}

#[cfg(test)]
mod tests;
