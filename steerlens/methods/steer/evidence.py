"""Fit the steer that explains most for what it costs, and ask each half of the texts about the
other's."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.logits import nll_gradient, quickest
from steerlens.methods.steer.cost import Cost, sample_cost
from steerlens.methods.steer.judge import Asked, Half, judge_halves, mixes_of
from steerlens.methods.steer.prior import (
    ALL,
    FEW,
    Evidence,
    Prior,
    Search,
    coordinates,
    most_likely,
    search_under,
)
from steerlens.methods.steer.problem import CHUNK, mean_label, text_weights
from steerlens.values.metric import Metric
from steerlens.values.states import States
from steerlens.values.verdict import Verdict

JUDGED_ON = 65_536
"""Positions of each half, at most, whose texts judge the other half's steers one by one."""

TRIAL, ROUGHLY = (1_024, 8), (2_048, 8)
"""Positions on which the cost is measured, at most, and steps of descent on them: while the mix
is chosen, and before the end.

The cost knows no next token, but a matrix of many directions finds those that are cheap on the
sample alone.
"""

FINALLY, FEWEST, MOST = 8_192, 3, 8
"""Positions of the last sample, and how many steps are taken on it: they read no more than a pass
over all texts does. More of them fit few texts' many directions to the sample."""

SPARSE = 25
"""One position of so many is in the last sample at least: more evidence bears more directions,
which need more of them."""

METER = 512
"""Further positions that say what a matrix costs.

On those it was fitted on a matrix costs too little, one of many directions most so.
"""


class Explained(NamedTuple):
    """A steer of any length, and which mix of priors it is.

    At the multiple `strength` it explains the texts best; None where the mix was given.
    `threshold`: by how much the singular values of the part of few directions were lowered.
    """

    W: Float[Tensor, "d d"]
    few: float
    threshold: float
    strength: float | None = None
    verdict: Verdict | None = None
    trials: tuple[dict[str, float], ...] = ()


