//! Models without their weights: what is written of a model opens as the same model, and what was changed in it does not.

use super::*;
use crate::model::chat::Chat;
use crate::model::handle::ModelHandle;

fn open(path: &Path, lender: Option<&ModelHandle>) -> ModelHandle {
    ModelHandle::open("inst", path, Dtype::BFloat16, lender, &NoMemory).unwrap()
}

/// Writes a model without its weights, and opens that.
fn sent(model: &ModelHandle, lender: Option<&ModelHandle>) -> (tempfile::TempDir, ModelHandle) {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in model.write_recorded("hf:org/name").unwrap() {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let opened = open(folder.path(), lender);
    (folder, opened)
}

/// Checks that a model is the same without its weights, its prompts as tokens and back, too.
fn check_same(model: &ModelHandle, sent: &ModelHandle, texts: &[&str]) {
    assert_eq!(model.fingerprint, sent.fingerprint);
    assert_eq!(model.config(), sent.config());
    assert_eq!(model.weight_hashes, sent.weight_hashes);
    assert_eq!(model.files_read().unwrap(), sent.files_read().unwrap());
    assert_eq!(model.findings(), sent.findings());
    assert_eq!(model.end_of_text(), sent.end_of_text());
    assert_eq!(model.further_ends(), sent.further_ends());
    assert_eq!(model.template_hash(), sent.template_hash());
    assert_eq!(model.tokenizer_hash(), sent.tokenizer_hash());
    for text in texts {
        let ids = model.tokens(text, &Chat::default());
        match ids {
            Ok(ids) => {
                let same = sent.tokens(text, &Chat::default()).unwrap();
                assert_eq!(ids.hash(), same.hash(), "{text}");
            }
            Err(error) => {
                let same = sent.tokens(text, &Chat::default()).unwrap_err();
                assert_eq!(error.to_string(), same.to_string());
            }
        }
    }
    let ids: Vec<u32> = (0..model.config().d_vocab as u32)
        .step_by(7)
        .take(500)
        .collect();
    assert_eq!(model.decode(&ids).unwrap(), sent.decode(&ids).unwrap());
    // Sent on by whoever got it, it is the same.
    let written = |model: &ModelHandle| model.write_recorded("hf:org/name").unwrap();
    let (mut first, again) = (written(model), written(sent));
    let (description, others): (Vec<_>, Vec<_>) =
        first.drain(..).partition(|(name, _)| *name == "model.json");
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    for (name, bytes) in &again {
        match *name {
            // What it was opened at is the other's to know.
            "model.json" => {
                let mut first = read(&description[0].1);
                first["commit"] = read(bytes)["commit"].clone();
                assert_eq!(first, read(bytes));
            }
            name => assert!(others.contains(&(name, bytes.clone())), "{name}"),
        }
    }
}

#[test]
fn every_family_is_the_same_without_its_weights() {
    let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families");
    let folders = families
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let folders: Vec<_> = folders
        .filter(|path| path.join("config.json").exists())
        .collect();
    assert!(folders.len() >= 20);
    for folder in folders {
        let model = open(&folder, None);
        let (place, sent) = sent(&model, None);
        assert!(!place.path().join("config.json").exists());
        check_same(&model, &sent, &["w1 w2 w3"]);
    }
}

#[test]
fn a_folder_in_shards_a_gguf_file_and_one_that_borrows_a_template() {
    let lender = tempfile::tempdir().unwrap();
    write_tiny_shards(lender.path(), &tiny_config("qwen2"));
    let lender = open(lender.path(), None);
    let texts = ["hi <|im_end|> there", "one, two", "d\u{e9}j\u{e0} e\u{301}"];
    let (_place, lender_sent) = sent(&lender, None);
    check_same(&lender, &lender_sent, &texts);

    let folder = tempfile::tempdir().unwrap();
    for section in ["llama", "qwen2"] {
        let path = folder.path().join("model.gguf");
        for pre in ["gpt-2", "smollm", "qwen2", "llama3"] {
            let metadata = gguf::with(
                section,
                "tokenizer.ggml.pre",
                gguf_file::Meta::Text(pre.to_string()),
            );
            gguf_file::write(&path, &metadata, &gguf::tensors(section));
            let model = open(&path, None);
            let (_place, sent) = sent(&model, None);
            check_same(&model, &sent, &texts);
        }
    }

    let folder = tempfile::tempdir().unwrap();
    write_tiny_model(folder.path(), &tiny_config("llama"), Dtype::Float32);
    std::fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    let borrower = open(folder.path(), Some(&lender));
    let (_place, sent) = sent(&borrower, Some(&lender_sent));
    check_same(&borrower, &sent, &texts);
}

/// The one of the quickstart, where it is at hand: every text as the library makes it of the `tokenizer.json` that is written.
#[test]
fn a_real_gguf_tokenizer_is_the_same_as_a_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("third_party/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        eprintln!("skipped: `{}` is not there", path.display());
        return;
    }
    let model = open(&path, None);
    let texts = [
        "How do I bake bread?",
        "I'M 1234 caf\u{e9}s!!\n\n  x's",
        "<|im_start|>x<|im_end|>",
    ];
    let (place, sent) = sent(&model, None);
    check_same(&model, &sent, &texts);
    let library = tokenizers::Tokenizer::from_file(place.path().join("tokenizer.json")).unwrap();
    for text in texts {
        let ids = library.encode(text, false).unwrap();
        let own = Checkpoint::open(&path, &NoMemory)
            .unwrap()
            .tokenizer
            .encode(text)
            .unwrap();
        assert_eq!(ids.get_ids(), own);
    }
}

