"""Solve a fit: damping, ridges and step chosen by held-out NLL, then one of three solvers."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.fits.steer.problem import CHUNK, Problem, Weights, closed_form, sgd, sums_over, text_weights
from steerlens.maths.head import post, token_nll
from steerlens.maths.solve import lbfgs, shrink
from steerlens.values.metric import Metric
from steerlens.values.states import States

Solver = Literal["auto", "closed-form", "lbfgs"]


class Setting(NamedTuple):
    """What is chosen by held-out NLL unless given. Ridges are in positions: they act as λ = ridge / n_positions, like
    that many positions of evidence for no steer at all, so that a choice made on a subsample holds for the whole."""

    damping: float = 1e-2
    step: float = 0.1
    ridge: float = 20_000.0
    ridge_background: float = 20_000.0


def make_problem(train: States, second: tuple[Tensor, Tensor], weights: Weights, setting: Setting) -> Problem:
    ridge = torch.tensor([setting.ridge, setting.ridge_background], device=second[0].device)[:, None, None]
    metric = Metric(*second, damping=setting.damping)
    return Problem(train, metric, text_weights(train, weights), (ridge / train.n_positions).float())


FACTORS = {"damping": 10.0, "ridge_background": 4.0, "ridge": 4.0, "step": 3.0}
"""By what each choice is divided or multiplied as long as held-out NLL falls, one after the other."""


SHARES = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6)
"""Thresholds tried at the end, as shares of the steer's largest singular value."""

SCALES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
"""Factors tried after that."""

WORTH = 2e-4
"""Nats per token below which a better choice is chance."""


def choose(
    train: States,
    tuning: States,
    second: tuple[Tensor, Tensor],
    weights: Weights,
    given: dict[str, float],
    solver: Solver,
    seed: int,
) -> tuple[Setting, tuple[dict[str, float], ...], float]:
    """The setting with the best held-out NLL among a few tried on a subsample, what was tried, and its cost in passes."""
    small = train.sample(20_000, seed=seed + 1)
    sums = sums_over(small, weights) if solver == "closed-form" else None
    shares = (0.3,) if solver == "auto" else ()  # what polishing will do, roughly
    trials: list[dict[str, float]] = []
    passes = 0.0 if sums is None else 1.0

    def heldout_nll(setting: Setting) -> float:
        nonlocal passes
        problem = make_problem(small, second, weights, setting)
        if sums is None:
            V, cost = sgd(problem, setting.step, seed)
            passes += cost
        else:
            V = closed_form(problem, sums)
        nll = min(tuning_nll(problem.metric, point, tuning)[0] for point in (V, *shrunk(V, shares)))
        trials.append({**setting._asdict(), "heldout_nll": nll})
        return nll if math.isfinite(nll) else math.inf

    best = Setting()._replace(**given)
    names = [name for name in FACTORS if name not in given and not (name == "step" and sums is not None)]
    lowest = heldout_nll(best) if names else math.inf
    for name in names:
        # Less ridge that helps on a subsample helps on all texts. More does not: a steer's directions rise out of the noise
        # only with enough text, and what a subsample cannot see is no reason to forbid it; see `polish`.
        for factor in (1 / FACTORS[name], FACTORS[name])[: 1 if name == "ridge" else 2]:
            improved = False
            while True:
                trial = best._replace(**{name: getattr(best, name) * factor})
                nll = heldout_nll(trial)
                if nll >= lowest - WORTH:
                    break
                best, lowest, improved = trial, nll, True
            if improved:
                break  # better this way, so not the other
    return best, tuple(trials), passes * small.n_positions / train.n_positions


class Solved(NamedTuple):
    """A point in whitened coordinates, what is known of its distance to the optimum, and what it cost."""

    V: Float[Tensor, "2 d d"]
    passes: float
    threshold: float = 0.0
    scale: float = 1.0
    objective: float | None = None
    gap: float | None = None
    gap_reason: str | None = None


