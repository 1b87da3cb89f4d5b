"""Fit a steer to labelled states: a convex problem."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.fits.losses import measure
from steerlens.maths.head import nll_and_gradient, token_nll
from steerlens.maths.head import post as post_logits
from steerlens.maths.moments import Moments, moments, second_moments
from steerlens.maths.solve import averaged_sgd, lbfgs, newton_step, shrink
from steerlens.values.fit import Fit, Report
from steerlens.values.metric import Metric
from steerlens.values.states import Shard, States
from steerlens.values.steer import Steer

CHUNK = 1024
"""Positions a product: logits of 1,024 × 50,257 take 200 MB; the whole corpus' never exist."""

Weights = Literal["labels", "texts", "tokens"]
Solver = Literal["auto", "closed-form", "lbfgs"]


class Setting(NamedTuple):
    """What is chosen by held-out NLL unless given. Ridges are in positions: they act as λ = ridge / n_positions, like
    that many positions of evidence for no steer at all, so that a choice made on a subsample holds for the whole."""

    damping: float = 1e-2
    step: float = 0.1
    ridge: float = 20_000.0
    ridge_background: float = 20_000.0


def fit_steer(
    states: States,
    *,
    solver: Solver = "auto",
    rank: int | None = None,
    ridge: float | tuple[float, float] | None = None,
    damping: float | None = None,
    step: float | None = None,
    weights: Weights = "labels",
    tolerance: float = 1e-4,
    seed: int = 0,
    name: str = "steer",
) -> Fit:
    """The steer `W` and the background `D` that best explain labelled texts.

        minimise  mean w · CE(softmax((c + y·cW + cD) W_U + b_U), next token)
                  + λ_W/2 tr(Wᵀ C W S) + λ_D/2 tr(Dᵀ C D S)

    with the label `y ∈ [-1, 1]` of each position's text. The model is frozen, so its states `c` are constants and the
    problem is convex (not under a logit soft cap). `C = E[cᵀc]` and `S = E[Cov_p(e)]` make the natural metric: `λ` is the
    price, in nats of likelihood, of one nat of KL that the steer costs at strength 1.
    Source: Han et al. (arXiv 2305.12798), section 3 and appendix D; the background is their dummy steer.

    A tenth of the texts is held out. What is not given is chosen on it, and all losses in the report are also given
    there.

    Args:
        states: from `steerlens.collect` on labelled texts.
        solver: `"auto"`: one pass (more on small data) of averaged SGD in whitened coordinates, then polished: the steer's
            singular values in the natural metric are lowered by a threshold, as far as held-out NLL asks. Fast, best on
            new texts, no certificate. `"lbfgs"`: the ridge problem's own minimum, to `tolerance`, with a
            certificate. `"closed-form"`: the first Newton step from sums that one pass collects.
        rank: the best steer of this rank in the natural metric; None for full rank.
        ridge: λ of the steer and of the background (a number: both), in nats per nat; None: chosen.
        damping: of `C` and `S`, relative to their largest eigenvalue; None: chosen.
        step: of the SGD; None: chosen. Other solvers have none.
        weights: `"labels"` (default): texts with negative, zero and positive labels weigh the same in sum, every token
            within such a class the same. `"texts"`: classes the same, and every text within a class. `"tokens"`: every
            token the same.
        tolerance: of `"lbfgs"`, in nats per token: stop when the certified gap is below.
        seed: of the split, the subsamples and the order of the minibatches.
        name: of the steer, for tables and figures.

    Raises:
        ValueError: all labels equal (steer and background cannot be told apart), fewer than four texts, an argument out
            of range.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> fit = sl.fit_steer(sl.collect(model, sl.toy.corpus("tone", n=300, seed=0)), name="tone")
        >>> fit.report.heldout.steered < fit.report.heldout.flipped
        True
    """
    started = time.perf_counter()
    _check(states, solver, rank, ridge, damping, step)
    train, heldout = states.split(0.9, seed=seed)
    if not _two_labels(train):
        raise ValueError("states: after a tenth of the texts was held out only one label is left; collect more texts")
    given = _given(ridge, damping, step, train.n_positions)
    sample = train.sample(max(16_384, 16 * states.d_model), seed=seed)
    second = second_moments(states.readout.head, _sums(sample, weights))
    tuning = heldout.sample(8_192, seed=seed)
    setting, trials, tried = _choose(train, tuning, second, weights, given, solver, seed)

    problem = _problem(train, second, weights, setting)
    gap_reason: str | None = "solver 'auto' stops by held-out NLL; solver='lbfgs' gives a certificate"
    objective = gap = None
    threshold = 0.0
    if solver == "auto":
        V, passes = _sgd(problem, setting.step, seed)
        V, threshold = _polish(problem, V, tuning)
        passes += tried
    elif solver == "closed-form":
        V, passes = _closed_form(problem, second), 1 + tried
        gap_reason = "solver 'closed-form' is one Newton step; solver='lbfgs' gives a certificate"
    else:
        solution = lbfgs(
            problem.objective,
            _sgd(problem, setting.step, seed)[0],
            problem.ridge,
            tolerance,
            convex=states.readout.convex,
        )
        V, objective, gap = solution.V, solution.objective, solution.gap
        passes = solution.evaluations + 1 + tried
        gap_reason = (
            None
            if gap is not None
            else (
                "a ridge of 0 leaves the objective without a lower bound"
                if states.readout.convex
                else f"the logits of {states.readout.model_id!r} have a soft cap, under which the problem is not convex"
            )
        )
    metric = problem.metric
    W, D = metric.unwhiten(V[0]), metric.unwhiten(V[1])
    value, background = Steer(W, states.readout, name), Steer(D, states.readout, f"{name} background")
    if rank is not None:
        value = replace(value.truncate(rank, metric), name=name)
    measured = measure(heldout, value, background)
    on_train = measure(train.sample(max(heldout.n_positions, 4_096), seed=seed), value, background)
    lambdas = problem.ridge.flatten().tolist()
    report = Report(
        solver=solver, heldout=measured.all, train=on_train.all, by_label=measured.by_label, kl=measured.kl,
        damping=setting.damping, ridge=(lambdas[0], lambdas[1]), step=None if solver == "closed-form" else setting.step,
        threshold=threshold, rank=rank, weights=weights, objective=objective, gap=gap, gap_reason=gap_reason,
        passes=passes, seconds=time.perf_counter() - started, n_texts=states.n_texts, n_positions=states.n_positions,
        n_truncated=states.n_truncated, seed=seed, trials=trials,
    )  # fmt: skip
    return Fit(value, background, report)


