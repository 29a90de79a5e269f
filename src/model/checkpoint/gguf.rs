//! A GGUF file (llama.cpp's format): metadata, tokenizer and quantised weights in one file.
//!
//! `gguf_header` reads what stands before the data, `gguf_metadata` makes the configuration of it, `gguf_tokenizer` the tokenizer;
//! `gguf_tensors` finds and de-quantises the weights.

use std::path::Path;
use std::sync::Arc;

use super::gguf_header;
use super::gguf_metadata::Metadata;
use super::gguf_tensors::Tensors;
use super::gguf_tokenizer::{chat_template, tokenizer};
use super::{Checkpoint, WeightFile};
use crate::model::config::Architecture;
use crate::model::error::Result;

/// Opens the file.
pub(super) fn open(path: &Path) -> Result<Checkpoint> {
    let file = WeightFile::open(path)?;
    let map = Arc::clone(&file.map);
    let header = gguf_header::read(path, &map)?;
    let metadata = Metadata {
        path,
        values: &header.metadata,
    };
    let architecture = metadata.architecture()?;
    let mut tensors = Tensors::place(path, Arc::clone(&map), header.data_start, header.tensors)?;
    let config = metadata.config(tensors.facts()?)?;
    if architecture == Architecture::Llama {
        tensors.rows_per_head = Some(config.d_head);
    }
    let tokenizer = tokenizer(&metadata)?;
    Ok(Checkpoint {
        path: path.to_path_buf(),
        files: vec![file],
        chat_template: chat_template(&metadata, &tokenizer)?,
        weights: Box::new(tensors),
        tokenizer,
        config,
        // The metadata names all of them, and they are in the configuration.
        further_ends: Vec::new(),
        findings: Vec::new(),
    })
}
