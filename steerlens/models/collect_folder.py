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
from steerlens.models.collect_shard import Under, collect_shard
from steerlens.models.prepared_texts import PreparedTexts
from steerlens.values.atomic import write_json, written_whole
from steerlens.values.state_folder import INDEX, READOUT


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
    paths = []
    for number, part in enumerate(parts):
        path = folder / f"states-{number:05d}.safetensors"
        if path.exists():
            bar.update(sum(map(encoded.predicted, part)))
        else:
            shard = collect_shard(model, part, encoded, under, dtype, bar)
            # a file under its final name is whole
            with written_whole(path) as aside:
                save_file(shard._asdict(), aside)
        paths.append(path)
    return tuple(paths)


def _open(folder: Path, identity: str, n_shards: int, dtype: str) -> None:
    """Make the folder and its index, or see that both are of the same call."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / READOUT).exists():
        raise ValueError(
            f"folder: {folder} holds the states of steerlens.models.collect_parts; steerlens.models.read_states returns them. "
            "Choose another folder"
        )
    index = folder / INDEX
    if index.exists():
        found = json.loads(index.read_text(encoding="utf-8")).get("identity")
        if found != identity:
            raise ValueError(
                f"folder: {folder} holds the states of another model, text, dtype or seed; choose another folder or delete it"
            )
    elif any(not path.name.startswith(f".{INDEX}.") for path in folder.iterdir()):
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
