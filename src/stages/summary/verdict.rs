//! `verdict`: what the study shows of each direction, part by part. What could not be tested is not passed.
//!
//! A row is one test: a part ([`PARTS`]), and what it was tested on. A part is as good as its worst row, and so is a place, and a run.

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::rules::REFUSED;
use crate::stages::table::{self, Rows};
use crate::stats::{self, Interval};

use super::grid::{Grid, with_place};
use super::learned::{self, Comparison, LEVEL};
use super::texts::Compared;

/// The parts and what each takes to be passed, in the order in which they are shown.
pub(crate) const PARTS: [(&str, &str); 5] = [
    (
        "effect",
        "on prompts that built none of them, the slope of the score along the holdout directions has its 95 % interval above 0, on every set",
    ),
    (
        "specific",
        "the learned direction's slope is beyond that of random directions, exact p ≤ 0.05 one- and two-sided, on every set",
    ),
    (
        "selective",
        "the gap between the sets changes from its value at α = 0 more than along random directions, exact p ≤ 0.05 for the largest change over α",
    ),
    (
        "valid",
        "the score measures what the texts do: the 95 % interval of κ (prompts resampled) lies at or above 0.4, with every classifier of the texts",
    ),
    (
        "stable",
        "directions of five seeds or more have slopes of one sign, on every set",
    ),
];

/// The κ that counts as agreement: moderate, from 0.41 on by Landis and Koch, "The measurement of observer agreement", 1977.
const ENOUGH_KAPPA: f64 = 0.4;
/// Fewer say little of how much a direction depends on the prompts that made it.
const FEWEST_SEEDS: usize = 5;

/// How a test ended, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Failed,
    NotTested,
    Passed,
}

impl Outcome {
    /// The word for it, in tables and on screens.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Outcome::Failed => "failed",
            Outcome::NotTested => "not tested",
            Outcome::Passed => "passed",
        }
    }

    /// The outcome that a table has this word for.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let all = [Outcome::Failed, Outcome::NotTested, Outcome::Passed];
        all.into_iter().find(|outcome| outcome.name() == name)
    }

    fn of(passes: bool) -> Self {
        match passes {
            true => Outcome::Passed,
            false => Outcome::Failed,
        }
    }
}

/// A test of one part.
#[derive(Clone, Debug)]
pub(super) struct Test<'a> {
    /// The learned direction's sweep.
    grid: &'a Grid,
    pub(super) part: &'static str,
    /// A set, the gap, or a classifier of texts.
    pub(super) of: String,
    pub(super) outcome: Outcome,
    pub(super) value: Option<f64>,
    pub(super) interval: Option<Interval>,
    pub(super) p: Option<f64>,
    /// The smallest p that so many random directions allow.
    smallest_p: Option<f64>,
    /// Of score and texts.
    auroc: Option<f64>,
    /// Random directions, texts, or seeds.
    n: usize,
    /// What was found, in words.
    pub(super) why: String,
}

/// What the tests are made of, beside the sweeps.
pub(super) struct Evidence<'a> {
    /// The score against the texts of the stage that `generate` names.
    pub(super) texts: Option<&'a [Compared<'a>]>,
    /// Whether there is such a stage.
    pub(super) has_texts: bool,
    /// The score rule.
    pub(super) rule: &'a str,
    /// Cosines between the holdout directions.
    pub(super) cosines: Option<&'a DataFrame>,
}

/// Every test at every place that has a learned direction.
pub(super) fn tests<'a>(
    comparisons: &[Comparison<'a>],
    evidence: &Evidence<'_>,
) -> Result<Vec<Test<'a>>, StageError> {
    let mut tests = Vec::new();
    for of_place in comparisons.chunk_by(|a, b| std::ptr::eq(a.learned_grid, b.learned_grid)) {
        let slopes = || of_place.iter().filter(|row| row.statistic == "slope");
        tests.extend(slopes().map(effect));
        tests.extend(slopes().map(specific));
        let changes = of_place
            .iter()
            .filter(|row| row.statistic == "max_gap_change");
        tests.extend(changes.map(selective));
        let grid = of_place[0].learned_grid;
        tests.extend(valid(grid, evidence));
        for row in slopes() {
            tests.push(stable(row, evidence)?);
        }
    }
    Ok(tests)
}

impl<'a> Test<'a> {
    fn new(grid: &'a Grid, part: &'static str, of: &str) -> Self {
        Test {
            grid,
            part,
            of: of.to_string(),
            outcome: Outcome::NotTested,
            value: None,
            interval: None,
            p: None,
            smallest_p: None,
            auroc: None,
            n: 0,
            why: String::new(),
        }
    }

