//! Attention: what the positions at hand attend to, and the products themselves.
//!
//! Two forms. Rows of a tile attend together, to cached positions and to themselves ([`attend_rows`]). Prompts packed one after another
//! attend each for itself ([`attend_packed`]), by products whose sizes depend on that prompt alone.

use tch::{Device, Kind, Tensor};

use super::ByWindow;
use super::parts::soft_capped;
use super::rotary::Rotary;
use crate::model::config::Sizes;
use crate::model::error::{ModelError, Result};

/// How the heads of a block attend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::model) struct Attention {
    /// What the products of queries and keys are multiplied by.
    pub(in crate::model) scale: f64,
    /// The positions that one attends to, itself among them and those before it; none for all.
    pub(in crate::model) window: Option<usize>,
    /// c, where the products become c · tanh(products / c).
    pub(in crate::model) soft_cap: Option<f64>,
}

impl Attention {
    /// To all positions before, of heads of that width: over its square root.
    pub(in crate::model) fn of_width(d_head: usize) -> Self {
        Attention {
            scale: (d_head as f64).powf(-0.5),
            window: None,
            soft_cap: None,
        }
    }

    fn capped(self, logits: Tensor) -> Result<Tensor> {
        match self.soft_cap {
            None => Ok(logits),
            Some(cap) => soft_capped(&logits, cap),
        }
    }
}

/// The heads that a projection to queries, keys and values has.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct Heads {
    queries: i64,
    /// Of keys, and as many of values.
    keys: i64,
    width: i64,
}

impl Heads {
    pub(in crate::model) fn of(sizes: &Sizes) -> Self {
        Heads {
            queries: sizes.n_heads as i64,
            keys: sizes.n_kv_heads as i64,
            width: sizes.d_head as i64,
        }
    }

    /// One projection to queries, keys and values, `[B, S, (kv·g + 2·kv) · dh]`, with the first two turned.
    pub(in crate::model) fn turned(self, qkv: &Tensor, rotary: &Rotary) -> Result<Projected> {
        let (heads, kv) = (self.queries, self.keys);
        let qkv = self.split(qkv, heads + 2 * kv)?;
        let turned = rotary.turn(&qkv.f_narrow(2, 0, heads + kv)?)?;
        Ok(Projected {
            queries: turned.f_narrow(2, 0, heads)?,
            own: KeysValues {
                keys: turned.f_narrow(2, heads, kv)?,
                values: qkv.f_narrow(2, heads + kv, kv)?,
            },
        })
    }

    /// One projection to queries, keys and values, `[B, S, (kv·g + 2·kv) · dh]`, taken apart: each `[B, S, head, dh]`.
    pub(in crate::model) fn apart(self, qkv: &Tensor) -> Result<[Tensor; 3]> {
        let (heads, kv) = (self.queries, self.keys);
        let qkv = self.split(qkv, heads + 2 * kv)?;
        Ok([
            qkv.f_narrow(2, 0, heads)?,
            qkv.f_narrow(2, heads, kv)?,
            qkv.f_narrow(2, heads + kv, kv)?,
        ])
    }

    /// `[B, S, count · dh]` → `[B, S, count, dh]`
    fn split(self, x: &Tensor, count: i64) -> Result<Tensor> {
        let size = x.size();
        Ok(x.f_view([size[0], size[1], count, self.width])?)
    }
}

/// Keys and values of some positions, of one shape; rotary embedding applied.
pub(crate) struct KeysValues {
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
}

impl KeysValues {
    pub(crate) fn map(&self, change: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(KeysValues {
            keys: change(&self.keys)?,
            values: change(&self.values)?,
        })
    }

    /// Both of so many elements, all 0.
    pub(crate) fn zeros(size: [i64; 4], options: (Kind, Device)) -> Result<Self> {
        Ok(KeysValues {
            keys: Tensor::f_zeros(size, options)?,
            values: Tensor::f_zeros(size, options)?,
        })
    }

