"""Terms of gated sums: each an intervention, its conditions, and a factor."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steerlens.values.conditions import Condition, Seen
from steerlens.values.intervention import UNEMBED_IN, UNEMBED_OUT, Intervention, Strength
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout

ENDS = (UNEMBED_IN, UNEMBED_OUT)


class Term(NamedTuple):
    """An intervention, what has to hold for it, and what its strength is multiplied by."""

    value: Intervention
    when: tuple[Condition, ...] = ()
    factor: float = 1.0


Chain = list[Callable[[Tensor, TokenIndex], Tensor]]
"""Edits at one site, one after the other."""


def sites_of(value: Intervention) -> set[str]:
    """Return the hook names that an intervention edits."""
    return {site for site, _ in value.edits(0.0)}


def check_term(value: Intervention, when: tuple[Condition, ...]) -> None:
    """Raise where an intervention has no gate, or none of these conditions.

    Raises:
        ValueError: rows before the input; attention; conditions that its sites cannot tell; sites
            on both sides of the unembedding.
    """
    sites, name = sites_of(value), name_of(value)
    if value.prefix:
        raise ValueError(
            f"when: {name!r} stands in {value.prefix} rows before the input, for all tokens that follow; it has no gate"
        )
    for site in sorted(sites):
        if site.endswith(("hook_attn_scores", "hook_pattern")):
            raise ValueError(
                f"when: {name!r} acts on attention ({site}), between tokens and not at one; it has no gate"
            )
    inner = sites - set(ENDS)
    for condition in when:
        if inner and condition.asks != "place":
            raise ValueError(
                f"when: {str(condition)!r} is known at the unembedding, and {name!r} acts before it ({min(inner)}); gate it by "
                "places: 'prompt', 'new', 'from 5', 'every 3', a Schedule"
            )
    if set(ENDS) <= sites:
        raise ValueError(
            f"when: {name!r} acts both before and behind the unembedding; gate its parts and add them"
        )


def edits_by_site(term: Term, strength: Strength) -> dict[str, Chain]:
    """Return what a term does at each site, its factor taken into the strength."""
    found: dict[str, Chain] = {}
    for site, function in term.value.edits(term.factor * strength):
        found.setdefault(site, []).append(function)
    return found


def run_chain(chain: Chain, x: Tensor, places: TokenIndex) -> Tensor:
    """Return an activation after all edits of a chain."""
    for function in chain:
        x = function(x, places)
    return x


def seen_at(
    site: str,
    places: TokenIndex,
    readout: Readout,
    *,
    c: Tensor | None = None,
    z: Tensor | None = None,
) -> Seen:
    """Return what conditions may look at, at a site.

    A state at the unembedding is about the token that comes next.
    """
    ahead = 2 if site in ENDS else 1
    return Seen(places.index - places.prompt[:, None] + ahead, places.index >= 0, readout, c, z)


def product_of_weights(when: tuple[Condition, ...], seen: Seen) -> Tensor | None:
    """Return the weight of a term, `[batch, pos, 1 or words]`; None where nothing is asked."""
    found: Tensor | None = None
    for condition in when:
        weight = condition.weight(seen)
        weight = weight if weight.ndim == 3 else weight[..., None]
        found = weight if found is None else found * weight
    return found


def gated(weight: Tensor | None, x: Tensor, edited: Tensor) -> Tensor:
    """Return `x + g (edited − x)`, exact where the gate is 0 or 1."""
    if weight is None:
        return edited
    weight = weight.to(x)
    while weight.ndim < x.ndim:  # activations that have heads
        weight = weight[..., None]
    between = torch.where(weight == 0, x, x + weight * (edited - x))
    return torch.where(weight == 1, edited, between)


def sum_of_changes(x: Tensor, changed: Sequence[Tensor]) -> Tensor:
    """Return `x + Σ_k (changed_k − x)`; of one change itself, to the bit."""
    if len(changed) == 1:
        return changed[0]
    return x + torch.stack([part - x for part in changed]).sum(0)


def merge_terms(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """Add the factors of what is the same value under the same conditions."""
    found: list[Term] = []
    for term in terms:
        for k, other in enumerate(found):
            if other.value is term.value and other.when == term.when:
                found[k] = other._replace(factor=other.factor + term.factor)
                break
        else:
            found.append(term)
    # what only rounding left over is no term; one that changes nothing stays where none is left
    return tuple(term for term in found if abs(term.factor) > 1e-12) or (
        found[0]._replace(factor=0.0),
    )


def name_of(value: Any) -> str:
    """Return the name of an intervention or a condition, or that of its class."""
    return str(getattr(value, "name", type(value).__name__))


def term_name(term: Term) -> str:
    """Return what a term is called, its conditions with it.

    Example:
        >>> import torch
        >>> from steerlens.values.conditions import NewTokens
        >>> from steerlens.values.readout import Readout
        >>> from steerlens.values.steer import Steer
        >>> joy = Steer(torch.eye(2), Readout(torch.eye(2), torch.zeros(2), ("a", "b")), name="joy")
        >>> term_name(Term(joy, (NewTokens(),)))
        'joy when new tokens'
    """
    conditions = ", ".join(map(str, term.when))
    return f"{name_of(term.value)} when {conditions}" if conditions else name_of(term.value)
