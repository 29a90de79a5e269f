//! Rotary position embeddings as tensors: angles of positions, and how vectors are turned by them.

use tch::{Device, Kind, Tensor};

use crate::model::config::Rope;
use crate::model::error::Result;

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Pairs {
    /// Element i with element i + half the width, as most families in transformers.
    Halves,
    /// Neighbours: element 2 i with element 2 i + 1.
    Neighbours,
}

/// Numbers that are computed at once, in two of the widest vector registers. What is left behind the last whole ones is computed by other
/// instructions, with other last bits than the same number has elsewhere.
pub(super) const AT_ONCE: usize = 32;

/// A rotary embedding of the first `width` elements of each head.
pub(in crate::model) struct Angles {
    /// `[width / 2]`, float32, and zeros up to a multiple of [`AT_ONCE`]
    frequencies: Tensor,
    /// Those of texts of more than so many tokens, at all their positions; none where they are the same.
    long: Option<(Tensor, usize)>,
    /// width / 2
    pairs_count: i64,
    scale: f64,
    pairs: Pairs,
    /// Whether cos and sin are float32 whatever the model's dtype is.
    wide: bool,
}

/// cos and sin of the rotary angles of the positions at hand.
pub(crate) struct Rotary {
    /// `[B or 1, S, 1, width]`: each angle twice
    cos: Tensor,
    /// `[B or 1, S, 1, width / 2]`
    sin: Tensor,
    pairs: Pairs,
}

impl Angles {
    pub(super) fn new(rope: &Rope, width: usize, pairs: Pairs, device: Device) -> Result<Self> {
        let (frequencies, scale) = rope.inverse_frequencies(width);
        let pairs_count = frequencies.len();
        let padded = |mut frequencies: Vec<f32>| -> Result<Tensor> {
            frequencies.resize(pairs_count.next_multiple_of(AT_ONCE), 0.0);
            Ok(Tensor::f_from_slice(&frequencies)?.f_to_device(device)?)
        };
        Ok(Angles {
            pairs_count: pairs_count as i64,
            frequencies: padded(frequencies)?,
            long: match rope.long_inverse_frequencies(width) {
                None => None,
                Some((frequencies, border)) => Some((padded(frequencies)?, border)),
            },
            scale: f64::from(scale),
            pairs,
            wide: false,
        })
    }

    /// Vectors are turned in float32 and rounded to the model's dtype then.
    pub(in crate::model) fn in_float32(self) -> Self {
        Angles { wide: true, ..self }
    }

    /// The longest text that is not turned as long ones are; none where all are turned alike.
    pub(super) fn border(&self) -> Option<usize> {
        self.long.as_ref().map(|(_, border)| *border)
    }

    /// Of positions `[B or 1, S]` (int64) of texts that are all long, or none of which is.
    pub(super) fn rotary(&self, positions: &Tensor, is_long: bool, kind: Kind) -> Result<Rotary> {
        let frequencies = match &self.long {
            Some((long, _)) if is_long => long,
            _ => &self.frequencies,
        };
        let angles = positions
            .f_to_kind(Kind::Float)?
            .f_unsqueeze(-1)?
            .f_unsqueeze(-1)?
            .f_mul(frequencies)?;
        let kind = if self.wide { Kind::Float } else { kind };
        let finish = |t: Tensor| -> Result<Tensor> {
            let t = t.f_narrow(-1, 0, self.pairs_count)?;
            Ok(t.f_mul_scalar(self.scale)?.f_to_kind(kind)?)
        };
        let cos = finish(angles.f_cos()?)?;
        Ok(Rotary {
            cos: match self.pairs {
                Pairs::Halves => Tensor::f_cat(&[&cos, &cos], -1)?,
                Pairs::Neighbours => Tensor::f_stack(&[&cos, &cos], -1)?.f_flatten(-2, -1)?,
            },
            sin: finish(angles.f_sin()?)?,
            pairs: self.pairs,
        })
    }
}

impl Rotary {
    /// Vectors `x [B, S, head, dh]`, of each of which the first `width` elements are turned.
    pub(in crate::model) fn turn(&self, x: &Tensor) -> Result<Tensor> {
        let (width, dh) = (self.cos.size()[3], x.size()[3]);
        if width == dh {
            return self.turned(x);
        }
        let turned = self.turned(&x.f_narrow(3, 0, width)?)?;
        let rest = x.f_narrow(3, width, dh - width)?;
        Ok(Tensor::f_cat(&[&turned, &rest], 3)?)
    }

    /// Vectors as wide as the rotation.
    fn turned(&self, x: &Tensor) -> Result<Tensor> {
        let turned = x.f_mul(&self.cos)?;
        // The elements that turn together, one of each pair.
        let part = |of: &Tensor, second: bool| -> Result<Tensor> {
            let half = of.size()[3] / 2;
            Ok(match self.pairs {
                Pairs::Halves => of.f_narrow(3, if second { half } else { 0 }, half)?,
                Pairs::Neighbours => of.f_slice(3, i64::from(second), None, 2)?,
            })
        };
        let (first, second) = (part(x, false)?, part(x, true)?);
        let _ = part(&turned, false)?.f_sub_(&second.f_mul(&self.sin)?)?;
        let _ = part(&turned, true)?.f_add_(&first.f_mul(&self.sin)?)?;
        Ok(turned.f_to_kind(x.kind())?)
    }
}
