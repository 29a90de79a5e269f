//! What people write: studies, prompts, tables.

use refusal_dial::inside::plan::{Fetch, Plan, open_study};
use refusal_dial::inside::prompts::PromptSet;
use refusal_dial::inside::report::Table;
use refusal_dial::inside::spec;

use super::target::{Case, Seed, Target};

const STUDY_WORDS: &[&str] = &[
    "extends",
    "stages",
    "models",
    "prompts",
    "chat",
    "score",
    "import",
    "study",
    "source",
    "path",
    "kind",
    "steer",
    "generate",
    "random",
    "holdout",
    "xstest",
    "summary",
    "direction",
    "patch",
    "alpha",
    "layer",
    "site",
    "seed",
    "split",
    "model",
    "fraction",
    "max_new_tokens",
    "draw",
    "\"0..1000000000000\"",
    "\"-5..5\"",
    "\"all\"",
    "\"last_k\"",
    "[",
    "]",
    "{",
    "}",
    "[[",
    "]]",
    "=",
    ":",
    "&a",
    "*a",
    "<<: *a",
    "- ",
    "? ",
    "|\n",
    ">\n",
    "!!binary",
    "!!float",
    "!x",
    "%YAML 1.1",
    "---",
    "...",
    "'",
    "\"",
    "\"\"\"",
    "'''",
    "#",
    "\t",
    "\u{0}",
    "\u{feff}",
    "\u{202e}",
    "\u{1b}]0;x\u{7}",
    "1979-05-27T07:32:00Z",
    "0x7fffffffffffffff",
    "1_000",
    "inf",
    "nan",
    "-nan",
    ".inf",
    "true",
    "~",
    "null",
    "a.b.c",
    "\r\n",
    "\r",
];

pub const TARGETS: &[Target] = &[
    Target {
        name: "toml",
        cases: 1500,
        made: toml_seeds,
        words: STUDY_WORDS,
        read: |case| study(case, "study.toml"),
        ..Target::TEXT
    },
    Target {
        name: "yaml",
        cases: 1500,
        made: yaml_seeds,
        words: STUDY_WORDS,
        read: |case| study(case, "study.yaml"),
        ..Target::TEXT
    },
    Target {
        name: "jsonl",
        cases: 5000,
        made: jsonl_seeds,
        words: &[
            "{",
            "}",
            "[",
            "]",
            "\"id\":",
            "\"prompt\":",
            "\"uid\":",
            "\"text\":",
            "\"split\":",
            "\\ud800",
            "\\u0000",
            "\u{0}",
            "\n",
            "\r\n",
            "\u{feff}",
            "null",
            "1e999",
            "\u{2028}",
        ],
        read: |case| prompts(case, "prompts.jsonl"),
        ..Target::TEXT
    },
    Target {
        name: "csv",
        cases: 5000,
        made: csv_seeds,
        words: &[
            "\"", "\"\"", ",", ",,,,", "\n", "\r\n", "\r", "\u{0}", "\u{feff}", ";", "\t", "id",
            "prompt", "type", "label", "'",
        ],
        read: |case| prompts(case, "prompts.csv"),
        ..Target::TEXT
    },
    Target {
        name: "table",
        cases: 3000,
        made: csv_seeds,
        words: &[
            "\"", ",", "\n", "\r", "true", "False", "nan", "-inf", "1e999", "1_0", "0x1", "\u{0}",
            "",
        ],
        read: |case| {
            let text = String::from_utf8_lossy(case.input);
            let table = Table::from_csv(&text, "table.csv").map_err(|error| error.to_string());
            for column in table.iter().flat_map(|table| table.columns()) {
                let (name, table) = (column.name(), table.as_ref().unwrap());
                drop((table.texts(name), table.numbers(name)));
            }
            table.is_ok()
        },
        ..Target::TEXT
    },
];

const PROMPTS: &str = "{\"id\": \"a\", \"prompt\": \"one two\", \"split\": \"harmful\"}\n{\"id\": \"b\", \"prompt\": \"three\", \"split\": \"safe\"}\n";

/// Plans a study, as `dial plan` does.
fn study(case: &Case, name: &str) -> bool {
    case.write("prompts.jsonl", PROMPTS);
    case.write("base.toml", "[study]\nquestion = \"why\"\n");
    let path = case.write(name, case.input);
    let cache = case.folder.join("cache");
    let mut accepted = false;
    let overrides = ["stages.score.model=other".to_string()];
    for overrides in [&[][..], &overrides] {
        let document = match spec::load(&path, overrides) {
            Ok(document) => document,
            Err(problems) => {
                drop((problems.to_string(), problems.render(true)));
                continue;
            }
        };
        let opened = open_study(document, "study", &cache, Fetch::Never);
        accepted |= match opened.map_err(|error| error.to_string()) {
            Err(_) => false,
            Ok(opened) => {
                let plan = Plan::new(&opened.study, &opened.inputs, &opened.cache, 1);
                let plan = plan.map_err(|error| error.to_string());
                plan.map(|plan| plan.seconds()).is_ok()
            }
        };
    }
    accepted
}

fn prompts(case: &Case, name: &str) -> bool {
    let set = PromptSet::load(&case.write(name, case.input)).map_err(|errors| errors.to_string());
    if let Ok(set) = &set {
        drop((set.content_hash(), set.splits()));
    }
    set.is_ok()
}

