//! Format 1, which dial 0.1 wrote: it says nothing of stages that were not run, of products and of edges. These come from the study that
//! lies beside it, `resolved.yaml`, or, where that cannot be read, from the stages that were run, which then have no edges.

use std::path::Path;

use crate::files;
use crate::plan::Study;
use crate::spec::{self, Problems};
use crate::stages::kind_named;

use super::{Manifest, Node, Stage, graph};

/// Adds what the format lacks.
pub(super) fn complete(manifest: &mut Manifest, folder: &Path) {
    let study = study(folder).filter(|study| !study.stages.is_empty());
    manifest.graph = match &study {
        Some(study) => graph(study),
        None => manifest.stages.iter().map(alone).collect(),
    };
    for (name, spec) in study.iter().flat_map(|study| &study.prompts) {
        if let Some(set) = manifest.prompts.get_mut(name) {
            set.path_from_run = Some(files::text_of(&spec.path.value));
        }
    }
}

/// The study as far as it can be read; problems do not matter any more.
fn study(folder: &Path) -> Option<Study> {
    let name = Path::new("resolved.yaml");
    let text = files::read_text(&folder.join(name), files::SETTINGS_BYTES).ok()?;
    let document = spec::load_text(name, &text, &[]).ok()?;
    Study::read(document, "study", &mut Problems::default())
}

fn alone(stage: &Stage) -> Node {
    Node {
        name: stage.name.clone(),
        kind: stage.kind.clone(),
        shown_as: stage.kind.clone(),
        product: kind_named(&stage.kind).map(|kind| kind.product),
        ..Node::default()
    }
}
