//! A folder with models, prompts and a cache of its own, in which the program is run, and what comes out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::checkpoint::planted_models;
use crate::prompts::{Prompt, jsonl, xstest_csv};

/// A working folder: `models/inst`, `models/base`, `main.jsonl`, `xstest.csv`, and what runs leave.
pub struct Workbench {
    folder: tempfile::TempDir,
}

/// A study of the scores of `main.jsonl`, and nothing else.
pub const SCORES: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "inst"
prompts = "main"
"#;

/// A quick stage of 50 cells, and behind it a long one: 400 cells for each of so many random directions. From 164 of them on it takes two
/// commits at least, for a run claims 65,536 cells at a time.
pub fn long_study(seeds: usize) -> String {
    format!(
        r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "inst"
prompts = "main"
[stages.random]
model = "inst"
prompts = "main"
seed = "0..{seeds}"
layer = "all"
alpha = [-2, 2]
"#
    )
}

impl Workbench {
    /// A folder with these prompts as `main.jsonl`, and no cache yet.
    pub fn new(prompts: &[Prompt]) -> Self {
        let bench = Workbench {
            folder: tempfile::tempdir().unwrap(),
        };
        std::os::unix::fs::symlink(planted_models(), bench.path("models")).unwrap();
        bench.write("main.jsonl", jsonl(prompts));
        bench.write("xstest.csv", xstest_csv());
        bench
    }

    /// A copy with prompts and cache, but not the runs.
    pub fn copy(&self) -> Self {
        let bench = Workbench {
            folder: tempfile::tempdir().unwrap(),
        };
        std::os::unix::fs::symlink(planted_models(), bench.path("models")).unwrap();
        for name in ["main.jsonl", "xstest.csv"] {
            std::fs::copy(self.path(name), bench.path(name)).unwrap();
        }
        copy_folder(&self.path("cache"), &bench.path("cache"));
        bench
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// The program with these arguments, to be run in the folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_dial")), arguments)
    }

    /// The same of a copy of the program.
    pub fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path()).args(arguments);
        command
            .env_remove("RUST_BACKTRACE")
            .env("NO_COLOR", "1")
            .env("COLUMNS", "100");
        command
    }

    /// Compiles a C library that a command can load before all others (`LD_PRELOAD`), to make the system fail where it seldom does.
    pub fn library(&self, name: &str, source: &str) -> PathBuf {
        let (source_path, path) = (
            self.path(&format!("{name}.c")),
            self.path(&format!("{name}.so")),
        );
        std::fs::write(&source_path, source).unwrap();
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&path)
            .arg(source_path)
            .arg("-ldl");
        let compiled = compiler
            .status()
            .expect("a C compiler is needed to make the system fail");
        assert!(compiled.success());
        path
    }

    /// The records of stages in the cache, without those of what was drawn, which is found by the content of tables alone.
    pub fn stage_records(&self) -> Vec<PathBuf> {
        let records = files_below(&self.path("cache/v1/stages")).into_iter();
        let is_drawn = |record: &PathBuf| {
            let text = std::fs::read_to_string(record).unwrap();
            text.contains(r#""drawn_of":"#)
        };
        records.filter(|record| !is_drawn(record)).collect()
    }

    /// Runs the program and says what it said.
    pub fn dial(&self, arguments: &[&str]) -> Said {
        Said::of(
            self.command(arguments).output().unwrap(),
            self.folder.path(),
        )
    }

    /// Writes the study as `study.toml` and runs it.
    pub fn run(&self, study: &str) -> Run {
        self.run_with(study, &[])
    }

    /// Runs a study of the project.
    pub fn run_file(&self, path: &Path, arguments: &[&str]) -> Run {
        let path = path.display().to_string();
        let mut all = vec!["run", path.as_str(), "--format", "json", "--threads", "1"];
        all.extend(arguments);
        self.dial(&all).into_run()
    }

    /// As [`Workbench::run`], with more arguments.
    pub fn run_with(&self, study: &str, arguments: &[&str]) -> Run {
        self.write("study.toml", study);
        let mut all = vec!["run", "study.toml", "--format", "json"];
        all.extend(arguments);
        if !arguments.contains(&"--threads") {
            all.extend(["--threads", "1"]);
        }
        self.dial(&all).into_run()
    }

    /// What the program says to a study that it should refuse.
    pub fn refusal(&self, study: &str) -> Said {
        self.write("study.toml", study);
        self.dial(&["run", "study.toml", "--threads", "1"])
    }
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_folder(&path, &target),
            false => drop(std::fs::copy(&path, &target).unwrap()),
        }
    }
}

