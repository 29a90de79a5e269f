//! LongRoPE (arXiv:2402.13753), as phi3 has it: divisors of the frequencies, a list for short texts and another for long ones.
//!
//! transformers looks at how many tokens a pass has. Beyond those of pre-training it turns every position, the first one included, by the long
//! list, and begins anew when a text that it continues grows that long. The factor on attention is that of the longest texts for all of them.

use super::RawRope;
use crate::model::config::{Fields, Rope, RopeScaling};
use crate::model::error::unsupported;

impl Fields {
    /// The rotary embedding of a family that has a plain one, of θ `theta` and of whole heads where the file says no other, or LongRoPE for up
    /// to `longest` tokens, pre-trained on up to `original`; and the share of each head that turns.
    pub(in crate::model) fn plain_or_long_rope(
        &self,
        theta: f64,
        [original, longest]: [usize; 2],
    ) -> Result<(Rope, f64), String> {
        let given = self.given_rope()?;
        let (kind, whole) = (given.kind()?, 1.0);
        match kind {
            "default" => self.partial_rope(theta, whole, longest),
            "longrope" => {
                let beside = self.number("partial_rotary_factor")?;
                let share = given.partial_rotary_factor.or(beside).unwrap_or(whole);
                let theta = self.theta()?.unwrap_or(theta);
                let scaling = given.long_rope(original, longest)?;
                Ok((Rope { theta, scaling }, share))
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
        let list = |name: &str, list: &Option<Vec<f64>>| {
            let missing =
                || format!("`{name}` is missing from the rope parameters of type `longrope`");
            list.clone().ok_or_else(missing)
        };
        let factor = self.factor.unwrap_or(longest as f64 / original as f64);
        let inferred = match factor <= 1.0 {
            true => 1.0,
            false => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
        };
        Ok(RopeScaling::LongRope {
            short_factor: list("short_factor", &self.short_factor)?,
            long_factor: list("long_factor", &self.long_factor)?,
            original_context_length: original,
            attention_factor: self.attention_factor.unwrap_or(inferred),
        })
    }
}
