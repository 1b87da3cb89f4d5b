"""The strength at which a method spends a budget."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from scipy.optimize import brentq

LOWEST, HIGHEST = 2.0**-12, 2.0**12
"""Strengths that are tried: beyond the highest no model of ours holds finite numbers."""

CLOSE = 0.01
"""How far from the budget, in logarithms, a cost may be that meets it."""


class Spent(NamedTuple):
    """A strength, what it costs, and in a few words why that is not the budget; "" where it is."""

    strength: float
    cost: float
    note: str


@dataclass(frozen=True)
class OwnText:
    """Budgets that are met on the texts that a method writes itself, not on given ones.

    Given texts judge unfairly what puts words before a text (control codes, instructions): there
    the words stand before texts that were not written behind them. Take these budgets where methods
    are compared by what they write.

    Args:
        kl: one budget or several, nats per token.

    Example:
        >>> OwnText((0.02, 0.1))
        OwnText(kl=(0.02, 0.1))
    """

    kl: float | Iterable[float]


def remembered(cost: Callable[[float], float]) -> Callable[[float], float]:
    """Return a cost that is asked once per strength, for several budgets.

    Example:
        >>> asked = []
        >>> cost = remembered(lambda s: asked.append(s) or s)
        >>> cost(2.0), cost(2.0), asked
        (2.0, 2.0, [2.0])
    """
    known: dict[float, float] = {}

    def once(strength: float) -> float:
        if strength not in known:
            known[strength] = cost(strength)
        return known[strength]

    return once


def spend(cost: Callable[[float], float], budget: float, *, side: float = 1.0) -> Spent:
    """Return the strength at which a cost meets a budget, by doubling or halving until it lies
    between two strengths, then by bisection (Brent's) in logarithms, until the cost is the budget to
    one part in a hundred.

    A cost need not grow steadily nor as the square of the strength: the strength found is where it
    first passes the budget, coming from 1. Where it never does, the nearest that can be spent comes
    back with a note: 0 for what costs nothing at any strength, the smallest for what costs more
    than the budget at every strength. A strength at which the model has no finite numbers any more
    counts as dearer than any budget.

    Args:
        cost: from a strength to nats per token; not negative.
        budget: nats per token.
        side: +1 or -1, the sign of the strengths.

    Raises:
        ValueError: a budget that is no positive number.

    Example:
        >>> round(spend(lambda s: s * s, 0.25).strength, 2)
        0.5
        >>> spend(lambda s: min(s, 0.1), 0.25).note
        'spends at most 0.1 of 0.25 nats per token'
    """
    if not 0 < budget < math.inf:
        raise ValueError(
            f"kl: got {budget}, expected a positive number of nats per token, e.g. 0.05"
        )
    tried: dict[float, float] = {}

    def at(s: float) -> float:
        if s not in tried:
            tried[s] = cost_or_inf(cost, side * s)
        return tried[s]

    if math.isnan(at(1.0)):
        return Spent(side, math.nan, "has no next-token distribution; its cost is not known")
    low = high = 1.0
    while at(high) < budget and high < HIGHEST:
        low, high = high, 2 * high
    while at(low) >= budget and low > LOWEST:
        low, high = low / 2, low
    if at(high) < budget:
        return _most(tried, budget, side)
    if at(low) >= budget:
        return Spent(
            side * low,
            at(low),
            f"costs {at(low):.3g} nats per token at any strength, however small",
        )

    def excess(log_s: float) -> float:
        found = at(math.exp(log_s))
        off = math.log(min(max(found, 1e-30), 1e30) / budget)
        return 0.0 if abs(off) < CLOSE else off  # a look at the cost can take minutes

    root = brentq(excess, math.log(low), math.log(high), xtol=CLOSE / 2)
    strength = math.exp(float(root))  # pyright: ignore[reportArgumentType] (one root, one number)
    found = at(strength)
    note = "" if abs(found / budget - 1) < 0.05 else f"jumps past {budget:g}: costs {found:.3g}"
    return Spent(side * strength, found, note)


def cost_or_inf(cost: Callable[[float], float], strength: float) -> float:
    """Return a cost, infinite where the model has no finite numbers any more.

    Example:
        >>> cost_or_inf(lambda s: s * s, 0.5)
        0.25
    """
    try:
        return cost(strength)
    except ValueError as error:
        if "finite" in str(error):
            return math.inf
        raise


def _most(tried: dict[float, float], budget: float, side: float) -> Spent:
    top = max(tried.values())
    if top <= 0:
        return Spent(0.0, 0.0, "changes nothing at any strength")
    # the smallest of the strengths that cost about as much: beyond it nothing more is bought
    strength = min(s for s, found in tried.items() if found >= 0.99 * top)
    return Spent(
        side * strength, tried[strength], f"spends at most {top:.3g} of {budget:g} nats per token"
    )
