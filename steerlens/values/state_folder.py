"""States on disk: a folder with a read-out, a file for each part of the texts, and an index."""

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from steerlens.values.atomic import write_json, written_whole
from steerlens.values.parts import Part
from steerlens.values.readout import Readout
from steerlens.values.states import Shard, States, StoredShard
from steerlens.values.tensor_file import as_path, open_tensors
from steerlens.values.warn import warn_user

FORMAT = 1
READOUT, INDEX, PARTS = "readout.safetensors", "index.json", "part-*.safetensors"
UNEVEN = 0.1
"""Share of the variance of labels between parts beyond which they are no random samples."""


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
    folder = as_path(folder, "folder")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder: {folder} is a file, expected a folder, which may be new")
    folder.mkdir(parents=True, exist_ok=True)
    other = [
        path.name
        for path in folder.iterdir()
        if not (path.match(PARTS) or path.name in (READOUT, INDEX))
        and not path.name.startswith((".part-", f".{READOUT}.", f".{INDEX}."))
    ]
    if other:
        raise ValueError(
            f"folder: {folder} holds something else than parts of states ({min(other)!r}); choose another folder"
        )
    return folder


def part_path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}.safetensors"


# ---- written by workers ----


def write_origin(folder: Path, origin: Origin) -> None:
    """Write the read-out and the settings; of several workers that do so the last wins."""
    on = origin.readout
    # as it lies in memory, so that products with it are the same to the bit
    turned = not on.W_U.is_contiguous() and on.W_U.T.is_contiguous()
    tensors = {
        "W_U.T" if turned else "W_U": (on.W_U.T if turned else on.W_U.contiguous()),
        "b_U": on.b_U.contiguous(),
        "probe": origin.probe.contiguous(),
    }
    about = {
        "format": FORMAT, "kind": "readout of states", "digest": on.digest, **origin.settings._asdict(),
        "tokens": on.tokens, "special": sorted(on.special), "scale": on.scale, "softcap": on.softcap,
        "model_id": on.model_id,
    }  # fmt: skip
    _save(folder / READOUT, {name: t.detach().cpu() for name, t in tensors.items()}, about)


def write_part(
    folder: Path, part: Part, states: States, ids: Sequence[Sequence[int]], settings: Settings
) -> None:
    """Write the states of one part, whole.

    Args:
        folder: of the states.
        part: the texts, as they stand among all.
        states: of these texts, in memory.
        ids: the tokens of each text, by which copies are told.
        settings: of the folder.
    """
    (shard,) = states.shards
    assert isinstance(shard, Shard)
    rows = torch.tensor(part.rows)
    tensors = {
        **shard._replace(text=rows[shard.text.long()])._asdict(),
        "rows": rows,
        "labels": states.labels.contiguous(),
        "lengths": states.lengths,
        "names": torch.tensor([_name(row) for row in ids]),
    }
    about = {
        "format": FORMAT, "kind": "part of states", "texts": part.digest, **settings._asdict(),
        "readout": states.readout.digest, "n_truncated": states.n_truncated,
    }  # fmt: skip
    _save(part_path(folder, part.number), tensors, about)


def _name(ids: Sequence[int]) -> tuple[int, int]:
    """Return 128 bits that name a text's tokens."""
    whole = hashlib.blake2b(np.asarray(ids, dtype=np.int64).data, digest_size=16).digest()
    return tuple(np.frombuffer(whole, dtype=np.int64).tolist())


def _save(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    with written_whole(path) as aside:
        save_file(tensors, aside, metadata={"steerlens": json.dumps(about, allow_nan=False)})


def finished(folder: Path, part: Part, settings: Settings) -> bool:
    """Return whether a part has its file.

    Raises:
        ValueError: the file is of other texts, labels or settings.
    """
    path = part_path(folder, part.number)
    if not path.exists():
        return False
    about = _about(path)
    if (about.get("texts"), about.get("dtype"), about.get("end")) != (part.digest, *settings):
        raise ValueError(
            f"folder: {path} holds the states of other texts, labels or prompts, or of another dtype, end or part_bytes; "
            "choose another folder or delete this one"
        )
    return True


def write_index(folder: Path, digests: Sequence[str], n_texts: int) -> None:
    """Write the index if all parts are there.

    Raises:
        ValueError: the folder has more parts than that, or the index of other ones.
    """
    paths = sorted(folder.glob(PARTS))
    if len(paths) > len(digests):
        raise ValueError(
            f"folder: {folder} holds {len(paths)} parts of an earlier run, and these texts make {len(digests)}; choose "
            "another folder or delete it"
        )
    if len(paths) < len(digests):
        return
    identity = hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest()
    about = {"format": FORMAT, "parts": len(digests), "texts": n_texts, "identity": identity}
    known = _index(folder)
    if not known:
        write_json(folder / INDEX, about)
    elif known != about:
        raise ValueError(
            f"folder: {folder} is the finished folder of other texts; choose another folder or delete it"
        )


# ---- read where no model is ----


def read_origin(folder: Path) -> Origin:
    """Return the read-out that states in a folder live on.

    Raises:
        ValueError: no such file, cut short or changed.
    """
    path = folder / READOUT
    if not path.exists():
        raise ValueError(f"folder: {folder} holds no states yet (no {READOUT})")
    tensors, about = open_tensors(path)
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{path}: format {about.get('format')}, this steerlens reads {FORMAT}; collect again, or update steerlens"
        )
    W_U = tensors["W_U"] if "W_U" in tensors else tensors["W_U.T"].T
    on = Readout(
        W_U, tensors["b_U"], tuple(about["tokens"]), frozenset(about["special"]), about["scale"], about["softcap"],
        about["model_id"],
    )  # fmt: skip
    if on.digest != about["digest"]:
        raise ValueError(f"{path}: was changed after it was written; delete the folder")
    return Origin(on, Settings(about["dtype"], about["end"]), tensors["probe"])


