//! The evaluation against the slow truth, on tiny random models: one full, unpadded forward pass per cell, with the same edits, by the
//! same blocks. And what the cache relies on: a cell's bits do not depend on the company it is evaluated in.
//!
//! Cases are drawn by a fixed generator, so a failure repeats.

mod company;
mod edits;
mod families;
mod generation;
mod long_texts;
mod throughout;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;
use tch::{Kind, Tensor};

use super::parity_tests::{Subject, Worst, all_logits, edit};
use super::transformer::{Earlier, Operands, Tap, TapEdit};
use super::*;

const VOCAB: usize = 48;
const D_MODEL: usize = 20;
const CONTEXT: usize = 75;
/// Tokens behind a prompt whose probability is asked for, at most.
const MOST_GIVEN: usize = 4;
/// The longest text that a `phi3` does not turn as long ones are.
const BORDER: usize = 40;
/// Float32 against float32, the same sums in another order (padded widths, cached keys, 64 rows at once): measured below 2e-6.
const TOLERANCE: f64 = 1e-5;

/// What tells one tiny model from another.
#[derive(Clone, Debug)]
struct Spec {
    family: &'static str,
    n_layers: usize,
    /// key-value heads and query heads of each
    heads: (usize, usize),
    tied: bool,
    biases: bool,
    rope: usize,
    seed: u64,
}

fn specs() -> impl Strategy<Value = Spec> {
    let heads = prop::sample::select(vec![(1, 1), (1, 3), (2, 1), (2, 2), (3, 1)]);
    let switches = (any::<bool>(), any::<bool>(), any::<bool>());
    (switches, 1..=4usize, heads, 0..3usize, any::<u64>()).prop_map(
        |((qwen2, tied, biases), n_layers, heads, rope, seed)| Spec {
            family: if qwen2 { "qwen2" } else { "llama" },
            n_layers,
            heads,
            tied,
            biases,
            rope,
            seed,
        },
    )
}

impl Spec {
    fn config(&self) -> serde_json::Value {
        let rope = [
            json!(null),
            json!({"rope_type": "linear", "factor": 4.0}),
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16}),
        ];
        let mut config = json!({
            "model_type": self.family, "hidden_size": D_MODEL, "intermediate_size": 28,
            "num_hidden_layers": self.n_layers, "num_attention_heads": self.heads.0 * self.heads.1,
            "num_key_value_heads": self.heads.0, "head_dim": 6, "vocab_size": VOCAB, "eos_token_id": [3, 9, 27, 31],
            "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "tie_word_embeddings": self.tied,
            "attention_bias": self.biases, "mlp_bias": self.biases, "rope_scaling": rope[self.rope].clone(),
        });
        let own = match self.family {
            "qwen3_moe" => {
                json!({"num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 13, "mlp_only_layers": [1],
                "norm_topk_prob": true, "use_sliding_window": true, "sliding_window": 20})
            }
            "phi3" => {
                json!({"original_max_position_embeddings": BORDER, "rope_scaling": {"rope_type": "longrope",
                "short_factor": [1.0, 1.2, 1.5], "long_factor": [1.5, 3.0, 7.0]}})
            }
            _ => json!({}),
        };
        if let (Some(config), serde_json::Value::Object(own)) = (config.as_object_mut(), own) {
            config.extend(own);
        }
        config
    }

    /// Writes the model as a Hugging Face folder.
    fn write(&self, folder: &Path) {
        let config = self.config().to_string();
        let shapes = ModelConfig::from_hugging_face(Path::new("config.json"), &config, None)
            .unwrap()
            .parameter_shapes();
        let data: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
            .into_iter()
            .map(|(name, shape)| {
                let (centre, spread) = match name.contains("norm") {
                    true => (1.0, 0.3),
                    false => (0.0, 0.5),
                };
                let values = numbers(self.seed, &name, shape.iter().product());
                let bytes = values
                    .iter()
                    .flat_map(|x| (centre + spread * x).to_le_bytes());
                let bytes = bytes.collect();
                (name, shape, bytes)
            })
            .collect();
        let views = data.iter().map(|(name, shape, bytes)| {
            let view =
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
            (name.as_str(), view.unwrap())
        });
        safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
        let vocabulary: HashMap<String, usize> = (0..VOCAB).map(|i| (format!("w{i}"), i)).collect();
        let tokenizer = json!({"version": "1.0", "added_tokens": [],
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}});
        std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        std::fs::write(folder.join("config.json"), config).unwrap();
    }

    fn load(&self, dtype: Dtype, budget_bytes: usize) -> Subject {
        let folder = tempfile::tempdir().unwrap();
        self.write(folder.path());
        Subject::open(folder.path(), dtype, budget_bytes).1
    }
}

