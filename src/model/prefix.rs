//! The prefix store: what one prefill of each prompt leaves behind for all cells of that prompt.
//!
//! Attention is causal, so an edit at (layer, position) changes nothing below the layer and nothing before the position. One pass per
//! (model, prompt) gives the keys and values of every position and the residual stream of the last one; a cell then computes
//! only what its edit can change.
//!
//! What all prompts of a chat start with, the *template*, is computed once and shared; the rest here is about a prompt's own tokens, those
//! behind it. Where the template ends comes with the prompt's tokens and does not depend on the prompts at hand.
//!
//! Where edits or reads are at earlier positions, the stream that enters their layers is kept of as many of the last positions as they need
//! ([`Streams`]).
//!
//! Prompts live in blocks of up to [`SWEEP_ROWS`] rows that are [`Alike`], by what depends on the prompt alone, and are prefilled in batches
//! (`prefill`) that leave a prompt's bits to itself. `rows` brings the rows of a tile together.

mod prefill;
mod rows;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use tch::Tensor;

use super::cell::Tokens;
use super::error::{ModelError, Result};
use super::grouped::grouped;
use super::guard::guarded;
use super::hooks::{HookPoint, Site};
use super::parallel;
use super::transformer::{KeysValues, Transformer};

use prefill::{pack, prefill_last_layer, prefill_template};
pub(super) use prefill::{packed, template_positions};
pub(super) use rows::{Cached, Masks, Rows, SeenFrom};

/// Rows of a tile: constant, so that a row's bits do not depend on how many cells were missing.
pub(super) const TILE_ROWS: usize = 64;
/// Rows of a tile of a sweep, of which there are always many: more rows for each time that the weights are fetched.
pub(super) const SWEEP_ROWS: usize = 128;
/// Most positions of a tile, over all its rows, unless one row has more: more make no product quicker, and where edits reach far back there are few
/// cells of one length, so that larger tiles would be mostly padding.
pub(super) const TILE_POSITIONS: usize = 256;
/// Rows of a tile that generates: few, as all have to be whole before they can be kept. Each step fetches all weights, which with fewer
/// rows would cost more than the rows do.
pub(super) const GENERATION_ROWS: usize = 16;
/// Prompts are prefilled for about so long before the cells of those are computed and can be kept: what a kill can cost.
const PREFILL_SECONDS: f64 = 3.0;
/// Prompts that are prefilled first, before it is known how long one takes.
const FIRST_PROMPTS: usize = 8;
/// Cached lengths are multiples of this many positions.
const BUCKET_STEP: usize = 32;

/// Where a held prompt is: the number of its block, in the order of making, and its row in it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) block: usize,
    pub(super) row: usize,
}

/// What is kept of the tokens that all prompts of a chat start with; P positions.
struct Template {
    /// P
    length: usize,
    /// Per layer, `[kv, P, dh]`.
    cached: Vec<KeysValues>,
    /// The stream that enters each layer, `[P, d_model]`.
    streams: Vec<Tensor>,
}

/// Of which layers the stream that enters is kept, and at how many of the last positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Streams {
    layers: BTreeSet<usize>,
    positions: usize,
}

impl Streams {
    pub(super) fn add(&mut self, layer: usize, positions: usize) {
        self.layers.insert(layer);
        self.positions = self.positions.max(positions);
    }

    /// How many of a prompt's own positions that is.
    fn of_own(&self, bucket: usize) -> usize {
        self.positions.min(bucket)
    }
}

/// What the prompts of a block have in common, and so those of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Alike {
    /// The hash of the template's ids.
    template: blake3::Hash,
    /// Whether they are turned as long texts are, the template with them ([`Transformer::is_long`]).
    is_long: bool,
    /// The padded length of what is cached of their own tokens.
    bucket: usize,
}

impl Alike {
    pub(super) fn of(prompt: &Tokens, is_long: bool) -> Self {
        Alike {
            template: prompt.template_hash(),
            is_long,
            bucket: bucket(prompt),
        }
    }
}

/// Prompts that are alike and what their prefill left of their own tokens; n rows, T = bucket positions.
pub(super) struct PromptBlock {
    template: Option<Arc<Template>>,
    is_long: bool,
    /// T
    bucket: usize,
    /// In row order.
    prompts: Vec<Arc<Tokens>>,
    /// Per layer, `[n, kv, T, dh]`.
    cached: Vec<KeysValues>,
    /// The vectors of the last position, `[n, d_model]`, at the hook points that edits may start from: the stream that enters each
    /// block and leaves the last, and what attention and MLP add to it.
    last: HashMap<HookPoint, Tensor>,
    /// Which streams are kept.
    kept: Streams,
    /// The streams of these layers at the last of their own positions, `[n, W, d_model]`, of shorter prompts at the end.
    streams: BTreeMap<usize, Tensor>,
}

