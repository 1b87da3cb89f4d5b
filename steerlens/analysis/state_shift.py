"""Does an intervention move the final hidden states the way a steer does?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import generator, numpy_generator
from steerlens.maths.stats import ratio_interval, top_by_chance
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.collect import collect
from steerlens.models.hooks import Model
from steerlens.models.steering import check_lives_on
from steerlens.values.arguments import check_metric, steer_of
from steerlens.values.fit import Fit, value_of
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled
from steerlens.values.metric import Metric
from steerlens.values.states import States
from steerlens.values.steer import Steer


@torch_defaults()
def state_shift_overlap(
    model: Model,
    intervention: Intervention | Fit[Any],
    steer: Steer | Fit,
    data: Labelled,
    metric: Metric,
    *,
    strength: float = 1.0,
    rank: int = 4,
    controls: Mapping[str, Steer | Fit] | None = None,
    draws: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how much of what an intervention does to `c` lies along a steer's directions.

        Δ = (c(+s) − c(−s)) / 2        one row a position of the texts

    Written in the natural metric, `Δ S^{1/2}`, a squared length is about twice the nats that the
    move costs (were contexts and the covariance of words independent), so shares of it are near
    shares of what the model says. Questions:

    - `writes`: the share in the span of the steer's `rank` strongest write directions.
    - `reads`: the share of `Δ C^{-1/2}` in the span of its strongest read directions: does the
      intervention change what the steer looks at?
    - `steer's move`: the squared cosine, over all positions together, of `Δ` with the steer's own
      `cW` at the same places.
    - `constant`: the share of the mean over positions: what a static bias of the logits would do as
      well.

    Chance is random subspaces of the same rank (for the steer's move: random matrices with its
    singular values). Such spans know nothing of language, so also give steers that are about
    something else as `controls`: fitted to shuffled labels, or to another attribute.

    Args:
        model: what both live on; unchanged.
        intervention: a `SoftPrompt`, a `Reft`, another `Steer`.
        steer: whose directions are asked for.
        data: texts that neither was fitted to; labels are not used.
        metric: the natural metric, from `natural_metric`.
        strength: of the intervention.
        rank: directions of the steer that count.
        controls: other steers, by name, asked in the same way.
        draws: random subspaces behind a chance level.

    Returns:
        One row per question and steer: `steer` (its name, or the control's), `question`, `share`, its
        95 % interval over texts
        `low`, `high`, and `chance`, `chance_high` (mean, and what a random one exceeds in no more than 1 of 20 cases).

    Raises:
        ValueError: an intervention that moves nothing.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> states = sl.collect(model, data, progress=False)
        >>> tone = sl.fit_steer(states).value
        >>> found = state_shift_overlap(model, tone, tone, data, sl.natural_metric(states), draws=5)
        >>> round(float(found.set_index("question").share["steer's move"]), 3)
        1.0
    """
    intervention, steer = value_of(intervention), steer_of(steer)
    others = {name: steer_of(one, f"controls[{name!r}]") for name, one in (controls or {}).items()}
    if not 1 <= rank <= steer.readout.d_model or draws < 1:
        raise ValueError(
            f"rank, draws: got {rank} and {draws}, expected a rank from 1 to {steer.readout.d_model} and at least 1 draw"
        )
    check_metric(metric, steer)
    check_lives_on(intervention, model)
    for name, one in {"steer": steer, **others}.items():
        check_lives_on(one, model, name)
    under = [
        collect(model, data, intervention=intervention, strength=sign * strength, progress=False)
        for sign in (1, -1)
    ]
    (up, text), (down, _) = (_by_text(states) for states in under)
    c, _ = _by_text(collect(model, data, progress=False))
    if len(c) != len(up):
        raise ValueError(
            "data: some texts are cut by the context behind the rows of the intervention; give shorter texts"
        )
    moved = (up - down) / 2
    if not float(moved.abs().max()):
        raise ValueError(
            f"intervention: {intervention!r} moves nothing at strength {strength:g}; was it fitted?"
        )
    written, read = moved @ metric.S_root.double(), moved @ metric.C_inverse_root.double()
    random = generator(seed)
    d = moved.shape[1]
    spans = [
        torch.linalg.qr(torch.randn(d, rank, generator=random, dtype=torch.float64)).Q
        for _ in range(draws)
    ]
    rotations = [
        [torch.linalg.qr(torch.randn(d, d, generator=random, dtype=torch.float64)).Q for _ in "lr"]
        for _ in range(min(draws, 20))
    ]
    white = c @ metric.C_inverse_root.double()
    whole = {"writes": written, "reads": read}
    totals = {name: _sums(x.square().sum(1), text) for name, x in whole.items()}
    by_chance = {
        name: [float((x @ Q).square().sum()) / float(x.square().sum()) for Q in spans]
        for name, x in whole.items()
    }
    rows = []

    def add(
        name: str, question: str, top: np.ndarray, bottom: np.ndarray, chance: list[float]
    ) -> None:
        share, *ends = ratio_interval(top, bottom, seed=seed)
        low, high = np.clip(ends, 0.0, 1.0).tolist()  # it is a share
        high_chance = top_by_chance(chance) if chance else float("nan")
        rows.append(
            (name, question, share, low, high, float(np.mean(chance or [np.nan])), high_chance)
        )

    for name, one in {steer.name: steer, **others}.items():
        U, sigma, Vh = torch.linalg.svd(metric.whiten(one.W).double())
        for question, span in (("writes", Vh[:rank].mT), ("reads", U[:, :rank])):
            share = _sums((whole[question] @ span).square().sum(1), text)
            add(name, question, share, totals[question], by_chance[question])
        own = c @ one.W.double() @ metric.S_root.double()
        fits, low, high = _cosine(written, own, text, seed)
        turned = [_cosine(written, white @ (L * sigma @ R), text, None)[0] for L, R in rotations]
        rows.append(
            (
                name,
                "steer's move",
                fits,
                low,
                high,
                float(np.mean(turned)),
                top_by_chance(turned),
            )
        )
    mean = written.mean(0)
    along = _sums(written @ mean, text)
    add("", "constant", along, totals["writes"], [])
    return pd.DataFrame(
        rows, columns=["steer", "question", "share", "low", "high", "chance", "chance_high"]
    )


