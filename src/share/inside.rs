//! Whether what a shared file holds stays in its folder: no study, manifest or lock in it may lead a program elsewhere.
//!
//! `dial export` writes a study whose paths are all of its folder, whose models are folders there, and which extends nothing; so any other is
//! refused. Tokenizers and templates are read under fixed names in a model's folder, and runs and caches lie where the command line says: no
//! field of a study names either.

use std::path::{Component, Path, PathBuf};

use crate::files;
use crate::manifest::Manifest;
use crate::plan::Study;
use crate::spec::{Problems, Severity, field_path, load_alone};
use crate::stages::parquet_rows;

use super::layout;
use super::read::Entry;

/// Most bytes of a file that is read as a whole: what is made of it in memory may be ten times as much.
const MOST_BYTES: u64 = 16 << 20;
/// The same of a study and its lock, whose values know where they are written and take a hundred times as much.
const MOST_STUDY_BYTES: u64 = 1 << 20;
/// The same of prompts and of files that stages import.
const MOST_DATA_BYTES: u64 = 128 << 20;
/// The same of a tokenizer, whose reader is frugal.
const MOST_TOKENIZER_BYTES: u64 = 256 << 20;

/// Most rows of a table.
const MOST_ROWS: usize = 1 << 24;

/// Checks that no file of an archive is larger than its place allows, before anything is taken out of it.
///
/// # Errors
/// One that is: its place, and what it may be.
pub(super) fn check_sizes(entries: &[Entry]) -> Result<(), String> {
    for Entry { name, bytes, .. } in entries {
        let folder = name.split('/').next().unwrap_or_default();
        let most = match folder {
            layout::STUDY | layout::LOCK => MOST_STUDY_BYTES,
            layout::PROMPTS | layout::FILES => MOST_DATA_BYTES,
            layout::MODELS => MOST_TOKENIZER_BYTES,
            // Read part by part, or by whoever opens them.
            layout::TABLES | layout::CELLS | layout::HASHES | layout::FIGURES | layout::REPORT => {
                continue;
            }
            _ => MOST_BYTES,
        };
        if *bytes > most {
            return Err(format!(
                "`{name}` has {bytes} bytes, and what lies there may have {most}"
            ));
        }
    }
    Ok(())
}

/// Checks the study, the manifest and the tables that were unpacked into `folder`.
///
/// # Errors
/// What leads elsewhere: the file, the field and what it says.
pub(super) fn check(folder: &Path) -> Result<(), String> {
    check_study(folder)?;
    check_manifest(folder)?;
    check_tables(folder)
}

/// Checks that no table is a small file of more rows than a memory holds.
fn check_tables(folder: &Path) -> Result<(), String> {
    for path in layout::files_in(&folder.join(layout::TABLES)).map_err(|error| error.to_string())? {
        if path
            .extension()
            .is_none_or(|extension| extension != "parquet")
        {
            continue;
        }
        let shown = path.file_name().unwrap_or_default().display().to_string();
        let file = files::open(&path).map_err(|error| error.to_string())?;
        let rows = parquet_rows(file).map_err(|error| format!("`{shown}` is no table: {error}"))?;
        if rows > MOST_ROWS {
            return Err(format!(
                "`{shown}` has {rows} rows, and a table may have {MOST_ROWS}"
            ));
        }
    }
    Ok(())
}

fn check_study(folder: &Path) -> Result<(), String> {
    let file = layout::STUDY;
    let path = folder.join(file);
    if !path.is_file() {
        return Err(format!("it has no `{file}`, and so no study"));
    }
    // The folder has another name by now.
    let told = |text: String| text.replace(&format!("{}/", folder.display()), "");
    let document = load_alone(&path);
    let document = document
        .map_err(|error| told(format!("`{file}` is no study of a shared file: {error}")))?;
    let mut problems = Problems::default();
    let sources = document.sources.clone();
    let study = Study::read(document, "study", &mut problems);
    let study = study.filter(|_| problems.is_empty()).ok_or_else(|| {
        let problems = problems.into_diagnostics(&sources, Severity::Error);
        told(format!(
            "`{file}` is no study that this dial can read: {problems}"
        ))
    })?;
    for (name, model) in &study.models {
        let source = &model.source.value;
        if source.starts_with("hf:") {
            return Err(format!(
                "`{file}`: `{}` is `{source}`, and a model of a shared file is a folder of it; name yours with `--set` when you run it",
                path_of(&["models", name, "source"])
            ));
        }
    }
    let stages = study.stages.iter();
    let imported = stages.flat_map(|stage| {
        let files = stage.stage.needs().files.into_iter();
        files.map(|file| (vec!["stages", stage.name.as_str(), "file"], file.value))
    });
    for (fields, path) in study.paths().into_iter().chain(imported) {
        let path: PathBuf = path.components().collect();
        if !is_below(folder, &path) {
            return Err(format!(
                "`{file}`: `{}` leads to `{}`, which is not in its folder",
                path_of(&fields),
                told(path.display().to_string())
            ));
        }
    }
    Ok(())
}

/// The manifest of a shared file names no folder, and files of its own only.
fn check_manifest(folder: &Path) -> Result<(), String> {
    let file = layout::MANIFEST;
    let manifest = Manifest::read(folder).map_err(|error| format!("`{file}`: {error}"))?;
    let Some(manifest) = manifest else {
        return Ok(());
    };
    let whole = [
        ("directory", &manifest.directory),
        ("cache", &manifest.cache),
    ];
    let whole = whole.map(|(field, path)| (field.to_string(), path.as_ref()));
    let copies = manifest.files.iter();
    let copies = copies.map(|(copy, path)| (path_of(&["files", copy]), path.as_ref()));
    for (field, path) in whole.into_iter().chain(copies) {
        if let Some(path) = path {
            return Err(format!(
                "`{file}`: `{field}` is `{path}`, and a shared file names no folder of a machine"
            ));
        }
    }
    for (name, set) in &manifest.prompts {
        for (field, path) in [("path", &set.path), ("path_from_run", &set.path_from_run)] {
            let Some(path) = path else {
                continue;
            };
            if !is_below(folder, &folder.join(files::path_of(path))) {
                return Err(format!(
                    "`{file}`: `{}` leads to `{path}`, which is not in its folder",
                    path_of(&["prompts", name, field])
                ));
            }
        }
    }
    Ok(())
}

fn path_of(fields: &[&str]) -> String {
    fields
        .iter()
        .fold(String::new(), |above, field| field_path(&above, field))
}

/// Whether a path stays below a folder, by its names alone: there are no links in what was unpacked.
fn is_below(folder: &Path, path: &Path) -> bool {
    let below = path.strip_prefix(folder).map(Path::components);
    below.is_ok_and(|mut parts| {
        parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    })
}
