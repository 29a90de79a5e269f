//! `report.html`: one file that needs nothing else, from a template, a style sheet, a script and the charting library.
//!
//! Text from prompts and models is data. It travels as JSON in which `<` is written `\u003c` when it is put into the page, whatever it holds,
//! and the script puts it in place as text; what the template itself writes is escaped by minijinja. So no text becomes markup, and a page
//! that is sent elsewhere has no other origin: its content security policy runs no script but its own two, turns no text into markup, and
//! forbids another base and forms. (No policy forbids `<meta http-equiv=refresh>`: that there is no such markup is what keeps it out.)

use minijinja::{AutoEscape, Environment, Value, context};
use polars::prelude::Column;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::harmless;
use crate::stages::KINDS;

use super::{
    BASELINE, Cell, Figure, FinishedRun, FinishedStage, PALETTE, ReportError, Table, cells,
};
use super::{dag, drill, file_stem};

const TEMPLATE: &str = include_str!("page/template.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/page.js");
const ECHARTS: &str = include_str!("../../assets/echarts/echarts.min.js");
/// The version of the library, for the page's last line.
const ECHARTS_VERSION: &str = "6.1.0";
/// A table with more rows than this is linked, not shown: the page stays small enough to send.
const MOST_ROWS: usize = 5000;
/// So is one with more text: of what models wrote, the prompts carry the first part.
const MOST_TEXT_BYTES: usize = 500_000;

/// What the page shows of a run's tables; the same for every run that has the same tables.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Content {
    /// Whether the controls pass.
    verdict: Json,
    /// The tables at the top.
    main_tables: Json,
    /// By stage, its figures and tables.
    stages: Json,
    has_prompts: bool,
    /// Figures, tables and prompts, as JSON.
    data: String,
}

impl Content {
    /// Of a run whose tables are loaded.
    pub(super) fn of(run: &FinishedRun, figures: &[Figure]) -> Self {
        let mut tables = Vec::new();
        let main_tables = main_tables(run, &mut tables);
        let mut stages = serde_json::Map::new();
        for stage in &run.stages {
            stages.insert(stage.name.clone(), shown(stage, figures, &mut tables));
        }
        let sets = drill::drilled(run);
        let has_prompts = !sets.is_empty();
        let data = json!({ "figures": figures, "tables": tables, "sets": sets, "palette": PALETTE, "baseline": BASELINE });
        Content {
            verdict: verdict(run),
            main_tables: json!(main_tables),
            stages: Json::Object(stages),
            has_prompts,
            data: data.to_string(),
        }
    }
}

/// The page of a run with this content.
///
/// # Errors
/// [`ReportError::Drawing`] where the template does not render.
pub(super) fn page(run: &FinishedRun, content: &Content) -> Result<String, ReportError> {
    // A script that somehow got into the page would have to know this to run.
    let nonce = blake3::hash(content.data.as_bytes()).to_hex()[..32].to_string();
    let manifest = &run.manifest;
    let stages: Vec<Json> = run
        .stages
        .iter()
        .map(|stage| section(stage, &content.stages[&stage.name]))
        .collect();
    let sum = |key: &str| -> u64 {
        run.stages
            .iter()
            .filter_map(|s| s.manifest[key].as_u64())
            .sum()
    };
    let started = manifest["started"].as_str().unwrap_or_default();
    let started = started
        .split('.')
        .next()
        .unwrap_or_default()
        .replace('T', " ");
    let values = json!({
        "study": run.study(),
        "question": manifest["question"],
        "models": models(manifest),
        "found": manifest["findings"],
        "prompts": prompts(manifest),
        "started": started + " UTC",
        "status": manifest["status"],
        "error": manifest["error"],
        "seconds": seconds(&manifest["seconds"]),
        "computed": sum("cells_computed"),
        "cached": sum("cells_cached"),
        "passes": manifest["equivalent_forward_passes"],
        "verdict": content.verdict,
        "findings": run.of_kind("summary").flat_map(FinishedStage::findings).collect::<Vec<_>>(),
        "key": manifest["key"],
        "version": manifest["provenance"]["dial"],
        "provenance": provenance(manifest),
        "dag": dag::svg(&dag::of_run(run)),
        "echarts": ECHARTS_VERSION,
        "main_tables": content.main_tables,
        "stages": stages,
        "has_prompts": content.has_prompts,
        "data": in_script(&content.data),
        "nonce": nonce,
    });
    let values = context! { data => in_script(&harmless::json(&content.data)), style => STYLE, script => SCRIPT, library => ECHARTS, ..in_template(&values) };
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment
        .render_str(TEMPLATE, values)
        .map_err(|error| ReportError::Drawing(error.to_string()))
}

