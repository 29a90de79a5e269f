//! The model room against Hugging Face transformers: the real model where it and its reference numbers are at hand, and the tiny
//! models of `tests/golden` always. Every comparison prints its worst error, which `cargo test -- --nocapture` shows.
//!
//! The reference runs one unpadded prompt at a time; here prompts are padded, batched and cached, so agreement also says that none of
//! this changes a number. The tolerances stand beside the comparisons with what was measured.

mod company;
mod edits;
mod golden;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use safetensors::SafeTensors;
use serde_json::Value as Json;

use super::*;

const MODEL: &str = "third_party/models/SmolLM2-135M-Instruct.Q4_1.gguf";
const ORACLE: &str = "../shared/oracle/smollm2";
const SYSTEM: &str = "You are a helpful assistant.";
const SITES: [Site; 4] = [Site::ResidPre, Site::AttnOut, Site::MlpOut, Site::ResidPost];
/// The layer of the reference's direction and steering.
const LAYER: usize = 20;

/// A path relative to the project's root.
fn at(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Json) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The float32 tensors of a file; int64 ones as float32, too.
fn tensors(path: &Path) -> HashMap<String, Vec<f32>> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let elements = |view: &safetensors::tensor::TensorView<'_>| match view.dtype() {
        safetensors::Dtype::I64 => {
            let words = view.data().chunks_exact(8);
            words
                .map(|w| i64::from_le_bytes(w.try_into().unwrap()) as f32)
                .collect()
        }
        _ => {
            let words = view.data().chunks_exact(4);
            words
                .map(|w| f32::from_le_bytes(w.try_into().unwrap()))
                .collect()
        }
    };
    file.iter()
        .map(|(name, view)| (name.to_string(), elements(&view)))
        .collect()
}

/// The rows of a CSV file, as column name → text.
fn table(name: &str) -> Vec<HashMap<String, String>> {
    let mut reader = csv::Reader::from_path(at(ORACLE).join(name)).unwrap();
    reader.deserialize().map(Result::unwrap).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(x, y)| f64::from(*x) * f64::from(*y))
        .sum()
}

/// The largest errors seen so far.
#[derive(Default, Debug)]
pub(super) struct Worst {
    pub(super) relative: f64,
    one_minus_cosine: f64,
    pub(super) absolute: f64,
}

impl Worst {
    /// ‖found − expected‖ / ‖expected‖, and 1 − cos of the two.
    pub(super) fn vector(&mut self, found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        let difference: Vec<f32> = found.iter().zip(expected).map(|(x, y)| x - y).collect();
        let norm = |v: &[f32]| dot(v, v).sqrt();
        let cosine = dot(found, expected) / (norm(found) * norm(expected));
        self.relative = self.relative.max(norm(&difference) / norm(expected));
        self.one_minus_cosine = self.one_minus_cosine.max(1.0 - cosine);
    }

    /// Log-probabilities against logits, which differ by a constant: both less their mean.
    pub(super) fn logits(&mut self, found: &[f32], expected: &[f32]) {
        let centred = |v: &[f32]| -> Vec<f32> {
            let mean = v.iter().map(|x| f64::from(*x)).sum::<f64>() / v.len() as f64;
            v.iter().map(|x| (f64::from(*x) - mean) as f32).collect()
        };
        self.vector(&centred(found), &centred(expected));
    }

    pub(super) fn scalar(&mut self, found: f64, expected: f64) {
        self.absolute = self.absolute.max((found - expected).abs());
    }
}

/// A loaded model, its prompts by id, and what names its score.
pub(super) struct Subject {
    fingerprint: blake3::Hash,
    pub(super) n_layers: usize,
    pub(super) evaluator: Evaluator,
}

impl Subject {
    pub(super) fn open(path: &Path, dtype: Dtype, budget_bytes: usize) -> (ModelHandle, Self) {
        let handle = ModelHandle::open("m", path, dtype, None, &checkpoint::NoMemory).unwrap();
        let subject = Subject {
            fingerprint: handle.fingerprint,
            n_layers: handle.config().n_layers,
            evaluator: handle.load(DeviceName::Cpu, budget_bytes).unwrap(),
        };
        (handle, subject)
    }

