//! GGUF files whose headers are wrong, by mistake or on purpose.

use super::gguf::{metadata, tensors, texts, with};
use super::gguf_file::{Meta, float32, write};
use super::*;

/// Where `text` ends in the file.
fn behind(bytes: &[u8], text: &str) -> usize {
    let mut windows = bytes.windows(text.len());
    windows
        .position(|window| window == text.as_bytes())
        .unwrap()
        + text.len()
}

/// The message of opening a sound file with `bytes` in the place that lies `offset` bytes behind the first `text`.
fn refusal_of(text: &str, offset: usize, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut tensors = tensors("llama");
    tensors.push(("rope_freqs.weight".to_string(), float32(&[1.0, 8.0], &[2])));
    write(
        &path,
        &with("llama", "general.alignment", Meta::U32(32)),
        &tensors,
    );
    assert!(Checkpoint::open(&path, &NoMemory).is_ok());
    let mut content = std::fs::read(&path).unwrap();
    let at = behind(&content, text) + offset;
    content[at..at + bytes.len()].copy_from_slice(bytes);
    std::fs::write(&path, content).unwrap();
    refusal(&path)
}

/// As [`refusal_of`], of a number of 8 bytes.
fn refusal_of_number(text: &str, offset: usize, number: u64) -> String {
    refusal_of(text, offset, &number.to_le_bytes())
}

#[test]
fn an_alignment_is_a_power_of_two() {
    for alignment in [0u32, 3, 48] {
        let message = refusal_of("general.alignment", 4, &alignment.to_le_bytes());
        assert!(
            message.contains("`general.alignment` is not what was expected: a power of two"),
            "{message}"
        );
    }
}

/// A tensor's entry is its name, the number of dimensions (4 bytes), the dimensions (8 each), its type (4) and its offset (8).
#[test]
fn no_shape_reaches_a_product_or_an_allocation_unchecked() {
    let within = "does not lie within the file";
    for (tensor, offset, number, expected) in [
        ("rope_freqs.weight", 4, 1 << 62, within),
        ("rope_freqs.weight", 4, 1 << 40, within),
        ("rope_freqs.weight", 4, u64::MAX, within),
        (
            "rope_freqs.weight",
            4,
            0,
            "has shape `[0]`, expected dimensions of at least 1",
        ),
        ("rope_freqs.weight", 4, 1, "`1` rope divisors, expected `2`"),
        ("token_embd.weight", 4, 1 << 60, within),
        ("token_embd.weight", 12, 1 << 62, within),
        (
            "token_embd.weight",
            12,
            0,
            "expected dimensions of at least 1",
        ),
        (
            "token_embd.weight",
            12,
            259,
            "tensor `lm_head.weight` has shape `[260, 8]`, expected `[259, 8]`",
        ),
        ("output_norm.weight", 16, u64::MAX - 31, within),
        ("output_norm.weight", 16, 1, within),
    ] {
        let message = refusal_of_number(tensor, offset, number);
        assert!(message.contains(expected), "{tensor} {number}: {message}");
    }
    let many = refusal_of("rope_freqs.weight", 0, &5u32.to_le_bytes());
    assert!(
        many.contains("`rope_freqs.weight` has `5` dimensions, expected at most 4"),
        "{many}"
    );
}

#[test]
fn rope_divisors_are_one_list() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for shape in [vec![1, 2], vec![(1 << 16) + 1]] {
        let mut tensors = tensors("llama");
        let values = vec![1.0; shape.iter().product()];
        tensors.push(("rope_freqs.weight".to_string(), float32(&values, &shape)));
        write(&path, &metadata("llama"), &tensors);
        let message = refusal(&path);
        assert!(
            message.contains("expected one number per pair of a head"),
            "{message}"
        );
    }
}

