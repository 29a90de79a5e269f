//! The figures, for a person and for a program.

use std::fs;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use refusal_dial::inside::model::ModelConfig;
use serde::Serialize;

use super::Result;
use super::arithmetic::Matrix;
use super::beside::Together;
use super::inside::{Marginal, StageWork};
use super::kernels::{ROW_COUNTS, Rate};
use super::linear::Axis;
use super::peers::Peers;
use super::positions::{self, Cost};
use super::program::{Run, StageReport};
use super::start::Answer;

/// `study.json`. Figures of peers that are not installed are null.
#[derive(Serialize)]
pub struct Figures {
    /// Full forward passes that a script would make for the same tables, duplicates included.
    pub equivalent_forward_passes: u64,
    /// Wall time of the process that ran the study from an empty cache.
    pub seconds: f64,
    /// One steered forward pass in TransformerLens.
    pub peer_transformer_lens_ms: Option<f64>,
    /// One prompt of a batched steered forward pass in transformers.
    pub peer_transformers_batched_ms: Option<f64>,
    /// Prefill of the study's prompts in a sweep written by hand.
    pub peer_expert_prefill_seconds: Option<f64>,
    /// One steered score in a sweep written by hand.
    pub peer_expert_ms_per_score: Option<f64>,
    /// Time of the equivalent passes in TransformerLens ÷ `seconds`.
    pub ratio_transformer_lens: Option<f64>,
    /// Time of the equivalent passes in batched transformers ÷ `seconds`.
    pub ratio_transformers_batched: Option<f64>,
    /// Time of the hand-written prefill and sweep ÷ time of the stages `score`, `steer` and `random` without reading the model, for the
    /// distinct cells that `steer` and `random` computed.
    pub ratio_expert: Option<f64>,
    /// Time of the least arithmetic at the measured rate of matrix products ÷ `seconds`.
    pub gemm_share: f64,
    /// One more α over the study's prompts at its first layer ÷ one prefill of them.
    pub marginal_alpha_ratio: f64,
    /// The largest resident set of the process that ran the study, mapped files included.
    pub peak_rss_bytes: u64,
    /// Commands that compute nothing: name, the shortest wall time of several, and the longest that it may take, in seconds.
    pub answers: Vec<(&'static str, f64, Option<f64>)>,
    /// Runs at once, and their wall time ÷ their fair share of the cores.
    pub beside: Vec<(usize, f64)>,
    /// Edits and readouts that do not stop at the last token.
    pub positions: Vec<Cost>,
}

/// Everything that was measured.
pub struct Measured<'a> {
    /// The study from an empty cache.
    pub cold: &'a Run,
    /// Commands that compute nothing, on the same study.
    pub answers: &'a [Answer],
    /// Runs that share the cores.
    pub beside: &'a [Together],
    /// Inside this process.
    pub marginal: &'a Marginal,
    /// What every stage needed.
    pub work: &'a [StageWork],
    /// Edits and readouts that do not stop at the last token.
    pub positions: &'a [positions::Measured],
    /// Matrix products.
    pub rates: &'a [Rate],
    /// None where they are not installed.
    pub peers: Option<&'a Peers>,
    /// Of the model.
    pub config: &'a ModelConfig,
}

