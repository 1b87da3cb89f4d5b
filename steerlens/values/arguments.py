"""Arguments that are values of ours: labelled texts, states, steers, fits, metrics; and layers."""

import operator
from collections.abc import Iterable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from steerlens.maths.brief import brief, class_name
from steerlens.values.fit import Fit, value_of
from steerlens.values.labelled import Labelled
from steerlens.values.metric import check_metric_on
from steerlens.values.states import States
from steerlens.values.steer import Steer, SteerWithBackground

STEER = (
    "a Steer, or the Fit that holds one; steerlens.fit_steer(states) fits one, "
    "steerlens.load(path, model) reads one"
)


def check_labelled(data: Any, name: str = "data") -> None:
    """Raise, with the next step, where something else than labelled texts was given."""
    check_kind(
        data,
        name,
        Labelled,
        "labelled texts; Labelled(texts, labels) makes them, steerlens.read_labelled(path) reads them",
    )


def check_labels_differ(labels: Float[Tensor, " n"], name: str = "data") -> None:
    """Raise where every text has the same label, so that nothing is told apart."""
    if not bool((labels - labels[:1]).abs().max() > 1e-9):
        raise ValueError(
            f"{name}: every label is {float(labels[0]):g}, so nothing is told apart; add texts of another label"
        )


def check_fit(fit: Any, name: str = "fit") -> None:
    """Raise, with the next step, where something else than the fit of a steer was given."""
    expected = (
        "the Fit of a steer, with its background and report; steerlens.fit_steer(states) returns it"
    )
    check_kind(fit, name, Fit, expected)
    check_kind(fit.value, f"{name}.value", Steer, expected)


def check_metric(metric: Any, steer: Steer, name: str = "metric") -> None:
    """Raise, with the next step, where something else than a metric of the steer's model was given;
    None is none."""
    if metric is not None:
        check_metric_on(metric, steer.readout, name)


def check_same_model(
    states: States, steer: Steer | SteerWithBackground, name: str = "states"
) -> None:
    """Raise where states are of another model than a steer."""
    if not steer.readout.same_as(states.readout):
        raise ValueError(
            f"{name}: they are of {states.readout.model_id!r}, steer {steer.name!r} lives on {steer.readout.model_id!r}; "
            "collect states of that model"
        )


def steer_of(given: Any, name: str = "steer") -> Steer:
    """Return a steer, or that of a fit.

    Raises:
        ValueError: a file's name, several steers, an intervention of another kind; the message
            names the argument.
    """
    found = value_of(given)
    check_kind(found, name, Steer, STEER)
    return found


def background_of(given: Any, name: str = "background") -> Steer:
    """Return a steer that is always on.

    Raises:
        ValueError: a fit, of which it may be either part; something else than a steer.
    """
    if isinstance(given, Fit):
        raise ValueError(
            f"{name}: got a Fit, expected a Steer that is always on; of a fit take .background, or .value"
        )
    return steer_of(given, name)


def line_of(given: Any, name: str = "steer", *, instead: str = "") -> Steer | SteerWithBackground:
    """Return a steer, or that of a fit, or a steer with its background.

    Args:
        instead: what to do with an intervention of another kind, for the message.

    Raises:
        ValueError: as from `steer_of`.
    """
    found = value_of(given)
    also = f"{STEER}; {instead}" if instead else STEER
    check_kind(found, name, (Steer, SteerWithBackground), also)
    return found


def as_layers(given: Any, n_layers: int, name: str = "layers") -> tuple[int, ...]:
    """Return one layer or several, in order and each once.

    Raises:
        ValueError: none, no whole number, a layer that there is not.

    Example:
        >>> as_layers([3, 1], n_layers=4), as_layers(2, n_layers=4)
        ((1, 3), (2,))
    """
    try:
        if isinstance(given, str | bytes | dict):
            raise TypeError("its items are no layers")
        found = {operator.index(x) for x in (given if isinstance(given, Iterable) else [given])}
    except TypeError:
        found = set()
    if not found or not all(0 <= layer < n_layers for layer in found):
        raise ValueError(
            f"{name}: got {brief(given)}, expected numbers from 0 to {n_layers - 1}, the layers of this model"
        )
    return tuple(sorted(found))


def check_kind(given: Any, name: str, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise where a value of another class was given.

    Example:
        >>> check_kind(3, "data", str, "a text")
        Traceback (most recent call last):
        ...
        ValueError: data: got int, expected a text
    """
    if not isinstance(given, kind):
        called = given if isinstance(given, str) else getattr(given, "name", None)
        shown = f" {brief(called)}" if isinstance(called, str) else ""
        raise ValueError(f"{name}: got {class_name(given)}{shown}, expected {expected}")
