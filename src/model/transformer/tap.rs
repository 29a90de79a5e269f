//! Edits and reads while a pass runs, as values consulted at each hook point.

use tch::Tensor;

use crate::model::error::ModelError;
use crate::model::hooks::HookPoint;

type Result<T> = std::result::Result<T, ModelError>;

/// What one edit does to the rows of a tile.
pub enum RowEdit {
    /// x + delta, delta `[B, d_model]`
    Add(Tensor),
    /// x − (x·v)v, v `[B, d_model]`
    Ablate(Tensor),
    /// the given rows instead, `[B, d_model]`
    Replace(Tensor),
}

/// Edits to make and vectors to keep while a pass runs.
#[derive(Default)]
pub struct Tap {
    /// (hook point, index among the S positions at hand, edit), in the order of application.
    pub edits: Vec<(HookPoint, i64, RowEdit)>,
    /// Hook points to keep; see [`Tap::kept`].
    pub wanted: Vec<HookPoint>,
    /// Which of the B·S vectors are kept, `[n]` int64; the whole `[B, S, width]` when none.
    pub kept_rows: Option<Tensor>,
    /// What was kept, `[n, width]` or `[B, S, width]`, as it flows on after the edits.
    pub kept: Vec<(HookPoint, Tensor)>,
}

impl Tap {
    /// Whether an edit puts other vectors in the place of all that passes the hook point with the size of x `[B, S, d_model]`.
    pub fn replaces_all(&self, hook: HookPoint, x: &Tensor) -> bool {
        let replaces = |(at, _, edit): &(HookPoint, i64, RowEdit)| {
            *at == hook && matches!(edit, RowEdit::Replace(_))
        };
        x.size()[1] == 1 && self.edits.iter().any(replaces)
    }

    /// Applies this hook point's edits to x `[B, S, width]` and keeps it if wanted.
    pub fn pass(&mut self, hook: HookPoint, x: Tensor) -> Result<Tensor> {
        let mut x = x;
        for (_, position, edit) in self.edits.iter().filter(|(at, _, _)| *at == hook) {
            x = edited(&x, *position, edit)?;
        }
        if self.wanted.contains(&hook) {
            let kept = match &self.kept_rows {
                Some(rows) => x.f_flatten(0, 1)?.f_index_select(0, rows)?,
                None => x.shallow_clone(),
            };
            self.kept.push((hook, kept));
        }
        Ok(x)
    }
}

/// x `[B, S, d]` with the rows at one position changed.
fn edited(x: &Tensor, position: i64, edit: &RowEdit) -> Result<Tensor> {
    let at = x.f_select(1, position)?;
    let changed = match edit {
        RowEdit::Add(delta) => at.f_add(delta)?,
        RowEdit::Replace(rows) => rows.shallow_clone(),
        RowEdit::Ablate(direction) => {
            let component =
                at.f_mul(direction)?
                    .f_sum_dim_intlist([-1i64].as_slice(), true, None)?;
            at.f_sub(&component.f_mul(direction)?)?
        }
    };
    if x.size()[1] == 1 {
        return Ok(changed.f_unsqueeze(1)?);
    }
    let mut result = x.f_empty_like()?;
    result.f_copy_(x)?;
    result.f_select(1, position)?.f_copy_(&changed)?;
    Ok(result)
}
