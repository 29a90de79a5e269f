//! Evaluations that refusal_direction published: `direction_evaluations.json`.

use serde::Deserialize;

use super::choice::Candidate;

#[derive(Deserialize)]
struct Evaluation {
    position: i64,
    layer: usize,
    refusal_score: Option<f64>,
    steering_score: Option<f64>,
    kl_div_score: Option<f64>,
}

/// The candidates of a file, in its order. Python writes `NaN` for a number that is not there, which JSON does not know.
///
/// # Errors
/// A fragment: what is wrong with the file.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Candidate>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("is not UTF-8: {error}"))?;
    let text = text.replace(": NaN", ": null");
    let evaluations: Vec<Evaluation> = crate::json::read(&text).map_err(|problem| {
        format!(
            "{problem}; expected a list of `position`, `layer`, `refusal_score`, `steering_score` and `kl_div_score`"
        )
    })?;
    if evaluations.is_empty() {
        return Err("evaluates no direction".to_string());
    }
    let candidate = |e: &Evaluation| Candidate {
        position: e.position,
        layer: e.layer,
        bypass: e.refusal_score.unwrap_or(f64::NAN),
        induce: e.steering_score.unwrap_or(f64::NAN),
        kl: e.kl_div_score.unwrap_or(f64::NAN),
    };
    let candidates: Vec<Candidate> = evaluations.iter().map(candidate).collect();
    let mut seen = std::collections::HashSet::new();
    match candidates
        .iter()
        .find(|c| !seen.insert((c.position, c.layer)))
    {
        Some(twice) => Err(format!(
            "evaluates position {} at layer {} twice",
            twice.position, twice.layer
        )),
        None => Ok(candidates),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_read_and_what_is_not_is_told() {
        let row = |kl: &str| {
            format!(
                r#"{{"position": -2, "layer": 3, "refusal_score": -1.5, "steering_score": 2, "kl_div_score": {kl}}}"#
            )
        };
        let found = read(format!("[{}]", row("0.25")).as_bytes()).unwrap();
        let expected = Candidate {
            position: -2,
            layer: 3,
            bypass: -1.5,
            induce: 2.0,
            kl: 0.25,
        };
        assert_eq!(found, [expected]);
        assert!(
            read(format!("[{}]", row("NaN")).as_bytes()).unwrap()[0]
                .kl
                .is_nan()
        );
        let wrong = |text: &str| read(text.as_bytes()).unwrap_err();
        assert!(
            wrong(&format!("[{}, {}]", row("1"), row("2")))
                .contains("position -2 at layer 3 twice")
        );
        assert!(wrong("[{\"position\": 1}]").contains("missing field `layer`"));
        assert!(wrong("[]").contains("no direction"));
    }
}
