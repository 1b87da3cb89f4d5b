"""Fitting a steer beside the authors' recipe and beside one pass of the model."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from _measure import Line, medians, number, ratio, take
from _models import SHARED, TOY, Case, frozen, reviews_case, toy_case
from _recipe import forward_pass, through_model, token_ids

import steerlens as sl
from steerlens.evaluate.losses import measure
from steerlens.maths import logits as head_logits
from steerlens.methods.baselines.lm_steer_recipe import STEPS, through_states, training_steps

FIT = (
    "the authors' recipe: factors of rank 1,000, Adam, 1,000 steps × 32 texts, through the model (timed over some)",
    "one forward pass over the training texts",
)
TIMED = 50
"""Steps of the recipe that are timed in a round."""
SECOND = ("the recipe again", "two products of N · vocabulary · d")


def lines(
    quick: bool, model: str | None = None, train: str | None = None, test: str | None = None
) -> Iterator[Line]:
    """SST-5 on reviews-192 where they are at hand, else the toy world; a model of one's own, or
    "toy-128", by name."""
    if model is not None:
        texts = [sl.read_labelled(path) if path else None for path in (train, test)]
        case = (
            toy_case(model) if None in texts else Case(model, frozen(sl.load_model(model)), *texts)
        )
        yield from fit(
            "fit-toy" if model == TOY and None in texts else "fit-own", case, rounds=3, steps=STEPS
        )
        return
    if quick:
        yield from fit("fit-toy", toy_case("toy-64", 200), rounds=2, steps=20)
        return
    found = reviews_case()
    if isinstance(found, str):
        yield from fit("fit-toy", toy_case(), rounds=3, steps=STEPS)
        sizes = f"reviews-192, SST-5 of {SHARED.name}"
        yield Line(
            "fit-reviews",
            "fit a steer, collecting included",
            *FIT,
            "≤ 2 passes, ≥ 6 × faster",
            sizes,
            skipped=found,
        )
        yield Line(
            "refit-reviews",
            "a second fit on the same states",
            *SECOND,
            "≥ 20 × faster",
            sizes,
            skipped=found,
        )
    else:
        yield from fit("fit-reviews", found, rounds=2, steps=STEPS)


def fit(key: str, case: Case, *, rounds: int, steps: int) -> Iterator[Line]:
    """Measure a fit and a second one beside the recipe, which is that of the authors' code.

    The recipe's seconds are those of a share of its steps in each round. What all its steps come to
    is found from kept states, which is the same training without the model below the unembedding;
    that it is the same is checked.
    """
    name, model, train, test = case
    ids, held = token_ids(model, train), sl.collect(model, test, progress=False)
    d, part = held.d_model, min(TIMED, steps)
    trained = training_steps(through_model(model, train), train, d, seed=0)
    ways = (
        "pass",
        "collect",
        "fit",
        "another ridge",
        "another rank",
        "products",
        "recipe",
        "fit, float32",
        "ridge, float32",
    )
    seconds = {way: [] for way in ways}
    fits, checked = [], None

    def timed(way: str, run: object) -> object:
        begun = time.perf_counter()
        found = run()
        seconds[way].append(time.perf_counter() - begun)
        return found

    sl.collect(model, train.texts[:64], progress=False)  # warms up
    forward_pass(model, ids[:64])
    for k in range(rounds):
        timed("pass", lambda: forward_pass(model, ids))
        states = timed("collect", lambda: sl.collect(model, train, progress=False))
        fits.append(timed("fit", lambda states=states, k=k: sl.fit_steer(states, seed=k)))
        timed("another ridge", lambda states=states: again(states, fits[-1]))
        checked, _ = timed("recipe", lambda: take(trained, part))
    timed("another rank", lambda: another_rank(states, fits[-1]))
    timed("products", lambda: two_products(states))
    with steps_in_float32():
        plain = timed("fit, float32", lambda: sl.fit_steer(states, seed=0))
        timed("ridge, float32", lambda: again(states, plain))
    seconds["recipe"] = [STEPS / part * taken for taken in seconds["recipe"]]
    replayed = training_steps(through_states(states), train, d, seed=0)
    W, D = take(replayed, rounds * part)
    error = float((W - checked).norm() / checked.norm())
    assert error < 0.01, f"kept states train another steer: off by {error:.2g}"
    if steps > rounds * part:
        W, D = take(replayed, steps - rounds * part)
    ours = [a + b for a, b in zip(seconds["collect"], seconds["fit"], strict=True)]
    theirs = measure(held, sl.Steer(W, held.readout), sl.Steer(D, held.readout)).all
    *found, exact = [measure(held, f.value, f.background).all for f in (*fits, plain)]
    short = steps < STEPS  # then the recipe's held-out NLL says nothing
    difference = number(
        "held-out NLL less the recipe's",
        [f.steered - theirs.steered for f in found],
        most=None if short else 0.0,
    )
    on = held.readout
    sizes = f"{name}, {sum(map(len, ids)):,} tokens, d {on.d_model}, vocabulary {on.d_vocab:,}"
    quality = [
        number("NLL, plain", [f.base for f in found[:1]]), number("NLL, ours", [f.steered for f in found]),
        number("NLL, recipe", [theirs.steered]), number("contrast, ours", [f.sign_margin for f in found]),
        number("contrast, recipe", [theirs.sign_margin]),
    ]  # fmt: skip
    yield Line(
        key, "fit a steer, collecting included", *FIT, "≤ 2 passes, ≥ 6 × faster, held-out NLL at least as good", sizes,
        (
            ratio("passes", ours, seconds["pass"], most=2.0),
            ratio("times faster than the recipe", seconds["recipe"], ours, least=None if short else 6.0),
            difference, *quality,
            ratio("passes, steps in float32", [seconds["collect"][-1] + seconds["fit, float32"][0]], seconds["pass"][-1:]),
            number("NLL less that of steps in float32", [found[0].steered - exact.steered]),  # of the same seed
        ),
        medians({"collect + fit": ours, **seconds}),
        note="a pass of the fit is two products with the unembedding a position, a plain pass has one; its steps are in bfloat16 "
        "where the processor multiplies that; padding counts for nothing in the recipe, in the authors' code it is in the loss",
    )  # fmt: skip
    yield Line(
        key.replace("fit", "refit"), "a second fit on the same states: another ridge", *SECOND, "≥ 20 × faster", sizes,
        (
            ratio("times faster than the recipe", seconds["recipe"], seconds["another ridge"], least=None if short else 20.0),
            ratio("times the limit", seconds["another ridge"], rounds * seconds["products"]),
            ratio("steps in float32: times faster", seconds["recipe"][-1:], seconds["ridge, float32"]),
            ratio("another rank: times faster", seconds["recipe"], rounds * seconds["another rank"]),
        ),
        medians({way: seconds[way] for way in ("another ridge", "ridge, float32", "another rank", "products", "recipe")}),
        note=f"two float32 products alone would be {sum(seconds['recipe']) / rounds / seconds['products'][0]:.0f} × faster",
    )  # fmt: skip


def again(states: sl.States, fit: sl.Fit) -> sl.Fit:
    """Another ridge; what else was chosen stays."""
    r = fit.report
    return sl.fit_steer(states, ridge=(2 * r.ridge[0], 2 * r.ridge[1]), damping=r.damping, lr=r.lr)


@contextmanager
def steps_in_float32() -> Iterator[None]:
    """As on a processor that does not multiply bfloat16."""
    with patch.object(head_logits, "multiplies_bfloat16", lambda device: False):
        yield


def another_rank(states: sl.States, fit: sl.Fit) -> sl.Steer:
    """The best steer of another rank follows from the fit and the metric."""
    return fit.value.truncate(8, sl.natural_metric(states.sample(16_384, seed=0)))


def two_products(states: sl.States) -> None:
    W_U = states.readout.W_U
    for chunk in states.chunks(512):
        _ = (chunk.hidden @ W_U) @ W_U.mT
