//! Leases: how runs that share a cache know of each other and divide the work.
//!
//! ```text
//! leases/<hex>.json     one run: a counter that it raises every 2 s, what it has claimed, whom it waits for
//! leases/<hex>.cells    the cells it is computing now, by the first 16 bytes of their keys
//! ```
//!
//! A run claims those of its next missing cells that no other run has claimed, computes them, and claims again; cells that another has
//! claimed it puts off. When all that is left is claimed by others it says whose cells it waits for, and a run that is waited for gives up
//! half of its prompts. So a run that is alone claims everything, and two runs share until there is nothing left to share.
//!
//! Nothing is locked, and nothing depends on the clocks or mtimes of a file system: every file is written by its owner alone, whole, by
//! rename. A run whose counter a reader has seen unchanged for 10 s of the reader's own clock is taken for dead, and what it had claimed
//! is free; so is one whose process is known to be gone, because it ran on this machine. A lease that cannot be read stands as it was last
//! read, until its time is up. A run that was only asleep writes its lease again, and of two whose claims overlap then, the one of the
//! larger name gives way. Who claims writes first and looks afterwards; of two that claim the same cell at once, the one of the larger name
//! withdraws, and the other waits for it to have seen that (Lamport's one-bit algorithm). On a file system that shows such writes late, a
//! cell is computed twice, to the same bits. A run that waits claims nothing, so that no two can wait for each other.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::layout::Layout;
use super::{Cache, CacheError, Key, lock, record};

mod files;
mod others;
mod process;

use files::{Beat, Prefix, Purpose, beats, encode_claim, remove};
use others::{Other, Others, STALE_AFTER, Watch};
use process::Process;

/// How often a holder raises its counter.
const BEAT: Duration = Duration::from_secs(2);
/// A claim that has not been settled for so long never will be: whoever made it died at that moment. Tests are given the time that a busy
/// disk takes.
const SETTLED_WITHIN: Duration = if cfg!(test) {
    Duration::from_secs(600)
} else {
    BEAT
};
/// How often whoever waits for leases to change looks at them.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Who is at work on a cache.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Users {
    /// Runs, by their folders: absolute paths on their own machines.
    pub(crate) runs: Vec<PathBuf>,
    /// Number of those who delete what is not needed.
    pub(crate) collections: usize,
}

/// A missing cell that a run would compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) key: Key,
    /// The number of its prompt: cells of one prompt are computed by one run, for they share its prefill.
    pub(crate) prompt: u32,
}

/// The lease of this run, held and kept alive by a thread until it is dropped.
pub(crate) struct Lease {
    shared: Arc<Shared>,
    /// With what is dropped to end it; none where the system gave no thread.
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

struct Shared {
    layout: Layout,
    id: Key,
    own: Mutex<Beat>,
    others: Mutex<Others>,
    /// The cells claimed, in order.
    claimed: Mutex<Vec<Prefix>>,
    /// Whether another run waits for cells that this one has claimed.
    is_waited_for: AtomicBool,
    /// Whether another run with better right has claimed cells that this one has claimed, too.
    is_overruled: AtomicBool,
    /// When the lease was last written; none where it cannot be.
    written: Mutex<Option<Instant>>,
    /// Whether others may have taken this one for dead at some time.
    lapsed: AtomicBool,
}

impl Cache {
    /// Takes a lease for the run in the folder `run` until it is dropped, by which other runs know what it computes.
    pub(crate) fn lease(&self, run: &Path) -> Lease {
        let run = std::path::absolute(run).unwrap_or_else(|_| run.to_path_buf());
        Lease::start(&self.layout, run, Purpose::Run)
    }

    /// Takes a lease to delete from the cache, until it is dropped: runs that start meanwhile wait for its end.
    ///
    /// # Errors
    /// Who else is at work on it; nothing may be deleted then.
    pub(crate) fn lease_to_collect(&self) -> Result<Result<Lease, Users>, CacheError> {
        let lease = Lease::start(&self.layout, PathBuf::new(), Purpose::Collection);
        // The lease is taken first and looked at after, and a run does the same: one of the two sees the other.
        let others = users(&self.layout, Some(&lease))?;
        Ok(match others == Users::default() {
            true => Ok(lease),
            false => Err(others),
        })
    }