fn toml_seeds() -> Vec<Seed> {
    let many_alpha = "1,".repeat(20_000);
    let problems: String = (0..3000).map(|i| format!("key{i} = 1\n")).collect();
    let made = [
        ("arrays-nested", format!("a = {}", "[".repeat(100_000))),
        ("arrays-nested-closed", format!("a = {}{}", "[".repeat(5000), "]".repeat(5000))),
        ("tables-nested", format!("a = {}", "{a=".repeat(50_000))),
        ("dotted", format!("a{} = 1", ".a".repeat(50_000))),
        ("dotted-header", format!("[a{}]\nb = 1", ".a".repeat(50_000))),
        ("many-unknown-keys", problems),
        ("many-alpha", format!("[stages.steer]\nkind = \"steer\"\nmodel = \"m\"\nprompts = \"p\"\nalpha = [{many_alpha}]\n")),
        ("extends-itself", "extends = [\"study.toml\", \"./study.toml\", \"../case/study.toml\"]\n".to_string()),
        ("extends-outside", "extends = \"@OUTSIDE@\"\n".to_string()),
        ("extends-device", "extends = \"/dev/zero\"\n[prompts.p]\npath = \"/dev/zero\"\n[models.m]\nsource = \"/dev/zero\"\n".to_string()),
    ];
    made.into_iter()
        .map(|(name, text)| Seed::new(name, text))
        .collect()
}

fn yaml_seeds() -> Vec<Seed> {
    let aliases: String = (1..40)
        .map(|i| format!("a{i}: &a{i} [*a{}, *a{}]\n", i - 1, i - 1))
        .collect();
    let indented: String = (0..1500)
        .map(|i| format!("{}a:\n", " ".repeat(i)))
        .collect();
    let made = [
        ("sequences-nested-40000", "[".repeat(40_000)),
        (
            "sequences-nested-closed",
            format!("{}{}", "[".repeat(5000), "]".repeat(5000)),
        ),
        ("mappings-nested-40000", "{a: ".repeat(40_000)),
        ("dashes-nested-40000", format!("a: {}", "- ".repeat(40_000))),
        ("indented", indented),
        ("aliases-double", format!("a0: &a0 [x, x]\n{aliases}")),
        ("keys-nested", format!("{}a", "? ".repeat(40_000))),
        (
            "extends-itself",
            "extends: [study.yaml, ./study.yaml]\n".to_string(),
        ),
        (
            "many-unknown-keys",
            (0..3000).map(|i| format!("key{i}: 1\n")).collect(),
        ),
        ("long-scalar", format!("a: {}", "x ".repeat(400_000))),
    ];
    made.into_iter()
        .map(|(name, text)| Seed::new(name, text))
        .collect()
}

fn jsonl_seeds() -> Vec<Seed> {
    let made = [
        (
            "deep-arrays",
            format!(
                "{{\"id\": 1, \"prompt\": \"x\", \"a\": {}",
                "[".repeat(100_000)
            ),
        ),
        (
            "deep-objects",
            format!(
                "{{\"id\": 1, \"prompt\": \"x\", \"a\": {}",
                "{\"a\":".repeat(100_000)
            ),
        ),
        (
            "deep-closed",
            format!(
                "{{\"id\": 1, \"prompt\": \"x\", \"a\": {}{}}}",
                "[".repeat(100),
                "]".repeat(100)
            ),
        ),
        ("many-problems", "{}\n".repeat(40_000)),
        (
            "many-twice",
            "{\"id\": \"a\", \"prompt\": \"b\"}\n".repeat(10_000),
        ),
        (
            "long-prompt",
            format!("{{\"id\": 1, \"prompt\": \"{}\"}}", "x ".repeat(1 << 20)),
        ),
        ("no-end", "{\"id\": 1, \"prompt\": \"".to_string()),
    ];
    let mut seeds: Vec<Seed> = made
        .into_iter()
        .map(|(name, text)| Seed::new(name, text))
        .collect();
    seeds.push(Seed::new(
        "not-utf8",
        b"{\"id\": 1, \"prompt\": \"\xff\xfe\"}\n".as_slice(),
    ));
    seeds
}

fn csv_seeds() -> Vec<Seed> {
    let made = [
        (
            "plain",
            "id,prompt,type,label\n1,one,x,safe\n2,\"two, \"\"three\"\"\",y,unsafe\n".to_string(),
        ),
        (
            "quote-open",
            format!("id,prompt\n1,\"{}", "x\n".repeat(50_000)),
        ),
        ("quotes", "\"".repeat(100_001)),
        ("nulls", "id,prompt\n\0,\0\n".to_string()),
        (
            "columns-many",
            format!("id,prompt{}\n1,2\n", ",".repeat(100_000)),
        ),
        (
            "columns-twice",
            "id,id,prompt,prompt,type,type\n1,2,3,4,5,6\n".to_string(),
        ),
        ("ragged", "id,prompt\n1\n1,2,3\n\n,,,,\n".to_string()),
        (
            "field-huge",
            format!("id,prompt\n1,{}\n", "x".repeat(4 << 20)),
        ),
        (
            "many-problems",
            format!("id,prompt\n{}", ",\n".repeat(40_000)),
        ),
        (
            "numbers",
            "a,b,c\n1e999,-0,nan\n,0x1,true\n-inf,1_0,False\n".to_string(),
        ),
        ("only-header", "id,prompt".to_string()),
    ];
    made.into_iter()
        .map(|(name, text)| Seed::new(name, text))
        .collect()
}
