"""What workers of a benchmark load, once per process, so that loading is not counted with the parts;
and a part that takes time and does nothing."""

import time
from functools import cache

import steerlens as sl
from steerlens.models.adapters import Model
from steerlens.values.parts import Part


@cache
def load(name: str) -> Model:
    return sl.load_model(name, plain=True)


def wait(part: Part, seconds: float) -> int:
    """Take as long as the work on a part would, and none of the processor's time."""
    time.sleep(seconds)
    return len(part.rows)