def explain(states: States, metric: Metric, base: Float[Tensor, "d d"], asked: Asked) -> Explained:
    """Fit the steer over a background that is known, at the least cost for what it explains.

        minimise  E ½ [KL(p ‖ p_{+yW}) + KL(p ‖ p_{−yW})] − ⟨W, G⟩ + λ/2 |V|² + μ |V|_*
        V = C^{1/2} W S^{1/2}        G = E y cᵀ(e_next − E_p e)

    with `p` the model over its background and `y` the label less its mean. `½ (KL + KL)` is the
    even part of the steered log-normaliser: to third order, `2 ⟨W, G⟩` is the sign margin, so the
    minimum has the largest margin for its KL, which is what steers are compared at. `G` is a sum of
    one pass; the cost knows no next token, so a sample of positions is enough: noise is in `G`
    alone.

    Noise is spread over all directions. Where a style lives in few of them, the nuclear norm
    `|V|_*` keeps those (`prior.FEW`); where it does not, as in a few hundred sentences of real
    text, a penalty on singular values keeps what noise made large, and a ridge, in coordinates in
    which contexts that vary most count most, is worth more (`prior.ALL`). Both are
    fitted, and halves of the texts say how much of each: each half gives a `G`, and its steers are
    worth to the other half what they are worth to texts that they were not fitted to. Half of
    their difference is as much noise as their mean holds; `μ` is a share of its largest singular
    value. A half has more noise by √2, and so has its penalty.

    Args:
        states: of the texts that are trained on.
        metric: in whose coordinates a prior holds; its own damping is not used.
        base: the background, at the mean label.
    """
    device = base.device
    tokens = states.lengths.to(base)
    labels, weight = states.labels.to(device), text_weights(states, asked.weights).to(device)
    labels = labels - mean_label(states, weight)
    # rounding hides what labels of a hundredth cost; the steer of labels of size 1 is as many times
    # shorter
    size = float(((weight * labels.square()) @ tokens / (weight @ tokens)).sqrt())
    labels = labels / size
    positions = (METER + TRIAL[0], METER + _last(states))
    sampled = sample_cost(states, labels, weight, base, positions, asked.seed)
    cost, meter = sampled.at(METER, None), sampled.at(0, METER)
    parts = states.split(0.5, seed=asked.seed)
    halves = [evidence_of(part, labels, base, asked) for part in parts]
    n = [part.n_positions for part in parts]
    slope = (n[0] * halves[0].slope + n[1] * halves[1].slope) / sum(n)
    # what halves contradict each other in is noise alone, as much as is in their mean
    noise = (halves[0].slope - halves[1].slope) / 2
    searches = {
        prior: search_under(prior, coordinates(metric, prior, asked.damping), cost, asked)
        for prior, part in _parts(0.5 if asked.few is None else asked.few)
        if part  # while the mix is open, both
    }
    fitting = _Fitting(searches, meter, asked.kl)

    def end(few: float) -> tuple[Tensor, float]:
        last = _last(states), max(FEWEST, min(MOST, states.n_positions // FINALLY))
        W, threshold = fitting.mean(few, Evidence(slope, noise), ROUGHLY, last)
        return W / size, threshold

    if asked.few is not None:
        W, threshold = end(asked.few)
        return Explained(W, asked.few, threshold)
    mixes = mixes_of(asked.rank)
    for k, half in enumerate(halves):
        evidence = Evidence(half.slope, 2**0.5 * noise)
        few, all_ = (fitting.mean(part, evidence, TRIAL)[0] for part in (1.0, 0.0))
        path = [meter.of_cost(asked.kl, part * few + (1 - part) * all_) / size for part in mixes]
        halves[k] = half._replace(path=path)
    margins, best, verdict = judge_halves(halves, metric, asked)
    W, threshold = end(mixes[best])
    trials = tuple(
        {"few": few, "margin": margin} for few, margin in zip(mixes, margins, strict=True)
    )
    # to second order the other half likes best the multiple s with s · 2 KL = ⟨W, G⟩; halves that
    # contradict each other leave nothing to explain
    one, other = halves
    gain = float((one.path[best] * other.slope + other.path[best] * one.slope).sum()) * size / 2
    strength = max(gain / (2 * asked.kl), 0.0)
    return Explained(W, mixes[best], threshold, strength, verdict, trials)


def _parts(few: float) -> tuple[tuple[Prior, float], ...]:
    """Return how much of a steer each prior has."""
    return (FEW, few), (ALL, 1 - few)


class _Fitting(NamedTuple):
    """What fits of any evidence under any mix of the priors share."""

    searches: dict[Prior, Search]
    meter: Cost
    kl: float

    def mean(
        self, few: float, evidence: Evidence, *plan: tuple[int, int]
    ) -> tuple[Float[Tensor, "d d"], float]:
        """Return the mean of what the priors make of some evidence, each at the cost asked for, and
        by how much singular values of the first were lowered."""
        W, lowered = torch.zeros_like(evidence.slope), 0.0
        for prior, part in _parts(few):
            if part:
                found, threshold = most_likely(evidence, self.searches[prior], *plan)
                W, lowered = W + part * self.meter.of_cost(self.kl, found), max(lowered, threshold)
        return W, lowered


def evidence_of(
    states: States, labels: Float[Tensor, " n_texts"], base: Float[Tensor, "d d"], asked: Asked
) -> Half:
    """Return `G` of some texts over the background, and what it is a sum of, where that judges: one
    pass."""
    head, device = quickest(states.readout.head), labels.device
    weight = labels * text_weights(states, asked.weights).to(device)
    judges = states.sample(JUDGED_ON, seed=asked.seed)
    total = torch.zeros(states.d_model, states.d_model, dtype=torch.float64, device=device)
    pulls = []
    for part, judging in ((judges, True), (states.select(~judges.keep), False)):
        for c, target, text in part.chunks(CHUNK, device=device):
            pull = -nll_gradient(head, c + c @ base, target, torch.ones(len(c), device=device))
            total += (c.mT @ (weight[text, None] * pull)).double()
            if judging and asked.few is None:  # a mix that is given needs no judges
                pulls.append(pull.bfloat16())
    return Half((total / states.n_positions).float(), judges, pulls)


def _last(states: States) -> int:
    """Return on how many positions the last steps are, at most."""
    return max(FINALLY, states.n_positions // SPARSE)