    pub(super) fn cell(
        &self,
        tokens: &Arc<Tokens>,
        edits: Vec<Intervention>,
        readout: Readout,
    ) -> Cell {
        Cell::new(
            self.fingerprint,
            Arc::clone(tokens),
            edits,
            readout,
            self.n_layers,
        )
    }

    pub(super) fn values(&mut self, cells: &[Cell]) -> Vec<Value> {
        let mut values: Vec<Option<Value>> = vec![None; cells.len()];
        let flow = self.evaluator.evaluate(&cells, &mut |step| {
            if let Step::Values(new) = step {
                for (index, value) in new {
                    values[index] = Some(value);
                }
            }
            std::ops::ControlFlow::Continue(())
        });
        assert!(flow.unwrap().is_continue());
        values.into_iter().map(Option::unwrap).collect()
    }

    pub(super) fn scores(&mut self, cells: &[Cell]) -> Vec<f64> {
        let score = |value| match value {
            Value::Score(score) => score,
            other => panic!("{other:?} is no score"),
        };
        self.values(cells).into_iter().map(score).collect()
    }

    pub(super) fn vectors(&mut self, cells: &[Cell]) -> Vec<Vec<f32>> {
        let vector = |value| match value {
            Value::Activation(vector) | Value::LogProbabilities(vector) => vector,
            other => panic!("{other:?} is no vector"),
        };
        self.values(cells).into_iter().map(vector).collect()
    }
}

pub(super) fn edit(hook: HookPoint, positions: Positions, edit: Edit) -> Intervention {
    Intervention {
        hook,
        positions,
        edit,
    }
}

pub(super) fn all_logits(d_vocab: usize) -> Readout {
    Readout::LogProbabilities(Arc::new((0..d_vocab as u32).collect()))
}

/// The real model with its 200 prompts.
struct Real {
    handle: ModelHandle,
    subject: Subject,
    prompts: Vec<(String, Arc<Tokens>)>,
    score: Readout,
}

impl Real {
    fn tokens(&self, id: &str) -> Arc<Tokens> {
        let found = self.prompts.iter().find(|(name, _)| name == id);
        Arc::clone(&found.unwrap().1)
    }

    fn score_cell(&self, id: &str, edits: Vec<Intervention>) -> Cell {
        self.subject
            .cell(&self.tokens(id), edits, self.score.clone())
    }

    /// A read at the last position.
    fn read_cell(&self, id: &str, hook: HookPoint) -> Cell {
        let tokens = self.tokens(id);
        let position = tokens.len() - 1;
        self.subject
            .cell(&tokens, vec![], Readout::Activation { hook, position })
    }

    fn last(&self, id: &str) -> usize {
        self.tokens(id).len() - 1
    }
}

/// The real model, loaded once for all tests, or None with a message.
fn real() -> Option<MutexGuard<'static, Real>> {
    static REAL: OnceLock<Option<Mutex<Real>>> = OnceLock::new();
    let load = || {
        if let Some(absent) = [MODEL, ORACLE].into_iter().find(|path| !at(path).exists()) {
            eprintln!("skipped: `{absent}` is not there");
            return None;
        }
        let (handle, subject) = Subject::open(&at(MODEL), Dtype::Float32, 2 << 30);
        let reference = json(&at(ORACLE).join("tokens.json"));
        let prompt = |row: &Json| {
            // All start with the same 14 tokens, up to where the person's text begins.
            let tokens = Arc::new(Tokens::with_template(ids(&row["ids"]), 14));
            (row["id"].as_str().unwrap().to_string(), tokens)
        };
        Some(Mutex::new(Real {
            handle,
            subject,
            prompts: reference["prompts"]
                .as_array()
                .unwrap()
                .iter()
                .map(prompt)
                .collect(),
            score: Readout::Score(Arc::new(TokenSets {
                refuse: ids(&reference["refuse_ids"]),
                comply: ids(&reference["comply_ids"]),
                dtype: ScoreDtype::Float32,
            })),
        }))
    };
    let real = REAL.get_or_init(load).as_ref()?;
    // A failed comparison of another test leaves the model as it was.
    Some(real.lock().unwrap_or_else(PoisonError::into_inner))
}

fn direction() -> Arc<Vector> {
    let path = at(ORACLE).join("direction_l20.safetensors");
    Arc::new(Vector::new(tensors(&path).remove("direction").unwrap()))
}

