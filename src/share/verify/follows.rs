//! The second level: everything that follows from the study, the prompts and the stored values is made once more, and compared to the bit. No
//! model is asked.
//!
//! Where another version of this program made the file, its tables are compared as numbers, and what only shows them (figures, the page, texts
//! about the file) is not compared.

mod numbers;
mod said;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;

use crate::cache::Key;
use crate::files;
use crate::manifest::Manifest;
use crate::plan::{
    Fetch, Next, Opened, Pins, PlanError, Selection, StageRecord, Visited, Walk, describe, key_of,
    open_selected, store,
};
use crate::spec::load;
use crate::stages::Output;

use super::super::again::{self, Hashes, Models, Nobody, NotMade, See, StandIns};
use super::super::layout;
use super::super::read::SharedFile;
use super::super::withheld::Withheld;
use super::outcome::Level;
use super::received::Received;
use super::recomputed::Stratum;
use super::seen::Known;

/// Most cells that a study in a shared file may have. Larger ones are not made again.
const MOST_CELLS: u64 = 200_000_000;

/// The study of a shared file, opened in its folder.
///
/// # Errors
/// What is wrong with it.
pub(super) fn open(received: &Received, name: &str) -> Result<Opened, String> {
    let path = received.folder.join(layout::STUDY);
    let document = load(&path, &[]).map_err(|error| error.render(false))?;
    let opened = open_selected(
        document,
        name,
        &received.cache,
        Fetch::Never,
        &Selection::All,
        &Pins::default(),
    );
    let opened = opened.map_err(|error| match error {
        PlanError::Study(diagnostics) => diagnostics.render(false),
        other => other.to_string(),
    })?;
    let outside = |path: &Path| !path.starts_with(&received.folder);
    let paths = opened.study.paths();
    match paths.iter().find(|(_, path)| outside(path)) {
        Some((fields, _)) => Err(format!(
            "`{}` names a file outside of the folder",
            fields.join(".")
        )),
        None => Ok(opened),
    }
}

/// Hears of a stage what came of it.
type Visit<'v> = dyn FnMut(&Visited<'_>, &mut Walk<'_>, Result<&Output, NotMade>) + 'v;

/// Makes every stage again; `see` sees its cells, and `visit` what came of it.
pub(super) fn each_stage(
    opened: &Opened,
    received: &Received,
    see: &mut dyn See,
    visit: &mut Visit<'_>,
) {
    let models = Models::of(opened);
    let none = Hashes::new();
    let mut walk = Walk::new(&opened.inputs, &opened.cache);
    let walked = walk.go(opened.study.stages.iter(), |stage, _, walk| {
        let hashes = received.hashes.get(&stage.spec.name).unwrap_or(&none);
        let known = (&models, hashes, StandIns::Some);
        let made = again::make(&stage, walk, known, see).and_then(|output| {
            let record = describe(&output).map_err(NotMade::Failed)?;
            Ok((output, record))
        });
        Ok::<Next, std::convert::Infallible>(match made {
            Ok((output, record)) => {
                visit(&stage, walk, Ok(&output));
                Next::Known(Box::new(record), Some(output.into()))
            }
            Err(why) => {
                visit(&stage, walk, Err(why));
                Next::Unknown
            }
        })
    });
    match walked {
        Ok(()) => {}
        Err(never) => match never {},
    }
}

/// Whether the study is of a size that is made again.
pub(super) fn is_within_limits(opened: &Opened, level: &mut Level) -> bool {
    let cells = opened.study.stages.iter();
    let cells = cells.map(|spec| spec.stage.cost(&opened.inputs).cells_at_most);
    let cells = cells.fold(0u64, u64::saturating_add);
    if cells > MOST_CELLS {
        level.not_checked(
            layout::STUDY,
            format!("asks for up to {cells} values, and a check makes studies of up to {MOST_CELLS} again"),
        );
    }
    cells <= MOST_CELLS
}

/// Holds what a shared file says against what follows.
pub(super) struct Follows<'a> {
    pub(super) received: &'a Received,
    pub(super) shared: &'a SharedFile,
    pub(super) opened: &'a Opened,
    pub(super) manifest: &'a Manifest,
    /// Whether this version of the program made the file.
    pub(super) is_same_version: bool,
    pub(super) level: &'a mut Level,
    /// What the file does without.
    pub(super) withheld: Option<Withheld>,
    /// What was made of each stage.
    made: BTreeMap<String, StageRecord>,
    /// The files that have been accounted for.
    known: BTreeSet<String>,
    tables: usize,
    directions: usize,
    tensors: usize,
}

