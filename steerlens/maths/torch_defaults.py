"""Compute as a fresh torch does, whatever was set for all of it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

AUTOCAST = ("cpu", "cuda", "mps", "xpu")
"""Kinds of devices on which torch may choose the dtype of a product by itself."""


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Run a block, or with `@torch_defaults()` a function, under torch's own defaults.

    A notebook may begin with `torch.set_default_device("cuda")` or `torch.set_default_dtype(...)`,
    or run under `torch.autocast` or `torch.inference_mode`; what is computed here depends on none of
    them. Whether gradients are wanted stays as it is. The default dtype is the process', so a thread
    that runs beside the block meets it too; the others are the thread's own.

    Example:
        >>> with torch.autocast("cpu"), torch.device("meta"), torch_defaults():
        ...     torch.ones(1, 1) @ torch.ones(1, 1)
        tensor([[1.]])
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():  # what is made in it could never be learned from
            stack.enter_context(torch.inference_mode(False))
        for kind in filter(torch.is_autocast_enabled, AUTOCAST):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # it would slow every call of torch
            stack.enter_context(torch.device("cpu"))
        if (dtype := torch.get_default_dtype()) != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield
