"""Write states to a folder: the read-out, a file per part of the texts, and the index."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from steerlens.values.atomic import write_json, written_whole
from steerlens.values.parts import Part
from steerlens.values.state_folder import (
    FORMAT,
    INDEX,
    PARTS,
    READOUT,
    Origin,
    Settings,
    digest_of,
    identity_of,
    part_path,
    read_index,
    read_part,
)
from steerlens.values.states import Shard, States


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
        "readout": states.readout.digest, "n_truncated": states.n_truncated, "digest": digest_of(tensors),
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
    about, _ = read_part(path)
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
    about = {
        "format": FORMAT, "parts": len(digests), "texts": n_texts, "identity": identity_of(digests)
    }  # fmt: skip
    known = read_index(folder)
    if not known:
        write_json(folder / INDEX, about)
    elif known != about:
        raise ValueError(
            f"folder: {folder} is the finished folder of other texts; choose another folder or delete it"
        )
