"""What a steer of one attribute does to others: the leak, at equal KL."""

from collections.abc import Mapping

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.evaluate.compare import compare
from steerlens.evaluate.writer import Method
from steerlens.maths.logit_stats import logit_stats
from steerlens.models.hooks import Model
from steerlens.values.arguments import background_of, steer_of
from steerlens.values.fit import Fit
from steerlens.values.labelled import Labelled
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer

CHUNK = 256


def leak(
    model: Model,
    steers: Mapping[str, Method | Fit],
    tests: Mapping[str, Labelled],
    *,
    kl: float = 0.05,
) -> pd.DataFrame:
    """Return the sign margin of every attribute under every steer, at equal KL.

    A steer of one attribute should leave the others at 0; what it does not is the leak. The texts
    of a test should have the other attributes evenly under each label: in texts where both go
    together the other's margin is no leak.

    Args:
        steers: by name; any interventions.
        tests: texts labelled by each attribute, that no steer was fitted to.
        kl: nats per token, mean of both signs.

    Returns:
        One row per steer and attribute: `steer`, `attribute`, `sign_margin` with `low` and `high`
        (nats per token), `strength`, and `share`, the margin as a part of the largest that any of
        the steers has for the attribute.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=100, seed=0)
        >>> tone = sl.fit_steer(sl.collect(model, data, progress=False)).value
        >>> table = leak(model, {"tone": tone}, {"tone": data, "sentiment": sl.toy.corpus("sentiment", n=100)})
        >>> bool(table.sign_margin[0] > table.sign_margin[1])
        True
    """
    if not steers or not tests:
        raise ValueError("steers, tests: got none, expected at least one of each, by name")
    parts = [
        compare(model, steers, test, kl=kl).rename(columns={"name": "steer"}).assign(attribute=name)
        for name, test in tests.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    most = table.groupby("attribute").sign_margin.transform("max")
    table["share"] = table.sign_margin / most.where(most > 0)
    columns = ["steer", "attribute", "sign_margin", "low", "high", "share", "strength"]
    return pd.DataFrame(table[columns])


def summed_nll(
    states: States,
    steers: Mapping[str, Steer | Fit],
    labels: Mapping[str, Float[Tensor, " n_texts"]],
    background: Steer | None = None,
) -> Float[Tensor, " n_texts"]:
    """Return each text's summed NLL when every steer is on at the text's own label, nats.

        c' = c + cD + Σ_j y_j cW_j

    Args:
        states: of the plain model.
        steers: in the unit of the labels.
        labels: one per text, by the steers' names.
        background: `D`; None: none.

    Raises:
        ValueError: a steer without labels, or of another read-out.

    Example:
        >>> import steerlens as sl
        >>> states = sl.collect(sl.load_model("toy-64"), ["the film was good ."], progress=False)
        >>> bool(summed_nll(states, {}, {})[0] > 0)
        True
    """
    check_states(states)
    linear = {name: steer_of(steer, "steers") for name, steer in steers.items()}
    background = None if background is None else background_of(background)
    for name, steer in linear.items():
        if name not in labels:
            raise ValueError(f"labels: none for the steer {name!r}, only for {list(labels)}")
        if len(labels[name]) != len(states.labels):
            raise ValueError(
                f"labels: got {len(labels[name])} for {name!r}, expected one for each of {len(states.labels)} texts"
            )
        if not steer.readout.same_as(states.readout):
            raise ValueError(f"steers: {name!r} lives on another W_U than the states")
    head, device = states.readout.head, states.readout.W_U.device
    total = torch.zeros(len(states.labels), dtype=torch.float64)
    for c, target, text in states.chunks(CHUNK, device=device):
        moved = c if background is None else c + c @ background.W.to(c)
        for name, steer in linear.items():
            moved = moved + labels[name][text.cpu()].to(c)[:, None] * (c @ steer.W.to(c))
        told = logit_stats(head, target, [moved], [[1.0]])
        total.index_add_(0, text.cpu(), told.nll[0].double().cpu())
    return total
