//! Scores under another system prompt, beside a sweep.

use crate::stages::Rules;
use crate::stages::score::{self, Scored};

use super::*;

fn scores(rows: &[(&'static str, &'static str, f64)]) -> DataFrame {
    let scored = rows.iter().map(|&(split, id, score)| Scored {
        model: "inst",
        id,
        split,
        category: "",
        score,
    });
    let scored: Vec<Scored<'_>> = scored.collect();
    score::tables(&scored, &Rules::default().default_rule())
        .expect("tables")
        .remove(0)
        .1
}

fn numbers(table: &DataFrame, name: &str) -> Vec<Option<f64>> {
    table.column(name).unwrap().f64().unwrap().iter().collect()
}

#[test]
fn the_change_is_that_of_each_prompt_from_alpha_0() {
    let swept = lines(
        None,
        &[-1.0, 0.0, 1.0],
        &[
            ("edge", "e1", 1.0, 1.0),
            ("edge", "e2", 3.0, 1.0),
            ("harmful", "h1", 2.0, 2.0),
        ],
    );
    let grids = [grid(Source::Steer, &swept)];
    let scores = scores(&[
        ("edge", "e1", -2.0),
        ("edge", "e2", 1.0),
        ("harmful", "h1", 5.0),
        ("harmful", "h2", 7.0),
    ]);
    let table = prompted::table(&scores, grids.iter(), 0).unwrap();
    assert_eq!(
        table::read_text(&table, "set").unwrap(),
        ["edge", "harmful"]
    );
    assert_eq!(numbers(&table, "mean"), [Some(-0.5), Some(6.0)]);
    // e1 falls by 3 and e2 by 2; h2 was not steered.
    assert_eq!(numbers(&table, "change"), [Some(-2.5), None]);
    assert!(numbers(&table, "change_high")[0].is_some_and(|high| high <= -2.0));
    assert_eq!(numbers(&table, "refusal_rate"), [Some(0.5), Some(1.0)]);
    let interval = crate::stats::wilson(1, 2).unwrap().unwrap();
    assert_eq!(numbers(&table, "rate_low")[0], Some(interval.low));
    let n = table::read_integers(&table, "n").unwrap();
    assert_eq!(n, [Some(2), Some(2)]);
}

#[test]
fn without_alpha_0_there_is_no_change() {
    let swept = lines(None, &[-1.0, 1.0], &[("edge", "e1", 1.0, 1.0)]);
    let grids = [grid(Source::Random, &swept)];
    let table = prompted::table(&scores(&[("edge", "e1", 0.5)]), grids.iter(), 0).unwrap();
    assert_eq!(numbers(&table, "mean"), [Some(0.5)]);
    assert_eq!(numbers(&table, "change"), [None]);
}
