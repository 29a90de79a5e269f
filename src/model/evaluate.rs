//! `evaluate(cells) → values`, the one primitive of the model room, with as little arithmetic as causality allows.
//!
//! Cells of one [`Shape`] (where the work starts, how many positions it covers, which kinds of edit it makes, from what is read) are packed into
//! tiles of a constant number of rows, padded with copies of the first. A tile starts from what the prefix store holds: for the last position, at
//! the first edited site itself, which may differ from row to row; for more positions, with their stream at the first edited layer. Neighbours that
//! differ in nothing but what is read of the last logits are one row. Texts that are edited at every token have a way of their own
//! (`throughout`). A continuation that grows long where that changes how its first tokens are
//! turned is begun there once more, as that of a longer prompt. In float32 on the CPU a row's bits depend on nothing but its cell, so a sweep
//! that is resumed, extended or reordered gives the same numbers.

mod check;
mod divergence;
mod each;
mod outcomes;
mod packed;
mod readout;
mod shape;
mod throughout;
mod tile;

use std::ops::ControlFlow;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::cell::{Cell, Cells, Readout, Tokens, Value};
use super::error::{ModelError, Result};
use super::generate::continued;
use super::grouped::grouped;
use super::guard::guarded;
use super::hooks::{HookPoint, Site};
use super::parallel;
use super::prefix::{BlockRow, PrefixStore, PromptBlock, PromptKey, Streams, prompt_key};
use super::transformer::Transformer;

use check::{check, described};
use outcomes::{AtHand, Outcome, Outcomes};
use readout::{log_odds, log_probabilities, of_one_token_each, score};
use shape::{Entry, ReadoutShape, Shape, entry, is_of_last_alone};
use throughout::EditedTemplates;

