//! What is left out where prompts are withheld, and the last look at what is left.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::cache::{Cache, Key};
use crate::fetch::sha256;
use crate::files;
use crate::manifest::Manifest;
use crate::plan::{Lock, Opened, StageRecord, StageSpec};
use crate::prompts::{Columns, Draw, ORIGIN, Prompt, PromptSet};
use crate::report::FinishedRun;
use crate::stages::{Artifacts, Product, read_parquet, without_texts, write_csv, write_parquet};

use super::super::layout;
use super::super::withheld::{LEFT_OUT, Withheld, WithheldSet};
use super::cells::MadeAgain;
use super::contents::{prompt_files, selection_of};
use super::sought::Sought;
use super::{ExportError, salt, study};

/// Digits of a run's key in the name of its folder.
const KEY_DIGITS: usize = 8;

/// What an export leaves out.
pub(in super::super) struct Withholding {
    pub(super) withheld: Withheld,
    /// The set of each withheld text, and the text.
    texts: Vec<(String, String)>,
    /// Hashes that may not be in the archive, in hexadecimal.
    hashes: Vec<String>,
    /// Copies of the study's files that hold such a text.
    pub(super) given: BTreeSet<String>,
}

/// Artifacts of a stage without texts, by the key that each had with them.
pub(super) type Replaced = HashMap<Key, Vec<u8>>;

impl Withholding {
    /// Of a file that has everything.
    pub(in super::super) fn of_nothing() -> Self {
        Withholding {
            withheld: Withheld::of(BTreeMap::new()),
            texts: Vec::new(),
            hashes: Vec::new(),
            given: BTreeSet::new(),
        }
    }

    /// Of the sets that say so, or of all.
    ///
    /// # Errors
    /// A file of prompts that cannot be read, or a cache that has no salt and cannot be written.
    pub(super) fn of(opened: &Opened, run: &FinishedRun, all: bool) -> Result<Self, ExportError> {
        let mut withholding = Withholding::of_nothing();
        let run_key = &run.manifest.key;
        for (name, file) in prompt_files(opened) {
            let spec = opened.study.prompts.get(&name);
            let Some(spec) = spec.filter(|spec| all || !spec.share) else {
                continue;
            };
            let set = withholding.add_file(&name, &spec.path.value, &spec.columns)?;
            if let Some(drawn) = opened.inputs.prompts.get(&name) {
                withholding.add(&name, drawn);
            }
            if let Some(Draw::Selection(path)) = &spec.draw {
                withholding.add_file(&name, path, &Columns::default())?;
            }
            let salt = salt::of(&opened.cache, run_key, &name)?;
            let set = WithheldSet::of(&set, &file, spec.columns.clone(), salt);
            withholding.withheld.sets.insert(name, set);
        }
        if withholding.is_empty() {
            return Ok(withholding);
        }
        let sought = withholding.sought()?;
        for copy in run.manifest.files.keys() {
            let text = files::read(&run.path.join(copy), files::SETTINGS_BYTES);
            if text.is_ok_and(|text| sought.found_in(&text).is_some()) {
                withholding.given.insert(copy.clone());
            }
        }
        let digits = run_key.get(..KEY_DIGITS).unwrap_or(run_key);
        withholding.hashes.push(format!("-{digits}"));
        Ok(withholding)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.withheld.sets.is_empty()
    }

    /// Reads a file of prompts whose texts and plain hashes may not be in the archive.
    fn add_file(
        &mut self,
        name: &str,
        path: &Path,
        columns: &Columns,
    ) -> Result<PromptSet, ExportError> {
        let failed = |error: String| ExportError::Failed(format!("prompt set `{name}`: {error}"));
        let content = files::read(path, files::DATA_BYTES);
        let content = content.map_err(|error| failed(error.to_string()))?;
        let set = PromptSet::read_as(path, &content, columns)
            .map_err(|error| failed(error.to_string()))?;
        self.add_hashes(&content);
        self.add(name, &set);
        Ok(set)
    }

    fn add(&mut self, name: &str, set: &PromptSet) {
        let texts = set.prompts.iter();
        let texts = texts.map(|prompt| (name.to_string(), prompt.text.clone()));
        self.texts.extend(texts);
        self.hashes.push(set.content_hash().to_hex().to_string());
    }

    fn add_hashes(&mut self, content: &[u8]) {
        let hashes = [Key::of(content).to_string(), sha256(content)];
        self.hashes.extend(hashes);
    }