    fn not_tested(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }
}

fn effect<'a>(row: &Comparison<'a>) -> Test<'a> {
    let test = Test::new(row.learned_grid, "effect", row.set);
    let Some(held_out) = row.holdout else {
        return test.not_tested("there is no holdout sweep here");
    };
    let value = Some(held_out.value);
    match held_out.interval {
        None => {
            Test { value, ..test }.not_tested("without spread over prompts there is no interval")
        }
        Some(interval) => Test {
            outcome: Outcome::of(interval.low > 0.0),
            value,
            interval: Some(interval),
            why: format!(
                "slope {:.3} [{:.3}, {:.3}] on held-out prompts",
                held_out.value, interval.low, interval.high
            ),
            ..test
        },
    }
}

fn specific<'a>(row: &Comparison<'a>) -> Test<'a> {
    let test = Test::new(row.learned_grid, "specific", row.set);
    against_random(test, row, |p| p.one_sided.max(p.two_sided))
}

fn selective<'a>(row: &Comparison<'a>) -> Test<'a> {
    let test = Test::new(row.learned_grid, "selective", row.set);
    if row.learned.is_none() {
        return test.not_tested("the sweep has no α = 0");
    }
    against_random(test, row, |p| p.one_sided)
}

/// Compares the learned direction's statistic with those of random ones.
fn against_random<'a>(
    test: Test<'a>,
    row: &Comparison<'a>,
    of: fn(stats::EmpiricalP) -> f64,
) -> Test<'a> {
    let (Some(learned), Some(p)) = (row.learned, row.p) else {
        return test.not_tested("there is no random sweep here");
    };
    let (p, smallest) = (of(p), 1.0 / (1 + row.n_random) as f64);
    let test = Test {
        value: Some(learned.value),
        p: Some(p),
        smallest_p: Some(smallest),
        n: row.n_random,
        ..test
    };
    match smallest > LEVEL {
        true => test.not_tested(format!(
            "{} random directions allow no p below {smallest:.3}; nineteen do",
            row.n_random
        )),
        false => Test {
            outcome: Outcome::of(p <= LEVEL),
            why: format!(
                "p = {p:.3}, where {} random directions allow {smallest:.3}",
                row.n_random
            ),
            ..test
        },
    }
}

/// The score against the texts of one direction's places, by classifier.
fn valid<'a>(grid: &'a Grid, evidence: &Evidence<'_>) -> Vec<Test<'a>> {
    let test = |classifier: &str| Test::new(grid, "valid", classifier);
    if evidence.rule != REFUSED && evidence.has_texts {
        let rule = evidence.rule;
        return vec![test("texts").not_tested(format!(
            "the classifiers of texts know refusals, which `{rule}` is not about"
        ))];
    }
    let Some(texts) = evidence.texts else {
        return vec![test("texts").not_tested("no stage of texts is given with `generate`")];
    };
    let here: Vec<&Compared<'_>> = texts
        .iter()
        .filter(|compared| std::ptr::eq(compared.grid, grid))
        .collect();
    if here.is_empty() {
        return vec![test("texts").not_tested("no texts of this model at this layer and site")];
    }
    let by_classifier = here.chunk_by(|a, b| a.classifier == b.classifier);
    by_classifier
        .map(|compared| judge(test(compared[0].classifier), compared))
        .collect()
}

