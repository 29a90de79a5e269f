//! The sweep: prompts × directions × α, scored. What `steer`, `holdout`, `random` and `xstest` have in common.

use std::collections::HashSet;
use std::sync::Arc;

use polars::prelude::DataFrame;
use serde_json::{Value as Json, json};

use crate::model::{
    Cell, Edit, HookPoint, Intervention, ModelHandle, Positions, Readout, Site, Tokens, Value,
    Vector,
};
use crate::prompts::PromptSet;
use crate::spec::{Fields, choice};

use super::parameters::{self, Settings};
use super::table;
use super::{Evaluate, Inputs, Name, StageError};

/// What a sweep does with a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// h ← h + α·v.
    Add,
    /// h ← h − (h·v)v at the line's own layer; α plays no part.
    Ablate,
    /// The same at every layer.
    AblateEverywhere,
}

/// The unit of α.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlphaUnit {
    /// The unit direction.
    Unit,
    /// The norm of the difference of means, before it was normalised.
    PreNorm,
    /// The mean norm of the residual stream at the direction's site.
    ResidNorm,
}

/// Decodes `mode`.
pub(super) fn mode(fields: &mut Fields<'_, '_>) -> Option<Mode> {
    let Some(node) = fields.node("mode") else {
        return Some(Mode::Add);
    };
    let choices = [
        ("add", Mode::Add),
        ("ablate", Mode::Ablate),
        ("ablate_all", Mode::AblateEverywhere),
    ];
    choice(node, fields.problems(), &choices)
}

/// Decodes `alpha_unit`.
pub(super) fn alpha_unit(fields: &mut Fields<'_, '_>) -> Option<AlphaUnit> {
    let Some(node) = fields.node("alpha_unit") else {
        return Some(AlphaUnit::Unit);
    };
    let choices = [
        ("unit", AlphaUnit::Unit),
        ("pre_norm", AlphaUnit::PreNorm),
        ("resid_norm", AlphaUnit::ResidNorm),
    ];
    choice(node, fields.problems(), &choices)
}

impl AlphaUnit {
    /// The length of one unit, for a direction with these norms.
    pub(super) fn length(self, pre_norm: f64, resid_norm: f64) -> f64 {
        match self {
            AlphaUnit::Unit => 1.0,
            AlphaUnit::PreNorm => pre_norm,
            AlphaUnit::ResidNorm => resid_norm,
        }
    }

    /// The name in study files.
    pub(super) fn name(self) -> &'static str {
        match self {
            AlphaUnit::Unit => "unit",
            AlphaUnit::PreNorm => "pre_norm",
            AlphaUnit::ResidNorm => "resid_norm",
        }
    }
}

impl Mode {
    /// What the rows of a direction are called: what an ablation does must not be taken for a direction added with α = 0.
    fn label(self, direction: &str) -> String {
        match self {
            Mode::Add => direction.to_string(),
            Mode::Ablate => format!("{direction}_ablated"),
            Mode::AblateEverywhere => format!("{direction}_ablated_everywhere"),
        }
    }

    /// The name in study files.
    pub(super) fn name(self) -> &'static str {
        match self {
            Mode::Add => "add",
            Mode::Ablate => "ablate",
            Mode::AblateEverywhere => "ablate_all",
        }
    }
}

/// One direction at one place, with the prompts it is tried on.
#[derive(Clone, Debug)]
pub struct Line {
    /// What the direction is, e.g. `top_bottom_30` or `random`.
    pub direction: String,
    /// The seed behind it, if there is one.
    pub seed: Option<u64>,
    /// Layer of the edit.
    pub layer: usize,
    /// Site of the edit.
    pub site: Site,
    /// The unit direction, `[d_model]`.
    pub vector: Arc<Vector>,
    /// Length of one unit of α.
    pub unit_length: f64,
    /// Named groups of prompts, by index into the prompt set.
    pub sets: Vec<(String, Vec<usize>)>,
    /// Texts of the prompts the direction was made from.
    pub builders: Arc<HashSet<String>>,
}

