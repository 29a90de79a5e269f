//! What `gemma`, `gemma2`, `gemma3_text` and `gemma3` make of a file; expected is what transformers 5.23 makes of it.

use super::*;
use crate::model::families::{Gemma, Gemma2, Gemma3, Gemma3Text};

/// Nothing but what every file has.
fn bare(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7,
        "num_attention_heads": 16, "vocab_size": 100,
    })
}

fn multimodal(text: Value) -> Value {
    json!({"model_type": "gemma3", "text_config": text, "vision_config": {"num_hidden_layers": 27}})
}

fn gemma(config: &Value) -> (Sizes, Gemma) {
    match read(config).unwrap() {
        ModelConfig {
            sizes,
            family: Family::Gemma(gemma),
        } => (sizes, gemma),
        other => panic!("{other:?}"),
    }
}

fn gemma2(config: &Value) -> (Sizes, Gemma2) {
    match read(config).unwrap() {
        ModelConfig {
            sizes,
            family: Family::Gemma2(gemma),
        } => (sizes, gemma),
        other => panic!("{other:?}"),
    }
}

/// Of either model type.
fn gemma3(config: &Value) -> (Sizes, Gemma3Text) {
    let ModelConfig { sizes, family } = read(config).unwrap();
    match family {
        Family::Gemma3Text(gemma) | Family::Gemma3(Gemma3(gemma)) => (sizes, gemma),
        other => panic!("{other:?}"),
    }
}

