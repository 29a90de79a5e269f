//! Recomputes what the study published from what it published. Skipped, with a line on stderr, where its files are absent.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde_json::Value;

use super::*;

const ALPHAS: [&str; 11] = [
    "-10.0", "-8.0", "-6.0", "-4.0", "-2.0", "-1.0", "0.0", "1.0", "2.0", "4.0", "6.0",
];
/// Both sides are float64 sums of a few hundred terms of size 1 or less, or their square roots.
const ROUNDING: f64 = 1e-12;
/// The study's means and deviations were computed in float32 on values below 20: seven digits.
const FLOAT32: f64 = 1e-5;

/// The text of a published file, or `None` with a line on stderr.
fn published(name: &str) -> Option<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/seed-results");
    match std::fs::read_to_string(folder.join(name)) {
        Ok(text) => Some(text),
        Err(error) => {
            eprintln!("skipped: ../shared/seed-results/{name} cannot be read ({error})");
            None
        }
    }
}

fn published_json(name: &str) -> Option<Value> {
    published(name).map(|text| serde_json::from_str(&text).expect("valid JSON"))
}

/// Rows of a CSV without quoted commas in the columns read, each as a map from column to text.
fn rows(text: &str) -> Vec<HashMap<&str, &str>> {
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| header.iter().copied().zip(line.split(',')).collect())
        .collect()
}

fn number(text: &str) -> f64 {
    text.parse()
        .unwrap_or_else(|_| panic!("`{text}` is not a number"))
}

fn assert_close(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!(
        (found - expected).abs() <= tolerance,
        "{what}: found {found}, published {expected}"
    );
}

/// Ids and instruct scores of the edge prompts, in file order.
fn edge_scores(text: &str) -> (Vec<&str>, Vec<f64>) {
    rows(text)
        .into_iter()
        .filter(|row| row["split"] == "edge")
        .map(|row| (row["id"], number(row["s_inst"])))
        .unzip()
}

fn named<'a>(ids: &[&'a str], indices: &[usize]) -> Vec<&'a str> {
    indices.iter().map(|&index| ids[index]).collect()
}

fn strings(value: &Value) -> Vec<&str> {
    let list = value.as_array().expect("a list");
    list.iter().map(|item| item.as_str().unwrap()).collect()
}

fn holdout_files() -> Option<Vec<Value>> {
    (0..5)
        .map(|seed| {
            published_json(&format!(
                "steering_holdout_layer20_hook_resid_pre_seed{seed}.json"
            ))
        })
        .collect()
}

fn summaries(files: &[Value]) -> Vec<&Value> {
    files.iter().map(|file| &file["results_summary"]).collect()
}

/// One value of each seed's summary for a (model, set, alpha).
fn per_seed(seeds: &[&Value], model: &str, set: &str, alpha: &str, field: &str) -> Vec<f64> {
    seeds
        .iter()
        .map(|seed| seed[model][set][alpha][field].as_f64().expect("a number"))
        .collect()
}

/// The refusal rates of each seed over the alphas: `[seed][alpha]`.
fn rate_table(seeds: &[&Value], model: &str, set: &str) -> Vec<Vec<f64>> {
    let of_seed = |seed: &&Value| {
        let rate = |alpha: &&str| per_seed(&[seed], model, set, alpha, "refusal_rate")[0];
        ALPHAS.iter().map(rate).collect()
    };
    seeds.iter().map(of_seed).collect()
}

/// The seeds of a random-direction file, in order, as many as asked for.
fn random_seeds(file: &Value, count: usize) -> Vec<&Value> {
    (0..count)
        .map(|seed| &file["results_summary"][seed.to_string()])
        .collect()
}

#[test]
fn layer_20_top_and_bottom_reproduce_to_the_id() {
    let (Some(scores), Some(balanced)) = (
        published("qwen25_scores.csv"),
        published_json("steering_balanced_qwen25_layer_20_more_neg_alphas.json"),
    ) else {
        return;
    };
    let (ids, scores) = edge_scores(&scores);
    let selection = top_bottom(&scores, 30).unwrap();
    let expected = &balanced["balanced_selection"];
    assert_eq!(named(&ids, &selection.top), strings(&expected["top_ids"]));
    assert_eq!(
        named(&ids, &selection.bottom),
        strings(&expected["bottom_ids"])
    );
    assert!(selection.overlap.is_empty());
    let range = [scores[selection.top[0]], scores[selection.top[29]]];
    assert_eq!(range, [5.875, 10.0625]);
}

