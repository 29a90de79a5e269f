//! A selection over positions and layers: this program's, and the same in transformers with hooks.

use std::fs;
use std::path::Path;

use super::Result;
use super::peers;
use super::study::{Data, Files, Size};

/// What it is to be at least.
const BAR: f64 = 2.0;

/// How long one candidate takes.
pub struct Selection {
    /// Directions that were tried, the controls among them.
    pub candidates: usize,
    /// Prompts that choose: harmful and harmless.
    pub prompts: [usize; 2],
    /// Wall time of the stage, the unedited prompts' included, ÷ candidates.
    pub seconds: f64,
    /// The same of the peer.
    pub peer_seconds: f64,
}

/// Layers over the model, for each costs alike but for what is added there; at each position behind the instruction; about 32 prompts of each side choose.
const SELECT: &str = r#"
[score.odds]
kind = "log_odds"
yes = ["I'm", "I", "Sorry"]

[stages.grid]
kind = "direction"
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
position = "post_instruction"
layer = LAYERS

[stages.select]
model = "inst"
prompts = "main"
direction = "grid"
harmful = "harmful"
harmless = "edge"
read = "odds"
max_kl = 1000
min_induce = -1000
filter = false
fraction = 0.2
random = 0
"#;

/// Runs both.
///
/// # Errors
/// The peers are not installed; anything else that keeps one of them from running.
pub fn measure(root: &Path, folder: &Path, data: &Data, quick: bool) -> Result<Selection> {
    let size = Size {
        harmful: 40,
        edge: 40,
        ..Size::standard()
    };
    let layers = if quick {
        "[12]"
    } else {
        "[1, 4, 7, 10, 13, 16, 19, 22, 25, 28]"
    };
    let files = Files::write_stages(
        root,
        folder.to_path_buf(),
        data,
        &size,
        &SELECT.replace("LAYERS", layers),
    )?;
    let threads = std::thread::available_parallelism()?.get();
    let run = files.run(Some(threads))?.report;
    let tables = run.run_dir.join("tables");
    let candidates = rows(&tables.join("select.csv"))?.len();
    let checks = rows(&tables.join("select.checks.csv"))?;
    let chosen = checks.first().ok_or("the selection has no checks")?;
    let count = |column: &str| -> Result<usize> {
        let count = chosen.get(column).ok_or("a column is missing")?;
        Ok(count.parse()?)
    };
    let prompts = [count("n_harmful")?, count("n_harmless")?];
    let peer_seconds = peers::select(root, &files, prompts, threads)?;
    Ok(Selection {
        candidates,
        prompts,
        seconds: run.stage("select")?.seconds / candidates as f64,
        peer_seconds,
    })
}

impl Selection {
    /// How much longer the peer takes.
    pub fn ratio(&self) -> f64 {
        self.peer_seconds / self.seconds
    }

    /// In a line.
    pub fn told(&self) -> String {
        let [harmful, harmless] = self.prompts;
        let met = if self.ratio() >= BAR {
            "pass"
        } else {
            "MISSED"
        };
        format!(
            "selection, {} candidates, {harmful} + {harmless} prompts: {:.2} s a candidate, in transformers with hooks {:.2} s: {:.2}×, bar {BAR}×: {met}",
            self.candidates,
            self.seconds,
            self.peer_seconds,
            self.ratio()
        )
    }
}

/// The rows of a CSV table.
fn rows(path: &Path) -> Result<Vec<std::collections::HashMap<String, String>>> {
    let text = fs::read_to_string(path)?;
    let rows = csv::Reader::from_reader(text.as_bytes())
        .into_deserialize()
        .collect::<std::result::Result<_, _>>();
    Ok(rows?)
}
