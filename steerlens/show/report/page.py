"""The report as one HTML page: self-contained, escaped, no script, nothing from the network. Its
words are in `templates`."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from steerlens.analysis.highlight import Highlight
from steerlens.analysis.svd.words import replicates
from steerlens.show.numbers import fixed, format_signed, interval, percent, tidy
from steerlens.show.report.study import KL_BUDGET, Study
from steerlens.show.style import BLUE, RED, on, shade
from steerlens.show.tables import rows_of, select


def page(studies: Sequence[Study], pictures: Mapping[str, Markup], facts: Mapping[str, Any]) -> str:
    """Return the whole report.

    Args:
        studies: one section each.
        pictures: SVG by name: `STEER-FIGURE`, "transfer" and "rivals".
        facts: from `write_report`.
    """
    steers = [_steer(one, pictures) for one in studies]
    time_head, time_rows = _time(studies)
    return _environment().get_template("page.html.j2").render(
        steers=steers, shared=pictures, facts=facts, budget=KL_BUDGET, time_head=time_head, time_rows=time_rows
    )  # fmt: skip


def anchor(name: str) -> str:
    """Return a name as part of an id.

    Example:
        >>> anchor("gap closed")
        'gap-closed'
    """
    return "".join(c if c.isalnum() else "-" for c in name)


def replication(words: Any) -> str:
    """Return a sentence on which directions a fit to the other half of the texts has too; `words`
    from `singular_words`.

    Example:
        >>> import pandas as pd
        >>> replication(pd.DataFrame({"direction": [1, 2], "gain": [1.0, 0.5], "kept": [0.8, 0.1], "spread": 0.1}))
        'Direction 1 does (kept 0.80 ± 0.10); direction 2 does not (kept 0.10 ± 0.10).'
    """
    if "kept" not in words:
        return "Not tested: there are too few texts to fit halves of them."
    said = []
    for row in words.drop_duplicates("direction").itertuples():
        kept = (
            "nothing to keep"
            if isnan(row.kept)
            else f"kept {fixed(row.kept, 2)} ± {fixed(row.spread, 2)}"
        )
        how = (
            "does not"
            if not replicates(row.kept, row.spread)
            else "does"
            if row.kept >= 0.5
            else "does in part"
        )
        said.append(f"direction {row.direction} {how} ({kept})")
    text = "; ".join(said) or "the steer has no direction"
    return f"{text[0].upper()}{text[1:]}."


def _environment() -> Environment:
    env = Environment(
        loader=PackageLoader("steerlens.show.report"),
        # every template but the style sheet is HTML: what models, data and users say is escaped
        autoescape=select_autoescape(enabled_extensions=("j2",)),
        undefined=StrictUndefined,
    )
    filters = (fixed, format_signed, percent, interval, tidy, anchor, on)
    env.filters |= {f.__name__: f for f in filters} | {"shade": _chip_colour, "label": _label}
    return env


def _chip_colour(strength: float, top: float) -> str:
    return shade(strength, 1.15 * top)


def _label(value: float | str) -> str:
    return value if isinstance(value, str) else format_signed(float(value))


def _steer(one: Study, pictures: Mapping[str, Markup]) -> dict[str, Any]:
    """Return what the templates say of one steer."""
    tables, prefix = one.tables, f"{one.name}-"
    kl = tables["kl"].set_index("strength").kl
    top = one.strengths[-1]
    words = select(tables["words"], tables["words"].gain > 0)
    view = {
        "name": one.name,
        "id": f"steer-{anchor(one.name)}",
        "doubt": one.doubt,
        "report": one.fit.report,
        "n_test": one.n_test,
        "strengths": one.strengths,
        "tables": tables,
        "pictures": {
            name.removeprefix(prefix): svg
            for name, svg in pictures.items()
            if name.startswith(prefix)
        },
        "kl": kl,
        "top": top,
        "top_kl": max(kl[top], kl[-top]),
        "unit": sum(one.fit.report.kl) / 2,
        "replicates": replication(words),
        "judged": "attribute" in tables["texts"],
        "texts": [
            (prompt, list(part.sort_values("strength").itertuples()))
            for prompt, part in tables["texts"].groupby("prompt", sort=False)
        ],
        "writing": tables["writing"].merge(tables["kl"], on="strength", how="left"),
        "words": [
            (row, "kept" not in words or replicates(row.kept, row.spread)) for row in rows_of(words)
        ],
        "has_kept": "kept" in words,
        "effective_rank": one.spectrum.effective_rank,
        "total_kl": one.spectrum.kl,
        "highlights": [(label, found, _pieces(found)) for label, found in one.highlights],
        "top_label": max(abs(label) for label, _ in one.highlights),
        "gap_all": None,
    }
    return view | (_truth(one) if "gap" in tables else {})


def _truth(one: Study) -> dict[str, Any]:
    """Return what only a known grammar can say of a steer."""
    gap, written = one.tables["gap"], one.tables["written"]
    whole = gap.set_index("grade").loc["all"]
    means = written.groupby("strength").attribute.mean()
    return {
        "gap_all": whole,
        "multiple": float(gap.multiple.iloc[0]),
        "unlearned": (whole.base - whole.grammar) / (whole.base - whole.truth),
        "written_ends": (means.iloc[0], means.iloc[-1]),
        "n_written": len(written) // written.strength.nunique(),
        "real": list(one.tables["real"].sort_values("label").iloc[[0, -1]].itertuples()),
    }


def _pieces(found: Highlight) -> list[dict[str, Any]]:
    """Return a highlighted text's tokens with their shades, and where a span opens and closes."""
    scale = max(float(found.tokens.evidence.abs().max()), 1e-9)
    opening = set(found.spans.start)
    sums = {
        int(end) - 1: total
        for end, total in zip(found.spans.end, found.spans.evidence, strict=True)
    }
    pieces = []
    for i, (token, x) in enumerate(zip(found.tokens.token, found.tokens.evidence, strict=True)):
        word = token.lstrip()
        # two hexadecimal digits of opacity: no more than 70 %, so that words are read on it, light
        # or dark
        colour = f"{RED if x > 0 else BLUE}{round(0.7 * 255 * abs(x) / scale):02x}"
        space = token[: len(token) - len(word)]
        pieces.append(
            {
                "space": space,
                "word": word or "␣",
                "x": x,
                "colour": colour,
                "opens": i in opening,
                "sum": sums.get(i),
            }
        )
    return pieces


def _time(studies: Sequence[Study]) -> tuple[list[str], list[list[str]]]:
    """Return the seconds that each step of each steer took, and how fast its fit was."""
    steps = list(dict.fromkeys(step for one in studies for step in one.seconds))
    rows = []
    for one in studies:
        r = one.fit.report
        speed = r.passes * r.n_positions / max(r.seconds, 1e-9)
        took = [fixed(one.seconds.get(step, 0.0), 1) for step in steps]
        rows.append([one.name, *took, fixed(r.passes, 1), fixed(speed, 0)])
    return ["steer", *(f"{step} (s)" for step in steps), "passes", "positions per second"], rows
