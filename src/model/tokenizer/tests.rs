use serde_json::{Value as Json, json};

use super::*;
use crate::model::checkpoint::{FileStamp, NoMemory};

/// A byte-level tokenizer file with two control tokens, one that is not, and some merges.
fn file() -> Json {
    let bytes: Vec<String> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
        .into_iter()
        .map(String::from)
        .collect();
    let mut bytes = bytes;
    bytes.sort();
    let merges = [
        "h e", "l l", "he ll", "hell o", "Ġ a", "< |", "| >", "<| i", "i m", "e n",
    ];
    let merged = merges.iter().map(|merge| merge.replace(' ', ""));
    let tokens = bytes.into_iter().chain(merged);
    let vocab: serde_json::Map<String, Json> = tokens
        .zip(0..)
        .map(|(token, id)| (token, json!(id)))
        .collect();
    let added = |number: usize, text: &str, special: bool| {
        json!({"id": 300 + number, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": special})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [added(0, "<|im_start|>", true), added(1, "<|im_end|>", true), added(2, "<tool>", false)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges},
    })
}

fn read(file: &Json) -> Result<Arc<Tokenizer>, String> {
    let bytes = file.to_string();
    Tokenizer::from_json(Path::new("tokenizer.json"), bytes.into(), &NoMemory)
        .map_err(|error| error.to_string())
}

/// The file with one part another.
fn with(pointer: &str, value: Json) -> Json {
    let mut file = file();
    *file.pointer_mut(pointer).unwrap() = value;
    file
}

#[test]
fn what_leaves_merges_out_at_random_is_refused() {
    for steady in [json!(null), json!(0), json!(0.0)] {
        assert!(read(&with("/model/dropout", steady)).is_ok());
    }
    for (chance, shown) in [(json!(0.5), "0.5"), (json!(1), "1"), (json!(1e-3), "0.001")] {
        let error = read(&with("/model/dropout", chance)).unwrap_err();
        assert!(
            error.starts_with("`tokenizer.json`: not a tokenizer that can be used: `dropout` is "),
            "{error}"
        );
        assert!(
            error.contains(shown) && error.contains("expected 0 or null"),
            "{error}"
        );
    }
    // The library would draw among a word's splits, too, if anything set it.
    let unigram = tokenizers::models::unigram::Unigram::from(vec![("a".into(), 0.0)], None, false);
    let mut unigram = unigram.unwrap();
    unigram.alpha = Some(0.1);
    assert!(check_steady(&unigram.into()).is_err());
}

#[test]
fn a_token_or_a_key_that_is_there_twice_is_refused() {
    let mut file = file();
    file["model"]["vocab"]["Qq"] = file["model"]["vocab"]["q"].clone();
    let error = read(&file).unwrap_err();
    assert!(
        error.contains("the tokens `Qq` and `q` both have the id "),
        "{error}"
    );
    let text = file.to_string().replacen("{", "{\"normalizer\": null, ", 1);
    let error = Tokenizer::from_json(Path::new("t"), text.into(), &NoMemory).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("key `normalizer` is given twice"), "{error}");
}

#[test]
fn rules_that_let_a_text_grow_without_end_are_errors() {
    let grows =
        |content: &str| json!({"type": "Replace", "pattern": {"String": "a"}, "content": content});
    let many: Vec<Json> = (0..40).map(|_| grows("aa")).collect();
    for normalizer in [
        json!({"type": "Sequence", "normalizers": many}),
        json!({"type": "Sequence", "normalizers": [grows(&"a".repeat(50_000)), grows(&"a".repeat(50_000))]}),
    ] {
        let tokenizer = read(&with("/normalizer", normalizer));
        let error = tokenizer.and_then(|t| t.encode("a").map_err(|error| error.to_string()));
        let error = error.unwrap_err();
        assert!(
            error.contains("memory") || error.contains("within reason"),
            "{error}"
        );
    }
}

/// Each character is a piece and a token of its own, as digits are for many tokenizers.
#[test]
fn a_long_text_of_short_pieces_is_read() {
    let digits = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    ]});
    let tokenizer = read(&with("/pre_tokenizer", digits)).unwrap();
    let ids = tokenizer.encode(&"7".repeat(300_000)).unwrap();
    assert_eq!(ids.len(), 300_000);
}

#[test]
fn expressions_that_take_for_ever_hold_nobody_up() {
    for pattern in [
        "(a|a)+$",
        "(a+)+$",
        "(?:(?:(?:a{1000}){1000}){1000})",
        "(?=(a+)+b)",
    ] {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let text = format!("{}!", "a".repeat(200));
        let answer = read(&with("/pre_tokenizer", split))
            .and_then(|tokenizer| tokenizer.encode(&text).map_err(|e| e.to_string()));
        // Whether the library finds an answer is its affair; one that it does find keeps every character.
        if let Ok(ids) = answer {
            assert_eq!(ids.len(), text.len(), "{pattern}");
        }
        assert!(read(&file()).unwrap().encode("hello").is_ok(), "{pattern}");
    }
}

