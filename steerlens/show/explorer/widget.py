"""The explorer in a notebook, live: the kernel writes and computes for whatever prompt is typed."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerlens.models.hooks import Model
from steerlens.show.explorer.build import explore
from steerlens.show.explorer.study import Known
from steerlens.values.fit import Fit
from steerlens.values.labelled import Labelled
from steerlens.values.steer import Steer

if TYPE_CHECKING:
    from anywidget import AnyWidget

SCRIPT = Path(__file__).parent / "templates" / "widget.js"


def explore_live(
    model: Model,
    steers: Mapping[str, Steer | Fit],
    prompt: str,
    *,
    texts: Labelled | Iterable[str] | None = None,
    known: Mapping[str, Known] | None = None,
    strengths: tuple[float, ...] | None = None,
    max_new_tokens: int = 24,
    seed: int = 0,
) -> "AnyWidget":
    """Return the page of `explore` as a widget with a field for the prompt.

    Whatever is typed there the kernel continues at all stops, and the page is made anew;
    `widget.prompt = "..."` does the same from a cell. It lives as long as the kernel: a page to
    keep or to send is `explore(...).save(path)`.

    Args:
        model, steers, texts, known, strengths, max_new_tokens, seed: as for `explore`.
        prompt: to begin with.

    Raises:
        ImportError: anywidget is not installed (the extra `widget`).
        ValueError: as from `explore`, of the first prompt; of later ones it is said in the widget.
    """
    try:
        from anywidget import AnyWidget
        from traitlets import Unicode
    except ImportError as error:
        raise ImportError(
            "explore_live needs anywidget: pip install 'steerlens[widget]'; without it, "
            "steerlens.show.explore(...) shows a page for prompts that are known beforehand"
        ) from error

    sample = texts if texts is None or isinstance(texts, Labelled) else tuple(texts)

    def html(text: str) -> str:
        return explore(
            model, steers, [text], texts=sample, known=known, strengths=strengths,
            max_new_tokens=max_new_tokens, seed=seed,
        ).html  # fmt: skip

    # Any: its traits are added here
    widget: Any = AnyWidget(_esm=SCRIPT.read_text(encoding="utf-8"))
    first = {"html": html(prompt), "prompt": prompt, "said": ""}
    widget.add_traits(**{name: Unicode(x).tag(sync=True) for name, x in first.items()})

    def answer(change: Mapping[str, Any]) -> None:
        widget.said = "writing …"
        try:
            widget.html, widget.said = html(change["new"]), ""
        except ValueError as error:
            widget.said = str(error)

    widget.observe(answer, names=["prompt"])
    return widget
