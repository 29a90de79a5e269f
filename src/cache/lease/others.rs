//! What a run sees of the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::files::{Beat, Prefix, beats, decode_claim, remove};
use super::watch::Watch;
use crate::cache::Key;
use crate::cache::layout::Layout;

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
    claim: Claim,
}

/// What a run has claimed.
#[derive(Clone)]
struct Claim {
    /// The number that it had when it was read.
    number: u64,
    /// In order.
    cells: Arc<[Prefix]>,
}

impl Other {
    pub(super) fn claims(&self, key: &Key) -> bool {
        self.claims_prefix(&key.prefix())
    }

    pub(super) fn claims_prefix(&self, prefix: &Prefix) -> bool {
        self.claim.cells.binary_search(prefix).is_ok()
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
    let nothing = |number| Claim {
        number,
        cells: Arc::from([]),
    };
    if beat.cells == 0 {
        return nothing(beat.claim);
    }
    let known = known.map(|known| &known.claim);
    if let Some(known) = known.filter(|known| known.number == beat.claim) {
        return known.clone();
    }
    let path = layout.lease(id, "cells");
    let bytes = crate::files::read(&path, crate::files::DATA_BYTES).unwrap_or_default();
    match decode_claim(&bytes) {
        Some((number, cells)) => Claim {
            number,
            cells: cells.into(),
        },
        None => known.cloned().unwrap_or_else(|| nothing(u64::MAX)),
    }
}
