use half::{bf16, f16};

use super::gguf_file::{Meta, Tensor, float32, write};
use super::quantised::Golden;
use super::*;
use crate::model::config::RopeScaling;

/// The GGUF name of a Hugging Face parameter, written the other way round from the code under test.
fn gguf_name(name: &str) -> String {
    let mut name = name.replace("model.layers.", "blk.");
    for (from, to) in [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj.", "."),
    ] {
        name = name.replace(from, to);
    }
    name
}

/// What llama.cpp's converter does to query and key rows: `[head, half, pair, …]` becomes `[head, pair, half, …]`.
fn permuted(values: &[f32], n_heads: usize, d_head: usize) -> Vec<f32> {
    let columns = values.len() / (n_heads * d_head);
    let mut out = Vec::new();
    for head in 0..n_heads {
        for pair in 0..d_head / 2 {
            for half in 0..2 {
                let row = head * d_head + half * d_head / 2 + pair;
                out.extend_from_slice(&values[row * columns..(row + 1) * columns]);
            }
        }
    }
    out
}

pub(super) fn texts(texts: impl IntoIterator<Item = String>) -> Meta {
    Meta::List(texts.into_iter().map(Meta::Text).collect())
}

fn text(text: &str) -> Meta {
    Meta::Text(text.to_string())
}

pub(super) fn metadata(section: &str) -> Vec<(String, Meta)> {
    let types = (0..259)
        .map(|i| Meta::I32(if i == 256 || i == 257 { 3 } else { 1 }))
        .collect();
    let own = [
        ("block_count", Meta::U32(2)),
        ("context_length", Meta::U32(64)),
        ("embedding_length", Meta::U32(8)),
        ("feed_forward_length", Meta::U32(12)),
        ("attention.head_count", Meta::U32(2)),
        ("attention.head_count_kv", Meta::U32(1)),
        ("attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ("expert_count", Meta::U32(0)),
    ];
    let mut entries: Vec<(String, Meta)> = own
        .into_iter()
        .map(|(key, value)| (format!("{section}.{key}"), value))
        .collect();
    let shared = [
        ("general.architecture", text(section)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.tokens", texts(tiny_vocabulary())),
        ("tokenizer.ggml.token_type", Meta::List(types)),
        ("tokenizer.ggml.merges", texts(["h i".to_string()])),
        ("tokenizer.ggml.eos_token_id", Meta::U32(257)),
        ("tokenizer.chat_template", text(TINY_TEMPLATE)),
    ];
    entries.extend(shared.map(|(key, value)| (key.to_string(), value)));
    entries
}

/// The tensors of the tiny model as a converter would write them.
pub(super) fn tensors(section: &str) -> Vec<(String, Tensor)> {
    let shapes = parsed(&tiny_config(section)).parameter_shapes();
    let convert = |(name, shape): (String, Vec<usize>)| {
        let mut values = numbers(&name, shape.iter().product());
        for (module, n_heads) in [("q_proj", 2), ("k_proj", 1)] {
            if section == "llama" && name.contains(module) {
                values = permuted(&values, n_heads, 4);
            }
        }
        (gguf_name(&name), float32(&values, &shape))
    };
    shapes.into_iter().map(convert).collect()
}

/// Replaces (or adds) one entry of the metadata.
pub(super) fn with(section: &str, key: &str, value: Meta) -> Vec<(String, Meta)> {
    let mut entries = metadata(section);
    entries.retain(|(known, _)| known != key);
    entries.push((key.to_string(), value));
    entries
}

#[test]
fn a_gguf_file_holds_the_same_model_as_the_folder() {
    for section in ["llama", "qwen2"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        write(&path, &metadata(section), &tensors(section));
        let checkpoint = Checkpoint::open(&path, &NoMemory).unwrap();
        let mut expected = parsed(&tiny_config(section));
        // The file stores this number in float32.
        expected.llama().rms_norm_eps = f64::from(1e-5f32);
        expected.sizes.d_vocab = 260;
        assert_eq!(checkpoint.config, expected);
        for (name, shape) in expected.parameter_shapes() {
            let tensor = checkpoint.tensor(&name, Dtype::Float32).unwrap();
            assert_eq!(tensor.shape, shape);
            assert_eq!(
                tensor.to_f32(),
                numbers(&name, shape.iter().product()),
                "{section} {name}"
            );
        }
        let prompt = checkpoint.chat_template.as_ref().unwrap();
        let prompt = prompt
            .render(&[crate::model::chat::Message::new("user", "hi")], true)
            .unwrap();
        assert_eq!(prompt, "<|im_start|>user\nhi<|im_end|>\n");
        let ids = tiny_tokenizer().encode(prompt.as_str(), false).unwrap();
        assert_eq!(checkpoint.tokenizer.encode(&prompt).unwrap(), ids.get_ids());
    }
}

#[test]
fn biases_of_llama_models_are_unpermuted_and_ties_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut tensors = tensors("llama");
    tensors.retain(|(name, _)| name != "output.weight");
    for layer in 0..2 {
        for (module, rows, n_heads) in [("q", 8, 2), ("k", 4, 1), ("v", 4, 0)] {
            let name = format!("model.layers.{layer}.self_attn.{module}_proj.bias");
            let values = numbers(&name, rows);
            let values = if n_heads > 0 {
                permuted(&values, n_heads, 4)
            } else {
                values
            };
            tensors.push((gguf_name(&name), float32(&values, &[rows])));
        }
    }
    write(&path, &metadata("llama"), &tensors);
    let mut checkpoint = Checkpoint::open(&path, &NoMemory).unwrap();
    assert!(checkpoint.config.tied_embeddings && checkpoint.shape("lm_head.weight").is_err());
    let llama = checkpoint.config.llama();
    assert!(llama.qkv_bias && !llama.attention_output_bias);
    for module in ["q", "k", "v"] {
        let name = format!("model.layers.1.self_attn.{module}_proj.bias");
        let tensor = checkpoint.tensor(&name, Dtype::Float32).unwrap();
        assert_eq!(tensor.to_f32(), numbers(&name, tensor.shape[0]));
    }
}

const MATRIX: &str = "model.layers.0.mlp.down_proj.weight";

/// What is read of a matrix of 4 rows and 256 columns that is stored as `data`, in a model that is otherwise float32.
fn matrix_from(kind: u32, data: &[u8]) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut entries = metadata("qwen2");
    let mut config = tiny_config("qwen2");
    for (key, own_key, number) in [
        ("num_hidden_layers", "qwen2.block_count", 1),
        ("hidden_size", "qwen2.embedding_length", 4),
        ("intermediate_size", "qwen2.feed_forward_length", 256),
    ] {
        config[key] = json!(number);
        entries.retain(|(known, _)| known != own_key);
        entries.push((own_key.to_string(), Meta::U32(number)));
    }
    let convert = |(name, shape): (String, Vec<usize>)| {
        let mut tensor = float32(&numbers(&name, shape.iter().product()), &shape);
        if name == MATRIX {
            (tensor.kind, tensor.data) = (kind, data.to_vec());
        }
        (gguf_name(&name), tensor)
    };
    let shapes = parsed(&config).parameter_shapes().into_iter();
    write(&path, &entries, &shapes.map(convert).collect::<Vec<_>>());
    let checkpoint = Checkpoint::open(&path, &NoMemory).unwrap();
    let matrix = checkpoint.tensor(MATRIX, Dtype::Float32).unwrap();
    assert_eq!(matrix.shape, [4, 256]);
    matrix.to_f32()
}

