"""A second device for a machine that has none: tensors whose numbers are on the CPU, under the
name of another device, which meet tensors of the CPU as little as those of a GPU would.

Verbs are run inside `second_device()`, on a model of which some or all parts `put` was called for.
No gradients flow there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = torch.device("xla", 0)
"""Any kind that this torch does not have will do."""


class There(Tensor):
    """A tensor on the second device; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "There":
        # to torch itself it is a "meta" tensor, for which nothing has to be linked
        make: Any = Tensor._make_wrapper_subclass
        made = make(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device="meta", dispatch_device=True,
        )  # fmt: skip
        made.held = held
        return made

    is_meta = property(lambda self: False)  # pyright: ignore

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    # what Python asks of a tensor's memory, torch would look for on the device itself
    def item(self) -> Any:
        return self.held.item()

    def tolist(self) -> Any:
        return self.held.tolist()

    def __float__(self) -> float:
        return float(self.held)

    def __int__(self) -> int:
        return int(self.held)

    def __bool__(self) -> bool:
        return bool(self.held)

    def __index__(self) -> int:
        return self.held.__index__()

    def __format__(self, how: str) -> str:
        return format(self.held, how)

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def is_contiguous(self, *args: Any, **options: Any) -> bool:
        return self.held.is_contiguous(*args, **options)

    def contiguous(self, *args: Any, **options: Any) -> Tensor:
        return self if self.held.is_contiguous() else There(self.held.contiguous())

    def __getitem__(self, index: Any) -> Tensor:  # indices may be on the CPU
        return There(self.held[tree_map(_held, index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, Tensor) and value.ndim and not isinstance(value, There):
            raise _apart("setitem")
        self.held[tree_map(_held, index)] = _held(value)


def _held(x: Any) -> Any:
    return x.held if isinstance(x, There) else x


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type in (NAME.type, "meta")


def _apart(what: Any) -> RuntimeError:
    return RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {NAME} and cpu! ({what})"
    )


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator on the numbers, if all tensors are on one device, and put what it made there."""
    aten = torch.ops.aten
    if func is torch.ops.prim.device.default:
        return NAME
    given = tree_flatten((args, kwargs))[0]
    there = [x for x in given if isinstance(x, There)]
    device = kwargs.get("device")
    copies = func in (aten.copy_.default, aten._to_copy.default)
    if there and not copies:
        first = isinstance(args[0], There)
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
            here = [] if first else [args[0]]
        else:
            here = [x for x in given if isinstance(x, Tensor) and not isinstance(x, There)]
        if any(x.ndim for x in here):  # a number of the CPU meets anything
            raise _apart(func)
    plain = {
        n: torch.device("cpu") if n == "device" and x is not None else x for n, x in kwargs.items()
    }
    made = func(*tree_map(_held, args), **tree_map(_held, plain))
    if func._schema.is_mutable and isinstance(args[0], There) and made is args[0].held:
        return args[0]
    target = bool(there) if device is None else _is_there(device)
    if func is aten._local_scalar_dense.default or not target:
        return made
    return tree_map(lambda x: There(x) if isinstance(x, Tensor) else x, made)


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tree_flatten((args, kwargs))[0]
        if _is_there(kwargs.get("device")) or any(isinstance(x, There) for x in given):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and _is_there(kwargs.get("device")):
            rest = {name: x for name, x in kwargs.items() if name != "device"}
            return There(func(*tree_map(_held, args), **rest))
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if "not linked with support" not in str(error):
                raise
        # some functions look for the device before they come to an operator
        given = tree_flatten((args, kwargs))[0]
        if any(isinstance(x, Tensor) and x.ndim and not isinstance(x, There) for x in given):
            raise _apart(func)
        made = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        return tree_map(lambda x: There(x) if isinstance(x, Tensor) else x, made)


@contextmanager
def second_device() -> Iterator[None]:
    """Run the block on a machine with a second device."""
    with _Operators(), _Functions(), torch.no_grad():
        yield


def put(module: nn.Module) -> None:
    """Put a module's parameters and buffers there."""
    for part in module.modules():
        for numbers in (part._parameters, part._buffers):
            for name, t in list(numbers.items()):
                if t is not None:
                    numbers[name] = There(t.detach())  # pyright: ignore