#[test]
fn computing_says_how_to_name_the_model() {
    let folder = tempfile::tempdir().unwrap();
    write_any_model(folder.path());
    let model = open(folder.path(), None);
    assert!(model.check_weights().is_ok());
    let (place, sent) = sent(&model, None);
    let error = sent.load("cpu".parse().unwrap(), 1 << 20).err().unwrap();
    let expected = format!(
        "model `inst` is here without its weights (`{}`); name it with `--set models.inst.source=SOURCE`, or with `--model inst=SOURCE` to \
         `dial verify`",
        place.path().display()
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn what_was_changed_is_told() {
    let folder = tempfile::tempdir().unwrap();
    write_any_model(folder.path());
    let (place, _) = sent(&open(folder.path(), None), None);
    let gguf = folder.path().join("model.gguf");
    gguf_file::write(&gguf, &gguf::metadata("llama"), &gguf::tensors("llama"));
    let (of_gguf, _) = sent(&open(&gguf, None), None);
    let path = place.path().join("model.json");
    let sound: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let refused = |change: &dyn Fn(&mut Value), expected: &str| {
        let mut changed = sound.clone();
        change(&mut changed);
        std::fs::write(&path, changed.to_string()).unwrap();
        let message = refusal(place.path());
        assert!(message.contains(expected), "{expected}: {message}");
    };
    let fingerprint = "the fingerprint of what lies here is `";
    let zeros = "0".repeat(64);
    refused(&|m| m["fingerprint"] = json!(zeros), fingerprint);
    refused(&|m| m["config"]["context_length"] = json!(63), fingerprint);
    refused(&|m| m["dtype"] = json!("float16"), fingerprint);
    refused(&|m| m["special_tokens"] = json!({}), fingerprint);
    refused(
        &|m| m["tokenizer"] = json!(zeros),
        "the tokenizer of what lies here",
    );
    refused(&|m| m["format"] = json!(2), "format `2`, and this dial");
    refused(
        &|m| m["config"]["d_model"] = json!(0),
        "`config`: `hidden_size` is `0`",
    );
    refused(
        &|m| m["config"]["n_layers"] = json!(1u64 << 40),
        "`num_hidden_layers` is",
    );
    refused(
        &|m| m["config"]["odd"] = json!(true),
        "it is not as the configuration of a `llama` is written",
    );
    refused(
        &|m| m["config"] = json!([1]),
        "`architecture` is ``, expected one of",
    );
    refused(
        &|m| m["findings"] = json!(vec!["x"; 300]),
        "`findings` has `300` entries",
    );
    refused(
        &|m| m["findings"] = json!(["x".repeat(5000)]),
        "a text of `5000` bytes",
    );
    refused(
        &|m| m["special_tokens"] = json!({"messages": "x"}),
        "`special_tokens` has `messages`",
    );
    refused(&|m| m["further_ends"] = json!([3, 2]), "are not in order");
    refused(
        &|m| m["files"][0]["blake3"] = json!("12"),
        "`12` is no blake3 hash",
    );
    for index in 0..sound["files"].as_array().unwrap().len() {
        if sound["files"][index]["weights"] == json!(true) {
            refused(&|m| m["files"][index]["blake3"] = json!(zeros), fingerprint);
            refused(
                &|m| m["files"][index]["weights"] = json!(false),
                fingerprint,
            );
        }
    }
    std::fs::write(&path, sound.to_string()).unwrap();
    assert!(Checkpoint::open(place.path(), &NoMemory).is_ok());
    let template = place.path().join("chat_template.jinja");
    std::fs::write(&template, "{{ messages[0].content }}").unwrap();
    assert!(refusal(place.path()).contains(fingerprint));
    std::fs::remove_file(&template).unwrap();
    assert!(refusal(place.path()).contains(fingerprint));
    std::fs::write(place.path().join("tokenizer.json"), "{}").unwrap();
    assert!(refusal(place.path()).contains("not a tokenizer that can be used"));

    // Of a GGUF tokenizer every word counts, those that its hash is not made of, too.
    let tokenizer = of_gguf.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&tokenizer).unwrap();
    for (from, to, expected) in [
        (
            "\"use_regex\":true",
            "\"use_regex\":false",
            "it says something else than the GGUF tokenizer",
        ),
        ("[[\"h\",\"i\"]]", "[]", "the tokenizer of what lies here"),
        ("\"hi\":258", "\"hi\":259", "do not count from 0 on"),
    ] {
        assert!(text.contains(from), "{text}");
        std::fs::write(&tokenizer, text.replace(from, to)).unwrap();
        let message = refusal(of_gguf.path());
        assert!(message.contains(expected), "{expected}: {message}");
    }
}
