use super::*;
use crate::model::chat::Message;
use crate::model::tokenizer::Answers;
use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, SystemTime};

#[test]
fn every_stored_format_is_read_in_every_wanted_one() {
    for stored in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
        let folder = tempfile::tempdir().unwrap();
        let config = tiny_config("qwen2");
        write_tiny_model(folder.path(), &config, stored);
        let checkpoint = Checkpoint::open(folder.path(), &NoMemory).unwrap();
        for wanted in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
            for (name, shape) in parsed(&config).parameter_shapes() {
                let tensor = checkpoint.tensor(&name, wanted).unwrap();
                assert_eq!((&tensor.shape, tensor.dtype), (&shape, wanted));
                // The numbers are chosen so that no format rounds them.
                assert_eq!(
                    tensor.to_f32(),
                    numbers(&name, shape.iter().product()),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn shards_hold_the_same_model_as_one_file() {
    let (one, many) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = tiny_config("llama");
    write_tiny_model(one.path(), &config, Dtype::Float32);
    write_tiny_shards(many.path(), &config);
    let (one, many) = (
        Checkpoint::open(one.path(), &NoMemory).unwrap(),
        Checkpoint::open(many.path(), &NoMemory).unwrap(),
    );
    assert_eq!(many.files.len(), 2);
    for (name, _) in parsed(&config).parameter_shapes() {
        let read =
            |checkpoint: &Checkpoint| checkpoint.tensor(&name, Dtype::Float32).unwrap().to_f32();
        assert_eq!(read(&one), read(&many));
    }
}

#[test]
fn the_template_writes_the_special_tokens_and_the_tokenizer_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_model(folder.path(), &tiny_config("llama"), Dtype::Float32);
    let checkpoint = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    let messages = [Message::new("user", "hi")];
    let text = checkpoint
        .chat_template
        .as_ref()
        .unwrap()
        .render(&messages, true)
        .unwrap();
    assert_eq!(text, "<|im_start|>user\nhi<|im_end|>\n");
    let tokenizer = &checkpoint.tokenizer;
    let ids = tokenizer.encode(&text).unwrap();
    assert_eq!((ids[0], ids[6], ids[7]), (256, 258, 257));
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "user\nhi\n");
    assert_eq!(tokenizer.first_token("hi there").unwrap(), 258);
    assert!(
        tokenizer
            .first_token("")
            .unwrap_err()
            .to_string()
            .contains("has no tokens")
    );
    assert_eq!(tokenizer.d_vocab(), 259);
}

#[test]
fn truncation_padding_and_added_tokens_of_the_file_do_not_apply() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_model(folder.path(), &tiny_config("llama"), Dtype::Float32);
    let mut tokenizer = tiny_tokenizer();
    let truncation = tokenizers::TruncationParams {
        max_length: 2,
        ..Default::default()
    };
    tokenizer.with_truncation(Some(truncation)).unwrap();
    tokenizer.with_padding(Some(tokenizers::PaddingParams::default()));
    let post = tokenizers::processors::template::TemplateProcessing::builder()
        .try_single("<|im_start|> $A")
        .unwrap()
        .special_tokens(vec![("<|im_start|>", 256)])
        .build()
        .unwrap();
    tokenizer.with_post_processor(Some(post));
    tokenizer
        .save(folder.path().join("tokenizer.json"), false)
        .unwrap();
    let checkpoint = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    assert_eq!(
        checkpoint.tokenizer.encode("hihihi").unwrap(),
        [258, 258, 258]
    );
}

#[test]
fn a_template_may_stand_in_a_list_or_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_model(folder.path(), &tiny_config("llama"), Dtype::Float32);
    let render = || {
        let checkpoint = Checkpoint::open(folder.path(), &NoMemory).unwrap();
        checkpoint
            .chat_template
            .as_ref()
            .unwrap()
            .render(&[], false)
            .unwrap()
    };
    let list = json!({"chat_template": [
        {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "listed"}]});
    std::fs::write(
        folder.path().join("tokenizer_config.json"),
        list.to_string(),
    )
    .unwrap();
    assert_eq!(render(), "listed");
    std::fs::write(folder.path().join("chat_template.jinja"), "own file").unwrap();
    assert_eq!(render(), "own file");
}

