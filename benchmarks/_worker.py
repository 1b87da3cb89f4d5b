"""What workers of a benchmark load, once per process, so that loading is not counted with the parts."""

from functools import cache

import steerlens as sl
from steerlens.models.adapters import Model


@cache
def load(name: str) -> Model:
    return sl.load_model(name, plain=True)
