"""Arguments that several rivals take."""

from typing import Any

from steerlens.maths.numbers import as_count
from steerlens.values.arguments import check_kind
from steerlens.values.texts import as_list, plain_texts

LEAST = 4
"""Texts of which a copy learns and is judged."""


def check_settings(given: Any, name: str, usual: Any) -> None:
    """Raise where something else than settings of the kind of the usual ones was given.

    Raises:
        ValueError: a number, a dictionary, the class itself; the message names the argument.
    """
    kind = type(usual)
    check_kind(given, name, kind, f"a {kind.__name__}, e.g. {usual}")


def check_enough(n: int, name: str, which: str = "texts") -> None:
    """Raise where there are fewer texts than a copy can be trained on."""
    if n < LEAST:
        raise ValueError(
            f"{name}: got {n} {which}, expected at least {LEAST} texts (some hundreds for a copy worth having); add more"
        )


def as_layer(given: Any, n_layers: int, more: str = "") -> int:
    """Return one layer of a model.

    Args:
        more: what is taken too, for the message.

    Raises:
        ValueError: several, no whole number, a layer that there is not.

    Example:
        >>> as_layer(2, 3)
        2
    """
    return as_count(given, "layer", f"0 … {n_layers - 1}{more}", least=0, most=n_layers - 1)


def as_sides(given: Any, name: str) -> tuple[str, str]:
    """Return two texts, for positive and for negative strengths.

    Raises:
        ValueError: one text alone, or three; what is no text; the message names the argument.

    Example:
        >>> as_sides(["please", "idiots"], "codes")
        ('please', 'idiots')
    """
    found = plain_texts(name, given)
    if len(found) != 2:
        raise ValueError(
            f"{name}: got {len(found)}, expected two texts, for positive and for negative labels or strengths"
        )
    return found[0], found[1]


def as_ids(given: Any, name: str, n: int) -> tuple[int, ...]:
    """Return ids of tokens, of a vocabulary of `n`.

    Raises:
        ValueError: no list, no whole numbers, an id that there is not; the message names the
            argument.

    Example:
        >>> as_ids([3, 1], "favoured", 5)
        (3, 1)
    """
    expected = f"ids of tokens, whole numbers from 0 to {n - 1}"
    return tuple(as_count(i, name, expected, least=0, most=n - 1) for i in as_list(name, given))
