//! The program as a person runs it: the real binary, on a model whose refusal direction is known by construction.

mod bad_files;
mod bad_study;
mod bench;
mod cache_command;
mod cache_keys;
mod chat;
mod checkpoint;
mod commands;
mod data_fetch;
mod explain;
mod faults;
mod kills;
mod pipelines;
mod planted;
mod promise;
mod prompts;
mod published;
mod report;
mod resume;
mod screens;
mod two_runs;
mod workbench;
