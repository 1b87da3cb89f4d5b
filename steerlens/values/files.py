"""Steers and other interventions on disk: one safetensors file with JSON metadata, written whole or not at all."""

import hashlib
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from steerlens.values.fit import Report
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.prompt import Prompt
from steerlens.values.readout import Readout
from steerlens.values.reft import Reft
from steerlens.values.steer import Steer

FORMAT = 1
NEEDED = {
    "steer": {"format", "name", "terms", "model_id", "d_model", "readout_digest", "digest"},
    "prompt": {"format", "name", "prompt_kind", "layers", "model_id", "readout_digest", "digest"},
    "reft": {"format", "name", "variant", "layers", "positions", "activation", "model_id", "readout_digest", "digest"},
}
"""What a file must say of its value, by kind."""


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


def save(value: Steer | Reft | Prompt, path: str | Path, *, report: Report | None = None) -> Path:
    """Write a steer, a `Reft` or a `Prompt` to one `.safetensors` file; an existing file is replaced, at once or not at all.

    The file holds the numbers (float32) and JSON metadata: format version, model id, digests of `W_U` and of the tokenizer,
    the site, the model's dtype, library versions and, if given, the fit's report with its seed. No pickle.

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
    found, about = _pack(value)
    tensors = {name: t.detach().float().cpu().contiguous() for name, t in found.items()}
    r = value.readout
    content = {
        "format": FORMAT,
        "name": value.name,
        **about,
        "model_id": r.model_id,
        "d_model": r.d_model,
        "d_vocab": r.d_vocab,
        "readout_digest": r.digest,
        "tokenizer_digest": r.tokenizer_digest,
        "dtype": str(r.W_U.dtype).removeprefix("torch."),
        "digest": _digest(tensors),
        "versions": {name: version(name) for name in ("steerlens", "torch", "transformer-lens", "safetensors")},
        "report": None if report is None else report.as_dict(),
    }
    write_bytes(path, to_bytes(tensors, metadata={"steerlens": json.dumps(content)}))
    return path


def _pack(value: Steer | Reft | Prompt) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The numbers of a value, and what else it is."""
    if isinstance(value, Steer):
        return {"W": value.W}, {"kind": "steer", "site": UNEMBED_IN, "terms": [list(term) for term in value.terms]}
    if isinstance(value, Prompt):
        about = {"kind": "prompt", "prompt_kind": value.kind, "layers": list(value.layers)}
        return {"rows": value.rows, "directions": value.directions}, about
    tensors = {"R": value.R, "b": value.b} | ({} if value.A is None else {"A": value.A})
    return tensors, {
        "kind": "reft",
        "variant": value.variant,
        "layers": list(value.layers),
        "positions": value.positions,
        "activation": value.activation,
    }


def _unpack(tensors: dict[str, Tensor], meta: dict[str, Any], readout: Readout) -> Steer | Reft | Prompt:
    if meta["kind"] == "steer":
        return Steer(tensors["W"], readout, meta["name"], tuple((n, k) for n, k in meta["terms"]))
    if meta["kind"] == "prompt":
        layers = tuple(meta["layers"])
        return Prompt(tensors["rows"], tensors["directions"], meta["prompt_kind"], layers, readout, meta["name"])
    return Reft(
        tensors["R"], tensors.get("A"), tensors["b"], meta["variant"], tuple(meta["layers"]), meta["positions"], readout,
        meta["activation"], meta["name"],
    )  # fmt: skip


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What a file says of its value, its fit's report included; the numbers are not kept.

    Raises:
        ValueError: the file is cut short or holds nothing of ours.
    """
    return _open(Path(path))[0]


def read_value(path: str | Path, readout: Readout) -> Steer | Reft | Prompt:
    """The value of a file, bound to a read-out that must be the one it was saved with.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut short, changed after it was written, of a later format, or for another `W_U`.
    """
    path = Path(path)
    meta, tensors = _open(path)
    if meta["digest"] != _digest(tensors):
        raise ValueError(
            f"{path}: the numbers do not match their digest; the file was changed after it was saved, save it anew"
        )
    if meta["readout_digest"] != readout.digest:
        raise ValueError(
            f"{path}: {meta['kind']} {meta['name']!r} was fitted on the W_U of {meta['model_id']!r} (d_model "
            f"{meta.get('d_model')}, digest {meta['readout_digest'][:8]}), this model is {readout.model_id!r} (d_model "
            f"{readout.d_model}, digest {readout.digest[:8]}). If it is the same model, load its raw weights (no folding, no "
            "centring); if it is another, move the steer with steerlens.transfer"
        )
    return _unpack({name: t.to(readout.W_U.device) for name, t in tensors.items()}, meta, readout)


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"path: no file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("steerlens", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()} if meta else {}  # noqa: SIM118 (no mapping)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); copy or save it anew") from None
    found = meta if isinstance(meta, dict) else {}
    if isinstance(found.get("format"), int) and found["format"] > FORMAT:
        raise ValueError(f"{path}: format {found['format']}, this steerlens reads up to {FORMAT}; update steerlens")
    if found.get("kind") not in NEEDED or not found.keys() >= NEEDED[found["kind"]]:
        raise ValueError(f"{path}: a safetensors file, but not one that steerlens.save wrote")
    return found, tensors


def _digest(tensors: dict[str, Tensor]) -> str:
    seen = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        seen.update(name.encode())
        seen.update(tensors[name].contiguous().numpy().data)
    return seen.hexdigest()
