//! The files of a model, in both formats: one of them fuzzed, the others those of a tiny model that can be used.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use refusal_dial::inside::model::DeviceName;
use refusal_dial::inside::plan::{Fetch, Plan, open_study};
use refusal_dial::inside::spec;
use serde_json::{Value as Json, json};

use super::target::{Case, Seed, Target};
use super::{gguf, templates, tokenizers};

/// Width of the residual stream.
pub const D_MODEL: usize = 8;
/// Rows of the embedding.
pub const D_VOCAB: usize = 16;
/// Width of keys and values: one head of two.
pub const D_KEY: usize = 4;

const CONFIG_WORDS: &[&str] = &[
    "\"rope_scaling\"",
    "\"rope_type\"",
    "\"type\"",
    "\"factor\"",
    "linear",
    "dynamic",
    "yarn",
    "llama3",
    "longrope",
    "default",
    "\"quantization_config\"",
    "\"auto_map\"",
    "\"head_dim\"",
    "\"sliding_window\"",
    "\"attention_bias\"",
    "\"num_hidden_layers\": 4294967295,",
    "NaN",
    "Infinity",
    "\u{202e}",
    "\\ud800",
];

pub const TARGETS: &[Target] = &[
    Target {
        name: "gguf",
        cases: 2000,
        made: gguf::seeds,
        words: &[
            "general.alignment",
            "rope_freqs.weight",
            "blk.0.",
            "token_embd.weight",
            "model.embed_tokens.weight",
            "llama.block_count",
            "\u{0}",
        ],
        structured: gguf::changed,
        read: |case| {
            case.write("model.gguf", case.input);
            open(case, "model.gguf")
        },
        ..Target::TEXT
    },
    Target {
        name: "safetensors",
        cases: 1200,
        made: safetensors_seeds,
        words: &[
            "\"data_offsets\":[0,0]",
            "\"shape\":[]",
            "\"dtype\":\"F64\"",
            "lm_head.weight",
            "__metadata__",
            "model.norm.weight",
        ],
        structured: |random, seed, words| {
            let header = super::mutate::changed_json(random, header(seed)?, words)?;
            Some(with_header(&header, &seed[8 + self::header(seed)?.len()..]))
        },
        repair: repair_safetensors,
        read: |case| read_folder(case, "model.safetensors"),
        ..Target::TEXT
    },
    Target {
        name: "weights_index",
        cases: 500,
        made: index_seeds,
        words: &[
            "../model.safetensors",
            "a.safetensors",
            "model.safetensors",
            "weight_map",
            "metadata",
        ],
        read: |case| read_folder(case, "model.safetensors.index.json"),
        ..Target::JSON
    },
    Target {
        name: "config",
        cases: 1500,
        made: config_seeds,
        words: CONFIG_WORDS,
        read: |case| read_folder(case, "config.json"),
        ..Target::JSON
    },
    Target {
        name: "tokenizer",
        cases: 1500,
        made: tokenizers::seeds,
        words: tokenizers::WORDS,
        read: |case| read_folder(case, "tokenizer.json"),
        ..Target::JSON
    },
    Target {
        name: "tokenizer_config",
        cases: 500,
        made: || {
            vec![Seed::new("plain", tokenizer_config().to_string()), Seed::new("named-templates", json!({
            "chat_template": [{"name": "default", "template": templates::PLAIN}, {"name": "tool_use", "template": "{{ 1 }}"}],
            "eos_token": {"content": "</s>", "lstrip": false}, "bos_token": "<s>", "add_bos_token": true,
        }).to_string())]
        },
        words: &[
            "chat_template",
            "eos_token",
            "bos_token",
            "</s>",
            "default",
            "content",
            "added_tokens_decoder",
            "<none>",
        ],
        read: |case| read_folder(case, "tokenizer_config.json"),
        ..Target::JSON
    },
    Target {
        name: "template",
        cases: 1500,
        made: templates::seeds,
        words: templates::WORDS,
        read: |case| read_folder(case, "chat_template.jinja"),
        ..Target::TEXT
    },
    Target {
        name: "without_weights",
        cases: 1000,
        made: || vec![Seed::new("plain", written()["model.json"].clone())],
        words: &[
            "\"architecture\"",
            "\"sparse\"",
            "\"windows\"",
            "qwen3_moe",
            "gemma3",
            "phi3",
            "\"gguf_tokenizer\": {\"pre\": \"gpt-2\", \"types\": [[4294967295, 3]]}",
            "\"context_is_limited\"",
            "bfloat16",
            "1e999",
        ],
        read: |case| {
            for (name, content) in written() {
                case.write(&format!("model/{name}"), content);
            }
            case.write("model/model.json", case.input);
            open(case, "model")
        },
        ..Target::JSON
    },
];

