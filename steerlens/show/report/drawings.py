"""The figures of a report's page, with what they show in words and in numbers."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from steerlens.analysis.svd.words import replicates
from steerlens.show.compare import plot_rows
from steerlens.show.figures import (
    plot_gap_closed,
    plot_label_curve,
    plot_singular_words,
    plot_written_attribute,
)
from steerlens.show.losses import plot_cost, plot_losses
from steerlens.show.reading import plot_spectrum
from steerlens.show.reft import plot_subspaces
from steerlens.show.report.study import Study
from steerlens.show.style import COLUMN, axes, figure_of, ink, look
from steerlens.show.tables import rows_of, select
from steerlens.show.transfer import plot_transfer

Drawing = tuple[Figure, str, Any]
"""A figure, what it shows in words, and its numbers."""


def drawn(studies: list[Study], facts: dict[str, Any]) -> Iterator[tuple[str, Drawing]]:
    """Yield every figure of the page, one at a time: the caller closes it."""
    for one in studies:
        for name, draw in _figures(one).items():
            with look(dark=False):
                drawing = draw()
            yield f"{one.name}-{name}", drawing
    if moved := facts.get("transfer"):
        with look(dark=False):
            fig = figure_of(plot_transfer(pd.DataFrame(moved["rules"])))
        yield (
            "transfer",
            (fig, "Share of the trained effect that each rule keeps, with 95 % intervals", moved),
        )
    if found := facts.get("writing"):
        with look(dark=False):
            fig = _columns(pd.DataFrame(found["table"]))
        yield (
            "writing",
            (
                fig,
                "Attribute, perplexity and variety of what each method writes at one cost",
                found,
            ),
        )
    if found := facts.get("rivals"):
        with look(dark=False):
            fig = figure_of(plot_subspaces(pd.DataFrame(found["subspaces"]), ax=axes()))
        yield (
            "rivals",
            (fig, "How much of LoReFT's subspaces the steer and two simple directions use", found),
        )


def _figures(one: Study) -> dict[str, Callable[[], Drawing]]:
    """Return how to draw each figure of a steer; of one in doubt, only the evidence."""
    t, name = one.tables, one.name
    losses = {
        "losses": lambda: (
            figure_of(plot_losses(t["losses"])),
            f"NLL of new texts with {name}",
            t["losses"],
        )
    }
    if one.doubt is not None:
        return losses
    kl = select(t["kl"], t["kl"].strength.abs() <= one.strengths[-1])
    costs = t["writing"].merge(t["kl"], on="strength", how="outer")
    some: dict[str, Callable[[], Drawing]] = {
        "label_curve": lambda: (
            figure_of(plot_label_curve(t["label_curve"])),
            f"Log-likelihood of texts of each label against the strength of {name}",
            t["label_curve"],
        ),
        "cost": lambda: (
            figure_of(plot_cost(kl, t["writing"])), f"Cost of each strength of {name} in nats per token", costs
        ),
    }  # fmt: skip
    for k in _meaning(t["words"])[:2]:
        some[f"words-{k}"] = partial(_words, t["scores"], k, name)
    gains = one.spectrum.table.gain
    if (gains > 1e-6 * gains.max()).sum() > 1:
        some["spectrum"] = lambda: (
            figure_of(plot_spectrum(one.spectrum, t.get("stability"))),
            f"Gains of the directions of {name}, and what another half of the texts keeps of them",
            one.spectrum.table,
        )
    if "gap" not in t:
        return some | losses
    return some | {
        "written": lambda: (
            figure_of(plot_written_attribute(t["written"], name=name, ax=axes(height=3.4))),
            f"Distribution of {name} of the written texts at each strength",
            t["written"].drop(columns=["prompt", "sample"]),
        ),
        "gap": lambda: (
            figure_of(plot_gap_closed(t["gap"])),
            f"Gap closed by {name} on texts of each grade",
            t["gap"],
        ),
    }


def _meaning(words: pd.DataFrame) -> list[int]:
    """Return the directions whose words are worth a figure.

    They have a gain, and another half of the texts has it too.
    """
    rows = select(words, words.gain > 0).drop_duplicates("direction")
    return [
        int(w.direction)
        for w in rows_of(rows)
        if "kept" not in words or replicates(w.kept, w.spread)
    ]


def _words(scores: pd.DataFrame, direction: int, name: str) -> Drawing:
    """Draw both sides of a direction, side by side."""
    fig, panels = plt.subplots(
        1, 2, sharex=True, figsize=(1.15 * COLUMN, 3.1), layout="constrained"
    )
    for ax, side in zip(panels, "+-", strict=True):
        plot_singular_words(scores, direction=direction, side=side, ax=ax).set_xlabel("")
    fig.supxlabel("score at strength +1", fontsize=8, color=ink())
    numbers = scores[scores.direction == direction]
    return fig, f"Words that direction {direction} of {name} writes and avoids", numbers


def _columns(table: pd.DataFrame) -> Figure:
    """Draw what methods wrote as a table whose columns are panels."""
    fig, panels = plt.subplots(
        1, 3, figsize=(1.9 * COLUMN, 0.6 + 0.2 * len(table)), layout="constrained"
    )
    for k, measure in enumerate(("mean_score", "corpus_perplexity", "distinct_2")):
        plot_rows(table, measure, names=k == 0, ax=panels[k])
    return fig
