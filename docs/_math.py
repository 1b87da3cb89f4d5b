"""Formulas as MathML, which browsers show by themselves: no page loads a script from elsewhere."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def add_renderer(app: Any) -> None:
    """Let Sphinx write formulas so."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
