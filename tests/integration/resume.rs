//! A run that is cut short, a cache that is damaged, a sweep done in parts: the numbers come out the same, to the bit.

use crate::hold::{self, Held, Place};
use crate::prompts::{jsonl, main_set};
use crate::workbench::{Run, Workbench, committed_cells, files_below, long_study};

const STUDY: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "inst"
prompts = "main"
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 6
layer = [1, 3]
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-2, -1, 0, 1, 2]
[stages.generate]
model = "inst"
prompts = "main"
limit = 5
direction = "direction"
alpha = [-4, 4]
max_new_tokens = 4
"#;

/// Random directions of a study whose cells are worked on in two batches.
const SEEDS: usize = 200;

/// The same where a direction's layers are one edit: 100 cells for each.
const MANY_PLACES: usize = 700;

fn bench() -> Workbench {
    Workbench::new(&main_set(30, 20))
}

fn uninterrupted(study: &str) -> Vec<(String, Vec<u8>)> {
    let bench = bench();
    bench.run(study).ok().tables(&bench)
}

#[track_caller]
fn assert_same_tables(run: &Run, bench: &Workbench, expected: &[(String, Vec<u8>)]) {
    let tables = run.tables(bench);
    let names = |tables: &[(String, Vec<u8>)]| {
        tables
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&tables), names(expected));
    for ((name, bytes), (_, expected)) in tables.iter().zip(expected) {
        assert!(bytes == expected, "{name} differs");
    }
}

/// The long study, which waits when a part of its second stage is committed: some of 80,000 cells, which take two commits at least.
fn half_way(bench: &Workbench) -> Held {
    bench.write("study.toml", long_study(SEEDS));
    let command = bench.command(&["run", "study.toml", "--format", "json", "--threads", "1"]);
    hold::start(bench, command, Place::Packs(2)).surely()
}

#[test]
fn an_interrupted_run_says_how_to_resume_and_resumes_to_the_same_bits() {
    let bench = bench();
    let mut running = half_way(&bench);
    running.ask_to_end("-INT");
    let said = running.end(&bench);
    assert_eq!(said.code, 130, "{said:?}");
    let command = "to resume, run the same command again:\n    dial run study.toml --format json --threads 1\n";
    assert!(
        said.stderr
            .contains("interrupted in stage `random`; all that was computed is kept\n"),
        "{said:?}"
    );
    assert!(said.stderr.ends_with(command), "{said:?}");
    let report: serde_json::Value = serde_json::from_str(said.stdout.trim()).unwrap();
    assert_eq!(report["stages"][1]["status"], "interrupted");
    let kept = report["stages"][1]["cells_computed"].as_u64().unwrap();
    assert!(
        0 < kept && kept < 80_000,
        "{kept} cells were computed before the interrupt"
    );

    let resumed = bench.run(&long_study(SEEDS)).ok();
    assert_eq!(resumed.status("score"), "cached");
    assert_eq!(
        (resumed.cached("random"), resumed.computed("random")),
        (kept, 80_000 - kept)
    );
    assert_same_tables(&resumed, &bench, &uninterrupted(&long_study(SEEDS)));
}

/// Of a run that is killed, what it had committed is there.
#[test]
fn a_killed_run_loses_at_most_the_work_in_hand() {
    let bench = bench();
    assert!(half_way(&bench).kill());
    let kept = committed_cells(&bench.path("cache")).len() as u64 - 50;
    assert!(0 < kept && kept < 80_000, "{kept} cells were kept");
    let resumed = bench.run(&long_study(SEEDS)).ok();
    assert_eq!(resumed.status("score"), "cached");
    assert_eq!(
        (resumed.cached("random"), resumed.computed("random")),
        (kept, 80_000 - kept)
    );
    assert_eq!(
        resumed.said.stderr.matches("WARN").count(),
        0,
        "{}",
        resumed.said.stderr
    );
}

/// Edits of several tokens and layers at once, on a condition, are kept and come out the same as those of one place.
#[test]
fn a_killed_sweep_of_edits_in_many_places_resumes_to_the_same_bits() {
    let everywhere = r#"
position = ["instruction_end", "last"]
together = true
when = { direction = "harm", layer = 1, above = 0 }
[stages.harm]
kind = "direction"
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
layer = 1
"#;
    let study = long_study(MANY_PLACES)
        .replace("layer = \"all\"", "layer = [1, 3]")
        .replace("alpha = [-2, 2]\n", &format!("alpha = [-2, 2]{everywhere}"));
    let bench = bench();
    bench.write("study.toml", &study);
    let command = bench.command(&["run", "study.toml", "--format", "json", "--threads", "1"]);
    assert!(
        hold::start(&bench, command, Place::Packs(4))
            .surely()
            .kill()
    );
    let kept = committed_cells(&bench.path("cache")).len() as u64;
    let resumed = bench.run(&study).ok();
    let (cached, computed) = (resumed.cached("random"), resumed.computed("random"));
    assert!(
        0 < cached && cached < kept && 0 < computed,
        "{cached} of {kept}, {computed}"
    );
    assert_same_tables(&resumed, &bench, &uninterrupted(&study));
}

