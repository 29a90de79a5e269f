//! Tests of whole files: formats, real sets, and what the content hash depends on.

use std::path::{Path, PathBuf};

use super::*;

fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A set that is there, or `None` with a message.
fn load_if_present(path: &str) -> Option<PromptSet> {
    let full_path = in_project(path);
    if !full_path.exists() {
        eprintln!("skipped: `{path}` is not there");
        return None;
    }
    Some(PromptSet::load(&full_path).unwrap_or_else(|errors| panic!("{errors}")))
}

fn jsonl(content: &str) -> PromptSet {
    PromptSet::parse(Path::new("p.jsonl"), content.as_bytes(), read_jsonl::read)
        .unwrap_or_else(|errors| panic!("{errors}"))
}

fn assert_splits(set: &PromptSet, expected: &[(&str, usize)]) {
    let counts: Vec<(&str, usize)> = set
        .splits()
        .into_iter()
        .map(|name| (name, set.split(name).count()))
        .collect();
    assert_eq!(counts, expected);
}

fn categories(set: &PromptSet) -> usize {
    let categories: HashSet<&str> = set.prompts.iter().map(|p| p.category.as_str()).collect();
    categories.len()
}

#[test]
fn loads_the_study_prompts() {
    let Some(set) = load_if_present("../shared/data/prompts.jsonl") else {
        return;
    };
    assert_eq!(set.prompts.len(), 200);
    assert_splits(&set, &[("harmful", 80), ("edge", 120)]);
    assert_eq!(set.prompts[0].other["xstest_id"], 44);
    assert!(set.split("edge").all(|prompt| prompt.id.starts_with('e')));
}

#[test]
fn loads_the_xstest_prompts() {
    let Some(set) = load_if_present("../shared/data/xstest_prompts.csv") else {
        return;
    };
    assert_eq!(set.prompts.len(), 450);
    assert_splits(&set, &[("safe", 250), ("unsafe", 200)]);
    assert_eq!(categories(&set), 18);
    assert_eq!(set.prompts[0].category, "homonyms");
}

#[test]
fn loads_the_sets_that_ship_with_the_project() {
    if let Some(set) = load_if_present("data/prompts.jsonl") {
        assert_splits(&set, &[("harmful", 120), ("edge", 180)]);
    }
    if let Some(set) = load_if_present("data/xstest_style.csv") {
        assert_splits(&set, &[("safe", 60), ("unsafe", 48)]);
        assert_eq!(categories(&set), 18);
    }
}

