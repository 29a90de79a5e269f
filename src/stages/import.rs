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

mod groups;
mod recomputed;
mod rows;
mod sweep_table;
mod texts;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use crate::model::Site;
use crate::spec::{Fields, Location, OneOrMany, Problems, Seeds, Spanned, choice};

use super::parameters::{self, Settings};
use super::published::{self, Measured, Published};
use super::{
    Cost, Evaluate, Forecast, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError,
};

pub(super) static KIND: Kind = Kind {
    name: "import",
    version: 1,
    product: Product::Check,
    figures: None,
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

/// Where published files lie, for every import of a study.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ImportSettings {
    /// The folder that file names start from.
    pub(crate) folder: PathBuf,
    /// What `{layer}` in a file name stands for, and the layer of files that name none.
    pub(crate) layer: Option<u64>,
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
    layer: Option<u64>,
    settings: Settings,
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
    let seeds = fields.optional::<Seeds>("seed");
    let names = fields.required::<OneOrMany<String>>("file");
    let builders = fields.optional::<Spanned<String>>("builders");
    let mut resolve = |name: &Spanned<String>| files(name, seeds.as_ref(), settings, fields);
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
        layer: settings.import.layer,
        settings: settings.clone(),
    }))
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
    settings: &Settings,
    fields: &mut Fields<'_, '_>,
) -> Option<Vec<File>> {
    let mut text = name.value.clone();
    if text.contains("{layer}") {
        let Some(layer) = settings.import.layer else {
            let message = format!("file name `{text}` has `{{layer}}`, but no layer is given");
            let problem = fields.problems().error_at(&name.at, message);
            problem.help("give `layer` in the section `[import]`, e.g. `--set import.layer=20`");
            return None;
        };
        text = text.replace("{layer}", &layer.to_string());
    }
    let path = |text: &str| Spanned {
        value: settings.import.folder.join(text),
        at: name.at.clone(),
    };
    if !text.contains("{seed}") {
        let seed = None;
        return Some(vec![File {
            path: path(&text),
            seed,
        }]);
    }
    let Some(seeds) = seeds else {
        let message = format!("file name `{text}` has `{{seed}}`, but no seeds are given");
        let problem = fields.problems().error_at(&name.at, message);
        problem.help("give the stage `seed`, e.g. `seed = \"0..5\"`");
        return None;
    };
    let of_seed = |seed: u64| File {
        path: path(&text.replace("{seed}", &seed.to_string())),
        seed: Some(seed),
    };
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

    fn stands_for(&self) -> Option<(&'static str, Product)> {
        match self.product {
            // It has none of a summary's tables.
            Product::Summary => Some((KIND.name, self.product)),
            _ => Some((self.kind, self.product)),
        }
    }

    fn parameters(&self) -> Json {
        let seeds: Vec<Option<u64>> = self.files.iter().map(|file| file.seed).collect();
        json!({
            "as": self.kind,
            // File names say what is in files; their content is in the key already.
            "names": self.all_files().map(name_of).collect::<Vec<_>>(),
            "seeds": seeds,
            "layer": self.layer,
            "site": self.site.short_name(),
            "builders": self.builders.is_some(),
            "summaries": self.summaries.iter().map(|name| &name.value).collect::<Vec<_>>(),
            "direction_model": self.selection.as_ref().map(|s| &s.model.value),
            "split": self.selection.as_ref().map(|s| &s.split.value),
            "threshold": self.settings.score.threshold,
        })
    }

    fn forecast(&self, inputs: &Inputs) -> Forecast {
        let mut problems = Problems::default();
        let rows = self.read(inputs, &mut problems);
        let rows = || rows.iter().flat_map(|file| &file.rows);
        let distinct = |of: fn(&published::Of) -> &Option<String>| {
            let mut found: Vec<String> = Vec::new();
            for name in rows().filter_map(|row| of(&row.of).as_ref()) {
                if !found.contains(name) {
                    found.push(name.clone());
                }
            }
            found
        };
        Forecast {
            prompts: self.prompts.as_ref().map(|name| name.value.clone()),
            models: distinct(|of| &of.model),
            sets: distinct(|of| &of.set),
            has_alpha: self.product == Product::Sweep,
            ..Forecast::default()
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        let files = self.read(inputs, problems);
        if problems.is_empty()
            && let Err(error) = self.output(&files, inputs, true)
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
        self.output(&files, inputs, false)
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
        let tell = |at: &Location, note: String, problems: &mut Problems| {
            let message = format!("`{}` cannot be read as `{}`", name_of(file), self.kind);
            problems.error_at(at, message).note(note);
        };
        let Ok(text) = std::str::from_utf8(&content.bytes) else {
            let before =
                std::str::from_utf8(&content.bytes).map_or_else(|e| e.valid_up_to(), |_| 0);
            let lines = content.bytes.iter().take(before).filter(|b| **b == b'\n');
            let note = format!("{}:{}: not UTF-8 text", name_of(file), 1 + lines.count());
            tell(&file.path.at, note, problems);
            return None;
        };
        match published::read(self.kind, &name_of(file), text) {
            Ok(mut read) => {
                self.complete(&mut read, file.seed);
                Some(read)
            }
            Err(error) => {
                tell(&file.path.at, error.to_string(), problems);
                None
            }
        }
    }

    /// Adds what the study says and the file does not.
    fn complete(&self, read: &mut Published, seed: Option<u64>) {
        for row in &mut read.rows {
            row.of.seed = row.of.seed.or(seed);
            row.of.layer = match self.product {
                Product::Sweep => row.of.layer.or(self.layer),
                _ => row.of.layer,
            };
        }
    }

    /// The tables and findings. `is_check` leaves out what other stages' outputs decide.
    fn output(
        &self,
        files: &[Published],
        inputs: &Inputs,
        is_check: bool,
    ) -> Result<Output, StageError> {
        let mut output = match self.product {
            Product::Scores => rows::scores(files, &self.settings)?,
            Product::Patches => rows::patches(files)?,
            Product::Summary => recomputed::output(self, inputs, is_check)?,
            Product::Texts => texts::output(self, files, inputs, is_check)?,
            _ => sweep_table::output(self, files, inputs)?,
        };
        if self.product == Product::Sweep {
            groups::add(self, files, inputs, is_check, &mut output)?;
        }
        Ok(output)
    }

    /// Who built the directions: of the file named by `builders`, or of the files themselves.
    fn builders(
        &self,
        files: &[Published],
        inputs: &Inputs,
    ) -> Result<Vec<published::Builders>, StageError> {
        let Some(file) = &self.builders else {
            return Ok(files.iter().filter_map(|f| f.builders.clone()).collect());
        };
        let mut problems = Problems::default();
        let read = self.read_one(file, inputs, &mut problems);
        match read.and_then(|read| read.builders) {
            Some(builders) => Ok(vec![builders]),
            None => Err(StageError::Data(format!(
                "`{}` does not say which prompts built a direction; expected JSON with `top_ids` and `bottom_ids` under `direction` or `balanced_selection`",
                name_of(file)
            ))),
        }
    }

    /// The texts of the prompts, by id; none where no prompt set is named.
    fn texts<'a>(&self, inputs: &'a Inputs) -> BTreeMap<&'a str, &'a str> {
        let set = self.prompts.as_ref();
        let set = set.and_then(|name| inputs.prompts.get(&name.value));
        let prompts = set.into_iter().flat_map(|set| &set.prompts);
        prompts.map(|p| (p.id.as_str(), p.text.as_str())).collect()
    }
}

fn name_of(file: &File) -> String {
    let name = file.path.value.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Whether every row is of single prompts (`Some(true)`), of groups (`Some(false)`), or mixed (`None`).
fn by_prompt(files: &[Published]) -> Option<bool> {
    let mut kinds = files.iter().flat_map(|file| &file.rows);
    let is_score = |row: &published::PublishedRow| matches!(row.measured, Measured::Score { .. });
    let first = is_score(kinds.next()?);
    kinds.all(|row| is_score(row) == first).then_some(first)
}
