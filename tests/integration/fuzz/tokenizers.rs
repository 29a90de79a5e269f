//! Seeds of `tokenizer.json`: tokenizers of every kind, and what the library panics at, grows with, or draws lots for.

use serde_json::{Value as Json, json};

use super::target::Seed;

pub const WORDS: &[&str] = &[
    "BPE",
    "WordLevel",
    "WordPiece",
    "Unigram",
    "Replace",
    "Sequence",
    "Prepend",
    "NFC",
    "NFKD",
    "Precompiled",
    "Lowercase",
    "Strip",
    "StripAccents",
    "ByteLevel",
    "Metaspace",
    "Split",
    "Regex",
    "String",
    "Digits",
    "Punctuation",
    "BertPreTokenizer",
    "BertNormalizer",
    "TemplateProcessing",
    "ByteFallback",
    "Fuse",
    "CTC",
    "(a*)*b",
    "",
    "\u{0}",
    "é",
    "<s>",
    "\"dropout\": 0.5,",
    "\"unk_id\": 99,",
];

/// A tokenizer of a few words.
pub fn word_level() -> Json {
    let words = [
        "<unk>",
        "<s>",
        "</s>",
        "user",
        "system",
        "assistant",
        "one",
        "two",
        "three",
    ];
    let vocab: serde_json::Map<String, Json> = words
        .iter()
        .zip(0..)
        .map(|(word, id)| (word.to_string(), Json::from(id)))
        .collect();
    let added = |id: usize| json!({"id": id, "content": words[id], "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [added(0), added(1), added(2)], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    })
}

pub fn seeds() -> Vec<Seed> {
    let with = |name: &str, changes: Json| {
        let mut tokenizer = word_level();
        for (key, value) in changes.as_object().unwrap() {
            tokenizer[key] = value.clone();
        }
        Seed::new(name, tokenizer.to_string())
    };
    let replace = |pattern: Json, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let doubling = |times: usize| json!({"type": "Sequence", "normalizers": vec![replace(json!({"String": "o"}), "oo"); times]});
    let bpe = |changes: Json| {
        let mut model = json!({"type": "BPE", "dropout": null, "unk_token": "a", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "vocab": {"a": 0, "b": 1, "ab": 2, "o": 3, "n": 4, "on": 5}, "merges": ["a b", "o n"]});
        for (key, value) in changes.as_object().unwrap() {
            model[key] = value.clone();
        }
        json!({"model": model, "added_tokens": []})
    };
    let added = |id: u64, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": false});
    let unigram = |unk: Json, vocab: Json| json!({"model": {"type": "Unigram", "unk_id": unk, "vocab": vocab}, "added_tokens": []});
    let mut seeds = vec![
        with("word-level", json!({})),
        with("bpe", bpe(json!({}))),
        with("bpe-dropout", bpe(json!({"dropout": 0.5}))),
        with("bpe-dropout-of-two", bpe(json!({"dropout": 2}))),
        with(
            "bpe-merge-of-unknown",
            bpe(json!({"merges": ["a b", "x y"]})),
        ),
        with("bpe-merge-of-one", bpe(json!({"merges": ["ab"]}))),
        with("bpe-merge-result-unknown", bpe(json!({"merges": ["a o"]}))),
        with(
            "bpe-merge-pairs",
            bpe(json!({"merges": [["a", "b"], ["a", "b"], ["", ""]]})),
        ),
        with(
            "bpe-prefix-longer-than-token",
            bpe(json!({"continuing_subword_prefix": "############", "merges": ["a b"]})),
        ),
        with(
            "bpe-unknown-token-missing",
            bpe(json!({"unk_token": "nowhere"})),
        ),
        with(
            "bpe-byte-fallback",
            bpe(json!({"byte_fallback": true, "vocab": {"<0xZZ>": 0, "<0x": 1}, "merges": []})),
        ),
        with(
            "bpe-ids-apart",
            bpe(json!({"vocab": {"a": 0, "b": 4294967295u32, "ab": 7}, "merges": ["a b"]})),
        ),
        with(
            "bpe-ids-twice",
            bpe(json!({"vocab": {"a": 0, "b": 0, "ab": 0}, "merges": ["a b"]})),
        ),
        with(
            "word-piece",
            json!({"model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 0, "vocab": {"one": 0}}, "added_tokens": []}),
        ),
        with(
            "unigram",
            unigram(json!(0), json!([["<unk>", 0], ["o", -1.5], ["one", -0.5]])),
        ),
        with(
            "unigram-unknown-beyond",
            unigram(json!(99), json!([["<unk>", 0]])),
        ),
        with("unigram-empty", unigram(json!(null), json!([]))),
        with(
            "unigram-without-unknown",
            unigram(json!(null), json!([["a", 0]])),
        ),
        with(
            "unigram-empty-piece",
            unigram(json!(0), json!([["", 0], ["", 1e308], ["a", -1e308]])),
        ),
        with(
            "word-level-unknown-missing",
            json!({"model": {"type": "WordLevel", "vocab": {"one": 0}, "unk_token": "nowhere"}, "added_tokens": []}),
        ),
        with(
            "vocabulary-empty",
            json!({"model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}}),
        ),
        with(
            "added-out-of-order",
            json!({"added_tokens": [added(12, "x"), added(11, "y"), added(9, "z")]}),
        ),
        with(
            "added-far-away",
            json!({"added_tokens": [added(4_294_967_295, "x")]}),
        ),
        with(
            "added-empty",
            json!({"added_tokens": [added(9, ""), added(10, " ")]}),
        ),
        with(
            "added-twice",
            json!({"added_tokens": [added(9, "x"), added(9, "y"), added(10, "x")]}),
        ),
        with(
            "replace-nothing",
            json!({"normalizer": replace(json!({"String": ""}), "x")}),
        ),
        with(
            "replace-nothing-regex",
            json!({"normalizer": replace(json!({"Regex": ""}), "xy")}),
        ),
        with(
            "replace-bad-regex",
            json!({"normalizer": replace(json!({"Regex": "(((("}), "x")}),
        ),
        with(
            "replace-slow-regex",
            json!({"normalizer": replace(json!({"Regex": "(o*)*(n*)*$x"}), "x")}),
        ),
        with("growing-forty-times", json!({"normalizer": doubling(40)})),
        with(
            "growing-by-length",
            json!({"normalizer": replace(json!({"Regex": "."}), &"x".repeat(10_000))}),
        ),
        with(
            "prepend-long",
            json!({"normalizer": {"type": "Prepend", "prepend": "x".repeat(20_000)}}),
        ),
        with(
            "precompiled",
            json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}),
        ),
        with(
            "precompiled-length",
            json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAAAAAAA"}}),
        ),
        with(
            "split-nothing",
            json!({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": true}}),
        ),
        with(
            "split-slow-regex",
            json!({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(e*e*)*x|(?=(o+)+$)"}, "behavior": "Removed", "invert": false}}),
        ),
        with(
            "byte-level",
            json!({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}, "decoder": {"type": "ByteLevel"}}),
        ),
        with(
            "metaspace",
            json!({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}, "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}}),
        ),
        with(
            "decoder-strip",
            json!({"decoder": {"type": "Strip", "content": "o", "start": 1_000_000, "stop": 1_000_000}}),
        ),
        with(
            "decoder-word-piece",
            json!({"decoder": {"type": "WordPiece", "prefix": "", "cleanup": true}}),
        ),
        with(
            "template-processing",
            json!({"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {}}}),
        ),
        with(
            "truncation",
            json!({"truncation": {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 512}}),
        ),
        with(
            "padding",
            json!({"padding": {"strategy": {"Fixed": 1_000_000_000}, "direction": "Left", "pad_to_multiple_of": 0, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}}),
        ),
    ];
    let nested = format!(
        "{}{}",
        "{\"type\":\"Sequence\",\"normalizers\":[".repeat(20_000),
        "]}".repeat(20_000)
    );
    let text = word_level().to_string();
    seeds.push(Seed::new(
        "normalizers-nested",
        text.replace("\"normalizer\":null", &format!("\"normalizer\":{nested}")),
    ));
    seeds.push(Seed::new(
        "key-twice",
        text.replacen(
            '{',
            "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]},",
            1,
        ),
    ));
    seeds
}
