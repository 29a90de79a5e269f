//! Chat templates: the Jinja text by which a model wants its conversations written.
//!
//! The environment is that of Hugging Face transformers: blocks are trimmed, loop controls and Python's string
//! methods exist, `tools` and `documents` are none, the tokenizer's special tokens are variables, and templates
//! may call `raise_exception` and `strftime_now`. Two differences are deliberate: `strftime_now` knows one day only, so
//! that a study's prompts do not change overnight, and `tojson` orders a message's keys by name.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::error::ModelError;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

const NAME: &str = "chat template";

/// A model's chat template, compiled, with the special tokens it may name.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
    hash: blake3::Hash,
}

impl ChatTemplate {
    /// Compiles `source`; `special_tokens` maps names such as `bos_token` to their text.
    ///
    /// # Errors
    /// A syntax error, with its line.
    pub fn new(source: &str, special_tokens: BTreeMap<String, String>) -> Result<Self, ModelError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.map_err(|error| failed(&error))?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned(NAME, source.to_string())
            .map_err(|error| failed(&error))?;
        Ok(Self {
            environment,
            hash: content_hash(source, &special_tokens),
            special_tokens,
        })
    }

    /// The conversation as the model reads it. `add_generation_prompt` appends what precedes an answer.
    ///
    /// # Errors
    /// Whatever the template raises, for instance that it knows no system message.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        let turn = |message: &Message| {
            Value::from(BTreeMap::from([
                ("role", Value::from(&message.role)),
                ("content", Value::from(&message.content)),
            ]))
        };
        let turns: Vec<Value> = messages.iter().map(turn).collect();
        let mut variables: BTreeMap<&str, Value> = self
            .special_tokens
            .iter()
            .map(|(name, text)| (name.as_str(), Value::from(text.as_str())))
            .collect();
        variables.insert("messages", Value::from(turns));
        variables.insert("tools", Value::from(()));
        variables.insert("documents", Value::from(()));
        variables.insert("add_generation_prompt", Value::from(add_generation_prompt));
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(Value::from(variables)))
            .map_err(|error| failed(&error))
    }

    /// The hash of the template's text and its special tokens.
    pub fn hash(&self) -> blake3::Hash {
        self.hash
    }
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
fn failed(error: &Error) -> ModelError {
    let mut text = match error.detail() {
        Some(detail) => detail.to_string(),
        None => error.kind().to_string(),
    };
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line})"));
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    ModelError::Template(text)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The day that Llama 3's templates name where no clock is given; a template that asks for today gets the same.
const TEMPLATE_DAY: jiff::civil::DateTime = jiff::civil::datetime(2024, 7, 26, 0, 0, 0, 0);

fn strftime_now(format: String) -> Result<String, Error> {
    jiff::fmt::strtime::format(&format, TEMPLATE_DAY).map_err(|error| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("`strftime_now({format:?})`: {error}"),
        )
    })
}

/// The engine's own filter escapes four characters for HTML; the reference writes them as they are.
fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    options.assert_all_used()?;
    if ascii == Some(true) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "`tojson(ensure_ascii=true)` is not supported",
        ));
    }
    let json =
        minijinja::filters::tojson(value, indent, Kwargs::from_iter::<[(&str, Value); 0]>([]))?;
    Ok(without_html_escapes(&json.to_string()))
}

fn without_html_escapes(json: &str) -> String {
    let mut result = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        result.push_str(&rest[..at]);
        let escape = &rest[at..];
        let (plain, length) = match escape.get(1..6) {
            Some("u003c") => ("<", 6),
            Some("u003e") => (">", 6),
            Some("u0026") => ("&", 6),
            Some("u0027") => ("'", 6),
            // Any other escape is kept; both of its characters, so that `\\u003c` stays what it is.
            _ => (escape.get(..2).unwrap_or(escape), 2.min(escape.len())),
        };
        result.push_str(plain);
        rest = escape.get(length..).unwrap_or_default();
    }
    result.push_str(rest);
    result
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
        let hash = template("a").hash();
        assert_ne!(hash, template("b").hash());
        assert_ne!(
            hash,
            ChatTemplate::new("a", BTreeMap::new()).unwrap().hash()
        );
        assert_eq!(hash, template("a").hash());
    }
}