/// What is written of the model without its weights.
fn written() -> &'static BTreeMap<&'static str, Vec<u8>> {
    static WRITTEN: OnceLock<BTreeMap<&'static str, Vec<u8>>> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let case = Case {
            folder: folder.path(),
            input: &weights(),
        };
        assert!(read_folder(&case, "model.safetensors"));
        let document = spec::load(&folder.path().join("study.toml"), &[]).unwrap();
        let opened = open_study(
            document,
            "study",
            &folder.path().join("cache"),
            Fetch::Never,
        );
        let opened = opened.map_err(|error| error.to_string()).unwrap();
        let written = opened.inputs.models["m"].write_recorded("model").unwrap();
        written.into_iter().collect()
    })
}

/// Writes a model of which one file is the input, and opens it.
fn read_folder(case: &Case, fuzzed: &str) -> bool {
    let tokenizer_config = match fuzzed {
        "chat_template.jinja" => json!({"eos_token": "</s>", "bos_token": "<s>"}),
        _ => tokenizer_config(),
    };
    case.write("model/config.json", config().to_string());
    case.write("model/tokenizer.json", tokenizers::word_level().to_string());
    case.write("model/tokenizer_config.json", tokenizer_config.to_string());
    if fuzzed == "model.safetensors.index.json" {
        case.write("model/a.safetensors", weights());
    } else {
        case.write("model/model.safetensors", weights());
    }
    case.write(&format!("model/{fuzzed}"), case.input);
    open(case, "model")
}

/// Opens a model as a study does, encodes a few texts in its template, and loads its weights.
fn open(case: &Case, source: &str) -> bool {
    let texts = [
        "one two",
        "</s> é e\u{301} \u{0} \u{1f600}\u{202e}",
        &"one two three ".repeat(200),
    ];
    let prompts = texts.iter().enumerate();
    let prompts = prompts.map(|(id, text)| format!("{}\n", json!({"id": id, "prompt": text})));
    case.write("prompts.jsonl", prompts.collect::<String>());
    let mut accepted = true;
    for system in ["", "system = \"three\""] {
        let study = format!(
            "[models.m]\nsource = \"{source}\"\n[prompts.p]\npath = \"prompts.jsonl\"\n[chat]\n{system}\n\
             [score]\nrefuse = [\"one\"]\ncomply = [\"two\"]\n[stages.score]\nmodel = \"m\"\nprompts = \"p\"\n"
        );
        let document = spec::load(&case.write("study.toml", study), &[]).unwrap();
        let opened = match open_study(document, "study", &case.folder.join("cache"), Fetch::Never) {
            Ok(opened) => opened,
            Err(error) => return error.to_string().is_empty(),
        };
        let plan = Plan::new(&opened.study, &opened.inputs, &opened.cache, 1);
        accepted &= plan.map_err(|error| error.to_string()).is_ok();
        for model in opened.inputs.models.values() {
            for ids in [&[0, 1, 2][..], &[15, 16, u32::MAX]] {
                drop(model.decode(ids).map_err(|error| error.to_string()));
            }
            let loaded = model.load(DeviceName::Cpu, 1 << 20);
            accepted &= match loaded {
                Ok(_) => true,
                // All that such a model can do.
                Err(error) => error.to_string().contains("is here without its weights"),
            };
        }
    }
    accepted
}

/// The content of `config.json`.
pub fn config() -> Json {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": D_MODEL,
        "intermediate_size": D_MODEL, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "vocab_size": D_VOCAB, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "eos_token_id": 2,
    })
}

fn tokenizer_config() -> Json {
    json!({"chat_template": templates::PLAIN, "eos_token": "</s>", "bos_token": "<s>"})
}

/// The parameters of the model, by Hugging Face name.
fn parameters() -> Vec<(String, Vec<usize>)> {
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    vec![
        (
            "model.embed_tokens.weight".to_string(),
            vec![D_VOCAB, D_MODEL],
        ),
        ("model.norm.weight".to_string(), vec![D_MODEL]),
        (layer("input_layernorm"), vec![D_MODEL]),
        (layer("post_attention_layernorm"), vec![D_MODEL]),
        (layer("self_attn.q_proj"), vec![D_MODEL, D_MODEL]),
        (layer("self_attn.k_proj"), vec![D_KEY, D_MODEL]),
        (layer("self_attn.v_proj"), vec![D_KEY, D_MODEL]),
        (layer("self_attn.o_proj"), vec![D_MODEL, D_MODEL]),
        (layer("mlp.gate_proj"), vec![D_MODEL, D_MODEL]),
        (layer("mlp.up_proj"), vec![D_MODEL, D_MODEL]),
        (layer("mlp.down_proj"), vec![D_MODEL, D_MODEL]),
    ]
}