    /// Writes other keys and values of this shape in their place.
    pub(crate) fn write(&self, from: &Self) -> Result<()> {
        self.keys.shallow_clone().f_copy_(&from.keys)?;
        Ok(self.values.shallow_clone().f_copy_(&from.values)?)
    }
}

/// Queries, keys and values of the positions at hand, as they attend: turned, and normalized where a family does so.
pub(crate) struct Projected {
    /// `[B, S, kv·g, dh]`
    pub(crate) queries: Tensor,
    /// `[B, S, kv, dh]`
    pub(crate) own: KeysValues,
}

impl Projected {
    /// Queries `[B, S, kv·g, dh]`, keys and values `[B, S, kv, dh]`.
    pub(in crate::model) fn new(queries: Tensor, keys: Tensor, values: Tensor) -> Self {
        Projected {
            queries,
            own: KeysValues { keys, values },
        }
    }

    /// Of positions that came as rows of one each, as one row of B positions, for prompts packed along them.
    pub(crate) fn packed(&self) -> Result<Self> {
        let along = |of: &Tensor| -> Result<Tensor> { Ok(of.f_transpose(0, 1)?) };
        Ok(Projected {
            queries: along(&self.queries)?,
            own: self.own.map(along)?,
        })
    }

    /// B, S, kv·g, kv, g, dh
    fn sizes(&self) -> [i64; 6] {
        let size = self.queries.size();
        let (heads, kv) = (size[2], self.own.keys.size()[2]);
        [size[0], size[1], heads, kv, heads / kv, size[3]]
    }

    fn scaled_queries(&self, attention: Attention) -> Result<Tensor> {
        Ok(self.queries.f_mul_scalar(attention.scale)?)
    }
}

/// Rows that lie in groups of one prompt, so that a group attends to one copy of its keys and values. With a single row such a product
/// is bound by the memory that the keys and values come from, and a sweep has many rows of each prompt.
pub(crate) struct Groups {
    /// Rows that a group has room for, V.
    pub(crate) size: i64,
    /// The row in each place of the G groups, `[G · V]` int64; where a group has fewer rows, its first again.
    pub(crate) rows: Tensor,
    /// The place of each row, `[B]` int64.
    pub(crate) places: Tensor,
}

/// What the positions at hand attend to besides themselves.
pub(crate) struct Earlier<'a> {
    /// Earlier positions, of each row or of each group.
    pub(crate) segments: Vec<Segment<'a>>,
    /// How rows share the segments; none where each row has its own. Groups have a single position at hand.
    pub(crate) groups: Option<&'a Groups>,
}

impl Earlier<'_> {
    /// Nothing.
    pub(crate) fn none() -> Self {
        Earlier {
            segments: Vec::new(),
            groups: None,
        }
    }
}

/// Keys and values of positions computed earlier, for the rows at hand (B of them, or groups of V).
#[derive(Clone, Copy)]
pub(crate) struct Segment<'a> {
    /// `[B, kv, T, dh]`; `[kv, T, dh]` where all rows share them; `[B, kv, V, 1, dh]` where each of a group has one.
    pub(crate) cached: &'a KeysValues,
    /// Added to the attention logits, `[B, 1, 1 or g·S, T]`: 0 where the position exists and is seen, −∞ where not; none when all are.
    pub(crate) mask: Option<&'a Tensor>,
}