#[test]
fn damaged_and_incomplete_models_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(refusal(&path.join("nowhere")).starts_with("cannot read `"));
    assert!(refusal(path).contains("config.json"));
    let config = tiny_config("qwen2");
    write_tiny_folder(path, &config);
    assert!(
        refusal(path).contains("expected `model.safetensors` or `model.safetensors.index.json`")
    );

    let weights = path.join("model.safetensors");
    let mut shapes = parsed(&config).parameter_shapes();
    write_tensors(&weights, &shapes[1..], Dtype::Float32);
    assert!(refusal(path).ends_with("tensor `model.embed_tokens.weight` is missing"));
    shapes[0].1 = vec![260, 4];
    write_tensors(&weights, &shapes, Dtype::Float32);
    let expected = "tensor `model.embed_tokens.weight` has shape `[260, 4]`, expected `[260, 8]`";
    assert!(refusal(path).contains(expected));
    shapes[0].1 = vec![260, 8];
    shapes.push((
        "model.layers.0.self_attn.q_norm.weight".to_string(),
        vec![4],
    ));
    write_tensors(&weights, &shapes, Dtype::Float32);
    assert!(
        refusal(path).contains("tensor `model.layers.0.self_attn.q_norm.weight` is not supported")
    );

    shapes.pop();
    write_tensors(&weights, &shapes, Dtype::Float32);
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() - 5]).unwrap();
    assert!(refusal(path).contains("not a complete safetensors file"));
    std::fs::write(&weights, []).unwrap();
    assert!(refusal(path).contains("model.safetensors"));
}

#[test]
fn unreadable_companions_are_named() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_model(folder.path(), &tiny_config("llama"), Dtype::Float32);
    for (file, text, expected) in [
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("tokenizer_config.json", "[", "not as expected"),
        (
            "generation_config.json",
            "{\"eos_token_id\": \"x\"}",
            "`eos_token_id` is `\"x\"`, expected a token id or a list of them",
        ),
        ("chat_template.jinja", "{% endfor %}", "chat template: "),
    ] {
        let path = folder.path().join(file);
        let before = std::fs::read(&path).ok();
        std::fs::write(&path, text).unwrap();
        assert!(
            refusal(folder.path()).contains(expected),
            "{}",
            refusal(folder.path())
        );
        match before {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
    }
    assert!(Checkpoint::open(folder.path(), &NoMemory).is_ok());
}

/// Remembers one file and counts the questions it could answer.
#[derive(Default)]
struct Remembering {
    known: RefCell<Vec<(FileStamp, blake3::Hash)>>,
    hits: RefCell<usize>,
}

impl Memory for Remembering {
    fn weight_hash(&self, file: &FileStamp) -> Option<blake3::Hash> {
        let known = self.known.borrow();
        let found = known.iter().find(|(stamp, _)| stamp == file);
        *self.hits.borrow_mut() += usize::from(found.is_some());
        found.map(|(_, hash)| *hash)
    }

    fn remember_weight_hash(&self, file: &FileStamp, hash: blake3::Hash) {
        self.known.borrow_mut().push((file.clone(), hash));
    }

    fn answers(&self, _: &blake3::Hash) -> Option<Answers> {
        None
    }
}

