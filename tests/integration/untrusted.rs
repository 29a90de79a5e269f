//! Packs that are whole and yet wrong: two that hold one cell with different values, and one with a value that no evaluation gives. They are
//! named and moved aside, with all that was made from them, and the same command computes it again.

use crate::prompts::main_set;
use crate::workbench::{Pack, Run, Said, Workbench, files_below, packs};

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
layer = [1, 2]
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [0, 1]
"#;

/// Asks for the cells of α = 0 again, which are those of the score stage.
const WIDER: &[&str] = &["--set", "stages.steer.alpha=[0, 1, 2]"];

fn bench() -> Workbench {
    Workbench::new(&main_set(20, 10))
}

fn tables_of_wider(wider: &[&str]) -> Vec<(String, Vec<u8>)> {
    let bench = bench();
    bench.run_with(STUDY, wider).ok().tables(&bench)
}

/// The pack that a stage committed.
fn pack_of(bench: &Workbench, stage: &str) -> Pack {
    let all = packs(&bench.path("cache")).into_iter();
    let mut of_stage = all.filter(|pack| pack.provenance["stage"] == stage);
    of_stage.next().unwrap()
}

/// A second pack with a cell of the first, and another value.
fn contradict(bench: &Workbench, pack: &Pack) -> Pack {
    let (key, mut value) = pack.cells[0].clone();
    value[1] ^= 1;
    Pack::write(&bench.path("cache"), &pack.provenance, &[(key, value)])
}

fn assert_names(told: &str, packs: &[&Pack]) {
    for pack in packs {
        assert!(told.contains(&pack.name()), "{} in {told}", pack.name());
    }
}

fn assert_moved(bench: &Workbench, packs: &[&Pack]) {
    for pack in packs {
        assert!(!pack.path.exists(), "{}", pack.name());
        let aside = bench.path(&format!("cache/v1/damaged/{}", pack.name()));
        assert!(aside.is_file(), "{}", aside.display());
    }
}

#[test]
fn a_run_that_reads_a_cell_of_two_values_trusts_neither_pack() {
    let bench = bench();
    bench.run(STUDY).ok();
    let one = pack_of(&bench, "score");
    let other = contradict(&bench, &one);
    let run = bench.run_with(STUDY, WIDER).ok();
    assert_names(&run.said.stderr, &[&one, &other]);
    assert!(
        run.said
            .stderr
            .contains("hold one cell with different values"),
        "{}",
        run.said.stderr
    );
    assert_moved(&bench, &[&one, &other]);
    // What the score stage gave was made from one of them, and had been served before it showed.
    assert_eq!(run.computed("score"), one.cells.len() as u64);
    assert_eq!(run.status("direction"), "computed");
    assert_eq!(run.tables(&bench), tables_of_wider(WIDER));
    assert_eq!(bench.run_with(STUDY, WIDER).ok().all_computed(), []);
}

#[test]
fn two_packs_that_agree_are_both_kept() {
    let bench = bench();
    let expected = bench.run(STUDY).ok();
    let one = pack_of(&bench, "score");
    let other = Pack::write(&bench.path("cache"), &one.provenance, &one.cells[..3]);
    let run = bench.run_with(STUDY, WIDER).ok();
    assert_eq!(run.said.stderr.matches("damaged").count(), 0);
    assert_eq!(run.status("score"), "cached");
    assert_eq!(bench.dial(&["cache", "verify"]).code, 0);
    assert!(one.path.exists() && other.path.exists());
    assert_eq!(
        bench.run(STUDY).ok().tables(&bench),
        expected.tables(&bench)
    );
}

#[test]
fn a_check_finds_two_packs_that_disagree_and_what_was_made_from_them() {
    let bench = bench();
    let expected = bench.run(STUDY).ok().tables(&bench);
    let one = pack_of(&bench, "score");
    let other = contradict(&bench, &one);
    let said = bench.dial(&["cache", "verify", "--format", "json"]);
    assert_eq!(said.code, 3, "{said:?}");
    let json: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let damaged = json["damaged"].as_array().unwrap();
    // Both, and the records of the three stages.
    assert_eq!(damaged.len(), 5, "{json}");
    assert_names(&said.stdout, &[&one, &other]);
    assert_moved(&bench, &[&one, &other]);
    assert!(bench.stage_records().is_empty());
    assert_eq!(bench.dial(&["cache", "verify"]).code, 0);
    let run = bench.run(STUDY).ok();
    assert_eq!(run.all_computed(), [("score", one.cells.len() as u64)]);
    assert_eq!(run.tables(&bench), expected);
}

