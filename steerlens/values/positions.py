"""Which tokens of a batch an intervention acts on."""

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from steerlens.maths.brief import brief


class TokenIndex(NamedTuple):
    """Which tokens a batch holds: each one's `index` in its row's text, 0 the first and -1 padding,
    and how many tokens of each row are its `prompt`. A step of cached generation holds one token
    per row, whose index is that of the whole text."""

    index: Int[Tensor, "batch pos"]
    prompt: Int[Tensor, " batch"]


def places_of(mask: Int[Tensor, "batch pos"], prompt: Int[Tensor, " batch"]) -> TokenIndex:
    """Return the places of the tokens that an attention mask marks, padded on either side."""
    return TokenIndex(torch.where(mask.bool(), mask.cumsum(1) - 1, -1), prompt)


@dataclass(frozen=True)
class PositionSelector:
    """The first `first` and last `last` tokens of the prompt (or the whole `prompt`), and with
    `new` what comes after it.

    Where both ends are asked of a prompt of `n` tokens, the first take at most ⌊n/2⌋ and the last
    at most ⌈n/2⌉, so that no token is edited twice; one end alone takes at most the whole prompt.
    """

    first: int = 0
    last: int = 0
    prompt: bool = False
    new: bool = False

    def masks(
        self, places: TokenIndex
    ) -> tuple[Bool[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Return where the beginning and where the end is.

        The whole prompt counts as beginning, new tokens as end.
        """
        index, n = places.index, places.prompt[:, None]
        first = torch.minimum(torch.full_like(n, self.first), n // 2 if self.last else n)
        last = torch.minimum(torch.full_like(n, self.last), n - n // 2 if self.first else n)
        real, within = index >= 0, index < n
        beginning = real & (index < (n if self.prompt else first))
        return beginning, real & (
            ((index >= n - last) & within) | (~within if self.new else torch.zeros_like(within))
        )


def parse_positions(text: str) -> PositionSelector:
    """Return the selector that a text names.

    `"f2+l3"`: the first two and the last three tokens of the prompt. `"prompt"`: all of it.
    `"new"`: all after it. Joined by `+`; `"all"` is `"prompt+new"`.

    Of a prompt shorter than that, one end takes all tokens and both ends share them (see
    `PositionSelector`). pyreft takes at most half of the prompt for either end, even where only one
    is asked for, and moves the rest to padding: of three tokens its `f3` edits the first alone,
    ours all three.

    Raises:
        ValueError: anything else, or the whole prompt together with a part of it.

    Example:
        >>> parse_positions("f2+l3")
        PositionSelector(first=2, last=3, prompt=False, new=False)
    """
    found = {"first": 0, "last": 0, "prompt": False, "new": False}
    parts = text.split("+") if isinstance(text, str) else [str(text)]
    for part in ["prompt", "new"] if text == "all" else parts:
        counted = re.fullmatch(r"([fl])([1-9]\d*)", part)
        key = {"f": "first", "l": "last"}[counted[1]] if counted else part
        if key not in found or found[key] or (key in ("first", "last")) != bool(counted):
            raise ValueError(
                f"positions: got {brief(text)}, expected 'all', or parts such as "
                "f2 (first two tokens of the prompt), l3 (last three), prompt, new (generated tokens), "
                "each at most once and joined by '+', e.g. 'f2+l3'"
            )
        found[key] = int(counted[2]) if counted else True
    if found["prompt"] and (found["first"] or found["last"]):
        raise ValueError(
            f"positions: {text!r} asks for the whole prompt and for a part of it; leave one out"
        )
    return PositionSelector(
        int(found["first"]), int(found["last"]), bool(found["prompt"]), bool(found["new"])
    )
