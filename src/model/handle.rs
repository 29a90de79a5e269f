//! One model of a study, known but not loaded: its dimensions, its fingerprint, and how a prompt becomes tokens.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::cell::Tokens;
use super::chat::{Chat, ChatTemplate, Message, SpecialTokens, inserted};
use super::checkpoint::{AblatedFolder, Adapter, Checkpoint, Identity, Memory};
use super::config::{Dtype, ModelConfig};
use super::confined::{Allowance, confined};
use super::device::DeviceName;
use super::error::{ModelError, Result};
use super::evaluate::Evaluator;
use super::guard::guarded;
use super::tokenizer::{Answers, Tokenizer};
use super::transformer::Transformer;
use crate::harmless::cut;

/// A model of a study. Opening it reads the configuration and hashes the weights, but loads none.
pub struct ModelHandle {
    /// In the study file, shown in tables.
    pub(crate) name: String,
    checkpoint: Checkpoint,
    pub(crate) dtype: Dtype,
    template: Option<Arc<ChatTemplate>>,
    /// Of each of its files.
    pub(crate) weight_hashes: Vec<blake3::Hash>,
    /// blake3 of weights, configuration, tokenizer, chat template and dtype: what the cells of this model are keyed by.
    pub(crate) fingerprint: blake3::Hash,
    /// By the key of the chat.
    template_ids: Mutex<HashMap<String, Arc<[u32]>>>,
}

/// Two texts that have nothing in common.
const UNLIKE: [&str; 2] = ["Why?", "3 is a number"];
/// Characters of a text that a sentence quotes.
const QUOTED: usize = 200;

impl ModelHandle {
    /// Opens the checkpoint at `path` under the study's `name` for it. `template_from` lends its chat template to a model that has none.
    pub(crate) fn open(
        name: &str,
        path: &Path,
        dtype: Dtype,
        template_from: Option<&ModelHandle>,
        memory: &dyn Memory,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(path, memory)?;
        let template = match template_from {
            Some(other) => other.template.clone(),
            None => checkpoint.chat_template.clone().map(Arc::new),
        };
        let weight_hashes = checkpoint.file_hashes(memory)?;
        let fingerprint = Checkpoint::fingerprint(
            &weight_hashes,
            &checkpoint.config,
            &checkpoint.tokenizer,
            template.as_deref(),
            dtype,
        );
        Ok(ModelHandle {
            name: name.to_string(),
            checkpoint,
            dtype,
            template,
            weight_hashes,
            fingerprint,
            template_ids: Mutex::default(),
        })
    }

