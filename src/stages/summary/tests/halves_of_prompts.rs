//! Operating points chosen on one half of the prompts, with numbers worked out by hand.

use super::*;

/// With seed 0, α is chosen on e2, e4 and h4. These are calm from α = 1 on; of the others e1 refuses there still, and h1 does not at 2.
fn rows() -> Vec<SweepRow<'static>> {
    lines(
        None,
        &[0.0, 1.0, 2.0],
        &[
            ("edge", "e1", 1.5, -1.0),
            ("edge", "e2", 0.5, -1.0),
            ("edge", "e3", 0.5, -1.0),
            ("edge", "e4", 0.5, -1.0),
            ("harmful", "h1", 1.5, -1.0),
            ("harmful", "h4", 5.0, -1.0),
        ],
    )
}

fn table_of(grids: &[Grid], seed: u64) -> DataFrame {
    halves::table(grids, &splits(), Targets::default(), seed).expect("a table")
}

fn numbers(table: &DataFrame, name: &str) -> Vec<Option<f64>> {
    table.column(name).unwrap().f64().unwrap().iter().collect()
}

#[test]
fn alpha_is_chosen_on_one_half_and_its_rates_are_those_of_the_other() {
    let table = table_of(&[grid(Source::Steer, &rows())], 0);
    assert_eq!(
        table::read_text(&table, "point").unwrap(),
        ["edge_target", "harmful_target", "largest_gap"]
    );
    // No α calms h4, so that no α serves the second point.
    assert_eq!(numbers(&table, "alpha"), [Some(1.0), None, Some(1.0)]);
    assert_eq!(numbers(&table, "target"), [Some(0.1), Some(0.5), None]);
    for (column, expected) in [
        ("chosen_edge_rate", 0.0),
        ("chosen_harmful_rate", 1.0),
        ("chosen_gap", 1.0),
        ("edge_rate", 0.5),
        ("harmful_rate", 1.0),
        ("gap", 0.5),
    ] {
        let expected = [Some(expected), None, Some(expected)];
        assert_eq!(numbers(&table, column), expected, "{column}");
    }
    for (column, expected) in [
        ("chosen_edge_n", 2),
        ("chosen_harmful_n", 1),
        ("edge_n", 2),
        ("harmful_n", 1),
    ] {
        let counts = table::read_integers(&table, column).unwrap();
        assert_eq!(counts, [Some(expected); 3], "{column}");
    }
    // One of two edge prompts refuses.
    let interval = crate::stats::wilson(1, 2).unwrap().unwrap();
    assert_eq!(numbers(&table, "edge_rate_low")[0], Some(interval.low));
    assert_eq!(numbers(&table, "edge_rate_high")[0], Some(interval.high));
}

#[test]
fn a_half_without_prompts_of_a_set_has_no_points() {
    // With seed 1 neither h1 nor h4 is of the half that α is chosen on.
    assert_eq!(table_of(&[grid(Source::Steer, &rows())], 1).height(), 0);
    assert_eq!(table_of(&[grid(Source::XsTest, &rows())], 0).height(), 0);
}

#[test]
fn a_prompt_of_several_seeds_is_in_one_half() {
    let of_seed = |seed: i64, held_out: &'static [&'static str]| {
        let prompts = held_out.iter().map(|id| ("edge_holdout", *id, 0.5, -1.0));
        let harmful = ["h1", "h4"].map(|id| ("harmful", id, 5.0, -1.0));
        let all: Vec<_> = prompts.chain(harmful).collect();
        lines(Some(seed), &[0.0, 1.0], &all)
    };
    let mut rows = of_seed(0, &["e1", "e2", "e4"]);
    rows.extend(of_seed(1, &["e2", "e3"]));
    let table = table_of(&[grid(Source::Holdout, &rows)], 0);
    let count = |name: &str| table::read_integers(&table, name).unwrap()[0];
    // e2 and e4, then e1 and e3: four distinct prompts in five rows.
    assert_eq!(
        (count("chosen_edge_n"), count("edge_n")),
        (Some(2), Some(2))
    );
    assert_eq!(count("chosen_harmful_n"), Some(1));
}

/// The halves of a holdout of the same seed: those whose prompts are held out are below one half by the same hash without the word.
#[test]
fn the_halves_are_not_those_of_a_holdout() {
    let ids: Vec<String> = (0..200).map(|number| format!("e{number:03}")).collect();
    let held_out = ids.iter().filter(|id| crate::stats::is_holdout(0, id, 0.5));
    let held_out: Vec<&String> = held_out.collect();
    let rows: Vec<SweepRow<'_>> = held_out
        .iter()
        .map(|id| ("edge_holdout", id.as_str(), 0.5, 0.0))
        .chain([("harmful", "h1", 1.0, 0.0), ("harmful", "h4", 1.0, 0.0)])
        .flat_map(|prompt| lines(Some(0), &[0.0], &[prompt]))
        .collect();
    let table = table_of(&[grid(Source::Holdout, &rows)], 0);
    let count = |name: &str| table::read_integers(&table, name).unwrap()[0].unwrap();
    let (chosen_on, others) = (count("chosen_edge_n"), count("edge_n"));
    assert_eq!(chosen_on + others, held_out.len() as i64);
    assert!(chosen_on > 30 && others > 30, "{chosen_on} and {others}");
}
