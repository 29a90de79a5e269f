//! What a person sees while a study runs, on stderr: a bar with rate and time left on a terminal, plain lines elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::harmless;
use crate::run::{Event, StageReport, StageStatus};

use super::shown;

pub(super) struct Console {
    bar: ProgressBar,
    stage: String,
    phase: &'static str,
    width: usize,
}

impl Console {
    /// For stages with names of at most that many characters.
    pub(super) fn new(width: usize) -> Self {
        Console {
            bar: bar("{prefix}  {bar:24} {pos}/{len} {msg}  {per_sec}  {eta} left"),
            stage: String::new(),
            phase: "",
            width,
        }
    }

    /// Shows one event, and leaves it in the log.
    pub(super) fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Started { run_dir, findings } => {
                tracing::info!(run = %run_dir.display(), "started");
                self.line(&format!("run folder {}", shown(run_dir)));
                for finding in *findings {
                    tracing::info!(finding, "finding");
                    self.line(&format!("note: {}", harmless::line(finding)));
                }
            }
            Event::StageStarted { name } => {
                tracing::info!(stage = name, "stage started");
                self.stage = (*name).to_string();
                self.phase = "";
            }
            Event::Loading { model } => {
                tracing::info!(stage = self.stage, model, "loading model");
                self.of_stage(&self.stage, &format!("loading model `{model}`"));
            }
            Event::Prefilled { done, total } => self.progress("prompts prefilled", *done, *total),
            Event::Computed { done, total } => self.progress("cells", *done, *total),
            Event::StageEnded { report, findings } => self.stage_ended(report, findings),
        }
    }

    fn progress(&mut self, phase: &'static str, done: usize, total: usize) {
        if self.phase != phase || self.bar.length() != Some(total as u64) {
            self.phase = phase;
            self.bar.reset();
            self.bar.set_length(total as u64);
            self.bar.set_prefix(self.padded(&self.stage));
            self.bar.set_message(phase);
        }
        self.bar.set_position(done as u64);
    }

    fn stage_ended(&mut self, report: &StageReport, findings: &[String]) {
        self.bar.finish_and_clear();
        tracing::info!(
            stage = report.name,
            status = ?report.status,
            computed = report.cells_computed,
            cached = report.cells_cached,
            seconds = report.seconds,
            "stage ended"
        );
        let status = report.status.name();
        let (computed, found) = (report.cells_computed, found(report));
        let took = duration(report.seconds);
        self.of_stage(
            &report.name,
            &format!("{status:11}  {computed:>7} computed  {found}  {took}"),
        );
        if report.status == StageStatus::Recomputed {
            let note = "note: computed again as forced; every cell and table has the bits that were cached";
            self.of_stage("", note);
        }
        for finding in findings {
            tracing::info!(stage = report.name, finding, "finding");
            self.of_stage("", &format!("note: {}", harmless::line(finding)));
        }
    }

    fn padded(&self, stage: &str) -> String {
        format!("{stage:width$}", width = self.width)
    }

    fn of_stage(&self, stage: &str, text: &str) {
        self.line(&format!("{}  {text}", self.padded(stage)));
    }

    fn line(&self, text: &str) {
        self.bar.suspend(|| super::tell(text));
    }
}

/// Where the cells came from that a stage did not compute: earlier stages of the run, or earlier runs.
fn found(report: &StageReport) -> String {
    let shared = &report.cells_shared;
    let earlier = report.cells_cached.saturating_sub(shared.values().sum());
    let with = shared
        .iter()
        .map(|(stage, cells)| (*cells, format!("shared with {stage}")));
    let cached = (earlier > 0 || shared.is_empty()).then(|| (earlier, "from cache".to_string()));
    let all = cached.into_iter().chain(with);
    let told: Vec<String> = all
        .map(|(cells, whence)| format!("{cells:>7} {whence}"))
        .collect();
    told.join("  ")
}

/// A bar on stderr, where that is a terminal.
pub(super) fn bar(template: &str) -> ProgressBar {
    ProgressBar::no_length().with_style(style(template))
}

pub(super) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Seconds as a person says them.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = Duration::from_secs_f64(seconds).as_secs();
    match whole / 3600 {
        0 => format!("{} min {} s", whole / 60, whole % 60),
        hours => format!("{hours} h {} min", whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(1.24), "1.2 s");
        assert_eq!(duration(61.0), "1 min 1 s");
        assert_eq!(duration(7320.0), "2 h 2 min");
    }
}
