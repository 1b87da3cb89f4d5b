"""Write and score with the logits of several models, or of one behind several texts: what the
rivals that need them share."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.brief import brief
from steerlens.maths.numbers import as_floats
from steerlens.models.adapters import Model
from steerlens.models.adapters.protocol import Step
from steerlens.models.decoding import decoder, habits
from steerlens.models.hooks import adapter, convention, eval_mode, run_until
from steerlens.models.readout import readout
from steerlens.models.sampling import Drawing
from steerlens.models.score import score
from steerlens.models.tokenization import batch_tokens, batches, encode, pad
from steerlens.models.writing import generate_by
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.labelled import Labelled
from steerlens.values.readout import Readout
from steerlens.values.texts import as_texts

CHUNK = 256
"""Positions whose logits are mixed at once."""


class Voice(NamedTuple):
    """A model that reads the text behind some tokens: None is the base model itself.

    The tokens come behind begin-of-text.
    """

    model: Model | None
    lead: tuple[int, ...] = ()


class Heard(NamedTuple):
    """What is known where the next token is to be told: logits of the base model and of each voice,
    how likely each voice found the tokens so far (nats), and how many they are."""

    base: Float[Tensor, "n vocab"]
    voices: Float[Tensor, "n_voices n vocab"]
    so_far: Float[Tensor, "n_voices n"]
    n_read: Int[Tensor, " n"]


Mix = Callable[[Heard, Float[Tensor, "n 1"]], Float[Tensor, "n vocab"]]
"""From what is heard, at the strength of each position, to logits."""


def toward_sides(heard: Heard, strength: Float[Tensor, "n 1"]) -> Float[Tensor, "n vocab"]:
    """Go from the base model to the first voice at strength 1, to the second at −1.

        z = z_base + |s| (z_side − z_base)

    Beyond 1 it goes on in the same direction.
    """
    side = torch.where(strength > 0, heard.voices[0], heard.voices[1])
    return heard.base + strength.abs() * (side - heard.base)


def encode_lead(model: Model, text: str, name: str = "text") -> tuple[int, ...]:
    """Return the tokens of a text that a voice reads first.

    Raises:
        ValueError: no token in it, or so many that nothing could follow; the message names the
            argument.
    """
    how = convention(model, readout(model))._replace(bos=False)
    words = adapter(model).tokenizer
    try:
        ids = encode(words, [text], how, end=False).ids[0] if text.strip() else []
    except ValueError as error:
        raise ValueError(f"{name}: {brief(text)} cannot be read ({error})") from None
    if not ids:
        raise ValueError(
            f"{name}: {brief(text)} holds no token of this model's vocabulary; give words"
        )
    if len(ids) + 2 > how.n_ctx:
        raise ValueError(
            f"{name}: {brief(text)} leaves no room for a text in a context of {how.n_ctx} tokens; shorten it"
        )
    return tuple(ids)


def generate_mixed(
    model: Model,
    voices: Sequence[Voice],
    mix: Mix,
    prompts: Iterable[str],
    strengths: float | Iterable[float],
    drawing: Drawing,
) -> pd.DataFrame:
    """Continue prompts with mixed logits; see `steerlens.generate` for what it returns."""
    models = [model if voice.model is None else voice.model for voice in voices]
    leads = [voice.lead for voice in voices]
    n_bos = int(convention(model, readout(model)).bos)

    def steps(rows: list[list[int]], strength: Float[Tensor, " rows"]) -> Step:
        device = readout(model).W_U.device
        first, by = _decoder(model), strength.to(device)[:, None]
        others = [_decoder(m) for m in models]
        behind = [[_led(ids, lead, n_bos) for ids in rows] for lead in leads]
        padded = [pad(ids, left=True) for ids in behind]
        masks: list[Tensor] = [mask.to(device) for _, mask in padded]
        given: list[Tensor] = [tokens.to(device) for tokens, _ in padded]
        so_far = torch.stack(
            [_read(m, ids, rows) for m, ids in zip(models, behind, strict=True)]
        ).to(device)
        n_read = torch.tensor([len(ids) - 1 for ids in rows], device=device)
        before: Tensor | None = None

        def step(tokens: Tensor, mask: Tensor) -> Tensor:
            nonlocal before, so_far, n_read
            if before is not None:
                told = before.log_softmax(-1)
                so_far = so_far + told.gather(2, tokens[None].expand(len(told), -1, -1)).squeeze(2)
                n_read = n_read + 1
                given[:] = [tokens] * len(models)
                masks[:] = [torch.cat([m, torch.ones_like(tokens)], 1) for m in masks]
            base = first(tokens, mask).float()
            heard = []
            for m, other, new, its in zip(models, others, given, masks, strict=True):
                with eval_mode(m):
                    heard.append(other(new, its).float())
            before = torch.stack(heard)
            return mix(Heard(base, before, so_far, n_read), by)

        return step

    reserved = max(len(lead) for lead in leads)
    return generate_by(model, prompts, steps, strengths, drawing, reserved=reserved)


def score_mixed(
    model: Model,
    voices: Sequence[Voice],
    mix: Mix,
    texts: Labelled | Iterable[str],
    strengths: float | Iterable[float],
    *,
    end: bool,
) -> pd.DataFrame:
    """Return the log-probability of each token of texts under mixed logits, with the KL from the
    base model; see `steerlens.score` for the rest of what it returns."""
    data = texts if isinstance(texts, Labelled) else as_texts(texts)
    by = as_floats(strengths, "strengths")
    table = score(model, data, end=end)
    on = readout(model)
    how = convention(model, on)
    reserved = max(len(voice.lead) for voice in voices)
    content, prompts = (data.texts, data.prompts) if isinstance(data, Labelled) else (data, ())
    encoded = encode(
        adapter(model).tokenizer,
        list(content),
        how._replace(n_ctx=how.n_ctx - reserved),
        end=end,
        prompts=prompts,
    )
    n = [encoded.predicted(row) for row in range(len(encoded.ids))]
    table = table[table.position < table.text.map(dict(enumerate(n)))].reset_index(drop=True)
    found = [torch.zeros(len(by), 2, k, dtype=torch.float64) for k in n]
    for rows in batches([len(ids) for ids in encoded.ids], batch_tokens(on.W_U)):
        ids = [encoded.ids[row] for row in rows]
        plain = _logits_behind(model, on, ids, ids)
        heard = [
            _logits_behind(
                model if voice.model is None else voice.model,
                on if voice.model is None else readout(voice.model),
                [_led(text, voice.lead, int(how.bos)) for text in ids],
                ids,
            )
            for voice in voices
        ]
        for k, row in enumerate(rows):
            own = [states[k] for states in (plain, *heard)]
            found[row] = _score_text(own, ids[k], mix, by, n[row])
    columns = torch.cat(found, dim=2)
    parts = [
        table.assign(strength=float(s), log_prob=columns[k, 0].numpy(), kl=columns[k, 1].numpy())
        for k, s in enumerate(by)
    ]
    return pd.concat(parts, ignore_index=True)


States = tuple[Readout, Float[Tensor, "n d"]]


def _score_text(
    own: Sequence[States], ids: list[int], mix: Mix, strengths: Sequence[float], n: int
) -> Float[Tensor, "n_strengths 2 last"]:
    """Return log-probability and KL of the last `n` tokens of one text at each strength."""
    target = torch.tensor(ids[1:], device=own[0][1].device)
    found = torch.zeros(len(strengths), 2, len(target), dtype=torch.float64)
    so_far = torch.zeros(len(own) - 1, device=target.device)
    for start in range(0, len(target), CHUNK):
        part = slice(start, start + CHUNK)
        base, *voices = (on.logits(c[part]) for on, c in own)
        heard = torch.stack(voices)
        at = target[part]
        told = heard.log_softmax(-1).gather(2, at[None, :, None].expand(len(heard), -1, 1))[..., 0]
        before = so_far[:, None] + told.cumsum(1) - told
        n_read = torch.arange(start, start + len(at), device=at.device)
        log_p = base.log_softmax(-1)
        for k, s in enumerate(strengths):
            by = torch.full((len(at), 1), float(s), device=at.device)
            log_q = mix(Heard(base, heard, before, n_read), by).log_softmax(-1)
            found[k, 0, part] = log_q.gather(1, at[:, None])[:, 0].double().cpu()
            # a word that the method forbids, −∞, costs as much where the model would write it
            kl = torch.where(log_p.isfinite(), log_p.exp() * (log_p - log_q), 0.0)
            found[k, 1, part] = kl.sum(1).double().cpu()
        so_far = so_far + told.sum(1)
    return found[..., len(target) - n :]


def _decoder(model: Model) -> Step:
    return decoder(model, caches=habits(model).caches)


def _led(ids: list[int], lead: tuple[int, ...], n_bos: int) -> list[int]:
    """Return tokens with a voice's own behind begin-of-text."""
    return [*ids[:n_bos], *lead, *ids[n_bos:]]


def _logits_behind(
    model: Model, on: Readout, led: list[list[int]], ids: list[list[int]]
) -> list[States]:
    """Return the states that predict each text's tokens but the first, its lead being only read."""
    with eval_mode(model):
        tokens, mask = (t.to(on.W_U.device) for t in pad(led))
        c = run_until(model, UNEMBED_IN, tokens, mask).float()
    return [
        (on, c[k, len(row) - len(text) : len(row) - 1])
        for k, (row, text) in enumerate(zip(led, ids, strict=True))
    ]


def _read(model: Model, led: list[list[int]], rows: list[list[int]]) -> Float[Tensor, " rows"]:
    """Return the log-probability of each prompt's tokens but the first under a voice, in nats."""
    told = []
    states = _logits_behind(model, readout(model), led, rows)
    for (on, c), ids in zip(states, rows, strict=True):
        target = torch.tensor(ids[1:], device=c.device)
        told.append(on.logits(c).log_softmax(-1).gather(1, target[:, None]).sum())
    return torch.stack(told)
