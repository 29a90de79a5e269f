//! Leases: how runs that share a cache know of each other and divide the work.
//!
//! ```text
//! leases/<hex>.json     one run: a counter that it raises every 2 s, what it has claimed, whom it waits for
//! leases/<hex>.cells    the cells it is computing now, by the first 16 bytes of their keys
//! ```
//!
//! A run claims the missing cells that no other run has claimed, computes them, and claims again. When all that is left is claimed by
//! others it says whose cells it waits for, and a run that is waited for gives up half of its prompts. So a run that is alone does
//! everything in one go, and two runs share until there is nothing left to share.
//!
//! Nothing is locked, and nothing depends on the clocks or mtimes of a file system: every file is written by its owner alone, whole, by
//! rename. A run whose counter a reader has seen unchanged for 10 s of the reader's own clock is taken for dead, and what it had claimed
//! is free; so is one whose process is known to be gone, because it ran on this machine. A run that was only asleep writes its lease
//! again. Who claims writes first and looks afterwards; of two that claim the same cell at once, the one of the larger name
//! withdraws, and the other waits for it to have seen that (Lamport's one-bit algorithm). On a file system that shows such writes late, a cell is computed twice, to the same bits. A run that waits claims nothing, so that no two
//! can wait for each other.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::index::list;
use super::layout::Layout;
use super::{CacheError, Key, record};

mod process;
mod watch;

use process::Process;
use watch::Watch;

/// How often a holder raises its counter.
const BEAT: Duration = Duration::from_secs(2);
/// How often whoever waits for leases to change looks at them.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The first bytes of a cell's key, which tell it from all others.
type Prefix = [u8; 16];

fn prefix(key: &Key) -> Prefix {
    std::array::from_fn(|i| key.as_bytes()[i])
}

/// What a lease file says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Beat {
    counter: u64,
    /// The run's folder.
    run: PathBuf,
    process: Process,
    /// Raised with every claim.
    claim: u64,
    /// Whether the claim stands: its holder has looked at the others since it was written.
    settled: bool,
    /// Number of cells claimed.
    cells: usize,
    /// The runs that have claimed what this one still needs.
    waits_for: Vec<Key>,
}

/// A run that is alive on some cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveRun {
    /// Its folder, as an absolute path on its own machine; `run.json` in it lists the stages that it uses.
    pub run: PathBuf,
    /// Its process, on its own machine.
    pub process: u32,
    /// Number of cells that it is computing now.
    pub cells: usize,
}

/// The lease of this run, held and kept alive by a thread until it is dropped.
pub struct Lease {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    layout: Layout,
    id: Key,
    own: Mutex<Beat>,
    others: Mutex<Others>,
    /// Whether another run waits for cells that this one has claimed.
    asked: AtomicBool,
    ended: Mutex<bool>,
    end: Condvar,
}

/// What is known of the other runs.
#[derive(Default)]
struct Others {
    watch: Watch,
    /// Number of the claim and its cells in order, by run.
    claims: HashMap<Key, (u64, Arc<[Prefix]>)>,
}

/// Another run that is alive.
struct Other {
    id: Key,
    beat: Beat,
    /// In order.
    cells: Arc<[Prefix]>,
}

impl Other {
    fn claims(&self, key: &Key) -> bool {
        self.cells.binary_search(&prefix(key)).is_ok()
    }
}

impl Lease {
    /// Takes a lease for the run in the folder `run`. Where the cache cannot be written there is none, and no need: nothing can be
    /// committed to it either.
    pub(super) fn start(layout: &Layout, run: PathBuf) -> Self {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let process = Process::this();
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("{process:?} {number} {}", jiff::Timestamp::now());
        let shared = Arc::new(Shared {
            layout: layout.clone(),
            id: Key::of(name.as_bytes()),
            own: Mutex::new(Beat {
                counter: 0,
                run,
                process,
                claim: 0,
                settled: true,
                cells: 0,
                waits_for: Vec::new(),
            }),
            others: Mutex::default(),
            asked: AtomicBool::new(false),
            ended: Mutex::new(false),
            end: Condvar::new(),
        });
        shared.publish(&[], &[], true, Vec::new());
        let beating = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("lease".to_string())
            .spawn(move || beating.keep_alive());
        Lease {
            shared,
            thread: thread.ok(),
        }
    }

