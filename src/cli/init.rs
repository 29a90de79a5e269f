//! `dial init`: a commented study file to start from, and beside it prompts, and the schema that lets an editor complete and check it.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, schema, shown, tell};
use crate::prompts::PromptSet;
use crate::{files, model};

/// The study that is written; its first line names [`SCHEMA`].
const STARTER: &str = include_str!("starter.toml");
/// The model of [`STARTER`], which is the published study's, and its layers.
const MODEL: &str = "hf:Qwen/Qwen2.5-0.5B-Instruct";
const LAYERS: usize = 24;
/// The layer that the published study steers at, and how many prompts are in each of its groups.
const LAYER: usize = 20;
const GROUP: usize = 30;
/// The file of the schema, in the folder of the study.
const SCHEMA: &str = "dial.schema.json";
/// The file of the prompts, in the folder of the study, and those that are put there.
const PROMPTS: &str = "prompts.jsonl";
const OWN_PROMPTS: &str = include_str!("../../data/prompts.jsonl");

#[derive(Args)]
pub(super) struct InitArguments {
    /// The file to write; an existing one is left alone. Beside it go the schema that editors read, as `dial.schema.json`, and a set of prompts
    /// to begin with, as `prompts.jsonl`, where there is none.
    #[arg(default_value = "study.toml")]
    file: PathBuf,
    /// The model: a GGUF file, a Hugging Face folder, or `hf:org/name@revision`. Layers are filled in at the published study's relative depth;
    /// of a model of the hub the settings are fetched for that, and no weights.
    #[arg(long, value_name = "SOURCE")]
    model: Option<String>,
}

pub(super) fn init(arguments: &InitArguments) -> Result<(), Failure> {
    let file = &arguments.file;
    let name = shown(file);
    if file.extension().is_none_or(|ending| ending != "toml") {
        return Err(Failure::Usage(format!(
            "`{name}` does not end in `.toml`, as what is written does; name such a file"
        )));
    }
    if file.exists() {
        return Err(exists(&name));
    }
    let prompts = file.with_file_name(PROMPTS);
    let text = starter(&prompts, arguments.model.as_deref())?;
    write_new(file, &text).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => exists(&name),
        _ => Failure::Failed(format!("`{name}` cannot be written: {error}")),
    })?;
    let mut told = format!("wrote {name}");
    match write_new(&prompts, OWN_PROMPTS) {
        Ok(()) => told += &format!(", {} with prompts to begin with,", shown(&prompts)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(unwritten(&told, &prompts, &error)),
    }
    told += &schema_beside(file, &told)?;
    tell(&format!("{told}\nnext: dial plan {name}"));
    Ok(())
}

fn exists(name: &str) -> Failure {
    Failure::Usage(format!(
        "`{name}` exists already; name another file, or remove it"
    ))
}

fn unwritten(told: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!(
        "{told}, but `{}` cannot be written: {error}",
        shown(path)
    ))
}

/// The study, for the prompts that will lie beside it and the model that was named.
fn starter(prompts: &Path, model: Option<&str>) -> Result<String, Failure> {
    let set = match prompts.exists() {
        true => PromptSet::load(prompts).map_err(|error| Failure::Failed(error.to_string()))?,
        false => PromptSet::parse_jsonl(prompts, OWN_PROMPTS)
            .map_err(|error| Failure::Failed(error.to_string()))?,
    };
    let mut text = STARTER.to_string();
    let group = group_size(set.split("edge").count());
    text = text.replace(&format!("n = {GROUP}\n"), &format!("n = {group}\n"));
    let Some(source) = model else {
        return Ok(text);
    };
    let layers = model::config_of(source, Path::new(""))
        .map_err(|error| Failure::Failed(error.to_string()))?
        .n_layers;
    let layer = same_depth(layers);
    text = text.replace(&format!("layer = {LAYER}"), &format!("layer = {layer}"));
    let source = from_folder_of(prompts, source)?;
    Ok(text.replace(&format!("\"{MODEL}\""), &quoted(&source)))
}

/// How many prompts are in each group of a direction, for a split of that many. The direction of a holdout stage is made of the prompts of about
/// one half, and of them at the top and at the bottom: that leaves room for halves that are a good deal smaller.
fn group_size(prompts: usize) -> usize {
    (prompts / 6).clamp(1, GROUP)
}

/// The layer of a model of so many that lies as deep as the published study's.
fn same_depth(layers: usize) -> usize {
    let layer = (LAYER * layers + LAYERS / 2) / LAYERS;
    layer.min(layers.saturating_sub(1))
}

/// A source as it is written into a file of another folder than the working one.
fn from_folder_of(beside: &Path, source: &str) -> Result<String, Failure> {
    let is_here = beside.parent().is_none_or(|folder| folder == Path::new(""));
    if is_here || source.starts_with("hf:") {
        return Ok(source.to_string());
    }
    let path = std::path::absolute(source)
        .map_err(|error| Failure::Failed(format!("the working folder cannot be read: {error}")))?;
    Ok(path.to_string_lossy().into_owned())
}

/// A text as TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_string()).to_string()
}

/// Writes the schema beside a study; what is told of it.
fn schema_beside(file: &Path, told: &str) -> Result<String, Failure> {
    let path = file.with_file_name(SCHEMA);
    let (name, text) = (shown(&path), schema::text());
    match write_new(&path, &text) {
        Ok(()) => Ok(format!(" and, for editors, {name}")),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let found = files::read_text(&path, files::SETTINGS_BYTES);
            Ok(match found.is_ok_and(|found| found == text) {
                true => format!("; {name}, which editors read, was there"),
                false => format!(
                    "; {name} was there, is not the schema of this `dial`, and is left as it is (`dial schema > {name}` replaces it)"
                ),
            })
        }
        Err(error) => Err(unwritten(told, &path, &error)),
    }
}

/// Writes a file whole, and only where there is none.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".tmp-")
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(parent.unwrap_or(Path::new(".")))
        // Without the path of a file that was never there, which the library appends.
        .map_err(|error| std::io::Error::from(error.kind()))?;
    file.write_all(text.as_bytes())?;
    file.persist_noclobber(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_stands_in_the_starter() {
        let count = |text: &str| STARTER.matches(text).count();
        assert_eq!(count(&format!("\"{MODEL}\"")), 1);
        assert_eq!(count(&format!("n = {GROUP}\n")), 2);
        assert_eq!(count(&format!("layer = {LAYER}")), 3);
        assert_eq!(count("layer ="), 3);
    }

    #[test]
    fn layers_lie_as_deep_as_the_published_study_s() {
        for (layers, layer) in [(24, 20), (30, 25), (28, 23), (4, 3), (1, 0)] {
            assert_eq!(same_depth(layers), layer, "{layers}");
        }
    }

    #[test]
    fn groups_fit_into_the_halves_of_small_sets() {
        for (prompts, size) in [(180, 30), (1000, 30), (120, 20), (50, 8), (6, 1), (0, 1)] {
            assert_eq!(group_size(prompts), size, "{prompts}");
        }
    }
}
