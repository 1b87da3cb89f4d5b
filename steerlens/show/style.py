"""One look for every figure: colours that mean the same everywhere, sizes that are readable in a column of a paper."""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap, to_hex

COLUMN = 3.3
"""Width of a column of a paper, inches."""

BLUE, GREY, RED, GREEN = "#2a6db0", "#8b8b8b", "#c8452c", "#3f8f5f"
DIVERGING = LinearSegmentedColormap.from_list("steer", ["#17478a", "#5b93c9", "#969696", "#e38d62", "#a92d1c"])
"""Negative strengths and labels blue, positive red, 0 a grey that is seen on white."""

RC = {
    "figure.dpi": 110,
    "savefig.dpi": 220,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "pdf.fonttype": 42,  # text stays text
}


@contextmanager
def look() -> Iterator[None]:
    """The look inside the block only; nobody else's figures change."""
    with mpl.rc_context(RC):
        yield
        interactive = mpl.is_interactive()
    # a notebook's backend, loaded by the first figure, turns this on; leaving the context would turn it off again
    mpl.interactive(interactive)


def shade(value: float, top: float) -> str:
    """The colour of a strength or a label between -top and top."""
    return to_hex(DIVERGING(0.5 + 0.5 * max(-1.0, min(1.0, value / top if top else 0.0))))


def signed(value: float) -> str:
    """'+2', '−0.5', '0': a strength or a label as text."""
    return "0" if value == 0 else f"{value:+g}".replace("-", "−")
