//! Prompt files as they come: the formats, encodings and headers of other people's data sets.

use polars::prelude::{DataFrame, IntoColumn, NamedFrom, ParquetWriter, Series};
use serde_json::{Value, json};

use crate::prompts::{Prompt, main_set};
use crate::workbench::Workbench;

fn study(path: &str, columns: &str) -> String {
    format!(
        "[models.inst]\nsource = \"models/inst\"\n[prompts.main]\npath = \"{path}\"\n{columns}\n[stages.score]\nmodel = \"inst\"\nprompts = \"main\"\n"
    )
}

const COLUMNS: &str =
    "columns = { id = \"Name\", prompt = \"goal\", split = \"label\", category = \"Kind\" }";

/// The names of the fields in the files, beside those that nobody uses.
const NAMES: [&str; 4] = ["Name", "goal", "label", "Kind"];

fn rows(prompts: &[Prompt]) -> Vec<[String; 4]> {
    let row = |p: Prompt| [p.id, p.text, p.split, p.category];
    prompts.iter().cloned().map(row).collect()
}

fn separated(rows: &[[String; 4]], by: &str) -> String {
    let lines = rows.iter().map(|row| row.join(by) + "\n");
    NAMES.join(by) + "\n" + &lines.collect::<String>()
}

fn parquet(rows: &[[String; 4]]) -> Vec<u8> {
    let column = |(at, name): (usize, &&str)| {
        let values: Vec<&str> = rows.iter().map(|row| row[at].as_str()).collect();
        Series::new((*name).into(), values).into_column()
    };
    let columns = NAMES.iter().enumerate().map(column).collect();
    let mut frame = DataFrame::new(rows.len(), columns).unwrap();
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
    bytes
}

fn objects(rows: &[[String; 4]]) -> Vec<Value> {
    let object = |[id, text, split, kind]: &[String; 4]| json!({"Name": id, "goal": text, "label": split, "Kind": kind});
    rows.iter().map(object).collect()
}

#[test]
fn files_of_every_format_give_the_scores_of_json_lines() {
    let prompts = main_set(6, 4);
    let bench = Workbench::new(&prompts);
    let rows = rows(&prompts);
    let usual = bench.run(&study("main.jsonl", "")).ok();
    assert_eq!(usual.computed("score"), 10);
    let lines: String = objects(&rows)
        .iter()
        .map(|row| format!("{row}\n"))
        .collect();
    let wide: Vec<u8> = format!("\u{feff}{}", separated(&rows, "\t"))
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (name, content, said) in [
        ("p.jsonl", lines.into_bytes(), &[][..]),
        (
            "p.json",
            json!(objects(&rows)).to_string().into_bytes(),
            &[],
        ),
        ("p.csv", separated(&rows, ",").into_bytes(), &[]),
        (
            "semicolons.csv",
            separated(&rows, ";").into_bytes(),
            &["separated by semicolons"],
        ),
        (
            "wide.csv",
            wide,
            &["UTF-16 (little-endian)", "separated by tabs"],
        ),
        ("p.tsv", separated(&rows, "\t").into_bytes(), &[]),
        ("p.parquet", parquet(&rows), &[]),
    ] {
        bench.write(name, content);
        let run = bench.run(&study(name, COLUMNS)).ok();
        // The stage is the same by its key, so that nothing is computed.
        assert_eq!(run.status("score"), "cached", "{name}");
        for said in said {
            assert!(
                run.said.stderr.contains(said),
                "{name}: {}",
                run.said.stderr
            );
        }
    }
}

