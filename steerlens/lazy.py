"""Packages that load what they offer on first use, so that importing them costs nothing."""

import random
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def lazily(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package.

    Args:
        package: its full name.
        homes: of each name the module below the package that it is in; the module itself where both
            are the same.

    Example:
        >>> find, names = lazily("steerlens.maths", {"svd": "svd", "truncate": "svd"})
        >>> names(), find("svd").__name__, find("truncate").__name__
        (['svd', 'truncate'], 'steerlens.maths.svd', 'truncate')
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}; it has {', '.join(homes)}"
            )
        module = load_module(f"{package}.{homes[name]}")
        return module if homes[name] == name else getattr(module, name)

    return find, lambda: list(homes)


def load_module(name: str) -> ModuleType:
    """Import a module, and leave the user's random numbers as they were: some libraries draw from
    them where they are first imported (rich, by way of scikit-learn)."""
    state = random.getstate()
    try:
        return import_module(name)
    finally:
        random.setstate(state)
