//! The prefix store: what one prefill of each prompt leaves behind for all cells of that prompt.
//!
//! Attention is causal, so an edit at (layer, position) changes nothing below the layer and nothing before the position. One pass per
//! (model, prompt) gives the keys and values of every position and the residual stream of the last one; a cell then computes
//! only what its edit can change.
//!
//! What all prompts of a chat start with, the *template*, is computed once and shared; the rest here is about a prompt's own tokens, those
//! behind it. Where the template ends comes with the prompt's tokens and does not depend on the prompts at hand.
//!
//! Prompts live in blocks of up to [`SWEEP_ROWS`] rows of one template whose padded length (the *bucket*) depends on the prompt alone, and are
//! prefilled in batches (`prefill`) that leave a prompt's bits to itself. `rows` brings the rows of a tile together.

mod prefill;
mod rows;

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use tch::Tensor;

use super::cell::Tokens;
use super::error::{ModelError, Result};
use super::guard::guarded;
use super::hooks::{HookPoint, Site};
use super::parallel;
use super::transformer::Transformer;

use prefill::{pack, prefill_batch, prefill_last_layer, prefill_template};
pub(crate) use rows::{Cached, Context, Rows};

/// Rows of a tile: constant, so that a row's bits do not depend on how many cells were missing.
pub(crate) const TILE_ROWS: usize = 64;
/// Rows of a tile of a sweep, of which there are always many: more rows for each time that the weights are fetched.
pub(crate) const SWEEP_ROWS: usize = 128;
/// Most positions of a tile, over all its rows, unless one row has more: what is computed at once is lost at once, and more make no product quicker.
pub(crate) const TILE_POSITIONS: usize = 1024;
/// Rows of a tile that generates: few, as all have to be whole before they can be kept. Each step fetches all weights, which with fewer
/// rows would cost more than the rows do.
pub(crate) const GENERATION_ROWS: usize = 16;
/// Prompts are prefilled for about so long before the cells of those are computed and can be kept: what a kill can cost.
const PREFILL_SECONDS: f64 = 3.0;
/// Prompts that are prefilled first, before it is known how long one takes.
const FIRST_PROMPTS: usize = 8;
/// Cached lengths are multiples of this many positions.
const BUCKET_STEP: usize = 32;

/// Where a prompt is: its block and its row in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Number of the block, in the order of making.
    pub(crate) block: usize,
    /// Row inside the block.
    pub(crate) row: usize,
}

/// What is kept of the tokens that all prompts of a chat start with; P positions.
pub(crate) struct Template {
    /// P
    length: usize,
    /// Per layer, `[kv, P, dh]`.
    keys: Vec<Tensor>,
    /// Per layer, `[kv, P, dh]`.
    values: Vec<Tensor>,
}

/// Prompts of one template and bucket and what their prefill left of their own tokens; n rows, T = bucket positions.
pub(crate) struct PromptBlock {
    /// What comes before the prompts' own tokens, if anything does.
    template: Option<Arc<Template>>,
    /// T
    bucket: usize,
    /// The prompts, in row order.
    pub(crate) prompts: Vec<Arc<Tokens>>,
    /// Per layer, `[n, kv, T, dh]`.
    pub(crate) keys: Vec<Tensor>,
    /// Per layer, `[n, kv, T, dh]`.
    pub(crate) values: Vec<Tensor>,
    /// The residual stream at the last position entering each layer, and last of all leaving the last: `[n, d_model]` each.
    pub(crate) resid_pre: Vec<Tensor>,
    /// What attention adds at the last position, per layer `[n, d_model]`.
    pub(crate) attn_out: Vec<Tensor>,
    /// What the MLP adds at the last position, per layer `[n, d_model]`.
    pub(crate) mlp_out: Vec<Tensor>,
}

// SAFETY: a tensor's reference count is atomic. A block's tensors are written by `prefill` alone, each row by one thread, before others see
// the block; a template's by the thread that makes it.
unsafe impl Sync for PromptBlock {}
// SAFETY: as above.
unsafe impl Send for Template {}
// SAFETY: as above.
unsafe impl Sync for Template {}

/// What tells prompts apart here: their ids, and where the template ends.
pub(crate) type PromptKey = (blake3::Hash, blake3::Hash);