/// A list is the type of its values (4 bytes) and their number (8), behind its own type (4); the file's own counts are behind its version.
#[test]
fn no_count_or_length_is_believed() {
    let ends = "not a complete GGUF file (it ends within ";
    for (text, offset, number, expected) in [
        (
            "GGUF",
            4,
            u64::MAX,
            "tells of `18446744073709551615` tensors, expected at most",
        ),
        ("GGUF", 4, 1 << 19, "tensor"),
        ("GGUF", 12, 1 << 40, "entries of metadata, expected at most"),
        ("GGUF", 12, 1 << 15, "not "),
        ("tokenizer.ggml.merges", 8, 1 << 61, ends),
        ("tokenizer.ggml.merges", 8, u64::MAX, ends),
        ("tokenizer.ggml.token_type", 8, u64::MAX, ends),
        ("tokenizer.ggml.token_type", 8, 1 << 62, ends),
        ("tokenizer.ggml.merges", 16, u64::MAX, ends),
        ("tokenizer.chat_template", 4, 1 << 63, ends),
    ] {
        let message = refusal_of_number(text, offset, number);
        assert!(message.contains(expected), "{text} {number}: {message}");
    }
    let kind = refusal_of("tokenizer.chat_template", 0, &13u32.to_le_bytes());
    assert!(
        kind.contains("a value of type `13`, expected 0 to 12"),
        "{kind}"
    );
    let version = refusal_of("GGUF", 0, &3u32.to_be_bytes());
    assert!(version.contains("big-endian"), "{version}");
}

#[test]
fn lists_are_bounded_in_depth_and_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut deep = Meta::U16(1);
    for _ in 0..40 {
        deep = Meta::List(vec![deep]);
    }
    write(
        &path,
        &with("llama", "general.deep", deep),
        &tensors("llama"),
    );
    assert!(refusal(&path).contains("lists in lists, more than 4 deep"));
    let whole = Meta::List(vec![Meta::I32(3); (1 << 16) + 1]);
    let mut entries = with("llama", "tokenizer.ggml.token_type", whole);
    entries.retain(|(key, _)| key != "tokenizer.ggml.tokens");
    let tokens = texts((0..(1 << 16) + 1).map(|i| format!("t{i}")));
    entries.push(("tokenizer.ggml.tokens".to_string(), tokens));
    write(&path, &entries, &tensors("llama"));
    let message = refusal(&path);
    assert!(
        message.contains("`65537` control and user-defined tokens, expected at most 65536"),
        "{message}"
    );
}

#[test]
fn layers_without_tensors_take_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for (layers, expected) in [
        (
            1 << 28,
            "`num_hidden_layers` is `268435456`, expected 1 to 65536",
        ),
        (
            60_000,
            "the configuration has `60000` layers, the weights have fewer",
        ),
        (
            3,
            "the configuration has `3` layers, the weights have fewer",
        ),
    ] {
        write(
            &path,
            &with("llama", "llama.block_count", Meta::U32(layers)),
            &tensors("llama"),
        );
        assert!(refusal(&path).contains(expected), "{}", refusal(&path));
    }
}

#[test]
fn dimensions_that_make_no_model_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for (key, value, expected) in [
        (
            "attention.head_count_kv",
            Meta::U32(0),
            "`num_key_value_heads` is `0`",
        ),
        ("attention.key_length", Meta::U32(0), "`head_dim` is `0`"),
        (
            "attention.key_length",
            Meta::U64(1 << 63),
            "`head_dim` is `9223372036854775808`",
        ),
        ("embedding_length", Meta::I64(-8), "one whole number"),
        (
            "feed_forward_length",
            Meta::U64(u64::MAX),
            "`intermediate_size`",
        ),
        (
            "context_length",
            Meta::U64(0),
            "`max_position_embeddings` is `0`",
        ),
        (
            "attention.layer_norm_rms_epsilon",
            Meta::F32(f32::NAN),
            "`rms_norm_eps` is `NaN`",
        ),
        (
            "attention.layer_norm_rms_epsilon",
            Meta::F32(-1e-5),
            "expected a positive number",
        ),
        (
            "rope.freq_base",
            Meta::F32(f32::INFINITY),
            "`rope_theta` is `inf`",
        ),
        ("rope.freq_base", Meta::F32(-1.0), "`rope_theta` is `-1`"),
        (
            "rope.scaling.factor",
            Meta::F32(f32::NAN),
            "rope `factor` is `NaN`",
        ),
        (
            "rope.scaling.factor",
            Meta::F32(-4.0),
            "rope `factor` is `-4`",
        ),
        ("rope.scaling.factor", Meta::F32(1e-38), "from 1e-9 to 1e9"),
    ] {
        let key = format!("llama.{key}");
        write(&path, &with("llama", &key, value), &tensors("llama"));
        assert!(refusal(&path).contains(expected), "{}", refusal(&path));
    }
    let mut entries = with("llama", "llama.rope.scaling.factor", Meta::F32(4.0));
    entries.push((
        "llama.rope.scaling.type".to_string(),
        Meta::Text("none".to_string()),
    ));
    write(&path, &entries, &tensors("llama"));
    assert!(refusal(&path).contains("a factor of `4`, which would not be used"));
}

