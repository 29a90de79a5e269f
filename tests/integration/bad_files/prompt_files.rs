//! Prompt files.

use super::*;

/// What the program says to a study with this prompt file.
fn refusal(name: &str, content: impl AsRef<[u8]>) -> String {
    let bench = bench();
    bench.write(name, content);
    bench
        .refusal(&STUDY.replace("main.jsonl", name))
        .message(2)
        .to_string()
}

#[test]
fn everything_that_is_wrong_with_jsonl() {
    let lines = [
        r#"{"id": "a", "prompt": "one"}"#,
        r#"{"id": "a", "prompt": "two"}"#,
        r#"{"prompt": "three"}"#,
        r#"{"id": "d", "prompt": "  "}"#,
        r#"{"id": "e"}"#,
        r#"{"id": "f", "prompt": "six", "split": 6}"#,
        r#"{"id": "g", "prompt": "seven"#,
    ];
    assert_snapshot!(refusal("bad.jsonl", lines.join("\n")), @r#"
    error: prompt set `main` cannot be used
     --> study.toml:4:8
      |
    4 | path = "bad.jsonl"
      |        ^^^^^^^^^^^
      |
      = note: bad.jsonl:2: duplicate `id` `a`, first used in line 1; give each prompt an id of its own
              bad.jsonl:3: missing `id`; give each prompt one of `id`, `prompt_id`, `uid`
              bad.jsonl:4: empty `prompt`; write a text or remove the prompt
              bad.jsonl:5: missing `prompt`; expected a text under one of `prompt`, `text` (fields found, separated by commas: `id`)
              bad.jsonl:6: wrong type of `split`: `6`; expected a string
              bad.jsonl:7:28: bad JSON: EOF while parsing a string; each line must be one object such as `{"id": "e1", "prompt": "…"}`
    "#);
}

#[test]
fn bad_utf8() {
    assert_snapshot!(refusal("bad.jsonl", b"{\"id\": \"a\", \"prompt\": \"caf\xe9\"}\n"), @r#"
    error: prompt set `main` cannot be used
     --> study.toml:4:8
      |
    4 | path = "bad.jsonl"
      |        ^^^^^^^^^^^
      |
      = note: bad.jsonl:1:27: bad UTF-8 in `prompt`; save the file as UTF-8
    "#);
}

#[test]
fn a_csv_without_its_columns() {
    assert_snapshot!(refusal("bad.csv", "number,question\n1,why?\n"), @r#"
    error: prompt set `main` cannot be used
     --> study.toml:4:8
      |
    4 | path = "bad.csv"
      |        ^^^^^^^^^
      |
      = note: bad.csv:1: the header has no column `id`; expected one of `id`, `prompt_id`, `uid` (columns found, separated by commas: `number`, `question`)
              bad.csv:1: the header has no column `prompt`; expected one of `prompt`, `text` (columns found, separated by commas: `number`, `question`); where it has another name, say in the prompt set `columns = { prompt = "…" }`
    "#);
}

#[test]
fn no_prompts_an_unknown_format_and_no_file() {
    assert_snapshot!(refusal("empty.jsonl", "\n"), @r#"
    error: prompt set `main` cannot be used
     --> study.toml:4:8
      |
    4 | path = "empty.jsonl"
      |        ^^^^^^^^^^^^^
      |
      = note: empty.jsonl: no prompts in the file; expected at least one with an `id` and a `prompt`
    "#);
    assert_snapshot!(refusal("bad.doc", "why?"), @r#"
    error: prompt set `main` cannot be used
     --> study.toml:4:8
      |
    4 | path = "bad.doc"
      |        ^^^^^^^^^
      |
      = note: bad.doc: unknown prompt format `doc`; expected a file name that ends in `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.txt` or `.parquet`
    "#);
    assert_snapshot!(bench().refusal(&STUDY.replace("main.jsonl", "nowhere.jsonl")).message(2), @r#"
    error: prompt set `main` cannot be used
     --> study.toml:4:8
      |
    4 | path = "nowhere.jsonl"
      |        ^^^^^^^^^^^^^^^
      |
      = note: nowhere.jsonl: cannot read the prompts: No such file or directory (os error 2); check the `path` of the prompt set
    "#);
}