/// Every file below a folder, in order.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let below = |path: PathBuf| {
        if path.is_dir() {
            files_below(&path)
        } else {
            vec![path]
        }
    };
    paths.into_iter().flat_map(below).collect()
}

/// What the program left on its streams, without the paths of this machine.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    pub fn of(output: Output, folder: &Path) -> Self {
        let canonical = folder.canonicalize().unwrap();
        let text = |bytes: Vec<u8>| {
            let mut text = String::from_utf8(bytes).unwrap();
            for path in [canonical.as_path(), folder] {
                text = text.replace(&format!("{}/", path.display()), "");
            }
            text
        };
        Said {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// The message of a refusal with this exit code; nothing may be on stdout.
    pub fn message(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        self.stderr.trim_end()
    }

    /// The last line of the message, for refusals that come after a run has begun.
    pub fn last_line(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{self:?}");
        self.stderr.trim_end().lines().last().unwrap_or_default()
    }

    fn into_run(self) -> Run {
        let last = self.stdout.lines().last().unwrap_or_default();
        let json: Value =
            serde_json::from_str(last).unwrap_or_else(|_| panic!("no JSON: {self:?}"));
        assert_eq!(
            self.stdout.lines().count(),
            1,
            "more than the JSON on stdout: {}",
            self.stdout
        );
        Run { said: self, json }
    }
}

/// A run that came to its end.
#[derive(Debug)]
pub struct Run {
    pub said: Said,
    pub json: Value,
}