// SAFETY: a tensor's reference count is atomic. A block's tensors are written by `prefill` alone, each row by one thread, before others see
// the block; a template's by the thread that makes it.
unsafe impl Sync for PromptBlock {}
// SAFETY: as above.
unsafe impl Send for Template {}
// SAFETY: as above.
unsafe impl Sync for Template {}

/// A prompt as it lies in its block.
#[derive(Clone, Copy)]
pub(super) struct BlockRow<'s> {
    block: &'s PromptBlock,
    row: usize,
}

impl<'s> BlockRow<'s> {
    fn prompt(self) -> &'s Tokens {
        &self.block.prompts[self.row]
    }

    /// The stream that enters a layer, where that is kept: of the prompt's own tokens, `[n, d_model]`.
    pub(super) fn own_stream(self, layer: usize) -> Result<Tensor> {
        let count = self.prompt().own().len() as i64;
        let kept = self.block.streams.get(&layer);
        let kept = kept.filter(|stream| stream.size()[1] >= count);
        let stream = kept
            .ok_or_else(|| not_kept(layer))?
            .f_select(0, self.row as i64)?;
        Ok(stream.f_narrow(0, stream.size()[0] - count, count)?)
    }

    /// The stream that enters a layer: of the template's tokens, `[P, d_model]`.
    pub(super) fn template_stream(self, layer: usize) -> Result<Tensor> {
        let template = self.block.template.as_deref();
        let stream = template.and_then(|template| template.streams.get(layer));
        Ok(stream.ok_or_else(|| not_kept(layer))?.shallow_clone())
    }
}

fn not_kept(layer: usize) -> ModelError {
    ModelError::Internal(format!("the stream of layer {layer} is not kept"))
}

/// What tells prompts apart here: their ids, and where the template ends.
pub(super) type PromptKey = (blake3::Hash, blake3::Hash);

pub(super) fn prompt_key(prompt: &Tokens) -> PromptKey {
    (prompt.hash(), prompt.template_hash())
}

/// The padded cached length of a prompt's own tokens.
fn bucket(prompt: &Tokens) -> usize {
    prompt.own().len().next_multiple_of(BUCKET_STEP)
}

/// The blocks held in memory, within a budget.
pub(super) struct PrefixStore {
    transformer: Arc<Transformer>,
    places: HashMap<PromptKey, Place>,
    /// By the hash of their ids and whether they are part of long texts.
    templates: HashMap<(blake3::Hash, bool), Arc<Template>>,
    blocks: HashMap<usize, PromptBlock>,
    next_block: usize,
    budget_bytes: usize,
    /// What is to be kept of prompts that are prefilled from now on.
    wanted: Streams,
    /// As long as a prompt took in the last prefill.
    seconds_per_prompt: Option<f64>,
}

impl PrefixStore {
    /// An empty store that keeps at most about this many bytes.
    pub(super) fn new(transformer: Arc<Transformer>, budget_bytes: usize) -> Self {
        PrefixStore {
            transformer,
            places: HashMap::new(),
            templates: HashMap::new(),
            blocks: HashMap::new(),
            next_block: 0,
            budget_bytes,
            wanted: Streams::default(),
            seconds_per_prompt: None,
        }
    }

    /// Keeps these streams from now on, and drops the blocks that lack some of them.
    pub(super) fn want(&mut self, streams: &Streams) {
        self.wanted = streams.clone();
        let serves = |block: &PromptBlock| {
            streams.layers.is_subset(&block.kept.layers)
                && streams.of_own(block.bucket) <= block.kept.of_own(block.bucket)
        };
        self.blocks.retain(|_, block| serves(block));
        let blocks = &self.blocks;
        self.places
            .retain(|_, place| blocks.contains_key(&place.block));
    }

    pub(super) fn budget_bytes(&self) -> usize {
        self.budget_bytes
    }

    /// Where the prompt is, if it is held.
    pub(super) fn place(&self, prompt: &Tokens) -> Option<Place> {
        self.places.get(&prompt_key(prompt)).copied()
    }

