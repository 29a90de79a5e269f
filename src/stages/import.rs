//! `import`: a published file read as if a stage of the study had made it, so that summaries, figures and comparisons work on it.
//!
//! `as` says which kind of stage: `score`, `generate`, `patch`, `steer`, `holdout`, `random`, `xstest` or `summary`. `file` names the file (or several)
//! in the folder `import.folder`; `{layer}` in a name stands for `import.layer`, and `{seed}` for each of `seed`. Nothing is asked of a
//! model. Tables are those of the stage stood for, with these differences:
//!
//! - Where only means of groups were published, the main table has a row per group: `model, direction, seed, layer, site, alpha, set, n, mean,
//!   std, refusal_rate`; a summary of it has no intervals over prompts. Without refusal rates it is called `means`.
//! - A patch has the table `mean` alone. A table of completions is classified here, and compared with `scores` where those are given.
//! - A table of statistics (`as = "summary"`) is put beside the same numbers of the study's own `summaries`, and a finding says which of
//!   them it is, to the digits written.
//! - `members` and `selection` say which prompts built the direction, where the file (or the one named by `builders`) says so. With `scores` the
//!   selection is made again from the scores, and a finding says whether it is the published one, to the id.
//!
//! ```text
//! shapes       what the files of the published study call things, and where they have them
//! read         CSV and JSON as rows with named columns
//! rows         such rows, and a table of them
//! tables       the tables of the stage stood for
//! selection    who built the directions
//! statistics   published statistics beside the study's own
//! ```

mod read;
mod rows;
mod selection;
mod shapes;
mod statistics;
mod tables;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use polars::prelude::DataFrame;
use serde_json::{Value as Json, json};

use crate::model::Site;
use crate::spec::{Document, Fields, OneOrMany, Problems, Seeds, Spanned, choice};

use super::parameters::{self, Settings};
use super::{
    Cost, Evaluate, Forecast, Gives, InputFile, Inputs, Kind, Name, Needs, Output, Product, Stage,
    StageError,
};
use read::{Builders, Published};
use rows::{ImportError, Row};

pub(super) static KIND: Kind = Kind {
    name: "import",
    version: 1,
    product: Product::Sweep,
    about: "a published file, as the stage that would have made it",
    decode,
};

/// The kinds that a file can stand for, and what it then gives.
const KINDS: [(&str, Product); 8] = [
    ("score", Product::Scores),
    ("generate", Product::Texts),
    ("patch", Product::Patches),
    ("steer", Product::Sweep),
    ("holdout", Product::Sweep),
    ("random", Product::Sweep),
    ("xstest", Product::Sweep),
    ("summary", Product::Summary),
];

/// The section `[import]`, which holds for all imports of a study.
#[derive(Clone, Debug, Default)]
pub(super) struct Section {
    /// The folder that file names start from; by default that of the study's file.
    pub(super) folder: PathBuf,
    /// What `{layer}` in a file name stands for, and the layer of files that name none.
    layer: Option<u64>,
}

impl Section {
    pub(super) fn read(study: &Document, problems: &mut Problems) -> Self {
        let folder = |at, path| study.sources.resolve_path(at, path);
        let mut read = Section {
            folder: folder(&study.root.at, PathBuf::new()),
            layer: None,
        };
        let node = study.root.as_table().and_then(|root| root.get(KIND.name));
        let Some(mut fields) = node.and_then(|node| Fields::new(node, problems)) else {
            return read;
        };
        if let Some(path) = fields.optional::<Spanned<PathBuf>>("folder") {
            read.folder = folder(&path.at, path.value);
        }
        read.layer = fields.optional("layer");
        fields.finish();
        read
    }
}

/// A file to read.
#[derive(Clone, Debug)]
struct File {
    path: Spanned<PathBuf>,
    /// The seed that its name was made with.
    seed: Option<u64>,
}

struct Import {
    kind: &'static str,
    product: Product,
    files: Vec<File>,
    builders: Option<File>,
    prompts: Option<Name>,
    scores: Option<Name>,
    selection: Option<Selection>,
    /// What a table of statistics is compared with.
    summaries: Vec<Name>,
    site: Site,
    section: Section,
    threshold: f64,
}

/// How the published selection is made again.
struct Selection {
    model: Name,
    split: Name,
}