/// The same JSON as it can stand in a script element. Whatever the text is, without `<` nothing in it can end the element.
fn in_script(json: &str) -> String {
    json.replace('<', "\\u003c")
}

/// A JSON value as the template takes it.
fn in_template(value: &Json) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::from(whole),
            None => Value::from(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::from(harmless::label(text).as_ref()),
        Json::Array(list) => Value::from(list.iter().map(in_template).collect::<Vec<_>>()),
        Json::Object(map) => {
            let entries = map
                .iter()
                .map(|(name, value)| (name.clone(), in_template(value)));
            Value::from(entries.collect::<std::collections::BTreeMap<String, Value>>())
        }
    }
}

fn seconds(value: &Json) -> String {
    value
        .as_f64()
        .map_or(String::new(), |seconds| match seconds {
            s if s < 0.1 => format!("{:.0} ms", s * 1000.0),
            s if s < 90.0 => format!("{s:.1} s"),
            s => format!("{:.0} min", s / 60.0),
        })
}

fn models(manifest: &Json) -> Vec<Json> {
    let models = manifest["models"].as_object().into_iter().flatten();
    models
        .map(|(name, model)| {
            let config = &model["config"];
            json!({ "name": name, "source": model["source"], "architecture": config["architecture"],
                    "layers": config["n_layers"], "width": config["d_model"], "dtype": model["dtype"], "example": model["example"] })
        })
        .collect()
}

fn prompts(manifest: &Json) -> Vec<Json> {
    let sets = manifest["prompts"].as_object().into_iter().flatten();
    sets.map(|(name, set)| {
        let splits = set["splits"].as_object().into_iter().flatten();
        let splits: Vec<String> = splits.map(|(split, n)| format!("{n} {split}")).collect();
        json!({ "name": name, "path": set["path"], "splits": splits.join(", ") })
    })
    .collect()
}

fn provenance(manifest: &Json) -> String {
    let of = manifest["provenance"].as_object().into_iter().flatten();
    let said = of.map(|(name, value)| match value {
        Json::String(text) => format!("{name} {text}"),
        other => format!("{name} {other}"),
    });
    said.collect::<Vec<_>>().join(", ")
}

/// Whether the controls pass, as the run's summaries judge them.
fn verdict(run: &FinishedRun) -> Json {
    let tables = run
        .of_kind("summary")
        .filter_map(|s| s.table("learned_vs_random"));
    let mut judged: Vec<bool> = Vec::new();
    for table in tables {
        judged.extend(
            table
                .numbers("controls_pass")
                .iter()
                .flatten()
                .map(|pass| *pass == 1.0),
        );
    }
    let passed = judged.iter().filter(|pass| **pass).count();
    let (class, headline) = match (passed, judged.len()) {
        (_, 0) => ("", "The controls are not judged in this run".to_string()),
        (passed, all) if passed == all => (
            "pass",
            format!("The controls pass ({passed} of {all} comparisons)"),
        ),
        (passed, all) => (
            "fail",
            format!("The controls do not all pass ({passed} of {all} comparisons)"),
        ),
    };
    let lines: Vec<String> = run
        .of_kind("summary")
        .flat_map(FinishedStage::findings)
        .collect();
    json!({ "class": class, "headline": headline, "lines": lines })
}

