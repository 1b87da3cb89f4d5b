"""Texts as users hand them over: checked once, the same way everywhere."""

from collections.abc import Iterable, Mapping, Set

import pandas as pd


def as_texts(texts: Iterable[str], name: str = "texts") -> list[str]:
    """Return texts as a list of plain strings.

    A list or a tuple, a generator, a pandas Series, a numpy array of strings: whatever gives one string after another in
    an order. Empty strings pass, as a prompt may be one.

    Args:
        texts: the texts.
        name: of the argument, for messages.

    Raises:
        ValueError: one string, a table, a mapping or a set instead of texts in an order; no texts; an entry that is
            missing or no string; half a character (a lone surrogate). The message names the row.

    Example:
        >>> import pandas as pd
        >>> as_texts(pd.Series(["good .", "bad ."], index=[7, 9]))
        ['good .', 'bad .']
    """
    if isinstance(texts, str | bytes):
        raise ValueError(f"{name}: got {_short(texts)}, expected a list of texts, not one string; wrap it in a list")
    if isinstance(texts, Mapping | pd.DataFrame):
        keys = [str(key) for key in texts]
        column = "text" if "text" in keys else keys[0] if keys else "text"
        raise ValueError(
            f"{name}: got a {type(texts).__name__} with {_list(keys)}, whose keys would be read as texts; pass its texts: "
            f"{name}[{column!r}]"
        )
    if isinstance(texts, Set):
        raise ValueError(f"{name}: got a {type(texts).__name__}, which has no order; pass a list: sorted({name})")
    try:
        rows = list(texts)
    except TypeError:
        raise ValueError(f"{name}: got {type(texts).__name__}, expected a list of texts") from None
    if not rows:
        raise ValueError(f"{name}: got none, expected at least one text; is the file or the filter empty?")
    for row, text in enumerate(rows):
        _check(text, f"{name}[{row}]")
    return [str(text) for text in rows]  # numpy's strings become plain ones


def _check(text: object, where: str) -> None:
    if not isinstance(text, str):
        if text is None or text is pd.NA or text is pd.NaT or (isinstance(text, float) and text != text):
            raise ValueError(f"{where} is missing ({text}), expected a text; drop the row, e.g. with .dropna()")
        raise ValueError(f"{where}: got {type(text).__name__} {_short(text)}, expected a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} holds half a character, {text[error.start]!a} at place {error.start}: a text that was cut inside an "
            "emoji; cut it by characters, or drop it with text.encode('utf-8', 'ignore').decode()"
        ) from None


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:39] + "…"


def _list(keys: list[str]) -> str:
    return ", ".join(map(repr, keys[:4])) + (" …" if len(keys) > 4 else "") if keys else "nothing"