    pub(super) fn row(&self, prompt: &Tokens) -> Result<BlockRow<'_>> {
        let row = self.place(prompt).and_then(|place| {
            let block = self.blocks.get(&place.block)?;
            let row = place.row;
            Some(BlockRow { block, row })
        });
        row.ok_or_else(|| ModelError::Internal("a prompt was not prefilled".to_string()))
    }

    /// How many of the prompts, taken in order, to work on together: as many as fit the budget (at least one block's worth), and as are
    /// prefilled in a few seconds.
    pub(super) fn together(&self, prompts: &[Arc<Tokens>]) -> usize {
        let mut bytes = 0;
        let fits = prompts.iter().take_while(|prompt| {
            bytes += self.bytes_of(prompt);
            bytes <= self.budget_bytes
        });
        let fitting = fits.count().max(SWEEP_ROWS.min(prompts.len()));
        let mut to_prefill = match self.seconds_per_prompt {
            None => FIRST_PROMPTS,
            Some(seconds) => whole_blocks((PREFILL_SECONDS / seconds) as usize),
        };
        let soon = prompts[..fitting].iter().take_while(|prompt| {
            let is_held = self.place(prompt).is_some();
            let is_soon = is_held || to_prefill > 0;
            to_prefill = to_prefill.saturating_sub(usize::from(!is_held));
            is_soon
        });
        soon.count()
    }

    /// Prefills those of the prompts that are not held. Drops the others when the budget asks for it. `on_done` hears how many of how
    /// many were prefilled and may stop the work.
    pub(super) fn ensure(
        &mut self,
        prompts: &[Arc<Tokens>],
        on_done: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut seen = HashSet::new();
        let missing: Vec<&Arc<Tokens>> = prompts
            .iter()
            .filter(|p| self.place(p).is_none() && seen.insert(prompt_key(p)))
            .collect();
        self.make_room(prompts, &missing);
        let blocks = self.empty_blocks(&missing)?;
        let started = Instant::now();
        let flow = self.fill(&blocks, &mut |done| on_done(done, missing.len()))?;
        if flow.is_break() {
            return Ok(flow);
        }
        for block in blocks {
            self.insert(block);
        }
        if !missing.is_empty() {
            self.seconds_per_prompt = Some(started.elapsed().as_secs_f64() / missing.len() as f64);
        }
        Ok(flow)
    }

    fn fill(
        &self,
        blocks: &[PromptBlock],
        on_done: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let transformer = &*self.transformer;
        let batch = |batch: &prefill::Batch<'_>| {
            let (first, count) = (batch.rows[0].prompt().label(), batch.rows.len());
            let filled = guarded(|| batch.prefill(transformer));
            filled.map_err(|error| error.in_prompts(&first, count))?;
            Ok(count)
        };
        let mut done = 0;
        let mut count = |rows: usize| {
            done += rows;
            on_done(done)
        };
        let flow = parallel::run(transformer.device, &pack(blocks), batch, &mut count)?;
        if flow.is_break() {
            return Ok(flow);
        }
        let last_layer = |block: &PromptBlock| {
            let filled = guarded(|| prefill_last_layer(transformer, block));
            filled.map_err(|error| error.in_prompts(&block.prompts[0].label(), block.prompts.len()))
        };
        let go_on = &mut |()| ControlFlow::Continue(());
        parallel::run(transformer.device, blocks, last_layer, go_on)
    }

    /// Blocks for the prompts, each with its template, which is computed if it is not held.
    fn empty_blocks(&mut self, prompts: &[&Arc<Tokens>]) -> Result<Vec<PromptBlock>> {
        let keyed = prompts.iter().map(|&prompt| {
            let is_long = self.transformer.is_long(prompt.len());
            (Alike::of(prompt, is_long), Arc::clone(prompt))
        });
        let mut blocks = Vec::new();
        for (alike, prompts) in grouped(keyed) {
            for prompts in prompts.chunks(SWEEP_ROWS) {
                let template = self.template(&prompts[0], alike.is_long)?;
                let kept = self.wanted.clone();
                let block = PromptBlock::empty(&self.transformer, template, alike, prompts, kept);
                let first = prompts[0].label();
                blocks.push(block.map_err(|error| error.in_prompts(&first, prompts.len()))?);
            }
        }
        Ok(blocks)
    }

    /// What is kept of the prompt's template, if it has one.
    fn template(&mut self, prompt: &Tokens, is_long: bool) -> Result<Option<Arc<Template>>> {
        if prompt.template().is_empty() {
            return Ok(None);
        }
        let key = (prompt.template_hash(), is_long);
        if let Some(held) = self.templates.get(&key) {
            return Ok(Some(Arc::clone(held)));
        }
        let made = guarded(|| prefill_template(&self.transformer, prompt.template(), is_long));
        let made = Arc::new(made.map_err(|error| error.in_prompts(&prompt.label(), 1))?);
        self.templates.insert(key, Arc::clone(&made));
        Ok(Some(made))
    }

    fn insert(&mut self, block: PromptBlock) {
        let number = self.next_block;
        self.next_block += 1;
        for (row, prompt) in block.prompts.iter().enumerate() {
            let place = Place { block: number, row };
            self.places.insert(prompt_key(prompt), place);
        }
        self.blocks.insert(number, block);
    }

    /// Drops the blocks that hold none of the wanted prompts, if all would not fit together.
    fn make_room(&mut self, wanted: &[Arc<Tokens>], missing: &[&Arc<Tokens>]) {
        let held = self.blocks.values().flat_map(|block| &block.prompts);
        let all = held.chain(missing.iter().copied());
        if all.map(|prompt| self.bytes_of(prompt)).sum::<usize>() <= self.budget_bytes {
            return;
        }
        let places = wanted.iter().filter_map(|prompt| self.place(prompt));
        let wanted: HashSet<usize> = places.map(|place| place.block).collect();
        self.blocks.retain(|number, _| wanted.contains(number));
        self.places.retain(|_, place| wanted.contains(&place.block));
    }

    /// Bytes that a prompt's keys, values and last-position vectors take.
    fn bytes_of(&self, prompt: &Tokens) -> usize {
        let config = &self.transformer.config;
        let bucket = bucket(prompt);
        let per_layer = 2 * config.n_kv_heads * config.d_head * bucket + 3 * config.d_model;
        let streams = self.wanted.layers.len() * self.wanted.of_own(bucket) * config.d_model;
        (per_layer * config.n_layers + streams) * self.transformer.kind.elt_size_in_bytes()
    }
}

