//! `direction`: v = mean(h | A) − mean(h | B), where A and B are prompts of high and low score.
//!
//! Means are accumulated in float64; the direction is stored with unit norm, with the norm it had before as `pre_norm` (Refusal Dial
//! study; Arditi et al., arXiv:2406.11717, call it difference of means). One direction per layer asked for. Main table: one row per
//! direction. `members`: the prompts of A and B. `cosine`: between all directions of the stage. The same procedure on shuffled labels
//! is the negative control in `shuffled`.

use std::collections::HashSet;
use std::sync::Arc;

use polars::prelude::DataFrame;
use serde_json::{Value as Json, json};

use crate::model::{Cell, HookPoint, ModelHandle, Readout, Site, Vector};
use crate::prompts::PromptSet;
use crate::spec::{Fields, Layers, Problems, Spanned, choice};
use crate::stats;

use super::parameters::{self, Settings};
use super::sweep;
use super::table;
use super::{Cost, Evaluate, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError};

pub(super) static KIND: Kind = Kind {
    name: "direction",
    version: 1,
    product: Product::Directions,
    about: "difference of mean activations of high- and low-scoring prompts",
    decode,
};

/// How many shuffles of the labels the negative control makes.
const SHUFFLES: u64 = 20;

/// A direction in the residual stream and where it came from.
#[derive(Clone, Debug)]
pub struct Direction {
    /// How A and B were chosen, e.g. `top_bottom_30`.
    pub label: String,
    /// The holdout seed, if there is one.
    pub seed: Option<u64>,
    /// Name of the model in the study.
    pub model: String,
    /// Fingerprint of the model, hex.
    pub fingerprint: String,
    /// Layer of the activations.
    pub layer: usize,
    /// Site of the activations.
    pub site: Site,
    /// Position of the activations, counted from the end of the prompt.
    pub position: i64,
    /// Unit vector, `[d_model]`, float32.
    pub vector: Arc<Vector>,
    /// Norm of the difference of means.
    pub pre_norm: f64,
    /// Mean norm of the activations of A and B.
    pub resid_norm: f64,
    /// Ids of A, in selection order.
    pub top: Vec<String>,
    /// Ids of B, in selection order.
    pub bottom: Vec<String>,
    /// Lowest and highest score in A.
    pub top_scores: (f64, f64),
    /// Lowest and highest score in B.
    pub bottom_scores: (f64, f64),
    /// Texts of A and B: they decide which prompts count as having built the direction.
    pub builders: Arc<HashSet<String>>,
}

/// How A and B are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Select {
    TopBottom { n: usize },
    Threshold { t: f64 },
}

struct Extract {
    model: Name,
    prompts: Name,
    scores: Name,
    split: Name,
    select: Select,
    layers: Layers,
    site: Site,
    position: i64,
    allow_overlap: bool,
    settings: Settings,
}

fn decode(fields: &mut Fields<'_, '_>, settings: &Settings) -> Option<Box<dyn Stage>> {
    let model = fields.required("model");
    let prompts = fields.required("prompts");
    let scores = fields.required("scores");
    let split = fields.required("split");
    let select = select(fields);
    let layers = fields.required("layer");
    let site = parameters::site(fields);
    let position = parameters::position(fields);
    let allow_overlap = fields.or("allow_overlap", false);
    Some(Box::new(Extract {
        model: model?,
        prompts: prompts?,
        scores: scores?,
        split: split?,
        select: select?,
        layers: layers?,
        site: site?,
        position: position?,
        allow_overlap,
        settings: settings.clone(),
    }))
}

fn select(fields: &mut Fields<'_, '_>) -> Option<Select> {
    let by_rank = match fields.node("select") {
        None => Some(true),
        Some(node) => choice(
            node,
            fields.problems(),
            &[("top_bottom", true), ("threshold", false)],
        ),
    };
    let n = fields.optional::<Spanned<usize>>("n");
    let t = fields.optional::<Spanned<f64>>("t");
    let refuse = |fields: &mut Fields<'_, '_>, at: &crate::spec::Location, message: &str| {
        fields.problems().error_at(at, message.to_string());
        None
    };
    match (by_rank?, n, t) {
        (true, Some(n), None) if n.value > 0 => Some(Select::TopBottom { n: n.value }),
        (false, None, t) => Some(Select::Threshold {
            t: t.map_or(0.0, |t| t.value),
        }),
        (true, Some(n), None) => refuse(fields, &n.at, "`n` must be at least 1"),
        (true, None, None) => {
            fields.required::<usize>("n");
            None
        }
        (true, _, Some(t)) => refuse(fields, &t.at, "`t` belongs to `select = \"threshold\"`"),
        (false, Some(n), _) => refuse(fields, &n.at, "`n` belongs to `select = \"top_bottom\"`"),
    }
}

