"""The strength at which a steer costs so many nats."""

import math
from collections.abc import Callable
from typing import cast

from scipy.optimize import brentq

from steerlens.evaluate.losses import kl_at_strengths
from steerlens.maths.numbers import as_number
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.values.arguments import check_same_model, line_of
from steerlens.values.fit import Fit
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer, SteerWithBackground

ROUGHLY = 1_024
"""Positions on which a strength is looked for first."""
RESOLVED = 1e-5
"""Nats per token below which what float32 adds up is no longer a hundredth of the cost."""


@torch_defaults()
def strength_at_kl(
    steer: Steer | SteerWithBackground | Fit, states: States, *, kl: float = 0.05
) -> float:
    """Return the strength `s > 0` at which a steer costs `kl` nats per token on a text.

    So steers have a common unit.

        ½ (KL(p_0 ‖ p_{+s}) + KL(p_0 ‖ p_{−s})) = kl        p_s = softmax(c W_U + b_U + s cW W_U)

    mean over the positions. Each term grows with s (its slope is `E_{p_s} u − E_{p_0} u`, and under
    a soft cap nearly so), and to second order with its square; the root is found in logarithms,
    where it is nearly a straight line. Two steers at equal KL change the model by equally much,
    whatever the norms of their matrices; a steer that was moved to another model has no other
    meaningful unit (Han et al. cut the strength tenfold by hand).

    Args:
        steer: a `Steer`, or `steer.with_background(background)`: the background is then part of
            `p_0`.
        states: of the model on a text; some thousand positions are plenty.
        kl: nats per token, mean of both signs.

    Returns:
        The strength; `s * steer` costs `kl` at strength 1.

    Raises:
        ValueError: a steer of another read-out, a KL that is not positive or that no strength up to
            a million reaches.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=100, seed=0), progress=False)
        >>> tone = sl.fit_steer(states).value
        >>> round(strength_at_kl(0.5 * tone, states) / strength_at_kl(tone, states), 3)
        2.0
    """
    steer = line_of(
        steer,
        instead="for others, which states that were read once cannot tell, there is "
        "steerlens.evaluate.sign_margin.strength_on_texts(model, texts, it)",
    )
    check_states(states)
    states.readout.check_unchanged()
    check_same_model(states, steer)

    few = states.sample(ROUGHLY, seed=0)
    return solve_strength(
        lambda s: kl_at_strength(steer, states, s),
        kl,
        steer.name,
        # most of the way on a part of the positions, where that saves anything
        None
        if few.n_positions > states.n_positions / 2
        else lambda s: kl_at_strength(steer, few, s),
    )


def check_kl(kl: float, name: str = "kl") -> None:
    """Raise where a budget is no positive number of nats."""
    expected = "a positive number of nats per token, e.g. 0.05"
    if not as_number(kl, name, expected) > 0:
        raise ValueError(f"{name}: got {kl}, expected {expected}")


def solve_strength(
    cost: Callable[[float], float],
    kl: float,
    name: str,
    rough: Callable[[float], float] | None = None,
) -> float:
    """Return the strength at which a cost that grows about as its square is `kl`.

    `rough`: a cheaper cost of nearly the same shape, on which it is looked for first.

    Raises:
        ValueError: a KL that is not positive, or that no strength up to a million costs.
    """
    check_kl(kl)
    if kl < RESOLVED:  # so small a cost is a square, and rounding hides it
        return solve_strength(cost, RESOLVED, name, rough) * (kl / RESOLVED) ** 0.5
    guess, power = (0.0, None) if rough is None else _search(rough, kl, name, 0.0, None)
    return math.exp(_search(cost, kl, name, guess, power)[0])


def _search(
    cost: Callable[[float], float], kl: float, name: str, guess: float, power: float | None
) -> tuple[float, float | None]:
    """Return the logarithm of the strength, and the power with which the cost grows there, None where
    one look was enough.

    What a step leaves is of the order of the step times the error of the power: steps as short as
    `0.1` end the search where the power is known, `0.01` where it was last seen to be about 2.
    """

    def excess(log_s: float) -> float:
        return math.log(max(cost(math.exp(log_s)), 1e-30) / kl)

    enough, before = 5e-5 if power is None else 0.1, None
    for _ in range(12):  # the quadratic law first, then the power that the last two guesses show
        off = excess(guess)
        if before is not None:
            power = min(max((off - before[1]) / (guess - before[0]), 1.0), 4.0)
            enough = 0.01 if abs(power - 2) < 0.05 else 5e-5
        before = guess, off
        step = -off / (power or 2.0)
        guess += max(min(step, 3.0), -3.0)
        if abs(step) < enough:
            return guess, power
        if abs(guess) > 14:
            break
    low, high = guess - 0.5, guess + 0.5
    while excess(low) > 0 and low > -14:
        low -= 1
    while excess(high) < 0 and high < 14:
        high += 1
    if excess(low) > 0 or excess(high) < 0:
        raise ValueError(
            f"steer: {name!r} costs {kl:g} nats per token at no strength up to a million; is it zero?"
        )
    return cast(float, brentq(excess, low, high, xtol=1e-4)), power


def kl_at_strength(steer: Steer | SteerWithBackground, states: States, strength: float) -> float:
    """Return the KL from the model (with its background) to the steered one.

    In nats per token, mean of both signs. Of states that were read once; what any intervention
    costs, by passes of the model over texts, is `evaluate.sign_margin.kl_on_texts`.
    """
    return float(kl_at_strengths(states, steer, (strength, -strength)).mean())