    /// Whether cells and record of a stage are left out, as they rest on what is withheld. The stages that it needs were asked about before.
    ///
    /// # Errors
    /// A table that cannot be read.
    pub(super) fn takes(
        &mut self,
        spec: &StageSpec,
        opened: &Opened,
        artifacts: &Artifacts,
    ) -> Result<bool, ExportError> {
        if self.is_empty() {
            return Ok(false);
        }
        let needs = spec.stage.needs();
        let mut takes = needs
            .prompts
            .iter()
            .any(|set| self.withheld.sets.contains_key(&set.value))
            || needs
                .stages
                .iter()
                .any(|(stage, _)| self.withheld.stages.contains(&stage.value));
        // Of whose prompts the texts in an imported file are, it does not say.
        let mut has_texts = !needs.files.is_empty() && spec.product == Product::Texts;
        if !needs.files.is_empty() {
            let tables = artifacts
                .tables()
                .map_err(|error| ExportError::Failed(error.to_string()))?;
            has_texts |= tables
                .iter()
                .any(|(_, table)| without_texts(table).is_some());
        }
        for file in &needs.files {
            let Some(content) = opened.inputs.files.get(&file.value) else {
                continue;
            };
            if has_texts || self.sought()?.found_in(&content.bytes).is_some() {
                takes = true;
                let folder = &opened.study.settings.import.folder;
                let place = file.value.strip_prefix(folder).unwrap_or(&file.value);
                self.withheld
                    .files
                    .insert(format!("{}/{}", layout::FILES, files::text_of(place)));
                self.add_hashes(&content.bytes);
            }
        }
        if takes {
            self.withheld.stages.insert(spec.name.clone());
        }
        Ok(takes)
    }

    /// Whether the cells and the record of a stage are left out.
    pub(super) fn has(&self, stage: &str) -> bool {
        self.withheld.stages.contains(stage)
    }

    /// The artifacts of such a stage that hold texts, without them.
    ///
    /// # Errors
    /// One that cannot be read.
    pub(super) fn replaced(
        &mut self,
        key: &Key,
        record: &StageRecord,
        cache: &Cache,
    ) -> Result<Replaced, ExportError> {
        let failed = |error: crate::stages::StageError| ExportError::Failed(error.to_string());
        let mut replaced = Replaced::new();
        for table in &record.tables {
            let bytes = cache.object(&table.parquet)?;
            let Some(frame) = bytes.map(read_parquet).transpose().map_err(failed)? else {
                continue;
            };
            let Some(frame) = without_texts(&frame) else {
                continue;
            };
            let (mut csv, mut parquet) = (Vec::new(), Vec::new());
            write_csv(&frame, &mut csv).map_err(failed)?;
            write_parquet(&frame, &mut parquet).map_err(failed)?;
            replaced.extend([(table.csv, csv), (table.parquet, parquet)]);
        }
        for (_, description) in &record.directions {
            let Some(bytes) = cache.object(&description.key)? else {
                continue;
            };
            let fields = serde_json::from_slice::<Map<String, Json>>(&bytes);
            let fields = fields.and_then(|mut fields| {
                // The texts that it was built of.
                fields.remove("prompts");
                serde_json::to_vec_pretty(&fields)
            });
            let text = fields.map_err(|error| ExportError::Failed(error.to_string()))?;
            replaced.insert(description.key, text);
        }
        self.hashes
            .extend(replaced.keys().chain([key]).map(Key::to_string));
        self.hashes.push(record.content().to_string());
        Ok(replaced)
    }

    /// A manifest without what tells of texts: hashes of prompts and all that is made of them, and the first prompt as a model reads it.
    pub(super) fn clean(&self, manifest: &mut Manifest, opened: &Opened, made: &[MadeAgain]) {
        if self.is_empty() {
            return;
        }
        let sets = manifest.prompts.iter_mut();
        for (_, set) in sets.filter(|(name, _)| self.withheld.sets.contains_key(*name)) {
            set.content = LEFT_OUT.to_string();
            set.known_as = None;
        }
        for model in manifest.models.values_mut() {
            let is_withheld = |set: &str| self.withheld.sets.contains_key(set);
            model
                .example
                .take_if(|example| is_withheld(&example.prompts));
        }
        manifest
            .files
            .retain(|copy, _| !self.given.iter().any(|given| *copy == layout::given(given)));
        for stage in &mut manifest.stages {
            let Some(again) = made
                .iter()
                .find(|again| again.name == stage.name && self.has(&again.name))
            else {
                continue;
            };
            (stage.key, stage.inputs) = (None, Json::Null);
            let tables = stage.tables.iter_mut();
            for key in tables
                .flat_map(|table| [&mut table.csv, &mut table.parquet])
                .flatten()
            {
                if let Some(bytes) = again.replaced.get(key) {
                    *key = Key::of(bytes);
                }
            }
        }
        // The run's key is made of the prompts' hashes, and its first digits are in names.
        let key = self.run_key(opened).to_string();
        let digits = |key: &str| format!("-{}", key.get(..KEY_DIGITS).unwrap_or(key));
        let (old, new) = (digits(&manifest.key), digits(&key));
        for text in manifest.command.iter_mut().chain([&mut manifest.run]) {
            *text = text.replace(&old, &new);
        }
        manifest.key = key;
    }