#[test]
fn every_common_type_is_read() {
    let exact = numbers(MATRIX, 4 * 256);
    let stored = exact.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes());
    assert_eq!(matrix_from(1, &stored.collect::<Vec<_>>()), exact);
    let stored = exact.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes());
    assert_eq!(matrix_from(30, &stored.collect::<Vec<_>>()), exact);
    for (kind, name) in [
        (2, "Q4_0"),
        (3, "Q4_1"),
        (6, "Q5_0"),
        (7, "Q5_1"),
        (8, "Q8_0"),
        (10, "Q2_K"),
        (11, "Q3_K"),
        (12, "Q4_K"),
        (13, "Q5_K"),
        (14, "Q6_K"),
    ] {
        let golden = Golden::read(name);
        assert_eq!(matrix_from(kind, &golden.blocks), golden.values, "{name}");
    }
}

#[test]
fn rope_scaling_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let scaling = |entries: &[(String, Meta)], tensors: &[(String, Tensor)]| {
        write(&path, entries, tensors);
        let mut checkpoint = Checkpoint::open(&path, &NoMemory).unwrap();
        checkpoint.config.llama().rope.scaling.clone()
    };
    let factor = with("llama", "llama.rope.scaling.factor", Meta::F32(4.0));
    assert_eq!(
        scaling(&factor, &tensors("llama")),
        RopeScaling::Linear { factor: 4.0 }
    );
    let mut yarn = factor.clone();
    yarn.push(("llama.rope.scaling.type".to_string(), text("yarn")));
    yarn.push((
        "llama.rope.scaling.original_context_length".to_string(),
        Meta::U32(16),
    ));
    let RopeScaling::Yarn {
        original_context_length,
        attention_factor,
        ..
    } = scaling(&yarn, &tensors("llama"))
    else {
        panic!("expected yarn");
    };
    assert_eq!(
        (original_context_length, attention_factor),
        (16, 0.1 * 4.0f64.ln() + 1.0)
    );
    let mut with_divisors = tensors("llama");
    with_divisors.push(("rope_freqs.weight".to_string(), float32(&[1.0, 8.0], &[2])));
    let divisors = vec![1.0, 8.0];
    assert_eq!(
        scaling(&metadata("llama"), &with_divisors),
        RopeScaling::Divisors { divisors }
    );
}

