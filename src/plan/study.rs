//! The study: one file resolved into typed models, prompt sets and stages, with every problem told at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::{Chat, Dtype};
use crate::prompts::{Columns, Draw, PromptSet};
use crate::spec::{
    Decode, Document, Fields, Key, Location, Node, Problems, Spanned, choice, suggest,
};
use crate::stages::chat;
use crate::stages::declare::{Parameter, Table};
use crate::stages::field_types::{ByContent, Unkeyed};
use crate::stages::{
    Inputs, KINDS, Kind, Name, Product, PublishedFiles, Rule, Rules, Settings, Stage, kind_named,
};

use super::graph::{Known, check_names, sort};
use super::sections::{About, ModelEntry, PromptsEntry, StudyName};

/// A model as the study names it.
#[derive(Clone, Debug)]
pub(crate) struct ModelSpec {
    /// A path or `hf:org/name@revision`, with its place.
    pub(crate) source: Spanned<String>,
    /// The folder that a relative path starts from.
    pub(crate) folder: PathBuf,
    pub(crate) dtype: Dtype,
    pub(crate) template_from: Option<Name>,
    pub(crate) licence: Option<String>,
}

/// A prompt set as the study names it.
pub(crate) struct PromptsSpec {
    /// Its file, with the place where it is written.
    pub(crate) path: Spanned<PathBuf>,
    /// What the file calls the fields of a prompt.
    pub(crate) columns: Columns,
    /// What is drawn out of the file; none for all of it.
    pub(crate) draw: Option<Draw>,
    pub(crate) licence: Option<String>,
    /// Whether its texts may be shared.
    pub(crate) share: bool,
}

/// What a study says of itself to those whom it is shared with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credits {
    pub(crate) title: Option<String>,
    pub(crate) description: Option<String>,
    /// Names, each perhaps with an address in angle brackets.
    pub(crate) authors: Vec<String>,
    pub(crate) licence: Option<String>,
}

/// A stage as the study names it.
pub struct StageSpec {
    pub name: String,
    pub(crate) at: Location,
    pub(crate) kind: &'static Kind,
    pub stage: Box<dyn Stage>,
    /// What it gives to other stages.
    pub(crate) product: Product,
    /// The kind whose tables it leaves.
    pub(crate) shown_as: &'static Kind,
}

impl StageSpec {
    /// Says of a stage whose models compute in a short format that its numbers carry that format's rounding.
    pub(crate) fn rounding(&self, inputs: &Inputs) -> Vec<String> {
        let needs = self.stage.needs();
        let models = needs.models.iter().filter_map(|name| {
            let model = inputs.models.get(&name.value)?;
            let digits = match model.dtype {
                Dtype::Float32 => return None,
                Dtype::BFloat16 => 8,
                Dtype::Float16 => 11,
            };
            Some(format!(
                "model `{}` computes in {}: its numbers carry the rounding of {digits} significant bits",
                name.value,
                model.dtype.name()
            ))
        });
        models.collect()
    }
}

/// The models that stages ask, each with the prompt sets that it is asked.
pub(super) fn models_with_prompts<'s>(
    stages: impl IntoIterator<Item = &'s StageSpec>,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut asked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for needs in stages.into_iter().map(|spec| spec.stage.needs()) {
        let sets: BTreeSet<String> = needs.prompts.into_iter().map(|set| set.value).collect();
        for model in needs.models {
            asked.entry(model.value).or_default().extend(sets.clone());
        }
    }
    asked
}

/// The score rules that stages read of each model that they ask.
pub(super) fn rules_by_model<'s>(
    stages: impl IntoIterator<Item = &'s StageSpec>,
) -> BTreeMap<String, Vec<Arc<Rule>>> {
    let mut read: BTreeMap<String, Vec<Arc<Rule>>> = BTreeMap::new();
    for needs in stages.into_iter().map(|spec| spec.stage.needs()) {
        for model in needs.models {
            let of_model = read.entry(model.value).or_default();
            let is_new = |rule: &&Arc<Rule>| of_model.iter().all(|known| known.name != rule.name);
            let new: Vec<Arc<Rule>> = needs.rules.iter().filter(is_new).cloned().collect();
            of_model.extend(new);
        }
    }
    read
}