/// A whole sweep.
pub struct Sweep<'a> {
    /// Models, in the order of the table.
    pub models: Vec<&'a Arc<ModelHandle>>,
    /// The prompts the lines' indices point into.
    pub prompts: &'a PromptSet,
    /// Directions and places.
    pub lines: Vec<Line>,
    /// α, in the lines' units.
    pub alphas: &'a [f64],
    /// Position of the edit, counted from the end of the prompt.
    pub position: i64,
    /// What is done.
    pub mode: Mode,
    /// Chat and score rule.
    pub settings: &'a Settings,
}

/// One row of the table, before its score.
struct Row<'a> {
    model: &'a ModelHandle,
    line: &'a Line,
    alpha: f64,
    set: &'a str,
    prompt: usize,
}

impl Sweep<'_> {
    /// Scores every combination. Columns: `model, direction, seed, layer, site, alpha, set, id, split, category, score, refused,
    /// built_direction`; an ablation has no α, and says in `direction` that it is one; the last column marks prompts that the direction was made from.
    ///
    /// # Errors
    /// Those of the evaluator; a prompt without the position asked for.
    pub fn run(&self, evaluator: &mut dyn Evaluate) -> Result<DataFrame, StageError> {
        let rows = self.rows();
        let mut cells = Vec::with_capacity(rows.len());
        let fed = tokens_of_each(&self.models, self.prompts, self.settings)?;
        for (model, tokens) in self.models.iter().zip(fed) {
            let readout = self.settings.readout(model)?;
            for row in rows.iter().filter(|row| std::ptr::eq(row.model, &***model)) {
                cells.push(self.cell(row, &tokens, &readout)?);
            }
        }
        let scores = scores(evaluator.evaluate(&cells)?)?;
        self.assemble(&rows, scores)
    }

    fn rows(&self) -> Vec<Row<'_>> {
        let mut rows = Vec::new();
        for model in &self.models {
            for line in &self.lines {
                for &alpha in self.alphas {
                    for (set, indices) in &line.sets {
                        rows.extend(indices.iter().map(|&prompt| Row {
                            model: model.as_ref(),
                            line,
                            alpha,
                            set,
                            prompt,
                        }));
                    }
                }
            }
        }
        rows
    }

    fn cell(
        &self,
        row: &Row<'_>,
        tokens: &[Arc<Tokens>],
        readout: &Readout,
    ) -> Result<Cell, StageError> {
        let tokens = &tokens[row.prompt];
        let prompt = &self.prompts.prompts[row.prompt];
        let position = parameters::index_of(self.position, tokens.len(), prompt)?;
        let interventions = interventions(self.mode, row, Positions::At(position));
        Ok(Cell::new(
            row.model.fingerprint(),
            Arc::clone(tokens),
            interventions,
            readout.clone(),
            row.model.config().n_layers,
        ))
    }

    /// The α of a row; an ablation has none.
    fn alpha(&self, row: &Row<'_>) -> Option<f64> {
        (self.mode == Mode::Add).then_some(row.alpha)
    }

    fn assemble(&self, rows: &[Row<'_>], scores: Vec<f64>) -> Result<DataFrame, StageError> {
        let prompts = &self.prompts.prompts;
        let threshold = self.settings.score.threshold;
        let refused = scores.iter().map(|&s| s > threshold).collect();
        let built = rows
            .iter()
            .map(|r| r.line.builders.contains(&prompts[r.prompt].text))
            .collect();
        table::frame(vec![
            table::text("model", rows.iter().map(|r| r.model.name())),
            table::text(
                "direction",
                rows.iter().map(|r| self.mode.label(&r.line.direction)),
            ),
            table::optional_integers("seed", rows.iter().map(|r| r.line.seed)),
            table::integers("layer", rows.iter().map(|r| r.line.layer)),
            table::text("site", rows.iter().map(|r| r.line.site.short_name())),
            table::optional_numbers("alpha", rows.iter().map(|r| self.alpha(r)).collect()),
            table::text("set", rows.iter().map(|r| r.set)),
            table::text("id", rows.iter().map(|r| &prompts[r.prompt].id)),
            table::text("split", rows.iter().map(|r| &prompts[r.prompt].split)),
            table::text("category", rows.iter().map(|r| &prompts[r.prompt].category)),
            table::numbers("score", scores),
            table::flags("refused", refused),
            table::flags("built_direction", built),
        ])
    }
}

