"""Write with a model at many strengths at once."""

import hashlib
from collections.abc import Callable, Iterable
from numbers import Integral
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.numbers import as_floats, as_number, generator
from steerlens.models.adapters import Model
from steerlens.models.decoding import decoder, habits
from steerlens.models.hooks import adapter, apply_edits, convention, eval_mode
from steerlens.models.pieces import text_of
from steerlens.models.readout import readout
from steerlens.models.sampling import sample_tokens
from steerlens.models.steering import check_lives_on
from steerlens.models.tokenization import Encoded, encode_prompts, pad, with_prefix
from steerlens.models.vocabulary import Tokenizer
from steerlens.values.fit import Fit, value_of
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled
from steerlens.values.positions import places_of
from steerlens.values.readout import Readout
from steerlens.values.texts import as_texts

ROWS = 256
"""Rows of a batch: prompts × strengths × samples beyond it are written in several."""


def generate(
    model: Model,
    prompts: Iterable[str],
    intervention: Intervention | Fit | None = None,
    *,
    strengths: float | Iterable[float] = (1.0,),
    samples: int = 1,
    seed: int = 0,
    max_new_tokens: int = 30,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
) -> pd.DataFrame:
    """Continue prompts at every strength, with one pass of the model per new token for all
    together.

    Sampling is by inverse cumulative probability with one uniform number per token, drawn for each
    prompt and sample from `seed` and shared by all strengths: a row's text does not depend on which
    other rows are asked for, strength 0 is exactly the plain model's text, and along the strengths
    only the steer changes.

    Args:
        model: of TransformerLens or of Hugging Face; unchanged afterwards.
        prompts: texts to continue; "" starts from nothing where the model has a begin-of-text
            token.
        intervention: a `Fit` stands for its value; None for the plain model (then all strengths
            count the same).
        strengths: one number or several; a fitted steer reproduces its labels' style at 1 and -1
            and usually bears more.
        samples: continuations per prompt and strength.
        seed: same seed, same texts.
        max_new_tokens: at most; a text ends earlier at the end-of-text token, or where the context
            is full.
        temperature: 0 is greedy.
        top_p: sample from the smallest set of likeliest tokens that holds this probability.
        top_k: and among at most so many tokens.

    Returns:
        One row per prompt, strength and sample: `prompt`, `strength`, `sample`, `text` (the
            continuation, with the space
        that belongs before it: `prompt + text` is the whole), `log_prob` (nats, of the continuation
            under the steered
        model at temperature 1, end of text included where reached).

    Raises:
        ValueError: an argument out of range, a prompt as long as the context, an empty prompt
            without begin-of-text.

    Example:
        >>> import steerlens as sl
        >>> sl.generate(sl.load_model("toy-64"), ["the film was"], max_new_tokens=5).columns.tolist()
        ['prompt', 'strength', 'sample', 'text', 'log_prob']
    """
    intervention = value_of(intervention)
    if intervention is not None:
        check_lives_on(intervention, model)
    drawing = Drawing(samples, seed, max_new_tokens, temperature, top_p, top_k)
    prefix = 0 if intervention is None else intervention.prefix
    return generate_by(
        model, prompts, edited_steps(model, intervention), strengths, drawing, prefix=prefix
    )


class Drawing(NamedTuple):
    """How continuations are drawn; see `generate`."""

    samples: int = 1
    seed: int = 0
    max_new_tokens: int = 30
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None


Step = Callable[[Int[Tensor, "rows new"], Int[Tensor, "rows pos"]], Float[Tensor, "rows vocab"]]
"""From new tokens and the mask of all so far to the logits after the last; see `decoding.decoder`."""
Steps = Callable[[list[list[int]], Float[Tensor, " rows"]], Step]
"""From the tokens of a batch's prompts, and the strength of each row, to its steps."""