/// A header's tensors back to back, and how many bytes they have.
fn laid_out() -> (serde_json::Map<String, Json>, usize) {
    let (mut tensors, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in parameters() {
        let bytes = 4 * shape.iter().product::<usize>();
        let place = json!({"dtype": "F32", "shape": shape, "data_offsets": [at, at + bytes]});
        tensors.insert(name, place);
        at += bytes;
    }
    (tensors, at)
}

/// The content of `model.safetensors`.
fn weights() -> Vec<u8> {
    let (tensors, bytes) = laid_out();
    with_header(Json::Object(tensors).to_string().as_bytes(), &values(bytes))
}

/// So many bytes of small numbers.
fn values(bytes: usize) -> Vec<u8> {
    let value = |i: usize| ((i % 7) as f32 * 0.01 + 0.5).to_le_bytes();
    (0..bytes / 4).flat_map(value).collect()
}

fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

fn header(file: &[u8]) -> Option<&[u8]> {
    let length = u64::from_le_bytes(*file.first_chunk()?);
    file.get(8..)?.get(..usize::try_from(length).ok()?)
}

/// The length is that up to the last brace.
fn repair_safetensors(file: &mut [u8]) {
    let brace = file.windows(2).position(|pair| pair == b"}}");
    if let (Some(brace), true) = (brace, file.len() >= 8) {
        let length = (brace + 2).saturating_sub(8) as u64;
        file[..8].copy_from_slice(&length.to_le_bytes());
    }
}

fn safetensors_seeds() -> Vec<Seed> {
    let (tensors, bytes) = laid_out();
    let data = values(bytes);
    let with = |change: &dyn Fn(&mut serde_json::Map<String, Json>)| {
        let mut tensors = tensors.clone();
        change(&mut tensors);
        with_header(Json::Object(tensors).to_string().as_bytes(), &data)
    };
    let norm = |place: Json| {
        with(&|tensors| drop(tensors.insert("model.norm.weight".to_string(), place.clone())))
    };
    let text = Json::Object(tensors.clone()).to_string();
    let doubled = format!("{},{}", &text[..text.len() - 1], &text[1..]);
    let length = |length: u64| [&length.to_le_bytes(), text.as_bytes(), &data].concat();
    let head = json!({"dtype": "F32", "shape": [D_VOCAB, D_MODEL], "data_offsets": [0, 4 * D_VOCAB * D_MODEL]});
    vec![
        Seed::new("plain", weights()),
        Seed::new("length-2-63", length(1 << 63)),
        Seed::new("length-max", length(u64::MAX)),
        Seed::new("length-zero", length(0)),
        Seed::new("length-beyond", length(1 << 20)),
        Seed::new("names-twice", with_header(doubled.as_bytes(), &data)),
        Seed::new(
            "shape-product-overflows",
            norm(
                json!({"dtype": "F32", "shape": [1u64 << 32, 1u64 << 32], "data_offsets": [0, 0]}),
            ),
        ),
        Seed::new(
            "shape-of-2-62",
            norm(json!({"dtype": "F32", "shape": [1u64 << 62], "data_offsets": [0, 0]})),
        ),
        Seed::new(
            "shape-with-zero",
            norm(json!({"dtype": "F32", "shape": [1u64 << 40, 0], "data_offsets": [0, 0]})),
        ),
        Seed::new(
            "shape-empty",
            norm(json!({"dtype": "F32", "shape": [], "data_offsets": [512, 516]})),
        ),
        Seed::new(
            "overlapping",
            norm(json!({"dtype": "F32", "shape": [D_MODEL], "data_offsets": [0, 32]})),
        ),
        Seed::new(
            "end-before-start",
            norm(json!({"dtype": "F32", "shape": [D_MODEL], "data_offsets": [544, 512]})),
        ),
        Seed::new(
            "dtype-unknown",
            norm(json!({"dtype": "F8_E4M3", "shape": [D_MODEL], "data_offsets": [512, 544]})),
        ),
        Seed::new(
            "head-beside-embedding",
            with(&|tensors| drop(tensors.insert("lm_head.weight".to_string(), head.clone()))),
        ),
        Seed::new(
            "backbone-names",
            with(&|tensors| {
                let renamed = tensors.iter().map(|(name, place)| {
                    (name.trim_start_matches("model.").to_string(), place.clone())
                });
                *tensors = renamed.collect();
            }),
        ),
        Seed::new(
            "deep-header",
            with_header("[".repeat(30_000).as_bytes(), &data),
        ),
        Seed::new("empty", ""),
    ]
}

fn index_seeds() -> Vec<Seed> {
    let map = |file: &str| {
        let names = parameters()
            .into_iter()
            .map(|(name, _)| (name, Json::from(file)));
        json!({"metadata": {"total_size": 1}, "weight_map": Json::Object(names.collect())})
            .to_string()
    };
    vec![
        Seed::new("plain", map("a.safetensors")),
        Seed::new("file-above", map("../a.safetensors")),
        Seed::new("file-outside", map("@OUTSIDE@")),
        Seed::new("file-is-folder", map(".")),
        Seed::new("file-empty", map("")),
        Seed::new("map-empty", json!({"weight_map": {}}).to_string()),
        Seed::new("map-missing", "{}"),
        Seed::new("deep", "[".repeat(100_000)),
    ]
}

fn config_seeds() -> Vec<Seed> {
    let with = |name: &str, changes: Json| {
        let mut config = config();
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        Seed::new(name, config.to_string())
    };
    let scaled = |name: &str, scaling: Json| with(name, json!({ "rope_scaling": scaling }));
    let text = config().to_string();
    let (big, tiny) = (u64::MAX, 1e-320);
    let mut seeds = vec![
        with("plain", json!({})),
        scaled("factor-without-type", json!({"factor": 4.0})),
        scaled(
            "default-with-factor",
            json!({"rope_type": "default", "factor": 4.0}),
        ),
        scaled(
            "linear-of-zero",
            json!({"rope_type": "linear", "factor": 0}),
        ),
        scaled(
            "yarn",
            json!({"rope_type": "yarn", "factor": 1e300, "original_max_position_embeddings": 0, "beta_fast": 0, "beta_slow": 0}),
        ),
        scaled(
            "yarn-negative",
            json!({"rope_type": "yarn", "factor": -1, "mscale": 1e308, "mscale_all_dim": -1e308}),
        ),
        scaled(
            "llama3",
            json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 1, "original_max_position_embeddings": big}),
        ),
        scaled("dynamic", json!({"type": "dynamic", "factor": tiny})),
        scaled(
            "longrope",
            json!({"type": "longrope", "short_factor": [], "long_factor": [0]}),
        ),
        scaled("list", json!([1, 2])),
        with(
            "layers-without-tensors",
            json!({"num_hidden_layers": 4_000_000_000u64}),
        ),
        with("layers-2-28", json!({"num_hidden_layers": 1 << 28})),
        with("layers-2-20", json!({"num_hidden_layers": 1 << 20})),
        with("layers-zero", json!({"num_hidden_layers": 0})),
        with("layers-negative", json!({"num_hidden_layers": -1})),
        with(
            "heads-zero",
            json!({"num_attention_heads": 0, "num_key_value_heads": 0}),
        ),
        with(
            "heads-huge",
            json!({"num_attention_heads": big, "num_key_value_heads": big, "head_dim": big}),
        ),
        with(
            "width-product-overflows",
            json!({"hidden_size": 1u64 << 40, "vocab_size": 1u64 << 40, "intermediate_size": 1u64 << 40}),
        ),
        with("context-huge", json!({"max_position_embeddings": big})),
        with("theta-zero", json!({"rope_theta": 0})),
        with("theta-negative", json!({"rope_theta": -10000.0})),
        with("epsilon-zero", json!({"rms_norm_eps": 0})),
        with(
            "end-of-text",
            json!({"eos_token_id": [big, -1, 1.5, null, "x"]}),
        ),
        with(
            "end-of-text-beyond",
            json!({"eos_token_id": 4_000_000_000u64}),
        ),
        with(
            "remote-code",
            json!({"auto_map": {"AutoModel": "modeling_x.X"}}),
        ),
        with(
            "quantised",
            json!({"quantization_config": {"quant_method": "awq", "bits": 4}}),
        ),
    ];
    seeds.push(Seed::new("not-a-number", text.replace("10000.0", "NaN")));
    seeds.push(Seed::new("infinite", text.replace("10000.0", "1e999")));
    seeds.push(Seed::new(
        "key-twice",
        text.replacen('{', "{\"hidden_size\": 16, \"hidden_size\": 4, ", 1),
    ));
    seeds.push(Seed::new("deep", "{\"a\":".repeat(100_000)));
    seeds
}
