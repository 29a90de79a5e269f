#!/usr/bin/env python3
"""Writes beside this file prompts, and what Hugging Face transformers says steering costs on them, for `tests/integration/cost.rs`.

    pip install torch==2.11.0 transformers==5.23.0 safetensors numpy
    python tests/cost/make_cost.py

The model is `mistral_full` of `tests/families`, a prompt in its chat is the prompt. Every number is of full, unpadded, uncached passes in float32 on one
thread with plain forward hooks (`tests/edits/make_edits.py`), logarithms and sums in float64.

    prompts.jsonl, texts.jsonl, questions.jsonl     what is asked; words are tokens
    direction.safetensors                           `direction` [d_model], of length 1
    expected.json                                   by run: of each prompt the divergence ([nats, nats with 1e-6 in both logarithms, whether the most
                                                    probable token is the same]) and the same behind `beginning` of those of the split `alike`; of
                                                    each text and of each answer −ln p and its tokens; of each question ln p of every choice

Runs: nothing; α times the direction added to `blocks.1.hook_resid_pre`, at the last token of a prompt and all behind it (of a text at every token); the
direction taken out at the input of every block and of what attention and MLP add, at every token.

Prompts are drawn until no choice of a greedy answer is close, so that a rounding in another order changes no token.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "edits"))
from make_edits import CLOSE, D_MODEL, FAMILIES, LAYERS, Pass, VOCAB, divergence, projection  # noqa: E402

END = 39
ANSWER = 5
ALPHAS = (-3.0, 2.0)
SITES = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")


class Close(Exception):
    """A choice that a rounding in another order could change."""


class Bench:
    def __init__(self, model, direction):
        self.passing = Pass(model)
        self.direction = direction.float()
        self.line = projection(direction[:, None]).float()

    def done(self, run, length, total):
        """What a run does to a prompt of `length` tokens, of which with what follows there are `total`."""
        if run == "none":
            return []
        if run == "ablated":
            take_out = lambda x: x - x @ self.line.T
            return [(f"blocks.{layer}.{site}", range(total), take_out) for layer in range(LAYERS) for site in SITES]
        add = lambda x: x + float(run) * self.direction
        return [("blocks.1.hook_resid_pre", range(length - 1, total), add)]

    def logits(self, run, ids, behind=()):
        whole = list(ids) + list(behind)
        return self.passing.run(whole, self.done(run, len(ids), len(whole)))[0]

    def answer(self, ids):
        answer = []
        while len(answer) < ANSWER:
            logits = self.logits("none", ids, answer)[-1]
            first, second = logits.topk(2).values
            if first - second < CLOSE * logits.abs().max():
                raise Close
            answer.append(int(logits.argmax()))
            if answer[-1] == END:
                return answer[:-1]
        return answer

    def moved(self, run, ids, behind=()):
        return divergence(self.logits("none", ids, behind)[-1], self.logits(run, ids, behind)[-1])

    def log_probability(self, run, ids, behind):
        logs = torch.log_softmax(self.logits(run, ids, behind).double(), -1)
        return float(sum(logs[len(ids) - 1 + i, token] for i, token in enumerate(behind)))


def drawn(generator, bench):
    """Prompts by split, with their answers: `alike` begin with the same tokens and go on in different ways."""
    draw = lambda n: torch.randint(1, END, (n,), generator=generator).tolist()
    found = []
    while len(found) < 300:
        ids = draw(5 + len(found) % 4)
        try:
            answer = bench.answer(ids)
        except Close:
            continue
        if answer:
            found.append((ids, answer))
    groups = {}
    for ids, answer in found[6:]:
        if len(answer) > 2:
            groups.setdefault(answer[0], []).append((ids, answer))
    alike = next(group for group in groups.values() if len({answer[1] for _, answer in group[:4]}) > 1 and len(group) >= 4)
    texts = [draw(n) for n in (9, 14, 3, 20)]
    questions = []
    for i in range(6):
        choices = [draw(1 + (i % 2) * k) for k in range(3)] if i % 2 else [draw(1) for _ in range(4)]
        questions.append({"ids": draw(6), "choices": choices})
    return found[:6], alike[:4], texts, questions


def main():
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(FAMILIES / "mistral_full", attn_implementation="eager", dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(11)
    direction = torch.randn(D_MODEL, generator=generator, dtype=torch.float64)
    direction /= direction.norm()
    bench = Bench(model, direction)
    plain, alike, texts, questions = drawn(generator, bench)
    assert all(len(set(map(tuple, q["choices"]))) == len(q["choices"]) for q in questions)
    beginning = []
    answers = [answer for _, answer in alike]
    for tokens in zip(*(answer[:-1] for answer in answers)):
        if len(set(tokens)) > 1:
            break
        beginning.append(tokens[0])
    assert beginning
    runs = {}
    for run in ["none", *map(str, ALPHAS), "ablated"]:
        runs[run] = {
            "kl": [bench.moved(run, ids) for ids, _ in plain],
            "heretic": [bench.moved(run, ids, beginning) for ids, _ in alike],
            "texts": [[-bench.log_probability(run, ids[:1], ids[1:]), len(ids) - 1] for ids in texts],
            "answers": [[-bench.log_probability(run, ids, answer), len(answer)] for ids, answer in plain],
            "choices": [[bench.log_probability(run, q["ids"], c) for c in q["choices"]] for q in questions],
        }
    words = lambda ids: " ".join(f"w{i}" for i in ids)
    lines = lambda rows: "".join(json.dumps(row) + "\n" for row in rows)
    of = lambda split, prompts: [{"id": f"{split}{i}", "split": split, "prompt": words(ids)} for i, (ids, _) in enumerate(prompts)]
    (HERE / "prompts.jsonl").write_text(lines(of("plain", plain) + of("alike", alike)))
    (HERE / "texts.jsonl").write_text(lines({"id": f"t{i}", "text": words(ids)} for i, ids in enumerate(texts)))
    (HERE / "questions.jsonl").write_text(lines(
        {"id": f"q{i}", "prompt": words(q["ids"]), "choices": list(map(words, q["choices"])), "answer": i % len(q["choices"])}
        for i, q in enumerate(questions)))
    save_file({"direction": direction.float()}, HERE / "direction.safetensors")
    rounded = json.loads(json.dumps(runs), parse_float=lambda text: round(float(text), 9) + 0.0)
    rows = (f"  {json.dumps(run)}: {json.dumps(of)}" for run, of in rounded.items())
    (HERE / "expected.json").write_text(f' {{"beginning": "{words(beginning)}", "runs": {{\n'.lstrip() + ",\n".join(rows) + "\n}}\n")
    print("beginning", beginning, "answers", [a for _, a in plain])


if __name__ == "__main__":
    main()
