"""What tests of fits by descent share."""

from functools import cache
from typing import Any

import pytest
import torch

import steerlens as sl


@cache
def model() -> Any:
    return sl.load_model("toy-64")


@cache
def data(n: int) -> sl.Labelled:
    return sl.toy.corpus("sentiment", n=n, seed=0)


def cut(n: int, words: int = 4) -> sl.Labelled:
    """Texts whose first words are prompts."""
    texts = data(160)
    split = [text.split() for text in texts.texts[:n]]
    rest, prompts = (
        tuple(" ".join(text[part]) for text in split) for part in (slice(words, None), slice(words))
    )
    return sl.Labelled(rest, texts.labels[:n], prompts)


def heldout_rows(n: int, seed: int = 0, tries: int = 1) -> list[int]:
    """The part that is held out, by the seed; the next as large where it was tried twice."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    size = max(n // 10, min(n // 5, 100), 1)
    return order[(tries - 1) * size : tries * size]


def rows_of(texts: sl.Labelled, rows: list[int]) -> sl.Labelled:
    return sl.Labelled(
        *(
            tuple(part[row] for row in rows) if part else ()
            for part in (texts.texts, texts.labels, texts.prompts)
        )
    )


def nll_of(
    model: Any, texts: sl.Labelled, value: sl.Intervention | None, sign: float = 1.0
) -> float:
    """Mean NLL of texts, each at its own label times `sign`, from `score`."""
    if value is None:
        return -float(sl.score(model, texts).log_prob.mean())
    total, n = 0.0, 0
    for label in set(texts.labels):
        some = rows_of(texts, [row for row, y in enumerate(texts.labels) if y == label])
        found = sl.score(model, some, value, strengths=(sign * label,)).log_prob
        total, n = total - float(found.sum()), n + len(found)
    return total / n


def assert_losses_are_over(W: torch.Tensor, fit: sl.Fit[Any], held: sl.Labelled) -> None:
    """Assert that a report's losses are those of the model under the fit, on a background `W` that
    is always on."""
    on, found = sl.readout(model()), fit.report.heldout
    for expected, sign in ((found.background, 0.0), (found.steered, 1.0), (found.flipped, -1.0)):
        strength = [sign * fit.report.strength * y for y in held.labels]
        under = sl.collect(model(), held, intervention=fit.value, strength=strength, progress=False)
        c, target, _ = next(under.chunks(10**6))
        loss = torch.nn.functional.cross_entropy(on.logits(c + c @ W), target)
        assert float(loss) == pytest.approx(expected, abs=1e-4)
    assert abs(found.background - found.base) > 0.01
