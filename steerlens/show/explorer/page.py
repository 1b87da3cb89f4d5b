"""The explorer as one HTML page: its data, its words, its script; nothing from elsewhere."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from steerlens.analysis.svd.words import replicates
from steerlens.show.explorer.study import KL_BUDGET, PRICE, Exploration, Written
from steerlens.show.numbers import fixed
from steerlens.values.readout import Readout


def page(exploration: Exploration) -> str:
    """Return the page.

    What models, texts and users say is escaped: words of the page by Jinja2, data as JSON that
    holds no `<`, which the script puts in as text alone. A content security policy lets the page
    run the one script and use the one style sheet that are in it, by their digests, and load
    nothing.
    """
    env = _environment()
    style, script = (_own(env, name) for name in ("explorer.css", "explorer.js"))
    return env.get_template("explorer.html.j2").render(
        shown=exploration,
        data=data(exploration),
        budget=KL_BUDGET,
        price=PRICE,
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'",
    )


def data(exploration: Exploration) -> dict[str, Any]:
    """Return what the page computes with, ready for JSON; arrays of numbers are base64 of float32,
    ids of words int32."""
    found, on = exploration.candidates, exploration.readout
    used, rows = np.unique(found.ids, return_inverse=True)
    return {
        "model": on.model_id,
        "names": list(exploration.names),
        "stops": [list(axis) for axis in exploration.stops],
        "grid": exploration.grid.ravel().tolist(),
        "written": [_written(one) for one in exploration.written],
        "tokens": labels(on, used.tolist()),
        "vocabulary": on.d_vocab,
        "scale": on.scale,
        "softcap": on.softcap,
        "n": found.box.n,
        "low": list(found.box.low),
        "high": list(found.box.high),
        "candidates": found.ids.shape[1],
        "ids": _encoded(rows.reshape(found.ids.shape).astype("<i4")),
        "logits": _encoded(found.logits.astype("<f4")),
        "shifts": [_encoded(x.astype("<f4")) for x in found.shifts],
        "rest": _encoded(found.rest.astype("<f4")),
        "cost": exploration.cost.coefficients.tolist(),
        "cost_n": exploration.cost.box.n,
        "budget": KL_BUDGET,
    }


def labels(readout: Readout, ids: Iterable[int]) -> list[str]:
    """Return tokens as they are shown by themselves.

    A space before a word is a dot where the vocabulary has words without one too; what cannot be
    seen is named.
    """
    mixed = len({token.startswith(" ") for token in readout.tokens if token.strip().isalpha()}) > 1

    def one(i: int) -> str:
        token = readout.tokens[i] if i < readout.n_tokens else ""
        if not token:
            return f"[unused {i}]"
        bare = token[1:] if token.startswith(" ") else token
        if not any(map(str.isprintable, bare.strip())):
            return "".join("␣" if c == " " else f"U+{ord(c):04X}" for c in token)
        return ("·" if mixed and bare != token else "") + bare

    return [one(i) for i in ids]


def _written(one: Written) -> dict[str, Any]:
    return {
        "pieces": list(one.pieces),
        "start": one.start,
        "positions": list(one.positions),
        "evidence": [[round(x, 4) + 0.0 for x in part] for part in one.evidence],
        "spans": [[[s.start, s.end, round(s.value, 4)] for s in part] for part in one.spans],
    }


def _encoded(array: Shaped[np.ndarray, "..."]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _own(env: Environment, name: str) -> Markup:
    """Return a file of the package, to stand in the page as it is."""
    return Markup(env.get_template(name).render())


def _digest(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _environment() -> Environment:
    env = Environment(
        loader=ChoiceLoader(
            # the report's style sheet and macros: one look
            [PackageLoader("steerlens.show.explorer"), PackageLoader("steerlens.show.report")]
        ),
        autoescape=select_autoescape(enabled_extensions=("j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    env.filters |= {f.__name__: f for f in (fixed, enumerate_names)}
    env.tests["contains"] = lambda table, column: column in table
    env.tests["kept"] = lambda row: replicates(row.kept, row.spread)
    return env


def enumerate_names(names: Sequence[str]) -> str:
    """Return names as a sentence has them.

    Example:
        >>> enumerate_names(["joy", "manners"])
        'joy and manners'
    """
    return " and ".join(names)