#[test]
fn other_columns_are_other_prompts() {
    let bench = Workbench::new(&[]);
    bench.write("p.csv", "goal,other\ncalm1 calm2,harm1 harm2\n");
    for column in ["goal", "other"] {
        let columns = format!("columns.prompt = \"{column}\"");
        let run = bench.run(&study("p.csv", &columns)).ok();
        assert_eq!(run.computed("score"), 1, "{column}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let bench = Workbench::new(&[]);
    bench.write(
        "p.json",
        "[{\"id\": 1, \"prompt\": \"a\", \"score\": NaN},\n {\"id\": 2, \"prompt\": \"b\", \"category\": NaN},\n {\"id\": 3, \"prompt\": \"\\ud83d\"}]",
    );
    let said = bench.refusal(&study("p.json", ""));
    let told = said.message(2);
    assert!(told.contains("p.json:2: `category` is `NaN`"), "{told}");
    assert!(
        told.contains("p.json:3:23: half of a character in `prompt`: "),
        "{told}"
    );
    assert!(!told.contains("score"), "{told}");
    let twice = study("p.json", "columns = { prompt = \"x\", category = \"x\" }");
    let told = bench.refusal(&twice);
    let told = told.message(2);
    assert!(
        told.contains("`columns` says that `x` is both the prompt and the category"),
        "{told}"
    );
}

#[test]
fn texts_alone_are_prompts_line_by_line_or_in_an_array() {
    let bench = Workbench::new(&[]);
    bench.write("p.txt", "calm1 calm2\n\n  harm1 harm2 \r\n");
    let run = bench.run(&study("p.txt", "")).ok();
    assert_eq!(run.computed("score"), 2);
    bench.write("p.json", "[\"calm1 calm2\",\n \"harm1 harm2\"]");
    let run = bench.run(&study("p.json", "")).ok();
    assert_eq!(run.status("score"), "cached");
}

#[test]
fn a_file_with_other_names_is_told_how_to_say_them() {
    let bench = Workbench::new(&[]);
    let hint = "say in the prompt set `columns = { prompt = \"…\" }`";
    for (name, content, found) in [
        ("p.csv", "goal,target\na,b\n", "`goal`, `target`"),
        (
            "p.jsonl",
            "{\"id\": 1, \"goal\": \"a\"}\n{\"id\": 2, \"goal\": \"b\"}\n",
            "`goal`",
        ),
        (
            "p.json",
            "[{\"goal\": \"a\", \"target\": \"b\"}]",
            "`goal`, `target`",
        ),
    ] {
        bench.write(name, content);
        let said = bench.refusal(&study(name, ""));
        let told = said
            .message(2)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert!(told.contains(found), "{name}: {told}");
        assert_eq!(told.matches(hint).count(), 1, "{name}: {told}");
        // Where the study has said one, it is that which is wrong.
        let said = bench.refusal(&study(name, "columns.prompt = \"gaol\""));
        let told = said.message(2);
        assert!(!told.contains("columns = {"), "{name}: {told}");
    }
}

#[test]
fn a_licence_that_forbids_commercial_use_is_told_and_goes_with_the_run() {
    let prompts = main_set(2, 1);
    let bench = Workbench::new(&prompts);
    let licence = "licence = \"CC-BY-NC-4.0\"";
    let run = bench.run(&study("main.jsonl", "")).ok();
    assert!(!run.said.stderr.contains("licence"), "{:?}", run.said);
    assert_eq!(
        run.manifest(&bench)["prompts"]["main"]["licence"],
        Value::Null
    );
    let run = bench.run(&study("main.jsonl", licence)).ok();
    // No number depends on it.
    assert_eq!(run.status("score"), "cached");
    let told = "prompt set `main`: its licence `CC-BY-NC-4.0` allows no commercial use";
    assert!(run.said.stderr.contains(told), "{:?}", run.said);
    let manifest = run.manifest(&bench);
    assert_eq!(manifest["prompts"]["main"]["licence"], "CC-BY-NC-4.0");
    let page = std::fs::read_to_string(bench.path("runs/study/latest/report.html")).unwrap();
    assert!(page.contains("allows no commercial use"));
    assert!(page.contains("licence <bdi>CC-BY-NC-4.0</bdi>"));
}
