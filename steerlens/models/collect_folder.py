"""Collect states into a folder, and go on from what an earlier call left there.

The folder names the whole call, by a digest, where one of `collect_parts` names each part's texts:
here a model is at hand and texts are cut by positions, there neither tokenizer nor whole is known.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm.auto import tqdm

from steerlens.models.adapters import Model
from steerlens.models.collect_same import off_by, rounding
from steerlens.models.collect_shard import Under, collect_shard
from steerlens.models.prepared_texts import PreparedTexts
from steerlens.values.atomic import write_json, written_whole
from steerlens.values.state_folder import (
    INDEX,
    READOUT,
    check_unchanged,
    digest_of,
    read_index,
    read_part,
)

PROBED = 4
"""Texts of a file that are read again, to see that its states are of the model at hand."""


def collect_folder(
    folder: Path,
    model: Model,
    given: PreparedTexts,
    dtype: torch.dtype,
    seed: int,
    positions: int,
    bar: tqdm,
) -> tuple[Path, ...]:
    """Write shards as files; those that an earlier, interrupted call finished are kept.

    Args:
        folder: may be new.
        model: in evaluation mode.
        given: the texts.
        dtype: of the stored states.
        seed: by which the texts were put in order.
        positions: per file, at most, but for a text that is longer.
        bar: is told how many positions are done.

    Raises:
        ValueError: the folder holds something else, or states of another model, text or setting.
    """
    parts = _parts(given.order, given.lengths, positions)
    _open(folder, _identity(given, str(dtype), seed, positions), len(parts), str(dtype))
    encoded = given.encoded
    under = Under(None, torch.zeros(len(encoded.ids)))
    paths = [folder / f"states-{number:05d}.safetensors" for number in range(len(parts))]
    there = [(path, part) for path, part in zip(paths, parts, strict=True) if path.exists()]
    for path, _ in there:
        check_unchanged(path)
    for path, part in there[:: max(len(there) - 1, 1)]:  # the first and the last
        _check_model(path, part[:PROBED], model, given, dtype)
    for path, part in zip(paths, parts, strict=True):
        if path.exists():
            bar.update(sum(map(encoded.predicted, part)))
        else:
            shard = collect_shard(model, part, encoded, under, dtype, bar)
            # a file under its final name is whole
            about = json.dumps({"digest": digest_of(shard._asdict())})
            with written_whole(path) as aside:
                save_file(shard._asdict(), aside, metadata={"steerlens": about})
    return tuple(paths)


def _check_model(
    path: Path, rows: list[int], model: Model, given: PreparedTexts, dtype: torch.dtype
) -> None:
    """Raise where the states of some texts in a file are not those of the model: its layers may be
    others under the same read-out.

    Raises:
        ValueError: they are not; no whole file.
    """
    _, (hidden, text) = read_part(path, "hidden", "text")
    kept = torch.isin(text, torch.tensor(rows, dtype=text.dtype))
    under = Under(None, torch.zeros(len(given.encoded.ids)))
    with tqdm(disable=True) as bar:
        now = collect_shard(model, rows, given.encoded, under, dtype, bar)
    known, found = (
        c[torch.argsort(of, stable=True)].float()
        for c, of in ((hidden[kept], text[kept]), (now.hidden, now.text))
    )
    error = off_by(found, known) if known.shape == found.shape else float("inf")
    if not error <= rounding(given.readout.W_U.dtype, dtype):
        raise ValueError(
            f"folder: {path.parent} holds the states of another model with the same W_U: those of {path.name} differ by "
            f"{error:.2g} of their size from what {given.readout.model_id!r} gives; choose another folder or delete it"
        )


def _open(folder: Path, identity: str, n_shards: int, dtype: str) -> None:
    """Make the folder and its index, or see that both are of the same call."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder: {folder} is a file, expected a folder, which may be new")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / READOUT).exists():
        raise ValueError(
            f"folder: {folder} holds the states of steerlens.models.collect_parts; steerlens.models.read_states returns them. "
            "Choose another folder"
        )
    index = folder / INDEX
    # looked at before the index, which another job on this folder writes first
    filled = any(not path.name.startswith(f".{INDEX}.") for path in folder.iterdir())
    if index.exists():
        if read_index(folder).get("identity") != identity:
            raise ValueError(
                f"folder: {folder} holds the states of another model, text, dtype or seed; choose another folder or delete it"
            )
    elif filled:
        raise ValueError(
            f"folder: {folder} is not empty and holds no states (no {INDEX}); choose another folder"
        )
    write_json(index, {"format": 1, "identity": identity, "shards": n_shards, "dtype": dtype})


def _parts(order: list[int], lengths: torch.Tensor, positions: int) -> list[list[int]]:
    """Cut the order into runs of texts with at most so many positions (one text at least)."""
    shard = (lengths[order].cumsum(0) - 1) // positions
    return [
        [order[i] for i in (shard == s).nonzero().squeeze(1).tolist()]
        for s in shard.unique().tolist()
    ]


def _identity(given: PreparedTexts, *settings: object) -> str:
    digest, encoded = given.readout.digest, given.encoded
    seen = hashlib.blake2b(repr((digest, settings)).encode(), digest_size=16)
    if any(n != 1 for n in encoded.prompt):
        seen.update(repr(encoded.prompt).encode())
    for sequence in encoded.ids:
        seen.update(torch.tensor(sequence, dtype=torch.int32).numpy().data)
        seen.update(b"|")
    return seen.hexdigest()
