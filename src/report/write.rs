//! The files: `figures/<name>.svg` and `.png`, and `report.html`.
//!
//! A run that computed nothing new has the tables of an earlier one, and so its figures: they are taken from there rather than drawn
//! again, so that a rerun stays as quick as it is. `figures/content.json` says what they were made from.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::page::{Content, page};
use super::{Figure, FinishedRun, ReportError, figures, png, svg};

/// Raised when the same tables would be shown otherwise.
const VERSION: u32 = 3;
/// Runs looked at for figures that can be copied.
const LOOK_BACK: usize = 8;
/// What the page shows of the tables, beside the figures.
const CONTENT: &str = "content.json";

/// Writes `figures/` and `report.html` into a run's folder. Returns the page's path.
///
/// # Errors
/// [`ReportError`] where the folder is no run's, a file of it cannot be read, or one cannot be written.
pub fn write(folder: &Path) -> Result<PathBuf, ReportError> {
    let mut run = FinishedRun::open(folder)?;
    let key = content_key(&run);
    let content = match earlier(&run, &key) {
        Some(content) => content,
        None => {
            run.load_tables()?;
            draw(&run, key)?
        }
    };
    let path = folder.join("report.html");
    let html = page(&run, &content)?;
    save(&path, html.as_bytes())?;
    Ok(path)
}

/// What figures and the page's content depend on: this program, the study, and the content of every table.
fn content_key(run: &FinishedRun) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("dial report content");
    let mut part = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    part(&format!("{} {VERSION}", env!("CARGO_PKG_VERSION")));
    for stage in &run.stages {
        part(&stage.name);
        part(&stage.manifest["tables"].to_string());
    }
    part(&run.manifest["prompts"].to_string());
    hasher.finalize().to_hex().to_string()
}

/// The content of an earlier run with the same tables, its figures copied; none where there is no such run, or it is damaged.
fn earlier(run: &FinishedRun, key: &str) -> Option<Content> {
    let folder = run.path.canonicalize().ok()?;
    let mut siblings: Vec<PathBuf> = std::fs::read_dir(folder.parent()?)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !path.is_symlink() && *path != folder)
        .collect();
    siblings.sort();
    siblings.iter().rev().take(LOOK_BACK).find_map(|sibling| {
        let figures = sibling.join("figures");
        let bytes = std::fs::read(figures.join(CONTENT)).ok()?;
        let content: Content = serde_json::from_slice(&bytes).ok()?;
        (content.key == key && share(&figures, &folder.join("figures")).is_ok()).then_some(content)
    })
}

/// The same files under another folder, as links where the file system has them: nothing writes into a file of `figures/`.
fn share(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        if let Some(name) = path.file_name() {
            let target = to.join(name);
            remove(&target)?;
            std::fs::hard_link(&path, &target)
                .or_else(|_| std::fs::copy(&path, &target).map(|_| ()))?;
        }
    }
    Ok(())
}

/// Removes a file if there is one.
fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Draws every figure.
fn draw(run: &FinishedRun, key: String) -> Result<Content, ReportError> {
    let figures = figures(run);
    let folder = run.path.join("figures");
    figures
        .par_iter()
        .try_for_each(|figure| draw_figure(figure, &folder))?;
    let content = Content::of(run, &figures, key);
    let bytes =
        serde_json::to_vec(&content).map_err(|error| ReportError::Drawing(error.to_string()))?;
    save(&folder.join(CONTENT), &bytes)?;
    Ok(content)
}

fn draw_figure(figure: &Figure, folder: &Path) -> Result<(), ReportError> {
    let text = svg(figure);
    save(
        &folder.join(format!("{}.svg", figure.name)),
        text.as_bytes(),
    )?;
    save(&folder.join(format!("{}.png", figure.name)), &png(&text)?)
}

/// Plain writes: what is lost when the power fails can be drawn again.
fn save(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = std::fs::create_dir_all(folder)
        // Not into the file that is there: an earlier run may share it.
        .and_then(|()| remove(path))
        .and_then(|()| std::fs::write(path, bytes));
    written.map_err(|error| ReportError::Unwritable {
        path: path.to_path_buf(),
        why: error.to_string(),
    })
}