/// Numbers in [−1, 1) that depend on the seed and the name alone.
fn numbers(seed: u64, name: &str, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; 4 * count];
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&seed.to_le_bytes())
        .update(name.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    let word = |w: &[u8]| i32::from_le_bytes([w[0], w[1], w[2], w[3]]);
    bytes
        .chunks(4)
        .map(|w| word(w) as f32 / (1u32 << 31) as f32)
        .collect()
}

/// Numbers a test draws from: `at(n)` is the next one below n.
struct Draws(std::vec::IntoIter<f32>);

impl Draws {
    fn new(seed: u64) -> Self {
        Draws(numbers(seed, "draws", 100_000).into_iter())
    }

    fn below(&mut self, n: usize) -> usize {
        (((self.0.next().unwrap() + 1.0) / 2.0 * n as f32) as usize).min(n - 1)
    }

    /// A prompt that starts, half of the time, with one of two templates.
    fn prompt(&mut self, length: usize) -> Arc<Tokens> {
        let template = [0, 0, 5, 33][self.below(4)].min(length - 1);
        let drawn: Vec<u32> = (template..length)
            .map(|_| self.below(VOCAB) as u32)
            .collect();
        let ids = (0..template as u32).map(|i| (7 * i + 3) % VOCAB as u32);
        Arc::new(Tokens::with_template(ids.chain(drawn).collect(), template))
    }

    fn hook(&mut self, n_layers: usize, sites: &[Site]) -> HookPoint {
        match self.below(8) {
            0 => HookPoint::Embed,
            _ => HookPoint::block(self.below(n_layers), sites[self.below(sites.len())]),
        }
    }

    fn vector(&mut self) -> Arc<Vector> {
        let seed = self.below(1 << 20) as u64;
        Arc::new(random_unit_vector(seed, D_MODEL).unwrap())
    }

    /// Orthonormal vectors.
    fn orthonormal(&mut self, count: usize) -> Vec<Arc<Vector>> {
        let mut found: Vec<Vec<f64>> = Vec::new();
        while found.len() < count {
            let drawn = self.vector();
            let mut v: Vec<f64> = drawn.values().iter().map(|&x| f64::from(x)).collect();
            for q in &found {
                let along: f64 = q.iter().zip(&v).map(|(a, b)| a * b).sum();
                v.iter_mut().zip(q).for_each(|(x, q)| *x -= along * q);
            }
            let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            found.push(v.iter().map(|x| x / norm).collect());
        }
        let narrow = |v: &Vec<f64>| Arc::new(Vector::new(v.iter().map(|&x| x as f32).collect()));
        found.iter().map(narrow).collect()
    }

    fn change(&mut self) -> Edit {
        match self.below(8) {
            0 => Edit::Ablate(self.vector()),
            1 => Edit::Replace(self.vector()),
            2 => {
                let count = 1 + self.below(3);
                Edit::AblateSpan(self.orthonormal(count).into())
            }
            3 => Edit::SetLevel {
                read: self.vector(),
                write: self.vector(),
                level: self.below(40) as f64 / 10.0 - 2.0,
            },
            4 => {
                let plane = self.orthonormal(2);
                Edit::Rotate {
                    first: Arc::clone(&plane[0]),
                    second: Arc::clone(&plane[1]),
                    degrees: self.below(360) as f64,
                }
            }
            _ => Edit::Add {
                vector: self.vector(),
                scale: self.below(80) as f64 / 10.0 - 4.0,
            },
        }
    }