def edited_steps(model: Model, intervention: Intervention | None) -> Steps:
    """Return the steps of a model under an intervention, None: of the plain model."""

    def steps(prompts: list[list[int]], strength: Float[Tensor, " rows"]) -> Step:
        device = adapter(model).W_U.device
        lengths = torch.tensor([len(ids) for ids in prompts], device=device)
        edits = () if intervention is None else intervention.edits(strength.to(device))
        following = decoder(model, caches=habits(model).caches)

        def step(tokens: Tensor, mask: Tensor) -> Tensor:
            places = places_of(mask, lengths)
            # a pass over new tokens alone holds the last of them
            with apply_edits(
                model, edits, lambda _, t, p=places: p._replace(index=p.index[:, -t.shape[1] :])
            ):
                return following(tokens, mask)

        return step

    return steps


def generate_by(
    model: Model,
    prompts: Iterable[str],
    steps: Steps,
    strengths: float | Iterable[float],
    drawing: Drawing,
    *,
    prefix: int = 0,
    reserved: int = 0,
) -> pd.DataFrame:
    """Continue prompts as `generate` does, with the logits that some steps give.

    Args:
        model: whose tokenizer and context it is.
        prefix: fillers before each prompt.
        reserved: tokens of the context that prompt and text leave free.
    """
    prompts, strengths = _prompts(prompts), as_floats(strengths, "strengths")
    samples, seed, max_new_tokens, temperature, top_p, top_k = drawing
    _check(samples, max_new_tokens, temperature, top_p, top_k)
    on = readout(model)
    how, tokenizer, habit = convention(model, on), adapter(model).tokenizer, habits(model)
    n_ctx = how.n_ctx - reserved
    ids = encode_prompts(tokenizer, prompts, how)
    read = with_prefix(Encoded(ids, [0] * len(ids), 0), prefix, tokenizer).ids
    for prompt, tokens in zip(prompts, ids, strict=True):
        if not tokens:
            raise ValueError(
                f"prompts: {prompt!r} holds no token and this model has no begin-of-text; give at least a word"
            )
        if len(tokens) + prefix >= n_ctx:
            before = f" behind {prefix + reserved} rows" if prefix + reserved else ""
            raise ValueError(
                f"prompts: {prompt[:40]!r}… has {len(tokens)} tokens{before}, the context is {how.n_ctx}; shorten it"
            )
    # one stream of numbers per prompt and sample, the same at every strength
    noise = {
        (p, k): _uniform(seed, prompt, list(prompts[:p]).count(prompt), k, max_new_tokens)
        for p, prompt in enumerate(prompts)
        for k in range(samples)
    }
    rows = [
        (p, s, k)
        for p in range(len(prompts))
        for s in range(len(strengths))
        for k in range(samples)
    ]
    texts, log_probs = [""] * len(rows), [0.0] * len(rows)
    for places in _batches(
        [len(read[p]) for p, _, _ in rows], max_new_tokens, n_ctx, pads=habit.pads
    ):
        batch = [rows[place] for place in places]
        uniform = torch.stack([noise[p, k] for p, _, k in batch])
        strength = torch.tensor([float(strengths[s]) for _, s, _ in batch])
        new, log_prob = _write(
            model,
            on,
            [read[p] for p, _, _ in batch],
            steps,
            strength,
            uniform,
            (temperature, top_p, top_k),
            n_ctx,
        )
        for place, (p, _, _), tokens, gained in zip(places, batch, new, log_prob, strict=True):
            texts[place], log_probs[place] = _continuation(tokenizer, ids[p], tokens), gained
    return pd.DataFrame(
        {
            "prompt": [prompts[p] for p, _, _ in rows],
            "strength": [float(strengths[s]) for _, s, _ in rows],
            "sample": [k for _, _, k in rows],
            "text": texts,
            "log_prob": log_probs,
        }
    )