/// A number of prompts to prefill at once, in blocks that are full where there are so many.
fn whole_blocks(prompts: usize) -> usize {
    match prompts / SWEEP_ROWS {
        0 => prompts.max(1),
        blocks => blocks * SWEEP_ROWS,
    }
}

impl PromptBlock {
    fn empty(
        transformer: &Transformer,
        template: Option<Arc<Template>>,
        alike: Alike,
        prompts: &[Arc<Tokens>],
        kept: Streams,
    ) -> Result<Self> {
        let config = &transformer.config;
        let n = prompts.len() as i64;
        let options = (transformer.kind, transformer.device);
        let (kv, dh) = (config.n_kv_heads as i64, config.d_head as i64);
        let cached = || KeysValues::zeros([n, kv, alike.bucket as i64, dh], options);
        let sites = [Site::ResidPre, Site::AttnOut, Site::MlpOut];
        let hooks = (0..config.n_layers).flat_map(|l| sites.map(|site| HookPoint::block(l, site)));
        let end = HookPoint::block(config.n_layers - 1, Site::ResidPost);
        let vectors = |hook| {
            let zeros = Tensor::f_zeros([n, config.d_model as i64], options)?;
            Ok((hook, zeros))
        };
        let positions = kept.of_own(alike.bucket) as i64;
        let stream = |layer: &usize| {
            let zeros = Tensor::f_zeros([n, positions, config.d_model as i64], options)?;
            Ok((*layer, zeros))
        };
        Ok(PromptBlock {
            template,
            is_long: alike.is_long,
            bucket: alike.bucket,
            prompts: prompts.to_vec(),
            streams: kept.layers.iter().map(stream).collect::<Result<_>>()?,
            kept,
            cached: (0..config.n_layers)
                .map(|_| cached())
                .collect::<Result<_>>()?,
            last: hooks.chain([end]).map(vectors).collect::<Result<_>>()?,
        })
    }

    /// Of prompts of which nothing is cached.
    pub(super) fn bare(transformer: &Transformer, prompts: Vec<Arc<Tokens>>) -> Self {
        PromptBlock {
            template: None,
            is_long: prompts
                .first()
                .is_some_and(|p| transformer.is_long(p.len())),
            bucket: 0,
            prompts,
            cached: Vec::new(),
            last: HashMap::new(),
            kept: Streams::default(),
            streams: BTreeMap::new(),
        }
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = BlockRow<'_>> {
        (0..self.prompts.len()).map(|row| BlockRow { block: self, row })
    }

    /// The last position's vectors at a hook point, `[n, d_model]`; none for a hook point that is not stored.
    fn stored(&self, hook: HookPoint) -> Option<&Tensor> {
        self.last.get(&hook.canonical(self.cached.len()))
    }
}
