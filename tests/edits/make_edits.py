#!/usr/bin/env python3
"""Writes beside this file what Hugging Face transformers computes with edits of every kind, at every selection of positions, read in every way.

    pip install torch==2.11.0 transformers==5.23.0 safetensors numpy
    python tests/edits/make_edits.py

The models are two unlike ones of `tests/families`: `mistral_full` (rotary positions, grouped queries, gated MLP) and `gpt2` (learned
positions, biases, tied embeddings). Every number is of a full, unpadded, uncached pass of one prompt in float32 on one thread, with plain
forward hooks; each edit is written as its paper defines it, with the projection as a matrix, and not as the program forms it.

    reference.json          what was done: `prompts` (ids, and how many of them are a start that several share), `selections`, `edits`,
                            `cases`, `reads`; and per model and prompt, by case: `log_odds`, `continuation`, `continuation_edited`,
                            `divergence` ([nats, nats with 1e-6 in both logarithms, whether the most probable token is the same]), and, of
                            the cases that name it, `greedy`; `certain` are the log-odds of every token, unedited
    reference.safetensors   the vectors that `edits` name [d_model]; {model}.p{prompt}.logits [case, vocab] of the last position,
                            .earlier, .last and .mean [case, d_model], which `reads` say

A selection is a list of half-open windows, counted from the front where they are not negative and from the prompt's end where they are; null
is that end. Generated tokens are edited in `continuation_edited` and `greedy` alone, where every window that reaches the prompt's end goes on.
Edits of one case are made in their order. Every number of an edit is in the units in which the program takes it.

Vectors and prompts are drawn anew, seed by seed, until no choice of a greedy text is close, so that a rounding in another order changes no
token, and until every edit changes something.
"""
import json
import math
import pathlib

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
FAMILIES = HERE.parent / "families"
MODELS = ("mistral_full", "gpt2")
LAYERS, D_MODEL, VOCAB = 3, 16, 40
GREEDY = 6
# How near the second logit of a choice may be, of the largest.
CLOSE = 1e-4

SELECTIONS = {
    "last": [[-1, None]],
    "earlier": [[-4, -3]],
    "last_five": [[-5, None]],
    "but_first": [[1, None]],
    "all": [[0, None]],
    "both_ends": [[0, 2], [-2, None]],
}
SITES = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")
# What the activations of the safetensors are: a hook point and a position counted from the prompt's end, or the mean over the prompt.
READS = {"earlier": ("blocks.1.hook_resid_post", -3), "last": ("blocks.2.hook_mlp_out", -1), "mean": ("blocks.2.hook_resid_pre", None)}
TOKENS = [3, 17, 21]
CONTINUATION = [11, 30, 5]

torch.set_grad_enabled(False)
torch.set_num_threads(1)


class Close(Exception):
    """A choice that a rounding in another order could change, or an edit that changes next to nothing."""


# --- edits ---


def projection(columns):
    """The orthogonal projection onto the span of these columns, by the normal equations."""
    return columns @ torch.linalg.inv(columns.T @ columns) @ columns.T


