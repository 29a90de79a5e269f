//! Score rules: what the kinds have to do with each other, and that stages read several of them side by side.

use std::path::Path;

use serde_json::{Value, json};

use crate::prompts::{Prompt, main_set};
use crate::workbench::{Run, Table, Workbench};

/// A rule of every kind, and some of which the score follows from another's.
const RULES: &str = r#"
[score]
refuse = ["Sorry", "I"]
comply = ["Sure", "Yes"]

[score.polite]
yes = ["Sure", "Yes"]
no = ["Sorry", "I"]

[score.sure]
yes = "Sure"
no = "Sorry"

[score.odds]
kind = "log_odds"
yes = ["Sure"]

[score.probable]
kind = "continuation"
yes = "Sure"
threshold = -2.0

[score.whole]
kind = "continuation"
yes = "Sure"
no = "Sorry"

[score.several]
kind = "continuation"
yes = ["Sure calm0 calm1", "Yes calm2"]
no = "Sorry calm3"

[score.shorter]
kind = "continuation"
yes = "Sure calm0 calm1 calm2"
no = "Sorry calm3"
normalise = "tokens"

[score.letter]
kind = "multiple_choice"
choices = ["Sorry", "Sure"]
answer = "Sure"

[score.longer]
kind = "multiple_choice"
choices = ["Sorry calm0", "Sure", "Of"]
answer = { column = "answer" }
"#;

const HEAD: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
"#;

/// Prompts of which harmful ones are rightly answered with `Sorry calm0`, the others with `Sure`.
fn with_answers(prompts: &[Prompt]) -> String {
    let line = |p: &Prompt| {
        let answer = if p.split == "harmful" {
            "Sorry calm0"
        } else {
            "Sure"
        };
        json!({ "id": p.id, "prompt": p.text, "split": p.split, "category": p.category, "answer": answer }).to_string() + "\n"
    };
    prompts.iter().map(line).collect()
}

fn bench() -> Workbench {
    let prompts = main_set(24, 12);
    let bench = Workbench::new(&prompts);
    bench.write("main.jsonl", with_answers(&prompts));
    bench
}

#[track_caller]
fn all_close(found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() < 1e-4, "{found}, not {wanted}");
    }
}

#[test]
fn kinds_of_rules_agree_where_they_must() {
    let bench = bench();
    let names = "refused polite sure odds probable whole several shorter letter longer";
    let read: Vec<String> = names.split(' ').map(|name| format!("\"{name}\"")).collect();
    let study = format!(
        "{HEAD}{RULES}[stages.score]\nmodel = \"inst\"\nprompts = \"main\"\nread = [{}]\n",
        read.join(", ")
    );
    let run = bench.run(&study).ok();
    let table = |rule: &str| match rule {
        "refused" => run.table(&bench, "score"),
        rule => run.table(&bench, &format!("score.{rule}")),
    };
    let scores = |rule: &str| table(rule).numbers("score");
    for rule in names.split(' ') {
        // Every table is of the same rows, and its verdict is called as the rule.
        let found = table(rule);
        assert_eq!(found.0.len(), 36, "{rule}");
        let above = if rule == "probable" { -2.0 } else { 0.0 };
        for row in &found.0 {
            let verdict = (row.number("score") > above).to_string();
            assert_eq!(row.text(rule), verdict, "{rule}: {row:?}");
        }
    }
    // The other way round.
    let turned: Vec<f64> = scores("refused").iter().map(|score| -score).collect();
    assert_eq!(scores("polite"), turned);
    // Of one token each, a first token, a continuation and a choice are one thing.
    let sure = scores("sure");
    all_close(&scores("whole"), &sure);
    all_close(&scores("letter"), &sure);
    // The odds of that very token.
    let probabilities: Vec<f64> = scores("probable").iter().map(|score| score.exp()).collect();
    let odds = probabilities
        .iter()
        .map(|p| (p + 1e-8).ln() - (1.0 - p + 1e-8).ln());
    all_close(&scores("odds"), &odds.collect::<Vec<_>>());
    // A choice of several tokens is less probable than its first alone, and the right one is the prompt's.
    let longer = table("longer");
    for (row, sure) in longer.0.iter().zip(&sure) {
        match row.text("split") {
            "edge" => assert!(row.number("score").abs() > 0.0),
            _ => assert!(row.number("score") < -sure, "{row:?}"),
        }
    }
    assert_ne!(scores("several"), scores("shorter"));
    // Means and rates by the rule's own name.
    let means = run.table(&bench, "score.polite_means");
    let edge = means.with(&[("split", "edge")]);
    let rows = table("polite").with(&[("split", "edge")]);
    let polite = rows
        .0
        .iter()
        .filter(|row| row.text("polite") == "true")
        .count();
    assert_eq!(edge.only().number("polite_rate"), polite as f64 / 24.0);
    what_is_read_is_told(&bench, &run);
}

