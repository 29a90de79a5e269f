//! LongRoPE (arXiv:2402.13753), as phi3 has it: divisors of the frequencies, a list for short texts and another for long ones.
//!
//! transformers looks at how many tokens a pass has. Beyond those of pre-training it turns every position, the first one included, by the long
//! list, and begins anew when a text that it continues grows that long. Here what was computed for a prompt is kept and shared, so that a prompt's
//! numbers must not depend on what comes behind it: the context ends where the short list does.

use super::RawRope;
use crate::model::config::{Fields, Rope, RopeScaling};
use crate::model::error::unsupported;

/// A rotary embedding that may be LongRoPE.
pub(in crate::model) struct LongRope {
    pub(in crate::model) rope: Rope,
    /// The share of each head that turns.
    pub(in crate::model) share: f64,
    /// The longest text for which `rope` holds, in tokens.
    pub(in crate::model) context_length: usize,
}

impl Fields {
    /// The rotary embedding of a family that has a plain one, of θ `theta` and of whole heads where the file says no other, or LongRoPE for up
    /// to `longest` tokens, pre-trained on up to `original`.
    pub(in crate::model) fn plain_or_long_rope(
        &self,
        theta: f64,
        [original, longest]: [usize; 2],
    ) -> Result<LongRope, String> {
        let given = self.given_rope()?;
        let (kind, whole) = (given.kind()?, 1.0);
        match kind {
            "default" => {
                let (rope, share) = self.partial_rope(theta, whole, longest)?;
                Ok(LongRope {
                    rope,
                    share,
                    context_length: longest,
                })
            }
            "longrope" => {
                let beside = self.number("partial_rotary_factor")?;
                Ok(LongRope {
                    rope: Rope {
                        theta: self.theta()?.unwrap_or(theta),
                        scaling: given.long_rope(original, longest)?,
                    },
                    share: given.partial_rotary_factor.or(beside).unwrap_or(whole),
                    context_length: longest.min(original),
                })
            }
            _ => Err(unsupported(
                format!("rope type `{kind}`"),
                "`default`, `longrope`",
            )),
        }
    }
}

impl RawRope {
    fn long_rope(&self, original: usize, longest: usize) -> Result<RopeScaling, String> {
        const READ: [&str; 3] = [
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
        ];
        let numbers = self.numbers().into_iter();
        let mut given = numbers.filter_map(|(name, value)| value.map(|_| name));
        let unread = self.unknown.keys().map(String::as_str).next();
        if let Some(name) = unread.or_else(|| given.find(|name| !READ.contains(name))) {
            return Err(unsupported(
                format!("rope parameter `{name}` of type `longrope`"),
                "`short_factor`, `long_factor`, `factor`, `attention_factor`",
            ));
        }
        if let Some(other) = self.original_max_position_embeddings
            && other != original
        {
            return Err(format!(
                "`original_max_position_embeddings` is `{other}` among the rope parameters, but `{original}` outside of them, which is what counts; expected the same in both places"
            ));
        }
        let missing =
            |name: &str| format!("`{name}` is missing from the rope parameters of type `longrope`");
        let short_factor = self.short_factor.clone();
        let short_factor = short_factor.ok_or_else(|| missing("short_factor"))?;
        if self.long_factor.is_none() {
            return Err(missing("long_factor"));
        }
        let (original, longest) = (original as f64, longest as f64);
        let factor = self.factor.unwrap_or(longest / original);
        let inferred = match factor <= 1.0 {
            true => 1.0,
            false => (1.0 + factor.ln() / original.ln()).sqrt(),
        };
        Ok(RopeScaling::LongRope {
            short_factor,
            attention_factor: self.attention_factor.unwrap_or(inferred),
        })
    }
}
