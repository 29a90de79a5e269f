//! A tiny qwen2 checkpoint in Hugging Face's format whose refusal direction r is known by construction.
//!
//! - The embeddings of "harmful" words carry +r, each in an amount of its own; that of the last prompt token carries −r.
//! - Attention is nearly uniform (queries and keys are small), and its first two layers move what the words carry along r to the last
//!   position, along with some of what they carry elsewhere, so that prompts differ in more than r.
//! - The unembedding rows of refusing openings read +r, those of complying ones −r.
//! - Everything else is small random noise, so that nothing is degenerate.
//!
//! Of one recipe a second direction q is planted likewise: calm words carry it, one way or the other, and two words of the system message
//! are read by it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

/// Width of the residual stream.
pub const D_MODEL: usize = 64;
/// Number of blocks.
pub const N_LAYERS: usize = 4;
/// The longest prompt, in tokens.
pub const CONTEXT: usize = 128;
/// Number of harmful words, `harm0`, `harm1`, …; a later one carries more of r.
pub const HARMFUL_WORDS: usize = 24;
/// Number of words that carry nothing of r, `calm0`, `calm1`, …
pub const CALM_WORDS: usize = 150;

const N_HEADS: usize = 4;
const N_KV_HEADS: usize = 2;
const D_HEAD: usize = D_MODEL / N_HEADS;
const D_MLP: usize = 96;
const REFUSING: [&str; 4] = ["I'm", "I", "Sorry", "I’m"];
const COMPLYING: [&str; 4] = ["Sure", "Yes", "Here", "Of"];
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// How a checkpoint differs from its siblings.
#[derive(Clone, Copy)]
pub struct Recipe {
    /// How strongly attention moves the words' information to later positions.
    pub strength: f32,
    /// Seed of everything random but r and the embeddings.
    pub seed: u64,
    /// Number of blocks.
    pub layers: usize,
    /// What it writes where r is high, and where it is low.
    pub says: [&'static str; 2],
    /// Whether a second direction is planted.
    pub two: bool,
}

/// The recipe of the model that refuses.
pub const INSTRUCT: Recipe = Recipe {
    strength: 4.0,
    seed: 1,
    layers: N_LAYERS,
    says: ["Sorry", "Sure"],
    two: false,
};
/// The same with a second direction, which [`WARM`] and [`COLD`] read.
pub const TWO: Recipe = Recipe {
    two: true,
    ..INSTRUCT
};
/// What the model of two directions opens with where the second is high.
pub const WARM: &str = "helpful";
/// And where it is low.
pub const COLD: &str = "careful";
/// The same network with a weaker circuit.
pub const BASE: Recipe = Recipe {
    strength: 1.0,
    ..INSTRUCT
};
/// The same network as the one that refuses, whose score says nothing of its texts: they open with words that are no refusal, whatever r is.
pub const MUTE: Recipe = Recipe {
    says: ["calm0", "calm1"],
    ..INSTRUCT
};

/// Folders of the two models, `inst` and `base`, written once per process.
pub fn planted_models() -> &'static Path {
    static MODELS: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = MODELS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("inst"), INSTRUCT);
        write(&folder.path().join("base"), BASE);
        folder
    });
    folder.path()
}

/// The planted direction, a unit vector `[D_MODEL]`.
pub fn refusal_direction() -> Vec<f32> {
    Noise(77).unit_vector(D_MODEL)
}

/// The second planted direction, a unit vector orthogonal to the first, `[D_MODEL]`.
pub fn second_direction() -> Vec<f32> {
    let (r, drawn) = (refusal_direction(), Noise(78).unit_vector(D_MODEL));
    let along = dot(&drawn, &r);
    let left: Vec<f32> = drawn.iter().zip(&r).map(|(x, r)| x - along * r).collect();
    let length = dot(&left, &left).sqrt();
    left.iter().map(|x| x / length).collect()
}

/// Whether a calm word of that number carries the second direction, and not its opposite.
pub fn is_warm(calm: usize) -> bool {
    calm.is_multiple_of(2)
}

/// How much of the second direction a token's embedding carries.
fn warmth(token: &str) -> f32 {
    match token.strip_prefix("calm") {
        Some(number) if is_warm(number.parse().unwrap()) => 1.0,
        Some(_) => -1.0,
        None => 0.0,
    }
}

/// How a token's unembedding reads the second direction.
fn reading_of_warmth(token: &str) -> f32 {
    match token {
        WARM => 1.5,
        COLD => -1.5,
        _ => 0.0,
    }
}

/// A generator that gives the same numbers on every machine (splitmix64).
struct Noise(u64);

