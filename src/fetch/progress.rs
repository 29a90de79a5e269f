//! How far a download is, on stderr: a bar with rate and time left on a terminal, a plain line now and then elsewhere.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two plain lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// The progress of one or more files.
pub(crate) struct Progress {
    /// Hidden where stderr is no terminal. Its length is that of all files, where each is known.
    bar: ProgressBar,
    name: String,
    /// Bytes of the files that are done.
    before: u64,
    /// Bytes of those that were there before anything was fetched.
    there_before: Option<u64>,
    last_line: Instant,
}

impl Progress {
    /// Says what is fetched, and how much where that is known.
    pub(crate) fn new(name: &str, total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        let progress = Self {
            bar: bar.with_style(style(total.is_some())),
            name: name.to_string(),
            before: 0,
            there_before: None,
            last_line: Instant::now(),
        };
        let much = total.map_or(String::new(), |bytes| format!(": {}", DecimalBytes(bytes)));
        progress.say(&format!("fetching {name}{much}"));
        progress.bar.set_draw_target(ProgressDrawTarget::stderr());
        progress
    }

    pub(crate) fn expect(&mut self, total: u64) {
        self.bar.set_length(total);
        self.bar.set_style(style(true));
    }

    /// So many bytes of the file in hand are there.
    pub(crate) fn at(&mut self, bytes: u64) {
        let done = self.before.saturating_add(bytes);
        let there_before = *self.there_before.get_or_insert(done);
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.last_line.elapsed() >= INTERVAL {
            self.last_line = Instant::now();
            let seconds = self.bar.elapsed().as_secs_f64();
            let rate = (done.saturating_sub(there_before) as f64 / seconds) as u64;
            self.say(&line(&self.name, done, self.bar.length(), rate));
        }
    }

    /// The file in hand, of so many bytes, is done.
    pub(crate) fn done(&mut self, bytes: u64) {
        self.at(bytes);
        self.before = self.before.saturating_add(bytes);
    }

    /// A line for the person who waits.
    pub(crate) fn say(&self, text: &str) {
        self.bar.suspend(|| {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        });
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(bounded: bool) -> ProgressStyle {
    let template = match bounded {
        true => {
            "{bar:24} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left"
        }
        false => "{spinner} {decimal_bytes}  {decimal_bytes_per_sec}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// `fetching x: 5 MB of 10 MB, 1 MB/s, 5 seconds left`
fn line(name: &str, done: u64, total: Option<u64>, rate: u64) -> String {
    let mut line = format!("fetching {name}: {}", DecimalBytes(done));
    if let Some(total) = total {
        line += &format!(" of {}", DecimalBytes(total));
    }
    line += &format!(", {}/s", DecimalBytes(rate));
    let seconds = total.and_then(|total| total.saturating_sub(done).checked_div(rate));
    if let Some(seconds) = seconds {
        line += &format!(", {} left", HumanDuration(Duration::from_secs(seconds)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_say_rate_and_time_left() {
        let text = line("`org/tiny`", 5_000_000, Some(10_000_000), 1_000_000);
        assert_eq!(
            text,
            "fetching `org/tiny`: 5.00 MB of 10.00 MB, 1.00 MB/s, 5 seconds left"
        );
        assert_eq!(line("x", 12, None, 0), "fetching x: 12 B, 0 B/s");
        assert_eq!(
            line("x", 12, Some(20), 0),
            "fetching x: 12 B of 20 B, 0 B/s"
        );
    }
}