def _write(
    model: Model,
    on: Readout,
    prompts: list[list[int]],
    steps: Steps,
    strength: Float[Tensor, " rows"],
    uniform: Float[Tensor, "rows new"],
    sampling: tuple[float, float, int | None],
    n_ctx: int,
) -> tuple[list[list[int]], list[float]]:
    """Return new token ids and their log-probability, for one batch of rows."""
    with eval_mode(
        model
    ):  # also away from a user's inference mode, whose tensors bear no sums in place
        device = on.W_U.device
        tokens, mask = (t.to(device) for t in pad(prompts, left=True))
        tokenizer = adapter(model).tokenizer
        end = tokenizer.eos_token_id
        barred = _barred(on, tokenizer).to(device)
        alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
        log_prob = torch.zeros(len(prompts), dtype=torch.float64, device=device)
        written: list[Tensor] = []
        step = steps(prompts, strength)
        for k in range(min(uniform.shape[1], n_ctx - tokens.shape[1])):
            logits = _finite(step(tokens, mask).float(), strength)
            # what is no token is never sampled; its probability is the model's all the same
            tokens = sample_tokens(
                logits[:, : on.n_tokens] + barred, uniform[:, k].to(device), *sampling
            )[:, None]
            gained = torch.log_softmax(logits, 1).gather(1, tokens).squeeze(1)
            log_prob += torch.where(alive, gained.double(), 0.0)
            written.append(torch.where(alive, tokens.squeeze(1), -1))
            if end is not None:
                alive &= tokens.squeeze(1) != end
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


def _barred(on: Readout, tokenizer: Tokenizer) -> Float[Tensor, " n_tokens"]:
    """Return −∞ for what is never written.

    That is ids that no token has, padding and begin-of-text, but where they end a text.
    """
    never = {*on.unused, tokenizer.pad_token_id, tokenizer.bos_token_id} - {
        None,
        tokenizer.eos_token_id,
    }
    found = torch.zeros(on.n_tokens)
    found[[i for i in never if i < on.n_tokens]] = -torch.inf
    return found


def _uniform(seed: int, prompt: str, occurrence: int, sample: int, n: int) -> Float[Tensor, " n"]:
    """Return numbers in [0, 1) that depend on nothing but the arguments.

    So a row is the same in any company.
    """
    key = hashlib.blake2b(f"{seed} {occurrence} {sample} {prompt}".encode(), digest_size=7).digest()
    return torch.rand(n, dtype=torch.float64, generator=generator(int.from_bytes(key)))


def _batches(lengths: list[int], new: int, n_ctx: int, *, pads: bool) -> list[list[int]]:
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


def _continuation(tokenizer: Tokenizer, prompt: list[int], new: list[int]) -> str:
    """Return the text of new tokens, a space before it kept where one belongs.

    The prompt's text and this make the whole.

    Decoding the new tokens alone would lose the space that some tokenizers put between words.
    """
    before, whole = text_of(tokenizer, prompt), text_of(tokenizer, prompt + new)
    return whole[len(before) :] if whole.startswith(before) else text_of(tokenizer, new)


def _prompts(prompts: Iterable[str] | Labelled) -> list[str]:
    if isinstance(prompts, Labelled):
        raise ValueError(
            "prompts: got labelled texts, expected texts to continue; pass their .prompts or their .texts"
        )
    return as_texts(prompts, "prompts")


def _check(
    samples: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int | None,
) -> None:
    as_number(temperature, "temperature", "a number ≥ 0 (0 is greedy)")
    as_number(top_p, "top_p", "a number in (0, 1]")
    for name, count in (("samples", samples), ("max_new_tokens", max_new_tokens)):
        if not isinstance(count, Integral):
            raise ValueError(f"{name}: got {count!r}, expected a whole number, e.g. 30")
    for name, value, good, expected in (
        ("samples", samples, samples >= 1, "at least 1"),
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "at least 1"),
        ("temperature", temperature, temperature >= 0, "a number ≥ 0 (0 is greedy)"),
        ("top_p", top_p, 0 < top_p <= 1, "a number in (0, 1]"),
        ("top_k", top_k, top_k is None or top_k >= 1, "at least 1, or None"),
    ):
        if not good:
            raise ValueError(f"{name}: got {value}, expected {expected}")
