"""Tensors and plain JSON in one safetensors file with a digest: written whole, read with care."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from steerlens.values.atomic import write_bytes
from steerlens.values.paths import as_path, check_folder

FORMAT = 1
POINTER = b"version https://git-lfs"


def write_tensors(
    path: str | Path, kind: str, tensors: dict[str, Tensor], about: dict[str, Any]
) -> Path:
    """Write float32 tensors and JSON to one `.safetensors` file; an existing file is replaced, at
    once or not at all.

    Raises:
        ValueError: another ending, or JSON that is none (NaN, infinity).
        FileNotFoundError: no such folder.
    """
    path, plain = check_target(path), as_plain(tensors)
    content = {"format": FORMAT, "kind": kind, "digest": digest(plain), **about}
    text = json.dumps(content, allow_nan=False)
    write_bytes(path, to_bytes(plain, metadata={"steerlens": text}))
    return path


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON of a file that `write_tensors` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut short, changed after it was written, of a later format, of another kind.
    """
    path = as_path(path)
    tensors, about = open_tensors(path)
    if about.get("kind") != kind:
        raise ValueError(
            f"{path}: expected a {kind!r}, got {about.get('kind', 'something else')!r}"
        )
    version = about.get("format")
    if not isinstance(version, int) or version > FORMAT:
        raise ValueError(
            f"{path}: format {version}, this steerlens reads up to {FORMAT}; update steerlens"
        )
    check_digest(path, tensors, about.get("digest"))
    return tensors, about


def check_target(path: str | Path) -> Path:
    """Return a path that can be written to, as a `Path`.

    Raises:
        ValueError: another ending than .safetensors.
        FileNotFoundError: no such folder.
    """
    path = as_path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path: got {path.name!r}, expected a name that ends in .safetensors")
    return check_folder(path)


def as_plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as files keep them: float32, on the CPU, without gaps, none in another's
    memory."""
    plain = {name: t.detach().float().cpu().contiguous() for name, t in tensors.items()}
    first = {t.data_ptr(): name for name, t in reversed(plain.items())}
    return {n: t if first[t.data_ptr()] == n else t.clone() for n, t in plain.items()}


def open_tensors(path: Path, key: str = "steerlens") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a safetensors file and the JSON under a key, nothing where it is no
    mapping.

    The tensors are copies: whoever overwrites the file in place, as `cp` does, changes no value
    that was read from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut short, or the JSON is none.
    """
    tensors, about = map_tensors(path, key)
    return {name: tensor.clone() for name, tensor in tensors.items()}, about


def map_tensors(path: Path, key: str = "steerlens") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `open_tensors` does, without a copy: processes that read one file share its
    memory.

    For files that are only ever replaced whole.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut short, or the JSON is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"path: no file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(key, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, ValueError) as error:
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise ValueError(
                    f"path: {path} is a pointer of Git LFS in the place of a file; fetch it with `git lfs pull`"
                ) from None
        raise ValueError(
            f"path: {path} is not a whole safetensors file ({error}); copy or save it anew"
        ) from None
    return tensors, about if isinstance(about, dict) else {}


def check_digest(path: Path, tensors: dict[str, Tensor], said: Any) -> None:
    """Raise where a file's numbers are not those that were saved."""
    if said != digest(tensors):
        raise ValueError(
            f"{path}: the numbers do not match their digest; the file was changed after it was saved, save it anew"
        )


def digest(tensors: dict[str, Tensor]) -> str:
    """Return what names tensors and their numbers."""
    seen = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        seen.update(name.encode())
        seen.update(tensors[name].float().contiguous().numpy().data)
    return seen.hexdigest()