impl Noise {
    /// Uniform in (0, 1].
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + f64::MIN_POSITIVE
    }

    fn normal(&mut self) -> f32 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.uniform()).cos()) as f32
    }

    fn normals(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        (0..count).map(|_| deviation * self.normal()).collect()
    }

    fn unit_vector(&mut self, width: usize) -> Vec<f32> {
        let drawn = self.normals(width, 1.0);
        let length = dot(&drawn, &drawn).sqrt();
        drawn.iter().map(|x| x / length).collect()
    }
}

/// Σ aᵢbᵢ.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Every token, in the order of ids.
fn vocabulary() -> Vec<String> {
    let template = [
        "<unk>",
        "<|im_start|>",
        "<|im_end|>",
        "system",
        "user",
        "assistant",
    ];
    let system = ["You", "are", "a", "helpful", "careful", "assistant."];
    let fixed = template
        .into_iter()
        .chain(system)
        .chain(REFUSING)
        .chain(COMPLYING);
    let harmful = (0..HARMFUL_WORDS).map(|i| format!("harm{i}"));
    let calm = (0..CALM_WORDS).map(|i| format!("calm{i}"));
    fixed.map(String::from).chain(harmful).chain(calm).collect()
}

/// How much of r a token's embedding carries.
fn amount(token: &str) -> f32 {
    match token.strip_prefix("harm") {
        Some(number) => 1.0 + number.parse::<f32>().unwrap() / HARMFUL_WORDS as f32,
        // The last prompt token: without harmful words the score is below zero.
        None if token == "assistant" => -3.0,
        None => 0.0,
    }
}

/// How a token's unembedding reads r, where these are said most.
fn reading(token: &str, [high, low]: [&str; 2]) -> f32 {
    match token {
        // The most probable opening of each kind.
        _ if token == high => 1.8,
        _ if token == low => -1.8,
        _ if REFUSING.contains(&token) => 1.5,
        _ if COMPLYING.contains(&token) => -1.5,
        _ => 0.0,
    }
}

/// One row per token: a vector orthogonal to r of about that length, plus `of_r(token)`·r.
fn rows(length: f32, seed: u64, of_r: impl Fn(&str) -> f32) -> Vec<f32> {
    let (r, mut noise) = (refusal_direction(), Noise(seed));
    let row = |token: String| {
        let drawn = noise.unit_vector(D_MODEL);
        let along = dot(&drawn, &r);
        let combine = |(x, r): (&f32, &f32)| length * (x - along * r) + of_r(&token) * r;
        drawn.iter().zip(&r).map(combine).collect::<Vec<f32>>()
    };
    vocabulary().into_iter().flat_map(row).collect()
}

/// Adds so much of the second direction to the rows of tokens.
fn add_second(mut rows: Vec<f32>, of_q: impl Fn(&str) -> f32) -> Vec<f32> {
    let q = second_direction();
    for (row, token) in rows.chunks_mut(D_MODEL).zip(vocabulary()) {
        let amount = of_q(&token);
        row.iter_mut().zip(&q).for_each(|(x, q)| *x += amount * q);
    }
    rows
}

type Tensors = HashMap<String, (Vec<usize>, Vec<f32>)>;

fn tensors(recipe: Recipe) -> Tensors {
    let d_vocab = vocabulary().len();
    let mut tensors = Tensors::new();
    let mut put = |name: &str, shape: &[usize], values: Vec<f32>| {
        tensors.insert(name.to_string(), (shape.to_vec(), values));
    };
    put(
        "model.embed_tokens.weight",
        &[d_vocab, D_MODEL],
        match recipe.two {
            false => rows(2.0, 2, amount),
            true => add_second(rows(2.0, 2, amount), warmth),
        },
    );
    put(
        "lm_head.weight",
        &[d_vocab, D_MODEL],
        match recipe.two {
            false => rows(0.3, 3, |token| reading(token, recipe.says)),
            true => add_second(
                rows(0.3, 3, |token| reading(token, recipe.says)),
                reading_of_warmth,
            ),
        },
    );
    put("model.norm.weight", &[D_MODEL], vec![1.0; D_MODEL]);
    let mut noise = Noise(recipe.seed);
    for layer in 0..recipe.layers {
        let mut put = |name: &str, shape: &[usize], values: Vec<f32>| {
            put(&format!("model.layers.{layer}.{name}"), shape, values)
        };
        for norm in ["input_layernorm.weight", "post_attention_layernorm.weight"] {
            put(norm, &[D_MODEL], vec![1.0; D_MODEL]);
        }
        let d_key = N_KV_HEADS * D_HEAD;
        for (name, width) in [("q", D_MODEL), ("k", d_key)] {
            put(
                &format!("self_attn.{name}_proj.weight"),
                &[width, D_MODEL],
                noise.normals(width * D_MODEL, 0.02),
            );
            put(
                &format!("self_attn.{name}_proj.bias"),
                &[width],
                noise.normals(width, 0.02),
            );
        }
        let moves = if layer < 2 { recipe.strength } else { 0.0 };
        let (mut values, mut output) = (values(&mut noise), output(moves, &mut noise));
        if recipe.two {
            read_second(&mut values, &mut output, moves);
        }
        put("self_attn.v_proj.weight", &[d_key, D_MODEL], values);
        put(
            "self_attn.v_proj.bias",
            &[d_key],
            noise.normals(d_key, 0.02),
        );
        put("self_attn.o_proj.weight", &[D_MODEL, D_MODEL], output);
        for (name, shape) in [
            ("gate", [D_MLP, D_MODEL]),
            ("up", [D_MLP, D_MODEL]),
            ("down", [D_MODEL, D_MLP]),
        ] {
            put(
                &format!("mlp.{name}_proj.weight"),
                &shape,
                noise.normals(D_MLP * D_MODEL, 0.03),
            );
        }
    }
    tensors
}