impl Measured<'_> {
    /// Seconds that a stage's least arithmetic would take at the best rates.
    fn ideal_seconds(&self, work: &StageWork) -> f64 {
        let best = |matrix| best(self.rates, matrix);
        work.rows.seconds(self.config, best)
    }

    /// Of edits and readouts that do not stop at the last token.
    pub fn costs(&self) -> Vec<Cost> {
        costs(self.positions, self.config, self.rates)
    }

    /// Seconds of the hand-written sweep ÷ ours, for the same cells.
    fn ratio_expert(&self, peers: &Peers) -> Result<f64> {
        let report = &self.cold.report;
        let (score, steer, random) = (
            report.stage("score")?,
            report.stage("steer")?,
            report.stage("random")?,
        );
        let cells = (steer.cells_computed + random.cells_computed) as f64;
        let theirs = peers.expert_prefill_seconds + peers.expert_ms_per_score / 1e3 * cells;
        let ours = score.seconds + steer.seconds + random.seconds - self.marginal.load_seconds;
        Ok(theirs / ours)
    }

    /// The figures of `study.json`.
    pub fn figures(&self) -> Result<Figures> {
        let passes = self.cold.report.equivalent_forward_passes;
        let seconds = self.cold.seconds;
        let ratio = |milliseconds: f64| milliseconds / 1e3 * passes as f64 / seconds;
        let peers = self.peers;
        let ideal: f64 = self.work.iter().map(|work| self.ideal_seconds(work)).sum();
        let (_, alpha) = self.marginal.alpha_seconds.first().ok_or("no layers")?;
        Ok(Figures {
            equivalent_forward_passes: passes,
            seconds,
            peer_transformer_lens_ms: peers.map(|p| p.transformer_lens_ms),
            peer_transformers_batched_ms: peers.map(|p| p.transformers_batched_ms),
            peer_expert_prefill_seconds: peers.map(|p| p.expert_prefill_seconds),
            peer_expert_ms_per_score: peers.map(|p| p.expert_ms_per_score),
            ratio_transformer_lens: peers.map(|p| ratio(p.transformer_lens_ms)),
            ratio_transformers_batched: peers.map(|p| ratio(p.transformers_batched_ms)),
            ratio_expert: peers.map(|p| self.ratio_expert(p)).transpose()?,
            gemm_share: ideal / seconds,
            marginal_alpha_ratio: alpha / self.marginal.prefill_seconds,
            peak_rss_bytes: self.cold.peak_rss_bytes,
            answers: self
                .answers
                .iter()
                .map(|a| (a.name, a.seconds, a.bar_seconds))
                .collect(),
            beside: self.beside.iter().map(|b| (b.count, b.of_fair())).collect(),
            positions: self.costs(),
        })
    }

    /// Per stage: cells, time, least arithmetic, and the share of the time that it would take at the rate of matrix products.
    pub fn stages(&self) -> Table {
        let mut table = table(&["stage", "cells", "found", "s", "GFLOP", "share"]);
        for stage in &self.cold.report.stages {
            let work = self.work.iter().find(|work| work.name == stage.name);
            let (gflop, share) = match work {
                Some(work) => (
                    work.rows.operations(self.config) / 1e9,
                    self.ideal_seconds(work) / stage.seconds,
                ),
                None => (0.0, 0.0),
            };
            table.add_row(stage_row(stage, gflop, share));
        }
        right_aligned(table)
    }

    /// One more α at each layer.
    pub fn marginal(&self) -> Table {
        let prefill = self.marginal.prefill_seconds;
        let mut table = table(&["one more α at layer", "ms", "of a prefill"]);
        for (layer, seconds) in &self.marginal.alpha_seconds {
            table.add_row(vec![
                layer.to_string(),
                format!("{:.1}", seconds * 1e3),
                format!("1/{:.0}", prefill / seconds),
            ]);
        }
        right_aligned(table)
    }
}

/// The rate of a matrix at the best number of rows.
fn best(rates: &[Rate], matrix: Matrix) -> f64 {
    let rate = rates.iter().find(|rate| rate.matrix == matrix);
    rate.map_or(f64::NAN, Rate::best)
}

/// What was measured of edits and readouts, against the rates of matrix products.
pub fn costs(measured: &[positions::Measured], config: &ModelConfig, rates: &[Rate]) -> Vec<Cost> {
    let costs = measured.iter();
    costs
        .map(|measured| measured.cost(config, |matrix| best(rates, matrix)))
        .collect()
}

/// The rates of matrix products, GFLOP/s.
pub fn rates(rates: &[Rate], config: &ModelConfig) -> Table {
    let rows = ROW_COUNTS.map(|rows| format!("{rows} rows"));
    let mut titles = vec!["GFLOP/s", "in", "out"];
    titles.extend(rows.iter().map(String::as_str));
    let mut table = table(&titles);
    for rate in rates {
        let (input, output) = rate.matrix.shape(config);
        let mut row = vec![
            rate.matrix.name().to_string(),
            input.to_string(),
            output.to_string(),
        ];
        row.extend(rate.by_rows.map(|rate| format!("{:.0}", rate / 1e9)));
        table.add_row(row);
    }
    right_aligned(table)
}

fn stage_row(stage: &StageReport, gflop: f64, share: f64) -> Vec<String> {
    let percent = match gflop > 0.0 {
        true => format!("{:.0} %", 100.0 * share),
        false => String::new(),
    };
    vec![
        stage.name.clone(),
        stage.cells_computed.to_string(),
        stage.cells_cached.to_string(),
        format!("{:.2}", stage.seconds),
        format!("{gflop:.0}"),
        percent,
    ]
}

/// How cost grows. The last column compares the cost of a unit with that at 1×: 1.00 is linear.
pub fn growth(axes: &[Axis], load_seconds: f64) -> Table {
    let mut table = table(&[
        "grows",
        "",
        "prompts",
        "prefill s",
        "ms/prompt",
        "cells",
        "sweep s",
        "µs/cell",
        "of 1×",
    ]);
    for axis in axes {
        let per_cell: Vec<f64> = axis
            .points
            .iter()
            .map(|point| point.sweep_seconds / point.cells as f64)
            .collect();
        for (point, unit) in axis.points.iter().zip(&per_cell) {
            let prefill = point.score_seconds - load_seconds;
            table.add_row(vec![
                axis.name.to_string(),
                format!("{}×", point.factor),
                point.prompts.to_string(),
                format!("{prefill:.2}"),
                format!("{:.1}", 1e3 * prefill / point.prompts as f64),
                point.cells.to_string(),
                format!("{:.2}", point.sweep_seconds),
                format!("{:.1}", 1e6 * unit),
                format!("{:.2}", unit / per_cell[0]),
            ]);
        }
    }
    right_aligned(table)
}

