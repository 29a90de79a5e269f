//! From the final norm's output to numbers: scores, log-probabilities, rows.

use tch::{Kind, Tensor};

use crate::model::cell::{ScoreDtype, TokenSets};
use crate::model::error::Result;
use crate::model::transformer::Transformer;

/// logsumexp(refuse) − logsumexp(comply) of each row of `hidden [row, d_model]`.
pub(super) fn score(
    transformer: &Transformer,
    hidden: &Tensor,
    sets: &TokenSets,
) -> Result<Vec<f64>> {
    let ids: Vec<u32> = sets.refuse.iter().chain(&sets.comply).copied().collect();
    let refuse = sets.refuse.len() as i64;
    let comply = sets.comply.len() as i64;
    let kind = match sets.dtype {
        ScoreDtype::Float32 => Kind::Float,
        ScoreDtype::Model => transformer.kind,
    };
    let logits = transformer.unembed_some(hidden, &ids, kind)?;
    let sum = |start, length| -> Result<Tensor> {
        Ok(logits
            .f_narrow(1, start, length)?
            .f_logsumexp(1i64, false)?)
    };
    let scores = sum(0, refuse)?.f_sub(&sum(refuse, comply)?)?;
    Ok(Vec::<f64>::try_from(scores.f_to_kind(Kind::Double)?)?)
}

/// Log-probabilities of the tokens in each row of `hidden [row, d_model]`, in float32.
pub(super) fn log_probabilities(
    transformer: &Transformer,
    hidden: &Tensor,
    ids: &[u32],
) -> Result<Vec<Vec<f32>>> {
    let logits = transformer.unembed(hidden)?.f_to_kind(Kind::Float)?;
    let all = logits.f_log_softmax(-1, Kind::Float)?;
    let ids = transformer.index(ids.iter().map(|&id| id.into()))?;
    to_rows(&all.f_index_select(1, &ids)?)
}

/// ln(P + ε) − ln(1 − P + ε) of each row of `hidden [row, d_model]`, where P is the probability of the tokens, in float64.
pub(super) fn log_odds(
    transformer: &Transformer,
    hidden: &Tensor,
    ids: &[u32],
) -> Result<Vec<f64>> {
    /// That of refusal_direction, which keeps the score finite.
    const EPSILON: f64 = 1e-8;
    /// Rows at once: in float64 the logits of a whole vocabulary take much memory, and more at once are no quicker.
    const ROWS: i64 = 16;
    let logits = transformer.unembed(hidden)?;
    let ids = transformer.index(ids.iter().map(|&id| id.into()))?;
    let rows = logits.size()[0];
    let mut values = Vec::with_capacity(rows as usize);
    for start in (0..rows).step_by(ROWS as usize) {
        let some = logits.f_narrow(0, start, ROWS.min(rows - start))?;
        let all = some.f_softmax(-1, Kind::Double)?;
        let p = all
            .f_index_select(1, &ids)?
            .f_sum_dim_intlist(1i64, false, None)?;
        let others = p.f_neg()?.f_add_scalar(1.0)?;
        let log = |p: &Tensor| p.f_add_scalar(EPSILON)?.f_log();
        values.extend(Vec::<f64>::try_from(log(&p)?.f_sub(&log(&others)?)?)?);
    }
    Ok(values)
}

/// Log-probabilities in float64 of one token for each row of `hidden [row, d_model]`.
pub(super) fn of_one_token_each(
    transformer: &Transformer,
    hidden: &Tensor,
    ids: &[u32],
) -> Result<Vec<f64>> {
    /// Rows at once: the logits of a whole vocabulary take much more memory than what they are made of.
    const ROWS: usize = 64;
    let mut values = Vec::with_capacity(ids.len());
    for (piece, ids) in ids.chunks(ROWS).enumerate() {
        let hidden = hidden.f_narrow(0, (piece * ROWS) as i64, ids.len() as i64)?;
        let logits = transformer.unembed(&hidden)?.f_to_kind(Kind::Double)?;
        let ids = transformer.index(ids.iter().map(|&id| id.into()))?;
        let own = logits
            .f_gather(1, &ids.f_unsqueeze(1)?, false)?
            .f_squeeze_dim(1)?;
        let of_all = logits
            .f_sub(&own.f_unsqueeze(1)?)?
            .f_logsumexp(1i64, false)?;
        values.extend(Vec::<f64>::try_from(of_all.f_neg()?)?);
    }
    Ok(values)
}

/// `[row, width]` of any dtype → one float32 vector a row.
pub(in crate::model) fn to_rows(tensor: &Tensor) -> Result<Vec<Vec<f32>>> {
    let width = tensor.size()[1] as usize;
    let flat = tensor
        .f_to_kind(Kind::Float)?
        .f_contiguous()?
        .f_view(-1i64)?;
    let flat = Vec::<f32>::try_from(flat)?;
    Ok(flat.chunks(width.max(1)).map(<[f32]>::to_vec).collect())
}
