//! `evaluate(cells) → values`, the one primitive of the model room, with as little arithmetic as causality allows.
//!
//! Cells of one [`Shape`] (where the work starts, how many positions it covers, which kinds of edit it makes, what is read) are packed
//! into tiles of a constant number of rows, padded with copies of the first. A tile starts from what the prefix store holds: for the last
//! position, at the first edited site itself, which may differ from row to row; for an earlier position, at the embedding of the suffix. A
//! continuation that grows long where that changes how its first tokens are turned is begun there once more, as that of a longer prompt. In
//! float32 on the CPU a row's bits depend on nothing but its cell, so a sweep that is resumed, extended or reordered gives the same numbers.

mod check;
mod each;
mod outcomes;
mod readout;
mod shape;
mod tile;

use std::ops::ControlFlow;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::cell::{Cell, Cells, Tokens, Value};
use super::error::{ModelError, Result};
use super::generate::continued;
use super::grouped::grouped;
use super::guard::guarded;
use super::hooks::HookPoint;
use super::parallel;
use super::prefix::{PrefixStore, PromptKey, prompt_key};
use super::transformer::Transformer;

use check::{check, described};
use outcomes::{AtHand, Outcome, Outcomes};
use readout::{log_probabilities, score};
use shape::{Entry, ReadoutShape, Shape, entry};

pub(super) use readout::to_rows;
pub(super) use tile::Tile;

/// What is told while cells are computed.
#[derive(Debug)]
pub enum Step {
    /// The weights of the model of that name are about to be loaded.
    Loading { model: String },
    /// So many of the prompts that are needed now are prefilled.
    Prefilled { done: usize, total: usize },
    /// Values that are final: (number of the cell, value), each once. Cells without a finite value are left out.
    Values(Vec<(usize, Value)>),
}

/// A model's weights with the prefixes computed so far.
pub struct Evaluator {
    pub(super) transformer: Arc<Transformer>,
    store: PrefixStore,
}

