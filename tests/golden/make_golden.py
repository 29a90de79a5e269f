#!/usr/bin/env python3
"""Writes tiny random models beside this file, and what Hugging Face transformers computes with them.

    pip install torch==2.11.0 transformers==5.23.0 tokenizers safetensors numpy
    python tests/golden/make_golden.py

Every folder `<name>/` is a float32 checkpoint as transformers writes it, with a made-up tokenizer, and

    reference.json         prompts (token ids), the positions that were kept, the edits of every edited run
    reference.safetensors  p{prompt}.{hook point} [2, width], p{prompt}.logits [vocab] (last position),
                           vector [d_model] (of the edits), e{edit}.logits [vocab], e{edit}.greedy [token] where it was continued

The numbers come from full, unpadded, uncached passes with forward hooks, one prompt at a time, in float32 on one thread.
Hook points carry TransformerLens names.
"""
import json
import pathlib
from functools import partial

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from passes import EDITS, changed, forward, hook_name, reference, tokenizer

HERE = pathlib.Path(__file__).parent
VOCAB, LAYERS = 64, 3
DIMENSIONS = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=24, num_hidden_layers=LAYERS, num_attention_heads=4,
    max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=None, eos_token_id=63, pad_token_id=None,
)
THETA = {"rope_theta": 10000.0}
MODELS = {
    "qwen2_untied": (Qwen2Config, dict(num_key_value_heads=2, tie_word_embeddings=False, rope_parameters={"rope_type": "default", **THETA})),
    "qwen2_tied": (Qwen2Config, dict(num_key_value_heads=1, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
    "qwen2_yarn": (Qwen2Config, dict(num_key_value_heads=4, tie_word_embeddings=False, rope_parameters={
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, **THETA})),
    "llama_llama3": (LlamaConfig, dict(num_key_value_heads=2, head_dim=12, tie_word_embeddings=False, rope_parameters={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16, **THETA})),
    "llama_linear": (LlamaConfig, dict(num_key_value_heads=4, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
        rope_parameters={"rope_type": "linear", "factor": 4.0, **THETA})),
}

torch.set_grad_enabled(False)
torch.set_num_threads(1)


def build(name, index):
    """A model with every parameter drawn, so that no bias is 0 and no gain is 1."""
    config_class, fields = MODELS[name]
    config = config_class(**DIMENSIONS, **fields)
    config._attn_implementation = "eager"
    model = (Qwen2ForCausalLM if config_class is Qwen2Config else LlamaForCausalLM)(config).float().eval()
    generator = torch.Generator().manual_seed(index)
    for parameter_name, parameter in sorted(model.named_parameters()):
        drawn = torch.randn(parameter.shape, generator=generator)
        gain = "norm" in parameter_name
        parameter.copy_(1 + 0.2 * drawn if gain else 0.25 * drawn)
    return model


def watched(model):
    """hook point → (module, whether its input or output is the vector)."""
    points = {"hook_embed": (model.model.embed_tokens, "out"), "final": (model.model.norm, "in")}
    for l, block in enumerate(model.model.layers):
        points |= {
            f"blocks.{l}.hook_resid_pre": (block, "in"), f"blocks.{l}.attn.hook_z": (block.self_attn.o_proj, "in"),
            f"blocks.{l}.hook_attn_out": (block.self_attn, "out"),
            f"blocks.{l}.hook_resid_mid": (block.post_attention_layernorm, "in"),
            f"blocks.{l}.mlp.hook_post": (block.mlp.down_proj, "in"), f"blocks.{l}.hook_mlp_out": (block.mlp, "out"),
            f"blocks.{l}.hook_resid_post": (block, "out"),
        }
    return points


def activations(model, ids, positions):
    kept = {}
    hooks = [(module, side, lambda x, name=name: kept.update({name: x[positions].clone()}))
             for name, (module, side) in watched(model).items()]
    logits = forward(model, ids, hooks)[-1]
    x = kept.pop("final")
    kept["ln_final.hook_normalized"] = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + model.config.rms_norm_eps)
    return kept | {"logits": logits}


def edited(model, ids, edit, length, vector):
    """Logits of a run with the edit, whose positions were counted from the end of the prompt's `length` tokens."""
    module, side = watched(model)[hook_name(edit[1], edit[2])]
    return forward(model, ids, [(module, side, lambda x: changed(x, edit, length, vector))])


def write(name, index):
    folder = HERE / name
    model = build(name, index)
    model.save_pretrained(folder)
    tokenizer(VOCAB).save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").unlink(missing_ok=True)
    prompts, edits, tensors = reference(100 + index, VOCAB, DIMENSIONS["hidden_size"], (5, 13, 70), EDITS,
                                        partial(activations, model), partial(edited, model))
    save_file(tensors, str(folder / "reference.safetensors"))
    (folder / "reference.json").write_text(json.dumps({"prompts": prompts, "edits": edits}, indent=1) + "\n")


for index, name in enumerate(MODELS):
    write(name, index)
