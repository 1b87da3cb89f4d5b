"""One look for every figure: colours that mean the same everywhere and are seen on white and on
black."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any, Literal, cast

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb, to_rgba
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, ScalarFormatter
from matplotlib.typing import ColorType

from steerlens.maths.brief import class_name

COLUMN = 3.3
"""Width of a column of a paper, inches (8.5 cm)."""

# every colour of data has a contrast of 3:1 or more with white paper and with the page's dark
# paper; a test holds it
BLUE, GREY, RED, GREEN = "#3a7fc4", "#868686", "#d0492f", "#3f8f5f"
PURPLE, AMBER, TEAL, PINK, OLIVE = "#8a5fb0", "#b97c12", "#2f8f9d", "#b0578d", "#76871f"
DIVERGING = LinearSegmentedColormap.from_list(
    "steer", ["#1464c8", "#5b89c2", "#868686", "#c9725f", "#c93418"]
)
"""Negative strengths and labels blue, positive red, 0 grey."""

INK, SOFT, PAPER, LINE = "#1d1f23", "#5d636b", "#ffffff", "#d9dce0"
"""Words and axes, lesser words, the ground, thin lines and what chance reaches: these alone change
in a dark figure."""
DARK = {INK: "#e8e8e6", SOFT: "#a3a8ae", PAPER: "#17181b", LINE: "#44484e"}

RC: dict[Any, Any] = {  # matplotlib's types know each name, not that these are such names
    "figure.dpi": 110,
    "savefig.dpi": 220,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": True,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}
GROUND = ("figure.facecolor", "axes.facecolor")
WORDS = (
    "text.color",
    "axes.labelcolor",
    "axes.edgecolor",
    "axes.titlecolor",
    "xtick.color",
    "ytick.color",
)


@contextmanager
def look(*, dark: bool | None = None) -> Iterator[None]:
    """Apply the look inside the block only; nobody else's figures change.

    Args:
        dark: light words on dark ground; None for as the settings outside are, so that figures suit
            a dark notebook.

    Example:
        >>> import matplotlib as mpl
        >>> before = mpl.rcParams["font.size"]
        >>> with look():
        ...     print(mpl.rcParams["font.size"])
        8.0
        >>> mpl.rcParams["font.size"] == before
        True
    """
    dark = _is_dark(mpl.rcParams["figure.facecolor"]) if dark is None else dark
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever a style has set; the backend and its switches stay
        mpl.rcParams.update(RC | _colours(dark))
        yield
        interactive = mpl.is_interactive()
    # a notebook's backend, loaded by the first figure, turns this on; leaving the context would
    # turn it off again
    mpl.interactive(interactive)


def ink() -> str:
    """Return the colour of words in the look that is on."""
    return mpl.rcParams["text.color"]


def neutral(colour: str) -> str:
    """Return INK, SOFT, PAPER or LINE as they are in the look that is on."""
    return DARK[colour] if ink() == DARK[INK] else colour


def axes(ax: Axes | None = None, *, width: float = COLUMN, height: float = 2.3) -> Axes:
    """Return new axes of a column's width, or dress the given ones, whatever style they were made
    in.

    To be called inside `look`, first of all: on a dark figure what is drawn next is light.
    """
    if ax is None:
        ax = plt.subplots(figsize=(width, height), layout="constrained")[1]
    elif not isinstance(ax, Axes):
        raise ValueError(
            f"ax: got {class_name(ax)}, expected one Axes of matplotlib; of several, as plt.subplots gives them, "
            "pick one: axs[0, 0]"
        )
    mpl.rcParams.update(_colours(_is_dark(figure_of(ax).get_facecolor())))
    ax.set_facecolor("none")
    ax.grid(False, which="both")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set(
        visible=True, color=ink(), linewidth=mpl.rcParams["axes.linewidth"]
    )
    # ticks are made when they are first drawn, by then in the settings of whoever draws
    ax.tick_params(
        labelsize=mpl.rcParams["xtick.labelsize"], labelfontfamily=mpl.rcParams["font.family"][0], color=ink(),
        labelcolor=ink(), direction="out", length=3.5, width=0.8, pad=3.5, left=True, bottom=True,
    )  # fmt: skip
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(
            size=mpl.rcParams["axes.labelsize"], color=ink(), family=mpl.rcParams["font.family"]
        )
        if isinstance(formatter := axis.get_major_formatter(), ScalarFormatter):
            # side by side 0.00025 and 0.00050 would collide: 2.5 and 5.0, and × 10⁻⁴ at the end
            formatter.set_powerlimits((-3, 5) if axis is ax.xaxis else (-6, 6))
            formatter.set_useMathText(True)
        axis.get_offset_text().set(size=mpl.rcParams["xtick.labelsize"], color=ink())
    return ax


def figure_of(ax: Axes) -> Figure:
    """Return the whole figure that axes stand in, whatever part of it they were made for."""
    return cast(Figure, ax.get_figure(root=True))


def legend_above(
    ax: Axes, *, title: str | None = None, handles: Sequence[Artist | Container] | None = None
) -> None:
    """Put the legend above the axes, where no data lie, in as many columns as there is room for."""
    shown, labels = ax.get_legend_handles_labels()
    if handles is not None:
        shown, labels = handles, [str(handle.get_label()) for handle in handles]
    for columns in range(len(shown), 0, -1):
        legend = ax.legend(
            shown, labels, title=title, ncols=columns, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0.1,
            handlelength=1.2, handletextpad=0.5, columnspacing=1.1, labelspacing=0.3, alignment="left", labelcolor=ink(),
        )  # fmt: skip
        if title:
            legend.get_title().set_color(ink())
        if legend.get_window_extent().width <= 1.02 * ax.bbox.width:
            return


def title_above(ax: Axes, title: str) -> None:
    """Write a title above the axes, and above the legend if that stands there too."""
    ax.set_title(title, loc="left", pad=4 + _height_above(ax))


def label_panels(panels: Iterable[Axes], titles: Sequence[str] = ()) -> None:
    """Give each panel a bold letter, and a title where there is one."""
    for k, ax in enumerate(panels):
        title = titles[k] if k < len(titles) else ""
        title_above(ax, f"$\\mathbf{{{'abcdefghijkl'[k]}}}$  {title}".strip())


def log_scale(ax: Axes, which: Literal["x", "y"], *, subs: Sequence[float] = (1.0,)) -> None:
    """Make an axis logarithmic, with labels at these multiples of powers of ten alone: those
    between would collide."""
    ax.set(**{f"{which}scale": "log"})
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_minor_formatter(NullFormatter())
    if len(subs) > 1:
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter(EngFormatter(sep=""))  # 500, 2k


def shade(value: float, top: float) -> str:
    """Return the colour of a strength or a label between -top and top."""
    return to_hex(DIVERGING(0.5 + 0.5 * max(-1.0, min(1.0, value / top if top else 0.0))))


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it, from 1 (the same) to 21 (black on
    white).

    Example:
        >>> round(contrast("#ffffff", "#000000"))
        21
    """
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def on(ground: str) -> str:
    """Return black or white, whichever is read better on this ground; one of the two always has
    4.5:1."""
    return max(("#ffffff", "#000000"), key=lambda colour: contrast(colour, ground))


def _luminance(colour: ColorType) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _is_dark(ground: ColorType) -> bool:
    # a ground that is seen through lies on an unknown page: taken for white
    return to_rgba(ground)[3] > 0 and _luminance(ground) < 0.18


def _colours(dark: bool) -> dict[Any, str]:
    colours = dict.fromkeys(GROUND, PAPER) | dict.fromkeys(WORDS, INK) | {"grid.color": LINE}
    return {name: DARK[colour] for name, colour in colours.items()} if dark else colours


def _height_above(ax: Axes) -> float:
    """Return how high the legend above the axes is, points; 0 if it is inside or there is none."""
    legend = ax.get_legend()
    if legend is None:
        return 0.0
    extent = legend.get_window_extent()
    return ceil(72 * extent.height / figure_of(ax).dpi) if extent.y0 >= ax.bbox.y1 - 2 else 0.0
