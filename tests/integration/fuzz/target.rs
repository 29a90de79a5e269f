//! What is fuzzed: a reader, the seeds of its inputs, and how they are changed.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::mutate::{Random, changed, changed_json};
use super::{bad, hub, models, store, texts};

/// Longer seeds are read as they are, and not changed.
const MOST_CHANGED_BYTES: usize = 32 << 10;
/// Bytes of a changed input at most.
const MOST_BYTES: usize = 256 << 10;

/// An input to be read.
pub struct Case<'a> {
    /// An empty folder, the only one that may be written to.
    pub folder: &'a Path,
    pub input: &'a [u8],
}

impl Case<'_> {
    /// Writes a file into the folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> std::path::PathBuf {
        let path = self.folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }
}

/// A seed.
pub struct Seed {
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Seed {
    pub fn new(name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Seed {
            name: name.to_string(),
            bytes: bytes.into(),
        }
    }
}

/// A seed changed, with words of the format.
type Change = fn(&mut Random, &[u8], &[&str]) -> Option<Vec<u8>>;

/// A reader to be fuzzed.
pub struct Target {
    pub name: &'static str,
    /// Cases in the test suite: as many as fit a few seconds of one core.
    pub cases: u64,
    /// Processes that share the cases; more than one where they wait rather than work.
    pub workers: u64,
    /// Seeds that are made rather than kept as files, because they are long or regular.
    pub made: fn() -> Vec<Seed>,
    /// Words of the format.
    pub words: &'static [&'static str],
    /// An input changed as its format has it: none where that cannot be done.
    pub structured: Change,
    /// Makes the checksums and lengths of a changed input right again, so that readers look further.
    pub repair: fn(&mut [u8]),
    /// Reads it, and says whether it was accepted. Either answer is right, but for seeds whose name begins with `plain`: if those were
    /// refused, no more than the first check of the reader would be fuzzed.
    pub read: fn(&Case) -> bool,
}

impl Target {
    /// For a format of text without a structure of its own here.
    pub const TEXT: Target = Target {
        name: "",
        cases: 0,
        workers: 1,
        made: Vec::new,
        words: &[],
        structured: |_, _, _| None,
        repair: |_| {},
        read: |_| true,
    };
    /// For JSON.
    pub const JSON: Target = Target {
        structured: changed_json,
        ..Target::TEXT
    };
}

/// Every target.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    let all: [&'static [Target]; 5] = [
        models::TARGETS,
        texts::TARGETS,
        store::TARGETS,
        hub::TARGETS,
        bad::TARGETS,
    ];
    all.into_iter().flatten()
}

/// The target of that name.
pub fn target(name: &str) -> &'static Target {
    let mut named = targets().filter(|target| target.name == name);
    named.next().unwrap_or_else(|| panic!("no target `{name}`"))
}

/// Some of the inputs that a start leads to.
#[derive(Clone, Serialize, Deserialize)]
pub struct Series {
    pub start: u64,
    /// The first are the seeds.
    pub cases: Range<u64>,
    /// One input that was kept, in the place of all others.
    pub kept: Option<std::path::PathBuf>,
}

/// An input, and what it is.
pub struct Input {
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Input {
    /// Whether it must be accepted.
    pub fn is_plain(&self) -> bool {
        self.name.starts_with("seed `plain")
    }
}

thread_local! {
    /// Of the target that was asked for last.
    static SEEDS: std::cell::RefCell<(&'static str, std::rc::Rc<Vec<Seed>>)> = std::cell::RefCell::default();
}

impl Target {
    /// The seeds: those kept as files by name, then those that are made.
    pub fn seeds(&self) -> std::rc::Rc<Vec<Seed>> {
        SEEDS.with_borrow_mut(|(name, seeds)| {
            if *name != self.name {
                (*name, *seeds) = (self.name, std::rc::Rc::new(self.all_seeds()));
            }
            std::rc::Rc::clone(seeds)
        })
    }

    fn all_seeds(&self) -> Vec<Seed> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/fuzz/seeds");
        let files = crate::workbench::files_below(&folder.join(self.name));
        let kept = files.into_iter().map(|path| Seed {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            bytes: std::fs::read(&path).unwrap(),
        });
        let seeds: Vec<Seed> = kept.chain((self.made)()).collect();
        assert!(!seeds.is_empty(), "no seeds of `{}`", self.name);
        seeds
    }

    /// The input of that number.
    pub fn input(&self, series: &Series, case: u64) -> Input {
        if let Some(path) = &series.kept {
            return Input {
                name: format!("`{}`", path.display()),
                bytes: std::fs::read(path).unwrap(),
            };
        }
        let seeds = self.seeds();
        if let Some(seed) = seeds.get(case as usize) {
            return Input {
                name: format!("seed `{}`", seed.name),
                bytes: seed.bytes.clone(),
            };
        }
        let short: Vec<&Seed> = seeds
            .iter()
            .filter(|seed| seed.bytes.len() <= MOST_CHANGED_BYTES)
            .collect();
        let mut random = Random::of(series.start, case);
        let seed = *random.one(&short);
        Input {
            name: format!("case {case} of start {} (of `{}`)", series.start, seed.name),
            bytes: self.changed(&mut random, &seed.bytes, &short),
        }
    }

    fn changed(&self, random: &mut Random, seed: &[u8], seeds: &[&Seed]) -> Vec<u8> {
        let others: Vec<&[u8]> = seeds.iter().map(|seed| seed.bytes.as_slice()).collect();
        let structured = match random.once_in(2) {
            true => (self.structured)(random, seed, self.words),
            false => None,
        };
        let is_structured = structured.is_some();
        let mut bytes = structured.map_or(Cow::Borrowed(seed), Cow::Owned);
        if !is_structured || random.once_in(4) {
            bytes = changed(random, &bytes, &others, self.words, MOST_BYTES).into();
        }
        let mut bytes = bytes.into_owned();
        if !random.once_in(4) {
            (self.repair)(&mut bytes);
        }
        bytes
    }
}