    /// Who is at work on the cache, on this machine or another. Takes up to 10 s where one is on another machine.
    pub(crate) fn users(&self) -> Result<Users, CacheError> {
        users(&self.layout, None)
    }
}

impl Lease {
    /// Takes a lease for the run in the folder `run`. Where the cache cannot be written there is none, and no need: nothing can be
    /// committed to it either.
    fn start(layout: &Layout, run: PathBuf, purpose: Purpose) -> Self {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let process = Process::this();
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("{process:?} {number} {}", jiff::Timestamp::now());
        let shared = Arc::new(Shared {
            layout: layout.clone(),
            id: Key::of(name.as_bytes()),
            own: Mutex::new(Beat {
                counter: 0,
                purpose,
                run,
                process,
                claim: 0,
                settled: true,
                cells: 0,
                waits_for: Vec::new(),
            }),
            others: Mutex::default(),
            claimed: Mutex::default(),
            is_waited_for: AtomicBool::new(false),
            is_overruled: AtomicBool::new(false),
            written: Mutex::default(),
            lapsed: AtomicBool::new(false),
        });
        shared.publish(Vec::new(), true, Vec::new());
        let (held, is_held) = channel();
        let beating = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("lease".to_string())
            .spawn(move || beating.keep_alive(&is_held));
        Lease {
            shared,
            thread: thread.ok().map(|thread| (held, thread)),
        }
    }

    /// Claims what can be computed now of some missing cells, and returns their indices. None are left where other runs have claimed them
    /// all: then look for others, or [wait](Lease::wait_for) for these. What was claimed before is given up.
    pub(crate) fn claim(&self, cells: &[Wanted]) -> Vec<usize> {
        let shared = &self.shared;
        let is_waited_for = shared.is_waited_for.swap(false, Ordering::Relaxed);
        shared.is_overruled.store(false, Ordering::Relaxed);
        let others = shared.live_others();
        let prefix = |i: usize| cells[i].key.prefix();
        let mut free: Vec<usize> = (0..cells.len())
            .filter(|&i| !others.iter().any(|other| other.claims(&prefix(i))))
            .collect();
        if is_waited_for {
            free = first_half(free, cells);
        }
        let prefixes = |claimed: &[usize]| claimed.iter().map(|&i| prefix(i)).collect();
        if !free.is_empty() {
            shared.publish(prefixes(&free), false, Vec::new());
            shared.withdraw(&mut free, cells);
        }
        shared.publish(prefixes(&free), true, Vec::new());
        free
    }

    /// Says that there is nothing left to do here but these cells, which others have claimed: they will hear of it and share. Look for the
    /// cells in the cache in a while, and [claim](Lease::claim) what is missing still.
    pub(crate) fn wait_for(&self, cells: &[Wanted]) {
        let others = self.shared.live_others();
        let holds = |other: &&Other| cells.iter().any(|cell| other.claims(&cell.key.prefix()));
        let waits_for = others.iter().filter(holds).map(|other| other.id);
        self.shared.publish(Vec::new(), true, waits_for.collect());
    }

    /// Whether another run waits for cells that this one has claimed, and would take over half of them: to be answered by another
    /// [claim](Lease::claim), when some of these are done.
    pub(crate) fn is_asked_to_share(&self) -> bool {
        self.shared.is_waited_for.load(Ordering::Relaxed)
    }

    /// Whether another run has claimed the same cells with better right: they are to be left to it.
    pub(crate) fn is_overruled(&self) -> bool {
        self.shared.is_overruled.load(Ordering::Relaxed)
    }

    /// Whether somebody is deleting from the cache.
    pub(crate) fn sees_collection(&self) -> bool {
        let others = self.shared.live_others();
        others
            .iter()
            .any(|other| other.beat.purpose == Purpose::Collection)
    }

    /// Whether others have taken this one for alive all the time, and do so now. Where no lease can be written, as on a full disk, nobody
    /// else has one.
    pub(crate) fn is_held(&self) -> bool {
        self.shared.notice_lapse();
        !self.shared.lapsed.load(Ordering::Relaxed)
    }

