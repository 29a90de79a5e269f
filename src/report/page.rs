//! `report.html`: one file that needs nothing else, from a template, a style sheet, a script and the charting library.
//!
//! Text from prompts and models is data. It travels as JSON in which `<` is written `\u003c` when it is put into the page, whatever it holds,
//! and the script puts it in place as text; what the template itself writes is escaped by minijinja. So no text becomes markup, and a page
//! that is sent elsewhere has no other origin: its content security policy runs no script but its own two, turns no text into markup, and
//! forbids another base and forms. (No policy forbids `<meta http-equiv=refresh>`: that there is no such markup is what keeps it out.)

use std::collections::{BTreeMap, HashMap};

use minijinja::{AutoEscape, Environment, Value, context};
use polars::prelude::Column;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::harmless;
use crate::manifest::{Manifest, Model, Prompts, Stage, StageStatus, file_stem};
use crate::stages::rules::{by_rule, rule_of, rule_of_rate};
use crate::stages::{Measure, Outcome, PARTS, Product, kind_named};

use super::number::{as_shown, shown as shown_number};
use super::{
    BASELINE, Cell, Figure, FinishedRun, FinishedStage, PALETTE, ReportError, Table, cells,
};
use super::{dag, drill};

const TEMPLATE: &str = include_str!("page/template.html");
pub(crate) const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/page.js");
const ECHARTS: &str = include_str!("../../assets/echarts/echarts.min.js");
/// The version of the library, for the page's last line.
const ECHARTS_VERSION: &str = "6.1.0";
/// A table with more rows than this is linked, not shown: the page stays small enough to send.
const MOST_ROWS: usize = 5000;
/// So is one with more text: of what models wrote, the prompts carry the first part.
const MOST_TEXT_BYTES: usize = 500_000;

/// What the page shows of a run's tables, as the template takes it; the same for every run that has the same tables.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Content {
    /// What the run shows: `class` and `headline`, and part by part `places` and `definitions`.
    verdict: Json,
    /// The tables at the top: `id`, their place among the tables of the data, `title` and `note`.
    main_tables: Vec<Json>,
    /// By stage, its `figures` and `tables`.
    stages: BTreeMap<String, Json>,
    has_prompts: bool,
    /// Figures, tables and prompts, as JSON.
    data: String,
}