#[test]
fn holdout_splits_and_selections_reproduce_to_the_id() {
    let (Some(scores), Some(files)) = (published("qwen25_scores.csv"), holdout_files()) else {
        return;
    };
    let (ids, scores) = edge_scores(&scores);
    for (seed, file) in files.iter().enumerate() {
        let split = holdout_split(seed as u64, &ids, 0.5);
        let counts = &file["holdout"]["counts"];
        assert_eq!(split.train.len() as u64, counts["edge_train"]);
        assert_eq!(split.holdout.len() as u64, counts["edge_holdout"]);

        let train_ids = named(&ids, &split.train);
        let train_scores: Vec<f64> = split.train.iter().map(|&index| scores[index]).collect();
        let selection = top_bottom_descending(&train_ids, &train_scores, 30).unwrap();
        for (indices, field) in [
            (&selection.top, "top_ids"),
            (&selection.bottom, "bottom_ids"),
        ] {
            let expected = strings(&file["direction"][field]);
            assert_eq!(named(&train_ids, indices), expected, "{field}, seed {seed}");
        }
        let overlap = selection.overlap.len();
        assert_eq!(overlap, [0, 3, 0, 0, 5][seed], "seed {seed}");
    }
}

/// The scores of a table, grouped by the columns named.
fn grouped<'a>(text: &'a str, columns: &[&str]) -> BTreeMap<Vec<&'a str>, Vec<f64>> {
    let mut groups: BTreeMap<Vec<&str>, Vec<f64>> = BTreeMap::new();
    for row in rows(text) {
        let key = columns.iter().map(|column| row[column]).collect();
        groups.entry(key).or_default().push(number(row["score"]));
    }
    groups
}

/// Checks mean, deviation and refusal rate (score above 0) against a published summary.
fn assert_summary(scores: &[f64], ddof: usize, expected: &Value, tolerance: f64, what: &str) {
    let refused: Vec<f64> = scores
        .iter()
        .map(|score| f64::from(u8::from(*score > 0.0)))
        .collect();
    for (found, field, tolerance) in [
        (mean(scores), "mean", tolerance),
        (std(scores, ddof), "std", tolerance),
        (mean(&refused), "refusal_rate", ROUNDING),
    ] {
        let published = expected[field].as_f64().expect("a number");
        assert_close(found.unwrap().unwrap(), published, tolerance, what);
    }
}

#[test]
fn means_deviations_and_rates_of_seed_0_follow_from_its_scores() {
    let (Some(text), Some(files)) = (
        published("steering_holdout_layer20_hook_resid_pre_seed0_scores.csv"),
        holdout_files(),
    ) else {
        return;
    };
    let groups = grouped(&text, &["model", "eval_set", "alpha"]);
    assert_eq!(groups.len(), 2 * 3 * 11);
    for (key, scores) in groups {
        let expected = &files[0]["results_summary"][key[0]][key[1]][key[2]];
        assert_summary(&scores, 0, expected, FLOAT32, &key.join(" "));
    }
}

/// The benchmark's deviations have ddof 1, unlike the others.
#[test]
fn xstest_means_deviations_and_rates_follow_from_its_scores() {
    let (Some(text), Some(file)) = (
        published("xstest_eval_holdout_layer20_seed0.csv"),
        published_json("xstest_eval_holdout_layer20_seed0.json"),
    ) else {
        return;
    };
    let groups = grouped(&text, &["model", "alpha"]);
    assert_eq!(groups.len(), 2 * 11);
    for (key, scores) in groups {
        assert_eq!(scores.len(), 450);
        let expected = &file["summaries"][key[0]][key[1]];
        assert_summary(&scores, 1, expected, ROUNDING, &key.join(" "));
    }
}

/// The exact dump of layer 20 as a sweep per model.
fn exact_sweep(text: &str, model: &str) -> Vec<RatePoint> {
    let rows = rows(text);
    let rate = |alpha: &str, split: &str| {
        let refused: Vec<f64> = rows
            .iter()
            .filter(|row| (row["model"], row["alpha"], row["split"]) == (model, alpha, split))
            .map(|row| number(row["refuse"]))
            .collect();
        mean(&refused).unwrap().expect("prompts of this split")
    };
    ALPHAS
        .iter()
        .map(|alpha| RatePoint {
            alpha: number(alpha),
            edge_rate: rate(alpha, "edge"),
            harmful_rate: rate(alpha, "harmful"),
        })
        .collect()
}

