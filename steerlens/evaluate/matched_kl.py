"""The strength at which a steer costs so many nats."""

import math
from collections.abc import Callable
from typing import cast

from scipy.optimize import brentq

from steerlens.evaluate.losses import kl_at_strengths
from steerlens.maths.numbers import as_number
from steerlens.values.fit import Fit, value_of
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer, SteerWithBackground


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
    steer = value_of(steer)
    check_states(states)
    states.readout.check_unchanged()
    if not steer.readout.same_as(states.readout):
        raise ValueError(
            f"states: they are of {states.readout.model_id!r}, steer {steer.name!r} lives on {steer.readout.model_id!r}; collect "
            "states of that model"
        )

    return solve_strength(lambda s: kl_at_strength(steer, states, s), kl, steer.name)


def solve_strength(cost: Callable[[float], float], kl: float, name: str) -> float:
    """Return the strength at which a cost that grows about as its square is `kl`.

    Raises:
        ValueError: a KL that is not positive, or that no strength up to a million costs.
    """
    if not as_number(kl, "kl", "a positive number of nats per token, e.g. 0.05") > 0:
        raise ValueError(f"kl: got {kl}, expected a positive number of nats per token, e.g. 0.05")

    def excess(log_s: float) -> float:
        return math.log(max(cost(math.exp(log_s)), 1e-30) / kl)

    guess, power, before = 0.0, 2.0, None
    for _ in range(12):  # the quadratic law first, then the power that the last two guesses show
        off, first = excess(guess), before is None
        if before is not None:
            power = min(max((off - before[1]) / (guess - before[0]), 1.0), 4.0)
        before = guess, off
        step = -off / power
        guess += max(min(step, 3.0), -3.0)
        # where the quadratic law is seen to hold, what a step leaves is of the order of its square
        if abs(step) < (0.01 if not first and abs(power - 2) < 0.05 else 5e-5):
            return math.exp(guess)
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
    return math.exp(cast(float, brentq(excess, low, high, xtol=1e-4)))


def kl_at_strength(steer: Steer | SteerWithBackground, states: States, strength: float) -> float:
    """Return the KL from the model (with its background) to the steered one.

    In nats per token, mean of both signs.
    """
    return float(kl_at_strengths(states, steer, (strength, -strength)).mean())
