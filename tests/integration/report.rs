//! What people look at: the page in a real browser, the figures, and the tables in a terminal.
//!
//! The page needs Chromium (`scripts/setup-browser.sh`, which `make test-all` runs). Where there is none the test fails and says so: a page that
//! nobody opened is not tested. Screenshots are kept in `target/report/`, to be looked at.

mod browser;
mod odd;

use std::sync::OnceLock;

use crate::prompts::{Prompt, main_set};
use crate::workbench::{Run, Workbench};

/// A prompt that would run if any part of the page took it for markup.
pub const HOSTILE: &str = "harm1 calm2 </script><script>window.pwned = 1</script> <img src=x onerror=\"window.pwned = 2\"> <!-- {{ 7 * 7 }} & \u{2028} calm3";

const STUDY: &str = r#"
[study]
question = "Does <b>markup</b> stay text?"
[models.inst]
source = "models/inst"
[models.base]
source = "models/base"
[prompts.main]
path = "main.jsonl"
[prompts.xstest]
path = "xstest.csv"
[stages.score]
model = ["base", "inst"]
prompts = "main"
[stages.patch]
pairing = "models"
donor = "inst"
recipient = "base"
prompts = "main"
layer = "all"
site = ["resid_pre", "mlp_out"]
[stages.patch_last_k]
kind = "patch"
pairing = "models"
donor = "inst"
recipient = "base"
prompts = "main"
cumulative = "last_k"
site = ["resid_post", "mlp_out"]
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 10
layer = [2, 3]
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-6, -3, 0, 3, 6]
[stages.generate]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-6, 0, 6]
max_new_tokens = 4
[stages.random]
model = "inst"
prompts = "main"
seed = "0..20"
layer = [2, 3]
alpha = [-6, -3, 0, 3, 6]
[stages.holdout]
model = "inst"
direction_model = "inst"
prompts = "main"
scores = "score"
split = "edge"
compare = "harmful"
seed = "0..2"
fraction = 0.5
n = 5
allow_overlap = true
layer = [2, 3]
alpha = [-6, -3, 0, 3, 6]
[stages.xstest]
model = "inst"
prompts = "xstest"
direction = "holdout"
seed = 0
alpha = [-6, 0, 6]
[stages.summary]
steer = "steer"
holdout = "holdout"
random = "random"
xstest = "xstest"
"#;

/// The study, run once for all tests.
fn studied() -> &'static (Workbench, Run) {
    static STUDIED: OnceLock<(Workbench, Run)> = OnceLock::new();
    STUDIED.get_or_init(|| {
        let mut prompts = main_set(24, 12);
        prompts.push(Prompt {
            id: "hostile".to_string(),
            text: HOSTILE.to_string(),
            split: "harmful".to_string(),
            category: "<i>kind</i>".to_string(),
        });
        prompts.push(Prompt {
            id: "\"><script>window.pwned = 3</script>".to_string(),
            text: "calm4 calm5 ]]> --> ' \" \u{2028} </textarea>".to_string(),
            split: "harmful".to_string(),
            category: "</text></svg><img src=x onerror=\"window.pwned = 4\"> ]]> \u{2028} '"
                .to_string(),
        });
        let bench = Workbench::new(&prompts);
        let run = bench.run(STUDY).ok();
        (bench, run)
    })
}

fn file(name: &str) -> std::path::PathBuf {
    studied().0.path("runs/study/latest").join(name)
}

