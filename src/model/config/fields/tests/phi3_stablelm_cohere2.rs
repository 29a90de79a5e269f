//! What `phi3`, `stablelm` and `cohere2` make of a file; expected is what transformers 5.23 makes of it.

use super::*;
use crate::model::families::{Cohere2, Phi3, StableLm};

/// Nothing but what every file has.
fn bare(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5,
        "num_attention_heads": 8, "vocab_size": 100,
    })
}

fn phi3(changes: Value) -> (ModelConfig, Phi3) {
    let config = read(&with(bare("phi3"), changes)).unwrap();
    match config.family.clone() {
        Family::Phi3(phi3) => (config, phi3),
        other => panic!("{other:?}"),
    }
}

fn stablelm(changes: Value) -> (ModelConfig, StableLm) {
    let config = read(&with(bare("stablelm"), changes)).unwrap();
    match config.family.clone() {
        Family::StableLm(stablelm) => (config, stablelm),
        other => panic!("{other:?}"),
    }
}

fn cohere2(changes: Value) -> (ModelConfig, Cohere2) {
    let config = read(&with(bare("cohere2"), changes)).unwrap();
    match config.family.clone() {
        Family::Cohere2(cohere2) => (config, cohere2),
        other => panic!("{other:?}"),
    }
}

fn plain(theta: f64) -> Rope {
    Rope {
        theta,
        scaling: RopeScaling::None,
    }
}

