//! The studies that the project ships: each can be planned.

use std::path::{Path, PathBuf};

use crate::workbench::Workbench;

/// Whether what a study reads is here; what the set-up fetches or other people publish may not be.
fn is_at_hand(text: &str, project: &Path) -> bool {
    let needed = [
        "third_party/models",
        "../shared/seed-results",
        "../shared/data",
    ];
    let missing = needed
        .into_iter()
        .find(|part| text.contains(part) && !project.join(part).exists());
    if let Some(part) = missing {
        eprintln!("skipped: a study reads `{part}`, which is not here");
    }
    missing.is_none()
}

#[test]
fn every_pipeline_can_be_planned() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(project.join("pipelines")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "toml")
    });
    paths.sort();
    let base = std::fs::read_to_string(project.join("pipelines/base.toml")).unwrap();
    let bench = Workbench::new(&[]);
    for path in &paths {
        let text = std::fs::read_to_string(path).unwrap();
        let all = match text.contains("extends") {
            true => text + &base,
            false => text,
        };
        if is_at_hand(&all, project) {
            let path = path.display().to_string();
            let said = bench.dial(&["plan", &path, "--threads", "1"]);
            assert_eq!(said.code, 0, "{path}: {}", said.stderr);
        }
    }
    assert!(paths.len() >= 9, "{paths:?}");
}
