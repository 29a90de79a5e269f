//! Hugging Face folders as other people's are: several weight files, names of other programs, formats that are not read.

use std::collections::BTreeMap;

use super::*;
use crate::model::checkpoint::NoMemory;

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

fn tied() -> Value {
    let mut config = tiny_config("qwen2");
    config["tie_word_embeddings"] = json!(true);
    config
}

/// Tensors by name: shape and bytes, all of one format.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn tensors(config: &Value, dtype: Dtype) -> Tensors {
    let shapes = parsed(config).parameter_shapes();
    let encoded = shapes.into_iter().map(|(name, shape)| {
        let values = numbers(&name, shape.iter().product());
        let mut bytes = vec![0; values.len() * dtype.size()];
        host_tensor::encode(&values, dtype, &mut bytes);
        (name, (shape, bytes))
    });
    encoded.collect()
}

/// A safetensors file of this header and this many bytes of data.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), data].concat()
}

/// Writes tensors as they are, each in its format.
fn save(path: &Path, tensors: &[(String, &str, Vec<usize>, Vec<u8>)]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend(bytes);
        let offsets = [start, data.len()];
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}),
        );
    }
    std::fs::write(path, raw(&Value::Object(header).to_string(), &data)).unwrap();
}

fn save_float32(path: &Path, tensors: &Tensors) {
    let tensors = tensors.iter();
    let listed =
        tensors.map(|(name, (shape, bytes))| (name.clone(), "F32", shape.clone(), bytes.clone()));
    save(path, &listed.collect::<Vec<_>>());
}

fn fingerprint(path: &Path) -> blake3::Hash {
    let checkpoint = Checkpoint::open(path, &NoMemory).unwrap();
    // Of everything but the bytes of the files.
    let (config, tokenizer) = (&checkpoint.config, &checkpoint.tokenizer);
    Checkpoint::fingerprint(&[], config, tokenizer, None, Dtype::Float32)
}

fn read(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    checkpoint.tensor(name, Dtype::Float32).unwrap().to_f32()
}

#[test]
fn a_stored_head_that_differs_from_the_embedding_is_used_and_told() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_folder(folder.path(), &tied());
    let path = folder.path().join("model.safetensors");
    let mut tensors = tensors(&tied(), Dtype::Float32);
    save_float32(&path, &tensors);
    let without = fingerprint(folder.path());
    assert!(
        Checkpoint::open(folder.path(), &NoMemory)
            .unwrap()
            .findings
            .is_empty()
    );

    tensors.insert(HEAD.to_string(), tensors[EMBEDDING].clone());
    save_float32(&path, &tensors);
    let equal = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    assert!(equal.findings.is_empty() && equal.config.tied_embeddings);
    assert_eq!(fingerprint(folder.path()), without);

    // One bit of the last number.
    let (_, bytes) = tensors.get_mut(HEAD).unwrap();
    let last = bytes.len() - 4;
    bytes[last] ^= 1;
    save_float32(&path, &tensors);
    let other = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    assert!(!other.config.tied_embeddings);
    assert_ne!(read(&other, HEAD), read(&other, EMBEDDING));
    assert_ne!(fingerprint(folder.path()), without);
    let [finding] = &other.findings[..] else {
        panic!("{:?}", other.findings)
    };
    assert!(
        finding.contains("`lm_head.weight` that differs from its embedding"),
        "{finding}"
    );

    tensors.get_mut(HEAD).unwrap().0 = vec![8, 260];
    save_float32(&path, &tensors);
    assert!(refusal(folder.path()).contains("tensor `lm_head.weight` has shape `[8, 260]`"));
}

