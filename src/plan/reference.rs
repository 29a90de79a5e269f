//! The reference of study files, in Markdown: every section and every kind of stage with its keys, what it computes, the tables that it leaves
//! and an example. All of it comes from the declarations that the keys are read by.

use std::fmt::Write;

use serde_json::Value as Json;

use crate::stages::chat::ChatSection;
use crate::stages::declare::{Field, fields_of};
use crate::stages::{ImportSection, KINDS, Kind, NamedRule, ScoreRule};

use super::sections::{About, ModelEntry, PromptsEntry};

/// What the examples of all kinds have before them.
const HEAD: &str = r#"[models.inst]
source = "third_party/models/SmolLM2-135M-Instruct.Q4_1.gguf"

[prompts.main]
path = "data/prompts.jsonl"

[prompts.xstest]
path = "data/xstest_style.csv"
"#;

/// What is told of score rules.
const RULES: &str = r#"Another score rule, by a name of your choice, which stages read with `read = "NAME"` or `read = ["refused", "NAME"]`. The first that a
stage reads is in its main table, each other in a table of its own that is called as the rule (`tables/steer.NAME.csv`); the column that says whether a
prompt counts is `NAME`, that of rates `NAME_rate`. Kinds:

- `first_token`: logsumexp of the logits of the first tokens of `yes` − the same of `no`.
- `log_odds`: log(P + 1e-8) − log(1 − P + 1e-8), where P is the probability of all first tokens of `yes` (the refusal score of Arditi et al. 2024).
- `continuation`: logsumexp over the texts of `yes` of ln p(text) − the same of `no`; ln p(text) is the sum over its tokens. Without `no` the score is ln p
  of `yes`.
- `multiple_choice`: ln p(answer) − the largest ln p of another choice. Above 0 it is right; a tie is not.

All is read where the chat template leaves the answer to begin. Texts become tokens as they are written, without special tokens: where an answer would begin
with a space, write it. Choices of one token each are read at one place, others as continuations.
"#;

/// All of it.
pub(crate) fn reference() -> String {
    let kinds: Vec<String> = KINDS.iter().map(|kind| of_kind(kind)).collect();
    format!(
        "# Reference of study files\n\nMade from the program by `dial help reference`; `dial help stage KIND` prints one kind.\n\n{}\n{}",
        of_sections(),
        kinds.join("\n")
    )
}

/// The sections of a study beside its stages.
pub(crate) fn of_sections() -> String {
    let sections = [
        (
            "[study]",
            "What the study is called and asks.",
            fields_of::<About>(),
        ),
        (
            "[models.NAME]",
            "A model, by a name of your choice.",
            fields_of::<ModelEntry>(),
        ),
        (
            "[prompts.NAME]",
            "A prompt set, by a name of your choice.",
            fields_of::<PromptsEntry>(),
        ),
        (
            "[chat]",
            "The messages around every prompt.",
            fields_of::<ChatSection>(),
        ),
        (
            "[score]",
            "The default score rule, `refused`: logsumexp of the logits of refusing first tokens − logsumexp of those of complying ones.",
            fields_of::<ScoreRule>(),
        ),
        ("[score.NAME]", RULES, fields_of::<NamedRule>()),
        (
            "[import]",
            "Where published files lie, for stages of kind `import`.",
            fields_of::<ImportSection>(),
        ),
    ];
    let mut text = "## Sections\n\nA study is a TOML or YAML file of these sections and of stages. `extends = [\"other.toml\"]` at its top adds to other files; \
         what the file says itself wins, and `--set PATH=VALUE` wins over both. A stage is a table `[stages.NAME]`; one that is not named after its kind says \
         it with `kind`. Stages refer to others by name, which orders them.\n\nThe examples below are parts of one study, which begins so:\n\n"
        .to_string();
    text += &toml(HEAD);
    for (name, about, fields) in sections {
        // Writing to a string does not fail.
        let _ = write!(text, "\n### `{name}`\n\n{about}\n\n{}", keys(&fields, ""));
    }
    text
}