impl Segment<'_> {
    /// `left [.., n, m]` × `right [.., m, o]`, row by row.
    fn product_by_row(&self, left: &Tensor, right: &Tensor) -> Result<Tensor> {
        // With a single position a matrix product is the slower way to write these; in short formats it is the more exact one.
        let single = self.length() == 1 && left.kind() == Kind::Float;
        match single {
            false => Ok(left.f_matmul(right)?),
            true if left.size().last() == Some(&1) => Ok(left.f_mul(right)?),
            true => {
                let products = left.f_mul(&right.f_transpose(-1, -2)?)?;
                Ok(products.f_sum_dim_intlist(-1i64, true, None)?)
            }
        }
    }

    fn is_shared(&self) -> bool {
        self.cached.keys.dim() == 3
    }

    fn length(&self) -> i64 {
        let size = self.cached.keys.size();
        size[size.len() - 2]
    }

    /// The product of each row's `left [B, kv, n, m]` and this segment's `right`: `[B, kv, m, o]`, or `[kv, m, o]` or `[B, kv, V, m, o]`.
    fn product(&self, left: &Tensor, right: &Tensor) -> Result<Tensor> {
        if let [b, kv, v, m, o] = right.size()[..] {
            let n = left.size()[2];
            let product = self.product_by_row(&left.f_view([b, kv, v, n / v, m])?, right)?;
            return Ok(product.f_view([b, kv, n, o])?);
        }
        if !self.is_shared() {
            return self.product_by_row(left, right);
        }
        // One large product per key-value head instead of B small ones.
        let size = left.size();
        let product = left
            .f_transpose(0, 1)?
            .f_reshape([size[1], size[0] * size[2], size[3]])?
            .f_bmm(right)?;
        Ok(product
            .f_view([size[1], size[0], size[2], right.size()[2]])?
            .f_transpose(0, 1)?)
    }
}

/// Attention of a tile's rows to earlier segments and to themselves, one softmax over all. Returns z `[B, S, kv·g·dh]` and the new keys
/// and values, `[B, kv, S, dh]`. `causal [1, 1, g·S, S]` is the mask among the S positions (none when S = 1). Keys are never joined
/// to those of the segments, which would copy the cache.
pub(super) fn attend_rows(
    projected: &Projected,
    attention: Attention,
    earlier: &Earlier<'_>,
    causal: Option<&Tensor>,
) -> Result<(Tensor, KeysValues)> {
    if let Some(groups) = earlier.groups {
        return attend_groups(projected, attention, &earlier.segments, groups);
    }
    let [b, s, heads, kv, g, dh] = projected.sizes();
    // Queries of one key-value head side by side: [B, kv, g·S, dh].
    let queries = projected
        .scaled_queries(attention)?
        .f_view([b, s, kv, g, dh])?
        .f_permute([0i64, 2, 3, 1, 4])?
        .f_reshape([b, kv, g * s, dh])?;
    let own = projected
        .own
        .map(|of| Ok(of.f_transpose(1, 2)?.f_contiguous()?))?;
    let segment = Segment {
        cached: &own,
        mask: causal,
    };
    let z = attend(&queries, attention, &earlier.segments, segment)?
        .f_view([b, kv, g, s, dh])?
        .f_permute([0i64, 3, 1, 2, 4])?
        .f_reshape([b, s, heads * dh])?;
    Ok((z, own))
}

