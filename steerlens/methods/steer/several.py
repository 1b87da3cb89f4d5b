"""Steers for several attributes of the same texts, each with the others held still."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import as_numbers
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.steer.fit import fit_steer
from steerlens.values.arguments import steer_of
from steerlens.values.fit import Fit
from steerlens.values.metric import Metric, check_metric_on
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer
from steerlens.values.verdict import told

Columns = Mapping[str, Sequence[float] | Float[Tensor, " n_texts"]]
ALONE = 0.02
"""The least part of a column's variance that the others must leave."""


@dataclass(frozen=True, eq=False)
class SteersFit:
    """Steers that were fitted together.

    Args:
        fits: a `Fit` by each column's name; strength 1 costs the asked KL, and each report's
            verdict is on its own column, the others held still.
        per_label: strength that a label of 1 asks for, by name.
        correlation: of the columns over the positions.
    """

    fits: dict[str, Fit]
    per_label: dict[str, float]
    correlation: pd.DataFrame

    @property
    def steers(self) -> dict[str, Steer]:
        """The steers by name; strength 1 costs the asked KL."""
        return {name: fit.value for name, fit in self.fits.items()}

    @property
    def at_labels(self) -> dict[str, Steer]:
        """The steers in the unit of the labels, for `steerlens.evaluate.leak.summed_nll`."""
        return {name: self.per_label[name] * fit.value for name, fit in self.fits.items()}

    @property
    def background(self) -> Steer:
        """What all texts share; the columns differ in the strength that was found for it alone."""
        return next(iter(self.fits.values())).background

    def __repr__(self) -> str:
        lines = [f"  {fit.value!r}\n    {told(fit.report.verdict)}" for fit in self.fits.values()]
        return "\n".join(["SteersFit", *lines])


@torch_defaults()
def fit_steers(
    states: States,
    labels: Columns,
    *,
    interactions: bool = False,
    kl: float = 0.05,
    seed: int = 0,
    progress: bool = True,
) -> SteersFit:
    """Fit a steer for each of several label columns, the other columns held still.

        c' = c + cD + Σ_j y_j cW_j

    Attributes that go together in the texts (praise that is polite) go together in steers that are
    fitted one by one: each has the other's words too. In the joint problem they do not. To second
    order in the strengths its minimum is that of separate problems whose labels are the residuals

        r_j = y_j − Σ_{k≠j} β_jk y_k − β_j0        E r_j y_k = 0 over the positions

    of each column on the others (Frisch, Waugh and Lovell), for the cost of a sum of steers is a
    quadratic form in `E y_j y_k`, and the evidence `G` is linear in the label. Each of these is
    solved as `fit_steer` does, with its priors, its unit and its verdict. With independent columns
    it is the same as separate fits.

    Source: Lovell, Journal of the American Statistical Association 58 (1963).

    Args:
        states: of the texts; their own labels are not read.
        labels: columns by name, one number in [-1, 1] per text.
        interactions: also fit a column `a × b`, the product, for each pair: what both together
            say beyond the sum. Its verdict tells whether there is such a thing.
        kl: what strength 1 of each costs, nats per token.
        seed: of the fits.
        progress: show bars.

    Raises:
        ValueError: fewer than two columns, one that is constant or almost a sum of the others, one
            of another length or outside [-1, 1].

    Example:
        >>> import steerlens as sl
        >>> from steerlens.toy import Condition, grammar
        >>> asked = [(a, b) for a in (-1.0, 1.0) for b in (-1.0, 1.0)] * 25
        >>> texts = [grammar.sample(1, Condition(*levels), seed=k)[0] for k, levels in enumerate(asked)]
        >>> states = sl.collect(sl.load_model("toy-64"), texts, progress=False)
        >>> both = fit_steers(states, {"joy": [a for a, _ in asked], "manners": [b for _, b in asked]}, progress=False)
        >>> list(both.steers)
        ['joy', 'manners']
    """
    check_states(states)
    columns = _columns(states, labels, interactions)
    weight = (states.lengths * states.keep).double()
    Y = torch.stack([y.double() for y in columns.values()], 1)
    residuals = residualize(Y, weight, list(columns))
    fits, per_label = {}, {}
    for (name, _), r in zip(columns.items(), residuals.unbind(1), strict=True):
        size = float(r[states.keep].abs().max())
        scaled = states.relabel((r / size).clamp(-1, 1).float())
        # every token alike: only under these weights are the residuals uncorrelated
        fits[name] = fit_steer(scaled, weights="tokens", kl=kl, seed=seed, name=name, progress=progress)  # fmt: skip
        per_label[name] = (fits[name].report.strength or 0.0) / size
    share = weight / weight.sum()
    centred = (Y - share @ Y) * share.sqrt()[:, None]
    centred = centred / centred.norm(dim=0)
    names = list(columns)
    correlation = pd.DataFrame((centred.mT @ centred).numpy(), index=names, columns=names)
    return SteersFit(fits, per_label, correlation)