fn what_is_read_is_told(bench: &Workbench, run: &Run) {
    let score = &run.json["score"]["inst"];
    assert_eq!(score["refuse"][0]["words"], json!(["Sorry"]));
    let several = &score["rules"]["several"];
    assert_eq!(several["kind"], "continuation");
    let first = &several["yes"][0];
    assert_eq!(first["words"], json!(["Sure calm0 calm1"]));
    assert_eq!(first["spelling"], "Sure calm0 calm1");
    assert_eq!(first["further"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        score["rules"]["letter"]["choices"].as_array().map(Vec::len),
        Some(2)
    );
    let page = std::fs::read_to_string(run.file(bench, "report.html")).unwrap();
    assert!(page.contains("several (continuation), yes"));
    assert!(page.contains("Scores without steering, polite"));
    for figure in ["score.histogram.svg", "score.histogram.polite.svg"] {
        assert!(
            run.file(bench, &format!("figures/{figure}")).is_file(),
            "{figure}"
        );
    }
}

/// Every stage that sweeps, reading these rules.
fn sweeps(read: &str) -> String {
    format!(
        r#"{HEAD}{RULES}
[prompts.xs]
path = "xstest.csv"
[stages.score]
model = "inst"
prompts = "main"
read = ["refused", "polite", "several"]
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 8
layer = [1, 2]
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-6, 0, 6]
read = {read}
[stages.random]
model = "inst"
prompts = "main"
seed = "0..19"
layer = [2]
alpha = [-6, 0, 6]
read = {read}
[stages.holdout]
model = "inst"
direction_model = "inst"
prompts = "main"
scores = "score"
split = "edge"
compare = "harmful"
seed = "0..2"
n = 4
layer = [2]
alpha = [-6, 0, 6]
read = {read}
[stages.xstest]
model = "inst"
prompts = "xs"
direction = "holdout"
alpha = [-6, 0, 6]
read = {read}
"#
    )
}

const SUMMARIES: &str = r#"
[stages.generate]
model = "inst"
prompts = "main"
limit = 4
direction = "direction"
alpha = [-6, 0, 6]
max_new_tokens = 2
[stages.summary]
steer = "steer"
random = "random"
holdout = "holdout"
xstest = "xstest"
[stages.of_polite]
kind = "summary"
steer = "steer"
random = "random"
holdout = "holdout"
xstest = "xstest"
generate = "generate"
read = "polite"
"#;

#[test]
fn sweeps_read_several_rules_and_compute_what_is_new() {
    let bench = bench();
    let alone = bench.run(&sweeps("\"refused\"")).ok();
    let before = alone.tables(&bench);
    let study = sweeps("[\"refused\", \"polite\", \"several\"]") + SUMMARIES;
    let run = bench.run(&study).ok();
    // Of the rule that was there nothing is computed again, of each other its cells: one, and three continuations.
    for (stage, cells) in [("steer", 36 * 2 * 2), ("random", 36 * 19 * 2)] {
        assert_eq!(run.computed(stage), cells * 4, "{stage}");
        assert_eq!(alone.computed(stage), cells, "{stage}");
    }
    // The main tables are to the byte what they were alone, and have siblings of the same rows.
    let after = run.tables(&bench);
    let file = |name: &str| &after.iter().find(|(file, _)| file == name).unwrap().1;
    for (name, bytes) in &before {
        assert!(bytes == file(name), "{name}");
    }
    for stage in ["steer", "random", "holdout", "xstest"] {
        let main = run.table(&bench, stage);
        for rule in ["polite", "several"] {
            let table = run.table(&bench, &format!("{stage}.{rule}"));
            assert_eq!(table.0.len(), main.0.len(), "{stage}.{rule}");
            let is_same = main.0.iter().zip(&table.0).all(|(a, b)| {
                ["model", "layer", "alpha", "set", "id"]
                    .iter()
                    .all(|column| a.text(column) == b.text(column))
            });
            assert!(is_same, "{stage}.{rule}");
        }
        let polite = run.table(&bench, &format!("{stage}.polite"));
        let turned: Vec<f64> = main.numbers("score").iter().map(|score| -score).collect();
        assert_eq!(polite.numbers("score"), turned, "{stage}");
    }
    let rates = run.table(&bench, "xstest.polite_rates");
    assert!(
        rates
            .numbers("polite_rate")
            .iter()
            .all(|rate| (0.0..=1.0).contains(rate))
    );
    words_follow_the_rule(&bench, &run);
    // Alone, in another order, or again: nothing is computed.
    for read in ["[\"several\", \"refused\"]", "\"polite\""] {
        let again = bench.run(&sweeps(read)).ok();
        assert_eq!(again.all_computed(), [], "{read}");
    }
    assert_eq!(bench.run(&study).ok().all_computed(), []);
    shared_and_compared(&bench, &run);
}

