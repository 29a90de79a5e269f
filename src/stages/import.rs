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

use serde_json::Value as Json;

use crate::model::Site;
use crate::spec::{Choice, Fields, Location, OneOrMany, Problems, Seeds, Spanned};

use super::declare::{Declared, Field, KeyParts, Parameter, Together, declared, parameters};
use super::field_types::ByContent;
use super::parameters::{Names, PromptsName, Scores, StageOf, Summaries};
use super::published::{self, Measured, Published};
use super::settings::Settings;
use super::{
    Cost, Evaluate, Forecast, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError,
};

pub(super) static KIND: Kind = super::kind::<Import>(
    "import",
    1,
    Product::Sweep,
    "a published file, as the stage that would have made it",
);

parameters! {
    group Import {
        /// The kind of stage that would have made the file.
        r#as: StandsFor,
        files: Files,
        /// The prompts that the file is about, for their texts.
        prompts: Option<PromptsName>,
        /// Scores of the prompts: published texts are compared with them, and the selection behind a direction is made again.
        scores: Option<StageOf<Scores>>,
        /// The model whose scores chose the prompts behind a direction; where `scores` are given for a sweep.
        direction_model: Option<Name>,
        /// The split that they were chosen from; where `scores` are given for a sweep.
        split: Option<Name>,
        /// The summaries that a table of statistics is compared with; with `as = "summary"`.
        summaries: Summaries,
        /// Site of the directions, where the file does not say it.
        site: Site = "resid_pre",
        study: FromStudy,
    }
}

/// A kind that a file can stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct StandsFor {
    kind: &'static str,
    product: Product,
}

const fn stands_for(
    kind: &'static str,
    product: Product,
) -> (&'static str, StandsFor, &'static str) {
    (kind, StandsFor { kind, product }, "")
}

impl Choice for StandsFor {
    const CHOICES: &'static [(&'static str, Self, &'static str)] = &[
        stands_for("score", Product::Scores),
        stands_for("generate", Product::Texts),
        stands_for("patch", Product::Patches),
        stands_for("steer", Product::Sweep),
        stands_for("holdout", Product::Sweep),
        stands_for("random", Product::Sweep),
        stands_for("xstest", Product::Sweep),
        stands_for("summary", Product::Summary),
    ];
}

impl Together for Import {
    fn read_together(fields: &mut Fields<'_, '_>, study: &Settings) -> Option<Self> {
        let r#as = fields.required::<StandsFor>("as");
        let undeclared = Declared::default();
        let files = Files::read(fields, &undeclared, study);
        let prompts = fields.optional("prompts");
        let scores = fields.optional("scores");
        let gives = |wanted| r#as.is_some_and(|r#as| r#as.product == wanted);
        let is_selected = scores.is_some() && gives(Product::Sweep);
        let mut selected_by = |field| match is_selected {
            true => fields.required::<Name>(field).map(Some),
            false => Some(None),
        };
        let (direction_model, split) = (selected_by("direction_model"), selected_by("split"));
        let summaries = match gives(Product::Summary) {
            true => fields.required("summaries"),
            false => Some(Summaries(OneOrMany(Vec::new()))),
        };
        let site = fields.optional("site").unwrap_or(Site::ResidPre);
        Some(Import {
            r#as: r#as?,
            files: files?,
            prompts,
            scores,
            direction_model: direction_model?,
            split: split?,
            summaries: summaries?,
            site,
            study: FromStudy::read(fields, &undeclared, study)?,
        })
    }
}

/// What other sections of the study say to imports.
struct FromStudy {
    /// The layer of files that name none.
    layer: Option<u64>,
    /// A score strictly above it is a refusal.
    threshold: f64,
}

/// How the published selection is made again.
struct Selection<'a> {
    model: &'a Name,
    split: &'a Name,
}

impl Parameter for FromStudy {
    fn read(_: &mut Fields<'_, '_>, _: &Declared, settings: &Settings) -> Option<Self> {
        Some(FromStudy {
            layer: settings.import.layer,
            threshold: settings.score.threshold,
        })
    }

    fn add_key(&self, _: &'static str, key: &mut KeyParts) {
        let FromStudy { layer, threshold } = *self;
        key.insert("layer".to_string(), layer.into());
        key.insert("threshold".to_string(), threshold.into());
    }
}

