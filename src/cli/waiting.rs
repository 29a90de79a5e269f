//! What a person at a terminal sees of work that has no steps to count: what it is and for how long it has been going on.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget};

use super::console::style;

/// Work that takes less is not mentioned.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shows a line on stderr from the moment on when the work takes long until this is dropped. On a terminal only.
pub(super) struct Waiting {
    bar: ProgressBar,
    /// What shows it, with what is dropped to say that the work is done.
    shows: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Waiting {
    /// Work that is called `what` begins.
    pub(super) fn for_(what: &'static str) -> Self {
        let bar = ProgressBar::hidden();
        bar.set_style(style("{msg}  {elapsed}"));
        bar.set_message(what);
        let (done, is_done) = channel();
        let shown = bar.clone();
        let show = move || {
            // It ends early when the sender is dropped.
            if is_done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                shown.set_draw_target(ProgressDrawTarget::stderr());
                shown.enable_steady_tick(Duration::from_millis(250));
            }
        };
        let shows = Builder::new().spawn(show).ok();
        Waiting {
            bar,
            shows: shows.map(|shows| (done, shows)),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((done, shows)) = self.shows.take() {
            drop(done);
            let _ = shows.join();
        }
        self.bar.finish_and_clear();
    }
}
