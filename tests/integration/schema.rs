//! `dial schema`, held against two validators: one of JSON Schema 2020-12, and `taplo`, which editors use and which reads draft-07 habits
//! only. Both have to say of every study what the other says.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::prompts::main_set;
use crate::workbench::Workbench;

/// A study with a stage of nearly every kind, which can be planned in a workbench.
const STUDY: &str = include_str!("schema/sound.toml");

/// Reads a schema and documents, and writes for each of these where it is wrong and how; empty where it is not.
const VALIDATE: &str = r#"
import json, sys
import jsonschema_rs
given = json.load(sys.stdin)
jsonschema_rs.meta.validate(given["schema"])
validator = jsonschema_rs.Draft202012Validator(given["schema"])
def all_of(error):
    words = [str(part) for part in error.instance_path] + [error.message]
    for branch in getattr(error.kind, "context", None) or []:
        for inner in branch:
            words += all_of(inner)
    return words
json.dump({name: [" ".join(all_of(e)) for e in validator.iter_errors(document)]
           for name, document in given["documents"].items()}, sys.stdout)
"#;

/// Where `scripts/setup.sh validators` puts them.
fn validators() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("third_party/validators");
    assert!(
        folder.join("stamp").is_file(),
        "`{}` lacks the validators of this test: run `scripts/setup.sh validators`",
        folder.display()
    );
    folder
}

/// A folder with the schema as `dial.schema.json`.
struct Judges {
    bench: Workbench,
    schema: Value,
}

impl Judges {
    fn new() -> Self {
        let bench = Workbench::new(&main_set(12, 8));
        let question = r#"{"id": 1, "prompt": "calm1", "a": "Sure", "b": "Sorry", "answer": "A"}"#;
        bench.write("questions.jsonl", question);
        let said = bench.dial(&["schema"]);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
        let schema: Value = serde_json::from_str(&said.stdout).unwrap();
        bench.write("dial.schema.json", &said.stdout);
        Self { bench, schema }
    }

    /// What is wrong with each of some studies by the rules of 2020-12.
    fn by_2020_12(&self, studies: &[(String, String)]) -> BTreeMap<String, Vec<String>> {
        let documents: BTreeMap<&str, Value> = studies
            .iter()
            .map(|(name, text)| (name.as_str(), toml::from_str(text).unwrap()))
            .collect();
        let mut python = Command::new("python3")
            .args(["-B", "-c", VALIDATE])
            .env("PYTHONPATH", validators())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`python3` is needed for this test");
        let given = json!({ "schema": self.schema, "documents": documents });
        let mut stdin = python.stdin.take().unwrap();
        stdin.write_all(given.to_string().as_bytes()).unwrap();
        drop(stdin);
        let output = python.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "the schema is no schema, or Python is older than 3.10"
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What `taplo` finds wrong with a study whose first line names the schema; none where it finds nothing.
    fn by_taplo(&self, (name, text): &(String, String)) -> Option<String> {
        let file = format!("{name}.toml");
        self.bench
            .write(&file, format!("#:schema ./dial.schema.json\n{text}"));
        let output = Command::new(validators().join("taplo"))
            .args(["lint", "--no-auto-config", "--colors", "never", &file])
            .current_dir(self.bench.path(""))
            .env("HOME", self.bench.path("home"))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.contains("found files total=1") && !said.contains("failed to load"),
            "{said}"
        );
        (!output.status.success()).then_some(said)
    }
}

/// The studies of the project.
fn pipelines() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let paths = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let studies = paths.filter(|path| path.extension().is_some_and(|end| end == "toml"));
    let named = studies.map(|path| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(path).unwrap())
    });
    named.collect()
}