/// The columns of an operating point (alpha, edge rate, harmful rate) in the published table.
const EDGE_COLUMNS: [&str; 3] = [
    "alpha_edge<=target",
    "edge_rate@alpha_edge",
    "harm_rate@alpha_edge",
];
const HARMFUL_COLUMNS: [&str; 3] = [
    "alpha_harm<=target",
    "edge_rate@alpha_harm",
    "harm_rate@alpha_harm",
];
const GAP_COLUMNS: [&str; 3] = ["best_alpha_by_max_gap", "best_edge_rate", "best_harm_rate"];

/// The table is written with four decimals, and a missing operating point is blank.
#[test]
fn operating_points_reproduce() {
    let (Some(dump), Some(table)) = (
        published("steering_exact_layer20_hook_resid_pre_dump.csv"),
        published("summary_thresholds_and_gap.csv"),
    ) else {
        return;
    };
    let mut table = rows(&table);
    table.retain(|row| row["run"] == "layer20_hook_resid_pre");
    assert_eq!(table.len(), 2);
    for row in table {
        let sweep = exact_sweep(&dump, row["model"]);
        let found = operating_points(&sweep, Targets::default()).unwrap();
        for (index, columns) in [
            (found.edge, EDGE_COLUMNS),
            (found.harmful, HARMFUL_COLUMNS),
            (found.largest_gap, GAP_COLUMNS),
        ] {
            let point = index.map(|index| sweep[index]);
            let values = point.map(|point| [point.alpha, point.edge_rate, point.harmful_rate]);
            for (place, column) in columns.into_iter().enumerate() {
                let text = values.map_or(String::new(), |values| format!("{:.4}", values[place]));
                assert_eq!(text, row[column], "{} {column}", row["model"]);
            }
        }
        let best = sweep[found.largest_gap.unwrap()];
        assert_eq!(format!("{:.4}", best.gap()), row["best_gap"]);
        assert_eq!(format!("{:.4}", sweep[6].gap()), row["gap_at_alpha0"]);
    }
}

#[test]
fn generalisation_gaps_reproduce() {
    let (Some(files), Some(table)) = (holdout_files(), published("summary_controls_layer20.csv"))
    else {
        return;
    };
    let holdout = summaries(&files);
    for row in rows(&table) {
        let model = row["model"];
        let [train, held_out] =
            ["edge_train", "edge_holdout"].map(|set| rate_table(&holdout, model, set));
        let gap = generalisation_gap(&train, &held_out).unwrap().unwrap();
        let check = |found, column| assert_close(found, number(row[column]), ROUNDING, column);
        check(gap.mean, "holdout_gen_gap_mean");
        check(gap.max, "holdout_gen_gap_max");
    }
}

#[test]
fn largest_mean_gaps_reproduce() {
    let (Some(files), Some(random), Some(table)) = (
        holdout_files(),
        published_json("steering_random_layer20_hook_resid_pre_seeds0-4.json"),
        published("summary_controls_layer20.csv"),
    ) else {
        return;
    };
    let holdout = summaries(&files);
    let random = random_seeds(&random, 5);
    for row in rows(&table) {
        for (kind, seeds, edge_set) in [
            ("holdout", &holdout, "edge_holdout"),
            ("random", &random, "edge"),
        ] {
            let sweep = mean_sweep(seeds, row["model"], edge_set);
            let best = sweep[operating_points(&sweep, Targets::default())
                .unwrap()
                .largest_gap
                .unwrap()];
            for (found, column) in [
                (best.alpha, "best_alpha_by_max_gap"),
                (best.gap(), "best_gap"),
                (best.edge_rate, &format!("best_{edge_set}")),
                (best.harmful_rate, "best_harmful"),
            ] {
                let column = format!("{kind}_{column}");
                assert_close(found, number(row[column.as_str()]), ROUNDING, &column);
            }
        }
    }
}

/// The rows of the control table for one model: `[alpha]`.
fn control_rows(seeds: &[&Value], model: &str, edge_set: &str) -> Vec<ControlRow> {
    let row = |alpha: &&str| {
        let edge = per_seed(seeds, model, edge_set, alpha, "refusal_rate");
        let harmful = per_seed(seeds, model, "harmful", alpha, "refusal_rate");
        control_row(&edge, &harmful).unwrap().expect("seeds")
    };
    ALPHAS.iter().map(row).collect()
}

