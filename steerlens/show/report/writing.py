"""What a steer writes beside cheap rivals and controls, at the same cost."""

import warnings
from typing import Any

from steerlens.analysis.recipes import recipes
from steerlens.evaluate.compare_writing import compare_writing
from steerlens.evaluate.protocols import Protocol
from steerlens.evaluate.scorers import Scorer, fit_text_classifier, oracle
from steerlens.evaluate.verbs import Sampling
from steerlens.models.hooks import Model
from steerlens.show.report.study import Study
from steerlens.show.tables import records
from steerlens.values.labelled import Labelled

METHODS = ("steer", "logit bias", "mean difference")
"""The steer and what is fitted in seconds."""
KL = 0.1
TEXTS, GIVEN, PROMPTS = 300, 60, 30
"""Texts that methods are fitted to, texts that set the cost, beginnings that are continued: enough
for intervals, few enough for the report's time."""
SAMPLING = Sampling(samples=4, max_new_tokens=20)
FEWEST = 10
"""Texts of either sign without which nothing is compared."""


def writing(
    lm: Model, one: Study, train: Labelled, test: Labelled, seed: int
) -> dict[str, Any] | None:
    """Let the steer, two rivals, a random direction and the steer of shuffled labels continue the
    beginnings of new texts at one KL from the model, and judge what they wrote.

    The grammar judges where the texts are the toy world's, else a classifier of the training texts.
    None where fewer than ten texts of either sign are there to fit to or to test on.

    Args:
        train, test: of the study.
    """
    if min(_of_sign(data, sign) for data in (train, test) for sign in (1, -1)) < FEWEST:
        return None
    begun = [" ".join(text.split()[:4]) for text in test.first(PROMPTS).texts]
    judge = _judge(one, train, seed)
    task = Protocol(one.name, (("beginnings", tuple(begun)),), judge, "high", 1, "whole", SAMPLING)
    some = train if len(train) <= TEXTS else train.split(TEXTS / len(train), seed=seed)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a rival learned nothing is in the table
        table = compare_writing(
            lm, recipes(lm, METHODS, seed=seed), task, test.first(GIVEN), kl=KL, train=some,
            progress=False,
        )  # fmt: skip
    return {
        "steer": one.name, "kl": KL, "train": len(some), "prompts": len(begun),
        "samples": SAMPLING.samples, "judge": str(judge.card), "table": records(table),
    }  # fmt: skip


def _of_sign(data: Labelled, sign: int) -> int:
    return sum(sign * y > 0 for y in data.labels)


def _judge(one: Study, train: Labelled, seed: int) -> Scorer:
    if one.attribute is not None:
        return oracle(one.attribute)  # pyright: ignore[reportArgumentType]
    return fit_text_classifier(train, measures=f"how near label 1 of {one.name}", seed=seed)
