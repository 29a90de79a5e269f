//! Work on what comes from outside and may ask for anything: a chat template is a program, a tokenizer's file a pipeline of rewriting rules.
//!
//! Neither can be bounded by looking at it, and the libraries that run them bound only part of it: a list may hold itself twice, forty times
//! over, and is written out in one step. So they run on a thread of their own with a deep stack and an allowance of memory. The program's
//! allocator counts what such a thread asks for; where it asks for more than it is allowed, or stands too deep in its stack, it is stopped where
//! it stands, for ever, and whoever waits for it is told. A panic is told the same way.
//!
//! What is counted is everything ever asked for, too, and not only what is held at one time: nearly all work asks for memory, so that this bounds
//! the time, and in the same way on every machine. A thread that was stopped keeps what it held until the program ends, which it does
//! soon: the error is that of a file of the study. Memory that C libraries take is not counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::guard::caught;

/// Bytes of the stack: parsers and values may be nested some hundred thousand deep before their own bounds end it.
const STACK_BYTES: usize = 128 << 20;
/// How much of the stack may be taken where memory is asked for.
const STACK_TAKEN_BYTES: usize = STACK_BYTES / 8 * 7;
/// Whoever waits longer than this for an answer that takes milliseconds need not wait on.
const PATIENCE: Duration = Duration::from_secs(60);

/// What some work may ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// Bytes held at one time.
    pub(super) held_bytes: usize,
    /// Bytes asked for in all, given back or not.
    pub(super) asked_bytes: usize,
}

impl Allowance {
    /// Of work on a file of some bytes.
    pub(super) fn of_file(bytes: usize) -> Self {
        Self::of(64, bytes, 256)
    }

    /// Of work on a text of some bytes. Where each of them becomes a token of its own, tokenising takes some 500 for each.
    pub(super) fn of_text(bytes: usize) -> Self {
        Self::of(16, bytes, 1024)
    }

    /// A fixed part, and so much for every byte.
    fn of(megabytes: usize, bytes: usize, for_each: usize) -> Self {
        Allowance {
            held_bytes: (megabytes << 20).saturating_add(bytes.saturating_mul(for_each)),
            asked_bytes: (megabytes << 22).saturating_add(bytes.saturating_mul(16 * for_each)),
        }
    }
}

/// Does some work within an allowance, on a thread of its own.
///
/// # Errors
/// What stopped it, in words: more memory than allowed, nesting, time, or its own panic.
pub(super) fn confined<T: Send + 'static>(
    allowance: Allowance,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let worker = idle().pop().map_or_else(spawn, Ok)?;
    let watch = Arc::new(Watch {
        state: AtomicU8::new(WORKING),
        waiter: thread::current(),
    });
    let answer = Arc::new(Mutex::new(None));
    let (watched, given) = (Arc::clone(&watch), Arc::clone(&answer));
    let job = Box::new(move || {
        let ledger = Ledger {
            allowance,
            held: Cell::new(0),
            asked: Cell::new(0),
            stack_top: stack_pointer(),
            watch: &*watched,
        };
        let outcome = ledger.keep(|| caught(work));
        *given.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        watched.end(DONE);
    });
    if worker.send(job).is_err() {
        return Err("the thread that does the work is gone".to_string());
    }
    match watch.wait() {
        DONE => {
            idle().push(worker);
            let outcome = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
            outcome.unwrap_or_else(|| Err("there is no answer".to_string()))
        }
        HELD_TOO_MUCH => Err(format!(
            "it takes more than {} MB of memory",
            allowance.held_bytes >> 20
        )),
        TOO_DEEP => Err("it is nested too deeply".to_string()),
        ASKED_TOO_MUCH => Err("it does not come to an end within reason".to_string()),
        _ => Err(format!(
            "it has not come to an end in {} seconds",
            PATIENCE.as_secs()
        )),
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that wait for work; the tokenizer keeps what it has learnt of words with the thread.
static IDLE: Mutex<Vec<Sender<Job>>> = Mutex::new(Vec::new());

fn idle() -> MutexGuard<'static, Vec<Sender<Job>>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn() -> Result<Sender<Job>, String> {
    let (sender, jobs) = channel::<Job>();
    let named = thread::Builder::new()
        .name("confined".to_string())
        .stack_size(STACK_BYTES);
    let spawned = named.spawn(move || jobs.into_iter().for_each(|job| job()));
    spawned
        .map(|_| sender)
        .map_err(|error| format!("no thread to do it on: {error}"))
}

const WORKING: u8 = 0;
const DONE: u8 = 1;
const HELD_TOO_MUCH: u8 = 2;
const ASKED_TOO_MUCH: u8 = 3;
const TOO_DEEP: u8 = 4;

/// How the work stands, and who waits for it.
struct Watch {
    state: AtomicU8,
    waiter: Thread,
}

impl Watch {
    fn end(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        self.waiter.unpark();
    }

