"""Fit a steer to labelled states: a convex problem."""

import time
from typing import NamedTuple, cast, get_args

from tqdm.auto import tqdm

from steerlens.evaluate.losses import measure
from steerlens.evaluate.verdict import Heldout, judge_heldout
from steerlens.maths.brief import brief, class_name
from steerlens.maths.logits import quickest
from steerlens.maths.moments import Moments, second_moments
from steerlens.maths.numbers import as_count, as_number
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.steer.background import background_setting
from steerlens.methods.steer.judge import Asked
from steerlens.methods.steer.problem import Weights, blind, sums_over
from steerlens.methods.steer.selection import Setting, choose, fixed_settings
from steerlens.methods.steer.solution import by_evidence, by_likelihood, of_unit_cost
from steerlens.methods.steer.solvers import Solver, SolverName, solver_named
from steerlens.models.collect import collect
from steerlens.models.hooks import Model
from steerlens.values.fit import Fit, Report
from steerlens.values.labelled import Labelled
from steerlens.values.metric import Metric
from steerlens.values.progress import hidden
from steerlens.values.states import States
from steerlens.values.steer import Steer
from steerlens.values.texts import as_choice, as_name


@torch_defaults()
def fit_steer(
    states: States | Model,
    data: Labelled | None = None,
    *,
    solver: SolverName = "auto",
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
    cap). By default the background is fitted to all texts without their labels, in as few
    directions as stand out of the noise (`methods.steer.background.fit_background`), and the steer
    is the one whose evidence is largest for the KL it costs,

        minimise  E ½ [KL(p ‖ p_{+yW}) + KL(p ‖ p_{−yW})] − ⟨W, G⟩ + λ/2 |V|² + μ |V|_*
        G = E y cᵀ(e_next − E_p e)

    (`methods.steer.evidence.explain`), labels less their mean. `"lbfgs"` and `"closed-form"` solve the
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
        solver: `"auto"`: the background by averaged proximal SGD, then the steer that explains most
            for the KL it costs (see `explain`): a mean of a fit of few directions and of one of all, a
            quarter of few unless halves of the texts say otherwise; with `rank` one of the two. No certificate. SGD's steps,
            the evidence and its cost are in bfloat16 where the device multiplies that natively,
            else in float32, so that a seed gives slightly different matrices on such processors. `"lbfgs"`: the ridge
            problem's own minimum, to `tolerance`, with a certificate, and the same everywhere.
            `"closed-form"`: the Kronecker approximation of the first Newton step,
            `C⁻¹ G S⁻¹ / (1 + λ)`, from sums that one pass collects: its cosine with the exact step
            is 0.97 at large ridges and 0.3 to 0.6 at small ones.
        rank: the best steer of this rank: `"auto"` fits at it, the others cut their fit to it in
            the natural metric. None: the rank that is left.
        ridge: λ of the steer and of the background (a number: both), in nats per nat; None: those
            under which each half of a sample says most about the other. `"auto"` adds what is given
            to the penalty, or the ridge, that the steer has there anyway (`methods.steer.prior`).
        damping: of `C` and `S`, relative to their largest eigenvalue; None: chosen by trial fits of
            20,000 positions; for `"auto"` 0.1 for the background, and for the steer what its priors
            have, relative to their mean eigenvalue.
        lr: of the SGD, lowered where its minibatches would diverge; None: as long as they bear.
            "closed-form" has none.
        weights: of the steer; the background of `"auto"` weighs no text by its label. `"labels"`
            (default): texts with negative, zero and positive labels weigh the same in sum, every
            token within such a class the same. `"texts"`: classes the same, and every
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
    if not as_number(tolerance, "tolerance", "a number > 0 of nats per token") > 0:
        raise ValueError(f"tolerance: got {tolerance}, expected a number > 0 of nats per token")
    as_choice(weights, "weights", get_args(Weights))
    name = as_name(name)
    given = Given(solver_named(solver, tolerance), rank, ridge, damping, lr, weights, kl, seed)
    with tqdm(total=3, desc="fit", unit="stage", disable=hidden(progress)) as bar:
        return _fit(states, given, name, bar)


class Given(NamedTuple):
    """The arguments of a fit, the solver as the object that its name stands for; None: the steer is
    what the evidence explains."""

    solver: Solver | None
    rank: int | None
    ridge: float | tuple[float, float] | None
    damping: float | None
    lr: float | None
    weights: Weights
    kl: float
    seed: int


def _read(model: Model, data: Labelled | None, progress: bool) -> States:
    """Return the states of labelled texts, where a user starts from the model."""
    if not isinstance(data, Labelled):
        raise ValueError(
            f"data: got {class_name(data)}, expected labelled texts: fit_steer(model, steerlens.Labelled(texts, labels)), "
            "or states: fit_steer(steerlens.collect(model, data))"
        )
    return collect(model, data, progress=progress)


