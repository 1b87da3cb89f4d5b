"""Continue prompts in batches, with the logits that some steps give."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import as_floats
from steerlens.models.adapters import Model
from steerlens.models.adapters.protocol import Step
from steerlens.models.decoding import habits
from steerlens.models.hooks import adapter, convention, eval_mode
from steerlens.models.pieces import continuation
from steerlens.models.readout import readout
from steerlens.models.sampling import Drawing, Warp, sample_tokens
from steerlens.models.tokenization import Encoded, encode_prompts, pad, with_prefix
from steerlens.models.vocabulary import Tokenizer, padding_word
from steerlens.values.labelled import Labelled
from steerlens.values.readout import Readout
from steerlens.values.texts import as_texts

ROWS = 256
"""Rows of a batch: prompts × strengths × samples beyond it are written in several."""

AsText = Callable[[Tokenizer, list[int], list[int]], str]
Steps = Callable[[list[list[int]], Float[Tensor, " rows"]], Step]
"""From the tokens of a batch's prompts, and the strength of each row, to its steps; see
`decoding.decoder`."""


def generate_by(
    model: Model,
    prompts: Iterable[str],
    steps: Steps,
    strengths: float | Iterable[float],
    drawing: Drawing,
    *,
    prefix: int = 0,
    reserved: int = 0,
    as_text: AsText = continuation,
) -> pd.DataFrame:
    """Continue prompts as `generate` does, with the logits that some steps give.

    Args:
        model: whose tokenizer and context it is.
        prefix: fillers before each prompt.
        reserved: tokens of the context that prompt and text leave free.
        as_text: spells what was written, given the tokenizer, the prompt's tokens and the new ones.
    """
    texts, by = _prompts(prompts), as_floats(strengths, "strengths")
    on, tokenizer, habit = readout(model), adapter(model).tokenizer, habits(model)
    ids, n_ctx = _encode(model, on, texts, prefix, reserved)
    # none is longer than the context: what is drawn for it would only take memory
    drawing = replace(drawing, max_new_tokens=min(drawing.max_new_tokens, n_ctx))
    read = with_prefix(Encoded(ids, [0] * len(ids), 0), prefix, tokenizer).ids
    # one stream of numbers per prompt and sample, the same at every strength
    before: Counter[str] = Counter()
    noise: dict[tuple[int, int], Tensor] = {}
    for p, prompt in enumerate(texts):
        for k in range(drawing.samples):
            noise[p, k] = drawing.uniform(prompt, before[prompt], k)
        before[prompt] += 1
    rows = [
        (p, s, k) for p in range(len(texts)) for s in range(len(by)) for k in range(drawing.samples)
    ]
    written, log_probs = [""] * len(rows), [0.0] * len(rows)
    for places in step_batches(
        [len(read[p]) for p, _, _ in rows], drawing.max_new_tokens, n_ctx, pads=habit.pads
    ):
        batch = [rows[place] for place in places]
        strength = torch.tensor([by[s] for _, s, _ in batch])
        new, log_prob = _write(
            model,
            on,
            [read[p] for p, _, _ in batch],
            steps,
            strength,
            torch.stack([noise[p, k] for p, _, k in batch]),
            drawing.warp,
            n_ctx,
        )
        for place, (p, _, _), tokens, gained in zip(places, batch, new, log_prob, strict=True):
            written[place], log_probs[place] = as_text(tokenizer, ids[p], tokens), gained
    return pd.DataFrame(
        {
            "prompt": [texts[p] for p, _, _ in rows],
            "strength": [by[s] for _, s, _ in rows],
            "sample": [k for _, _, k in rows],
            "text": written,
            "log_prob": log_probs,
        }
    )


def _encode(
    model: Model, on: Readout, prompts: list[str], prefix: int, reserved: int
) -> tuple[list[list[int]], int]:
    """Return the tokens of prompts, and how many of the context they and their texts may take."""
    how = convention(model, on)
    ids, n_ctx = encode_prompts(adapter(model).tokenizer, prompts, how), how.n_ctx - reserved
    for prompt, tokens in zip(prompts, ids, strict=True):
        if not tokens:
            raise ValueError(
                f"prompts: {prompt!r} holds no token and this model has no begin-of-text; give at least a word"
            )
        if len(tokens) + prefix >= n_ctx:
            more = " or more" if len(tokens) == how.n_ctx else ""  # longer ones come cut
            before = f" behind {prefix + reserved} rows" if prefix + reserved else ""
            raise ValueError(
                f"prompts: {prompt[:40]!r}… has {len(tokens)} tokens{more}{before}, the context is {how.n_ctx}; shorten it"
            )
    return ids, n_ctx


def _write(
    model: Model,
    on: Readout,
    prompts: list[list[int]],
    steps: Steps,
    strength: Float[Tensor, " rows"],
    uniform: Float[Tensor, "rows new"],
    warp: Warp,
    n_ctx: int,
) -> tuple[list[list[int]], list[float]]:
    """Return new token ids and their log-probability, for one batch of rows."""
    with eval_mode(
        model
    ):  # also away from a user's inference mode, whose tensors bear no sums in place
        device = on.W_U.device
        tokens, mask = (t.to(device) for t in pad(prompts, left=True))
        tokenizer = adapter(model).tokenizer
        end_ids = adapter(model).end_ids
        ends = torch.tensor(sorted(end_ids), dtype=torch.long, device=device)
        barred = _barred(on, tokenizer, end_ids).to(device)
        alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
        log_prob = torch.zeros(len(prompts), dtype=torch.float64, device=device)
        written: list[Tensor] = []
        step = steps(prompts, strength)
        for k in range(min(uniform.shape[1], n_ctx - tokens.shape[1])):
            logits = _finite(step(tokens, mask).float(), strength)
            # what is no token is never sampled; its probability is the model's all the same
            tokens = sample_tokens(
                logits[:, : on.n_tokens] + barred, uniform[:, k].to(device), warp
            )[:, None]
            gained = torch.log_softmax(logits, 1).gather(1, tokens).squeeze(1)
            log_prob += torch.where(alive, gained.double(), 0.0)
            written.append(torch.where(alive, tokens.squeeze(1), -1))
            alive &= ~torch.isin(tokens.squeeze(1), ends)
            if not bool(alive.any()):
                break
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
    if not written:
        return [[] for _ in prompts], log_prob.tolist()
    return [
        [t for t in row if t >= 0] for row in torch.stack(written, 1).tolist()
    ], log_prob.tolist()


def _finite(
    logits: Float[Tensor, "rows vocab"], strength: Float[Tensor, " rows"]
) -> Float[Tensor, "rows vocab"]:
    """Return the logits, if they are numbers.

    One beyond what its dtype holds makes the softmax of its row NaN.

    Raises:
        ValueError: they are not.
    """
    wrong = ~torch.isfinite(logits.logsumexp(1))
    if bool(wrong.any()):
        largest = strength[wrong.cpu()].abs().max()
        raise ValueError(
            f"strengths: at {largest:g} the model's states or logits are no finite numbers any more; take a smaller "
            "strength, or load the model with dtype='float32'"
        )
    return logits


def _barred(on: Readout, tokenizer: Tokenizer, ends: frozenset[int]) -> Float[Tensor, " n_tokens"]:
    """Return −∞ for what is never written.

    That is ids that no token has, padding and begin-of-text, but where they end a text.
    """
    padding = {tokenizer.pad_token_id} - {padding_word(tokenizer)}
    never = {*on.unused, *padding, tokenizer.bos_token_id} - {None} - ends
    found = torch.zeros(on.n_tokens)
    found[[i for i in never if i < on.n_tokens]] = -torch.inf
    return found


def step_batches(lengths: list[int], new: int, n_ctx: int, *, pads: bool) -> list[list[int]]:
    """Put rows in batches of at most ROWS.

    Padding on the left takes room in the context, and some models hear it (`pads` is False): where
    it would cut a text short or change it, only prompts of one length go together.
    """
    groups: dict[int, list[int]] = {}
    together = pads and max(lengths) + new <= n_ctx
    for row, length in enumerate(lengths):
        groups.setdefault(0 if together else length, []).append(row)
    return [
        rows[start : start + ROWS]
        for rows in groups.values()
        for start in range(0, len(rows), ROWS)
    ]


def _prompts(prompts: Iterable[str] | Labelled) -> list[str]:
    if isinstance(prompts, Labelled):
        raise ValueError(
            "prompts: got labelled texts, expected texts to continue; pass their .prompts or their .texts"
        )
    return as_texts(prompts, "prompts")