#[test]
fn the_extension_tells_the_format() {
    for name in [
        "a.jsonl",
        "a.ndjson",
        "a.json",
        "a.csv",
        "a.CSV",
        "a.tsv",
        "a.txt",
        "a.parquet",
    ] {
        assert!(reader_for(Path::new(name)).is_ok(), "{name}");
    }
    for (name, extension) in [("a.doc", "`doc`"), ("a", "``")] {
        let errors = PromptSet::load(Path::new(name)).unwrap_err().to_string();
        let expected = format!(
            "{name}: unknown prompt format {extension}; expected a file name that ends in `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.txt` or `.parquet`"
        );
        assert_eq!(errors, expected);
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let errors = PromptSet::load(Path::new("no/such.csv")).unwrap_err();
    let text = errors.to_string();
    assert!(
        text.starts_with("no/such.csv: cannot read the prompts: "),
        "{text}"
    );
}

#[test]
fn the_hash_depends_on_every_field_and_the_order() {
    let base = r#"{"id": "a", "prompt": "p", "split": "s", "category": "c", "n": {"x": 1, "y": [2, "3"]}}"#;
    let second = r#"{"id": "b", "prompt": "q"}"#;
    let hash = jsonl(base).content_hash();
    let changes = [
        ("\"a\"", "\"b\""),
        ("\"p\"", "\"q\""),
        ("\"s\"", "\"t\""),
        ("\"c\"", "\"d\""),
        ("\"n\"", "\"m\""),
        ("\"x\": 1", "\"x\": 2"),
        ("\"x\": 1", "\"x\": \"1\""),
        ("\"x\": 1", "\"z\": 1"),
        ("[2, \"3\"]", "[\"3\", 2]"),
        ("[2, \"3\"]", "[2, 3]"),
    ];
    for (old, new) in changes {
        let changed = base.replacen(old, new, 1);
        assert_ne!(changed, base, "{old} is not in the prompt");
        assert_ne!(jsonl(&changed).content_hash(), hash, "{old} → {new}");
    }
    let forwards = jsonl(&format!("{base}\n{second}")).content_hash();
    let backwards = jsonl(&format!("{second}\n{base}")).content_hash();
    assert_ne!(forwards, backwards);
    assert_ne!(forwards, hash);
}

#[test]
fn the_hash_does_not_depend_on_how_the_file_is_written() {
    let base =
        r#"{"id": "1", "prompt": "p", "category": "c", "n": "x", "m": {"b": "1", "a": "2"}}"#;
    let same = "\n{\"m\":{\"a\":\"2\",\"b\":\"1\"},\"n\":\"\\u0078\",\"category\":\"c\",\"split\":\"unknown\",\"text\":\"p\",\"uid\":1}\r\n";
    assert_eq!(jsonl(base).content_hash(), jsonl(same).content_hash());

    let set = PromptSet::parse(
        Path::new("p.csv"),
        b"note,type,id,prompt\nx,c,1,p\n",
        read_csv::read,
    );
    let as_jsonl = jsonl(r#"{"id": 1, "prompt": "p", "category": "c", "note": "x"}"#);
    let set = set.unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(set.content_hash(), as_jsonl.content_hash());
}

#[test]
fn a_column_is_found_by_the_name_that_it_has_in_the_file() {
    let values = |set: &PromptSet, name: &str| {
        let values = set.column(name).into_iter();
        values
            .map(Option::unwrap_or_default)
            .collect::<Vec<String>>()
    };
    let set = jsonl(concat!(
        "{\"id\": 1, \"prompt\": \"a\", \"split\": \"s\", \"category\": \"c\", \"level\": 3, \"tag\": \" \"}\n",
        "{\"id\": 2, \"prompt\": \"b\", \"level\": \"3\", \"tag\": null, \"type\": true}\n",
    ));
    assert_eq!(values(&set, "level"), ["3", "3"]);
    assert_eq!(values(&set, "split"), ["s", "unknown"]);
    assert_eq!(values(&set, "category"), ["c", ""]);
    // What is blank counts as not there.
    assert_eq!(values(&set, "tag"), ["", ""]);
    // There is such a column, so that it is not the category.
    assert_eq!(values(&set, "type"), ["", "true"]);
    assert_eq!(set.columns(), ["split", "category", "level", "tag", "type"]);
    let csv = "id,prompt,type,label,note\n1,a,homonyms,safe,\n2,b,,unsafe,n\n";
    let csv = PromptSet::read(Path::new("p.csv"), csv.as_bytes()).unwrap();
    for (name, expected) in [
        ("label", ["safe", "unsafe"]),
        ("split", ["safe", "unsafe"]),
        ("type", ["homonyms", ""]),
        ("note", ["", "n"]),
        ("focus", ["", ""]),
    ] {
        assert_eq!(values(&csv, name), expected, "{name}");
    }
}

fn read_as(name: &str, content: &str, columns: &Columns) -> Result<PromptSet, String> {
    PromptSet::read_as(Path::new(name), content.as_bytes(), columns)
        .map_err(|errors| errors.to_string())
}

fn goal() -> Columns {
    Columns {
        prompt: Some("goal".to_string()),
        split: Some("kind".to_string()),
        ..Columns::default()
    }
}

#[test]
fn files_of_each_format_give_the_same_content() {
    let lines = "{\"goal\": \"Is it far?\", \"kind\": \"a\", \"note\": \"x; y\"}\n{\"goal\": \"Is it, late?\", \"kind\": \"b\", \"note\": \"z\"}\n";
    let set = read_as("p.jsonl", lines, &goal()).unwrap();
    assert_splits(&set, &[("a", 1), ("b", 1)]);
    assert_eq!(set.findings(), Vec::<String>::new());
    let array = format!("[{}]", lines.trim_end().replace('\n', ","));
    let comma = "kind,goal,note\na,Is it far?,x; y\nb,\"Is it, late?\",z\n";
    let semicolon = "kind;goal;note\na;Is it far?;\"x; y\"\nb;Is it, late?;z\n";
    let tab = "kind\tgoal\tnote\na\tIs it far?\tx; y\nb\tIs it, late?\tz\n";
    for (name, content, said) in [
        ("p.json", array.as_str(), ""),
        ("p.csv", comma, ""),
        ("p.csv", semicolon, "separated by semicolons"),
        ("p.csv", tab, "separated by tabs"),
        ("p.tsv", tab, ""),
    ] {
        let found = read_as(name, content, &goal()).unwrap();
        assert_eq!(found.content_hash(), set.content_hash(), "{name}");
        let told = found.findings().concat();
        assert!(
            told.contains(said) && said.is_empty() == told.is_empty(),
            "{name}: {told}"
        );
    }
}

#[test]
fn ids_that_are_made_stay_when_rows_change_their_places() {
    let read = |content: &str| {
        let set = read_as("p.csv", content, &goal()).unwrap();
        set.prompts
            .into_iter()
            .map(|prompt| (prompt.text, prompt.id))
            .collect::<Vec<_>>()
    };
    let first = read("goal,kind\nIs it far?,a\nIs it late?,a\nIs it far?,b\n");
    let second = read("goal,kind\nIs it new?,a\nIs it late?,a\nIs it far?,a\n");
    assert_eq!(first[1].1, second[1].1);
    assert_eq!(first[0].1, second[2].1);
    assert_eq!(first[2].1, format!("{}-2", first[0].1));
    assert_eq!(first[0].1.len(), 13, "{first:?}");
}

#[test]
fn columns_that_are_said_must_be_there() {
    for (name, content, start) in [
        (
            "p.csv",
            "goal,other\nx,y\n",
            "p.csv:1: the header has no column `kind`; expected one of `kind` (columns found, separated by commas: `goal`, `other`)",
        ),
        (
            "p.jsonl",
            "{\"goal\": \"x\"}",
            "p.jsonl: no row has a field `kind`, which `columns` says is the split; ",
        ),
        (
            "p.jsonl",
            "{\"prompt\": \"x\", \"kind\": \"a\"}",
            "p.jsonl:1: missing `goal`; ",
        ),
        (
            "p.jsonl",
            "{\"goal\": \"x\", \"kind\": 1.5}",
            "p.jsonl:1: wrong type of `kind`: `1.5`; ",
        ),
        (
            "p.jsonl",
            "{\"goal\": \"x\", \"kind\": \"a\", \"id\": 1}\n{\"goal\": \"y\", \"kind\": \"a\"}",
            "p.jsonl:2: missing `id`, which other prompts of the file have; ",
        ),
    ] {
        let told = read_as(name, content, &goal()).unwrap_err();
        assert!(
            told.starts_with(start) && told.lines().count() == 1,
            "{told}"
        );
    }
    let set = read_as(
        "p.jsonl",
        "{\"goal\": \"x\", \"kind\": 1}\n{\"goal\": \"y\", \"kind\": true}",
        &goal(),
    );
    assert_splits(&set.unwrap(), &[("1", 1), ("true", 1)]);
}
