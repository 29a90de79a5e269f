//! What holds for every field of every kind, whatever it is: it is read as declared, and it decides the key as declared.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::spec::{Fields, Problems, load_text};

use super::declare::{Field, Keyed};
use super::{KINDS, Kind, Needs, Settings};

/// What the required fields of a kind do not say: fields of which some tables need others. One line for each way to write a stage of the
/// kind; a kind of which every table needs the same fields has none.
const WAYS: &[(&str, &str)] = &[
    ("generate", "temperature = 1"),
    ("generate", "direction = \"d\"\nalpha = 1"),
    (
        "generate",
        "direction = \"d\"\nmode = \"rotate\"\nalpha = 1\nplane = \"e\"",
    ),
    (
        "patch",
        "pairing = \"models\"\ndonor = \"m\"\nrecipient = \"n\"\nlayer = 1",
    ),
    (
        "patch",
        "pairing = \"models\"\ndonor = \"m\"\nrecipient = \"n\"\ncumulative = \"last_k\"",
    ),
    (
        "patch",
        "pairing = \"prompts\"\nmodel = \"m\"\ndonors = \"x\"\nrecipients = \"y\"\nlayer = 1",
    ),
    ("direction", "scores = \"s\"\nsplit = \"x\"\nn = 2"),
    (
        "direction",
        "scores = \"s\"\nsplit = \"x\"\nselect = \"threshold\"",
    ),
    ("direction", "select = \"splits\"\na = \"x\"\nb = \"y\""),
    (
        "direction",
        "select = \"column\"\ncolumn = \"c\"\na = \"x\"\nb = \"y\"",
    ),
    (
        "direction",
        "select = \"labels\"\nlabels = \"l.csv\"\na = \"x\"\nb = \"y\"",
    ),
    (
        "holdout",
        "scores = \"s\"\nsplit = \"x\"\ncompare = \"y\"\nn = 2\nalpha = 1",
    ),
    (
        "holdout",
        "select = \"splits\"\na = \"x\"\nb = \"y\"\nalpha = 1",
    ),
    (
        "holdout",
        "select = \"column\"\ncolumn = \"c\"\na = \"x\"\nb = \"y\"\nalpha = 1",
    ),
    (
        "holdout",
        "select = \"labels\"\nlabels = \"l.csv\"\na = \"x\"\nb = \"y\"\nalpha = 1",
    ),
    (
        "direction",
        "select = \"splits\"\na = \"x\"\nb = \"y\"\nmethod = \"logistic\"\nheld_out = 0.5",
    ),
    (
        "direction",
        "select = \"splits\"\na = \"x\"\nb = \"y\"\nmethod = \"pca\"",
    ),
    ("vector", "prompts = \"p\""),
    ("steer", "alpha = 1"),
    ("steer", "mode = \"ablate\""),
    ("steer", "mode = \"rotate\"\nalpha = 1\nplane = \"e\""),
    (
        "holdout",
        "select = \"splits\"\na = \"x\"\nb = \"y\"\nmode = \"rotate\"\nalpha = 1\nplane = \"e\"",
    ),
    ("random", "alpha = 1"),
    (
        "random",
        "alpha = 1\nalpha_unit = \"pre_norm\"\nreference = \"d\"",
    ),
    ("random", "mode = \"ace\"\nalpha = 1\nreference = \"d\""),
    ("random", "mode = \"rotate\"\nalpha = 1\nplane = \"e\""),
    ("xstest", "alpha = 1"),
    ("xstest", "mode = \"rotate\"\nalpha = 1\nplane = \"e\""),
    (
        "select",
        "model = \"m\"\nprompts = \"p\"\ndirection = \"d\"\nharmful = \"x\"\nharmless = \"y\"",
    ),
    ("select", "file = \"a.json\"\nn_layers = 3"),
    (
        "cost",
        "alpha = 1\nkl = { prompts = \"p\" }\ntexts = { prompts = \"q\" }",
    ),
    ("cost", "mode = \"ablate\"\nanswers = { prompts = \"p\" }"),
    (
        "cost",
        "alpha = 1\nchoices = { prompts = \"p\" }\neffect = { prompts = \"q\" }",
    ),
    (
        "cost",
        "mode = \"rotate\"\nalpha = 1\nplane = \"e\"\nkl = { prompts = \"p\" }",
    ),
    ("summary", "steer = \"s\""),
    ("summary", "random = \"s\""),
    (
        "import",
        "as = \"steer\"\nfile = \"{seed}.csv\"\nseed = 1\nscores = \"s\"\ndirection_model = \"m\"\nsplit = \"x\"",
    ),
    ("import", "as = \"score\"\nfile = \"a.csv\""),
    ("import", "as = \"patch\"\nfile = \"a.csv\""),
    (
        "import",
        "as = \"summary\"\nfile = \"a.csv\"\nsummaries = \"s\"",
    ),
];