pub(super) use readout::to_rows;
pub(super) use shape::Start;
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
    edited: EditedTemplates,
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
            edited: EditedTemplates::new(),
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
        let at_hand = AtHand::new(cells);
        let by_prompt = self.by_prompt(&at_hand, &mut outcomes)?;
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
        by_prompt: &ByPrompt,
        outcomes: &mut Outcomes<'_>,
    ) -> Result<ControlFlow<()>> {
        let prompt = |(_, numbers): &(_, Vec<u32>)| at_hand.cell(numbers[0]).tokens;
        if !by_prompt.anew.is_empty() {
            let flow = self.evaluate_held(at_hand, &by_prompt.anew, &[], outcomes)?;
            if flow.is_break() || self.evaluate_grown(at_hand.cells, outcomes)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let streams = &by_prompt.streams;
        let by_prompt = &by_prompt.held;
        let prompts: Vec<Arc<Tokens>> = by_prompt.iter().map(prompt).collect();
        let mut start = 0;
        while start < prompts.len() {
            self.store.want(streams);
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
        let mut sorted = Sorted::default();
        for number in at_hand.begun() {
            self.sort(number, &at_hand.cell(number), &mut sorted);
        }
        self.evaluate_prompts(&at_hand, &sorted.by_prompt(), outcomes)
    }

    /// The numbers of the cells that the model can compute.
    fn by_prompt(&self, at_hand: &AtHand<'_>, outcomes: &mut Outcomes<'_>) -> Result<ByPrompt> {
        let count = u32::try_from(at_hand.cells.count())
            .map_err(|_| ModelError::Internal("more than 4 billion cells at once".into()))?;
        let mut sorted = Sorted::default();
        for number in 0..count {
            let cell = at_hand.cells.cell(number as usize);
            match check(&cell, &self.transformer.config) {
                Ok(()) => self.sort(number, &at_hand.computed(number, cell), &mut sorted),
                Err(problem) => outcomes.fail(number, format!("{}: {problem}", described(&cell))),
            }
        }
        Ok(sorted.by_prompt())
    }

    /// Puts a cell with the others of its prompt, unless it needs nothing that a prefill leaves.
    fn sort(&self, number: u32, cell: &Cell, sorted: &mut Sorted) {
        let (starts_anew, stream) = self.start_of(cell);
        // What it is compared with is of the prompt's block.
        if starts_anew && !cell.readout.is_against_unedited() {
            sorted.anew.push(number);
            return;
        }
        if let Some((layer, positions)) = stream {
            sorted.streams.add(layer, positions);
        }
        sorted.held.push((prompt_key(&cell.tokens), number));
    }

    /// Whether a cell's whole text is computed from its embedding on. Else the layer with whose stream it starts, and at how many of the last
    /// positions; none where the last alone will do.
    fn start_of(&self, cell: &Cell) -> (bool, Option<(usize, usize)>) {
        let n_layers = self.transformer.config.n_layers;
        if is_of_last_alone(cell) {
            return (false, None);
        }
        if self.is_of_text_edited_throughout(cell) {
            let first = throughout::first_layer(cell, n_layers);
            let stream = first.map(|layer| (layer, cell.tokens.own().len()));
            return (stream.is_none(), stream);
        }
        let is_long = self.transformer.is_long(cell.tokens.len());
        let shape = Shape::of(cell, n_layers, is_long);
        (shape.starts_anew(), shape.stream())
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
        let throughout = |number: &u32| self.is_of_text_edited_throughout(&at_hand.cell(*number));
        let (throughout, others): (Vec<u32>, Vec<u32>) =
            numbers.iter().partition(|n| throughout(n));
        if self
            .evaluate_throughout(at_hand, &throughout, outcomes)?
            .is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        let groups = self.by_shape(at_hand, &others);
        let mut tiles: Vec<(&Shape, Vec<&[Member]>)> = Vec::new();
        for (shape, members) in &groups {
            let rows: Vec<&[Member]> = members.chunk_by(|a, b| a.row_of == b.row_of).collect();
            tiles.extend(rows.chunks(shape.rows()).map(|rows| (shape, rows.to_vec())));
        }
        parallel::run(
            self.transformer.device,
            &tiles,
            |(shape, rows)| self.evaluate_tile(at_hand, shape, rows),
            &mut |tile| outcomes.take(tile),
        )
    }

    /// Groups of cells of one shape, in the order in which they are computed.
    fn by_shape(&self, at_hand: &AtHand<'_>, numbers: &[u32]) -> Vec<(Shape, Vec<Member>)> {
        let n_layers = self.transformer.config.n_layers;
        let mut before: Option<(Cell, u32)> = None;
        let mut groups = grouped(numbers.iter().map(|&number| {
            let cell = at_hand.cell(number);
            let is_long = self.transformer.is_long(cell.tokens.len());
            let shape = Shape::of(&cell, n_layers, is_long);
            let row_of = match &before {
                Some((other, row_of)) if is_one_row(other, &cell) => *row_of,
                _ => number,
            };
            let member = self.member(&cell, (row_of, number), &shape);
            before = Some((cell, row_of));
            (shape, member)
        }));
        for (_, members) in &mut groups {
            // The order of asking comes last, which within a block puts the rows of one variant side by side.
            members.sort_unstable();
        }
        groups
    }

    fn member(&self, cell: &Cell, (row_of, number): (u32, u32), shape: &Shape) -> Member {
        let place = self.store.place(&cell.tokens);
        // Where the rows of a prompt attend together, they are brought together.
        let row = place.filter(|_| shape.group() > 1).map(|place| place.row);
        let short = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Member {
            entry: entry(cell, self.transformer.config.n_layers),
            block: place.map_or(0, |place| short(place.block)),
            row: row.map_or(0, short),
            row_of,
            number,
        }
    }

    /// Each row is one cell, or several that are read of the same logits.
    fn evaluate_tile(
        &self,
        at_hand: &AtHand<'_>,
        shape: &Shape,
        rows: &[&[Member]],
    ) -> Result<Vec<(u32, Outcome)>> {
        let numbers = rows.iter().map(|members| members.iter().map(|m| m.number));
        let rows: Vec<Vec<(u32, Cell)>> = numbers
            .map(|numbers| {
                numbers
                    .map(|number| (number, at_hand.cell(number)))
                    .collect()
            })
            .collect();
        let outcomes = guarded(|| self.tile_outcomes(at_hand, &rows, shape));
        outcomes.map_err(|error| {
            let count = rows.iter().map(Vec::len).sum();
            error.in_cells(&described(&rows[0][0].1), count)
        })
    }

    fn tile_outcomes(
        &self,
        at_hand: &AtHand<'_>,
        rows: &[Vec<(u32, Cell)>],
        shape: &Shape,
    ) -> Result<Vec<(u32, Outcome)>> {
        let transformer = &self.transformer;
        let cells: Vec<&Cell> = rows.iter().map(|row| &row[0].1).collect();
        let bare = shape.starts_anew().then(|| {
            let prompts = cells.iter().map(|cell| Arc::clone(&cell.tokens));
            PromptBlock::bare(transformer, prompts.collect())
        });
        let places: Vec<BlockRow<'_>> = match &bare {
            Some(bare) => bare.rows().collect(),
            None => {
                let places = cells.iter().map(|cell| self.store.row(&cell.tokens));
                places.collect::<Result<_>>()?
            }
        };
        let tile = Tile::new(transformer, (&cells, &places), shape)?;
        let first = |row: &Vec<(u32, Cell)>| row[0].0;
        let values: Vec<Value> = match &shape.readout {
            ReadoutShape::Last => return self.read_logits(rows, shape, &tile),
            ReadoutShape::Generation { max_new_tokens } => {
                let begun = rows.iter().map(|row| {
                    let (number, cell) = &row[0];
                    at_hand.row(*number, cell, transformer.border)
                });
                let continued = continued(&tile, &shape.start, begun.collect(), *max_new_tokens)?;
                let outcomes = rows.iter().zip(continued).map(|(row, text)| {
                    let outcome = Outcome::of_row(&row[0].1, text);
                    (first(row), outcome)
                });
                return Ok(outcomes.collect());
            }
            ReadoutShape::Activation { hook, offset } => {
                let vectors = to_rows(&activations(shape, &tile, *hook, *offset)?)?;
                vectors.into_iter().map(Value::Activation).collect()
            }
            ReadoutShape::Mean { hook } => {
                let means = means(shape, &tile, *hook)?;
                means.into_iter().map(Value::Activation).collect()
            }
            ReadoutShape::Continuation { count } => {
                let texts = text_probabilities(shape, &tile, *count)?;
                texts.into_iter().map(Value::Score).collect()
            }
        };
        let outcomes = rows.iter().zip(values);
        Ok(outcomes
            .map(|(row, value)| (first(row), Outcome::of_value(&row[0].1, value)))
            .collect())
    }

    /// What is read of the last logits of a tile's rows: of all of them, whichever was asked for, so that a value's bits are its own.
    fn read_logits(
        &self,
        rows: &[Vec<(u32, Cell)>],
        shape: &Shape,
        tile: &Tile<'_>,
    ) -> Result<Vec<(u32, Outcome)>> {
        let transformer = &self.transformer;
        let hidden = final_hidden(shape, tile, 1)?;
        let mut read: Vec<(&Readout, Vec<Value>)> = Vec::new();
        let mut outcomes = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            for (number, cell) in row {
                let known = read
                    .iter()
                    .position(|(readout, _)| **readout == cell.readout);
                let known = match known {
                    Some(known) => known,
                    None => {
                        let values = match cell.readout {
                            Readout::Divergence { epsilon } => {
                                self.divergences(&tile.cells, &hidden, epsilon)?
                            }
                            _ => of_last_logits(transformer, &hidden, &cell.readout)?,
                        };
                        read.push((&cell.readout, values));
                        read.len() - 1
                    }
                };
                let value = read[known].1[index].clone();
                outcomes.push((*number, Outcome::of_value(cell, value)));
            }
        }
        Ok(outcomes)
    }
}