impl Run {
    /// The run, which must have gone well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.said.code, 0, "{}", self.said.stderr);
        self
    }

    #[track_caller]
    fn stage(&self, name: &str) -> &Value {
        let stages = self.json["stages"].as_array().unwrap();
        let found = stages.iter().find(|stage| stage["name"] == name);
        found.unwrap_or_else(|| panic!("no stage `{name}` in {}", self.json))
    }

    /// Cells that a stage computed.
    #[track_caller]
    pub fn computed(&self, stage: &str) -> u64 {
        self.stage(stage)["cells_computed"].as_u64().unwrap()
    }

    /// Cells that a stage found in the cache.
    #[track_caller]
    pub fn cached(&self, stage: &str) -> u64 {
        self.stage(stage)["cells_cached"].as_u64().unwrap()
    }

    /// How a stage ended.
    #[track_caller]
    pub fn status(&self, stage: &str) -> &str {
        self.stage(stage)["status"].as_str().unwrap()
    }

    /// (name, cells computed) of every stage that computed any.
    pub fn all_computed(&self) -> Vec<(&str, u64)> {
        let stages = self.json["stages"].as_array().unwrap().iter();
        let counts = stages.map(|stage| {
            (
                stage["name"].as_str().unwrap(),
                stage["cells_computed"].as_u64().unwrap(),
            )
        });
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// A file of the run's folder.
    pub fn file(&self, bench: &Workbench, name: &str) -> PathBuf {
        bench
            .path(self.json["run_dir"].as_str().unwrap())
            .join(name)
    }

    /// What the run's folder says of it.
    pub fn manifest(&self, bench: &Workbench) -> Value {
        let text = std::fs::read(self.file(bench, "run.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// A table of the run.
    #[track_caller]
    pub fn table(&self, bench: &Workbench, name: &str) -> Table {
        Table::read(&self.file(bench, &format!("tables/{name}.csv")))
    }

    /// The vector of a direction of the run, by its file without the ending.
    #[track_caller]
    pub fn direction(&self, bench: &Workbench, file: &str) -> Vec<f32> {
        let path = self.file(bench, &format!("directions/{file}.safetensors"));
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = file.tensor("direction").unwrap();
        let numbers = tensor.data().as_chunks::<4>().0.iter();
        numbers.map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// Exports the run as `run.zip`, of which whoever has the model of that folder finds that it is whole, follows, and comes out again.
    #[track_caller]
    pub fn assert_comes_out_again(&self, bench: &Workbench, model: &str) {
        let folder = self.json["run_dir"].as_str().unwrap();
        let said = bench.dial(&["export", folder, "-o", "run.zip"]);
        assert_eq!(said.code, 0, "{said:?}");
        let model = format!("inst={}", bench.path(model).display());
        let said = bench.dial(&["verify", "run.zip", "--full", "--model", &model]);
        assert_eq!(said.code, 0, "{said:?}");
        for level in ["intact", "follows", "recomputed"] {
            let told = format!("{level}: agrees");
            assert!(said.stdout.contains(&told), "{said:?}");
        }
    }

    /// Path and bytes of everything that the stages left: tables in both forms, directions and arrays.
    pub fn artifacts(&self, bench: &Workbench) -> Vec<(PathBuf, Vec<u8>)> {
        let run = self.file(bench, "");
        let files =
            ["tables", "directions", "tensors"].map(|folder| files_below(&run.join(folder)));
        let named = files.into_iter().flatten().map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            (path.strip_prefix(&run).unwrap().to_path_buf(), bytes)
        });
        named.collect()
    }

    /// Name and bytes of every CSV table.
    pub fn tables(&self, bench: &Workbench) -> Vec<(String, Vec<u8>)> {
        let paths = files_below(&self.file(bench, "tables")).into_iter();
        let csv = paths.filter(|path| path.extension().is_some_and(|extension| extension == "csv"));
        let named = csv.map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(&path).unwrap(),
            )
        });
        named.collect()
    }
}

/// A CSV table, row by row.
pub struct Table(pub Vec<Row>);

/// A row: values by column.
#[derive(Clone, Debug)]
pub struct Row(HashMap<String, String>);

impl Table {
    #[track_caller]
    pub fn read(path: &Path) -> Self {
        let mut reader = csv::Reader::from_path(path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Table(reader.deserialize().map(|row| Row(row.unwrap())).collect())
    }

    /// The rows in which each of these columns has this value.
    pub fn with(&self, values: &[(&str, &str)]) -> Table {
        let has = |row: &&Row| {
            values
                .iter()
                .all(|(column, value)| row.text(column) == *value)
        };
        Table(self.0.iter().filter(has).cloned().collect())
    }

    /// The numbers of a column.
    #[track_caller]
    pub fn numbers(&self, column: &str) -> Vec<f64> {
        self.0.iter().map(|row| row.number(column)).collect()
    }

    /// The mean of a column, of at least one row.
    #[track_caller]
    pub fn mean(&self, column: &str) -> f64 {
        assert!(!self.0.is_empty(), "no rows to average");
        self.numbers(column).iter().sum::<f64>() / self.0.len() as f64
    }

    /// The only row.
    #[track_caller]
    pub fn only(&self) -> &Row {
        assert_eq!(self.0.len(), 1, "{:?}", self.0);
        &self.0[0]
    }

    /// The mean of `score` at each value of `alpha`, α ascending.
    #[track_caller]
    pub fn means_by_alpha(&self) -> Vec<(f64, f64)> {
        let mut alphas = self.numbers("alpha");
        alphas.sort_by(f64::total_cmp);
        alphas.dedup();
        let at = |alpha: f64| {
            Table(
                self.0
                    .iter()
                    .filter(|row| row.number("alpha") == alpha)
                    .cloned()
                    .collect(),
            )
        };
        alphas
            .into_iter()
            .map(|alpha| (alpha, at(alpha).mean("score")))
            .collect()
    }

    /// The least-squares slope of mean score on α.
    #[track_caller]
    pub fn slope(&self) -> f64 {
        let points = self.means_by_alpha();
        let count = points.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
        let (alpha, score) = (mean(|p| p.0), mean(|p| p.1));
        let above: f64 = points.iter().map(|p| (p.0 - alpha) * (p.1 - score)).sum();
        above / points.iter().map(|p| (p.0 - alpha).powi(2)).sum::<f64>()
    }
}

impl Row {
    /// A value as text.
    #[track_caller]
    pub fn text(&self, column: &str) -> &str {
        self.0
            .get(column)
            .unwrap_or_else(|| panic!("no column `{column}` in {:?}", self.0.keys()))
    }

