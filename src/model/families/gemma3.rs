//! `gemma3`: a Gemma 3 that also sees. Only its text is computed, which is a `gemma3_text`; what it sees with is passed over.
//!
//! Reference: `modeling_gemma3.py` in Hugging Face transformers 5.23.

use serde::{Deserialize, Serialize};

use super::gemma3_text::Gemma3Text;
use super::{Architecture, NORMALIZED, Parameter, Writer};
use crate::model::config::{Fields, Sizes};
use crate::model::error::{Result, unsupported};
use crate::model::transformer::{Loader, Network};

/// The text model inside, whose logits have no cap in this class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gemma3(pub Gemma3Text);

impl Architecture for Gemma3 {
    const NAME: &'static str = "gemma3";
    const CLASSES: [&'static str; 2] = ["Gemma3ForConditionalGeneration", "Gemma3Model"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let text = fields.nested("text_config")?;
        let text = text.ok_or("`text_config` is missing")?;
        let kind = text.text("model_type")?;
        if let Some(other) = kind.filter(|kind| kind != Gemma3Text::NAME) {
            let what = format!("`model_type` `{other}` in `text_config`");
            return Err(unsupported(what, format!("`{}`", Gemma3Text::NAME)));
        }
        let (mut sizes, mut gemma) = Gemma3Text::read(&text)?;
        text.refuse_unread(Gemma3Text::NAME)?;
        gemma.final_logit_softcapping = None;
        // The head is this class's, not the text model's.
        sizes.tied_embeddings = fields.switch("tie_word_embeddings")?.unwrap_or(true);
        let ends = fields.end_of_text()?;
        if !ends.is_empty() {
            sizes.end_of_text = ends;
        }
        Ok((sizes, Gemma3(gemma)))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        self.0.validate(sizes)
    }

    /// Published files have the text model as `language_model.model.` and its head as `language_model.lm_head.`, others as
    /// `model.language_model.` and `lm_head.`.
    fn renamed(&self, name: &str) -> Option<String> {
        let inside = name.strip_prefix("model.").unwrap_or(name);
        if inside.starts_with("vision_tower.") || inside.starts_with("multi_modal_projector.") {
            return None;
        }
        let Some(text) = inside.strip_prefix("language_model.") else {
            return Some(name.to_string());
        };
        Some(match text.starts_with("model.") || text.starts_with("lm_head.") {
            true => text.to_string(),
            false => format!("model.{text}"),
        })
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        self.0.block_parameters(sizes, layer)
    }

    fn writers(&self, _: &Sizes, _: usize) -> Result<Vec<Writer>, &'static str> {
        Err(NORMALIZED)
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        self.0.load(loader)
    }
}
