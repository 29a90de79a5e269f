//! The parts of the verdict, with numbers worked out by hand.

use polars::prelude::DataFrame;

use super::super::texts::{self, Compared};
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
    let places = learned::places(&comparisons);
    let compared = texts.map(|table| texts::compare(places, table, 0).unwrap());
    let evidence = Evidence {
        texts: compared.as_deref(),
        has_texts: texts.is_some(),
        rule: &grids[0].rule,
        cosines: None,
    };
    look(&verdict::tests(&comparisons, &evidence).unwrap());
}

/// Held-out and harmful prompts whose slopes are 1 and 3.
fn held_out() -> Vec<SweepRow<'static>> {
    let prompts = [
        ("edge_train", "e1", 2.0, 1.0),
        ("edge_holdout", "e2", 0.5, 1.0),
        ("edge_holdout", "e3", 0.5, 3.0),
        ("harmful", "h1", 2.0, 1.0),
        ("harmful", "h2", 2.0, 3.0),
    ];
    let of_seed = |seed| lines(Some(seed), &[-1.0, 0.0, 1.0], &prompts);
    [of_seed(0), of_seed(1)].concat()
}

fn all() -> [Grid; 3] {
    [
        grid(Source::Steer, &steer_rows()),
        grid(Source::Holdout, &held_out()),
        grid(Source::Random, &random_rows(19)),
    ]
}

/// Texts without a direction, `(id, score, whether the text refuses)`.
fn texts(rows: &[(String, f64, bool)]) -> DataFrame {
    texts_at(0.0, rows)
}

/// The same along the direction at that α.
fn texts_at(alpha: f64, rows: &[(String, f64, bool)]) -> DataFrame {
    Rows::of(rows)
        .text("model", |_| "inst")
        .text("site", |_| if alpha == 0.0 { "none" } else { "resid_pre" })
        .integer("layer", |_| (alpha != 0.0).then_some(20))
        .number("alpha", |_| alpha)
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
        // Held-out slopes are 1 and 3: a quarter of the resamples of two prompts hold either twice.
        let found = "slope 2.000 [1.000, 3.000] on held-out prompts".to_string();
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
    let mut held = held_out();
    held.retain(|row| row.prompt().id != "h2");
    judged(&[grid(Source::Holdout, &held)], None, |tests| {
        let effect = of_part("effect", tests);
        assert_eq!(
            (effect[0].1, effect[1].1),
            (Outcome::Passed, Outcome::NotTested)
        );
        assert_eq!(
            effect[1].2,
            "without spread over prompts there is no interval"
        );
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

/// At α = 0 four texts: both call two refusals, the score one more, and the text another. At α = 8 neither calls any of the four one.
#[test]
fn score_and_texts_are_compared_at_zero_and_over_all() {
    let named = |i: usize, score, refuses| (format!("p{i}"), score, refuses);
    let plain = [
        named(0, 3.0, true),
        named(1, 2.0, true),
        named(2, 1.0, false),
        named(3, -1.0, true),
    ];
    let mut texts_of_both = texts(&plain);
    let steered: Vec<_> = (0..4).map(|i| named(i, -2.0, false)).collect();
    texts_of_both.vstack_mut(&texts_at(8.0, &steered)).unwrap();
    let steer = grid(Source::Steer, &steer_rows());
    let compared = texts::compare([&steer], &texts_of_both, 0).unwrap();
    let of_regex: Vec<&Compared<'_>> = compared
        .iter()
        .filter(|c| c.classifier == "regex")
        .collect();
    let [at_zero, all] = of_regex[..] else {
        panic!("{compared:?}")
    };
    assert_eq!((at_zero.is_plain, all.is_plain), (true, false));
    assert_eq!(
        (at_zero.n, at_zero.prompts, all.n, all.prompts),
        (4, 4, 8, 4)
    );
    // Observed 2/4, by chance (3·3 + 1·1)/16; observed 6/8, by chance (3·3 + 5·5)/64.
    assert_eq!((at_zero.agreement, all.agreement), (0.5, 0.75));
    assert_close(at_zero.kappa.unwrap(), -1.0 / 3.0);
    assert_close(all.kappa.unwrap(), 7.0 / 15.0);
    // Three refusals have 3, 2, −1; the one answer 1: two pairs of three.
    assert_close(at_zero.auroc.unwrap(), 2.0 / 3.0);
    let rate = all.by_score.unwrap();
    assert_eq!(rate.value, 0.375);
    // 3 of 8 texts is 1.5 of 4 prompts: half way between Wilson's 1 and 2 of 4.
    let [one, two] = [1, 2].map(|n| stats::wilson(n, 4).unwrap().unwrap());
    let interval = rate.interval.unwrap();
    assert_close(interval.low, (one.low + two.low) / 2.0);
    assert_close(interval.high, (one.high + two.high) / 2.0);
    let table = texts::table(&compared).unwrap();
    let over = table::read_text(&table, "over").unwrap();
    assert_eq!(over, ["α = 0", "all α", "α = 0", "all α"]);
    judged(&[steer], Some(&texts_of_both), |tests| {
        let (_, outcome, why) = &of_part("valid", tests)[0];
        let told = "; the score refuses 37.5 %, the texts 37.5 % of 8; at α = 0 the score refuses 75.0 %, the texts 75.0 % of 4: too few prompts to decide";
        assert_eq!(*outcome, Outcome::NotTested);
        assert!(why.starts_with("κ 0.47 [") && why.ends_with(told), "{why}");
    });
}