impl Evaluator {
    /// Takes a loaded model; prefixes will take at most about `budget_bytes`.
    pub(super) fn new(transformer: Transformer, budget_bytes: usize) -> Self {
        if transformer.device == Device::Cpu {
            // Tiles run side by side instead; see `parallel`.
            tch::set_num_threads(1);
        }
        let transformer = Arc::new(transformer);
        Evaluator {
            store: PrefixStore::new(Arc::clone(&transformer), budget_bytes),
            transformer,
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
        let mut outcomes = Outcomes::new(on_step);
        let by_prompt = self.by_prompt(cells, &mut outcomes)?;
        let at_hand = AtHand::new(cells);
        let flow = self.evaluate_prompts(&at_hand, &by_prompt, &mut outcomes)?;
        if flow.is_break() {
            return Ok(flow);
        }
        outcomes.into_result()
    }

    /// The cells of these prompts, some prompts at a time.
    fn evaluate_prompts(
        &mut self,
        at_hand: &AtHand<'_>,
        by_prompt: &[(PromptKey, Vec<u32>)],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<ControlFlow<()>> {
        let prompt = |(_, numbers): &(_, Vec<u32>)| at_hand.cell(numbers[0]).tokens;
        let prompts: Vec<Arc<Tokens>> = by_prompt.iter().map(prompt).collect();
        let mut start = 0;
        while start < prompts.len() {
            let end = start + self.store.together(&prompts[start..]);
            let numbers = by_prompt[start..end].iter().flat_map(|(_, list)| list);
            let mut numbers: Vec<u32> = numbers.copied().collect();
            numbers.sort_unstable();
            let flow = self.evaluate_held(at_hand, &numbers, &prompts[start..end], outcomes)?;
            if flow.is_break() || self.evaluate_grown(at_hand.cells, outcomes)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            start = end;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The rest of the continuations that have grown long, of whose texts so far everything is computed anew.
    fn evaluate_grown(
        &mut self,
        cells: &dyn Cells,
        outcomes: &mut Outcomes<'_>,
    ) -> Result<ControlFlow<()>> {
        let at_hand = outcomes.grown(cells);
        let prompts = at_hand.begun().map(|number| {
            let prompt = at_hand.cell(number).tokens;
            (prompt_key(&prompt), number)
        });
        self.evaluate_prompts(&at_hand, &grouped(prompts), outcomes)
    }

    /// The numbers of the cells that the model can compute.
    fn by_prompt(
        &self,
        cells: &dyn Cells,
        outcomes: &mut Outcomes<'_>,
    ) -> Result<Vec<(PromptKey, Vec<u32>)>> {
        let count = u32::try_from(cells.count())
            .map_err(|_| ModelError::Internal("more than 4 billion cells at once".into()))?;
        Ok(grouped((0..count).filter_map(|number| {
            let cell = cells.cell(number as usize);
            match check(&cell, &self.transformer.config) {
                Ok(()) => Some((prompt_key(&cell.tokens), number)),
                Err(problem) => {
                    outcomes.fail(number, format!("{}: {problem}", described(&cell)));
                    None
                }
            }
        })))
    }

    /// The cells of prompts that fit in memory together.
    fn evaluate_held(
        &mut self,
        at_hand: &AtHand<'_>,
        numbers: &[u32],
        prompts: &[Arc<Tokens>],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<ControlFlow<()>> {
        let mut prefilled = |done, total| (outcomes.on_step)(Step::Prefilled { done, total });
        let flow = self.store.ensure(prompts, &mut prefilled)?;
        if flow.is_break() {
            return Ok(flow);
        }
        let groups = self.by_shape(at_hand, numbers);
        let mut tiles: Vec<(&Shape, &[Member])> = Vec::new();
        for (shape, members) in &groups {
            tiles.extend(members.chunks(shape.rows()).map(|chunk| (shape, chunk)));
        }
        parallel::run(
            self.transformer.device,
            &tiles,
            |(shape, chunk)| self.evaluate_tile(at_hand, shape, chunk),
            &mut |tile| outcomes.take(tile),
        )
    }

    /// Groups of cells of one shape, in the order in which they are computed. Their prompts are held.
    fn by_shape(&self, at_hand: &AtHand<'_>, numbers: &[u32]) -> Vec<(Shape, Vec<Member>)> {
        let n_layers = self.transformer.config.n_layers;
        let mut groups = grouped(numbers.iter().map(|&number| {
            let cell = at_hand.cell(number);
            let is_long = self.transformer.is_long(cell.tokens.len());
            let shape = Shape::of(&cell, n_layers, is_long);
            let member = self.member(&cell, number, &shape);
            (shape, member)
        }));
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
            entry: entry(cell, self.transformer.config.n_layers),
            block: place.map_or(0, |place| short(place.block)),
            row: row.map_or(0, short),
            number,
        }
    }

    fn evaluate_tile(
        &self,
        at_hand: &AtHand<'_>,
        shape: &Shape,
        members: &[Member],
    ) -> Result<Vec<(u32, Outcome)>> {
        let numbers: Vec<u32> = members.iter().map(|member| member.number).collect();
        let cells: Vec<Cell> = numbers.iter().map(|n| at_hand.cell(*n)).collect();
        let outcomes = guarded(|| self.tile_outcomes(at_hand, &numbers, &cells, shape));
        let outcomes = outcomes.map_err(|error| error.in_cells(&described(&cells[0]), cells.len()));
        Ok(numbers.into_iter().zip(outcomes?).collect())
    }

    fn tile_outcomes(
        &self,
        at_hand: &AtHand<'_>,
        numbers: &[u32],
        cells: &[Cell],
        shape: &Shape,
    ) -> Result<Vec<Outcome>> {
        let transformer = &self.transformer;
        let tile = Tile::new(transformer, &self.store, cells, shape)?;
        let values: Vec<Value> = match &shape.readout {
            ReadoutShape::Generation { max_new_tokens } => {
                let rows = numbers.iter().zip(cells);
                let rows = rows.map(|(n, cell)| at_hand.row(*n, cell, transformer.border));
                let rows = continued(&tile, rows.collect(), *max_new_tokens)?;
                let outcomes = cells.iter().zip(rows);
                return Ok(outcomes.map(|(c, row)| Outcome::of_row(c, row)).collect());
            }
            ReadoutShape::Activation { hook, offset } => {
                let vectors = to_rows(&activations(shape, &tile, *hook, *offset)?)?;
                vectors.into_iter().map(Value::Activation).collect()
            }
            ReadoutShape::Score(sets) => {
                let scores = score(transformer, &final_hidden(shape, &tile)?, sets)?;
                scores.into_iter().map(Value::Score).collect()
            }
            ReadoutShape::LogProbabilities(ids) => {
                let rows = log_probabilities(transformer, &final_hidden(shape, &tile)?, ids)?;
                rows.into_iter().map(Value::LogProbabilities).collect()
            }
        };
        let outcomes = cells.iter().zip(values);
        Ok(outcomes
            .map(|(c, value)| Outcome::of_value(c, value))
            .collect())
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

/// The final norm's output at the last position, `[n, d_model]`.
fn final_hidden(shape: &Shape, tile: &Tile<'_>) -> Result<Tensor> {
    let mut tap = tile.tap(0)?;
    let x = tile.run(&shape.start, &mut tap)?;
    tile.final_norm(&x.f_narrow(1, tile.suffix as i64 - 1, 1)?, &mut tap)
}

/// The vectors that are read, `[n, width]`.
fn activations(shape: &Shape, tile: &Tile<'_>, hook: HookPoint, offset: usize) -> Result<Tensor> {
    if shape.edits.is_empty()
        && tile.suffix == 1
        && let Some(stored) = tile.rows.stored(hook)?
    {
        return Ok(stored);
    }
    let mut tap = tile.tap(0)?;
    tap.wanted.push(hook);
    let x = tile.run(&shape.start, &mut tap)?;
    let end = tile.final_norm(&x, &mut tap)?;
    let kept = tap.kept.pop();
    let (_, kept) = kept.ok_or_else(|| ModelError::Internal(format!("nothing passed `{hook}`")))?;
    // What is read of a stream that left the format on its way is no number either.
    let sound = end.f_flatten(1, -1)?.f_isfinite()?.f_all_dim(1, true)?;
    let read = kept.f_select(1, offset as i64)?;
    Ok(read.f_masked_fill(&sound.f_logical_not()?, f64::NAN)?)
}
