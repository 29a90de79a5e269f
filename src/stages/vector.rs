//! `vector`: directions that another program made, read from a file of its. Nothing is asked of the model, unless `prompts` are given.
//!
//! Main table: a row for each vector. `cosine`: between all of them. Each is kept with length 1; the length that it had is `pre_norm` where it counts
//! (`length = "keep"`), so that α in units of `pre_norm` is how often the file's own vector is added.
//!
//! ```text
//! read   files of other programs, as what is in them
//! fit    held against the model: where each vector is, how long it was, what does not fit
//! ```

mod fit;
mod read;

use std::path::PathBuf;
use std::sync::Arc;

use polars::prelude::DataFrame;

use crate::model::{Cell, HookPoint, ModelHandle, Readout, Vector};
use crate::spec::{Fields, Layers, Spanned};

use super::declare::{Declared, Field, KeyParts, Keyed, Parameter, parameters};
use super::direction::{Direction, cosines, figures};
use super::field_types::{Unkeyed, choices};
use super::forecast::ExpectedDirection;
use super::parameters::{Model, PromptsName};
use super::prelude::*;
use super::sweep;
use super::table::Rows;
use super::{Needs, chat};

use fit::{Asked, Fitted, Placed};
use read::{MadeFor, Read};

pub(super) static KIND: super::Kind = super::Kind {
    figures: Some(figures),
    ..super::kind::<FromFile>(
        "vector",
        2,
        Product::Directions,
        "directions that another program made, from its file",
        &TOLD,
    )
};

const OWN: &[ColumnTold] = &[
    ColumnTold::of(
        "direction",
        "the name that it is given: `label`, or that of the file",
        "",
    ),
    ColumnTold::of(
        "position",
        "position that it was read at, as the study says",
        "index",
    ),
    ColumnTold::of("file", "name of the file", ""),
    ColumnTold::of("tensor", "the tensor, row or key in the file", ""),
    ColumnTold::of(
        "made_for",
        "the model that the file says it was made for; blank where it says none",
        "",
    ),
    ColumnTold::of(
        "length",
        "length of the vector in the file, before it was made 1",
        "as activations",
    ),
    ColumnTold::of(
        "pre_norm",
        "what α counts in units of `pre_norm`: that length (`length = \"keep\"`), or 1",
        "as activations",
    ),
    ColumnTold::of(
        "explained_variance",
        "what CAST's file says in `explained_variances`, where one is there: the share of the variance that the component explains; of CAST's methods \
         that find no component what it writes in its place (1, or an accuracy)",
        "0 to 1",
    ),
    ColumnTold::of(
        "resid_norm",
        "mean norm of the activations of `prompts` there, at their last token; blank where none are given",
        "as activations",
    ),
];

static TOLD: Told = Told {
    computes: "Nothing is computed: vectors are read from `file`, which starts from `import.folder`, and are an output as those of a `direction` \
        stage are. Read are safetensors (this program's own directions, and others': of several tensors the one named by `tensor`; `[d_model]`, \
        or `[layers, d_model]`, where a row is a layer), control vectors of llama.cpp (GGUF; `direction.N` is of the output of block N, \
        `resid_post` N, which with `site = \"resid_pre\"` is `resid_pre` N + 1) and CAST's JSON (`.svec`; its layer `l` is `resid_post` `l`, as it \
        was read, though CAST adds it one layer before). A pickle (`.pt`, `.bin`, `.npy`) is not opened: it may hold a program. A vector of \
        another width, at a layer that the model does not have, with a number that is not finite, or of length 0 is an error. What a file says of \
        the model that it was made for is held against the model: its architecture, and the fingerprint of one of this program. Each vector is \
        kept with length 1, so that α counts units; in units of `pre_norm` it counts the length in the file, or 1 with `length = \"unit\"`.",
    tables: &[
        TableTold::of(
            "",
            "a row for each vector",
            "model direction layer site position file tensor made_for length explained_variance? pre_norm resid_norm",
        )
        .but(OWN),
        told::COSINES,
    ],
    example: r#"
[stages.vector]
model = "inst"
file = "refusal.svec"
"#,
};

choices! {
    /// What becomes of a vector's length.
    pub(in crate::stages) enum Length {
        /// α in units of `pre_norm` counts it
        Keep = "keep",
        /// it is 1
        Unit = "unit",
    }
}

parameters! {
    struct FromFile {
        /// The model that is steered.
        model: Model,
        file: VectorFile,
        /// The tensor meant, where a safetensors file has several.
        tensor: Option<String>,
        /// Layers of the vectors that are read: of all that the model has where left out. Where a file does not say at which layer its only vector is,
        /// that.
        layer: Option<Layers>,
        /// Site of the vectors, where the file does not say it; `resid_pre` where left out, `resid_post` of control vectors and of CAST's.
        site: Option<crate::model::Site>,
        /// Where in a prompt it was read, for what is told of it.
        position: i64 = -1,
        /// What becomes of its length.
        length: Length = "keep",
        /// Whether a file that says it was made for another model is an error.
        strict: Unkeyed<bool> = false,
        measured: Measured,
    }
}