@dataclass(frozen=True, eq=False)
class _Problem:
    """The fit in whitened coordinates `V[0] = C^{1/2} W S^{1/2}`, `V[1]` the same of `D`: gradient and objective."""

    states: States
    metric: Metric
    weights: Float[Tensor, " n_texts"]
    ridge: Float[Tensor, "2 1 1"]

    def gradient(self, chunk: Shard, V: Float[Tensor, "2 d d"]) -> tuple[float, Float[Tensor, "2 d d"]]:
        """Summed weighted NLL of some positions and its gradient; without the ridge."""
        head = self.states.readout.head
        c, target = chunk.hidden.to(V.device), chunk.next.to(V.device)
        y = self.states.labels[chunk.text].to(V)[:, None]
        white = c @ self.metric.C_inverse_root.to(V)
        to_logits = self.metric.S_inverse_root.to(V)
        moved = c + (y * (white @ V[0]) + white @ V[1]) @ to_logits
        loss, slope = nll_and_gradient(head, moved, target, self.weights[chunk.text].to(V))
        slope = slope @ to_logits
        return float(loss), torch.stack([(y * white).mT @ slope, white.mT @ slope])

    def batches(self, size: int, passes: int, seed: int) -> Iterator[Callable[[Tensor], Tensor]]:
        """Gradients of the mean objective on shuffled minibatches, ridge included."""
        for epoch in range(passes):
            for chunk in self.states.chunks(size, seed=seed + epoch):
                yield lambda V, chunk=chunk: self.gradient(chunk, V)[1] / len(chunk.next) + self.ridge * V

    def objective(self, V: Float[Tensor, "2 d d"]) -> tuple[float, Float[Tensor, "2 d d"]]:
        """The objective over all positions and its gradient: one pass, two products with `W_U` a position."""
        total, slope = 0.0, torch.zeros_like(V, dtype=torch.float64)
        for chunk in self.states.chunks(CHUNK):
            loss, part = self.gradient(chunk, V)
            total += loss
            slope += part
        n = self.states.n_positions
        penalty = float((self.ridge * V.double().square()).sum()) / 2
        return total / n + penalty, (slope / n + self.ridge * V).to(V.dtype)