/// Of heads of 8, all of which turn.
fn longrope() -> Value {
    json!({"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]})
}

#[test]
fn the_defaults_of_phi3_stablelm_and_cohere2_are_their_own() {
    let (config, phi) = phi3(json!({}));
    assert_eq!((config.n_kv_heads, config.context_length), (8, 4096));
    assert_eq!(
        (config.tied_embeddings, &config.end_of_text),
        (false, &vec![32_000])
    );
    let expected = Phi3 {
        rms_norm_eps: 1e-5,
        activation: Activation::Silu,
        rope: plain(10_000.0),
        rotary_width: 8,
        sliding_window: None,
    };
    assert_eq!(phi, expected);

    let (config, stable) = stablelm(json!({"num_attention_heads": 32, "hidden_size": 256}));
    assert_eq!((config.n_kv_heads, config.context_length), (32, 4096));
    assert_eq!(
        (config.tied_embeddings, &config.end_of_text),
        (false, &vec![0])
    );
    let expected = StableLm {
        layer_norm_eps: 1e-5,
        activation: Activation::Silu,
        rope: plain(10_000.0),
        rotary_width: 2,
        use_qkv_bias: false,
        qk_layernorm: false,
        use_parallel_residual: false,
    };
    assert_eq!(stable, expected);

    let (config, cohere) = cohere2(json!({}));
    assert_eq!((config.n_kv_heads, config.context_length), (8, 8192));
    assert_eq!(
        (config.tied_embeddings, &config.end_of_text),
        (true, &vec![255_001])
    );
    let window = Some(4096);
    let expected = Cohere2 {
        layer_norm_eps: 1e-5,
        activation: Activation::Silu,
        rope: plain(10_000.0),
        windows: vec![window, window, window, None, window],
        attention_bias: false,
        logit_scale: 0.0625,
    };
    assert_eq!(cohere, expected);
}

#[test]
fn older_and_newer_files_say_the_same() {
    let old = json!({"partial_rotary_factor": 0.5, "rope_theta": 5e4, "num_key_value_heads": 4});
    let new = json!({"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 5e4, "rope_type": "default"},
        "num_key_value_heads": 4});
    for changes in [old, new] {
        let (_, phi) = phi3(changes.clone());
        assert_eq!((phi.rope, phi.rotary_width), (plain(5e4), 4));
        let (_, stable) = stablelm(changes);
        assert_eq!((stable.rope, stable.rotary_width), (plain(5e4), 4));
    }
    let kinds = json!([
        "full_attention",
        "full_attention",
        "sliding_attention",
        "full_attention",
        "full_attention"
    ]);
    let listed = json!({"layer_types": kinds, "sliding_window": 7, "sliding_window_pattern": 2});
    let w = Some(7);
    assert_eq!(cohere2(listed).1.windows, [None, None, w, None, None]);
    let pattern = json!({"sliding_window": 7, "sliding_window_pattern": 2});
    assert_eq!(cohere2(pattern).1.windows, [w, None, w, None, w]);
    // Nothing reads these in the published files.
    let published = json!({"rotary_pct": 1.0, "use_parallel_block": true, "position_embedding_type": "rope_gptj"});
    assert_eq!(cohere2(published), cohere2(json!({})));
}

#[test]
fn phi3_of_long_contexts_has_two_lists_of_factors() {
    let changes = json!({"max_position_embeddings": 131_072, "rope_scaling": longrope(), "original_max_position_embeddings": 4096});
    let (config, phi) = phi3(changes.clone());
    assert_eq!((config.context_length, phi.rotary_width), (131_072, 8));
    let RopeScaling::LongRope {
        short_factor,
        long_factor,
        original_context_length,
        attention_factor,
    } = phi.rope.scaling
    else {
        panic!("{:?}", phi.rope);
    };
    assert_eq!(short_factor, [1.0, 1.1, 1.2, 1.3]);
    assert_eq!(long_factor, [2.0, 3.0, 4.0, 5.0]);
    assert_eq!(original_context_length, 4096);
    assert!((attention_factor - 1.190_238_071_423_808).abs() < 1e-12);

    // Each of these changes some number, so that it is another model.
    let form = |changes| serde_json::to_string(&phi3(changes).0).unwrap();
    let scaled = |lists| json!({"rope_scaling": with(longrope(), lists)});
    let (one, original) = (form(changes.clone()), "original_max_position_embeddings");
    for other in [
        scaled(json!({"short_factor": [1.0, 1.1, 1.2, 1.4]})),
        scaled(json!({"long_factor": [2.0, 3.0, 4.0, 5.5]})),
        json!({original: 4095}),
        json!({"max_position_embeddings": 131_071}),
    ] {
        assert_ne!(form(with(changes.clone(), other.clone())), one, "{other}");
    }

    let attention_factor = |changes| match phi3(changes).1.rope.scaling {
        RopeScaling::LongRope {
            attention_factor, ..
        } => attention_factor,
        other => panic!("{other:?}"),
    };
    let given = with(longrope(), json!({"attention_factor": 1.5, "factor": 9.0}));
    let given = json!({"max_position_embeddings": 8192, "rope_scaling": given});
    assert_eq!(attention_factor(given), 1.5);
    let factor = json!({"max_position_embeddings": 8192, "rope_scaling": with(longrope(), json!({"factor": 4096.0}))});
    assert_eq!(attention_factor(factor), 2f64.sqrt());
    // Of a context that is not longer than the original.
    let short = json!({"max_position_embeddings": 2048, "rope_parameters": longrope()});
    assert_eq!(attention_factor(short.clone()), 1.0);
    assert_eq!(phi3(short).0.context_length, 2048);
}

#[test]
fn what_would_be_computed_otherwise_is_refused() {
    let rope = |changes| json!({"rope_scaling": with(longrope(), changes)});
    for (model_type, changes, expected) in [
        (
            "phi3",
            json!({"sliding_window": 0}),
            "`sliding_window` is `0`",
        ),
        (
            "phi3",
            rope(json!({"type": "su"})),
            "rope type `su` is not supported (supported: `default`, `longrope`)",
        ),
        (
            "phi3",
            json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
            "rope type `linear`",
        ),
        (
            "phi3",
            rope(json!({"type": "default"})),
            "of type `default`, so that `short_factor`",
        ),
        (
            "phi3",
            rope(json!({"short_factor": [1.0]})),
            "`short_factor` has `1` numbers, expected `4`",
        ),
        (
            "phi3",
            rope(json!({"long_factor": [2.0, 3.0, 4.0, 5.0, 6.0]})),
            "`long_factor` has `5` numbers, expected `4`",
        ),
        (
            "phi3",
            rope(json!({"long_factor": [2.0, 3.0, -4.0, 5.0]})),
            "rope `long_factor` is `-4`",
        ),
        (
            "phi3",
            with(
                rope(json!({})),
                json!({"original_max_position_embeddings": 0}),
            ),
            "rope `original_max_position_embeddings` is `0`",
        ),
        (
            "phi3",
            rope(json!({"long_factor": null})),
            "`long_factor` is missing",
        ),
        (
            "phi3",
            rope(json!({"short_factor": null})),
            "`short_factor` is missing",
        ),
        (
            "phi3",
            rope(json!({"short_factor": [1.0, 0.0, 1.0, 1.0]})),
            "rope `short_factor` is `0`",
        ),
        (
            "phi3",
            rope(json!({"short_mscale": 1.1})),
            "rope parameter `short_mscale`",
        ),
        (
            "phi3",
            rope(json!({"beta_fast": 1.1})),
            "rope parameter `beta_fast`",
        ),
        (
            "phi3",
            rope(json!({"original_max_position_embeddings": 8})),
            "`original_max_position_embeddings` is `8` among the rope parameters, but `4096`",
        ),
        (
            "phi3",
            json!({"partial_rotary_factor": 0.4}),
            "makes `3` of the `8` elements",
        ),
        (
            "stablelm",
            json!({"hidden_act": "relu"}),
            "`hidden_act` `relu`",
        ),
        (
            "stablelm",
            json!({}),
            "expected a multiple of `num_key_value_heads`, which is `32`",
        ),
        (
            "stablelm",
            json!({"num_key_value_heads": 8, "head_dim": 16}),
            "`head_dim` is `16`",
        ),
        (
            "cohere2",
            json!({"sliding_window": null}),
            "`sliding_window` is `null`",
        ),
        (
            "cohere2",
            json!({"sliding_window_pattern": 0}),
            "`sliding_window_pattern` is `0`",
        ),
        (
            "cohere2",
            json!({"layer_types": ["full_attention"]}),
            "has `1` entries, expected `5`",
        ),
        ("cohere2", json!({"use_qk_norm": true}), "`use_qk_norm`"),
        (
            "cohere2",
            json!({"logit_scale": 0.0}),
            "`logit_scale` is `0`",
        ),
        (
            "cohere2",
            json!({"num_hidden_layers": 1u64 << 60}),
            "`num_hidden_layers` is",
        ),
    ] {
        let message = read(&with(bare(model_type), changes)).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}