fn refused(cases: &[(Value, Value, &str)]) {
    for (config, changes, expected) in cases {
        let message = read(&with(config.clone(), changes.clone())).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}

fn plain(theta: f64) -> Rope {
    Rope {
        theta,
        scaling: RopeScaling::None,
    }
}

/// Which layers attend to a window, as `s` and `f`.
fn pattern(windows: &[Option<usize>]) -> String {
    let letters = windows.iter();
    letters
        .map(|window| if window.is_some() { 's' } else { 'f' })
        .collect()
}

#[test]
fn the_defaults_of_each_gemma_are_its_own() {
    for (model_type, n_kv_heads, context_length) in [
        ("gemma", 16, 8192),
        ("gemma2", 4, 8192),
        ("gemma3_text", 4, 131_072),
    ] {
        let sizes = read(&bare(model_type)).unwrap().sizes;
        assert_eq!((sizes.n_kv_heads, sizes.d_head), (n_kv_heads, 256));
        assert_eq!(sizes.context_length, context_length);
        assert_eq!((sizes.tied_embeddings, sizes.end_of_text), (true, vec![1]));
    }
    let (_, first) = gemma(&bare("gemma"));
    let expected = Gemma {
        rms_norm_eps: 1e-6,
        rope: plain(10_000.0),
        activation: Activation::GeluTanh,
        attention_bias: false,
    };
    assert_eq!(first, expected);
    let (_, second) = gemma2(&bare("gemma2"));
    let caps = (
        second.attn_logit_softcapping,
        second.final_logit_softcapping,
    );
    assert_eq!(
        (second.query_pre_attn_scalar, caps),
        (256.0, (Some(50.0), Some(30.0)))
    );
    assert_eq!(
        (pattern(&second.windows), second.windows[0]),
        ("sfsfsfs".into(), Some(4096))
    );
    let (_, third) = gemma3(&bare("gemma3_text"));
    assert_eq!(
        (third.query_pre_attn_scalar, third.final_logit_softcapping),
        (256.0, None)
    );
    assert_eq!(
        (pattern(&third.windows), third.windows[0]),
        ("sssssfs".into(), Some(4096))
    );
    assert_eq!(
        (third.full_rope, third.sliding_rope),
        (plain(1e6), plain(1e4))
    );
}

#[test]
fn each_gemma_reads_its_own_name_of_the_activation() {
    let named = |model_type, name: &str, value: &str| {
        let config = with(bare(model_type), json!({name: value}));
        match read(&config).unwrap().family {
            Family::Gemma(gemma) => gemma.activation,
            Family::Gemma2(gemma) => gemma.activation,
            Family::Gemma3Text(gemma) => gemma.activation,
            other => panic!("{other:?}"),
        }
    };
    // The first files say `gelu` and mean the tanh form.
    assert_eq!(named("gemma", "hidden_act", "gelu"), Activation::GeluTanh);
    assert_eq!(named("gemma", "hidden_act", "silu"), Activation::Silu);
    assert_eq!(
        named("gemma", "hidden_activation", "silu"),
        Activation::GeluTanh
    );
    for later in ["gemma2", "gemma3_text"] {
        assert_eq!(named(later, "hidden_activation", "gelu"), Activation::Gelu);
        assert_eq!(named(later, "hidden_act", "silu"), Activation::GeluTanh);
    }
}

#[test]
fn null_takes_the_caps_of_gemma2_away() {
    let none = json!({"attn_logit_softcapping": null, "final_logit_softcapping": null});
    let (_, gemma) = gemma2(&with(bare("gemma2"), none));
    assert_eq!(
        (gemma.attn_logit_softcapping, gemma.final_logit_softcapping),
        (None, None)
    );
}

#[test]
fn layer_types_go_before_every_pattern() {
    let kinds = json!(["full_attention", "full_attention", "sliding_attention"]);
    let changes = json!({"num_hidden_layers": 3, "layer_types": kinds, "sliding_window": 7, "sliding_window_pattern": 2});
    let (_, second) = gemma2(&with(bare("gemma2"), changes.clone()));
    assert_eq!(second.windows, [None, None, Some(7)]);
    let (_, third) = gemma3(&with(bare("gemma3_text"), changes));
    assert_eq!(third.windows, [None, None, Some(7)]);
    let (_, third) = gemma3(&with(
        bare("gemma3_text"),
        json!({"sliding_window_pattern": 3}),
    ));
    assert_eq!(pattern(&third.windows), "ssfssfs");
    // Where no layer has a window, none is needed.
    let full =
        json!({"num_hidden_layers": 1, "layer_types": ["full_attention"], "sliding_window": null});
    assert_eq!(gemma2(&with(bare("gemma2"), full)).1.windows, [None]);
}

#[test]
fn gemma3_has_a_rope_for_each_kind_of_layers() {
    let linear = Rope {
        theta: 5e5,
        scaling: RopeScaling::Linear { factor: 8.0 },
    };
    let old = json!({"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}});
    let new = json!({"rope_parameters": {
        "full_attention": {"factor": 8.0, "rope_type": "linear", "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }});
    let half = json!({"rope_theta": 5e5, "rope_local_base_freq": 2e4,
        "rope_parameters": {"full_attention": {"factor": 8.0, "rope_type": "linear"}, "sliding_attention": null}});
    for changes in [old, new, half] {
        let (_, gemma) = gemma3(&with(bare("gemma3_text"), changes));
        assert_eq!(
            (gemma.full_rope, gemma.sliding_rope),
            (linear.clone(), plain(2e4))
        );
    }
}

#[test]
fn gemma3_that_sees_is_its_text_model() {
    // As the published files are: most stands nowhere.
    let text = json!({
        "model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "final_logit_softcapping": 3.0, "tie_word_embeddings": false,
    });
    let (sizes, gemma) = gemma3(&with(
        multimodal(text.clone()),
        json!({"eos_token_id": [1, 106]}),
    ));
    assert_eq!((sizes.n_heads, sizes.n_kv_heads, sizes.d_head), (8, 4, 256));
    assert_eq!((sizes.d_vocab, sizes.end_of_text), (262_208, vec![1, 106]));
    assert_eq!((gemma.windows[0], gemma.full_rope.theta), (Some(1024), 1e6));
    assert_eq!(gemma.full_rope.scaling, RopeScaling::Linear { factor: 8.0 });
    // The class around it has no cap, and the head is its own.
    assert_eq!(
        (gemma.final_logit_softcapping, sizes.tied_embeddings),
        (None, true)
    );
    let newer = with(text, json!({"eos_token_id": 5}));
    let untied = json!({"tie_word_embeddings": false});
    let (sizes, _) = gemma3(&with(multimodal(newer), untied));
    assert_eq!((sizes.end_of_text, sizes.tied_embeddings), (vec![5], false));
}

#[test]
fn what_a_gemma_would_compute_otherwise_is_refused() {
    let (first, second, third) = (bare("gemma"), bare("gemma2"), bare("gemma3_text"));
    let no_window = "`sliding_window` is `null`, expected a positive number of tokens";
    let flat =
        "`rope_parameters` has `rope_theta`, expected `full_attention` and `sliding_attention`";
    let bidirectional = json!({"use_bidirectional_attention": true});
    refused(&[
        (
            first.clone(),
            json!({"hidden_act": "relu"}),
            "`hidden_act` `relu`",
        ),
        (
            first.clone(),
            bidirectional.clone(),
            "`use_bidirectional_attention` `true`",
        ),
        (
            first.clone(),
            json!({"query_pre_attn_scalar": 100}),
            "`query_pre_attn_scalar` `100`",
        ),
        (first, json!({"head_dim": 5}), "expected an even number"),
        (
            second.clone(),
            json!({"hidden_activation": "relu"}),
            "`hidden_activation` `relu`",
        ),
        (
            second.clone(),
            json!({"sliding_window": 0}),
            "`sliding_window` is `0`",
        ),
        (second.clone(), json!({"sliding_window": null}), no_window),
        (
            second.clone(),
            json!({"layer_types": ["full_attention"]}),
            "has `1` entries, expected `7`",
        ),
        (
            second.clone(),
            json!({"layer_types": vec!["chunked_attention"; 7]}),
            "`chunked_attention` in `layer_types`",
        ),
        (
            second.clone(),
            json!({"attn_logit_softcapping": 0.0}),
            "`attn_logit_softcapping` is `0`",
        ),
        (
            second.clone(),
            json!({"query_pre_attn_scalar": -1}),
            "`query_pre_attn_scalar` is `-1`",
        ),
        (
            second,
            json!({"num_hidden_layers": 1u64 << 60}),
            "`num_hidden_layers` is",
        ),
        (
            third.clone(),
            bidirectional.clone(),
            "`use_bidirectional_attention` `true`",
        ),
        (
            third.clone(),
            json!({"rope_parameters": {"rope_theta": 5.0}}),
            flat,
        ),
        (
            third.clone(),
            json!({"rope_theta": 5.0, "rope_parameters": {"full_attention": {"rope_theta": 6.0}}}),
            "given twice",
        ),
        (
            third.clone(),
            json!({"rope_scaling": {"rope_type": "longrope"}}),
            "rope type `longrope`",
        ),
        (
            third.clone(),
            json!({"partial_rotary_factor": 0.5}),
            "`partial_rotary_factor` `0.5`",
        ),
        (
            third.clone(),
            json!({"sliding_window_pattern": 0}),
            "`sliding_window_pattern` is `0`",
        ),
        (
            multimodal(with(third.clone(), bidirectional)),
            json!({}),
            "`use_bidirectional_attention` `true`",
        ),
        (
            multimodal(bare("gemma3n_text")),
            json!({}),
            "`model_type` `gemma3n_text` in `text_config`",
        ),
        (
            multimodal(Value::Null),
            json!({}),
            "`text_config` is missing",
        ),
        (
            multimodal(third),
            json!({"architectures": ["Gemma3ForSequenceClassification"]}),
            "`Gemma3ForConditionalGeneration`",
        ),
    ]);
}
