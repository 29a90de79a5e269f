//! What a person at a terminal sees of work that has no steps to count: what it is and for how long it has been going on.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget};

use super::console::style;

/// Work that takes less is not mentioned.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shows a line on stderr from the moment on when the work takes long until this is dropped. On a terminal only.
pub(super) struct Waiting {
    bar: ProgressBar,
    /// Dropped to say that the work is done.
    done: Option<std::sync::mpsc::Sender<()>>,
    shows: Option<std::thread::JoinHandle<()>>,
}

impl Waiting {
    /// Work that is called `what` begins.
    pub(super) fn for_(what: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if !std::io::stderr().is_terminal() {
            return Waiting {
                bar,
                done: None,
                shows: None,
            };
        }
        bar.set_style(style("{msg}  {elapsed}"));
        bar.set_message(what);
        let (done, is_done) = std::sync::mpsc::channel();
        let shown = bar.clone();
        let show = move || {
            // It ends early when the sender is dropped.
            if is_done.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                shown.set_draw_target(ProgressDrawTarget::stderr());
                shown.enable_steady_tick(Duration::from_millis(250));
            }
        };
        let shows = std::thread::Builder::new().spawn(show).ok();
        Waiting {
            bar,
            done: Some(done),
            shows,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.done.take();
        if let Some(shows) = self.shows.take() {
            let _ = shows.join();
        }
        self.bar.finish_and_clear();
    }
}