impl Select {
    fn label(self) -> String {
        match self {
            Select::TopBottom { n } => format!("top_bottom_{n}"),
            Select::Threshold { t } => format!("threshold_{t}"),
        }
    }

    fn key(self) -> Json {
        match self {
            Select::TopBottom { n } => json!({ "top_bottom": n }),
            Select::Threshold { t } => json!({ "threshold": t }),
        }
    }
}

/// Two groups of prompts, by index into a prompt set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Groups {
    /// A, the refusing side.
    pub top: Vec<usize>,
    /// B, the complying side.
    pub bottom: Vec<usize>,
}

/// What a direction is made of.
pub(super) struct Recipe<'a> {
    /// The model whose activations are taken.
    pub model: &'a Arc<ModelHandle>,
    /// The prompts the groups point into.
    pub prompts: &'a PromptSet,
    /// Layers, one direction each.
    pub layers: &'a [usize],
    /// Site of the activations.
    pub site: Site,
    /// Position, counted from the end of the prompt.
    pub position: i64,
    /// Label of the directions.
    pub label: String,
    /// Seed of the split, if there is one.
    pub seed: Option<u64>,
    /// Chat and score rule.
    pub settings: &'a Settings,
}

/// Activations of A and B at one layer: `[prompt][d_model]`, float32.
pub(super) struct Activations {
    layer: usize,
    top: Vec<Vec<f32>>,
    bottom: Vec<Vec<f32>>,
}

impl Recipe<'_> {
    /// The activations of the groups' prompts, per layer.
    pub(super) fn activations(
        &self,
        groups: &Groups,
        evaluator: &mut dyn Evaluate,
    ) -> Result<Vec<Activations>, StageError> {
        let tokens = sweep::tokens_of(self.model, self.prompts, self.settings)?;
        let members: Vec<usize> = groups.top.iter().chain(&groups.bottom).copied().collect();
        let mut cells = Vec::new();
        for &layer in self.layers {
            for &index in &members {
                let tokens = &tokens[index];
                let position = parameters::index_of(
                    self.position,
                    tokens.len(),
                    &self.prompts.prompts[index],
                )?;
                let readout = Readout::Activation {
                    hook: HookPoint::block(layer, self.site),
                    position,
                };
                let n_layers = self.model.config().n_layers;
                cells.push(Cell::new(
                    self.model.fingerprint(),
                    Arc::clone(tokens),
                    vec![],
                    readout,
                    n_layers,
                ));
            }
        }
        let mut vectors = sweep::activations(evaluator.evaluate(&cells)?)?.into_iter();
        Ok(self
            .layers
            .iter()
            .map(|&layer| Activations {
                layer,
                top: vectors.by_ref().take(groups.top.len()).collect(),
                bottom: vectors.by_ref().take(groups.bottom.len()).collect(),
            })
            .collect())
    }

    /// The directions, one per layer. `scores` are those of the prompt set's prompts.
    pub(super) fn directions(
        &self,
        groups: &Groups,
        activations: &[Activations],
        scores: &[Option<f64>],
    ) -> Result<Vec<Direction>, StageError> {
        let ids = |list: &[usize]| {
            list.iter()
                .map(|&i| self.prompts.prompts[i].id.clone())
                .collect()
        };
        let range = |list: &[usize]| {
            let values = list.iter().filter_map(|&i| scores[i]);
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), s| {
                (low.min(s), high.max(s))
            })
        };
        let members = groups.top.iter().chain(&groups.bottom);
        let builders: Arc<HashSet<String>> = Arc::new(
            members
                .map(|&i| self.prompts.prompts[i].text.clone())
                .collect(),
        );
        activations
            .iter()
            .map(|at_layer| {
                let (vector, pre_norm) = difference_of_means(&at_layer.top, &at_layer.bottom)
                    .map_err(|problem| {
                        StageError::Data(format!(
                            "the direction at layer {} {problem}",
                            at_layer.layer
                        ))
                    })?;
                let all = at_layer.top.iter().chain(&at_layer.bottom);
                let norms: Vec<f64> = all.map(|v| norm(v.iter().map(|&x| f64::from(x)))).collect();
                Ok(Direction {
                    label: self.label.clone(),
                    seed: self.seed,
                    model: self.model.name().to_string(),
                    fingerprint: self.model.fingerprint().to_hex().to_string(),
                    layer: at_layer.layer,
                    site: self.site,
                    position: self.position,
                    vector: Arc::new(Vector::new(vector)),
                    pre_norm,
                    resid_norm: norms.iter().sum::<f64>() / norms.len() as f64,
                    top: ids(&groups.top),
                    bottom: ids(&groups.bottom),
                    top_scores: range(&groups.top),
                    bottom_scores: range(&groups.bottom),
                    builders: Arc::clone(&builders),
                })
            })
            .collect()
    }
}

