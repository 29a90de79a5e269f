//! Chat templates: the Jinja text by which a model wants its conversations written.
//!
//! The environment is that of Hugging Face transformers: blocks are trimmed, loop controls and Python's string
//! methods exist, `tools` and `documents` are none, the tokenizer's special tokens are variables, and templates
//! may call `raise_exception` and `strftime_now`. Two differences are deliberate: `strftime_now` knows one day only, so
//! that a study's prompts do not change overnight, and `tojson` orders a message's keys by name.
//!
//! A template is a program from outside: it has so much fuel (the engine's measure of steps and text), and works within an allowance of memory.

mod functions;
mod inserted;
mod settings;
mod tags;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::{Map, Value as Json};

pub(super) use inserted::inserted;
pub(crate) use settings::{Chat, SpecialTokens};

use super::confined::{Allowance, confined};
use super::error::{ModelError, Result};
use crate::harmless::cut;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// `system`, `user` or `assistant`.
    role: &'static str,
    content: String,
}

impl Message {
    pub(super) fn new(role: &'static str, content: impl Into<String>) -> Self {
        let content = content.into();
        Self { role, content }
    }
}

const NAME: &str = "chat template";
/// Bytes that a template may have; the longest known has 30,000.
const MOST_SOURCE_BYTES: usize = 128 << 10;
/// Bytes of the messages of one conversation.
const MOST_TEXT_BYTES: usize = 1 << 20;
/// Bytes of a conversation as the model reads it.
const MOST_RENDERED_BYTES: usize = 4 << 20;
/// What one conversation may cost, in the engine's measure: steps, and one for every 64 bytes of text made. Known templates need some hundreds.
const FUEL: u64 = 200_000;
/// Bytes of the conversation for each of which there is one more: enough for sixteen copies.
const BYTES_OF_FUEL: usize = 4;
/// Characters of an error that a template may fill with what it likes.
const MOST_ERROR_CHARACTERS: usize = 400;

/// Variables that are the program's to set.
const RESERVED: [&str; 6] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "raise_exception",
    "strftime_now",
];

/// What a name is taken for that a study must not give to a template argument; none for one that it may.
pub(crate) fn reserved_variable(name: &str) -> Option<&'static str> {
    if RESERVED.contains(&name) {
        return Some("the program sets it itself");
    }
    let is_token = SPECIAL_TOKENS.contains(&name);
    is_token.then_some("the tokenizer's files say what it is")
}

/// Names of special tokens that templates may use.
pub(super) const SPECIAL_TOKENS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// A model's chat template, compiled, with the special tokens it may name.
#[derive(Clone)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    /// Its text as it was given.
    pub(super) source: Arc<str>,
    pub(super) special_tokens: BTreeMap<String, String>,
    /// Names that it reads without having set them.
    pub(super) variables: Arc<HashSet<String>>,
    /// Of its source and the special tokens.
    pub(super) hash: blake3::Hash,
}

impl ChatTemplate {
    /// Compiles `source`; `special_tokens` maps names such as `bos_token` to their text.
    ///
    /// # Errors
    /// A syntax error, with its line; a template that is too long or takes too much to compile.
    pub(crate) fn new(source: &str, special_tokens: BTreeMap<String, String>) -> Result<Self> {
        if source.len() > MOST_SOURCE_BYTES {
            let length = source.len();
            return Err(ModelError::template(format!(
                "it is {length} bytes long, expected at most {MOST_SOURCE_BYTES}"
            )));
        }
        let hash = content_hash(source, &special_tokens);
        let plain = tags::without_generation(source).map_err(ModelError::template)?;
        let allowance = Allowance::of_file(plain.len());
        let compiled = confined(allowance, || compiled(plain)).map_err(ModelError::template)?;
        let (environment, variables) = compiled?;
        Ok(Self {
            environment,
            variables: Arc::new(variables),
            source: source.into(),
            special_tokens,
            hash,
        })
    }

    /// The conversation as the model reads it. `add_generation_prompt` appends what precedes an answer.
    ///
    /// # Errors
    /// Whatever the template raises, for instance that it knows no system message; a template that takes too much.
    #[cfg(test)]
    pub(crate) fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String> {
        let (template, messages) = (self.clone(), messages.to_vec());
        let length = messages.iter().map(|m| m.content.len()).sum();
        let work = move || template.rendered(&messages, &Map::new(), add_generation_prompt);
        confined(Allowance::of_text(length), work).map_err(ModelError::template)?
    }

    /// The same with further variables, on a thread that is confined already.
    pub(super) fn rendered(
        &self,
        messages: &[Message],
        arguments: &Map<String, Json>,
        add_generation_prompt: bool,
    ) -> Result<String> {
        let length: usize = messages.iter().map(|m| m.content.len()).sum();
        if length > MOST_TEXT_BYTES {
            return Err(ModelError::template(format!(
                "the conversation has {length} bytes of text, expected at most {MOST_TEXT_BYTES}"
            )));
        }
        let turn = |message: &Message| {
            Value::from(BTreeMap::from([
                ("role", Value::from(message.role)),
                ("content", Value::from(&message.content)),
            ]))
        };
        let turns: Vec<Value> = messages.iter().map(turn).collect();
        let mut variables = engine_values(arguments);
        let tokens = self.special_tokens.iter();
        variables.extend(tokens.map(|(name, text)| (name.as_str(), Value::from(text.as_str()))));
        variables.extend([
            ("messages", Value::from(turns)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ]);
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + (length / BYTES_OF_FUEL) as u64));
        let template = environment.get_template(NAME);
        let rendered = template.and_then(|template| template.render(Value::from(variables)));
        let text = rendered.map_err(failed)?;
        match text.len() {
            0..=MOST_RENDERED_BYTES => Ok(text),
            length => Err(ModelError::template(format!(
                "it makes {length} bytes of text, expected at most {MOST_RENDERED_BYTES}"
            ))),
        }
    }
}

