"""Steers that are fitted to the truth: no drawn token, so no noise of one."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analysis.theory.truth import CHUNK, Truth
from steerlens.maths.evidence import even_kl
from steerlens.maths.logits import log_sum_exp
from steerlens.maths.solvers import Solution, lbfgs
from steerlens.methods.steer.natural_metric import natural_metric
from steerlens.values.metric import Metric
from steerlens.values.states import States
from steerlens.values.steer import Steer

RIDGE = 1e-3
"""Price of one nat of KL, by the metric's approximation: it moves an optimum by a thousandth."""
DAMPING = 1e-2
"""Of the metric. Beginnings of texts are drawn all the same, and less of it follows them closer:
worse on others (0.48 of a gap closed in place of 0.50, with 500 texts)."""


class Distilled(NamedTuple):
    """The best steer there is, its background, and how far from the best it can be at most."""

    steer: Steer
    background: Steer
    optimality_gap: float | None
    passes: int


def metric_of(states: States) -> Metric:
    """Return the natural metric, damped little."""
    return natural_metric(states, damping=DAMPING, weights="tokens")


def distil_truth(
    truth: Truth,
    metric: Metric,
    *,
    background: bool = False,
    ridge: float = RIDGE,
    tolerance: float = 5e-3,
) -> Distilled:
    """Fit the steer that is likeliest under the truth itself.

        minimise  E_t CE(q_t, softmax((c_t + y_t c_t W + c_t D) W_U + b_U)) + λ/2 tr(Wᵀ C W S)

    The likelihood of `fit_steer` with the distribution that tokens are drawn from in place of drawn
    tokens: the limit of ever more continuations of the same texts. Convex; L-BFGS until the
    certificate says so.

    Args:
        truth: positions to fit on.
        metric: of the model on such texts.
        background: whether there is a `D`; else it is 0.
        ridge: see `RIDGE`.
        tolerance: of the certificate, nats per position; it is some fifty times what is really
            left, the ridge being so small.
    """
    head, white, S = truth.readout.head, truth.c @ metric.C_inverse_root, metric.S_inverse_root

    def loss(rows: slice, V: Float[Tensor, "2 d d"]) -> tuple[Tensor, Tensor]:
        y, w = truth.label[rows, None], white[rows]
        moved = y * (w @ V[0]) + w @ V[1] if background else y * (w @ V[0])
        c = truth.c[rows] + moved @ S
        z = torch.addmm(head.b_U, c, head.W_U)
        nll = log_sum_exp(z) - (c * truth.mean[rows]).sum(1) - truth.bias[rows]
        pull = (torch.softmax(z, 1) @ head.W_U.mT - truth.mean[rows]) @ S
        along = w.mT @ pull if background else torch.zeros_like(V[0])
        return nll.double().sum(), torch.stack([(y * w).mT @ pull, along])

    return _distilled(truth, metric, _minimised(loss, truth, metric, ridge, tolerance))


