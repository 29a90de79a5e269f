//! What the archive holds, file by file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Error};
use std::path::{Component, Path, PathBuf};

use serde_json::json;

use crate::cache::{Batch, Cache, Key};
use crate::fetch::sha256;
use crate::files;
use crate::manifest::Manifest;
use crate::model::RECORDED_FILES;
use crate::plan::{Opened, StageRecord};
use crate::prompts::Draw;
use crate::report::{self, FinishedRun};
use crate::stages::without_texts;

use super::super::again;
use super::super::layout;
use super::super::write::Archive;
use super::cells::MadeAgain;
use super::crate_metadata::{self, Listed, Listing};
use super::machine::Machine;
use super::withhold::Withholding;
use super::{ExportError, OnStep, Step, readme, study};

/// What a run is shared with.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) machine: &'a Machine,
    /// As it is to read.
    pub(super) manifest: &'a Manifest,
    pub(super) withholding: &'a Withholding,
}

/// What a file of the archive holds.
enum Content {
    Bytes(Vec<u8>),
    /// An artifact of the cache.
    Object(Key),
}

/// The files of the archive, by their place in its folder.
#[derive(Default)]
pub(super) struct Contents(BTreeMap<String, Content>);

impl Contents {
    /// All files of a run.
    ///
    /// # Errors
    /// A file that has changed since the run, or cannot be read.
    pub(super) fn of(
        run: FinishedRun,
        opened: &Opened,
        made: &[MadeAgain],
        shared: Shared<'_>,
    ) -> Result<Self, ExportError> {
        let Shared {
            machine,
            withholding,
            ..
        } = shared;
        let mut contents = Contents::default();
        contents.add_given(&run, shared)?;
        contents.add_inputs(opened, withholding)?;
        contents.add_models(opened)?;
        for stage in made {
            let is_withheld = withholding.has(&stage.name);
            contents.add_artifacts(&run.path, stage, is_withheld)?;
            if !is_withheld {
                contents.add_cells(stage);
                contents.add_hashes(stage);
                contents.add_record(stage, machine)?;
            }
        }
        contents.add_drawn(run, shared, opened)?;
        if !withholding.is_empty() {
            let text = serde_json::to_string_pretty(&withholding.withheld);
            let text = text.map_err(|error| ExportError::Failed(error.to_string()))?;
            contents.add(layout::WITHHELD, text + "\n");
        }
        Ok(contents)
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    fn add(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.insert(name.into(), Content::Bytes(bytes.into()));
    }

    /// The study's files as their author wrote them, and the lock, without the paths of this machine.
    fn add_given(&mut self, run: &FinishedRun, shared: Shared<'_>) -> Result<(), ExportError> {
        let (machine, withholding) = (shared.machine, shared.withholding);
        let copies = run.manifest.files.keys();
        for copy in copies.filter(|copy| !withholding.given.contains(*copy)) {
            let text = files::read_text(&run.path.join(copy), files::SETTINGS_BYTES);
            let text = text.map_err(unreadable(&run.path.join(copy)))?;
            self.add(layout::given(copy), machine.without(&text));
        }
        // Early runs have none, and one that could not be written stopped no run.
        let lock = run.path.join(layout::LOCK);
        if lock.is_file() {
            let text = files::read_text(&lock, files::SETTINGS_BYTES).map_err(unreadable(&lock))?;
            let text = withholding.lock(&lock, text)?;
            self.add(layout::LOCK, machine.without(&text));
        }
        Ok(())
    }

    /// Prompt sets, and files that stages import.
    fn add_inputs(
        &mut self,
        opened: &Opened,
        withholding: &Withholding,
    ) -> Result<(), ExportError> {
        for (name, file) in prompt_files(opened) {
            let Some(set) = opened.study.prompts.get(&name) else {
                continue;
            };
            if withholding.withheld.sets.contains_key(&name) {
                let selection = withholding.selection(&name, opened)?;
                self.0
                    .extend(selection.map(|(file, text)| (file, Content::Bytes(text))));
                continue;
            }
            let selection = selection_of(opened, &name);
            let read = |path: &Path| files::read(path, files::DATA_BYTES).map_err(unreadable(path));
            self.add(file, read(&set.path.value)?);
            if let Some((path, file)) = selection {
                self.add(file, read(&path)?);
            }
        }
        for (path, file) in &opened.inputs.files {
            let folder = &opened.study.settings.import.folder;
            let below = path.strip_prefix(folder).ok().and_then(place_below);
            let below = below.ok_or_else(|| {
                ExportError::Failed(format!(
                    "`{}`, which a stage imports, is not in the folder `import.folder`, and so has no place in the archive; put it there",
                    path.display()
                ))
            })?;
            let place = format!("{}/{below}", layout::FILES);
            if !withholding.withheld.files.contains(&place) {
                self.add(place, file.bytes.clone());
            }
        }
        Ok(())
    }

    /// Each model without its weights.
    fn add_models(&mut self, opened: &Opened) -> Result<(), ExportError> {
        for (name, folder) in model_folders(opened) {
            let spec = opened.study.models.get(&name);
            let (Some(model), Some(spec)) = (opened.inputs.models.get(&name), spec) else {
                continue;
            };
            let files = model.write_recorded(&spec.source.value);
            let files =
                files.map_err(|error| ExportError::Failed(format!("model `{name}`: {error}")))?;
            for (file, bytes) in files {
                self.add(format!("{folder}/{file}"), bytes);
            }
        }
        Ok(())
    }

    /// The tables, directions and arrays of a stage, as the cache has them, and the run's folder where it has not lost them; of one whose
    /// prompts are withheld no arrays.
    fn add_artifacts(
        &mut self,
        folder: &Path,
        stage: &MadeAgain,
        is_withheld: bool,
    ) -> Result<(), ExportError> {
        let record = &stage.record;
        let tables = record.tables.iter().flat_map(|table| {
            let name = |extension| layout::table(&stage.name, &table.name, extension);
            [(name("csv"), table.csv), (name("parquet"), table.parquet)]
        });
        let directions = record.directions.iter().flat_map(|(tensors, description)| {
            [tensors, description].map(|artifact| {
                let name = layout::direction(&stage.name, &artifact.file);
                (name, artifact.key)
            })
        });
        // Token ids are texts, and activations nearly so.
        let tensors = record.tensors.iter().filter(|_| !is_withheld);
        let tensors = tensors.map(|file| (layout::tensors(&stage.name, &file.file), file.key));
        for (name, key) in tables.chain(directions).chain(tensors) {
            let path = folder.join(&name);
            let mut hasher = blake3::Hasher::new();
            let read = files::open(&path).and_then(|file| hasher.update_reader(file).map(drop));
            if read.is_ok() && Key::from(hasher.finalize()) != key {
                return Err(ExportError::Failed(format!(
                    "`{}` has been changed since the run ended; run the study again, and export that run",
                    path.display()
                )));
            }
            let content = match stage.replaced.get(&key) {
                Some(bytes) => Content::Bytes(bytes.clone()),
                None => Content::Object(key),
            };
            self.0.insert(name, content);
        }
        Ok(())
    }

    fn add_cells(&mut self, stage: &MadeAgain) {
        if stage.cells.is_empty() {
            return;
        }
        let mut batch = Batch::default();
        for (key, value) in &stage.cells {
            batch.push(*key, value);
        }
        // Where they were computed is not the same for all, and the manifest says where the run was.
        self.add(layout::cells_of(&stage.name), batch.to_pack(b"{}"));
    }

    fn add_hashes(&mut self, stage: &MadeAgain) {
        if !stage.hashes.is_empty() {
            let bytes = again::hashes_as_bytes(&stage.hashes);
            self.add(layout::hashes_of(&stage.name), bytes);
        }
    }

    /// What the cache says of a stage, but for what another run of the same study would say otherwise.
    fn add_record(&mut self, stage: &MadeAgain, machine: &Machine) -> Result<(), ExportError> {
        let findings = stage.record.findings.iter();
        let record = StageRecord {
            findings: findings.map(|finding| machine.without(finding)).collect(),
            seconds: 0.0,
            packs: Vec::new(),
            stage: stage.name.clone(),
            created: String::new(),
            ..stage.record.clone()
        };
        let text = json!({ "key": stage.key, "record": record }).to_string();
        self.add(layout::record_of(&stage.name), text + "\n");
        Ok(())
    }

    /// The manifest, and what is drawn of it and the tables: in the archive's folder it is drawn just so.
    fn add_drawn(
        &mut self,
        mut run: FinishedRun,
        shared: Shared<'_>,
        opened: &Opened,
    ) -> Result<(), ExportError> {
        let (manifest, withholding) = (shared.manifest, shared.withholding);
        let failed = |error: serde_json::Error| ExportError::Failed(error.to_string());
        let mut text = serde_json::to_vec_pretty(manifest).map_err(failed)?;
        text.push(b'\n');
        run.load_tables()?;
        run.manifest = serde_json::from_slice(&text).map_err(failed)?;
        for stage in &mut run.stages {
            stage.result = run.manifest.stage(&stage.name).cloned();
            let tables = stage.tables.iter_mut();
            for (_, table) in tables.filter(|_| withholding.has(&stage.name)) {
                if let Some(frame) = without_texts(&table.frame) {
                    table.frame = frame;
                }
            }
        }
        self.add(layout::MANIFEST, text);
        for (name, bytes) in derived(run, opened, manifest, withholding)? {
            self.add(name, bytes);
        }
        Ok(())
    }

    /// The list of all files that are there so far, which is the last of them.
    ///
    /// # Errors
    /// An artifact that has gone from the cache.
    pub(super) fn add_crate(
        &mut self,
        opened: &Opened,
        manifest: &Manifest,
    ) -> Result<(), ExportError> {
        let mut listing = Listing::new();
        for (name, content) in &self.0 {
            let bytes = content.bytes(&opened.cache);
            let bytes = bytes.map_err(|error| ExportError::Failed(error.to_string()))?;
            let listed = Listed {
                bytes: bytes.len() as u64,
                sha256: sha256(&bytes),
            };
            listing.insert(name.clone(), listed);
        }
        let text = crate_metadata::text(&listing, opened, manifest);
        let text = text.map_err(|error| ExportError::Failed(error.to_string()))?;
        self.add(layout::CRATE, text);
        Ok(())
    }

    /// Looks for texts and hashes that are withheld, in every file.
    ///
    /// # Errors
    /// One that is in a file all the same.
    pub(super) fn check(
        &self,
        withholding: &Withholding,
        cache: &Cache,
    ) -> Result<(), ExportError> {
        if withholding.is_empty() {
            return Ok(());
        }
        let sought = withholding.sought()?;
        // Words of a vocabulary may be prompts.
        let files = self.0.iter();
        let mut files = files.filter(|(name, _)| !name.starts_with(layout::MODELS));
        let found = files.find_map(|(name, content)| {
            let bytes = content.bytes(cache).ok()?;
            Some((name, sought.found_in(&bytes)?))
        });
        found.map_or(Ok(()), |(name, found)| {
            Err(ExportError::Failed(format!(
                "{found} is withheld, and `{name}` would hold it; withhold the prompt set that it stands in, too, or take it out of the study"
            )))
        })
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// A file that cannot be written, an artifact that has gone from the cache, names that are one where case makes no difference.
    pub(super) fn write(
        &self,
        file: &mut File,
        top: &str,
        cache: &Cache,
        on_step: OnStep<'_>,
    ) -> io::Result<()> {
        let mut archive = Archive::new(file, top);
        for (done, (name, content)) in self.0.iter().enumerate() {
            on_step(Step {
                what: "writing",
                done,
                total: self.0.len(),
            });
            archive.add(name, &content.bytes(cache)?)?;
        }
        archive.finish().map(drop)
    }
}

/// The files of an archive that follow from the others: the study as it runs in its folder, the text about it, figures and the page of a run
/// whose tables are loaded.
///
/// # Errors
/// A figure that cannot be drawn.
pub(in super::super) fn derived(
    mut run: FinishedRun,
    opened: &Opened,
    manifest: &Manifest,
    withholding: &Withholding,
) -> Result<Vec<(String, Vec<u8>)>, ExportError> {
    let sets = opened.study.prompts.iter();
    run.prompt_files = sets
        .filter(|(name, _)| !withholding.withheld.sets.contains_key(*name))
        .map(|(name, set)| (name.clone(), set.path.value.clone()))
        .collect();
    let top = layout::top(&opened.study.name, &manifest.key);
    let texts = [
        (
            layout::README,
            readme::text(&top, manifest, &withholding.withheld),
        ),
        (layout::STUDY, study::text(opened, withholding)),
    ];
    let texts = texts.map(|(name, text)| (name.to_string(), text.into_bytes()));
    let mut files = report::drawn_files(&run)?;
    files.extend(texts);
    Ok(files)
}

impl Content {
    fn bytes(&self, cache: &Cache) -> io::Result<Cow<'_, [u8]>> {
        match self {
            Content::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            Content::Object(key) => {
                let object = cache.object(key).map_err(Error::other)?;
                let gone = || Error::other(format!("the artifact {key} has gone from the cache"));
                Ok(Cow::Owned(object.ok_or_else(gone)?))
            }
        }
    }
}

fn unreadable(path: &Path) -> impl Fn(Error) -> ExportError {
    let shown = path.display().to_string();
    move |error| ExportError::Failed(format!("`{shown}` cannot be read: {error}"))
}

/// A path as a place in the archive; none for one that leads out of its folder, or is not text.
fn place_below(path: &Path) -> Option<String> {
    let parts = path.components().map(|part| match part {
        Component::Normal(name) => name.to_str().filter(|name| files::is_plain_name(name)),
        _ => None,
    });
    let parts: Option<Vec<&str>> = parts.collect();
    parts.map(|parts| parts.join("/"))
}

/// The place of each prompt set.
pub(super) fn prompt_files(opened: &Opened) -> BTreeMap<String, String> {
    let names = layout::file_names(opened.inputs.prompts.keys().map(String::as_str));
    let place = |(name, file): (String, String)| {
        let path = &opened.study.prompts.get(&name)?.path.value;
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Some((name, format!("{}/{file}.{extension}", layout::PROMPTS)))
    };
    names.into_iter().filter_map(place).collect()
}

/// The file that says which prompts of a set are drawn, and its place; none where none does.
pub(super) fn selection_of(opened: &Opened, set: &str) -> Option<(PathBuf, String)> {
    let Some(Draw::Selection(path)) = &opened.study.prompts.get(set)?.draw else {
        return None;
    };
    let place = prompt_files(opened).remove(set)?;
    let (stem, _) = place.rsplit_once('.')?;
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    Some((path.clone(), format!("{stem}.selection.{extension}")))
}

/// The places of everything that a study names: prompt sets, files that stages import, and models.
pub(in super::super) fn input_files(opened: &Opened) -> Vec<String> {
    let sets = prompt_files(opened).into_iter();
    let sets = sets.flat_map(|(name, file)| {
        let selection = selection_of(opened, &name).map(|(_, file)| file);
        [Some(file), selection].into_iter().flatten()
    });
    let folder = &opened.study.settings.import.folder;
    let files = opened.inputs.files.keys();
    let files = files.filter_map(|path| place_below(path.strip_prefix(folder).ok()?));
    let files = files.map(|below| format!("{}/{below}", layout::FILES));
    let models = model_folders(opened).into_values();
    let models = models.flat_map(|folder| RECORDED_FILES.map(|file| format!("{folder}/{file}")));
    sets.chain(files).chain(models).collect()
}

/// The folder of each model that is used.
pub(super) fn model_folders(opened: &Opened) -> BTreeMap<String, String> {
    let names = layout::file_names(opened.inputs.models.keys().map(String::as_str));
    let place = |(name, folder)| (name, format!("{}/{folder}", layout::MODELS));
    names.into_iter().map(place).collect()
}