    /// Positions below `end`, half of the time from `last` on, with what comes behind `end` or without.
    fn positions(&mut self, last: usize, end: usize) -> Positions {
        let first = match self.below(2) {
            0 => last,
            _ => self.below(end),
        };
        match self.below(5) {
            0 | 1 => Positions::At(first),
            2 => Positions::From(first),
            3 => Positions::of([(0, end)]).unwrap(),
            _ => {
                let other = self.below(end);
                let open = [other + 2, Positions::OPEN][self.below(2)];
                Positions::of([(first, first + 1), (other, open)]).unwrap()
            }
        }
    }

    /// An edit at positions below `end`, half of the time at `last`.
    fn edit(&mut self, n_layers: usize, last: usize, end: usize) -> Intervention {
        let hook = self.hook(n_layers, &Site::RESIDUAL);
        let (positions, change) = (self.positions(last, end), self.change());
        edit(hook, positions, change)
    }

    fn readout(&mut self, n_layers: usize, length: usize) -> Readout {
        match self.below(8) {
            0 => all_logits(VOCAB),
            1 => score_readout(ScoreDtype::Float32),
            2 => Readout::LogOdds([1, 5, 8].into()),
            3 => {
                let count = 1 + self.below(MOST_GIVEN);
                let ids = (0..count).map(|_| self.below(VOCAB) as u32);
                Readout::Continuation(ids.collect())
            }
            4 => Readout::Divergence {
                epsilon: [0.0, 1e-6][self.below(2)],
            },
            5 => Readout::Mean {
                hook: self.hook(n_layers, &Site::ALL),
            },
            _ => Readout::Activation {
                hook: match self.below(9) {
                    0 => HookPoint::FinalNormalized,
                    1 => HookPoint::FinalNorm,
                    _ => self.hook(n_layers, &Site::ALL),
                },
                position: match self.below(2) {
                    0 => length - 1,
                    _ => self.below(length),
                },
            },
        }
    }
}

fn score_readout(dtype: ScoreDtype) -> Readout {
    Readout::Score(Arc::new(TokenSets {
        refuse: vec![1, 5, 8],
        comply: vec![2, 7],
        dtype,
    }))
}

fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    evaluate::to_rows(tensor).unwrap()
}

/// The vectors of every hook point, per position.
type Passed = HashMap<HookPoint, Vec<Vec<f32>>>;

/// The slow truth: one pass over all positions of one prompt. Logits and the vectors of every hook point, per position.
fn naive(subject: &Subject, ids: &[u32], edits: &[Intervention]) -> (Vec<Vec<f32>>, Passed) {
    let _no_grad = tch::no_grad_guard();
    let transformer = &subject.evaluator.transformer;
    let length = ids.len() as i64;
    let sites = (0..subject.n_layers).flat_map(|l| Site::ALL.map(|site| HookPoint::block(l, site)));
    let mut tap = Tap {
        wanted: sites
            .chain([
                HookPoint::Embed,
                HookPoint::FinalNormalized,
                HookPoint::FinalNorm,
            ])
            .collect(),
        ..Tap::default()
    };
    for i in edits {
        for position in (0..ids.len()).filter(|&p| i.positions.contains(p)) {
            tap.edits.push(TapEdit {
                hook: i.hook,
                position: position as i64,
                count: 1,
                rows: None,
                operation: i.edit.operation(),
                operands: naive_operands(&i.edit),
            });
        }
    }
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let embedded = transformer
        .embed(&Tensor::from_slice(&ids).unsqueeze(0))
        .unwrap();
    let embedded = tap.pass(HookPoint::Embed, embedded).unwrap();
    let positions = Tensor::arange(length, (Kind::Int64, tch::Device::Cpu)).unsqueeze(0);
    let mut x = transformer.placed(embedded, &positions).unwrap();
    let is_long = transformer.is_long(ids.len());
    let rotaries = transformer.rotaries(&positions, is_long).unwrap();
    let nothing = Earlier {
        segments: Vec::new(),
        groups: None,
    };
    for layer in 0..subject.n_layers {
        let window = transformer.attention(layer).window;
        let causal = transformer.causal_mask(0, length, window).unwrap();
        let block = transformer.block(layer, &x, &rotaries, &nothing, Some(&causal), &mut tap);
        x = block.unwrap().0;
    }
    let hidden = transformer.final_norm(&x, &mut tap).unwrap();
    let logits = transformer.unembed(&hidden).unwrap();
    let kept = tap.kept.iter();
    let kept = kept.map(|(hook, x)| (*hook, rows(&x.squeeze_dim(0))));
    (rows(&logits.squeeze_dim(0)), kept.collect())
}

