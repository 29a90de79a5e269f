#!/usr/bin/env python3
"""Writes tiny random models of many families beside this file, and what Hugging Face transformers computes with them.

    pip install torch==2.11.0 transformers==5.23.0 tokenizers safetensors numpy
    python tests/families/make_families.py [name ...]

Every folder `<name>/` is a float32 checkpoint as transformers writes it, with a made-up tokenizer, and a reference as in `tests/golden`
(`make_golden.py` there describes it). In its reference.json

    hooks    are the hook points that the family has. In parallel blocks there is no stream between attention and MLP, hence no
             hook_resid_mid; a mixture of experts has no one mlp.hook_post

Hook points carry TransformerLens names and mean

    hook_embed                      the token's embedding, multiplied where the family does so, without learned positions
    hook_resid_pre, _mid, _post     the stream that enters the block, that lies between attention and MLP, that leaves the block
    attn.hook_z, mlp.hook_post      what the output projection of attention and the down projection of the MLP are given
    hook_attn_out, hook_mlp_out     what is added to the stream: after norms of the output, and after a multiplier of the residual
    ln_final.hook_normalized        the final norm's output before its gain and bias

An edit acts at what these mean, so that one of hook_resid_mid changes the stream itself and not only what the MLP is given.

Models are drawn anew, seed by seed, until no choice of theirs is close: the likeliest token after every pass, and the last expert that is
chosen against the first that is not. So a rounding in another order changes no token and no expert.

`gemma3_multimodal` has vision weights too, of a tower without layers; its reference is of text alone. `phi3_longrope` takes the long
factors for every position of a pass of more than 16 tokens, the short ones in a shorter pass: its first prompt stays short with all that is
generated, the second grows long while it is continued (and earlier keys are turned anew, as in `generate`), the third is long.
"""
import json
import pathlib
import sys
from functools import partial

import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "golden"))
from passes import EDITS, changed, forward, hook_name, reference, tokenizer  # noqa: E402

VOCAB = 40
DIMENSIONS = dict(
    vocab_size=VOCAB, hidden_size=16, intermediate_size=13, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, bos_token_id=None, eos_token_id=VOCAB - 1, pad_token_id=None,
)
EPS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
LENGTHS = (5, 13, 24)
SLIDING_FULL_SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]


def rope(theta=10000.0, **fields):
    return {"rope_type": "default", "rope_theta": theta, **fields}


