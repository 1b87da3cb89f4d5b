"""States on disk: a folder with a read-out, a file for each part of the texts, and an index."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steerlens.values.paths import as_folder
from steerlens.values.readout import Readout

FORMAT = 1
READOUT, INDEX, PARTS = "readout.safetensors", "index.json", "part-*.safetensors"
OF_COLLECT = "states-*.safetensors"
"""Files of `collect(folder=)`, which say nothing of their texts: only the same call reads them."""
UNDER_WAY = (".part-*", f".{READOUT}.*", f".{INDEX}.*", ".tmp??????")
"""Files that are being written, or were when a run was killed; the last are those of safetensors,
which writes to a name of its own first."""


class Settings(NamedTuple):
    """What must be the same for all parts of a folder: the dtype of the stored states, and whether
    ends of texts are predicted."""

    dtype: str
    end: bool


class Origin(NamedTuple):
    """Where the states of a folder come from: the read-out, settings, and the states of a few fixed
    tokens, by which another model with the same read-out is told."""

    readout: Readout
    settings: Settings
    probe: Float[Tensor, "n d_model"]


def open_folder(folder: str | Path) -> Path:
    """Return a folder for states, which is made if it is not there.

    Raises:
        ValueError: it holds something else.
    """
    folder = as_folder(folder, "folder")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder: {folder} is a file, expected a folder, which may be new")
    folder.mkdir(parents=True, exist_ok=True)
    check_not_of_collect(folder)
    other = [
        path.name
        for path in folder.iterdir()
        if not any(path.match(known) for known in (PARTS, READOUT, INDEX, *UNDER_WAY))
    ]
    if other:
        raise ValueError(
            f"folder: {folder} holds something else than parts of states ({min(other)!r}); choose another folder"
        )
    return folder


def check_not_of_collect(folder: Path) -> None:
    """Raise where a folder holds what `collect(folder=)` wrote, in a format of its own.

    Raises:
        ValueError: it does.
    """
    if any(folder.glob(OF_COLLECT)):
        raise ValueError(
            f"folder: {folder} holds the states of steerlens.collect(..., folder=), which only the same call reads again; "
            "choose another folder"
        )


def identity_of(digests: Sequence[str]) -> str:
    """Return what names all texts of a folder, from the digests of its parts in order."""
    return hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest()


def part_path(folder: Path, number: int) -> Path:
    """Return where a part of a folder lies, by its number."""
    return folder / f"part-{number:06d}.safetensors"


def read_index(folder: Path) -> dict[str, Any]:
    """Return what the index of a folder says; nothing where there is none yet.

    Raises:
        ValueError: the file is none.
    """
    path = folder / INDEX
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        found = error
    if not isinstance(found, dict):
        why = found if isinstance(found, ValueError) else f"it holds a {type(found).__name__}"
        raise ValueError(
            f"{path}: not an index of states ({why}); choose another folder or delete this one"
        )
    return found


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return what names the bytes of tensors.

    Example:
        >>> import torch
        >>> digest_of({"a": torch.zeros(2)}) == digest_of({"a": torch.tensor([0.0, 1.0])})
        False
    """
    seen = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        seen.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        seen.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return seen.hexdigest()


def check_unchanged(path: Path) -> None:
    """Raise where a file of states no longer holds what was written: a disk or a copy may have lost
    some of it, and states are numbers that nobody reads.

    Raises:
        ValueError: it does not.
    """
    about, _ = read_part(path)
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    said = about.get("digest")  # files of before say none
    if said is not None and said != digest_of(tensors):
        raise ValueError(
            f"{path}: was changed after it was written; delete it and collect again, which makes this file anew"
        )


def read_part(path: Path, *names: str) -> tuple[dict[str, Any], list[Tensor]]:
    """Return what the file of a part says of itself, and those of its tensors that are named.

    Raises:
        ValueError: no whole file.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("steerlens", "{}"))
            return about, [file.get_tensor(name) for name in names]
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a whole part ({error}); delete it and go on") from None
