"""Make an explorer page, and keep it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path

from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.files import read_metadata
from steerlens.models.hooks import Model
from steerlens.show.explorer.page import page
from steerlens.show.explorer.study import Asked, Exploration, Known, study
from steerlens.values.atomic import write_bytes
from steerlens.values.fit import Fit, value_of
from steerlens.values.labelled import Labelled
from steerlens.values.paths import as_path, check_folder
from steerlens.values.steer import Steer
from steerlens.values.texts import as_name
from steerlens.values.verdict import Verdict

LARGEST = 5_000_000
"""Bytes of a page, at most."""


@dataclass(frozen=True)
class Explorer:
    """A page, made by `explore`: one HTML file that needs no server and no network.

    In a notebook it shows itself. `exploration` has its numbers.
    """

    exploration: Exploration
    html: str = field(repr=False)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the page.

        Raises:
            FileExistsError: the file is there and `overwrite` is false.
        """
        path = check_folder(as_path(path))
        if path.exists() and not overwrite:
            raise FileExistsError(
                f"path: {path} exists; choose another name, or pass overwrite=True"
            )
        write_bytes(path, self.html.encode())
        return path

    def __repr__(self) -> str:
        e = self.exploration
        return (
            f"Explorer({' and '.join(e.names)} on {e.readout.model_id!r}, {len(e.prompts)} prompts, "
            f"{len(e.written)} texts, {len(self.html.encode()) / 1e6:.2f} MB; .save('explorer.html'))"
        )

    def _repr_html_(self) -> str:
        # apart from the notebook: its own styles, no access to the notebook's page
        return (
            f"<iframe sandbox='allow-scripts allow-downloads' srcdoc='{escape(self.html)}' "
            "style='width: 100%; height: 60rem; border: 1px solid #8888; box-sizing: border-box' "
            "title='steerlens explorer'></iframe>"
        )


@torch_defaults()
def explore(
    model: Model,
    steers: Mapping[str, Steer | Fit],
    prompts: Iterable[str],
    *,
    texts: Labelled | Iterable[str] | None = None,
    known: Mapping[str, Known] | None = None,
    strengths: tuple[float, ...] | None = None,
    max_new_tokens: int = 24,
    seed: int = 0,
) -> Explorer:
    """Return a page on which the strengths of one steer or two are moved by hand.

    It shows the plain text beside the steered one, the next words of every position, the evidence
    of every word, the singular words of each steer, its verdict, and what the strengths cost. A
    steered logit is `l + s·(cW) W_U`: the page holds `l` and `(cW) W_U` of the likeliest words of
    each position and computes their probabilities at any strength; all other words are lumped, and
    their mass is a polynomial in the strengths that is off by less than 0.001 nats (the page says
    by how much). Texts are written at the stops of the sliders, with the same random numbers.

    Args:
        model: of TransformerLens or of Hugging Face; unchanged afterwards.
        steers: one or two, by the names that the page is to call them; a `Fit` brings its verdict.
        prompts: what texts begin with; four or five make a page of about a megabyte.
        texts: some hundred or more on which the cost is measured and the steers are read; None for
            what the plain model writes after the prompts.
        known: what is known of steers beside their matrix, by name: a `Known` with the verdict of a
            steer that is no `Fit`, or with words that you had yourself.
        strengths: the stops of every slider; None for as far as 0.4 nats per token go.
        max_new_tokens: length of the texts.
        seed: of the texts.

    Returns:
        `Explorer`: `.save(path)` writes it; in a notebook it shows itself.

    Raises:
        ValueError: no steer or more than two, names in `known` that no steer has, an intervention
            that is no `Steer`, no prompts, strengths too large to be computed in the page, or a
            page of more than 5 MB.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> tone = sl.fit_steer(sl.collect(model, sl.toy.corpus("tone", n=100, seed=0))).value
        >>> shown = explore(model, {"tone": tone}, ["the waiter"], strengths=(-1, 0, 1))
        >>> shown.exploration.stops, shown.html[:15]
        (((-1.0, 0.0, 1.0),), '<!DOCTYPE html>')
    """
    given = known or {}
    if not isinstance(steers, Mapping) or len(steers) not in (1, 2):
        count = len(steers) if isinstance(steers, Mapping) else type(steers).__name__
        raise ValueError(
            f"steers: got {count}, expected one or two by name, e.g. {{'joy': joy, 'rude': rude}}; "
            "of more than two add some first: 0.5 * a + 0.5 * b"
        )
    if unknown := sorted(given.keys() - steers.keys()):
        raise ValueError(f"known: {unknown} name no steer; steers are {list(steers)}")
    values, facts = {}, dict(given)
    for name, one in steers.items():
        as_name(name, "steers: a name")
        value = value_of(one)
        if not isinstance(value, Steer):
            raise ValueError(
                f"steers: {name!r} is a {type(value).__name__}, expected a Steer or its Fit: only of a linear map at "
                "the unembedding can a page compute every strength"
            )
        values[name] = value
        before = facts.get(name, Known())
        if isinstance(one, Fit) and before.verdict is None:
            facts[name] = replace(before, verdict=one.report.verdict)
    asked = Asked(strengths, max_new_tokens, seed)
    found = study(model, values, prompts, texts=texts, known=facts, asked=asked)
    html = page(found)
    if (size := len(html.encode())) > LARGEST:
        raise ValueError(
            f"the page would have {size / 1e6:.1f} MB, at most {LARGEST / 1e6:g} are allowed: it grows with prompts "
            f"({len(found.prompts)}), stops ({'×'.join(str(len(axis)) for axis in found.stops)}) and max_new_tokens "
            f"({max_new_tokens}); take fewer"
        )
    return Explorer(found, html)


def read_known(path: str | Path) -> Known:
    """Return what a file that `steerlens.save` wrote with a report knows of its steer.

    Raises:
        ValueError: the file is none of ours, or its verdict is none.
    """
    verdict = (read_metadata(path).get("report") or {}).get("verdict")
    try:
        return Known(None if verdict is None else Verdict(**verdict))
    except TypeError as error:
        raise ValueError(f"{path}: its report has no verdict that can be read ({error})") from None
