"""A second model with the same numbers, which share nothing with the first."""

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.adapters import Model
from steerlens.models.hooks import adapter
from steerlens.models.probe import same_history


@torch_defaults()
def duplicate(model: Model) -> Model:
    """Return a copy of a model that can be changed without changing the model.

    A plain `copy.deepcopy` of a `TransformerBridge` is not enough: hooks by which its blocks capture
    their input are functions, which are not copied. Those of the copy would write to the first
    model, and fail once that is gone. They are taken off; the copy sets its own as it runs.

    Example:
        >>> import torch
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> other = duplicate(model)
        >>> with torch.no_grad():
        ...     _ = [p.zero_() for p in other.parameters()]
        >>> bool(model.W_U.any())
        True
    """
    # what a pass with gradients left behind in a block hangs on its graph, which is not copied
    left: dict[int, Any] = {
        id(t): t.detach().clone()
        for module in adapter(model).module.modules()
        for t in _tensors(vars(module))
        if not t.is_leaf
    }
    made = copy.deepcopy(model, left)
    for module in adapter(made).module.modules():
        take_off = getattr(module, "_teardown_capture_hooks", None)
        if take_off is not None:
            take_off()
    same_history(model, made)
    return made


def _tensors(held: Any) -> Iterator[Tensor]:
    """Yield the tensors in attributes, and in the plain containers among them."""
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, dict | list | tuple):
        for part in held.values() if isinstance(held, dict) else held:
            yield from _tensors(part)