/// Runs that share the cores.
pub fn beside(runs: &[Together]) -> Table {
    let mut table = table(&[
        "runs at once",
        "s",
        "fair s",
        "of fair",
        "processor time of one alone",
    ]);
    for run in runs {
        table.add_row(vec![
            run.count.to_string(),
            format!("{:.1}", run.seconds),
            format!("{:.1}", run.fair_seconds),
            format!("{:.2}", run.of_fair()),
            format!("{:.2}×", run.processor_ratio),
        ]);
    }
    right_aligned(table)
}

impl Figures {
    /// Every figure with its bar.
    pub fn table(&self) -> Table {
        let mut table = table(&["figure", "measured", "bar", ""]);
        let unmeasured = || "not installed".to_string();
        let times = |ratio: Option<f64>| ratio.map_or_else(unmeasured, |r| format!("{r:.1}×"));
        let mut add = |name: &str, value: String, bar: &str, passed: Option<bool>| {
            let verdict = match passed {
                Some(true) => "pass",
                Some(false) => "FAIL",
                None => "",
            };
            table.add_row(vec![name, &value, bar, verdict]);
        };
        let at_least = |ratio: Option<f64>, bar: f64| ratio.map(|ratio| ratio >= bar);
        let passes = self.equivalent_forward_passes;
        add("equivalent forward passes", passes.to_string(), "", None);
        add("wall time", format!("{:.1} s", self.seconds), "", None);
        let ratio = self.ratio_transformer_lens;
        add(
            "to TransformerLens",
            times(ratio),
            "≥ 300×",
            at_least(ratio, 300.0),
        );
        let ratio = self.ratio_transformers_batched;
        add(
            "to batched transformers",
            times(ratio),
            "≥ 100×",
            at_least(ratio, 100.0),
        );
        let ratio = self.ratio_expert;
        let value = ratio.map_or_else(unmeasured, |r| format!("{r:.2}×"));
        add(
            "to a hand-written sweep",
            value,
            "≥ 1.3×",
            at_least(ratio, 1.3),
        );
        let value = format!("{:.0} %", 100.0 * self.gemm_share);
        add(
            "of the rate of matrix products",
            value,
            "≥ 60 %",
            Some(self.gemm_share >= 0.6),
        );
        let value = format!("1/{:.0}", 1.0 / self.marginal_alpha_ratio);
        let passed = self.marginal_alpha_ratio <= 0.01;
        add("one more α, of a prefill", value, "≤ 1/100", Some(passed));
        let value = format!("{:.0} MB", self.peak_rss_bytes as f64 / 1e6);
        add("peak resident memory", value, "", None);
        for (name, seconds, bar) in &self.answers {
            let value = format!("{:.0} ms", 1e3 * seconds);
            let text = bar.map_or_else(String::new, |bar| format!("≤ {:.0} ms", 1e3 * bar));
            add(name, value, &text, bar.map(|bar| *seconds <= bar));
        }
        for (count, ratio) in &self.beside {
            let bar = if *count <= 3 { 1.15 } else { 1.3 };
            let name = format!("{count} runs at once, of their fair share");
            let value = format!("{ratio:.2}×");
            add(&name, value, &format!("≤ {bar}×"), Some(*ratio <= bar));
        }
        table
    }

    /// Writes `study.json`.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(fs::write(path, serde_json::to_string_pretty(self)? + "\n")?)
    }
}

impl Peers {
    /// The peers' figures as measured.
    pub fn table(&self) -> Table {
        let mut table = table(&["peer", "measured"]);
        for (name, value) in [
            (
                "TransformerLens, a pass",
                format!("{:.1} ms", self.transformer_lens_ms),
            ),
            (
                "transformers, a prompt in a batch",
                format!("{:.1} ms", self.transformers_batched_ms),
            ),
            (
                "by hand, prefill of the prompts",
                format!("{:.2} s", self.expert_prefill_seconds),
            ),
            (
                "by hand, a steered score",
                format!("{:.4} ms", self.expert_ms_per_score),
            ),
        ] {
            table.add_row(vec![name.to_string(), value]);
        }
        table
    }
}

/// Without lines.
pub fn table(titles: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(titles.to_vec());
    table
}

/// All columns but the first.
pub fn right_aligned(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
