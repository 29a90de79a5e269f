//! The sweep: prompts × directions × α, scored. What `steer`, `holdout`, `random` and `xstest` have in common.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;

use crate::model::{Cell, Cells, Chat, ModelHandle, Positions, Tokens, Value};
use crate::prompts::PromptSet;

pub(crate) use super::action::Mode;
pub(super) use super::action::Set;
use super::action::{Action, Line};
use super::position::{Layout, Selection};
use super::rules::{Readings, Reads, Rule};
use super::settings::Settings;
use super::table::Parts;
use super::{Evaluate, Inputs, Name, StageError};

mod gated;
mod row;
mod rows;
mod table;

use gated::Gated;
pub(crate) use gated::OnRow;
pub(super) use gated::likenesses;
pub(crate) use row::{Further, Measured, Setting, SweepFrame, SweepRow, SweptGroup, SweptPrompt};
use rows::Rows;
pub(crate) use table::SweepTable;

pub(crate) struct Sweep<'a> {
    /// Models, in the order of the table.
    pub(crate) models: Vec<&'a Arc<ModelHandle>>,
    /// The prompts the lines' indices point into.
    pub(crate) prompts: &'a Arc<PromptSet>,
    /// What is done with the lines' directions.
    pub(crate) action: &'a Action,
    /// Where, unless what else is done says otherwise.
    pub(crate) position: &'a Selection,
    pub(crate) reads: &'a Reads,
}

/// What a sweep gives: a table for each rule that is read, the main one's name empty.
pub(crate) type Swept = Vec<(String, Vec<SweepTable>)>;

/// A prompt as a model sees it, and the positions of each edit.
type Placed = (Arc<Tokens>, Vec<Positions>);

/// The prompts of a model, and how its edits' place is told in a table; none of the last token, which needs no telling.
struct PlacedPrompts {
    prompts: Vec<Placed>,
    told: Option<Told>,
}

/// Where edits are, as a table has it.
#[derive(Debug)]
struct Told {
    position: String,
    /// By prompt.
    tokens: Vec<String>,
}

/// The cells of a sweep's rows, by their number. On a condition each is asked for with the edit and without it.
struct SweepCells<'a> {
    rows: &'a Rows,
    models: &'a [&'a Arc<ModelHandle>],
    /// By model.
    readings: &'a [Readings],
    /// By model, the number of its first cell; and behind them, how many cells there are.
    starts: Vec<usize>,
    /// By model.
    prompts: &'a [PlacedPrompts],
    are_conditioned: bool,
}

/// A cell of a sweep by its row; the cells of one row stand side by side.
struct Asked {
    model: usize,
    /// The number of its row.
    row: usize,
    /// Which of the readouts of the row it is.
    readout: usize,
    is_edited: bool,
}

impl SweepCells<'_> {
    fn asked(&self, number: usize) -> Asked {
        let model = self.starts.partition_point(|start| *start <= number) - 1;
        let number = number - self.starts[model];
        let (readouts, of_row) = (self.readings[model].readouts.len(), self.of_row(model));
        Asked {
            model,
            row: model * self.rows.of_model() + number / of_row,
            readout: number % of_row % readouts,
            is_edited: number % of_row < readouts,
        }
    }

    /// How many cells each row of a model has.
    fn of_row(&self, model: usize) -> usize {
        self.readings[model].readouts.len() * (1 + usize::from(self.are_conditioned))
    }
}

impl Cells for SweepCells<'_> {
    fn count(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    fn cell(&self, number: usize) -> Cell {
        let asked = self.asked(number);
        let row = self.rows.row(asked.row);
        let model = self.models[row.model];
        let (tokens, positions) = &self.prompts[row.model].prompts[row.prompt];
        let (fingerprint, n_layers) = (model.fingerprint, model.config().n_layers);
        let edits = match asked.is_edited {
            true => row.line.edits(row.alpha, positions, model.config()),
            false => Vec::new(),
        };
        let readout = self.readings[row.model].readouts[asked.readout].clone();
        Cell::new(fingerprint, Arc::clone(tokens), edits, readout, n_layers)
    }
}

