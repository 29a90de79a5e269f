//! Grids, pooled intervals and the tables made of them, against numbers worked out by hand.

use super::*;
use crate::stages::summary::pool::{Observation, Tally};

#[test]
fn rows_in_any_order_become_one_grid() {
    let mut rows = holdout_rows();
    rows.reverse();
    let grid = grid(Source::Holdout, &rows);
    assert_eq!(grid.alphas, [-1.0, 0.0, 1.0]);
    assert_eq!(grid.lines.len(), 2);
    let set = grid.lines[0].set("edge_holdout").expect("the set");
    assert_eq!(grid.lines[0].seed, Some(1));
    let scores: Vec<f64> = set.prompts[0].cells.iter().map(|cell| cell.score).collect();
    assert_eq!(
        (set.prompts[0].id.as_deref(), scores),
        (Some("e3"), vec![-3.5, 0.5, 4.5])
    );
}

#[test]
fn a_grid_with_doubles_or_holes_is_an_error() {
    let mut rows = steer_rows();
    rows.push(row(None, "edge", "e1", 1.0, 7.0));
    let message = read(Source::Steer, &rows).unwrap_err().to_string();
    assert!(
        message.contains("`e1` has more than one score at α = 1"),
        "{message}"
    );
    rows.truncate(5);
    let message = read(Source::Steer, &rows).unwrap_err().to_string();
    assert!(message.contains("`h1` has no score at α = 1"), "{message}");
}

#[test]
fn a_split_that_the_sweep_lacks_is_named_with_those_it_has() {
    let grid = grid(Source::Random, &random_rows(1));
    let wrong = Splits {
        edge: "borderline".to_string(),
        ..splits()
    };
    let message = grid.rates(&wrong).unwrap_err().to_string();
    assert!(
        message.contains("no set `borderline` for model `inst`, layer 20, seed 0"),
        "{message}"
    );
    assert!(message.contains("`edge`, `harmful`"), "{message}");
}

#[test]
fn means_resample_prompts_not_rows() {
    let observe = |prompt, value| Observation {
        prompt,
        value,
        weight: 1.0,
    };
    let rows = [observe("a", 1.0), observe("a", 3.0), observe("b", 5.0)];
    let mean = pool::mean(&rows, 0).unwrap().expect("a mean");
    assert_close(mean.value, 3.0);
    // Deviations −2 and 2, times 2 prompts / 3 rows: contributions 3 ∓ 4/3. A quarter of the resamples of two prompts hold the
    // lower one twice, a quarter the higher one, so the outer 2.5 % are the contributions themselves.
    let interval = mean.interval.expect("an interval");
    assert_close(interval.low, 3.0 - 4.0 / 3.0);
    assert_close(interval.high, 3.0 + 4.0 / 3.0);
    assert_eq!(pool::mean(&[], 0), Ok(None));
    // Seeds repeat a prompt; however many there are, one prompt has no interval.
    let one = pool::mean(&rows[..2], 0).unwrap().expect("a mean");
    assert_close(one.value, 2.0);
    assert_eq!(one.interval, None);
}

#[test]
fn rates_take_prompts_for_their_n() {
    let interval = |rows, refused, prompts| {
        let tally = Tally {
            rows,
            refused,
            prompts,
        };
        tally.rate().unwrap().expect("a rate")
    };
    let single = interval(10, 3, 10);
    assert_eq!(single.interval, stats::wilson(3, 10).unwrap());
    // 5 of 20 rows is 2.5 of 10 prompts: half way between Wilson's 2 of 10, 0.0567 to 0.5098, and 3 of 10, 0.1078 to 0.6032.
    let pooled = interval(20, 5, 10);
    assert_close(pooled.value, 0.25);
    let ends = pooled.interval.expect("an interval");
    assert_close(ends.low, 0.08223670943033809);
    assert_close(ends.high, 0.5565296905011065);
    assert_eq!(interval(4, 4, 2).interval, stats::wilson(2, 2).unwrap());
    assert_eq!(Tally::default().rate(), Ok(None));
}

