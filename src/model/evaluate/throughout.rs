//! Texts that are edited at every token.
//!
//! An edit of every token leaves of the unedited text only the stream that enters its first layer. What is left to share is the template: under
//! one list of edits it is the same before all prompts, and is computed once for them. Behind it, their own tokens are packed one after
//! another, as a prefill packs them ([`Packed`]), so that nearly nothing is computed for padding, whatever edits the neighbours have.
//! Cells that differ in what is read, at whichever layers, are one text.
//!
//! A packed text has products of its own in attention, many and small: right for a processor, and not for a GPU, where these cells stay tiles.

mod rows;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::outcomes::{AtHand, Outcome, Outcomes};
use super::packed::{EditedTemplate, Packed, Text};
use super::readout::of_one_token_each;
use super::tile::final_norm;
use super::{Evaluator, described, of_last_logits, to_rows};
use crate::model::cell::{Cell, Readout, Value};
use crate::model::error::{ModelError, Result};
use crate::model::grouped::grouped;
use crate::model::guard::guarded;
use crate::model::hooks::HookPoint;
use crate::model::parallel;
use crate::model::prefix::{packed, template_positions};
use crate::model::transformer::{Tap, Transformer};

use rows::{Kind, Row, rows_of};

pub(super) use rows::first_layer;

/// Positions of a batch: constant, so that a value's bits are its own. A longer text has one to itself, of a multiple of this. More than a prefill's,
/// since there are many texts under each list of edits: products are 4 % quicker, and less is left over.
const BATCH_POSITIONS: usize = 384;
/// Rows of a product with the unembedding: constant, too, and about as many as a batch has texts.
pub(super) const LOGIT_ROWS: usize = 32;
/// The share of the store's memory that edited templates may take, 1 in so many.
const SHARE_OF_BUDGET: usize = 4;

/// Templates under edits that were computed before, by what is done to which vectors.
pub(super) type EditedTemplates = HashMap<(Arc<Kind>, blake3::Hash), Arc<EditedTemplate>>;

/// Rows of one kind under the same edits, so that their template is one.
struct Set {
    kind: Arc<Kind>,
    rows: Vec<Row>,
}