fn decode(fields: &mut Fields<'_, '_>, settings: &Settings) -> Option<Box<dyn Stage>> {
    let kind = fields.node("as").map(|node| {
        let names = KINDS.map(|kind| (kind.0, kind));
        choice(node, fields.problems(), &names)
    });
    if kind.is_none() {
        fields.required::<String>("as");
    }
    let section = section(fields);
    let seeds = fields.optional::<Seeds>("seed");
    let names = fields.required::<OneOrMany<String>>("file");
    let builders = fields.optional::<Spanned<String>>("builders");
    let mut resolve = |name: &Spanned<String>| files(name, seeds.as_ref(), &section, fields);
    let names = names.map(|names| names.0.iter().map(&mut resolve).collect::<Option<Vec<_>>>());
    let builders = builders.map(|name| resolve(&name));
    let prompts = fields.optional("prompts");
    let scores: Option<Name> = fields.optional("scores");
    let is_selected = scores.is_some() && kind.flatten().is_some_and(|(_, p)| p == Product::Sweep);
    let selection = is_selected.then(|| selection(fields));
    let is_summary = kind.flatten().is_some_and(|(_, p)| p == Product::Summary);
    let summaries = is_summary.then(|| fields.required::<OneOrMany<String>>("summaries"));
    let site = parameters::site(fields);
    let (kind, product) = kind??;
    Some(Box::new(Import {
        kind,
        product,
        files: names??.into_iter().flatten().collect(),
        builders: match builders {
            None => None,
            Some(files) => files?.into_iter().next(),
        },
        prompts,
        scores,
        selection: match selection {
            None => None,
            Some(selection) => Some(selection?),
        },
        summaries: match summaries {
            None => Vec::new(),
            Some(summaries) => summaries?.0,
        },
        site: site?,
        section,
        threshold: settings.score.threshold,
    }))
}

/// The study's section; what is wrong in it has been told once for all stages.
fn section(fields: &Fields<'_, '_>) -> Section {
    let study = fields.study();
    study.map_or_else(Section::default, |study| {
        Section::read(study, &mut Problems::default())
    })
}

fn selection(fields: &mut Fields<'_, '_>) -> Option<Selection> {
    let model = fields.required("direction_model");
    let split = fields.required("split");
    Some(Selection {
        model: model?,
        split: split?,
    })
}

/// The files that a name stands for: one for every seed where it holds `{seed}`.
fn files(
    name: &Spanned<String>,
    seeds: Option<&Seeds>,
    section: &Section,
    fields: &mut Fields<'_, '_>,
) -> Option<Vec<File>> {
    let mut missing = |what: &str, are_missing: &str, help: &str| {
        let text = &name.value;
        let message = format!("file name `{text}` has `{{{what}}}`, but {are_missing} given");
        fields.problems().error_at(&name.at, message).help(help);
    };
    let mut text = name.value.clone();
    if text.contains("{layer}") {
        let Some(layer) = section.layer else {
            let help = "give `layer` in the section `[import]`, e.g. `--set import.layer=20`";
            missing("layer", "no layer is", help);
            return None;
        };
        text = text.replace("{layer}", &layer.to_string());
    }
    let file = |text: &str, seed: Option<u64>| File {
        path: Spanned {
            value: section.folder.join(text),
            at: name.at.clone(),
        },
        seed,
    };
    if !text.contains("{seed}") {
        return Some(vec![file(&text, None)]);
    }
    let Some(seeds) = seeds else {
        let help = "give the stage `seed`, e.g. `seed = \"0..5\"`";
        missing("seed", "no seeds are", help);
        return None;
    };
    let of_seed = |seed: u64| file(&text.replace("{seed}", &seed.to_string()), Some(seed));
    Some(seeds.iter().map(of_seed).collect())
}

impl Stage for Import {
    fn needs(&self) -> Needs {
        let scores = self.scores.iter();
        let scores = scores.map(|name| (name.clone(), Product::Scores));
        let summaries = self.summaries.iter();
        let summaries = summaries.map(|name| (name.clone(), Product::Summary));
        Needs {
            prompts: self.prompts.iter().cloned().collect(),
            stages: scores.chain(summaries).collect(),
            files: self.all_files().map(|file| file.path.clone()).collect(),
            ..Needs::default()
        }
    }

    fn gives(&self) -> Option<Gives> {
        Some(Gives {
            product: self.product,
            tables: match self.product {
                Product::Summary => KIND.name, // it has none of a summary's
                _ => self.kind,
            },
        })
    }

    fn parameters(&self) -> Json {
        let seeds: Vec<Option<u64>> = self.files.iter().map(|file| file.seed).collect();
        json!({
            "as": self.kind,
            // File names say what is in files; their content is in the key already.
            "names": self.all_files().map(name_of).collect::<Vec<_>>(),
            "seeds": seeds,
            "layer": self.section.layer,
            "site": self.site.short_name(),
            "builders": self.builders.is_some(),
            "summaries": self.summaries.iter().map(|name| &name.value).collect::<Vec<_>>(),
            "direction_model": self.selection.as_ref().map(|s| &s.model.value),
            "split": self.selection.as_ref().map(|s| &s.split.value),
            "threshold": self.threshold,
        })
    }

