//! `evaluate(cells) → values`, the one primitive of the model room, with as little arithmetic as causality allows.
//!
//! Cells of one [`Shape`] (where the work starts, how many positions it covers, which kinds of edit it makes, what is read) are packed
//! into tiles of a constant number of rows, padded with copies of the first. A tile starts from what the prefix store holds: for the last
//! position, at the first edited site itself, which may differ from row to row; for an earlier position, at the embedding of the suffix. In float32 on the CPU a row's
//! bits depend on nothing but its cell, so a sweep that is resumed, extended or reordered gives the same numbers.

mod check;
mod each;
mod readout;
mod shape;
mod tile;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::cell::{Cell, Cells, Tokens, Value};
use super::error::{ModelError, Result};
use super::generate;
use super::guard::guarded;
use super::hooks::HookPoint;
use super::parallel;
use super::prefix::{PrefixStore, PromptKey, prompt_key};
use super::transformer::Transformer;

use check::{check, described, not_finite};
use readout::{log_probabilities, score};
use shape::{Entry, ReadoutShape, Shape, entry, shape};

pub(super) use readout::to_rows;
pub(super) use tile::Tile;

/// Hears of progress and takes values; see [`Evaluator::evaluate`].
type OnStep<'a> = &'a mut dyn FnMut(Step) -> ControlFlow<()>;

/// What an evaluation tells its caller while it runs.
#[derive(Debug)]
pub enum Step {
    /// Prompts prefilled so far, of those that are needed now.
    Prefilled {
        /// So far.
        done: usize,
        /// Of these.
        total: usize,
    },
    /// Values that are final: (number of the cell, value). Cells without a finite value are left out.
    Values(Vec<(usize, Value)>),
}

/// A model's weights with the prefixes computed so far.
pub struct Evaluator {
    pub(super) transformer: Transformer,
    store: PrefixStore,
}

impl Evaluator {
    /// Takes a loaded model; prefixes will take at most about `budget_bytes`.
    pub(crate) fn new(transformer: Transformer, budget_bytes: usize) -> Self {
        if transformer.device() == Device::Cpu {
            // Tiles run side by side instead; see `parallel`.
            tch::set_num_threads(1);
        }
        Evaluator {
            transformer,
            store: PrefixStore::new(budget_bytes),
        }
    }

    /// Computes the cells, in the order that suits the work. `on_step` hears of progress and takes the values; breaking from it stops
    /// the work, which is then said in the result.
    ///
    /// # Errors
    /// At once: libtorch running out of memory. When all else is done: cells that ask for what the model cannot do (layer, position or
    /// width out of range, a prompt longer than the context), and those whose values are not finite.
    pub fn evaluate(
        &mut self,
        cells: &dyn Cells,
        on_step: &mut dyn FnMut(Step) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let _no_grad = tch::no_grad_guard();
        let mut by_prompt: Vec<(Arc<Tokens>, Vec<u32>)> = Vec::new();
        let mut known: HashMap<PromptKey, usize> = HashMap::new();
        let mut failures = Failures::default();
        for number in numbers(cells)? {
            let cell = cells.cell(number as usize);
            if let Err(problem) = check(&cell, self.transformer.config()) {
                failures.add(number as usize, format!("{}: {problem}", described(&cell)));
                continue;
            }
            let slot = *known.entry(prompt_key(&cell.tokens)).or_insert_with(|| {
                by_prompt.push((cell.tokens, Vec::new()));
                by_prompt.len() - 1
            });
            by_prompt[slot].1.push(number);
        }
        let mut rest = by_prompt.as_slice();
        while !rest.is_empty() {
            let prompts: Vec<Arc<Tokens>> = rest.iter().map(|(p, _)| Arc::clone(p)).collect();
            let (now, later) = rest.split_at(self.store.together(&self.transformer, &prompts));
            let mut numbers: Vec<u32> = now.iter().flat_map(|(_, list)| list).copied().collect();
            numbers.sort_unstable();
            let prompts = &prompts[..now.len()];
            let flow = self.evaluate_held(cells, &numbers, prompts, (&mut failures, on_step))?;
            if flow.is_break() {
                return Ok(flow);
            }
            rest = later;
        }
        failures.into_result()?;
        Ok(ControlFlow::Continue(()))
    }

