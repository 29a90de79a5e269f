//! Patching between models, between prompts and with itself.

use super::{largest, table};

#[test]
fn patching_instruct_into_base_brings_the_refusal_along() {
    let means = table("patch.mean").with(&[("split", "harmful")]);
    let of = |site: &str, layer: &str| {
        means
            .with(&[("site", site), ("layer", layer)])
            .only()
            .clone()
    };
    for layer in ["2", "3"] {
        let row = of("resid_pre", layer);
        // Both models read the stream in the same way, so nearly all of the difference comes over.
        assert!(row.number("mean_delta") > 5.0, "{row:?}");
        assert!((row.number("mean_recovery") - 1.0).abs() < 0.05, "{row:?}");
    }
    // The models' embeddings are the same, and the later layers move nothing.
    assert!(of("resid_pre", "0").number("mean_delta").abs() < 1e-4);
    assert!(of("attn_out", "3").number("mean_delta").abs() < 0.5);
    assert!(of("attn_out", "1").number("mean_delta") > 5.0);
}

#[test]
fn the_last_k_residual_curve_is_one_number() {
    let means = table("patch_last_k.mean").with(&[("split", "harmful")]);
    let curve = |site: &str| means.with(&[("site", site)]).numbers("mean_delta");
    let stream = curve("resid_post");
    assert_eq!(stream.len(), 4);
    assert!(
        stream
            .iter()
            .all(|delta| *delta == stream[0] && *delta > 5.0),
        "{stream:?}"
    );
    // The attention of the last two layers moves nothing; that of the third from the end moves r.
    let attention = curve("attn_out");
    assert!(
        attention[1].abs() < 0.5 && attention[2] > 5.0,
        "{attention:?}"
    );
}

/// A patched run computes from the patched place on, the plain one all at once: they agree to float32's rounding, 2e-6 for scores near 20.
#[test]
fn patching_a_model_with_itself_changes_nothing() {
    let deltas = table("patch_self").numbers("delta");
    assert_eq!(deltas.len(), 16 * 5 * 4);
    assert!(
        largest(deltas.iter().copied()) < 1e-5,
        "{}",
        largest(deltas)
    );
}

#[test]
fn patching_a_harmful_prompt_into_a_harmless_one_makes_it_refused() {
    let means = table("patch_prompts.mean");
    let at = |layer: &str| means.with(&[("layer", layer)]).only().clone();
    // Both prompts end with the same token, and nothing has been moved to it yet.
    assert!(at("0").number("mean_delta").abs() < 1e-4);
    assert!(at("1").number("mean_delta") > 1.0);
    assert!(at("3").number("mean_delta") > 10.0);
    assert!((at("3").number("mean_recovery") - 1.0).abs() < 0.05);
}