impl Content {
    /// Of a run whose tables are loaded.
    pub(super) fn of(run: &FinishedRun, figures: &[Figure]) -> Self {
        let mut tables = Vec::new();
        let main_tables = main_tables(run, &mut tables);
        let stages = run.stages.iter();
        let stages = stages.map(|s| (s.name.clone(), shown(s, figures, &mut tables)));
        let stages = stages.collect();
        let sets = drill::drilled(run);
        let has_prompts = !sets.is_empty();
        let data = json!({ "figures": figures, "tables": tables, "sets": sets, "palette": PALETTE, "baseline": BASELINE });
        Content {
            verdict: verdict(run),
            main_tables,
            stages,
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
    let stages = run.stages.iter();
    let stages: Vec<Json> = stages
        .map(|stage| section(stage, content.stages.get(&stage.name)))
        .collect();
    let sum = |of: fn(&Stage) -> u64| -> u64 {
        let results = run.stages.iter().filter_map(|stage| stage.result.as_ref());
        results.map(of).fold(0, u64::saturating_add)
    };
    let started = manifest.started.split('.').next().unwrap_or_default();
    let values = json!({
        "study": run.study(),
        "question": manifest.question,
        "models": models(manifest),
        "found": manifest.findings,
        "prompts": prompts(manifest),
        "started": started.replace('T', " ") + " UTC",
        "status": manifest.status,
        "error": manifest.error,
        "seconds": manifest.seconds.map_or(String::new(), seconds),
        "computed": sum(|stage| stage.cells_computed),
        "cached": sum(|stage| stage.cells_cached),
        "passes": manifest.equivalent_forward_passes,
        "verdict": content.verdict,
        "findings": run.conclusions().filter(|finding| !is_in_verdict(finding, &content.verdict)).collect::<Vec<_>>(),
        "key": manifest.key,
        "version": manifest.provenance.dial,
        "provenance": provenance(manifest),
        "dag": dag::svg(run),
        "echarts": ECHARTS_VERSION,
        "main_tables": content.main_tables,
        "stages": stages,
        "has_prompts": content.has_prompts,
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
pub(crate) fn in_template(value: &Json) -> Value {
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
            Value::from(entries.collect::<BTreeMap<String, Value>>())
        }
    }
}

fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.1 => format!("{:.0} ms", s * 1000.0),
        s if s < 90.0 => format!("{s:.1} s"),
        s => format!("{:.0} min", s / 60.0),
    }
}

fn models(manifest: &Manifest) -> Vec<Json> {
    let model = |(name, model): (&String, &Model)| {
        let config = &model.config;
        json!({ "name": name, "source": model.source, "architecture": config.architecture,
                "layers": config.n_layers, "width": config.d_model, "dtype": model.dtype, "example": model.example,
                "score": model.score.as_ref().map(Measure::told) })
    };
    manifest.models.iter().map(model).collect()
}

fn prompts(manifest: &Manifest) -> Vec<Json> {
    let set = |(name, set): (&String, &Prompts)| {
        let splits = set.splits.iter();
        let splits: Vec<String> = splits.map(|(split, n)| format!("{n} {split}")).collect();
        json!({ "name": name, "path": set.path, "splits": splits.join(", "), "licence": set.licence })
    };
    manifest.prompts.iter().map(set).collect()
}

fn provenance(manifest: &Manifest) -> String {
    let said = manifest.provenance_by_name().into_iter();
    let said = said.map(|(name, value)| match value {
        Json::String(text) => format!("{name} {text}"),
        other => format!("{name} {other}"),
    });
    said.collect::<Vec<_>>().join(", ")
}

/// What the run's summaries show, part by part; `class` is that of the worst.
fn verdict(run: &FinishedRun) -> Json {
    let tables = run.with(Product::Summary);
    let tables = tables.filter_map(|stage| stage.table("verdict"));
    let mut places: Vec<(String, Vec<Tested>)> = Vec::new();
    for test in tables.flat_map(tested) {
        match places.iter_mut().find(|(place, _)| *place == test.place) {
            Some((_, tests)) => tests.push(test),
            None => places.push((test.place.clone(), vec![test])),
        }
    }
    let worst = places
        .iter()
        .flat_map(|(_, tests)| tests)
        .map(|test| test.outcome)
        .min();
    let (class, headline) = match worst {
        None => return judged_before(run),
        Some(Outcome::Passed) => ("pass", "Every part of the verdict is passed"),
        Some(Outcome::NotTested) => ("open", "Not every part of the verdict was tested"),
        Some(Outcome::Failed) => ("fail", "Not every part of the verdict is passed"),
    };
    let place = |(place, tests): &(String, Vec<Tested>)| {
        let parts = PARTS.iter().filter_map(|(name, _)| {
            let of_part = tests.iter().filter(|test| test.part == *name);
            let of_part: Vec<&Tested> = of_part.collect();
            let outcome = of_part.iter().map(|test| test.outcome).min()?;
            let why: Vec<String> = of_part
                .iter()
                .map(|test| format!("{}: {}", test.of, test.why))
                .collect();
            Some(json!({ "name": name, "outcome": outcome.name(), "class": class_of(outcome), "why": why.join("; ") }))
        });
        json!({ "place": place, "parts": parts.collect::<Vec<_>>() })
    };
    let definitions = PARTS
        .iter()
        .map(|(name, about)| json!({ "name": name, "about": about }));
    json!({
        "class": class, "headline": headline,
        "places": places.iter().map(place).collect::<Vec<_>>(),
        "definitions": definitions.collect::<Vec<_>>(),
    })
}

/// Whether a finding says in a sentence what the verdict has part by part.
fn is_in_verdict(finding: &str, verdict: &Json) -> bool {
    let outcomes = [Outcome::Passed, Outcome::Failed, Outcome::NotTested];
    let mut begins = outcomes
        .iter()
        .map(|outcome| format!(": {}: ", outcome.name()));
    verdict["places"].is_array() && begins.any(|begin| finding.contains(&begin))
}

fn class_of(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "pass",
        Outcome::NotTested => "open",
        Outcome::Failed => "fail",
    }
}

