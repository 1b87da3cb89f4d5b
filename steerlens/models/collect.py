"""Run a model once over texts and keep what a fit needs."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from steerlens.maths.brief import brief
from steerlens.maths.numbers import as_number
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.adapters import Model
from steerlens.models.collect_folder import collect_folder
from steerlens.models.collect_shard import Under, collect_shard, strengths_of
from steerlens.models.dtypes import as_dtype
from steerlens.models.hooks import adapter, eval_mode
from steerlens.models.prepared_texts import prepare_texts
from steerlens.values.fit import Fit, value_of
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled
from steerlens.values.paths import as_folder
from steerlens.values.progress import hidden
from steerlens.values.states import Shard, States
from steerlens.values.warn import warn_user

READ, FEW, WORSE = 512, 64, 2.0
"""Positions that are looked at, how many are too few to tell, and by how many nats the model may
say their tokens worse than a blind guess: what it has learned is never so sure of other tokens."""
ENDS, UNLEARNED = 64, 16.0
"""Ends of texts that are looked at, and the mean nats beyond which a model never learned them: one
in nine million, where a blind guess among 50,000 tokens costs 11 and an end in mid-sentence 12."""


SHARD_POSITIONS = 1 << 14
"""Positions per file: 50 MB at d_model 768; a fit from disk holds two of them at most, however many
there are."""


@torch_defaults()
def collect(
    model: Model,
    data: Labelled | Iterable[str],
    *,
    intervention: Intervention | Fit | None = None,
    strength: float | Sequence[float] = 1.0,
    folder: str | Path | None = None,
    dtype: str | torch.dtype = torch.float32,
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
        dtype: of the stored states, or its name: "float32", or "bfloat16" to halve the space (sums
            are float32 all the same). "float16" too, where the states are below 65,504.
        memory: most gigabytes to hold in memory; beyond it a folder must be given.
        end: whether the end of a text is predicted too, where the tokenizer has an end-of-text
            token.
        seed: of the order of the texts, so that shards are random samples.
        progress: show a bar.

    Warns:
        UserWarning: the model reads the texts worse than a blind guess; the end of the texts costs
            more than any model that learned it would say.

    Raises:
        ValueError: no texts, an empty text, another dtype, too many positions for `memory`, a
            folder that holds something else, or an intervention that changes logits, which states
            do not hold.

    Example:
        >>> import steerlens as sl
        >>> sl.collect(sl.load_model("toy-64"), ["the film was good ."], progress=False).n_positions
        6
    """
    intervention, kind = value_of(intervention), as_dtype(dtype)
    expected = "a finite number of gigabytes, at least 0"
    if as_number(memory, "memory", expected) < 0:
        raise ValueError(f"memory: got {brief(memory)}, expected {expected}")
    given = prepare_texts(model, data, intervention, end, seed)
    under = Under(intervention, strengths_of(strength, len(given.labels)))
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
    gigabytes = n * given.readout.d_model * kind.itemsize / 1e9
    if folder is None and gigabytes > memory:
        raise ValueError(
            f"memory: the states of {len(given.labels)} texts take {gigabytes:.1f} GB, more than memory={memory}; pass folder= "
            "to keep them on disk, dtype='bfloat16' to halve them, or a higher memory="
        )
    with (
        eval_mode(model),
        tqdm(total=n, unit="token", desc="collect", disable=hidden(progress)) as bar,
    ):
        if folder is None:
            shards: tuple[Shard | Path, ...] = (
                collect_shard(model, given.order, given.encoded, under, kind, bar),
            )
        else:
            where = as_folder(folder, "folder")
            shards = collect_folder(where, model, given, kind, seed, SHARD_POSITIONS, bar)
    states = given.states(shards)
    if intervention is None and (said := unread_texts(states)):
        warn_user(said)
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
    apart: bool = True,
) -> Callable[[float | Sequence[float]], States]:
    """Return `collect` under one intervention, to be called at one strength after another.

    Texts and read-out are prepared once. What an intervention does behind the unembedding is in
    `States.logits`. Texts that were written behind their prompts go on where these end,
    `apart=False`; no space is put between.

    Example:
        >>> import steerlens as sl
        >>> at = reader(sl.load_model("toy-64"), ["the film was good ."], None)
        >>> at(0.0).n_positions
        6
    """
    intervention = value_of(intervention)
    given = prepare_texts(model, data, intervention, end, seed=0, apart=apart)

    def at(strength: float | Sequence[float]) -> States:
        under = Under(intervention, strengths_of(strength, len(given.labels)))
        with eval_mode(model), tqdm(disable=True) as bar:
            shard = collect_shard(model, given.order, given.encoded, under, torch.float32, bar)
            return replace(given.states((shard,)), logit_edit=under.logit_edit(given))

    return at


def collect_whole(
    model: Model, data: Labelled, *, dtype: torch.dtype, end: bool
) -> tuple[States, list[list[int]]]:
    """Return the states of all texts as one shard, and the token ids of each text.

    What `collect` asks of a model's read-out and of ends of texts is the caller's to ask.
    """
    given = prepare_texts(model, data, None, end, seed=0)
    under = Under(None, torch.zeros(len(given.labels)))
    with eval_mode(model), tqdm(disable=True) as bar:
        shard = collect_shard(model, given.order, given.encoded, under, dtype, bar)
    return given.states((shard,)), given.encoded.ids


def unread_texts(states: States) -> str | None:
    """Say that the model reads these texts worse than not at all, None where it does not: such
    numbers are about no text."""
    on, first = states.readout, next(states.chunks(READ))
    if len(first.next) < FEW:
        return None
    log_p = torch.log_softmax(on.logits(first.hidden.to(on.W_U.device)), 1)
    cost = -float(log_p.gather(1, first.next.to(log_p.device)[:, None]).mean())
    blind = math.log(on.n_tokens)
    if cost <= blind + WORSE:
        return None
    return (
        f"the tokens of these texts cost {cost:.1f} nats each, where a blind guess among {on.n_tokens:,} costs "
        f"{blind:.1f}: {on.model_id!r} is not trained, or this is not its tokenizer; "
        "steerlens.models.HuggingFace(model, tokenizer) pairs it with its own"
    )


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
