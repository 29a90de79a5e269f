//! Edits and reads while a pass runs, as values consulted at each hook point.

use std::collections::HashSet;

use tch::Tensor;

use crate::model::cell::Operation;
use crate::model::error::Result;
use crate::model::hooks::{HookPoint, Site};

/// What is done to n rows of a tile.
pub(crate) struct TapEdit {
    pub(crate) hook: HookPoint,
    /// Index among the S positions at hand.
    pub(crate) position: i64,
    /// Which rows, `[n]` int64; all B when none.
    pub(crate) rows: Option<Tensor>,
    pub(crate) operation: Operation,
    /// What is added, already times its α; or v, a unit vector; or what comes instead: `[n, d_model]`.
    pub(crate) vectors: Tensor,
}

/// Edits to make and vectors to keep while a pass runs.
#[derive(Default)]
pub(crate) struct Tap {
    /// In the order of application.
    pub(crate) edits: Vec<TapEdit>,
    /// Outputs of attention (`attn_out`) and MLPs (`mlp_out`) that need not be computed, because no row makes use of them.
    pub(crate) unused: HashSet<HookPoint>,
    /// Hook points to keep; see [`Tap::kept`].
    pub(crate) wanted: Vec<HookPoint>,
    /// Which of the B·S vectors are kept, `[n]` int64; the whole `[B, S, width]` when none.
    pub(crate) kept_rows: Option<Tensor>,
    /// What was kept, `[n, width]` or `[B, S, width]`, as it flows on after the edits.
    pub(crate) kept: Vec<(HookPoint, Tensor)>,
}

impl Tap {
    /// Applies this hook point's edits to x `[B, S, width]` and keeps it if wanted.
    pub(crate) fn pass(&mut self, hook: HookPoint, x: Tensor) -> Result<Tensor> {
        let mut x = x;
        for edit in self.edits.iter().filter(|edit| edit.hook == hook) {
            x = edited(&x, edit)?;
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

    /// [`Tap::pass`] at a site of a block.
    pub(crate) fn pass_site(&mut self, layer: usize, site: Site, x: Tensor) -> Result<Tensor> {
        self.pass(HookPoint::block(layer, site), x)
    }

    pub(crate) fn is_unused(&self, layer: usize, site: Site) -> bool {
        self.unused.contains(&HookPoint::block(layer, site))
    }
}

/// The tap at the sites of one block.
pub(in crate::model) struct BlockTap<'t> {
    layer: usize,
    tap: &'t mut Tap,
}

impl<'t> BlockTap<'t> {
    pub(super) fn new(layer: usize, tap: &'t mut Tap) -> Self {
        BlockTap { layer, tap }
    }

    /// [`Tap::pass`] at a site of the block.
    pub(in crate::model) fn pass(&mut self, site: Site, x: Tensor) -> Result<Tensor> {
        self.tap.pass_site(self.layer, site, x)
    }

    /// What attention adds to the stream `x [B, S, d_model]`: `project` of the heads' output, zeros where that is none.
    pub(in crate::model) fn attn_out(
        &mut self,
        x: &Tensor,
        z: Option<Tensor>,
        project: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let attn_out = match z {
            None => x.f_zeros_like()?,
            Some(z) => project(&self.pass(Site::AttnZ, z)?)?,
        };
        self.pass(Site::AttnOut, attn_out)
    }

    /// What the MLP adds to the stream `x [B, S, d_model]`; zeros where nobody uses it.
    pub(in crate::model) fn mlp_out(
        &mut self,
        x: &Tensor,
        compute: impl FnOnce(&mut Self) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mlp_out = match self.tap.is_unused(self.layer, Site::MlpOut) {
            true => x.f_zeros_like()?,
            false => compute(self)?,
        };
        self.pass(Site::MlpOut, mlp_out)
    }
}

/// x `[B, S, d]` with the edit's rows at its position changed.
fn edited(x: &Tensor, edit: &TapEdit) -> Result<Tensor> {
    let at = x.f_select(1, edit.position)?;
    let at = match &edit.rows {
        Some(rows) => at.f_index_select(0, rows)?,
        None => at,
    };
    let vectors = &edit.vectors;
    let changed = match edit.operation {
        Operation::Add => at.f_add(vectors)?,
        Operation::Replace => vectors.shallow_clone(),
        Operation::Ablate => {
            let component = at.f_mul(vectors)?.f_sum_dim_intlist(-1i64, true, None)?;
            at.f_sub(&component.f_mul(vectors)?)?
        }
    };
    if x.size()[1] == 1 && edit.rows.is_none() {
        return Ok(changed.f_unsqueeze(1)?);
    }
    let mut result = x.f_empty_like()?;
    result.f_copy_(x)?;
    let mut at = result.f_select(1, edit.position)?;
    match &edit.rows {
        Some(rows) => {
            let _ = at.f_index_copy_(0, rows, &changed)?;
        }
        None => at.f_copy_(&changed)?,
    }
    Ok(result)
}