/// The key of a prompt.
pub(crate) fn prompt_key(prompt: &Tokens) -> PromptKey {
    (prompt.hash(), prompt.template_hash())
}

/// The blocks held in memory, within a budget.
pub(crate) struct PrefixStore {
    places: HashMap<PromptKey, Place>,
    templates: HashMap<blake3::Hash, Arc<Template>>,
    blocks: HashMap<usize, PromptBlock>,
    next_block: usize,
    budget_bytes: usize,
    /// As long as a prompt took in the last prefill.
    seconds_per_prompt: Option<f64>,
}

/// The padded cached length of a prompt's own tokens.
pub(crate) fn bucket(prompt: &Tokens) -> usize {
    prompt.own().len().next_multiple_of(BUCKET_STEP)
}

impl PrefixStore {
    /// An empty store that keeps at most about this many bytes.
    pub(crate) fn new(budget_bytes: usize) -> Self {
        PrefixStore {
            places: HashMap::new(),
            templates: HashMap::new(),
            blocks: HashMap::new(),
            next_block: 0,
            budget_bytes,
            seconds_per_prompt: None,
        }
    }

    /// Where the prompt is, if it is held.
    pub(crate) fn place(&self, prompt: &Tokens) -> Option<Place> {
        self.places.get(&prompt_key(prompt)).copied()
    }

    /// A block that [`PrefixStore::place`] named.
    pub(crate) fn block(&self, number: usize) -> Result<&PromptBlock> {
        self.blocks
            .get(&number)
            .ok_or_else(|| ModelError::Internal(format!("prompt block {number} is not held")))
    }

    /// How many of the prompts, taken in order, to work on together: as many as fit the budget (at least one block's worth), and as are
    /// prefilled in a few seconds.
    pub(crate) fn together(&self, transformer: &Transformer, prompts: &[Arc<Tokens>]) -> usize {
        let mut bytes = 0;
        let fits = prompts.iter().take_while(|prompt| {
            bytes += bytes_per_prompt(transformer, prompt);
            bytes <= self.budget_bytes
        });
        let fitting = fits.count().max(SWEEP_ROWS.min(prompts.len()));
        let mut left = match self.seconds_per_prompt {
            None => FIRST_PROMPTS,
            Some(seconds) => whole_blocks((PREFILL_SECONDS / seconds) as usize),
        };
        let soon = prompts[..fitting].iter().take_while(|prompt| {
            let is_held = self.places.contains_key(&prompt_key(prompt));
            let is_soon = is_held || left > 0;
            left = left.saturating_sub(usize::from(!is_held));
            is_soon
        });
        soon.count()
    }

    /// Prefills those of the prompts that are not held. Drops the others when the budget asks for it. `on_done` hears how many of how
    /// many were prefilled and may stop the work.
    pub(crate) fn ensure(
        &mut self,
        transformer: &Transformer,
        prompts: &[Arc<Tokens>],
        on_done: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut seen = HashSet::new();
        let missing: Vec<&Arc<Tokens>> = prompts
            .iter()
            .filter(|p| !self.places.contains_key(&prompt_key(p)) && seen.insert(prompt_key(p)))
            .collect();
        self.make_room(transformer, prompts, &missing);
        let blocks = self.empty_blocks(transformer, &missing)?;
        let device = transformer.device();
        let started = Instant::now();
        let mut done = 0;
        let flow = parallel::run(
            device,
            &pack(&blocks),
            |batch| {
                let done = guarded(|| prefill_batch(transformer, &blocks, batch));
                let (block, row) = batch.members[0];
                let first = &blocks[block].prompts[row];
                done.map_err(|error| error.in_prompts(&first.label(), batch.members.len()))?;
                Ok(batch.members.len())
            },
            &mut |rows| {
                done += rows;
                on_done(done, missing.len())
            },
        )?;
        if flow.is_break() {
            return Ok(flow);
        }
        let last_layer = |block: &PromptBlock| {
            let done = guarded(|| prefill_last_layer(transformer, block));
            let first = block.prompts[0].label();
            done.map_err(|error| error.in_prompts(&first, block.prompts.len()))
        };
        let go_on = &mut |()| ControlFlow::Continue(());
        let flow = parallel::run(device, &blocks, last_layer, go_on)?;
        for block in blocks {
            self.insert(block);
        }
        if !missing.is_empty() {
            self.seconds_per_prompt = Some(started.elapsed().as_secs_f64() / missing.len() as f64);
        }
        Ok(flow)
    }

