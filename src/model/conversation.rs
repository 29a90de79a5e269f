//! A prompt in its chat, on the way to token ids: rendered by the template, cut by the tokenizer, both confined.

use std::sync::Arc;

use super::chat::{Chat, ChatTemplate, Message, SpecialTokens};
use super::confined::{Allowance, confined};
use super::error::{ModelError, Result};
use super::tokenizer::Tokenizer;

/// One prompt with everything that decides its ids.
pub(super) struct Conversation {
    pub(super) template: Arc<ChatTemplate>,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) prompt: String,
    pub(super) chat: Chat,
}

impl Conversation {
    /// Does something with it within an allowance.
    pub(super) fn confined<T: Send + 'static>(
        self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.chat.special_tokens == SpecialTokens::Text {
            self.tokenizer.ready_for_text();
        }
        let bytes = self.chat.texts(&self.prompt).map(str::len).sum();
        confined(Allowance::of_text(bytes), move || work(&self))
            .map_err(|why| ModelError::template(format!("rendered or cut into tokens, {why}")))?
    }

    pub(super) fn rendered(&self) -> Result<String> {
        self.rendered_with(|text| Ok(text.to_string()))
    }

    pub(super) fn ids(&self) -> Result<Vec<u32>> {
        let rendered = self.rendered()?;
        let mut texts = self.chat.texts(&self.prompt);
        let spells_control = texts.any(|text| !self.tokenizer.control_tokens(text).is_empty());
        if self.chat.special_tokens == SpecialTokens::Parsed || !spells_control {
            return self.tokenizer.ids(&rendered);
        }
        let masked = self.rendered_with(|text| self.tokenizer.masked(text))?;
        if self.tokenizer.unmasked(&masked) != rendered {
            return Err(ModelError::template(
                "it does something else where a text holds control tokens, which therefore cannot be read as text",
            ));
        }
        self.tokenizer.ids_of_masked(&masked)
    }

    /// The conversation rendered, each of the study's texts as `written`.
    fn rendered_with(&self, written: impl Fn(&str) -> Result<String>) -> Result<String> {
        let mut messages = Vec::with_capacity(2);
        if let Some(system) = &self.chat.system {
            messages.push(Message::new("system", written(system)?));
        }
        messages.push(Message::new("user", written(&self.prompt)?));
        let arguments = &self.chat.template_arguments;
        self.template.rendered(&messages, arguments, true)
    }
}
