//! The study that is timed: which prompts, how large, and the file that says so.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::Result;

/// The quickstart's model, from the project's root.
const MODEL: &str = "third_party/models/SmolLM2-135M-Instruct.Q4_1.gguf";

/// The α of the published study.
const PUBLISHED_ALPHAS: [f64; 11] = [-10.0, -8.0, -6.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 6.0];

/// How large a study is.
pub struct Size {
    /// Number of harmful prompts.
    pub harmful: usize,
    /// Number of safe prompts that sound harmful.
    pub edge: usize,
    /// Number of XSTest prompts at most.
    pub xstest: usize,
    /// Prompts on each side of a difference of means.
    pub members: usize,
    /// Layers that are steered.
    pub layers: Vec<usize>,
    /// α, in units of the unit direction.
    pub alphas: Vec<f64>,
    /// Number of holdout seeds.
    pub holdout_seeds: u64,
    /// Number of random directions.
    pub random_seeds: u64,
}

impl Size {
    /// The standard study, or that of some seconds.
    pub fn of(quick: bool) -> Self {
        match quick {
            true => Size::quick(),
            false => Size::standard(),
        }
    }

    /// The standard study: layers 25, 26 and 29 of 30 lie as deep as the published study's 20, 21 and 23 of 24.
    pub fn standard() -> Self {
        Size {
            harmful: 80,
            edge: 120,
            xstest: 450,
            members: 30,
            layers: vec![25, 26, 29],
            alphas: PUBLISHED_ALPHAS.to_vec(),
            holdout_seeds: 5,
            random_seeds: 20,
        }
    }

    /// A study of some seconds, to try the benchmark out. Its figures mean nothing.
    pub fn quick() -> Self {
        Size {
            harmful: 8,
            edge: 16,
            xstest: 24,
            members: 4,
            alphas: vec![-6.0, 0.0, 6.0],
            holdout_seeds: 2,
            random_seeds: 2,
            ..Size::standard()
        }
    }

    /// This many prompts, in the proportion of the standard study, × α × random directions; for [`Files::write_sweep`].
    pub fn sweep(prompts: usize, alphas: usize, random_seeds: u64) -> Self {
        let harmful = prompts * 2 / 5;
        Size {
            harmful,
            edge: prompts - harmful,
            // None of them is 0, which would stand for the unsteered score.
            alphas: (1..=alphas).map(|i| i as f64 / 4.0).collect(),
            random_seeds,
            ..Size::standard()
        }
    }

    /// Number of prompts, XSTest's not counted.
    pub fn prompts(&self) -> usize {
        self.harmful + self.edge
    }
}

/// What a study needs on disk.
pub struct Files {
    /// The folder that all of it, and what running it leaves, is in.
    pub folder: PathBuf,
    /// The study.
    pub study: PathBuf,
    /// Its prompts, JSONL.
    pub prompts: PathBuf,
    /// Its model.
    pub model: PathBuf,
}

/// Where prompts come from.
pub struct Data {
    prompts: PathBuf,
    xstest: PathBuf,
    /// For the report.
    pub name: &'static str,
}

impl Data {
    /// The published study's prompts where they are beside the project, the project's own otherwise.
    pub fn find(root: &Path) -> Self {
        let shared = root.join("../shared/data");
        if shared.is_dir() {
            return Data {
                prompts: shared.join("prompts.jsonl"),
                xstest: shared.join("xstest_prompts.csv"),
                name: "../shared/data",
            };
        }
        Data {
            prompts: root.join("data/prompts.jsonl"),
            xstest: root.join("data/xstest_style.csv"),
            name: "data",
        }
    }
}

impl Files {
    /// Writes the whole study.
    pub fn write(root: &Path, folder: PathBuf, data: &Data, size: &Size) -> Result<Self> {
        let files = Files::prepare(root, folder, data, size)?;
        take_rows(&data.xstest, &files.folder.join("xstest.csv"), size.xstest)?;
        fs::write(&files.study, whole_study(&files, size)?)?;
        Ok(files)
    }

    /// Writes a study of two stages, `score` and `random`.
    pub fn write_sweep(root: &Path, folder: PathBuf, data: &Data, size: &Size) -> Result<Self> {
        let files = Files::prepare(root, folder, data, size)?;
        let text = inputs(&files)? + SCORE + &random(size);
        fs::write(&files.study, text)?;
        Ok(files)
    }

