"""Conditions in other forms: in words, as people write them, and as files keep them."""

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from steerlens.maths.brief import brief
from steerlens.values.conditions import (
    About,
    Candidates,
    Condition,
    Entropy,
    NewTokens,
    PromptTokens,
    Schedule,
)
from steerlens.values.readout import Readout

PLAIN = {
    kind.kind: kind for kind in (PromptTokens, NewTokens, Schedule, Entropy, Candidates)
}  # of numbers alone
WRITTEN: tuple[tuple[str, Callable[[str], Condition]], ...] = (
    (r"prompt", lambda _: PromptTokens()),
    (r"new", lambda _: NewTokens()),
    (r"from (\d+)", lambda k: NewTokens(first=int(k))),
    (r"every (\d+)", lambda n: NewTokens(every=int(n))),
    (r"fade (\d+)", lambda n: Schedule(1.0, 0.0, int(n))),
    (r"rise (\d+)", lambda n: Schedule(0.0, 1.0, int(n))),
    (r"entropy > ([\d.]+)", lambda bound: Entropy(above=float(bound))),
    (r"entropy < ([\d.]+)", lambda bound: Entropy(below=float(bound))),
    (r"top (\d+)", lambda k: Candidates(int(k))),
)
"""Conditions as they are written in words."""


def parse_condition(text: str) -> Condition:
    """Return the condition that a text names.

    `"prompt"`, `"new"`, `"from 5"` (the fifth new token), `"every 3"`, `"fade 20"`, `"rise 20"`,
    `"entropy > 1.5"`, `"entropy < 1"`, `"top 50"`.

    Raises:
        ValueError: anything else.

    Example:
        >>> parse_condition("entropy > 1.5")
        Entropy(above=1.5, below=None)
    """
    plain = re.sub(r"\s*([<>])\s*", r" \1 ", " ".join(text.split()))
    plain = re.sub(r"^(from|every|fade|rise|top)(\d)", r"\1 \2", plain)
    for pattern, make in WRITTEN:
        if found := re.fullmatch(pattern, plain):
            try:
                return make(found[found.lastindex or 0])
            except ValueError as error:
                raise ValueError(f"condition {text!r}: {error}") from None
    raise ValueError(
        f"condition: got {brief(text)}, expected 'prompt', 'new', 'from 5', 'every 3', "
        "'fade 20', 'rise 20', 'entropy > 1.5', 'entropy < 1' or 'top 50'"
    )


def pack_condition(condition: Condition) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON of a condition.

    Raises:
        ValueError: one of another class than those here.
    """
    if isinstance(condition, About):
        about = {"threshold": condition.threshold, "name": condition.name}
        return {"vector": condition.vector}, {"kind": About.kind, **about}
    if type(condition) not in PLAIN.values():
        raise ValueError(
            f"condition: a {type(condition).__name__} cannot be kept in a file; those of steerlens.values.conditions can"
        )
    return {}, {"kind": condition.kind, **vars(condition)}


def unpack_condition(
    tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout
) -> Condition:
    """Make it again from what `pack_condition` gave."""
    kind, numbers = about["kind"], {name: x for name, x in about.items() if name != "kind"}
    if kind == About.kind:
        return About(tensors["vector"], numbers["threshold"], readout, numbers["name"])
    return PLAIN[kind](**numbers)
