//! Learned against random directions, with numbers worked out by hand.

use super::*;

#[test]
fn the_learned_slope_is_compared_with_every_random_one() {
    let grids = [
        grid(Source::Steer, &steer_rows()),
        grid(Source::Holdout, &holdout_rows()),
        grid(Source::Random, &random_rows(19)),
    ];
    let splits = splits();
    let rows = learned::compare(&grids, &splits, 0).unwrap();
    let [edge, harmful, gap, change] = &rows[..] else {
        panic!("four rows, not {}", rows.len())
    };
    assert_close(edge.learned.unwrap().value, 1.0);
    assert_close(harmful.learned.unwrap().value, 2.0);
    // Held out: seed 0 has slope 1, seed 1 the mean of 2 and 4. The seed mean is 2, though three rows average 7/3.
    assert_close(edge.holdout.unwrap().value, 2.0);
    // Random slopes 0.00 to 0.18: mean 0.09, ddof-1 variance 0.0001 · 19 · 20 / 12.
    let std = 0.01 * (19.0_f64 * 20.0 / 12.0).sqrt();
    assert_close(edge.random_mean.unwrap(), 0.09);
    assert_close(edge.random_std.unwrap(), std);
    assert!((edge.z.unwrap() - 0.91 / std).abs() < 1e-9);
    assert_eq!(
        edge.p.map(|p| (p.one_sided, p.two_sided)),
        Some((0.05, 0.05))
    );
    // e2 contributes 2 + 2/2 · 0.5 · (2 − 2) and e3 2 + 1 · (1 − 2) + 0.5 · (4 − 2), so each is 2: no spread, no interval.
    assert_eq!(edge.holdout.unwrap().interval, None);
    // No direction separates harmful from edge at any α, but the holdout ones do at −1 with seed 0: gaps 1 and 0.
    assert_eq!(
        (gap.learned.unwrap().value, gap.holdout.unwrap().value),
        (0.0, 0.5)
    );
    assert_eq!(gap.p.map(|p| p.one_sided), Some(1.0));
    // At α = 0 the first holdout direction refuses all, the second too: its gaps change by 1 and by 0.
    assert_eq!(
        (change.learned.unwrap().value, change.holdout.unwrap().value),
        (0.0, 0.5)
    );
    assert_eq!(learned::findings(&rows, &grids), [""; 0]);
}

#[test]
fn a_missing_control_leaves_blanks_and_a_shorter_sweep_is_told() {
    let short = lines(
        None,
        &[0.0, 1.0],
        &[("edge", "e1", 1.0, 1.0), ("harmful", "h1", 1.0, 2.0)],
    );
    let grids = [
        grid(Source::Steer, &short),
        grid(Source::Random, &random_rows(19)),
    ];
    let splits = splits();
    let rows = learned::compare(&grids, &splits, 0).unwrap();
    assert_eq!(
        (rows[0].holdout, rows[0].alphas.as_slice()),
        (None, &[0.0, 1.0][..])
    );
    assert!(learned::findings(&rows, &grids)[0].contains("compared on the 2 they share"));
    let alone = [grid(Source::Steer, &short)];
    let rows = learned::compare(&alone, &splits, 0).unwrap();
    assert_eq!(
        (rows[0].n_random, rows[0].p, rows[0].random_mean),
        (0, None, None)
    );
    assert!(learned::findings(&rows, &alone).is_empty());
}

#[test]
fn a_control_at_another_layer_does_not_count_and_is_told() {
    let mut random = random_rows(19);
    random.iter_mut().for_each(|row| row.layer = 21);
    let grids = [
        grid(Source::Steer, &steer_rows()),
        grid(Source::Random, &random),
    ];
    let splits = splits();
    let rows = learned::compare(&grids, &splits, 0).unwrap();
    assert_eq!((rows.len(), rows[0].n_random), (4, 0));
    let findings = learned::findings(&rows, &grids);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].starts_with(
            "model `inst`, layer 20: the random sweep has nothing at site `resid_pre`"
        )
    );
}
