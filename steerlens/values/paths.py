"""Paths as users give them."""

import os
from pathlib import Path
from typing import Any

from steerlens.maths.brief import brief


def as_path(given: Any, name: str = "path", expected: str = "the path of a file") -> Path:
    """Return a path as a `Path`, with `~` as the home folder.

    Raises:
        ValueError: something else than text or a path, a text with a zero byte, a home folder that
            there is not; the message names the argument.

    Example:
        >>> as_path("joy.safetensors").suffix, as_path("~/joy.safetensors").parent == Path.home()
        ('.safetensors', True)
    """
    if not isinstance(given, str | os.PathLike) or "\0" in str(os.fspath(given)):
        raise ValueError(f"{name}: got {brief(given)}, expected {expected}, e.g. 'joy.safetensors'")
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise ValueError(f"{name}: got {brief(given)}, and there is no such home folder") from None


def as_folder(given: Any, name: str, expected: str = "a folder for the states") -> Path:
    """Return the path of a folder that is read from later, wherever one works then.

    Example:
        >>> as_folder("states", "folder").is_absolute()
        True
    """
    return as_path(given, name, expected).absolute()


def check_folder(path: Path, name: str = "path") -> Path:
    """Return the path of a file whose folder is there.

    Raises:
        FileNotFoundError: it is not.

    Example:
        >>> check_folder(Path("joy.safetensors")).name
        'joy.safetensors'
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{name}: the folder {path.parent} does not exist; create it first")
    return path