#[test]
fn a_plan_finds_it_too_and_counts_what_is_to_be_computed_again() {
    let bench = bench();
    bench.run(STUDY).ok();
    let one = pack_of(&bench, "score");
    let other = contradict(&bench, &one);
    // All cells of this stage are there, so that a plan reads them.
    std::fs::remove_dir_all(bench.path("cache/v1/stages")).unwrap();
    let said: Said = bench.dial(&["plan", "study.toml", "--format", "json"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_names(&said.stderr, &[&one, &other]);
    assert_moved(&bench, &[&one, &other]);
    let json: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let text = json.to_string();
    assert!(text.contains(&one.cells.len().to_string()), "{text}");
    bench.run(STUDY).ok();
}

/// Puts another pack in the place of the one of a stage: the same, with one value changed. Its stages have no records.
fn replaced(bench: &Workbench, stage: &str, change: impl Fn(&mut Vec<u8>)) -> Pack {
    let pack = pack_of(bench, stage);
    std::fs::remove_file(&pack.path).unwrap();
    std::fs::remove_dir_all(bench.path("cache/v1/stages")).unwrap();
    let mut cells = pack.cells;
    change(&mut cells[3].1);
    Pack::write(&bench.path("cache"), &pack.provenance, &cells)
}

fn assert_mended(bench: &Workbench, run: &Run, wrong: &Pack, expected: &[(String, Vec<u8>)]) {
    assert_names(&run.said.stderr, &[wrong]);
    assert_moved(bench, &[wrong]);
    assert_eq!(run.tables(bench), expected);
}

#[test]
fn a_pack_with_a_value_that_is_not_finite_is_named_and_computed_again_by_the_same_command() {
    let not_a_number = |value: &mut Vec<u8>| value[1..].copy_from_slice(&f64::NAN.to_le_bytes());
    let infinite = |value: &mut Vec<u8>| {
        let last = value.len() - 4;
        value[last..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    };
    for (stage, change) in [
        ("score", &not_a_number as &dyn Fn(&mut Vec<u8>)),
        ("direction", &infinite),
    ] {
        let bench = bench();
        let expected = bench.run(STUDY).ok().tables(&bench);
        let wrong = replaced(&bench, stage, change);
        let run = bench.run(STUDY).ok();
        assert_mended(&bench, &run, &wrong, &expected);
        assert_eq!(run.all_computed(), [(stage, wrong.cells.len() as u64)]);
        // A check finds it without a run.
        let wrong = replaced(&bench, stage, change);
        let said = bench.dial(&["cache", "verify"]);
        assert_eq!(said.code, 3, "{said:?}");
        assert_moved(&bench, &[&wrong]);
    }
}

/// Of another kind or length: not what was asked for, whoever wrote it.
#[test]
fn a_pack_with_a_value_that_does_not_fit_its_cell_is_named_and_computed_again() {
    let score_for_vector =
        |value: &mut Vec<u8>| *value = [&[0][..], &1.5f64.to_le_bytes()].concat();
    let short_vector = |value: &mut Vec<u8>| value.truncate(9);
    let unknown_kind = |value: &mut Vec<u8>| value[0] = 77;
    let nothing = |value: &mut Vec<u8>| value.clear();
    for change in [
        &score_for_vector as &dyn Fn(&mut Vec<u8>),
        &short_vector,
        &unknown_kind,
        &nothing,
    ] {
        let bench = bench();
        let expected = bench.run(STUDY).ok().tables(&bench);
        let wrong = replaced(&bench, "direction", change);
        let run = bench.run(STUDY).ok();
        assert_mended(&bench, &run, &wrong, &expected);
    }
}

/// A record says which files a run's folder gets. One whose checksum is right and whose names lead elsewhere is no record.
#[test]
fn a_record_writes_nothing_outside_of_a_runs_folder() {
    let bench = bench();
    let expected = bench.run(STUDY).ok().tables(&bench);
    for path in files_below(&bench.path("cache/v1/stages")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, record) = text.split_once(",\"record\":").unwrap();
        let key = &head[head.len() - 65..head.len() - 1];
        let record = record.trim_end().strip_suffix('}').unwrap();
        let forged = record
            .replacen("\"name\":\"\"", "\"name\":\"x/../../../../../written\"", 1)
            .replacen("\"file\":\"", "\"file\":\"../../../../written.", 1);
        assert_ne!(record, forged);
        let mut hasher = blake3::Hasher::new();
        hasher.update(blake3::Hash::from_hex(key).unwrap().as_bytes());
        let checksum = hasher.update(forged.as_bytes()).finalize();
        let text =
            format!("{{\"checksum\":\"{checksum}\",\"key\":\"{key}\",\"record\":{forged}}}\n");
        std::fs::write(path, text).unwrap();
    }
    let before = names(&bench);
    let run = bench.run(STUDY);
    assert_eq!(names(&bench), before, "something was written");
    let run = run.ok();
    assert_eq!(run.all_computed(), [], "the cells are there");
    assert_eq!(run.status("score"), "computed");
    assert!(run.tables(&bench) == expected);
}

/// The files that are not in the cache or in a run's own folder.
fn names(bench: &Workbench) -> Vec<std::path::PathBuf> {
    let mut files = files_below(&bench.path(""));
    let inside = |path: &std::path::PathBuf| {
        let path = path.strip_prefix(bench.path("")).unwrap();
        path.starts_with("cache/v1")
            || path.starts_with("runs/study") && path.components().count() > 3
    };
    files.retain(|path| !inside(path));
    files
}
