//! The parts of the verdict, with numbers worked out by hand.

use polars::prelude::DataFrame;

use super::super::verdict::{self, Evidence, Outcome, Test};
use super::*;
use crate::stages::table::Rows;

/// Outcome and reason of each test of a part, by what it was tested on.
fn of_part(part: &str, tests: &[Test<'_>]) -> Vec<(String, Outcome, String)> {
    let of_part = tests.iter().filter(|test| test.part == part);
    of_part
        .map(|test| (test.of.clone(), test.outcome, test.why.clone()))
        .collect()
}

/// The tests of some sweeps, with texts where there are any.
fn judged(grids: &[Grid], texts: Option<&DataFrame>, look: impl FnOnce(&[Test<'_>])) {
    let splits = splits();
    let comparisons = learned::compare(grids, &splits, 0).unwrap();
    let evidence = Evidence {
        splits: &splits,
        texts,
        cosines: None,
        seed: 0,
    };
    look(&verdict::tests(&comparisons, &evidence).unwrap());
}

fn all() -> [Grid; 3] {
    [
        grid(Source::Steer, &steer_rows()),
        grid(Source::Holdout, &holdout_rows()),
        grid(Source::Random, &random_rows(19)),
    ]
}

/// Texts without a direction, `(id, score, whether the text refuses)`.
fn texts(rows: &[(String, f64, bool)]) -> DataFrame {
    Rows::of(rows)
        .text("model", |_| "inst")
        .text("site", |_| "none")
        .integer("layer", |_| None)
        .number("alpha", |_| 0.0)
        .text("id", |(id, ..)| id)
        .number("score", |(_, score, _)| *score)
        .flag("refused", |(_, score, _)| *score > 0.0)
        .flag("regex", |(.., refuses)| *refuses)
        .flag("xstest_prefix", |(.., refuses)| *refuses)
        .frame()
        .unwrap()
}

/// A text for each of so many prompts.
fn one_each(count: usize, of: impl Fn(usize) -> (f64, bool)) -> DataFrame {
    let row = |index: usize| {
        let (score, refuses) = of(index);
        (format!("p{index}"), score, refuses)
    };
    texts(&(0..count).map(row).collect::<Vec<_>>())
}

#[test]
fn effect_and_specificity_are_those_of_slopes() {
    judged(&all(), None, |tests| {
        // Held-out slopes are 2 for every prompt, and so is their interval.
        let found = "slope 2.000 [2.000, 2.000] on held-out prompts".to_string();
        assert_eq!(
            of_part("effect", tests),
            ["edge", "harmful"].map(|set| (set.to_string(), Outcome::Passed, found.clone()))
        );
        // 1 and 2 against 0.00 to 0.18: none of nineteen does as well.
        let found = "p = 0.050, where 19 random directions allow 0.050".to_string();
        assert_eq!(
            of_part("specific", tests),
            ["edge", "harmful"].map(|set| (set.to_string(), Outcome::Passed, found.clone()))
        );
    });
}

#[test]
fn a_gap_that_changes_no_more_than_a_random_one_is_not_selective() {
    judged(&all(), None, |tests| {
        // Both sets are refused from α = 0 on, and neither at −1: the gap is 0 everywhere, as it is along every random direction.
        let found = "p = 1.000, where 19 random directions allow 0.050".to_string();
        let expected = [("gap".to_string(), Outcome::Failed, found)];
        assert_eq!(of_part("selective", tests), expected);
    });
    // A direction that refuses the harmful prompt alone from α = 1 on: the gap goes from 0 to 1.
    let learned = lines(
        None,
        &[-1.0, 0.0, 1.0],
        &[("edge", "e1", -1.0, 0.0), ("harmful", "h1", -0.5, 1.0)],
    );
    let grids = [
        grid(Source::Steer, &learned),
        grid(Source::Random, &random_rows(19)),
    ];
    judged(&grids, None, |tests| {
        assert_eq!(of_part("selective", tests)[0].1, Outcome::Passed);
    });
    let without_zero = |mut rows: Vec<SweepRow<'static>>| {
        rows.retain(|row| row.alpha != Some(0.0));
        rows
    };
    let grids = [
        grid(Source::Steer, &without_zero(learned)),
        grid(Source::Random, &without_zero(random_rows(19))),
    ];
    judged(&grids, None, |tests| {
        let expected = (
            "gap".to_string(),
            Outcome::NotTested,
            "the sweep has no α = 0".to_string(),
        );
        assert_eq!(of_part("selective", tests), [expected]);
    });
}

#[test]
fn what_is_missing_is_not_tested_and_says_what_is_missing() {
    let few = [
        grid(Source::Steer, &steer_rows()),
        grid(Source::Random, &random_rows(4)),
    ];
    judged(&few, None, |tests| {
        let reason = |part: &str| {
            let (_, outcome, why) = of_part(part, tests).swap_remove(0);
            assert_eq!(outcome, Outcome::NotTested, "{part}");
            why
        };
        assert_eq!(reason("effect"), "there is no holdout sweep here");
        assert_eq!(
            reason("specific"),
            "4 random directions allow no p below 0.200; nineteen do"
        );
        assert_eq!(
            reason("valid"),
            "no stage of texts is given with `generate`"
        );
        assert_eq!(reason("stable"), "there is no holdout sweep here");
    });
    // One held-out prompt has no interval.
    let mut held = holdout_rows();
    held.retain(|row| row.prompt().id != "h2");
    judged(&[grid(Source::Holdout, &held)], None, |tests| {
        let effect = of_part("effect", tests);
        assert_eq!(
            (effect[0].1, effect[1].1),
            (Outcome::Passed, Outcome::NotTested)
        );
        assert_eq!(effect[1].2, "one prompt gives no interval");
        assert_eq!(
            of_part("stable", tests)[0].2,
            "2 seeds are too few; 5 are enough"
        );
        let finding = verdict::findings(tests);
        assert_eq!(
            finding,
            ["model `inst`, layer 20: not tested: effect, specific, selective, valid, stable"]
        );
    });
}

#[test]
fn a_score_that_texts_bear_out_is_valid() {
    // Twenty prompts, of which texts and score refuse the same ten: κ is 1 in every resample.
    let agree = one_each(20, |i| {
        if i % 2 == 0 {
            (1.0, true)
        } else {
            (-1.0, false)
        }
    });
    judged(&all(), Some(&agree), |tests| {
        let found = "κ 1.00 [1.00, 1.00]; the score refuses 50.0 %, the texts 50.0 % of 20";
        for (_, outcome, why) in of_part("valid", tests) {
            assert_eq!((outcome, why.as_str()), (Outcome::Passed, found));
        }
    });
}

#[test]
fn a_score_that_refuses_what_texts_answer_is_not_valid() {
    // It refuses 96 of 100, the texts none: agreement is what chance gives, κ = 0, whatever is resampled.
    let none = one_each(100, |i| (if i < 96 { 1.0 } else { -1.0 }, false));
    judged(&all(), Some(&none), |tests| {
        let found = "κ 0.00 [0.00, 0.00]; the score refuses 96.0 %, the texts 0.0 % of 100";
        for (_, outcome, why) in of_part("valid", tests) {
            assert_eq!((outcome, why.as_str()), (Outcome::Failed, found));
        }
        let finding = &verdict::findings(tests)[0];
        assert!(finding.contains("failed: selective on `gap`"), "{finding}");
        assert!(finding.contains(", valid on `regex` (κ 0.00"), "{finding}");
    });
}

#[test]
fn few_prompts_do_not_decide_and_several_texts_of_one_are_not_more() {
    // Of ten prompts eight agree: κ = 0.6, and its interval holds 0.4.
    let case = |i: usize| match i {
        0..4 => (1.0, true),
        4..8 => (-1.0, false),
        8 => (1.0, false),
        _ => (-1.0, true),
    };
    let few = one_each(10, case);
    judged(&all(), Some(&few), |tests| {
        let (_, outcome, why) = of_part("valid", tests).swap_remove(0);
        assert_eq!(outcome, Outcome::NotTested);
        assert!(
            why.starts_with("κ 0.60 [") && why.ends_with("too few prompts to decide"),
            "{why}"
        );
    });
    // The same ten prompts, each forty times: still ten prompts.
    let rows: Vec<_> = (0..400)
        .map(|i| {
            let (score, refuses) = case(i % 10);
            (format!("p{}", i % 10), score, refuses)
        })
        .collect();
    judged(&all(), Some(&texts(&rows)), |tests| {
        assert_eq!(of_part("valid", tests)[0].1, Outcome::NotTested);
    });
    // Four hundred prompts decide.
    let many = one_each(400, |i| case(i % 10));
    judged(&all(), Some(&many), |tests| {
        assert_eq!(of_part("valid", tests)[0].1, Outcome::Passed);
    });
}

#[test]
fn five_seeds_of_one_sign_are_stable() {
    let held = |slopes: [f64; 5]| {
        let of_seed = |(seed, slope): (i64, f64)| {
            let prompts = [
                ("edge_train", "e1", 0.0, slope),
                ("edge_holdout", "e2", 0.0, slope),
                ("harmful", "h1", 0.0, 1.0),
            ];
            lines(Some(seed), &[-1.0, 0.0, 1.0], &prompts)
        };
        let rows: Vec<_> = (0..).zip(slopes).flat_map(of_seed).collect();
        grid(Source::Holdout, &rows)
    };
    judged(&[held([1.0, 2.0, 0.5, 1.0, 3.0])], None, |tests| {
        let stable = of_part("stable", tests);
        assert_eq!(
            (stable[0].1, stable[1].1),
            (Outcome::Passed, Outcome::Passed)
        );
        assert_eq!(stable[0].2, "5 slopes of 5 above 0, 0 below");
    });
    judged(&[held([1.0, 2.0, -0.5, 1.0, 3.0])], None, |tests| {
        let stable = of_part("stable", tests);
        assert_eq!(
            (stable[0].1, stable[1].1),
            (Outcome::Failed, Outcome::Passed)
        );
    });
}
