"""Fit a steer to labelled states: a convex problem."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.evaluate.losses import measure
from steerlens.evaluate.matched_kl import strength_at_kl
from steerlens.evaluate.verdict import judge_heldout
from steerlens.maths.moments import Moments, second_moments
from steerlens.maths.numbers import generator
from steerlens.methods.steer.evidence import WHITENING, Asked, Explained, explain, mean_label
from steerlens.methods.steer.problem import Problem, Weights, stable_lr, sums_over
from steerlens.methods.steer.selection import (
    DAMPING,
    Setting,
    Solved,
    Solver,
    choose,
    fraction_of,
    given_settings,
    longer,
    make_problem,
    solve,
)
from steerlens.models.collect import collect
from steerlens.models.hooks import Model
from steerlens.values.fit import Fit, Report
from steerlens.values.labelled import Labelled
from steerlens.values.metric import Metric
from steerlens.values.progress import hidden
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer


@torch.inference_mode(False)  # what is made in that mode could never be learned from
def fit_steer(
    states: States | Model,
    data: Labelled | None = None,
    *,
    solver: Solver = "auto",
    rank: int | None = None,
    ridge: float | tuple[float, float] | None = None,
    damping: float | None = None,
    lr: float | None = None,
    weights: Weights = "labels",
    tolerance: float = 1e-4,
    kl: float = 0.05,
    seed: int = 0,
    name: str = "steer",
    progress: bool = True,
) -> Fit:
    """Fit the steer `W` and the background `D` that best explain labelled texts.

        softmax((c + y·cW + cD) W_U + b_U)

    predicts the next token, with the label `y ∈ [-1, 1]` of each position's text. The model is
    frozen, so its states `c` are constants and the problems are convex (not under a logit soft
    cap). By default the background is fitted to all texts without their labels, and the steer is
    the one whose evidence is largest for the KL it costs,

        minimise  E ½ [KL(p ‖ p_{+yW}) + KL(p ‖ p_{−yW})] − ⟨W, G⟩ + μ |V|_*        G = E y cᵀ(e_next − E_p e)

    (`fits.steer.evidence.explain`), labels less their mean. `"lbfgs"` and `"closed-form"` solve the
    likelihood's own problem,

        minimise  mean w · CE + λ_W/2 tr(Wᵀ C W S) + λ_D/2 tr(Dᵀ C D S)

    `C = E[cᵀc]` and `S = E[Cov_p(e)]` make the natural metric, a Kronecker approximation of the
    cost: `λ` is the price, in nats of likelihood, of one nat of KL by that approximation, which on
    fitted steers is 1.4 to 3.9 times less than the true KL.
    Source: Han et al. (arXiv 2305.12798), section 3 and appendix D; the background is their dummy
    steer.

    A tenth of the texts is held out: how much of the background to keep and how long the steer is
    to be (or the damping) are chosen on it, and all losses in the report are also given there.
    `report.verdict` says whether the steer is better than one fitted to shuffled labels.

    Args:
        states: from `steerlens.collect` on labelled texts; or a model, with `data`.
        data: labelled texts, where a model is given: they are read first, as
            `steerlens.collect(model, data)` does.
        solver: `"auto"`: the background by averaged SGD, then the steer that explains most for the
            KL it costs (see `explain`): few directions where halves of the texts say that the style
            lives in few, all of them else. No certificate. SGD's steps, the evidence and its cost
            are in bfloat16 where the device multiplies that natively, else in float32, so that a
            seed gives slightly different matrices on such processors. `"lbfgs"`: the ridge
            problem's own minimum, to `tolerance`, with a certificate, and the same everywhere.
            `"closed-form"`: the Kronecker approximation of the first Newton step,
            `C⁻¹ G S⁻¹ / (1 + λ)`, from sums that one pass collects: its cosine with the exact step
            is 0.97 at large ridges and 0.3 to 0.6 at small ones.
        rank: the best steer of this rank: `"auto"` fits at it, the others cut their fit to it in
            the natural metric. None: the rank that the penalty leaves.
        ridge: λ of the steer and of the background (a number: both), in nats per nat; None: those
            under which each half of a sample says most about the other; `"auto"` has no ridge on
            the steer then, but its penalty.
        damping: of `C` and `S`, relative to their largest eigenvalue; None: chosen by trial fits of
            20,000 positions; for `"auto"` 0.1 for the background, and 0.03 for the coordinates in
            which singular values are lowered.
        lr: of the SGD, lowered where its minibatches would diverge; None: as long as they bear.
            "closed-form" has none.
        weights: `"labels"` (default): texts with negative, zero and positive labels weigh the same
            in sum, every token within such a class the same. `"texts"`: classes the same, and every
            text within a class. `"tokens"`: every token the same.
        tolerance: of `"lbfgs"`, in nats per token: stop when the certified gap is below.
        kl: what strength 1 costs on the training texts over the plain model, mean of both signs, in
            nats per token: the common unit of all steers. The multiple that labels of 1 ask for is
                `report.strength`.
        seed: of the split, the subsamples and the order of the minibatches.
        name: of the steer, for tables and figures.
        progress: show a bar of the three stages: settings, fit, measures (and of reading, where a
            model is given).

    Raises:
        ValueError: all labels equal (steer and background cannot be told apart), fewer than four
            texts, an argument out of range.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> fit = sl.fit_steer(sl.collect(model, sl.toy.corpus("tone", n=300, seed=0)), name="tone")
        >>> fit.report.heldout.steered < fit.report.heldout.flipped
        True
    """
    if not isinstance(states, States):
        states = _read(states, data, progress)
    elif data is not None:
        raise ValueError(
            "data: states were given, which hold their labels; leave it out, or give a model instead of states"
        )
    states.readout.check_unchanged()
    check_arguments(states, solver, rank, ridge, damping, lr, kl)
    given = Given(solver, rank, ridge, damping, lr, weights, tolerance, kl, seed)
    with tqdm(total=3, desc="fit", unit="stage", disable=hidden(progress)) as bar:
        return _fit(states, given, name, bar)


def _read(model: Model, data: Labelled | None, progress: bool) -> States:
    """Return the states of labelled texts, where a user starts from the model."""
    if not isinstance(data, Labelled):
        raise ValueError(
            f"data: got {type(data).__name__}, expected labelled texts: fit_steer(model, steerlens.Labelled(texts, labels)), "
            "or states: fit_steer(steerlens.collect(model, data))"
        )
    return collect(model, data, progress=progress)


class Given(NamedTuple):
    """The arguments of a fit, as `fit_steer` has them."""

    solver: Solver
    rank: int | None
    ridge: float | tuple[float, float] | None
    damping: float | None
    lr: float | None
    weights: Weights
    tolerance: float
    kl: float
    seed: int


class Found(NamedTuple):
    """A steer, the background of the length that labels ask for, and what is known of both."""

    D: Float[Tensor, "d d"]
    steer: Explained
    problem: Problem
    solved: Solved


def _fit(states: States, given: Given, name: str, bar: tqdm) -> Fit:
    started = time.perf_counter()
    train, heldout = states.split(0.9, seed=given.seed)
    if not two_labels(train):
        raise ValueError(
            "states: after a tenth of the texts was held out only one label is left; collect more texts"
        )
    settings = given_settings(given.ridge, given.damping, given.lr, train.n_positions)
    if (
        given.solver == "auto"
    ):  # of the background alone, which the search gives no better, and which is cut to fit
        settings = {"damping": DAMPING} | settings
    sample = train.sample(max(20_000, 16 * states.d_model), seed=given.seed)
    sample = sample if sample.n_texts > 1 else train
    halves = cast(
        tuple[Moments, Moments],
        tuple(sums_over(half, given.weights) for half in sample.split(0.5, seed=given.seed)),
    )
    metric = Metric(*second_moments(states.readout.head, halves[0].plus(halves[1])))
    tuning = heldout.sample(8_192, seed=given.seed)
    setting, trials, tried = choose(
        sample, halves, metric, tuning, given.weights, settings, given.solver, given.seed
    )
    # the penalty on singular values stands for a ridge, unless one is asked for
    ridge = settings.get("ridge", 0.0) / train.n_positions
    whitening = WHITENING if given.damping is None else given.damping
    asked = Asked(given.weights, given.rank, ridge, None, given.kl, given.seed)
    bar.update()
    found = _solve(train, metric, setting, whitening, asked, given, tuning)
    bar.update()

    value, strength = _of_length(found.steer, train, given, name)
    background = Steer(found.D, states.readout, f"{name} background")
    mean = mean_label(train, given.weights)
    measured, on_train = (
        measure(part, value, background, strength=strength, mean_label=mean)
        for part in (heldout, train.sample(4_096, seed=given.seed))
    )
    auto, problem, solved = given.solver == "auto", found.problem, found.solved
    lambdas = problem.ridge.flatten().tolist()
    report = Report(
        solver=given.solver, heldout=measured.all, train=on_train.all, by_label=measured.by_label, kl=measured.kl,
        damping=setting.damping, ridge=(ridge if auto else lambdas[0], lambdas[1]),
        lr=None if given.solver == "closed-form" else stable_lr(problem, setting.lr),
        whitening=whitening if auto else None, penalty=found.steer.share if auto else None,
        threshold=found.steer.threshold if auto else None,
        strength=strength, mean_label=mean, rank=given.rank, weights=given.weights,
        verdict=found.steer.verdict or judge_heldout(measured, heldout.labels, _tokens_once(heldout), mean, given.seed),
        objective=solved.objective, optimality_gap=solved.optimality_gap, gap_reason=solved.gap_reason,
        # two more for the evidence, and for what each text says of it
        passes=solved.passes + 2 * auto + (1 + tried) * sample.n_positions / train.n_positions,
        seconds=time.perf_counter() - started, n_texts=states.n_texts, n_positions=states.n_positions,
        n_truncated=states.n_truncated, seed=given.seed, trials=(*trials, *found.steer.trials),
    )  # fmt: skip
    bar.update()
    return Fit(value, background, report)


def _solve(
    train: States, metric: Metric, setting: Setting, whitening: float, asked: Asked, given: Given, tuning: States | None = None
) -> Found:  # fmt: skip
    """Fit steer and background under settings that are chosen.

    `tuning` are held-out texts that say how much of the background to keep, and how long the steer
    is to be.
    """
    problem = make_problem(train, metric, asked.weights, setting)
    if given.solver == "auto":
        # what all texts share is fitted without their labels: what knew them would take from the
        # evidence, or add to it
        problem = replace(problem, labels=torch.zeros_like(problem.labels))
    solved = solve(problem, given.solver, setting, asked.weights, given.tolerance, asked.seed)
    W, D = (problem.metric.unwhiten(V) for V in solved.V)
    if given.solver != "auto":
        W = W if asked.rank is None else Steer(W, train.readout).truncate(asked.rank, metric).W
        return Found(D, Explained(W, 0.0, 0.0), problem, solved)
    if tuning is not None:
        D = fraction_of(D, tuning) * D
    steer = explain(train, metric.damped(whitening), D, asked)
    mean = mean_label(train, asked.weights)
    if tuning is not None and steer.strength:
        steer = steer._replace(
            strength=steer.strength * longer(steer.strength * steer.W, D, mean, tuning)
        )
    length = 1.0 if steer.strength is None else steer.strength
    return Found(D - mean * length * steer.W, steer, problem, solved)


def _of_length(found: Explained, train: States, given: Given, name: str) -> tuple[Steer, float]:
    """Return the steer that costs what strength 1 is to cost, and the multiple of it that was
    found."""
    # halves that contradict each other leave a strength of 0, but a direction all the same
    direction = found.W
    unit = strength_at_kl(
        Steer(direction, train.readout, name), train.sample(8_192, seed=given.seed), kl=given.kl
    )
    length = 1.0 if found.strength is None else found.strength
    return Steer(unit * direction, train.readout, name), length / unit


def fit_split_halves(
    states: States, fit: Fit, *, pairs: int = 3, seed: int = 0, progress: bool = True
) -> tuple[tuple[Steer, Steer], ...]:
    """Fit the same steer to both halves of the texts, several times: how much of it replicates?

    The halves of a pair have no text in common. Settings are those of the fit, not chosen anew; the
    ridge stays the same in positions of evidence. A pair costs about what the last pass of the fit
    did.

    Args:
        states: those that the fit was made from.
        fit: from `fit_steer`.
        pairs: how many random halvings.
        seed: of the halvings.
        progress: show a bar.

    Returns:
        Pairs of steers, to be given to `split_half_reliability` or `singular_words`.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=300, seed=0), progress=False)
        >>> fit = sl.fit_steer(states, name="tone")
        >>> halves = sl.fit_split_halves(states, fit, pairs=1)
        >>> again = sl.split_half_reliability(fit.value, halves, rank=1, metric=sl.natural_metric(states))
        >>> bool(again.reads[0] > again.chance[0])
        True
    """
    check_states(states)
    again = _like(states, fit, seed, part=0.5)
    halves = (states.split(0.5, seed=seed + k) for k in range(pairs))
    numbered = tqdm(
        enumerate(halves, 1), total=pairs, desc="refit", unit="pair", disable=hidden(progress)
    )
    return tuple((again(a, f"half {k}a"), again(b, f"half {k}b")) for k, (a, b) in numbered)


def fit_shuffled(
    states: States, fit: Fit, *, n: int = 19, seed: int = 0, progress: bool = True
) -> tuple[Steer, ...]:
    """Fit the same steer to labels in random order, several times over: what texts give without
    their labels' help.

    Settings are those of the fit. A fit to noise is no random direction, it follows what the text
    varies in, so this is what words and directions of the steer are to be held against
    (`singular_words(noise=)`). With 19 of them nothing can be rarer than 1 in 20.

    Args:
        states: those that the fit was made from.
        fit: from `fit_steer`.
        n: how many orders.
        seed: of the orders.
        progress: show a bar.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=300, seed=0), progress=False)
        >>> fit = sl.fit_steer(states, name="tone")
        >>> [steer.name for steer in fit_shuffled(states, fit, n=2)]
        ['tone (shuffled 1)', 'tone (shuffled 2)']
    """
    check_states(states)
    random = generator(seed)
    again = _like(states, fit, seed, over=fit)
    kept = states.keep.nonzero().squeeze(1)
    found = []
    for k in tqdm(range(1, n + 1), desc="shuffled", unit="fit", disable=hidden(progress)):
        labels = states.labels.clone()
        labels[kept] = states.labels[kept[torch.randperm(len(kept), generator=random)]]
        found.append(again(states.relabel(labels), f"shuffled {k}"))
    return tuple(found)


def _like(
    states: States, fit: Fit, seed: int, *, part: float = 1.0, over: Fit | None = None
) -> Callable[[States, str], Steer]:
    """Return what fits a steer to a part of the states, or to other labels, under the settings of a
    fit.

    `over`: a fit whose background, which knows no labels, serves again.
    """
    states.readout.check_unchanged()
    r = fit.report
    assert r.ridge is not None and r.damping is not None
    weights, solver = cast(Weights, r.weights), cast(Solver, r.solver)
    given = Given(solver, r.rank, None, None, None, weights, 1e-4, sum(r.kl) / 2, seed)
    # a ridge stays the same in positions of evidence, a penalty the same share of the evidence
    asked = Asked(weights, r.rank, r.ridge[0] / part, r.penalty, given.kl, seed)
    # where the steer has its own objective, its part in that of the background is nothing
    steer, background = (
        ridge * states.n_positions for ridge in (r.ridge[solver == "auto"], r.ridge[1])
    )
    setting = Setting(r.damping, steer, background, *(() if r.lr is None else (r.lr,)))

    def metric_of(some: States) -> Metric:
        return natural_metric(some.sample(20_000, seed=seed), weights=weights)

    # labels in another order weigh the texts a little differently, which coordinates need not
    # follow
    shared = None if over is None else metric_of(states)

    def again(some: States, name: str) -> Steer:
        metric = shared or metric_of(some)
        if over is None or solver != "auto":
            found = _solve(some, metric, setting, r.whitening or 0.0, asked, given).steer
        else:
            base = over.background.W + r.mean_label * r.strength * over.value.W
            found = explain(some, metric.damped(r.whitening or 0.0), base, asked)
        return _of_length(found, some, given, f"{fit.value.name} ({name})")[0]

    return again


def natural_metric(states: States, *, damping: float = 0.0, weights: Weights = "labels") -> Metric:
    """Return the natural metric of a model on a text: coordinates in which costs are nearly equal.
    See `Metric`.

    Cost: two products with `W_U` a position; a sample of some thousand positions is plenty
    (`states.sample(16_384, seed=0)`).

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=50, seed=0), progress=False)
        >>> sl.natural_metric(states).C.shape
        torch.Size([64, 64])
    """
    check_states(states)
    states.readout.check_unchanged()
    return Metric(*second_moments(states.readout.head, sums_over(states, weights)), damping=damping)


def _tokens_once(states: States) -> Int[Tensor, " n_texts"]:
    """Return the tokens of each text that counts, copies of an earlier one as none."""
    once = states.keep
    if states.copy_of is not None:
        once = once & (states.copy_of == torch.arange(len(once)))
    return states.lengths * once


def two_labels(states: States) -> bool:
    return len(states.labels[states.keep].unique()) > 1


def check_arguments(
    states: States,
    solver: str,
    rank: int | None,
    ridge: float | tuple[float, float] | None,
    damping: float | None,
    lr: float | None,
    kl: float,
) -> None:
    """Raise on arguments that make no fit."""
    if states.n_texts < 4:
        raise ValueError(
            f"states: got {states.n_texts} texts, expected at least 4 (some hundreds for a steer worth having)"
        )
    if not two_labels(states):
        only = float(states.labels[states.keep][0])
        raise ValueError(
            f"states: every label is {only:g}, so steer and background cannot be told apart; add texts with another label, "
            "e.g. ordinary texts with label 0"
        )
    if solver not in get_args(Solver):
        raise ValueError(
            f"solver: got {solver!r}, expected one of {', '.join(map(repr, get_args(Solver)))}"
        )
    if rank is not None and not 1 <= rank <= states.d_model:
        raise ValueError(f"rank: got {rank}, expected 1 … {states.d_model} (d_model)")
    ridges = ridge if isinstance(ridge, tuple) else (ridge,)
    for label, value in (
        ("ridge", min((r for r in ridges if r is not None), default=None)),
        ("damping", damping),
    ):
        if value is not None and value < 0:
            raise ValueError(f"{label}: got {value}, expected a number ≥ 0")
    if lr is not None and not lr > 0:
        raise ValueError(f"lr: got {lr}, expected a number > 0, e.g. 0.1")
    if not 0 < kl < math.inf:
        raise ValueError(
            f"kl: got {kl}, expected what strength 1 is to cost, a positive number of nats per token, e.g. 0.05"
        )
