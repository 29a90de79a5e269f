//! What is measured inside this process, through the library: reading the model, prefilling, and one more α.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use refusal_dial::inside::model::{
    Cell, Cells, DeviceName, Edit, Evaluator, HookPoint, Intervention, ModelConfig, ModelHandle,
    Positions, Site, Step, Tokens, Value, random_unit_vector,
};
use refusal_dial::inside::plan::{self, Fetch, Opened};
use refusal_dial::inside::spec;
use refusal_dial::inside::stages::{Evaluate, StageError};

use super::Result;
use super::arithmetic::{Counter, Rows, cell_of, prefill_of, prefill_of_shared, shared_tokens};
use super::study::{Files, Size};

/// Repetitions of what is short enough to repeat; the shortest counts.
pub const REPETITIONS: usize = 3;
/// Bytes for prefixes: room for all prompts of the study.
const PREFIX_BUDGET_BYTES: usize = 4 << 30;

/// What one stage needed at least, duplicates of earlier stages not counted.
pub struct StageWork {
    /// Name of the stage.
    pub name: String,
    /// Products with weight matrices.
    pub rows: Rows,
}

/// What the study's prompts and one more α cost.
pub struct Marginal {
    /// Reading the model.
    pub load_seconds: f64,
    /// Prefill and score of the study's prompts.
    pub prefill_seconds: f64,
    /// By layer: one more α over all prompts. It is what three times the study's number of α cost more than that number, by the α, so
    /// that what a sweep costs whatever its size (the last tile, which is not full) is left out.
    pub alpha_seconds: Vec<(usize, f64)>,
}

/// A study, opened here; [`Finished::work`] and [`Finished::marginal`] are of one that has run.
pub struct Finished(Opened);

impl Finished {
    /// Opens the study and its cache.
    pub fn new(files: &Files) -> Result<Self> {
        let document = spec::load(&files.study, &[]).map_err(|error| error.to_string())?;
        let opened = plan::open_study(document, "study", &files.cache(), Fetch::Never)?;
        Ok(Finished(opened))
    }

    /// The model.
    pub fn model(&self) -> Result<&ModelHandle> {
        let model = self.0.inputs.models.values().next();
        Ok(model.ok_or("the study has no model")?)
    }

    /// The model's dimensions.
    pub fn config(&self) -> Result<&ModelConfig> {
        Ok(self.model()?.config())
    }

    /// What every stage needs at least: each is run once more on the values of the cache, and its new cells are counted.
    pub fn work(&self) -> Result<Vec<StageWork>> {
        let n_layers = self.config()?.n_layers;
        let mut inputs = self.0.inputs.clone();
        let mut counter = Counter::new(&self.0.cache);
        let mut stages = Vec::new();
        let mut prefilled: Vec<(usize, Arc<Tokens>)> = Vec::new();
        for spec in &self.0.study.stages {
            counter.next();
            let output = spec.stage.run(&inputs, &mut counter)?;
            inputs
                .stages
                .insert(spec.name.clone(), Arc::new(output.into()));
            let mut rows = Rows::default();
            for cell in &counter.new_cells {
                rows += cell_of(cell, n_layers);
            }
            let prompts = counter.new_prompts.drain(..);
            prefilled.extend(prompts.map(|prompt| (stages.len(), prompt)));
            let name = spec.name.clone();
            stages.push(StageWork { name, rows });
        }
        // How much the prompts share is known once all are.
        let shared = shared_tokens(prefilled.iter().map(|(_, prompt)| prompt));
        for (stage, prompt) in &prefilled {
            stages[*stage].rows += prefill_of(prompt.len(), shared, n_layers);
        }
        if let Some((stage, _)) = prefilled.first() {
            stages[*stage].rows += prefill_of_shared(shared, n_layers);
        }
        Ok(stages)
    }