impl Sweep<'_> {
    /// Scores every combination, along the lines that there are in each model. Models that stand beside each other and are alike have the
    /// same lines, and are swept together.
    ///
    /// # Errors
    /// Those of the evaluator; a prompt without the position asked for.
    pub(crate) fn run(
        &self,
        are_alike: fn(&ModelHandle, &ModelHandle) -> bool,
        mut lines: impl FnMut(&ModelHandle) -> Result<Vec<Line>, StageError>,
        evaluator: &mut dyn Evaluate,
    ) -> Result<Swept, StageError> {
        let groups: Vec<_> = self.models.chunk_by(|a, b| are_alike(a, b)).collect();
        if groups.len() > 1 {
            tokens_of_each(&self.models, self.prompts, self.reads)?;
        }
        let names = self.reads.names().into_iter().enumerate();
        let names = names.map(|(at, name)| if at == 0 { String::new() } else { name });
        let mut swept: Swept = names.map(|name| (name, Vec::new())).collect();
        for models in groups {
            let of_rules = self.of_models(models, lines(models[0])?, evaluator)?;
            for ((_, tables), table) in swept.iter_mut().zip(of_rules) {
                tables.push(table);
            }
        }
        Ok(swept)
    }

    fn of_models(
        &self,
        models: &[&Arc<ModelHandle>],
        lines: Vec<Line>,
        evaluator: &mut dyn Evaluate,
    ) -> Result<Vec<SweepTable>, StageError> {
        let prompts = self.prompts_of_each(models, &lines)?;
        let gated = Gated::of(&lines, models, &prompts, evaluator)?;
        let alphas = self.action.alpha.values().copied().collect();
        let rows = Rows::new(models.len(), lines, alphas);
        let readings = models.iter().map(|model| self.reads.on(model));
        let readings = readings.collect::<Result<Vec<_>, _>>()?;
        // Where the cells and the numbers of each model begin.
        let starts = |of_row: &dyn Fn(usize) -> usize| {
            let lengths = (0..models.len()).map(|model| rows.of_model() * of_row(model));
            let mut starts = vec![0];
            lengths.for_each(|length| starts.push(starts.last().unwrap_or(&0) + length));
            starts
        };
        let first_numbers = starts(&|model| readings[model].width);
        let mut cells = SweepCells {
            rows: &rows,
            models,
            readings: &readings,
            starts: Vec::new(),
            prompts: &prompts,
            are_conditioned: gated.is_some(),
        };
        cells.starts = starts(&|model| cells.of_row(model));
        let mut numbers = vec![f64::NAN; first_numbers[models.len()]];
        let mut told = Ok(());
        evaluator.evaluate_each(&cells, &mut |number, value| {
            let Asked {
                model,
                row,
                readout,
                is_edited,
            } = cells.asked(number);
            let of_row = gated
                .as_ref()
                .and_then(|gated| gated.of_row(&rows.row(row)));
            if of_row.is_some_and(|gated| gated.is_open != is_edited) {
                return;
            }
            let of_model = &readings[model];
            let row = row - model * rows.of_model();
            let start = first_numbers[model] + row * of_model.width;
            let row = &mut numbers[start..start + of_model.width];
            if let Err(error) = of_model.put(readout, value, row) {
                told = Err(error);
            }
        })?;
        told?;
        let scores = self.scores(&rows, &readings, numbers)?;
        let rows = Arc::new(rows);
        let told = prompts.into_iter().map(|of_model| of_model.told);
        let told: Arc<[Option<Told>]> = told.collect();
        let of_rules = self.reads.rules.iter().zip(scores);
        let table = |(rule, scores): (&Arc<Rule>, Vec<f64>)| SweepTable {
            models: models.iter().map(|m| m.name.clone()).collect(),
            prompts: Arc::clone(self.prompts),
            has_alpha: self.action.mode.has_alpha(),
            told: Arc::clone(&told),
            gated: gated.clone(),
            rule: Arc::clone(rule),
            rows: Arc::clone(&rows),
            scores,
        };
        Ok(of_rules.map(table).collect())
    }

    /// The scores of every row by rule, of the numbers that were read.
    fn scores(
        &self,
        rows: &Rows,
        readings: &[Readings],
        numbers: Vec<f64>,
    ) -> Result<Vec<Vec<f64>>, StageError> {
        if readings.iter().all(Readings::is_plain) {
            return Ok(vec![numbers]);
        }
        let mut scores = vec![Vec::with_capacity(rows.count()); self.reads.rules.len()];
        let (mut rest, mut number) = (numbers.as_slice(), 0);
        for of_model in readings {
            let (of_rows, others) = rest.split_at(rows.of_model() * of_model.width);
            rest = others;
            for row in of_rows.chunks(of_model.width) {
                let prompt = &self.prompts.prompts[rows.row(number).prompt];
                for (at, rule) in self.reads.rules.iter().enumerate() {
                    scores[at].push(of_model.score((at, rule), row, prompt)?);
                }
                number += 1;
            }
        }
        Ok(scores)
    }

    /// The prompts that the lines point to, as each of the models sees them, and where they are edited. Of a prompt that no line points
    /// to the position is of no consequence.
    fn prompts_of_each(
        &self,
        models: &[&Arc<ModelHandle>],
        lines: &[Line],
    ) -> Result<Vec<PlacedPrompts>, StageError> {
        let mut is_used = vec![false; self.prompts.prompts.len()];
        let sets = lines.iter().flat_map(|line| line.sets.iter());
        sets.for_each(|(_, prompts)| prompts.iter().for_each(|&prompt| is_used[prompt] = true));
        let fed = tokens_of_each(models, self.prompts, self.reads)?;
        let of_model = |(model, tokens): (&Arc<ModelHandle>, Vec<Arc<Tokens>>)| {
            self.placed(model, tokens, &is_used)
        };
        models.iter().copied().zip(fed).map(of_model).collect()
    }

    fn placed(
        &self,
        model: &ModelHandle,
        tokens: Vec<Arc<Tokens>>,
        is_used: &[bool],
    ) -> Result<PlacedPrompts, StageError> {
        let others = self.action.with.iter();
        let others = others.map(|also| also.position.as_ref().unwrap_or(self.position));
        let selections: Vec<&Selection> = [self.position].into_iter().chain(others).collect();
        let layouts = selections
            .iter()
            .map(|s| Layout::of(s, model, &self.reads.chat));
        let layouts: Vec<Layout> = layouts.collect::<Result<_, _>>()?;
        let told = (!self.position.is_last()).then(|| Told {
            position: self.position.numbered(&layouts[0]),
            tokens: tokens
                .iter()
                .map(|tokens| self.position.spelled(&layouts[0], tokens, model))
                .collect(),
        });
        let place = |(index, tokens): (usize, Arc<Tokens>)| {
            let prompt = &self.prompts.prompts[index];
            let each = selections.iter().zip(&layouts);
            let positions = each.map(|(selection, layout)| match is_used[index] {
                true => selection.of(layout, &tokens, prompt),
                false => Ok(Positions::At(0)),
            });
            Ok((Arc::clone(&tokens), positions.collect::<Result<_, _>>()?))
        };
        let prompts = tokens.into_iter().enumerate().map(place);
        Ok(PlacedPrompts {
            prompts: prompts.collect::<Result<_, StageError>>()?,
            told,
        })
    }

    /// What a reader should know of the places on each of the models.
    pub(crate) fn findings(&self) -> Result<Vec<String>, StageError> {
        findings(self.position, &self.models, self.reads)
    }
}

