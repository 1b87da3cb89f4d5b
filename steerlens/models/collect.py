"""Run a model once over texts and keep what a fit needs."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm.auto import tqdm

from steerlens.models.sites import Model, convention, evaluating, readout, run_to
from steerlens.models.tokens import batches, encode, pad
from steerlens.values.files import write_json
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.labelled import Labelled
from steerlens.values.states import Shard, States

BATCH_TOKENS = 8192
SHARD_POSITIONS = 1 << 18


def collect(
    model: Model,
    data: Labelled | Sequence[str],
    *,
    folder: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    memory: float = 2.0,
    end: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> States:
    """The final hidden states of a model over texts, each with the token that follows it; the unembedding never runs.

    One forward pass over right-padded batches of texts of similar length, the attention mask always passed. Padding and
    begin-of-text are never predicted. Texts longer than the model's context are cut, and counted in the result.

    Args:
        model: a TransformerLens model; left as it was.
        data: labelled texts, or plain texts (labels 0) where only sums over text are wanted.
        folder: write shards there (safetensors and a JSON index) instead of keeping all in memory. After an interrupt
            the same call goes on where it stopped.
        dtype: of the stored states; float32, or bfloat16 to halve the space (sums are float32 all the same).
        memory: most gigabytes to hold in memory; beyond it a folder must be given.
        end: whether the end of a text is predicted too, where the tokenizer has an end-of-text token.
        seed: of the order of the texts, so that shards are random samples.
        progress: show a bar.

    Raises:
        ValueError: no texts, an empty text, too many positions for `memory`, or a folder that holds something else.

    Example:
        >>> import steerlens as sl
        >>> sl.collect(sl.load_model("toy-64"), ["the film was good ."], progress=False).n_positions
        6
    """
    texts, labels = _texts_and_labels(data)
    on = readout(model)
    encoded = encode(model.tokenizer, texts, convention(model, on), end=end)
    lengths = torch.tensor([max(len(ids) - 1, 0) for ids in encoded.ids])
    gigabytes = int(lengths.sum()) * on.d_model * dtype.itemsize / 1e9
    if folder is None and gigabytes > memory:
        raise ValueError(
            f"memory: the states of {len(texts)} texts take {gigabytes:.1f} GB, more than memory={memory}; pass folder= to keep "
            "them on disk, dtype=torch.bfloat16 to halve them, or a higher memory="
        )
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    order = [row for row in order if lengths[row] > 0]
    if not order:
        raise ValueError("data: no text holds a token to predict")
    parts = [order] if folder is None else _parts(order, lengths)
    bar = tqdm(total=int(lengths.sum()), unit="token", desc="collect", disable=not progress)
    with evaluating(model), bar:
        made = (_run(model, part, encoded.ids, dtype, bar) for part in parts)
        if folder is None:
            shards: tuple[Shard | Path, ...] = tuple(made)
        else:
            identity = _identity(on.digest, encoded.ids, str(dtype), seed, SHARD_POSITIONS)
            shards = _on_disk(Path(folder), identity, parts, model, encoded.ids, dtype, bar)
    keep = torch.ones(len(texts), dtype=torch.bool)
    return States(on, shards, torch.tensor(labels), lengths, keep, encoded.n_truncated)


def _texts_and_labels(data: Labelled | Sequence[str]) -> tuple[list[str], list[float]]:
    if isinstance(data, str):
        raise ValueError("data: got one string, expected labelled texts or a list of texts; wrap it in a list")
    checked = data if isinstance(data, Labelled) else Labelled(tuple(data), (0.0,) * len(data))
    return list(checked.texts), list(checked.labels)


def _parts(order: list[int], lengths: torch.Tensor) -> list[list[int]]:
    """The order cut into runs of texts with at most SHARD_POSITIONS positions (one text at least)."""
    shard = (lengths[order].cumsum(0) - 1) // SHARD_POSITIONS
    return [[order[i] for i in (shard == s).nonzero().squeeze(1).tolist()] for s in shard.unique().tolist()]


def _run(model: Model, rows: list[int], ids: list[list[int]], dtype: torch.dtype, bar: tqdm) -> Shard:
    """One shard: the model over some texts."""
    hidden, following, text = [], [], []
    for batch in batches([len(ids[row]) for row in rows], BATCH_TOKENS):
        picked = [rows[i] for i in batch]
        tokens, mask = pad([ids[row] for row in picked])
        device = model.W_U.device
        c = run_to(model, UNEMBED_IN, tokens.to(device), mask.to(device))
        real = mask[:, 1:].bool()  # a position counts where the token after it is real
        hidden.append(c[:, :-1][real.to(device)].to(device="cpu", dtype=dtype))
        following.append(tokens[:, 1:][real].int())
        text.append(torch.tensor(picked, dtype=torch.int32)[:, None].expand_as(real)[real])
        bar.update(int(real.sum()))
    return Shard(torch.cat(hidden), torch.cat(following), torch.cat(text))


def _on_disk(
    folder: Path,
    identity: str,
    parts: list[list[int]],
    model: Model,
    ids: list[list[int]],
    dtype: torch.dtype,
    bar: tqdm,
) -> tuple[Path, ...]:
    """Shards as files; those that an earlier, interrupted call finished are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "index.json"
    if index.exists():
        found = json.loads(index.read_text(encoding="utf-8")).get("identity")
        if found != identity:
            raise ValueError(
                f"folder: {folder} holds the states of another model, text, dtype or seed; choose another folder or delete it"
            )
    elif any(folder.iterdir()):
        raise ValueError(f"folder: {folder} is not empty and holds no states (no index.json); choose another folder")
    write_json(index, {"format": 1, "identity": identity, "shards": len(parts), "dtype": str(dtype)})
    paths = []
    for number, part in enumerate(parts):
        path = folder / f"states-{number:05d}.safetensors"
        if path.exists():
            bar.update(sum(len(ids[row]) - 1 for row in part))
        else:
            shard = _run(model, part, ids, dtype, bar)
            # a file under its final name is whole: written aside, then renamed
            save_file(shard._asdict(), path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
        paths.append(path)
    return tuple(paths)


def _identity(digest: str, ids: list[list[int]], *settings: object) -> str:
    seen = hashlib.blake2b(repr((digest, settings)).encode(), digest_size=16)
    for sequence in ids:
        seen.update(torch.tensor(sequence, dtype=torch.int32).numpy().data)
        seen.update(b"|")
    return seen.hexdigest()
