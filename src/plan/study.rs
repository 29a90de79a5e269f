//! The study: one file resolved into typed models, prompt sets and stages, with every problem told at once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::Dtype;
use crate::prompts::Draw;
use crate::spec::{
    Decode, Document, Fields, Key, Location, Node, Problems, Spanned, choice, suggest,
};
use crate::stages::declare::Table;
use crate::stages::field_types::ByContent;
use crate::stages::{
    self, Gives, KINDS, Kind, Name, Product, ScoreRule, Settings, Stage, kind_named,
};

use super::chat;
use super::graph::{Known, check_names, sort};
use super::sections::{About, ModelEntry, PromptsEntry};

/// A model as the study names it.
#[derive(Clone, Debug)]
pub(crate) struct ModelSpec {
    /// A path or `hf:org/name@revision`, with its place.
    pub(crate) source: Spanned<String>,
    /// The folder that a relative path starts from.
    pub(crate) folder: PathBuf,
    pub(crate) dtype: Dtype,
    pub(crate) template_from: Option<Name>,
}

/// A stage as the study names it.
pub struct StageSpec {
    pub name: String,
    pub(crate) at: Location,
    pub(crate) kind: &'static Kind,
    pub stage: Box<dyn Stage>,
    gives: Gives,
}

impl StageSpec {
    /// The kind whose tables it leaves.
    pub(crate) fn shown_as(&self) -> &'static Kind {
        kind_named(self.gives.tables).unwrap_or(self.kind)
    }

    /// What it gives to other stages.
    pub(crate) fn product(&self) -> Product {
        self.gives.product
    }
}

/// A study file, decoded and checked as far as possible without touching a model.
pub struct Study {
    /// Name of the study, which names its run folder.
    pub(crate) name: String,
    pub(crate) question: Option<String>,
    pub(crate) models: BTreeMap<String, ModelSpec>,
    /// Files of the prompt sets by name, with the place where each is written.
    pub(crate) prompts: BTreeMap<String, Spanned<PathBuf>>,
    /// What is drawn out of the files of prompt sets, by name.
    pub(crate) draws: BTreeMap<String, Draw>,
    /// The chat around every prompt, and the score rule.
    pub(crate) settings: Settings,
    pub(crate) system_at: Option<Location>,
    pub(crate) score_at: Option<Location>,
    /// Stages in an order in which each comes after those it refers to.
    pub stages: Vec<StageSpec>,
    /// The file it came from, with overrides and includes.
    pub(crate) document: Document,
}

impl Study {
    /// Decodes a document and checks its names, collecting every problem: unknown fields and names, wrong types, cycles, a stage that
    /// is given the wrong product. What could be decoded is returned even then, so that the rest can be checked too; none where
    /// the document is not a table.
    pub(crate) fn read(
        document: Document,
        default_name: &str,
        problems: &mut Problems,
    ) -> Option<Self> {
        let mut fields = Fields::new(&document.root, problems)?;
        let sections = [
            "study", "models", "prompts", "chat", "score", "import", "stages",
        ]
        .map(|name| fields.node(name));
        fields.finish();
        let [study, models, prompts, chat_section, score, _, stages] = sections;
        stages::check_sections(&document, problems);
        let (name, question) = study.map_or((None, None), |node| decode_study(node, problems));
        let (model_names, prompt_names) = (keys(models), keys(prompts));
        let models = models.map(|node| decode_models(node, &document, problems));
        let mut draws = BTreeMap::new();
        let prompts = prompts.map(|node| decode_prompts(node, &document, &mut draws, problems));
        let chat = chat_section.map(|node| chat::decode(node, problems));
        let (chat, system_at) = chat.unwrap_or_default();
        let settings = Settings {
            chat,
            score: score
                .and_then(|node| Table::<ScoreRule>::decode(node, problems).map(|table| table.0))
                .unwrap_or_default(),
        };
        let (stages, names) = decode_stages(stages, &document, &settings, problems);
        check_names(&stages, &names, &model_names, &prompt_names, problems);
        Some(Study {
            name: name.unwrap_or_else(|| default_name.to_string()),
            question,
            models: models.unwrap_or_default(),
            prompts: prompts.unwrap_or_default(),
            draws,
            settings,
            system_at,
            score_at: score.map(|node| node.at.clone()),
            stages: sort(stages, problems),
            document: document.clone(),
        })
    }
}

