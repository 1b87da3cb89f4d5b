"""Collecting and fitting on a language model with a real vocabulary, beside its own forward pass.

Seconds are those of the process, so that what else runs on the machine counts for little; on one
thread they are those of the clock.
"""

import time
from collections.abc import Callable, Iterator
from unittest.mock import patch

import torch
from _fit import steps_in_float32
from _measure import Line, medians, number, ratio
from _models import SMOLLM2, frozen, reviews_case, toy_case
from transformers import AutoModelForCausalLM

import steerlens as sl
from steerlens.evaluate.losses import measure
from steerlens.methods.steer import background, cost
from steerlens.models.hooks import adapter
from steerlens.models.tokenization import batch_tokens, batches, pad

N, TEST = 1_000, 300
"""Sentences that are fitted to, and on which the exact cost's fit and ours are compared."""
AIM = "collect ≤ 1.05 of the layers, collect + fit ≤ 1.6 passes (2.1 in float32), NLL within 1e-3 of the whole vocabulary's"


def lines(quick: bool) -> Iterator[Line]:
    """SST-5 on SmolLM2-135M where both are at hand."""
    what = (
        "collect and fit on a real vocabulary",
        "one forward pass with logits",
        "the layers alone",
    )
    if quick:
        toy = toy_case("toy-64", 200)
        yield fitting("vocabulary", toy.model, toy.model.original_model, toy.train, toy.test, what)
        return
    found = reviews_case(SMOLLM2.name)
    if isinstance(found, str):
        yield Line("vocabulary", *what, AIM, "smollm2-135m, SST-5", skipped=found)
        return
    plain = frozen(AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype=torch.float32).eval())
    train, test = found.train.first(N), found.test.first(TEST)
    yield fitting("vocabulary", found.model, plain, train, test, what)


def fitting(
    key: str, model: object, plain: torch.nn.Module, train: sl.Labelled, test: sl.Labelled, what: tuple[str, str, str]
) -> Line:  # fmt: skip
    ids = adapter(model).tokenizer(list(train.texts))["input_ids"]
    seconds: dict[str, list[float]] = {}

    def timed(way: str, run: Callable[[], object]) -> object:
        begun = time.process_time()
        found = run()
        seconds[way] = [time.process_time() - begun]
        return found

    def forward(run: torch.nn.Module) -> None:
        with torch.no_grad():
            for batch in batches(
                [len(row) for row in ids], batch_tokens(plain.get_output_embeddings().weight.mT)
            ):
                tokens, mask = pad([ids[row] for row in batch])
                run(input_ids=tokens, attention_mask=mask)

    sl.collect(model, train.first(8), progress=False)  # warms up
    timed("layers alone", lambda: forward(plain.base_model))
    states = timed("collect", lambda: sl.collect(model, train, end=False, progress=False))
    timed("pass with logits", lambda: forward(plain))
    fit = timed("fit", lambda: sl.fit_steer(states, progress=False))
    with steps_in_float32():
        timed("fit, float32", lambda: sl.fit_steer(states, progress=False))
    every = states.readout.d_vocab  # no word is in the lump, none is drawn
    with patch.object(cost, "LIKELY", every), patch.object(background, "IN_SOFTMAX", every):
        exact = timed("fit, every word", lambda: sl.fit_steer(states, progress=False))
    held = sl.collect(model, test, end=False, progress=False)
    ours, whole = (
        measure(held, f.value, f.background, strength=f.report.strength).all for f in (fit, exact)
    )
    both = [seconds["collect"][0] + seconds["fit"][0]]
    slow = [seconds["collect"][0] + seconds["fit, float32"][0]]
    on = states.readout
    return Line(
        key, *what, AIM,
        f"{on.model_id}, {len(train):,} sentences, {states.n_positions:,} tokens, d {on.d_model}, vocabulary {on.d_vocab:,}",
        (
            ratio("collect, times the layers", seconds["collect"], seconds["layers alone"], most=1.05),
            ratio("fit, passes", seconds["fit"], seconds["pass with logits"], most=0.5),
            ratio("fit in float32, passes", seconds["fit, float32"], seconds["pass with logits"], most=1.0),
            ratio("collect + fit, passes", both, seconds["pass with logits"], most=1.6),
            ratio("collect + fit in float32, passes", slow, seconds["pass with logits"], most=2.1),
            ratio("fit with every word, passes", seconds["fit, every word"], seconds["pass with logits"]),
            number("new texts' NLL less that of the fit with every word", [ours.steered - whole.steered], most=1e-3),
            number("new texts' sign margin, ours", [ours.sign_margin]),
            number("new texts' sign margin, every word", [whole.sign_margin]),
        ),
        medians(seconds),
        note=f"of a vocabulary of {2 * cost.LIKELY:,} words or more what a steer costs is taken over the {cost.LIKELY:,} "
        "likeliest one by one and over the rest as one lump; a step of the background has about as many "
        "in its softmax, some of them drawn",
    )  # fmt: skip
