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
use std::sync::Arc;

use polars::prelude::DataFrame;
use serde_json::Value as Json;

use crate::model::Site;
use crate::spec::{Choice, Decode, Document, Fields, Node, OneOrMany, Seeds, Spanned};

use super::declare::{Declared, Field, KeyParts, Parameter, Table, Together};
use super::field_types::ByContent;
use super::parameters::{Names, PromptsName, ScoreStage, Summaries};
use super::prelude::*;
use super::rules::Rule;
use super::{Gives, InputFile, Needs, distinct};
use read::{Builders, Published};
use rows::Row;

pub(super) static KIND: Kind = super::kind::<Import>(
    "import",
    1,
    Product::Check,
    "a published file, as the stage that would have made it",
    &TOLD,
);

const HELD_OUT: ColumnTold = ColumnTold::of("holdout", "prompts of the half held out", "count");

static TOLD: Told = Told {
    computes: "Nothing is computed: a published file is read as if a stage of kind `as` had made it, so that summaries, figures and comparisons \
        work on it. `file` starts from `import.folder`; `{layer}` in it stands for `import.layer`, and `{seed}` for each of `seed`. The \
        tables are those of the kind stood for. Where only means of groups were published, a row is a group, and a summary of it has no \
        intervals over prompts.",
    tables: &[
        TableTold::of(
            "",
            "as the kind that it stands for; where single prompts were not published, a row for each group. With `as = \"summary\"` a row for each published number",
            "file? model? source? direction? seed? layer? site? alpha? set? n? mean? std? quantity? published? <summary>?",
        ),
        TableTold::of(
            "selection",
            "the prompts behind the directions, counted: where the file names them",
            "seed layer n_top n_bottom overlap train holdout follows_from_scores",
        )
        .but(&[HELD_OUT]),
        told::MEMBERS,
    ],
    example: r#"
[stages.published_scores]
kind = "import"
as = "score"
file = "published.csv"
"#,
};