/// Files that a library reads but was not made for: each is an error or works, and none ends the program.
#[test]
fn odd_files_do_not_panic() {
    let odd = [
        (
            "/normalizer",
            json!({"type": "Replace", "pattern": {"String": ""}, "content": "ab"}),
        ),
        (
            "/normalizer",
            json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "ab"}),
        ),
        ("/normalizer", json!({"type": "Prepend", "prepend": ""})),
        (
            "/normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        ),
        (
            "/normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        ),
        (
            "/pre_tokenizer",
            json!({"type": "FixedLength", "length": 0}),
        ),
        (
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": true}),
        ),
        (
            "/pre_tokenizer",
            json!({"type": "Metaspace", "replacement": "a", "prepend_scheme": "always", "split": true}),
        ),
        (
            "/decoder",
            json!({"type": "Strip", "content": "a", "start": 99, "stop": 99}),
        ),
        (
            "/decoder",
            json!({"type": "WordPiece", "prefix": "", "cleanup": true}),
        ),
        (
            "/decoder",
            json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true}),
        ),
        (
            "/truncation",
            json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 5}),
        ),
        (
            "/padding",
            json!({"strategy": {"Fixed": 1_000_000_000}, "direction": "Right", "pad_to_multiple_of": 0, "pad_id": 0, "pad_type_id": 0, "pad_token": ""}),
        ),
        ("/model/vocab", json!({})),
        (
            "/model/vocab",
            json!({"a": 4_294_967_295u32, "b": 4_294_967_295u32}),
        ),
        ("/model/merges", json!(["h q"])),
        ("/model/merges", json!(["", " ", "  "])),
        ("/model/unk_token", json!("gone")),
        ("/model/continuing_subword_prefix", json!("é")),
        ("/model/end_of_word_suffix", json!("é")),
        ("/added_tokens/0/id", json!(4_294_967_295u32)),
        ("/added_tokens/0/id", json!(0)),
        ("/added_tokens/0/content", json!("")),
        ("/added_tokens/0/content", json!("<|im_end|>")),
        (
            "/model",
            json!({"type": "Unigram", "unk_id": 0, "vocab": [["", 0.0]]}),
        ),
        (
            "/model",
            json!({"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]}),
        ),
        (
            "/model",
            json!({"type": "Unigram", "unk_id": null, "vocab": [["a", 1e308], ["aa", -1e308]]}),
        ),
        (
            "/model",
            json!({"type": "WordPiece", "unk_token": "gone", "continuing_subword_prefix": "", "max_input_chars_per_word": 0, "vocab": {"a": 0}}),
        ),
        (
            "/model",
            json!({"type": "WordLevel", "unk_token": "gone", "vocab": {}}),
        ),
        ("", json!(null)),
        ("", json!([[[[[]]]]])),
    ];
    for (pointer, value) in odd {
        let Ok(tokenizer) = read(&with(pointer, value)) else {
            continue;
        };
        for text in ["", "a", "hello a", "é<|im_end|>", "\u{0}\u{301}日本"] {
            if let Ok(ids) = tokenizer.encode(text) {
                assert!(ids.len() <= 1000);
                let _ = tokenizer.decode(&ids, true);
            }
        }
        let _ = tokenizer.decode(&[0, 300, 4_294_967_295], false);
    }
}

#[test]
fn text_nested_in_text_is_no_stack_of_the_programs() {
    let mut nested = json!({"type": "NFC"});
    for _ in 0..60 {
        nested = json!({"type": "Sequence", "normalizers": [nested]});
    }
    drop(read(&with("/normalizer", nested)));
    let brackets = "[".repeat(100_000);
    assert!(Tokenizer::from_json(Path::new("t"), brackets.into(), &NoMemory).is_err());
}

/// Conversations as a template writes them: its own control tokens around texts.
fn conversation(user: &str) -> String {
    format!("<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n")
}

const TEXTS: [&str; 12] = [
    "",
    " ",
    "hello",
    "  hello a  ",
    "\n\n",
    "hello <tool> a",
    "é ü 日本 \u{301}",
    "he said: 'it's <| im |>'",
    "<|im_star",
    "end|>",
    "a\u{200b}b\r\n\tc",
    "hello hello hello hello",
];

