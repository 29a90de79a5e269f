//! Weights without a direction: what is written can be opened, is in the formats that it came in, and has nothing along the direction.

use std::collections::BTreeMap;

use super::gguf_file::write;
use super::*;

/// Not of length 1.
const V: [f32; 8] = [2.0, -1.0, 0.5, 0.0, 1.0, 3.0, -2.0, 0.25];

fn ablated(from: &Path, to: &Path) -> (AblatedFolder, Checkpoint) {
    let checkpoint = Checkpoint::open(from, &NoMemory).unwrap();
    let about = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let written = checkpoint.write_ablated(&V, &about, to).unwrap();
    let size = to.join(shards::SINGLE).metadata().unwrap().len();
    assert_eq!(written.bytes, size);
    assert!(checkpoint.ablated_bytes().unwrap() < size);
    (written, Checkpoint::open(to, &NoMemory).unwrap())
}

/// The most that a vector of the stream has along V, of length 1.
fn most_along(vectors: impl Iterator<Item = Vec<f32>>) -> f64 {
    let length = V.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
    let along = |x: Vec<f32>| {
        let pairs = x.iter().zip(V);
        pairs
            .map(|(x, v)| f64::from(*x) * f64::from(v))
            .sum::<f64>()
            / length
    };
    vectors.map(along).fold(0.0, |most, x| x.abs().max(most))
}

fn numbers_of(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    checkpoint.tensor(name, Dtype::Float32).unwrap().to_f32()
}

#[test]
fn every_format_stays_and_nothing_is_left_along_the_direction_but_its_rounding() {
    // Numbers are below 1, and so less than half of 2⁻²⁴, 2⁻¹¹ and 2⁻⁸ off each, eight of them together at most √8 times as much.
    for (dtype, most) in [
        (Dtype::Float32, 2e-7),
        (Dtype::Float16, 1.4e-3),
        (Dtype::BFloat16, 1.2e-2),
    ] {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut config = tiny_config("qwen2");
        config["torch_dtype"] = "whatever".into();
        write_tiny_model(from.path(), &config, dtype);
        std::fs::write(from.path().join("LICENSE"), "as it is").unwrap();
        let (written, without) = ablated(from.path(), to.path());
        let own = Checkpoint::open(from.path(), &NoMemory).unwrap();
        // The embedding, and two matrices in each of two blocks.
        assert_eq!((written.ablated, written.untied), (5, false));
        assert!(
            without
                .weights
                .values()
                .all(|w| w.format == stored::Format::Plain(dtype))
        );
        let embedding = numbers_of(&without, "model.embed_tokens.weight");
        let rows = embedding.chunks(8).map(<[f32]>::to_vec);
        assert!(most_along(rows) < most, "{dtype:?}");
        let output = numbers_of(&without, "model.layers.1.mlp.down_proj.weight");
        let columns = (0..12).map(|at| output[at..].iter().step_by(12).copied().collect());
        assert!(most_along(columns) < most, "{dtype:?}");
        for name in [
            "lm_head.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.norm.weight",
        ] {
            assert_eq!(numbers_of(&own, name), numbers_of(&without, name), "{name}");
        }
        let read = |name: &str| std::fs::read_to_string(to.path().join(name)).unwrap();
        assert_eq!(read("LICENSE"), "as it is");
        let said: Value = serde_json::from_str(&read("config.json")).unwrap();
        config["tie_word_embeddings"] = false.into();
        assert_eq!(said, config);
    }
}

#[test]
fn shards_become_one_file_and_a_tied_head_keeps_what_it_reads() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut config = tiny_config("llama");
    config["tie_word_embeddings"] = true.into();
    write_tiny_shards(from.path(), &config);
    let (written, without) = ablated(from.path(), to.path());
    assert!(written.untied && !without.config.tied_embeddings);
    let own = Checkpoint::open(from.path(), &NoMemory).unwrap();
    let embedding = numbers_of(&own, "model.embed_tokens.weight");
    assert_eq!(numbers_of(&without, "lm_head.weight"), embedding);
    assert_ne!(numbers_of(&without, "model.embed_tokens.weight"), embedding);
    assert!(!to.path().join(shards::INDEX).exists());
    assert_eq!(without.findings, Vec::<String>::new());
}

#[test]
fn a_gguf_file_has_an_adapter_but_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(&path, &gguf::metadata("llama"), &gguf::tensors("llama"));
    let file = Checkpoint::open(&path, &NoMemory).unwrap();
    let refused = file.write_ablated(&V, &BTreeMap::new(), folder.path());
    let told = refused.unwrap_err().to_string();
    assert!(
        told.contains("`model.gguf` is no Hugging Face folder"),
        "{told}"
    );
    write_tiny_model(folder.path(), &tiny_config("llama"), Dtype::Float32);
    let whole = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    let [of_file, of_folder] =
        [&file, &whole].map(|model| model.adapter(&V, Some("org/name")).unwrap());
    assert_eq!(of_file.weights, of_folder.weights);
    assert_eq!(of_file.config["base_model_name_or_path"], "org/name");
    assert!(file.adapter(&V[..7], None).is_err());
}