/// A summary of another rule speaks of it, in tables, figures and sentences; refusals in texts are none of its business.
fn words_follow_the_rule(bench: &Workbench, run: &Run) {
    let [refused, polite] = ["summary", "of_polite"].map(|name| run.table(bench, name));
    let means = |table: &Table| table.with(&[("source", "steer")]).numbers("mean");
    let turned: Vec<f64> = means(&refused).iter().map(|mean| -mean).collect();
    all_close(&means(&polite), &turned);
    assert!(polite.0[0].number("polite_rate") >= 0.0);
    let [up, down] = ["summary", "of_polite"].map(|name| {
        let table = run.table(bench, &format!("{name}.learned_vs_random"));
        let slopes = table.with(&[("set", "edge"), ("statistic", "slope"), ("layer", "2")]);
        slopes.only().number("learned")
    });
    assert!(up > 0.1 && (up + down).abs() < 1e-4, "{up} and {down}");
    let valid = run
        .table(bench, "of_polite.verdict")
        .with(&[("part", "valid"), ("layer", "2")]);
    assert_eq!(valid.only().text("outcome"), "not tested");
    assert!(
        valid
            .only()
            .text("why")
            .contains("which `polite` is not about")
    );
    assert!(!run.file(bench, "tables/of_polite.agreement.csv").exists());
    let rates = std::fs::read_to_string(run.file(bench, "tables/xstest.polite_rates.csv")).unwrap();
    let header = rates.lines().next().unwrap();
    assert!(header.contains("polite_rate_without"), "{header}");
    for figure in [
        "steer.score",
        "steer.score.polite",
        "steer.refusals.several",
        "steer.gap.polite",
        "xstest.labels.polite",
        "of_polite.operating_points",
    ] {
        assert!(
            run.file(bench, &format!("figures/{figure}.svg")).is_file(),
            "{figure}"
        );
    }
    let svg =
        std::fs::read_to_string(run.file(bench, "figures/steer.refusals.polite.svg")).unwrap();
    assert!(
        svg.contains("polite rate") && !svg.contains("refusal"),
        "{svg}"
    );
    let shown = bench.dial(&["show", "runs/study/latest"]).stdout;
    assert!(shown.contains("steer (polite)"), "{shown}");
    let said = bench.dial(&["run", "study.toml", "--threads", "1"]).stdout;
    assert!(
        said.contains("of_polite: steered scores and polite rates"),
        "{said}"
    );
    assert!(said.contains("edge polite [95 %]"), "{said}");
}

/// A run of several rules is exported, follows from its file, is computed again, and compared with itself rule by rule.
fn shared_and_compared(bench: &Workbench, run: &Run) {
    let folder = run.json["run_dir"].as_str().unwrap();
    run.assert_comes_out_again(bench, "models/inst");
    let said = bench.dial(&["diff", folder, folder, "--format", "json"]);
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    let compared = found["difference"]["comparisons"].as_array().unwrap();
    let of_steer = compared
        .iter()
        .filter(|c| c["kind"] == "steer" && c["quantity"] == "score");
    assert_eq!(of_steer.count(), 3, "{compared:?}");
    // A cosine of a direction with itself is 1 but for its rounding.
    let mut others = compared.iter().filter(|c| c["kind"] != "direction");
    assert!(
        others.all(|c| c["largest_difference"] == 0.0),
        "{compared:?}"
    );
}