    /// The cells of prompts that fit in memory together.
    fn evaluate_held(
        &mut self,
        cells: &dyn Cells,
        numbers: &[u32],
        prompts: &[Arc<Tokens>],
        (failures, on_step): (&mut Failures, OnStep<'_>),
    ) -> Result<ControlFlow<()>> {
        let mut prefilled = |done, total| on_step(Step::Prefilled { done, total });
        let flow = self
            .store
            .ensure(&self.transformer, prompts, &mut prefilled)?;
        if flow.is_break() {
            return Ok(flow);
        }
        let groups = self.by_shape(cells, numbers);
        let mut tiles: Vec<(&Shape, &[Member])> = Vec::new();
        for (shape, members) in &groups {
            tiles.extend(members.chunks(shape.rows()).map(|chunk| (shape, chunk)));
        }
        parallel::run(
            self.transformer.device(),
            &tiles,
            |(shape, chunk)| self.evaluate_tile(cells, shape, chunk),
            &mut |outcomes| on_step(Step::Values(failures.sift(outcomes))),
        )
    }

    /// Groups of cells of one shape, in the order in which they are computed. Their prompts are held.
    fn by_shape(&self, cells: &dyn Cells, numbers: &[u32]) -> Vec<(Shape, Vec<Member>)> {
        let n_layers = self.transformer.config().n_layers;
        let mut groups: Vec<(Shape, Vec<Member>)> = Vec::new();
        let mut known: HashMap<Shape, usize> = HashMap::new();
        for &number in numbers {
            let cell = cells.cell(number as usize);
            let shape = shape(&cell, n_layers);
            let slot = match known.get(&shape) {
                Some(&slot) => slot,
                None => {
                    known.insert(shape.clone(), groups.len());
                    groups.push((shape, Vec::new()));
                    groups.len() - 1
                }
            };
            let (shape, members) = &mut groups[slot];
            members.push(self.member(&cell, number, shape));
        }
        for (_, members) in &mut groups {
            // The order of asking comes last, which within a block puts the rows of one variant side by side.
            members.sort_unstable();
        }
        groups
    }

    fn member(&self, cell: &Cell, number: u32, shape: &Shape) -> Member {
        let place = self.store.place(&cell.tokens);
        // Where the rows of a prompt attend together, they are brought together.
        let row = place.filter(|_| shape.group() > 1).map(|place| place.row);
        let short = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Member {
            entry: entry(cell, self.transformer.config().n_layers),
            block: place.map_or(0, |place| short(place.block)),
            row: row.map_or(0, short),
            number,
        }
    }

    fn evaluate_tile(
        &self,
        cells: &dyn Cells,
        shape: &Shape,
        chunk: &[Member],
    ) -> Result<Vec<(usize, Outcome)>> {
        let rows: Vec<Cell> = chunk
            .iter()
            .map(|m| cells.cell(m.number as usize))
            .collect();
        let values = guarded(|| self.tile_values(&rows.iter().collect::<Vec<_>>(), shape));
        let values = values.map_err(|error| error.in_cells(&described(&rows[0]), rows.len()))?;
        let outcomes = chunk.iter().zip(&rows).zip(values);
        let outcomes = outcomes.map(|((member, cell), value)| {
            let value = value.filter(Value::is_finite);
            let outcome = value.ok_or_else(|| not_finite(cell));
            (member.number as usize, outcome)
        });
        Ok(outcomes.collect())
    }

    /// The values of a tile's cells; none where there are no numbers to make one of.
    fn tile_values(&self, rows: &[&Cell], shape: &Shape) -> Result<Vec<Option<Value>>> {
        let tile = Tile::new(&self.transformer, &self.store, rows, shape)?;
        let values = match &shape.readout {
            ReadoutShape::Generation { max_new_tokens } => {
                return generate::continuations(&tile, *max_new_tokens);
            }
            ReadoutShape::Activation { hook, offset } => {
                read_activation(shape, &tile, *hook, *offset)?
            }
            ReadoutShape::Score(sets) => {
                let hidden = final_hidden(shape, &tile)?;
                score(&self.transformer, &hidden, sets)?
                    .into_iter()
                    .map(Value::Score)
                    .collect()
            }
            ReadoutShape::LogProbabilities(ids) => {
                let hidden = final_hidden(shape, &tile)?;
                log_probabilities(&self.transformer, &hidden, ids)?
            }
        };
        Ok(values.into_iter().map(Some).collect())
    }
}

/// A cell's number, and what puts the cells of a shape in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    entry: Option<Entry>,
    block: u32,
    row: u32,
    number: u32,
}

