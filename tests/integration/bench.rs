//! How the benchmark counts arithmetic. The benchmark has no test harness of its own.

#[path = "../../benches/study/arithmetic.rs"]
#[allow(dead_code)]
mod arithmetic;

use std::sync::Arc;

use refusal_dial::inside::model::config::{Family, Llama, Rope, RopeScaling, Sizes};
use refusal_dial::inside::model::{
    Cell, Edit, HookPoint, Intervention, ModelConfig, Positions, Readout, Site, Tokens, Vector,
};

use arithmetic::{Rows, cell_of, prefill_of, prefill_of_shared, shared_tokens};

const N_LAYERS: usize = 4;

/// No two dimensions are equal, so that none can stand for another.
fn config() -> ModelConfig {
    let sizes = Sizes {
        d_model: 24,
        n_layers: N_LAYERS,
        n_heads: 6,
        n_kv_heads: 3,
        d_head: 10,
        d_mlp: 50,
        d_vocab: 7,
        tied_embeddings: true,
        context_length: 64,
        end_of_text: vec![],
    };
    let llama = Llama {
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: 1e4,
            scaling: RopeScaling::None,
        },
        qkv_bias: false,
        attention_output_bias: false,
        mlp_bias: false,
    };
    let family = Family::Llama(llama);
    ModelConfig { sizes, family }
}

fn patched(hooks: &[HookPoint], position: usize) -> Cell {
    let edits = hooks.iter().map(|&hook| Intervention {
        hook,
        positions: Positions::At(position),
        edit: Edit::Replace(Arc::new(Vector::new(vec![1.0]))),
    });
    let tokens = Arc::new(Tokens::new(vec![1, 2, 3, 4, 5]));
    let readout = Readout::LogProbabilities(Arc::new(vec![1]));
    Cell::new(
        blake3::hash(b""),
        tokens,
        edits.collect(),
        readout,
        N_LAYERS,
    )
}

fn at_last(layer: usize, site: Site) -> Rows {
    cell_of(&patched(&[HookPoint::block(layer, site)], 4), N_LAYERS)
}

#[test]
fn a_row_through_every_block_meets_every_weight_once() {
    let config = config();
    let matrices = config.parameter_shapes().into_iter();
    let weights: usize = matrices
        .filter(|(name, shape)| name.contains("layers") && shape.len() == 2)
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    let rows = Rows::of_blocks(N_LAYERS as f64);
    assert_eq!(rows.operations(&config), 2.0 * weights as f64);
    assert_eq!(rows.seconds(&config, |_| 2.0), weights as f64);
}

#[test]
fn what_prompts_share_is_counted_once() {
    let mut parts = prefill_of_shared(30, N_LAYERS);
    parts += prefill_of(45, 30, N_LAYERS);
    assert_eq!(parts, prefill_of(45, 0, N_LAYERS));
    // Of the last block, 44 positions need keys and values alone.
    let expected = [136.0, 44.0, 136.0, 136.0, 136.0, 0.0];
    assert_eq!(parts, Rows(expected));
}

#[test]
fn a_cell_needs_what_lies_above_its_edit() {
    assert_eq!(at_last(1, Site::ResidPre), Rows::of_blocks(3.0));
    assert_eq!(
        at_last(1, Site::AttnOut),
        Rows([2.0, 0.0, 2.0, 3.0, 3.0, 0.0])
    );
    assert_eq!(at_last(1, Site::MlpOut), Rows::of_blocks(2.0));
    assert_eq!(at_last(1, Site::ResidPost), Rows::of_blocks(2.0));
    assert_eq!(at_last(3, Site::ResidPost), Rows::default());
    let two_positions = patched(&[HookPoint::block(1, Site::ResidPre)], 3);
    assert_eq!(cell_of(&two_positions, N_LAYERS), Rows::of_blocks(6.0));
}

#[test]
fn what_is_replaced_need_not_be_computed() {
    let last_three = [1, 2, 3].map(|layer| HookPoint::block(layer, Site::MlpOut));
    let rows = cell_of(&patched(&last_three, 4), N_LAYERS);
    assert_eq!(rows, Rows([2.0, 0.0, 2.0, 0.0, 0.0, 0.0]));
    let both = [Site::AttnOut, Site::MlpOut].map(|site| HookPoint::block(2, site));
    assert_eq!(cell_of(&patched(&both, 4), N_LAYERS), Rows::of_blocks(1.0));
}

#[test]
fn shared_tokens_stop_before_the_end_of_any_prompt() {
    let shared = |prompts: &[&[u32]]| {
        let prompts: Vec<Arc<Tokens>> = prompts
            .iter()
            .map(|ids| Arc::new(Tokens::new(ids.to_vec())))
            .collect();
        shared_tokens(prompts.iter())
    };
    assert_eq!(shared(&[&[1, 2, 3, 9], &[1, 2, 4, 9]]), 2);
    assert_eq!(shared(&[&[1, 2, 3], &[1, 2, 3]]), 2);
    assert_eq!(shared(&[&[1, 2, 3, 4], &[1, 2]]), 1);
    assert_eq!(shared(&[&[1, 2]]), 1);
    assert_eq!(shared(&[]), 0);
}
