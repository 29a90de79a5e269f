#!/usr/bin/env python3
"""Writes beside this file a tiny model of twenty layers, and what the rule of COSMIC's code finds on it, computed with Hugging Face transformers.

    pip install torch==2.11.0 transformers==5.23.0 tokenizers safetensors numpy
    python tests/cosmic/make_cosmic.py

`select_direction_cosmic.py` and `run_pipeline_cosmic.py` of COSMIC (arXiv:2506.00085) at 29085039, with `--affine_steering false`, written anew: prompts
of one length in a batch, without padding, in float32 on one thread, with plain forward hooks, `hidden_states` as transformers gives them.

    config.json, model.safetensors, tokenizer.json
                    the model
    reference.json  `prompts` (half: that of the program's hash of ids; only those of `train` choose), `layers` (the cosine of the prompts that made the
                    directions at each layer, and whether it is one that is compared at), `max_kl`, and `candidates` in the order in which they were
                    tried: the two cosines, the divergence, why it is not taken (empty: it may be), and its place among the others

Models are drawn anew, seed by seed, until one of the layers that are compared at is the last, which is behind the final norm, no comparison that decides
anything is close, others would be left out if the medians were one, and the layers would be others on the prompts that
choose.
"""
import hashlib
import json
import pathlib
import sys

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "golden"))
from passes import tokenizer  # noqa: E402

LAYERS, D_MODEL, VOCAB = 20, 16, 40
POSITIONS = [-4, -3, -2, -1]
# At layer 0 nothing tells prompts apart at the last two tokens, which are the template's.
TRIED = list(range(1, LAYERS))
# Prompts of a side that make directions, and that the selection has.
MAKING, CHOOSING = 8, 12
# How close numbers may be that decide something.
CLOSE = 2e-5

torch.set_grad_enabled(False)
torch.set_num_threads(1)
logging.disable_progress_bar()


class Close(Exception):
    """Something that a rounding in another order could change, or a model that shows too little."""


def half(name):
    """Which half the program puts a prompt in, with `fraction = 0.5` and `seed = 0`."""
    number = int.from_bytes(hashlib.md5(f"0::{name}".encode()).digest(), "big") % 10**7 / 10**7
    return "holdout" if number < 0.5 else "train"


def drawn_prompts(generator):
    """Words of one half of the vocabulary are more frequent on one side."""
    prompts = []
    for split, count in (("made_a", MAKING), ("made_b", MAKING), ("harmful", CHOOSING), ("harmless", CHOOSING)):
        is_a = split in ("made_a", "harmful")
        for number in range(count):
            length = int(torch.randint(4, 8, (1,), generator=generator))
            turned = torch.rand(length, generator=generator) < 0.25
            words = torch.randint(4, 22, (length,), generator=generator) + 18 * (turned ^ (not is_a))
            name = f"{split}{number}"
            prompts.append({"id": name, "split": split, "half": half(name), "text": " ".join(f"w{word}" for word in words)})
    return prompts


def ids_of(prompt):
    """As the test's template has it: w1 PROMPT w2 w3."""
    return [1, *(int(word[1:]) for word in prompt["text"].split()), 2, 3]


def drawn_model(seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, intermediate_size=12, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, bos_token_id=None, eos_token_id=VOCAB - 1, pad_token_id=None)
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).float().eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
        elif "embed" in name:
            parameter.copy_(torch.randn_like(parameter))
        else:
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model


# --- passes ---


def ablation(model, direction):
    """Hooks that take a direction out of what enters each block and of what its attention and its MLP add."""
    unit = direction / (direction.norm() + 1e-8)
    without = lambda x: x - (x @ unit)[..., None] * unit

    def entering(_, given, named):
        return ((without(given[0]),) + given[1:], named) if given else (given, {**named, "hidden_states": without(named["hidden_states"])})

    def leaving(_, __, output):
        return (without(output[0]),) + output[1:] if isinstance(output, tuple) else without(output)
    handles = []
    for block in model.model.layers:
        handles.append(block.register_forward_pre_hook(entering, with_kwargs=True))
        handles += [part.register_forward_hook(leaving) for part in (block.self_attn, block.mlp)]
    return handles


