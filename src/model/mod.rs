//! The model room: from a checkpoint on disk to the values of cells.
//!
//! ```text
//! config, checkpoint, tokenizer, chat   what a model is: dimensions, weights on disk, text to tokens
//! behind_instruction                    what a template writes behind the person's text
//! handle                                one model of a study, known but not loaded: fingerprint, tokens of a prompt in its chat
//! hooks, cell                           where, what and what for: hook points, interventions, readouts, keys
//! families                              what tells one family of models from another: a file for each
//! transformer                           the arithmetic of a model, whichever family it is of
//! prefix, evaluate, generate            cells → values, with as little of that arithmetic as causality allows
//! parallel, guard, device, libtorch     by how many at a time, with errors that end nothing, where it runs and on what
//! linked                                what is done with libtorch, as functions that a program need not have
//! grouped, json                         things that share a key, JSON in which no key is given twice
//! confined                              templates and tokenizers, which come from outside, within an allowance of memory
//! ```
#![allow(
    missing_docs,
    reason = "seen outside by the benchmarks alone; what its name does not say is documented"
)]

mod behind_instruction;
mod cell;
mod chat;
mod checkpoint;
pub mod config;
mod confined;
mod device;
mod error;
mod evaluate;
pub mod families;
mod generate;
mod grouped;
mod guard;
mod handle;
mod hooks;
pub(crate) mod libtorch;
mod linked;
mod parallel;
#[cfg(test)]
mod parity_tests;
mod prefix;
#[cfg(test)]
mod property_tests;
mod tokenizer;
mod transformer;

use crate::json;

pub(crate) use behind_instruction::BehindInstruction;
pub use cell::{Cell, Cells, Edit, Intervention, Positions, Readout, Tokens, Value, Vector};
pub(crate) use cell::{EVALUATION_VERSION, Sampling, ScoreDtype, TokenSets};
pub(crate) use chat::{Chat, SpecialTokens, reserved_variable};
#[cfg(test)]
pub(crate) use checkpoint::tests::write_any_model;
pub(crate) use checkpoint::{
    AblatedFolder, ControlVector, FileStamp, HubAnswer, HubHealth, Memory, NewControlVector,
    NoMemory, RECORDED_FILES, config_of, hub_data_set,
};
pub use checkpoint::{locate, locate_without_fetching};
pub(crate) use config::Dtype;
pub use config::ModelConfig;
pub(crate) use device::Provenance;
pub use device::{DeviceName, set_threads};
pub(crate) use error::ModelError;
pub use evaluate::{Evaluator, Step};
pub use handle::ModelHandle;
pub use hooks::{HookPoint, Site};
pub(crate) use linked::{LoadedModel, check_linked, cuda_devices, load};
pub use linked::{link_libtorch, random_unit_vector};
pub(crate) use tokenizer::Answers;
