//! `dial`: activation-steering studies of language models, described in one TOML file.
//!
//! A study is resolved into a typed plan: a graph of stages whose edges are the references one stage makes to another. A stage is a pure
//! function from typed parameters and input artifacts to tables and tensors. What it needs from a model it states as cells, *(model,
//! token ids, interventions, readout)*, the unit that is keyed, cached and resumed. The model room has one primitive, `evaluate(cells) →
//! values`, and answers it with as little arithmetic as causality allows. What a person sees is rendered from artifacts and events.
//!
//! Arrows go one way: `main → cli → share → {report, run} → manifest → plan → stages → {model, prompts, stats}`, with `run, plan → cache` and
//! `plan, stages → spec`.
//! Below them all: `files`, which reads what comes from outside, `json`, which refuses a key given twice, `fetch`, which brings files over
//! the network, `machine`, which says what this machine has, `harmless`, which makes text from outside safe to show, and `figure`, what is
//! drawn, as data.
#![warn(missing_docs)]

mod cache;
pub mod cli;
mod fetch;
mod figure;
mod files;
mod harmless;
mod json;
mod machine;
mod manifest;
mod model;
mod plan;
mod prompts;
mod report;
mod run;
mod share;
mod spec;
mod stages;
mod stats;

pub use model::link_libtorch;

/// What the benchmarks, and the tests that feed the readers odd bytes, use of the inside: no promise to anybody else.
#[doc(hidden)]
pub mod inside {
    pub mod cache {
        pub use crate::cache::{Batch, Cache, Key};
    }
    pub mod model {
        pub use crate::model::{
            Cell, Cells, DeviceName, Edit, Evaluator, HookPoint, Intervention, ModelConfig,
            ModelHandle, Positions, Readout, Site, Step, Tokens, Value, Vector, link_libtorch,
            locate, locate_without_fetching, random_unit_vector, set_threads,
        };
        pub mod config {
            pub use crate::model::config::{Rope, RopeScaling, Sizes};
            pub use crate::model::families::{Family, Llama};
        }
    }
    pub mod plan {
        pub use crate::plan::{Fetch, Opened, Plan, StageRecord, load_artifacts, open_study};
    }
    pub mod prompts {
        pub use crate::prompts::PromptSet;
    }
    pub mod report {
        pub use crate::report::{FinishedRun, Table, Tolerances, diff, write};
    }
    pub mod run {
        pub use crate::run::{run_summaries, usage, verify};
    }
    pub mod spec {
        pub use crate::spec::load;
    }
    pub mod stages {
        pub use crate::stages::{Evaluate, StageError};
    }
}
