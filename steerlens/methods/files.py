"""Steers and other interventions on disk: one safetensors file with JSON metadata, written whole or
not at all."""

import json
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, ClassVar, Protocol, runtime_checkable

from safetensors.torch import save as to_bytes
from torch import Tensor

from steerlens import methods
from steerlens.maths.brief import brief, class_name
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.gist.mask import GistMask, check_heeds
from steerlens.models.hooks import Model
from steerlens.models.readout import readout
from steerlens.values.atomic import write_bytes
from steerlens.values.fit import Fit, Report
from steerlens.values.paths import as_path
from steerlens.values.readout import Readout
from steerlens.values.tensor_file import (
    as_plain,
    check_digest,
    check_target,
    digest,
    open_tensors,
)

FORMAT = 1
NEEDED = {"format", "kind", "name", "model_id", "d_model", "readout_digest", "digest"}
"""What a file must say of any value; what its kind needs besides, its `unpack` asks for."""


@runtime_checkable
class Saved(Protocol):
    """An `Intervention` that can be kept in a file: what it is besides its numbers, and itself from
    both.

    `file_kind` names it in files. `pack` gives its tensors and plain JSON; `unpack` makes it again
    from these (with `name` among the JSON) on a read-out, and raises KeyError where something is
    missing. A class of one's own that has the three is saved like any other, and loaded by
    `steerlens.load(path, model, kinds=(Mine,))`.
    """

    file_kind: ClassVar[str]

    @property
    def name(self) -> str: ...

    @property
    def readout(self) -> Readout: ...

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]: ...

    @classmethod
    def unpack(
        cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout
    ) -> "Saved": ...


def known_kinds() -> dict[str, Any]:
    """Return the classes that can be in a file, by `file_kind`: those of every module below
    `steerlens.methods`.

    So a method that is added as a file is known here without being named.

    Raises:
        ValueError: two classes of one kind.

    Example:
        >>> {"steer", "steer over background", "reft", "prompt", "gist mask"} <= known_kinds().keys()
        True
    """
    names = [
        "steerlens.values.affine",
        "steerlens.values.steer",
        "steerlens.values.gate",
        *(name for _, name, _ in walk_packages(methods.__path__, "steerlens.methods.")),
    ]
    found: dict[str, Any] = {}
    for cls in (
        cls for name in names for cls in vars(import_module(name)).values() if isinstance(cls, type)
    ):
        kind = getattr(cls, "file_kind", None)  # a protocol only announces one
        if isinstance(kind, str) and found.setdefault(kind, cls) is not cls:
            raise ValueError(
                f"file_kind: {cls.__name__} and {found[kind].__name__} are both {kind!r}; rename one"
            )
    return found


@torch_defaults()
def save(value: Any, path: str | Path, *, report: Report | None = None) -> Path:
    """Write an intervention to one `.safetensors` file; an existing file is replaced, at once or
    not at all.

    The file holds the numbers (float32) and JSON metadata: format version, model id, digests of
    `W_U` and of the tokenizer, the model's dtype, library versions and, if given, the fit's report
    with its seed. No pickle.

    Args:
        value: a `Steer`, `steer.with_background(background)`, a `Reft`, a `SoftPrompt`, a gist
            mask, a class of your own with `file_kind`, `pack` and `unpack` (see
            `steerlens.methods.files.Saved`), or a `Fit`, which brings its report.
        path: ends in .safetensors; its folder exists.
        report: of the fit, for whoever reads the file.

    Raises:
        ValueError: another ending, a value that does not say how it is packed.
        FileNotFoundError: no such folder.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> fit = sl.fit_steer(sl.collect(model, sl.toy.corpus("tone", n=100, seed=0)))
        >>> path = sl.save(fit, "/tmp/tone.safetensors")
        >>> sl.load(path, model).name == fit.value.name
        True
    """
    path = check_target(path)
    if isinstance(value, Fit):
        value, report = value.value, report or value.report
    if not isinstance(value, Saved):
        raise ValueError(
            f"value: got {class_name(value)}, expected a Steer, Reft, Prompt or another value with `file_kind`, `pack` and "
            "`unpack` (steerlens.methods.files.Saved)"
        )
    if report is not None and not isinstance(report, Report):
        raise ValueError(
            f"report: got {class_name(report)}, expected a Report, such as fit.report, or None"
        )
    packed, about = value.pack()
    tensors = as_plain(packed)
    r = value.readout
    content = {
        "format": FORMAT,
        "kind": value.file_kind,
        "name": value.name,
        **about,
        "model_id": r.model_id,
        "d_model": r.d_model,
        "d_vocab": r.d_vocab,
        "readout_digest": r.digest,
        "tokenizer_digest": r.tokenizer_digest,
        "dtype": str(r.W_U.dtype).removeprefix("torch."),
        "digest": digest(tensors),
        "versions": {
            name: version_of(name)
            for name in ("steerlens", "torch", "transformer-lens", "safetensors")
        },
        "report": None if report is None else report.as_dict(),
    }
    write_bytes(path, to_bytes(tensors, metadata={"steerlens": json.dumps(content)}))
    return path


