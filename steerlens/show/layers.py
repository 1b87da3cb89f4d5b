"""Where in a model a style can be steered, drawn."""

import pandas as pd
from matplotlib.axes import Axes

from steerlens.show.style import (
    AMBER,
    BLUE,
    GREEN,
    PURPLE,
    RED,
    SOFT,
    axes,
    ink,
    legend_above,
    look,
    neutral,
    title_above,
)
from steerlens.show.tables import check_table, rows_of, select

KINDS = {
    "resid_pre": ("before the layer", AMBER, "<"),
    "attn_out": ("attention's output", BLUE, "^"),
    "resid_mid": ("between both", AMBER, "D"),
    "mlp_out": ("MLP's output", GREEN, "v"),
    "resid_post": ("behind the layer", PURPLE, "o"),
}
ENDS = {"hook_embed": "input\nembeddings", "unembed.hook_in": "unembedding"}


@look()
def plot_sites(table: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw what the same map is worth at each site, by layer, at equal cost.

    Points are means over draws of texts, bars their 95 % intervals over the judging texts; the line
    and the band are the steer's.

    Args:
        table: from `steerlens.analysis.layers.steer_by_site`.
    """
    check_table(table, "site sign_margin low high", "of steer_by_site")
    if not (table.site == "steer").any():
        raise ValueError(
            "table: it has no row 'steer', to which sites are compared; steer_by_site makes one"
        )
    ax = axes(ax, height=2.6)
    steer = table[table.site == "steer"].iloc[0]
    layers = sorted({int(site.split(".")[1]) for site in table.site if site.startswith("blocks.")})
    places = ["hook_embed", *layers, "unembed.hook_in"]
    places = [p for p in places if not isinstance(p, str) or (table.site == p).any()]
    ax.axhspan(steer.low, steer.high, color=RED, alpha=0.12, lw=0)
    ax.axhline(steer.sign_margin, color=RED, lw=1.2, label="steer")
    ax.axhline(0, color=neutral(SOFT), lw=0.6)
    for k, (part, (label, colour, marker)) in enumerate(KINDS.items()):
        rows = [row for row in rows_of(table) if str(row.site).endswith(f"hook_{part}")]
        if not rows:
            continue
        x = [places.index(int(str(row.site).split(".")[1])) + 0.13 * (k - 2) for row in rows]
        _points(ax, x, pd.DataFrame(rows), colour, marker, label)
    for site in ENDS:
        rows = select(table, table.site == site)
        if len(rows):
            _points(ax, [places.index(site)], rows, ink(), "s", None)
    ax.set_xticks(range(len(places)), [ENDS.get(str(p), f"layer {p}") for p in places])
    ax.set(ylabel="sign margin (nats per token)", xlim=(-0.5, len(places) - 0.5))
    legend_above(ax)
    if title is not None:
        title_above(ax, title)
    return ax


def _points(
    ax: Axes, x: list[float], rows: pd.DataFrame, colour: str, marker: str, label: str | None
) -> None:
    ends = [rows.sign_margin - rows.low, rows.high - rows.sign_margin]
    ax.errorbar(
        x, rows.sign_margin, ends, fmt=marker, ms=3.8, lw=0.9, color=colour, label=label, zorder=3
    )