#[test]
fn real_prompts_and_ids() {
    let Some(real) = real() else { return };
    let prompts = std::fs::read_to_string(at("../shared/data/prompts.jsonl")).unwrap();
    let reference = json(&at(ORACLE).join("tokens.json"));
    let reference = reference["prompts"].as_array().unwrap();
    let mut count = 0;
    for line in prompts.lines().filter(|line| !line.trim().is_empty()) {
        let row: Json = serde_json::from_str(line).unwrap();
        let expected = &reference[count];
        assert_eq!(row["id"], expected["id"]);
        let prompt = row["prompt"].as_str().unwrap();
        let text = real
            .handle
            .render(prompt, &Chat::default().but_system(Some(SYSTEM)))
            .unwrap();
        assert_eq!(text, expected["text"].as_str().unwrap());
        let tokens = real
            .handle
            .tokens(prompt, &Chat::default().but_system(Some(SYSTEM)))
            .unwrap();
        assert_eq!(tokens.ids(), ids(&expected["ids"]));
        assert_eq!(tokens.template().len(), 14);
        count += 1;
    }
    assert_eq!((count, reference.len()), (200, 200));
}

/// Tolerance: 1e-3 relative (L2) and cosine ≥ 0.99999 per vector. The two programs sum in different orders, over up to 1536 terms
/// and 30 layers in float32.
#[test]
fn real_activations_and_logits() {
    let Some(mut real) = real() else { return };
    let reference = tensors(&at(ORACLE).join("activations.safetensors"));
    let mut prompts: Vec<&str> = reference
        .keys()
        .filter_map(|k| k.strip_suffix(".logits"))
        .collect();
    prompts.sort_unstable();
    assert_eq!(prompts.len(), 6);
    let n_layers = real.subject.n_layers;
    let (mut cells, mut expected) = (Vec::new(), Vec::new());
    for id in &prompts {
        for site in SITES {
            let rows = &reference[&format!("{id}.{}", site.hook_name())];
            for (layer, row) in rows.chunks(rows.len() / n_layers).enumerate() {
                cells.push(real.read_cell(id, HookPoint::block(layer, site)));
                expected.push(row);
            }
        }
    }
    let mut activations = Worst::default();
    for (vector, row) in real.subject.vectors(&cells).iter().zip(expected) {
        activations.vector(vector, row);
    }
    let all = all_logits(real.handle.config().d_vocab);
    let cells: Vec<Cell> = prompts
        .iter()
        .map(|id| real.subject.cell(&real.tokens(id), vec![], all.clone()))
        .collect();
    let mut logits = Worst::default();
    for (id, found) in prompts.iter().zip(real.subject.vectors(&cells)) {
        logits.logits(&found, &reference[&format!("{id}.logits")]);
    }
    eprintln!("activations {activations:?}\nlogits {logits:?}");
    for worst in [activations, logits] {
        assert!(worst.relative < 1e-3 && worst.one_minus_cosine < 1e-5);
    }
}

#[test]
fn real_scores_and_direction() {
    let Some(mut real) = real() else { return };
    let rows = table("scores.csv");
    let cells: Vec<Cell> = rows
        .iter()
        .map(|row| real.score_cell(&row["id"], vec![]))
        .collect();
    let scores = real.subject.scores(&cells);
    let mut worst = Worst::default();
    for (row, score) in rows.iter().zip(&scores) {
        worst.scalar(*score, row["score"].parse().unwrap());
    }
    eprintln!("scores {worst:?}");
    assert_eq!(rows.len(), 200);
    assert!(worst.absolute < 2e-3);

    let mut edge: Vec<(&str, f64)> = rows
        .iter()
        .zip(&scores)
        .filter(|(row, _)| row["split"] == "edge")
        .map(|(row, score)| (row["id"].as_str(), *score))
        .collect();
    edge.sort_by(|a, b| a.1.total_cmp(&b.1));
    let reference = json(&at(ORACLE).join("direction_l20.json"));
    let mut means = Vec::new();
    for (name, chosen) in [("top", &edge[edge.len() - 30..]), ("bottom", &edge[..30])] {
        let chosen: Vec<&str> = chosen.iter().map(|(id, _)| *id).collect();
        let expected: Vec<String> = serde_json::from_value(reference[name].clone()).unwrap();
        assert_eq!(chosen, expected, "{name}");
        let hook = HookPoint::block(LAYER, Site::ResidPre);
        let cells: Vec<Cell> = chosen.iter().map(|id| real.read_cell(id, hook)).collect();
        let vectors = real.subject.vectors(&cells);
        let mean = |i: usize| vectors.iter().map(|v| f64::from(v[i])).sum::<f64>() / 30.0;
        means.push((0..vectors[0].len()).map(mean).collect::<Vec<f64>>());
    }
    let raw: Vec<f32> = (0..means[0].len())
        .map(|i| (means[0][i] - means[1][i]) as f32)
        .collect();
    let cosine = dot(&raw, direction().values()) / dot(&raw, &raw).sqrt();
    let pre_norm = reference["pre_norm"].as_f64().unwrap();
    let relative = (dot(&raw, &raw).sqrt() / pre_norm - 1.0).abs();
    eprintln!(
        "direction: 1 - cosine {:e}, norm {relative:e}",
        1.0 - cosine
    );
    assert!(cosine > 0.99999 && relative < 1e-3);
}

