//! The prefix store: what one prefill of each prompt leaves behind for all cells of that prompt.
//!
//! Attention is causal, so an edit at (layer, position) changes nothing below the layer and nothing before the position. One pass per
//! (model, prompt) gives the keys and values of every position and the residual stream of the last one; a cell then computes
//! only what its edit can change.
//!
//! Prompts live in blocks of up to [`TILE_ROWS`] rows whose padded length (the *bucket*) depends on the prompt alone. Prefills run in
//! batches of a constant number of rows and a width that, too, depends on the prompt alone, padded with copies, so that a prompt's
//! bits do not depend on which others were prefilled with it.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use tch::{Kind, Tensor};

use super::cell::Tokens;
use super::error::ModelError;
use super::hooks::{HookPoint, Site};
use super::transformer::{Tap, Transformer};

type Result<T> = std::result::Result<T, ModelError>;

/// Rows of every tile: constant, so that a row's bits do not depend on how many cells were missing.
pub const TILE_ROWS: usize = 64;
/// Rows of every prefill batch.
const PREFILL_ROWS: usize = 8;
/// Prefill widths are multiples of this many positions.
const PREFILL_STEP: usize = 8;
/// Cached lengths are multiples of this many positions.
const BUCKET_STEP: usize = 32;

/// Where a prompt is: its block and its row in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Number of the block, in the order of making.
    pub block: usize,
    /// Row inside the block.
    pub row: usize,
}

/// Prompts of one bucket and what their prefill left; n rows, T = bucket positions.
pub struct PromptBlock {
    /// The prompts, in row order.
    pub prompts: Vec<Arc<Tokens>>,
    /// Per layer, `[n, kv, T, dh]`.
    pub keys: Vec<Tensor>,
    /// Per layer, `[n, kv, T, dh]`.
    pub values: Vec<Tensor>,
    /// The residual stream at the last position entering each layer, and last of all leaving the last: `[n, d_model]` each.
    pub resid_pre: Vec<Tensor>,
    /// What attention adds at the last position, per layer `[n, d_model]`.
    pub attn_out: Vec<Tensor>,
    /// What the MLP adds at the last position, per layer `[n, d_model]`.
    pub mlp_out: Vec<Tensor>,
}

/// The blocks held in memory, within a budget.
pub struct PrefixStore {
    places: HashMap<blake3::Hash, Place>,
    blocks: HashMap<usize, PromptBlock>,
    next_block: usize,
    budget_bytes: usize,
}

/// The padded cached length of a prompt of that many tokens.
pub fn bucket(tokens: usize) -> usize {
    tokens.next_multiple_of(BUCKET_STEP)
}

impl PrefixStore {
    /// An empty store that keeps at most about this many bytes.
    pub fn new(budget_bytes: usize) -> Self {
        PrefixStore {
            places: HashMap::new(),
            blocks: HashMap::new(),
            next_block: 0,
            budget_bytes,
        }
    }

    /// Where the prompt is, if it is held.
    pub fn place(&self, prompt: &Tokens) -> Option<Place> {
        self.places.get(&prompt.hash()).copied()
    }

    /// A block that [`PrefixStore::place`] named.
    pub fn block(&self, number: usize) -> Result<&PromptBlock> {
        self.blocks
            .get(&number)
            .ok_or_else(|| ModelError::Internal(format!("prompt block {number} is not held")))
    }

    /// How many of the prompts, taken in order, fit the budget together (at least one block's worth).
    pub fn fitting(&self, transformer: &Transformer, prompts: &[Arc<Tokens>]) -> usize {
        let mut bytes = 0;
        let fits = prompts.iter().take_while(|prompt| {
            bytes += bytes_per_prompt(transformer, prompt.len());
            bytes <= self.budget_bytes
        });
        fits.count().max(TILE_ROWS.min(prompts.len()))
    }