/// A row of a verdict.
struct Tested {
    place: String,
    part: String,
    of: String,
    outcome: Outcome,
    why: String,
}

fn tested(table: &Table) -> Vec<Tested> {
    let texts = |name: &str| table.texts(name);
    let (models, layers, parts) = (texts("model"), texts("layer"), texts("part"));
    let (of, outcomes, why) = (texts("of"), texts("outcome"), texts("why"));
    let row = |row: usize| {
        Some(Tested {
            place: format!("model {}, layer {}", models[row], layers[row]),
            part: parts[row].clone(),
            of: of[row].clone(),
            outcome: Outcome::named(&outcomes[row])?,
            why: why[row].clone(),
        })
    };
    (0..table.height()).filter_map(row).collect()
}

/// What earlier versions judged: whether two of the parts, effect and specific, were passed.
fn judged_before(run: &FinishedRun) -> Json {
    let tables = run.with(Product::Summary);
    let tables = tables.filter_map(|stage| stage.table("learned_vs_random"));
    let judged = tables.flat_map(|table| table.numbers("controls_pass"));
    let judged: Vec<bool> = judged.flatten().map(|pass| pass == 1.0).collect();
    let (passed, all) = (judged.iter().filter(|pass| **pass).count(), judged.len());
    let (class, headline) = match (passed, all) {
        (_, 0) => ("open", "Nothing is judged in this run".to_string()),
        (passed, all) if passed == all => (
            "open",
            format!(
                "The controls pass ({passed} of {all} comparisons); whether the score measures what the texts do was not tested"
            ),
        ),
        _ => (
            "fail",
            format!("The controls do not all pass ({passed} of {all} comparisons)"),
        ),
    };
    json!({ "class": class, "headline": headline })
}

/// The tables that answer the study's question first.
fn main_tables(run: &FinishedRun, tables: &mut Vec<Json>) -> Vec<Json> {
    let main_tables = run.main_tables().into_iter();
    let shown = main_tables.map(|(stage, main, name, table)| {
        tables.push(packed(&at_a_glance(&table)));
        // What is of a further rule says so itself; all else is of the rule of the stage's main table.
        let first = stage.table("").filter(|_| name == main.name);
        let rule = rule_of(&first.unwrap_or(&table).frame);
        let title = format!("{}{}", main.title, by_rule(rule));
        let note = format!("{} ({})", main.note, file_stem(&stage.name, name));
        json!({ "id": tables.len() - 1, "title": title, "note": note })
    });
    shown.collect()
}

