"""What the generators of tiny reference models share: a tokenizer, passes with hooks, edits, and a reference for drawn prompts."""
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

GREEDY = 10
# (operation, layer, site, first position counted from the end, acts on all later positions, scale)
EDITS = [
    ("add", 1, "hook_resid_pre", 1, True, 4.0),
    ("add", 0, "hook_attn_out", 4, True, -6.0),
    ("add", 1, "hook_mlp_out", 3, False, 3.0),
    ("ablate", 2, "hook_resid_pre", 1, True, None),
    ("ablate", 0, "hook_resid_post", 4, True, None),
    ("replace", 1, "hook_attn_out", 1, False, None),
    ("replace", 2, "hook_resid_post", 1, False, None),
]


def tokenizer(vocab):
    made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocab)}, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def forward(model, ids, hooks=()):
    """Logits [pos, vocab]; hooks are (module, side, function of x [pos, width] → new x or None)."""
    def before(function):
        def hook(_, args, kwargs):
            x = args[0] if args else kwargs["hidden_states"]
            new = function(x[0])
            if new is None:
                return None
            return ((new[None],) + args[1:], kwargs) if args else (args, {**kwargs, "hidden_states": new[None]})
        return hook

    def after(function):
        def hook(_, __, output):
            x = output[0] if isinstance(output, tuple) else output
            new = function(x[0])
            if new is None:
                return None
            return (new[None],) + output[1:] if isinstance(output, tuple) else new[None]
        return hook

    handles = [module.register_forward_pre_hook(before(f), with_kwargs=True) if side == "in"
               else module.register_forward_hook(after(f)) for module, side, f in hooks]
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return logits


def changed(x, edit, length, vector):
    """x [pos, d_model] after the edit, whose positions were counted from the end of the prompt's `length` tokens."""
    operation, _, _, back, later, scale = edit
    first = length - back
    x = x.clone()
    rows = slice(first, None if later else first + 1)
    h = x[rows]
    x[rows] = {"add": lambda: h + scale * vector, "ablate": lambda: h - (h @ vector)[:, None] * vector,
               "replace": lambda: vector.expand_as(h)}[operation]()
    return x


def hook_name(layer, site):
    """The hook point of an edit; one outside the blocks has no layer."""
    return site if layer is None else f"blocks.{layer}.{site}"


def reference(seed, vocab, d_model, lengths, edits, activations, edited):
    """The parts of reference.json and reference.safetensors, for prompts of these lengths.

    `activations(ids, positions)` are the named rows of an unedited pass; `edited(ids, edit, length, vector)` the logits of an edited one.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(0, vocab - 1, (n,), generator=generator).tolist()
    prompts = [{"ids": draw(n), "positions": [n // 2, n - 1]} for n in lengths]
    vector = torch.randn(d_model, generator=generator)
    vector /= vector.norm()
    tensors, rows = {"vector": vector}, []
    for i, prompt in enumerate(prompts):
        for hook, x in activations(prompt["ids"], prompt["positions"]).items():
            tensors[f"p{i}.{hook}"] = x.contiguous().clone()
        for edit in edits:
            ids, length, key = list(prompt["ids"]), len(prompt["ids"]), f"e{len(rows)}"
            operation, layer, site, back, later, scale = edit
            tensors[f"{key}.logits"] = edited(ids, edit, length, vector)[-1].clone()
            rows.append({"prompt": i, "operation": operation, "hook": hook_name(layer, site), "first": length - back,
                         "later": later, "scale": scale})
            if later:
                for _ in range(GREEDY):
                    ids.append(int(edited(ids, edit, length, vector)[-1].argmax()))
                tensors[f"{key}.greedy"] = torch.tensor(ids[length:])
    return prompts, rows, tensors
