"""Figures of what a steer gains in NLL, and of what each strength costs."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from steerlens.show.numbers import format_signed
from steerlens.show.style import AMBER, GREEN, GREY, SOFT, axes, legend_above, look, neutral, shade
from steerlens.show.tables import check_table


@look()
def plot_losses(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the NLL of new texts of each label, relative to the model with its background: steered,
    and with the sign turned.

    `table` has `label` (and a row "all"), `background`, `steered`, `flipped`, in nats per token.
    Below 0 is better.
    """
    check_table(table, "label background steered flipped", "one row per label")
    ax = axes(ax)
    labels = ["all" if label == "all" else format_signed(float(label)) for label in table.label]
    at = np.arange(len(table))
    ax.bar(
        at - 0.19,
        table.steered - table.background,
        width=0.34,
        color=GREEN,
        label="strength = label",
    )
    ax.bar(
        at + 0.19, table.flipped - table.background, width=0.34, color=AMBER, label="sign turned"
    )
    ax.axhline(0, color=GREY, linewidth=0.7)
    ax.set_xticks(at, labels)
    ax.set(
        xlabel="label of the text",
        ylabel="NLL − that at strength 0\n(nats per token, lower is better)",
    )
    legend_above(ax)
    return ax


@look()
def plot_cost(kl: pd.DataFrame, writing: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what each strength costs in fluency; tables from `strength_cost` and `writing_cost`.

    The line is KL(plain ‖ steered) on given texts; the dots are how much less likely the plain
    model finds what was written at a strength than what was written at 0 (± 2 standard errors).
    """
    check_table(kl, "strength kl", "of strength_cost", "kl")
    check_table(writing, "strength nll error", "of writing_cost", "writing")
    ax = axes(ax)
    kl = kl.sort_values("strength")
    at_zero = writing.nll[writing.strength == 0]
    zero = float(at_zero.iloc[0]) if len(at_zero) else float(writing.nll.min())
    sns.lineplot(
        x=kl.strength,
        y=kl.kl,
        ax=ax,
        color=neutral(SOFT),
        label="KL(plain ‖ steered)",
        errorbar=None,
    )
    top = writing.strength.abs().max()
    for _, row in writing.iterrows():
        ax.errorbar(
            row.strength, row.nll - zero, yerr=2 * row.error, fmt="o", color=shade(row.strength, top), markersize=4,
            linewidth=0.9, capsize=2,
        )  # fmt: skip
    ax.errorbar(
        [],
        [],
        yerr=[],
        fmt="o",
        color=GREY,
        markersize=4,
        label="NLL of its texts under the plain model",
    )
    ax.axhline(0, color=GREY, linewidth=0.7, zorder=0)
    ax.set(xlabel="strength", ylabel="cost (nats per token)")
    legend_above(ax)
    return ax