/// The file, and what its vectors are called.
struct VectorFile {
    path: Spanned<PathBuf>,
    label: String,
}

impl VectorFile {
    fn name(&self) -> String {
        let name = self.path.value.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

impl Parameter for VectorFile {
    fn read(fields: &mut Fields<'_, '_>, _: &Declared, study: &Settings) -> Option<Self> {
        let label = fields.optional::<String>("label");
        let file = fields.required::<Name>("file")?;
        let path = study.import.folder.join(&file.value);
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Some(VectorFile {
            label: label.unwrap_or_else(|| stem.into_owned()),
            path: Spanned {
                value: path,
                at: file.at,
            },
        })
    }

    /// Both names stand in tables; what is in the file is in the key already.
    fn add_key(&self, _: &'static str, key: &mut KeyParts) {
        key.insert("name".to_string(), self.name().into());
        key.insert("label".to_string(), self.label.as_str().into());
    }

    fn add_needs(&self, needs: &mut Needs) {
        needs.files.push(self.path.clone());
    }

    fn list(_: &Declared) -> Vec<Field> {
        vec![
            Field {
                is_required: true,
                keyed: Keyed::ByContent,
                ..Field::optional::<Name>("file", "The file, in the folder `import.folder`.")
            },
            Field::optional::<String>(
                "label",
                "What the vectors are called in tables; the file's name without its ending where left out.",
            ),
        ]
    }
}

/// The prompts that say how long the stream is where the vectors are, and the chat that they are asked in.
struct Measured(Option<(PromptsName, Settings)>);

impl Parameter for Measured {
    fn read(fields: &mut Fields<'_, '_>, declared: &Declared, study: &Settings) -> Option<Self> {
        if fields.peek("prompts").is_none() {
            return Some(Measured(None));
        }
        let prompts = fields.required("prompts");
        let settings = Settings::read(fields, declared, study);
        Some(Measured(Some((prompts?, settings?))))
    }

    fn add_key(&self, _: &'static str, key: &mut KeyParts) {
        if let Some((_, settings)) = &self.0 {
            key.insert("chat".to_string(), settings.chat.key());
        }
    }

    fn add_needs(&self, needs: &mut Needs) {
        if let Some((prompts, settings)) = &self.0 {
            Parameter::add_needs(prompts, needs);
            Parameter::add_needs(settings, needs);
        }
    }

    fn list(_: &Declared) -> Vec<Field> {
        let about = "Prompts whose activations at the vectors' places say how long the stream is there, which `alpha_unit = \"resid_norm\"` counts.";
        vec![
            Field::optional::<PromptsName>("prompts", about),
            chat::field(),
        ]
    }
}

impl Stage for FromFile {
    fn forecast(&self, inputs: &Inputs) -> Forecast {
        let model = &self.model.value;
        let fitted = inputs.models.get(model);
        let fitted = fitted.and_then(|model| self.fitted(model, inputs).ok());
        let placed = fitted.map_or(Vec::new(), |(_, fitted)| fitted.placed);
        let expected = placed.iter().map(|placed| ExpectedDirection {
            model: model.clone(),
            seed: None,
            layer: placed.layer,
        });
        Forecast {
            prompts: self
                .measured
                .0
                .as_ref()
                .map(|(prompts, _)| prompts.value.clone()),
            models: vec![model.clone()],
            directions: expected.collect(),
            ..Forecast::default()
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        let Some(model) = inputs.models.get(&self.model.value) else {
            return;
        };
        if !inputs.files.contains_key(&self.file.path.value) {
            return; // told where files are read
        }
        let at = &self.file.path.at;
        match self.fitted(model, inputs) {
            Err(wrong) => {
                for problem in wrong {
                    problems.error_at(at, problem);
                }
            }
            Ok((read, _)) if self.strict.0 => {
                if let Some(other) = self.made_for_another(&read.made_for, model) {
                    problems
                        .error_at(at, other)
                        .help("take another file, or take `strict` out to have it recorded");
                }
            }
            Ok(_) => {}
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let Some((prompts, _)) = &self.measured.0 else {
            return Cost::default();
        };
        let vectors = self.forecast(inputs).directions.len();
        Cost::of_cells(product(&[vectors, sweep::prompt_count(inputs, prompts)]))
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let model = inputs.model(&self.model)?;
        let fitted = self.fitted(model, inputs);
        let (read, fitted) = fitted.map_err(|wrong| StageError::Data(wrong.join("; ")))?;
        let norms = self.norms(&fitted.placed, model, inputs, evaluator)?;
        let direction = |(placed, resid_norm): (&Placed, &Option<f64>)| Direction {
            label: self.file.label.clone(),
            seed: None,
            model: model.name.clone(),
            fingerprint: model.fingerprint.to_hex().to_string(),
            layer: placed.layer,
            site: placed.site,
            position: Some(self.position),
            token: None,
            vector: Arc::new(Vector::new(placed.unit.clone())),
            pre_norm: match self.length {
                Length::Keep => placed.length,
                Length::Unit => 1.0,
            },
            affine: None,
            resid_norm: *resid_norm,
            top: Vec::new(),
            bottom: Vec::new(),
            top_scores: None,
            bottom_scores: None,
            builders: Arc::default(),
        };
        let directions: Vec<Direction> = fitted.placed.iter().zip(&norms).map(direction).collect();
        let mut findings = fitted.findings.clone();
        findings.extend(self.made_for_another(&read.made_for, model));
        Ok(Output {
            tables: vec![
                (String::new(), self.table(&read, &fitted, &directions)?),
                ("cosine".to_string(), cosines(&directions)?),
            ],
            directions,
            findings,
            ..Output::default()
        })
    }
}

impl FromFile {
    /// What the file holds, and what of it the model can have.
    fn fitted(&self, model: &ModelHandle, inputs: &Inputs) -> Result<(Read, Fitted), Vec<String>> {
        let file = self.file.name();
        let content = inputs.files.get(&self.file.path.value);
        let content = content.ok_or_else(|| vec![format!("`{file}` was not read")])?;
        let read = read::read(&content.bytes, self.tensor.as_deref());
        let read = read.map_err(|problem| vec![format!("`{file}` {problem}")])?;
        let asked = Asked {
            file: &file,
            layer: self.layer.as_ref(),
            site: self.site,
        };
        let fitted = asked.fit(&read, model.config())?;
        Ok((read, fitted))
    }

    /// What to say of a file that says it was made for another model.
    fn made_for_another(&self, made_for: &MadeFor, model: &ModelHandle) -> Option<String> {
        let file = self.file.name();
        let own = model.config().family.name();
        let fingerprint = model.fingerprint.to_hex();
        let other = made_for.fingerprint.as_deref();
        if other.is_some_and(|other| !other.eq_ignore_ascii_case(&fingerprint)) {
            return Some(format!(
                "`{file}` was made with another model than `{}`: its fingerprint is another",
                model.name
            ));
        }
        let other = made_for.architecture.as_deref();
        let other = other.filter(|other| !other.eq_ignore_ascii_case(own))?;
        Some(format!(
            "`{file}` was made for another model: its architecture is `{other}`, and that of `{}` is `{own}`",
            model.name
        ))
    }

    /// The mean norm of the stream where each vector is, over the prompts that are given for it.
    fn norms(
        &self,
        placed: &[Placed],
        model: &ModelHandle,
        inputs: &Inputs,
        evaluator: &mut dyn Evaluate,
    ) -> Result<Vec<Option<f64>>, StageError> {
        let Some((prompts, settings)) = &self.measured.0 else {
            return Ok(vec![None; placed.len()]);
        };
        let prompts = inputs.prompt_set(prompts)?;
        let tokens = sweep::tokens_of(model, prompts, settings)?;
        let cell = |placed: &Placed, tokens: &Arc<crate::model::Tokens>| {
            let hook = HookPoint::block(placed.layer, placed.site);
            let position = tokens.ids().len() - 1;
            let readout = Readout::Activation { hook, position };
            let n_layers = model.config().n_layers;
            Cell::new(
                model.fingerprint,
                Arc::clone(tokens),
                vec![],
                readout,
                n_layers,
            )
        };
        let cells = placed
            .iter()
            .flat_map(|placed| tokens.iter().map(move |tokens| cell(placed, tokens)));
        let cells: Vec<Cell> = cells.collect();
        let norms = sweep::activations(evaluator.evaluate(&cells)?)?;
        let norm = |h: &Vec<f32>| h.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let mean = |rows: &[Vec<f32>]| rows.iter().map(norm).sum::<f64>() / rows.len() as f64;
        Ok(norms
            .chunks(tokens.len().max(1))
            .map(|rows| Some(mean(rows)))
            .collect())
    }

    fn table(
        &self,
        read: &Read,
        fitted: &Fitted,
        directions: &[Direction],
    ) -> Result<DataFrame, StageError> {
        let MadeFor {
            architecture,
            name,
            fingerprint,
        } = &read.made_for;
        let said = [name, architecture, fingerprint];
        let said: Vec<&str> = said.into_iter().flatten().map(String::as_str).collect();
        let (file, said) = (self.file.name(), said.join(", "));
        let rows: Vec<(&Placed, &Direction)> = fitted.placed.iter().zip(directions).collect();
        let mut table = Rows::of(&rows)
            .text("model", |(_, d)| &d.model)
            .text("direction", |(_, d)| &d.label)
            .integer("layer", |(_, d)| d.layer as i64)
            .text("site", |(_, d)| d.site.short_name())
            .integer("position", |(_, d)| d.position)
            .text("file", |_| &file)
            .text("tensor", |(placed, _)| &placed.tensor)
            .text("made_for", |_| &said)
            .number("length", |(placed, _)| placed.length);
        if fitted
            .placed
            .iter()
            .any(|placed| placed.explained.is_some())
        {
            table = table.number("explained_variance", |(placed, _)| placed.explained);
        }
        table
            .number("pre_norm", |(_, d)| d.pre_norm)
            .number("resid_norm", |(_, d)| d.resid_norm)
            .frame()
    }
}
