"""How often a verdict takes labels in random order for a style, and how often its interval holds 0.

    python benchmarks/verdict_null.py                  # a quarter of an hour in one thread; reviews-192 only where it is at hand
    python benchmarks/verdict_null.py --draws 5
    python benchmarks/verdict_null.py --fit reft       # that of ReFT on the toy, whose held-out texts choose the epoch too

Labels are drawn without a look at the texts: as many of −1 as of 1, or one of −1 to nine; these are
there once, or nine times each, as who balances labels by copies has them. The toy's texts
are of every kind, which the model knows well, or all good reviews, and SST-5 is a strange domain to
reviews-192: what all texts share must not pass for what their labels say. Results go to benchmarks/verdict_null.json,
those of ReFT to benchmarks/verdict_null_reft.json.
"""

import argparse
import json
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import _measure
import torch
from _models import frozen, reviews_case
from scipy.stats import binomtest

import steerlens as sl

HERE = Path(__file__).parent


class Design(NamedTuple):
    """Which part of the texts has a label of −1, and how often each of those is there."""

    name: str
    rare: float = 0.1
    copies: int = 1


DESIGNS = (
    Design("half of them at -1", 0.5),
    Design("a tenth of them at -1"),
    Design("a tenth of them at -1, nine times each", copies=9),
)


class Case(NamedTuple):
    """A model, and the texts of a draw."""

    name: str
    model: Any
    texts: Any


def toy(n: int, seed: int, *, good: bool) -> list[str]:
    data = sl.toy.corpus("sentiment", n=4 * n, seed=seed)
    kept = [text for text, y in zip(data.texts, data.labels, strict=True) if y > 0 or not good]
    return kept[:n]


def cases() -> Iterator[tuple[Case, int]]:
    """Yield cases and how many texts a draw has."""
    model = frozen(sl.load_model("toy-64"))
    for name, good in (("toy-64", False), ("toy-64, good reviews", True)):
        yield Case(name, model, partial(toy, good=good)), 100
    found = reviews_case()
    if isinstance(found, str):
        print(f"skipped: {found}")
        return
    every = found.train.texts

    def some(n: int, seed: int) -> list[str]:
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))
        return [every[k] for k in order[:n].tolist()]

    yield Case("SST-5 on reviews-192", found.model, some), 300


def null(case: Case, n: int, design: Design, seed: int, reft: bool) -> Any:
    """The verdict of a fit to labels that know nothing of the texts; of ReFT, whether it learnt or
    not."""
    few = round(design.rare * n)
    texts = case.texts(n, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(10_000 + seed)).tolist()
    rare, others = ([texts[k] for k in some] for some in (order[:few], order[few:]))
    rare = rare * design.copies
    data = sl.Labelled(others + rare, [1.0] * len(others) + [-1.0] * len(rare))
    if reft:
        with warnings.catch_warnings():  # that nothing was learnt, as it should be
            warnings.simplefilter("ignore")
            return sl.fit_reft(case.model, data, seed=seed, progress=False).report.verdict
    return sl.fit_steer(case.model, data, seed=seed, progress=False).report.verdict


def share(hits: list[bool]) -> list[float]:
    """A share, and its exact 95 % interval."""
    found = binomtest(sum(hits), len(hits))
    return [found.statistic, *found.proportion_ci()]


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--draws", type=int, default=50)
    asked.add_argument("--fit", choices=("steer", "reft"), default="steer")
    given = asked.parse_args()
    found, reft = {}, given.fit == "reft"
    few = 1 if reft else None
    for case, n in islice(cases(), few):
        for design in DESIGNS[:few]:
            verdicts = [null(case, n, design, seed, reft) for seed in range(given.draws)]
            key = f"{case.name}, {n} texts, {design.name}"
            found[key] = {
                "p ≤ 0.05": share([v.p <= 0.05 for v in verdicts]),
                "found": share([v.found for v in verdicts]),
                "p ≤ 0.2": share([v.p <= 0.2 for v in verdicts]),
                "interval holds 0": share([v.low <= 0 <= v.high for v in verdicts]),
                "margin above 0": share([v.margin > 0 for v in verdicts]),
                "median and quartiles of the margin": _measure.quartiles([v.margin for v in verdicts]),
            }  # fmt: skip
            print(key, json.dumps(found[key]), flush=True)
    name, asked_for = ("verdict_null_reft", " --fit reft") if reft else ("verdict_null", "")
    (HERE / f"{name}.json").write_text(
        json.dumps(
            {
                "command": f"python benchmarks/verdict_null.py --draws {given.draws}{asked_for}",
                "setting": _measure.setting(quick=False, threads=torch.get_num_threads())._asdict(),
                **found,
            },
            indent=1,
        )
        + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