def solve(
    problem: Problem, solver: Solver, setting: Setting, weights: Weights, tolerance: float, tuning: States, seed: int
) -> Solved:
    """Solve the problem in one of the three ways of `fit_steer`."""
    if solver == "closed-form":
        V = closed_form(problem, sums_over(problem.states, weights))
        return Solved(V, 1, gap_reason="solver='closed-form' is one Newton step; solver='lbfgs' gives a certificate")
    start, passes = sgd(problem, setting.step, seed)
    if solver == "auto":
        V, threshold, scale = polish(problem, start, tuning)
        reason = "solver='auto' stops by held-out NLL; solver='lbfgs' gives a certificate"
        return Solved(V, passes, threshold, scale, gap_reason=reason)
    on = problem.states.readout
    found = lbfgs(problem.objective, start, problem.ridge, tolerance, convex=on.convex)
    reason = None
    if found.gap is None and not on.convex:
        reason = f"the logits of {on.model_id!r} have a soft cap, under which the problem is not convex"
    elif found.gap is None:
        reason = "without a ridge on both matrices the objective has no lower bound"
    return Solved(found.V, passes + found.evaluations, objective=found.objective, gap=found.gap, gap_reason=reason)


def polish(problem: Problem, V: Float[Tensor, "2 d d"], tuning: States) -> tuple[Float[Tensor, "2 d d"], float, float]:
    """Lower the steer's singular values by the threshold, then scale it by the factor, that held-out NLL likes best.

    A style lives in few directions of the whitened space, the noise of the sample in all of them; see `shrink`. Ridge and
    threshold leave the steer too short, the factor mends that: strength 1 is then what a label of 1 asks for.
    """
    top = float(torch.linalg.svdvals(V[0])[0])
    trials = shrunk(V, SHARES)
    scores = [tuning_nll(problem.metric, trial, tuning)[0] for trial in trials]
    best = scores.index(min(scores))
    scores = tuning_nll(problem.metric, trials[best], tuning, SCALES)
    # of factors that explain the texts as well, the one that costs least
    scale = next(scale for scale, score in zip(SCALES, scores, strict=True) if score <= min(scores) + WORTH)
    return torch.stack([scale * trials[best][0], trials[best][1]]), SHARES[best] * top, scale


def shrunk(V: Float[Tensor, "2 d d"], shares: tuple[float, ...]) -> list[Float[Tensor, "2 d d"]]:
    """The point with the steer's singular values lowered by shares of the largest."""
    return [torch.stack([steer, V[1]]) for steer in shrink(V[0], *shares)] if shares else []


def tuning_nll(
    metric: Metric, V: Float[Tensor, "2 d d"], tuning: States, scales: tuple[float, ...] = (1.0,)
) -> list[float]:
    """Mean held-out NLL of a point, its steer scaled by each factor; classes balanced as by default."""
    head = tuning.readout.head
    W, D = metric.unwhiten(V[0]), metric.unwhiten(V[1])
    weight = text_weights(tuning, "labels")
    total = torch.zeros(len(scales), dtype=torch.float64, device=V.device)
    for c, target, text in tuning.chunks(CHUNK // 2):  # several of them at once: half of it is faster
        c, target = c.to(V.device), target.to(V.device)
        y, w = tuning.labels[text].to(V)[:, None], weight[text].to(V)
        if len(scales) == 1:  # one product instead of two
            zs = [(c + c @ D + scales[0] * y * (c @ W)) @ head.W_U + head.b_U]
        else:
            z, along = (c + c @ D) @ head.W_U + head.b_U, (y * (c @ W)) @ head.W_U
            zs = (z + s * along for s in scales)
        total += torch.stack([token_nll(post(head, z), target) @ w for z in zs]).double()
    return (total / tuning.n_positions).tolist()


def given_settings(
    ridge: float | tuple[float, float] | None, damping: float | None, step: float | None, n_positions: int
) -> dict[str, float]:
    """The arguments that were given, as fields of `Setting`."""
    found: dict[str, float] = {}
    if ridge is not None:
        both = ridge if isinstance(ridge, tuple) else (ridge, ridge)
        found.update(ridge=both[0] * n_positions, ridge_background=both[1] * n_positions)
    if damping is not None:
        found["damping"] = damping
    if step is not None:
        found["step"] = step
    return found
