//! What `gpt2` and `gpt_neox` make of a file; expected is what transformers 5.23 makes of it.

use super::*;
use crate::model::families::{Gpt2, GptNeoX};

/// Nothing but what every file has.
fn bare_gpt2() -> Value {
    json!({"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 8})
}

fn bare_neox() -> Value {
    json!({
        "model_type": "gpt_neox", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 8, "vocab_size": 100,
    })
}

fn gpt2(changes: Value) -> (Sizes, Gpt2) {
    match read(&with(bare_gpt2(), changes)).unwrap() {
        ModelConfig {
            sizes,
            family: Family::Gpt2(gpt2),
        } => (sizes, gpt2),
        other => panic!("{other:?}"),
    }
}

fn gpt_neox(changes: Value) -> (Sizes, GptNeoX) {
    match read(&with(bare_neox(), changes)).unwrap() {
        ModelConfig {
            sizes,
            family: Family::GptNeoX(gpt_neox),
        } => (sizes, gpt_neox),
        other => panic!("{other:?}"),
    }
}

#[test]
fn gpt2_is_read_by_its_own_names() {
    let (sizes, plain) = gpt2(json!({}));
    let expected = Sizes {
        d_model: 64,
        n_layers: 3,
        n_heads: 8,
        n_kv_heads: 8,
        d_head: 8,
        d_mlp: 256,
        d_vocab: 50_257,
        tied_embeddings: true,
        context_length: 1024,
        end_of_text: vec![50_256],
    };
    assert_eq!(sizes, expected);
    let expected = Gpt2 {
        layer_norm_epsilon: 1e-5,
        activation: Activation::GeluTanh,
        scale_attn_weights: true,
        scale_attn_by_inverse_layer_idx: false,
    };
    assert_eq!(plain, expected);
    let (sizes, other) = gpt2(json!({
        "n_inner": 17, "n_positions": 40, "vocab_size": 100, "eos_token_id": null, "tie_word_embeddings": false,
        "activation_function": "gelu", "layer_norm_epsilon": 1e-4, "scale_attn_weights": false,
        "scale_attn_by_inverse_layer_idx": true, "n_ctx": 7,
    }));
    assert_eq!(
        (sizes.d_mlp, sizes.context_length, sizes.d_vocab),
        (17, 40, 100)
    );
    assert_eq!((sizes.tied_embeddings, sizes.end_of_text), (false, vec![]));
    let expected = Gpt2 {
        layer_norm_epsilon: 1e-4,
        activation: Activation::Gelu,
        scale_attn_weights: false,
        scale_attn_by_inverse_layer_idx: true,
    };
    assert_eq!(other, expected);
}

#[test]
fn gpt_neox_is_read_from_older_and_newer_files() {
    let (sizes, plain) = gpt_neox(json!({}));
    assert_eq!((sizes.d_head, sizes.context_length), (8, 2048));
    assert_eq!((sizes.tied_embeddings, sizes.end_of_text), (false, vec![2]));
    let rope = |theta| Rope {
        theta,
        scaling: RopeScaling::None,
    };
    let expected = GptNeoX {
        layer_norm_eps: 1e-5,
        activation: Activation::Gelu,
        rope: rope(10_000.0),
        rotary_width: 2,
        attention_bias: true,
        use_parallel_residual: true,
    };
    assert_eq!(plain, expected);
    let old = json!({"rotary_pct": 0.5, "rotary_emb_base": 5e4, "use_parallel_residual": false, "attention_bias": false});
    // As files of a few versions between have them.
    let both = with(
        old.clone(),
        json!({"rope_theta": 5e4, "partial_rotary_factor": 0.5}),
    );
    let new = json!({"rope_parameters": {"rope_theta": 5e4, "partial_rotary_factor": 0.5, "rope_type": "default"},
        "use_parallel_residual": false, "attention_bias": false});
    for changes in [old, both, new] {
        let (_, other) = gpt_neox(changes);
        let expected = GptNeoX {
            rope: rope(5e4),
            rotary_width: 4,
            attention_bias: false,
            use_parallel_residual: false,
            ..expected.clone()
        };
        assert_eq!(other, expected);
    }
}

#[test]
fn what_a_gpt_would_compute_otherwise_is_refused() {
    for (config, changes, expected) in [
        (
            bare_gpt2(),
            json!({"activation_function": "relu"}),
            "`activation_function` `relu`",
        ),
        (
            bare_gpt2(),
            json!({"add_cross_attention": true}),
            "`add_cross_attention` `true`",
        ),
        (
            bare_gpt2(),
            json!({"n_head": 7}),
            "`n_embd` is `64`, expected a multiple of `n_head`",
        ),
        (
            bare_gpt2(),
            json!({"n_layer": null}),
            "`n_layer` is missing",
        ),
        (
            bare_gpt2(),
            json!({"layer_norm_epsilon": 0.0}),
            "`layer_norm_epsilon` is `0`",
        ),
        (
            bare_neox(),
            json!({"hidden_act": "gelu_fast"}),
            "`hidden_act` `gelu_fast`",
        ),
        (
            bare_neox(),
            json!({"rope_theta": 5e4}),
            "`rope_theta` is `50000`, but `rotary_emb_base`, which is what counts for this family, is `10000`",
        ),
        (
            bare_neox(),
            json!({"partial_rotary_factor": 1.0}),
            "`partial_rotary_factor` is `1`, but `rotary_pct`",
        ),
        (
            bare_neox(),
            json!({"rotary_pct": 0.4}),
            "makes `3` of the `8` elements",
        ),
        (
            bare_neox(),
            json!({"num_key_value_heads": 2}),
            "`num_key_value_heads` is `2`, expected `8`",
        ),
        (bare_neox(), json!({"head_dim": 16}), "`head_dim` is `16`"),
        (bare_neox(), json!({"is_causal": false}), "`is_causal`"),
    ] {
        let message = read(&with(config, changes)).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}