/// mean(top) − mean(bottom) in float64 → the unit vector in float32 and the norm before.
fn difference_of_means(top: &[Vec<f32>], bottom: &[Vec<f32>]) -> Result<(Vec<f32>, f64), String> {
    let (Some(first), false) = (top.first(), bottom.is_empty()) else {
        return Err("has an empty group: no prompt was selected on one side".to_string());
    };
    let mean = |rows: &[Vec<f32>], i: usize| {
        rows.iter().map(|r| f64::from(r[i])).sum::<f64>() / rows.len() as f64
    };
    let raw: Vec<f64> = (0..first.len())
        .map(|i| mean(top, i) - mean(bottom, i))
        .collect();
    let length = norm(raw.iter().copied());
    if !length.is_finite() || length == 0.0 {
        return Err(format!(
            "is zero or not finite (norm {length}): the two groups do not differ"
        ));
    }
    Ok((raw.iter().map(|x| (x / length) as f32).collect(), length))
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

impl Stage for Extract {
    fn needs(&self) -> Needs {
        Needs {
            models: vec![self.model.clone()],
            prompts: vec![self.prompts.clone()],
            stages: vec![(self.scores.clone(), Product::Scores)],
        }
    }

    fn parameters(&self) -> Json {
        json!({
            "model": self.model.value,
            "split": self.split.value,
            "select": self.select.key(),
            "layers": match &self.layers {
                Layers::All => json!("all"),
                Layers::List(list) => json!(list.iter().map(|l| l.value).collect::<Vec<_>>()),
            },
            "site": self.site.short_name(),
            "position": self.position,
            "allow_overlap": self.allow_overlap,
            "settings": self.settings.key(),
        })
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        parameters::check_layers(
            &self.layers,
            std::slice::from_ref(&self.model),
            inputs,
            problems,
        );
        parameters::check_split(&self.split, &self.prompts, inputs, problems);
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let of_split = inputs
            .prompts
            .get(&self.prompts.value)
            .map_or(0, |set| set.split(&self.split.value).count());
        let members = match self.select {
            Select::TopBottom { n } => (2 * n).min(of_split),
            Select::Threshold { .. } => of_split,
        } as u64;
        let n_layers = inputs
            .models
            .get(&self.model.value)
            .map_or(0, |m| m.config().n_layers);
        let layers = parameters::layers(&self.layers, n_layers).len() as u64;
        Cost {
            cells_at_most: members * layers,
            equivalent_forward_passes: members * layers,
        }
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let model = inputs.model(&self.model)?;
        let prompts = inputs.prompt_set(&self.prompts)?;
        let scores = scores_of(inputs.stage(&self.scores)?.table("")?, &self.model, prompts)?;
        let (groups, findings) = self.groups(prompts, &scores)?;
        let layers = parameters::layers(&self.layers, model.config().n_layers);
        let recipe = Recipe {
            model,
            prompts,
            layers: &layers,
            site: self.site,
            position: self.position,
            label: self.select.label(),
            seed: None,
            settings: &self.settings,
        };
        let activations = recipe.activations(&groups, evaluator)?;
        let directions = recipe.directions(&groups, &activations, &scores)?;
        let tables = vec![
            (String::new(), describe(&directions)?),
            ("members".to_string(), members(&directions)?),
            ("cosine".to_string(), cosines(&directions)?),
            ("shuffled".to_string(), shuffled(&directions, &activations)?),
        ];
        Ok(Output {
            tables,
            directions,
            findings,
        })
    }
}

impl Extract {
    fn groups(
        &self,
        prompts: &PromptSet,
        scores: &[Option<f64>],
    ) -> Result<(Groups, Vec<String>), StageError> {
        let of_split = parameters::split_indices(prompts, &self.split.value);
        let values = of_split
            .iter()
            .map(|&i| {
                scores[i].ok_or_else(|| {
                    StageError::Data(format!(
                        "stage `{}` has no score for prompt `{}`",
                        self.scores.value, prompts.prompts[i].id
                    ))
                })
            })
            .collect::<Result<Vec<f64>, _>>()?;
        match self.select {
            Select::Threshold { t } => {
                let (top, bottom) = of_split
                    .iter()
                    .zip(&values)
                    .partition::<Vec<_>, _>(|&(_, &s)| s > t);
                let indices =
                    |list: Vec<(&usize, &f64)>| list.into_iter().map(|(&i, _)| i).collect();
                Ok((
                    Groups {
                        top: indices(top),
                        bottom: indices(bottom),
                    },
                    vec![],
                ))
            }
            Select::TopBottom { n } => {
                let selection =
                    stats::top_bottom(&values, n).map_err(|e| StageError::Data(e.to_string()))?;
                let groups = Groups {
                    top: selection.top.iter().map(|&k| of_split[k]).collect(),
                    bottom: selection.bottom.iter().map(|&k| of_split[k]).collect(),
                };
                let overlap: Vec<usize> = selection.overlap.iter().map(|&k| of_split[k]).collect();
                let finding =
                    overlap_finding(&overlap, prompts, self.allow_overlap, "the direction")?;
                Ok((groups, finding.into_iter().collect()))
            }
        }
    }
}

/// What to say of prompts that are in A and in B: an error, or a finding where overlap is allowed.
pub(super) fn overlap_finding(
    overlap: &[usize],
    prompts: &PromptSet,
    allowed: bool,
    what: &str,
) -> Result<Option<String>, StageError> {
    if overlap.is_empty() {
        return Ok(None);
    }
    let ids: Vec<&str> = overlap
        .iter()
        .map(|&i| prompts.prompts[i].id.as_str())
        .collect();
    let message = format!(
        "{what}: {} prompts are both among the highest and the lowest scores: `{}`",
        ids.len(),
        ids.join("`, `")
    );
    if allowed {
        Ok(Some(message))
    } else {
        Err(StageError::Data(format!(
            "{message}; lower `n`, or set `allow_overlap = true` to record this and go on"
        )))
    }
}

/// The score of each prompt of the set on the named model, from a score stage's table.
pub(super) fn scores_of(
    table: &DataFrame,
    model: &Name,
    prompts: &PromptSet,
) -> Result<Vec<Option<f64>>, StageError> {
    let models = table::read_text(table, "model")?;
    let ids = table::read_text(table, "id")?;
    let scores = table::read_numbers(table, "score")?;
    let mut by_id = std::collections::HashMap::new();
    for ((name, id), score) in models.into_iter().zip(ids).zip(scores) {
        if name == model.value {
            by_id.insert(id, score);
        }
    }
    if by_id.is_empty() {
        return Err(StageError::Data(format!(
            "the scores hold nothing of model `{}`; add it to the score stage",
            model.value
        )));
    }
    Ok(prompts
        .prompts
        .iter()
        .map(|p| by_id.get(&p.id).copied())
        .collect())
}

/// One row per direction.
pub(super) fn describe(directions: &[Direction]) -> Result<DataFrame, StageError> {
    let all = || directions.iter();
    table::frame(vec![
        table::text("model", all().map(|d| &d.model)),
        table::text("direction", all().map(|d| &d.label)),
        table::optional_integers("seed", all().map(|d| d.seed)),
        table::integers("layer", all().map(|d| d.layer)),
        table::text("site", all().map(|d| d.site.short_name())),
        table::integers("n_top", all().map(|d| d.top.len())),
        table::integers("n_bottom", all().map(|d| d.bottom.len())),
        table::numbers("top_score_low", all().map(|d| d.top_scores.0).collect()),
        table::numbers("top_score_high", all().map(|d| d.top_scores.1).collect()),
        table::numbers(
            "bottom_score_low",
            all().map(|d| d.bottom_scores.0).collect(),
        ),
        table::numbers(
            "bottom_score_high",
            all().map(|d| d.bottom_scores.1).collect(),
        ),
        table::numbers("pre_norm", all().map(|d| d.pre_norm).collect()),
        table::numbers("resid_norm", all().map(|d| d.resid_norm).collect()),
        table::numbers(
            "pre_norm_over_resid_norm",
            all().map(|d| d.pre_norm / d.resid_norm).collect(),
        ),
    ])
}

/// The prompts behind each direction.
pub(super) fn members(directions: &[Direction]) -> Result<DataFrame, StageError> {
    let rows: Vec<(&Direction, &str, usize, &String)> = directions
        .iter()
        .flat_map(|d| {
            let top = d
                .top
                .iter()
                .enumerate()
                .map(move |(i, id)| (d, "top", i, id));
            top.chain(
                d.bottom
                    .iter()
                    .enumerate()
                    .map(move |(i, id)| (d, "bottom", i, id)),
            )
        })
        .collect();
    table::frame(vec![
        table::optional_integers("seed", rows.iter().map(|r| r.0.seed)),
        table::integers("layer", rows.iter().map(|r| r.0.layer)),
        table::text("group", rows.iter().map(|r| r.1)),
        table::integers("rank", rows.iter().map(|r| r.2)),
        table::text("id", rows.iter().map(|r| r.3)),
    ])
}

/// Cosine between every two directions.
pub(super) fn cosines(directions: &[Direction]) -> Result<DataFrame, StageError> {
    let pairs: Vec<(&Direction, &Direction)> = directions
        .iter()
        .enumerate()
        .flat_map(|(i, a)| directions[i..].iter().map(move |b| (a, b)))
        .collect();
    let values = pairs
        .iter()
        .map(|(a, b)| cosine(a.vector.values(), b.vector.values()))
        .collect();
    table::frame(vec![
        table::optional_integers("seed_a", pairs.iter().map(|(a, _)| a.seed)),
        table::integers("layer_a", pairs.iter().map(|(a, _)| a.layer)),
        table::optional_integers("seed_b", pairs.iter().map(|(_, b)| b.seed)),
        table::integers("layer_b", pairs.iter().map(|(_, b)| b.layer)),
        table::numbers("cosine", values),
    ])
}

/// Cosine of two float32 vectors, in float64.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot: f64 = a
        .iter()
        .zip(b)
        .map(|(x, y)| f64::from(*x) * f64::from(*y))
        .sum();
    let length = |v: &[f32]| norm(v.iter().map(|&x| f64::from(x)));
    dot / (length(a) * length(b))
}