/// A kind of stage.
pub(crate) fn of_kind(kind: &Kind) -> String {
    let told = kind.told;
    let mut text = format!(
        "## Stage `{}`\n\nGives {}: {}.\n\n{}\n\n{}\n### Keys of `{}`\n\n{}\n### Tables of `{}`\n\n",
        kind.name,
        kind.product.noun(),
        kind.about,
        told.computes,
        toml(told.example.trim_start()),
        kind.name,
        keys(&(kind.fields)(), ""),
        kind.name,
    );
    for table in told.tables {
        let file = match table.name {
            "" => "NAME".to_string(),
            name => format!("NAME.{name}"),
        };
        let _ = write!(text, "`tables/{file}.csv`: {}.\n\n", table.about);
        for (column, is_always) in table.columns() {
            let unit = match column.unit {
                "" => String::new(),
                unit => format!(" ({unit})"),
            };
            let sometimes = if is_always {
                ""
            } else {
                "; not in every such table"
            };
            let _ = writeln!(
                text,
                "- `{}`{unit}: {}{sometimes}",
                column.name, column.about
            );
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn toml(text: &str) -> String {
    format!("```toml\n{text}```\n")
}

/// A line for each key; those of a table within one have its name before them.
fn keys(fields: &[Field], within: &str) -> String {
    let mut text = String::new();
    for field in fields {
        let schema = field.described();
        let default = match (&field.default, field.is_required) {
            (Some(default), _) => format!("; default `{default}`"),
            (None, true) => "; required".to_string(),
            (None, false) => String::new(),
        };
        let about = schema["description"].as_str().unwrap_or_default();
        let name = format!("{within}{}", field.name);
        let _ = writeln!(text, "- `{name}` ({}{default}): {about}", words(&schema));
        let inner = schema["properties"].as_object();
        for (key, schema) in inner.into_iter().flatten() {
            let about = schema["description"].as_str().unwrap_or_default();
            let default = schema.get("default");
            let default = default.map_or(String::new(), |value| format!("; default `{value}`"));
            let _ = writeln!(
                text,
                "- `{name}.{key}` ({}{default}): {about}",
                words(schema)
            );
        }
    }
    text
}

/// The values that a schema allows, in words.
fn words(schema: &Json) -> String {
    if let Some(choices) = schema["anyOf"].as_array() {
        let mut all: Vec<String> = Vec::new();
        for choice in choices {
            let is_list_of_these = choices.contains(&choice["items"]);
            let words = match is_list_of_these {
                true => "a list of them".to_string(),
                false => words(choice),
            };
            if !all.contains(&words) {
                all.push(words);
            }
        }
        return all.join(", or ");
    }
    if let Some(choices) = schema["enum"].as_array() {
        let choices: Vec<String> = choices.iter().map(|choice| format!("`{choice}`")).collect();
        return choices.join(", ");
    }
    if let Some(only) = schema.get("const") {
        return format!("`{only}`");
    }
    match schema["type"].as_str().unwrap_or_default() {
        "string" if schema.get("pattern").is_some() => "a range such as `\"0..20\"`".to_string(),
        "string" => "text".to_string(),
        "boolean" => "`true` or `false`".to_string(),
        "integer" => format!("a whole number{}", bounds(schema)),
        "number" => format!("a number{}", bounds(schema)),
        "array" => format!("a list, each {}", words(&schema["items"])),
        _ => "a table".to_string(),
    }
}

fn bounds(schema: &Json) -> String {
    let said = [
        ("minimum", "from"),
        ("exclusiveMinimum", "above"),
        ("maximum", "up to"),
        ("exclusiveMaximum", "below"),
    ];
    let said = said.into_iter().filter_map(|(name, word)| {
        let bound = schema.get(name)?;
        Some(format!(" {word} {bound}"))
    });
    said.collect()
}
