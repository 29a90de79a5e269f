//! What a check found, in sentences that a person can quote.

use super::outcome::{Level, Outcome};
use super::recomputed::Recomputed;

/// A sentence for each level, and what all of it speaks of.
pub(super) fn sentences(levels: &[Level], found: Option<&Recomputed>) -> Vec<String> {
    let mut sentences: Vec<String> = levels.iter().map(|level| sentence(level, found)).collect();
    sentences.push(
        "This speaks of the stored values and of what follows from them, not of what is concluded from them; how far they carry a conclusion, the \
         run's own findings say."
            .to_string(),
    );
    sentences
}

fn sentence(level: &Level, found: Option<&Recomputed>) -> String {
    let mut told = match (level.name, level.outcome) {
        ("intact", Outcome::Agrees) => "Intact: every file is what the list in it says.".to_string(),
        ("follows", Outcome::Agrees) => {
            "Follows: every table, direction, figure and finding was made again from the stored values, and is the same.".to_string()
        }
        ("recomputed", _) if found.is_some() => found.map_or_else(String::new, of_draw),
        ("recomputed", Outcome::Agrees) => "Recomputed: nothing was computed again.".to_string(),
        (name, Outcome::Disagrees) => format!("{}: no; {}", titled(name), of_problems(level)),
        (name, _) => {
            let first = level.unchecked.first();
            let first = first.map_or_else(String::new, |first| format!("{}: {}", first.place, first.what));
            format!("{}: not all of it could be checked: {first}.", titled(name))
        }
    };
    if level.name == "recomputed" && found.is_some() && !level.unchecked.is_empty() {
        told.push_str(" Not everything could be computed again; what could not is listed.");
    }
    told
}

fn titled(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// Where it disagrees, and at how many more places.
fn of_problems(level: &Level) -> String {
    let Some(first) = level.problems.first() else {
        return "something is not as it should be.".to_string();
    };
    let told = format!("{}: {}", first.place, first.what);
    match level.problems.len() - 1 {
        0 => format!("{told}."),
        more => format!("{told}, and {more} more."),
    }
}

fn of_draw(found: &Recomputed) -> String {
    let Recomputed {
        stored,
        compared,
        differing,
        at_most,
        ..
    } = found;
    let same = found.strata.iter().map(|stratum| stratum.drift.same);
    let same: u64 = same.sum();
    let agree = compared - differing;
    let agreed = match (agree == *compared, same == *compared) {
        (true, true) => "all are the same to the bit".to_string(),
        (true, false) => format!("all agree within the tolerance ({same} to the bit)"),
        _ => format!("{differing} differ by more than the tolerance"),
    };
    match compared == stored {
        true => {
            format!("Recomputed: all {stored} stored values were computed again, and {agreed}.")
        }
        false => format!(
            "Recomputed: of {stored} stored values {compared} were drawn at random (seed {}) and computed again; {agreed}. With 95 % \
             confidence fewer than {} of the stored values differ by more than the tolerance.",
            found.seed,
            percent(*at_most, *stored)
        ),
    }
}

/// A share that is above `at_most` of so many, to two digits, rounded up.
pub(crate) fn percent(at_most: u64, of: u64) -> String {
    if of == 0 {
        return "0 %".to_string();
    }
    let percent = 100.0 * (at_most + 1) as f64 / of as f64;
    if percent >= 100.0 {
        return "100 %".to_string();
    }
    let digits = 1 - percent.log10().floor() as i32;
    let scale = 10f64.powi(digits);
    let rounded = (percent * scale - 1e-9).ceil() / scale;
    format!("{rounded:.*} %", usize::try_from(digits).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_up() {
        for (at_most, of, expected) in [
            (0, 100_000, "0.0010 %"),
            (58, 5_000, "1.2 %"),
            (0, 3, "34 %"),
            (2, 3, "100 %"),
            (98, 1000, "9.9 %"),
            (99, 1000, "10 %"),
            (9, 100, "10 %"),
        ] {
            assert_eq!(percent(at_most, of), expected, "{at_most} of {of}");
        }
    }
}
