//! The last look at an archive in which something is withheld: whether a text or a hash of it is there all the same.

use std::collections::BTreeMap;

use regex::bytes::{Regex, RegexBuilder};
use serde_json::Value as Json;

use super::ExportError;

/// Shorter texts may stand in a file by chance.
const SHORTEST: usize = 8;
/// Bytes that the texts may take to be sought, which is some thirty times what they have.
const MOST_BYTES: usize = 2 << 30;

/// Finds withheld texts and hashes.
pub(super) struct Sought {
    hashes: Regex,
    /// Of each set.
    texts: Vec<(String, Regex)>,
}

impl Sought {
    /// `texts` are each with its set, and are found as they are and as JSON has them; `hashes` are in hexadecimal.
    ///
    /// # Errors
    /// More texts than can be sought.
    pub(super) fn of(texts: &[(String, String)], hashes: &[String]) -> Result<Self, ExportError> {
        let mut by_set: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (set, text) in texts {
            let plain = text.trim();
            if plain.len() < SHORTEST {
                continue;
            }
            let quoted = Json::from(plain).to_string();
            let quoted = quoted.get(1..quoted.len() - 1).unwrap_or(plain);
            let sought = by_set.entry(set).or_default();
            sought.push(plain.to_string());
            if quoted != plain {
                sought.push(quoted.to_string());
            }
        }
        let texts = by_set.into_iter();
        let texts = texts.map(|(set, texts)| Ok((set.to_string(), any_of(&texts)?)));
        Ok(Sought {
            hashes: any_of(hashes)?,
            texts: texts.collect::<Result<_, ExportError>>()?,
        })
    }

    /// What some bytes hold of them: a text of a set, or a hash.
    pub(super) fn found_in(&self, bytes: &[u8]) -> Option<String> {
        if self.hashes.is_match(bytes) {
            return Some("a hash of withheld prompts".to_string());
        }
        let mut texts = self.texts.iter();
        let (set, _) = texts.find(|(_, texts)| texts.is_match(bytes))?;
        Some(format!("a text of prompt set `{set}`"))
    }
}

/// What finds any of some texts.
fn any_of(texts: &[String]) -> Result<Regex, ExportError> {
    let escaped = texts.iter().map(|text| regex::escape(text));
    let pattern = match texts.is_empty() {
        // Nothing matches it.
        true => "[a&&b]".to_string(),
        false => escaped.collect::<Vec<_>>().join("|"),
    };
    let built = RegexBuilder::new(&pattern)
        .size_limit(MOST_BYTES)
        .unicode(true)
        .build();
    built.map_err(|error| ExportError::Failed(format!("withheld texts cannot be sought: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_as_they_are_and_as_json_has_them_and_short_ones_are_not_sought() {
        let texts = ["Is \"it\" late?", "Why?", "  Is it far?\n"];
        let texts = texts.map(|text| ("main".to_string(), text.to_string()));
        let sought = Sought::of(&texts, &["0123abcd".to_string()]).unwrap();
        let found = |text: &str| sought.found_in(text.as_bytes());
        for text in [
            "# Is \"it\" late?",
            r#"{"prompt": "Is \"it\" late?"}"#,
            "x Is it far? y",
        ] {
            assert_eq!(
                found(text).as_deref(),
                Some("a text of prompt set `main`"),
                "{text}"
            );
        }
        assert_eq!(
            found("key 0123abcd").as_deref(),
            Some("a hash of withheld prompts")
        );
        assert_eq!(found("Why? Is it late?"), None);
    }
}