    fn forecast(&self, inputs: &Inputs) -> Forecast {
        let files = self.read(inputs, &mut Problems::default());
        let rows = || files.iter().flat_map(|file| &file.rows);
        let distinct = |of: fn(&Row) -> &Option<String>| {
            let mut found: Vec<String> = Vec::new();
            for name in rows().filter_map(|row| of(row).as_ref()) {
                if !found.contains(name) {
                    found.push(name.clone());
                }
            }
            found
        };
        Forecast {
            prompts: self.prompts.as_ref().map(|name| name.value.clone()),
            models: distinct(|row| &row.model),
            sets: distinct(|row| &row.set),
            has_alpha: self.product == Product::Sweep,
            ..Forecast::default()
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        let files = self.read(inputs, problems);
        if problems.is_empty()
            && let Err(error) = self.output(files, inputs, true)
        {
            let at = self.files.first().map(|file| &file.path.at);
            let message = error.to_string();
            match at {
                Some(at) => problems.error_at(at, message),
                None => problems.error(message),
            };
        }
    }

    fn cost(&self, _inputs: &Inputs) -> Cost {
        Cost::default()
    }

    fn run(&self, inputs: &Inputs, _evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let mut problems = Problems::default();
        let files = self.read(inputs, &mut problems);
        if !problems.is_empty() {
            return Err(StageError::Internal(
                "an imported file changed after it was checked".to_string(),
            ));
        }
        self.output(files, inputs, false)
    }
}

impl Import {
    fn all_files(&self) -> impl Iterator<Item = &File> {
        self.files.iter().chain(&self.builders)
    }

    /// What each of the files holds; those that cannot be read are told.
    fn read(&self, inputs: &Inputs, problems: &mut Problems) -> Vec<Published> {
        if self.product == Product::Summary {
            return Vec::new(); // rows of statistics are read beside those they are compared with
        }
        let files = self.files.iter();
        files
            .filter_map(|file| self.read_one(file, inputs, problems))
            .collect()
    }

    fn read_one(&self, file: &File, inputs: &Inputs, problems: &mut Problems) -> Option<Published> {
        let content = inputs.files.get(&file.path.value)?;
        let name = name_of(file);
        let text = text_of(&name, content);
        match text.and_then(|text| read::read(self.kind, &name, text)) {
            Ok(mut read) => {
                for row in &mut read.rows {
                    row.seed = row.seed.or(file.seed);
                }
                Some(read)
            }
            Err(error) => {
                let message = format!("`{name}` cannot be read as `{}`", self.kind);
                let note = error.to_string();
                problems.error_at(&file.path.at, message).note(note);
                None
            }
        }
    }

    /// The tables and findings. `is_check` leaves out what other stages' outputs decide.
    fn output(
        &self,
        files: Vec<Published>,
        inputs: &Inputs,
        is_check: bool,
    ) -> Result<Output, StageError> {
        let (rows, builders): (Vec<_>, Vec<_>) = files
            .into_iter()
            .map(|file| (file.rows, file.builders))
            .unzip();
        let rows: Vec<Row> = rows.into_iter().flatten().collect();
        match (self.product, &self.scores) {
            (Product::Scores, _) => tables::scores(&rows, self.threshold),
            (Product::Patches, _) => tables::patches(rows),
            (Product::Summary, _) => statistics::output(self, inputs, is_check),
            (Product::Texts, Some(scores)) if !is_check => {
                tables::scored_texts(&rows, scores, self.threshold, inputs)
            }
            (Product::Texts, _) => tables::texts(&rows),
            _ => {
                let builders = match &self.builders {
                    None => builders.into_iter().flatten().collect(),
                    Some(file) => vec![self.builders_of(file, inputs)?],
                };
                let mut output = tables::sweep(self, rows, &builders, inputs)?;
                selection::add(self, &builders, inputs, is_check, &mut output)?;
                Ok(output)
            }
        }
    }

    /// Who built the directions, of the file that is named for it.
    fn builders_of(&self, file: &File, inputs: &Inputs) -> Result<Builders, StageError> {
        let read = self.read_one(file, inputs, &mut Problems::default());
        read.and_then(|read| read.builders).ok_or_else(|| {
            StageError::Data(format!(
                "`{}` does not say which prompts built a direction; expected JSON with `top_ids` and `bottom_ids` under `direction` or `balanced_selection`",
                name_of(file)
            ))
        })
    }
}

fn name_of(file: &File) -> String {
    let name = file.path.value.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn text_of<'a>(name: &str, file: &'a InputFile) -> Result<&'a str, ImportError> {
    std::str::from_utf8(&file.bytes).map_err(|error| {
        let before = file.bytes.iter().take(error.valid_up_to());
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        ImportError {
            place: format!("{name}:{line}"),
            message: "not UTF-8 text".to_string(),
        }
    })
}

/// The kind of stage that a file of this name is of, where the name says it.
pub(crate) fn kind_of(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    shapes::KINDS.into_iter().find(|kind| name.contains(kind))
}

/// What a published file holds, as a table with the columns of stages' tables; none for a file that has not the shape of one.
///
/// # Errors
/// As for an import: text that is not CSV or JSON, columns that are missing, values that are not of their type; with the place.
pub(crate) fn published_table(
    kind: &str,
    name: &str,
    text: &str,
) -> Result<Option<DataFrame>, StageError> {
    if !read::is_published_shape(name, text) {
        return Ok(None);
    }
    let read = read::read(kind, name, text);
    let read = read.map_err(|error| StageError::Data(error.to_string()))?;
    rows::frame(&read.rows).map(Some)
}