#[test]
fn every_figure_is_an_svg_and_a_png() {
    let names: Vec<String> = std::fs::read_dir(file("figures"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for figure in [
        "score.histogram",
        "score.scatter",
        "patch.heatmap",
        "patch.layers",
        "patch_last_k.last_k",
        "steer.score",
        "steer.refusals",
        "steer.categories",
        "steer.gap",
        "steer.pareto",
        "steer.layers_score",
        "steer.layers_refusals",
        "holdout.gap",
        "random.score",
        "xstest.types",
        "xstest.labels",
        "generate.classifiers",
        "direction.cosine",
        "summary.operating_points",
    ] {
        for extension in ["svg", "png"] {
            assert!(
                names.contains(&format!("{figure}.{extension}")),
                "no {figure}.{extension} in {names:?}"
            );
        }
    }
    let svg = std::fs::read_to_string(file("figures/steer.score.svg")).unwrap();
    for text in [
        "α (length added along the unit direction)",
        "mean score (logit difference)",
        "random directions",
        "layer 2, edge",
    ] {
        assert!(svg.contains(text), "no `{text}`");
    }
    let categories = std::fs::read_to_string(file("figures/steer.categories.svg")).unwrap();
    assert!(categories.contains("&lt;i&gt;kind&lt;/i&gt;") && !categories.contains("<i>"));
    let png = std::fs::read(file("figures/steer.score.png")).unwrap();
    assert_eq!(&png[1..4], b"PNG");
}

#[test]
fn a_rerun_has_the_figures_of_the_run_before() {
    let (bench, run) = studied();
    let before = std::fs::read(file("figures/steer.gap.svg")).unwrap();
    let again = bench.copy();
    crate::workbench::copy_folder(&bench.path("runs"), &again.path("runs"));
    std::fs::remove_dir_all(again.path("runs/study/latest")).unwrap();
    let rerun = again.run(STUDY).ok();
    assert_ne!(rerun.json["run_dir"], run.json["run_dir"]);
    let folder = again.path("runs/study/latest");
    assert_eq!(
        std::fs::read(folder.join("figures/steer.gap.svg")).unwrap(),
        before
    );
    assert!(
        std::fs::read_to_string(folder.join("report.html"))
            .unwrap()
            .contains("cached, ")
    );
}

/// The files in `assets/` are those that its README names, with their licences.
#[test]
fn bundled_files_have_the_checksums_that_are_written_down() {
    let assets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let readme = std::fs::read_to_string(assets.join("README.md")).unwrap();
    let named = [
        "echarts/echarts.min.js",
        "fonts/NotoSans-Regular.ttf",
        "fonts/NotoSans-Bold.ttf",
    ];
    for name in named {
        let said = std::process::Command::new("sha256sum")
            .arg(assets.join(name))
            .output()
            .unwrap();
        let sum = String::from_utf8(said.stdout).unwrap()[..64].to_string();
        let row = readme
            .lines()
            .find(|line| line.contains(&format!("`{name}`")))
            .unwrap();
        assert!(row.contains(&sum), "{name} is {sum}");
    }
    for licence in [
        "echarts/LICENSE",
        "echarts/LICENSE-d3",
        "echarts/NOTICE",
        "fonts/OFL.txt",
    ] {
        assert!(assets.join(licence).is_file(), "no {licence}");
    }
}

#[test]
fn the_page_needs_nothing_else() {
    let html = std::fs::read_to_string(file("report.html")).unwrap();
    assert!(html.len() < 5_000_000, "{} bytes", html.len());
    for outside in ["src=\"http", "href=\"http", "url(http", "@import"] {
        assert!(!html.contains(outside), "the page wants `{outside}`");
    }
    assert!(html.contains("default-src &#x27;none&#x27;") || html.contains("default-src 'none'"));
}

#[test]
fn show_writes_the_same_numbers_in_every_form() {
    let (bench, _) = studied();
    let shown = |arguments: &[&str]| {
        let mut all = vec!["show", "runs/study/latest"];
        all.extend(arguments);
        let said = bench.dial(&all);
        assert_eq!(said.code, 0, "{said:?}");
        said.stdout
    };
    let text = shown(&[]);
    assert!(
        text.contains("summary.learned_vs_random") && text.contains('█'),
        "{text}"
    );
    let csv = shown(&["score.means", "--format", "csv"]);
    let table = std::fs::read_to_string(file("tables/score.means.csv")).unwrap();
    assert_eq!(csv.lines().next(), table.lines().next());
    assert_eq!(csv.lines().count(), table.lines().count());
    let json: serde_json::Value =
        serde_json::from_str(&shown(&["score.means", "--format", "json"])).unwrap();
    assert_eq!(
        json["score.means"].as_array().unwrap().len(),
        table.lines().count() - 1
    );
    assert!(shown(&["score.means", "--format", "md"]).contains("| model | split |"));
    let said = bench.dial(&["show", "runs/study/latest", "scor"]);
    assert!(
        said.message(2).contains("did you mean `score`?"),
        "{said:?}"
    );
    let said = bench.dial(&["show", "models"]);
    assert!(
        said.message(2).contains("`models` is not a run's folder"),
        "{said:?}"
    );
}

#[test]
fn diff_ends_with_1_where_numbers_differ() {
    let (bench, _) = studied();
    let same = bench.dial(&["diff", "runs/study/latest", "runs/study/latest"]);
    assert_eq!(same.code, 0, "{same:?}");
    assert!(same.stdout.contains("cosine"), "{}", same.stdout);
    let scores = std::fs::read_to_string(file("tables/score.csv")).unwrap();
    let changed: Vec<String> = scores
        .lines()
        .map(|line| match line.starts_with("inst,hostile") {
            true => "inst,hostile,harmful,x,99.5,true".to_string(),
            false => line.to_string(),
        })
        .collect();
    bench.write("published_scores.csv", changed.join("\n"));
    let said = bench.dial(&[
        "diff",
        "runs/study/latest",
        "published_scores.csv",
        "--format",
        "csv",
    ]);
    assert_eq!(said.code, 1, "{said:?}");
    // The score, and the mean of the set that it is in.
    assert!(said.stderr.contains("2 of "), "{}", said.stderr);
    let outside: Vec<&str> = said
        .stdout
        .lines()
        .filter(|line| line.ends_with("false"))
        .collect();
    assert!(
        outside.len() == 2 && outside[0].contains("id=hostile") && outside[0].contains("99.5"),
        "{outside:?}"
    );
    assert!(
        outside[1].contains(",mean,") && outside[1].contains("set=harmful"),
        "{outside:?}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut dial = std::process::Command::new(env!("CARGO_BIN_EXE_dial"))
        .args(["show", "--format", "csv"])
        .arg(file(""))
        .arg("random")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(dial.stdout.take());
    let said = dial.wait_with_output().unwrap();
    assert_eq!(said.status.code(), Some(0), "{said:?}");
}

#[test]
fn dag_prints_the_pipeline() {
    let (bench, _) = studied();
    let mermaid = bench.dial(&["dag", "study.toml"]);
    assert!(mermaid.stdout.starts_with("flowchart LR\n"), "{mermaid:?}");
    let graphviz = bench.dial(&["dag", "study.toml", "--format", "graphviz"]);
    assert!(
        graphviz.stdout.contains("\"direction\" -> \"steer\";"),
        "{graphviz:?}"
    );
}

/// What may be edited by anybody who is sent a run: nothing of it reaches another run.
#[test]
fn a_run_that_was_edited_changes_no_other() {
    let (bench, _) = studied();
    let bench = &bench.copy();
    let first = bench.run(STUDY).ok();
    let folder = |run: &Run| std::path::PathBuf::from(run.json["run_dir"].as_str().unwrap());
    let first = bench.path("").join(folder(&first));
    let page = std::fs::read_to_string(first.join("report.html")).unwrap();
    // Every file of its figures is written over in place, and what early versions trusted is there again.
    let forged = r#"{"key":"","verdict":{"class":"pass","headline":"The controls pass (99 of 99 comparisons)","lines":["forged"]},"main_tables":[],"stages":{},"has_prompts":false,"data":"</script><meta http-equiv=\"refresh\" content=\"0;url=https://example.invalid/\">"}"#;
    std::fs::write(first.join("figures/content.json"), forged).unwrap();
    for path in crate::workbench::files_below(&first.join("figures")) {
        if !path.ends_with("content.json") {
            std::fs::write(path, "forged").unwrap();
        }
    }
    let second = bench.path("").join(folder(&bench.run(STUDY).ok()));
    let drawn = std::fs::read_to_string(second.join("report.html")).unwrap();
    assert!(!drawn.contains("forged") && !drawn.contains("99 of 99"));
    assert_eq!(
        drawn.matches("<meta").count(),
        page.matches("<meta").count()
    );
    let picture = std::fs::read_to_string(second.join("figures/steer.gap.svg")).unwrap();
    assert!(picture.starts_with("<svg"));
    for path in crate::workbench::files_below(&second.join("figures")) {
        use std::os::unix::fs::MetadataExt;
        assert_eq!(path.metadata().unwrap().nlink(), 1, "{path:?} is shared");
        assert_ne!(std::fs::read(&path).unwrap(), b"forged", "{path:?}");
    }
    // A link to another run's figures is not written through.
    std::fs::remove_dir_all(first.join("figures")).unwrap();
    std::os::unix::fs::symlink(second.join("figures"), first.join("figures")).unwrap();
    std::fs::write(second.join("figures/steer.gap.svg"), "kept").unwrap();
    let said = bench.dial(&["report", &first.display().to_string()]);
    assert_eq!(said.code, 0, "{said:?}");
    let picture =
        |run: &std::path::Path| std::fs::read_to_string(run.join("figures/steer.gap.svg"));
    assert_eq!(picture(&second).unwrap(), "kept");
    assert!(picture(&first).unwrap().starts_with("<svg"));
}

/// A damaged object of the cache is drawn again; a drawing is made anew from what `dial report` finds in the tables.
#[test]
fn what_was_drawn_is_checked_when_it_is_taken() {
    let (bench, _) = studied();
    let bench = &bench.copy();
    bench.run(STUDY).ok();
    let good = std::fs::read(bench.path("runs/study/latest/figures/steer.gap.svg")).unwrap();
    let mut damaged = 0;
    for path in crate::workbench::files_below(&bench.path("cache/v1/objects")) {
        if std::fs::read(&path).unwrap().starts_with(b"<svg") {
            std::fs::write(&path, "<svg>forged</svg>").unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 10, "{damaged}");
    let again = bench.run(STUDY).ok();
    assert_eq!(again.all_computed(), []);
    let figure = bench.path("runs/study/latest/figures/steer.gap.svg");
    assert_eq!(std::fs::read(&figure).unwrap(), good);
    std::fs::write(&figure, "edited").unwrap();
    assert_eq!(bench.dial(&["report", "runs/study/latest"]).code, 0);
    assert_eq!(std::fs::read(&figure).unwrap(), good);
}