GEMMA2 = dict(head_dim=6, query_pre_attn_scalar=5, sliding_window=7)
# Class of the model, its configuration's own fields.
MODELS = {
    "mistral_window": ("MistralForCausalLM", dict(sliding_window=8, rope_parameters=rope())),
    "mistral_full": ("MistralForCausalLM", dict(sliding_window=None, head_dim=6, rope_parameters=rope(1e6))),
    "qwen3": ("Qwen3ForCausalLM", dict(head_dim=6, tie_word_embeddings=True, rope_parameters=rope(1e6))),
    "qwen3_moe": ("Qwen3MoeForCausalLM", dict(
        head_dim=6, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True, moe_intermediate_size=4, mlp_only_layers=[1],
        tie_word_embeddings=True, rope_parameters=rope(1e6))),
    "mixtral": ("MixtralForCausalLM", dict(intermediate_size=5, num_local_experts=4, num_experts_per_tok=2, rope_parameters=rope(1e6))),
    "gemma": ("GemmaForCausalLM", dict(head_dim=6, rope_parameters=rope())),
    "gemma2": ("Gemma2ForCausalLM", dict(
        **GEMMA2, attn_logit_softcapping=1.5, final_logit_softcapping=2.0, layer_types=SLIDING_FULL_SLIDING, rope_parameters=rope())),
    "gemma3_text": ("Gemma3ForCausalLM", dict(**GEMMA2, layer_types=SLIDING_FULL_SLIDING, rope_parameters={
        "sliding_attention": rope(), "full_attention": rope(1e6)})),
    "gemma3_multimodal": ("Gemma3ForConditionalGeneration", dict(
        **GEMMA2, intermediate_size=9, layer_types=SLIDING_FULL_SLIDING, rope_parameters={
            "sliding_attention": rope(), "full_attention": rope(1e6, rope_type="linear", factor=8.0)})),
    "phi3": ("Phi3ForCausalLM", dict(
        num_attention_heads=2, num_key_value_heads=1, sliding_window=8, rope_parameters=rope(partial_rotary_factor=0.5))),
    "phi3_longrope": ("Phi3ForCausalLM", dict(
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True, original_max_position_embeddings=16, rope_parameters=rope(
            rope_type="longrope", partial_rotary_factor=0.75, short_factor=[1.0, 1.1, 1.3], long_factor=[1.5, 3.0, 7.0]))),
    "olmo2": ("Olmo2ForCausalLM", dict(rope_parameters=rope(500000.0))),
    "olmo3": ("Olmo3ForCausalLM", dict(sliding_window=7, layer_types=SLIDING_FULL_SLIDING, rope_parameters={
        "sliding_attention": rope(), "full_attention": rope(
            500000.0, rope_type="yarn", factor=4.0, original_max_position_embeddings=16, attention_factor=1.2,
            beta_fast=32.0, beta_slow=1.0)})),
    "granite": ("GraniteForCausalLM", dict(
        tie_word_embeddings=True, embedding_multiplier=6.0, residual_multiplier=0.35, attention_multiplier=0.3, logits_scaling=3.0,
        rope_parameters=rope())),
    "smollm3": ("SmolLM3ForCausalLM", dict(no_rope_layers=[1, 0, 1], rope_parameters=rope(2e6))),
    "stablelm_parallel": ("StableLmForCausalLM", dict(
        num_attention_heads=2, num_key_value_heads=1, use_parallel_residual=True, qk_layernorm=True,
        rope_parameters=rope(partial_rotary_factor=0.5))),
    "stablelm_serial": ("StableLmForCausalLM", dict(
        num_attention_heads=2, num_key_value_heads=1, use_qkv_bias=True, rope_parameters=rope(partial_rotary_factor=0.75))),
    "glm4": ("Glm4ForCausalLM", dict(intermediate_size=9, head_dim=6, rope_parameters=rope(partial_rotary_factor=0.7))),
    "cohere2": ("Cohere2ForCausalLM", dict(
        logit_scale=0.3, sliding_window=7, layer_types=SLIDING_FULL_SLIDING, rope_parameters=rope(50000.0))),
    "gpt2": ("GPT2LMHeadModel", dict(n_inner=17, max_position_embeddings=40)),
    "gpt_neox_parallel": ("GPTNeoXForCausalLM", dict(num_attention_heads=2, rope_parameters=rope(partial_rotary_factor=0.5))),
    "gpt_neox_serial": ("GPTNeoXForCausalLM", dict(
        num_attention_heads=2, use_parallel_residual=False, rope_parameters=rope(partial_rotary_factor=0.25))),
}
VISION = dict(
    model_type="siglip_vision_model", hidden_size=4, intermediate_size=3, num_hidden_layers=0, num_attention_heads=1, image_size=4,
    patch_size=2, vision_use_head=False,
)
# Where a block has what the hook points name, by paths of modules. `mid` is what reads the stream between attention and MLP.
LLAMA = dict(z="self_attn.o_proj", attn_out="self_attn", mid="post_attention_layernorm", post="mlp.down_proj", mlp_out="mlp")
GEMMA = LLAMA | dict(attn_out="post_attention_layernorm", mid="pre_feedforward_layernorm", mlp_out="post_feedforward_layernorm")
OLMO = GEMMA | dict(mid="mlp")
PLACES = {
    "gemma2": GEMMA, "gemma3_text": GEMMA, "olmo2": OLMO, "olmo3": OLMO,
    "glm4": LLAMA | dict(attn_out="post_self_attn_layernorm", mlp_out="post_mlp_layernorm"),
    "gpt2": dict(z="attn.c_proj", attn_out="attn", mid="ln_2", post="mlp.c_proj", mlp_out="mlp"),
    "gpt_neox": dict(z="attention.dense", attn_out="attention", mid="post_attention_layernorm", post="mlp.dense_4h_to_h", mlp_out="mlp"),
}
FAMILY_EDITS = EDITS + [("ablate", 1, "hook_resid_mid", 3, True, None), ("add", None, "hook_embed", 2, False, 5.0)]
CLOSE = 1e-3

torch.set_grad_enabled(False)
torch.set_num_threads(1)


class Close(Exception):
    """A choice that a rounding in another order could change, or a mixture of experts that leaves one out."""