    /// Prefills those of the prompts that are not held. Drops the others when the budget asks for it. `on_done` hears how many of how
    /// many were prefilled and may stop the work.
    pub fn ensure(
        &mut self,
        transformer: &Transformer,
        prompts: &[Arc<Tokens>],
        on_done: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut seen = HashSet::new();
        let missing: Vec<&Arc<Tokens>> = prompts
            .iter()
            .filter(|p| !self.places.contains_key(&p.hash()) && seen.insert(p.hash()))
            .collect();
        self.make_room(transformer, prompts, &missing);
        let mut by_bucket: Vec<(usize, Vec<Arc<Tokens>>)> = Vec::new();
        for prompt in &missing {
            let size = bucket(prompt.len());
            match by_bucket.iter_mut().find(|(b, _)| *b == size) {
                Some((_, list)) => list.push(Arc::clone(prompt)),
                None => by_bucket.push((size, vec![Arc::clone(prompt)])),
            }
        }
        let mut done = 0;
        for (size, list) in by_bucket {
            for chunk in list.chunks(TILE_ROWS) {
                let mut tick = |rows: usize| {
                    done += rows;
                    on_done(done, missing.len())
                };
                match prefill_block(transformer, size, chunk, &mut tick)? {
                    Some(block) => self.insert(block),
                    None => return Ok(ControlFlow::Break(())),
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn insert(&mut self, block: PromptBlock) {
        let number = self.next_block;
        self.next_block += 1;
        for (row, prompt) in block.prompts.iter().enumerate() {
            self.places
                .insert(prompt.hash(), Place { block: number, row });
        }
        self.blocks.insert(number, block);
    }

    /// Drops the blocks that hold none of the wanted prompts, if all would not fit together.
    fn make_room(
        &mut self,
        transformer: &Transformer,
        wanted: &[Arc<Tokens>],
        missing: &[&Arc<Tokens>],
    ) {
        let held: usize = self
            .blocks
            .values()
            .flat_map(|b| &b.prompts)
            .map(|p| bytes_per_prompt(transformer, p.len()))
            .sum();
        let new: usize = missing
            .iter()
            .map(|p| bytes_per_prompt(transformer, p.len()))
            .sum();
        if held + new <= self.budget_bytes {
            return;
        }
        let wanted: HashSet<usize> = wanted
            .iter()
            .filter_map(|p| self.place(p))
            .map(|place| place.block)
            .collect();
        self.blocks.retain(|number, _| wanted.contains(number));
        self.places.retain(|_, place| wanted.contains(&place.block));
    }
}

/// Bytes that one prompt's keys, values and last-position vectors take.
fn bytes_per_prompt(transformer: &Transformer, tokens: usize) -> usize {
    let config = transformer.config();
    let per_layer = 2 * config.n_kv_heads * config.d_head * bucket(tokens) + 3 * config.d_model;
    per_layer * config.n_layers * transformer.kind().elt_size_in_bytes()
}

impl PromptBlock {
    fn empty(transformer: &Transformer, bucket: usize, prompts: &[Arc<Tokens>]) -> Result<Self> {
        let config = transformer.config();
        let n = prompts.len() as i64;
        let options = (transformer.kind(), transformer.device());
        let cache = [
            n,
            config.n_kv_heads as i64,
            bucket as i64,
            config.d_head as i64,
        ];
        let vector = [n, config.d_model as i64];
        let zeros = |count: usize, size: &[i64]| -> Result<Vec<Tensor>> {
            (0..count)
                .map(|_| Ok(Tensor::f_zeros(size, options)?))
                .collect()
        };
        Ok(PromptBlock {
            prompts: prompts.to_vec(),
            keys: zeros(config.n_layers, &cache)?,
            values: zeros(config.n_layers, &cache)?,
            resid_pre: zeros(config.n_layers + 1, &vector)?,
            attn_out: zeros(config.n_layers, &vector)?,
            mlp_out: zeros(config.n_layers, &vector)?,
        })
    }
}

/// Prefills one block. None when stopped.
fn prefill_block(
    transformer: &Transformer,
    bucket: usize,
    prompts: &[Arc<Tokens>],
    on_done: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<PromptBlock>> {
    let mut block = PromptBlock::empty(transformer, bucket, prompts)?;
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&row| prompts[row].len().next_multiple_of(PREFILL_STEP));
    let width = |row: &usize| prompts[*row].len().next_multiple_of(PREFILL_STEP);
    for same_width in order.chunk_by(|a, b| width(a) == width(b)) {
        for rows in same_width.chunks(PREFILL_ROWS) {
            prefill_rows(transformer, &mut block, rows, width(&rows[0]))?;
            if on_done(rows.len()).is_break() {
                return Ok(None);
            }
        }
    }
    Ok(Some(block))
}

/// One prefill batch: computes the given rows of the block, all of one padded width.
fn prefill_rows(
    transformer: &Transformer,
    block: &mut PromptBlock,
    rows: &[usize],
    width: usize,
) -> Result<()> {
    let padded = (0..PREFILL_ROWS).map(|i| &block.prompts[*rows.get(i).unwrap_or(&rows[0])]);
    let mut ids: Vec<i64> = Vec::with_capacity(PREFILL_ROWS * width);
    let mut last: Vec<i64> = Vec::with_capacity(PREFILL_ROWS);
    for prompt in padded {
        ids.extend(prompt.ids().iter().map(|&id| i64::from(id)));
        ids.extend(std::iter::repeat_n(0, width - prompt.len()));
        last.push(prompt.len() as i64 - 1);
    }
    let device = transformer.device();
    let ids = Tensor::from_slice(&ids)
        .f_view([PREFILL_ROWS as i64, width as i64].as_slice())?
        .f_to_device(device)?;
    // Padding may reach beyond the context, where there are no angles; nobody reads what is computed there.
    let positions = Tensor::f_arange(width as i64, (Kind::Int64, device))?
        .f_clamp_max(transformer.config().context_length as i64 - 1)?
        .f_unsqueeze(0)?;
    let rotary = transformer.rotary(&positions)?;
    let causal = transformer.causal_mask(width as i64)?;
    let n_layers = transformer.config().n_layers;
    let mut tap = Tap {
        wanted: (0..n_layers)
            .flat_map(|layer| {
                [Site::ResidPre, Site::AttnOut, Site::MlpOut].map(|s| HookPoint::block(layer, s))
            })
            .chain([HookPoint::block(n_layers - 1, Site::ResidPost)])
            .collect(),
        kept_positions: Some(Tensor::from_slice(&last).f_to_device(device)?),
        ..Tap::default()
    };
    let mut x = transformer.embed(&ids)?;
    for layer in 0..n_layers {
        let (next, keys, values) =
            transformer.block(layer, &x, &rotary, &[], causal.as_ref(), &mut tap)?;
        x = next;
        for (into, from) in [(&block.keys[layer], keys), (&block.values[layer], values)] {
            for (i, &row) in rows.iter().enumerate() {
                into.f_select(0, row as i64)?
                    .f_narrow(1, 0, width as i64)?
                    .f_copy_(&from.f_select(0, i as i64)?)?;
            }
        }
    }
    store_last(block, rows, &tap)
}

/// Copies the last position's vectors of a batch into the block.
fn store_last(block: &mut PromptBlock, rows: &[usize], tap: &Tap) -> Result<()> {
    let n_layers = block.keys.len();
    for (hook, vectors) in &tap.kept {
        let HookPoint::Block { layer, site } = hook else {
            continue;
        };
        let into = match site {
            Site::ResidPre => &block.resid_pre[*layer],
            Site::AttnOut => &block.attn_out[*layer],
            Site::MlpOut => &block.mlp_out[*layer],
            _ => &block.resid_pre[n_layers],
        };
        for (i, &row) in rows.iter().enumerate() {
            into.f_select(0, row as i64)?
                .f_copy_(&vectors.f_select(0, i as i64)?)?;
        }
    }
    Ok(())
}
