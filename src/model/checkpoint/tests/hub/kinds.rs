//! What is fetched of a repository, and which are refused before.

use super::*;

/// What is said of a repository with these files.
fn said_of(names: &[&str]) -> String {
    let empty = tempfile::tempdir().unwrap();
    let names = names.iter().map(|name| json!({"rfilename": name}));
    let list = json!({"sha": COMMIT, "siblings": names.collect::<Vec<_>>()});
    let server = FakeHub::serve_but(empty.path(), move |_, _| listed(&list));
    message(fetched(&server, &empty.path().join("cache")))
}

#[test]
fn repositories_of_other_kinds_are_told_apart_before_anything_is_fetched() {
    let settings = ["config.json", "tokenizer.json"];
    for (names, words) in [
        (
            vec!["pytorch_model.bin"],
            vec!["pickled (`pytorch_model.bin`)", "safetensors"],
        ),
        (
            vec![
                "pytorch_model-00001-of-00002.bin",
                "pytorch_model-00002-of-00002.bin",
            ],
            vec!["pickled (`pytorch_model-00001-of-00002.bin`, `pytorch"],
        ),
        (
            vec!["x.Q4_0.gguf"],
            vec![
                "a GGUF file, `x.Q4_0.gguf`",
                "hf download org/tiny x.Q4_0.gguf",
            ],
        ),
        (
            vec!["a.gguf", "b.gguf", "c.gguf", "d.gguf"],
            vec![
                "4 GGUF files (`a.gguf`, `b.gguf`, `c.gguf`, …)",
                "choose one",
            ],
        ),
        (
            vec!["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"],
            vec![
                "a GGUF in parts (`x-00001-of-00002.gguf`)",
                "llama-gguf-split --merge",
            ],
        ),
        (
            vec!["adapter_config.json", "adapter_model.safetensors"],
            vec!["an adapter, not a model", "merge"],
        ),
        (vec!["tf_model.h5"], vec!["another format (`tf_model.h5`)"]),
        (vec![], vec!["there is no `model.safetensors`"]),
    ] {
        let text = said_of(&[&settings[..], &names[..]].concat());
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
    let text = said_of(&["model.safetensors", "config.json"]);
    assert!(text.contains("there is no `tokenizer.json`"), "{text}");
}

#[test]
fn no_weights_are_fetched_for_settings_that_cannot_be_used() {
    let (source, cache) = model_and_cache();
    let mut config = tiny_config("qwen2");
    config["auto_map"] = json!({"AutoModelForCausalLM": "modeling_own.Own"});
    std::fs::write(source.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(source.path().join("modeling_own.py"), "").unwrap();
    let server = FakeHub::serve(source.path());
    let text = message(fetched(&server, cache.path()));
    assert!(
        text.contains("trust_remote_code") && text.contains("`modeling_own.py`"),
        "{text}"
    );
    assert_eq!(server.asked_for("model.safetensors"), 0);

    let mut config = tiny_config("qwen2");
    config["model_type"] = json!("mamba");
    std::fs::write(source.path().join("config.json"), config.to_string()).unwrap();
    let server = FakeHub::serve(source.path());
    let text = message(fetched(&server, cache.path()));
    assert!(text.contains("`mamba`"), "{text}");
    assert_eq!(server.asked_for("model.safetensors"), 0);
}

#[test]
fn what_an_index_asks_for_is_fetched_by_its_own_name() {
    let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tiny_shards(source.path(), &tiny_config("llama"));
    let index = source
        .path()
        .join(crate::model::checkpoint::hugging_face::INDEX);
    let text = std::fs::read_to_string(&index).unwrap();
    // A name that an address needs encoded.
    std::fs::rename(
        source.path().join("b.safetensors"),
        source.path().join("b #1?.safetensors"),
    )
    .unwrap();
    std::fs::write(&index, text.replace("b.safetensors", "b #1?.safetensors")).unwrap();
    let files = files_of(source.path());
    let server = FakeHub::serve_but(source.path(), move |request, _| {
        let name = "b #1?.safetensors";
        is_file(request, "b%20%231%3F.safetensors").then(|| part(name, &files[name], None))
    });
    assert!(Checkpoint::open(&fetched(&server, cache.path()).unwrap(), &NoMemory).is_ok());

    std::fs::write(&index, text.replace("b.safetensors", "../../b.safetensors")).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let text = message(fetched(&FakeHub::serve(source.path()), cache.path()));
    assert!(text.contains("`../../b.safetensors`"), "{text}");
}
