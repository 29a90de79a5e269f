//! Texts that are edited at every token.
//!
//! An edit of every token leaves of the unedited text only the stream that enters its first layer. What is left to share is the template: under
//! one list of edits it is the same before all prompts, and is computed once for them. Behind it, their own tokens are packed one after
//! another, as a prefill packs them ([`Packed`]), so that nearly nothing is computed for padding, whatever edits the neighbours have.
//! Cells that differ in what is read, at whichever layers, are one text.
//!
//! A packed text has products of its own in attention, many and small: right for a processor, and not for a GPU, where these cells stay tiles.

use std::cmp::Reverse;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use tch::{Device, Tensor};

use super::outcomes::{AtHand, Outcome, Outcomes};
use super::packed::{EditedTemplate, Packed, Text};
use super::readout::of_one_token_each;
use super::shape::entry;
use super::tile::{final_norm, ingredients_of};
use super::{Evaluator, described, of_last_logits, to_rows};
use crate::model::cell::{Cell, Intervention, Operation, Readout, Value};
use crate::model::error::{ModelError, Result};
use crate::model::grouped::grouped;
use crate::model::guard::guarded;
use crate::model::hooks::HookPoint;
use crate::model::parallel;
use crate::model::prefix::{batch_positions, packed, prompt_key, template_positions};
use crate::model::transformer::{Tap, Transformer};

/// Rows of a product with the unembedding: constant, so that a value's bits are its own.
const LOGIT_ROWS: usize = 16;
/// The share of the store's memory that edited templates may take, 1 in so many.
const SHARE_OF_BUDGET: usize = 4;

/// Texts whose passes do the same to vectors of their own.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    template: blake3::Hash,
    is_long: bool,
    /// The first layer that is computed; none where a text starts with its embedding.
    start: Option<usize>,
    edits: Vec<(HookPoint, Operation)>,
    /// Where vectors are read, in the order of the computation; nowhere where logits are.
    hooks: Vec<HookPoint>,
}

/// A text under edits, and the cells that are read of it: neighbours among the numbers.
struct Row {
    /// The hash of what the edits are made of.
    edits: blake3::Hash,
    /// How many of its own tokens are computed.
    own: usize,
    /// The number of the cell with all of the edits.
    whole: u32,
    members: Range<usize>,
}

/// Rows of one kind under the same edits, so that their template is one.
struct Set {
    kind: Arc<Kind>,
    rows: Vec<Row>,
}

/// Rows of sets, each with the number of its set.
type Batch<'s> = Vec<(usize, &'s Row)>;

/// Cells of a packed batch: number, cell, number of its text.
type Member = (u32, Cell, usize);

impl Evaluator {
    /// Whether a cell is computed here.
    pub(in crate::model) fn is_of_text_edited_throughout(&self, cell: &Cell) -> bool {
        let own = match cell.readout {
            Readout::Activation { hook, position } => {
                matches!(hook, HookPoint::Block { .. }) && position >= cell.tokens.template().len()
            }
            _ => true,
        };
        self.transformer.device == Device::Cpu && own && cell.is_edited_throughout()
    }