def addition(model, layer, direction):
    """A hook that adds it to what enters a block."""
    def entering(_, given, named):
        return ((given[0] + direction,) + given[1:], named) if given else (given, {**named, "hidden_states": named["hidden_states"] + direction})
    return [model.model.layers[layer].register_forward_pre_hook(entering, with_kwargs=True)]


def in_batches(model, prompts, read):
    """What `read` takes of the model's outputs [row, ...] for each prompt, in order."""
    rows = [None] * len(prompts)
    for length in {len(ids_of(prompt)) for prompt in prompts}:
        places = [place for place, prompt in enumerate(prompts) if len(ids_of(prompt)) == length]
        output = model(torch.tensor([ids_of(prompts[place]) for place in places]), output_hidden_states=True, use_cache=False)
        for place, row in zip(places, read(output)):
            rows[place] = row
    return torch.stack(rows)


def passed(model, prompts, hooks=()):
    """What every block gives [prompt, layer, d_model] and the logits [prompt, vocab], both at the last token."""
    read = lambda output: torch.cat([*(x[:, -1] for x in output.hidden_states[1:]), output.logits[:, -1]], dim=1)
    try:
        both = in_batches(model, prompts, read)
    finally:
        for handle in hooks:
            handle.remove()
    streams, logits = both.split([LAYERS * D_MODEL, VOCAB], dim=1)
    return streams.view(-1, LAYERS, D_MODEL), logits


def entered(model, prompts):
    """What enters every block, at each of the positions: [prompt, position, layer, d_model]."""
    read = lambda output: torch.stack([torch.stack([x[:, position] for x in output.hidden_states[:-1]], 1) for position in POSITIONS], 1)
    return in_batches(model, prompts, read).double()


def cosine(a, b):
    return float((a / a.norm()) @ (b / b.norm()))


def divergence(plain, logits):
    p, q = plain.double().softmax(-1), logits.double().softmax(-1)
    return float((p * (torch.log(p + 1e-6) - torch.log(q + 1e-6))).sum(-1).mean())


# --- the rule ---


def least_alike(a, b):
    """The cosine at each layer, and the tenth of the layers where it is lowest."""
    alike = [cosine(a[:, layer].mean(0), b[:, layer].mean(0)) for layer in range(a.shape[1])]
    ranked = np.argsort(alike).tolist()
    return alike, ranked[:int(0.10 * len(alike))]


def filtered(scores, max_kl, medians):
    """(position, layer) → why it is not taken, and the others from the best on. `medians` are the two layers of the peaks."""
    reasons, sums = {}, []
    for position in POSITIONS:
        for layer in TRIED:
            bypass, induce, kl = scores[position, layer]
            if layer >= int(LAYERS * (1.0 - 0.2)):
                reasons[position, layer] = "one of the last layers"
            elif position == -1 and medians[0] < layer and medians[1] < layer:
                reasons[position, layer] = "beyond the peaks"
            elif kl > max_kl:
                reasons[position, layer] = "kl too high"
            else:
                sums.append((induce + bypass, position, layer))
    return reasons, [found[1:] for found in sorted(sums, key=lambda found: found[0], reverse=True)]


def medians_of(scores, positions):
    """The layers at which each cosine peaks at these positions, and their medians."""
    table = torch.full((2, len(positions), LAYERS), float("nan"), dtype=torch.float64)
    for place, position in enumerate(positions):
        for layer in TRIED:
            table[:, place, layer] = torch.tensor(scores[position, layer][:2], dtype=torch.float64)
    peaks = torch.argmax(torch.nan_to_num(table, nan=-float("inf")), dim=2)
    return peaks.flatten(), [int(torch.nanmedian(of)) for of in peaks]


def scored(model, streams, edited, divergences, layers):
    """(position, layer) → both cosines and the divergence, compared at these layers."""
    plain_a, plain_b = (streams[side][:, layers].mean((0, 1)) for side in ("harmful", "harmless"))
    return {
        key: (cosine(without[:, layers].mean((0, 1)), plain_b), cosine(with_it[:, layers].mean((0, 1)), plain_a), divergences[key])
        for key, (without, with_it) in edited.items()
    }


