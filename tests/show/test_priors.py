"""Figures of tuned prompts: dots and bars at the means of their tables, intervals over seeds."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer

from steerlens.maths.stats import mean_interval
from steerlens.show.priors import plot_compression, plot_moves, plot_priors, plot_readability
from steerlens.show.style import RED

SEEDS = range(4)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def quality() -> pd.DataFrame:
    rows = [
        (name, seed, 1.5 + 0.1 * k + 0.01 * seed, 2.0 + k, 1.0)
        for k, name in enumerate("abc")
        for seed in SEEDS
    ]
    return pd.DataFrame(rows, columns=["prior", "seed", "nll", "drift", "start_drift"])


def moved() -> pd.DataFrame:
    rows = [
        (kind, steer, question, 0.1 * (1 + j + k) + 0.01 * seed, 0.05, seed)
        for j, kind in enumerate(("soft", "kv"))
        for k, steer in enumerate(("joy", "tone"))
        for question in ("writes", "reads")
        for seed in SEEDS
    ]
    return pd.DataFrame(
        rows, columns=["intervention", "steer", "question", "share", "chance_high", "seed"]
    )


def test_every_prior_has_its_seeds_its_mean_and_its_interval() -> None:
    table = quality()
    ax = plot_priors(table, number="drift", start="start_drift")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    bars = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
    for k, (bar, name) in enumerate(zip(bars, "abc", strict=True)):
        mean, low, high = mean_interval(table[table.prior == name].drift.to_numpy())
        assert bar[0].get_xydata().tolist() == [[pytest.approx(mean), k]]
        ends = bar[2][0].get_segments()[0]
        assert ends[:, 0].tolist() == pytest.approx([low, high])
    rings = [line for line in ax.lines if line.get_markerfacecolor() == "none"]
    assert [line.get_xdata()[0] for line in rings] == [1.0] * 3
    # the first is on top
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    plain = plot_priors(table)
    assert not [line for line in plain.lines if line.get_markerfacecolor() == "none"]


def test_what_is_worth_what() -> None:
    ways = {"prompt": 0.05, "nearest words": 0.02, "random words": -0.01, "no prompt": 0.0}
    table = pd.DataFrame(
        [(what, worth + 0.001 * seed, seed) for what, worth in ways.items() for seed in SEEDS],
        columns=["what", "sign_margin", "seed"],
    )
    ax = plot_readability(table)
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "prompt",
        "nearest\nwords",
        "random\nwords",
    ]
    bars = [patch for patch in ax.patches if patch.get_height()]
    assert [bar.get_height() for bar in bars] == pytest.approx([0.0515, 0.0215, -0.0085])
    assert to_hex(bars[0].get_facecolor()) == RED


@pytest.mark.parametrize("question", ["writes", "reads"])
def test_shares_stand_beside_chance(question: str) -> None:
    table = moved()
    ax = plot_moves(table, question=question)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["joy", "tone"]
    heights = [patch.get_height() for patch in ax.patches]
    means = (
        table[table.question == question]
        .groupby(["intervention", "steer"], sort=False)
        .share.mean()
    )
    assert heights[::2] == pytest.approx(means.tolist()) and heights[1::2] == pytest.approx(
        [0.05] * 4
    )
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert sorted(labels) == ["chance (95 %)", "kv", "soft"]
    assert np.isfinite(ax.get_ylim()).all()


def test_they_draw_on_the_axes_that_they_are_given() -> None:
    _, axes = plt.subplots(1, 2)
    assert plot_priors(quality(), ax=axes[0]) is axes[0]
    assert plot_moves(moved(), ax=axes[1]) is axes[1]


def test_rows_are_averaged_over_prompts_and_have_an_interval_over_seeds() -> None:
    rows = [
        (way, length, seed, prompt, closed + 0.01 * seed + 0.1 * prompt)
        for way, closed in (
            ("distilled", 0.8),
            ("last tokens", 0.4),
            ("random words", -0.1),
            ("no prompt", 0.0),
        )
        for length in (1, 4)
        for seed in SEEDS
        for prompt in range(2)
    ]
    table = pd.DataFrame(rows, columns=["way", "length", "seed", "prompt", "gap_closed"])
    ax = plot_compression(table)
    bars = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
    assert [bar[0].get_ydata().tolist() for bar in bars] == [
        pytest.approx([x] * 2) for x in (0.865, 0.465, -0.035)
    ]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "4"]
