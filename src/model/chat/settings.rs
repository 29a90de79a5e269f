//! What a study says of the chat around its prompts.

use serde_json::{Map, Value as Json};

/// How control tokens are read that a text of the study spells out itself (`<|im_end|>` in a prompt).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SpecialTokens {
    /// As the control tokens they spell, as transformers does.
    #[default]
    Parsed,
    /// As text like any other: only the template's own are control tokens.
    Text,
}

/// The messages around a prompt, and how they are written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chat {
    /// The system message; none leaves it out, and the template's own default then applies.
    pub(crate) system: Option<String>,
    /// Variables that the template sees beside its own, e.g. `enable_thinking`.
    pub(crate) template_arguments: Map<String, Json>,
    /// How control tokens in the study's own texts are read.
    pub(crate) special_tokens: SpecialTokens,
}

impl Default for Chat {
    fn default() -> Self {
        Chat {
            system: Some("You are a helpful assistant.".to_string()),
            template_arguments: Map::new(),
            special_tokens: SpecialTokens::Parsed,
        }
    }
}

impl Chat {
    /// The same with another system message, or none.
    pub(crate) fn but_system(&self, system: Option<&str>) -> Self {
        Chat {
            system: system.map(str::to_string),
            ..self.clone()
        }
    }

    /// Canonical form for keys. What is as it always was does not appear, so that keys made before there were such settings stay.
    pub(crate) fn key(&self) -> Json {
        let mut key = serde_json::json!({ "system": self.system });
        if !self.template_arguments.is_empty() {
            key["template_arguments"] = Json::Object(self.template_arguments.clone());
        }
        if self.special_tokens == SpecialTokens::Text {
            key["special_tokens"] = "text".into();
        }
        key
    }

    /// The texts of the study that stand in the conversation with `prompt`.
    pub(in crate::model) fn texts<'a>(&'a self, prompt: &'a str) -> impl Iterator<Item = &'a str> {
        self.system.as_deref().into_iter().chain([prompt])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_that_of_earlier_versions_where_nothing_new_is_asked() {
        let key = Chat::default().key().to_string();
        assert_eq!(key, r#"{"system":"You are a helpful assistant."}"#);
        let mut chat = Chat::default().but_system(None);
        assert_eq!(chat.key().to_string(), r#"{"system":null}"#);
        chat.template_arguments
            .insert("enable_thinking".into(), false.into());
        chat.special_tokens = SpecialTokens::Text;
        assert_eq!(
            chat.key().to_string(),
            r#"{"special_tokens":"text","system":null,"template_arguments":{"enable_thinking":false}}"#
        );
    }
}
