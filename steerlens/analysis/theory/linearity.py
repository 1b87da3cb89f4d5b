"""How far strengths and sums of steers are from straight lines, and what bounds that.

With `u = cWe` and `q_s ∝ p exp(s u)` the second derivative of `q_s` in `s` is `q [(u − ū)² − Var u]`,
and that along two steers `q [(u − ū)(v − v̄) − Cov]`. Their L1 norms are at most `2 Var ≤ R²/2` and
`2 √(Var Var) ≤ R_u R_v / 2`, with `R` the range of `u` over the words (Popoviciu), so that at every
context

    ‖q_{ks} − [(1−k) q_0 + k q_s]‖₁ ≤ |k(k−1)| s² R_u² / 4
    ‖q_{u+v} − (q_u + q_v − q_0)‖₁ ≤ R_u R_v / 2

for every softmax read-out. These need no assumption; version 1 of the paper (arXiv 2305.12798v1,
theorems 2 and 3) has, for `‖c‖, ‖e‖ ≤ 1` and `‖W‖ ≤ D`,

    ≤ 2 |k(1−k)| ε² L² λ (e^λ − 1)          ≤ 10 ε d L² D²

read here for one token (L = 1) and ε = 1, after scaling the longest context and word to length 1,
with λ = D the largest singular value: of the eigenvalues it cannot be, for a nilpotent W has none.
An L1 distance is 2 at most: a bound above says nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from torch import Tensor

from steerlens.maths.logits import UnembedWeights
from steerlens.maths.numbers import as_count, as_floats, as_number, generator, numpy_generator
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.toy import default_grammar
from steerlens.toy.corpus import Attribute
from steerlens.values.arguments import check_same_model, steer_of
from steerlens.values.fit import Fit
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer
from steerlens.values.texts import as_choice, as_texts

POINTS = 512
"""Contexts that are looked at, by default."""


@torch_defaults()
def interpolation_error(
    steer: Steer | Fit,
    states: States,
    *,
    strengths: Sequence[float] = (0.5, 1.0, 2.0, 4.0, 8.0),
    k: float = 0.5,
    n: int = POINTS,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how far a steer at `k` times a strength is from the straight line between strength 0
    and that strength.

    Args:
        steer: on the model of the states.
        states: contexts to look at.
        strengths: at which the line ends.
        k: where on the line; beyond 1 it is extrapolated.
        n: contexts.
        seed: of their choice.

    Returns:
        One row per strength: `strength`, `k`, and of the L1 distance the `measured` mean over
        contexts, `largest`, the mean of our bound, `bound`, the `paper`'s, and `violations`, contexts
        whose distance is above our bound: 0.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=60, seed=0), progress=False)
        >>> found = interpolation_error(sl.fit_steer(states).value, states, strengths=(1.0,), n=64)
        >>> int(found.violations[0])
        0
    """
    steer, k = steer_of(steer), as_number(k, "k")
    strengths = as_floats(strengths, "strengths")
    head, c = _contexts(states, n, seed, {"steer": steer})
    z, u = c @ head.W_U + head.b_U, (c @ steer.W.to(c)) @ head.W_U
    spread = u.amax(1) - u.amin(1)
    D = _unit_norm(steer, c, head)
    rows = []
    for s in strengths:
        plain, end, between = (torch.softmax(z + a * u, 1) for a in (0.0, s, k * s))
        error = (between - (1 - k) * plain - k * end).abs().sum(1)
        bound = abs(k * (k - 1)) * (s * spread).square() / 4
        paper = 2 * abs(k * (1 - k)) * s * D * float(np.expm1(min(s * D, 700.0)))
        over = int((error > bound + 1e-9).sum())
        rows.append(
            (s, k, float(error.mean()), float(error.max()), float(bound.mean()), paper, over)
        )
    columns = ["strength", "k", "measured", "largest", "bound", "paper", "violations"]
    return pd.DataFrame(rows, columns=columns)


