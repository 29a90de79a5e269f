//! GGUF files put together from parts, so that each part can be wrong by itself.

use super::models::{D_KEY, D_MODEL, D_VOCAB};
use super::mutate::{NUMBERS, Random};
use super::target::Seed;

/// A value of the metadata.
#[derive(Clone)]
pub enum Value {
    U32(u32),
    U64(u64),
    F32(f32),
    Text(String),
    Texts(Vec<String>),
    /// So many elements of this type are announced, and none is there.
    Announced(u32, u64),
}

/// A tensor, as the header has it.
#[derive(Clone)]
struct Tensor {
    name: String,
    /// The innermost first.
    dimensions: Vec<u64>,
    stored: u32,
    offset: u64,
}

/// A file in parts.
#[derive(Clone)]
pub struct Gguf {
    version: u32,
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
    /// Numbers of tensors and of metadata, where they are not those that are there.
    counts: Option<(u64, u64)>,
    data: Vec<u8>,
}

const ALIGNMENT: usize = 32;

impl Gguf {
    /// A model that can be used.
    pub fn good() -> Self {
        let text = |text: &str| Value::Text(text.to_string());
        let number = |number: usize| Value::U32(number as u32);
        let tokens = "abdehnostw".chars().map(String::from);
        let tokens = tokens.chain(["Ġ", "on", "one", "<s>", "</s>", "two"].map(String::from));
        let metadata = [
            ("general.architecture", text("llama")),
            ("llama.block_count", number(1)),
            ("llama.context_length", number(4096)),
            ("llama.embedding_length", number(D_MODEL)),
            ("llama.feed_forward_length", number(D_MODEL)),
            ("llama.attention.head_count", number(2)),
            ("llama.attention.head_count_kv", number(1)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.rope.freq_base", Value::F32(10_000.0)),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("gpt-2")),
            ("tokenizer.ggml.tokens", Value::Texts(tokens.collect())),
            (
                "tokenizer.ggml.merges",
                Value::Texts(["o n", "on e"].map(String::from).to_vec()),
            ),
            ("tokenizer.ggml.eos_token_id", number(14)),
            (
                "tokenizer.chat_template",
                text("{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"),
            ),
        ];
        let mut file = Gguf {
            version: 3,
            metadata: metadata
                .map(|(key, value)| (key.to_string(), value))
                .to_vec(),
            tensors: Vec::new(),
            counts: None,
            data: Vec::new(),
        };
        let (model, key, vocab) = (D_MODEL as u64, D_KEY as u64, D_VOCAB as u64);
        file.add("token_embd.weight", &[model, vocab]);
        file.add("output_norm.weight", &[model]);
        for (name, dimensions) in [
            ("attn_norm", &[model][..]),
            ("ffn_norm", &[model]),
            ("attn_q", &[model, model]),
            ("attn_k", &[model, key]),
            ("attn_v", &[model, key]),
            ("attn_output", &[model, model]),
            ("ffn_gate", &[model, model]),
            ("ffn_up", &[model, model]),
            ("ffn_down", &[model, model]),
        ] {
            file.add(&format!("blk.0.{name}.weight"), dimensions);
        }
        file
    }

    /// Adds a tensor of float32 with its data.
    fn add(&mut self, name: &str, dimensions: &[u64]) {
        let offset = self.data.len() as u64;
        let elements: u64 = dimensions.iter().product();
        let values = (0..elements).map(|i| (i % 7) as f32 * 0.01 + 0.5);
        self.data.extend(values.flat_map(f32::to_le_bytes));
        self.data
            .resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
        self.name_data(name, dimensions, offset);
    }

    /// Adds a tensor whose data are there already, or are nowhere.
    fn name_data(&mut self, name: &str, dimensions: &[u64], offset: u64) {
        self.tensors.push(Tensor {
            name: name.to_string(),
            dimensions: dimensions.to_vec(),
            stored: 0,
            offset,
        });
    }

    /// Puts a value in the place of the one that is there, or adds it.
    pub fn set(&mut self, key: &str, value: Value) {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.to_string(), value));
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        let mut tensors = self.tensors.iter_mut();
        tensors.find(|tensor| tensor.name == name).unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        let counts = (self.tensors.len() as u64, self.metadata.len() as u64);
        let (tensors, metadata) = self.counts.unwrap_or(counts);
        out.extend(tensors.to_le_bytes());
        out.extend(metadata.to_le_bytes());
        for (key, value) in &self.metadata {
            put_text(&mut out, key);
            value.put(&mut out);
        }
        for tensor in &self.tensors {
            put_text(&mut out, &tensor.name);
            out.extend((tensor.dimensions.len() as u32).to_le_bytes());
            for dimension in &tensor.dimensions {
                out.extend(dimension.to_le_bytes());
            }
            out.extend(tensor.stored.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out.extend(&self.data);
        out
    }
}

impl Value {
    fn put(&self, out: &mut Vec<u8>) {
        let kind: u32 = match self {
            Value::U32(_) => 4,
            Value::F32(_) => 6,
            Value::Text(_) => 8,
            Value::Texts(_) | Value::Announced(..) => 9,
            Value::U64(_) => 10,
        };
        out.extend(kind.to_le_bytes());
        match self {
            Value::U32(value) => out.extend(value.to_le_bytes()),
            Value::U64(value) => out.extend(value.to_le_bytes()),
            Value::F32(value) => out.extend(value.to_le_bytes()),
            Value::Text(text) => put_text(out, text),
            Value::Texts(texts) => {
                out.extend(8u32.to_le_bytes());
                out.extend((texts.len() as u64).to_le_bytes());
                texts.iter().for_each(|text| put_text(out, text));
            }
            Value::Announced(kind, count) => {
                out.extend(kind.to_le_bytes());
                out.extend(count.to_le_bytes());
            }
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

pub fn seeds() -> Vec<Seed> {
    let with = |name: &str, change: &dyn Fn(&mut Gguf)| {
        let mut file = Gguf::good();
        change(&mut file);
        Seed::new(name, file.bytes())
    };
    let set =
        |name: &str, key: &str, value: Value| with(name, &|file| file.set(key, value.clone()));
    let divisors = |name: &str, dimensions: &[u64]| {
        with(name, &|file| {
            file.name_data("rope_freqs.weight", dimensions, 0)
        })
    };
    let norm = |name: &str, change: &dyn Fn(&mut Tensor)| {
        with(name, &|file| change(file.tensor("output_norm.weight")))
    };
    let (model, vocab) = (D_MODEL as u64, D_VOCAB as u64);
    let mut seeds = vec![
        with("plain", &|_| {}),
        set("alignment-0", "general.alignment", Value::U32(0)),
        set("alignment-1", "general.alignment", Value::U32(1)),
        set("alignment-2-31", "general.alignment", Value::U32(1 << 31)),
        divisors("rope-freqs-2-62", &[1 << 62]),
        divisors("rope-freqs-2-40-by-0", &[1 << 40, 0]),
        divisors("rope-freqs-0-by-2-40", &[0, 1 << 40]),
        divisors("rope-freqs-2-32-by-2-32", &[1 << 32, 1 << 32]),
        divisors("rope-freqs-none", &[]),
        set("layers-2-32", "llama.block_count", Value::U32(u32::MAX)),
        set("layers-2-28", "llama.block_count", Value::U32(1 << 28)),
        set("layers-2-20", "llama.block_count", Value::U32(1 << 20)),
        set("layers-2-62", "llama.block_count", Value::U64(1 << 62)),
        set("layers-none", "llama.block_count", Value::U32(0)),
        set("heads-none", "llama.attention.head_count", Value::U32(0)),
        set("heads-2-63", "llama.attention.head_count", Value::U64(1 << 63)),
        set("key-heads-none", "llama.attention.head_count_kv", Value::U32(0)),
        set("head-width-odd", "llama.attention.key_length", Value::U32(3)),
        set("head-width-1", "llama.attention.key_length", Value::U32(1)),
        set("head-width-2-63", "llama.attention.key_length", Value::U64(1 << 63)),
        set("width-2-63", "llama.embedding_length", Value::U64(1 << 63)),
        set("context-2-64", "llama.context_length", Value::U64(u64::MAX)),
        set("context-none", "llama.context_length", Value::U32(0)),
        set("freq-base-not-a-number", "llama.rope.freq_base", Value::F32(f32::NAN)),
        set("epsilon-negative", "llama.attention.layer_norm_rms_epsilon", Value::F32(-1.0)),
        set("tokens-2-62", "tokenizer.ggml.tokens", Value::Announced(8, 1 << 62)),
        set("numbers-2-62", "tokenizer.ggml.token_type", Value::Announced(5, 1 << 62)),
        set("bytes-2-40", "general.x", Value::Announced(0, 1 << 40)),
        set("end-beyond", "tokenizer.ggml.eos_token_id", Value::U32(4_000_000_000)),
        set("merge-of-unknown", "tokenizer.ggml.merges", Value::Texts(vec!["x y".to_string()])),
        set("merge-result-unknown", "tokenizer.ggml.merges", Value::Texts(vec!["a b".to_string()])),
        set("tokens-empty", "tokenizer.ggml.tokens", Value::Texts(Vec::new())),
        set("tokens-blank", "tokenizer.ggml.tokens", Value::Texts(vec![String::new()])),
        set("template-loops", "tokenizer.chat_template", Value::Text("{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}x{% endfor %}{% endfor %}{% endfor %}".to_string())),
        set("parts", "split.count", Value::U32(3)),
        with("tensor-twice", &|file| file.name_data("output_norm.weight", &[model], 0)),
        with("tensor-under-two-names", &|file| file.add("model.norm.weight", &[model])),
        with("embedding-under-two-names", &|file| file.add("model.embed_tokens.weight", &[model, vocab])),
        with("key-twice", &|file| file.metadata.push(("llama.block_count".to_string(), Value::U32(2)))),
        with("key-three-times", &|file| {
            for count in [0, 7] {
                file.metadata.push(("llama.attention.head_count".to_string(), Value::U32(count)));
            }
        }),
        norm("overlapping", &|tensor| tensor.offset = 0),
        norm("offset-odd", &|tensor| tensor.offset += 1),
        norm("offset-2-63", &|tensor| tensor.offset = 1 << 63),
        norm("offset-2-64", &|tensor| tensor.offset = u64::MAX - 31),
        norm("dimensions-none", &|tensor| tensor.dimensions.clear()),
        norm("dimensions-many", &|tensor| tensor.dimensions = vec![1; 1000]),
        norm("dimension-zero", &|tensor| tensor.dimensions = vec![0]),
        norm("type-unknown", &|tensor| tensor.stored = 12_345),
        norm("type-blocks", &|tensor| tensor.stored = 12),
        with("tensors-2-62", &|file| file.counts = Some((1 << 62, 15))),
        with("metadata-2-62", &|file| file.counts = Some((11, 1 << 62))),
        with("version-1", &|file| file.version = 1),
        with("version-2-31", &|file| file.version = 1 << 31),
        with("data-missing", &|file| file.data.clear()),
        Seed::new("only-magic", "GGUF"),
        Seed::new("other-magic", "GGJT\u{1}\0\0\0"),
    ];
    // An array of arrays of arrays …
    let mut nested = Gguf::good().bytes()[..24].to_vec();
    nested[8..24].fill(0);
    nested[16] = 1;
    put_text(&mut nested, "a");
    nested.extend(9u32.to_le_bytes());
    for _ in 0..100_000 {
        nested.extend(9u32.to_le_bytes());
        nested.extend(1u64.to_le_bytes());
    }
    seeds.push(Seed::new("arrays-nested", nested));
    seeds
}

/// A good file with one or a few parts that are odd; the seed plays no part.
pub fn changed(random: &mut Random, _seed: &[u8], words: &[&str]) -> Option<Vec<u8>> {
    let mut file = Gguf::good();
    for _ in 0..=random.below(3) {
        change(random, &mut file, words);
    }
    Some(file.bytes())
}

fn change(random: &mut Random, file: &mut Gguf, words: &[&str]) {
    let number = *random.one(&NUMBERS);
    let at = random.below(file.metadata.len().max(1));
    let of = random.below(file.tensors.len().max(1));
    match (
        random.below(10),
        file.metadata.get_mut(at),
        file.tensors.get_mut(of),
    ) {
        (0, Some((_, value)), _) => *value = Value::U64(number),
        (1, Some((_, value)), _) => *value = Value::U32(number as u32),
        (2, Some((_, value)), _) => *value = Value::F32(f32::from_bits(number as u32)),
        (3, Some((_, value)), _) => *value = Value::Announced(random.below(13) as u32, number),
        (4, Some((_, Value::Texts(texts))), _) if !texts.is_empty() => {
            let place = random.below(texts.len());
            texts[place] = random.one(words).to_string();
        }
        (4, ..) => file.set("general.alignment", Value::U32(number as u32)),
        (5, _, Some(tensor)) => {
            let place = random.below(tensor.dimensions.len() + 1);
            tensor.dimensions.resize(place.max(1), 1);
            if let Some(last) = tensor.dimensions.last_mut() {
                *last = number;
            }
        }
        (6, _, Some(tensor)) => tensor.offset = number,
        (7, _, Some(tensor)) => tensor.stored = random.below(41) as u32,
        (8, _, Some(tensor)) => tensor.name = random.one(words).to_string(),
        (_, Some((key, value)), Some(tensor)) => {
            let (key, value, tensor) = (key.clone(), value.clone(), tensor.clone());
            file.metadata.push((key, value));
            file.tensors.push(tensor);
        }
        _ => {}
    }
}
