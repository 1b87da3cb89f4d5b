"""Fit a steer to labelled states: a convex problem."""

import time
from dataclasses import replace
from typing import cast, get_args

from steerlens.fits.steer.choose import Solver, choose, given_settings, make_problem, solve
from steerlens.fits.steer.low_rank import low_rank
from steerlens.fits.steer.problem import Weights, stable_step, sums_over
from steerlens.maths.moments import Moments, second_moments
from steerlens.values.fit import Fit, Report
from steerlens.values.losses import measure
from steerlens.values.metric import Metric
from steerlens.values.states import States
from steerlens.values.steer import Steer


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
    problem is convex (not under a logit soft cap). `C = E[cᵀc]` and `S = E[Cov_p(e)]` make the natural metric, a Kronecker
    approximation of the cost: `λ` is the price, in nats of likelihood, of one nat of KL by that approximation, which on
    fitted steers is 1.4 to 3.9 times less than the true KL.
    Source: Han et al. (arXiv 2305.12798), section 3 and appendix D; the background is their dummy steer.

    A tenth of the texts is held out: damping and shrinkage, where not given, are chosen on it, and all losses in the report
    are also given there.

    Args:
        states: from `steerlens.collect` on labelled texts.
        solver: `"auto"`: one pass (more on small data) of averaged SGD in whitened coordinates, then polished: the steer's
            singular values in the natural metric are lowered by a threshold and it is scaled, as far as held-out NLL
            asks. Fast, no certificate. Its steps are in bfloat16 where the device multiplies that natively
            (rounding is a hundredth of a minibatch's noise; held-out NLL is the same to 1e-4), else in float32, so that a seed
            gives slightly different matrices on such processors; sums and losses are in float32. `"lbfgs"`: the ridge
            problem's own minimum, to `tolerance`, with a certificate, and the same everywhere. `"closed-form"`: the Kronecker
            approximation of the first Newton step, `C⁻¹ G S⁻¹ / (1 + λ)`, from sums that one pass collects: its cosine with
            the exact step is 0.97 at large ridges and 0.3 to 0.6 at small ones. `"low-rank"`: the background as in
            `"auto"`, then the steer that explains most for the KL it costs, held to few directions by a nuclear norm
            that halves of the texts choose; see `low_rank`. For few texts with a strong style; not under a soft cap.
        rank: the best steer of this rank in the natural metric, cut from the fit; `"low-rank"` fits at this rank. None: full
            rank, or the rank that the penalty leaves.
        ridge: λ of the steer and of the background (a number: both), in nats per nat; None: those under which each half of
            a sample says most about the other.
        damping: of `C` and `S`, relative to their largest eigenvalue; None: chosen by trial fits of 20,000 positions.
        step: of the SGD, lowered where its minibatches would diverge; None: as long as they bear. "closed-form" has none.
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
    check_arguments(states, solver, rank, ridge, damping, step)
    train, heldout = states.split(0.9, seed=seed)
    if not two_labels(train):
        raise ValueError("states: after a tenth of the texts was held out only one label is left; collect more texts")
    given = given_settings(ridge, damping, step, train.n_positions)
    sample = train.sample(max(20_000, 16 * states.d_model), seed=seed)
    sample = sample if sample.n_texts > 1 else train
    halves = cast(tuple[Moments, Moments], tuple(sums_over(half, weights) for half in sample.split(0.5, seed=seed)))
    metric = Metric(*second_moments(states.readout.head, halves[0].plus(halves[1])))
    tuning = heldout.sample(8_192, seed=seed)
    setting, trials, tried = choose(sample, halves, metric, tuning, weights, given, solver, seed)

    problem = make_problem(train, metric, weights, setting)
    solved = solve(problem, solver, setting, weights, tolerance, tuning, seed)
    metric = problem.metric
    W, D = metric.unwhiten(solved.V[0]), metric.unwhiten(solved.V[1])
    if solver == "low-rank":
        few = low_rank(problem, solved.V, weights, rank, seed)
        W, D, trials = few.W, few.D, (*trials, *few.trials)
        reason = "solver='low-rank' measures the cost on a sample; solver='lbfgs' gives a certificate"
        solved = solved._replace(threshold=few.threshold, scale=few.scale, passes=solved.passes + 1, gap_reason=reason)
    value, background = Steer(W, states.readout, name), Steer(D, states.readout, f"{name} background")
    if rank is not None and solver != "low-rank":  # that one is fitted at its rank
        value = replace(value.truncate(rank, metric), name=name)
    measured = measure(heldout, value, background)
    on_train = measure(train.sample(4_096, seed=seed), value, background)
    used = None if solver == "closed-form" else stable_step(problem, setting.step)
    lambdas = problem.ridge.flatten().tolist()
    report = Report(
        solver=solver, heldout=measured.all, train=on_train.all, by_label=measured.by_label, kl=measured.kl,
        damping=setting.damping, ridge=(lambdas[0], lambdas[1]), step=used,
        threshold=solved.threshold, scale=solved.scale, rank=rank, weights=weights, objective=solved.objective, gap=solved.gap,
        gap_reason=solved.gap_reason,
        passes=solved.passes + (1 + tried) * sample.n_positions / train.n_positions,
        seconds=time.perf_counter() - started, n_texts=states.n_texts, n_positions=states.n_positions,
        n_truncated=states.n_truncated, seed=seed, trials=trials,
    )  # fmt: skip
    return Fit(value, background, report)


def refit(states: States, fit: Fit, *, pairs: int = 3, seed: int = 0) -> tuple[tuple[Steer, Steer], ...]:
    """The same steer fitted to both halves of the texts, several times over: how much of it comes again?

    The halves of a pair have no text in common. Settings are those of the fit, not chosen anew; the ridge stays the same in
    positions of evidence. A pair costs about what the last pass of the fit did.

    Args:
        states: those that the fit was made from.
        fit: from `fit_steer`.
        pairs: how many random halvings.
        seed: of the halvings.

    Returns:
        Pairs of steers, to be given to `stability` or `singular_words`.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=300, seed=0), progress=False)
        >>> fit = sl.fit_steer(states, name="tone")
        >>> again = sl.stability(fit.value, sl.refit(states, fit, pairs=1), rank=1, metric=sl.natural_metric(states))
        >>> bool(again.reads[0] > again.chance[0])
        True
    """
    r = fit.report
    assert r.ridge is not None
    doubled = (2 * r.ridge[0], 2 * r.ridge[1])

    def again(part: States, name: str) -> Steer:
        return fit_steer(
            part, solver=cast(Solver, r.solver), rank=r.rank, ridge=doubled, damping=r.damping,
            step=r.step, weights=cast(Weights, r.weights), seed=seed, name=f"{fit.value.name} ({name})",
        ).value  # fmt: skip

    halves = (states.split(0.5, seed=seed + k) for k in range(pairs))
    return tuple((again(a, f"half {k}a"), again(b, f"half {k}b")) for k, (a, b) in enumerate(halves, 1))


def natural_metric(states: States, *, damping: float = 0.0, weights: Weights = "labels") -> Metric:
    """Return the natural metric of a model on a text: coordinates in which costs are nearly equal. See `Metric`.

    Cost: two products with `W_U` a position; a sample of some thousand positions is plenty
    (`states.sample(16_384, seed=0)`).

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=50, seed=0), progress=False)
        >>> sl.natural_metric(states).C.shape
        torch.Size([64, 64])
    """
    return Metric(*second_moments(states.readout.head, sums_over(states, weights)), damping=damping)


def two_labels(states: States) -> bool:
    return len(states.labels[states.keep].unique()) > 1


def check_arguments(
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
    if not two_labels(states):
        only = float(states.labels[states.keep][0])
        raise ValueError(
            f"states: every label is {only:g}, so steer and background cannot be told apart; add texts with another label, "
            "e.g. ordinary texts with label 0"
        )
    if solver not in get_args(Solver):
        raise ValueError(f"solver: got {solver!r}, expected one of {', '.join(map(repr, get_args(Solver)))}")
    if solver == "low-rank" and not states.readout.convex:
        raise ValueError(
            f"solver: 'low-rank' needs logits that are linear in the strength, but those of "
            f"{states.readout.model_id!r} have a soft cap; use solver='auto'"
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
    if step is not None and not step > 0:
        raise ValueError(f"step: got {step}, expected a number > 0, e.g. 0.1")
