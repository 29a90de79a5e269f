//! Which stages of a study a run is about, and what it needs of the study.

use std::collections::{BTreeSet, HashSet};

use crate::spec::{Location, Node, Value, field_path};

use super::study::Study;

/// The stages to run. What they need runs too, since that is what decides whether they are cached; where it is cached, that costs a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Selection {
    #[default]
    All,
    /// One stage.
    Only(String),
    /// One stage and every stage that builds on it.
    From(String),
}

/// What the stages to run need.
pub(super) struct Needed {
    pub(super) stages: BTreeSet<String>,
    /// Names of the models, with those that lend them a template.
    pub(super) models: BTreeSet<String>,
    pub(super) prompts: BTreeSet<String>,
    /// The paths of their entries in the study; none where everything is needed.
    entries: Option<Vec<String>>,
    /// Whether one of them may import files, and so reads the section for that.
    imports: bool,
}

/// Sections whose entries are needed one by one.
const SECTIONS: [&str; 3] = ["stages", "models", "prompts"];

impl Selection {
    /// The option that asks for it, and the stage.
    pub(crate) fn option(&self) -> Option<(&'static str, &str)> {
        match self {
            Selection::All => None,
            Selection::Only(stage) => Some(("--only", stage)),
            Selection::From(stage) => Some(("--from", stage)),
        }
    }

    /// Names of the selected stages and of those they need.
    fn stages(&self, study: &Study) -> Result<BTreeSet<String>, String> {
        let Some((option, stage)) = self.option() else {
            return Ok(study.stages.iter().map(|s| s.name.clone()).collect());
        };
        let undecoded = undecoded(study);
        let is_decoded = undecoded.iter().all(|(name, _)| *name != stage);
        if let (true, Some(hint)) = (is_decoded, study.unknown_stage(stage)) {
            return Err(format!(
                "the study has no stage `{stage}` to run with `{option}`; {hint}"
            ));
        }
        let mut stages = BTreeSet::from([stage.to_string()]);
        if let Selection::From(_) = self {
            grow(&mut stages, |stages| {
                add_downstream(stages, study, &undecoded)
            });
        }
        grow(&mut stages, |stages| add_upstream(stages, study));
        Ok(stages)
    }
}

impl Needed {
    /// # Errors
    /// What to say of a selected stage that the study does not have.
    pub(super) fn new(selection: &Selection, study: &Study) -> Result<Self, String> {
        let stages = selection.stages(study)?;
        let specs = study.stages.iter();
        let (mut models, mut prompts) = (BTreeSet::new(), BTreeSet::new());
        for spec in specs.filter(|spec| stages.contains(&spec.name)) {
            let needs = spec.stage.needs();
            models.extend(needs.models.into_iter().map(|name| name.value));
            prompts.extend(needs.prompts.into_iter().map(|name| name.value));
        }
        for model in models.clone() {
            let lender = study.models.get(&model);
            let lender = lender.and_then(|model| model.template_from.clone());
            models.extend(lender.map(|name| name.value));
        }
        let entries = match selection {
            Selection::All => {
                // Also those that no stage uses.
                prompts.extend(study.prompts.keys().cloned());
                None
            }
            _ => {
                let names = SECTIONS.into_iter().zip([&stages, &models, &prompts]);
                let paths = names.flat_map(|(section, names)| {
                    names.iter().map(move |name| field_path(section, name))
                });
                Some(paths.collect())
            }
        };
        let imports = stages.iter().any(|name| {
            let decoded = study.stages.iter().find(|spec| spec.name == *name);
            decoded.is_none_or(|spec| !spec.stage.needs().files.is_empty())
        });
        Ok(Needed {
            stages,
            models,
            prompts,
            entries,
            imports,
        })
    }

    /// Whether a problem at a place of the study is one of what is to be run.
    pub(super) fn concerns(&self, at: Option<&Location>) -> bool {
        let (Some(entries), Some(at)) = (&self.entries, at) else {
            return true;
        };
        let is_below = |outer: &str| {
            let rest = at.path.strip_prefix(outer);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let is_entry_of = |section: &&str| is_below(section) && *at.path != **section;
        match SECTIONS.iter().any(is_entry_of) {
            true => entries.iter().any(|entry| is_below(entry)),
            false => self.imports || !is_below("import"),
        }
    }
}

/// The stages that could not be decoded, and what is written of them.
fn undecoded(study: &Study) -> Vec<(&str, &Node)> {
    let root = study.document.root.as_table();
    let stages = root.and_then(|root| root.get("stages")?.as_table());
    let written = stages.into_iter().flat_map(|stages| stages.iter());
    let decoded: HashSet<&str> = study.stages.iter().map(|s| s.name.as_str()).collect();
    written
        .map(|(key, node)| (key.name.as_str(), node))
        .filter(|(name, _)| !decoded.contains(name))
        .collect()
}

/// Adds stages until there are none to add. Stages come after those they need, where nothing is wrong with them: one walk finds everything
/// then.
fn grow(stages: &mut BTreeSet<String>, add: impl Fn(&mut BTreeSet<String>)) {
    let mut before = 0;
    while stages.len() > before {
        before = stages.len();
        add(stages);
    }
}

/// Adds stages that build on one of these. One that could not be decoded counts as such where it holds the name of one.
fn add_downstream(stages: &mut BTreeSet<String>, study: &Study, undecoded: &[(&str, &Node)]) {
    for spec in &study.stages {
        let needs = spec.stage.needs().stages;
        if needs.iter().any(|(name, _)| stages.contains(&name.value)) {
            stages.insert(spec.name.clone());
        }
    }
    for (name, node) in undecoded {
        if holds_any(node, stages) {
            stages.insert(name.to_string());
        }
    }
}

/// Adds stages that one of these needs.
fn add_upstream(stages: &mut BTreeSet<String>, study: &Study) {
    for spec in study.stages.iter().rev() {
        if stages.contains(&spec.name) {
            let needed = spec.stage.needs().stages.into_iter();
            stages.extend(needed.map(|(name, _)| name.value));
        }
    }
}

/// Whether a value is, or has somewhere in it, one of these names.
fn holds_any(node: &Node, names: &BTreeSet<String>) -> bool {
    match &node.value {
        Value::String(text) => names.contains(text),
        Value::Array(items) => items.iter().any(|item| holds_any(item, names)),
        Value::Table(table) => table.iter().any(|(_, node)| holds_any(node, names)),
        _ => false,
    }
}