/// Cells by what they need of the store.
#[derive(Default)]
struct Sorted {
    held: Vec<(PromptKey, u32)>,
    anew: Vec<u32>,
    streams: Streams,
}

/// The numbers of cells that can be computed.
struct ByPrompt {
    /// Of each prompt that is prefilled.
    held: Vec<(PromptKey, Vec<u32>)>,
    /// Those that are computed from the embedding of their whole text.
    anew: Vec<u32>,
    streams: Streams,
}

impl Sorted {
    fn by_prompt(self) -> ByPrompt {
        ByPrompt {
            held: grouped(self.held),
            anew: self.anew,
            streams: self.streams,
        }
    }
}

/// A cell's number, and what puts the cells of a shape in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    entry: Option<Entry>,
    block: u32,
    row: u32,
    /// The number of the first cell of its row.
    row_of: u32,
    number: u32,
}

/// Whether two cells differ in nothing but what is read of the last logits.
fn is_one_row(one: &Cell, other: &Cell) -> bool {
    one.readout.is_of_last_position()
        && other.readout.is_of_last_position()
        && prompt_key(&one.tokens) == prompt_key(&other.tokens)
        && one.interventions == other.interventions
}

/// What a readout of the last position reads of `hidden [n, d_model]`, of each row.
fn of_last_logits(
    transformer: &Transformer,
    hidden: &Tensor,
    readout: &Readout,
) -> Result<Vec<Value>> {
    Ok(match readout {
        Readout::Score(sets) => {
            let scores = score(transformer, hidden, sets)?;
            scores.into_iter().map(Value::Score).collect()
        }
        Readout::LogOdds(ids) => {
            let odds = log_odds(transformer, hidden, ids)?;
            odds.into_iter().map(Value::Score).collect()
        }
        Readout::LogProbabilities(ids) => {
            let rows = log_probabilities(transformer, hidden, ids)?;
            rows.into_iter().map(Value::LogProbabilities).collect()
        }
        other => {
            return Err(ModelError::Internal(format!(
                "{other:?} is not read of logits"
            )));
        }
    })
}

