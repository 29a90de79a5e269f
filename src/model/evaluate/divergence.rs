//! How far the edited distribution over the vocabulary is from the unedited one of the same prompt.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::shape::Shape;
use super::tile::Tile;
use super::{Evaluator, final_hidden};
use crate::model::cell::{Cell, Value};
use crate::model::error::Result;
use crate::model::prefix::BlockRow;
use crate::model::transformer::Transformer;

impl Evaluator {
    /// Of cells whose final norm's output at the last position is `hidden [n, d_model]`.
    pub(super) fn divergences(
        &self,
        cells: &[&Cell],
        hidden: &Tensor,
        epsilon: f64,
    ) -> Result<Vec<Value>> {
        let unedited = self.unedited_hidden(cells)?;
        divergences_of(&self.transformer, (&unedited, hidden), epsilon)
    }

    /// The final norm's output at the last position of each cell's prompt, unedited, `[n, d_model]`: of the stream that is kept of it.
    fn unedited_hidden(&self, cells: &[&Cell]) -> Result<Tensor> {
        let transformer = &self.transformer;
        let n_layers = transformer.config.n_layers;
        let bare = cells.iter().map(|cell| Cell {
            model: cell.model,
            tokens: Arc::clone(&cell.tokens),
            interventions: Vec::new(),
            readout: cell.readout.clone(),
        });
        let bare: Vec<Cell> = bare.collect();
        let bare: Vec<&Cell> = bare.iter().collect();
        let is_long = transformer.is_long(bare[0].tokens.len());
        let shape = Shape::of(bare[0], n_layers, is_long);
        let mut hidden = Vec::new();
        for cells in bare.chunks(shape.rows()) {
            let places = cells.iter().map(|cell| self.store.row(&cell.tokens));
            let places = places.collect::<Result<Vec<BlockRow<'_>>>>()?;
            let unedited = Tile::new(transformer, (cells, &places), &shape)?;
            let of_all = final_hidden(&shape, &unedited, 1)?;
            hidden.push(of_all.f_narrow(0, 0, cells.len() as i64)?);
        }
        Ok(Tensor::f_cat(&hidden, 0)?)
    }
}

/// Σ P (ln P − ln Q) of each row, with ε inside the logarithms where it is above 0, in float64, and whether both distributions have the same
/// most probable token; P is of `unedited [row, d_model]`, Q of `edited`.
fn divergences_of(
    transformer: &Transformer,
    (unedited, edited): (&Tensor, &Tensor),
    epsilon: f64,
) -> Result<Vec<Value>> {
    /// Rows at once, as of log-odds, whose logits take as much memory.
    const ROWS: i64 = 16;
    let (unedited, edited) = (transformer.unembed(unedited)?, transformer.unembed(edited)?);
    let rows = edited.size()[0];
    let mut values = Vec::with_capacity(rows as usize);
    for start in (0..rows).step_by(ROWS as usize) {
        let some = |logits: &Tensor| logits.f_narrow(0, start, ROWS.min(rows - start));
        let (unedited, edited) = (some(&unedited)?, some(&edited)?);
        let log = |logits: &Tensor| -> Result<Tensor> {
            let log = logits.f_log_softmax(-1, Kind::Double)?;
            match epsilon > 0.0 {
                true => Ok(log.f_exp()?.f_add_scalar(epsilon)?.f_log()?),
                false => Ok(log),
            }
        };
        let p = unedited.f_log_softmax(-1, Kind::Double)?.f_exp()?;
        let terms = log(&unedited)?.f_sub(&log(&edited)?)?.f_mul(&p)?;
        let nats = Vec::<f64>::try_from(terms.f_sum_dim_intlist(1i64, false, None)?)?;
        let top = |logits: &Tensor| -> Result<Vec<i64>> {
            Ok(Vec::<i64>::try_from(logits.f_argmax(-1, false)?)?)
        };
        let agree = top(&unedited)?.into_iter().zip(top(&edited)?);
        let agreement = agree.map(|(one, other)| f64::from(u8::from(one == other)));
        let both = nats.into_iter().zip(agreement);
        values.extend(both.map(|(nats, agreement)| Value::Divergence { nats, agreement }));
    }
    Ok(values)
}
