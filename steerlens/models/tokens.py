"""Texts to tokens, the same way everywhere."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Tokenizer = Any
"""A Hugging Face tokenizer."""


class Convention(NamedTuple):
    """How a model's texts begin, and how long they may be.

    Args:
        bos: with the tokenizer's begin-of-text token, where it has one.
        space: with a space, where the text has none.
        n_ctx: longest sequence that the model reads; longer texts are cut and counted.
    """

    bos: bool
    space: bool
    n_ctx: int


class Encoded(NamedTuple):
    """Token ids of texts, begin and end tokens included, how many of each are only read, and how many texts were cut.

    The first token is only read, as nothing comes before it, and so is the whole of a prompt.
    """

    ids: list[list[int]]
    prompt: list[int]
    n_truncated: int

    def predicted(self, row: int) -> int:
        """How many tokens of a text are predicted."""
        return max(len(self.ids[row]) - self.prompt[row], 0)


def token_strings(tokenizer: Tokenizer, d_vocab: int) -> tuple[str, ...]:
    """The text of each token, a leading space kept where the tokenizer marks one (`Ġ`, `▁`).

    Stops at the vocabulary's end: columns of `W_U` beyond it are padding.
    """
    n = min(len(tokenizer), d_vocab)
    raw = tokenizer.convert_ids_to_tokens(list(range(n)))
    if any(token and token.startswith("Ġ") for token in raw):  # byte-level: decoding keeps the space
        return tuple("" if token is None else tokenizer.convert_tokens_to_string([token]) for token in raw)
    return tuple("" if token is None else token.replace("▁", " ") for token in raw)


def special_ids(tokenizer: Tokenizer | None) -> frozenset[int]:
    return frozenset(tokenizer.all_special_ids) if tokenizer else frozenset()


def encode(
    tokenizer: Tokenizer, texts: list[str], convention: Convention, *, end: bool, prompts: Sequence[str] = ()
) -> Encoded:
    """Token ids of texts; with `end` the end-of-text token follows, if there is one, so that it is predicted too.

    A prompt's tokens are those that it has in common with prompt and text together.
    """
    begin = [tokenizer.bos_token_id] if convention.bos and tokenizer.bos_token_id is not None else []
    finish = [tokenizer.eos_token_id] if end and tokenizer.eos_token_id is not None else []

    def tokens(texts: list[str], finish: list[int]) -> list[list[int]]:
        spaced = [" " + text if convention.space and not text[:1].isspace() else text for text in texts]
        plain = tokenizer(spaced, add_special_tokens=False, return_attention_mask=False)["input_ids"] if texts else []
        return [[*begin, *ids, *finish] for ids in plain]

    if prompts:
        texts = [_joined(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    whole = tokens(texts, finish)
    read = [min(len(ids), 1) for ids in whole]
    if prompts:
        alone = tokens(list(prompts), [])
        read = [max(n, _common(a, b)) for n, a, b in zip(read, alone, whole, strict=True)]
    long = [len(ids) > convention.n_ctx for ids in whole]
    return Encoded(
        [ids[: convention.n_ctx] if cut else ids for ids, cut in zip(whole, long, strict=True)], read, sum(long)
    )


def with_prefix(encoded: Encoded, n: int, tokenizer: Tokenizer) -> Encoded:
    """The same behind `n` fillers, which are only read; what they are does not matter, they are overwritten."""
    fill = getattr(tokenizer, "bos_token_id", None) or 0
    return encoded._replace(ids=[[fill] * n + ids for ids in encoded.ids], prompt=[n + read for read in encoded.prompt])


def _joined(prompt: str, text: str) -> str:
    """A space between where neither has one."""
    apart = not prompt or prompt[-1].isspace() or text[:1].isspace()
    return prompt + ("" if apart else " ") + text


def _common(a: list[int], b: list[int]) -> int:
    """How many tokens two lists begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


BATCH_NUMBERS = 3 << 17
"""Numbers of the residual stream a batch on a CPU: 2,048 tokens at d_model 192, 512 at GPT-2's 768. What the layers hand on then
stays in the caches, less of it is padding, and no array is so large that the system hands out and clears its pages each time."""


def batch_tokens(W_U: Float[Tensor, "d_model vocab"]) -> int:
    """Padded tokens a batch for a model with this unembedding."""
    return min(max(BATCH_NUMBERS // len(W_U), 256), 2_048) if W_U.device.type == "cpu" else 16_384


def batches(lengths: list[int], max_tokens: int) -> list[list[int]]:
    """Rows in order of length, as many a batch as fit `max_tokens` padded tokens."""
    found: list[list[int]] = []
    width = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        width = max(width, lengths[row])
        if found and (len(found[-1]) + 1) * width <= max_tokens:
            found[-1].append(row)
        else:
            found.append([row])
            width = lengths[row]
    return found


def pad(ids: list[list[int]], *, left: bool = False) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Token ids as one tensor with its attention mask; padded on the right, or on the left for generation."""
    lengths = torch.tensor([len(sequence) for sequence in ids])[:, None]
    places = torch.arange(int(lengths.max()))
    real = places >= places.numel() - lengths if left else places < lengths
    tokens = torch.zeros(real.shape, dtype=torch.long)
    tokens[real] = torch.tensor(list(chain.from_iterable(ids)), dtype=torch.long)
    return tokens, real.long()