    /// The cells of these numbers, of prompts that are held where that is needed.
    pub(super) fn evaluate_throughout(
        &self,
        at_hand: &AtHand<'_>,
        numbers: &[u32],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<ControlFlow<()>> {
        let mut sets = Vec::new();
        for (kind, rows) in grouped(self.rows_of(at_hand, numbers)) {
            let kind = Arc::new(kind);
            let by_edits = grouped(rows.into_iter().map(|row| (row.edits, row)));
            sets.extend(by_edits.into_iter().map(|(_, rows)| Set {
                kind: Arc::clone(&kind),
                rows,
            }));
        }
        let mut sets = &sets[..];
        while !sets.is_empty() {
            let (wave, others) = sets.split_at(self.fitting(at_hand, sets));
            if self
                .evaluate_sets(at_hand, numbers, wave, outcomes)?
                .is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
            sets = others;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The texts of the cells, each with its kind.
    fn rows_of(&self, at_hand: &AtHand<'_>, numbers: &[u32]) -> Vec<(Kind, Row)> {
        let mut rows = Vec::new();
        let mut last: Option<Growing> = None;
        for (index, &number) in numbers.iter().enumerate() {
            let cell = at_hand.cell(number);
            let taken = last.as_mut().is_some_and(|row| row.takes(number, &cell));
            if !taken {
                let next = Growing::new((index, number), cell);
                rows.extend(
                    last.replace(next)
                        .map(|row| row.done(index, &self.transformer)),
                );
            }
        }
        rows.extend(last.map(|row| row.done(numbers.len(), &self.transformer)));
        rows
    }

    /// How many of the sets to work on together: as many as have room for what is kept of their templates.
    fn fitting(&self, at_hand: &AtHand<'_>, sets: &[Set]) -> usize {
        let config = &self.transformer.config;
        let per_position = 2 * config.n_kv_heads * config.d_head;
        let mut left = self.store.budget_bytes() / SHARE_OF_BUDGET;
        let fits = sets.iter().take_while(|set| {
            let template = at_hand.cell(set.rows[0].whole).tokens.template().len();
            let layers = set.kind.layers(config.n_layers).len();
            let bytes =
                template * layers * per_position * self.transformer.kind.elt_size_in_bytes();
            let fits = bytes <= left;
            left = left.saturating_sub(bytes);
            fits
        });
        fits.count().max(1)
    }

    fn evaluate_sets(
        &self,
        at_hand: &AtHand<'_>,
        numbers: &[u32],
        sets: &[Set],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<ControlFlow<()>> {
        let mut templates: Vec<Option<EditedTemplate>> = sets.iter().map(|_| None).collect();
        let numbered: Vec<(usize, &Set)> = sets.iter().enumerate().collect();
        let template = |(number, set): &(usize, &Set)| {
            let cell = at_hand.cell(set.rows[0].whole);
            let made = guarded(|| self.edited_template(&cell, &set.kind));
            let made = made.map_err(|error| error.in_cells(&described(&cell), set.rows.len()))?;
            Ok((*number, made))
        };
        let device = self.transformer.device;
        let _ = parallel::run(device, &numbered, template, &mut |(number, made)| {
            templates[number] = made;
            ControlFlow::Continue(())
        })?;
        let mut batches: Vec<Batch<'_>> = Vec::new();
        for of_kind in numbered.chunk_by(|(_, a), (_, b)| Arc::ptr_eq(&a.kind, &b.kind)) {
            let rows = of_kind
                .iter()
                .flat_map(|(number, set)| set.rows.iter().map(|row| (*number, row)));
            let mut rows: Batch<'_> = rows.collect();
            rows.sort_by_key(|(_, row)| Reverse(row.own));
            batches.extend(packed(rows, |(_, row)| row.own));
        }
        let evaluate =
            |batch: &Batch<'_>| self.evaluate_packed((at_hand, numbers), (sets, &templates), batch);
        parallel::run(device, &batches, evaluate, &mut |done| outcomes.take(done))
    }

    /// The template of a cell under its edits, if it has one.
    fn edited_template(&self, cell: &Cell, kind: &Kind) -> Result<Option<EditedTemplate>> {
        let ids = cell.tokens.template();
        if ids.is_empty() {
            return Ok(None);
        }
        let entering = |layer| self.store.row(&cell.tokens)?.template_stream(layer);
        let text = Text {
            ids,
            edits: &cell.interventions,
            before: None,
            entering: kind.start.map(entering).transpose()?,
        };
        let pass = (
            kind.layers(self.transformer.config.n_layers),
            template_positions(ids.len()),
        );
        EditedTemplate::compute(&self.transformer, text, pass, kind.is_long).map(Some)
    }

    fn evaluate_packed(
        &self,
        (at_hand, numbers): (&AtHand<'_>, &[u32]),
        (sets, templates): (&[Set], &[Option<EditedTemplate>]),
        batch: &Batch<'_>,
    ) -> Result<Vec<(u32, Outcome)>> {
        let kind = &sets[batch[0].0].kind;
        let cells: Vec<Cell> = batch
            .iter()
            .map(|(_, row)| at_hand.cell(row.whole))
            .collect();
        let members = batch.iter().enumerate().flat_map(|(text, (_, row))| {
            let of_row = numbers[row.members.clone()].iter();
            of_row.map(move |&number| (number, at_hand.cell(number), text))
        });
        let members: Vec<Member> = members.collect();
        let outcomes = guarded(|| {
            let texts = batch.iter().zip(&cells).map(|((set, row), cell)| {
                let entering = |layer| -> Result<Tensor> {
                    let stream = self.store.row(&cell.tokens)?.own_stream(layer)?;
                    Ok(stream.f_narrow(0, 0, row.own as i64)?)
                };
                Ok(Text {
                    ids: &cell.tokens.own()[..row.own],
                    edits: &cell.interventions,
                    before: templates[*set].as_ref(),
                    entering: kind.start.map(entering).transpose()?,
                })
            });
            let texts = texts.collect::<Result<Vec<Text<'_>>>>()?;
            let positions = batch_positions(batch[0].1.own);
            let mut packed = Packed::new(&self.transformer, &texts, positions, kind.is_long)?;
            let values = match kind.hooks.is_empty() {
                true => self.of_logits(&mut packed, kind, &members)?,
                false => of_vectors(&mut packed, kind, &members)?,
            };
            let each = members.iter().zip(values);
            Ok(each
                .map(|((number, cell, _), value)| (*number, Outcome::of_value(cell, value)))
                .collect())
        });
        outcomes.map_err(|error| error.in_cells(&described(&cells[0]), members.len()))
    }

    /// What is read of the logits of the members' texts.
    fn of_logits(
        &self,
        packed: &mut Packed<'_>,
        kind: &Kind,
        members: &[Member],
    ) -> Result<Vec<Value>> {
        let transformer = &*self.transformer;
        let x = packed.run(kind.start.unwrap_or(0)..transformer.config.n_layers)?;
        let mut values: Vec<Option<Value>> = members.iter().map(|_| None).collect();
        for (readout, of_readout) in by_readout(members) {
            for some in of_readout.chunks(LOGIT_ROWS) {
                let padded = some
                    .iter()
                    .chain(std::iter::repeat(&some[0]))
                    .take(LOGIT_ROWS);
                let (_, cells, texts): (Vec<u32>, Vec<&Cell>, Vec<usize>) = padded
                    .map(|&member| {
                        let (number, cell, text) = &members[member];
                        (*number, cell, *text)
                    })
                    .collect();
                let last = texts.iter().map(|&text| packed.from_end(text, 1));
                let hidden = hidden(transformer, &x, last)?;
                let read = match readout {
                    Readout::Divergence { epsilon } => {
                        self.divergences(&cells, &hidden, *epsilon)?
                    }
                    _ => of_last_logits(transformer, &hidden, readout)?,
                };
                for (&member, value) in some.iter().zip(read) {
                    values[member] = Some(value);
                }
            }
        }
        let texts = continuations(transformer, &x, packed, members)?;
        let values = values.into_iter().zip(texts);
        Ok(values
            .map(|(value, text)| value.unwrap_or(Value::Score(text)))
            .collect())
    }
}

/// A row that may take further cells.
struct Growing {
    cell: Cell,
    whole: u32,
    start: usize,
    /// Where vectors are read; the last is where the deepest is.
    hooks: Vec<HookPoint>,
}

impl Growing {
    fn new((start, whole): (usize, u32), cell: Cell) -> Self {
        Growing {
            whole,
            start,
            hooks: cell.readout.hook().into_iter().collect(),
            cell,
        }
    }

    /// Takes a cell, if it is read of the same text, whose edits behind what is read may be left out.
    fn takes(&mut self, number: u32, cell: &Cell) -> bool {
        let text = |cell: &Cell| (prompt_key(&cell.tokens), end(cell));
        if text(&self.cell) != text(cell) {
            return false;
        }
        let up_to = |edits: &[Intervention], hook: HookPoint| {
            edits.iter().take_while(|i| i.hook <= hook).count()
        };
        match (self.hooks.last().copied(), cell.readout.hook()) {
            (None, None) => self.cell.interventions == cell.interventions,
            (Some(deepest), Some(hook)) if hook <= deepest => {
                let (mine, theirs) = (&self.cell.interventions, &cell.interventions);
                let taken = mine[..up_to(mine, hook)] == theirs[..];
                if taken && !self.hooks.contains(&hook) {
                    self.hooks.push(hook);
                    self.hooks.sort_unstable();
                }
                taken
            }
            (Some(deepest), Some(hook)) => {
                let (mine, theirs) = (&self.cell.interventions, &cell.interventions);
                let taken = mine[..] == theirs[..up_to(theirs, deepest)];
                if taken {
                    self.hooks.push(hook);
                    self.whole = number;
                    self.cell = cell.clone();
                }
                taken
            }
            _ => false,
        }
    }

    fn done(self, end_of_members: usize, transformer: &Transformer) -> (Kind, Row) {
        let cell = &self.cell;
        let mut edits = blake3::Hasher::new();
        for (hash, number) in cell
            .interventions
            .iter()
            .flat_map(|i| ingredients_of(&i.edit))
        {
            edits.update(hash.as_bytes());
            edits.update(&number.to_le_bytes());
        }
        let row = Row {
            edits: edits.finalize(),
            own: end(cell) - cell.tokens.template().len(),
            whole: self.whole,
            members: self.start..end_of_members,
        };
        let kind = Kind {
            template: cell.tokens.template_hash(),
            is_long: transformer.is_long(cell.tokens.len()),
            start: first_layer(cell, transformer.config.n_layers),
            edits: cell
                .interventions
                .iter()
                .map(|i| (i.hook, i.edit.operation()))
                .collect(),
            hooks: self.hooks,
        };
        (kind, row)
    }
}

impl Kind {
    /// The layers that are computed.
    fn layers(&self, n_layers: usize) -> Range<usize> {
        let end = match self.hooks.last() {
            Some(HookPoint::Block { layer, .. }) => layer + 1,
            _ => n_layers,
        };
        self.start.unwrap_or(0)..end
    }
}

/// The layer with whose unedited stream a text that is edited throughout starts; none where it starts with its embedding.
pub(super) fn first_layer(cell: &Cell, n_layers: usize) -> Option<usize> {
    if cell
        .interventions
        .iter()
        .any(|i| i.hook == HookPoint::Embed)
    {
        return None;
    }
    let layer = entry(cell, n_layers).map_or(n_layers - 1, |entry| entry.layer);
    Some(layer).filter(|layer| *layer > 0)
}

/// How many tokens of a cell's text are computed.
fn end(cell: &Cell) -> usize {
    match cell.readout {
        Readout::Activation { position, .. } => position + 1,
        _ => cell.tokens.len(),
    }
}

/// The members by what is read of their last logits, but for continuations.
fn by_readout(members: &[Member]) -> Vec<(&Readout, Vec<usize>)> {
    let mut groups: Vec<(&Readout, Vec<usize>)> = Vec::new();
    for (member, (_, cell, _)) in members.iter().enumerate() {
        if !cell.readout.is_of_last_position() {
            continue;
        }
        match groups
            .iter_mut()
            .find(|(readout, _)| **readout == cell.readout)
        {
            Some((_, of_readout)) => of_readout.push(member),
            None => groups.push((&cell.readout, vec![member])),
        }
    }
    groups
}

/// The final norm's output at some positions of `x [S, d_model]`, of one row each.
fn hidden(
    transformer: &Transformer,
    x: &Tensor,
    positions: impl Iterator<Item = i64>,
) -> Result<Tensor> {
    let rows = x.f_index_select(0, &transformer.index(positions)?)?;
    final_norm(transformer, &rows.f_unsqueeze(1)?, &mut Tap::default())
}

/// Σᵢ ln p(tᵢ | what is before it) of the members whose continuation is asked for, 0 of the others.
fn continuations(
    transformer: &Transformer,
    x: &Tensor,
    packed: &Packed<'_>,
    members: &[Member],
) -> Result<Vec<f64>> {
    let tokens = members
        .iter()
        .enumerate()
        .flat_map(|(member, (_, cell, text))| {
            let ids: &[u32] = match &cell.readout {
                Readout::Continuation(ids) => ids,
                _ => &[],
            };
            let first = packed.from_end(*text, ids.len());
            let places = ids.iter().zip(first..);
            places.map(move |(&id, place)| (member, id, place))
        });
    let tokens: Vec<(usize, u32, i64)> = tokens.collect();
    let mut sums = vec![0.0; members.len()];
    for some in tokens.chunks(LOGIT_ROWS) {
        let padded = || {
            some.iter()
                .chain(std::iter::repeat(&some[0]))
                .take(LOGIT_ROWS)
        };
        let hidden = hidden(transformer, x, padded().map(|(_, _, place)| *place))?;
        let ids: Vec<u32> = padded().map(|(_, id, _)| *id).collect();
        let of_each = of_one_token_each(transformer, &hidden, &ids)?;
        for ((member, ..), ln_p) in some.iter().zip(of_each) {
            sums[*member] += ln_p;
        }
    }
    Ok(sums)
}

/// The vectors that the members name.
fn of_vectors(packed: &mut Packed<'_>, kind: &Kind, members: &[Member]) -> Result<Vec<Value>> {
    let mut at = Vec::new();
    for read in packed.read(kind.start.unwrap_or(0), &kind.hooks)? {
        at.push((read.hook, to_rows(&read.vectors)?, read.sound));
    }
    let values = members.iter().map(|(_, cell, text)| {
        let read = at
            .iter()
            .find(|(hook, ..)| Some(*hook) == cell.readout.hook());
        let (_, rows, sound) =
            read.ok_or_else(|| ModelError::Internal("a hook point was not read".to_string()))?;
        let mut vector = rows[*text].clone();
        if !sound[*text] {
            // Of a stream that left the format on its way.
            vector.fill(f32::NAN);
        }
        Ok(Value::Activation(vector))
    });
    values.collect()
}