#[test]
fn heads_are_compared_by_number_where_they_are_stored_in_other_formats() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_folder(folder.path(), &tied());
    let path = folder.path().join("model.safetensors");
    let wide = tensors(&tied(), Dtype::Float32);
    let narrow = tensors(&tied(), Dtype::BFloat16);
    let save_with = |head: Vec<u8>| {
        let mut all: Vec<_> = narrow
            .iter()
            .map(|(name, (shape, bytes))| (name.clone(), "BF16", shape.clone(), bytes.clone()))
            .collect();
        all.push((HEAD.to_string(), "F32", wide[EMBEDDING].0.clone(), head));
        save(&path, &all);
        Checkpoint::open(folder.path(), &NoMemory)
            .unwrap()
            .config
            .tied_embeddings
    };
    // The numbers are such that no format rounds them.
    let mut head = wide[EMBEDDING].1.clone();
    assert!(save_with(head.clone()));
    *head.last_mut().unwrap() ^= 1;
    assert!(!save_with(head));
}

/// Two shards that both hold the final norm, one of them other numbers than the index means.
fn norm_twice(folder: &Path) -> Value {
    let config = tiny_config("llama");
    write_tiny_shards(folder, &config);
    let mut first = Tensors::new();
    let half = tensors(&config, Dtype::Float32);
    let index: Value =
        serde_json::from_slice(&std::fs::read(folder.join(shards::INDEX)).unwrap()).unwrap();
    for (name, shard) in index["weight_map"].as_object().unwrap() {
        if shard == "a.safetensors" {
            first.insert(name.clone(), half[name].clone());
        }
    }
    let ones = 1f32.to_le_bytes().repeat(8);
    first.insert("model.norm.weight".to_string(), (vec![8], ones));
    save_float32(&folder.join("a.safetensors"), &first);
    index
}

#[test]
fn the_index_decides_where_a_tensor_is_in_two_shards() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = norm_twice(folder.path());
    let path = folder.path().join(shards::INDEX);
    let mut norm = |shard: Option<&str>| {
        match shard {
            Some(shard) => index["weight_map"]["model.norm.weight"] = json!(shard),
            None => drop(
                index["weight_map"]
                    .as_object_mut()
                    .unwrap()
                    .remove("model.norm.weight"),
            ),
        }
        std::fs::write(&path, index.to_string()).unwrap();
        Checkpoint::open(folder.path(), &NoMemory)
            .map(|checkpoint| read(&checkpoint, "model.norm.weight"))
    };
    assert_eq!(norm(Some("a.safetensors")).unwrap(), [1.0; 8]);
    assert_eq!(
        norm(Some("b.safetensors")).unwrap(),
        numbers("model.norm.weight", 8)
    );
    let error = norm(None).unwrap_err().to_string();
    for part in [
        "`model.norm.weight` is in `",
        "a.safetensors` too",
        "b.safetensors`: ",
        "in neither",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn one_file_beside_an_index_of_others_is_read_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let config = tiny_config("llama");
    write_tiny_shards(folder.path(), &config);
    let single = folder.path().join("model.safetensors");
    let mut tensors = tensors(&config, Dtype::Float32);
    tensors.insert(
        "model.norm.weight".to_string(),
        (vec![8], 1f32.to_le_bytes().repeat(8)),
    );
    save_float32(&single, &tensors);
    let both = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    assert_eq!(read(&both, "model.norm.weight"), [1.0; 8]);
    let [finding] = &both.findings[..] else {
        panic!("{:?}", both.findings)
    };
    for name in [
        "`model.safetensors`",
        "`a.safetensors`",
        "`model.safetensors.index.json`",
    ] {
        assert!(finding.contains(name), "{finding}");
    }
    // Where it does not fit, both are named too.
    tensors.remove("model.norm.weight");
    save_float32(&single, &tensors);
    let message = refusal(folder.path());
    assert!(
        message.contains("tensor `model.norm.weight` is missing (the folder holds weights twice"),
        "{message}"
    );

    // An index that lists the one file, or files that were not fetched, says nothing else.
    write_tiny_model(folder.path(), &config, Dtype::Float32);
    for name in ["a.safetensors", "b.safetensors"] {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    assert!(
        Checkpoint::open(folder.path(), &NoMemory)
            .unwrap()
            .findings
            .is_empty()
    );
}

/// The tensors as `Qwen2Model.save_pretrained` names them.
fn backbone(config: &Value) -> Tensors {
    let whole = tensors(config, Dtype::Float32).into_iter();
    let named =
        whole.filter_map(|(name, tensor)| Some((name.strip_prefix("model.")?.to_string(), tensor)));
    named.collect()
}

#[test]
fn a_backbone_is_a_model_where_its_embedding_is_its_head() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut config = tied();
    config["architectures"] = json!(["Qwen2Model"]);
    write_tiny_folder(folder.path(), &config);
    save_float32(&path, &backbone(&config));
    let checkpoint = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    for (name, shape) in parsed(&config).parameter_shapes() {
        assert_eq!(
            read(&checkpoint, &name),
            numbers(&name, shape.iter().product())
        );
    }

    let mut twice = backbone(&config);
    twice.insert(
        "model.norm.weight".to_string(),
        twice["norm.weight"].clone(),
    );
    save_float32(&path, &twice);
    assert!(
        refusal(folder.path())
            .contains("`model.norm.weight` and `norm.weight` are one parameter under two names")
    );

    config["tie_word_embeddings"] = json!(false);
    write_tiny_folder(folder.path(), &config);
    save_float32(&path, &backbone(&config));
    let message = refusal(folder.path());
    assert!(
        message.contains(
            "the weights of a backbone without a head; name the folder of the whole model"
        ),
        "{message}"
    );

    let wrapped = tensors(&config, Dtype::Float32).into_iter();
    let wrapped: Tensors = wrapped
        .map(|(name, tensor)| (format!("_orig_mod.{name}"), tensor))
        .collect();
    save_float32(&path, &wrapped);
    let message = refusal(folder.path());
    assert!(
        message.contains("is missing, but there is `_orig_mod.model.embed_tokens.weight`"),
        "{message}"
    );
}

