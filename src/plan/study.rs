//! The study: one file resolved into typed models, prompt sets and stages, with every problem told at once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};

use crate::model::{Dtype, ScoreDtype};
use crate::spec::{
    Decode, Diagnostics, Document, Fields, Location, Node, OneOrMany, Problems, Spanned, Value,
    choice, suggest,
};
use crate::stages::{Chat, KINDS, Kind, Name, Product, ScoreRule, Settings, Stage};

/// A model as the study names it.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// A path or `hf:org/name@revision`, with its place.
    pub source: Spanned<String>,
    /// The folder that a relative path starts from.
    pub folder: PathBuf,
    /// Dtype of weights and activations.
    pub dtype: Dtype,
    /// The model that lends its chat template.
    pub template_from: Option<Name>,
}

/// A stage as the study names it.
pub struct StageSpec {
    /// Its name.
    pub name: String,
    /// Where it is written.
    pub at: Location,
    /// Its kind.
    pub kind: &'static Kind,
    /// Its parameters.
    pub stage: Box<dyn Stage>,
}

/// A study file, decoded and checked as far as possible without touching a model.
pub struct Study {
    /// Name of the study, which names its run folder.
    pub name: String,
    /// The question it asks.
    pub question: Option<String>,
    /// Models by name.
    pub models: BTreeMap<String, ModelSpec>,
    /// Files of the prompt sets by name, with the place where each is written.
    pub prompts: BTreeMap<String, Spanned<PathBuf>>,
    /// Stages in an order in which each comes after those it refers to.
    pub stages: Vec<StageSpec>,
    /// The file it came from, with overrides and includes.
    pub document: Document,
}

impl Study {
    /// Decodes and checks a document.
    ///
    /// # Errors
    /// Every problem at once: unknown fields and names, wrong types, cycles, a stage that is given the wrong product.
    pub fn new(document: Document, default_name: &str) -> Result<Self, Diagnostics> {
        let mut problems = Problems::default();
        let study = decode(&document, default_name, &mut problems);
        problems.finish(&document.sources)?;
        study.ok_or_else(|| Diagnostics {
            sources: document.sources.clone(),
            list: Vec::new(),
        })
    }
}

fn decode(document: &Document, default_name: &str, problems: &mut Problems) -> Option<Study> {
    let mut fields = Fields::new(&document.root, problems)?;
    let sections =
        ["study", "models", "prompts", "chat", "score", "stages"].map(|name| fields.node(name));
    fields.finish();
    let [study, models, prompts, chat, score, stages] = sections;
    let (model_names, prompt_names) = (keys(models), keys(prompts));
    let (name, question) = study.map_or((None, None), |node| decode_study(node, problems));
    let models = models
        .map(|node| decode_models(node, document, problems))
        .unwrap_or_default();
    let prompts = prompts
        .map(|node| decode_prompts(node, document, problems))
        .unwrap_or_default();
    let settings = Settings {
        chat: chat
            .and_then(|node| decode_chat(node, problems))
            .unwrap_or_default(),
        score: score
            .and_then(|node| decode_score(node, problems))
            .unwrap_or_default(),
    };
    let Some(stages) = stages else {
        problems
            .error("the study has no stages")
            .help("add at least one, e.g. `[stages.score]` with `model` and `prompts`");
        return None;
    };
    let (stages, names) = decode_stages(stages, &settings, problems);
    check_names(&stages, &names, &model_names, &prompt_names, problems);
    let stages = sort(stages, problems)?;
    Some(Study {
        name: name.unwrap_or_else(|| default_name.to_string()),
        question,
        models,
        prompts,
        stages,
        document: document.clone(),
    })
}

fn decode_study(node: &Node, problems: &mut Problems) -> (Option<String>, Option<String>) {
    let Some(mut fields) = Fields::new(node, problems) else {
        return (None, None);
    };
    let name = fields.optional::<Spanned<String>>("name");
    let question = fields.optional("question");
    let name = name.and_then(|name| {
        let good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
        if !name.value.is_empty() && !name.value.starts_with('.') && name.value.chars().all(good) {
            return Some(name.value);
        }
        fields
            .problems()
            .error_at(
                &name.at,
                format!("study name `{}` cannot name a folder", name.value),
            )
            .label("expected letters, digits, spaces, `-`, `_` and `.`");
        None
    });
    fields.finish();
    (name, question)
}

