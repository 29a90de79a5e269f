//! Telling the living from the dead by the reader's own clock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::cache::Key;

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