fn interventions(mode: Mode, row: &Row<'_>, positions: Positions) -> Vec<Intervention> {
    let at = |layer: usize, edit: Edit| Intervention {
        hook: HookPoint::block(layer, row.line.site),
        positions,
        edit,
    };
    let ablate = || Edit::Ablate(Arc::clone(&row.line.vector));
    match mode {
        Mode::Add => {
            let edit = Edit::Add {
                vector: Arc::clone(&row.line.vector),
                scale: row.alpha * row.line.unit_length,
            };
            vec![at(row.line.layer, edit)]
        }
        Mode::Ablate => vec![at(row.line.layer, ablate())],
        Mode::AblateEverywhere => (0..row.model.config().n_layers)
            .map(|layer| at(layer, ablate()))
            .collect(),
    }
}

/// Every prompt of a set as the model sees it, in file order.
pub(super) fn tokens_of(
    model: &ModelHandle,
    prompts: &PromptSet,
    settings: &Settings,
) -> Result<Vec<Arc<Tokens>>, StageError> {
    prompts
        .prompts
        .iter()
        .map(|prompt| {
            let tokens = model
                .tokens(&prompt.text, settings.chat.system.as_deref())
                .map_err(|error| StageError::Data(format!("prompt `{}`: {error}", prompt.id)))?;
            let (length, most) = (tokens.len(), model.config().context_length);
            if length > most {
                return Err(StageError::Data(format!(
                    "prompt `{}` has {length} tokens in the chat template, but model `{}` reads at most {most}; shorten it or leave it out",
                    prompt.id,
                    model.name()
                )));
            }
            Ok(tokens.labelled(&prompt.id))
        })
        .collect()
}

/// Every prompt of a set as each of the models sees it, in file order. Models compared in one stage must be fed identical ids
/// (`semantics`: otherwise a difference may be the template's).
pub(super) fn tokens_of_each(
    models: &[&Arc<ModelHandle>],
    prompts: &PromptSet,
    settings: &Settings,
) -> Result<Vec<Vec<Arc<Tokens>>>, StageError> {
    let fed = models
        .iter()
        .map(|model| tokens_of(model, prompts, settings))
        .collect::<Result<Vec<_>, _>>()?;
    let Some((first, rest)) = fed.split_first() else {
        return Ok(fed);
    };
    for (model, tokens) in models.iter().skip(1).zip(rest) {
        let mut pairs = first.iter().zip(tokens);
        if let Some(index) = pairs.position(|(a, b)| a.ids() != b.ids()) {
            return Err(StageError::Data(format!(
                "models `{}` and `{}` are compared but would be fed different token ids, first for prompt `{}`; give one the other's template with `template_from`, or put them in stages of their own",
                models[0].name(),
                model.name(),
                prompts.prompts[index].id
            )));
        }
    }
    Ok(fed)
}

/// The scores among values.
pub(super) fn scores(values: Vec<Value>) -> Result<Vec<f64>, StageError> {
    values
        .into_iter()
        .map(|value| match value {
            Value::Score(score) => Ok(score),
            other => Err(StageError::Internal(format!(
                "expected a score, found {other:?}"
            ))),
        })
        .collect()
}

/// The activations among values, `[d_model]` each.
pub(super) fn activations(values: Vec<Value>) -> Result<Vec<Vec<f32>>, StageError> {
    values
        .into_iter()
        .map(|value| match value {
            Value::Activation(vector) => Ok(vector),
            other => Err(StageError::Internal(format!(
                "expected an activation, found {other:?}"
            ))),
        })
        .collect()
}

/// Groups of prompts by split, in the order of first appearance.
pub(super) fn sets_by_split(prompts: &PromptSet) -> Vec<(String, Vec<usize>)> {
    prompts
        .splits()
        .into_iter()
        .map(|split| (split.to_string(), parameters::split_indices(prompts, split)))
        .collect()
}

/// How many prompts a set has; 0 for one that could not be read.
pub(super) fn prompt_count(inputs: &Inputs, name: &Name) -> usize {
    inputs
        .prompts
        .get(&name.value)
        .map_or(0, |set| set.prompts.len())
}

/// Names of the models, for stage keys: they are shown in tables.
pub(super) fn labels(names: &[Name]) -> Json {
    json!(names.iter().map(|n| &n.value).collect::<Vec<_>>())
}