/// Rows of sets, each with the number of its set.
type Batch<'s> = Vec<(usize, &'s Row)>;

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
        &mut self,
        at_hand: &AtHand<'_>,
        numbers: &[u32],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<ControlFlow<()>> {
        let mut sets = Vec::new();
        for (kind, rows) in grouped(rows_of(at_hand, numbers, &self.transformer)) {
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
        &mut self,
        at_hand: &AtHand<'_>,
        numbers: &[u32],
        sets: &[Set],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<ControlFlow<()>> {
        let templates = self.templates_of(at_hand, sets)?;
        let numbered: Vec<(usize, &Set)> = sets.iter().enumerate().collect();
        let mut batches: Vec<Batch<'_>> = Vec::new();
        for of_kind in numbered.chunk_by(|(_, a), (_, b)| Arc::ptr_eq(&a.kind, &b.kind)) {
            let rows = of_kind.iter().flat_map(|(number, set)| {
                let rows = set.rows.iter();
                rows.map(move |row| (*number, row))
            });
            let mut rows: Batch<'_> = rows.collect();
            rows.sort_by_key(|(_, row)| Reverse(row.own));
            batches.extend(packed(rows, BATCH_POSITIONS, |(_, row)| row.own));
        }
        let evaluate =
            |batch: &Batch<'_>| self.evaluate_batch((at_hand, numbers), (sets, &templates), batch);
        let device = self.transformer.device;
        parallel::run(device, &batches, evaluate, &mut |done| outcomes.take(done))
    }

    /// The templates of the sets, in their order: those that were made before, as long as all have room, and the others.
    fn templates_of(
        &mut self,
        at_hand: &AtHand<'_>,
        sets: &[Set],
    ) -> Result<Vec<Option<Arc<EditedTemplate>>>> {
        let held = self.edited.values().map(|template| template.bytes());
        if held.sum::<usize>() > self.store.budget_bytes() / SHARE_OF_BUDGET {
            self.edited.clear();
        }
        let key = |set: &Set| (Arc::clone(&set.kind), set.rows[0].edits);
        let missing = sets
            .iter()
            .filter(|set| !self.edited.contains_key(&key(set)));
        let missing: Vec<&Set> = missing.collect();
        let make = |set: &&Set| {
            let cell = at_hand.cell(set.rows[0].whole);
            let made = guarded(|| self.edited_template(&cell, &set.kind));
            let made = made.map_err(|error| error.in_cells(&described(&cell), set.rows.len()))?;
            Ok((key(set), made))
        };
        let mut made = Vec::with_capacity(missing.len());
        let _ = parallel::run(self.transformer.device, &missing, make, &mut |one| {
            made.push(one);
            ControlFlow::Continue(())
        })?;
        let made = made.into_iter();
        let made = made.filter_map(|(key, template)| Some((key, Arc::new(template?))));
        self.edited.extend(made);
        let found = sets.iter().map(|set| self.edited.get(&key(set)).cloned());
        Ok(found.collect())
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

    fn evaluate_batch(
        &self,
        (at_hand, numbers): (&AtHand<'_>, &[u32]),
        (sets, templates): (&[Set], &[Option<Arc<EditedTemplate>>]),
        batch: &Batch<'_>,
    ) -> Result<Vec<(u32, Outcome)>> {
        let (set, longest) = batch[0];
        let kind = &sets[set].kind;
        let cells = batch.iter().map(|(_, row)| at_hand.cell(row.whole));
        let cells: Vec<Cell> = cells.collect();
        let members = batch.iter().enumerate().flat_map(|(text, (_, row))| {
            let of_row = numbers[row.members.clone()].iter();
            of_row.map(move |&number| Member {
                number,
                cell: at_hand.cell(number),
                text,
            })
        });
        let members: Vec<Member> = members.collect();
        let values = guarded(|| {
            let texts = self.texts(kind, templates, batch, &cells)?;
            let positions = longest.own.next_multiple_of(BATCH_POSITIONS);
            let mut packed = Packed::new(&self.transformer, &texts, positions, kind.is_long)?;
            match kind.hooks.is_empty() {
                true => self.of_logits(&mut packed, kind, &members),
                false => of_vectors(&mut packed, kind, &members),
            }
        });
        let values = values.map_err(|e| e.in_cells(&described(&cells[0]), members.len()))?;
        let each = members.iter().zip(values);
        let each = each.map(|(member, value)| {
            let outcome = Outcome::of_value(&member.cell, value);
            (member.number, outcome)
        });
        Ok(each.collect())
    }

    /// The texts of a batch, each with what is before it.
    fn texts<'t>(
        &self,
        kind: &Kind,
        templates: &'t [Option<Arc<EditedTemplate>>],
        batch: &Batch<'_>,
        cells: &'t [Cell],
    ) -> Result<Vec<Text<'t>>> {
        let text = |((set, row), cell): (&(usize, &Row), &'t Cell)| {
            let entering = |layer| -> Result<Tensor> {
                let stream = self.store.row(&cell.tokens)?.own_stream(layer)?;
                Ok(stream.f_narrow(0, 0, row.own as i64)?)
            };
            Ok(Text {
                ids: &cell.tokens.own()[..row.own],
                edits: &cell.interventions,
                before: templates[*set].as_deref(),
                entering: kind.start.map(entering).transpose()?,
            })
        };
        batch.iter().zip(cells).map(text).collect()
    }

    /// What the members read of logits.
    fn of_logits(
        &self,
        packed: &mut Packed<'_>,
        kind: &Kind,
        members: &[Member],
    ) -> Result<Vec<Value>> {
        let transformer = &*self.transformer;
        let (mut places, mut first_rows) = (Vec::new(), Vec::new());
        for member in members {
            let count = match &member.cell.readout {
                Readout::Continuation(ids) => ids.len(),
                _ => 1,
            };
            first_rows.push(places.len() as i64);
            let first = packed.last_of(member.text, count);
            places.extend(first..first + count as i64);
        }
        let layers = kind.layers(transformer.config.n_layers);
        let x = packed.run(layers, &places)?;
        let texts = of_continuations(transformer, &x, (members, &first_rows))?;
        let mut values: Vec<Value> = texts.into_iter().map(Value::Score).collect();
        for (readout, of_readout) in by_readout(members) {
            for some in of_readout.chunks(LOGIT_ROWS) {
                let rows = padded(some).map(|&index| first_rows[index]);
                let hidden = hidden(transformer, &x, rows)?;
                let of_each = match readout {
                    Readout::Divergence { epsilon } => {
                        let cells = padded(some).map(|&index| &members[index].cell);
                        let cells: Vec<&Cell> = cells.collect();
                        self.divergences(&cells, &hidden, *epsilon)?
                    }
                    _ => of_last_logits(transformer, &hidden, readout)?,
                };
                for (&index, value) in some.iter().zip(of_each) {
                    values[index] = value;
                }
            }
        }
        Ok(values)
    }
}

/// A cell, and the number of its text in its batch.
struct Member {
    number: u32,
    cell: Cell,
    text: usize,
}

/// The members by what is read of their last logits, but for continuations.
fn by_readout(members: &[Member]) -> Vec<(&Readout, Vec<usize>)> {
    let mut groups: Vec<(&Readout, Vec<usize>)> = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let readout = &member.cell.readout;
        if !readout.is_of_last_position() {
            continue;
        }
        match groups.iter_mut().find(|(other, _)| *other == readout) {
            Some((_, of_readout)) => of_readout.push(index),
            None => groups.push((readout, vec![index])),
        }
    }
    groups
}

