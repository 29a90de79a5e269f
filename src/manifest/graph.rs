//! The stages of a study and what each refers to.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::files;
use crate::plan::{StageSpec, Study};
use crate::stages::{Name, Product, Splits};

use super::known;

/// A stage as the study has it, whether it is run or not.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) kind: String,
    /// The kind whose tables it leaves: its own, or the one that an import stands for.
    pub(crate) shown_as: String,
    /// What these tables are, which says how they are shown; none for what this dial does not know.
    #[serde(deserialize_with = "known")]
    pub(crate) product: Option<Product>,
    /// Names of the prompt sets it refers to.
    pub(crate) prompts: Vec<String>,
    pub(crate) stages: Vec<Edge>,
    /// The splits that it compares, where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) splits: Option<Splits>,
}

/// That a stage refers to another.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Edge {
    /// The field that names it, such as `steer` of a summary.
    pub(crate) field: String,
    /// The name.
    pub(crate) stage: String,
}

impl Node {
    /// Names of the stages it refers to, each once.
    pub(crate) fn after(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        let names = self.stages.iter().map(|edge| edge.stage.as_str());
        names.filter(|name| seen.insert(*name)).collect()
    }

    fn of(spec: &StageSpec) -> Self {
        let (needs, shown_as) = (spec.stage.needs(), spec.shown_as);
        let edge = |(name, _): &(Name, Product)| Edge {
            field: field_of(spec, name),
            stage: name.value.clone(),
        };
        Node {
            name: spec.name.clone(),
            kind: spec.kind.name.to_string(),
            shown_as: shown_as.name.to_string(),
            product: Some(shown_as.product),
            prompts: needs.prompts.iter().map(|set| set.value.clone()).collect(),
            stages: needs.stages.iter().map(edge).collect(),
            splits: spec.stage.compared_splits(),
        }
    }
}

#[cfg(test)]
impl Edge {
    pub(crate) fn to(stage: &str) -> Self {
        Edge {
            field: String::new(),
            stage: stage.to_string(),
        }
    }
}

/// The field of a stage in which a name is written: of `stages.summary.steer` and `stages.import.summaries[1]` the third part.
fn field_of(spec: &StageSpec, name: &Name) -> String {
    let field = name.at.path.strip_prefix(&*spec.at.path);
    let field = field.and_then(|field| field.strip_prefix('.'));
    let field = field.and_then(|field| field.split(['.', '[']).next());
    field.unwrap_or_default().to_string()
}

/// The stages of a study, each after those it refers to. One whose name cannot name files, which is never run, is left out.
pub(crate) fn graph(study: &Study) -> Vec<Node> {
    let stages = study.stages.iter();
    let named = stages.filter(|spec| files::is_plain_name(&spec.name));
    named.map(Node::of).collect()
}