    /// Claims what can be computed now of some missing cells, each with the number of its prompt, and returns their indices. None are
    /// left where other runs have claimed them all: then look for them in the cache again in a while, and call this again for what is
    /// missing still. What was claimed before is given up.
    pub fn claim(&self, cells: &[(Key, usize)]) -> Vec<usize> {
        let shared = &self.shared;
        let asked = shared.asked.swap(false, Ordering::Relaxed);
        let mut others = shared.live_others();
        let mut free: Vec<usize> = (0..cells.len())
            .filter(|&i| !others.iter().any(|other| other.claims(&cells[i].0)))
            .collect();
        if asked {
            free = first_half(free, cells);
        }
        if !free.is_empty() {
            shared.publish(&free, cells, false, Vec::new());
            others = shared.withdraw(&mut free, cells);
        }
        let waits_for = match free.is_empty() {
            true => waited_for(cells, &others),
            false => Vec::new(),
        };
        shared.publish(&free, cells, true, waits_for);
        free
    }

    /// Whether another run waits for cells that this one has claimed, and would take over half of them.
    pub fn is_asked_to_share(&self) -> bool {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// Whether there are other runs on this cache, as far as is known.
    pub fn is_shared(&self) -> bool {
        !lock(&self.shared.others).claims.is_empty()
    }

    /// Gives up what was claimed: it is committed, or will not be computed.
    pub fn release(&self) {
        self.shared.publish(&[], &[], true, Vec::new());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *lock(&self.shared.ended) = true;
        self.shared.end.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        remove(&self.shared.layout, &self.shared.id);
    }
}

/// The cells of the first half of the prompts among `free`, at least one prompt's.
fn first_half(free: Vec<usize>, cells: &[(Key, usize)]) -> Vec<usize> {
    let mut seen = HashSet::new();
    let prompts: Vec<usize> = free
        .iter()
        .map(|&i| cells[i].1)
        .filter(|&prompt| seen.insert(prompt))
        .collect();
    let kept: HashSet<usize> = prompts[..prompts.len().div_ceil(2)]
        .iter()
        .copied()
        .collect();
    free.into_iter()
        .filter(|&i| kept.contains(&cells[i].1))
        .collect()
}

/// Those that have claimed some of the cells.
fn waited_for(cells: &[(Key, usize)], others: &[Other]) -> Vec<Key> {
    let holds = |other: &&Other| cells.iter().any(|(key, _)| other.claims(key));
    others.iter().filter(holds).map(|other| other.id).collect()
}

impl Shared {
    /// Raises the counter until the lease is dropped, and listens for those who wait.
    fn keep_alive(&self) {
        let mut ended = lock(&self.ended);
        loop {
            let waited = self.end.wait_timeout(ended, BEAT);
            ended = waited.unwrap_or_else(PoisonError::into_inner).0;
            if *ended {
                return;
            }
            drop(ended);
            {
                let mut own = lock(&self.own);
                own.counter += 1;
                self.write(&own);
            }
            let others = self.live_others();
            if others.iter().any(|o| o.beat.waits_for.contains(&self.id)) {
                self.asked.store(true, Ordering::Relaxed);
            }
            ended = lock(&self.ended);
        }
    }