/// Values that a schema allows, at least two where there are two that mean different things.
pub(crate) fn values(schema: &Json) -> Vec<Json> {
    if let Some(names) = schema["enum"].as_array() {
        return names.clone();
    }
    if !schema["const"].is_null() {
        return vec![schema["const"].clone()];
    }
    if let Some(ways) = schema["anyOf"].as_array() {
        return ways.iter().flat_map(values).collect();
    }
    let bound = |name: &str| schema[name].as_f64();
    match schema["type"].as_str().unwrap_or_default() {
        "boolean" => vec![json!(true), json!(false)],
        "integer" => match (schema["minimum"].as_i64(), schema["maximum"].as_i64()) {
            (Some(least), _) => vec![json!(least), json!(least + 1)],
            (None, most) => vec![json!(most.unwrap_or(0)), json!(most.unwrap_or(0) - 1)],
        },
        "number" => {
            let low = bound("exclusiveMinimum")
                .or(bound("minimum"))
                .unwrap_or(1.0);
            let high = bound("exclusiveMaximum")
                .or(bound("maximum"))
                .unwrap_or(low + 1.0);
            [0.25, 0.75]
                .map(|share| json!(low + share * (high - low)))
                .to_vec()
        }
        "string" if !schema["pattern"].is_null() => vec![json!("1..3"), json!("1..4")],
        "string" => vec![json!("a"), json!("b")],
        "array" => values(&schema["items"])
            .into_iter()
            .map(|value| json!([value]))
            .collect(),
        "object" => match schema["properties"].as_object() {
            None => vec![json!({ "a": 1 }), json!({ "a": 2 })],
            Some(fields) => of_fields(fields),
        },
        other => panic!("no values of type `{other}`"),
    }
}

/// Tables with each value of each field, alone and beside each other field.
fn of_fields(fields: &Map<String, Json>) -> Vec<Json> {
    let of_field = |(name, schema): (&String, &Json)| {
        let values = values(schema).into_iter();
        let alone = values.map(|value| Map::from_iter([(name.clone(), value)]));
        alone.collect::<Vec<_>>()
    };
    let alone: Vec<_> = fields.iter().map(of_field).collect();
    let firsts = || alone.iter().filter_map(|tables| tables.first());
    let beside = |table: &Map<String, Json>| {
        let both = firsts().map(|first| first.clone().into_iter().chain(table.clone()));
        both.map(|both| both.collect()).collect::<Vec<_>>()
    };
    let tables = alone.iter().flatten();
    let all = tables.flat_map(|table| [vec![table.clone()], beside(table)].concat());
    all.map(Json::Object).collect()
}

/// What is said for all stages, with score rules of these names.
pub(crate) fn with_rules(names: &[&str]) -> Settings {
    let rules = names
        .iter()
        .map(|name| format!("[score.{name}]\nyes = \"Yes\"\nno = \"No\"\n"));
    let document = load_text(Path::new("s.toml"), &rules.collect::<String>(), &[]).unwrap();
    let mut problems = Problems::default();
    let score = document.root.as_table().unwrap().get("score");
    let rules = super::Rules::read(score, &mut problems);
    assert!(problems.is_empty());
    Settings {
        rules,
        ..Settings::default()
    }
}

/// What a stage of these fields is: its part of the key, the names it refers to, and the fields asked for; none where it has a problem.
fn read(kind: &Kind, table: &Map<String, Json>) -> Option<(Json, Needs, Vec<&'static str>)> {
    let lines = table
        .iter()
        .map(|(name, value)| format!("{name} = {}\n", toml::Value::try_from(value).unwrap()));
    let document = load_text(Path::new("s.toml"), &lines.collect::<String>(), &[]).unwrap();
    let mut problems = Problems::default();
    let mut fields = Fields::new(&document.root, &mut problems).unwrap();
    let stage = (kind.decode)(&mut fields, &with_rules(&["a", "b"]));
    let known = fields.known.clone();
    fields.finish();
    let stage = stage.filter(|_| problems.is_empty())?;
    Some((stage.parameters(), stage.needs(), known))
}