/// As many as a product with the unembedding has, with copies of the first.
pub(super) fn padded<T>(some: &[T]) -> impl Iterator<Item = &T> {
    let padding = std::iter::repeat(&some[0]);
    some.iter().chain(padding).take(LOGIT_ROWS)
}

/// The final norm's output for some rows of `x [n, d_model]`.
fn hidden(
    transformer: &Transformer,
    x: &Tensor,
    rows: impl Iterator<Item = i64>,
) -> Result<Tensor> {
    let rows = x.f_index_select(0, &transformer.index(rows)?)?;
    final_norm(transformer, &rows.f_unsqueeze(1)?, &mut Tap::default())
}

/// Σᵢ ln p(tᵢ | what is before it) of the members whose continuation is asked for, 0 of the others. `first_rows` are those of `x [n, d_model]` from
/// which on each is read.
fn of_continuations(
    transformer: &Transformer,
    x: &Tensor,
    (members, first_rows): (&[Member], &[i64]),
) -> Result<Vec<f64>> {
    let tokens = members.iter().enumerate().flat_map(|(index, member)| {
        let ids: &[u32] = match &member.cell.readout {
            Readout::Continuation(ids) => ids,
            _ => &[],
        };
        let rows = ids.iter().zip(first_rows[index]..);
        rows.map(move |(&id, row)| (index, id, row))
    });
    let tokens: Vec<(usize, u32, i64)> = tokens.collect();
    let mut sums = vec![0.0; members.len()];
    for some in tokens.chunks(LOGIT_ROWS) {
        let hidden = hidden(transformer, x, padded(some).map(|(.., row)| *row))?;
        let ids: Vec<u32> = padded(some).map(|(_, id, _)| *id).collect();
        let of_each = of_one_token_each(transformer, &hidden, &ids)?;
        for ((index, ..), ln_p) in some.iter().zip(of_each) {
            sums[*index] += ln_p;
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
    let values = members.iter().map(|member| {
        let hook = member.cell.readout.hook();
        let missing = || ModelError::Internal("a hook point was not read".to_string());
        let read = at.iter().find(|(of, ..)| Some(*of) == hook);
        let (_, rows, sound) = read.ok_or_else(missing)?;
        let mut vector = rows[member.text].clone();
        if !sound[member.text] {
            // Of a stream that left the format on its way.
            vector.fill(f32::NAN);
        }
        Ok(Value::Activation(vector))
    });
    values.collect()
}