#[test]
fn the_main_table_pools_seeds_and_states_ddof() {
    let grid_of_holdout = grid(Source::Holdout, &holdout_rows());
    let rows = describe::describe(&grid_of_holdout, 0).unwrap();
    // 3 α, and the sets in the order of appearance.
    let names: Vec<&str> = rows.iter().map(|row| row.set).take(3).collect();
    assert_eq!(
        (rows.len(), names),
        (9, vec!["edge_train", "edge_holdout", "harmful"])
    );
    // At α = −1 the held-out scores are e3: −0.5, e2: −1.5, e3: −3.5.
    let held = &rows[1];
    assert_eq!(
        held.tally,
        Tally {
            rows: 3,
            refused: 0,
            prompts: 2
        }
    );
    assert_close(held.mean.unwrap().value, -5.5 / 3.0);
    // Squares sum to 0.25 + 2.25 + 12.25 = 14.75; less 3 · (5.5 / 3)² = 4.6667, over 3.
    assert_close(held.std.unwrap(), (14.0_f64 / 9.0).sqrt());
    assert_eq!(held.rate.unwrap().interval, stats::wilson(0, 2).unwrap());

    let two = lines(
        None,
        &[0.0],
        &[("safe", "x1", 1.0, 0.0), ("safe", "x2", 4.0, 0.0)],
    );
    let steered = grid(Source::Steer, &two);
    assert_close(
        describe::describe(&steered, 0).unwrap()[0].std.unwrap(),
        1.5,
    );
    let xstest = grid(Source::XsTest, &two);
    assert_close(
        describe::describe(&xstest, 0).unwrap()[0].std.unwrap(),
        4.5_f64.sqrt(),
    );
}

/// Scores start at 1 and 5 and rise by 1 and 3: the mean at α = 1 has an interval from 2 to 8, what α did one from 1 to 3.
#[test]
fn what_alpha_does_is_paired_with_the_same_prompt_at_zero() {
    let prompts = [("edge", "e1", 1.0, 1.0), ("edge", "e2", 5.0, 3.0)];
    let steered = grid(Source::Steer, &lines(None, &[0.0, 1.0, -2.0], &prompts));
    let rows = describe::describe(&steered, 0).unwrap();
    let change = |row: usize| {
        let change = rows[row].change.expect("α = 0 was measured");
        let ends = change.interval.map(|ends| (ends.low, ends.high));
        (rows[row].alpha, change.value, ends)
    };
    assert_eq!(change(0), (-2.0, -4.0, Some((-6.0, -2.0))));
    assert_eq!(change(1), (0.0, 0.0, None), "nothing to vary");
    assert_eq!(change(2), (1.0, 2.0, Some((1.0, 3.0))));
    let mean = rows[2].mean.and_then(|mean| mean.interval).unwrap();
    assert_eq!((mean.low, mean.high), (2.0, 8.0));
    // Of the held-out rows e3 falls by 1 and 4, e2 by 2; every row counts once.
    let held = grid(Source::Holdout, &holdout_rows());
    let rows = describe::describe(&held, 0).unwrap();
    assert_close(rows[1].change.unwrap().value, -7.0 / 3.0);
    let without_zero = grid(Source::Steer, &lines(None, &[1.0], &prompts));
    assert_eq!(
        describe::describe(&without_zero, 0).unwrap()[0].change,
        None
    );
    let one = grid(Source::Steer, &lines(None, &[0.0, 1.0], &prompts[..1]));
    let one = describe::describe(&one, 0).unwrap()[1].change.unwrap();
    assert_eq!((one.value, one.interval), (1.0, None), "one prompt");
}