    /// A value as a number.
    #[track_caller]
    pub fn number(&self, column: &str) -> f64 {
        let text = self.text(column);
        text.parse()
            .unwrap_or_else(|_| panic!("`{column}` is `{text}`"))
    }
}

/// A pack of cells. The format is that of `src/cache/pack.rs`.
pub struct Pack {
    pub path: PathBuf,
    pub provenance: Value,
    /// Keys and values.
    pub cells: Vec<([u8; 32], Vec<u8>)>,
}

impl Pack {
    /// Its file's name.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap().to_str().unwrap().to_string()
    }

    fn read(path: PathBuf) -> Self {
        let bytes = std::fs::read(&path).unwrap();
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let (provenance, entries) = bytes[40..].split_at(number(16));
        let (entries, values) = entries.split_at(40 * number(24));
        let mut values = &values[32..];
        let cells = entries.chunks(40).map(|entry| {
            let length = u64::from_le_bytes(entry[32..].try_into().unwrap()) as usize;
            let (value, rest) = values.split_at(length);
            values = rest;
            (entry[..32].try_into().unwrap(), value.to_vec())
        });
        Pack {
            cells: cells.collect(),
            provenance: serde_json::from_slice(provenance).unwrap(),
            path,
        }
    }

    /// Writes a sound pack of these cells into a cache.
    pub fn write(cache: &Path, provenance: &Value, cells: &[([u8; 32], Vec<u8>)]) -> Self {
        let provenance = serde_json::to_vec(provenance).unwrap();
        let values: Vec<u8> = cells.iter().flat_map(|(_, value)| value.clone()).collect();
        let mut bytes = b"dialpack".to_vec();
        for number in [1, provenance.len(), cells.len(), values.len()] {
            bytes.extend((number as u64).to_le_bytes());
        }
        bytes.extend(provenance);
        for (key, value) in cells {
            bytes.extend(key);
            bytes.extend((value.len() as u64).to_le_bytes());
        }
        let hash = blake3::hash(&bytes);
        bytes.extend(hash.as_bytes());
        bytes.extend(values);
        let name = blake3::hash(&bytes).to_hex().to_string();
        let path = cache.join(format!("v1/packs/{}/{name}.pack", &name[..2]));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        Pack::read(path)
    }
}

/// The packs of a cache.
pub fn packs(cache: &Path) -> Vec<Pack> {
    let files = files_below(&cache.join("v1/packs")).into_iter();
    let packs = files.filter(|path| path.extension().is_some_and(|end| end == "pack"));
    packs.map(Pack::read).collect()
}

/// Keys of the cells of all packs of a cache, each as often as a pack holds it.
pub fn committed_cells(cache: &Path) -> Vec<[u8; 32]> {
    let cells = packs(cache).into_iter().flat_map(|pack| pack.cells);
    cells.map(|(key, _)| key).collect()
}

/// Number of cells that were computed although a pack held them.
pub fn computed_twice(cache: &Path) -> usize {
    let keys = committed_cells(cache);
    let distinct: std::collections::HashSet<&[u8; 32]> = keys.iter().collect();
    keys.len() - distinct.len()
}