def _by_text(states: States) -> tuple[Float[Tensor, "n d"], Tensor]:
    """Return the states in the order of the texts, and the text of each.

    The order they are stored in depends on their batches.
    """
    chunks = list(states.chunks(1 << 16))
    text = torch.cat([chunk.text for chunk in chunks])
    order = torch.argsort(text, stable=True)
    return torch.cat([chunk.hidden for chunk in chunks])[order].double(), text[order]


def _sums(x: Float[Tensor, " n"], text: Tensor) -> np.ndarray:
    """Return the sums over each text that has positions."""
    return (
        torch.zeros(int(text.max()) + 1, dtype=x.dtype)
        .index_add_(0, text, x)[text.unique()]
        .numpy()
    )


def _cosine(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], text: Tensor, seed: int | None
) -> tuple[float, float, float]:
    """Return the squared cosine of two sets of moves, and its interval over texts."""
    xy, xx, yy = (_sums((a * b).sum(1), text) for a, b in ((x, y), (x, x), (y, y)))
    found = float(xy.sum() ** 2 / (xx.sum() * yy.sum()))
    if seed is None or len(xx) < 2:
        return found, float("nan"), float("nan")
    pick = numpy_generator(seed).integers(0, len(xx), (1000, len(xx)))
    many = xy[pick].sum(1) ** 2 / (xx[pick].sum(1) * yy[pick].sum(1))
    low, high = np.quantile(many, [0.025, 0.975])
    return found, float(low), float(high)
