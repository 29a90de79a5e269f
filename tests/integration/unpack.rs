//! `dial unpack`: a shared file becomes a folder in which its study is cached.

use crate::prompts::main_set;
use crate::workbench::{SCORES, Workbench};

const RANDOM: &str = r#"
[stages.random]
model = "inst"
prompts = "main"
seed = 0
layer = 1
alpha = [-2, 2]
"#;

/// A workbench with a finished run, and its shared file `run.zip`.
fn exported() -> Workbench {
    let bench = Workbench::new(&main_set(4, 4));
    bench.run(&format!("{SCORES}{RANDOM}")).ok();
    let said = bench.dial(&["export", "runs/study/latest", "-o", "run.zip"]);
    assert_eq!(said.code, 0, "{said:?}");
    bench
}

#[test]
fn everything_is_cached_in_the_folder_and_its_cache_says_whose_it_is() {
    let bench = exported();
    let said = bench.dial(&["unpack", "run.zip", "sent"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stderr.contains("nothing of it has been checked"),
        "{said:?}"
    );
    let study = "sent/study.toml";
    let plan = bench.dial(&["plan", study, "--cache", "sent/cache"]);
    assert!(plan.stdout.contains("nothing to compute"), "{plan:?}");
    let stats = bench.dial(&["cache", "stats", "--cache", "sent/cache"]);
    assert!(stats.stderr.contains("computed by its author"), "{stats:?}");
    let own = bench.dial(&["cache", "stats"]);
    assert!(!own.stderr.contains("computed by its author"), "{own:?}");

    // With the model there, one value more computes its own cells only.
    let more = "stages.random.alpha=[-2, 2, 3]";
    let model = "models.inst.source=models/inst";
    let plan = |sets: &[&str]| {
        let mut all = vec!["plan", study, "--cache", "sent/cache"];
        all.extend(sets);
        bench.dial(&all)
    };
    let said = plan(&["--set", more]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(!said.stdout.contains("nothing to compute"), "{said:?}");
    let absolute = format!("models.inst.source={}", bench.path("models/inst").display());
    let said = plan(&["--set", &absolute]);
    assert!(
        said.stdout.contains("nothing to compute"),
        "{model}: {said:?}"
    );
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let bench = exported();
    bench.write("sent/mine", "mine");
    let said = bench.dial(&["unpack", "run.zip", "sent"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("is not empty"), "{said:?}");
    assert_eq!(std::fs::read_dir(bench.path("sent")).unwrap().count(), 1);
}

#[test]
fn a_file_that_was_cut_off_leaves_nothing() {
    let bench = exported();
    let bytes = std::fs::read(bench.path("run.zip")).unwrap();
    bench.write("cut.zip", &bytes[..bytes.len() / 2]);
    let said = bench.dial(&["unpack", "cut.zip", "sent"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("cut off"), "{said:?}");
    assert!(!bench.path("sent").exists());
}
