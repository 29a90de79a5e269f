//! A low-rank adapter that ablates a direction as PEFT loads it: for each map that adds to the stream one of rank 1, −v(vᵀW).
//!
//! With B = −v and A = vᵀW, `r` and `lora_alpha` 1, the map W + BA is W without v. Adapters are of maps alone: what the tables of embeddings and the
//! biases of these maps add along v stays.

use std::collections::BTreeSet;

use safetensors::tensor::{Dtype as Stored, TensorView};
use serde_json::{Value as Json, json};

use super::Checkpoint;
use super::ablation::Ablation;
use crate::model::config::Dtype;
use crate::model::error::{ModelError, Result};
use crate::model::families::WriterForm;

/// The two files of an adapter's folder.
pub(crate) struct Adapter {
    /// `adapter_config.json`
    pub(crate) config: Json,
    /// `adapter_model.safetensors`
    pub(crate) weights: Vec<u8>,
    /// Maps that it changes.
    pub(crate) maps: usize,
    /// Whether some of these have biases, which it cannot change.
    pub(crate) leaves_biases: bool,
}

impl Checkpoint {
    /// The adapter that ablates the direction of a vector. `base` is what PEFT is to call the model, where that is known.
    ///
    /// # Errors
    /// A family of which that would be no ablation, or whose maps PEFT does not know one by one.
    pub(in crate::model) fn adapter(&self, vector: &[f32], base: Option<&str>) -> Result<Adapter> {
        let ablation = Ablation::of(vector, self.config.d_model)?;
        let writers = self.written_by_blocks()?;
        if writers.iter().any(|(_, form)| *form == WriterForm::Expert) {
            return Err(ModelError::Unusable(format!(
                "there is no adapter for a `{}`: its MLPs are experts, which transformers holds as one tensor, and an adapter is of single matrices; \
                 write the whole weights with `dial model orthogonalize`",
                self.config.family.name()
            )));
        }
        let minus: Vec<u8> = bytes(ablation.unit().iter().map(|x| -x));
        let mut parts: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for (module, form) in &writers {
            let weight = self.tensor(&format!("{module}.weight"), Dtype::Float32)?;
            let along = ablation.along(&weight, form.side());
            let (a, b) = (vec![1, along.len()], vec![ablation.unit().len(), 1]);
            let named = |part: &str| format!("base_model.model.{module}.lora_{part}.weight");
            parts.push((named("A"), a, bytes(along.into_iter())));
            parts.push((named("B"), b, minus.clone()));
        }
        self.check_unchanged()?;
        Ok(Adapter {
            config: self.adapter_config(&writers, base),
            weights: safetensors_of(&parts)
                .map_err(|error| ModelError::Internal(format!("safetensors: {error}")))?,
            maps: writers.len(),
            leaves_biases: writers
                .iter()
                .any(|(module, _)| self.weights.contains_key(&format!("{module}.bias"))),
        })
    }

    fn adapter_config(&self, writers: &[(String, WriterForm)], base: Option<&str>) -> Json {
        let last = |(module, _): &(String, WriterForm)| {
            let name = module.rsplit('.').next().unwrap_or(module);
            name.to_string()
        };
        // By their last names, which no other map of these families has.
        let names: BTreeSet<String> = writers.iter().map(last).collect();
        let is_conv1d = writers.iter().any(|(_, form)| *form == WriterForm::Conv1d);
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "revision": null,
            "inference_mode": true,
            "r": 1,
            "lora_alpha": 1,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": is_conv1d,
            "target_modules": names,
            "modules_to_save": null,
            "layers_to_transform": null,
            "layers_pattern": null,
            "rank_pattern": {},
            "alpha_pattern": {},
            "init_lora_weights": true,
            "use_rslora": false,
            "use_dora": false,
        })
    }
}

/// A file of float32 tensors.
fn safetensors_of(
    parts: &[(String, Vec<usize>, Vec<u8>)],
) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let mut views = Vec::with_capacity(parts.len());
    for (name, shape, bytes) in parts {
        views.push((name, TensorView::new(Stored::F32, shape.clone(), bytes)?));
    }
    let metadata = [("format".to_string(), "pt".to_string())];
    safetensors::serialize(views, Some(metadata.into()))
}

/// As float32.
fn bytes(numbers: impl Iterator<Item = f64>) -> Vec<u8> {
    numbers.flat_map(|x| (x as f32).to_le_bytes()).collect()
}
