//! `tracing` events: warnings to stderr, everything to the run's `log.jsonl` once there is one.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::harmless;

/// A log file that may not exist yet; what is written before is kept in memory.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Sink>>);

#[derive(Default)]
struct Sink {
    early: Vec<u8>,
    file: Option<File>,
}

impl Log {
    /// Starts logging, once per process.
    pub(super) fn start() -> Self {
        let log = Log::default();
        let written = log.clone();
        let to_file = tracing_subscriber::fmt::layer()
            .json()
            .log_internal_errors(false)
            .with_writer(move || written.clone())
            .with_filter(LevelFilter::INFO);
        let to_stderr = tracing_subscriber::fmt::layer()
            .without_time()
            .with_target(false)
            .log_internal_errors(false)
            .with_writer(|| Shown)
            .with_filter(LevelFilter::WARN);
        // Fails only where a subscriber is there already, and then that one serves.
        let _ = tracing_subscriber::registry()
            .with(to_file)
            .with(to_stderr)
            .try_init();
        log
    }

    /// Writes what came so far, and all that comes, to `log.jsonl` in the folder.
    pub(super) fn write_to(&self, folder: &Path) -> io::Result<()> {
        let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = File::create(folder.join("log.jsonl"))?;
        file.write_all(&sink.early)?;
        sink.early.clear();
        sink.file = Some(file);
        Ok(())
    }
}

/// The terminal, which events reach as text for people.
struct Shown;

impl Write for Shown {
    /// An event comes in one piece.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        io::stderr().write_all(harmless::text(&text).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut sink.file {
            Some(file) => file.write(bytes),
            None => sink.early.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
