//! Small sweeps to work out by hand, and the stage as a whole.

mod against_random;
mod halves_of_prompts;
mod prompts_of_another_system;
mod tables;
mod verdict;

use std::path::Path;
use std::sync::Arc;

use super::grid::Grid;
use super::*;
use crate::model::{Cells, Value};
use crate::stages::Artifacts;
use crate::stages::sweep::{Further, Measured, SweepRow, SweptPrompt};
use crate::stages::table;

/// Sums of a few numbers of size 10 or less.
const ROUNDING: f64 = 1e-12;

fn splits() -> Splits {
    Splits {
        edge: "edge".to_string(),
        harmful: "harmful".to_string(),
    }
}

fn row<'a>(seed: Option<i64>, set: &'a str, id: &'a str, alpha: f64, score: f64) -> SweepRow<'a> {
    SweepRow {
        model: "inst",
        direction: "v",
        seed,
        layer: 20,
        site: "resid_pre",
        alpha: Some(alpha),
        further: Further::default(),
        set,
        measured: Measured::Prompt(SweptPrompt {
            id,
            split: set,
            category: "homonyms",
            score,
            refused: score > 0.0,
            built: false,
        }),
    }
}

/// Rows of prompts `(set, id, intercept, slope)` whose score is intercept + slope · α.
fn lines<'a>(
    seed: Option<i64>,
    alphas: &[f64],
    prompts: &[(&'a str, &'a str, f64, f64)],
) -> Vec<SweepRow<'a>> {
    let of_alpha = |&alpha: &f64| {
        prompts
            .iter()
            .map(move |&(set, id, start, slope)| row(seed, set, id, alpha, start + slope * alpha))
    };
    alphas.iter().flat_map(of_alpha).collect()
}

fn read(source: Source, rows: &[SweepRow<'_>]) -> Result<Vec<Grid>, StageError> {
    grid::read(source, &SweepRow::table_of_prompts(rows, "refused")?)
}

fn grid(source: Source, rows: &[SweepRow<'_>]) -> Grid {
    let mut grids = read(source, rows).expect("a complete sweep");
    assert_eq!(grids.len(), 1);
    grids.remove(0)
}

fn assert_close(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() < ROUNDING,
        "{found}, not {expected}"
    );
}

/// One edge and one harmful prompt; the edge slope is 1, the harmful one 2, and both intercepts 1.
fn steer_rows() -> Vec<SweepRow<'static>> {
    lines(
        None,
        &[0.0, -1.0, 1.0],
        &[("edge", "e1", 1.0, 1.0), ("harmful", "h1", 1.0, 2.0)],
    )
}

/// Two seeds; prompt e2 is trained on in the first and held out in the second.
fn holdout_rows() -> Vec<SweepRow<'static>> {
    let alphas = [-1.0, 0.0, 1.0];
    let mut rows = lines(
        Some(0),
        &alphas,
        &[
            ("edge_train", "e1", 2.0, 1.0),
            ("edge_train", "e2", 0.5, 1.0),
            ("edge_holdout", "e3", 0.5, 1.0),
            ("harmful", "h1", 2.0, 1.0),
            ("harmful", "h2", 2.0, 1.0),
        ],
    );
    rows.extend(lines(
        Some(1),
        &alphas,
        &[
            ("edge_train", "e1", 2.0, 1.0),
            ("edge_holdout", "e2", 0.5, 2.0),
            ("edge_holdout", "e3", 0.5, 4.0),
            ("harmful", "h1", 2.0, 3.0),
            ("harmful", "h2", 2.0, 3.0),
        ],
    ));
    rows
}

/// Directions numbered from 0, whose slopes on both splits are number / 100.
fn random_rows(count: i64) -> Vec<SweepRow<'static>> {
    let of_seed = |seed: i64| {
        let slope = seed as f64 / 100.0;
        lines(
            Some(seed),
            &[-1.0, 0.0, 1.0],
            &[("edge", "e1", 1.0, slope), ("harmful", "h1", 1.0, slope)],
        )
    };
    (0..count).flat_map(of_seed).collect()
}

fn xstest_rows() -> Vec<SweepRow<'static>> {
    let mut rows = lines(
        Some(0),
        &[0.0],
        &[
            ("safe", "x1", 1.0, 0.0),
            ("safe", "x2", -1.0, 0.0),
            ("unsafe", "x3", 1.0, 0.0),
        ],
    );
    rows[0].measured = Measured::Prompt(SweptPrompt {
        built: true,
        ..rows[0].prompt()
    });
    rows[1].measured = Measured::Prompt(SweptPrompt {
        category: "figurative",
        ..rows[1].prompt()
    });
    rows
}

/// A summary decoded from its table, or the messages.
fn decoded(text: &str) -> Result<Box<dyn Stage>, String> {
    let document = crate::spec::load_text(Path::new("s.toml"), text, &[]).expect("valid TOML");
    let mut problems = Problems::default();
    let mut fields = Fields::new(&document.root, &mut problems).expect("a table");
    let stage = (KIND.decode)(&mut fields, &Settings::default());
    fields.finish();
    match problems.finish(&document.sources) {
        Ok(()) => Ok(stage.expect("a stage without problems")),
        Err(diagnostics) => Err(diagnostics.to_string()),
    }
}

#[test]
fn bad_fields_are_told_all_at_once() {
    let message = decoded("edge_target = 10\nseeds = 1")
        .err()
        .expect("an error");
    for part in [
        "a summary needs at least one sweep",
        "edge_target `10` is not a rate",
        "unknown field `seeds`",
        "did you mean `seed`?",
    ] {
        assert!(message.contains(part), "no `{part}` in {message}");
    }
}

