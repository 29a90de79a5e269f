//! The program as a person runs it: the real binary, on a model whose refusal direction is known by construction.

mod bad_files;
mod bad_study;
mod bench;
mod cache_keys;
mod checkpoint;
mod explain;
mod planted;
mod promise;
mod prompts;
mod report;
mod resume;
mod screens;
mod workbench;