def made_edits(generator):
    """Name → (what it does to x [pos, d_model], how the program is told), and the vectors that the latter names."""
    randn = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    v = randn(D_MODEL)
    v /= v.norm()
    # Two directions that are not orthogonal, and a basis of what they span.
    pair = randn(D_MODEL, 2)
    pair[:, 1] += pair[:, 0]
    basis, _ = torch.linalg.qr(pair)
    plane, _ = torch.linalg.qr(randn(D_MODEL, 2))
    # What an affine edit brings back, and how far it then steers.
    mean, alpha = randn(D_MODEL), 1.5
    # Two classes of vectors, for LEACE of a binary concept: r(x) = x − P (x − mean of all), with P = δ δᵀΣ⁻¹ / (δᵀΣ⁻¹δ).
    classes = randn(2, 40, D_MODEL) @ randn(D_MODEL, D_MODEL) / 3
    classes[1] += 1.5 * randn(D_MODEL)
    both = classes.flatten(0, 1)
    delta = classes[1].mean(0) - classes[0].mean(0)
    centre = both.mean(0)
    within = torch.linalg.solve(torch.cov(both.T), delta)
    erasing = torch.outer(delta, within) / (within @ delta)

    single = lambda x: x.float()
    span_of, line, flat = single(projection(pair)), single(projection(v[:, None])), single(projection(plane))
    v32, mean32, centre32, erasing32 = map(single, (v, mean, centre, erasing))
    first, second = single(plane[:, 0]), single(plane[:, 1])

    def turned(x, degrees):
        angle = math.radians(degrees)
        inside = x @ flat.T
        target = math.cos(angle) * first + math.sin(angle) * second
        return x - inside + inside.norm(dim=-1, keepdim=True) * target

    edits = {
        "add": (lambda x: x + 4.0 * v32, {"kind": "add", "vectors": ["v"], "number": 4.0}),
        "ablate": (lambda x: x - x @ line.T, {"kind": "ablate", "vectors": ["v"]}),
        "ablate_span": (lambda x: x - x @ span_of.T, {"kind": "ablate_span", "vectors": ["span_0", "span_1"]}),
        "affine": (lambda x: x - x @ line.T + mean32 @ line.T + alpha * v32,
                   {"kind": "set_level", "vectors": ["v", "v"], "number": float(mean @ v) + alpha}),
        "erase": (lambda x: x - (x - centre32) @ erasing32.T,
                  {"kind": "set_level", "vectors": ["read", "write"], "number": float(within @ centre / (within @ delta))}),
        "rotate": (lambda x: turned(x, 200.0), {"kind": "rotate", "vectors": ["first", "second"], "number": 200.0}),
    }
    vectors = {
        "v": v, "span_0": basis[:, 0], "span_1": basis[:, 1], "read": within / (within @ delta), "write": delta,
        "first": plane[:, 0], "second": plane[:, 1],
    }
    return edits, {name: single(vector).contiguous().clone() for name, vector in vectors.items()}


def made_cases(edits):
    """A list of (what is done, in order: (hook point, selection, edit); whether text is generated)."""
    cases = [([(f"blocks.1.{site}", selection, edit)], selection == "all")
             for edit in edits for site in SITES for selection in ("last", "earlier", "last_five", "but_first", "all")]
    for edit in ("ablate", "ablate_span", "affine"):
        cases.append(([(f"blocks.{layer}.{site}", "all", edit) for layer in range(LAYERS) for site in SITES], True))
    cases += [
        # Ranges with a gap.
        ([("blocks.1.hook_resid_pre", "both_ends", "add")], True),
        ([("blocks.0.hook_attn_out", "both_ends", "erase")], False),
        # At two layers.
        ([("blocks.0.hook_mlp_out", "all", "add"), ("blocks.2.hook_resid_pre", "last", "ablate")], True),
        ([("blocks.1.hook_attn_out", "but_first", "erase"), ("blocks.2.hook_mlp_out", "last_five", "rotate")], False),
        # At one place, in both orders.
        ([("blocks.1.hook_resid_pre", "all", "add"), ("blocks.1.hook_resid_pre", "all", "ablate")], True),
        ([("blocks.1.hook_resid_pre", "all", "ablate"), ("blocks.1.hook_resid_pre", "all", "add")], True),
        ([("blocks.1.hook_mlp_out", "last", "rotate"), ("blocks.1.hook_mlp_out", "last", "affine")], False),
        ([("blocks.1.hook_mlp_out", "last", "affine"), ("blocks.1.hook_mlp_out", "last", "rotate")], False),
        # At one place, of which the one selection overlaps the other.
        ([("blocks.1.hook_attn_out", "last_five", "ablate_span"), ("blocks.1.hook_attn_out", "last", "add")], True),
        ([("blocks.1.hook_attn_out", "earlier", "add"), ("blocks.1.hook_attn_out", "last_five", "affine")], False),
    ]
    return cases