def _fit(states: States, given: Given, name: str, bar: tqdm) -> Fit:
    started, solver = time.perf_counter(), given.solver
    train, heldout = states.split(0.9, seed=given.seed)
    if not two_labels(train):
        raise ValueError(
            "states: after a tenth of the texts was held out only one label is left (copies of a text stay "
            "together); collect more texts, of both labels, that differ"
        )
    tuning = heldout.sample(8_192, seed=given.seed)
    metric, setting, trials, cost = _metric_and_setting(train, tuning, given)
    asked = Asked(
        weights=given.weights, rank=given.rank, damping=given.damping, kl=given.kl, seed=given.seed
    )
    bar.update()
    if solver is None:
        asked = asked._replace(ridge=setting.ridge / train.n_positions)
        found = by_evidence(train, metric, setting, asked, tuning)
    else:
        found = by_likelihood(train, metric, setting, asked, solver)
    bar.update()

    value, strength = of_unit_cost(found.steer, train, asked, name)
    background = Steer(found.D, states.readout, f"{name} background")
    mean, tokens = found.mean_label, heldout.lengths * heldout.keep
    measured, on_train = (
        measure(part, value, background, strength=strength, mean_label=mean)
        for part in (heldout, train.sample(2_048, seed=given.seed))
    )
    auto, effort = solver is None, found.effort
    nats = measured.by_text.mT[:, None]
    heard = Heldout(nats[2], nats[3], heldout.labels.cpu() - mean, tokens.cpu(), heldout.copy_of)
    report = Report(
        solver="auto" if solver is None else solver.name,
        heldout=measured.all, train=on_train.all, by_label=measured.by_label, kl=measured.kl,
        damping=setting.damping, ridge=found.ridges, lr=effort.lr,
        whitening=given.damping if auto else None, few=found.steer.few if auto else None,
        threshold=found.steer.threshold if auto else None,
        background_threshold=found.penalty,
        strength=strength, mean_label=mean, rank=given.rank, weights=given.weights,
        verdict=found.steer.verdict or judge_heldout(heard, sum(measured.kl) / 2, given.seed),
        objective=effort.objective, optimality_gap=effort.optimality_gap, gap_reason=effort.gap_reason,
        # two more for the evidence, and for what each text says of it
        passes=effort.passes + 2 * auto + cost,
        seconds=time.perf_counter() - started, n_texts=states.n_texts, n_positions=states.n_positions,
        n_truncated=states.n_truncated, seed=given.seed, asked_kl=given.kl, trials=(*trials, *found.steer.trials),
    )  # fmt: skip
    bar.update()
    return Fit(value, background, report)


def _metric_and_setting(
    train: States, tuning: States, given: Given
) -> tuple[Metric, Setting, tuple[dict[str, float], ...], float]:
    """Return the metric of a sample, the settings, the trials that chose them, and what all of it
    cost, in passes over the texts.

    Sums and the read-out in bfloat16, which together may be larger than `W_U`, end with it.
    """
    solver, seed, on = given.solver, given.seed, train.readout.head
    fixed = fixed_settings(given.ridge, given.damping, given.lr, train.n_positions)
    sample = train.sample(max(20_000, 16 * train.d_model), seed=seed)
    sample = sample if sample.n_texts > 1 else train
    # the evidence needs coordinates only; of a solver the sums may be the fit itself
    head = quickest(on) if solver is None else on
    known = blind(sample) if solver is None else sample
    halves = cast(
        tuple[Moments, Moments],
        tuple(sums_over(half, given.weights, head) for half in known.split(0.5, seed=seed)),
    )
    metric = Metric(*second_moments(head, halves[0].plus(halves[1])))
    if solver is None:
        setting, trials, passes = background_setting(halves, metric, fixed), (), 0.0
    else:
        setting, trials, passes = choose(
            sample, halves, metric, tuning, given.weights, fixed, solver, seed
        )
    return metric, setting, trials, (1 + passes) * sample.n_positions / train.n_positions


def two_labels(states: States) -> bool:
    """Return whether labels differ, by more than float32 can square and add up."""
    labels = states.labels[states.keep]
    return bool(labels.max() - labels.min() > 1e-6)


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
        labels = states.labels[states.keep]
        only, other = float(labels.min()), float(labels.max())
        what = f"every label is {only:g}"
        if only < other:
            what = f"labels from {only:g} to {other:g} differ by less than 1e-6"
        raise ValueError(
            f"states: {what}, so steer and background cannot be told apart; add texts with another label, "
            "e.g. ordinary texts with label 0"
        )
    if solver not in get_args(SolverName):
        raise ValueError(
            f"solver: got {brief(solver)}, expected one of {', '.join(map(repr, get_args(SolverName)))}"
        )
    if rank is not None:
        as_count(rank, "rank", f"1 … {states.d_model} (d_model)", most=states.d_model)
    if isinstance(ridge, tuple) and len(ridge) != 2:
        raise ValueError(f"ridge: got {ridge}, expected a number, or two (steer, background)")
    ridges = ridge if isinstance(ridge, tuple) else (ridge,)
    for label, value in (*(("ridge", r) for r in ridges), ("damping", damping)):
        if value is not None and as_number(value, label, "a number ≥ 0") < 0:
            raise ValueError(f"{label}: got {value}, expected a number ≥ 0")
    if lr is not None and not as_number(lr, "lr", "a number > 0, e.g. 0.1") > 0:
        raise ValueError(f"lr: got {lr}, expected a number > 0, e.g. 0.1")
    if (
        not as_number(
            kl, "kl", "what strength 1 is to cost, a positive number of nats per token, e.g. 0.05"
        )
        > 0
    ):
        raise ValueError(
            f"kl: got {kl}, expected what strength 1 is to cost, a positive number of nats per token, e.g. 0.05"
        )