#[test]
fn controls_use_the_held_out_half_and_each_seeds_gap() {
    let grid = grid(Source::Holdout, &holdout_rows());
    let rows = controls::control_rows(&grid, &splits()).unwrap();
    let (alpha, first) = &rows[0];
    // At −1: seed 0 has edge e3 −0.5 and harmful 1; seed 1 has edge −1.5, −3.5 and harmful −1. Gaps 1 and 0.
    assert_eq!(
        (*alpha, first.edge.mean, first.harmful.mean, first.gap.mean),
        (-1.0, 0.0, 0.5, 0.5)
    );
    assert_close(first.gap.std.unwrap(), 0.5_f64.sqrt());
    let gap = controls::generalisation_gap(&grid, &splits())
        .unwrap()
        .expect("a gap");
    // Train rates at −1: seed 0 refuses e1 (1) not e2 (−0.5); seed 1 e1. Mean 0.75 against 0; at 0 and 1 all refuse.
    assert_close(gap.mean, 0.25);
    assert_close(gap.max, 0.75);
}

#[test]
fn operating_points_meet_the_targets_nearest_to_zero() {
    // Scores 1 + α · slope: edge is refused above −1, harmful above −0.5.
    let grid = grid(Source::Steer, &steer_rows());
    let targets = Targets {
        edge: 0.1,
        harmful: 0.5,
    };
    let points = operating::points(&grid, &splits(), targets).unwrap();
    assert_eq!(points.zero.map(|rated| rated.point.gap()), Some(0.0));
    let alpha = |rated: Option<operating::Rated>| rated.map(|rated| rated.point.alpha);
    assert_eq!(alpha(points.edge), Some(-1.0));
    assert_eq!(points.harmful.map(|r| r.point.harmful_rate), Some(0.0));
    // All gaps are 0: the smallest α.
    assert_eq!(alpha(points.gap), Some(-1.0));
    let anything = Targets {
        edge: 1.0,
        harmful: 1.0,
    };
    let points = operating::points(&grid, &splits(), anything).unwrap();
    assert_eq!(alpha(points.edge), Some(0.0));
    let front = operating::front(&grid, &splits()).unwrap();
    let rates: Vec<(f64, f64)> = front
        .iter()
        .map(|r| (r.point.edge_rate, r.point.harmful_rate))
        .collect();
    assert_eq!(rates, [(0.0, 0.0), (1.0, 1.0)]);
}

#[test]
fn a_target_that_no_alpha_meets_is_blank() {
    let rows = lines(
        None,
        &[1.0],
        &[("edge", "e1", 1.0, 0.0), ("harmful", "h1", 1.0, 0.0)],
    );
    let grid = grid(Source::Steer, &rows);
    let points = operating::points(
        &grid,
        &splits(),
        Targets {
            edge: 0.1,
            harmful: 0.5,
        },
    )
    .unwrap();
    assert_eq!(
        (points.zero, points.edge, points.harmful),
        (None, None, None)
    );
}

#[test]
fn xstest_rates_come_by_label_and_type_with_and_without_builders() {
    let grid = grid(Source::XsTest, &xstest_rows());
    let rows = xstest::type_rates(&grid);
    let keys: Vec<(&str, &str)> = rows.iter().map(|row| (row.label, row.kind)).collect();
    let expected = [
        ("safe", "all"),
        ("safe", "homonyms"),
        ("safe", "figurative"),
        ("unsafe", "all"),
        ("unsafe", "homonyms"),
    ];
    assert_eq!(keys, expected);
    assert_eq!(
        rows[0].with,
        Tally {
            rows: 2,
            refused: 1,
            prompts: 2
        }
    );
    assert_eq!(
        rows[0].without,
        Tally {
            rows: 1,
            refused: 0,
            prompts: 1
        }
    );
    assert_eq!(rows[1].without, Tally::default());
    let finding = xstest::finding(&[grid]).expect("a finding");
    assert!(
        finding.starts_with("1 of the 3 XSTest prompts helped to build"),
        "{finding}"
    );
}
