//! What templates may call beside the engine's own, as transformers gives it to them.

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};

pub(super) fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The day that Llama 3's templates name where no clock is given; a template that asks for today gets the same.
const TEMPLATE_DAY: jiff::civil::DateTime = jiff::civil::datetime(2024, 7, 26, 0, 0, 0, 0);

pub(super) fn strftime_now(format: String) -> Result<String, Error> {
    jiff::fmt::strtime::format(&format, TEMPLATE_DAY).map_err(|error| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("`strftime_now({format:?})`: {error}"),
        )
    })
}

/// The engine's own filter escapes four characters for HTML; the reference writes them as they are.
pub(super) fn tojson(
    value: &Value,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<String, Error> {
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