    /// Every file that it was read from, by name: bytes and blake3. Settings and tokenizer are read once more for it.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub(crate) fn files_read(&self) -> Result<Vec<(String, u64, blake3::Hash)>> {
        self.checkpoint.files_read(&self.weight_hashes)
    }

    /// The commit of the hub that it was opened at, where the study's `source` names the hub; of a model without its weights the one that it
    /// was recorded with.
    pub(crate) fn commit(&self, source: &str) -> Option<String> {
        self.checkpoint.commit(source)
    }

    /// Its folder without its weights: files by name, the same for the same model. What is opened there plans, looks up and decodes as this
    /// one does, and computes nothing. `source` is what the study calls it by.
    ///
    /// # Errors
    /// A file of it that cannot be read any more, or was changed since it was opened.
    pub fn write_recorded(&self, source: &str) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let identity = Identity {
            weights: &self.weight_hashes,
            template: self.template.as_deref(),
            dtype: self.dtype,
            fingerprint: self.fingerprint,
        };
        self.checkpoint.recorded_files(&identity, source)
    }

    /// Fails for a model that is here without its weights.
    ///
    /// # Errors
    /// What to do then.
    pub(crate) fn check_weights(&self) -> Result<()> {
        let Some(folder) = self.checkpoint.without_weights() else {
            return Ok(());
        };
        Err(ModelError::Unusable(format!(
            "model `{name}` is here without its weights (`{}`); name it with `--set models.{name}.source=SOURCE`, or with `--model {name}=SOURCE` \
             to `dial verify`",
            folder.display(),
            name = self.name
        )))
    }

    /// Of the tokenizer's content.
    pub(crate) fn tokenizer_hash(&self) -> blake3::Hash {
        self.checkpoint.tokenizer.hash
    }

    /// Of the chat template in use, whichever model it came from.
    pub(crate) fn template_hash(&self) -> Option<blake3::Hash> {
        self.template.as_ref().map(|template| template.hash)
    }

    pub fn config(&self) -> &ModelConfig {
        &self.checkpoint.config
    }

    /// Tokens that end a text beside those of its configuration, which `tokenizer_config.json` names: ascending, in no fingerprint, but in
    /// the keys of continuations.
    pub(crate) fn further_ends(&self) -> &[u32] {
        &self.checkpoint.further_ends
    }

    /// Every token that ends a text, ascending.
    pub(crate) fn end_of_text(&self) -> Vec<u32> {
        self.checkpoint.end_of_text()
    }

    /// What a reader should know of its files: fragments that follow the model's name.
    pub(crate) fn findings(&self) -> &[String] {
        &self.checkpoint.findings
    }

    /// The user's text in the chat template, with the generation prompt.
    ///
    /// # Errors
    /// A model without a template, or a template that refuses.
    pub(crate) fn render(&self, prompt: &str, chat: &Chat) -> Result<String> {
        self.confined(prompt, chat, |conversation| {
            conversation.rendered(|text| Ok(text.to_string()))
        })
    }

    /// The rendered prompt as token ids; no special tokens are added beyond those that the template writes. Says how many of the ids every
    /// prompt in this chat starts with.
    pub(crate) fn tokens(&self, prompt: &str, chat: &Chat) -> Result<Arc<Tokens>> {
        let ids = self.encoded(prompt, chat)?;
        let template = self.template_ids(chat)?;
        // A text whose first characters join the template's last token has a start of its own.
        let shared = match ids.starts_with(&template) {
            true => template.len(),
            false => 0,
        };
        Ok(Arc::new(Tokens::with_template(ids, shared)))
    }

    pub(super) fn encoded(&self, prompt: &str, chat: &Chat) -> Result<Vec<u32>> {
        self.confined(prompt, chat, Conversation::ids)
    }

    /// How many tokens what the template writes behind a prompt has by itself; none of a template that does not write the prompt as it is.
    pub(super) fn tokens_behind(&self, prompt: &str, chat: &Chat) -> Result<Option<usize>> {
        self.confined(prompt, chat, |conversation| {
            let rendered = conversation.rendered(|text| Ok(text.to_string()))?;
            let behind = rendered.rsplit_once(&conversation.prompt);
            let ids = behind.map(|(_, behind)| conversation.tokenizer.ids(behind));
            Ok(ids.transpose()?.map(|ids| ids.len()))
        })
    }

    /// Does something with a prompt in its chat, confined to an allowance.
    fn confined<T: Send + 'static>(
        &self,
        prompt: &str,
        chat: &Chat,
        work: impl FnOnce(&Conversation) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(template) = &self.template else {
            return Err(ModelError::template(format!(
                "model `{}` has no chat template; name a model that has one with `template_from` under `[models.{}]`",
                self.name, self.name
            )));
        };
        let conversation = Conversation {
            template: Arc::clone(template),
            tokenizer: self.checkpoint.tokenizer.clone(),
            prompt: prompt.to_string(),
            chat: chat.clone(),
        };
        if conversation.reads_control_as_text() {
            conversation.tokenizer.ready_for_text()?;
        }
        let bytes = chat.texts(prompt).map(str::len).sum();
        confined(Allowance::of_text(bytes), move || work(&conversation))
            .map_err(|why| ModelError::template(format!("rendered or cut into tokens, {why}")))?
    }

    /// The ids that come before the user's text: what two texts with nothing in common share, and so the same for every set of prompts.
    fn template_ids(&self, chat: &Chat) -> Result<Arc<[u32]>> {
        let key = chat.key().to_string();
        let known = self.template_ids.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        if let Some(ids) = known.get(&key) {
            return Ok(Arc::clone(ids));
        }
        let [one, other] = UNLIKE.map(|text| self.encoded(text, chat));
        let (one, other) = (one?, other?);
        let same = one.iter().zip(&other).take_while(|(a, b)| a == b);
        let shared: Arc<[u32]> = same.map(|(id, _)| *id).collect();
        known.insert(key, Arc::clone(&shared));
        Ok(shared)
    }

    /// Checks that a prompt reaches the model in this chat: no template that leaves the user's text out, or everything.
    ///
    /// # Errors
    /// As [`ModelHandle::tokens`], and a template that ignores the prompt.
    pub(crate) fn check_chat(&self, chat: &Chat) -> Result<()> {
        let [one, other] = UNLIKE.map(|text| self.encoded(text, chat));
        match one? == other? {
            false => Ok(()),
            true => Err(ModelError::template(format!(
                "it ignores the prompt: `{}` and `{}` become the same tokens",
                UNLIKE[0], UNLIKE[1]
            ))),
        }
    }

    /// What its template makes of this chat that a reader should know, as fragments that follow the model's name: text that nobody gave, a system
    /// message that is left out.
    pub(crate) fn findings_in(&self, chat: &Chat) -> Result<Vec<String>> {
        // Words of no language, so that whatever else is written is the template's.
        const PROMPT: &str = "qzxvprompt";
        const SYSTEM: &str = "qzxvsystem";
        const OTHER: &str = "qzxvother";
        let with = |system| self.render(PROMPT, &chat.but_system(Some(system)));
        let (rendered, instead) = match chat.system.is_some() {
            true => (with(SYSTEM)?, None),
            false => (self.render(PROMPT, chat)?, with(SYSTEM).ok()),
        };
        let control = self.checkpoint.tokenizer.added.as_ref();
        let inserted = inserted(&rendered, instead.as_deref(), &[PROMPT, SYSTEM], control);
        let told = inserted.iter().map(|text| {
            let text = quoted(text);
            format!("its chat template inserts text that the study does not give: {text}")
        });
        let mut findings: Vec<String> = told.collect();
        if chat.system.is_some() && with(OTHER).is_ok_and(|other| other == rendered) {
            findings.push("its chat template leaves the system message out".to_string());
        }
        let template = self.template.as_ref();
        let reads = |name: &String| template.is_some_and(|t| t.variables.contains(name));
        for name in chat.template_arguments.keys().filter(|name| !reads(name)) {
            findings.push(format!(
                "its chat template does not read `{name}` of `chat.template_arguments`"
            ));
        }
        Ok(findings)
    }

    pub(crate) fn control_tokens<'t>(&self, text: &'t str) -> Vec<&'t str> {
        self.checkpoint.tokenizer.control_tokens(text)
    }

    /// Whether its tokenizer has tokens for which it has no embedding.
    pub(crate) fn lacks_embeddings(&self) -> bool {
        self.checkpoint.largest_beyond().is_some()
    }

    /// The first of some tokens for which it has no embedding, as a person would name it.
    pub(crate) fn without_embedding(&self, ids: &[u32]) -> Option<String> {
        let rows = self.config().d_vocab;
        let id = ids.iter().copied().find(|id| *id as usize >= rows)?;
        let token = self.checkpoint.tokenizer.token(id).ok().flatten();
        let token = token.unwrap_or_default();
        Some(format!("token {id} (`{token}`)"))
    }

    /// What its tokenizer answered while the study was opened, with its hash; once.
    pub(crate) fn tokenizer_answers(&self) -> Option<(blake3::Hash, Answers)> {
        let tokenizer = &self.checkpoint.tokenizer;
        Some((tokenizer.hash, tokenizer.answers()?))
    }

    pub(crate) fn first_token(&self, word: &str) -> Result<u32> {
        self.checkpoint.tokenizer.first_token(word)
    }

    /// The tokens of a text that stands by itself, no special tokens added.
    ///
    /// # Errors
    /// The text has none, because it is empty or vanishes in normalisation.
    pub(crate) fn text_tokens(&self, text: &str) -> Result<Vec<u32>> {
        self.first_token(text)?;
        self.checkpoint.tokenizer.encode(text)
    }

    /// A token as the vocabulary spells it; empty where that is not known.
    pub(crate) fn spelling(&self, token: u32) -> String {
        let spelling = self.checkpoint.tokenizer.token(token);
        spelling.ok().flatten().unwrap_or_default()
    }

    /// Text of token ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.checkpoint.tokenizer.decode(ids, true)
    }

    /// The folder of the model without the direction of a vector, as [`Checkpoint::write_ablated`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn write_ablated(
        &self,
        vector: &[f32],
        about: &BTreeMap<String, String>,
        folder: &Path,
    ) -> Result<AblatedFolder> {
        self.check_weights()?;
        self.checkpoint.write_ablated(vector, about, folder)
    }

    /// Bytes that it takes.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn ablated_bytes(&self) -> Result<u64> {
        self.check_weights()?;
        self.checkpoint.ablated_bytes()
    }

    /// An adapter that ablates the direction of a vector. `base` is what others call the model, where that is known.
    ///
    /// # Errors
    /// A family of which there is none.
    pub(crate) fn adapter(&self, vector: &[f32], base: Option<&str>) -> Result<Adapter> {
        self.check_weights()?;
        self.checkpoint.adapter(vector, base)
    }

    /// Loads the weights onto a device. Prefixes will take at most about `prefix_budget_bytes`.
    ///
    /// # Errors
    /// A device that cannot be had, a damaged file or one that was written into since it was opened, no memory.
    pub fn load(&self, device: DeviceName, prefix_budget_bytes: usize) -> Result<Evaluator> {
        self.check_weights()?;
        let device = device.open()?;
        let transformer = guarded(|| Transformer::load(&self.checkpoint, self.dtype, device))?;
        // What is in memory now is what the fingerprint was made of.
        self.checkpoint.check_unchanged()?;
        Ok(Evaluator::new(transformer, prefix_budget_bytes))
    }
}

