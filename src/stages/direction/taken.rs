//! Where in a prompt the activations of a direction are taken: at single tokens, or over all of them.

use serde_json::json;

use crate::model::ModelHandle;
use crate::spec::{Fields, Node, Problems};
use crate::stages::declare::{Declared, Field, KeyParts, Parameter};
use crate::stages::position::Position;
use crate::stages::settings::Settings;
use crate::stages::{StageError, sweep};

use super::Places;

/// The word for the second.
const MEAN: &str = "mean";

/// Which tokens.
pub(super) enum Taken {
    At(Position),
    /// The mean over all tokens of a prompt, as CAST's conditions are made (Lee et al., arXiv:2409.05907).
    Mean,
}

impl Parameter for Taken {
    fn read(fields: &mut Fields<'_, '_>, declared: &Declared, study: &Settings) -> Option<Self> {
        if fields.peek(declared.name).and_then(Node::as_str) != Some(MEAN) {
            return Position::read(fields, declared, study).map(Taken::At);
        }
        fields.node(declared.name);
        Some(Taken::Mean)
    }

    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        match self {
            Taken::At(position) => position.add_key(name, key),
            Taken::Mean => drop(key.insert(name.to_string(), MEAN.into())),
        }
    }

    fn list(declared: &Declared) -> Vec<Field> {
        let mut fields = Position::list(declared);
        for field in &mut fields {
            if let Some(ways) = field.schema["anyOf"].as_array_mut() {
                ways.push(json!({ "enum": [MEAN] }));
            }
        }
        fields
    }
}

impl Taken {
    pub(super) fn check(&self, problems: &mut Problems) {
        if let Taken::At(position) = self {
            position.check_of_prompt(problems);
        }
    }

    /// The places on a model.
    ///
    /// # Errors
    /// Tokens that are not the same ones in every prompt; those of the chat.
    pub(super) fn places(
        &self,
        model: &ModelHandle,
        settings: &Settings,
    ) -> Result<Places, StageError> {
        let Taken::At(position) = self else {
            return Ok(Places::mean());
        };
        let places = Places::of(position, model, &settings.chat)?;
        places.ok_or_else(|| {
            StageError::Data(format!(
                "a direction is made at single tokens, which `{}` does not name in prompts of different length; name them from one end: an index, a \
                 window such as `\"-5..\"`, `\"instruction_end\"`, `\"post_instruction\"`; or take the `\"mean\"` over all tokens",
                **position
            ))
        })
    }

    /// What a reader should know of the places.
    ///
    /// # Errors
    /// Those of the chat.
    pub(super) fn findings(
        &self,
        model: &std::sync::Arc<ModelHandle>,
        settings: &Settings,
    ) -> Result<Vec<String>, StageError> {
        match self {
            Taken::At(position) => sweep::findings(position, &[model], settings),
            Taken::Mean => Ok(Vec::new()),
        }
    }
}
