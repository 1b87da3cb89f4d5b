"""Writing with a steer beside writing without."""

from collections.abc import Iterator

import torch
from _measure import Line, alternate, medians, ratio
from _models import GPT2_SMALL, random_models, random_texts

import steerlens as sl

ELEVEN = tuple(k / 5 - 1 for k in range(11))


def lines(quick: bool) -> Iterator[Line]:
    d, layers, vocab = (64, 2, 2_000) if quick else GPT2_SMALL
    found = random_models(d, layers, vocab)
    prompt = list(random_texts(1, 8, 8, vocab).texts)
    new, rounds = 8, 5 if quick else 25
    common = {"max_new_tokens": new, "temperature": 1.0, "seed": 0}
    ways = {
        "unsteered": lambda: sl.generate(found.model, prompt, **common),
        "hook": lambda: sl.generate(found.model, prompt, found.steer, **common),
        "folded": lambda: sl.generate(found.folded, prompt, **common),
    }
    assert not torch.equal(found.model.W_U, found.folded.W_U)
    seconds = alternate(ways, rounds)
    sizes = f"{found.sizes}, {new} tokens"
    yield Line(
        "write", "write at one strength", "unsteered `generate`", "1.00", "hook ≤ 1.03, folded ≤ 1.005 (the paper: 1.24)", sizes,
        (
            ratio("hook", seconds["hook"], seconds["unsteered"], most=1.03),
            ratio("folded", seconds["folded"], seconds["unsteered"], most=1.005),
        ),
        medians(seconds), note="a folded model is the unsteered one with other numbers: its distance from 1 is the clock's noise",
    )  # fmt: skip
    ways = {
        "11 strengths": lambda: sl.generate(
            found.model, prompt, found.steer, strengths=ELEVEN, **common
        ),
        "one batch of 11": lambda: sl.generate(found.model, prompt, samples=11, **common),
    }
    one, seconds = seconds["hook"][:5], alternate(ways, 5)
    yield Line(
        "write-11", "write at 11 strengths at once", "11 runs", "one unsteered batch of 11", "≥ 0.9 of the limit", sizes,
        (
            ratio("of the limit", seconds["one batch of 11"], seconds["11 strengths"], least=0.9),
            ratio("times faster than 11 runs", [11 * s for s in one], seconds["11 strengths"]),
        ),
        medians(seconds),
    )  # fmt: skip