fn naive_operands(edit: &Edit) -> Operands {
    let number = |x: f64| Tensor::from_slice(&[x as f32]).unsqueeze(0);
    let scale = match edit {
        Edit::Add { scale, .. } => *scale as f32,
        _ => 1.0,
    };
    let scaled = |v: &Arc<Vector>| -> Tensor {
        let values: Vec<f32> = v.values().iter().map(|x| scale * x).collect();
        Tensor::from_slice(&values).unsqueeze(0)
    };
    Operands {
        vectors: edit.vectors().map(scaled).collect(),
        numbers: match edit {
            Edit::SetLevel { level, .. } => vec![number(*level)],
            Edit::Rotate { degrees, .. } => {
                let angle = degrees.to_radians();
                vec![number(angle.cos()), number(angle.sin())]
            }
            _ => Vec::new(),
        },
    }
}

/// ln softmax of one row of logits, in float64.
fn naive_log_probabilities(logits: &[f32]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    logits.iter().map(|&x| f64::from(x) - sum.ln()).collect()
}

fn naive_log_odds(logits: &[f32], ids: &[u32]) -> f64 {
    let all = naive_log_probabilities(logits);
    let p: f64 = ids.iter().map(|&id| all[id as usize].exp()).sum();
    (p + 1e-8).ln() - (1.0 - p + 1e-8).ln()
}

fn naive_score(logits: &[f32]) -> f64 {
    let sum = |ids: &[usize]| ids.iter().map(|&i| f64::from(logits[i]).exp()).sum::<f64>();
    sum(&[1, 5, 8]).ln() - sum(&[2, 7]).ln()
}

fn naive_divergence(unedited: &[f32], edited: &[f32], epsilon: f64) -> f64 {
    let (p, q) = (
        naive_log_probabilities(unedited),
        naive_log_probabilities(edited),
    );
    let terms = p.iter().zip(&q).map(|(p, q)| match epsilon > 0.0 {
        true => p.exp() * ((p.exp() + epsilon).ln() - (q.exp() + epsilon).ln()),
        false => p.exp() * (p - q),
    });
    terms.sum()
}

/// The largest logit's index, where the second is not close to it.
fn clear_first(logits: &[f32]) -> Option<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let largest = logits.iter().fold(1f32, |most, x| most.max(x.abs()));
    (logits[order[0]] - logits[order[1]] > 1e-3 * largest).then_some(order[0])
}

/// One comparison of the suffix path with the slow truth.
struct Case {
    tokens: Arc<Tokens>,
    edits: Vec<Intervention>,
    readout: Readout,
}

impl Case {
    fn draw(draws: &mut Draws, n_layers: usize) -> Self {
        let length = 1 + draws.below(CONTEXT - MOST_GIVEN);
        let count = draws.below(4);
        Case {
            tokens: draws.prompt(length),
            edits: (0..count)
                .map(|_| draws.edit(n_layers, length - 1, length))
                .collect(),
            readout: draws.readout(n_layers, length),
        }
    }