    /// Gives up what was claimed: it is committed, or will not be computed.
    pub(crate) fn release(&self) {
        self.shared.publish(Vec::new(), true, Vec::new());
        self.shared.is_waited_for.store(false, Ordering::Relaxed);
        self.shared.is_overruled.store(false, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((held, thread)) = self.thread.take() {
            drop(held);
            let _ = thread.join();
        }
        remove(&self.shared.layout, &self.shared.id);
    }
}

/// The cells of the first half of the prompts among `free`, at least one prompt's.
fn first_half(mut free: Vec<usize>, cells: &[Wanted]) -> Vec<usize> {
    let mut seen = HashSet::new();
    let mut prompts: Vec<u32> = free.iter().map(|&i| cells[i].prompt).collect();
    prompts.retain(|&prompt| seen.insert(prompt));
    prompts.truncate(prompts.len().div_ceil(2));
    let kept: HashSet<u32> = prompts.into_iter().collect();
    free.retain(|&i| kept.contains(&cells[i].prompt));
    free
}

impl Shared {
    /// Raises the counter as long as the lease is held, and listens for those who wait.
    fn keep_alive(&self, is_held: &Receiver<()>) {
        while is_held.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
            self.beat();
            let others = self.live_others();
            if others.iter().any(|o| o.beat.waits_for.contains(&self.id)) {
                self.is_waited_for.store(true, Ordering::Relaxed);
            }
            if self.is_overruled_by(&others) {
                self.is_overruled.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Raises the counter. A lease that was removed, by someone who took this run for dead while it slept, is written again.
    fn beat(&self) {
        let mut own = lock(&self.own);
        own.counter += 1;
        if own.cells > 0 && !self.layout.lease(&self.id, "cells").exists() {
            let bytes = encode_claim(own.claim, &lock(&self.claimed));
            self.layout.write_lease(&self.id, "cells", &bytes);
        }
        self.write(&own);
    }

    /// Whether a run of a smaller name claims some of the same cells: each took the other for dead, or did not see it in time.
    fn is_overruled_by(&self, others: &[Other]) -> bool {
        let is_settled = lock(&self.own).settled;
        let claimed = lock(&self.claimed);
        let overlaps = |other: &Other| claimed.iter().any(|cell| other.claims(cell));
        let mut better = others.iter().filter(|o| o.beat.settled && o.id < self.id);
        is_settled && better.any(overlaps)
    }

    /// Gives up those of the cells claimed just now that another run claims with better right.
    fn withdraw(&self, claimed: &mut Vec<usize>, cells: &[Wanted]) {
        let started = Instant::now();
        loop {
            let others = self.live_others();
            let claims = |other: &Other, i: usize| other.claims(&cells[i].key.prefix());
            let has_right = |other: &Other| other.beat.settled || other.id < self.id;
            let keeps = |other: &Other, i: usize| has_right(other) && claims(other, i);
            claimed.retain(|&i| !others.iter().any(|other| keeps(other, i)));
            let mut unsettled = others.iter().filter(|other| !other.beat.settled);
            let unsettled = unsettled.any(|other| claimed.iter().any(|&i| claims(other, i)));
            if !unsettled || started.elapsed() > SETTLED_WITHIN {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Writes which of the cells are claimed now, and who is waited for.
    fn publish(&self, mut claimed: Vec<Prefix>, settled: bool, waits_for: Vec<Key>) {
        claimed.sort_unstable();
        let mut own = lock(&self.own);
        // A claim only ever shrinks between its two writings.
        if own.settled || own.cells != claimed.len() {
            own.claim += 1;
            if !claimed.is_empty() {
                let bytes = encode_claim(own.claim, &claimed);
                self.layout.write_lease(&self.id, "cells", &bytes);
            }
        }
        own.counter += 1;
        own.cells = claimed.len();
        *lock(&self.claimed) = claimed;
        own.settled = settled;
        own.waits_for = waits_for;
        self.write(&own);
    }

    /// Notices that the lease was not written for long, or was removed by someone who took this one for dead while it slept.
    fn notice_lapse(&self) {
        let Some(written) = *lock(&self.written) else {
            return;
        };
        let is_gone = matches!(self.layout.lease(&self.id, "json").try_exists(), Ok(false));
        if is_gone || written.elapsed() > STALE_AFTER / 2 {
            self.lapsed.store(true, Ordering::Relaxed);
        }
    }

    fn write(&self, beat: &Beat) {
        self.notice_lapse();
        match record::encode(&self.id, beat) {
            Ok(text) => {
                if self.layout.write_lease(&self.id, "json", text.as_bytes()) {
                    *lock(&self.written) = Some(Instant::now());
                }
            }
            Err(error) => tracing::debug!("no lease is written: {error}"),
        }
    }

    fn live_others(&self) -> Vec<Other> {
        lock(&self.others).alive(&self.layout, &self.id)
    }
}

/// The number of leases, of the living and the dead.
pub(super) fn count(layout: &Layout) -> Result<usize, CacheError> {
    Ok(beats(layout)?.len())
}

/// Who is at work on the cache, but one. Blocks until each lease has been seen to change, or unchanged for 10 s.
fn users(layout: &Layout, except: Option<&Lease>) -> Result<Users, CacheError> {
    let own = except.map(|lease| lease.shared.id);
    let mut watch = Watch::default();
    loop {
        let now = Instant::now();
        let mut live = Users::default();
        let mut undecided = false;
        for (id, beat) in beats(layout)? {
            let Some(beat) = beat else {
                // It cannot be read at this moment; nothing stays so that is alive.
                undecided |= watch.is_alive(id, u64::MAX, now);
                continue;
            };
            if own == Some(id) || beat.process.is_gone() || !watch.is_alive(id, beat.counter, now) {
                continue;
            }
            undecided |= !beat.process.is_here() && !watch.has_moved(&id);
            match beat.purpose {
                Purpose::Run => live.runs.push(beat.run),
                Purpose::Collection => live.collections += 1,
            }
        }
        if !undecided {
            return Ok(live);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests;
