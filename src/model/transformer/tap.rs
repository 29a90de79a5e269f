//! Edits and reads while a pass runs, as values consulted at each hook point.

use std::collections::HashSet;

use tch::Tensor;

use crate::model::cell::Operation;
use crate::model::error::{ModelError, Result};
use crate::model::hooks::{HookPoint, Site};

/// What is done to n rows of a tile.
pub(crate) struct TapEdit {
    pub(crate) hook: HookPoint,
    /// Index of the first among the S positions at hand.
    pub(crate) position: i64,
    /// How many of them from there on.
    pub(crate) count: i64,
    /// Which rows, `[n]` int64; all B when none.
    pub(crate) rows: Option<Tensor>,
    pub(crate) operation: Operation,
    pub(crate) operands: Operands,
}

/// The vectors and numbers of n rows of one operation.
#[derive(Debug)]
pub(crate) struct Operands {
    /// Each `[n, d_model]`: what is added, already times its α; unit vectors; or what comes instead.
    pub(crate) vectors: Vec<Tensor>,
    /// Each `[n, 1]`: a level; the cosine and sine of an angle.
    pub(crate) numbers: Vec<Tensor>,
}

impl Clone for Operands {
    fn clone(&self) -> Self {
        let shallow = |list: &[Tensor]| list.iter().map(Tensor::shallow_clone).collect();
        Operands {
            vectors: shallow(&self.vectors),
            numbers: shallow(&self.numbers),
        }
    }
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

/// x `[B, S, d]` with the edit's rows at its positions changed.
fn edited(x: &Tensor, edit: &TapEdit) -> Result<Tensor> {
    let place = |x: &Tensor| -> Result<Tensor> {
        Ok(match edit.count {
            1 => x.f_select(1, edit.position)?,
            count => x.f_narrow(1, edit.position, count)?,
        })
    };
    let at = match &edit.rows {
        Some(rows) => place(x)?.f_index_select(0, rows)?,
        None => place(x)?,
    };
    let changed = changed(&at, edit)?;
    if x.size()[1] == edit.count && edit.rows.is_none() {
        return Ok(changed.f_view_as(x)?);
    }
    let mut result = x.f_empty_like()?;
    result.f_copy_(x)?;
    let mut at = place(&result)?;
    match &edit.rows {
        Some(rows) => {
            let _ = at.f_index_copy_(0, rows, &changed)?;
        }
        None => at.f_copy_(&changed)?,
    }
    Ok(result)
}

/// What the edit makes of x, `[n, d]` or `[n, count, d]`.
fn changed(x: &Tensor, edit: &TapEdit) -> Result<Tensor> {
    // Of every position the same.
    let beside = |of: &Tensor| -> Result<Tensor> {
        Ok(match edit.count {
            1 => of.shallow_clone(),
            _ => of.f_unsqueeze(1)?,
        })
    };
    let list = |of: &[Tensor]| of.iter().map(beside).collect::<Result<Vec<Tensor>>>();
    let (vectors, numbers) = (list(&edit.operands.vectors)?, list(&edit.operands.numbers)?);
    let along =
        |v: &Tensor| -> Result<Tensor> { Ok(x.f_mul(v)?.f_sum_dim_intlist(-1i64, true, None)?) };
    match (edit.operation, &vectors[..], &numbers[..]) {
        (Operation::Add, [v], []) => Ok(x.f_add(v)?),
        (Operation::Replace, [v], []) => Ok(v.f_expand_as(x)?),
        (Operation::Ablate, [v], []) => Ok(x.f_sub(&along(v)?.f_mul(v)?)?),
        (Operation::AblateSpan(_), span, []) => {
            let mut left = x.shallow_clone();
            for v in span {
                left = left.f_sub(&along(v)?.f_mul(v)?)?;
            }
            Ok(left)
        }
        (Operation::SetLevel, [read, write], [level]) => {
            Ok(x.f_add(&level.f_sub(&along(read)?)?.f_mul(write)?)?)
        }
        (Operation::Rotate, [first, second], [cosine, sine]) => {
            let (a, b) = (along(first)?, along(second)?);
            let length = a.f_square()?.f_add(&b.f_square()?)?.f_sqrt()?;
            let turned = |part: &Tensor, was: &Tensor, v: &Tensor| -> Result<Tensor> {
                Ok(length.f_mul(part)?.f_sub(was)?.f_mul(v)?)
            };
            let x = x.f_add(&turned(cosine, &a, first)?)?;
            Ok(x.f_add(&turned(sine, &b, second)?)?)
        }
        (operation, ..) => Err(ModelError::Internal(format!(
            "{operation:?} has other operands"
        ))),
    }
}
