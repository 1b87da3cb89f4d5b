"""What the gap to the truth consists of, and the largest margin a linear steer can have."""

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analysis.theory.truth import Truth, check_truth
from steerlens.evaluate.losses import sign_margins
from steerlens.evaluate.matched_kl import strength_at_kl
from steerlens.evaluate.sign_margin import margin_interval
from steerlens.maths.numbers import as_count
from steerlens.maths.stats import bootstrap_ratio
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.values.arguments import steer_of
from steerlens.values.fit import Fit
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer, zero_steer

PARTS = ("closed by the fit", "not in the data", "not linear", "not learned by the model")
DRAWS = 1_000


@torch_defaults()
def gap_parts(truth: Truth, fit: Steer | Fit, best: Steer | Fit, *, seed: int = 0) -> pd.DataFrame:
    """Return the distance from a model to the grammar that is told the grade, in four parts.

        base − truth  =  (base − fit)  +  (fit − best)  +  (best − base + untold − truth)  +  (base − untold)

    cross-entropies to the exact next-token distribution given the text's own grade: of the model, of
    the model steered by a fit and by the best linear steer there is, of the grammar that is not told
    the grade, and of the one that is. The parts are what the fit closes, what its texts did not
    tell, what a linear steer of this head cannot say, and what the model has not learned, which no
    steer is asked for. A steer that repairs the model takes from the third part, which may then be
    below 0.

    Args:
        truth: of texts on which neither steer was fitted.
        fit: from labelled texts.
        best: from `distil_truth`.
        seed: of the bootstrap.

    Returns:
        One row per part and one for the sum, "gap": `part`, `nats` per token of the grammar (a word
        or the end), `share` of the gap and its 95 % interval over texts `low`, `high`.
    """
    check_truth(truth)
    steers = steer_of(fit, "fit"), steer_of(best, "best")
    base, told, untold = truth.nll(truth.c), truth.entropy, truth.untold
    fitted, ceiling = (truth.nll(truth.steered(steer)) for steer in steers)
    parts = (base - fitted, fitted - ceiling, ceiling - base + untold - told, base - untold)
    sums = [truth.by_text(part).numpy() for part in (*parts, base - told)]
    tokens = truth.tokens.double().sum().item()
    rows = [
        (name, mine.sum() / tokens, *bootstrap_ratio(mine, sums[-1], draws=DRAWS, seed=seed))
        for name, mine in zip((*PARTS, "gap"), sums, strict=True)
    ]
    return pd.DataFrame(rows, columns=["part", "nats", "share", "low", "high"])


class Margin(NamedTuple):
    """A sign margin in nats per token, its 95 % interval over texts, and the strength it is at."""

    margin: float
    low: float
    high: float
    strength: float


@torch_defaults()
def margin_at_kl(steer: Steer | Fit, states: States, *, kl: float = 0.05) -> Margin:
    """Return what a steer's sign is worth over the plain model, at the strength that costs `kl`.

    Positive and negative labels weigh the same (see `margin_interval`), copies are one text of its
    interval. Where there are as many of either sign this is "margin alone" of
    `benchmarks/quality.py`, which compares fits by it.

    Args:
        states: labelled, of texts on which the steer was not fitted.
    """
    steer = steer_of(steer)
    check_states(states)
    signed = states.select(states.labels != 0)
    if not signed.n_positions:
        raise ValueError(
            "states: every label is 0, so no text has a sign; collect texts with labels above and below 0"
        )
    strength = strength_at_kl(steer, states.sample(8_192, seed=0), kl=kl)
    gains = sign_margins(signed, [strength * steer], zero_steer(states.readout))[0]
    tokens = signed.lengths.double()
    return Margin(*margin_interval(gains.numpy(), tokens.numpy(), signed), strength)


@torch_defaults()
def head_limit(truth: Truth, *, steps: int = 30, damping: float = 1e-6) -> Float[Tensor, " n"]:
    """Return the least cross-entropy that any context vector reaches at each position, nats.

    What the softmax of `d_model` dimensions cannot say, whatever is put into it: Newton steps on
    each position's own `c`, halved where they do not lower the loss. An upper bound on the limit,
    near it: where the truth rules words out the limit is at infinity.

    Args:
        truth: few positions; each step solves a `d_model × d_model` system for each.
        damping: of the Hessian, relative to its trace per dimension.
    """
    check_truth(truth)
    steps = as_count(steps, "steps", "a whole number ≥ 0", least=0)
    head, c = truth.readout.head, truth.c.clone()
    eye = torch.eye(c.shape[1])
    loss = truth.nll(c)
    for _ in range(steps):
        p = torch.softmax(torch.addmm(head.b_U, c, head.W_U), 1)
        mean = p @ head.W_U.mT
        H = torch.stack([(head.W_U * row) @ head.W_U.mT for row in p])
        H -= mean[:, :, None] * mean[:, None]
        scale = H.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        step = torch.linalg.solve(
            H + (damping * scale + 1e-8) * eye, (mean - truth.mean)[..., None]
        )
        length = torch.ones(len(c), 1)
        for _ in range(6):
            tried = c - length * step.squeeze(-1)
            lower = truth.nll(tried)
            length = torch.where((lower < loss)[:, None], length, length / 2)
        better = truth.nll(c - length * step.squeeze(-1)) < loss
        c = torch.where(better[:, None], c - length * step.squeeze(-1), c)
        loss = truth.nll(c)
    return loss