#[test]
fn every_parameter_is_in_the_key_and_stage_names_are_not() {
    let key = |text: &str| {
        decoded(text)
            .unwrap_or_else(|message| panic!("{message}"))
            .parameters()
    };
    let plain = key("steer = \"a\"");
    assert_eq!(plain, key("steer = \"b\"\nedge_target = 0.10\nseed = 0"));
    for other in [
        "random = \"a\"",
        "steer = \"a\"\nrandom = \"c\"",
        "steer = \"a\"\nedge = \"x\"",
        "steer = \"a\"\nharmful = \"x\"",
        "steer = \"a\"\nedge_target = 0.2",
        "steer = \"a\"\nharmful_target = 0.2",
        "steer = \"a\"\nseed = 1",
    ] {
        assert_ne!(plain, key(other), "{other}");
    }
}

struct NoModel;

impl Evaluate for NoModel {
    fn evaluate_each(
        &mut self,
        _cells: &dyn Cells,
        _take: &mut dyn FnMut(usize, Value),
    ) -> Result<(), StageError> {
        Err(StageError::Internal("a summary asks no model".to_string()))
    }
}

/// A sweep stage's output with these rows.
fn output(rows: &[SweepRow<'_>]) -> Arc<Artifacts> {
    let table = SweepRow::table_of_prompts(rows, "refused").expect("a table");
    let output = Output {
        tables: vec![(String::new(), table)],
        ..Output::default()
    };
    Arc::new(output.into())
}

fn run(text: &str, stages: &[(&str, Vec<SweepRow<'_>>)]) -> Output {
    let stage = decoded(text).unwrap_or_else(|message| panic!("{message}"));
    let mut inputs = Inputs::default();
    for (name, rows) in stages {
        inputs.stages.insert((*name).to_string(), output(rows));
    }
    stage.run(&inputs, &mut NoModel).expect("a summary")
}

#[test]
fn the_stage_writes_every_table_it_has_sources_for() {
    let all = run(
        "steer = \"a\"\nholdout = \"b\"\nrandom = \"c\"\nxstest = \"d\"",
        &[
            ("a", steer_rows()),
            ("b", holdout_rows()),
            ("c", random_rows(19)),
            ("d", xstest_rows()),
        ],
    );
    let heights: Vec<(&str, usize)> = all
        .tables
        .iter()
        .map(|(name, table)| (name.as_str(), table.height()))
        .collect();
    // Main: 3 α × 2 sets steered, 3 × 3 held out, 3 × 2 random, 1 × 2 of XSTest. Fronts: steer (0,0) (1,1), holdout (0,0.5) (1,1),
    // random (1,1).
    let expected = [
        ("", 23),
        ("verdict", 8),
        ("controls", 6),
        ("generalisation", 1),
        ("pareto", 5),
        ("operating_points", 3),
        ("learned_vs_random", 4),
    ];
    assert_eq!(heights, expected);
    let sources = table::read_text(&all.tables[0].1, "source").expect("sources");
    assert_eq!(
        (sources[0].as_str(), sources[22].as_str()),
        ("steer", "xstest")
    );
    // The verdict, what XSTest's prompts built, and the one prompt of each split that is refused at α = 0.
    assert_eq!(all.findings.len(), 4, "{:?}", all.findings);

    let one = run("steer = \"a\"", &[("a", steer_rows())]);
    let names: Vec<&str> = one.tables.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "",
            "verdict",
            "pareto",
            "operating_points",
            "learned_vs_random"
        ]
    );
    assert_eq!(
        one.findings,
        [
            "model `inst`, layer 20: not tested: effect, specific, selective, valid, stable",
            "model `inst`: at α = 0 the score refuses 100.0 % of `edge` (1 of 1), so that its rate can hardly rise",
            "model `inst`: at α = 0 the score refuses 100.0 % of `harmful` (1 of 1), so that its rate can hardly rise",
        ]
    );
}

/// The rates of the front are rates of the main table, and so are their intervals.
#[test]
fn rates_on_the_front_have_the_intervals_of_the_main_table() {
    let all = run(
        "steer = \"a\"\nholdout = \"b\"",
        &[("a", steer_rows()), ("b", holdout_rows())],
    );
    let table = |name: &str| {
        &all.tables
            .iter()
            .find(|(n, _)| n == name)
            .expect("a table")
            .1
    };
    let text = |name: &str, column: &str| table::read_text(table(name), column).expect("text");
    let numbers =
        |name: &str, column: &str| table::read_numbers(table(name), column).expect("numbers");
    let (sources, sets, alphas) = (text("", "source"), text("", "set"), numbers("", "alpha"));
    let (front_sources, front_alphas) = (text("pareto", "source"), numbers("pareto", "alpha"));
    for (row, source) in front_sources.iter().enumerate() {
        let edge = if source == "holdout" {
            "edge_holdout"
        } else {
            "edge"
        };
        for (side, set) in [("edge", edge), ("harmful", "harmful")] {
            let is_it = |i: &usize| {
                sources[*i] == *source && sets[*i] == set && alphas[*i] == front_alphas[row]
            };
            let i = (0..sources.len())
                .find(is_it)
                .expect("a row of the main table");
            for end in ["low", "high"] {
                let front = numbers("pareto", &format!("{side}_rate_{end}"))[row];
                assert_eq!(
                    front,
                    numbers("", &format!("rate_{end}"))[i],
                    "{source} {set} {end}"
                );
            }
        }
    }
}
