//! What is in each place of the archive: in words, by its part in the run, and by its media type.

use super::super::super::layout;

/// What part a file has in the run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Input,
    Result,
    Other,
}

pub(super) struct Place {
    pub(super) about: &'static str,
    pub(super) role: Role,
}

/// What is in a place of the archive.
pub(super) fn place_of(name: &str) -> Option<Place> {
    let (folder, _) = name.split_once('/').unwrap_or((name, ""));
    let (about, role) = match folder {
        layout::README => ("What this is, and what to type", Role::Other),
        layout::STUDY => (
            "The study with everything applied, to be run in this folder",
            Role::Other,
        ),
        layout::AS_GIVEN => ("The study as its author wrote it", Role::Other),
        layout::LOCK => ("What the study names, as the run found it", Role::Other),
        layout::WITHHELD => (
            "Which prompts were withheld, and hashes that show whether a file is theirs",
            Role::Other,
        ),
        layout::MANIFEST => ("The run: versions, device, keys, times", Role::Other),
        layout::REPORT => ("The results, to look at", Role::Result),
        layout::TABLES => ("A table of the results", Role::Result),
        layout::DIRECTIONS => (
            "A direction in a model's residual stream, or its description",
            Role::Result,
        ),
        layout::TENSORS => ("Arrays of the results, for other programs", Role::Result),
        layout::FIGURES => ("A figure of the results", Role::Result),
        layout::PROMPTS => ("Prompts that the models were asked", Role::Input),
        layout::FILES => ("A file that a stage imports", Role::Input),
        layout::MODELS => ("A part of a model without its weights", Role::Other),
        layout::CELLS => (
            "The values that the models gave, from which tables follow",
            Role::Result,
        ),
        layout::HASHES => (
            "Hashes of activations that are put into other runs",
            Role::Result,
        ),
        layout::RECORDS => ("What the cache says of a stage", Role::Other),
        _ => return None,
    };
    Some(Place { about, role })
}

/// The media type of a file, by what its name ends in.
pub(super) fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "md" => "text/markdown",
        "json" => "application/json",
        "jsonl" | "ndjson" => "application/x-ndjson",
        "csv" => "text/csv",
        "parquet" => "application/vnd.apache.parquet",
        "toml" | "lock" => "application/toml",
        "yaml" | "yml" => "application/yaml",
        "html" => "text/html",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jinja" => "text/plain",
        _ => "application/octet-stream",
    }
}
