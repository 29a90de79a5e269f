//! A model without a direction, for programs that know nothing of directions.

use std::path::PathBuf;

use indicatif::DecimalBytes;

use crate::cache::existing_part;
use crate::machine::free_bytes;
use crate::model::AblatedFolder;
use crate::stages::Direction;

use super::model::model_of;
use super::{OutError, Which, asked, check_new, new_folder};

/// Room for what is written beside the weights.
const BESIDE: u64 = 64 << 20;

/// What is to be written, and where to.
pub(crate) struct Options {
    pub(crate) which: Which,
    pub(crate) to: PathBuf,
    /// The source of the model, where it is another than the run's.
    pub(crate) model: Option<String>,
}

/// What was written.
pub(crate) struct WrittenWeights {
    pub(crate) direction: Direction,
    pub(crate) folder: AblatedFolder,
    /// What whoever uses it should know.
    pub(crate) notes: Vec<String>,
}

/// Writes the weights of a direction's model without it as a Hugging Face folder, whole or not at all.
///
/// # Errors
/// No such direction, a place that is taken or has no room, a model of which that would be no ablation.
pub(crate) fn write_weights(options: &Options) -> Result<WrittenWeights, OutError> {
    let chosen = options.which.choose()?;
    check_new(&options.to)?;
    let (model, study, mut notes) = model_of(&chosen, options.model.as_deref())?;
    let needed = model.ablated_bytes()?.saturating_add(BESIDE);
    let free = free_bytes(existing_part(&options.to));
    if let Some(free) = free.filter(|free| *free < needed) {
        return asked(format!(
            "`{}` takes {}, and {} are free on its disk; free some, or name a folder on another disk with `--output`",
            options.to.display(),
            DecimalBytes(needed),
            DecimalBytes(free)
        ));
    }
    let mut about = chosen.about(Some(&study));
    about.insert("format".to_string(), "pt".to_string());
    let mut written = None;
    new_folder(&options.to, |folder| {
        let vector = chosen.direction.vector.values();
        written = Some(model.write_ablated(vector, &about, folder)?);
        Ok(())
    })?;
    let folder = written.ok_or_else(|| OutError::Failed("nothing was written".to_string()))?;
    if folder.untied {
        notes.push(
            "the model's embedding is its unembedding, too, and only the former is without the direction: they are written apart, with \
             `tie_word_embeddings = false`; a program that ties them again has another model"
                .to_string(),
        );
    }
    Ok(WrittenWeights {
        direction: chosen.direction,
        folder,
        notes,
    })
}