/// [`attend_rows`] of single positions in groups.
fn attend_groups(
    projected: &Projected,
    attention: Attention,
    segments: &[Segment<'_>],
    groups: &Groups,
) -> Result<(Tensor, KeysValues)> {
    let [_, _, heads, kv, g, dh] = projected.sizes();
    let v = groups.size;
    // [B, 1, kv·h, dh] → [G, kv, V, h, dh]
    let grouped = |rows: &Tensor, h: i64| -> Result<Tensor> {
        let rows = rows.f_index_select(0, &groups.rows)?;
        Ok(rows.f_view([-1, v, kv, h, dh])?.f_transpose(1, 2)?)
    };
    let queries =
        grouped(&projected.scaled_queries(attention)?, g)?.f_reshape([-1, kv, v * g, dh])?;
    let own = Segment {
        cached: &projected.own.map(|of| grouped(of, 1))?,
        mask: None,
    };
    let z = attend(&queries, attention, segments, own)?
        .f_view([-1, kv, v, g, dh])?
        .f_transpose(1, 2)?
        .f_reshape([-1, 1, heads * dh])?
        .f_index_select(0, &groups.places)?;
    let own = projected.own.map(|of| Ok(of.f_transpose(1, 2)?))?;
    Ok((z, own))
}

/// Attention of queries `[B, kv, g·S, dh]`, already scaled: `[B, kv, g·S, dh]`.
fn attend(
    queries: &Tensor,
    attention: Attention,
    segments: &[Segment<'_>],
    own: Segment<'_>,
) -> Result<Tensor> {
    let all: Vec<Segment<'_>> = segments.iter().copied().chain([own]).collect();
    let logits = all
        .iter()
        .map(|segment| {
            let logits = segment.product(queries, &segment.cached.keys.f_transpose(-1, -2)?)?;
            let logits = attention.capped(logits)?;
            Ok(match segment.mask {
                Some(mask) => logits.f_add(mask)?,
                None => logits,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let weights = Tensor::f_cat(&logits, -1)?
        .f_softmax(-1, Kind::Float)?
        .f_to_kind(queries.kind())?;
    let mut start = 0;
    let mut sum: Option<Tensor> = None;
    for segment in all {
        let length = segment.length();
        let weights = weights.f_narrow(-1, start, length)?;
        let part = segment.product(&weights, &segment.cached.values)?;
        start += length;
        sum = Some(match sum {
            Some(sum) => sum.f_add(&part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| ModelError::Internal("attention without keys".to_string()))
}

/// One of several prompts packed one after another.
pub(crate) struct Span {
    pub(crate) start: i64,
    /// Number of positions n.
    pub(crate) length: i64,
    /// Added to the attention logits, `[1, g·n, P + n]`, with P positions before the first.
    pub(crate) mask: ByWindow<Tensor>,
}

impl Span {
    /// The prompt's keys and values, `[kv, n, dh]`.
    pub(crate) fn own(&self, projected: &Projected) -> Result<KeysValues> {
        projected.own.map(|of| {
            let own = of.f_select(0, 0)?.f_narrow(0, self.start, self.length)?;
            Ok(own.f_transpose(0, 1)?)
        })
    }
}

/// Attention of prompts packed along S (B = 1), each to the P positions that it has before it (`[kv, P, dh]`, by the number of its span) and
/// to itself. Returns z `[1, S, kv·g·dh]`; what belongs to no span is zero.
pub(crate) fn attend_packed<'b>(
    projected: &Projected,
    attention: Attention,
    before: impl Fn(usize) -> Option<&'b KeysValues>,
    spans: &[Span],
) -> Result<Tensor> {
    let [_, s, heads, kv, g, dh] = projected.sizes();
    let queries = projected
        .scaled_queries(attention)?
        .f_view([s, kv, g, dh])?;
    let z = queries.f_zeros_like()?;
    for (number, span) in spans.iter().enumerate() {
        let (start, n) = (span.start, span.length);
        let mut cached = span.own(projected)?;
        if let Some(before) = before(number) {
            cached = KeysValues {
                keys: Tensor::f_cat(&[&before.keys, &cached.keys], 1)?,
                values: Tensor::f_cat(&[&before.values, &cached.values], 1)?,
            };
        }
        let logits = queries
            .f_narrow(0, start, n)?
            .f_permute([1i64, 2, 0, 3])?
            .f_reshape([kv, g * n, dh])?
            .f_bmm(&cached.keys.f_transpose(1, 2)?)?;
        let weights = attention
            .capped(logits)?
            .f_add(span.mask.of(attention.window)?)?
            .f_softmax(-1, Kind::Float)?
            .f_to_kind(queries.kind())?;
        let part = weights
            .f_bmm(&cached.values)?
            .f_view([kv, g, n, dh])?
            .f_permute([2i64, 0, 1, 3])?;
        z.f_narrow(0, start, n)?.f_copy_(&part)?;
    }
    Ok(z.f_view([1, s, heads * dh])?)
}