/// Every way to write a stage of a kind, each with all that is required.
fn tables(kind: &Kind) -> Vec<Map<String, Json>> {
    let mut required = Map::new();
    for field in (kind.fields)().iter().filter(|field| field.is_required) {
        required.insert(field.name.to_string(), values(&field.schema)[0].clone());
    }
    let ways = WAYS.iter().filter(|(of, _)| *of == kind.name);
    let mut tables: Vec<Map<String, Json>> = ways
        .map(|(_, way)| {
            let mut table = required.clone();
            let way: toml::Table = way.parse().unwrap();
            table.extend(way.into_iter().map(|(name, value)| (name, json!(value))));
            table
        })
        .collect();
    tables.push(required);
    tables.retain(|table| read(kind, table).is_some());
    assert!(
        !tables.is_empty(),
        "no stage of kind `{}` can be written",
        kind.name
    );
    tables
}

fn names(needs: &Needs) -> String {
    let name = |name: &super::Name| name.value.clone();
    let models: Vec<String> = needs.models.iter().map(name).collect();
    let prompts: Vec<String> = needs.prompts.iter().map(name).collect();
    let stages: Vec<String> = needs.stages.iter().map(|(stage, _)| name(stage)).collect();
    let files: Vec<String> = needs
        .files
        .iter()
        .map(|f| f.value.display().to_string())
        .collect();
    format!("{models:?} {prompts:?} {stages:?} {files:?}")
}

fn with(table: &Map<String, Json>, field: &Field, value: &Json) -> Map<String, Json> {
    let mut table = table.clone();
    table.insert(field.name.to_string(), value.clone());
    table
}

#[test]
fn every_field_of_every_kind_is_in_the_key_unless_its_declaration_says_otherwise() {
    for kind in KINDS {
        for field in (kind.fields)() {
            let told = format!("`{}` of `{}`", field.name, kind.name);
            let of_table = |table: &Map<String, Json>| {
                let values = values(&field.schema).into_iter();
                let found = values.filter_map(|value| read(kind, &with(table, &field, &value)));
                let found: Vec<_> = found.collect();
                let keys: BTreeSet<String> = found.iter().map(|f| f.0.to_string()).collect();
                let names: BTreeSet<String> = found.iter().map(|f| names(&f.1)).collect();
                (found.len(), keys.len(), names.len())
            };
            let counts: Vec<_> = tables(kind).iter().map(of_table).collect();
            if counts.iter().all(|(values, ..)| *values < 2) {
                // It decides which other fields there are, so that none of the tables can have another value of it.
                assert_eq!(field.keyed, Keyed::ByValue, "{told}");
                assert!(counts.len() > 1, "{told} has one value");
                continue;
            }
            match field.keyed {
                Keyed::ByValue => assert!(
                    counts.iter().any(|(_, keys, _)| *keys > 1),
                    "{told} is read and not keyed"
                ),
                Keyed::ByContent | Keyed::IfGiven => assert!(
                    counts.iter().any(|(.., names)| *names > 1),
                    "{told} names nothing that is keyed"
                ),
                Keyed::No => assert!(
                    counts.iter().all(|(_, keys, _)| *keys < 2),
                    "{told} is keyed"
                ),
            }
        }
    }
}

#[test]
fn what_is_left_out_is_the_default() {
    for kind in KINDS {
        for field in (kind.fields)() {
            let Some(default) = &field.default else {
                continue;
            };
            let mut written = 0;
            for table in tables(kind) {
                let told = format!("`{}` of `{}`", field.name, kind.name);
                let Some(with) = read(kind, &with(&table, &field, default)) else {
                    continue;
                };
                let mut without = table.clone();
                without.remove(field.name);
                if let Some(without) = read(kind, &without) {
                    assert_eq!(with.0, without.0, "{told}");
                    written += 1;
                }
            }
            assert!(written > 0, "`{}` of `{}`", field.name, kind.name);
        }
    }
}

#[test]
fn the_fields_that_are_read_are_those_that_are_declared() {
    for kind in KINDS {
        let fields = (kind.fields)();
        let declared: BTreeSet<&str> = fields.iter().map(|field| field.name).collect();
        assert_eq!(
            declared.len(),
            fields.len(),
            "declared twice in `{}`",
            kind.name
        );
        let read: BTreeSet<&str> = tables(kind)
            .iter()
            .flat_map(|table| read(kind, table).unwrap().2)
            .collect();
        assert_eq!(read, declared, "{}", kind.name);
    }
}

#[test]
fn every_field_says_what_it_is() {
    for kind in KINDS {
        for field in (kind.fields)() {
            assert!(
                field.about.len() > 10,
                "`{}` of `{}`",
                field.name,
                kind.name
            );
        }
    }
}
