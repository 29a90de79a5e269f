//! The model of a run, opened as the run had it or from where it lies now.

use serde_json::Value as Json;

use crate::model::{ModelHandle, NoMemory};
use crate::plan::{Lock, LockError, Study, open_one_model};
use crate::report::FinishedRun;
use crate::spec::{Document, Problems, field_path, load};

use super::super::export::{RESOLVED, document};
use super::super::layout;
use super::{Chosen, OutError, asked};

impl From<LockError> for OutError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Damaged(diagnostics) => OutError::Damaged(diagnostics),
            LockError::Unreadable(message) => OutError::Failed(message),
        }
    }
}

/// A run's study, from the copy in its folder.
///
/// # Errors
/// What cannot be read any more.
pub(super) fn study_of(run: &FinishedRun, overrides: &[String]) -> Result<Study, OutError> {
    let document = read(run, overrides)?;
    let study = Study::read(document, run.study(), &mut Problems::default());
    study.ok_or_else(|| OutError::Failed("the run's study is no table".to_string()))
}

fn read(run: &FinishedRun, overrides: &[String]) -> Result<Document, OutError> {
    // The folder of a shared file has the study as it runs there.
    let unpacked = run.path.join(layout::STUDY);
    let document = match run.path.join(RESOLVED).is_file() {
        true => document(run, overrides),
        false => load(&unpacked, overrides),
    };
    document.map_err(OutError::Damaged)
}

/// The model that a direction was made on, or the one at the source `instead`, and what to say of it.
///
/// # Errors
/// A model that cannot be opened, and one that is not what the run had without being named.
pub(super) fn model_of(
    chosen: &Chosen,
    instead: Option<&str>,
) -> Result<(ModelHandle, Study, Vec<String>), OutError> {
    let (run, name) = (&chosen.run, &chosen.direction.model);
    let source = instead.map(|source| {
        let field = field_path(&field_path("models", name), "source");
        format!("{field}={}", Json::from(absolute(source)))
    });
    let study = study_of(run, source.as_slice())?;
    let lock = Lock::read(&run.path.join(layout::LOCK))?;
    let pins = lock.map(|lock| lock.pins()).unwrap_or_default();
    let model = open_one_model(&study, name, &pins, &NoMemory).map_err(|error| match instead {
        Some(_) => OutError::Failed(error.to_string()),
        None => OutError::Failed(format!(
            "model `{name}` cannot be opened: {error}; say where it is now with `--model SOURCE`"
        )),
    })?;
    if model.check_weights().is_err() {
        return asked(format!(
            "model `{name}` is here without its weights; say where the whole model is with `--model SOURCE`"
        ));
    }
    let is_same = model.fingerprint.to_hex().as_str() == chosen.direction.fingerprint;
    match (is_same, instead) {
        (true, _) => Ok((model, study, Vec::new())),
        (false, None) => asked(format!(
            "model `{name}` is not the one any more that the direction was made on (its fingerprint is another); name the one that is meant with \
             `--model SOURCE`"
        )),
        (false, Some(source)) => {
            let note = format!(
                "`{source}` is not the very model that the direction was made on (its fingerprint is another)"
            );
            Ok((model, study, vec![note]))
        }
    }
}

/// A path from this folder on as one that holds everywhere; a source of the hub as it is.
fn absolute(source: &str) -> String {
    let absolute = std::path::absolute(source).ok();
    let absolute = absolute.filter(|_| !source.starts_with("hf:"));
    let text = absolute.and_then(|path| path.to_str().map(str::to_string));
    text.unwrap_or_else(|| source.to_string())
}
