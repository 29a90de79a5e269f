//! Sharing: the missing cells batch by batch, what is left to other runs that have claimed it, and how long they are waited for.

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
    /// What each batch asks for that was not begun.
    new: std::vec::IntoIter<Vec<Ask>>,
    /// Those that were put off, or are shared with others.
    begun: VecDeque<Batch<'a>>,
    /// Batches in a row of which nothing could be had.
    in_vain: usize,
    pause: Duration,
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
            new: portions
                .map(<[Ask]>::to_vec)
                .collect::<Vec<_>>()
                .into_iter(),
            begun: VecDeque::new(),
            in_vain: 0,
            pause: LOOK_AGAIN,
        }
    }

    pub(super) fn next(&mut self) -> Option<Batch<'a>> {
        match self.new.next() {
            Some(asks) => Some(Batch::new(self.cells, asks)),
            None => self.begun.pop_front(),
        }
    }

    /// Takes back a batch of which only what is missing is left, if anything is. Waits where nothing could be had of any batch.
    pub(super) fn put_back(&mut self, batch: Batch<'a>, was_in_vain: bool) {
        match was_in_vain {
            true => self.in_vain += 1,
            false => (self.in_vain, self.pause) = (0, LOOK_AGAIN),
        }
        let others = self.new.len() + self.begun.len();
        let wanted = (self.in_vain > others).then(|| batch.wanted());
        if batch.len() > 0 {
            self.begun.push_back(batch);
        }
        if let Some(wanted) = wanted {
            self.lease.wait_for(&wanted);
            std::thread::sleep(self.pause);
            self.pause = (2 * self.pause).min(LOOK_RARELY);
        }
    }
}