    /// Times reading the model, the prefill of the study's prompts, and one more α at each layer.
    pub fn marginal(&self, size: &Size) -> Result<Marginal> {
        let cells = self.score_cells()?;
        let (mut load, mut prefill) = (f64::INFINITY, f64::INFINITY);
        let mut loaded = None;
        for _ in 0..REPETITIONS {
            drop(loaded.take());
            let started = Instant::now();
            let mut evaluator = self.evaluator()?;
            load = load.min(started.elapsed().as_secs_f64());
            prefill = prefill.min(seconds(&mut evaluator, &cells)?);
            loaded = Some(evaluator);
        }
        let mut evaluator = loaded.ok_or("the model was not read")?;
        let mut alpha_seconds = Vec::new();
        for &layer in &size.layers {
            let mut shortest = |alphas: usize| -> Result<f64> {
                let mut best = f64::INFINITY;
                for repetition in 0..REPETITIONS {
                    let sweep = self.sweep(&cells, layer, alphas, repetition as u64)?;
                    best = best.min(seconds(&mut evaluator, &sweep)?);
                }
                Ok(best)
            };
            let alphas = size.alphas.len();
            let more = shortest(3 * alphas)? - shortest(alphas)?;
            alpha_seconds.push((layer, more / (2 * alphas) as f64));
        }
        Ok(Marginal {
            load_seconds: load,
            prefill_seconds: prefill,
            alpha_seconds,
        })
    }

    /// The model, read, with room for the prefixes of all prompts.
    pub fn evaluator(&self) -> Result<Evaluator> {
        Ok(self.model()?.load(DeviceName::Cpu, PREFIX_BUDGET_BYTES)?)
    }

    /// The cells of the stage `score`, which need not have run.
    pub fn score_cells(&self) -> Result<Vec<Cell>> {
        let mut stages = self.0.study.stages.iter();
        let score = stages.find(|spec| spec.name == "score");
        let score = score.ok_or("the study has no stage `score`")?;
        let mut asked = Asked(Vec::new());
        match score.stage.run(&self.0.inputs, &mut asked) {
            Ok(_) | Err(StageError::Missing(_)) => Ok(asked.0),
            Err(error) => Err(error.into()),
        }
    }

    /// The cells steered at a layer, with that many α in a random direction.
    fn sweep(&self, cells: &[Cell], layer: usize, alphas: usize, seed: u64) -> Result<Vec<Cell>> {
        let config = self.config()?;
        let vector = Arc::new(random_unit_vector(seed, config.d_model)?);
        let steered = |cell: &Cell, alpha: usize| {
            let edit = Intervention {
                hook: HookPoint::block(layer, Site::ResidPre),
                positions: Positions::At(cell.tokens.len() - 1),
                edit: Edit::Add {
                    vector: Arc::clone(&vector),
                    scale: (alpha + 1) as f64,
                },
            };
            let (tokens, readout) = (Arc::clone(&cell.tokens), cell.readout.clone());
            Cell::new(cell.model, tokens, vec![edit], readout, config.n_layers)
        };
        let alphas = 0..alphas;
        Ok(alphas
            .flat_map(|alpha| cells.iter().map(move |cell| (cell, alpha)))
            .map(|(cell, alpha)| steered(cell, alpha))
            .collect())
    }
}

/// Takes down the cells that a stage asks for, and has none of their values.
struct Asked(Vec<Cell>);

impl Evaluate for Asked {
    fn evaluate_each(
        &mut self,
        cells: &dyn Cells,
        _take: &mut dyn FnMut(usize, Value),
    ) -> std::result::Result<(), StageError> {
        self.0.extend((0..cells.count()).map(|n| cells.cell(n)));
        Err(StageError::Missing(cells.count() as u64))
    }
}

/// Wall time of an evaluation.
pub fn seconds(evaluator: &mut Evaluator, cells: &[Cell]) -> Result<f64> {
    let started = Instant::now();
    let mut values = 0;
    let _ = evaluator.evaluate(&cells, &mut |step| {
        if let Step::Values(batch) = step {
            values += batch.len();
        }
        ControlFlow::Continue(())
    })?;
    if values != cells.len() {
        return Err(format!("{} cells gave {values} values", cells.len()).into());
    }
    Ok(started.elapsed().as_secs_f64())
}
