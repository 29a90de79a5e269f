//! The stage against what transformers says of the same prompts, edits and readouts: `tests/cost/make_cost.py` wrote the numbers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use crate::checkpoint::copied;
use crate::workbench::{Row, Run, Table, Workbench};

/// Of nats that are sums of up to twenty logarithms in float32 passes, as for single cells (`src/model/parity_tests/edits.rs`); measured below 4e-6.
const TOLERANCE: f64 = 2e-5;

const STUDY: &str = r#"
[models.inst]
source = "models/mistral"
[prompts.main]
path = "prompts.jsonl"
[prompts.texts]
path = "texts.jsonl"
[prompts.questions]
path = "questions.jsonl"
[score]
refuse = "w1"
comply = "w2"
[stages.vector]
model = "inst"
file = "direction.safetensors"
layer = 1
[stages.cost]
model = "inst"
direction = "vector"
alpha = [-3, 2]
random = 0
kl = { prompts = "main", split = "plain" }
texts = { prompts = "texts" }
answers = { prompts = "main", split = "plain", max_new_tokens = 5 }
choices = { prompts = "questions", form = "continuations" }
[stages.ablated]
kind = "cost"
model = "inst"
direction = "vector"
mode = "ablate_everywhere"
random = 0
kl = { prompts = "main", split = "plain" }
texts = { prompts = "texts" }
answers = { prompts = "main", split = "plain", max_new_tokens = 5 }
choices = { prompts = "questions", form = "continuations" }
[stages.theirs]
kind = "cost"
model = "inst"
direction = "vector"
alpha = [-3, 2]
random = 0
kl = { prompts = "main", split = "plain", variant = "refusal_direction" }
[stages.begun]
kind = "cost"
model = "inst"
direction = "vector"
alpha = [-3, 2]
random = 0
kl = { prompts = "main", split = "alike", variant = "heretic" }
"#;

/// What `make_cost.py` wrote, and the study.
struct Compared {
    bench: Workbench,
    run: Run,
    expected: Value,
}

fn compared() -> &'static Compared {
    static COMPARED: OnceLock<Compared> = OnceLock::new();
    COMPARED.get_or_init(|| {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        let bench = Workbench::new(&[]);
        let folder = copied(
            &project.join("tests/families/mistral_full"),
            bench.path("models/mistral"),
        );
        let template = r#"{"chat_template": "{{ messages[-1]['content'] }}"}"#;
        std::fs::write(folder.join("tokenizer_config.json"), template).unwrap();
        let given = project.join("tests/cost");
        for name in [
            "prompts.jsonl",
            "texts.jsonl",
            "questions.jsonl",
            "direction.safetensors",
        ] {
            bench.write(name, std::fs::read(given.join(name)).unwrap());
        }
        let expected = std::fs::read_to_string(given.join("expected.json")).unwrap();
        let run = bench.run(STUDY).ok();
        Compared {
            bench,
            run,
            expected: serde_json::from_str(&expected).unwrap(),
        }
    })
}

impl Compared {
    fn table(&self, name: &str) -> Table {
        self.run.table(&self.bench, name)
    }

    /// The runs of a stage, by the names that the reference has for them.
    fn runs<'t>(&self, table: &'t Table) -> BTreeMap<&'static str, Vec<&'t Row>> {
        let mut runs: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in &table.0 {
            let name = match (row.text("direction"), row.text("alpha")) {
                ("none", _) => "none",
                (_, "-3.0") => "-3.0",
                (_, "2.0") => "2.0",
                (_, "") => "ablated",
                other => panic!("{other:?}"),
            };
            runs.entry(name).or_default().push(row);
        }
        runs
    }

    fn expected(&self, run: &str, what: &str) -> &[Value] {
        self.expected["runs"][run][what].as_array().unwrap()
    }
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < TOLERANCE, "{found} {expected}");
}

#[test]
fn divergences() {
    let all = compared();
    for (stage, what, place) in [
        ("cost", "kl", 0),
        ("ablated", "kl", 0),
        ("theirs", "kl", 1),
        ("begun", "heretic", 0),
    ] {
        let (table, means) = (all.table(&format!("{stage}.kl")), all.table(stage));
        let means = all.runs(&means);
        for (run, rows) in all.runs(&table) {
            let expected = all.expected(run, what);
            assert_eq!(rows.len(), expected.len(), "{stage}, {run}");
            let mut sum = 0.0;
            for (row, expected) in rows.iter().zip(expected) {
                let nats = expected[place].as_f64().unwrap();
                close(row.number("kl"), nats);
                assert_eq!(row.text("same_token"), expected[2].to_string());
                sum += nats;
            }
            close(means[run][0].number("kl"), sum / rows.len() as f64);
        }
    }
    let told = format!(
        "the unedited answers all begin with `{}`",
        all.expected["beginning"].as_str().unwrap()
    );
    assert!(
        all.run.said.stderr.contains(&told),
        "{}",
        all.run.said.stderr
    );
}

#[test]
fn cross_entropy() {
    let all = compared();
    for (stage, what) in [
        ("cost", "texts"),
        ("cost", "answers"),
        ("ablated", "texts"),
        ("ablated", "answers"),
    ] {
        let (table, means) = (all.table(&format!("{stage}.{what}")), all.table(stage));
        let means = all.runs(&means);
        for (run, rows) in all.runs(&table) {
            let expected = all.expected(run, what);
            assert_eq!(rows.len(), expected.len(), "{stage}, {run}");
            let (mut nll, mut tokens) = (0.0, 0.0);
            for (row, expected) in rows.iter().zip(expected) {
                let [lost, count] = [0, 1].map(|place| expected[place].as_f64().unwrap());
                close(row.number("nll"), lost);
                assert_eq!(row.number("tokens"), count);
                nll += lost;
                tokens += count;
            }
            close(means[run][0].number(&format!("{what}_ce")), nll / tokens);
        }
    }
}

#[test]
fn choices() {
    let all = compared();
    for stage in ["cost", "ablated"] {
        let (table, means) = (all.table(&format!("{stage}.choices")), all.table(stage));
        let means = all.runs(&means);
        for (run, rows) in all.runs(&table) {
            let mut right = 0.0;
            for (number, (row, logs)) in rows.iter().zip(all.expected(run, "choices")).enumerate() {
                let logs: Vec<f64> = logs
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|l| l.as_f64().unwrap())
                    .collect();
                let answer = number % logs.len();
                let best = (0..logs.len())
                    .max_by(|&a, &b| logs[a].total_cmp(&logs[b]))
                    .unwrap();
                let letter = |place: usize| "ABCD"[place..=place].to_string();
                assert_eq!(row.text("chosen"), letter(best), "{stage}, {run}, {number}");
                assert_eq!(row.text("answer"), letter(answer));
                let all: f64 = logs.iter().map(|log| log.exp()).sum();
                close(row.number("p_correct"), logs[answer].exp() / all);
                right += f64::from(u8::from(best == answer));
            }
            assert_eq!(means[run][0].number("accuracy"), right / rows.len() as f64);
        }
    }
}
