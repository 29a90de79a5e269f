//! The manifest of a run as others may read it: without paths of the machine, and with those of the archive in their place.

use crate::manifest::Manifest;
use crate::plan::Opened;

use super::super::layout;
use super::contents::prompt_files;
use super::machine::Machine;

/// What the manifest of the archive says.
pub(super) fn cleaned(manifest: &Manifest, opened: &Opened, machine: &Machine) -> Manifest {
    let mut cleaned = manifest.clone();
    let without = |texts: &mut Vec<String>| {
        for text in texts {
            *text = machine.without(text);
        }
    };
    without(&mut cleaned.command);
    without(&mut cleaned.overrides);
    // A licence may be declared since, of which one is.
    if manifest.provenance.dial == env!("CARGO_PKG_VERSION") {
        cleaned.findings.clone_from(&opened.inputs.findings);
    }
    without(&mut cleaned.findings);
    for stage in &mut cleaned.stages {
        without(&mut stage.findings);
    }
    (cleaned.directory, cleaned.cache) = (None, None);
    let copies = manifest.files.keys();
    cleaned.files = copies.map(|copy| (layout::given(copy), None)).collect();
    for model in cleaned.models.values_mut() {
        if let Some(source) = model
            .source
            .as_mut()
            .filter(|source| !source.starts_with("hf:"))
        {
            *source = Machine::without_folders(source);
        }
    }
    let files = prompt_files(opened);
    for (name, set) in &mut cleaned.prompts {
        // A run of an early dial has none, and another may be declared since.
        if let Some(found) = opened.inputs.prompts.get(name) {
            set.licence = opened.study.licence_of(name, found).map(str::to_string);
            set.known_as = found.public.map(|public| public.name.to_string());
        }
        let file = files.get(name).cloned();
        set.path.clone_from(&file);
        set.path_from_run = file;
    }
    cleaned
}
