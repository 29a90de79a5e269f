//! Evaluations that refusal_direction published: `direction_evaluations.json`.

use std::collections::HashSet;

use serde_json::{Map, Value as Json};

use crate::harmless;
use crate::prompts::{no_number, with_marks};
use crate::spec::suggest;

use super::choice::Candidate;

const POSITION: &str = "position";
const LAYER: &str = "layer";
const BYPASS: &str = "refusal_score";
const INDUCE: &str = "steering_score";
const KL: &str = "kl_div_score";
/// Problems that are told one by one; the rest are counted.
const TOLD: usize = 8;
/// Characters of a value that are shown.
const QUOTED: usize = 40;

/// The candidates of a file about a model of so many layers, in its order. Python writes `NaN` for a number that is not there, and names for those that
/// are not finite, which JSON does not know.
///
/// # Errors
/// Fragments: all that is wrong with the file.
pub(super) fn read(bytes: &[u8], n_layers: usize) -> Result<Vec<Candidate>, Vec<String>> {
    let text = std::str::from_utf8(bytes);
    let text = text.map_err(|error| vec![format!("is not UTF-8: {error}")])?;
    let marked = with_marks(text);
    let read = crate::json::read(marked.as_deref().unwrap_or(text));
    let evaluations: Vec<Map<String, Json>> = read.map_err(|problem| {
        vec![format!(
            "{problem}; expected a list of `{POSITION}`, `{LAYER}`, `{BYPASS}`, `{INDUCE}` and `{KL}`"
        )]
    })?;
    if evaluations.is_empty() {
        return Err(vec!["evaluates no direction".to_string()]);
    }
    let mut problems = Vec::new();
    let mut candidates = Vec::new();
    let mut seen = HashSet::new();
    for (fields, number) in evaluations.iter().zip(1..) {
        let evaluation = Evaluation { fields, number };
        candidates.extend(evaluation.candidate(n_layers, &mut problems));
        let place = evaluation.place();
        if place.is_some_and(|place| !seen.insert(place)) {
            problems.push(format!("{} is there twice", evaluation.name()));
        }
    }
    if let Some(more) = problems.len().checked_sub(TOLD).filter(|more| *more > 0) {
        problems.truncate(TOLD);
        problems.push(format!("{more} more problems of that kind"));
    }
    match problems.is_empty() {
        true => Ok(candidates),
        false => Err(problems),
    }
}

/// An object of the list, and its number from 1.
struct Evaluation<'a> {
    fields: &'a Map<String, Json>,
    number: usize,
}

impl Evaluation<'_> {
    /// The position and the layer, where both are there.
    fn place(&self) -> Option<(i64, u64)> {
        let position = self.fields.get(POSITION)?.as_i64()?;
        Some((position, self.fields.get(LAYER)?.as_u64()?))
    }

    fn name(&self) -> String {
        match self.place() {
            Some((position, layer)) => format!(
                "evaluation {}, of position {position} and layer {layer},",
                self.number
            ),
            None => format!("evaluation {}", self.number),
        }
    }

    /// None where something is wrong, which is told.
    fn candidate(&self, n_layers: usize, problems: &mut Vec<String>) -> Option<Candidate> {
        let position = self.field(POSITION, "a whole number", Json::as_i64, problems);
        let layer = self.field(LAYER, "a whole number from 0 on", Json::as_u64, problems);
        let [bypass, induce, kl] = [BYPASS, INDUCE, KL]
            .map(|name| self.field(name, "a number, or `NaN` for none", number, problems));
        let layer = layer? as usize;
        if layer >= n_layers {
            problems.push(format!(
                "{} is beyond `n_layers = {n_layers}`: the layers of such a model are 0 to {}",
                self.name(),
                n_layers.saturating_sub(1)
            ));
        }
        Some(Candidate {
            position: position?,
            layer,
            bypass: bypass?,
            induce: induce?,
            kl: kl?,
        })
    }

    fn field<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&Json) -> Option<T>,
        problems: &mut Vec<String>,
    ) -> Option<T> {
        let Some(value) = self.fields.get(name) else {
            let meant = suggest(name, self.fields.keys().map(String::as_str));
            let meant = meant.map(|meant| format!("; did `{}` mean it?", quoted(meant)));
            let meant = meant.unwrap_or_default();
            problems.push(format!("{} has no `{name}`{meant}", self.name()));
            return None;
        };
        let found = read(value);
        if found.is_none() {
            let value = no_number(value).map_or_else(|| value.to_string(), str::to_string);
            problems.push(format!(
                "{} has `{}` as `{name}`, expected {expected}",
                self.name(),
                quoted(&value)
            ));
        }
        found
    }
}

