#!/usr/bin/env python3
"""What a selection of a direction takes in transformers, with hooks, its prompts in one left-padded batch.

    pip install torch==2.11.0 transformers==5.23.0
    select_peer.py MODEL_DIR PROMPTS.jsonl [--candidates 4] [--harmful 16] [--harmless 16] [--threads 2]

For each candidate the three passes of refusal_direction: harmful prompts with the direction ablated at the input of every block and at what attention
and MLP add, harmless ones with it added at one layer, and harmless ones with it ablated, whose next token is compared with the unedited one. Only the last
position's logits are made. Prints one JSON object: `seconds_per_candidate`, the median over candidates whose layers are spread over the model.
float32, CPU.
"""
import argparse
import json
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("prompts")
parser.add_argument("--candidates", type=int, default=4)
parser.add_argument("--harmful", type=int, default=16)
parser.add_argument("--harmless", type=int, default=16)
parser.add_argument("--threads", type=int, default=2)
asked = parser.parse_args()
torch.set_num_threads(asked.threads)
torch.set_grad_enabled(False)

tokenizer = AutoTokenizer.from_pretrained(asked.model)
tokenizer.padding_side = "left"
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32).eval()
blocks = model.model.layers


def batch(split, count):
    with open(asked.prompts, encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["split"] == split][:count]
    chats = [[{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": row["prompt"]}] for row in rows]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    return tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)


def entering(block, change):
    def hook(_, args, kwargs):
        if args:
            return (change(args[0]),) + args[1:], kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}
    return block.register_forward_pre_hook(hook, with_kwargs=True)


def leaving(module, change):
    def hook(_, __, output):
        return (change(output[0]),) + output[1:] if isinstance(output, tuple) else change(output)
    return module.register_forward_hook(hook)


def ablated(vector):
    change = lambda x: x - (x @ vector)[..., None] * vector
    hooks = []
    for block in blocks:
        hooks += [entering(block, change), leaving(block.self_attn, change), leaving(block.mlp, change)]
    return hooks


def last_logits(inputs, hooks=()):
    logits = model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].double()
    for hook in hooks:
        hook.remove()
    return logits


def log_odds(logits, tokens=(0, 1)):
    named = torch.softmax(logits, -1)[:, tokens].sum(-1)
    return torch.log(named + 1e-8) - torch.log(1 - named + 1e-8)


harmful, harmless = batch("harmful", asked.harmful), batch("edge", asked.harmless)
unedited = torch.softmax(last_logits(harmless), -1)
seconds = []
for number in range(asked.candidates + 1):
    vector = torch.randn(model.config.hidden_size)
    vector /= vector.norm()
    layer = number * len(blocks) // (asked.candidates + 1)
    started = time.perf_counter()
    bypass = log_odds(last_logits(harmful, ablated(vector))).mean()
    induce = log_odds(last_logits(harmless, [entering(blocks[layer], lambda x: x + 10 * vector)])).mean()
    edited = torch.softmax(last_logits(harmless, ablated(vector)), -1)
    kl = (unedited * (torch.log(unedited + 1e-6) - torch.log(edited + 1e-6))).sum(-1).mean()
    if number:  # the first warms up
        seconds.append(time.perf_counter() - started)
    assert all(map(torch.isfinite, (bypass, induce, kl)))
print(json.dumps({"seconds_per_candidate": statistics.median(seconds), "candidates": asked.candidates}))
