"""Pieces of HTML for the report: tables, pictures and numbers, everything escaped by whoever puts it in a cell."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from steerlens.show.style import shade, signed

CSS = """
:root { color-scheme: light dark; --ink: #1d1f23; --soft: #5d636b; --paper: #ffffff; --card: #f5f6f8; --line: #d9dce1; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e6; --soft: #a3a8ae; --paper: #17181b; --card: #212327; --line: #3a3d42; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { margin: 3rem 0 .4rem; padding-top: .6rem; border-top: 2px solid var(--line); }
h3 { margin: 2rem 0 .4rem; } p { max-width: 46rem; margin: .5rem 0; } .soft, figcaption, caption { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; margin: .6rem 0; } caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; text-align: left; }
th { font-weight: 600; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.texts { table-layout: fixed; width: 100%; min-width: 54rem; } .texts th:first-child { width: 6.2rem; }
.texts td { font-size: .82rem; line-height: 1.4; }
.strength { color: #fff; border-radius: .25rem; padding: .05rem .5rem; display: inline-block; min-width: 2.4rem;
  text-align: center; }
.judge { display: block; margin-top: .25rem; color: var(--soft); font-size: .76rem; font-variant-numeric: tabular-nums; }
figure { margin: .8rem 0; } .row { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: .4rem;
  padding: .4rem; }
.marked { display: flex; gap: 1rem; align-items: baseline; margin: .3rem 0; }
figcaption { font-size: .84rem; max-width: 46rem; } nav a { margin-right: 1rem; } a { color: inherit; }
ul.short { padding-left: 1.1rem; max-width: 46rem; }
@media print { :root { --ink: #000; --paper: #fff; --card: #fff; } body { max-width: none; padding: 0; font-size: 11pt; }
  h2 { break-before: page; } figure, tr { break-inside: avoid; } nav { display: none; } .texts { min-width: 0; } }
"""

Picture = tuple[bytes, float]
"""A PNG and its width on the page in px."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = (), kind: str = "") -> str:
    """A table of cells that are HTML already."""
    right = set(numbers)

    def line(cells: Sequence[str], tag: str) -> str:
        inner = "".join(f"<{tag}{' class=n' if i in right else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{inner}</tr>"

    top = f"<thead>{line(head, 'th')}</thead>" if any(head) else ""
    return f"<table class='{kind}'>{top}<tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table>"


def figure(picture: Picture, alt: str, caption: str = "") -> str:
    """A picture with its description for those who do not see it."""
    data, width = picture
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f"<figure><img alt='{escape(alt, quote=True)}' width='{width:.0f}' src='{source}'>{below}</figure>"


def chip(strength: float, top: float) -> str:
    """A strength or label on its colour."""
    return f"<span class='strength' style='background:{shade(strength, 1.15 * top)}'>{signed(float(strength))}</span>"


def decimal(x: float) -> str:
    """'+0.78', '−0.15', '0.00'."""
    return f"{x:.2f}" if abs(x) < 0.005 else f"{x:+.2f}".replace("-", "−")


def label(value: float | str) -> str:
    """A label, or the word "all"."""
    return value if isinstance(value, str) else signed(float(value))


def percent(share: float) -> str:
    """'41 %'."""
    return f"{100 * share:.0f}\u202f%".replace("-", "−")


def number(x: float) -> str:
    """Three decimals, nothing for a missing value."""
    return "" if pd.isna(x) else f"{x:.3f}"


def anchor(name: str) -> str:
    """The id of a steer's section."""
    return "steer-" + "".join(c if c.isalnum() else "-" for c in name)