@torch_defaults()
def load(path: str | Path, model: Model, *, kinds: Sequence[type] = ()) -> Any:
    """Load the intervention of a file that `steerlens.save` wrote, bound to a model.

    A model whose vocabulary grew since (`resize_token_embeddings`) is the same basis, and the value
    means the same on it.

    Args:
        path: the file.
        model: the one it was fitted on.
        kinds: classes of your own that the file may hold; see `steerlens.methods.files.Saved`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is cut short or was changed, or the value lives on another `W_U` than
            the model's (the message says which, and what to do).

    Example:
        >>> import steerlens as sl
        >>> sl.load("joy.safetensors", sl.load_model("toy-64"))                       # doctest: +SKIP
    """
    found = read_value(path, readout(model), kinds)
    if isinstance(found, GistMask):
        check_heeds(model, found)
    return found


def version_of(package: str) -> str:
    """Return the version of an installed package, or that it is not installed.

    A checkout that is only on the path has none, and saving does not depend on it.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return what a file says of its value, its fit's report included; the numbers are not kept.

    Raises:
        ValueError: the file is cut short or holds nothing of ours.
    """
    return _open(as_path(path))[0]


def read_value(path: str | Path, readout: Readout, kinds: Sequence[type] = ()) -> Any:
    """Return the value of a file, bound to a read-out.

    The read-out must be the one it was saved with, or one that grew out of it.

    Args:
        kinds: classes of one's own that the file may hold, beside `known_kinds`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut short, changed after it was written, of a later format, of an unknown kind,
            or for another `W_U`.
    """
    path = as_path(path)
    meta, tensors = _open(path)
    check_digest(path, tensors, meta["digest"])
    known = known_kinds() | _own(kinds)
    if meta["kind"] not in known:
        raise ValueError(
            f"{path}: holds a {meta['kind']!r}, known are {', '.join(known)}; of a class of your own pass kinds=(TheClass,)"
        )
    grown = isinstance(meta.get("d_vocab"), int) and readout.extends(
        meta["readout_digest"], meta["d_vocab"]
    )
    if meta["readout_digest"] != readout.digest and not grown:
        raise ValueError(
            f"{path}: {meta['kind']} {meta['name']!r} was fitted on the W_U of {meta['model_id']!r} (d_model "
            f"{meta['d_model']}, {meta.get('d_vocab')} words, digest {meta['readout_digest'][:8]}), this model is "
            f"{readout.model_id!r} (d_model {readout.d_model}, {readout.d_vocab} words, digest {readout.digest[:8]}). If it is "
            "the same model, load its raw weights (no folding, no centring; rows added to the vocabulary do no harm, rows "
            "taken away or changed do); if it is another, move the steer with steerlens.transfer"
            + _other_dtype(meta, readout)
        )
    try:
        return _unpack(
            {n: t.to(readout.W_U.device) for n, t in tensors.items()}, meta, readout, known
        )
    except KeyError as error:
        raise ValueError(
            f"{path}: its {meta['kind']} lacks {error}; it is not one that steerlens.save wrote"
        ) from None
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: its {meta['kind']} is not one that steerlens.save wrote ({error})"
        ) from None


def _unpack(
    tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout, known: dict[str, Any]
) -> Any:
    """Return a value from its tensors and JSON; the `parts` that it is made of are made first."""
    if about["kind"] not in known:
        raise ValueError(f"part of the kind {about['kind']!r}, which needs kinds=(TheClass,)")
    if "parts" in about:
        parts = []
        for k, part in enumerate(about["parts"]):
            own = {n.removeprefix(f"{k}."): t for n, t in tensors.items() if n.startswith(f"{k}.")}
            parts.append(_unpack(own, part, readout, known))
        about = about | {"parts": parts}
    return known[about["kind"]].unpack(tensors, about, readout)


def _own(kinds: Sequence[type]) -> dict[str, Any]:
    """Return a user's own classes by what they are called in files."""
    if not isinstance(kinds, Sequence) or not all(
        isinstance(getattr(cls, "file_kind", None), str) for cls in kinds
    ):
        raise ValueError(
            f"kinds: got {brief(kinds)}, expected a tuple of classes with `file_kind`, `pack` and `unpack`"
        )
    return {cls.file_kind: cls for cls in kinds}


def _other_dtype(meta: dict[str, Any], readout: Readout) -> str:
    """Return a sentence on the dtype, where that alone may be why a model is another."""
    here = str(readout.W_U.dtype).removeprefix("torch.")
    if meta.get("dtype", here) == here or meta.get("d_vocab") != readout.d_vocab:
        return ""
    differ = f"had the dtype {meta['dtype']}, this one has {here}, and rounding changes W_U too"
    return f". The file's model {differ}: load it with dtype={meta['dtype']!r}"


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors, found = open_tensors(path)
    if isinstance(found.get("format"), int) and found["format"] > FORMAT:
        raise ValueError(
            f"{path}: format {found['format']}, this steerlens reads up to {FORMAT}; update steerlens"
        )
    words = all(isinstance(found.get(key), str) for key in NEEDED - {"format", "d_model"})
    if not found.keys() >= NEEDED or not words or not isinstance(found["format"], int):
        by = "; steerlens.export.load_logit_steer reads it" * (found.get("kind") == "logit steer")
        raise ValueError(f"{path}: a safetensors file, but not one that steerlens.save wrote{by}")
    return found, tensors
