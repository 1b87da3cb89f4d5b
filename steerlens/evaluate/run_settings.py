"""What decides the texts and numbers of a run, as JSON: the content of models, judges and methods."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from steerlens.evaluate.protocols import Protocol
from steerlens.evaluate.scorers.card import Scorer, ask
from steerlens.evaluate.writer import Method
from steerlens.maths.numbers import generator
from steerlens.models.collect_same import probe_states
from steerlens.models.hooks import Model
from steerlens.models.readout import readout
from steerlens.values.readout import Readout

JUDGED = (
    "I love it, it was superb.", "This is awful, I hate it.", "You stupid idiot, shut up.",
    "Thank you, that was kind.", "the film was good .", "the film was bad .", "It was 3 o'clock.", "no",
)  # fmt: skip
"""Texts by whose scores a judge is told from another one, where the prompts do not tell."""
DIRECTIONS = 8
"""Numbers that are kept of the state of each token of a model's probe."""


class Entrant(NamedTuple):
    """Who writes: a method at a strength, or with None the model itself, under a name."""

    name: str
    method: Method | None
    strength: float


def settings_of(model: Model, protocol: Protocol) -> dict[str, Any]:
    """Return what decides a run's texts and numbers, as JSON's own types.

    A model is told by its read-out and by its states of a few tokens, a judge by what it is made of
    and by its scores of a few texts; of a function the scores are all that is seen.
    """
    on, s = readout(model), protocol.sampling
    evaluator = model if protocol.evaluator is None else protocol.evaluator
    judge, scorer = readout(evaluator), protocol.scorer
    states = _states(model)
    return {
        "task": protocol.name, "model": f"{on.model_id} {on.digest}", "states of the model": states,
        "evaluator": f"{judge.model_id} {judge.digest}",
        "states of the evaluator": states if evaluator is model else _states(evaluator),
        "scorer": f"{scorer.card} {content(scorer)}",
        "scores of a few texts": _scores(scorer, protocol.prompts),
        "wanted": protocol.wanted, "side": protocol.side, "scored": protocol.scored,
        "samples": s.samples, "max_new_tokens": s.max_new_tokens, "top_p": s.top_p, "seed": s.seed,
        "prompts": content([protocol.kinds, protocol.prompts]),
    }  # fmt: skip


def settings_of_entrant(entrant: Entrant) -> dict[str, Any]:
    """Return what decides an entrant's texts."""
    method = entrant.method
    about = "the model itself"
    if method is not None:
        about = f"{type(method).__name__} {content(method)}"
    return {"name": entrant.name, "strength": float(f"{entrant.strength:.9g}"), "method": about}


def _states(model: Model) -> list[float]:
    """Return a model's states of a few tokens, along a few directions."""
    c = probe_states(model)
    along = torch.randn(c.shape[1], DIRECTIONS, generator=generator(0)) / c.shape[1] ** 0.5
    return [float(f"{x:.6g}") for x in (c @ along).flatten().tolist()]


def _scores(scorer: Scorer, prompts: Sequence[str]) -> list[float]:
    return [float(f"{x:.6g}") for x in ask(scorer, [*JUDGED, *prompts[: len(JUDGED)]])]


def content(value: Any) -> str:
    """Return a digest of all that a frozen value is made of: numbers to the bit, words, and the
    parameters of models. Functions and objects of other libraries count by their class alone.

    Example:
        >>> content(("a", torch.zeros(2))) == content(("a", torch.zeros(2)))
        True
        >>> content(torch.zeros(2, 3)) == content(torch.zeros(3, 2))
        False
    """
    seen = hashlib.blake2b(digest_size=12)
    _feed(seen, value)
    return seen.hexdigest()


def _feed(seen: Any, value: Any) -> None:
    """Tell a digest what a value is made of."""
    seen.update(f"{type(value).__name__}(".encode())
    if value is None or isinstance(value, str | bytes | bool | int | float):
        seen.update(repr(value).encode("utf-8", "surrogatepass"))
    elif isinstance(value, Tensor | np.ndarray):
        t = torch.as_tensor(value).detach().cpu().contiguous()
        seen.update(f"{t.dtype}{tuple(t.shape)}".encode())
        seen.update(t.flatten().view(torch.uint8).numpy().data)
    elif isinstance(value, nn.Module):
        _feed(seen, dict(value.named_parameters()))
    elif isinstance(value, Readout):
        seen.update(value.digest.encode())
    elif isinstance(value, set | frozenset):
        _feed(seen, sorted(map(content, value)))
    elif isinstance(value, Mapping):
        for key in value:
            _feed(seen, (key, value[key]))
    elif isinstance(value, list | tuple):
        for one in value:
            _feed(seen, one)
    elif (packed := _packed(value)) is not None:
        _feed(seen, packed)
    elif is_dataclass(value) and not isinstance(value, type):
        _feed(seen, {f.name: getattr(value, f.name) for f in fields(value)})
    seen.update(b")")


def _packed(value: Any) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return what a file keeps of a value; None where no file can keep it."""
    pack = getattr(value, "pack", None)
    try:
        return None if pack is None else pack()
    except ValueError:
        return None
