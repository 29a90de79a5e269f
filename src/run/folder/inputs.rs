//! The study as files of the run's folder, as given and as resolved, and what its manifest says of models and prompt sets.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::files;
use crate::harmless::cut;
use crate::manifest::{Example, Model, Prompts};
use crate::model::ModelHandle;
use crate::plan::Study;
use crate::stages::Inputs;

/// Bytes of the name of an extended file that its copy keeps.
const LONGEST_COPY: usize = 200;
/// Characters of a rendered prompt that are shown.
const EXAMPLE_CHARACTERS: usize = 4000;

/// The study's file and those that it extends: the copy's path in a run's folder, the file's own, and the text as it was read.
pub(super) fn given(study: &Study) -> Vec<(String, &Path, &str)> {
    let mut given: Vec<(String, &Path, &str)> = Vec::new();
    for (path, text) in study.document.sources.files() {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let extension = extension.unwrap_or("toml");
        if given.is_empty() {
            given.push((format!("study.{extension}"), path, text));
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // A number before it must not make it longer than a name can be.
        let name = match name.len() > LONGEST_COPY {
            true => format!("extended.{extension}").into(),
            false => name,
        };
        // Files of one name may lie in several folders.
        let is_new = |copy: &String| given.iter().all(|(other, _, _)| other != copy);
        let mut copies = (1..).map(|number| match number {
            1 => format!("extends/{name}"),
            number => format!("extends/{number}-{name}"),
        });
        let copy = copies.find(is_new).unwrap_or_default();
        given.push((copy, path, text));
    }
    given
}

/// The study as resolved, with paths that start from the run's folder, so that this file can be run as it stands.
pub(super) fn resolved_yaml(study: &Study, folder: &Path) -> Result<String, serde_yaml::Error> {
    let mut root = serde_yaml::to_value(&study.document.root)?;
    // Where the file says none, its own name is the study's.
    if let serde_yaml::Value::Mapping(root) = &mut root {
        let section = root
            .entry("study".into())
            .or_insert_with(|| serde_yaml::Mapping::new().into());
        if let serde_yaml::Value::Mapping(section) = section {
            section
                .entry("name".into())
                .or_insert_with(|| study.name.clone().into());
        }
    }
    for (fields, path) in study.paths() {
        if let Some(path) = relative(folder, &path) {
            // All above a field that was read are tables; a section that was left out becomes one.
            let at = fields.iter().fold(&mut root, |at, field| &mut at[*field]);
            *at = path.unwrap_or_else(named_in_vain).into();
        }
    }
    serde_yaml::to_string(&root)
}

/// What stands in YAML for a path that is not UTF-8 from the run's folder on, which YAML cannot hold: shown, with a warning.
fn named_in_vain(path: PathBuf) -> String {
    let shown = path.display().to_string();
    tracing::warn!(
        "`{shown}` is not UTF-8, so that `resolved.yaml` cannot name it; to run the study again, use its own file"
    );
    shown
}

/// `path` as seen from `folder`, as text where it is UTF-8; none where either is not there. A link keeps its own name, which may say what
/// kind of file it is.
fn relative(folder: &Path, path: &Path) -> Option<Result<String, PathBuf>> {
    let folder = folder.canonicalize().ok()?;
    let path = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent != Path::new("") => {
            parent.canonicalize().ok()?.join(name)
        }
        _ => std::path::absolute(path).ok()?,
    };
    if !path.exists() {
        return None;
    }
    let shared = folder
        .components()
        .zip(path.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = folder.components().skip(shared);
    let up = up.map(|_| Component::ParentDir);
    let joined: PathBuf = up.chain(path.components().skip(shared)).collect();
    Some(joined.into_os_string().into_string().map_err(PathBuf::from))
}

/// What a manifest says of the models of a study, by their names.
pub(crate) fn models(study: &Study, inputs: &Inputs) -> BTreeMap<String, Model> {
    let model = |(name, model): (&String, &std::sync::Arc<ModelHandle>)| {
        let said = Model {
            source: study.models.get(name).map(|m| m.source.value.clone()),
            dtype: model.dtype.name().to_string(),
            fingerprint: model.fingerprint.to_hex().to_string(),
            config: serde_json::to_value(model.config())
                .and_then(serde_json::from_value)
                .unwrap_or_default(),
            end_of_text: serde_json::to_value(model.end_of_text()).unwrap_or_default(),
            example: example(name, model, study, inputs),
            score: inputs.measures.get(name).cloned(),
        };
        (name.clone(), said)
    };
    inputs.models.iter().map(model).collect()
}

/// The first prompt that a model is asked, as it reads it; none for one that is asked none.
fn example(name: &str, model: &ModelHandle, study: &Study, inputs: &Inputs) -> Option<Example> {
    let needs = study.stages.iter().map(|spec| spec.stage.needs());
    let mut asked = needs.filter(|needs| needs.models.iter().any(|model| model.value == name));
    let (set, chat) = asked.find_map(|needs| {
        let chat = needs.chat.unwrap_or_else(|| study.settings.chat.clone());
        Some((needs.prompts.into_iter().next()?, chat))
    })?;
    let prompt = inputs.prompts.get(&set.value)?.prompts.first()?;
    let mut example = Example {
        prompts: set.value,
        prompt: prompt.id.clone(),
        ..Example::default()
    };
    match model.render(&prompt.text, &chat) {
        Ok(text) => example.rendered = Some(cut(&text, EXAMPLE_CHARACTERS)),
        Err(error) => example.error = Some(error.to_string()),
    }
    Some(example)
}

pub(super) fn prompts(study: &Study, inputs: &Inputs, folder: &Path) -> BTreeMap<String, Prompts> {
    let sets = inputs.prompts.iter().map(|(name, set)| {
        let spec = study.prompts.get(name);
        let path = spec.map(|spec| spec.path.value.as_path());
        let from_run = path.and_then(|path| relative(folder, path));
        let count = |split: &str| set.split(split).count() as u64;
        let splits = set.splits().into_iter();
        let said = Prompts {
            path: path.map(files::text_of),
            path_from_run: from_run.map(|path| path.unwrap_or_else(files::text_of)),
            columns: spec.map(|spec| spec.columns.clone()).unwrap_or_default(),
            content: set.content_hash().to_hex().to_string(),
            splits: splits.map(|s| (s.to_string(), count(s))).collect(),
            licence: study.licence_of(name, set).map(str::to_string),
            known_as: set.public.map(|public| public.name.to_string()),
        };
        (name.clone(), said)
    });
    sets.collect()
}
