"""Load a model and a steer's file for it, in the dtype that is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def load_both(model: str, steer: Path, dtype: str, say: Callable[[str], None]) -> tuple[Any, Any]:
    """Return the model, and its steer; one that was fitted in another dtype is carried over."""
    import steerlens as sl

    fitted = sl.read_metadata(steer)["dtype"]
    say(f"loading {model}")
    source = sl.load_model(model, dtype=fitted)
    value = sl.load(steer, source)
    if fitted == dtype:
        return source, value
    say(f"loading {model} in {dtype}; the steer was fitted in {fitted}")
    target = sl.load_model(model, dtype=dtype)
    affine = hasattr(value, "shift")
    return target, (sl.export.rebase_affine if affine else sl.export.rebase)(value, target)