/// One prompt in its chat, on the way to token ids: rendered by the template, cut by the tokenizer, both confined.
struct Conversation {
    template: Arc<ChatTemplate>,
    tokenizer: Arc<Tokenizer>,
    prompt: String,
    chat: Chat,
}

impl Conversation {
    /// Whether a text spells out control tokens that are to be read as text.
    fn reads_control_as_text(&self) -> bool {
        let mut texts = self.chat.texts(&self.prompt);
        self.chat.special_tokens == SpecialTokens::Text
            && texts.any(|text| !self.tokenizer.control_tokens(text).is_empty())
    }

    fn ids(&self) -> Result<Vec<u32>> {
        let rendered = self.rendered(|text| Ok(text.to_string()))?;
        if !self.reads_control_as_text() {
            return self.tokenizer.ids(&rendered);
        }
        let masked = self.rendered(|text| self.tokenizer.masked(text))?;
        if self.tokenizer.unmasked(&masked) != rendered {
            return Err(ModelError::template(
                "it does something else where a text holds control tokens, which therefore cannot be read as text",
            ));
        }
        self.tokenizer.ids_of_masked(&masked)
    }

    /// The conversation rendered, each of the study's texts as `written`.
    fn rendered(&self, written: impl Fn(&str) -> Result<String>) -> Result<String> {
        let mut messages = Vec::with_capacity(2);
        if let Some(system) = &self.chat.system {
            messages.push(Message::new("system", written(system)?));
        }
        messages.push(Message::new("user", written(&self.prompt)?));
        let arguments = &self.chat.template_arguments;
        self.template.rendered(&messages, arguments, true)
    }
}

/// A text in a sentence: in one line, cut where it is long.
fn quoted(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("`{}`", cut(&line, QUOTED))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    /// The allocator really refuses: no machine has a pebibyte.
    #[test]
    fn memory_that_runs_out_is_told_with_what_to_do() {
        let refused = Tensor::f_zeros([1i64 << 50], (Kind::Float, Device::Cpu));
        let error = ModelError::from(refused.unwrap_err())
            .in_cells("prompt `a`, layer 3 (`x`), α = 2.0", 128);
        let message = error.to_string();
        assert!(
            message.starts_with(
                "out of memory: prompt `a`, layer 3 (`x`), α = 2.0 and 127 more cells: "
            ),
            "{message}"
        );
        assert!(message.contains("`--memory`"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}
