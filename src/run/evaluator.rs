//! Answers a stage's cells: from the cache where they are, from an engine where they are not, committing as it goes.
//!
//! ```text
//! lookup    keys, the cache: what need not be computed
//! batch     some of the missing cells, equal ones together
//! sharing   leases: what other runs have claimed is put off, and waited for
//! compute   the rest goes to the engine, and its values to the stage and the cache
//! ```
//!
//! Of the cells themselves only those of one batch lie in memory, prompt by prompt; of the others their numbers.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value as Json;

use crate::cache::{Cache, Lease};
use crate::model::{Cells, ModelError, Value};
use crate::stages::{Evaluate, StageError};

use super::Event;
use super::engine::Engine;

mod batch;
mod compute;
mod lookup;
mod sharing;

use batch::Batch;
use lookup::LookUp;
use sharing::Turns;

/// Cells of a batch: many tiles of every shape, and few enough to hold.
const BATCH_CELLS: usize = 1 << 16;

type Result<T> = std::result::Result<T, StageError>;
/// Takes the value of the cell of a number.
type Take<'t> = &'t mut dyn FnMut(usize, Value);

/// An evaluator for one stage of a run.
pub(super) struct CachedEvaluator<'a> {
    cache: &'a Cache,
    lease: &'a Lease,
    engine: &'a mut dyn Engine,
    /// What need not be computed, and what was.
    pub(super) values: LookUp<'a>,
    /// What the packs say of where their cells come from.
    provenance: Json,
    stop: &'a AtomicBool,
    on_event: &'a mut dyn FnMut(Event<'_>),
}

/// How many of the missing cells of a round have a value.
#[derive(Clone, Copy)]
struct Progress {
    done: usize,
    total: usize,
}

impl<'a> CachedEvaluator<'a> {
    /// `origin` says what is computing: stage, kind and run.
    pub(super) fn new(
        (cache, lease): (&'a Cache, &'a Lease),
        origin: &Json,
        engine: &'a mut dyn Engine,
        stop: &'a AtomicBool,
        on_event: &'a mut dyn FnMut(Event<'_>),
    ) -> Self {
        let mut provenance = engine.provenance();
        if let (Some(all), Some(origin)) = (provenance.as_object_mut(), origin.as_object()) {
            all.extend(origin.clone());
        }
        CachedEvaluator {
            cache,
            lease,
            values: LookUp::new(cache, engine.models()),
            engine,
            provenance,
            stop,
            on_event,
        }
    }

    /// Gets values of a batch's cells: those that have come to the cache meanwhile, and computes what no other run is computing. What is
    /// left then is others', or was left to others that asked for it. Says whether there was anything that no other run was computing.
    fn work_off(
        &mut self,
        batch: &mut Batch<'_>,
        progress: Progress,
        take: Take<'_>,
    ) -> Result<bool> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(StageError::Interrupted);
        }
        // An earlier batch may have had an equal cell.
        self.values.look_again(batch, take)?;
        let claimed = match self.values.compares() {
            true => (0..batch.len()).collect(),
            false => {
                let claimed = self.lease.claim(&batch.wanted());
                // Before a claim is given up its cells are committed: what nobody claims is either there by now, or missing. Whoever
                // committed it may be gone.
                self.cache.cells().refresh()?;
                self.values.look_again(batch, take)?;
                claimed
            }
        };
        self.compute(batch, &claimed, progress, take)?;
        Ok(!claimed.is_empty())
    }
}

impl Evaluate for CachedEvaluator<'_> {
    fn evaluate_each(&mut self, cells: &dyn Cells, take: Take<'_>) -> Result<()> {
        let missing = self.values.take_cached(cells, take)?;
        let mut progress = Progress {
            done: 0,
            total: missing.len(),
        };
        let mut turns = Turns::new(self.lease, cells, missing.portions(BATCH_CELLS));
        drop(missing);
        // Of the cells without a value, over all batches, the first and how many more there are.
        let mut failed: Option<(String, usize)> = None;
        while let Some(mut batch) = turns.next() {
            let asked = batch.asked();
            let worked = self.work_off(&mut batch, progress, take);
            if worked.is_err() {
                self.lease.release();
            }
            let has_claimed = match worked {
                Ok(has_claimed) => has_claimed,
                // The rest of the batch is computed.
                Err(StageError::Model(ModelError::Cells { first, more })) => {
                    failed = Some(match failed {
                        None => (first, more),
                        Some((first, count)) => (first, count + 1 + more),
                    });
                    continue;
                }
                Err(error) => return Err(error),
            };
            batch.forget_settled();
            let settled = asked - batch.asked();
            progress.done += settled;
            turns.put_back(batch, !has_claimed && settled == 0);
        }
        self.lease.release();
        match failed {
            None => Ok(()),
            Some((first, more)) => Err(StageError::Model(ModelError::Cells { first, more })),
        }
    }
}
