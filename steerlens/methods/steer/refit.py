"""Fit the same steer anew: to halves of the texts, or to labels in random order."""

import math
from collections.abc import Callable
from typing import cast

import torch
from tqdm.auto import tqdm

from steerlens.maths.numbers import as_count, as_seed, generator
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.steer.evidence import explain
from steerlens.methods.steer.judge import Asked
from steerlens.methods.steer.natural_metric import natural_metric
from steerlens.methods.steer.problem import Weights, blind
from steerlens.methods.steer.selection import Setting
from steerlens.methods.steer.solution import by_evidence, by_likelihood, of_unit_cost
from steerlens.methods.steer.solvers import SolverName, solver_named
from steerlens.values.arguments import check_fit, check_same_model
from steerlens.values.copies import exchange
from steerlens.values.fit import Fit
from steerlens.values.metric import Metric
from steerlens.values.progress import hidden
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer


@torch_defaults()
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
    check_fit(fit)
    check_same_model(states, fit.value)
    pairs, seed = as_count(pairs, "pairs"), as_seed(seed)
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
    (`singular_words(noise=)`). With 19 of them nothing can be rarer than 1 in 20. Copies of a text
    take the labels of another's.

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
    check_fit(fit)
    check_same_model(states, fit.value)
    n, random = as_count(n, "n"), generator(seed)
    again = _like(states, fit, seed, over=fit)
    copies, given = states.copies(), states.labels.tolist()
    found = []
    for k in tqdm(range(1, n + 1), desc="shuffled", unit="fit", disable=hidden(progress)):
        order = torch.randperm(len(copies), generator=random).tolist()
        labels = torch.tensor(exchange(given, copies, order)).to(states.labels)
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
    weights = cast(Weights, r.weights)
    solver = solver_named(cast(SolverName, r.solver), 1e-4)
    # a ridge stays the same in positions of evidence, and the mix of priors as it was
    asked = Asked(
        weights=weights, rank=r.rank, ridge=r.ridge[0] / part, few=r.few, damping=r.whitening,
        kl=sum(r.kl) / 2 if r.asked_kl is None else r.asked_kl, seed=seed,
    )  # fmt: skip
    # where the steer has its own objective, its part in that of the background is nothing
    steer, background = (
        ridge * states.n_positions for ridge in (0.0 if solver is None else r.ridge[0], r.ridge[1])
    )
    lr = math.inf if r.lr is None else r.lr
    penalty = (r.background_threshold or 0.0) * states.n_positions**0.5
    setting = Setting(r.damping, steer, background, lr, penalty)

    def metric_of(some: States) -> Metric:
        some = some.sample(20_000, seed=seed)
        return natural_metric(blind(some) if solver is None else some, weights=weights)

    # labels in another order weigh the texts a little differently, which coordinates need not
    # follow
    shared = None if over is None else metric_of(states)

    def again(some: States, name: str) -> Steer:
        metric = shared or metric_of(some)
        if solver is not None:
            found = by_likelihood(some, metric, setting, asked, solver).steer
        elif over is None:
            found = by_evidence(some, metric, setting, asked).steer
        else:
            base = over.background.W + r.mean_label * r.strength * over.value.W
            found = explain(some, metric, base, asked)
        return of_unit_cost(found, some, asked, f"{fit.value.name} ({name})")[0]

    return again