    /// Gives up those of the cells claimed just now that another run claims with better right. Says who the others are.
    fn withdraw(&self, claimed: &mut Vec<usize>, cells: &[(Key, usize)]) -> Vec<Other> {
        let started = Instant::now();
        loop {
            let others = self.live_others();
            let keeps = |other: &Other, i: usize| {
                (other.beat.settled || other.id < self.id) && other.claims(&cells[i].0)
            };
            claimed.retain(|&i| !others.iter().any(|other| keeps(other, i)));
            let unsettled = others.iter().any(|other| {
                !other.beat.settled && claimed.iter().any(|&i| other.claims(&cells[i].0))
            });
            // One that died at this moment never settles.
            if !unsettled || started.elapsed() > BEAT {
                return others;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Writes which of the cells are claimed now, and who is waited for.
    fn publish(
        &self,
        claimed: &[usize],
        cells: &[(Key, usize)],
        settled: bool,
        waits_for: Vec<Key>,
    ) {
        let mut prefixes: Vec<Prefix> = claimed.iter().map(|&i| prefix(&cells[i].0)).collect();
        prefixes.sort_unstable();
        let mut own = lock(&self.own);
        // A claim only ever shrinks between its two writings.
        if own.settled || own.cells != prefixes.len() {
            own.claim += 1;
            if !prefixes.is_empty() {
                let bytes = encode_claim(own.claim, &prefixes);
                self.layout.write_lease(&self.id, "cells", &bytes);
            }
        }
        own.counter += 1;
        own.cells = prefixes.len();
        own.settled = settled;
        own.waits_for = waits_for;
        self.write(&own);
    }

    fn write(&self, beat: &Beat) {
        match record::encode(&self.id, beat) {
            Ok(text) => self.layout.write_lease(&self.id, "json", text.as_bytes()),
            Err(error) => tracing::debug!("no lease is written: {error}"),
        }
    }

    /// The other runs that are alive. Leases of those that are not are removed.
    fn live_others(&self) -> Vec<Other> {
        let mut others = lock(&self.others);
        let beats = match beats(&self.layout) {
            Ok(beats) => beats,
            Err(error) => {
                tracing::debug!("other runs are not seen: {error}");
                return Vec::new();
            }
        };
        let now = Instant::now();
        let mut live = Vec::new();
        for (id, beat) in beats.into_iter().filter(|(id, _)| *id != self.id) {
            if beat.process.is_gone() || !others.watch.is_alive(id, beat.counter, now) {
                remove(&self.layout, &id);
                continue;
            }
            let cells = self.claim_of(&id, &beat, &others.claims);
            live.push(Other { id, beat, cells });
        }
        others.claims = live
            .iter()
            .map(|other| (other.id, (other.beat.claim, Arc::clone(&other.cells))))
            .collect();
        live
    }

    /// The cells that a run has claimed, read again if it has claimed anew.
    fn claim_of(
        &self,
        id: &Key,
        beat: &Beat,
        known: &HashMap<Key, (u64, Arc<[Prefix]>)>,
    ) -> Arc<[Prefix]> {
        if beat.cells == 0 {
            return Arc::from([]);
        }
        match known.get(id) {
            Some((claim, cells)) if *claim == beat.claim => Arc::clone(cells),
            _ => {
                let bytes = std::fs::read(self.layout.lease(id, "cells")).unwrap_or_default();
                let cells = decode_claim(&bytes);
                cells.map_or_else(|| Arc::from([]), |(_, cells)| cells.into())
            }
        }
    }
}

/// The runs that are alive on the cache. Blocks until each lease has been seen to change, or unchanged for 10 s.
pub(super) fn live_runs(layout: &Layout) -> Result<Vec<LiveRun>, CacheError> {
    let mut watch = Watch::default();
    loop {
        let now = Instant::now();
        let mut live = Vec::new();
        let mut undecided = false;
        for (id, beat) in beats(layout)? {
            if beat.process.is_gone() || !watch.is_alive(id, beat.counter, now) {
                continue;
            }
            undecided |= !beat.process.is_here() && !watch.has_moved(&id);
            live.push(LiveRun {
                run: beat.run,
                process: beat.process.id,
                cells: beat.cells,
            });
        }
        if !undecided {
            return Ok(live);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Every lease there is, of the living and the dead; what cannot be read is passed over.
fn beats(layout: &Layout) -> Result<Vec<(Key, Beat)>, CacheError> {
    let paths = list(&layout.leases())?;
    let beats = paths.into_iter().filter_map(|path| {
        let id = path.file_name()?.to_str()?.strip_suffix(".json")?;
        let id: Key = id.parse().ok()?;
        let text = std::fs::read(path).ok()?;
        Some((id, record::decode(&text, &id)?))
    });
    Ok(beats.collect())
}

fn remove(layout: &Layout, id: &Key) {
    for kind in ["json", "cells", "json.new", "cells.new"] {
        let _ = std::fs::remove_file(layout.lease(id, kind));
    }
}

fn encode_claim(claim: u64, cells: &[Prefix]) -> Vec<u8> {
    let mut bytes = claim.to_le_bytes().to_vec();
    bytes.extend(cells.iter().flatten());
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// The claim's number and its cells in order; none for a file that is not whole.
fn decode_claim(bytes: &[u8]) -> Option<(u64, Vec<Prefix>)> {
    let (bytes, stated) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(bytes) != *stated {
        return None;
    }
    let (number, cells) = bytes.split_first_chunk::<8>()?;
    let (cells, []) = cells.as_chunks::<16>() else {
        return None;
    };
    Some((u64::from_le_bytes(*number), cells.to_vec()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
