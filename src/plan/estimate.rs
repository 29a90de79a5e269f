//! A rough estimate of time, so that a person can tell minutes from days. It is arithmetic divided by an assumed rate; nothing depends on it.

use crate::model::ModelConfig;
use crate::stages::Inputs;

use super::study::{StageSpec, models_with_prompts};

/// Multiply-adds per second and thread that float32 matrix products of these sizes reach on a common server CPU, times two.
const FLOPS_PER_THREAD: f64 = 5.0e10;
/// Share of the blocks that a cell of a sweep computes, on average: edits start somewhere between the first and the last.
const SHARE_OF_BLOCKS: f64 = 0.5;
/// Tokens of a prompt, on average; those of the chat template are computed once for all.
const TOKENS_PER_PROMPT: f64 = 16.0;

/// Seconds for a share (0 to 1) of what a stage would compute, prefills not included.
pub(super) fn stage(spec: &StageSpec, inputs: &Inputs, share: f64, threads: usize) -> f64 {
    let passes = share * spec.stage.cost(inputs).token_passes as f64;
    let needs = spec.stage.needs();
    let models = needs.models.iter();
    let models = models.filter_map(|name| inputs.models.get(&name.value));
    let parameters = models.map(|model| block_parameters(model.config()));
    let parameters = parameters.fold(0.0, f64::max);
    seconds(2.0 * parameters * SHARE_OF_BLOCKS * passes, threads)
}

/// Seconds for one prefill of every prompt of some stages on every model of theirs.
pub(super) fn prefills<'s>(
    stages: impl IntoIterator<Item = &'s StageSpec>,
    inputs: &Inputs,
    threads: usize,
) -> f64 {
    let asked = models_with_prompts(stages).into_iter();
    let mut flops = 0.0;
    for (model, sets) in asked.filter_map(|(name, sets)| Some((inputs.models.get(&name)?, sets))) {
        let of_a_prompt = 2.0 * block_parameters(model.config()) * TOKENS_PER_PROMPT;
        for set in sets.iter().filter_map(|name| inputs.prompts.get(name)) {
            flops += of_a_prompt * set.prompts.len() as f64;
        }
    }
    seconds(flops, threads)
}

fn seconds(flops: f64, threads: usize) -> f64 {
    flops / (FLOPS_PER_THREAD * threads.max(1) as f64)
}

/// Number of weights in the blocks that a position meets.
fn block_parameters(config: &ModelConfig) -> f64 {
    let attention = config.d_model * config.d_head * 2 * (config.n_heads + config.n_kv_heads);
    let layers = 0..config.n_layers;
    let neurons: usize = layers
        .map(|layer| config.family.neurons(config, layer))
        .sum();
    (config.n_layers * attention + 3 * config.d_model * neurons) as f64
}