impl<'a> Follows<'a> {
    pub(super) fn new(
        (received, shared): (&'a Received, &'a SharedFile),
        (opened, manifest): (&'a Opened, &'a Manifest),
        level: &'a mut Level,
    ) -> Self {
        Follows {
            received,
            shared,
            opened,
            manifest,
            is_same_version: manifest.provenance.dial == env!("CARGO_PKG_VERSION"),
            level,
            withheld: None,
            made: BTreeMap::new(),
            known: BTreeSet::new(),
            tables: 0,
            directions: 0,
            tensors: 0,
        }
    }

    /// Compares a stage, as it comes.
    pub(super) fn stage(
        &mut self,
        stage: &Visited<'_>,
        walk: &mut Walk<'_>,
        made: Result<&Output, NotMade>,
    ) {
        let name = &stage.spec.name;
        for place in [
            layout::cells_of(name),
            layout::hashes_of(name),
            layout::record_of(name),
        ] {
            self.known.insert(place);
        }
        if let Some(withheld) = &self.withheld
            && withheld.stages.contains(name)
        {
            let needs = stage.spec.stage.needs();
            let mut sets = needs.prompts.iter();
            let mut stages = needs.stages.iter();
            let rests = sets.any(|set| withheld.sets.contains_key(&set.value))
                || stages.any(|(stage, _)| withheld.stages.contains(&stage.value))
                || !withheld.files.is_empty();
            if !rests {
                let what = format!("leaves stage `{name}` out, which rests on no withheld prompts");
                return self.level.problem(layout::WITHHELD, what);
            }
            let tables = self.manifest.stage(name).into_iter();
            let tables = tables.flat_map(|said| &said.tables);
            self.known.extend(tables.flat_map(|table| {
                ["csv", "parquet"].map(|extension| layout::table(name, &table.name, extension))
            }));
            let directions = layout::direction(name, "");
            let all = self.shared.entries.iter().map(|entry| &entry.name);
            self.known
                .extend(all.filter(|place| place.starts_with(&directions)).cloned());
            let why = "its values are left out with the prompts that they are of; `dial unpack` with `--prompts`, then a run with the model, \
                makes its tables anew, and `dial diff` compares them";
            return self.level.not_checked(format!("stage `{name}`"), why);
        }
        if let Some(why) = self.other_version(stage) {
            return self.level.not_checked(name, why);
        }
        let key = key_of(&stage.key_parts);
        if self.received.records.get(name).map(|sent| sent.key) != Some(key) {
            self.level
                .problem(layout::record_of(name), other_key(stage, walk));
        }
        match made {
            Ok(output) => self.output(stage, output, walk),
            Err(NotMade::Gone) => self.level.problem(
                layout::cells_of(name),
                format!(
                    "a value that stage `{name}` needs is not stored under the key that it has by the study, the prompts and the model in the file"
                ),
            ),
            Err(NotMade::NeedsLibtorch) => self.level.not_checked(
                name,
                "takes libtorch, which this program was not built with",
            ),
            Err(NotMade::Failed(error)) => self.level.problem(name, format!("{error}")),
        }
    }

    /// Whether another version of the stage's code, or of the models', made what the file has of it.
    fn other_version(&self, stage: &Visited<'_>) -> Option<String> {
        let there = &self
            .received
            .records
            .get(&stage.spec.name)?
            .record
            .key_parts;
        let mut versions = ["version", "evaluation"].into_iter();
        let differs = versions.any(|field| there[field] != stage.key_parts[field]);
        (differs && !self.is_same_version).then(|| {
            format!(
                "was made by dial {}, whose stages of this kind, or models, compute otherwise than those of dial {}; check it with that dial",
                self.manifest.provenance.dial,
                env!("CARGO_PKG_VERSION")
            )
        })
    }

    fn output(&mut self, stage: &Visited<'_>, output: &Output, walk: &Walk<'_>) {
        let name = stage.spec.name.as_str();
        let again = match self.is_same_version {
            true => describe(output),
            // The tables are read again to be compared as numbers.
            false => store(output, walk.cache),
        };
        let mut again = match again {
            Ok(again) => again,
            Err(error) => return self.level.problem(name, error.to_string()),
        };
        for table in &again.tables {
            self.tables += 1;
            for (extension, key) in [("csv", table.csv), ("parquet", table.parquet)] {
                self.file(&layout::table(name, &table.name, extension), key, walk);
            }
        }
        for (tensors, description) in &again.directions {
            self.directions += 1;
            for artifact in [tensors, description] {
                self.file(&layout::direction(name, &artifact.file), artifact.key, walk);
            }
        }
        for artifact in &again.tensors {
            self.tensors += 1;
            self.file(&layout::tensors(name, &artifact.file), artifact.key, walk);
        }
        let rounding = stage.spec.rounding(&walk.inputs);
        let findings: Vec<String> = output.findings.iter().cloned().chain(rounding).collect();
        again.findings = said::without_paths(self.opened, &findings);
        let key = key_of(&stage.key_parts);
        let same = self.received.records.get(name).is_some_and(|sent| {
            let as_written = key_of(&sent.record.key_parts) == key
                && sent.record.stage == *name
                && sent.record.seconds == 0.0
                && sent.record.created.is_empty()
                && sent.record.packs.is_empty();
            if !as_written {
                return false;
            }
            let facts = |record: &StageRecord| {
                json!([
                    record.tables,
                    record.directions,
                    record.tensors,
                    record.findings,
                    record.cells
                ])
            };
            let again = StageRecord {
                cells: sent.record.cells,
                ..again.clone()
            };
            facts(&sent.record) == facts(&again)
        });
        if !same && self.is_same_version {
            self.level.problem(
                layout::record_of(name),
                format!(
                    "is not what stage `{name}` gives: other tables, directions, arrays or findings"
                ),
            );
        }
        self.without_activations(stage, &again, walk);
        self.made.insert(name.to_string(), again);
    }