fn number(value: &Json) -> Option<f64> {
    match no_number(value) {
        Some("NaN") => Some(f64::NAN),
        Some("Infinity") => Some(f64::INFINITY),
        Some(_) => Some(f64::NEG_INFINITY),
        None => value.as_f64(),
    }
}

/// A file's own words, as they may be shown.
fn quoted(text: &str) -> String {
    harmless::cut(&harmless::line(text), QUOTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(layer: usize, kl: &str) -> String {
        format!(
            r#"{{"position": -2, "layer": {layer}, "refusal_score": -1.5, "steering_score": 2, "kl_div_score": {kl}}}"#
        )
    }

    fn wrong(text: &str) -> Vec<String> {
        read(text.as_bytes(), 10).unwrap_err()
    }

    #[test]
    fn what_is_there_is_read_and_nan_is_what_is_not() {
        let found = read(format!("[{}]", row(3, "0.25")).as_bytes(), 4).unwrap();
        let expected = Candidate {
            position: -2,
            layer: 3,
            bypass: -1.5,
            induce: 2.0,
            kl: 0.25,
        };
        assert_eq!(found, [expected]);
        let compact = |number: &str| {
            let text = format!("[{}]", row(3, number)).replace(' ', "");
            read(text.as_bytes(), 4).unwrap()[0].kl
        };
        assert!(compact("NaN").is_nan());
        assert_eq!(compact("Infinity"), f64::INFINITY);
        assert_eq!(compact("-Infinity"), f64::NEG_INFINITY);
    }

    #[test]
    fn a_field_that_is_missing_or_misspelt_is_told_with_its_place() {
        let text = format!(
            "[{}, {}, {}]",
            row(3, "1").replace("kl_div_score", "kl_div_scores"),
            r#"{"position": 1}"#,
            row(4, "null"),
        );
        let told = wrong(&text);
        let expected = [
            "evaluation 1, of position -2 and layer 3, has no `kl_div_score`; did `kl_div_scores` mean it?",
            "evaluation 2 has no `layer`",
            "evaluation 2 has no `refusal_score`",
            "evaluation 2 has no `steering_score`",
            "evaluation 2 has no `kl_div_score`",
            "evaluation 3, of position -2 and layer 4, has `null` as `kl_div_score`, expected a number, or `NaN` for none",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_twice_or_beyond_the_model_is_told_and_much_of_it_counted() {
        let told = wrong(&format!("[{}, {}]", row(3, "1"), row(3, "2")));
        assert_eq!(
            told,
            ["evaluation 2, of position -2 and layer 3, is there twice"]
        );
        let many: Vec<String> = (5..21).map(|layer| row(layer, "1")).collect();
        let told = wrong(&format!("[{}]", many.join(",")));
        let first = "evaluation 6, of position -2 and layer 10, is beyond `n_layers = 10`: the layers of such a model are 0 to 9";
        assert_eq!((told.len(), told[0].as_str()), (TOLD + 1, first));
        assert_eq!(told[TOLD], "3 more problems of that kind");
        for (text, expected) in [
            ("[]", "no direction"),
            ("[1]", "not as expected"),
            (r#"[{"position": 1.5}]"#, "`1.5` as `position`"),
            (r#"[{"layer": NaN}]"#, "`NaN` as `layer`"),
            (r#"[{"layer": -1}]"#, "expected a whole number from 0 on"),
        ] {
            let told = wrong(text).join("; ");
            assert!(told.contains(expected), "{told}");
        }
    }
}
