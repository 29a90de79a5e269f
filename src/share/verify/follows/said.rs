//! What a shared file says of its run and of itself, held against what is in it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use crate::fetch::sha256;
use crate::files;
use crate::manifest::{Model, graph};
use crate::model::{DeviceName, ModelError};
use crate::plan::{Concern, Lock, LockedFile, Opened, key_of, study_key};
use crate::report::FinishedRun;
use crate::run::manifest_models;

use super::super::super::export::{self, Listed, Machine, Withholding};
use super::super::super::layout;
use super::Follows;

/// Findings as an export writes them.
pub(super) fn without_paths(opened: &Opened, findings: &[String]) -> Vec<String> {
    let machine = Machine::of_study(opened);
    findings.iter().map(|text| machine.without(text)).collect()
}

impl Follows<'_> {
    /// The files that everything follows from: each is one that the study names.
    pub(super) fn inputs(&mut self) {
        let opened = self.opened;
        self.known.extend(export::input_files(opened));
        let given = self.manifest.files.keys();
        let is_study = |place: &&String| {
            let ends = [".toml", ".yaml", ".yml"];
            place.starts_with("as-given/") && ends.iter().any(|end| place.ends_with(end))
        };
        self.known.extend(given.filter(is_study).cloned());
        self.known.insert(layout::CRATE.to_string());
        let (prompts, models) = (opened.inputs.prompts.len(), opened.inputs.models.len());
        self.level.checked.push(format!(
            "prompt sets ({prompts}) and models ({models}), which are those that the stages' keys are made of"
        ));
    }

    /// What the manifest says that is known from elsewhere. Times, the machine and the command are its author's word.
    pub(super) fn manifest(&mut self) {
        self.known.insert(layout::MANIFEST.to_string());
        let (opened, manifest) = (self.opened, self.manifest);
        let study = &opened.study;
        // Where prompts are withheld, both are others.
        let top = layout::top(&study.name, &manifest.key);
        if self.withheld.is_none() && self.shared.top != top {
            self.manifest_problem("has another key than the name of the folder");
        }
        let key = study_key(study, &opened.inputs).to_string();
        if self.is_same_version && self.withheld.is_none() && manifest.key != key {
            self.manifest_problem("has another key than its study, models and prompts give");
        }
        if manifest.study != study.name || manifest.question != study.question {
            self.manifest_problem("names another study or question than `study.toml`");
        }
        if json!(manifest.graph) != json!(graph(study)) {
            self.manifest_problem(
                "has other stages, or connects them otherwise, than `study.toml`",
            );
        }
        let mut models = manifest_models(study, &opened.inputs);
        for (name, model) in &mut models {
            let said = manifest.models.get(name).cloned().unwrap_or_default();
            // Where it lay is the author's word.
            model.source = said.source;
            if self.withheld.is_some() || !self.is_same_version {
                let fingerprint = std::mem::take(&mut model.fingerprint);
                *model = Model {
                    fingerprint,
                    source: model.source.take(),
                    ..said
                };
            }
        }
        let said = manifest.models.iter();
        let said: BTreeMap<&String, &Model> = said
            .filter(|(name, _)| models.contains_key(*name))
            .collect();
        if json!(said) != json!(models) {
            self.manifest_problem(
                "says something else of the models than follows from those in `models/`",
            );
        }
        // Of those that are withheld the manifest has no hash, and their file may be laid out otherwise than the author's.
        let withheld = self
            .withheld
            .iter()
            .flat_map(|withheld| withheld.sets.keys());
        let withheld: BTreeSet<String> = withheld.cloned().collect();
        let of_others = |findings: &[String]| -> Vec<String> {
            let is_withheld = |finding: &String| {
                let mut names = withheld.iter();
                names.any(|name| finding.starts_with(&format!("prompt set `{name}`: ")))
            };
            let findings = findings.iter().filter(|finding| !is_withheld(finding));
            findings.cloned().collect()
        };
        let findings = without_paths(opened, &opened.inputs.findings);
        if self.is_same_version && of_others(&manifest.findings) != of_others(&findings) {
            self.manifest_problem("has other findings of models and prompts");
        }
        let sets = opened.inputs.prompts.iter();
        for (name, set) in sets.filter(|(name, _)| !withheld.contains(*name)) {
            let content = set.content_hash().to_hex().to_string();
            let count = |split: &str| set.split(split).count() as u64;
            let splits = set.splits().into_iter();
            let splits = splits.map(|split| (split.to_string(), count(split)));
            let said = manifest.prompts.get(name);
            let same = said.is_some_and(|said| {
                said.content == content && said.splits == splits.collect::<BTreeMap<_, _>>()
            });
            if !same {
                self.manifest_problem(&format!(
                    "has another hash or count of prompts `{name}` than those in `prompts/`"
                ));
            }
            // An early dial said none.
            let licence = said.and_then(|said| said.licence.as_deref());
            let follows = study.licence_of(name, set);
            if self.is_same_version && licence.is_some_and(|licence| Some(licence) != follows) {
                self.manifest_problem(&format!(
                    "has another licence of prompts `{name}` than `study.toml` or their file"
                ));
            }
        }
        let said = manifest.stages.iter().map(|stage| &stage.name);
        if !said.eq(study.stages.iter().map(|stage| &stage.name)) {
            self.manifest_problem("is of other stages than `study.toml` has");
        }
        for stage in &study.stages {
            if let Some(why) = self.stage_problem(&stage.name) {
                self.manifest_problem(&format!("{why} of stage `{}`", stage.name));
            }
        }
        let checked = match self.is_same_version {
            true => "what `run.json` says of stages, models, prompts and findings",
            false => "what `run.json` says of stages, fingerprints and prompts",
        };
        self.level.checked.push(checked.to_string());
    }

    fn manifest_problem(&mut self, what: &str) {
        self.level.problem(layout::MANIFEST, what);
    }

    /// What the manifest says otherwise of a stage than what was made of it.
    fn stage_problem(&self, name: &str) -> Option<&'static str> {
        let Some(said) = self.manifest.stage(name) else {
            return Some("says nothing");
        };
        let again = self.made.get(name)?;
        let record = self.received.records.get(name)?;
        if said.key != Some(record.key) || key_of(&said.inputs) != record.key {
            return Some("has another key");
        }
        let tables = said.tables.iter();
        let tables: Vec<Json> = tables
            .map(|table| json!([table.name, table.rows, table.csv, table.parquet]))
            .collect();
        let made = again.tables.iter();
        let made: Vec<Json> = made
            .map(|table| json!([table.name, table.rows, table.csv, table.parquet]))
            .collect();
        if self.is_same_version && tables != made {
            return Some("has other tables");
        }
        (self.is_same_version && said.findings != again.findings).then_some("has other findings")
    }

    /// What the lock says of what the study names. Where that lay is the author's word.
    pub(super) fn lock(&mut self) {
        self.known.insert(layout::LOCK.to_string());
        let path = self.received.folder.join(layout::LOCK);
        let said = match Lock::read(&path) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                let why = "is not in the file, so that nothing says what the run found under the names in its study";
                return self.level.not_checked(layout::LOCK, why);
            }
            Err(_) => return self.level.problem(layout::LOCK, "is no sound lock"),
        };
        let here = match self.lock_of_what_is_here(&said) {
            Ok(here) => here,
            Err(error) => return self.level.problem(layout::LOCK, error.to_string()),
        };
        let run = &self.manifest.provenance;
        let there = &said.environment;
        let same = there.dial == run.dial
            && there.libtorch == run.libtorch
            && there.device == run.device
            && there.processor == run.cpu;
        if !same {
            let what = "says that it was run elsewhere, or with another dial or libtorch, than `run.json` does";
            self.level.problem(layout::LOCK, what);
        }
        // What no stage uses is not in the file.
        for change in said.narrowed_to(&here).changes_to(&here) {
            if change.concerns == Concern::Study {
                let (old, new) = (
                    change.old.unwrap_or_default(),
                    change.new.unwrap_or_default(),
                );
                self.level.problem(
                    layout::LOCK,
                    format!(
                        "says of {} `{old}`, and in the file it is `{new}`",
                        change.what
                    ),
                );
            }
        }
        self.level
            .checked
            .push("what `study.lock` says of models, prompts, files and versions".to_string());
    }

    /// Of what is in the file, under the names and sources that a lock has.
    fn lock_of_what_is_here(&self, said: &Lock) -> Result<Lock, ModelError> {
        let opened = self.opened;
        let mut here = Lock::of(&opened.study, &opened.inputs, DeviceName::Cpu)?;
        for (name, model) in &mut here.models {
            if let Some(said) = said.models.get(name) {
                model.source.clone_from(&said.source);
            }
        }
        for (name, set) in &mut here.prompts {
            if let Some(said) = said.prompts.get(name) {
                set.path.clone_from(&said.path);
            }
        }
        // A file is the one in the lock that has its content.
        let by_content = |file: &LockedFile| (file.bytes, file.blake3.clone());
        let names: BTreeMap<_, &String> = said
            .files
            .iter()
            .map(|(name, file)| (by_content(file), name))
            .collect();
        let files = std::mem::take(&mut here.files).into_iter();
        here.files = files
            .map(|(name, file)| {
                let said = names.get(&by_content(&file));
                (said.map_or(name, |said| (*said).clone()), file)
            })
            .collect();
        Ok(here)
    }

    /// What an export makes of all this: the study as it runs in the folder, texts about the file, figures and the page.
    pub(super) fn derived(&mut self) {
        let folder = &self.received.folder;
        let figures = self.shared.entries.iter().map(|entry| &entry.name);
        let figures = figures.filter(|name| name.starts_with("figures/"));
        self.known.extend(figures.cloned());
        self.known
            .extend([layout::README, layout::STUDY, layout::REPORT].map(str::to_string));
        if self.withheld.is_some() {
            self.known.insert(layout::WITHHELD.to_string());
            let why = "show what prompts are left out of, which is not what follows from these";
            return self.level.not_checked("figures and page", why);
        }
        if !self.is_same_version {
            let there = &self.manifest.provenance.dial;
            let why = format!(
                "dial {there} made the file and this is dial {}, which may draw and say otherwise; the tables that they show were compared",
                env!("CARGO_PKG_VERSION")
            );
            self.level.not_checked(
                "directions, arrays, Parquet files and findings",
                "are not compared across versions; the CSV tables are",
            );
            return self.level.not_checked("figures and page", why);
        }
        let run = FinishedRun::read(folder);
        let derived = run.map_err(Into::into).and_then(|run| {
            export::derived(run, self.opened, self.manifest, &Withholding::of_nothing())
        });
        let mut derived = match derived {
            Ok(derived) => derived,
            Err(_) => {
                let what = "cannot be drawn from what is in the file";
                return self.level.problem(layout::REPORT, what);
            }
        };
        let drawn = derived.len();
        match self.crate_text() {
            Ok(text) => derived.push((layout::CRATE.to_string(), text.into_bytes())),
            Err(error) => self.level.problem(layout::CRATE, error.to_string()),
        }
        let mut expected = Vec::new();
        for (place, bytes) in derived {
            match files::read(&folder.join(&place), files::DATA_BYTES) {
                Ok(stored) if stored == bytes => {}
                Ok(_) => self
                    .level
                    .problem(&place, "is not what follows from the tables and the study"),
                Err(_) => self.level.problem(&place, "is not in the file"),
            }
            expected.push(place);
        }
        let others = self.shared.entries.iter().map(|entry| &entry.name);
        for place in others.filter(|name| name.starts_with("figures/")) {
            if !expected.contains(place) {
                self.level
                    .problem(place, "is a figure that is not drawn of this run");
            }
        }
        self.level.checked.push(format!(
            "{drawn} figures, pages and texts, each drawn again: compared bit by bit"
        ));
    }

    /// The crate as an export would write it of the files there are.
    fn crate_text(&self) -> Result<String, std::io::Error> {
        let mut listing = BTreeMap::new();
        let entries = self.shared.entries.iter();
        for entry in entries.filter(|entry| entry.name != layout::CRATE) {
            let bytes = files::read(&self.received.folder.join(&entry.name), u64::MAX)?;
            let listed = Listed {
                bytes: entry.bytes,
                sha256: sha256(&bytes),
            };
            listing.insert(entry.name.clone(), listed);
        }
        Ok(export::crate_text(&listing, self.opened, self.manifest)?)
    }
}