#[test]
fn every_study_of_the_project_passes_both() {
    let judges = Judges::new();
    assert_eq!(judges.bench.dial(&["init", "starter.toml"]).code, 0);
    let starter = std::fs::read_to_string(judges.bench.path("starter.toml")).unwrap();
    let mut studies = pipelines();
    assert!(studies.len() >= 9);
    studies.push(("starter".to_string(), starter));
    studies.push(("sound".to_string(), STUDY.to_string()));
    studies.push(("short".to_string(), crate::screens::STUDY.to_string()));
    for (name, more) in ADDED {
        studies.push((
            name.to_string(),
            format!("extends = \"sound.toml\"\n{more}"),
        ));
    }
    let wrong = judges.by_2020_12(&studies);
    for study in &studies {
        assert_eq!(wrong[&study.0], [""; 0], "{}", study.0);
        assert_eq!(judges.by_taplo(study), None, "{}", study.0);
    }
    for (name, _) in ADDED {
        let plan = judges.bench.dial(&["plan", &format!("{name}.toml")]);
        assert_eq!(plan.code, 0, "{name}: {plan:?}");
    }
}

/// The file that `dial init` writes is checked by the schema beside it.
#[test]
fn a_mistake_in_a_starter_file_is_found_by_the_schema_beside_it() {
    let bench = Workbench::new(&main_set(1, 1));
    assert_eq!(
        bench.dial(&["init", "new/study.toml"]).code,
        1,
        "there is no such folder"
    );
    std::fs::create_dir(bench.path("new")).unwrap();
    assert_eq!(bench.dial(&["init", "new/study.toml"]).code, 0);
    let schema = std::fs::read_to_string(bench.path("new/dial.schema.json")).unwrap();
    assert_eq!(schema, bench.dial(&["schema"]).stdout);
    let lint = || {
        let mut taplo = Command::new(validators().join("taplo"));
        taplo
            .args([
                "lint",
                "--no-auto-config",
                "--colors",
                "never",
                "new/study.toml",
            ])
            .current_dir(bench.path(""))
            .env("HOME", bench.path("home"));
        let output = taplo.output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert!(lint().0, "{lint:?}", lint = lint());
    let text = std::fs::read_to_string(bench.path("new/study.toml")).unwrap();
    bench.write(
        "new/study.toml",
        text.replace("threshold = 0.0", "threshhold = 0.0"),
    );
    let (passes, said) = lint();
    assert!(!passes && said.contains("threshhold"), "{said}");
}

/// What a study adds that extends the sound one: parts of stages, whose kind is their name, or was said there.
const ADDED: [(&str, &str); 3] = [
    ("nothing_more", ""),
    (
        "of_a_stage",
        "[stages.steer]\nalpha = [4]\n[models.inst]\ndtype = \"bfloat16\"\n",
    ),
    (
        "of_a_renamed_stage",
        "[stages.mine]\nprompts = \"main\"\n[stages.steer]\nkind = \"steer\"\nalpha = 1\n",
    ),
];

/// The same, unsound; and what everybody has to name.
const ADDED_BROKEN: [(&str, &str, &str); 3] = [
    ("added_key", "[stages.steer]\nalfa = [4]\n", "alfa"),
    ("added_type", "[stages.random]\nalpha = \"much\"\n", "alpha"),
    (
        "added_model",
        "[models.inst]\ndtype = \"float8\"\n",
        "float8",
    ),
];

/// A sound study after a change that makes it unsound.
struct Broken {
    name: &'static str,
    from: &'static str,
    to: &'static str,
    /// What everybody has to name.
    word: &'static str,
}

const fn broken(
    name: &'static str,
    from: &'static str,
    to: &'static str,
    word: &'static str,
) -> Broken {
    Broken {
        name,
        from,
        to,
        word,
    }
}

const BROKEN: &[Broken] = &[
    broken("table", "[study]", "[studdy]", "studdy"),
    broken(
        "model_key",
        "dtype = \"float32\"",
        "dtipe = \"float32\"",
        "dtipe",
    ),
    broken(
        "dtype",
        "dtype = \"float32\"",
        "dtype = \"float8\"",
        "float8",
    ),
    broken("no_source", "source = \"models/inst\"\n", "", "source"),
    broken("path", "path = \"main.jsonl\"", "path = 3", "path"),
    broken(
        "special_tokens",
        "special_tokens = \"text\"",
        "special_tokens = \"txt\"",
        "txt",
    ),
    broken(
        "threshold",
        "threshold = 0.5",
        "threshold = \"half\"",
        "threshold",
    ),
    broken(
        "rule_kind",
        "kind = \"log_odds\"",
        "kind = \"log_ods\"",
        "log_ods",
    ),
    broken(
        "rule_key",
        "normalise = \"tokens\"",
        "normalize = \"tokens\"",
        "normalize",
    ),
    broken("read", "read = [\"refused\"", "read = [1", "read"),
    broken("kind", "kind = \"score\"", "kind = \"scroe\"", "scroe"),
    broken("no_kind", "kind = \"score\"\n", "", "mine"),
    broken(
        "stage_key",
        "alpha = [-2, 0, 2]",
        "alfa = [-2, 0, 2]",
        "alfa",
    ),
    broken(
        "no_direction",
        "direction = \"direction\"\nalpha = [-2, 0, 2]",
        "alpha = [-2, 0, 2]",
        "direction",
    ),
    // A stage that is named after a kind, and says that it is of another.
    broken(
        "other_kind",
        "[stages.steer]\n",
        "[stages.steer]\nkind = \"random\"\n",
        "direction",
    ),
    broken(
        "alpha",
        "alpha = [-2, 0, 2]",
        "alpha = [-2, \"much\"]",
        "alpha",
    ),
    broken("n", "n = 4", "n = \"few\"", "n"),
    broken("n_zero", "n = 4", "n = 0", "n"),
    broken(
        "flag",
        "allow_overlap = true",
        "allow_overlap = 1",
        "allow_overlap",
    ),
    broken("layer", "layer = [1, 2]", "layer = \"some\"", "layer"),
    broken("seed", "seed = \"0..3\"", "seed = -1", "seed"),
    broken(
        "reference",
        "direction = \"direction\"",
        "direction = 1",
        "direction",
    ),
    broken(
        "site",
        "site = [\"resid_pre\"]",
        "site = [\"resid_mid_pre\"]",
        "resid_mid_pre",
    ),
];

#[test]
fn a_broken_study_fails_where_a_plan_fails() {
    let judges = Judges::new();
    judges.bench.write("study.toml", STUDY);
    let planned = judges.bench.dial(&["plan", "study.toml"]);
    assert_eq!(planned.code, 0, "{planned:?}");
    let studies = BROKEN.iter().map(|broken| {
        assert!(
            STUDY.contains(broken.from),
            "`{}` is not in the study",
            broken.from
        );
        (
            broken.name.to_string(),
            STUDY.replacen(broken.from, broken.to, 1),
        )
    });
    let mut studies: Vec<(String, String)> = studies.collect();
    let mut words: Vec<&str> = BROKEN.iter().map(|broken| broken.word).collect();
    judges.bench.write("sound.toml", STUDY);
    for (name, more, word) in ADDED_BROKEN {
        studies.push((
            name.to_string(),
            format!("extends = \"sound.toml\"\n{more}"),
        ));
        words.push(word);
    }
    let wrong = judges.by_2020_12(&studies);
    for (study, word) in studies.iter().zip(words) {
        let name = &study.0;
        let taplo = judges
            .by_taplo(study)
            .unwrap_or_else(|| panic!("taplo lets `{name}` pass"));
        // After taplo, which wrote the file.
        let plan = judges.bench.dial(&["plan", &format!("{name}.toml")]);
        let of_2020_12 = wrong[name].join("\n");
        assert_eq!(plan.code, 2, "{name}: {plan:?}");
        assert!(
            !of_2020_12.is_empty(),
            "the validator of 2020-12 lets `{name}` pass"
        );
        for (who, said) in [
            ("plan", &plan.stderr),
            ("2020-12", &of_2020_12),
            ("taplo", &taplo),
        ] {
            assert!(
                said.contains(word),
                "{name}: {who} does not name `{word}`: {said}"
            );
        }
    }
}