def widest_margin(
    truth: Truth,
    metric: Metric,
    *,
    kl: float = 0.05,
    ridge: float = RIDGE,
    tolerance: float = 5e-3,
    start: Distilled | None = None,
) -> Distilled:
    """Fit the steer whose sign margin is largest for its KL, to third order.

        minimise  E_t ½ [KL(p_t ‖ p_{t,+W}) + KL(p_t ‖ p_{t,−W})] − τ ⟨W, G⟩        G = E_{y≠0} y cᵀ(E_q e − E_p e)

    with `τ` such that the KL is as asked. `2 ⟨W, G⟩` is the margin of texts that have a sign, but
    for terms of third order: no linear steer of this model has a larger one at this cost, on
    whatever number of texts it was fitted.

    Args:
        truth: positions to fit on, all labels: every one counts for the cost.
        metric: of the model on such texts.
        kl: nats per position, mean of both signs.
        ridge, tolerance: see `distil_truth`.
        start: a steer to begin at, as that of `distil_truth`, which is not far from it.
    """
    head, n = truth.readout.head, len(truth)
    white, S = truth.c @ metric.C_inverse_root, metric.S_inverse_root
    G = exact_evidence(truth, metric)

    def cost(rows: slice, V: Float[Tensor, "d d"]) -> tuple[Tensor, Tensor]:
        w = white[rows]
        nats, pull = even_kl(head, truth.c[rows], w @ V @ S)
        return nats.double().sum(), w.mT @ (pull @ S)

    def nats(V: Float[Tensor, "2 d d"]) -> float:
        return sum(float(cost(rows, V[0].float())[0]) for rows in _rows(n)) / n

    # to second order ⟨W, G⟩ τ is twice the KL at the minimum, which grows about as τ²
    W = metric.whiten(start.steer.W) if start is not None else G
    V = torch.stack([W, torch.zeros_like(W)]) * (kl / nats(torch.stack([W, W]))) ** 0.5
    tau = 2 * kl / float((V[0] * G).sum())

    for rough in (4.0, 1.0):

        def loss(rows: slice, V: Float[Tensor, "2 d d"], tau: float = tau) -> tuple[Tensor, Tensor]:
            total, pull = cost(rows, V[0])
            share = tau * min(CHUNK, n - rows.start)
            value = total - share * (V[0] * G).double().sum()
            return value, torch.stack([pull - share * G, torch.zeros_like(G)])

        found = _minimised(loss, truth, metric, ridge, rough * tolerance, V)
        scale = (kl / nats(found.V)) ** 0.5
        tau, V = tau * scale, found.V * scale
    return _distilled(truth, metric, found._replace(V=V))


def exact_evidence(truth: Truth, metric: Metric) -> Float[Tensor, "d d"]:
    """Return `G = E_{y≠0} y cᵀ(E_q e − E_p e)` in whitened coordinates: the slope of the likelihood
    at zero, without the noise of drawn tokens."""
    head, signed = truth.readout.head, int((truth.label != 0).sum())
    white, S = truth.c @ metric.C_inverse_root, metric.S_inverse_root
    total = torch.zeros_like(S, dtype=torch.float64)
    for rows in _rows(len(truth)):
        p = torch.softmax(torch.addmm(head.b_U, truth.c[rows], head.W_U), 1)
        pull = (truth.mean[rows] - p @ head.W_U.mT) @ S
        total += ((truth.label[rows, None] * white[rows]).mT @ pull).double()
    return (total / max(signed, 1)).float()


def _rows(n: int) -> list[slice]:
    return [slice(k, k + CHUNK) for k in range(0, n, CHUNK)]


def _minimised(
    loss: Callable[[slice, Float[Tensor, "2 d d"]], tuple[Tensor, Tensor]],
    truth: Truth,
    metric: Metric,
    ridge: float,
    tolerance: float,
    start: Float[Tensor, "2 d d"] | None = None,
) -> Solution:
    """Minimise the mean of a convex loss and its ridge; `loss` gives sums over some positions."""
    n, d = len(truth), truth.readout.d_model

    def objective(V: Float[Tensor, "2 d d"]) -> tuple[float, Float[Tensor, "2 d d"]]:
        total, slope = 0.0, torch.zeros(2, d, d, dtype=torch.float64)
        for rows in _rows(n):
            value, part = loss(rows, V.float())
            total += float(value)
            slope += part
        penalty = ridge / 2 * float(V.double().square().sum())
        return total / n + penalty, (slope / n + ridge * V).to(V.dtype)

    begin = torch.zeros(2, d, d) if start is None else start
    return lbfgs(objective, begin, torch.full((2, 1, 1), ridge), tolerance)


def _distilled(truth: Truth, metric: Metric, found: Solution) -> Distilled:
    W, D = (metric.unwhiten(V) for V in found.V)
    return Distilled(
        Steer(W, truth.readout, "distilled"),
        Steer(D, truth.readout, "distilled background"),
        found.optimality_gap,
        found.evaluations,
    )