# --- passes ---


class Pass:
    """A model, and what is edited and read while it reads one prompt."""

    def __init__(self, model):
        self.model = model
        body = model.base_model
        self.blocks = body.h if hasattr(body, "h") else body.layers

    def module(self, hook):
        """The module that has a hook point, and whether it is what goes in."""
        _, layer, site = hook.split(".")
        block = self.blocks[int(layer)]
        attention = block.attn if hasattr(block, "attn") else block.self_attn
        return {"hook_resid_pre": (block, True), "hook_resid_post": (block, False), "hook_attn_out": (attention, False),
                "hook_mlp_out": (block.mlp, False)}[site]

    def on(self, hook, function):
        """Lets `function` change (or just see) x [pos, width] at a hook point."""
        module, goes_in = self.module(hook)
        if goes_in:
            return module.register_forward_pre_hook(lambda _, given: (function(given[0][0])[None],) + given[1:])

        def leaving(_, __, output):
            if isinstance(output, tuple):
                return (function(output[0][0])[None],) + output[1:]
            return function(output[0])[None]
        return module.register_forward_hook(leaving)

    def run(self, ids, done, reads=()):
        """Logits [pos, vocab], and what was read, with what is `done`: (hook point, positions, function) in order."""
        kept, handles = {}, []
        for hook, positions, function in done:
            def change(x, positions=positions, function=function):
                x = x.clone()
                for position in positions:
                    x[position] = function(x[position][None])[0]
                return x
            handles.append(self.on(hook, change))
        for name, (hook, position) in reads:
            def see(x, name=name, position=position):
                kept[name] = x.double().mean(0).float() if position is None else x[position].clone()
                return x
            handles.append(self.on(hook, see))
        logits = self.model(torch.tensor([ids]), use_cache=False).logits[0]
        for handle in handles:
            handle.remove()
        return logits, kept


def chosen(selection, length, total, goes_on):
    """The positions of a selection in a prompt of `length` tokens, of which with what follows there are `total`."""
    positions = []
    for start, end in SELECTIONS[selection]:
        start = start if start >= 0 else length + start
        reaches_end = end is None
        end = length if reaches_end else end if end >= 0 else length + end
        positions += range(start, total if reaches_end and goes_on else end)
    return sorted(set(positions))


def log_odds(logits, tokens=TOKENS):
    """refusal_direction's score, as it is computed there."""
    probabilities = torch.nn.functional.softmax(logits.double(), dim=-1)
    named = probabilities[tokens].sum()
    return float(torch.log(named + 1e-8) - torch.log(torch.ones_like(named) - named + 1e-8))


def divergence(plain, logits):
    """KL of the unedited to the edited next token, as papers write it and as refusal_direction computes it; and whether the first is the same."""
    p, q = (torch.softmax(of.double(), -1) for of in (plain, logits))
    written = torch.nn.functional.kl_div(torch.log_softmax(logits.double(), -1), p, reduction="sum")
    computed = (p * (torch.log(p + 1e-6) - torch.log(q + 1e-6))).sum()
    return [round(float(written), 9), round(float(computed), 9), bool(plain.argmax() == logits.argmax())]


class Prompt:
    """One model, one prompt, every case."""

    def __init__(self, model, ids, edits):
        self.passing, self.ids, self.edits = Pass(model), ids, edits

    def done(self, case, total, goes_on):
        return [(hook, chosen(selection, len(self.ids), total, goes_on), self.edits[edit][0]) for hook, selection, edit in case]

    def read(self, case):
        """Logits at the last position, and activations."""
        length = len(self.ids)
        reads = [(name, (hook, back and length + back)) for name, (hook, back) in READS.items()]
        logits, kept = self.passing.run(self.ids, self.done(case, length, False), reads)
        return logits[-1].clone(), kept

    def continuation(self, case, goes_on):
        """The log-probability of the given text, read with the prompt."""
        ids = self.ids + CONTINUATION
        logits, _ = self.passing.run(ids, self.done(case, len(ids), goes_on))
        probabilities = torch.log_softmax(logits.double(), -1)
        return float(sum(probabilities[len(self.ids) - 1 + i, token] for i, token in enumerate(CONTINUATION)))

    def greedy(self, case):
        ids = list(self.ids)
        for _ in range(GREEDY):
            logits, _ = self.passing.run(ids, self.done(case, len(ids), True))
            first, second = logits[-1].topk(2).values
            if first - second < CLOSE * logits[-1].abs().max():
                raise Close
            ids.append(int(logits[-1].argmax()))
        return ids[len(self.ids):]


