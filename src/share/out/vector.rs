//! A direction in a file of another program.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::cache::write_atomically;
use crate::model::NewControlVector;
use crate::stages::{Direction, Numbers, Tensor, Tensors};

use super::model::{model_of, study_of};
use super::{Chosen, OutError, Which, asked, check_new, new_folder};

/// The form of what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The vector, and what is known of it.
    Safetensors,
    /// A GGUF file for llama.cpp's `--control-vector`.
    ControlVector,
    /// A folder that PEFT loads: the model without the direction.
    Lora,
}

/// What is to be written, and where to.
pub(crate) struct Options {
    pub(crate) which: Which,
    pub(crate) form: Form,
    pub(crate) to: PathBuf,
    /// The source of the model, where it is another than the run's; of an adapter alone.
    pub(crate) model: Option<String>,
}

/// What was written.
pub(crate) struct WrittenVector {
    pub(crate) direction: Direction,
    /// The tensor that holds it, or how many maps an adapter changes.
    pub(crate) as_what: String,
    /// What whoever uses it should know.
    pub(crate) notes: Vec<String>,
}

/// Writes a direction, whole or not at all.
///
/// # Errors
/// No such direction, a place that is taken, a form that the direction or its model does not have.
pub(crate) fn write_vector(options: &Options) -> Result<WrittenVector, OutError> {
    let chosen = options.which.choose()?;
    check_new(&options.to)?;
    let (as_what, notes) = match options.form {
        Form::Safetensors => safetensors(&chosen, options)?,
        Form::ControlVector => control_vector(&chosen, options)?,
        Form::Lora => lora(&chosen, options)?,
    };
    Ok(WrittenVector {
        direction: chosen.direction,
        as_what,
        notes,
    })
}

/// What a file of a direction says of it. A study that cannot be read any more says no licence.
fn about(chosen: &Chosen) -> BTreeMap<String, String> {
    chosen.about(study_of(&chosen.run, &[]).ok().as_ref())
}

fn safetensors(chosen: &Chosen, options: &Options) -> Result<(String, Vec<String>), OutError> {
    let tensor = |name: &str, numbers: Vec<f32>| Tensor {
        name: name.to_string(),
        shape: vec![numbers.len()],
        numbers: Numbers::F32(numbers),
    };
    let mut metadata = about(chosen);
    metadata.insert("format".to_string(), "pt".to_string());
    let file = Tensors {
        name: String::new(),
        tensors: vec![
            tensor("direction", chosen.direction.vector.values().to_vec()),
            tensor("pre_norm", vec![chosen.direction.pre_norm as f32]),
        ],
        metadata,
    };
    let mut bytes = Vec::new();
    file.write(&mut bytes)
        .map_err(|error| OutError::Failed(error.to_string()))?;
    write_atomically(&options.to, &bytes)?;
    Ok(("direction".to_string(), Vec::new()))
}

fn control_vector(chosen: &Chosen, options: &Options) -> Result<(String, Vec<String>), OutError> {
    let direction = &chosen.direction;
    let Some(model) = chosen.model() else {
        return asked(format!(
            "the run does not say how many layers its model `{}` has, which a control vector needs; write it as safetensors",
            direction.model
        ));
    };
    let (layer, site) = (direction.layer, direction.site);
    let n_layers = usize::try_from(model.config.n_layers).unwrap_or(usize::MAX);
    let block = NewControlVector::block(layer, site, n_layers)
        .or_else(|why| asked(format!("direction `{}` {why}", direction.label)))?;
    let file = NewControlVector {
        block,
        values: direction.vector.values(),
        hint: &model.config.architecture,
        about: &about(chosen),
    };
    write_atomically(&options.to, &file.to_bytes())?;
    let mut notes = vec![
        "llama.cpp adds it to every token, of the prompt and of what the model writes; a study does that with `position = \"all\"`, and at the last token of \
         the prompt without it"
            .to_string(),
        format!(
            "its length is 1: the scale that llama.cpp is given is α in units of the unit vector. α = 1 in units of `pre_norm` is the scale {}",
            direction.pre_norm
        ),
    ];
    notes.extend(
        direction
            .resid_norm
            .map(|norm| format!("α = 1 in units of `resid_norm` is the scale {norm}")),
    );
    Ok((format!("direction.{block}"), notes))
}

fn lora(chosen: &Chosen, options: &Options) -> Result<(String, Vec<String>), OutError> {
    let (model, study, mut notes) = model_of(chosen, options.model.as_deref())?;
    let spec = study.models.get(&chosen.direction.model);
    let base = spec.and_then(|spec| spec.source.value.strip_prefix("hf:"));
    let base = base.map(|name| name.split('@').next().unwrap_or(name));
    let adapter = model.adapter(chosen.direction.vector.values(), base)?;
    let config = format!("{:#}\n", adapter.config);
    new_folder(&options.to, |folder| {
        write_atomically(&folder.join("adapter_config.json"), config.as_bytes())?;
        write_atomically(&folder.join("adapter_model.safetensors"), &adapter.weights)?;
        Ok(())
    })?;
    let what = match adapter.leaves_biases {
        true => "what the embedding and the biases of these matrices add",
        false => "what the embedding adds",
    };
    notes.push(format!(
        "an adapter changes matrices alone: {what} along the direction stays, so that it is not quite `mode = \"ablate_everywhere\"`; `dial model \
         orthogonalize` leaves nothing"
    ));
    Ok((format!("{} matrices", adapter.maps), notes))
}