impl Study {
    /// The paths that its file holds: the fields that lead to each, and what is meant.
    pub(crate) fn paths(&self) -> Vec<(Vec<&str>, PathBuf)> {
        let mut paths = Vec::new();
        for (name, model) in &self.models {
            if !model.source.value.starts_with("hf:") {
                let path = model.folder.join(&model.source.value);
                paths.push((vec!["models", name, "source"], path));
            }
        }
        for (name, path) in &self.prompts {
            paths.push((vec!["prompts", name, "path"], path.value.clone()));
        }
        for (name, draw) in &self.draws {
            if let Draw::Selection(path) = draw {
                let fields = vec!["prompts", name, "draw", "selection"];
                paths.push((fields, path.clone()));
            }
        }
        if self
            .stages
            .iter()
            .any(|spec| !spec.stage.needs().files.is_empty())
        {
            let (fields, path) = stages::folder_of_files(&self.document);
            paths.push((fields.to_vec(), path));
        }
        paths
    }

    /// What to say of a name that is none of the study's stages; none for one that is.
    pub(crate) fn unknown_stage(&self, stage: &str) -> Option<String> {
        let names = self.stages.iter().map(|s| s.name.as_str());
        if names.clone().any(|name| name == stage) {
            return None;
        }
        Some(match suggest(stage, names.clone()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!(
                "its stages are `{}`",
                names.collect::<Vec<_>>().join("`, `")
            ),
        })
    }
}

fn decode_study(node: &Node, problems: &mut Problems) -> (Option<String>, Option<String>) {
    let about = Table::<About>::decode(node, problems).map(|table| table.0);
    about.map_or((None, None), |about| {
        let name = about.name.map(|name| name.0.0);
        (name, about.question.map(|question| question.0))
    })
}

/// The entries of a section whose keys are names that the user chooses.
fn entries<'n>(node: &'n Node, problems: &mut Problems) -> Vec<(&'n Key, &'n Node)> {
    match node.as_table() {
        Some(table) => table.iter().collect(),
        None => {
            problems.mismatch(node, "a table");
            Vec::new()
        }
    }
}

/// The names in a section, those included whose entries cannot be decoded: a mistake in an entry is not a missing name.
fn keys(section: Option<&Node>) -> Vec<&str> {
    let table = section.and_then(Node::as_table);
    table.map_or(Vec::new(), |table| {
        table.iter().map(|(key, _)| key.name.as_str()).collect()
    })
}

fn decode_models(
    node: &Node,
    document: &Document,
    problems: &mut Problems,
) -> BTreeMap<String, ModelSpec> {
    let mut models = BTreeMap::new();
    for (name, node) in entries(node, problems) {
        let Some(Table(entry)) = Table::<ModelEntry>::decode(node, problems) else {
            continue;
        };
        let spec = ModelSpec {
            folder: document.sources.resolve_path(&entry.source.0.at, ""),
            source: entry.source.0,
            dtype: entry.dtype.0,
            template_from: entry.template_from.map(|name| name.0),
        };
        models.insert(name.name.clone(), spec);
    }
    check_lenders(&models, &keys(Some(node)), problems);
    models
}

/// Checks that a template is borrowed from a model that has one of its own: no chains, and so no circles.
fn check_lenders(models: &BTreeMap<String, ModelSpec>, names: &[&str], problems: &mut Problems) {
    let names = Known::new("model", names);
    for lender in models.values().filter_map(|m| m.template_from.as_ref()) {
        if !names.check(lender, problems) {
            continue;
        }
        let borrowed = models.get(&lender.value).map(|m| m.template_from.as_ref());
        if let Some(Some(further)) = borrowed {
            let message = format!(
                "model `{}` has no template of its own to lend",
                lender.value
            );
            problems
                .error_at(&lender.at, message)
                .label("expected a model without `template_from`")
                .related(&further.at, "it borrows one itself");
        }
    }
}