#[test]
fn without_stage_records_the_cells_serve() {
    let bench = bench();
    let tables = bench.run(STUDY).ok().tables(&bench);
    std::fs::remove_dir_all(bench.path("cache/v1/stages")).unwrap();
    let run = bench.run(STUDY).ok();
    assert_eq!(run.all_computed(), []);
    assert_eq!(run.status("steer"), "computed");
    assert_same_tables(&run, &bench, &tables);
}

#[test]
fn a_damaged_table_is_made_again_from_its_cells() {
    let bench = bench();
    let tables = bench.run(STUDY).ok().tables(&bench);
    for object in files_below(&bench.path("cache/v1/objects")) {
        let bytes = std::fs::read(&object).unwrap();
        std::fs::write(&object, &bytes[..bytes.len() / 2]).unwrap();
    }
    let run = bench.run(STUDY).ok();
    assert_eq!(run.all_computed(), []);
    assert!(
        run.said.stderr.contains("is damaged"),
        "{}",
        run.said.stderr
    );
    assert_same_tables(&run, &bench, &tables);
}

/// A stage whose CSV is gone is not cached, though nothing that a later stage reads is missing.
#[test]
fn a_vanished_object_is_made_again_from_its_cells() {
    let bench = bench();
    let tables = bench.run(STUDY).ok().tables(&bench);
    for object in files_below(&bench.path("cache/v1/objects")) {
        let bytes = std::fs::read(&object).unwrap();
        if bytes.starts_with(b"model,") {
            std::fs::remove_file(&object).unwrap();
        }
    }
    let run = bench.run(STUDY).ok();
    assert_eq!(run.all_computed(), []);
    assert_same_tables(&run, &bench, &tables);
    let told = run.said.stderr.matches("is gone from the cache").count();
    assert_eq!(told, 4, "{}", run.said.stderr);
    assert!(
        run.said
            .stderr
            .contains("an artifact of stage `steer` is gone from the cache ("),
        "{}",
        run.said.stderr
    );
}

/// A norm that scales α comes back from the cache to the bit, and so do the keys of what it scales.
#[test]
fn cells_in_units_of_a_norm_serve_when_their_direction_comes_from_the_cache() {
    let study = STUDY
        .replace("alpha = [-2,", "alpha_unit = \"resid_norm\"\nalpha = [-2,")
        .replace("alpha = [-4,", "alpha_unit = \"pre_norm\"\nalpha = [-4,")
        .replace("layer = [1, 3]", "layer = [1, 2, 3]");
    let bench = bench();
    let tables = bench.run(&study).ok().tables(&bench);
    for record in files_below(&bench.path("cache/v1/stages")) {
        let text = std::fs::read_to_string(&record).unwrap();
        if !text.contains(r#""kind":"direction""#) && !text.contains(r#""kind":"score""#) {
            std::fs::remove_file(record).unwrap();
        }
    }
    let run = bench.run(&study).ok();
    assert_eq!(run.status("direction"), "cached");
    assert_eq!(run.status("steer"), "computed");
    assert_eq!(run.all_computed(), []);
    assert_same_tables(&run, &bench, &tables);
}

#[test]
fn a_truncated_pack_is_computed_again_to_the_same_bits() {
    let bench = bench();
    let first = bench.run(STUDY).ok();
    let tables = first.tables(&bench);
    std::fs::remove_dir_all(bench.path("cache/v1/stages")).unwrap();
    for pack in files_below(&bench.path("cache/v1/packs")) {
        let bytes = std::fs::read(&pack).unwrap();
        std::fs::write(&pack, &bytes[..bytes.len() - 7]).unwrap();
    }
    let run = bench.run(STUDY).ok();
    assert!(
        run.said.stderr.contains("is damaged"),
        "{}",
        run.said.stderr
    );
    assert_eq!(run.all_computed(), first.all_computed());
    assert_same_tables(&run, &bench, &tables);
}

#[test]
fn a_sweep_done_in_parts_gives_the_same_bits() {
    let bench = bench();
    let all = main_set(30, 20);
    // Prompts, layers and α come one after the other, in another order than the study's.
    bench.write("main.jsonl", jsonl(&all[13..37]));
    bench.run_with(STUDY, &["--only", "score"]).ok();
    bench.write("main.jsonl", jsonl(&all));
    bench
        .run_with(
            STUDY,
            &[
                "--set",
                "stages.direction.layer=3",
                "--set",
                "stages.steer.alpha=[2, -1]",
            ],
        )
        .ok();
    let rest = bench.run(STUDY).ok();
    assert!(rest.cached("steer") >= 150, "{}", rest.said.stderr);
    assert_same_tables(&rest, &bench, &uninterrupted(STUDY));
}
