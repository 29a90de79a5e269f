//! Parts of a study, failures, forced stages, and what `dial status` says of them.

use insta::assert_snapshot;

use crate::hold::{self, Place};
use crate::prompts::main_set;
use crate::screens::{STUDY, bench, redacted};
use crate::workbench::{Run, Said, Workbench, committed_cells, files_below, long_study};

fn names(run: &Run) -> Vec<&str> {
    let stages = run.json["stages"].as_array().unwrap().iter();
    stages
        .map(|stage| stage["name"].as_str().unwrap())
        .collect()
}

/// The study with an α that no model survives.
fn failing() -> String {
    STUDY.replacen("alpha = [-2, 0, 2]", "alpha = [-2, 0, 1e38]", 1)
}

#[test]
fn from_a_stage_runs_what_builds_on_it_and_what_that_needs() {
    let bench = bench();
    let run = bench.run_with(STUDY, &["--from", "steer"]).ok();
    assert_eq!(
        names(&run),
        ["score", "direction", "steer", "random", "summary"]
    );
    let run = bench.run_with(STUDY, &["--from", "random"]).ok();
    assert_eq!(
        names(&run),
        ["score", "direction", "steer", "random", "summary"]
    );
    let without_summary = STUDY.split("[stages.summary]").next().unwrap();
    let run = bench
        .run_with(without_summary, &["--from", "direction"])
        .ok();
    assert_eq!(names(&run), ["score", "direction", "steer"]);
    assert_eq!(run.all_computed(), []);
    let said = bench.dial(&["run", "study.toml", "--from", "stear"]);
    assert_snapshot!(said.message(2), @"error: the study has no stage `stear` to run with `--from`; did you mean `steer`?");
    let said = bench.dial(&["run", "study.toml", "--from", "steer", "--only", "steer"]);
    assert_eq!(said.code, 2);
}