/// The property that makes `special_tokens = "text"` no change to a prompt without control tokens.
#[test]
fn piece_by_piece_the_ids_are_those_of_the_whole() {
    let tokenizer = read(&file()).unwrap();
    for text in TEXTS {
        let rendered = conversation(text);
        assert_eq!(
            tokenizer.ids_of_masked(&rendered).unwrap(),
            tokenizer.ids(&rendered).unwrap(),
            "{text}"
        );
    }
}

#[test]
fn control_tokens_in_a_text_are_text_and_those_around_it_are_not() {
    let tokenizer = read(&file()).unwrap();
    let control = |ids: &[u32]| {
        ids.iter()
            .filter(|id| tokenizer.control_ids.contains(id))
            .count()
    };
    for before in TEXTS {
        for after in TEXTS {
            let text = format!("{before}<|im_end|>{after}<|im_start|>");
            let masked = tokenizer.masked(&text).unwrap();
            assert!(tokenizer.control_tokens(&masked).is_empty());
            assert_eq!(tokenizer.unmasked(&masked), text);
            let ids = tokenizer.ids_of_masked(&conversation(&masked)).unwrap();
            assert_eq!(control(&ids), 3, "{text}");
            assert_eq!(control(&tokenizer.ids(&conversation(&text)).unwrap()), 5);
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), conversation(&text));
        }
    }
    // Cut and merged with what stands beside it: `<|` is one token, and the space belongs to the `a`.
    let ids = tokenizer.ids_of_masked(&tokenizer.masked("<|im_end|> a").unwrap());
    let spelt: Vec<String> = ids
        .unwrap()
        .iter()
        .filter_map(|id| tokenizer.token(*id).unwrap())
        .collect();
    assert_eq!(spelt, ["<|", "im", "_", "en", "d", "|>", "Ġa"]);
}

#[test]
fn a_tokenizer_whose_pieces_depend_on_each_other_refuses_control_tokens_as_text() {
    let metaspace =
        json!({"type": "Metaspace", "replacement": "h", "prepend_scheme": "first", "split": true});
    let tokenizer = read(&with("/pre_tokenizer", metaspace)).unwrap();
    let masked = tokenizer.masked("a<|im_end|>").unwrap();
    let error = tokenizer.ids_of_masked(&conversation(&masked)).unwrap_err();
    assert!(
        error.to_string().contains("cannot be had with it"),
        "{error}"
    );
    let error = tokenizer.masked("a\u{F0000}").unwrap_err().to_string();
    assert!(error.contains("private use"), "{error}");
}

struct Remembers(Answers);

impl Memory for Remembers {
    fn weight_hash(&self, _: &FileStamp) -> Option<blake3::Hash> {
        None
    }

    fn remember_weight_hash(&self, _: &FileStamp, _: blake3::Hash) {}

    fn answers(&self, _: &blake3::Hash) -> Option<Answers> {
        Some(self.0.clone())
    }
}

#[test]
fn what_is_remembered_takes_no_library_and_what_is_not_does() {
    let first = read(&file()).unwrap();
    let asked = |tokenizer: &Arc<Tokenizer>| {
        let found = tokenizer.control_tokens("a<|im_end|><tool>").len();
        let id = tokenizer.id("hello").unwrap();
        let token = tokenizer.token(300).unwrap();
        let ids = tokenizer.encode("hello<|im_end|>").unwrap();
        let first_token = tokenizer.first_token("hello").unwrap();
        (found, id, token, ids, first_token, tokenizer.largest_id)
    };
    let expected = asked(&first);
    let answers = first.answers().unwrap();
    assert_eq!(first.answers(), None);
    // As the cache keeps it.
    let kept = serde_json::to_string(&answers).unwrap();
    let memory = Remembers(serde_json::from_str(&kept).unwrap());
    assert_eq!(memory.0, answers);
    let source = || Source {
        make: Box::new(|| Err("it was set up".into())),
        ..Source::json(Vec::new())
    };
    let second = Tokenizer::new(source(), &memory).unwrap();
    assert_eq!(asked(&second), expected);
    let error = second.encode("other").unwrap_err().to_string();
    assert!(error.ends_with("it was set up"), "{error}");
}

/// Once the library is there it is what is asked, whatever is remembered.
#[test]
fn the_library_goes_before_what_is_remembered() {
    let mut answers = Answers::default();
    answers.add_ids("hello", &[7]);
    let source = Source::json(file().to_string().into());
    let tokenizer = Tokenizer::new(source, &Remembers(answers)).unwrap();
    assert_eq!(tokenizer.encode("hello").unwrap(), [7]);
    tokenizer.encode("other").unwrap();
    let read_now = read(&file()).unwrap();
    let expected = read_now.encode("hello").unwrap();
    assert_eq!(tokenizer.encode("hello").unwrap(), expected);
}
