//! What a tokenizer answered while studies were opened: to open one again its library need not be set up, which takes longer than all the rest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Texts that are remembered; a chat and a score rule ask for a dozen.
const MOST_TEXTS: usize = 4096;

/// A token that is matched as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct WholeToken {
    pub(super) spelling: String,
    /// A control token.
    pub(super) special: bool,
}

/// Answers of one tokenizer, by question.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answers {
    pub(super) largest_id: Option<u32>,
    /// By id.
    pub(super) whole_tokens: BTreeMap<u32, WholeToken>,
    /// By text.
    pub(super) ids: BTreeMap<String, Vec<u32>>,
    /// By spelling; none for one that is no token.
    pub(super) id: BTreeMap<String, Option<u32>>,
    /// By id; none for one that is no token's.
    pub(super) token: BTreeMap<u32, Option<String>>,
}

impl Answers {
    /// Adds the ids of a text; where those of many others are known, in their place.
    pub(super) fn add_ids(&mut self, text: &str, ids: &[u32]) {
        if self.ids.len() >= MOST_TEXTS {
            self.ids.clear();
        }
        self.ids.insert(text.to_string(), ids.to_vec());
    }
}