#[test]
fn headers_are_checked_before_they_are_used() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_folder(folder.path(), &tiny_config("llama"));
    let path = folder.path().join("model.safetensors");
    let tensor = |shape: &str, offsets: &str| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let (a, b) = (tensor("[2]", "[0,8]"), tensor("[2]", "[4,12]"));
    for (header, expected) in [
        (
            format!(r#"{{"a":{a},"a":{a}}}"#),
            "tensor `a` is listed twice",
        ),
        (
            format!(r#"{{"a":{a},"b":{b}}}"#),
            "the data of tensors `a` and `b` overlap",
        ),
        (
            format!(r#"{{"a":{a}}}"#),
            "tells of 8 bytes of data, but there are 16",
        ),
        (
            format!(r#"{{"a":{}}}"#, tensor("[3]", "[4,16]")),
            "nothing stands between `the header` and tensor `a`",
        ),
        (
            format!(r#"{{"a":{}}}"#, tensor("[2]", "[16,8]")),
            "tensor `a` ends before it starts",
        ),
        (
            format!(r#"{{"a":{}}}"#, tensor("[4611686018427387904,4]", "[0,16]")),
            "do not make its shape",
        ),
        (
            format!(r#"{{"a":{}}}"#, tensor("[4611686018427387905]", "[0,16]")),
            "do not make its shape",
        ),
        (
            format!(r#"{{"a":{}}}"#, tensor("[4]", "[0,18446744073709551615]")),
            "but there are 16",
        ),
        (
            format!(r#"{{"a":{}}}"#, tensor("[-1]", "[0,16]")),
            "not as expected",
        ),
        ("[".repeat(100_000), "not as expected"),
        (
            r#"{"a.qweight":{"dtype":"I32","shape":[4],"data_offsets":[0,16]}}"#.to_string(),
            "`a.qweight`, a part of quantised weights",
        ),
        (
            r#"{"a":{"dtype":"F8_E4M3","shape":[16],"data_offsets":[0,16]}}"#.to_string(),
            "dtype `F8_E4M3` of tensor `a`",
        ),
    ] {
        std::fs::write(&path, raw(&header, &[0; 16])).unwrap();
        let message = refusal(folder.path());
        assert!(message.contains(expected), "{expected}: {message}");
    }
    for (bytes, expected) in [
        (
            u64::MAX.to_le_bytes().to_vec(),
            "its header would have 18446744073709551615 bytes",
        ),
        (
            1000u64.to_le_bytes().to_vec(),
            "its header has 1000 bytes, but only 0 follow",
        ),
        (b"abc".to_vec(), "it has less than 8 bytes"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(),
            "`git lfs pull`",
        ),
        (b"\n<html>not found</html>".to_vec(), "it is a web page"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        assert!(
            refusal(folder.path()).contains(expected),
            "{}",
            refusal(folder.path())
        );
    }
}

#[test]
fn an_index_says_a_thing_once() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_shards(folder.path(), &tiny_config("llama"));
    let twice = r#"{"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}}"#;
    std::fs::write(folder.path().join(shards::INDEX), twice).unwrap();
    assert!(
        refusal(folder.path()).contains("key `a` is given twice"),
        "{}",
        refusal(folder.path())
    );
}

#[test]
fn a_folder_that_is_no_model_says_what_it_is() {
    for (files, expected) in [
        (&[][..], "the folder is empty"),
        (&["readme.md"], "there is no `config.json`; expected"),
        (
            &["adapter_config.json", "adapter_model.safetensors"],
            "an adapter (`adapter_config.json`), not a model: merge it",
        ),
        (
            &["model.Q4_K_M.gguf"],
            "expected the name of one of them, such as `model.Q4_K_M.gguf`",
        ),
        (
            &["consolidated.00.pth", "params.json"],
            "the format of the model's first release (`consolidated.00.pth`)",
        ),
        (
            &["pytorch_model.bin"],
            "pickled weights (`pytorch_model.bin`), which are never read",
        ),
        (
            &[
                "pytorch_model-00001-of-00002.bin",
                "pytorch_model.bin.index.json",
            ],
            "`AutoModelForCausalLM.from_pretrained(<folder>).save_pretrained(<new folder>)`",
        ),
        (&["model.pt"], "pickled weights (`model.pt`)"),
        (
            &["tf_model.h5"],
            "weights of another library (`tf_model.h5`)",
        ),
        (
            &["model-00001-of-00002.safetensors"],
            "no `model.safetensors.index.json`, but `model-00001-of-00002.safetensors`",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert!(
            refusal(folder.path()).contains(expected),
            "{}",
            refusal(folder.path())
        );
        if files.is_empty() || files == ["readme.md"] {
            continue;
        }
        // The same beside the files of a model whose weights are missing.
        write_tiny_folder(folder.path(), &tiny_config("llama"));
        assert!(
            refusal(folder.path()).contains(expected),
            "{}",
            refusal(folder.path())
        );
    }
}

#[test]
fn what_lies_beside_a_whole_model_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = tiny_config("llama");
    write_tiny_model(folder.path(), &config, Dtype::Float32);
    let before = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    let weights = before.file_hashes(&NoMemory).unwrap();
    std::fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
    config["auto_map"] = json!({"AutoModelForCausalLM": "modeling.Model"});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let checkpoint = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    let [code, adapter] = &checkpoint.findings[..] else {
        panic!("{:?}", checkpoint.findings)
    };
    assert!(
        code.contains("(`auto_map`: `AutoModelForCausalLM`), which is never run"),
        "{code}"
    );
    assert!(
        adapter.contains("(`adapter_config.json`), which is not applied"),
        "{adapter}"
    );
    assert_eq!(checkpoint.config, before.config);
    assert_eq!(checkpoint.file_hashes(&NoMemory).unwrap(), weights);
}