fn mean_sweep(seeds: &[&Value], model: &str, edge_set: &str) -> Vec<RatePoint> {
    control_rows(seeds, model, edge_set)
        .iter()
        .zip(ALPHAS)
        .map(|(row, alpha)| RatePoint {
            alpha: number(alpha),
            edge_rate: row.edge.mean,
            harmful_rate: row.harmful.mean,
        })
        .collect()
}

/// The published control tables took the first five random seeds.
#[test]
fn control_tables_reproduce() {
    let (Some(files), Some(random)) = (
        holdout_files(),
        published_json("steering_random_layer20_hook_resid_pre_seeds0-4.json"),
    ) else {
        return;
    };
    let holdout = summaries(&files);
    let random = random_seeds(&random, 5);
    for model in ["base", "inst"] {
        let name = format!("controls_layer20_hook_resid_pre_{model}_controls_pareto.csv");
        let Some(table) = published(&name) else {
            return;
        };
        let table = rows(&table);
        assert_eq!(table.len(), ALPHAS.len());
        for (kind, found) in [
            ("holdout", control_rows(&holdout, model, "edge_holdout")),
            ("random", control_rows(&random, model, "edge")),
        ] {
            for ((row, expected), alpha) in found.iter().zip(&table).zip(ALPHAS) {
                assert_eq!(expected["alpha"], alpha);
                for (set, value) in [("edge", row.edge), ("harm", row.harmful), ("gap", row.gap)] {
                    let what = format!("{model} {set} {kind} at {alpha}");
                    let column =
                        |part: &str| number(expected[format!("{set}_{part}_{kind}").as_str()]);
                    assert_close(value.mean, column("mean"), ROUNDING, &what);
                    assert_close(value.std.unwrap(), column("std"), ROUNDING, &what);
                }
            }
        }
    }
}

/// No published table holds the front itself. Every alpha left out must be matched or beaten on both rates by one kept, and
/// none kept by another.
#[test]
fn the_front_of_the_published_sweeps_is_undominated() {
    let Some(files) = holdout_files() else {
        return;
    };
    let holdout = summaries(&files);
    for model in ["base", "inst"] {
        let points: Vec<(f64, f64)> = mean_sweep(&holdout, model, "edge_holdout")
            .iter()
            .map(|point| (point.edge_rate, point.harmful_rate))
            .collect();
        let front = pareto_front(&points).unwrap();
        let reaches = |a: usize, b: usize| points[a].0 <= points[b].0 && points[a].1 >= points[b].1;
        for (point, alpha) in ALPHAS.iter().enumerate() {
            let mut others = front.iter().filter(|&&kept| kept != point);
            let beaten = others.any(|&kept| reaches(kept, point));
            assert_eq!(beaten, !front.contains(&point), "{model} {alpha}");
        }
        if model == "inst" {
            // The harmful rate reaches 1 at -2, so no larger alpha can be on the front.
            assert_eq!(named(&ALPHAS, &front), ALPHAS[..5]);
        }
    }
}

/// Every learned holdout slope is above every one of the 20 random slopes, so both p are 1 / 21.
#[test]
fn learned_slopes_stand_out_from_the_published_random_ones() {
    let (Some(files), Some(random)) = (
        holdout_files(),
        published_json("steering_random_layer20_hook_resid_pre_seeds0-19.json"),
    ) else {
        return;
    };
    let alphas: Vec<f64> = ALPHAS.iter().map(|alpha| number(alpha)).collect();
    let slope = |seed: &Value, model: &str, set: &str| {
        let scores: Vec<f64> = ALPHAS
            .iter()
            .map(|alpha| per_seed(&[seed], model, set, alpha, "mean")[0])
            .collect();
        ols_slope(&alphas, &scores).unwrap().unwrap()
    };
    for model in ["base", "inst"] {
        let random: Vec<f64> = random_seeds(&random, 20)
            .iter()
            .map(|seed| slope(seed, model, "edge"))
            .collect();
        for file in &files {
            let learned = slope(&file["results_summary"], model, "edge_holdout");
            let p = empirical_p(learned, &random).unwrap();
            assert_eq!((p.one_sided, p.two_sided), (1.0 / 21.0, 1.0 / 21.0));
            assert!(z_score(learned, &random).unwrap().unwrap() > 3.0);
        }
    }
}