parameters! {
    /// The section `[import]`.
    pub(crate) struct ImportSection {
        /// The folder that file names start from; that of the study's file where left out.
        folder: Option<ByContent<Spanned<PathBuf>>>,
        /// What `{layer}` in a file name stands for, and the layer of files that name none.
        layer: Option<u64>,
    }
}

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

/// The files that are read.
struct Files {
    named: Vec<File>,
    builders: Option<File>,
}

impl Files {
    fn all(&self) -> impl Iterator<Item = &File> {
        self.named.iter().chain(&self.builders)
    }
}

impl Parameter for Files {
    fn read(fields: &mut Fields<'_, '_>, _: &Declared, settings: &Settings) -> Option<Self> {
        let seeds = fields.optional::<Seeds>("seed");
        let names = fields.required::<OneOrMany<String>>("file");
        let builders = fields.optional::<Spanned<String>>("builders");
        let mut resolve = |name: &Spanned<String>| files(name, seeds.as_ref(), settings, fields);
        let names = names.map(|names| names.0.iter().map(&mut resolve).collect::<Option<Vec<_>>>());
        let builders = builders.map(|name| resolve(&name));
        Some(Files {
            named: names??.into_iter().flatten().collect(),
            builders: match builders {
                None => None,
                Some(files) => files?.into_iter().next(),
            },
        })
    }

    /// File names say what is in files; their content is in the key already.
    fn add_key(&self, _: &'static str, key: &mut KeyParts) {
        let seeds = self.named.iter().map(|file| Json::from(file.seed));
        key.insert("names".to_string(), self.all().map(name_of).collect());
        key.insert("seeds".to_string(), seeds.collect());
        key.insert("builders".to_string(), self.builders.is_some().into());
    }

    fn add_needs(&self, needs: &mut Needs) {
        needs.files.extend(self.all().map(|file| file.path.clone()));
    }

    fn list(_: &Declared) -> Vec<Field> {
        vec![
            Field::optional::<Seeds>(
                "seed",
                "What `{seed}` in a file name stands for: a file for each.",
            ),
            Field {
                is_required: true,
                ..Field::optional::<Names>(
                    "file",
                    "The file, or several, in the folder `import.folder`; `{layer}` in a name stands for `import.layer`.",
                )
            },
            Field::optional::<String>(
                "builders",
                "The file that says which prompts built the directions, where it is another one.",
            ),
        ]
    }
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
    fn stands_for(&self) -> Option<(&'static str, Product)> {
        match self.r#as.product {
            // It has none of a summary's tables.
            Product::Summary => Some((KIND.name, self.r#as.product)),
            _ => Some((self.r#as.kind, self.r#as.product)),
        }
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
            has_alpha: self.r#as.product == Product::Sweep,
            ..Forecast::default()
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        let files = self.read(inputs, problems);
        if problems.is_empty()
            && let Err(error) = self.output(&files, inputs, true)
        {
            let at = self.files.named.first().map(|file| &file.path.at);
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
    fn selection(&self) -> Option<Selection<'_>> {
        Some(Selection {
            model: self.direction_model.as_ref()?,
            split: self.split.as_ref()?,
        })
    }

    /// What each of the files holds; those that cannot be read are told.
    fn read(&self, inputs: &Inputs, problems: &mut Problems) -> Vec<Published> {
        if self.r#as.product == Product::Summary {
            return Vec::new(); // rows of statistics are read beside those they are compared with
        }
        let files = self.files.named.iter();
        files
            .filter_map(|file| self.read_one(file, inputs, problems))
            .collect()
    }

    fn read_one(&self, file: &File, inputs: &Inputs, problems: &mut Problems) -> Option<Published> {
        let content = inputs.files.get(&file.path.value)?;
        let tell = |at: &Location, note: String, problems: &mut Problems| {
            let message = format!("`{}` cannot be read as `{}`", name_of(file), self.r#as.kind);
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
        match published::read(self.r#as.kind, &name_of(file), text) {
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
            row.of.layer = match self.r#as.product {
                Product::Sweep => row.of.layer.or(self.study.layer),
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
        let mut output = match self.r#as.product {
            Product::Scores => rows::scores(files, self.study.threshold)?,
            Product::Patches => rows::patches(files)?,
            Product::Summary => recomputed::output(self, inputs, is_check)?,
            Product::Texts => texts::output(self, files, inputs, is_check)?,
            _ => sweep_table::output(self, files, inputs)?,
        };
        if self.r#as.product == Product::Sweep {
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
        let Some(file) = &self.files.builders else {
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