def _problem(train: States, second: tuple[Tensor, Tensor], weights: Weights, setting: Setting) -> _Problem:
    ridge = torch.tensor([setting.ridge, setting.ridge_background], device=second[0].device)[:, None, None]
    metric = Metric(*second, damping=setting.damping)
    return _Problem(train, metric, text_weights(train, weights), (ridge / train.n_positions).float())


def text_weights(states: States, weights: Weights) -> Float[Tensor, " n_texts"]:
    """The weight of each position of a text; over all positions kept their mean is 1. See `fit_steer`."""
    n = (states.lengths * states.keep).double()
    if weights == "tokens":
        return states.keep.float()
    weight = torch.zeros_like(n)
    classes = [n * (states.labels.sign() == sign) for sign in (-1, 0, 1)]
    present = [size for size in classes if size.sum() > 0]
    for size in present:
        share = size > 0
        each = n[share].reciprocal() if weights == "texts" else torch.ones_like(n[share])
        weight[share] = each / (each * n[share]).sum() / len(present)
    return (weight * n.sum()).float()


def _sgd(problem: _Problem, step: float, seed: int) -> tuple[Float[Tensor, "2 d d"], float]:
    """Averaged SGD from zero and its passes; some 200 steps at least, so small data is read more than once."""
    n, d = problem.states.n_positions, problem.states.d_model
    size = min(512, max(32, n // 100))
    passes = max(1, math.ceil(200 * size / n))
    zero = torch.zeros(2, d, d, device=problem.ridge.device)
    n_steps = passes * math.ceil(n / size)
    # a step beyond 1/(1 + λ) would overshoot along the ridge
    step = min(step, 1 / (1 + float(problem.ridge.max())))
    return averaged_sgd(problem.batches(size, passes, seed), zero, step, n_steps), passes


def _sums(states: States, weights: Weights) -> Moments:
    """The additive sums of some states, weighted as the fit weighs them."""
    head, weight = states.readout.head, text_weights(states, weights)
    total: Moments | None = None
    for c, target, text in states.chunks(CHUNK):
        device = head.W_U.device
        y, w = states.labels[text].to(device), weight[text].to(device)
        part = moments(head, c.to(device), target.to(device), y, w)
        total = part if total is None else total.plus(part)
    assert total is not None  # states hold a position at least
    return total


def _closed_form(problem: _Problem, sums: Moments) -> Float[Tensor, "2 d d"]:
    metric, n = problem.metric, sums.weight
    slope = -torch.stack([sums.steer, sums.background]) / n
    white = metric.C_inverse_root.double() @ slope @ metric.S_inverse_root.double()
    V = newton_step(white, float(sums.label / n), float(sums.label2 / n), problem.ridge)
    return V.float()


def _polish(problem: _Problem, V: Float[Tensor, "2 d d"], tuning: States) -> tuple[Float[Tensor, "2 d d"], float]:
    """Lower the steer's singular values by the threshold that held-out NLL likes best.

    A style lives in few directions of the whitened space, the noise of the sample in all of them; see `shrink`.
    """
    top = float(torch.linalg.svdvals(V[0])[0])
    shares = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6)
    trials = _shrunk(V, shares)
    scores = [_tuning_nll(problem.metric, trial, tuning) for trial in trials]
    best = scores.index(min(scores))
    return trials[best], shares[best] * top


def _shrunk(V: Float[Tensor, "2 d d"], shares: tuple[float, ...]) -> list[Float[Tensor, "2 d d"]]:
    """The point with the steer's singular values lowered by shares of the largest."""
    top = float(torch.linalg.svdvals(V[0])[0]) if shares else 0.0
    return [torch.stack([shrink(V[0], share * top), V[1]]) for share in shares]


def _tuning_nll(metric: Metric, V: Float[Tensor, "2 d d"], tuning: States) -> float:
    """Mean held-out NLL of a point, classes balanced as by default."""
    head = tuning.readout.head
    W, D = metric.unwhiten(V[0]), metric.unwhiten(V[1])
    weight, total = text_weights(tuning, "labels"), 0.0
    for c, target, text in tuning.chunks(CHUNK):
        c, target = c.to(V.device), target.to(V.device)
        y = tuning.labels[text].to(V)[:, None]
        z = post_logits(head, (c + y * (c @ W) + c @ D) @ head.W_U + head.b_U)
        total += float(token_nll(z, target) @ weight[text].to(V))
    return total / tuning.n_positions


FACTORS = {"damping": 10.0, "ridge_background": 4.0, "ridge": 4.0, "step": 3.0}
"""By what each choice is multiplied or divided as long as held-out NLL falls, one after the other."""


WORTH = 2e-4
"""Nats per token below which a better choice is chance."""


def _choose(
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
    sums = _sums(small, weights) if solver == "closed-form" else None
    shares = (0.3,) if solver == "auto" else ()  # what polishing will do, roughly
    trials: list[dict[str, float]] = []
    passes = 0.0 if sums is None else 1.0

    def heldout_nll(setting: Setting) -> float:
        nonlocal passes
        problem = _problem(small, second, weights, setting)
        if sums is None:
            V, cost = _sgd(problem, setting.step, seed)
            passes += cost
        else:
            V = _closed_form(problem, sums)
        nll = min(_tuning_nll(problem.metric, W, tuning) for W in (V, *_shrunk(V, shares)))
        trials.append({**setting._asdict(), "heldout_nll": nll})
        return nll if math.isfinite(nll) else math.inf

    best = Setting()._replace(**given)
    names = [name for name in FACTORS if name not in given and not (name == "step" and sums is not None)]
    lowest = heldout_nll(best) if names else math.inf
    for name in names:
        for factor in (FACTORS[name], 1 / FACTORS[name]):
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


def _given(
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


def _two_labels(states: States) -> bool:
    return len(states.labels[states.keep].unique()) > 1


def _check(
    states: States,
    solver: str,
    rank: int | None,
    ridge: float | tuple[float, float] | None,
    damping: float | None,
    step: float | None,
) -> None:
    """Raise on arguments that make no fit."""
    if states.n_texts < 4:
        raise ValueError(
            f"states: got {states.n_texts} texts, expected at least 4 (some hundreds for a steer worth having)"
        )
    if not _two_labels(states):
        only = float(states.labels[states.keep][0])
        raise ValueError(
            f"states: every label is {only:g}, so steer and background cannot be told apart; add texts with another label, "
            "e.g. ordinary texts with label 0"
        )
    if solver not in ("auto", "closed-form", "lbfgs"):
        raise ValueError(f"solver: got {solver!r}, expected 'auto', 'closed-form' or 'lbfgs'")
    if rank is not None and not 1 <= rank <= states.d_model:
        raise ValueError(f"rank: got {rank}, expected 1 … {states.d_model} (d_model)")
    ridges = ridge if isinstance(ridge, tuple) else (ridge,)
    for label, value in (
        ("ridge", min((r for r in ridges if r is not None), default=None)),
        ("damping", damping),
    ):
        if value is not None and value < 0:
            raise ValueError(f"{label}: got {value}, expected a number ≥ 0")
    if step is not None and not step > 0:
        raise ValueError(f"step: got {step}, expected a number > 0, e.g. 0.1")


def natural_metric(states: States, *, damping: float = 0.0, weights: Weights = "labels") -> Metric:
    """The natural metric of a model on a text: what a matrix costs there in nats. See `Metric`.

    Cost: two products with `W_U` a position; a sample of some thousand positions is plenty
    (`states.sample(16_384, seed=0)`).

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=50, seed=0), progress=False)
        >>> sl.natural_metric(states).C.shape
        torch.Size([64, 64])
    """
    return Metric(*second_moments(states.readout.head, _sums(states, weights)), damping=damping)