/// The entries of a section whose keys are names that the user chooses.
fn entries<'n>(node: &'n Node, problems: &mut Problems) -> Vec<(&'n str, &'n Node)> {
    match node.as_table() {
        Some(table) => table
            .iter()
            .map(|(key, node)| (key.name.as_str(), node))
            .collect(),
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
        let Some(mut fields) = Fields::new(node, problems) else {
            continue;
        };
        let source = fields.required::<Spanned<String>>("source");
        let dtype = match fields.node("dtype") {
            None => Some(Dtype::Float32),
            Some(node) => {
                let names =
                    [Dtype::Float32, Dtype::BFloat16, Dtype::Float16].map(|d| (d.name(), d));
                choice(node, fields.problems(), &names)
            }
        };
        let template_from = fields.optional("template_from");
        fields.finish();
        if let (Some(source), Some(dtype)) = (source, dtype) {
            let folder = document.sources.resolve_path(&source.at, "");
            models.insert(
                name.to_string(),
                ModelSpec {
                    source,
                    folder,
                    dtype,
                    template_from,
                },
            );
        }
    }
    let names = keys(Some(node));
    for model in models.values() {
        if let Some(lender) = &model.template_from {
            check_name(lender, "model", names.iter().copied(), problems);
        }
    }
    models
}

fn decode_prompts(
    node: &Node,
    document: &Document,
    problems: &mut Problems,
) -> BTreeMap<String, Spanned<PathBuf>> {
    let mut prompts = BTreeMap::new();
    for (name, node) in entries(node, problems) {
        let Some(mut fields) = Fields::new(node, problems) else {
            continue;
        };
        let path = fields.required::<Spanned<PathBuf>>("path");
        fields.finish();
        if let Some(path) = path {
            let value = document.sources.resolve_path(&path.at, &path.value);
            prompts.insert(name.to_string(), Spanned { value, at: path.at });
        }
    }
    prompts
}

fn decode_chat(node: &Node, problems: &mut Problems) -> Option<Chat> {
    let mut fields = Fields::new(node, problems)?;
    let system = match fields.node("system") {
        None => Some(Chat::default().system),
        Some(Node {
            value: Value::Boolean(false),
            ..
        }) => Some(None),
        Some(
            node @ Node {
                value: Value::String(_),
                ..
            },
        ) => String::decode(node, fields.problems()).map(Some),
        Some(node) => {
            fields
                .problems()
                .mismatch(node, "a string, or `false` to leave the system message out");
            None
        }
    };
    fields.finish();
    system.map(|system| Chat { system })
}

fn decode_score(node: &Node, problems: &mut Problems) -> Option<ScoreRule> {
    let default = ScoreRule::default();
    let mut fields = Fields::new(node, problems)?;
    let words =
        |list: Option<OneOrMany<String>>| list.map(|l| l.iter().cloned().collect::<Vec<_>>());
    let refuse = words(fields.optional("refuse"));
    let comply = words(fields.optional("comply"));
    let threshold = fields.or("threshold", default.threshold);
    let dtype = match fields.node("dtype") {
        None => Some(default.dtype),
        Some(node) => {
            let names = [
                ("float32", ScoreDtype::Float32),
                ("model", ScoreDtype::Model),
            ];
            choice(node, fields.problems(), &names)
        }
    };
    fields.finish();
    Some(ScoreRule {
        refuse: refuse.unwrap_or(default.refuse),
        comply: comply.unwrap_or(default.comply),
        threshold,
        dtype: dtype?,
    })
}

/// The stages that could be decoded, and the names of all.
fn decode_stages(
    node: &Node,
    settings: &Settings,
    problems: &mut Problems,
) -> (Vec<StageSpec>, Vec<String>) {
    let mut stages = Vec::new();
    let mut names = Vec::new();
    for (name, node) in entries(node, problems) {
        names.push(name.to_string());
        let Some(mut fields) = Fields::new(node, problems) else {
            continue;
        };
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
            stage,
        }));
    }
    (stages, names)
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

fn check_name<'a>(
    name: &Name,
    what: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    problems: &mut Problems,
) -> bool {
    if known.clone().any(|k| k == name.value) {
        return true;
    }
    let diagnostic = problems.error_at(&name.at, format!("there is no {what} `{}`", name.value));
    let all: Vec<String> = known.clone().map(|k| format!("`{k}`")).collect();
    match suggest(&name.value, known) {
        Some(meant) => diagnostic.label(format!("did you mean `{meant}`?")),
        None if all.is_empty() => diagnostic.label(format!("the study has no {what}")),
        None => diagnostic.label(format!("the study has {}", all.join(", "))),
    };
    false
}

