//! What a person would run instead, timed on the same machine: the Python scripts beside the project, where they and their packages are.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value as Json;

use super::Result;
use super::study::{Files, Size};

/// Figures of the peers.
pub struct Peers {
    /// One steered forward pass in TransformerLens, milliseconds.
    pub transformer_lens_ms: f64,
    /// One prompt of a batched steered forward pass in transformers, milliseconds.
    pub transformers_batched_ms: f64,
    /// Prefill of the study's prompts in a hand-written sweep, seconds.
    pub expert_prefill_seconds: f64,
    /// One steered score of the hand-written sweep, milliseconds.
    pub expert_ms_per_score: f64,
}

/// Where the peers are.
struct Scripts {
    python: PathBuf,
    oracle: PathBuf,
    forward: PathBuf,
    expert: PathBuf,
}

/// Times the peers on the study's prompts. `Err(Ok(sentence))` where they are not installed: it says what to do.
pub fn time(
    root: &Path,
    files: &Files,
    size: &Size,
    threads: usize,
) -> std::result::Result<Peers, Result<String>> {
    let scripts = Scripts::find(root).map_err(Ok)?;
    scripts.time(root, files, size, threads).map_err(Err)
}

/// Seconds that one candidate of a selection takes in transformers, with so many harmful and harmless prompts.
///
/// # Errors
/// They are not installed, or do not run.
pub fn select(root: &Path, files: &Files, prompts: [usize; 2], threads: usize) -> Result<f64> {
    let scripts = Scripts::find(root)?;
    let model = scripts.model_folder(root, files)?;
    let script = root.join("benches/study/select_peer.py");
    let mut command = scripts.script(&script, &model, files);
    for (option, number) in ["--harmful", "--harmless", "--threads"]
        .into_iter()
        .zip([prompts[0], prompts[1], threads])
    {
        command.args([option, &number.to_string()]);
    }
    let figures = figures(command, &files.folder.join("select_peer.txt"))?;
    number(&figures, "seconds_per_candidate")
}

impl Scripts {
    /// # Errors
    /// A sentence that says what is missing and what to do.
    fn find(root: &Path) -> std::result::Result<Self, String> {
        let shared = root.join("../shared");
        let scripts = Scripts {
            python: root.join("third_party/peers/bin/python"),
            oracle: shared.join("oracle/oracle.py"),
            forward: shared.join("bench/peer_forward.py"),
            expert: shared.join("bench/peer_expert.py"),
        };
        for script in [&scripts.oracle, &scripts.forward, &scripts.expert] {
            if !script.is_file() {
                return Err(format!(
                    "no ratios: there is no `{}`; put the folder `shared` beside the project",
                    script.strip_prefix(root).unwrap_or(script).display()
                ));
            }
        }
        // Its last line: an installation that was interrupted has none.
        if !root.join("third_party/peers/stamp").is_file() {
            return Err(
                "no ratios: the Python peers are not installed; run `scripts/bench-peers.sh` (3 GB to download), then this again"
                    .to_string(),
            );
        }
        Ok(scripts)
    }

    fn time(&self, root: &Path, files: &Files, size: &Size, threads: usize) -> Result<Peers> {
        let model = self.model_folder(root, files)?;
        let threads = threads.to_string();
        let layers: Vec<String> = size.layers.iter().map(usize::to_string).collect();
        let mut forward = self.script(&self.forward, &model, files);
        forward.args(["--threads", &threads, "--layer", &layers[0]]);
        let forward = figures(forward, &files.folder.join("peer_forward.txt"))?;
        let mut expert = self.script(&self.expert, &model, files);
        expert.args(["--threads", &threads, "--layers", &layers.join(",")]);
        expert.args(["--alphas", &size.alphas.len().to_string()]);
        let expert = figures(expert, &files.folder.join("peer_expert.txt"))?;
        Ok(Peers {
            transformer_lens_ms: number(&forward, "transformer_lens_ms")?,
            transformers_batched_ms: number(&forward, "transformers_batched_per_prompt_ms")?,
            expert_prefill_seconds: number(&expert, "prefill_seconds")?,
            expert_ms_per_score: number(&expert, "ms_per_steered_score")?,
        })
    }

    /// `script MODEL_DIR PROMPTS`, kept from the network.
    fn script(&self, script: &Path, model: &Path, files: &Files) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(script).arg(model).arg(&files.prompts);
        command.env("HF_HUB_OFFLINE", "1");
        command
    }

    /// The study's model as a Hugging Face folder in float32, which is what the peers read; made once, under `third_party/`.
    fn model_folder(&self, root: &Path, files: &Files) -> Result<PathBuf> {
        let name = files.model.file_stem().ok_or("the model has no name")?;
        let folder = root.join("third_party/peers/models").join(name);
        if folder.is_dir() {
            return Ok(folder);
        }
        let unfinished = folder.with_extension("unfinished");
        fs::create_dir_all(&unfinished)?;
        let mut convert = Command::new(&self.python);
        convert.arg(&self.oracle).arg("convert");
        convert.arg(&files.model).arg(&unfinished);
        output(convert, &files.folder.join("peer_convert.txt"))?;
        fs::rename(&unfinished, &folder)?;
        Ok(folder)
    }
}

/// What the command writes to stdout; what it writes to stderr goes to the file.
fn output(mut command: Command, stderr: &Path) -> Result<String> {
    command.stderr(File::create(stderr)?).stdin(Stdio::null());
    let output = command.output()?;
    if !output.status.success() {
        let said = fs::read_to_string(stderr).unwrap_or_default();
        return Err(format!("{command:?} ended with {}:\n{said}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The JSON object that is the last line of what the command writes.
fn figures(command: Command, stderr: &Path) -> Result<Json> {
    let text = output(command, stderr)?;
    Ok(serde_json::from_str(
        text.lines().last().unwrap_or_default(),
    )?)
}

fn number(figures: &Json, key: &str) -> Result<f64> {
    let number = figures[key].as_f64();
    number.ok_or_else(|| format!("a peer did not say `{key}`: {figures}").into())
}