/// A cell's value, or what to say of one that has none.
type Outcome = std::result::Result<Value, String>;

/// The cells' numbers.
fn numbers(cells: &dyn Cells) -> Result<std::ops::Range<u32>> {
    let count = u32::try_from(cells.count());
    let count =
        count.map_err(|_| ModelError::Internal("more than 4 billion cells at once".into()))?;
    Ok(0..count)
}

/// Cells that have no value. The others are computed all the same.
#[derive(Default)]
struct Failures {
    count: usize,
    /// The one that was asked for first.
    first: Option<(usize, String)>,
}

impl Failures {
    /// The values among the outcomes; the rest is kept here.
    fn sift(&mut self, outcomes: Vec<(usize, Outcome)>) -> Vec<(usize, Value)> {
        let mut values = Vec::with_capacity(outcomes.len());
        for (number, outcome) in outcomes {
            match outcome {
                Ok(value) => values.push((number, value)),
                Err(message) => self.add(number, message),
            }
        }
        values
    }

    fn add(&mut self, number: usize, message: String) {
        self.count += 1;
        if self.first.as_ref().is_none_or(|(first, _)| number < *first) {
            self.first = Some((number, message));
        }
    }

    fn into_result(self) -> Result<()> {
        match self.first {
            None => Ok(()),
            Some((_, first)) => Err(ModelError::Cells {
                first,
                more: self.count - 1,
            }),
        }
    }
}

/// The final norm's output at the last position, `[n, d_model]`.
fn final_hidden(shape: &Shape, tile: &Tile<'_>) -> Result<Tensor> {
    let mut tap = tile.tap(0)?;
    let x = tile.run(&shape.start, &mut tap)?;
    tile.final_norm(&x.f_narrow(1, tile.suffix as i64 - 1, 1)?, &mut tap)
}

fn read_activation(
    shape: &Shape,
    tile: &Tile<'_>,
    hook: HookPoint,
    offset: usize,
) -> Result<Vec<Value>> {
    let vectors = match tile.stored(hook)? {
        Some(vectors) if shape.edits.is_empty() && tile.suffix == 1 => vectors,
        _ => {
            let mut tap = tile.tap(0)?;
            tap.wanted.push(hook);
            let x = tile.run(&shape.start, &mut tap)?;
            let left = tile.final_norm(&x, &mut tap)?;
            let (_, kept) = tap
                .kept
                .pop()
                .ok_or_else(|| ModelError::Internal(format!("nothing passed `{hook}`")))?;
            // What is read of a stream that left the format on its way is no number either.
            let sound = left.f_flatten(1, -1)?.f_isfinite()?.f_all_dim(1, true)?;
            kept.f_select(1, offset as i64)?
                .f_masked_fill(&sound.f_logical_not()?, f64::NAN)?
        }
    };
    Ok(to_rows(&vectors)?
        .into_iter()
        .map(Value::Activation)
        .collect())
}