/// The negative control: the same difference of means with the labels of A and B shuffled. A real direction has a larger norm than these
/// and little in common with them.
fn shuffled(
    directions: &[Direction],
    activations: &[Activations],
) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    for (direction, at_layer) in directions.iter().zip(activations) {
        let all: Vec<&Vec<f32>> = at_layer.top.iter().chain(&at_layer.bottom).collect();
        for seed in 0..SHUFFLES {
            let order = shuffle(all.len(), seed);
            let pick = |range: &[usize]| range.iter().map(|&i| all[i].clone()).collect::<Vec<_>>();
            let (top, bottom) = order.split_at(at_layer.top.len());
            let (vector, pre_norm) = difference_of_means(&pick(top), &pick(bottom))
                .map_err(|problem| StageError::Data(format!("a shuffled direction {problem}")))?;
            rows.push((
                at_layer.layer,
                seed,
                pre_norm,
                cosine(&vector, direction.vector.values()),
            ));
        }
    }
    table::frame(vec![
        table::integers("layer", rows.iter().map(|r| r.0)),
        table::integers("shuffle", rows.iter().map(|r| r.1 as usize)),
        table::numbers("pre_norm", rows.iter().map(|r| r.2).collect()),
        table::numbers("cosine", rows.iter().map(|r| r.3).collect()),
    ])
}

/// A permutation of 0..n that depends on (n, seed) alone: indices sorted by blake3(seed, index).
fn shuffle(n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&i| {
        let mut hasher = blake3::Hasher::new_derive_key("dial shuffle");
        hasher
            .update(&seed.to_le_bytes())
            .update(&(i as u64).to_le_bytes());
        *hasher.finalize().as_bytes()
    });
    order
}