    /// Blocks for the prompts, each with its template, which is computed if it is not held.
    fn empty_blocks(
        &mut self,
        transformer: &Transformer,
        prompts: &[&Arc<Tokens>],
    ) -> Result<Vec<PromptBlock>> {
        type Group = ((blake3::Hash, usize), Vec<Arc<Tokens>>);
        let mut groups: Vec<Group> = Vec::new();
        for prompt in prompts {
            let key = (prompt.template_hash(), bucket(prompt));
            match groups.iter_mut().find(|(known, _)| *known == key) {
                Some((_, list)) => list.push(Arc::clone(prompt)),
                None => groups.push((key, vec![Arc::clone(prompt)])),
            }
        }
        let mut blocks = Vec::new();
        for ((_, bucket), list) in groups {
            for prompts in list.chunks(SWEEP_ROWS) {
                let template = self.template(transformer, &prompts[0])?;
                let block = PromptBlock::empty(transformer, template, bucket, prompts);
                let first = prompts[0].label();
                blocks.push(block.map_err(|error| error.in_prompts(&first, prompts.len()))?);
            }
        }
        Ok(blocks)
    }

    /// What is kept of the prompt's template, if it has one.
    fn template(
        &mut self,
        transformer: &Transformer,
        prompt: &Tokens,
    ) -> Result<Option<Arc<Template>>> {
        if prompt.template().is_empty() {
            return Ok(None);
        }
        if let Some(held) = self.templates.get(&prompt.template_hash()) {
            return Ok(Some(Arc::clone(held)));
        }
        let made = guarded(|| prefill_template(transformer, prompt.template()));
        let made = Arc::new(made.map_err(|error| error.in_prompts(&prompt.label(), 1))?);
        self.templates
            .insert(prompt.template_hash(), Arc::clone(&made));
        Ok(Some(made))
    }

    fn insert(&mut self, block: PromptBlock) {
        let number = self.next_block;
        self.next_block += 1;
        for (row, prompt) in block.prompts.iter().enumerate() {
            self.places
                .insert(prompt_key(prompt), Place { block: number, row });
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
            .map(|p| bytes_per_prompt(transformer, p))
            .sum();
        let new: usize = missing
            .iter()
            .map(|p| bytes_per_prompt(transformer, p))
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

/// A number of prompts to prefill at once, in blocks that are full where there are so many.
fn whole_blocks(prompts: usize) -> usize {
    match prompts / SWEEP_ROWS {
        0 => prompts.max(1),
        blocks => blocks * SWEEP_ROWS,
    }
}

/// Bytes that one prompt's keys, values and last-position vectors take.
fn bytes_per_prompt(transformer: &Transformer, prompt: &Tokens) -> usize {
    let config = transformer.config();
    let per_layer = 2 * config.n_kv_heads * config.d_head * bucket(prompt) + 3 * config.d_model;
    per_layer * config.n_layers * transformer.kind().elt_size_in_bytes()
}

impl PromptBlock {
    fn empty(
        transformer: &Transformer,
        template: Option<Arc<Template>>,
        bucket: usize,
        prompts: &[Arc<Tokens>],
    ) -> Result<Self> {
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
            template,
            bucket,
            prompts: prompts.to_vec(),
            keys: zeros(config.n_layers, &cache)?,
            values: zeros(config.n_layers, &cache)?,
            resid_pre: zeros(config.n_layers + 1, &vector)?,
            attn_out: zeros(config.n_layers, &vector)?,
            mlp_out: zeros(config.n_layers, &vector)?,
        })
    }

    /// The last position's vectors at a hook point, `[n, d_model]`; none for a hook point that is not stored.
    pub(crate) fn stored(&self, hook: HookPoint) -> Option<&Tensor> {
        let HookPoint::Block { layer, site } = hook else {
            return None;
        };
        match site {
            Site::ResidPre => self.resid_pre.get(layer),
            Site::ResidPost => self.resid_pre.get(layer + 1),
            Site::AttnOut => self.attn_out.get(layer),
            Site::MlpOut => self.mlp_out.get(layer),
            Site::ResidMid | Site::AttnZ | Site::MlpPost => None,
        }
    }
}