def orthogonal_to(
    steer: Steer | Fit, others: Sequence[Steer | Fit], metric: Metric, *, name: str | None = None
) -> Steer:
    """Return a steer without its part along others, in the natural metric.

        V' = V − Σ_k ⟨V, Q_k⟩ Q_k        V = C^{1/2} W S^{1/2},  Q orthonormal in the others' span

    To second order it then costs nothing more beside the others, and gains nothing of what they
    gain most of for their cost. It takes the others for what they are called: orthogonal to a
    steer that is itself a mixture, it is pushed to the other side. Steers that were fitted one by
    one to attributes that go together are such mixtures: take `fit_steers` for those.

    Args:
        steer: what is to move one attribute.
        others: the attributes that are to stay.
        metric: `steerlens.natural_metric(states, damping=0.03)`.
        name: None: the steer's own.

    Raises:
        ValueError: no others, other read-outs, or nothing left.

    Example:
        >>> import torch
        >>> from steerlens import Readout
        >>> on, eye = Readout(torch.eye(2), torch.zeros(2), ("a", "b")), torch.eye(2)
        >>> a, b = Steer(eye + 1, on, "a"), Steer(eye, on, "b")
        >>> left = orthogonal_to(a, [b], Metric(eye.double(), eye.double(), damping=0.0))
        >>> left.W.round(decimals=5) + 0.0
        tensor([[0., 1.],
                [1., 0.]])
    """
    one = steer_of(steer)
    if isinstance(others, Steer | Fit):
        raise ValueError("others: got one steer, expected a list of them, e.g. [manners]")
    rest = [steer_of(other, "others") for other in others]
    check_metric_on(metric, one.readout)
    if not rest:
        raise ValueError("others: got none, expected the steers whose attributes are to stay")
    for other in rest:
        _ = one + other  # raises where they live on different read-outs
    V = metric.whiten(one.W).double().flatten()
    if not float(V.norm()):
        raise ValueError(f"steer: {one.name!r} is 0, so nothing of it can be left")
    span = torch.stack([metric.whiten(other.W).double().flatten() for other in rest], 1)
    # a span does not depend on how long what spans it is
    span = span / span.norm(dim=0).clamp_min(1e-300)
    U, gains, _ = torch.linalg.svd(span, full_matrices=False)
    Q = U[:, gains > 1e-6 * gains[0].clamp_min(1e-30)]
    left = V - Q @ (Q.mT @ V)
    if not float(left.norm()) > 1e-4 * float(V.norm()):
        raise ValueError(
            f"steer: {one.name!r} lies in the span of the others; nothing is left of it"
        )
    W = metric.unwhiten(left.reshape(one.W.shape).to(one.W))
    return Steer(W, one.readout, one.name if name is None else name)


def _columns(states: States, labels: Columns, interactions: bool) -> dict[str, Tensor]:
    """Return the columns as tensors, with the products of pairs where they are asked for."""
    if len(labels) < 2:
        raise ValueError(
            f"labels: got {len(labels)} column, expected at least two by name; for one use steerlens.fit_steer"
        )
    found = {}
    for name, given in labels.items():
        expected = f"{len(states.labels)} numbers in [-1, 1], one per text"
        column = as_numbers(given, f"labels[{name!r}]", expected).float()
        if column.shape != states.labels.shape or not bool((column.abs() <= 1).all()):
            raise ValueError(
                f"labels[{name!r}]: got shape {tuple(column.shape)}, expected {len(states.labels)} numbers in [-1, 1], one "
                "per text"
            )
        found[name] = column
    if interactions:
        for a, b in combinations(list(found), 2):
            found[f"{a} × {b}"] = found[a] * found[b]
    return found


def residualize(
    Y: Float[Tensor, "n_texts k"], weight: Float[Tensor, " n_texts"], names: list[str]
) -> Float[Tensor, "n_texts k"]:
    """Return each column less what the others and a constant say of it, weighted least squares."""
    root = weight.sqrt()[:, None]
    found = []
    for j, name in enumerate(names):
        rest = [k for k in range(Y.shape[1]) if k != j]
        X = torch.cat([torch.ones_like(Y[:, :1]), Y[:, rest]], 1)
        beta = torch.linalg.lstsq(root * X, root * Y[:, j : j + 1], driver="gelsd").solution
        r = Y[:, j] - (X @ beta).squeeze(1)
        mean = (weight * Y[:, j]).sum() / weight.sum()
        spread, left = ((weight * x.square()).sum() for x in (Y[:, j] - mean, r))
        there = Y[weight > 0, j]
        if bool((there - there[:1]).abs().max() <= 1e-9):
            raise ValueError(
                f"labels[{name!r}]: every label is {float(there[0]):g}, so nothing is told apart; add texts of another label, "
                "or leave the column out"
            )
        if not float(left) > ALONE * float(spread):
            raise ValueError(
                f"labels[{name!r}]: the other columns say {1 - float(left) / float(spread):.0%} of it; texts in "
                "which they differ are needed to tell them apart"
            )
        found.append(r)
    return torch.stack(found, 1)