/// The tables that answer the study's question first.
fn main_tables(run: &FinishedRun, tables: &mut Vec<PackedTable>) -> Vec<Json> {
    let wanted = [
        (
            "score",
            "means",
            "Scores without steering",
            "Mean with bootstrap interval, refusal rate with Wilson interval, both 95 %.",
        ),
        (
            "summary",
            "learned_vs_random",
            "The learned direction against random ones",
            "Slope of mean score on α for each set, with a 95 % interval, and the largest gap over α (no interval); z and exact empirical p against random directions.",
        ),
        (
            "summary",
            "operating_points",
            "Operating points",
            "Smallest |α| that keeps each rate at or below its target (blank: none does), and the α of the largest gap. The rates there are in the summary's table.",
        ),
    ];
    let mut shown = Vec::new();
    for (kind, name, title, note) in wanted {
        for stage in run.of_kind(kind) {
            if let Some(table) = stage.table(name) {
                tables.push(PackedTable::of(&at_a_glance(table)));
                shown.push(json!({ "id": tables.len() - 1, "title": title, "note": format!("{note} ({})", file_stem(&stage.name, name)) }));
            }
        }
    }
    shown
}

/// Columns that the tables at the top do without; the stages' own have them.
const HIDDEN: [&str; 16] = [
    "site",
    "learned_from",
    "n_alpha",
    "random_mean",
    "random_std",
    "n_random",
    "edge_target",
    "harmful_target",
    "edge_rate_at_edge_target",
    "harmful_rate_at_edge_target",
    "edge_rate_at_harmful_target",
    "harmful_rate_at_harmful_target",
    "edge_rate_at_largest_gap",
    "harmful_rate_at_largest_gap",
    "gap_at_zero",
    "statistic",
];

/// A table as the top of the page has it: without some columns, and every value with its interval in one.
fn at_a_glance(table: &Table) -> Table {
    let ends = |name: &str| {
        let stem = name.strip_prefix("refusal_").unwrap_or(name);
        [format!("{stem}_low"), format!("{stem}_high")]
    };
    let is_end = |name: &str| {
        let mut columns = table.columns().iter();
        columns.any(|column| ends(column.name()).iter().any(|end| end == name))
    };
    let mut columns = Vec::new();
    for column in table.columns() {
        let name = column.name().as_str();
        // A gap's statistic is another one than a slope; the column `set` says which it is.
        if HIDDEN.contains(&name) || is_end(name) {
            continue;
        }
        let [low, high] = ends(name);
        columns.push(match table.has(&low) && table.has(&high) {
            true => with_interval(table, name, &low, &high),
            false => column.clone(),
        });
    }
    // Columns of one table have one length.
    Table::new(columns).unwrap_or_default()
}

/// `value [low, high]`, as text.
fn with_interval(table: &Table, name: &str, low: &str, high: &str) -> Column {
    let number = |value: f64| format!("{value:.3}").replace('-', "−");
    let (values, lows, highs) = (table.numbers(name), table.numbers(low), table.numbers(high));
    let cell = |row: usize| {
        let value = number(values[row]?);
        Some(match (lows[row], highs[row]) {
            (Some(low), Some(high)) => format!("{value} [{}, {}]", number(low), number(high)),
            _ => value,
        })
    };
    let texts: Vec<Option<String>> = (0..table.height()).map(cell).collect();
    Column::new(name.into(), texts)
}

/// The figures and tables of a stage, for the template.
fn shown(stage: &FinishedStage, figures: &[Figure], tables: &mut Vec<PackedTable>) -> Json {
    let drawn = figures
        .iter()
        .enumerate()
        .filter(|(_, figure)| figure.stage == stage.name);
    let drawn: Vec<Json> = drawn
        .map(|(index, f)| json!({ "index": index, "title": f.title, "note": f.note, "name": f.name }))
        .collect();
    let listed = stage.tables.iter().map(|(name, table)| {
        let (rows, stem) = (table.height(), file_stem(&stage.name, name));
        let id = (rows <= MOST_ROWS && text_bytes(table) <= MOST_TEXT_BYTES).then(|| {
            tables.push(PackedTable::of(table));
            tables.len() - 1
        });
        let note = match id {
            Some(_) => String::new(),
            None => format!(
                "{rows} rows, too much to send along; the figures and the prompts above show them."
            ),
        };
        json!({ "id": id, "title": stem, "stem": stem, "note": note })
    });
    json!({ "figures": drawn, "tables": listed.collect::<Vec<_>>() })
}

