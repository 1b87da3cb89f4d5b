"""How a model is read token by token: with its cache and with padding, where both are harmless."""

from collections.abc import Callable, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.numbers import generator
from steerlens.models.adapters import Adapter, Model
from steerlens.models.adapters.protocol import Step
from steerlens.models.fingerprint import fingerprint
from steerlens.models.hooks import adapter, eval_mode
from steerlens.models.tokenization import pad

AGREES, AGREES_IN_HALF = 1e-3, 1e-1
"""Largest difference between two ways of reading, relative to the size of the logits: a cache that
is wrong differs by more than that in any precision."""


class Habits(NamedTuple):
    """What does not change a model's logits.

    Args:
        caches: to keep keys and values, or a state, between calls.
        pads: padding on the left, under a mask. (A recurrent state may hear it.)
    """

    caches: bool
    pads: bool


def decoder(model: Model, *, caches: bool) -> Step:
    """Return a function that reads new tokens behind those it has read, with the model's own cache
    or anew from the first token each time."""
    found = adapter(model)
    return found.decoder() if caches else _anew(found)


def habits(model: Model) -> Habits:
    """Return what a model may be read with, tried once on a few random tokens.

    Read in the cheapest way that gives what whole passes over single texts give.

    Example:
        >>> import steerlens as sl
        >>> habits(sl.load_model("toy-64"))
        Habits(caches=True, pads=True)
    """
    found = adapter(model)
    now = fingerprint(found)
    known = _KNOWN.get(found.model)
    if known is None or known[0] != now:
        with eval_mode(model):
            known = _KNOWN[found.model] = now, _try(found)
    return known[1]


_KNOWN: WeakKeyDictionary[Model, tuple[int, Habits]] = WeakKeyDictionary()
"""Of each model, as it was: they follow from its modules and configuration."""


def _try(found: Adapter) -> Habits:
    device, n = found.W_U.device, found.W_U.shape[1]
    draws = torch.randint(1, n, (2, 7), generator=generator(0)).tolist()
    begin = getattr(found.tokenizer, "bos_token_id", None)
    if begin is not None:  # as texts begin; some models make positions of what is no padding token
        draws = [[begin, *draw[1:]] for draw in draws]
    texts = [draws[0], draws[0][:4], draws[1][:4]]  # of seven, four and four tokens
    truth = [
        found.logits(tokens, torch.ones_like(tokens))[0, -3:].float()
        for tokens in (torch.tensor([text], device=device) for text in texts)
    ]
    tolerance = AGREES if found.W_U.dtype == torch.float32 else AGREES_IN_HALF
    ways = [Habits(caches, pads) for pads in (True, False) for caches in (True, False)]
    for way in ways[:-1]:
        make = found.decoder if way.caches else lambda: _anew(found)
        rows = [0, 2] if way.pads else [1, 2]
        some, whole = [texts[row] for row in rows], torch.stack([truth[row] for row in rows])
        if _agrees(make, some, whole, tolerance):
            return way
    return ways[-1]


def _agrees(
    make: Callable[[], Step],
    texts: Sequence[list[int]],
    truth: Float[Tensor, "rows 3 vocab"],
    tolerance: float,
) -> bool:
    """Return whether texts have the logits that they have read whole when their last two tokens are
    read one by one."""
    tokens, mask = (t.to(truth.device) for t in pad([text[:-2] for text in texts], left=True))
    step, logits = make(), []
    try:
        for k in range(3):
            if k:
                tokens = torch.tensor([[text[k - 3]] for text in texts], device=truth.device)
                mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
            logits.append(step(tokens, mask).float())
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return False  # of the many ways in which a cache can refuse; another way of reading is left
    found = torch.stack(logits, dim=1)
    return bool((found - truth).abs().max() <= tolerance * truth.abs().max())


def _anew(found: Adapter) -> Step:
    """Return a step that runs the model on all tokens each time."""
    seen: list[Tensor] = []

    def step(new: Int[Tensor, "batch new"], mask: Int[Tensor, "batch pos"]) -> Tensor:
        seen.append(new)
        return found.logits(torch.cat(seen, dim=1), mask)[:, -1]

    return step