/// Columns that the tables at the top do without; the stages' own have them.
const HIDDEN: [&str; 18] = [
    "std",
    "ddof",
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
        let own = [format!("{name}_low"), format!("{name}_high")];
        // The ends of a rule's rate are called the same, whatever the rule.
        match rule_of_rate(name) {
            Some(_) if !table.has(&own[0]) => ["rate_low", "rate_high"].map(String::from),
            _ => own,
        }
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
    let number = |value: f64| shown_number(value).replace('-', "−");
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

/// What the page shows of a stage's tables: its figures, each with its place among the figures of the data, and its tables, each with its
/// place among those of the data, or none where it is linked only.
fn shown(stage: &FinishedStage, figures: &[Figure], tables: &mut Vec<Json>) -> Json {
    let figures = figures.iter().enumerate();
    let figures = figures.filter(|(_, figure)| figure.stage == stage.name);
    let figure = |(index, figure): (usize, &Figure)| json!({ "index": index, "title": figure.title, "note": figure.note, "name": figure.name, "is_drawn": !figure.panels.is_empty() });
    let table = |(name, table): &(String, Table)| {
        let (rows, stem) = (table.height(), file_stem(&stage.name, name));
        let is_sent = rows <= MOST_ROWS && text_bytes(table) <= MOST_TEXT_BYTES;
        if !is_sent {
            let note = format!(
                "{rows} rows, too much to send along; the figures and the prompts above show them."
            );
            return json!({ "id": null, "stem": stem, "note": note });
        }
        tables.push(packed(table));
        json!({ "id": tables.len() - 1, "stem": stem, "note": "" })
    };
    json!({
        "figures": figures.map(figure).collect::<Vec<_>>(),
        "tables": stage.tables.iter().map(table).collect::<Vec<_>>(),
    })
}

/// Bytes of the column of what models wrote, if a table has one.
fn text_bytes(table: &Table) -> usize {
    match table.has("text") {
        true => table.texts("text").iter().map(String::len).sum(),
        false => 0,
    }
}

/// What the template shows of a stage.
fn section(stage: &FinishedStage, shown: Option<&Json>) -> Json {
    let nothing = Stage::default();
    let result = stage.result.as_ref().unwrap_or(&nothing);
    let when_computed = match result.status {
        Some(StageStatus::Cached) => result.seconds_when_computed.map(seconds),
        _ => None,
    };
    json!({
        "name": stage.name, "kind": stage.kind, "about": kind_named(&stage.kind).map_or("", |kind| kind.about),
        "status": stage.status(), "seconds": seconds(result.seconds), "when_computed": when_computed.unwrap_or_default(),
        "cells": cells_of(result),
        "findings": result.findings,
        "figures": shown.map(|shown| &shown["figures"]), "tables": shown.map(|shown| &shown["tables"]),
        "key": result.key,
        "inputs": serde_json::to_string_pretty(&result.inputs).unwrap_or_default(),
    })
}

/// Where a stage's cells came from, in words.
fn cells_of(result: &Stage) -> String {
    let shared = result.cells_shared.iter();
    let with: Vec<String> = shared
        .map(|(stage, cells)| format!("{cells} with {stage}"))
        .collect();
    let shared: u64 = result.cells_shared.values().sum();
    let cached = result.cells_cached.saturating_sub(shared);
    let computed = result.cells_computed;
    match with.is_empty() {
        true => format!("{computed} cells computed, {cached} from the cache"),
        false => format!(
            "{computed} cells computed, {cached} from the cache, shared {}",
            with.join(", ")
        ),
    }
}

/// A table as the page carries it.
fn packed(table: &Table) -> Json {
    let columns: Vec<Json> = table.columns().iter().map(packed_column).collect();
    json!({ "rows": table.height(), "columns": columns })
}

/// Numbers as they are shown, flags as 0 and 1, each distinct text once and then its place among these words.
fn packed_column(column: &Column) -> Json {
    let mut words: Vec<&str> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let values = cells(column).map(|cell| match cell {
        None => Json::Null,
        Some(Cell::Number(value)) => json!(as_shown(value)),
        Some(Cell::Flag(flag)) => json!(u8::from(flag)),
        Some(Cell::Text(text)) => json!(*places.entry(text).or_insert_with(|| {
            words.push(text);
            words.len() - 1
        })),
    });
    let values: Vec<Json> = values.collect();
    let name = column.name().as_str();
    match column.dtype() {
        kind if kind.is_primitive_numeric() => {
            json!({ "name": name, "type": "number", "values": values })
        }
        kind if kind.is_bool() => json!({ "name": name, "type": "flag", "values": values }),
        _ => json!({ "name": name, "type": "text", "words": words, "values": values }),
    }
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
    fn the_library_holds_nothing_that_ends_its_element() {
        let library = ECHARTS.to_ascii_lowercase();
        assert!(!library.contains("</script") && !library.contains("<!--"));
        assert!(ECHARTS.contains(&format!("version=\"{ECHARTS_VERSION}\"")));
    }
}