def read_states(*folders: str | Path, unfinished: bool = False) -> States:
    """Return the states in one or several folders that `collect_parts` filled; no model is needed.

    Texts have the order in which they were given, folder after folder, so that `relabel` takes
    labels in that order. Hidden states stay on disk until they are used.

    Args:
        folders: states of one model, collected with the same `end`.
        unfinished: take the parts that are there, also where others are missing; the texts of those
            do not count.

    Warns:
        UserWarning: labels differ between parts far more than in random samples, so that the fit,
            which reads part by part, would not see the texts in random order.

    Raises:
        ValueError: no states, parts missing, folders of different models.

    Example:
        >>> import steerlens as sl
        >>> data = sl.toy.corpus("tone", n=40, seed=0)
        >>> _ = sl.models.collect_parts(lambda: sl.load_model("toy-64"), data, "states")
        >>> sl.models.read_states("states").n_texts
        40
    """
    if not folders:
        raise ValueError("folders: got none, expected the folder that collect_parts filled")
    paths = [as_path(folder, "folders") for folder in folders]
    for folder in paths:
        here, known = len(list(folder.glob(PARTS))), _index(folder).get("parts")
        if not unfinished and here and here != known:
            raise ValueError(
                f"folder: {folder} holds {here} parts of {known or 'a number that is not known yet'}; run collect_parts "
                "again to go on, or pass unfinished=True to take what is there"
            )
    return states_of(paths)


def states_of(
    folders: Sequence[Path],
    wanted: Collection[int] | None = None,
    n_texts: int | None = None,
) -> States:
    """Return the states of those parts of some folders whose numbers are wanted.

    Args:
        folders: of one model.
        wanted: numbers of parts; None: all.
        n_texts: how many texts there are in all, where an index may not say so yet.
    """
    origin, *others = map(read_origin, folders)
    for folder, other in zip(folders[1:], others, strict=True):
        same = other.readout.digest == origin.readout.digest
        if not same or other.settings.end != origin.settings.end:
            raise ValueError(
                f"folders: the states in {folder} are of another model than those in {folders[0]}, or of another end; "
                "states of one model add"
            )
    parts: list[_Read] = []
    first = 0
    for folder in folders:
        here = _read_parts(folder, wanted)
        parts += [
            part._replace(shard=part.shard._replace(first=first), rows=part.rows + first)
            for part in here
        ]
        known = n_texts or _index(folder).get("texts")
        first += known or 1 + max(int(part.rows.max()) for part in here)
    labels, lengths = torch.zeros(first), torch.zeros(first, dtype=torch.long)
    keep, names = torch.zeros(first, dtype=torch.bool), torch.zeros(first, 2, dtype=torch.long)
    for part in parts:
        labels[part.rows], lengths[part.rows] = part.labels, part.lengths
        names[part.rows], keep[part.rows] = part.names, True
    _check_random([part.labels for part in parts])
    cut = sum(part.n_truncated for part in parts)
    shards = tuple(part.shard for part in parts)
    return States(origin.readout, shards, labels, lengths, keep, cut, _copies(names, keep))


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


class _Read(NamedTuple):
    """What is read of a part at once; its states are not."""

    shard: StoredShard
    rows: Int[Tensor, " n"]
    labels: Float[Tensor, " n"]
    lengths: Int[Tensor, " n"]
    names: Int[Tensor, "n 2"]
    n_truncated: int


def _read_parts(folder: Path, wanted: Collection[int] | None) -> list[_Read]:
    numbered = ((int(path.stem.split("-")[1]), path) for path in sorted(folder.glob(PARTS)))
    found = [_read_part(path) for number, path in numbered if wanted is None or number in wanted]
    if not found:
        raise ValueError(f"folder: {folder} holds no part that is wanted")
    return found


def _read_part(path: Path) -> _Read:
    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("steerlens", "{}"))
            rows, labels, lengths, names = map(
                file.get_tensor, ("rows", "labels", "lengths", "names")
            )
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a whole part ({error}); delete it and go on") from None
    return _Read(StoredShard(path), rows, labels, lengths, names, about["n_truncated"])


def _about(path: Path) -> dict[str, Any]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return json.loads((file.metadata() or {}).get("steerlens", "{}"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a whole part ({error}); delete it and go on") from None


def _copies(names: Int[Tensor, "n 2"], keep: Tensor) -> Int[Tensor, " n"] | None:
    """Return of each text the first with the same tokens; None where no text is there twice."""
    rows = keep.nonzero().squeeze(1)
    _, first, which = np.unique(names[rows].numpy(), axis=0, return_index=True, return_inverse=True)
    if len(first) == len(rows):
        return None
    copy_of = torch.arange(len(names))
    copy_of[rows] = rows[torch.from_numpy(first[which.reshape(-1)])]
    return copy_of


def _check_random(labels: Sequence[Tensor]) -> None:
    """Warn where labels lie apart by parts: beyond what chance gives, a tenth of their variance."""
    every = torch.cat(list(labels)).double()
    total = float((every - every.mean()).square().sum())
    if len(labels) < 2 or total == 0:
        return
    between = sum(len(y) * float(y.double().mean() - every.mean()) ** 2 for y in labels)
    if between / total - (len(labels) - 1) / (len(every) - 1) > UNEVEN:
        warn_user(
            f"parts: {between / total:.0%} of the variance of the labels lies between parts, so they are no random samples "
            "and a fit would read the texts in an order that follows their labels; shuffle the rows before collecting"
        )