/// `[N_KV_HEADS · D_HEAD, D_MODEL]`: the first row reads r, the others something of everything but r.
fn values(noise: &mut Noise) -> Vec<f32> {
    let r = refusal_direction();
    let mut weights = noise.normals(N_KV_HEADS * D_HEAD * D_MODEL, 0.125);
    for row in weights.chunks_mut(D_MODEL) {
        let along = dot(row, &r);
        row.iter_mut().zip(&r).for_each(|(x, r)| *x -= along * r);
    }
    weights[..D_MODEL].copy_from_slice(&r);
    weights
}

/// `[D_MODEL, N_HEADS · D_HEAD]`: what was read of r is written to r, `moves` times over; the rest elsewhere, weaker.
fn output(moves: f32, noise: &mut Noise) -> Vec<f32> {
    let mut weights = noise.normals(D_MODEL * D_MODEL, 0.005 + 0.08 * moves);
    for (row, r) in weights.chunks_mut(D_MODEL).zip(refusal_direction()) {
        // The first two heads share the key-value head that reads r.
        row[0] = moves / 2.0 * r;
        row[D_HEAD] = moves / 2.0 * r;
    }
    weights
}

/// The second key-value head reads q, and its two heads write it.
fn read_second(values: &mut [f32], output: &mut [f32], moves: f32) {
    let q = second_direction();
    values[D_HEAD * D_MODEL..][..D_MODEL].copy_from_slice(&q);
    for (row, q) in output.chunks_mut(D_MODEL).zip(q) {
        row[2 * D_HEAD] = moves / 2.0 * q;
        row[3 * D_HEAD] = moves / 2.0 * q;
    }
}

/// Writes the model into a new folder.
pub fn write(folder: &Path, recipe: Recipe) {
    std::fs::create_dir_all(folder).unwrap();
    let tensors = tensors(recipe);
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            (
                name,
                shape,
                values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            )
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, data)| {
        (
            name.as_str(),
            TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap(),
        )
    });
    let path = folder.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    // The hash of a file that was changed just now is not remembered.
    let an_hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(an_hour_ago).unwrap();
    let mut config = config();
    config["num_hidden_layers"] = recipe.layers.into();
    let files = [
        ("config.json", config),
        ("tokenizer.json", tokenizer()),
        ("tokenizer_config.json", tokenizer_config()),
    ];
    for (name, content) in files {
        std::fs::write(folder.join(name), content.to_string()).unwrap();
    }
}

/// A copy of a model's files in a new folder, to be changed.
pub fn copied(from: &Path, to: PathBuf) -> PathBuf {
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    to
}

/// The content of `config.json`.
pub fn config() -> serde_json::Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": D_MODEL,
        "intermediate_size": D_MLP, "num_hidden_layers": N_LAYERS, "num_attention_heads": N_HEADS,
        "num_key_value_heads": N_KV_HEADS, "vocab_size": vocabulary().len(), "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 2,
    })
}

fn tokenizer() -> serde_json::Value {
    let tokens = vocabulary();
    let added = |id: usize| {
        json!({"id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let vocab: HashMap<&String, usize> = tokens.iter().zip(0..).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [added(0), added(1), added(2)],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    })
}

fn tokenizer_config() -> serde_json::Value {
    json!({"chat_template": TEMPLATE, "eos_token": "<|im_end|>"})
}