#[test]
fn weights_are_hashed_once_and_again_when_the_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let config = tiny_config("llama");
    write_tiny_model(folder.path(), &config, Dtype::Float32);
    let memory = Remembering::default();
    // A file changed just now may change again without its time telling. It stays new, however long the test takes to come to it.
    let path = folder.path().join("model.safetensors");
    set_time(&path, SystemTime::now() + HOUR);
    let fresh = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    fresh.file_hashes(&memory).unwrap();
    assert!(memory.known.borrow().is_empty());
    set_time(&path, SystemTime::now() - HOUR);
    // When it got that time shows, too.
    std::thread::sleep(Duration::from_millis(2100));
    let checkpoint = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    let first = checkpoint.file_hashes(&memory).unwrap();
    assert_eq!(*memory.hits.borrow(), 0);
    assert_eq!(checkpoint.file_hashes(&memory).unwrap(), first);
    assert_eq!(*memory.hits.borrow(), 1);
    assert_eq!(checkpoint.file_hashes(&NoMemory).unwrap(), first);

    let copy = tempfile::tempdir().unwrap();
    write_tiny_model(copy.path(), &config, Dtype::Float32);
    let same = Checkpoint::open(copy.path(), &NoMemory)
        .unwrap()
        .file_hashes(&memory)
        .unwrap();
    assert_eq!(same, first, "the path must not enter");
    write_tiny_model(copy.path(), &config, Dtype::BFloat16);
    let other = Checkpoint::open(copy.path(), &NoMemory)
        .unwrap()
        .file_hashes(&memory)
        .unwrap();
    assert_ne!(other, first);
}

const HOUR: Duration = Duration::from_secs(3600);

/// Sets when a file says that it was last written.
fn set_time(path: &Path, time: SystemTime) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

#[test]
fn weights_that_are_replaced_stay_as_they_were_opened_and_those_written_into_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = tiny_config("llama");
    write_tiny_model(folder.path(), &config, Dtype::Float32);
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    set_time(&path, SystemTime::now() - HOUR);
    let mut other = bytes.clone();
    let last = other.len() - 1;
    other[last] ^= 1;

    let opened = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    std::fs::write(folder.path().join("new"), &other).unwrap();
    std::fs::rename(folder.path().join("new"), &path).unwrap();
    let hash = opened.file_hashes(&NoMemory).unwrap();
    assert!(opened.check_unchanged().is_ok());
    let replaced = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    assert_ne!(replaced.file_hashes(&NoMemory).unwrap(), hash);

    // A link that leads elsewhere by now, and a file that is gone: what was opened is what counts.
    let links = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), links.path().join(entry.file_name())).unwrap();
    }
    let linked = Checkpoint::open(links.path(), &NoMemory).unwrap();
    std::fs::remove_file(links.path().join("model.safetensors")).unwrap();
    assert!(linked.check_unchanged().is_ok());

    std::fs::write(&path, &bytes).unwrap();
    for result in [
        replaced.check_unchanged(),
        replaced.file_hashes(&NoMemory).map(|_| ()),
    ] {
        let message = result.unwrap_err().to_string();
        assert!(
            message.contains("model.safetensors`: it was changed"),
            "{message}"
        );
    }
}

#[test]
fn the_fingerprint_depends_on_each_of_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_model(folder.path(), &tiny_config("llama"), Dtype::Float32);
    let checkpoint = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    let (weights, config) = (&[blake3::hash(b"weights")], checkpoint.config.clone());
    let (tokenizer, template) = (&checkpoint.tokenizer, checkpoint.chat_template.as_ref());
    let base = Checkpoint::fingerprint(weights, &config, tokenizer, template, Dtype::Float32);
    assert_eq!(
        base,
        Checkpoint::fingerprint(weights, &config, tokenizer, template, Dtype::Float32)
    );

    let mut other_config = config.clone();
    other_config.sizes.context_length += 1;
    let mut bytes = tiny_tokenizer().to_string(false).unwrap();
    bytes.push(' ');
    let other_tokenizer = Tokenizer::from_json(Path::new("t"), bytes.into(), &NoMemory).unwrap();
    let others = [
        Checkpoint::fingerprint(
            &[blake3::hash(b"other")],
            &config,
            tokenizer,
            template,
            Dtype::Float32,
        ),
        Checkpoint::fingerprint(weights, &other_config, tokenizer, template, Dtype::Float32),
        Checkpoint::fingerprint(weights, &config, &other_tokenizer, template, Dtype::Float32),
        Checkpoint::fingerprint(weights, &config, tokenizer, None, Dtype::Float32),
        Checkpoint::fingerprint(weights, &config, tokenizer, template, Dtype::BFloat16),
    ];
    for (i, other) in others.iter().enumerate() {
        assert_ne!(*other, base, "part {i}");
    }
}
