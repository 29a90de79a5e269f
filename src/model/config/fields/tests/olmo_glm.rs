//! What `olmo2`, `olmo3` and `glm4` make of a file; expected is what transformers 5.23 makes of it.

use super::*;
use crate::model::families::{Glm4, Olmo2, Olmo3};

/// Nothing but what every file has.
fn bare(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7,
        "num_attention_heads": 8, "vocab_size": 100,
    })
}

fn olmo2(config: &Value) -> (Sizes, Olmo2) {
    match read(config).unwrap() {
        ModelConfig {
            sizes,
            family: Family::Olmo2(olmo),
        } => (sizes, olmo),
        other => panic!("{other:?}"),
    }
}

fn olmo3(config: &Value) -> (Sizes, Olmo3) {
    match read(config).unwrap() {
        ModelConfig {
            sizes,
            family: Family::Olmo3(olmo),
        } => (sizes, olmo),
        other => panic!("{other:?}"),
    }
}

fn glm4(config: &Value) -> (Sizes, Glm4) {
    match read(config).unwrap() {
        ModelConfig {
            sizes,
            family: Family::Glm4(glm),
        } => (sizes, glm),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_defaults_of_olmo_and_glm_are_their_own() {
    let (sizes, olmo) = olmo2(&bare("olmo2"));
    assert_eq!(
        (sizes.n_kv_heads, sizes.d_head, sizes.context_length),
        (8, 8, 2048)
    );
    assert_eq!(
        (sizes.tied_embeddings, sizes.end_of_text),
        (false, vec![50_279])
    );
    assert_eq!(
        (olmo.blocks.rms_norm_eps, olmo.rope.theta),
        (1e-5, 10_000.0)
    );
    assert_eq!(
        (olmo.blocks.activation, olmo.blocks.attention_bias),
        (Activation::Silu, false)
    );

    let (_, olmo) = olmo3(&bare("olmo3"));
    let w = Some(4096);
    assert_eq!(olmo.windows, [w, w, w, None, w, w, w]);
    assert_eq!(
        (olmo.full_rope.theta, olmo.sliding_rope.theta),
        (500_000.0, 500_000.0)
    );

    let (sizes, glm) = glm4(&bare("glm4"));
    assert_eq!(
        (sizes.n_kv_heads, sizes.d_head, sizes.context_length),
        (2, 128, 131_072)
    );
    assert_eq!((sizes.tied_embeddings, glm.qkv_bias), (false, true));
    assert_eq!(
        (glm.rms_norm_eps, glm.rope.theta, glm.rotary_width),
        (1.5625e-7, 10_000.0, 64)
    );
    let ends = vec![151_329, 151_336, 151_338];
    assert_eq!(sizes.end_of_text, ends);
    let null = json!({"eos_token_id": null});
    assert_eq!(glm4(&with(bare("glm4"), null.clone())).0.end_of_text, ends);
    assert!(olmo2(&with(bare("olmo2"), null)).0.end_of_text.is_empty());
}

#[test]
fn what_older_olmo3_files_say_of_rope_is_of_layers_without_a_window() {
    let yarn = json!({"attention_factor": 1.2, "beta_fast": 32, "beta_slow": 1, "factor": 8.0,
        "original_max_position_embeddings": 8192, "rope_type": "yarn"});
    let old =
        json!({"max_position_embeddings": 65536, "rope_theta": 1e4, "rope_scaling": yarn.clone()});
    let new = json!({"max_position_embeddings": 65536, "rope_parameters": {
        "full_attention": with(yarn, json!({"rope_theta": 1e4})),
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
    }});
    let (_, old) = olmo3(&with(bare("olmo3"), old));
    assert_eq!(old, olmo3(&with(bare("olmo3"), new)).1);
    assert_eq!((old.full_rope.theta, old.sliding_rope.theta), (1e4, 5e5));
    assert_eq!(old.sliding_rope.scaling, RopeScaling::None);
    let expected = RopeScaling::Yarn {
        factor: 8.0,
        original_context_length: 8192,
        attention_factor: 1.2,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
    };
    assert_eq!(old.full_rope.scaling, expected);
}

#[test]
fn glm4_turns_the_share_of_a_head_that_stands_among_the_rope_parameters() {
    let width = |changes| glm4(&with(bare("glm4"), changes)).1.rotary_width;
    assert_eq!(width(json!({"partial_rotary_factor": 0.25})), 32);
    let both =
        json!({"partial_rotary_factor": 0.25, "rope_parameters": {"partial_rotary_factor": 0.75}});
    assert_eq!(width(both), 96);
    assert_eq!(
        width(json!({"head_dim": 6, "partial_rotary_factor": 0.7})),
        4
    );
}

#[test]
fn what_an_olmo_or_a_glm_would_compute_otherwise_is_refused() {
    let untruncated = json!({"rope_type": "yarn", "factor": 2.0, "truncate": false});
    for (model_type, changes, expected) in [
        (
            "olmo2",
            json!({"hidden_act": "relu"}),
            "`hidden_act` `relu`",
        ),
        ("olmo2", json!({"clip_qkv": 8.0}), "`clip_qkv` `8.0`"),
        (
            "olmo2",
            json!({"partial_rotary_factor": 0.5}),
            "`partial_rotary_factor` `0.5`",
        ),
        ("olmo2", json!({"is_causal": false}), "`is_causal` `false`"),
        (
            "olmo2",
            json!({"rms_norm_eps": 0.0}),
            "`rms_norm_eps` is `0`",
        ),
        (
            "olmo3",
            json!({"sliding_window": 0}),
            "`sliding_window` is `0`",
        ),
        (
            "olmo3",
            json!({"sliding_window": null}),
            "`sliding_window` is `null`",
        ),
        (
            "olmo3",
            json!({"rope_parameters": {"rope_type": "default"}}),
            "`rope_parameters` has `rope_type`",
        ),
        (
            "olmo3",
            json!({"rope_scaling": untruncated}),
            "`truncate` `false`",
        ),
        (
            "glm4",
            json!({"head_dim": 6, "partial_rotary_factor": 0.5}),
            "makes `3` of the `6` elements",
        ),
        (
            "glm4",
            json!({"partial_rotary_factor": 0.0}),
            "`partial_rotary_factor` is `0`, expected a number above 0",
        ),
        (
            "glm4",
            json!({"partial_rotary_factor": 1.5}),
            "`partial_rotary_factor` is `1.5`",
        ),
        (
            "glm4",
            json!({"partial_rotary_factor": 0.001}),
            "makes `0` of the `128` elements",
        ),
        ("glm4", json!({"num_experts": 8}), "`num_experts` `8`"),
    ] {
        let message = read(&with(bare(model_type), changes)).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}
