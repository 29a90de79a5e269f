//! Computing: missing cells go to the engine, and their values are handed over and committed as they come.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::cache::{self, Cache, Lease};
use crate::model::{Step, Value};
use crate::run::Event;
use crate::stages::StageError;

use super::batch::Batch;
use super::lookup::LookUp;
use super::{CachedEvaluator, Progress, Result, Take};

/// Cells are committed as soon as one is there and the last commit, or the beginning of the work, is this long ago: what a kill can cost.
const COMMIT_AFTER: Duration = Duration::from_secs(2);
/// Or when their values take so many bytes, which is what they may take in memory.
const COMMIT_BYTES: usize = 32 << 20;

impl CachedEvaluator<'_> {
    /// Computes those of some cells of a batch that are missing; fewer where another run asks for a share.
    pub(super) fn compute(
        &mut self,
        batch: &mut Batch<'_>,
        claimed: &[usize],
        progress: Progress,
        take: Take<'_>,
    ) -> Result<()> {
        let claimed = claimed.iter().copied();
        let places: Vec<usize> = claimed.filter(|&at| batch.is_missing(at)).collect();
        if places.is_empty() {
            return Ok(());
        }
        let mut prompts = places.iter().map(|&at| batch.prompt(at));
        let first = prompts.next();
        let is_divisible = prompts.any(|prompt| Some(prompt) != first);
        let chosen = batch.chosen(&places);
        let mut block = Block {
            places: &places,
            batch,
            cache: self.cache,
            provenance: self.provenance.clone(),
            pending: cache::Batch::default(),
            began: Instant::now(),
            lease: (!self.values.compares()).then_some(self.lease),
            is_divisible,
            values: &mut self.values,
            stop: self.stop,
            on_event: &mut *self.on_event,
            take,
            progress,
            problem: None,
        };
        let outcome = self.engine.compute(&chosen, &mut |step| block.hear(step));
        // What was computed is kept even where the rest failed.
        let committed = block.commit();
        let problem = block.problem.take();
        self.values.mark_computed(batch, &places)?;
        if let Some(error) = problem {
            return Err(error);
        }
        let flow = outcome?;
        committed?;
        match flow.is_break() && self.stop.load(Ordering::Relaxed) {
            true => Err(StageError::Interrupted),
            false => Ok(()),
        }
    }
}

/// The cells that the engine has in hand.
struct Block<'b, 'c, 'v> {
    /// Where each is in the batch.
    places: &'b [usize],
    batch: &'b mut Batch<'c>,
    values: &'b mut LookUp<'v>,
    cache: &'b Cache,
    provenance: Json,
    /// Cells that are computed but not yet committed.
    pending: cache::Batch,
    /// When the work on these began.
    began: Instant,
    /// With the claim on the cells; none where they are computed only to be compared: these are nobody else's.
    lease: Option<&'b Lease>,
    /// Whether the cells are of several prompts, so that a part can be left to another run: one prompt's are computed by one run.
    is_divisible: bool,
    stop: &'b AtomicBool,
    on_event: &'b mut dyn FnMut(Event<'_>),
    take: Take<'b>,
    progress: Progress,
    /// Why the work was broken off.
    problem: Option<StageError>,
}

impl Block<'_, '_, '_> {
    /// Hears of a step, and whether there is to be another.
    fn hear(&mut self, step: Step) -> ControlFlow<()> {
        let is_over = match step {
            Step::Loading { model } => {
                (self.on_event)(Event::Loading { model: &model });
                false
            }
            Step::Prefilled { done, total } => {
                (self.on_event)(Event::Prefilled { done, total });
                // Not for those who ask for a share: what is prefilled would be lost, and they get it after the first values.
                self.is_stopped()
            }
            Step::Values(values) => {
                self.problem = self.keep(values).err();
                let is_asked = || self.lease.is_some_and(Lease::is_asked_to_share);
                self.problem.is_some() || self.is_stopped() || self.is_divisible && is_asked()
            }
        };
        match is_over {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Whether the person wants no more, or another run has claimed the same cells with better right.
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.lease.is_some_and(Lease::is_overruled)
    }

    /// Hands values over, and commits them if it is time.
    fn keep(&mut self, values: Vec<(usize, Value)>) -> Result<()> {
        let mut kept = Ok(());
        for (number, value) in values {
            let at = self.places[number];
            let (key, bytes) = (self.batch.key(at), value.to_bytes());
            match self.values.is_new(&key, || self.batch.cell(at), &bytes) {
                Ok(true) => self.pending.push(key, &bytes),
                Ok(false) => {}
                Err(error) => kept = Err(error),
            }
            self.progress.done += self.batch.settle(at, value, &mut *self.take);
        }
        let Progress { done, total } = self.progress;
        (self.on_event)(Event::Computed { done, total });
        let committed = self.commit_if_due();
        kept.and(committed)
    }

    fn commit_if_due(&mut self) -> Result<()> {
        let is_due =
            self.began.elapsed() >= COMMIT_AFTER || self.pending.value_bytes() >= COMMIT_BYTES;
        match is_due && !self.pending.is_empty() {
            true => self.commit(),
            false => Ok(()),
        }
    }

    fn commit(&mut self) -> Result<()> {
        self.provenance["seconds"] = self.began.elapsed().as_secs_f64().into();
        self.provenance["created"] = jiff::Timestamp::now().to_string().into();
        self.began = Instant::now();
        let committed = self.cache.cells().commit(&self.pending, &self.provenance);
        self.pending.clear();
        Ok(committed?)
    }
}
