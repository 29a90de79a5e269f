//! `dial`: activation-steering studies of language models, described in one TOML file.
//!
//! A study is resolved into a typed plan: a graph of stages whose edges are the references one stage makes to another. A stage is a pure
//! function from typed parameters and input artifacts to tables and tensors. What it needs from a model it states as cells, *(model,
//! token ids, interventions, readout)*, the unit that is keyed, cached and resumed. The model room has one primitive, `evaluate(cells) →
//! values`, and answers it with as little arithmetic as causality allows. What a person sees is rendered from artifacts and events.
//!
//! Arrows go one way: `main → cli → {report, run} → plan → stages → {model, prompts, stats}`, with `run, plan → cache` and `plan, stages → spec`.
//! Below them all: `files`, which reads what comes from outside, `fetch`, which brings files over the network, and `harmless`, which makes
//! text from outside safe to show.
#![warn(missing_docs)]

pub mod cache;
pub mod cli;
mod fetch;
mod files;
mod harmless;
pub mod model;
pub mod plan;
pub mod prompts;
pub mod report;
pub mod run;
pub mod spec;
pub mod stages;
pub mod stats;
