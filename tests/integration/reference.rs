//! The reference of study files: what is committed is what the program prints, its examples run, and their tables have the columns it says.

use std::collections::BTreeMap;
use std::path::Path;

use insta::assert_snapshot;

use crate::prompts::main_set;
use crate::vectors::cast_json;
use crate::workbench::Workbench;

fn reference() -> String {
    let said = Workbench::new(&[]).dial(&["help", "reference"]);
    assert_eq!(said.code, 0, "{said:?}");
    said.stdout
}

#[test]
fn what_is_committed_is_what_the_program_prints() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md");
    let committed = std::fs::read_to_string(path).unwrap();
    assert!(
        committed == reference(),
        "write it again: dial help reference > docs/reference.md"
    );
}

#[test]
fn a_kind_is_explained_by_its_name() {
    let bench = Workbench::new(&[]);
    let whole = reference();
    let kinds = bench.dial(&["help", "stage"]).stdout;
    let names = kinds.lines().take_while(|line| !line.is_empty());
    let names: Vec<&str> = names.filter_map(|line| line.split(' ').next()).collect();
    assert!(names.len() >= 10, "{kinds}");
    for name in names {
        let said = bench.dial(&["help", "stage", name]).stdout;
        assert!(said.starts_with(&format!("## Stage `{name}`\n")), "{said}");
        assert!(whole.contains(&said), "{said}");
    }
    assert_snapshot!(bench.dial(&["help", "stage", "stear"]).stderr, @"error: there is no kind of stage `stear`; there are `score`, `generate`, `patch`, `activations`, `direction`, `vector`, `combine`, `select`, `condition`, `independence`, `steer`, `holdout`, `random`, `xstest`, `cost`, `summary`, `import`");
    assert_snapshot!(bench.dial(&["help", "runn"]).stderr, @"error: there is no command `runn` to explain; `dial help` lists them, and `dial help stage` the kinds of stages");
}

/// By kind and name of the table, its columns: with what only some tables have, and `<…>` for names that the study gives.
fn columns_told(reference: &str) -> BTreeMap<(String, String), Vec<(String, bool)>> {
    let mut told: BTreeMap<(String, String), Vec<(String, bool)>> = BTreeMap::new();
    let (mut kind, mut table, mut in_tables) = (String::new(), String::new(), false);
    for line in reference.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            kind = name
                .trim_start_matches("Stage ")
                .trim_matches('`')
                .to_string();
            in_tables = false;
        } else if line.starts_with("### ") {
            in_tables = line.starts_with("### Tables");
        } else if let Some(file) = line.strip_prefix("`tables/NAME").filter(|_| in_tables) {
            let (name, _) = file.split_once("csv`").unwrap();
            table = name.trim_matches('.').to_string();
            told.entry((kind.clone(), table.clone())).or_default();
        } else if let Some(column) = line.strip_prefix("- `").filter(|_| in_tables) {
            let (name, about) = column.split_once('`').unwrap();
            let is_always = !about.ends_with("; not in every such table");
            let columns = told.get_mut(&(kind.clone(), table.clone())).unwrap();
            columns.push((name.to_string(), is_always));
        }
    }
    told
}

/// Whether a column of a table is the one that is told of.
fn is(told: &str, column: &str) -> bool {
    let Some((before, rest)) = told.split_once('<') else {
        return told == column;
    };
    let (_, after) = rest.split_once('>').unwrap();
    let given = column.strip_prefix(before);
    given.is_some_and(|given| !given.is_empty() && given.ends_with(after))
}

/// The examples, one after the other, on a model of four layers.
fn study(reference: &str) -> String {
    let blocks = reference.split("```toml\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    blocks
        .collect::<Vec<_>>()
        .join("\n")
        .replace(
            "third_party/models/SmolLM2-135M-Instruct.Q4_1.gguf",
            "models/inst",
        )
        .replace("data/prompts.jsonl", "main.jsonl")
        .replace("data/xstest_style.csv", "xstest.csv")
        .replace("[10, 20]", "[1, 2]")
        .replace("at = 20", "at = 2")
}

#[test]
fn the_examples_run_and_leave_the_tables_that_are_told_of() {
    let reference = reference();
    let bench = Workbench::new(&main_set(60, 20));
    let scores = "id,split,category,s_inst\ne001,edge,a,1.5\ne002,edge,a,-1.5\n";
    bench.write("published.csv", scores);
    bench.write("refusal.svec", cast_json(&[1, 2]));
    let run = bench.run(&study(&reference)).ok();
    let tables = run.file(&bench, "tables");
    let told = columns_told(&reference);
    let kinds = reference
        .lines()
        .filter_map(|line| line.strip_prefix("## Stage `"));
    let mut seen = 0;
    for kind in kinds.map(|kind| kind.trim_end_matches('`')) {
        let stage = match kind {
            "import" => "published_scores",
            kind => kind,
        };
        for (name, header) in headers(&tables, stage) {
            // A published file has the tables of the kind that it stands for.
            let of = if kind == "import" { "score" } else { kind };
            let columns = told.get(&(of.to_string(), name.clone()));
            let columns = columns.unwrap_or_else(|| panic!("`{of}` says nothing of `{name}`"));
            for column in &header {
                let is_told = columns.iter().any(|(told, _)| is(told, column));
                assert!(is_told, "`{of}` says nothing of `{column}` in `{name}`");
            }
            for (told, _) in columns.iter().filter(|(_, is_always)| *is_always) {
                let is_there = header.iter().any(|column| is(told, column));
                assert!(is_there, "`{name}` of `{of}` has no `{told}`: {header:?}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 25, "{seen}");
    is_shared_and_checked(&bench);
}

/// A run of every kind of stage is exported, follows from its file, and is computed again.
fn is_shared_and_checked(bench: &Workbench) {
    let run = "runs/quickstart/latest";
    let run = match bench.path(run).exists() {
        true => run,
        false => "runs/study/latest",
    };
    let said = bench.dial(&["export", run, "-o", "run.zip"]);
    assert_eq!(said.code, 0, "{said:?}");
    let model = format!("inst={}", bench.path("models/inst").display());
    let said = bench.dial(&["verify", "run.zip", "--full", "--model", &model]);
    assert_eq!(said.code, 0, "{said:?}");
    for level in ["intact", "follows", "recomputed"] {
        assert!(
            said.stdout.contains(&format!("{level}: agrees")),
            "{said:?}"
        );
    }
}

/// The tables of a stage by name, each with its columns.
fn headers(tables: &Path, stage: &str) -> BTreeMap<String, Vec<String>> {
    let files = std::fs::read_dir(tables).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let of_stage = names.filter_map(|file| {
        let name = file.strip_suffix(".csv")?.strip_prefix(stage)?;
        let name = match name {
            "" => "",
            name => name.strip_prefix('.')?,
        };
        let text = std::fs::read_to_string(tables.join(&file)).unwrap();
        let header = text.lines().next().unwrap();
        Some((
            name.to_string(),
            header.split(',').map(String::from).collect(),
        ))
    });
    of_stage.collect()
}
