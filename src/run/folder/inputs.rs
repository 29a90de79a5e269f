//! What a run's manifest says of models and prompt sets.

use std::collections::BTreeMap;
use std::path::Path;

use crate::files;
use crate::manifest::{Example, Model, Prompts};
use crate::model::ModelHandle;
use crate::plan::Study;
use crate::stages::Inputs;

use super::study_files::relative;

/// Characters of a rendered prompt that are shown.
const EXAMPLE_CHARACTERS: usize = 4000;

pub(super) fn models(study: &Study, inputs: &Inputs) -> BTreeMap<String, Model> {
    let model = |(name, model): (&String, &std::sync::Arc<ModelHandle>)| {
        let said = Model {
            source: study.models.get(name).map(|m| m.source.value.clone()),
            dtype: model.dtype().name().to_string(),
            fingerprint: model.fingerprint().to_hex().to_string(),
            config: serde_json::to_value(model.config())
                .and_then(serde_json::from_value)
                .unwrap_or_default(),
            end_of_text: serde_json::to_value(model.end_of_text()).unwrap_or_default(),
            example: example(name, model, study, inputs),
        };
        (name.clone(), said)
    };
    inputs.models.iter().map(model).collect()
}

/// The first prompt that a model is asked, as it reads it; none for one that is asked none.
fn example(name: &str, model: &ModelHandle, study: &Study, inputs: &Inputs) -> Option<Example> {
    let needs = study.stages.iter().map(|spec| spec.stage.needs());
    let mut asked = needs.filter(|needs| needs.models.iter().any(|model| model.value == name));
    let set = asked.find_map(|needs| needs.prompts.into_iter().next())?;
    let prompt = inputs.prompts.get(&set.value)?.prompts.first()?;
    let mut example = Example {
        prompts: set.value,
        prompt: prompt.id.clone(),
        ..Example::default()
    };
    match model.render(&prompt.text, &study.settings.chat) {
        Ok(mut text) => {
            if let Some((end, _)) = text.char_indices().nth(EXAMPLE_CHARACTERS) {
                text.truncate(end);
                text.push('…');
            }
            example.rendered = Some(text);
        }
        Err(error) => example.error = Some(error.to_string()),
    }
    Some(example)
}

pub(super) fn prompts(study: &Study, inputs: &Inputs, folder: &Path) -> BTreeMap<String, Prompts> {
    let sets = inputs.prompts.iter().map(|(name, set)| {
        let path = study.prompts.get(name).map(|set| set.path.value.as_path());
        let from_run = path.and_then(|path| relative(folder, path));
        let count = |split: &str| set.split(split).count() as u64;
        let splits = set.splits().into_iter();
        let said = Prompts {
            path: path.map(files::text_of),
            path_from_run: from_run.map(|path| path.unwrap_or_else(files::text_of)),
            content: set.content_hash().to_hex().to_string(),
            splits: splits.map(|s| (s.to_string(), count(s))).collect(),
        };
        (name.clone(), said)
    });
    sets.collect()
}
