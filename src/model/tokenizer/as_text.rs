//! Conversations in which the study's own texts spell out control tokens that are to be read as text.
//!
//! Encoding such texts by themselves would not do: how a text is cut and merged depends on what stands beside it. But a tokenizer cuts at control
//! tokens before it does anything else. So the template renders the conversation with a private character for each control token in a text;
//! what is cut at in the result is the template's own; and each piece between is encoded with every control token in it read as text.

use std::ops::Range;

use tokenizers::Encoding;

use super::{Inner, Tokenizer};
use crate::model::error::{ModelError, Result};

/// Characters for private use, of which each stands for one control token.
const PRIVATE: Range<u32> = 0xF_0000..0xF_FFFE;

impl Tokenizer {
    /// The text with a private character for each control token that it spells out.
    pub(in crate::model) fn masked(&self, text: &str) -> Result<String> {
        if text.chars().any(|c| PRIVATE.contains(&u32::from(c))) {
            return Err(ModelError::tokenizer(
                "a text holds characters for private use (U+F0000 to U+FFFFD), which `special_tokens = \"text\"` needs",
            ));
        }
        let Some(control) = &self.control else {
            return Ok(text.to_string());
        };
        let private = |spelt: &str| {
            let number = self.spellings.iter().position(|known| known == spelt)?;
            let code = PRIVATE.start.checked_add(u32::try_from(number).ok()?)?;
            PRIVATE.contains(&code).then(|| char::from_u32(code))?
        };
        let masked = control.replace_all(text, |found: &regex::Captures<'_>| {
            private(&found[0]).map_or(found[0].to_string(), String::from)
        });
        Ok(masked.into_owned())
    }

    /// The text with the control tokens that private characters stand for.
    pub(in crate::model) fn unmasked(&self, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        for character in text.chars() {
            let number = u32::from(character).checked_sub(PRIVATE.start);
            let spelt = number.and_then(|number| self.spellings.get(number as usize));
            match spelt {
                Some(spelt) => result.push_str(spelt),
                None => result.push(character),
            }
        }
        result
    }

    /// The ids of a conversation that was rendered with masked texts, on a thread that is confined already.
    ///
    /// # Errors
    /// A tokenizer for which the pieces between control tokens are not independent, or whose vocabulary has them as words, too.
    pub(in crate::model) fn ids_of_masked(&self, masked: &str) -> Result<Vec<u32>> {
        let library = self.library()?;
        let whole = library.encode(masked, false);
        let whole = whole.map_err(ModelError::tokenizer)?;
        let pieces = self.pieces(library, &whole, masked);
        // The masked conversation piece by piece must give the same ids; then it is so with other pieces, too.
        let mut masked_ids = Vec::with_capacity(whole.len());
        let mut ids = Vec::with_capacity(whole.len());
        for piece in pieces {
            match piece {
                Piece::Control(id) => {
                    masked_ids.push(id);
                    ids.push(id);
                }
                Piece::Text(range) => {
                    let masked = masked.get(range).unwrap_or_default();
                    masked_ids.extend_from_slice(self.all_text(masked)?.get_ids());
                    ids.extend_from_slice(self.all_text(&self.unmasked(masked))?.get_ids());
                }
            }
        }
        if masked_ids != whole.get_ids() {
            return Err(ModelError::tokenizer(
                "its pieces depend on the control tokens before them, so that `special_tokens = \"text\"` cannot be had with it",
            ));
        }
        Ok(ids)
    }

    /// Where the control tokens and the pieces between them are.
    fn pieces(&self, library: &Inner, whole: &Encoding, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut done = 0;
        for (place, (id, &(start, end))) in
            whole.get_ids().iter().zip(whole.get_offsets()).enumerate()
        {
            if self.is_control(library, whole, place, text) {
                if done < start {
                    pieces.push(Piece::Text(done..start));
                }
                pieces.push(Piece::Control(*id));
                done = end;
            }
        }
        if done < text.len() {
            pieces.push(Piece::Text(done..text.len()));
        }
        pieces
    }

    /// Makes the tokenizer that reads everything as text, which is as large as the other: not within what one text may ask for.
    pub(in crate::model) fn ready_for_text(&self) -> Result<&Inner> {
        let library = self.library()?;
        Ok(self.as_text.get_or_init(|| {
            let mut inner = library.clone();
            inner.set_encode_special_tokens(true);
            inner
        }))
    }

    /// A text in which nothing is a control token.
    fn all_text(&self, text: &str) -> Result<Encoding> {
        let as_text = self.ready_for_text()?;
        let encoding = as_text.encode(text, false).map_err(ModelError::tokenizer)?;
        match (0..encoding.len()).find(|place| self.is_control(as_text, &encoding, *place, text)) {
            None => Ok(encoding),
            Some(place) => Err(ModelError::tokenizer(format!(
                "control token `{}` is a word of its vocabulary, too, so that it cannot be read as text",
                encoding.get_tokens().get(place).map_or("", String::as_str)
            ))),
        }
    }
}

enum Piece {
    Control(u32),
    Text(Range<usize>),
}