/// What a reader should know of where a selection is on some models.
pub(super) fn findings(
    selection: &Selection,
    models: &[&Arc<ModelHandle>],
    settings: &Settings,
) -> Result<Vec<String>, StageError> {
    let mut findings = Vec::new();
    for model in models {
        let layout = Layout::of(selection, model, &settings.chat)?;
        let told = layout.finding();
        findings.extend(told.map(|told| format!("model `{}`: {told}", model.name)));
    }
    Ok(findings)
}

/// Every prompt of a set as the model sees it, in file order.
pub(super) fn tokens_of(
    model: &ModelHandle,
    prompts: &PromptSet,
    settings: &Settings,
) -> Result<Vec<Arc<Tokens>>, StageError> {
    tokens_in(model, prompts, &settings.chat)
}

/// The same in a chat.
pub(super) fn tokens_in(
    model: &ModelHandle,
    prompts: &PromptSet,
    chat: &Chat,
) -> Result<Vec<Arc<Tokens>>, StageError> {
    let each: Vec<Result<Arc<Tokens>, StageError>> = prompts
        .prompts
        .par_iter()
        .map(|prompt| {
            let tokens = model
                .tokens(&prompt.text, chat)
                .map_err(|error| StageError::Data(format!("prompt `{}`: {error}", prompt.id)))?;
            let (length, most) = (tokens.len(), model.config().context_length);
            if length > most {
                return Err(StageError::Data(format!(
                    "prompt `{}` has {length} tokens in the chat template, but model `{}` reads at most {most}; shorten it or leave it out",
                    prompt.id, model.name
                )));
            }
            Ok(tokens.labelled(&prompt.id))
        })
        .collect();
    // The first prompt that cannot be used is told, whichever was found first.
    each.into_iter().collect()
}