/// Judges by all texts; `compared` has those of α = 0 before, if both are told.
fn judge<'a>(test: Test<'a>, compared: &[&Compared<'_>]) -> Test<'a> {
    let [plain @ .., all] = compared else {
        return test;
    };
    let plain = plain.iter().map(|plain| plain.rates());
    let beside = plain.fold(all.rates(), |all, plain| format!("{all}; at α = 0 {plain}"));
    let test = Test {
        value: all.kappa,
        interval: all.interval,
        auroc: all.auroc,
        n: all.n,
        ..test
    };
    let Some((kappa, interval)) = all.kappa.zip(all.interval) else {
        return test.not_tested(format!("κ has no interval; {beside}"));
    };
    let found = format!(
        "κ {kappa:.2} [{:.2}, {:.2}]; {beside}",
        interval.low, interval.high
    );
    let outcome = match (interval.low >= ENOUGH_KAPPA, interval.high < ENOUGH_KAPPA) {
        (true, _) => Outcome::Passed,
        (_, true) => Outcome::Failed,
        _ => return test.not_tested(format!("{found}: too few prompts to decide")),
    };
    Test {
        outcome,
        why: found,
        ..test
    }
}

fn stable<'a>(row: &Comparison<'a>, evidence: &Evidence<'_>) -> Result<Test<'a>, StageError> {
    let test = Test::new(row.learned_grid, "stable", row.set);
    let Some(grid) = row.holdout_grid else {
        return Ok(test.not_tested("there is no holdout sweep here"));
    };
    let seeds = grid.lines.len();
    let slopes = learned::line_slopes(grid, &grid.set_of(row.set), &row.alphas)?;
    let test = Test { n: seeds, ..test };
    if seeds < FEWEST_SEEDS || slopes.len() < seeds {
        return Ok(test.not_tested(format!(
            "{seeds} seeds are too few; {FEWEST_SEEDS} are enough"
        )));
    }
    let positive = slopes.iter().filter(|slope| **slope > 0.0).count();
    let negative = slopes.iter().filter(|slope| **slope < 0.0).count();
    let cosine = match evidence.cosines {
        Some(cosines) => least_cosine(cosines, grid.layer)?,
        None => None,
    };
    let cosines = cosine.map_or(String::new(), |cosine| {
        format!("; cosines between seeds from {cosine:.3}")
    });
    Ok(Test {
        outcome: Outcome::of(positive.max(negative) == seeds),
        value: cosine,
        why: format!("{positive} slopes of {seeds} above 0, {negative} below{cosines}"),
        ..test
    })
}

/// The least cosine between directions of different seeds at a layer.
fn least_cosine(cosines: &DataFrame, layer: i64) -> Result<Option<f64>, StageError> {
    let integers = |name| table::read_integers(cosines, name);
    let (seeds_a, seeds_b) = (integers("seed_a")?, integers("seed_b")?);
    let (layers_a, layers_b) = (integers("layer_a")?, integers("layer_b")?);
    let values = cosines.column("cosine")?.f64()?;
    let is_pair = |row: &usize| {
        let of_layer = layers_a[*row] == Some(layer) && layers_b[*row] == Some(layer);
        of_layer && seeds_a[*row] != seeds_b[*row]
    };
    let pairs = (0..cosines.height()).filter(is_pair);
    Ok(pairs.filter_map(|row| values.get(row)).reduce(f64::min))
}

/// Columns: `model, layer, site, part, of, outcome, value, low, high, p, smallest_p, auroc, n, why`.
pub(super) fn table(tests: &[Test<'_>]) -> Result<DataFrame, StageError> {
    with_place(Rows::of(tests), |test| test.grid)
        .text("part", |test| test.part)
        .text("of", |test| &test.of)
        .text("outcome", |test| test.outcome.name())
        .number("value", |test| test.value)
        .ends(["low", "high"], |test| test.interval)
        .number("p", |test| test.p)
        .number("smallest_p", |test| test.smallest_p)
        .number("auroc", |test| test.auroc)
        // An effect is over prompts, which its interval is over, too.
        .integer("n", |test| (test.n > 0).then_some(test.n as i64))
        .text("why", |test| &test.why)
        .frame()
}

/// A sentence for each place: which parts are passed, which failed and why, and which were not tested.
pub(super) fn findings(tests: &[Test<'_>]) -> Vec<String> {
    let places = tests.chunk_by(|a, b| std::ptr::eq(a.grid, b.grid));
    let sentence = |of_place: &[Test<'_>]| {
        let worst = |part: &str| {
            let of_part = of_place.iter().filter(|test| test.part == part);
            of_part.min_by_key(|test| test.outcome)
        };
        let worst: Vec<&Test<'_>> = PARTS.iter().filter_map(|(part, _)| worst(part)).collect();
        let told = |outcome: Outcome| {
            let parts = worst.iter().filter(|test| test.outcome == outcome);
            let parts = parts.map(|test| match outcome {
                Outcome::Failed => format!("{} on `{}` ({})", test.part, test.of, test.why),
                _ => test.part.to_string(),
            });
            let parts: Vec<String> = parts.collect();
            (!parts.is_empty()).then(|| format!("{}: {}", outcome.name(), parts.join(", ")))
        };
        let outcomes = [Outcome::Passed, Outcome::Failed, Outcome::NotTested];
        let told: Vec<String> = outcomes.into_iter().filter_map(told).collect();
        format!("{}: {}", of_place[0].grid.place(), told.join("; "))
    };
    places.map(sentence).collect()
}
