//! `verify.html`: the check as one page that needs nothing else.

use minijinja::{AutoEscape, Environment, Value, context};
use serde_json::json;

use crate::report::{STYLE, in_template};

use super::outcome::{Outcome, Verified};
use super::verdict::percent;

const TEMPLATE: &str = include_str!("page.html");

/// The text of the page.
///
/// # Errors
/// A template that cannot be filled in, which is a mistake of this program.
pub(crate) fn page(verified: &Verified) -> Result<String, String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("small", |value: Option<f64>| {
        value.map_or(String::new(), |value| match value == 0.0 {
            true => "0".to_string(),
            false => format!("{value:.1e}"),
        })
    });
    environment.add_filter("share", |at_most: u64, of: u64| percent(at_most, of));
    let class = |outcome: Outcome| match outcome {
        Outcome::Agrees => "pass",
        Outcome::Unchecked => "open",
        Outcome::Disagrees => "fail",
    };
    let levels = verified.levels.iter();
    let levels: Vec<Value> = levels
        .map(|level| {
            context! { class => class(level.outcome), word => level.outcome.word(), ..in_template(&json!(level)) }
        })
        .collect();
    let filled = environment.render_str(
        TEMPLATE,
        context! {
            style => STYLE,
            class => class(verified.outcome),
            headline => match verified.outcome {
                Outcome::Agrees => "The file agrees with itself and with the models",
                Outcome::Unchecked => "What was checked agrees; not everything could be checked",
                Outcome::Disagrees => "The file is not what it should be",
            },
            levels,
            check => in_template(&json!(verified)),
        },
    );
    filled.map_err(|error| error.to_string())
}
