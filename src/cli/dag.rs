//! `dial dag`: a study's pipeline as text that other programs draw.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::manifest;
use crate::plan::Study;
use crate::report;
use crate::spec::{self, Problems};

use super::{Failure, print};

#[derive(Args)]
pub(super) struct DagArguments {
    /// The study: a .toml or .yaml file.
    file: PathBuf,
    /// Set a value of the study, e.g. `stages.steer.alpha=[0,4]`; may be repeated.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    overrides: Vec<String>,
    /// The language it is written in.
    #[arg(long, value_enum, default_value_t = DagFormat::Mermaid)]
    format: DagFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DagFormat {
    /// A flowchart as GitHub and GitLab draw it.
    Mermaid,
    /// A digraph for `dot`.
    Graphviz,
}

pub(super) fn dag(arguments: &DagArguments) -> Result<(), Failure> {
    let document = spec::load(&arguments.file, &arguments.overrides).map_err(Failure::Study)?;
    let mut problems = Problems::default();
    let sources = document.sources.clone();
    let study = Study::read(document, "study", &mut problems);
    problems.finish(&sources).map_err(Failure::Study)?;
    let nodes = study.as_ref().map(manifest::graph).unwrap_or_default();
    print(&match arguments.format {
        DagFormat::Mermaid => report::mermaid(&nodes),
        DagFormat::Graphviz => report::graphviz(&nodes),
    })
}