def drawn_prompts(generator):
    """Ids, and how many of them are a start that several share."""
    draw = lambda n: torch.randint(0, VOCAB - 1, (n,), generator=generator).tolist()
    shared = draw(8)
    return [{"ids": draw(7), "shared": 0}, {"ids": draw(13), "shared": 0}, {"ids": shared + draw(3), "shared": 8},
            {"ids": shared + draw(12), "shared": 8}]


def reference(models, seed):
    generator = torch.Generator().manual_seed(seed)
    edits, vectors = made_edits(generator)
    prompts, cases = drawn_prompts(generator), made_cases(edits)
    tensors, rows = dict(vectors), []
    for name, model in models.items():
        moved = []
        for i, prompt in enumerate(prompts):
            of = Prompt(model, prompt["ids"], edits)
            plain, _ = of.read([])
            # First what can fail.
            row = {"model": name, "prompt": i, "greedy": [of.greedy(case) for case, generates in cases if generates]}
            read = [of.read(case) for case, _ in cases]
            moved.append([float((logits - plain).norm() / plain.norm()) for logits, _ in read])
            row["certain"] = round(log_odds(plain, range(VOCAB)), 9)
            row["divergence"] = [divergence(plain, logits) for logits, _ in read]
            row["log_odds"] = [round(log_odds(logits), 9) for logits, _ in read]
            for key, goes_on in (("continuation", False), ("continuation_edited", True)):
                row[key] = [round(of.continuation(case, goes_on), 9) for case, _ in cases]
            rows.append(row)
            tensors[f"{name}.p{i}.logits"] = torch.stack([logits for logits, _ in read])
            for place in READS:
                tensors[f"{name}.p{i}.{place}"] = torch.stack([kept[place] for _, kept in read])
        # Of some prompt, each case changes a hundred times what the comparison lets pass.
        if min(map(max, zip(*moved))) < 2e-3:
            raise Close
    described = {
        "prompts": prompts,
        "selections": SELECTIONS,
        "edits": {name: told for name, (_, told) in edits.items()},
        "reads": {name: {"hook": hook, "position": position} for name, (hook, position) in READS.items()},
        "tokens": TOKENS,
        "continuation": CONTINUATION,
        "cases": [{"greedy": generates, "edits": case} for case, generates in cases],
        "rows": rows,
    }
    return described, tensors


def write(described, tensors):
    save_file(tensors, HERE / "reference.safetensors")
    parts = []
    for key, part in described.items():
        match part:
            case list() if isinstance(part[0], dict):
                parts.append(f' "{key}": [\n  ' + ",\n  ".join(map(json.dumps, part)) + "\n ]")
            case _:
                parts.append(f' "{key}": {json.dumps(part)}')
    (HERE / "reference.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")


def main():
    models = {}
    for name in MODELS:
        model = AutoModelForCausalLM.from_pretrained(FAMILIES / name, attn_implementation="eager", dtype=torch.float32)
        models[name] = model.eval()
    for seed in range(1000):
        try:
            described, tensors = reference(models, seed)
        except Close:
            print("seed", seed, "has a close choice", flush=True)
            continue
        write(described, tensors)
        sizes = [(path.name, path.stat().st_size) for path in sorted(HERE.glob("reference.*"))]
        print("seed", seed, "cases", len(described["cases"]), sizes)
        return
    raise RuntimeError("every seed has a close choice")


if __name__ == "__main__":
    main()