/// Checks that every name stands for something, and every stage for the right product.
fn check_names(
    stages: &[StageSpec],
    names: &[String],
    models: &[&str],
    prompts: &[&str],
    problems: &mut Problems,
) {
    for spec in stages {
        let needs = spec.stage.needs();
        for name in &needs.models {
            check_name(name, "model", models.iter().copied(), problems);
        }
        for name in &needs.prompts {
            check_name(name, "prompt set", prompts.iter().copied(), problems);
        }
        for (name, wanted) in &needs.stages {
            if check_name(name, "stage", names.iter().map(String::as_str), problems) {
                check_product(spec, name, *wanted, stages, problems);
            }
        }
    }
}

fn check_product(
    spec: &StageSpec,
    name: &Name,
    wanted: Product,
    stages: &[StageSpec],
    problems: &mut Problems,
) {
    let Some(given) = stages.iter().find(|s| s.name == name.value) else {
        return;
    };
    if given.kind.product.serves(wanted) {
        return;
    }
    let makers: Vec<&str> = stages
        .iter()
        .filter(|s| s.kind.product.serves(wanted))
        .map(|s| s.name.as_str())
        .collect();
    let diagnostic = problems.error_at(
        &name.at,
        format!(
            "stage `{}` wants {}, but `{}` gives {}",
            spec.name,
            wanted.noun(),
            name.value,
            given.kind.product.noun()
        ),
    );
    diagnostic.label(format!("expected a stage that gives {}", wanted.noun()));
    if !makers.is_empty() {
        diagnostic.help(format!("these do: `{}`", makers.join("`, `")));
    }
}

/// Puts stages after those they refer to, otherwise in the order of the file; a cycle is a problem.
fn sort(stages: Vec<StageSpec>, problems: &mut Problems) -> Option<Vec<StageSpec>> {
    let mut graph: DiGraph<usize, ()> = DiGraph::new();
    let nodes: Vec<NodeIndex> = (0..stages.len()).map(|i| graph.add_node(i)).collect();
    for (index, spec) in stages.iter().enumerate() {
        for (name, _) in spec.stage.needs().stages {
            if let Some(from) = stages.iter().position(|s| s.name == name.value) {
                graph.add_edge(nodes[from], nodes[index], ());
            }
        }
    }
    if toposort(&graph, None).is_err() {
        for cycle in tarjan_scc(&graph) {
            report_cycle(&cycle, &graph, &stages, problems);
        }
        return None;
    }
    let order = file_order(&graph);
    let mut slots: Vec<Option<StageSpec>> = stages.into_iter().map(Some).collect();
    order.into_iter().map(|index| slots[index].take()).collect()
}

/// A topological order that takes, of the stages that are ready, the first in the file.
fn file_order(graph: &DiGraph<usize, ()>) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < graph.node_count() {
        let ready = graph.node_indices().find(|&node| {
            let mut needed = graph.neighbors_directed(node, petgraph::Direction::Incoming);
            !order.contains(&graph[node]) && needed.all(|from| order.contains(&graph[from]))
        });
        match ready {
            Some(node) => order.push(graph[node]),
            None => break,
        }
    }
    order
}

fn report_cycle(
    cycle: &[NodeIndex],
    graph: &DiGraph<usize, ()>,
    stages: &[StageSpec],
    problems: &mut Problems,
) {
    let on_itself = cycle.len() == 1 && graph.contains_edge(cycle[0], cycle[0]);
    if cycle.len() < 2 && !on_itself {
        return;
    }
    let mut members: Vec<usize> = cycle.iter().map(|&node| graph[node]).collect();
    members.sort_unstable();
    let names: Vec<String> = members
        .iter()
        .map(|&i| format!("`{}`", stages[i].name))
        .collect();
    let message = match names.as_slice() {
        [one] => format!("stage {one} waits for itself"),
        several => format!("stages {} wait for each other", several.join(" and ")),
    };
    let Some(first) = members.first() else { return };
    let needs = stages[*first].stage.needs().stages;
    let into = needs
        .iter()
        .find(|(name, _)| members.iter().any(|&i| stages[i].name == name.value));
    let at = into.map_or(&stages[*first].at, |(name, _)| &name.at);
    problems
        .error_at(at, message)
        .label("this reference closes the circle");
}