/// A study file, decoded and checked as far as possible without touching a model.
pub struct Study {
    /// Name of the study, which names its run folder.
    pub(crate) name: String,
    pub(crate) question: Option<String>,
    pub(crate) credits: Credits,
    pub(crate) models: BTreeMap<String, ModelSpec>,
    pub(crate) prompts: BTreeMap<String, PromptsSpec>,
    /// The chat around every prompt, and the score rules.
    pub(crate) settings: Settings,
    pub(crate) system_at: Option<Location>,
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
        let [about, models, prompts, chat, score, import, stages] = sections;
        let about = about.and_then(|node| fields_of::<About>(node, problems));
        let (name, question, credits) = about.map_or((None, None, Credits::default()), of_about);
        let [models, prompts, stages] =
            [models, prompts, stages].map(|section| entries(section, problems));
        let known = [
            ("model", &models),
            ("prompt set", &prompts),
            ("stage", &stages),
        ];
        let known = known.map(|(what, entries)| {
            Known::new(what, entries.iter().map(|(key, _)| key.name.as_str()))
        });
        let models = decode_models(&models, &document, problems);
        check_lenders(&models, &known[0], problems);
        let prompts = decode_prompts(&prompts, &document, problems);
        let chat = chat.map(|node| chat::decode(node, &Chat::default(), problems));
        let (chat, system_at) = chat.unwrap_or_default();
        let settings = Settings {
            chat,
            rules: Rules::read(score, problems),
            import: PublishedFiles::read(import, &document, problems),
        };
        let stages = decode_stages(&stages, &settings, problems);
        check_names(&stages, &known, problems);
        Some(Study {
            name: name.map_or_else(|| default_name.to_string(), |name| name.0.0),
            question,
            credits,
            models,
            prompts,
            settings,
            system_at,
            stages: sort(stages, problems),
            document: document.clone(),
        })
    }

    /// The licence of a prompt set: what the file says, or what is known of the set's own file.
    pub(crate) fn licence_of<'l>(&'l self, name: &str, set: &PromptSet) -> Option<&'l str> {
        set.licence(self.said_licence(name))
    }

    pub(super) fn said_licence(&self, set: &str) -> Option<&str> {
        self.prompts.get(set)?.licence.as_deref()
    }

    /// The paths that its file holds: the fields that lead to each, and what is meant.
    pub(crate) fn paths(&self) -> Vec<(Vec<&str>, PathBuf)> {
        let mut paths = Vec::new();
        for (name, model) in &self.models {
            if !model.source.value.starts_with("hf:") {
                let path = model.folder.join(&model.source.value);
                paths.push((vec!["models", name, "source"], path));
            }
        }
        for (name, set) in &self.prompts {
            paths.push((vec!["prompts", name, "path"], set.path.value.clone()));
            if let Some(Draw::Selection(path)) = &set.draw {
                let fields = vec!["prompts", name, "draw", "selection"];
                paths.push((fields, path.clone()));
            }
        }
        let mut needs = self.stages.iter().map(|spec| spec.stage.needs());
        if needs.any(|needs| !needs.files.is_empty()) {
            let folder = self.settings.import.folder.join(".");
            paths.push((vec!["import", "folder"], folder));
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
            None => {
                let names: Vec<&str> = names.collect();
                format!("its stages are `{}`", names.join("`, `"))
            }
        })
    }
}

/// The study's name and question, and its credits.
fn of_about(about: About) -> (Option<Unkeyed<StudyName>>, Option<String>, Credits) {
    let text = |text: Option<Unkeyed<String>>| text.map(|text| text.0);
    let authors = about.authors.iter().flat_map(|authors| authors.values());
    let credits = Credits {
        authors: authors.cloned().collect(),
        title: text(about.title),
        description: text(about.description),
        licence: text(about.licence),
    };
    (about.name, text(about.question), credits)
}

/// A table of declared fields.
fn fields_of<T: Parameter>(node: &Node, problems: &mut Problems) -> Option<T> {
    Table::decode(node, problems).map(|Table(fields)| fields)
}

/// The entries of a section whose keys are names that the user chooses.
fn entries<'n>(section: Option<&'n Node>, problems: &mut Problems) -> Vec<(&'n Key, &'n Node)> {
    let Some(node) = section else {
        return Vec::new();
    };
    let Some(table) = node.as_table() else {
        return problems.mismatch(node, "a table").unwrap_or_default();
    };
    table.iter().collect()
}

fn decode_models(
    entries: &[(&Key, &Node)],
    document: &Document,
    problems: &mut Problems,
) -> BTreeMap<String, ModelSpec> {
    let model = |(key, node): &(&Key, &Node)| {
        let entry: ModelEntry = fields_of(node, problems)?;
        let spec = ModelSpec {
            folder: document.sources.resolve_path(&entry.source.0.at, ""),
            source: entry.source.0,
            dtype: entry.dtype.0,
            template_from: entry.template_from.map(|name| name.0),
            licence: entry.licence.map(|licence| licence.0),
        };
        Some((key.name.clone(), spec))
    };
    entries.iter().filter_map(model).collect()
}

/// Checks that a template is borrowed from a model that has one of its own: no chains, and so no circles.
fn check_lenders(models: &BTreeMap<String, ModelSpec>, names: &Known<'_>, problems: &mut Problems) {
    for lender in models.values().filter_map(|m| m.template_from.as_ref()) {
        if !names.check(lender, problems) {
            continue;
        }
        let borrowed = models.get(&lender.value);
        if let Some(further) = borrowed.and_then(|m| m.template_from.as_ref()) {
            let name = &lender.value;
            let message = format!("model `{name}` has no template of its own to lend");
            problems
                .error_at(&lender.at, message)
                .label("expected a model without `template_from`")
                .related(&further.at, "it borrows one itself");
        }
    }
}