#[test]
fn what_is_not_supported_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for (key, value, expected) in [
        (
            "general.architecture",
            text("gemma2"),
            "architecture `gemma2` is not supported (supported: `llama`, `qwen2`; ",
        ),
        (
            "tokenizer.ggml.model",
            text("llama"),
            "tokenizer `llama` is not supported (supported: `gpt2`",
        ),
        (
            "tokenizer.ggml.pre",
            text("tekken"),
            "pre-tokeniser `tekken` is not supported (supported: `gpt-2`, `smollm`, `qwen2`, `llama-bpe`)",
        ),
        (
            "llama.expert_count",
            Meta::U32(8),
            "metadata `llama.expert_count`",
        ),
        (
            "llama.logit_scale",
            Meta::F32(2.0),
            "metadata `llama.logit_scale`",
        ),
        (
            "llama.rope.scaling.type",
            text("longrope"),
            "rope scaling `longrope`",
        ),
        (
            "llama.rope.dimension_count",
            Meta::U32(2),
            "`llama.rope.dimension_count`",
        ),
        (
            "split.count",
            Meta::U16(3),
            "part 1 of a model split over `3` files",
        ),
    ] {
        write(&path, &with("llama", key, value), &tensors("llama"));
        assert!(refusal(&path).contains(expected), "{}", refusal(&path));
    }
}

#[test]
fn an_unknown_tensor_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut extra = tensors("llama");
    extra.push((
        "blk.0.attn_q_norm.weight".to_string(),
        float32(&[1.0; 4], &[4]),
    ));
    write(&path, &metadata("llama"), &extra);
    assert!(refusal(&path).contains("tensor `blk.0.attn_q_norm.weight` is not supported"));
}

#[test]
fn an_unknown_tensor_type_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(&path, &metadata("llama"), &tensors("llama"));
    let mut bytes = std::fs::read(&path).unwrap();
    // A tensor's entry is its name, the number of dimensions, the dimensions (8 bytes each) and then its type.
    let name = b"token_embd.weight";
    let at = bytes
        .windows(name.len())
        .position(|window| window == name)
        .unwrap()
        + name.len()
        + 4
        + 16;
    bytes[at..at + 4].copy_from_slice(&20u32.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    assert!(
        refusal(&path).contains(
            "type `IQ4_NL` of tensor `token_embd.weight` is not supported (supported: `F32`, `F16`"
        ),
        "{}",
        refusal(&path)
    );
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(&path, &metadata("llama"), &tensors("llama"));
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 3, 40, bytes.len() / 3, bytes.len() - 40] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let message = refusal(&path);
        let known = [
            "not a complete GGUF file",
            "does not lie within the file",
            "cannot read",
        ];
        assert!(
            known.iter().any(|part| message.contains(part)),
            "{length}: {message}"
        );
    }
}

#[test]
fn metadata_that_does_not_fit_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for (key, value, expected) in [
        ("llama.block_count", Meta::F32(2.0), "one whole number"),
        (
            "llama.attention.head_count",
            Meta::U32(0),
            "does not fit together",
        ),
        (
            "tokenizer.ggml.merges",
            texts(["hi".to_string()]),
            "a merge is not two tokens",
        ),
        (
            "tokenizer.ggml.tokens",
            texts(["a".to_string()]),
            "expected one for each of the 1 tokens",
        ),
        (
            "tokenizer.ggml.eos_token_id",
            Meta::U32(999),
            "is not an id of the vocabulary",
        ),
    ] {
        write(&path, &with("llama", key, value), &tensors("llama"));
        assert!(refusal(&path).contains(expected), "{}", refusal(&path));
    }
    let architecture = metadata("llama")
        .into_iter()
        .filter(|(key, _)| key != "general.architecture");
    write(&path, &architecture.collect::<Vec<_>>(), &tensors("llama"));
    assert!(refusal(&path).contains("metadata `general.architecture` is missing"));
}