    /// Of activations only the hash may be stored where nothing comes of their values: with other made-up ones a stage gives the same.
    fn without_activations(&mut self, stage: &Visited<'_>, again: &StageRecord, walk: &Walk<'_>) {
        let name = &stage.spec.name;
        let Some(hashes) = self.received.hashes.get(name) else {
            return;
        };
        let models = Models::of(self.opened);
        let known = (&models, hashes, StandIns::Others);
        let others = again::make(stage, walk, known, &mut Nobody).ok();
        let others = others.and_then(|output| describe(&output).ok());
        if others.is_none_or(|others| others.content() != again.content()) {
            let what = format!(
                "stands for activations that stage `{name}` needs the values of, and these are not in the file"
            );
            self.level.problem(layout::hashes_of(name), what);
        }
    }

    /// Compares a file with the artifact that should be in it.
    fn file(&mut self, place: &str, key: Key, walk: &Walk<'_>) {
        self.known.insert(place.to_string());
        let path = self.received.folder.join(place);
        let mut hasher = blake3::Hasher::new();
        match files::open(&path).and_then(|file| hasher.update_reader(file).map(drop)) {
            Ok(()) if Key::from(hasher.finalize()) == key => {}
            Ok(()) if !self.is_same_version => {
                let again = walk.cache.object(&key).ok().flatten();
                if let Some(why) = numbers::differ(&path, again.as_deref()) {
                    self.level.problem(place, why);
                }
            }
            Ok(()) => self
                .level
                .problem(place, "is not what follows from the stored values"),
            Err(_) => self.level.problem(place, "is not in the file"),
        }
    }

    /// Whether every stored value is one that a stage asks for: whoever goes on from the file would take one that is not for computed.
    pub(super) fn cells(&mut self, known: &Known) {
        if self.made.len() < self.opened.study.stages.len() {
            return;
        }
        let asked: u64 = known.strata.iter().map(Stratum::count).sum();
        let hashes: usize = self.received.hashes.values().map(Hashes::len).sum();
        for (place, stored, asked) in [
            (layout::CELLS, self.received.cells, asked),
            (layout::HASHES, hashes as u64, known.hashes),
        ] {
            if stored != asked {
                let what =
                    format!("holds {stored} values, and the stages of the study ask for {asked}");
                self.level.problem(place, what);
            }
        }
    }

    /// Compares what is said of the run and of the file, and what is drawn.
    pub(super) fn rest(mut self) {
        let (stages, tables) = (self.made.len(), self.tables);
        self.level.checked.push(match self.is_same_version {
            true => {
                let arrays = match self.tensors {
                    0 => String::new(),
                    count => format!(" and {count} files of arrays"),
                };
                format!(
                    "{stages} stages, {tables} tables and {} directions{arrays}, each made again from stored values: compared bit by bit",
                    self.directions
                )
            }
            false => format!(
                "{stages} stages and {tables} tables (as CSV), each made again from stored values: compared as numbers, relative to 1e-9, since \
                 another version made the file"
            ),
        });
        self.inputs();
        self.manifest();
        self.lock();
        self.derived();
        let unknown = self.shared.entries.iter();
        let unknown = unknown.filter(|entry| !self.known.contains(&entry.name));
        for entry in unknown {
            let what = "is nothing that a run leaves, and was not checked for what it says";
            self.level.problem(&entry.name, what);
        }
    }
}

/// Why a stage has another key than the file says.
fn other_key(stage: &Visited<'_>, walk: &mut Walk<'_>) -> String {
    let nearest = walk.nearest(stage).ok().flatten();
    let differences = nearest
        .map(|nearest| nearest.differences)
        .unwrap_or_default();
    let told: Vec<String> = differences
        .iter()
        .map(|difference| {
            let (old, new) = difference.values(60);
            format!(
                "{} is {new} in the file, and was {old}",
                difference.subject()
            )
        })
        .collect();
    match told.is_empty() {
        true => "is not of this stage: no stage of the study has its key".to_string(),
        false => format!(
            "is of another stage than the study has: {}",
            told.join("; ")
        ),
    }
}