fn decode_prompts(
    entries: &[(&Key, &Node)],
    document: &Document,
    problems: &mut Problems,
) -> BTreeMap<String, PromptsSpec> {
    let set = |(key, node): &(&Key, &Node)| {
        let entry: PromptsEntry = fields_of(node, problems)?;
        let resolve =
            |path: &Spanned<PathBuf>| document.sources.resolve_path(&path.at, &path.value);
        let draw = entry
            .draw
            .map(|ByContent(Table(draw))| match draw.selection {
                Some(file) => Draw::Selection(resolve(&file)),
                None => Draw::Seeded {
                    seed: draw.caps.seed,
                    harmful: draw.caps.harmful,
                    edge: draw.caps.edge,
                    benign: draw.caps.benign,
                },
            });
        let columns = entry.columns.map(|ByContent(Table(columns))| Columns {
            id: columns.id,
            prompt: columns.prompt,
            split: columns.split,
            category: columns.category,
        });
        let columns = columns.unwrap_or_default();
        if let Some([one, other, name]) = columns.given_twice() {
            let message = format!("`columns` says that `{name}` is both the {one} and the {other}");
            problems
                .error_at(&entry.path.0.at, message)
                .label("of the prompts in this file")
                .help("name a field of its own for each, or leave one out");
        }
        let path = Spanned {
            value: resolve(&entry.path),
            at: entry.path.0.at,
        };
        let licence = entry.licence.map(|licence| licence.0);
        let spec = PromptsSpec {
            path,
            columns,
            draw,
            licence,
            share: entry.share.0,
        };
        Some((key.name.clone(), spec))
    };
    entries.iter().filter_map(set).collect()
}

/// The stages that could be decoded.
fn decode_stages(
    entries: &[(&Key, &Node)],
    settings: &Settings,
    problems: &mut Problems,
) -> Vec<StageSpec> {
    if entries.is_empty() && problems.is_empty() {
        problems
            .error("the study has no stages")
            .help("add at least one, e.g. `[stages.score]` with `model` and `prompts`");
    }
    let stage = |(key, node): &(&Key, &Node)| {
        check_stage_name(key, problems);
        let mut fields = Fields::new(node, problems)?;
        let kind = stage_kind(&key.name, &mut fields)?;
        let stage = (kind.decode)(&mut fields, settings);
        fields.finish();
        let stage = stage?;
        let gives = stage.gives();
        Some(StageSpec {
            name: key.name.clone(),
            at: node.at.clone(),
            kind,
            product: gives.map_or(kind.product, |gives| gives.product),
            shown_as: gives
                .and_then(|gives| kind_named(gives.tables))
                .unwrap_or(kind),
            stage,
        })
    };
    entries.iter().filter_map(stage).collect()
}

/// Bytes of a stage's name, so that the longest name of a file of it is one that a file can have.
const LONGEST_STAGE: usize = 150;

/// A stage's name is the name of its tables' files, up to the first dot.
fn check_stage_name(key: &Key, problems: &mut Problems) {
    if key.name.len() > LONGEST_STAGE {
        let bytes = key.name.len();
        let message = format!("a stage's name of {bytes} bytes cannot name files");
        problems
            .error_at(&key.at, message)
            .label(format!("expected {LONGEST_STAGE} bytes at most"));
    }
    let good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    if key.name.is_empty() || !key.name.chars().all(good) {
        let message = format!("stage name `{}` cannot name a file", key.name);
        problems
            .error_at(&key.at, message)
            .label("expected letters, digits, `-` and `_`");
    }
}

/// The stage's `kind`, or the kind that its name is.
fn stage_kind(name: &str, fields: &mut Fields<'_, '_>) -> Option<&'static Kind> {
    if let Some(node) = fields.node("kind") {
        let kinds: Vec<_> = KINDS.iter().map(|kind| (kind.name, *kind)).collect();
        return choice(node, fields.problems, &kinds);
    }
    let named = kind_named(name);
    if named.is_none() {
        let known = || KINDS.iter().map(|kind| kind.name);
        let quoted: Vec<String> = known().map(|kind| format!("`{kind}`")).collect();
        let label = match suggest(name, known()) {
            Some(meant) => format!("did you mean the stage `{meant}`?"),
            None => "`kind` is missing".to_string(),
        };
        fields
            .problems
            .error_at(fields.at, format!("stage `{name}` has no field `kind`"))
            .label(label)
            .help(format!(
                "a stage that is not named after its kind needs `kind`, one of {}",
                quoted.join(", ")
            ));
    }
    named
}