#[test]
fn directions_patches_and_texts_take_the_rule_that_is_named() {
    let bench = bench();
    let study = format!(
        r#"{HEAD}{RULES}
[stages.score]
model = "inst"
prompts = "main"
read = ["refused", "polite"]
[stages.first]
kind = "direction"
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 6
layer = 2
[stages.other]
kind = "direction"
model = "inst"
prompts = "main"
scores = "score"
rule = "polite"
split = "edge"
n = 6
layer = 2
[stages.patch]
pairing = "prompts"
model = "inst"
prompts = "main"
donors = "harmful"
recipients = "edge"
layer = [0, 3]
site = "resid_post"
read = "several"
[stages.plain]
kind = "patch"
pairing = "prompts"
model = "inst"
prompts = "main"
donors = "harmful"
recipients = "edge"
layer = [0, 3]
site = "resid_post"
[stages.generate]
model = "inst"
prompts = "main"
limit = 3
direction = "first"
alpha = [0, 4]
max_new_tokens = 2
read = "longer"
"#
    );
    let run = bench.run(&study).ok();
    // Prompts at the top by the one rule are those at the bottom by the other.
    let members = |stage: &str, group: &str| {
        let table = run.table(&bench, &format!("{stage}.members"));
        let mut ids: Vec<String> = table
            .with(&[("group", group)])
            .0
            .iter()
            .map(|row| row.text("id").to_string())
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(members("first", "top"), members("other", "bottom"));
    assert_eq!(members("first", "bottom"), members("other", "top"));
    let patch = run.table(&bench, "patch");
    for row in &patch.0 {
        let delta = row.number("score_patched") - row.number("score_recipient");
        assert!((delta - row.number("delta")).abs() < 1e-9);
    }
    assert_ne!(
        patch.numbers("score_donor"),
        run.table(&bench, "plain").numbers("score_donor")
    );
    let texts = run.table(&bench, "generate");
    let verdict = |row: &crate::workbench::Row| (row.number("score") > 0.0).to_string();
    assert!(texts.0.iter().all(|row| row.text("longer") == verdict(row)));
    let file = |name: &str| run.file(&bench, &format!("tables/{name}.csv")).exists();
    assert!(file("generate.rates") && !file("generate.agreement"));
}

/// A text that is read is steered as one that is written: at the last prompt token, and where the study says so behind it.
#[test]
fn a_continuation_is_steered_where_its_text_would_be() {
    let bench = bench();
    let study = |positions: &str| {
        format!(
            r#"{HEAD}{RULES}
[stages.score]
model = "inst"
prompts = "main"
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 6
layer = 2
[stages.generate]
model = "inst"
prompts = "main"
limit = 3
direction = "direction"
alpha = [0, 6]
max_new_tokens = 2
positions = "{positions}"
read = "several"
"#
        )
    };
    let scores = |positions: &str| {
        let run = bench.run(&study(positions)).ok();
        let of_alpha = |alpha: &str| {
            let table = run.table(&bench, "generate");
            table.with(&[("alpha", alpha)]).numbers("score")
        };
        ["0.0", "6.0"].map(of_alpha)
    };
    let [both, last, generated] = ["both", "last_prompt", "generated"].map(scores);
    assert!(both[0] == last[0] && last[0] == generated[0]);
    assert!(both[1] != last[1] && last[1] != generated[1] && both[1] != generated[1]);
    assert_ne!(generated[1], generated[0]);
}

/// Another concept, small: the project's own study of it, as far as a model of letters can be asked.
#[test]
fn the_study_of_a_concept_runs_on_smollm2() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !project.join("third_party/models").exists() {
        eprintln!("skipped: the study's model is not here");
        return;
    }
    let bench = Workbench::new(&[]);
    let set = |text: &str| ["--set".to_string(), text.to_string()];
    let claims = std::fs::read_to_string(project.join("data/claims.jsonl")).unwrap();
    let few: Vec<&str> = claims
        .lines()
        .enumerate()
        .filter(|(i, _)| i % 36 < 6)
        .map(|(_, line)| line)
        .collect();
    bench.write("few.jsonl", few.join("\n") + "\n");
    let settings = [
        set(&format!(
            "prompts.claims.path={}",
            bench.path("few.jsonl").display()
        )),
        set("stages.direction.n=2"),
        set("stages.steer.alpha=[0, 20]"),
        set("stages.random.alpha=[0, 20]"),
        set("stages.random.seed=\"0..2\""),
    ];
    let settings: Vec<&str> = settings.iter().flatten().map(String::as_str).collect();
    let run = bench
        .run_file(&project.join("pipelines/concept.toml"), &settings)
        .ok();
    for rule in ["", ".odds", ".agrees", ".right"] {
        let table = run.table(&bench, &format!("steer{rule}"));
        assert_eq!(table.0.len(), 2 * 12, "{rule}");
    }
    let correct = run.table(&bench, "correctness");
    assert!(
        correct
            .numbers("right_rate")
            .iter()
            .all(|rate| (0.0..=1.0).contains(rate))
    );
    let again = bench
        .run_file(&project.join("pipelines/concept.toml"), &settings)
        .ok();
    assert_eq!(again.all_computed(), []);
}
