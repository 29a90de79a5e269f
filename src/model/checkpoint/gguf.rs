//! A GGUF file (llama.cpp's format): metadata, tokenizer and quantised weights in one file.
//!
//! `gguf_header` reads what stands before the data, `gguf_metadata` makes the configuration of it, `gguf_tokenizer` the tokenizer;
//! `gguf_tensors` finds the weights.

use std::path::Path;
use std::sync::Arc;

use super::gguf_header;
use super::gguf_metadata::Section;
use super::gguf_tensors::Tensors;
use super::gguf_tokenizer::{special_tokens, tokenizer};
use super::{Checkpoint, Memory, WeightFile};
use crate::model::chat::ChatTemplate;
use crate::model::error::{ModelError, Result};

pub(super) fn open(path: &Path, memory: &dyn Memory) -> Result<Checkpoint> {
    let here = |problem: String| ModelError::invalid(path, problem);
    let file = WeightFile::open(path)?;
    let map = Arc::clone(&file.map);
    let header = gguf_header::read(&map).map_err(here)?;
    let metadata = header.metadata;
    let section = Section::find(&metadata).map_err(here)?;
    let tensors = Tensors::place(path, &map, header.data_start, header.tensors);
    let mut tensors = tensors.map_err(here)?;
    let config = section
        .config(tensors.facts().map_err(here)?)
        .map_err(here)?;
    if section.is_llama() {
        tensors.unpair(config.d_head);
    }
    let tokenizer = tokenizer(&metadata, memory).map_err(here)?;
    let template = metadata.text("tokenizer.chat_template").map_err(here)?;
    let chat_template = match template {
        Some(source) => {
            let tokens = special_tokens(&metadata, &tokenizer).map_err(here)?;
            Some(ChatTemplate::new(source, tokens)?)
        }
        None => None,
    };
    Ok(Checkpoint {
        path: path.to_path_buf(),
        files: vec![file],
        chat_template,
        weights: tensors.weights,
        unknown: tensors.unknown,
        tokenizer,
        config,
        // The metadata names all of them, and they are in the configuration.
        further_ends: Vec::new(),
        findings: Vec::new(),
        recorded: None,
    })
}