def build(name, seed):
    """A model with every parameter drawn, so that no bias is 0 and no gain is 1."""
    class_name, fields = MODELS[name]
    model_class = getattr(transformers, class_name)
    config_class = model_class.config_class
    multimodal = class_name == "Gemma3ForConditionalGeneration"
    family = transformers.Gemma3TextConfig if multimodal else config_class
    known = lambda field: hasattr(family, field) or field in family.attribute_map
    fields = {field: value for field, value in DIMENSIONS.items() if known(field)} | {eps: 1e-4 for eps in EPS if known(eps)} | fields
    if multimodal:
        # The ids that stand for images are none of the tokenizer's.
        fields = dict(text_config=fields, vision_config=VISION, mm_tokens_per_image=1, image_token_index=VOCAB,
                      boi_token_index=VOCAB + 1, eoi_token_index=VOCAB + 2)
    config = config_class(**fields)
    config._attn_implementation = config._experts_implementation = "eager"
    model = model_class(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter_name, parameter in sorted(model.named_parameters()):
        drawn = torch.randn(parameter.shape, generator=generator)
        gain = ("norm" in parameter_name or ".ln_" in parameter_name) and parameter_name.endswith("weight")
        if gain and "gemma" in name:  # Their norms multiply by 1 + gain.
            parameter.copy_(0.2 * drawn)
        elif gain:
            parameter.copy_(1 + 0.2 * drawn)
        else:
            router = parameter_name.endswith("mlp.gate.weight")
            parameter.copy_((0.5 if router else 0.25) * drawn)
    return model


class Watched:
    """A model and where its hook points are."""

    def __init__(self, model):
        self.model, self.config = model, model.config.get_text_config()
        body = getattr(model.base_model, "language_model", model.base_model)
        self.embed = model.get_input_embeddings()
        self.blocks = body.h if hasattr(body, "h") else body.layers
        self.final = next(getattr(body, name) for name in ("norm", "final_layer_norm", "ln_f") if hasattr(body, name))
        self.points = self.find_points()
        for block in self.blocks:
            if hasattr(block.mlp, "experts"):
                block.mlp.gate.register_forward_hook(self.check_router)

    def find_points(self):
        """Hook point → (module, whether its input or output is the vector, what that is to be multiplied by)."""
        kind = self.config.model_type
        places = PLACES.get(kind, LLAMA)
        parallel = kind == "cohere2" or getattr(self.config, "use_parallel_residual", False)
        residual = getattr(self.config, "residual_multiplier", 1)
        points = {"hook_embed": (self.embed, "out", getattr(self.config, "embedding_multiplier", 1))}
        for l, block in enumerate(self.blocks):
            part = lambda place: block.get_submodule(places[place])
            points[f"blocks.{l}.hook_resid_pre"] = (block, "in", 1)
            points[f"blocks.{l}.attn.hook_z"] = (part("z"), "in", 1)
            points[f"blocks.{l}.hook_attn_out"] = (part("attn_out"), "out", residual)
            if not parallel:
                points[f"blocks.{l}.hook_resid_mid"] = (part("mid"), "in", 1)
            if not hasattr(block.mlp, "experts"):
                points[f"blocks.{l}.mlp.hook_post"] = (part("post"), "in", 1)
            points[f"blocks.{l}.hook_mlp_out"] = (part("mlp_out"), "out", residual)
            points[f"blocks.{l}.hook_resid_post"] = (block, "out", 1)
        return points

    def check_router(self, router, _, output):
        logits, _, chosen = output
        k = chosen.shape[-1]
        in_order = logits.sort(-1, descending=True).values
        if (in_order[:, k - 1] - in_order[:, k]).min() < CLOSE:
            raise Close

    def forward(self, ids, hooks=()):
        logits = forward(self.model, ids, hooks)
        first, second = logits[-1].topk(2).values
        if first - second < CLOSE * logits[-1].abs().max():
            raise Close
        return logits

    def read(self, ids):
        """Every hook point's vectors and the final norm's input, [pos, width], and the logits, [pos, vocab]."""
        kept = {}
        hooks = [(module, side, lambda x, name=name, factor=factor: kept.update({name: factor * x}))
                 for name, (module, side, factor) in self.points.items()]
        hooks.append((self.final, "in", lambda x: kept.update({"final": x.clone()})))
        return kept, self.forward(ids, hooks)

    def normalized(self, x):
        """What the final norm makes of x before its gain and bias."""
        eps = next(getattr(self.config, name) for name in EPS if hasattr(self.config, name))
        if not hasattr(self.config, "rms_norm_eps"):
            x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)

    def activations(self, ids, positions):
        kept, logits = self.read(ids)
        kept["ln_final.hook_normalized"] = self.normalized(kept.pop("final"))
        return {name: x[positions].clone() for name, x in kept.items()} | {"logits": logits[-1]}

    def edited(self, ids, edit, length, vector):
        _, layer, site, *_ = edit
        change = partial(changed, edit=edit, length=length, vector=vector)
        if site == "hook_resid_mid":
            # No module puts this stream out; what attention adds makes the difference.
            stream = []
            module, side, factor = self.points[hook_name(layer, "hook_attn_out")]
            hooks = [(self.blocks[layer], "in", lambda x: stream.append(x.clone())),
                     (module, side, lambda x: (change(stream[0] + factor * x) - stream[0]) / factor)]
        else:
            module, side, factor = self.points[hook_name(layer, site)]
            hooks = [(module, side, lambda x: change(factor * x) / factor)]
        return self.forward(ids, hooks)