#[test]
fn a_failure_is_never_cached_and_blocks_only_what_builds_on_it() {
    let bench = bench();
    bench.write("study.toml", failing());
    let run = |arguments: &[&str]| {
        bench.dial(&[&["run", "study.toml", "--threads", "1"], arguments].concat())
    };
    let stopped = run(&[]);
    assert_eq!(stopped.code, 1);
    assert_snapshot!(redacted(&stopped.stderr), @r"
    run folder runs/study/[time]-[key]
    score      loading model `inst`
    score      computed          20 computed        0 from cache  [time]
    direction  computed          12 computed        0 from cache  [time]
               note: the direction: 2 prompts are both among the highest and the lowest scores: `edge-06`, `edge-02`
    steer      failed            20 computed       20 shared with score  [time]
    error: stage `steer`: prompt `edge-00`, layer 2 (`blocks.2.hook_resid_pre`), α = 1e38: a value is not finite; try float32 or a smaller α (19 more cells like this; all others are kept)
    ");
    let went_on = run(&["--keep-going"]);
    assert_eq!(went_on.code, 1);
    assert_snapshot!(redacted(&went_on.stderr), @r"
    run folder runs/study/[time]-[key]
    score      cached             0 computed       20 from cache  [time]
    direction  cached             0 computed       12 from cache  [time]
               note: the direction: 2 prompts are both among the highest and the lowest scores: `edge-06`, `edge-02`
    steer      loading model `inst`
    steer      failed             0 computed       40 from cache  [time]
    random     computed         120 computed       20 from cache  [time]
    summary    blocked            0 computed        0 from cache  [time]
    error: stage `steer`: prompt `edge-00`, layer 2 (`blocks.2.hook_resid_pre`), α = 1e38: a value is not finite; try float32 or a smaller α (19 more cells like this; all others are kept)
    not run, because they need what failed: `summary`
    ");
    // What did not fail is kept; what failed is tried again.
    let again = bench.run_with(&failing(), &["--keep-going"]);
    assert_eq!((again.said.code, again.all_computed().len()), (1, 0));
    assert_eq!(again.status("steer"), "failed");
    assert_eq!(again.status("random"), "cached");
    assert_eq!(again.status("summary"), "blocked");
    assert_eq!(again.json["failures"][0]["stage"], "steer");
    let mended = bench.run(STUDY).ok();
    // Of the failing α no cell was kept, of the others every one.
    assert_eq!(mended.all_computed(), [("steer", 20)]);
}

#[test]
fn a_forced_stage_is_computed_again_to_the_same_bits() {
    let bench = bench();
    let first = bench.run(STUDY).ok();
    let said = bench.dial(&["run", "study.toml", "--threads", "1", "--force", "steer"]);
    assert_eq!(said.code, 0);
    assert_snapshot!(redacted(&said.stderr), @r"
    run folder runs/study/[time]-[key]
    score      cached             0 computed       20 from cache  [time]
    direction  cached             0 computed       12 from cache  [time]
               note: the direction: 2 prompts are both among the highest and the lowest scores: `edge-06`, `edge-02`
    steer      loading model `inst`
    steer      recomputed        60 computed        0 from cache  [time]
               note: computed again as forced; every cell and table has the bits that were cached
    random     cached             0 computed      140 from cache  [time]
    summary    cached             0 computed        0 from cache  [time]
               note: model `inst`, layer 2: not tested: effect, specific, selective, valid, stable
               note: model `inst`: at α = 0 the score refuses 100.0 % of `harmful` (8 of 8), so that its rate can hardly rise
    done in [time]: 60 cells computed, standing for 272 forward passes of a script
    report in runs/study/[time]-[key]/report.html
    ");
    let forced = bench
        .run_with(STUDY, &["--force", "steer", "--force", "summary"])
        .ok();
    assert_eq!(forced.all_computed(), [("steer", 60)]);
    assert_eq!(forced.status("summary"), "recomputed");
    assert_eq!(forced.tables(&bench), first.tables(&bench));
    let said = bench.dial(&["run", "study.toml", "--force", "stear"]);
    assert_snapshot!(said.message(2), @"error: the study has no stage `stear` to run with `--force`; did you mean `steer`?");
    // A stage that was never run has nothing to be compared with.
    let fresh = Workbench::new(&main_set(12, 8));
    let run = fresh.run_with(STUDY, &["--force", "score"]).ok();
    assert_eq!(run.status("score"), "computed");
}

/// Values of another machine: the same cells, one bit of one value changed, in a pack that is sound.
#[test]
fn bits_that_are_not_reproduced_are_told_and_the_cached_ones_kept() {
    let bench = bench();
    bench.run_with(STUDY, &["--only", "score"]).ok();
    change_a_bit(&bench);
    let before = files_below(&bench.path("cache/v1/packs"));
    let said = bench.dial(&["run", "study.toml", "--threads", "1", "--force", "score"]);
    assert_eq!(said.code, 4);
    assert_snapshot!(redacted(&said.stderr), @r"
    run folder runs/study/[time]-[key]
    score      loading model `inst`
    score      failed            20 computed        0 from cache  [time]
    error: stage `score`: computed again, 1 of 20 cached cells are not the same to the bit; the cached ones are kept. They may come from another device, processor or libtorch: give this one a cache of its own with `--cache`
    ");
    assert_eq!(files_below(&bench.path("cache/v1/packs")), before);
}

/// Replaces the only pack by one whose last value differs in its lowest bit, under the name of its new content.
fn change_a_bit(bench: &Workbench) {
    let packs = files_below(&bench.path("cache/v1/packs"));
    assert_eq!(packs.len(), 1);
    let mut bytes = std::fs::read(&packs[0]).unwrap();
    let low = bytes.len() - 8;
    bytes[low] ^= 1;
    let name = blake3::hash(&bytes).to_hex().to_string();
    std::fs::remove_file(&packs[0]).unwrap();
    bench.write(&format!("cache/v1/packs/{}/{name}.pack", &name[..2]), bytes);
}

#[test]
fn the_runs_there_are() {
    let bench = bench();
    let status = || {
        let said = bench.dial(&["status"]);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""));
        redacted(&said.stdout)
    };
    assert_snapshot!(status(), @"no runs in `runs`");
    bench.run_with(&failing(), &["--keep-going"]);
    bench.run_with(STUDY, &["--only", "score"]).ok();
    // A run that was killed: it says that it runs, and nothing is alive.
    let killed = bench.run_with(
        STUDY,
        &["--from", "random", "--set", "stages.random.seed=\"0..3\""],
    );
    let path = killed.file(&bench, "run.json");
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["status"] = "running".into();
    manifest["computing"] = "random".into();
    manifest["seconds"] = serde_json::Value::Null;
    manifest["stages"].as_array_mut().unwrap().truncate(3);
    std::fs::write(&path, manifest.to_string()).unwrap();
    assert_snapshot!(status(), @r#"
    run                                       state     stages done  stopped in  cells computed  took
    runs/study/[time]-[key]  killed    3 of 5       random                  20
    runs/study/[time]-[key]  complete  1 of 1                                0  [time]
    runs/study/[time]-[key]  failed    3 of 5       steer                  172  [time]

    to resume:
        dial run study.toml --format json --from random --set 'stages.random.seed="0..3"' --threads 1
    "#);
    bench.run(STUDY).ok();
    let after = status();
    assert!(after.contains("killed, done since"), "{after}");
    let json = bench.dial(&["status", "--format", "json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let runs = json["runs"].as_array().unwrap();
    let states: Vec<&str> = runs
        .iter()
        .map(|run| run["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["failed", "complete", "killed", "complete"]);
    // The one that failed has been mended, the one that was killed is done.
    assert!(runs.iter().all(|run| run["resume"].is_null()), "{json}");
    bench.write("study.toml", failing());
    let json = bench.dial(&["status", "--format", "json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json["runs"][0]["resume"],
        "dial run study.toml --format json --keep-going --threads 1"
    );
}

/// Starts a study of a long stage and kills it when some of that is committed.
fn killed_in_a_long_stage(bench: &Workbench, arguments: &[&str]) {
    bench.write("study.toml", long_study(200));
    let command = bench.command(&[&["run", "study.toml", "--threads", "1"], arguments].concat());
    let running = hold::start(bench, command, Place::Packs(2)).surely();
    assert!(running.kill());
}

/// What status says can be pasted into a shell.
fn pasted(bench: &Workbench, line: &str) -> Said {
    let program = format!(
        "dial() {{ '{}' \"$@\"; }}; {line}",
        env!("CARGO_BIN_EXE_dial")
    );
    let mut shell = std::process::Command::new("sh");
    let output = shell
        .args(["-c", &program])
        .current_dir(bench.path(""))
        .output();
    Said::of(output.unwrap(), &bench.path(""))
}

#[test]
fn a_killed_run_tells_how_far_it_got_and_resumes_whether_its_study_was_edited_or_not() {
    let bench = Workbench::new(&main_set(30, 20));
    killed_in_a_long_stage(&bench, &["--set", "stages.random.alpha=[-2, 3]"]);
    let committed = committed_cells(&bench.path("cache")).len();
    let status = || {
        let json = bench.dial(&["status", "--format", "json"]).stdout;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        json["runs"][0].clone()
    };
    let run = status();
    assert_eq!(
        (run["state"].as_str(), run["cells_computed"].as_u64()),
        (Some("killed"), Some(50))
    );
    let done = run["cells_in_hand"][0].as_u64().unwrap();
    assert!(done > 0 && done < 80_000, "{run}");
    assert_eq!(run["cells_in_hand"][1], 80_000);
    let resume = |run: &serde_json::Value| run["resume"].as_str().unwrap().to_string();
    assert_eq!(
        resume(&run),
        "dial run study.toml --threads 1 --set 'stages.random.alpha=[-2, 3]'"
    );
    // What resumes it is shown under however many newer runs.
    bench.write("other.toml", long_study(1));
    for _ in 0..21 {
        assert_eq!(
            bench.dial(&["run", "other.toml", "--only", "score"]).code,
            0
        );
    }
    assert!(bench.dial(&["status"]).stdout.contains(&resume(&run)));
    // The edited file is another study; the run's own copy is the one that was killed.
    bench.write("study.toml", long_study(1));
    let edited = bench.dial(&["status", "--format", "json"]).stdout;
    let edited: serde_json::Value = serde_json::from_str(&edited).unwrap();
    let runs = edited["runs"].as_array().unwrap();
    let run = runs.iter().find(|run| run["state"] == "killed").unwrap();
    let line = resume(run);
    assert!(line.ends_with("/resolved.yaml --threads 1"), "{line}");
    let said = bench.dial(&["status"]).stdout;
    let told = format!("\nto resume as it was (edited since: `study.toml`):\n    {line}\n");
    assert!(said.contains(&told), "{said}");
    let said = pasted(&bench, &line);
    assert_eq!(said.code, 0, "{said:?}");
    let computed = 80_050 - committed;
    assert!(
        said.stderr.contains(&format!("{computed} cells computed")),
        "{said:?}"
    );
    let said = bench.dial(&["status"]);
    assert!(!said.stdout.contains("to resume"), "{said:?}");
    let after = bench.dial(&["status", "--format", "json"]).stdout;
    assert_eq!(after.matches("\"done_since\":true").count(), 1, "{after}");
}

/// Of two files of one name that a study extends each has its copy, and an edit of either is seen.
#[test]
fn files_of_one_name_are_told_apart() {
    let bench = Workbench::new(&main_set(30, 20));
    bench.write(
        "y/base.toml",
        failing()
            .replace("models/", "../models/")
            .replace("main.jsonl", "../main.jsonl"),
    );
    bench.write("x/base.toml", "extends = \"../y/base.toml\"\n");
    bench.write("study.toml", "extends = \"x/base.toml\"\n");
    assert_eq!(bench.dial(&["run", "study.toml"]).code, 1);
    let resume = || {
        let json = bench.dial(&["status", "--format", "json"]).stdout;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        json["runs"][0].clone()
    };
    assert_eq!(resume()["resume"], "dial run study.toml");
    for file in ["x/base.toml", "y/base.toml"] {
        let text = std::fs::read_to_string(bench.path(file)).unwrap();
        bench.write(file, format!("{text}# another\n"));
        let run = resume();
        assert!(run["resume"].is_null(), "{run}");
        assert!(run["edited"][0].as_str().unwrap().ends_with(file), "{run}");
        bench.write(file, text);
    }
}

#[test]
fn the_cells_of_a_killed_run_stay_whatever_its_folder_is_called() {
    let bench = Workbench::new(&main_set(30, 20));
    killed_in_a_long_stage(&bench, &[]);
    let folder = bench.path("runs/study/latest").canonicalize().unwrap();
    std::fs::rename(&folder, folder.with_file_name("overnight")).unwrap();
    let committed = committed_cells(&bench.path("cache")).len();
    assert_eq!(bench.dial(&["cache", "gc", "--unreferenced"]).code, 0);
    assert_eq!(committed_cells(&bench.path("cache")).len(), committed);
}

/// A stage that is computed again compares; one that is not cached is only run, and what a kill leaves of it is found.
#[test]
fn a_forced_stage_that_is_not_cached_resumes() {
    let bench = Workbench::new(&main_set(30, 20));
    killed_in_a_long_stage(&bench, &["--force", "random"]);
    let committed = committed_cells(&bench.path("cache")).len() as u64;
    let run = bench
        .run_with(&long_study(200), &["--force", "random"])
        .ok();
    assert_eq!(run.all_computed(), [("random", 80_050 - committed)]);
    let said = bench.dial(&["run", "study.toml", "--only", "score", "--force", "random"]);
    assert_snapshot!(said.message(2), @"error: stage `random` is to be computed again with `--force`, but is not among the stages to run: `score`");
}

/// SIGTERM, as Slurm and a shutdown send it, and a lost terminal's SIGHUP end a run as Ctrl-C does; under `nohup` the latter does not.
#[test]
fn a_run_that_is_asked_to_end_commits_what_it_has() {
    for (signal, is_under_nohup) in [("-TERM", false), ("-HUP", false), ("-HUP", true)] {
        let bench = Workbench::new(&main_set(30, 20));
        bench.write("study.toml", long_study(100));
        let command = match is_under_nohup {
            true => {
                let mut command = std::process::Command::new("nohup");
                command
                    .arg(env!("CARGO_BIN_EXE_dial"))
                    .current_dir(bench.path(""));
                command.args(["run", "study.toml", "--threads", "1"]);
                command
            }
            false => bench.command(&["run", "study.toml", "--threads", "1"]),
        };
        // The first stage is committed.
        let mut running = hold::start(&bench, command, Place::Packs(1)).surely();
        match is_under_nohup {
            true => running.signal(signal),
            false => running.ask_to_end(signal),
        }
        let code = running.end(&bench).code;
        let manifest = std::fs::read(bench.path("runs/study/latest/run.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let expected = match is_under_nohup {
            true => (0, "complete"),
            false => (130, "interrupted"),
        };
        assert_eq!(
            (code, manifest["status"].as_str().unwrap()),
            expected,
            "{signal}"
        );
        let told = manifest["stages"].as_array().unwrap().iter();
        let told: u64 = told
            .map(|stage| stage["cells_computed"].as_u64().unwrap())
            .sum();
        let committed = committed_cells(&bench.path("cache")).len() as u64;
        assert_eq!(told, committed, "{signal}");
    }
}

/// What is asked of status is in `run.json`, so that it costs as little with a large cache as with none.
#[test]
fn status_reads_no_cache() {
    let bench = bench();
    bench.run_with(STUDY, &["--only", "score"]).ok();
    let before = bench.dial(&["status"]).stdout;
    std::fs::remove_dir_all(bench.path("cache")).unwrap();
    assert_eq!(bench.dial(&["status"]).stdout, before);
    assert!(!bench.path("cache").exists());
}

/// A cell that its model cannot give fails like one without a finite value: by name, and alone.
#[test]
fn a_prompt_too_long_to_continue_fails_alone() {
    let mut prompts = main_set(4, 2);
    let long = vec!["calm1"; 60].join(" ");
    prompts[3].text = long;
    let bench = Workbench::new(&prompts);
    let study = "[models.inst]\nsource = \"models/inst\"\n[prompts.main]\npath = \"main.jsonl\"\n\
                 [stages.generate]\nmodel = \"inst\"\nprompts = \"main\"\nmax_new_tokens = 60\n";
    bench.write("study.toml", study);
    let said = bench.dial(&["run", "study.toml", "--format", "json", "--threads", "1"]);
    let line = said.last_line(1);
    assert!(
        line.starts_with("error: stage `generate`: prompt `edge-03`: "),
        "{line}"
    );
    assert!(line.contains("exceed the model's context of 128"), "{line}");
    let json: serde_json::Value = serde_json::from_str(said.stdout.trim()).unwrap();
    assert_eq!(json["stages"][0]["cells_computed"], 11);
}