/// Every prompt of a set as each of the models sees it, in file order. Models compared in one stage must be fed identical ids
/// (`semantics`: otherwise a difference may be the template's).
pub(super) fn tokens_of_each(
    models: &[&Arc<ModelHandle>],
    prompts: &PromptSet,
    settings: &Settings,
) -> Result<Vec<Vec<Arc<Tokens>>>, StageError> {
    let fed = models
        .iter()
        .map(|model| tokens_of(model, prompts, settings))
        .collect::<Result<Vec<_>, _>>()?;
    let Some((first, rest)) = fed.split_first() else {
        return Ok(fed);
    };
    for (model, tokens) in models.iter().skip(1).zip(rest) {
        let mut pairs = first.iter().zip(tokens);
        if let Some(index) = pairs.position(|(a, b)| a.ids() != b.ids()) {
            return Err(StageError::Data(format!(
                "models `{}` and `{}` are compared but would be fed different token ids, first for prompt `{}`; give one the other's template with `template_from`, or put them in stages of their own",
                models[0].name, model.name, prompts.prompts[index].id
            )));
        }
    }
    Ok(fed)
}

/// What a sweep leaves, to be made part by part.
pub(super) fn in_parts(swept: Swept) -> Vec<(String, Arc<dyn Parts>)> {
    let part = |(name, tables)| (name, Arc::new(tables) as Arc<dyn Parts>);
    swept.into_iter().map(part).collect()
}

pub(super) fn unexpected(wanted: &str, found: &Value) -> StageError {
    StageError::Internal(format!("expected {wanted}, found {found:?}"))
}

/// The activations among values, `[d_model]` each.
pub(super) fn activations(values: Vec<Value>) -> Result<Vec<Vec<f32>>, StageError> {
    values
        .into_iter()
        .map(|value| match value {
            Value::Activation(vector) => Ok(vector),
            other => Err(unexpected("an activation", &other)),
        })
        .collect()
}

/// Groups of prompts by split, in the order of first appearance.
pub(super) fn sets_by_split(prompts: &PromptSet) -> Arc<[Set]> {
    let splits = prompts.splits();
    let numbers: HashMap<&str, usize> = splits.iter().copied().zip(0..).collect();
    let set = |split: &&str| (split.to_string(), vec![]);
    let mut sets: Vec<Set> = splits.iter().map(set).collect();
    for (index, prompt) in prompts.prompts.iter().enumerate() {
        sets[numbers[prompt.split.as_str()]].1.push(index);
    }
    sets.into()
}

/// How many prompts a set has; 0 for one that could not be read.
pub(super) fn prompt_count(inputs: &Inputs, name: &Name) -> usize {
    inputs
        .prompts
        .get(&name.value)
        .map_or(0, |set| set.prompts.len())
}