def check(watched, ids):
    """That the hook points are what they are said to be."""
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
    plain = watched.model(torch.tensor([ids]), use_cache=False).logits[0]
    same = [(module, side, lambda x, factor=factor: factor * x / factor) for module, side, factor in watched.points.values()]
    close(watched.forward(ids, same), plain)
    kept, logits = watched.read(ids)
    close(logits, plain, rtol=0, atol=0)
    embedded = kept["hook_embed"]
    if watched.config.model_type == "gpt2":
        embedded = embedded + watched.model.transformer.wpe.weight[:len(ids)]
    at = lambda l, site: kept[hook_name(l, site)]
    streams = [at(l, "hook_resid_pre") for l in range(len(watched.blocks))] + [kept["final"]]
    close(streams[0], embedded)
    for l in range(len(watched.blocks)):
        mid = at(l, "hook_resid_pre") + at(l, "hook_attn_out")
        if hook_name(l, "hook_resid_mid") in kept:
            close(at(l, "hook_resid_mid"), mid)
        close(at(l, "hook_resid_post"), mid + at(l, "hook_mlp_out"))
        close(at(l, "hook_resid_post"), streams[l + 1])
    gain, bias = watched.final.weight, getattr(watched.final, "bias", None)
    if "gemma" in watched.config.model_type:
        gain = 1 + gain
    close(watched.normalized(kept["final"]) * gain + (0 if bias is None else bias), watched.final(kept["final"]))


def check_experts(watched, prompts):
    """That every expert is chosen somewhere, and the second choice counts."""
    for block in watched.blocks:
        if not hasattr(block.mlp, "experts"):
            continue
        outputs = []
        handle = block.mlp.gate.register_forward_hook(lambda _, __, output: outputs.append(output))
        for prompt in prompts:
            watched.forward(prompt["ids"])
        handle.remove()
        chosen = torch.cat([output[2] for output in outputs])
        weights = torch.cat([output[1] for output in outputs])
        if len(chosen.unique()) < watched.config.num_local_experts or weights[:, 1].mean() < 0.15:
            raise Close


def made(name, index):
    """The first seed's model and reference in which no choice is close."""
    for seed in range(index, 100_000, 100):
        try:
            watched = Watched(build(name, seed))
            edits = [edit for edit in FAMILY_EDITS if hook_name(edit[1], edit[2]) in watched.points]
            prompts, rows, tensors = reference(
                seed + 1, VOCAB, watched.config.hidden_size, LENGTHS, edits, watched.activations, watched.edited)
            check_experts(watched, prompts)
            for prompt in prompts:
                check(watched, prompt["ids"])
            return watched, prompts, rows, tensors, seed
        except Close:
            pass
    raise RuntimeError(f"{name}: every seed has a close choice")


def write(name, index):
    watched, prompts, rows, tensors, seed = made(name, index)
    model, folder = watched.model, HERE / name
    model.save_pretrained(folder)
    tokenizer(VOCAB).save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file(tensors, str(folder / "reference.safetensors"))
    parts = {"hooks": [*watched.points, "ln_final.hook_normalized"], "prompts": prompts, "edits": rows}
    lines = [f' "{key}": [\n  ' + ",\n  ".join(map(json.dumps, part)) + "\n ]" for key, part in parts.items()]
    (folder / "reference.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    reloaded = type(model).from_pretrained(folder, attn_implementation="eager", experts_implementation="eager")
    for i, prompt in enumerate(prompts):
        torch.testing.assert_close(forward(reloaded, prompt["ids"])[-1], tensors[f"p{i}.logits"], rtol=0, atol=0)
    print(name, "seed", seed, "bytes", sum(path.stat().st_size for path in folder.iterdir()), flush=True)


transformers.utils.logging.disable_progress_bar()
for index, name in enumerate(MODELS):
    if not sys.argv[1:] or name in sys.argv[1:]:
        write(name, index)