    /// What stands for the key of the run: it tells no more than the salted hashes do.
    fn run_key(&self, opened: &Opened) -> Key {
        let sets = json!(self.withheld.sets).to_string();
        Key::of(format!("{sets}\n{}", study::text(opened, self)).as_bytes())
    }

    /// The file that says which of a set's prompts are drawn, without texts; none for a set that may be shared.
    pub(super) fn selection(
        &self,
        name: &str,
        opened: &Opened,
    ) -> Result<Option<(String, Vec<u8>)>, ExportError> {
        let Some((path, place)) =
            selection_of(opened, name).filter(|_| self.withheld.sets.contains_key(name))
        else {
            return Ok(None);
        };
        let selection =
            PromptSet::load(&path).map_err(|error| ExportError::Failed(error.to_string()))?;
        let line = |prompt: &Prompt| {
            let Prompt {
                id,
                split,
                category,
                other,
                ..
            } = prompt;
            let origin = other.get(ORIGIN);
            json!({ "id": id, "prompt": LEFT_OUT, "split": split, "category": category, ORIGIN: origin }).to_string() + "\n"
        };
        let lines: String = selection.prompts.iter().map(line).collect();
        Ok(Some((without_extension(&place), lines.into_bytes())))
    }

    /// A lock without hashes of what is withheld.
    pub(super) fn lock(&self, path: &Path, text: String) -> Result<String, ExportError> {
        let locked = match self.is_empty() {
            true => None,
            false => Lock::read(path)?,
        };
        let Some(mut lock) = locked else {
            return Ok(text);
        };
        let sets = lock.prompts.iter_mut();
        for (_, set) in sets.filter(|(name, _)| self.withheld.sets.contains_key(*name)) {
            set.content = LEFT_OUT.to_string();
        }
        // Its files are named from the study's folder on, as those of the archive are from theirs.
        lock.files
            .retain(|_, file| !self.hashes.contains(&file.blake3));
        lock.to_text().map_err(ExportError::Failed)
    }

    /// The place of that file.
    pub(super) fn selection_place(&self, name: &str, place: String) -> String {
        match self.withheld.sets.contains_key(name) {
            true => without_extension(&place),
            false => place,
        }
    }

    /// What finds withheld texts and hashes.
    ///
    /// # Errors
    /// More texts than can be sought.
    pub(super) fn sought(&self) -> Result<Sought, ExportError> {
        Sought::of(&self.texts, &self.hashes)
    }

    /// What is said of it to the author.
    pub(super) fn told(&self, cells: u64) -> Vec<String> {
        if self.is_empty() {
            return Vec::new();
        }
        let sets = self.withheld.sets.keys();
        let sets: Vec<String> = sets.map(|name| format!("`{name}`")).collect();
        let stages = self.withheld.stages.iter();
        let stages: Vec<String> = stages.map(|name| format!("`{name}`")).collect();
        let options: Vec<String> = self
            .withheld
            .sets
            .keys()
            .map(|name| format!("--prompts {name}=PATH"))
            .collect();
        let mut told = vec![format!(
            "prompts of {} are withheld: their texts, what models wrote after them, and every plain hash of them are left out; ids, splits, categories, \
             scores and a salted hash are not",
            sets.join(", ")
        )];
        if !stages.is_empty() {
            told.push(format!(
                "the {cells} cells of {} are left out with them: a reviewer without the file sees the tables of these stages and that nothing of \
                 them has been changed since, but not that they follow from cells; with it (`{}`) they are computed again",
                stages.join(", "),
                options.join(" ")
            ));
        }
        if !self.withheld.files.is_empty() {
            let files: Vec<String> = self
                .withheld
                .files
                .iter()
                .map(|file| format!("`{file}`"))
                .collect();
            told.push(format!("imported files that hold texts are left out, too, and a reviewer puts them in their place: {}", files.join(", ")));
        }
        let given = self.given.iter();
        told.extend(given.map(|copy| {
            format!(
                "`{}` is left out, as a text of theirs is in it",
                layout::given(copy)
            )
        }));
        told
    }
}

/// A selection is written as JSON Lines.
fn without_extension(place: &str) -> String {
    let stem = place.rsplit_once('.').map_or(place, |(stem, _)| stem);
    format!("{stem}.jsonl")
}
