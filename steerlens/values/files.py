"""Steers on disk: one safetensors file with JSON metadata, written whole or not at all."""

import hashlib
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from steerlens.values.fit import Report
from steerlens.values.readout import Readout
from steerlens.values.steer import Steer, metadata

FORMAT = 1
NEEDED = {"format", "name", "terms", "model_id", "d_model", "readout_digest", "W_digest"}
"""What a file must say of its steer."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole: to a temporary name beside it, then renamed over it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)  # mkstemp makes files for the owner only
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole; NaN and infinity are refused, they are not JSON."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def save(steer: Steer, path: str | Path, *, report: Report | None = None) -> Path:
    """Write a steer to one `.safetensors` file; an existing file is replaced, at once or not at all.

    The file holds `W` (float32) and JSON metadata: format version, model id, digests of `W_U` and of the tokenizer, the
    site, the model's dtype, library versions and, if given, the fit's report with its seed. No pickle.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> fit = sl.fit_steer(sl.collect(model, sl.toy.corpus("tone", n=100, seed=0)))
        >>> path = sl.save(fit.value, "/tmp/tone.safetensors", report=fit.report)
        >>> sl.load(path, model).name == fit.value.name
        True
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path: got {path.name!r}, expected a name that ends in .safetensors")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: the folder {path.parent} does not exist; create it first")
    W = steer.W.detach().float().cpu().contiguous()
    content = {
        **metadata(steer),
        "format": FORMAT,
        "W_digest": _digest(W),
        "versions": {name: version(name) for name in ("steerlens", "torch", "transformer-lens", "safetensors")},
        "report": None if report is None else report.as_dict(),
    }
    write_bytes(path, to_bytes({"W": W}, metadata={"steerlens": json.dumps(content)}))
    return path


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What a steer's file says of it, its fit's report included; the matrix is not read.

    Raises:
        ValueError: the file is cut short or is no steer.
    """
    return _open(Path(path))[0]


def read_steer(path: str | Path, readout: Readout) -> Steer:
    """The steer of a file, bound to a read-out that must be the one it was saved with.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut short, changed after it was written, of a later format, or for another `W_U`.
    """
    path = Path(path)
    meta, W = _open(path)
    if meta["W_digest"] != _digest(W):
        raise ValueError(
            f"{path}: the matrix does not match its digest; the file was changed after it was saved, save it anew"
        )
    if meta["readout_digest"] != readout.digest:
        raise ValueError(
            f"{path}: steer {meta['name']!r} was fitted on the W_U of {meta['model_id']!r} (d_model {meta['d_model']}, digest "
            f"{meta['readout_digest'][:8]}), this model is {readout.model_id!r} (d_model {readout.d_model}, digest "
            f"{readout.digest[:8]}). If it is the same model, load its raw weights (no folding, no centring); if it is "
            "another, move the steer with steerlens.transfer"
        )
    return Steer(W.to(readout.W_U.device), readout, meta["name"], tuple((n, k) for n, k in meta["terms"]))


def _open(path: Path) -> tuple[dict[str, Any], torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"path: no file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("steerlens", "null"))
            W = file.get_tensor("W") if meta else torch.empty(0)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); copy or save it anew") from None
    found = meta if isinstance(meta, dict) else {}
    if isinstance(found.get("format"), int) and found["format"] > FORMAT:
        raise ValueError(f"{path}: format {found['format']}, this steerlens reads up to {FORMAT}; update steerlens")
    if not found.keys() >= NEEDED:
        raise ValueError(f"{path}: a safetensors file, but not one that steerlens.save wrote")
    return found, W


def _digest(W: torch.Tensor) -> str:
    return hashlib.blake2b(W.contiguous().numpy().data, digest_size=16).hexdigest()