    /// Writes a study of some stages.
    pub fn write_stages(
        root: &Path,
        folder: PathBuf,
        data: &Data,
        size: &Size,
        stages: &str,
    ) -> Result<Self> {
        let files = Files::prepare(root, folder, data, size)?;
        fs::write(&files.study, inputs(&files)? + stages)?;
        Ok(files)
    }

    fn prepare(root: &Path, folder: PathBuf, data: &Data, size: &Size) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let files = Files {
            study: folder.join("study.toml"),
            prompts: folder.join("prompts.jsonl"),
            model: root.join(MODEL),
            folder,
        };
        take_prompts(&data.prompts, &files.prompts, size)?;
        Ok(files)
    }
}

/// Copies the first prompts of each split, in the order of the file.
fn take_prompts(from: &Path, to: &Path, size: &Size) -> Result<()> {
    let mut wanted = [("harmful", size.harmful), ("edge", size.edge)];
    let mut taken = String::new();
    for line in fs::read_to_string(from)?.lines() {
        let prompt: serde_json::Value = serde_json::from_str(line)?;
        let split = prompt["split"].as_str().unwrap_or_default();
        let left = wanted.iter_mut().find(|(name, _)| *name == split);
        if let Some((_, left)) = left.filter(|(_, left)| *left > 0) {
            *left -= 1;
            writeln!(taken, "{line}")?;
        }
    }
    Ok(fs::write(to, taken)?)
}

/// Copies the head and the first rows of a CSV file.
fn take_rows(from: &Path, to: &Path, count: usize) -> Result<()> {
    let mut reader = csv::Reader::from_path(from)?;
    let mut writer = csv::Writer::from_path(to)?;
    writer.write_record(reader.headers()?)?;
    for row in reader.records().take(count) {
        writer.write_record(&row?)?;
    }
    Ok(writer.flush()?)
}

const SCORE: &str = r#"
[stages.score]
model = "inst"
prompts = "main"
"#;

/// The model and the prompts. The words that are scored are the program's defaults, which are the published study's.
fn inputs(files: &Files) -> Result<String> {
    // A JSON string is a TOML string.
    Ok(format!(
        r#"[models.inst]
source = {}

[prompts.main]
path = "prompts.jsonl"
"#,
        serde_json::to_string(&files.model)?
    ))
}

fn random(size: &Size) -> String {
    format!(
        r#"
[stages.random]
model = "inst"
prompts = "main"
seed = "0..{}"
layer = {:?}
alpha = {:?}
"#,
        size.random_seeds, size.layers, size.alphas
    )
}

/// Every kind of stage but `generate`, which is no forward pass. Patching goes both ways, harmful into edge and edge into harmful.
fn whole_study(files: &Files, size: &Size) -> Result<String> {
    let Size {
        members,
        layers,
        alphas,
        holdout_seeds,
        ..
    } = size;
    let mut text = inputs(files)?;
    text += "\n[prompts.xstest]\npath = \"xstest.csv\"\n";
    text += SCORE;
    for (suffix, donors, recipients) in [("", "harmful", "edge"), ("_back", "edge", "harmful")] {
        text += &patching(suffix, donors, recipients);
    }
    write!(
        text,
        r#"
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = {members}
layer = {layers:?}

[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = {alphas:?}

[stages.holdout]
model = "inst"
direction_model = "inst"
prompts = "main"
scores = "score"
split = "edge"
compare = "harmful"
seed = "0..{holdout_seeds}"
n = {members}
allow_overlap = true
layer = {layers:?}
alpha = {alphas:?}
{}
[stages.xstest]
model = "inst"
prompts = "xstest"
direction = "holdout"
seed = 0
alpha = {alphas:?}

[stages.summary]
steer = "steer"
holdout = "holdout"
random = "random"
xstest = "xstest"
"#,
        random(size)
    )?;
    Ok(text)
}

/// One layer at a time at all four sites, then the last K at once at two of them.
fn patching(suffix: &str, donors: &str, recipients: &str) -> String {
    let each = r#"layer = "all"
site = ["resid_pre", "attn_out", "mlp_out", "resid_post"]"#;
    let last_k = r#"cumulative = "last_k"
site = ["resid_pre", "mlp_out"]"#;
    let stage = |name: &str, depth: &str| {
        format!(
            r#"
[stages.{name}{suffix}]
kind = "patch"
pairing = "prompts"
model = "inst"
prompts = "main"
donors = "{donors}"
recipients = "{recipients}"
{depth}
"#
        )
    };
    stage("patch", each) + &stage("patch_last_k", last_k)
}
