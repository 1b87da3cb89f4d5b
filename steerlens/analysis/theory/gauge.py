"""The same model in other bases: which rule of transfer survives a change of gauge."""

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import as_count, as_floats, as_number, generator
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.values.arguments import check_same_model, steer_of
from steerlens.values.fit import Fit
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer

POINTS = 512


@torch_defaults()
def random_gauge(d: int, condition: float, seed: int = 0) -> Float[Tensor, "d d"]:
    """Return a random matrix with singular values evenly spaced in logarithm, of this condition
    number and determinant ±1.

    Example:
        >>> A = random_gauge(4, 10.0)
        >>> round(float(torch.linalg.cond(A)), 6)
        10.0
    """
    if not as_number(condition, "condition", "a number ≥ 1") >= 1:
        raise ValueError(f"condition: got {condition}, expected a number ≥ 1")
    random = generator(seed)
    U, V = (
        torch.linalg.qr(torch.randn(d, d, generator=random, dtype=torch.float64))[0] for _ in "UV"
    )
    singular = torch.logspace(-0.5, 0.5, d, base=condition, dtype=torch.float64)
    return (U * singular) @ V


@torch_defaults()
def gauge_errors(
    steer: Steer | Fit,
    states: States,
    *,
    conditions: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 100.0),
    n: int = POINTS,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure what two rules of transfer keep of a steer when the model is only written in another
    basis.

        e → A e,  c → c A⁻¹:  the same logits.   e_src = H e_tgt with H = A⁻¹

    The steer of the new basis is `A W A⁻¹`, that is `H⁺ W H`. The paper's `HᵀWH` is that only if A is
    orthogonal.

    Args:
        steer: on the model of the states.
        states: contexts at which logit shifts are compared.
        conditions: condition numbers of the bases.
        n: contexts.
        seed: of bases and contexts.

    Returns:
        One row per condition number: `condition`, and of each rule the size of the error in the
        logit shifts, relative to the shifts: `congruence`, `similarity`; and `congruence_best`, the
        same at the best single strength.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=60, seed=0), progress=False)
        >>> found = gauge_errors(sl.fit_steer(states).value, states, conditions=(1.0, 10.0))
        >>> [bool(x) for x in (found.congruence[0] < 1e-8, found.similarity[1] < 1e-8, found.congruence[1] > 0.5)]
        [True, True, True]
    """
    steer = steer_of(steer)
    check_states(states)
    check_same_model(states, steer)
    head = states.readout.head
    c = torch.cat([chunk.hidden for chunk in states.chunks(4096)])
    c = c[torch.randperm(len(c), generator=generator(seed))[: as_count(n, "n")]].double()
    E, W = head.W_U.double(), steer.W.double()
    own = _centred(c @ W @ E)
    rows = []
    for condition in as_floats(conditions, "conditions"):
        A = random_gauge(len(W), condition, seed)
        inverse = torch.linalg.inv(A)
        there, contexts = A @ E, c @ inverse
        # as `align` finds it: least squares on the word vectors of both
        H = torch.linalg.lstsq(there.mT, E.mT).solution.mT
        shifts = {
            "congruence": _centred(contexts @ (H.mT @ W @ H) @ there),
            "similarity": _centred(contexts @ (torch.linalg.pinv(H) @ W @ H) @ there),
        }
        errors = {rule: float((shift - own).norm() / own.norm()) for rule, shift in shifts.items()}
        moved = shifts["congruence"]
        best = float((moved * own).sum() / moved.square().sum())
        errors["congruence_best"] = float((best * moved - own).norm() / own.norm())
        rows.append({"condition": condition, **errors})
    return pd.DataFrame(rows)


def _centred(u: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
    """Return logit shifts less their mean over the words, which changes nothing."""
    return u - u.mean(1, keepdim=True)
