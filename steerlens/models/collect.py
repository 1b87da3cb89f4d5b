"""Run a model once over texts and keep what a fit needs."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.maths.numbers import as_floats, generator
from steerlens.models.adapters import Model
from steerlens.models.hooks import adapter, apply_edits, convention, eval_mode, run_until
from steerlens.models.readout import readout
from steerlens.models.steering import check_lives_on
from steerlens.models.tokenization import Encoded, batch_tokens, batches, encode, pad, with_prefix
from steerlens.values.atomic import write_json, written_whole
from steerlens.values.fit import Fit, value_of
from steerlens.values.intervention import UNEMBED_IN, UNEMBED_OUT, Intervention, Remembered
from steerlens.values.labelled import Labelled
from steerlens.values.positions import TokenIndex, places_of
from steerlens.values.progress import hidden
from steerlens.values.readout import Readout
from steerlens.values.states import LogitEdit, Shard, States
from steerlens.values.texts import as_texts
from steerlens.values.warn import warn_user

SHARD_POSITIONS = 1 << 14
"""Positions per file: 50 MB at d_model 768; a fit from disk holds two of them at most, however many
there are."""


def collect(
    model: Model,
    data: Labelled | Iterable[str],
    *,
    intervention: Intervention | Fit | None = None,
    strength: float | Sequence[float] = 1.0,
    folder: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    memory: float = 2.0,
    end: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> States:
    """Return the final hidden states of a model over texts, each with the token that follows it.

    The unembedding never runs.

    One forward pass over right-padded batches of texts of similar length, the attention mask always
    passed. Padding, begin-of-text and prompts are never predicted. Texts longer than the model's
    context are cut, and counted in the result.

    Args:
        model: of TransformerLens or of Hugging Face; left as it was.
        data: labelled texts, or plain texts (labels 0) where only sums over text are wanted.
        intervention: the states are those of the model under it; the prompt is what is not
            predicted.
        strength: of the intervention, one number or one per text.
        folder: write shards there (safetensors and a JSON index) instead of keeping all in memory.
            After an interrupt the same call goes on where it stopped.
        dtype: of the stored states; float32, or bfloat16 to halve the space (sums are float32 all
            the same).
        memory: most gigabytes to hold in memory; beyond it a folder must be given.
        end: whether the end of a text is predicted too, where the tokenizer has an end-of-text
            token.
        seed: of the order of the texts, so that shards are random samples.
        progress: show a bar.

    Warns:
        UserWarning: the end of the texts costs more than any model that learned it would say.

    Raises:
        ValueError: no texts, an empty text, too many positions for `memory`, a folder that holds
            something else, or an intervention that changes logits, which states do not hold.

    Example:
        >>> import steerlens as sl
        >>> sl.collect(sl.load_model("toy-64"), ["the film was good ."], progress=False).n_positions
        6
    """
    intervention = value_of(intervention)
    given = _given(model, data, intervention, end, seed)
    under = _Under(intervention, _strengths(strength, len(given.labels)))
    if under.logit_edit(given) is not None:
        raise ValueError(
            f"intervention: {intervention!r} changes logits, behind the states that are collected; "
            "steerlens.score, generate and compare know what it does"
        )
    if intervention is not None and folder is not None:
        raise ValueError(
            "folder: states under an intervention are kept in memory only; leave folder= out"
        )
    n = int(given.lengths.sum())
    gigabytes = n * given.readout.d_model * dtype.itemsize / 1e9
    if folder is None and gigabytes > memory:
        raise ValueError(
            f"memory: the states of {len(given.labels)} texts take {gigabytes:.1f} GB, more than memory={memory}; pass folder= "
            "to keep them on disk, dtype=torch.bfloat16 to halve them, or a higher memory="
        )
    with (
        eval_mode(model),
        tqdm(total=n, unit="token", desc="collect", disable=hidden(progress)) as bar,
    ):
        if folder is None:
            shards: tuple[Shard | Path, ...] = (
                _run(model, given.order, given.encoded, under, dtype, bar),
            )
        else:
            parts = _parts(given.order, given.lengths)
            identity = _identity(
                given.readout.digest, given.encoded, str(dtype), seed, SHARD_POSITIONS
            )
            shards = _on_disk(Path(folder), identity, parts, model, given.encoded, dtype, bar)
    states = given.states(shards)
    if end and intervention is None:
        tokenizer = adapter(model).tokenizer
        if said := unlearned_end(states, tokenizer.eos_token_id, str(tokenizer.eos_token)):
            warn_user(said)
    return states


def reader(
    model: Model,
    data: Labelled | Iterable[str],
    intervention: Intervention | Fit | None,
    *,
    end: bool = True,
) -> Callable[[float | Sequence[float]], States]:
    """Return `collect` under one intervention, to be called at one strength after another.

    Texts and read-out are prepared once. What an intervention does behind the unembedding is in
    `States.logits`.

    Example:
        >>> import steerlens as sl
        >>> at = reader(sl.load_model("toy-64"), ["the film was good ."], None)
        >>> at(0.0).n_positions
        6
    """
    intervention = value_of(intervention)
    given = _given(model, data, intervention, end, seed=0)

    def at(strength: float | Sequence[float]) -> States:
        under = _Under(intervention, _strengths(strength, len(given.labels)))
        with eval_mode(model), tqdm(disable=True) as bar:
            shard = _run(model, given.order, given.encoded, under, torch.float32, bar)
            return replace(given.states((shard,)), logit_edit=under.logit_edit(given))

    return at


def collect_whole(
    model: Model, data: Labelled, *, dtype: torch.dtype, end: bool
) -> tuple[States, list[list[int]]]:
    """Return the states of all texts as one shard, and the token ids of each text.

    What `collect` asks of a model's read-out and of ends of texts is the caller's to ask.
    """
    given = _given(model, data, None, end, seed=0)
    under = _Under(None, torch.zeros(len(given.labels)))
    with eval_mode(model), tqdm(disable=True) as bar:
        shard = _run(model, given.order, given.encoded, under, dtype, bar)
    return given.states((shard,)), given.encoded.ids


ENDS, UNLEARNED = 64, 16.0
"""Ends of texts that are looked at, and the mean nats beyond which a model never learned them: one
in nine million, where a blind guess among 50,000 tokens costs 11 and an end in mid-sentence 12."""


@dataclass(frozen=True)
class _Given:
    """Texts as a model will read them."""

    readout: Readout
    encoded: Encoded
    labels: Float[Tensor, " n_texts"]
    lengths: Int[Tensor, " n_texts"]
    order: list[int]

    def states(self, shards: tuple[Shard | Path, ...]) -> States:
        keep = torch.ones(len(self.labels), dtype=torch.bool)
        first: dict[tuple[int, ...], int] = {}
        copies = [first.setdefault(tuple(ids), row) for row, ids in enumerate(self.encoded.ids)]
        copy_of = None if len(first) == len(copies) else torch.tensor(copies)
        return States(
            self.readout, shards, self.labels, self.lengths, keep, self.encoded.n_truncated, copy_of
        )


def _given(
    model: Model,
    data: Labelled | Iterable[str],
    intervention: Intervention | None,
    end: bool,
    seed: int,
) -> _Given:
    data = _labelled(data)
    on = readout(model)
    if intervention is not None:
        check_lives_on(intervention, model)
    prefix = 0 if intervention is None else intervention.prefix
    how = convention(model, on)
    how = how._replace(n_ctx=how.n_ctx - prefix)
    tokenizer = adapter(model).tokenizer
    encoded = encode(tokenizer, list(data.texts), how, end=end, prompts=data.prompts)
    encoded = with_prefix(encoded, prefix, tokenizer)
    lengths = torch.tensor([encoded.predicted(row) for row in range(len(encoded.ids))])
    order = torch.randperm(len(lengths), generator=generator(seed)).tolist()
    order = [row for row in order if lengths[row] > 0]
    if not order:
        raise ValueError("data: no text holds a token to predict")
    return _Given(on, encoded, torch.tensor(data.labels), lengths, order)


class _Under(NamedTuple):
    """The intervention that states are collected under, and its strength for each text."""

    intervention: Intervention | None
    strength: Float[Tensor, " n_texts"]

    def logit_edit(self, given: _Given) -> LogitEdit | None:
        """Return what it does to the logits of positions of these texts, None if nothing.

        Each position is a row of its own, as in cached generation.
        """
        if self.intervention is None:
            return None
        intervention, prompt = self.intervention, torch.tensor(given.encoded.prompt)
        if not any(site == UNEMBED_OUT for site, _ in intervention.edits(self.strength)):
            return None

        def edit(z: Tensor, text: Tensor, c: Tensor) -> Tensor:
            here = TokenIndex(*(t.to(z.device) for t in (prompt[text][:, None], prompt[text])))
            z = z[:, None]
            for site, function in intervention.edits(self.strength[text].to(z.device)):
                if isinstance(function, Remembered):
                    function(c[:, None], here)
                elif site == UNEMBED_OUT:
                    z = function(z, here)
            return z[:, 0]

        return edit


def _strengths(strength: float | Sequence[float], n: int) -> Float[Tensor, " n_texts"]:
    given = as_floats(strength, "strength")
    if len(given) not in (1, n):
        raise ValueError(
            f"strength: got {len(given)} for {n} texts, expected one number, or one per text"
        )
    return torch.tensor(given).expand(n)


def _labelled(data: Labelled | Iterable[str]) -> Labelled:
    if isinstance(data, Labelled):
        return data
    texts = tuple(as_texts(data, "data"))
    return Labelled(texts, (0.0,) * len(texts))


def _parts(order: list[int], lengths: torch.Tensor) -> list[list[int]]:
    """Cut the order into runs of texts with at most SHARD_POSITIONS positions (one text at
    least)."""
    shard = (lengths[order].cumsum(0) - 1) // SHARD_POSITIONS
    return [
        [order[i] for i in (shard == s).nonzero().squeeze(1).tolist()]
        for s in shard.unique().tolist()
    ]


def _run(
    model: Model, rows: list[int], encoded: Encoded, under: _Under, dtype: torch.dtype, bar: tqdm
) -> Shard:
    """Run the model over some texts and return them as one shard."""
    W_U = adapter(model).W_U
    device = W_U.device
    n = sum(map(encoded.predicted, rows))
    # room for all at once: states that come to lie between what the layers leave behind would
    # scatter the memory
    shard = Shard(
        torch.empty(n, W_U.shape[0], dtype=dtype),
        *(torch.empty(n, dtype=torch.int32) for _ in range(2)),
    )
    start = 0
    for batch in batches([len(encoded.ids[row]) for row in rows], batch_tokens(W_U)):
        picked = [rows[i] for i in batch]
        tokens, mask = pad([encoded.ids[row] for row in picked])
        places = places_of(mask, torch.tensor([encoded.prompt[row] for row in picked]))
        edits = (
            ()
            if under.intervention is None
            else under.intervention.edits(under.strength[picked].to(device))
        )
        here = TokenIndex(*(t.to(device) for t in places))
        with apply_edits(model, edits, lambda _, t, here=here: here):
            c = run_until(model, UNEMBED_IN, tokens.to(device), mask.to(device))
        # a position counts where the token after it is real and to be predicted
        real = places.index[:, 1:] >= places.prompt[:, None]
        found = slice(start, start + int(real.sum()))
        shard.hidden[found] = c[:, :-1][real.to(device)].to(device="cpu", dtype=dtype)
        shard.next[found] = tokens[:, 1:][real].int()
        shard.text[found] = torch.tensor(picked, dtype=torch.int32)[:, None].expand_as(real)[real]
        bar.update(found.stop - start)
        start = found.stop
    if not bool(shard.hidden.isfinite().all()):
        row = int(shard.text[~shard.hidden.isfinite().all(1)][0])
        raise ValueError(
            f"model: its states over text {row} hold NaN or infinity (dtype {W_U.dtype}, strength "
            f"{float(under.strength[row]):g}); take a smaller strength, or load the model with dtype='float32'"
        )
    return shard


def unlearned_end(states: States, end: int | None, name: str) -> str | None:
    """Say that a model never learned to end texts so, None where it did: some twenty nats per text
    would then be counted that no steer is about."""
    if end is None:
        return None
    ends = (chunk.hidden[chunk.next == end] for chunk in states.chunks(1 << 12))
    c = next((c[:ENDS] for c in ends if len(c)), None)
    if c is None:
        return None
    on = states.readout
    log_p = torch.log_softmax(on.logits(c.to(on.W_U.device)), 1)[:, end]
    cost, blind = -float(log_p.mean()), math.log(on.n_tokens)
    if cost <= UNLEARNED:
        return None
    return (
        f"the end-of-text token {name!r} costs {cost:.0f} nats per text, where a blind guess among "
        f"{on.n_tokens:,} tokens costs {blind:.0f}: this model never learned to end texts so, and what is measured per "
        "token is mostly that; pass end=False to leave it out"
    )


def _on_disk(
    folder: Path,
    identity: str,
    parts: list[list[int]],
    model: Model,
    encoded: Encoded,
    dtype: torch.dtype,
    bar: tqdm,
) -> tuple[Path, ...]:
    """Write shards as files; those that an earlier, interrupted call finished are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "index.json"
    if index.exists():
        found = json.loads(index.read_text(encoding="utf-8")).get("identity")
        if found != identity:
            raise ValueError(
                f"folder: {folder} holds the states of another model, text, dtype or seed; choose another folder or delete it"
            )
    elif any(not path.name.startswith(".index.json.") for path in folder.iterdir()):
        raise ValueError(
            f"folder: {folder} is not empty and holds no states (no index.json); choose another folder"
        )
    write_json(
        index, {"format": 1, "identity": identity, "shards": len(parts), "dtype": str(dtype)}
    )
    paths = []
    for number, part in enumerate(parts):
        path = folder / f"states-{number:05d}.safetensors"
        if path.exists():
            bar.update(sum(map(encoded.predicted, part)))
        else:
            shard = _run(
                model, part, encoded, _Under(None, torch.zeros(len(encoded.ids))), dtype, bar
            )
            # a file under its final name is whole
            with written_whole(path) as aside:
                save_file(shard._asdict(), aside)
        paths.append(path)
    return tuple(paths)


def _identity(digest: str, encoded: Encoded, *settings: object) -> str:
    seen = hashlib.blake2b(repr((digest, settings)).encode(), digest_size=16)
    if any(n != 1 for n in encoded.prompt):
        seen.update(repr(encoded.prompt).encode())
    for sequence in encoded.ids:
        seen.update(torch.tensor(sequence, dtype=torch.int32).numpy().data)
        seen.update(b"|")
    return seen.hexdigest()