#[test]
fn real_steering() {
    let Some(mut real) = real() else { return };
    let vector = direction();
    let rows = table("steer_l20.csv");
    let steered = |row: &HashMap<String, String>| {
        let add = Edit::Add {
            vector: Arc::clone(&vector),
            scale: row["alpha"].parse().unwrap(),
        };
        let hook = HookPoint::block(LAYER, Site::ResidPre);
        let at_last = Positions::At(real.last(&row["id"]));
        real.score_cell(&row["id"], vec![edit(hook, at_last, add)])
    };
    let cells: Vec<Cell> = rows.iter().map(steered).collect();
    let mut worst = Worst::default();
    for (row, score) in rows.iter().zip(real.subject.scores(&cells)) {
        worst.scalar(score, row["score"].parse().unwrap());
    }
    eprintln!("steering {worst:?}");
    assert!(rows.len() == 168 && worst.absolute < 2e-3);
}

#[test]
fn real_patching() {
    let Some(mut real) = real() else { return };
    let rows = table("patch_pairs.csv");
    let hook = |row: &HashMap<String, String>| {
        let site = Site::from_name(&row["site"]).unwrap();
        HookPoint::block(row["layer"].parse().unwrap(), site)
    };
    let reads: Vec<Cell> = rows
        .iter()
        .map(|row| real.read_cell(&row["donor"], hook(row)))
        .collect();
    let donors = real.subject.vectors(&reads);
    let patched = |(row, donor): (&HashMap<String, String>, Vec<f32>)| {
        let at_last = Positions::At(real.last(&row["recipient"]));
        let replace = Edit::Replace(Arc::new(Vector::new(donor)));
        real.score_cell(&row["recipient"], vec![edit(hook(row), at_last, replace)])
    };
    let cells: Vec<Cell> = rows.iter().zip(donors).map(patched).collect();
    let mut worst = Worst::default();
    for (row, score) in rows.iter().zip(real.subject.scores(&cells)) {
        worst.scalar(score, row["score_patched"].parse().unwrap());
    }
    eprintln!("patching {worst:?}");
    assert!(rows.len() == 112 && worst.absolute < 2e-3);
}

/// Steered at the last prompt position and every generated one; equal to the id.
#[test]
fn real_greedy_continuations() {
    let Some(mut real) = real() else { return };
    let vector = direction();
    let reference = json(&at(ORACLE).join("greedy_l20.json"));
    let rows = reference.as_array().unwrap();
    let continued = |row: &Json| {
        let id = row["id"].as_str().unwrap();
        let add = Edit::Add {
            vector: Arc::clone(&vector),
            scale: row["alpha"].as_f64().unwrap(),
        };
        let hook = HookPoint::block(LAYER, Site::ResidPre);
        let readout = Readout::Generation {
            max_new_tokens: 24,
            sampling: Sampling::Greedy,
            stop_at_end: false,
            further_ends: Arc::default(),
        };
        let from_last = Positions::From(real.last(id));
        real.subject
            .cell(&real.tokens(id), vec![edit(hook, from_last, add)], readout)
    };
    let cells: Vec<Cell> = rows.iter().map(continued).collect();
    assert_eq!(cells.len(), 12);
    for (row, found) in rows.iter().zip(real.subject.values(&cells)) {
        assert_eq!(found, Value::Generation(ids(&row["ids"])), "{row}");
    }
}