    fn cell(&self, subject: &Subject) -> Cell {
        subject.cell(&self.tokens, self.edits.clone(), self.readout.clone())
    }

    fn compare(&self, subject: &Subject, found: &Value) -> Worst {
        let given: &[u32] = match &self.readout {
            Readout::Continuation(ids) => ids,
            _ => &[],
        };
        let before = &given[..given.len().saturating_sub(1)];
        let ids = [self.tokens.ids(), before].concat();
        let (logits, kept) = naive(subject, &ids, &self.edits);
        let last = logits.last().unwrap();
        // Relative to the logits, whose rounding is what a score inherits.
        let largest = |logits: &[f32]| {
            let of = logits.iter().map(|x| f64::from(x.abs()));
            of.fold(1.0, f64::max)
        };
        let mut worst = Worst::default();
        match (&self.readout, found) {
            (Readout::Activation { hook, position }, Value::Activation(vector)) => {
                worst.vector(vector, &kept[hook][*position])
            }
            (Readout::Mean { hook }, Value::Activation(mean)) => {
                let all = &kept[hook];
                let at = |i: usize| all.iter().map(|vector| f64::from(vector[i])).sum::<f64>();
                let naive = (0..mean.len()).map(|i| (at(i) / all.len() as f64) as f32);
                worst.vector(mean, &naive.collect::<Vec<f32>>())
            }
            (Readout::LogProbabilities(_), Value::LogProbabilities(v)) => worst.logits(v, last),
            (Readout::Score(_), Value::Score(score)) => {
                worst.scalar(score / largest(last), naive_score(last) / largest(last));
            }
            (Readout::LogOdds(ids), Value::Score(score)) => {
                let expected = naive_log_odds(last, ids);
                worst.scalar(score / largest(last), expected / largest(last));
            }
            (Readout::Divergence { epsilon }, Value::Divergence { nats, agreement }) => {
                let (unedited, _) = naive(subject, &ids, &[]);
                let unedited = unedited.last().unwrap();
                let expected = naive_divergence(unedited, last, *epsilon);
                // Not where a rounding could change which is first.
                if let (Some(one), Some(other)) = (clear_first(unedited), clear_first(last)) {
                    assert_eq!(*agreement, f64::from(u8::from(one == other)));
                }
                worst.scalar(nats / largest(last), expected / largest(last));
            }
            (Readout::Continuation(ids), Value::Score(score)) => {
                let read = &logits[logits.len() - ids.len()..];
                let tokens = read.iter().zip(ids.iter());
                let each = tokens.map(|(row, id)| naive_log_probabilities(row)[*id as usize]);
                let scale: f64 = read.iter().map(|row| largest(row)).sum();
                worst.scalar(score / scale, each.sum::<f64>() / scale);
            }
            (readout, value) => panic!("{readout:?} gave {value:?}"),
        }
        worst
    }
}

fn runner(cases: u32) -> TestRunner {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[test]
fn the_suffix_path_is_the_naive_path() {
    let overall = std::cell::Cell::new(0f64);
    let result = runner(40).run(&specs(), |spec| {
        let mut subject = spec.load(Dtype::Float32, 1 << 30);
        let mut draws = Draws::new(spec.seed);
        let cases: Vec<Case> = (0..24)
            .map(|_| Case::draw(&mut draws, spec.n_layers))
            .collect();
        let cells: Vec<Cell> = cases.iter().map(|case| case.cell(&subject)).collect();
        let values = subject.values(&cells);
        for (case, value) in cases.iter().zip(values) {
            let worst = case.compare(&subject, &value);
            let error = worst.relative.max(worst.absolute);
            prop_assert!(
                error < TOLERANCE,
                "{error:e}: {:?}, {:?}",
                case.edits,
                case.readout
            );
            overall.set(overall.get().max(error));
        }
        Ok(())
    });
    result.unwrap();
    eprintln!("suffix against naive: {:e}", overall.get());
}