@torch_defaults()
def composition_error(
    one: Steer | Fit,
    other: Steer | Fit,
    states: States,
    *,
    strengths: Sequence[float] = (0.5, 1.0, 2.0, 4.0, 8.0),
    n: int = POINTS,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how far the sum of two steers is from the sum of what each does alone.

    Args and columns as of `interpolation_error`; both steers are at each strength.
    """
    one, other = steer_of(one, "one"), steer_of(other, "other")
    strengths = as_floats(strengths, "strengths")
    head, c = _contexts(states, n, seed, {"one": one, "other": other})
    z = c @ head.W_U + head.b_U
    u, v = ((c @ steer.W.to(c)) @ head.W_U for steer in (one, other))
    ranges = [x.amax(1) - x.amin(1) for x in (u, v)]
    D = max(_unit_norm(steer, c, head) for steer in (one, other))
    rows = []
    for s in strengths:
        plain, a, b, both = (torch.softmax(z + s * x, 1) for x in (0 * u, u, v, u + v))
        error = (both - (a + b - plain)).abs().sum(1)
        bound = s * s * ranges[0] * ranges[1] / 2
        paper = 10 * c.shape[1] * (s * D) ** 2
        over = int((error > bound + 1e-9).sum())
        rows.append((s, float(error.mean()), float(error.max()), float(bound.mean()), paper, over))
    return pd.DataFrame(
        rows, columns=["strength", "measured", "largest", "bound", "paper", "violations"]
    )


def _contexts(
    states: States, n: int, seed: int, steers: Mapping[str, Steer]
) -> tuple[UnembedWeights, Float[Tensor, "n d"]]:
    check_states(states)
    for name, steer in steers.items():
        check_same_model(states, steer, name)
    head = states.readout.head
    if head.softcap is not None or head.scale != 1.0:
        raise ValueError(
            f"states: {states.readout.model_id!r} has scale {head.scale} and soft cap {head.softcap}; expected a read-out "
            "whose logits are linear in the context"
        )
    c = torch.cat([chunk.hidden for chunk in states.chunks(4096)])
    drawn = torch.randperm(len(c), generator=generator(seed))[: as_count(n, "n")]
    wide = head._replace(W_U=head.W_U.double(), b_U=head.b_U.double())
    return wide, c[drawn].double()


def _unit_norm(steer: Steer, c: Float[Tensor, "n d"], head: UnembedWeights) -> float:
    """Return the norm of W where the longest context and word have length 1."""
    longest = float(c.norm(dim=1).max()) * float(head.W_U.norm(dim=0).max())
    return float(torch.linalg.matrix_norm(steer.W.to(c), 2)) * longest


@torch_defaults()
def prior_shift(
    texts: Sequence[str], attribute: Attribute, *, draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """Return the shift of the log-prior under which the grammar best explains texts, and its
    standard error.

        κ = argmax Σ_texts log Σ_g π_κ(g) P(text | g)        π_κ(g) ∝ exp(κ g)

    Were steering a shift of the log-prior (Bigelow et al., arXiv 2511.00617), texts written at
    strength s would have κ proportional to s, and nothing else about them would change.

    Args:
        texts: written by a toy model.
        attribute: "sentiment" or "tone".
        draws: of the texts, with replacement, behind the error.

    Raises:
        ValueError: no texts, another attribute, a single draw, which has no spread.

    Example:
        >>> from steerlens.toy import Condition, grammar
        >>> texts = grammar.sample(40, Condition(tone=1.0), seed=0)
        >>> prior_shift(texts, "tone", draws=2)[0] > 2
        True
    """
    texts = as_texts(texts)
    as_choice(attribute, "attribute", get_args(Attribute))
    draws = as_count(draws, "draws", "a whole number, at least 2", least=2)
    grammar = default_grammar()
    grades = np.array(grammar.axes[attribute], dtype=float)
    # the prior is uniform, so the posterior is the likelihood but for a factor per text
    likelihood = grammar.posteriors(texts).marginal(attribute)
    random = numpy_generator(seed)

    def best(rows: Float[np.ndarray, "n grades"]) -> float:
        def loss(kappa: float) -> float:
            weight = np.exp(kappa * grades - abs(kappa))
            return -float(np.log(rows @ (weight / weight.sum())).sum())

        found: Any = minimize_scalar(loss, bounds=(-20, 20), method="bounded")
        return float(found.x)

    drawn = [best(likelihood[random.integers(len(texts), size=len(texts))]) for _ in range(draws)]
    return best(likelihood), float(np.std(drawn, ddof=1))