/// Bytes of the column of what models wrote, if a table has one.
fn text_bytes(table: &Table) -> usize {
    match table.has("text") {
        true => table.texts("text").iter().map(String::len).sum(),
        false => 0,
    }
}

/// What the template shows of a stage.
fn section(stage: &FinishedStage, shown: &Json) -> Json {
    let about = KINDS
        .iter()
        .find(|kind| kind.name == stage.kind)
        .map_or("", |kind| kind.about);
    let count = |key: &str| stage.manifest[key].as_u64().unwrap_or_default();
    json!({
        "name": stage.name, "kind": stage.kind, "about": about, "status": stage.status,
        "seconds": seconds(&json!(stage.seconds)),
        "when_computed": if stage.status == "cached" { seconds(&stage.manifest["seconds_when_computed"]) } else { String::new() },
        "cells": format!("{} cells computed, {} from the cache", count("cells_computed"), count("cells_cached")),
        "findings": stage.findings(), "figures": shown["figures"], "tables": shown["tables"],
        "key": stage.manifest["key"],
        "inputs": serde_json::to_string_pretty(&stage.manifest["inputs"]).unwrap_or_default(),
    })
}

/// A table as the page carries it: each distinct text once, numbers to six digits.
#[derive(Serialize)]
struct PackedTable {
    rows: usize,
    columns: Vec<Json>,
}

impl PackedTable {
    fn of(table: &Table) -> Self {
        PackedTable {
            rows: table.height(),
            columns: table.columns().iter().map(pack).collect(),
        }
    }
}

fn pack(column: &Column) -> Json {
    let kind = match column.dtype() {
        kind if kind.is_primitive_numeric() => "number",
        kind if kind.is_bool() => "flag",
        _ => "text",
    };
    let mut words: Vec<&str> = Vec::new();
    let mut known = std::collections::HashMap::new();
    let packed = cells(column).map(|cell| match cell {
        None => Json::Null,
        Some(Cell::Number(value)) => six_digits(value),
        Some(Cell::Flag(flag)) => json!(u8::from(flag)),
        Some(Cell::Text(text)) => json!(*known.entry(text).or_insert_with(|| {
            words.push(text);
            words.len() - 1
        })),
    });
    let values: Vec<Json> = packed.collect();
    let mut packed = json!({ "type": kind, "values": values, "name": column.name().as_str() });
    if kind == "text" {
        packed["words"] = json!(words);
    }
    packed
}

/// A number to six digits, a whole one as such.
fn six_digits(value: f64) -> Json {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return json!(value as i64);
    }
    let rounded: f64 = format!("{value:.5e}").parse().unwrap_or(value);
    json!(rounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_end_the_element_it_stands_in() {
        let value = json!({ "text": "</script><script>alert(1)</script>" });
        let text = in_script(&value.to_string());
        assert!(!text.contains('<'));
        let back: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(back["text"], "</script><script>alert(1)</script>");
    }

    #[test]
    fn numbers_are_as_long_as_a_reader_needs() {
        assert_eq!(six_digits(-30.0).to_string(), "-30");
        assert_eq!(six_digits(0.123456789).to_string(), "0.123457");
        assert_eq!(six_digits(1234567.89).to_string(), "1234570.0");
    }

    #[test]
    fn the_library_holds_nothing_that_ends_its_element() {
        let library = ECHARTS.to_ascii_lowercase();
        assert!(!library.contains("</script") && !library.contains("<!--"));
        assert!(ECHARTS.contains(&format!("version=\"{ECHARTS_VERSION}\"")));
    }
}