    /// How it ended; [`WORKING`] where it did not.
    fn wait(&self) -> u8 {
        let started = Instant::now();
        loop {
            let state = self.state.load(Ordering::Acquire);
            let patience = PATIENCE.saturating_sub(started.elapsed());
            if state != WORKING || patience.is_zero() {
                return state;
            }
            thread::park_timeout(patience);
        }
    }
}

/// What a thread has asked for, kept while it works.
struct Ledger {
    allowance: Allowance,
    held: Cell<usize>,
    asked: Cell<usize>,
    /// Where the stack stood when the work began.
    stack_top: usize,
    /// Kept alive by the job.
    watch: *const Watch,
}

thread_local! {
    static LEDGER: Cell<*const Ledger> = const { Cell::new(ptr::null()) };
}

impl Ledger {
    /// Does the work, with everything this thread asks for counted. The work must not unwind.
    fn keep<T>(&self, work: impl FnOnce() -> T) -> T {
        LEDGER.set(self);
        let answer = work();
        LEDGER.set(ptr::null());
        answer
    }

    fn asks_for(&self, bytes: usize) {
        // What was allocated before the work began may be given back within it.
        self.held.set(self.held.get().saturating_add(bytes));
        self.asked.set(self.asked.get().saturating_add(bytes));
        if self.held.get() > self.allowance.held_bytes {
            self.stop(HELD_TOO_MUCH);
        }
        if self.asked.get() > self.allowance.asked_bytes {
            self.stop(ASKED_TOO_MUCH);
        }
        if self.stack_top.saturating_sub(stack_pointer()) > STACK_TAKEN_BYTES {
            self.stop(TOO_DEEP);
        }
    }

    fn gives_back(&self, bytes: usize) {
        self.held.set(self.held.get().saturating_sub(bytes));
    }

    /// Tells whoever waits, and never returns: an allocator may neither fail here without ending the program nor unwind.
    #[cold]
    fn stop(&self, why: u8) {
        LEDGER.set(ptr::null());
        // SAFETY: the job holds the watch, and never ends.
        unsafe { &*self.watch }.end(why);
        loop {
            thread::park();
        }
    }
}

/// About where the stack stands.
#[inline(never)]
fn stack_pointer() -> usize {
    let here = 0u8;
    ptr::from_ref(std::hint::black_box(&here)).addr()
}

/// The system's allocator, which keeps the ledger of a confined thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Writes an entry into the ledger of this thread, if it is confined.
fn enter(entry: impl FnOnce(&Ledger)) {
    // SAFETY: set by `Ledger::keep` alone, which takes it back before the ledger ends.
    if let Some(ledger) = unsafe { LEDGER.get().as_ref() } {
        entry(ledger);
    }
}

// SAFETY: every call is handed on unchanged; what is done before neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        enter(|ledger| ledger.asks_for(layout.size()));
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        enter(|ledger| ledger.asks_for(layout.size()));
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        enter(|ledger| {
            ledger.gives_back(layout.size());
            ledger.asks_for(size);
        });
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        enter(|ledger| ledger.gives_back(layout.size()));
        unsafe { System.dealloc(old, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Allowance = Allowance {
        held_bytes: 1 << 20,
        asked_bytes: 16 << 20,
    };

    #[test]
    fn work_within_its_allowance_is_done() {
        let text = "abc".to_string();
        assert_eq!(confined(SMALL, move || text.repeat(2)), Ok("abcabc".into()));
    }

    #[test]
    fn one_large_block_and_many_small_ones_are_stopped() {
        let large = confined(SMALL, || vec![1u8; 2 << 20].len());
        assert_eq!(large, Err("it takes more than 1 MB of memory".into()));
        let growing = confined(SMALL, || {
            let mut text = String::new();
            loop {
                text.push_str("more of the same");
            }
        });
        let growing: Result<(), String> = growing;
        assert_eq!(growing, Err("it takes more than 1 MB of memory".into()));
    }

    #[test]
    fn work_that_holds_little_but_never_ends_is_stopped() {
        let endless = confined(SMALL, || {
            loop {
                std::hint::black_box(Box::new(7u64));
            }
        });
        let endless: Result<(), String> = endless;
        assert_eq!(
            endless,
            Err("it does not come to an end within reason".into())
        );
    }

    #[test]
    fn endless_recursion_is_stopped_before_the_stack_is() {
        #[expect(unconditional_recursion)]
        fn deeper(kept: &[u8]) -> u8 {
            let padding = std::hint::black_box([0u8; 4096]);
            deeper(&std::hint::black_box(vec![1u8; 4])) + padding[0] + kept[0]
        }
        let recursive = confined(SMALL, || deeper(&[]));
        assert_eq!(recursive, Err("it is nested too deeply".into()));
    }

    #[test]
    fn a_panic_is_an_answer_and_the_thread_serves_on() {
        let panicked: Result<(), _> = confined(SMALL, || panic!("the {} is gone", "token"));
        assert_eq!(panicked, Err("the token is gone".into()));
        assert_eq!(confined(SMALL, || 7), Ok(7));
    }
}
