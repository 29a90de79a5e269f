//! `--only` and `--from` check what they run: what is wrong with the rest of the study is told, and keeps nothing from running.

use insta::assert_snapshot;
use serde_json::Value;

use crate::prompts::main_set;
use crate::screens::redacted;
use crate::workbench::{Said, Workbench};

/// Two stages that belong together, and room for others behind them.
const SOUND: &str = r#"[models.inst]
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
n = 2
layer = 2
"#;

/// A stage that asks for a layer that the model does not have.
const TOO_DEEP: &str = r#"[stages.random]
model = "inst"
prompts = "main"
seed = 0
layer = 99
alpha = 1
"#;

fn bench() -> Workbench {
    Workbench::new(&main_set(6, 4))
}

fn run(bench: &Workbench, study: &str, arguments: &[&str]) -> Said {
    bench.write("study.toml", study);
    let mut all = vec!["run", "study.toml", "--threads", "1"];
    all.extend(arguments);
    bench.dial(&all)
}

/// The sound part of the study and more, of which only `direction` and what it needs runs, and does. What is said before.
#[track_caller]
fn warning(more: &str) -> String {
    let bench = bench();
    let said = run(&bench, &format!("{SOUND}{more}"), &["--only", "direction"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("direction  computed"), "{said:?}");
    let (before, _) = said.stderr.split_once("run folder").unwrap();
    before.trim_end().to_string()
}

#[test]
fn a_layer_that_another_stage_asks_for_in_vain_is_a_warning() {
    let bench = bench();
    let study = format!("{SOUND}{TOO_DEEP}");
    let said = run(&bench, &study, &["--only", "score"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_snapshot!(redacted(&said.stderr), @r#"
    warning: layer `99` is out of range for model `inst`
      --> study.toml:19:9
       |
    19 | layer = 99
       |         ^^ the model has 4 layers, 0 to 3

    note: `--only score` needs none of this

    run folder runs/study/[time]-[key]
    score      loading model `inst`
    score      computed          10 computed        0 from cache  [time]
    done in [time]: 10 cells computed, standing for 10 forward passes of a script
    report in runs/study/[time]-[key]/report.html
    "#);
    // The whole study, and what needs the stage, is refused as before.
    let whole = run(&bench, &study, &[]);
    assert_snapshot!(whole.message(2), @r#"
    error: layer `99` is out of range for model `inst`
      --> study.toml:19:9
       |
    19 | layer = 99
       |         ^^ the model has 4 layers, 0 to 3
    "#);
    assert_eq!(
        run(&bench, &study, &["--only", "random"]).message(2),
        whole.message(2)
    );
    assert_eq!(
        run(&bench, &study, &["--from", "random"]).message(2),
        whole.message(2)
    );
    // The stage's key is what it is in a sound study.
    let mended = bench.run(&study.replace("99", "1")).ok();
    assert_eq!(mended.status("score"), "cached");
}

#[test]
fn what_keeps_other_stages_from_being_read_is_a_warning() {
    assert_snapshot!(warning("[stages.random]\nmodle = \"inst\"\nprompts = \"none\"\nseed = \"many\"\nlayer = 1\nalpha = 1\n[stages.x]\nkind = \"steer\"\nmodel = \"inst\"\nprompts = \"main\"\ndirection = \"score\"\nalpha = 1\n"), @r#"
    warning: `stages.random` has no field `model`
      --> study.toml:15:1
       |
    15 | [stages.random]
       | ^^^^^^^^^^^^^^^ `model` is missing
       |
       = help: give it a string or a list

    warning: `stages.random` has an unknown field `modle`
      --> study.toml:16:1
       |
    16 | modle = "inst"
       | ^^^^^ did you mean `model`?
       |
       = help: known fields: `kind`, `model`, `prompts`, `seed`, `layer`, `together`, `site`, `mode`, `alpha`, `alpha_unit`, `plane`, `with`, `when`, `position`, `read`, `chat`

    warning: `stages.random.seed` is the string `many`, not an integer of 0 or more, a list of them or a range such as `"0..20"`
      --> study.toml:18:8
       |
    18 | seed = "many"
       |        ^^^^^^ expected an integer of 0 or more, a list of them or a range such as `"0..20"`

    warning: stage `x` wants directions, but `score` gives scores
      --> study.toml:25:13
       |
    25 | direction = "score"
       |             ^^^^^^^ expected a stage that gives directions
       |
       = help: these do: `direction`

    note: `--only direction` needs none of this
    "#);
    // They wait for each other, and the stages that run still come each after those it needs.
    assert_snapshot!(warning("[stages.one]\nkind = \"summary\"\nsteer = \"two\"\n[stages.two]\nkind = \"summary\"\nsteer = \"one\"\n"), @r#"
    warning: stage `one` wants a sweep of steered scores, but `two` gives a summary
      --> study.toml:17:9
       |
    17 | steer = "two"
       |         ^^^^^ expected a stage that gives a sweep of steered scores

    warning: stages `one` and `two` wait for each other
      --> study.toml:17:9
       |
    17 | steer = "two"
       |         ^^^^^ this reference closes the circle

    warning: stage `two` wants a sweep of steered scores, but `one` gives a summary
      --> study.toml:20:9
       |
    20 | steer = "one"
       |         ^^^^^ expected a stage that gives a sweep of steered scores

    note: `--only direction` needs none of this
    "#);
}

#[test]
fn models_and_prompts_of_other_stages_are_not_needed() {
    let bench = bench();
    // Of a model that nobody needs it is not looked at what it is.
    bench.write("broken/config.json", "{");
    let more = r#"[models.gone]
source = "nowhere"
[models.broken]
source = "broken"
[models.far]
source = "hf:nobody/nothing"
[prompts.lost]
path = "lost.jsonl"
[prompts.further]
path = "main.jsonl"
[stages.others]
kind = "score"
model = ["gone", "broken", "far"]
prompts = "lost"
[stages.last]
kind = "score"
model = "inst"
prompts = "further"
"#;
    let study = format!("{SOUND}{more}");
    let said = run(&bench, &study, &["--from", "direction", "--format", "json"]);
    assert_eq!(said.code, 0, "{said:?}");
    let (before, _) = said.stderr.split_once("run folder").unwrap();
    assert_snapshot!(before.trim_end(), @r#"
    warning: model `gone` cannot be used: model source `nowhere`: `nowhere` does not exist; expected a Hugging Face folder, a `.gguf` file, or `hf:org/name@revision`
      --> study.toml:16:10
       |
    16 | source = "nowhere"
       |          ^^^^^^^^^ this source

    warning: prompt set `lost` cannot be used
      --> study.toml:22:8
       |
    22 | path = "lost.jsonl"
       |        ^^^^^^^^^^^^
       |
       = note: lost.jsonl: cannot read the prompts: No such file or directory (os error 2); check the `path` of the prompt set

    note: `--from direction` needs none of this
    "#);
    let run_json: Value = serde_json::from_str(&said.stdout).unwrap();
    let folder = bench.path(run_json["run_dir"].as_str().unwrap());
    let manifest = std::fs::read_to_string(folder.join("run.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let names = |section: &str| {
        let entries = manifest[section].as_object().unwrap();
        entries.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(names("models"), ["inst"]);
    assert_eq!(names("prompts"), ["main"]);
    assert!(folder.join("report.html").is_file());
    // The study as a whole cannot be opened.
    let whole = run(&bench, &study, &[]);
    assert_eq!(whole.message(2).matches("error: ").count(), 3, "{whole:?}");
}

#[test]
fn what_is_needed_is_checked_at_once() {
    let bench = bench();
    let study = SOUND.replace("n = 2", "n = 20").replace(
        "source = \"models/inst\"",
        "source = \"models/inst\"\ndtype = \"float8\"",
    );
    let study = format!("{study}{TOO_DEEP}");
    let said = run(&bench, &study, &["--only", "direction", "--runs", "never"]);
    assert_snapshot!(said.message(2), @r#"
    error: `models.inst.dtype` cannot be `float8`
     --> study.toml:3:9
      |
    3 | dtype = "float8"
      |         ^^^^^^^^ did you mean `float32`?
      |
      = help: it is one of `float32`, `bfloat16`, `float16`

    error: `n = 20` asks for 20 prompts at the top and 20 at the bottom, but split `edge` has 6 prompts
      --> study.toml:14:5
       |
    14 | n = 20
       |     ^^ at most 3
    "#);
    assert!(!bench.path("never").exists());
}

/// What a stage that cannot be read builds on is not known: it counts as building on what it names.
#[test]
fn a_stage_that_cannot_be_read_is_needed_where_it_names_what_runs() {
    let bench = bench();
    let broken = "[stages.steer]\nmodel = \"inst\"\nprompts = \"main\"\ndirection = \"direction\"\nalhpa = 1\n";
    let study = format!("{SOUND}{broken}");
    for refused in [
        ["--from", "direction"],
        ["--only", "steer"],
        ["--from", "score"],
    ] {
        let said = run(&bench, &study, &refused);
        assert!(said.message(2).contains("`alhpa`"), "{said:?}");
    }
    let said = run(&bench, &study, &["--only", "direction"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("warning: "), "{said:?}");
}

#[test]
fn a_section_that_no_selected_stage_reads_is_not_needed() {
    let said = warning("[import]\nlayer = \"x\"\n");
    assert!(
        said.contains("warning: `import.layer` is the string `x`"),
        "{said}"
    );
}

/// It is in no file of the run's folder, which can be read again.
#[test]
fn a_stage_that_cannot_name_files_is_left_out_of_the_run() {
    let bench = bench();
    let study = format!(
        "{SOUND}[stages.\"a/b\"]\nkind = \"score\"\nmodel = \"inst\"\nprompts = \"main\"\n"
    );
    let said = run(&bench, &study, &["--only", "score"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stderr
            .contains("warning: stage name `a/b` cannot name a file"),
        "{said:?}"
    );
    for command in ["report", "show"] {
        let again = bench.dial(&[command, "runs/study/latest"]);
        assert_eq!(again.code, 0, "{again:?}");
    }
}
