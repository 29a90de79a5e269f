//! What the classes of transformers have where a `config.json` has no such field, and which layers attend to a window.

use super::{Fields, Sizes, quotient};
use crate::model::error::unsupported;

/// The defaults of a family's class; what has none here is needed.
#[derive(Clone, Copy)]
pub(in crate::model) struct Defaults {
    pub(in crate::model) n_heads: Option<usize>,
    /// As many as query heads where the class has no number.
    pub(in crate::model) n_kv_heads: Option<usize>,
    /// The quotient of hidden size and heads where the class has no number.
    pub(in crate::model) d_head: Option<usize>,
    pub(in crate::model) d_vocab: Option<usize>,
    pub(in crate::model) tied_embeddings: bool,
    pub(in crate::model) context_length: usize,
    pub(in crate::model) end_of_text: &'static [u32],
}

impl Defaults {
    /// Those of a class that has no other.
    pub(in crate::model) const fn of(context_length: usize) -> Self {
        Defaults {
            n_heads: None,
            n_kv_heads: None,
            d_head: None,
            d_vocab: None,
            tied_embeddings: false,
            context_length,
            end_of_text: &[],
        }
    }
}

impl Fields {
    /// The sizes by the names that most families give them.
    pub(in crate::model) fn sizes_by(&self, defaults: &Defaults) -> Result<Sizes, String> {
        let (d_model, n_heads) = (
            self.needed_count("hidden_size")?,
            self.count_or("num_attention_heads", defaults.n_heads)?,
        );
        Ok(Sizes {
            d_model,
            n_layers: self.needed_count("num_hidden_layers")?,
            n_heads,
            n_kv_heads: match self.is_absent("num_key_value_heads") {
                true => defaults.n_kv_heads.unwrap_or(n_heads),
                false => self.count("num_key_value_heads")?.unwrap_or(n_heads),
            },
            d_head: match self.count("head_dim")?.or(defaults.d_head) {
                Some(d_head) => d_head,
                None => quotient(("hidden_size", d_model), ("num_attention_heads", n_heads))?,
            },
            d_mlp: self.needed_count("intermediate_size")?,
            d_vocab: self.count_or("vocab_size", defaults.d_vocab)?,
            tied_embeddings: self
                .switch("tie_word_embeddings")?
                .unwrap_or(defaults.tied_embeddings),
            context_length: self
                .count("max_position_embeddings")?
                .unwrap_or(defaults.context_length),
            end_of_text: match self.is_absent("eos_token_id") {
                true => defaults.end_of_text.to_vec(),
                false => self.end_of_text()?,
            },
        })
    }

    fn count_or(&self, name: &str, default: Option<usize>) -> Result<usize, String> {
        match default {
            Some(default) => Ok(self.count(name)?.unwrap_or(default)),
            None => self.needed_count(name),
        }
    }

    /// A number that `null` takes away; `default` where there is no such field.
    pub(in crate::model) fn number_unless_null(
        &self,
        name: &str,
        default: Option<f64>,
    ) -> Result<Option<f64>, String> {
        match self.is_absent(name) {
            true => Ok(default),
            false => self.number(name),
        }
    }

    /// The window of each layer, `[n_layers]`, none for one that attends to everything: `sliding_window` (or `default`) where
    /// `layer_types` says so, and in a file without these, where the layer `slides`.
    pub(in crate::model) fn windows(
        &self,
        sizes: &Sizes,
        default: usize,
        slides: impl Fn(usize) -> bool,
    ) -> Result<Vec<Option<usize>>, String> {
        let window = match self.is_absent("sliding_window") {
            true => Some(default),
            false => self.count("sliding_window")?,
        };
        self.windows_of(sizes, window, slides)
    }

    /// The same of a window that is known.
    pub(in crate::model) fn windows_of(
        &self,
        sizes: &Sizes,
        window: Option<usize>,
        slides: impl Fn(usize) -> bool,
    ) -> Result<Vec<Option<usize>>, String> {
        // Before as many layers are counted out as the file says.
        sizes.validate()?;
        let by_rule = || (0..sizes.n_layers).map(slides).collect();
        let sliding: Vec<bool> = self.sliding_layers(sizes)?.unwrap_or_else(by_rule);
        if sliding.contains(&true) && window.unwrap_or(0) == 0 {
            let given = window.map_or("null".to_string(), |window| window.to_string());
            return Err(format!(
                "`sliding_window` is `{given}`, expected a positive number of tokens: there are layers that attend to a window"
            ));
        }
        let windows = sliding.into_iter();
        Ok(windows.map(|slides| window.filter(|_| slides)).collect())
    }

    /// Whether each layer attends to a window, `[n_layers]`, by `layer_types`.
    fn sliding_layers(&self, sizes: &Sizes) -> Result<Option<Vec<bool>>, String> {
        let Some(kinds) = self.list::<String>("layer_types")? else {
            return Ok(None);
        };
        if kinds.len() != sizes.n_layers {
            return Err(format!(
                "`layer_types` has `{}` entries, expected `{}`: one for each layer",
                kinds.len(),
                sizes.n_layers
            ));
        }
        let slides = |kind: String| match kind.as_str() {
            "full_attention" => Ok(false),
            "sliding_attention" => Ok(true),
            _ => Err(unsupported(
                format!("`{kind}` in `layer_types`"),
                "`full_attention`, `sliding_attention`",
            )),
        };
        kinds
            .into_iter()
            .map(slides)
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

/// Whether a number by which something is multiplied or divided makes sense; the error is a fragment that names its field.
pub(in crate::model) fn check_positive(name: &str, value: f64) -> Result<(), String> {
    match (1e-6..=1e6).contains(&value) {
        true => Ok(()),
        false => Err(format!(
            "`{name}` is `{value}`, expected a positive number from 1e-6 to 1e6"
        )),
    }
}
