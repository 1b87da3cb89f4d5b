"""A figure as SVG that is part of the page: its words are text, and its neutral colours are the
page's own, light or dark."""

import io
import re
from html import escape

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from steerlens.show.style import INK, LINE, PAPER, SOFT, look

VARIABLES = {INK: "var(--ink)", SOFT: "var(--soft)", PAPER: "var(--paper)", LINE: "var(--line)"}
PX = 1.8
"""Pixels on the page per point of a figure, at most: its words are then as large as the page's
small print."""


def inline_svg(fig: Figure, name: str, alt: str) -> Markup:
    """Return a figure drawn in the light look as an `<svg>` element for an HTML page.

    Args:
        fig: stays open.
        name: differs from one figure of a page to the next, so that no two share an id.
        alt: what the figure shows, for those who do not see it.

    Example:
        >>> from steerlens.show.style import axes, look
        >>> with look(dark=False):
        ...     fig = axes().figure
        >>> svg = inline_svg(fig, "empty", "nothing & no one")
        >>> str(svg[:4]), "var(--ink)" in svg, "nothing &amp; no one" in svg
        ('<svg', True, True)
    """
    file = io.StringIO()
    with look(dark=False), mpl.rc_context({"svg.hashsalt": name}):
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        fig.savefig(
            file,
            format="svg",
            transparent=True,
            bbox_inches="tight",
            pad_inches=0.03,
            metadata=empty,
        )
    svg = file.getvalue()
    width, box = re.search(r'width="([\d.]+)pt".*?viewBox="([^"]+)"', svg, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    # names of groups are the same in every figure; ids of what is used again are not, thanks to the
    # salt
    body = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", body).replace("xlink:href", "href")
    # two decimals place a point well enough; the numbers that are read, outside of tags, stay whole
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), body)
    body = re.sub(r"\s*\n\s*", " ", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, variable)
    # DejaVu Sans is not everywhere; Verdana is as wide
    body = body.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    head = f"<svg role='img' aria-label='{escape(alt)}' viewBox='{box}' style='width: {PX * float(width):.0f}px'>"
    return Markup(head + body)
