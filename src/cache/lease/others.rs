//! What a run sees of the others, and how it tells the living from the dead by its own clock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::files::{Beat, Claim, Prefix, beats, decode_claim, remove};
use crate::cache::Key;
use crate::cache::layout::Layout;

/// A counter that has not moved for so long is that of a dead run.
pub(super) const STALE_AFTER: Duration = Duration::from_secs(10);

/// The counters that a reader has seen, and when it first saw each at its present value.
#[derive(Default)]
pub(super) struct Watch {
    seen: HashMap<Key, Seen>,
}

struct Seen {
    counter: u64,
    since: Instant,
    has_moved: bool,
}

impl Watch {
    /// Whether a run whose counter stands at `counter` at the reader's time `now` may be alive.
    pub(super) fn is_alive(&mut self, id: Key, counter: u64, now: Instant) -> bool {
        let seen = self.seen.entry(id).or_insert(Seen {
            counter,
            since: now,
            has_moved: false,
        });
        if seen.counter != counter {
            *seen = Seen {
                counter,
                since: now,
                has_moved: true,
            };
        }
        now.saturating_duration_since(seen.since) < STALE_AFTER
    }

    /// Whether the run's counter has been seen to move.
    pub(super) fn has_moved(&self, id: &Key) -> bool {
        self.seen.get(id).is_some_and(|seen| seen.has_moved)
    }

    /// Lets time pass.
    #[cfg(test)]
    pub(super) fn age(&mut self, by: Duration) {
        for seen in self.seen.values_mut() {
            seen.since = seen.since.checked_sub(by).unwrap();
        }
    }
}

/// What is known of the other runs.
#[derive(Default)]
pub(super) struct Others {
    pub(super) watch: Watch,
    /// What each said last: a lease that cannot be read for a moment stands until its time is up.
    known: HashMap<Key, Other>,
}

/// Another run, as it was seen last.
#[derive(Clone)]
pub(super) struct Other {
    pub(super) id: Key,
    pub(super) beat: Beat,
    /// What it had claimed when that was read.
    claim: Claim,
}

impl Other {
    pub(super) fn claims(&self, cell: &Prefix) -> bool {
        self.claim.1.binary_search(cell).is_ok()
    }
}

impl Others {
    /// The other runs that are alive. Leases of those that are not are removed.
    pub(super) fn alive(&mut self, layout: &Layout, own: &Key) -> Vec<Other> {
        let Others { watch, known } = self;
        let beats = beats(layout).unwrap_or_else(|error| {
            tracing::debug!("other runs are not seen: {error}");
            Vec::new()
        });
        for (id, beat) in beats {
            if let Some(beat) = beat
                && id != *own
            {
                let claim = claim_of(layout, &id, &beat, known.get(&id));
                known.insert(id, Other { id, beat, claim });
            }
        }
        let now = Instant::now();
        known.retain(|id, known| {
            let is_alive =
                !known.beat.process.is_gone() && watch.is_alive(*id, known.beat.counter, now);
            if !is_alive {
                remove(layout, id);
            }
            is_alive
        });
        known.values().cloned().collect()
    }
}

/// What a run has claimed, read again if it has claimed anew. Where it cannot be read now, or is another claim yet, it is read again
/// at the next look.
fn claim_of(layout: &Layout, id: &Key, beat: &Beat, known: Option<&Other>) -> Claim {
    if beat.cells == 0 {
        return (beat.claim, [].into());
    }
    let known = known.map(|known| &known.claim);
    if let Some(known) = known.filter(|(number, _)| *number == beat.claim) {
        return known.clone();
    }
    let path = layout.lease(id, "cells");
    let bytes = crate::files::read(&path, crate::files::DATA_BYTES).unwrap_or_default();
    decode_claim(&bytes)
        .or_else(|| known.cloned())
        .unwrap_or_else(|| (u64::MAX, [].into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_stands_still_for_ten_seconds_is_a_dead_run_s() {
        let (mut watch, id, start) = (Watch::default(), Key::of(b"run"), Instant::now());
        let mut alive = |counter, milliseconds| {
            watch.is_alive(id, counter, start + Duration::from_millis(milliseconds))
        };
        assert!(alive(7, 0));
        assert!(alive(7, 9_999));
        assert!(alive(8, 10_500), "it was slow, and is alive");
        assert!(alive(8, 20_499));
        assert!(!alive(8, 20_500));
        assert!(alive(3, 21_000), "any other value is a sign of life");
    }
}
