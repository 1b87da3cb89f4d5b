"""The files of a run: one per entrant and block of prompts, with the settings beside them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from steerlens.models.collect_same import SAME
from steerlens.values.atomic import write_json
from steerlens.values.paths import as_path

SETTINGS = "settings.json"


def open_folder(folder: str | Path, settings: dict[str, Any], what: str) -> Path:
    """Make a folder for what is written under some settings, or go on with one of the same.

    Args:
        settings: JSON's own types; lists of numbers may be off by rounding.
        what: is in it, for the message.

    Raises:
        FileNotFoundError: the folder above it does not exist.
        ValueError: it was written with other settings, which are named, or holds something else.

    Example:
        >>> folder = open_folder("run", {"seed": 0}, "a run")
        >>> open_folder("run", {"seed": 1}, "a run")
        Traceback (most recent call last):
            ...
        ValueError: folder: run holds a run with other settings: seed was 0 and is 1; take another folder
    """
    path = as_path(folder, "folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder: {path.parent} does not exist; create it first")
    path.mkdir(exist_ok=True)
    file = path / SETTINGS
    if not file.is_file():
        if any(path.iterdir()):
            raise ValueError(f"folder: {path} holds something else; take a new or an empty folder")
        write_json(file, settings)
        return path
    before = _read_settings(file)
    unsaid = [name for name in settings if name not in before]
    if unsaid:
        raise ValueError(
            f"folder: {path} holds {what} that an earlier steerlens wrote, which does not say the "
            f"{', the '.join(unsaid)}, so whether it is this one cannot be told; take another folder"
        )
    differ = [
        said
        for name in dict.fromkeys([*before, *settings])
        if (said := _difference(name, before[name], settings.get(name)))
    ]
    if differ:
        raise ValueError(
            f"folder: {path} holds {what} with other settings: {', '.join(differ)}; take "
            "another folder"
        )
    return path


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"folder: {file} is no settings of a run; take another folder")
    return found


def _difference(name: str, before: Any, now: Any) -> str:
    """Say how a setting differs, nothing where it does not."""
    if not isinstance(before, list) or not isinstance(now, list) or len(before) != len(now):
        return "" if before == now else f"{name} was {before!r} and is {now!r}"
    error = max((abs(x - y) for x, y in zip(before, now, strict=True)), default=0.0)
    size = max(map(abs, before), default=0.0)
    return f"{name} differ by up to {error:.2g}" if error > SAME * size else ""


def write_block(folder: Path, block: int, table: pd.DataFrame) -> None:
    """Write the texts of a block, whole or not at all."""
    # of a method without next-token distribution they are NaN, which JSON has no word for
    costs = [[None if np.isnan(x) else float(x) for x in kl] for kl in table.kl]
    rows = table.assign(kl=costs).to_dict("list")
    write_json(_file(folder, block), rows)


def read_block(folder: Path, block: int) -> pd.DataFrame | None:
    """Return the texts of a block; None where they are still to be written.

    Raises:
        ValueError: the file is not one that `write_block` wrote.
    """
    file = _file(folder, block)
    if not file.is_file():
        return None
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return pd.DataFrame(rows).assign(kl=[np.array(kl, dtype=float) for kl in rows["kl"]])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: is no block of a run ({error}); remove it to write it anew"
        ) from None


def _file(folder: Path, block: int) -> Path:
    return folder / f"block-{block:04d}.json"