def is_close(numbers):
    numbers = sorted(numbers)
    return any(b - a < CLOSE for a, b in zip(numbers, numbers[1:]))


def reference(seed):
    model, prompts = drawn_model(seed), drawn_prompts(torch.Generator().manual_seed(seed))
    of = lambda split: [prompt for prompt in prompts if prompt["split"] == split]
    chooses = {split: [prompt for prompt in of(split) if prompt["half"] == "train"] for split in ("harmful", "harmless")}
    if min(len(of(split)) - len(some) for split, some in chooses.items()) < 1 or min(map(len, chooses.values())) < 4:
        raise Close
    made = entered(model, of("made_a")).mean(0) - entered(model, of("made_b")).mean(0)
    streams = {}
    for split in ("made_a", "made_b"):
        streams[split], _ = passed(model, of(split))
    logits = {}
    for split, some in chooses.items():
        streams[split], logits[split] = passed(model, some)
    alike, layers = least_alike(streams["made_a"], streams["made_b"])
    others = least_alike(streams["harmful"], streams["harmless"])[1]
    ranked = sorted(alike)
    if LAYERS - 1 not in layers or set(others) == set(layers) or ranked[len(layers)] - ranked[len(layers) - 1] < CLOSE:
        raise Close
    edited, divergences = {}, {}
    for place, position in enumerate(POSITIONS):
        for layer in TRIED:
            direction = made[place, layer].float()
            without, _ = passed(model, chooses["harmful"], ablation(model, direction))
            _, changed = passed(model, chooses["harmless"], ablation(model, direction))
            with_it, _ = passed(model, chooses["harmless"], addition(model, layer, direction))
            edited[position, layer] = without, with_it
            divergences[position, layer] = divergence(logits["harmless"], changed)
    max_kl = round(float(np.quantile(list(divergences.values()), 0.8)), 3)
    scores = scored(model, streams, edited, divergences, layers)
    peaks, medians = medians_of(scores, POSITIONS[:-1])
    reasons, kept = filtered(scores, max_kl, medians)
    # What would be left out with one median of all peaks.
    pooled = [int(peaks.double().quantile(0.5))] * 2
    if reasons == filtered(scores, max_kl, pooled)[0] or "beyond the peaks" not in reasons.values():
        raise Close
    sums = [sum(scores[key][:2]) for key in kept]
    if is_close(sums) or is_close([kl for *_, kl in scores.values() if abs(kl - max_kl) < 1e-3] + [max_kl]):
        raise Close
    for of_number in (0, 1):
        for position in POSITIONS[:-1]:
            two = sorted(scores[position, layer][of_number] for layer in TRIED)[-2:]
            if two[1] - two[0] < CLOSE:
                raise Close
    candidates = [
        {"position": position, "layer": layer, "bypass": round(scores[position, layer][0], 7), "induce": round(scores[position, layer][1], 7),
         "kl": round(scores[position, layer][2], 7), "discarded": reasons.get((position, layer), ""),
         "rank": kept.index((position, layer)) + 1 if (position, layer) in kept else None}
        for position in POSITIONS for layer in TRIED
    ]
    told = [{"layer": layer, "cosine": round(value, 7), "compared": layer in layers} for layer, value in enumerate(alike)]
    return model, {"prompts": prompts, "layers": told, "max_kl": max_kl, "candidates": candidates}


def write(model, described):
    model.save_pretrained(HERE)
    tokenizer(VOCAB).save(str(HERE / "tokenizer.json"))
    (HERE / "generation_config.json").unlink(missing_ok=True)
    parts = []
    for key, part in described.items():
        match part:
            case list():
                parts.append(f' "{key}": [\n  ' + ",\n  ".join(map(json.dumps, part)) + "\n ]")
            case _:
                parts.append(f' "{key}": {json.dumps(part)}')
    (HERE / "reference.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")


def main():
    for seed in range(10_000):
        try:
            model, described = reference(seed)
        except Close:
            continue
        write(model, described)
        print("seed", seed, [(path.name, path.stat().st_size) for path in sorted(HERE.iterdir())])
        return
    raise RuntimeError("every seed has a close choice")


if __name__ == "__main__":
    main()