/// The final norm's output at the last `count` positions, `[n·count, d_model]`.
fn final_hidden(shape: &Shape, tile: &Tile<'_>, count: usize) -> Result<Tensor> {
    let mut tap = tile.tap(0)?;
    let x = tile.run(&shape.start, tile.transformer.config.n_layers, &mut tap)?;
    let last = x.f_narrow(1, (tile.suffix - count) as i64, count as i64)?;
    tile.final_norm(&last, &mut tap)
}

/// Σᵢ ln p(tᵢ | what is before it) of the text that each row's readout names, of `count` tokens.
fn text_probabilities(shape: &Shape, tile: &Tile<'_>, count: usize) -> Result<Vec<f64>> {
    let hidden = final_hidden(shape, tile, count)?;
    let texts = tile.cells.iter().flat_map(|cell| match &cell.readout {
        Readout::Continuation(ids) => ids.to_vec(),
        _ => Vec::new(),
    });
    let tokens = of_one_token_each(tile.transformer, &hidden, &texts.collect::<Vec<u32>>())?;
    Ok(tokens.chunks(count).map(|text| text.iter().sum()).collect())
}

/// The vectors that are read, `[n, width]`.
fn activations(shape: &Shape, tile: &Tile<'_>, hook: HookPoint, offset: usize) -> Result<Tensor> {
    if shape.edits.is_empty()
        && tile.suffix == 1
        && let Some(stored) = tile.rows.stored(hook)?
    {
        return Ok(stored);
    }
    let all = all_activations(shape, tile, hook)?;
    Ok(all.f_select(1, offset as i64)?)
}

/// The means over the positions of each row, `[width]` each. They are summed in their order here, so that nothing but the row decides their bits.
fn means(shape: &Shape, tile: &Tile<'_>, hook: HookPoint) -> Result<Vec<Vec<f32>>> {
    let all = all_activations(shape, tile, hook)?;
    let (count, width) = (all.size()[1] as usize, all.size()[2] as usize);
    let of_row = |row: Vec<f32>| {
        let mut sums = vec![0f64; width];
        for vector in row.chunks_exact(width) {
            sums.iter_mut()
                .zip(vector)
                .for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let mean = |sum: f64| (sum / count as f64) as f32;
        sums.into_iter().map(mean).collect()
    };
    let rows = to_rows(&all.f_flatten(1, 2)?)?;
    Ok(rows.into_iter().map(of_row).collect())
}

/// The vectors at every position that is computed, `[n, suffix, width]`.
fn all_activations(shape: &Shape, tile: &Tile<'_>, hook: HookPoint) -> Result<Tensor> {
    if let (true, Start::Block(first)) = (shape.edits.is_empty(), &shape.start)
        && hook == HookPoint::block(*first, Site::ResidPre)
    {
        return tile.rows.stream(*first, tile.suffix);
    }
    let n_layers = tile.transformer.config.n_layers;
    let mut tap = tile.tap(0)?;
    tap.wanted.push(hook);
    let x = tile.run(&shape.start, n_layers, &mut tap)?;
    let end = tile.final_norm(&x, &mut tap)?;
    let kept = tap.kept.pop();
    let (_, kept) = kept.ok_or_else(|| ModelError::Internal(format!("nothing passed `{hook}`")))?;
    // What is read of a stream that left the format on its way is no number either.
    let rows = tile.cells.len() as i64;
    let sound = end.f_isfinite()?.f_view([rows, -1])?;
    let sound = sound.f_all_dim(1, true)?.f_view([rows, 1, 1])?;
    Ok(kept.f_masked_fill(&sound.f_logical_not()?, f64::NAN)?)
}
