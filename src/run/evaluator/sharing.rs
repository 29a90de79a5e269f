//! Sharing: which of the missing cells this run computes, what it leaves to other runs that have claimed it, and how long it waits for them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::cache::Lease;
use crate::model::Cells;

use super::batch::{Ask, Batch};

/// How soon a run that waits for others looks for what they have committed; less often the longer nothing comes, down to [`LOOK_RARELY`].
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const LOOK_RARELY: Duration = Duration::from_secs(2);

/// The batches that are not done, in turn. One that other runs have claimed is put off, and the next is taken; where all are, they are waited
/// for.
pub(super) struct Turns<'a> {
    lease: &'a Lease,
    cells: &'a dyn Cells,
    queue: VecDeque<Queued<'a>>,
    /// Batches in a row of which nothing could be had.
    in_vain: usize,
    pause: Duration,
}

/// Cells that are to be computed.
enum Queued<'a> {
    New(Vec<Ask>),
    /// Put off, or shared with others.
    Begun(Batch<'a>),
}

impl<'a> Turns<'a> {
    pub(super) fn new<'p>(
        lease: &'a Lease,
        cells: &'a dyn Cells,
        portions: impl Iterator<Item = &'p [Ask]>,
    ) -> Self {
        Turns {
            lease,
            cells,
            queue: portions.map(|asks| Queued::New(asks.to_vec())).collect(),
            in_vain: 0,
            pause: LOOK_AGAIN,
        }
    }

    pub(super) fn next(&mut self) -> Option<Batch<'a>> {
        Some(match self.queue.pop_front()? {
            Queued::New(asks) => Batch::new(self.cells, asks),
            Queued::Begun(batch) => batch,
        })
    }

    /// Takes back a batch of which only what is missing is left, if anything is. Waits where nothing could be had of any batch.
    pub(super) fn put_back(&mut self, batch: Batch<'a>, was_in_vain: bool) {
        match was_in_vain {
            true => self.in_vain += 1,
            false => (self.in_vain, self.pause) = (0, LOOK_AGAIN),
        }
        let wanted = (self.in_vain > self.queue.len()).then(|| batch.wanted());
        if batch.len() > 0 {
            self.queue.push_back(Queued::Begun(batch));
        }
        if let Some(wanted) = wanted {
            self.lease.wait_for(&wanted);
            std::thread::sleep(self.pause);
            self.pause = (2 * self.pause).min(LOOK_RARELY);
        }
    }
}

/// A claim on some cells of a batch, while they are computed.
pub(super) struct Claim<'a> {
    /// None where cells are computed only to be compared: these are nobody else's.
    lease: Option<&'a Lease>,
    /// Whether the cells are of several prompts, so that a part can be left to another run: one prompt's are computed by one run.
    is_divisible: bool,
}

impl<'a> Claim<'a> {
    pub(super) fn new(lease: Option<&'a Lease>, batch: &Batch<'_>, places: &[usize]) -> Self {
        let mut prompts = places.iter().map(|&at| batch.prompt(at));
        let first = prompts.next();
        Claim {
            lease,
            is_divisible: prompts.any(|prompt| Some(prompt) != first),
        }
    }

    /// Whether another run has claimed the same cells with better right.
    pub(super) fn is_lost(&self) -> bool {
        self.lease.is_some_and(Lease::is_overruled)
    }

    /// Whether another run is to get a share of the cells.
    pub(super) fn is_to_be_shared(&self) -> bool {
        let is_asked = || self.lease.is_some_and(Lease::is_asked_to_share);
        self.is_divisible && is_asked()
    }
}
