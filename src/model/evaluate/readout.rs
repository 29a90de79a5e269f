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
