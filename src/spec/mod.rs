//! Reading a study file: text in, a tree of values that remember where they were written.
//!
//! The idea: a person who makes three mistakes in a study should read three messages, each with the file, the line, a
//! caret and a suggestion, before any model is touched. So nothing here stops at the first error. [`load`] reads TOML
//! or YAML into one [`Node`] tree, merges what `extends` names and what `--set` overrides, and every node keeps its
//! [`Location`]. The rooms that know what a study means decode the tree with [`Decode`] and [`Fields`], which push
//! [`Diagnostic`]s into one [`Problems`]; [`Problems::finish`] turns them into [`Diagnostics`] that render themselves.
//!
//! This room knows nothing of models or stages.
//!
//! ```text
//! source       texts by id, names as the user gave them, and places in them
//! tree         the values; YAML output
//! read_toml    TOML text to a tree
//! read_yaml    YAML text to a tree; parse_yaml makes the values, locate_yaml finds where their keys stand
//! bounds       how much a study may hold
//! load         files, `extends`, merging
//! overrides    `--set path.to.key=value`
//! diagnostic   messages, their collector, their rendering, "did you mean"
//! decode       scalars, lists of one type, choices
//! lists        sweeps, seeds, layers, named tables
//! fields       reading one table field by field
//! ```

mod bounds;
mod decode;
mod diagnostic;
mod fields;
mod lists;
mod load;
mod locate_yaml;
mod overrides;
mod parse_yaml;
mod read_toml;
mod read_yaml;
mod source;
mod tree;

pub(crate) use decode::{Choice, Decode, Spanned, choice};
pub(crate) use diagnostic::{Diagnostics, Problems, Severity, suggest, told_in};
pub(crate) use fields::Fields;
pub(crate) use lists::{Distinct, Layers, OneOrMany, Seeds};
pub use load::load;
pub(crate) use load::{Document, load_alone, load_text};
pub(crate) use source::{Location, field_path};
#[cfg(test)]
use tree::to_yaml;
pub(crate) use tree::{Key, Node, Value};
