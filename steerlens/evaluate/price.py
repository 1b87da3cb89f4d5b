"""What a method costs to have and to use: numbers that were fitted, and how much longer it writes."""

import time
from collections.abc import Sequence

import numpy as np

from steerlens.evaluate.protocols import Protocol
from steerlens.evaluate.verbs import write
from steerlens.evaluate.writer import Method, method_of
from steerlens.models.hooks import Model
from steerlens.values.fit import Fit

LONG = 15.0
"""Seconds for one prompt: a method that takes longer is timed by that prompt alone."""


def n_parameters(method: Method | Fit) -> int:
    """Return how many numbers a method learned: what it says of itself, or what a file keeps of it.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.evaluate.controls import random_steer
        >>> n_parameters(random_steer(sl.readout(sl.load_model("toy-64")))) == 64 * 64
        True
    """
    method = method_of(method)
    said = getattr(method, "n_parameters", None)
    if said is not None:
        return int(said)
    pack = getattr(method, "pack", None)
    if pack is None:
        raise ValueError(
            f"method: {type(method).__name__} does not say how many numbers it learned; give it "
            "`n_parameters`, or `pack`"
        )
    return sum(int(tensor.numel()) for tensor in pack()[0].values())


def slowdown(
    model: Model, method: Method, protocol: Protocol, *, strength: float, rounds: int = 3
) -> float:
    """Return how many times longer a method writes than the model itself.

    A few prompts of the protocol are continued by both in turn, in one process; the quickest round
    of each counts. A method that takes long for the first of them is timed by that one.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.evaluate.controls import random_steer
        >>> from steerlens.evaluate.protocols import detoxification
        >>> from steerlens.evaluate.scorers import oracle
        >>> model, task = sl.load_model("toy-64"), detoxification(["it"], oracle("tone"))
        >>> slowdown(model, random_steer(sl.readout(model)), task, strength=0.0) > 0
        True
    """
    prompts = protocol.prompts[: max(1, 20 // protocol.sampling.samples)]
    times: dict[bool, list[float]] = {False: [], True: []}

    def write_both(some: Sequence[str]) -> None:
        for steered, writer in ((False, None), (True, method)):
            start = time.perf_counter()
            write(model, writer, some, strength=strength, sampling=protocol.sampling)
            times[steered].append(time.perf_counter() - start)

    write_both(prompts[:1])
    if times[True][0] < LONG:
        times = {False: [], True: []}
        for _ in range(rounds):
            write_both(prompts)
    return float(np.min(times[True]) / np.min(times[False]))