/// The engine as transformers sets it up, with the template in it, and the names that the template reads.
fn compiled(source: String) -> Result<(Environment<'static>, HashSet<String>)> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    environment.set_syntax(syntax.map_err(failed)?);
    environment.set_debug(false);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", functions::tojson);
    // It is for looking at values, and its time grows with the square of their depth.
    environment.remove_filter("pprint");
    environment.add_function("raise_exception", functions::raise_exception);
    environment.add_function("strftime_now", functions::strftime_now);
    environment
        .add_template_owned(NAME, source)
        .map_err(failed)?;
    let template = environment.get_template(NAME).map_err(failed)?;
    let variables = template.undeclared_variables(false);
    Ok((environment, variables))
}

/// A value of a study as the engine takes it.
fn engine_value(value: &Json) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::from(whole),
            None => Value::from(number.as_f64()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(list) => Value::from(list.iter().map(engine_value).collect::<Vec<_>>()),
        Json::Object(map) => Value::from(engine_values(map)),
    }
}

fn engine_values(map: &Map<String, Json>) -> BTreeMap<&str, Value> {
    let entries = map.iter();
    entries
        .map(|(name, value)| (name.as_str(), engine_value(value)))
        .collect()
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChatTemplate({})", self.hash)
    }
}

fn content_hash(source: &str, special_tokens: &BTreeMap<String, String>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("dial chat template v1");
    let mut part = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    part(source);
    for (name, text) in special_tokens {
        part(name);
        part(text);
    }
    hasher.finalize()
}

/// The template engine's message, the line where it is known, and what lies beneath.
fn failed(error: Error) -> ModelError {
    let mut text = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it does not come to an end within reason".to_string(),
        (_, Some(detail)) => detail.to_string(),
        (kind, None) => kind.to_string(),
    };
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line})"));
    }
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    ModelError::template(cut(&text, MOST_ERROR_CHARACTERS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> ChatTemplate {
        let tokens = BTreeMap::from([("bos_token".to_string(), "<s>".to_string())]);
        ChatTemplate::new(source, tokens).unwrap()
    }

    fn render(source: &str) -> String {
        let messages = [
            Message::new("system", "Be brief."),
            Message::new("user", "  <b>'Hi' \\u003c</b> "),
        ];
        template(source).render(&messages, true).unwrap()
    }

    #[test]
    fn blocks_are_trimmed_as_in_transformers() {
        let source = "{{ bos_token }}\n{% for m in messages %}\n    {% if true %}\n[{{ m.role }}] {{ m['content'] | trim }}\n    {% endif %}\n{% endfor %}\n";
        assert_eq!(
            render(source),
            "<s>\n[system] Be brief.\n[user] <b>'Hi' \\u003c</b>\n"
        );
    }

    #[test]
    fn python_methods_loop_controls_and_namespaces_work() {
        let source = "{%- set ns = namespace(n=0) -%}{%- for m in messages -%}{%- if m.role == 'system' -%}{%- continue -%}{%- endif -%}{%- set ns.n = ns.n + 1 -%}{{ m.content.strip().split('>')[1].startswith(\"'Hi\") }}{%- endfor %} {{ ns.n }}{{ messages[1:] | length }}";
        assert_eq!(render(source), "True 11");
    }

    #[test]
    fn tools_are_none_and_unknown_names_are_undefined() {
        let source = "{% if tools is not none %}tools{% endif %}{% if eos_token is defined %}eos{% endif %}{% if add_generation_prompt %}go{% endif %}";
        assert_eq!(render(source), "go");
    }

    #[test]
    fn json_is_written_as_python_does() {
        let source = "{{ messages[1].content | tojson }} {{ {'a': [1, none]} | tojson }}";
        assert_eq!(
            render(source),
            r#""  <b>'Hi' \\u003c</b> " {"a": [1, null]}"#
        );
        assert_eq!(render("{{ [1] | tojson(indent=2) }}"), "[\n  1\n]");
    }

    #[test]
    fn the_date_does_not_move() {
        let text = render("{{ strftime_now('%d %b %Y') }}");
        assert_eq!(text, "26 Jul 2024");
    }

    #[test]
    fn a_template_that_refuses_says_why() {
        let error =
            template("{{ raise_exception('System role not supported') }}").render(&[], true);
        let message = error.unwrap_err().to_string();
        assert_eq!(message, "chat template: System role not supported (line 1)");
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let error = ChatTemplate::new("fine\n{% if %}", BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("(line 2)"), "{error}");
    }

    #[test]
    fn the_hash_covers_the_text_and_the_special_tokens() {
        let hash = template("a").hash;
        assert_ne!(hash, template("b").hash);
        assert_ne!(hash, ChatTemplate::new("a", BTreeMap::new()).unwrap().hash);
        assert_eq!(hash, template("a").hash);
    }
}

#[cfg(test)]
mod hostile_tests;