#[test]
fn what_is_there_twice_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let extra = |name: &str, fill: f32| {
        let mut all = tensors("llama");
        all.push((name.to_string(), float32(&[fill; 8], &[8])));
        all
    };
    let own = "`output_norm.weight` and `model.norm.weight` are one parameter under two names";
    for (name, expected) in [
        ("model.norm.weight", own),
        (
            "output_norm.weight",
            "tensor `output_norm.weight` is listed twice",
        ),
    ] {
        write(&path, &metadata("llama"), &extra(name, 3.0));
        assert!(refusal(&path).contains(expected), "{}", refusal(&path));
    }
    for (value, expected) in [
        (
            Meta::F32(1e-6),
            "layer_norm_rms_epsilon` is there twice, with different values",
        ),
        (
            Meta::F32(1e-5),
            "layer_norm_rms_epsilon` is there twice, with the same value",
        ),
    ] {
        let mut entries = metadata("llama");
        entries.push(("llama.attention.layer_norm_rms_epsilon".to_string(), value));
        write(&path, &entries, &tensors("llama"));
        assert!(refusal(&path).contains(expected), "{}", refusal(&path));
    }
    // The first tensor's bytes start at 0.
    let overlap = refusal_of_number("output_norm.weight", 16, 64);
    assert!(
        overlap
            .contains("the data of tensors `token_embd.weight` and `output_norm.weight` overlap"),
        "{overlap}"
    );
}

/// Its rows could be stored in either order.
#[test]
fn a_hugging_face_name_in_the_place_of_the_own_one_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut renamed = tensors("llama");
    for (name, _) in &mut renamed {
        if name == "blk.0.attn_q.weight" {
            *name = "model.layers.0.self_attn.q_proj.weight".to_string();
        }
    }
    write(&path, &metadata("llama"), &renamed);
    assert!(
        refusal(&path).contains("tensor `model.layers.0.self_attn.q_proj.weight` is missing"),
        "{}",
        refusal(&path)
    );
}

#[test]
fn the_head_of_a_file_is_the_one_it_stores() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(&path, &metadata("llama"), &tensors("llama"));
    let checkpoint = Checkpoint::open(&path, &NoMemory).unwrap();
    let read = |name: &str| checkpoint.tensor(name, Dtype::Float32).unwrap().to_f32();
    assert!(!checkpoint.config.tied_embeddings);
    assert_ne!(read("lm_head.weight"), read("model.embed_tokens.weight"));
}

#[test]
fn parts_and_other_files_under_the_name_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("model-00002-of-00003.gguf");
    // A later part has nothing but this in its metadata.
    let entries = [("split.no", 1u16), ("split.count", 3)];
    let entries = entries.map(|(key, value)| (key.to_string(), Meta::U16(value)));
    write(&part, &entries, &tensors("llama")[..2]);
    let message = refusal(&part);
    assert!(
        message.contains("part 2 of a model split over `3` files"),
        "{message}"
    );
    assert!(message.contains("`llama-gguf-split --merge"), "{message}");
    for (name, content, expected) in [
        (
            "page.gguf",
            "<!DOCTYPE html><html>",
            "not a GGUF file: it is a web page",
        ),
        (
            "pointer.gguf",
            "version https://git-lfs.github.com/spec/v1\n",
            "`git lfs pull`",
        ),
        ("model.gguf.part1of2", "GGUF", "a part of a GGUF file"),
        (
            "model.safetensors",
            "",
            "expected the folder that they lie in",
        ),
        (
            "pytorch_model.bin",
            "",
            "pickled weights, which are never read",
        ),
        (
            "consolidated.00.pth",
            "",
            "pickled weights, which are never read",
        ),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        assert!(refusal(&path).contains(expected), "{}", refusal(&path));
    }
}