fn decode_prompts(
    node: &Node,
    document: &Document,
    draws: &mut BTreeMap<String, Draw>,
    problems: &mut Problems,
) -> BTreeMap<String, Spanned<PathBuf>> {
    let mut prompts = BTreeMap::new();
    for (name, node) in entries(node, problems) {
        let Some(Table(entry)) = Table::<PromptsEntry>::decode(node, problems) else {
            continue;
        };
        let path = document
            .sources
            .resolve_path(&entry.path.0.at, &entry.path.0.value);
        let draw = entry
            .draw
            .map(|ByContent(Table(draw))| match draw.selection {
                Some(file) => Draw::Selection(document.sources.resolve_path(&file.at, &file.value)),
                None => Draw::Seeded {
                    seed: draw.seed,
                    harmful: draw.harmful,
                    edge: draw.edge,
                    benign: draw.benign,
                },
            });
        draws.extend(draw.map(|draw| (name.name.clone(), draw)));
        let at = entry.path.0.at;
        prompts.insert(name.name.clone(), Spanned { value: path, at });
    }
    prompts
}

/// The stages that could be decoded, and the names of all.
fn decode_stages(
    node: Option<&Node>,
    document: &Document,
    settings: &Settings,
    problems: &mut Problems,
) -> (Vec<StageSpec>, Vec<String>) {
    let mut stages = Vec::new();
    let mut names = Vec::new();
    let entries = node.map_or(Vec::new(), |node| entries(node, problems));
    if entries.is_empty() && problems.is_empty() {
        problems
            .error("the study has no stages")
            .help("add at least one, e.g. `[stages.score]` with `model` and `prompts`");
    }
    for (key, node) in entries {
        let name = key.name.as_str();
        names.push(name.to_string());
        check_stage_name(key, problems);
        let Some(fields) = Fields::new(node, problems) else {
            continue;
        };
        let mut fields = fields.of(document);
        let Some(kind) = stage_kind(name, &mut fields) else {
            continue;
        };
        let stage = (kind.decode)(&mut fields, settings);
        let at = fields.at().clone();
        fields.finish();
        stages.extend(stage.map(|stage| StageSpec {
            name: name.to_string(),
            at,
            kind,
            gives: stage.gives().unwrap_or(Gives {
                product: kind.product,
                tables: kind.name,
            }),
            stage,
        }));
    }
    (stages, names)
}

/// Bytes of a stage's name, so that the longest name of a file of it is one that a file can have.
const LONGEST_STAGE: usize = 150;

/// A stage's name is the name of its tables' files, up to the first dot.
fn check_stage_name(key: &Key, problems: &mut Problems) {
    if key.name.len() > LONGEST_STAGE {
        let bytes = key.name.len();
        problems
            .error_at(
                &key.at,
                format!("a stage's name of {bytes} bytes cannot name files"),
            )
            .label(format!("expected {LONGEST_STAGE} bytes at most"));
    }
    let good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    if key.name.is_empty() || !key.name.chars().all(good) {
        problems
            .error_at(
                &key.at,
                format!("stage name `{}` cannot name a file", key.name),
            )
            .label("expected letters, digits, `-` and `_`");
    }
}

/// The stage's `kind`, or the kind that its name is.
fn stage_kind(name: &str, fields: &mut Fields<'_, '_>) -> Option<&'static Kind> {
    let kinds: Vec<(&str, &'static Kind)> = KINDS.iter().map(|kind| (kind.name, *kind)).collect();
    if let Some(node) = fields.node("kind") {
        return choice(node, fields.problems(), &kinds);
    }
    let named = KINDS.iter().find(|kind| kind.name == name);
    if named.is_none() {
        let known = KINDS.iter().map(|kind| kind.name);
        let at = fields.at().clone();
        let diagnostic = fields
            .problems()
            .error_at(&at, format!("stage `{name}` has no field `kind`"));
        match suggest(name, known.clone()) {
            Some(meant) => diagnostic.label(format!("did you mean the stage `{meant}`?")),
            None => diagnostic.label("`kind` is missing"),
        };
        diagnostic.help(format!(
            "a stage that is not named after its kind needs `kind`, one of {}",
            known
                .map(|k| format!("`{k}`"))
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    named.copied()
}
