"""Read states from folders, where no model is."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.torch_defaults import torch_defaults
from steerlens.values.paths import as_folder
from steerlens.values.readout import Readout
from steerlens.values.state_folder import (
    FORMAT,
    PARTS,
    READOUT,
    Origin,
    Settings,
    check_not_of_collect,
    check_unchanged,
    identity_of,
    read_index,
    read_part,
)
from steerlens.values.states import States, StoredShard
from steerlens.values.tensor_file import map_tensors
from steerlens.values.warn import warn_user

UNEVEN = 0.1
"""Share of the variance of labels between parts beyond which they are no random samples."""


def read_origin(folder: Path) -> Origin:
    """Return the read-out that states in a folder live on.

    Raises:
        ValueError: no such file, cut short or changed; a folder of `collect(folder=)`.
    """
    path = folder / READOUT
    check_not_of_collect(folder)
    if not path.exists():
        raise ValueError(f"folder: {folder} holds no states yet (no {READOUT})")
    tensors, about = map_tensors(path)
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


@torch_defaults()
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
        ValueError: no states, parts missing, folders of different models, a folder twice.

    Example:
        >>> import steerlens as sl
        >>> data = sl.toy.corpus("tone", n=40, seed=0)
        >>> _ = sl.models.collect_parts(lambda: sl.load_model("toy-64"), data, "states")
        >>> sl.models.read_states("states").n_texts
        40
    """
    if not folders:
        raise ValueError("folders: got none, expected the folder that collect_parts filled")
    paths = [as_folder(folder, "folders") for folder in folders]
    twice = [folder for folder, n in Counter(path.resolve() for path in paths).items() if n > 1]
    if twice:
        raise ValueError(f"folders: {twice[0]} is there twice, so its texts would count twice")
    for folder in paths:
        here, known = len(list(folder.glob(PARTS))), read_index(folder).get("parts")
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
        _check_parts(folder, here, origin.readout.digest, whole=wanted is None)
        parts += [
            part._replace(shard=part.shard._replace(first=first), rows=part.rows + first)
            for part in here
        ]
        known = n_texts or read_index(folder).get("texts")
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


class _Read(NamedTuple):
    """What is read of a part at once; its states are not."""

    shard: StoredShard
    rows: Int[Tensor, " n"]
    labels: Float[Tensor, " n"]
    lengths: Int[Tensor, " n"]
    names: Int[Tensor, "n 2"]
    n_truncated: int
    texts: str
    """The digest of its texts and labels."""
    readout: str


def _read_parts(folder: Path, wanted: Collection[int] | None) -> list[_Read]:
    numbered = ((int(path.stem.split("-")[1]), path) for path in sorted(folder.glob(PARTS)))
    found = [_read_part(path) for number, path in numbered if wanted is None or number in wanted]
    if not found:
        raise ValueError(f"folder: {folder} holds no part that is wanted")
    return found


def _read_part(path: Path) -> _Read:
    check_unchanged(path)
    about, (rows, labels, lengths, names) = read_part(path, "rows", "labels", "lengths", "names")
    of = about.get("texts", ""), about.get("readout", "")
    return _Read(StoredShard(path), rows, labels, lengths, names, about["n_truncated"], *of)


def _check_parts(folder: Path, parts: Sequence[_Read], digest: str, *, whole: bool) -> None:
    """Raise where a part is not one of this folder: a copy of another's, or of another folder's."""
    index, rows = read_index(folder), torch.cat([part.rows for part in parts])
    foreign = any(part.readout != digest for part in parts) or len(rows.unique()) < len(rows)
    if whole and len(parts) == index.get("parts"):
        foreign |= identity_of([part.texts for part in parts]) != index.get("identity")
    if foreign:
        raise ValueError(
            f"folder: {folder} holds parts that are not its own (copied there, or changed); delete it and collect again"
        )


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