parameters! {
    group Import {
        /// The kind of stage that would have made the file.
        r#as: StandsFor,
        files: Files,
        /// The prompts that the file is about, for their texts.
        prompts: Option<PromptsName>,
        /// Scores of the prompts: published texts are compared with them, and the selection behind a direction is made again.
        scores: Option<ScoreStage>,
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
    /// The score rule that scores in files are by.
    rule: Arc<Rule>,
}

impl Parameter for FromStudy {
    fn read(fields: &mut Fields<'_, '_>, _: &Declared, study: &Settings) -> Option<Self> {
        let rule = match fields.node("read") {
            None => Some(Arc::new(study.rules.default_rule())),
            Some(_) => {
                let name = fields.optional::<Name>("read")?;
                study.rules.named(&name, fields.problems)
            }
        };
        Some(FromStudy {
            layer: study.import.layer,
            rule: rule?,
        })
    }

    fn add_key(&self, _: &'static str, key: &mut KeyParts) {
        let FromStudy { layer, rule } = self;
        key.insert("layer".to_string(), (*layer).into());
        key.insert("threshold".to_string(), rule.threshold.into());
        if !rule.is_default() {
            key.insert("read".to_string(), rule.name.as_str().into());
        }
    }

    fn list(_: &Declared) -> Vec<Field> {
        let read = "The score rule that scores in the files are by: whose name columns have, and whose threshold counts; `refused` where left out.";
        vec![Field::optional::<Name>("read", read)]
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

/// Where published files lie, for all imports of a study.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PublishedFiles {
    pub(crate) folder: PathBuf,
    layer: Option<u64>,
}

impl PublishedFiles {
    /// What the section `[import]` of a study says, where it has one.
    pub(crate) fn read(node: Option<&Node>, study: &Document, problems: &mut Problems) -> Self {
        let said = node.and_then(|node| Table::<ImportSection>::decode(node, problems));
        let (folder, layer) = said.map_or((None, None), |Table(said)| (said.folder, said.layer));
        let folder = match folder {
            Some(ByContent(path)) => study.sources.resolve_path(&path.at, path.value),
            None => study.sources.resolve_path(&study.root.at, ""),
        };
        PublishedFiles { folder, layer }
    }
}

#[derive(Clone, Debug)]
struct File {
    path: Spanned<PathBuf>,
    /// The seed that its name was made with.
    seed: Option<u64>,
}

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
    fn read(fields: &mut Fields<'_, '_>, _: &Declared, study: &Settings) -> Option<Self> {
        let seeds = fields.optional::<Seeds>("seed");
        let names = fields.required::<OneOrMany<String>>("file");
        let builders = fields.optional::<Spanned<String>>("builders");
        let mut resolve =
            |name: &Spanned<String>| files(name, seeds.as_ref(), &study.import, fields);
        let names = names.map(|names| names.0.iter().map(&mut resolve).collect::<Option<Vec<_>>>());
        let builders = builders.map_or(Some(vec![]), |name| resolve(&name));
        Some(Files {
            named: names??.into_iter().flatten().collect(),
            builders: builders?.into_iter().next(),
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
    section: &PublishedFiles,
    fields: &mut Fields<'_, '_>,
) -> Option<Vec<File>> {
    let text = &name.value;
    let has_seed = text.contains("{seed}");
    let missing = match section.layer {
        None if text.contains("{layer}") => Some((
            "`{layer}`, but no layer is given",
            "give `layer` in the section `[import]`, e.g. `--set import.layer=20`",
        )),
        _ if has_seed && seeds.is_none() => Some((
            "`{seed}`, but no seeds are given",
            "give the stage `seed`, e.g. `seed = \"0..5\"`",
        )),
        _ => None,
    };
    if let Some((what, help)) = missing {
        let message = format!("file name `{text}` has {what}");
        fields.problems.error_at(&name.at, message).help(help);
        return None;
    }
    let number = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
    let of_layer = text.replace("{layer}", &number(section.layer));
    let file = |seed: Option<u64>| File {
        path: Spanned {
            value: section
                .folder
                .join(of_layer.replace("{seed}", &number(seed))),
            at: name.at.clone(),
        },
        seed,
    };
    Some(match seeds.filter(|_| has_seed) {
        Some(seeds) => seeds.iter().map(|seed| file(Some(seed))).collect(),
        None => vec![file(None)],
    })
}

impl Stage for Import {
    fn gives(&self) -> Option<Gives> {
        Some(Gives {
            product: self.r#as.product,
            tables: match self.r#as.product {
                Product::Summary => KIND.name, // it has none of a summary's
                _ => self.r#as.kind,
            },
        })
    }

    fn forecast(&self, inputs: &Inputs) -> Forecast {
        let files = self.read(inputs, &mut Problems::default());
        let names = |of: fn(&Row) -> &Option<String>| {
            let rows = files.iter().flat_map(|file| &file.rows);
            let names = distinct(rows.filter_map(|row| of(row).as_ref()));
            names.into_iter().cloned().collect()
        };
        Forecast {
            prompts: self.prompts.as_ref().map(|name| name.value.clone()),
            models: names(|row| &row.model),
            sets: names(|row| &row.set),
            has_alpha: self.r#as.product == Product::Sweep,
            rules: vec![self.study.rule.name.clone()],
            ..Forecast::default()
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        let files = self.read(inputs, problems);
        if problems.is_empty()
            && let Err(error) = self.output(files, inputs, true)
        {
            let message = error.to_string();
            match self.files.named.first() {
                Some(file) => problems.error_at(&file.path.at, message),
                None => problems.error(message),
            };
        }
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
    /// What each of the files holds; those that cannot be read are told.
    fn read(&self, inputs: &Inputs, problems: &mut Problems) -> Vec<Published> {
        if self.r#as.product == Product::Summary {
            return Vec::new(); // rows of statistics are read beside those they are compared with
        }
        let read = |file| self.read_one(file, inputs, problems);
        self.files.named.iter().filter_map(read).collect()
    }

    fn read_one(&self, file: &File, inputs: &Inputs, problems: &mut Problems) -> Option<Published> {
        let content = inputs.files.get(&file.path.value)?;
        let name = name_of(file);
        let text = text_of(&name, content);
        match text.and_then(|text| read::read(self.r#as.kind, &name, text)) {
            Ok(mut read) => {
                for row in &mut read.rows {
                    row.seed = row.seed.or(file.seed);
                }
                Some(read)
            }
            Err(error) => {
                let message = format!("`{name}` cannot be read as `{}`", self.r#as.kind);
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
        let files = files.into_iter().map(|file| (file.rows, file.builders));
        let (rows, builders): (Vec<_>, Vec<_>) = files.unzip();
        let rows: Vec<Row> = rows.into_iter().flatten().collect();
        match (self.r#as.product, &self.scores) {
            (Product::Scores, _) => tables::scores(&rows, &self.study.rule),
            (Product::Patches, _) => tables::patches(rows),
            (Product::Summary, _) => statistics::output(self, inputs, is_check),
            (Product::Texts, Some(scores)) if !is_check => {
                tables::scored_texts(&rows, scores, &self.study.rule, inputs)
            }
            (Product::Texts, _) => tables::texts(&rows),
            _ => {
                let builders = match &self.files.builders {
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

fn text_of<'a>(name: &str, file: &'a InputFile) -> Result<&'a str, StageError> {
    std::str::from_utf8(&file.bytes).map_err(|error| {
        let before = file.bytes.iter().take(error.valid_up_to());
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        rows::wrong(&format!("{name}:{line}"), "not UTF-8 text")
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
    rows::frame(&read::read(kind, name, text)?.rows).map(Some)
}
