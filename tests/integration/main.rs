//! The program as a person runs it: the real binary, on a model whose refusal direction is known by construction.

mod checkpoint;
mod planted;
mod prompts;
mod workbench;
