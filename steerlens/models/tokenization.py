"""Texts to tokens, the same way everywhere."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.models.special import read_tokens
from steerlens.models.vocabulary import Tokenizer, check_embedded, check_known, special_names
from steerlens.values.texts import as_texts


class Convention(NamedTuple):
    """How a model's texts begin, and how long they may be.

    Args:
        bos: with the tokenizer's begin-of-text token, where it has one.
        space: with a space, where the text has none.
        n_ctx: longest sequence that the model reads; longer texts are cut and counted.
        d_vocab: token ids that it has embeddings for; None where that is not known.
    """

    bos: bool
    space: bool
    n_ctx: int
    d_vocab: int | None = None


class Encoded(NamedTuple):
    """Token ids of texts, begin and end tokens included, how many of each are only read, and how
    many texts were cut.

    The first token is only read, as nothing comes before it, and so is the whole of a prompt.
    """

    ids: list[list[int]]
    prompt: list[int]
    n_truncated: int

    def predicted(self, row: int) -> int:
        """Return how many tokens of a text are predicted."""
        return max(len(self.ids[row]) - self.prompt[row], 0)


def encode(
    tokenizer: Tokenizer,
    texts: list[str],
    convention: Convention,
    *,
    end: bool,
    prompts: Sequence[str] = (),
    apart: bool = True,
) -> Encoded:
    """Return token ids of texts; with `end` the end-of-text token follows, if there is one, so that
    it is predicted too.

    A prompt's tokens are those that it has in common with prompt and text together. Names of
    special tokens in a text are text; in a prompt they are the tokens, as chat templates mean them.
    What was written behind its prompt goes on where that ends (`apart=False`), else see `lay_out`.

    Raises:
        ValueError: what is no text, a token without an embedding, texts of unknown words alone, the
            name of a special token that the tokenizer cannot read as text; the message names the
            text.
    """
    for name, given in (("texts", texts), ("prompts", prompts)):
        if given:
            as_texts(given, name)
    strings = lay_out(tokenizer, texts, convention, prompts, apart=apart)
    plain = read_tokens(tokenizer, [s.whole for s in strings], [s.start for s in strings]).ids
    finish = [tokenizer.eos_token_id] if end and tokenizer.eos_token_id is not None else []
    whole = [[*begin(tokenizer, convention, ids), *ids, *finish] for ids in plain]
    if convention.d_vocab is not None:
        check_embedded(tokenizer, whole, [s.whole for s in strings], convention.d_vocab)
    check_known(tokenizer, plain, [s.whole for s in strings], "texts" if any(texts) else "prompts")
    read = [min(len(ids), 1) for ids in whole]
    if prompts:
        heads = lay_out(tokenizer, [""] * len(prompts), convention, prompts)
        alone = read_tokens(tokenizer, [s.whole for s in heads], [s.start for s in heads]).ids
        alone = [[*begin(tokenizer, convention, ids), *ids] for ids in alone]
        read = [max(n, _common(a, b)) for n, a, b in zip(read, alone, whole, strict=True)]
    long = [len(ids) > convention.n_ctx for ids in whole]
    return Encoded(
        [ids[: convention.n_ctx] if cut else ids for ids, cut in zip(whole, long, strict=True)],
        read,
        sum(long),
    )


def encode_prompts(
    tokenizer: Tokenizer, prompts: Sequence[str], convention: Convention
) -> list[list[int]]:
    """Return token ids of prompts: nothing of them is predicted, and names of special tokens are
    the tokens."""
    return encode(tokenizer, [""] * len(prompts), convention, end=False, prompts=prompts).ids


class Laid(NamedTuple):
    """A text as a tokenizer is given it: `lead` spaces that the model wants, a prompt, and from
    `start` on the text."""

    whole: str
    lead: int
    start: int


def lay_out(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    convention: Convention,
    prompts: Sequence[str] = (),
    *,
    apart: bool = True,
) -> list[Laid]:
    """Put prompts and spaces before texts; `apart`: a space between the two, where neither has one.

    A special token at the end of a prompt, as chat templates have, is no word: behind it a text
    begins as texts do.
    """
    found = []
    names = special_names(tokenizer) if convention.space or (apart and prompts) else ()
    for prompt, text in zip(prompts or [""] * len(texts), texts, strict=True):
        goes_on = not apart or (not convention.space and prompt.endswith(names))
        whole = prompt + text if goes_on else _joined(prompt, text)
        lead = int(convention.space and not whole[:1].isspace() and not prompt.startswith(names))
        found.append(Laid(" " * lead + whole, lead, lead + len(whole) - len(text)))
    return found


def begin(tokenizer: Tokenizer, convention: Convention, ids: list[int]) -> list[int]:
    """Return what comes before the tokens of a text: begin-of-text, but where a prompt says it
    itself."""
    bos = tokenizer.bos_token_id
    return [bos] if convention.bos and bos is not None and ids[:1] != [bos] else []


def with_prefix(encoded: Encoded, n: int, tokenizer: Tokenizer) -> Encoded:
    """Return the same behind `n` fillers, which are only read.

    What they are does not matter, they are overwritten.
    """
    fill = filler(tokenizer)
    return encoded._replace(
        ids=[[fill] * n + ids for ids in encoded.ids], prompt=[n + read for read in encoded.prompt]
    )


def filler(tokenizer: Tokenizer | None) -> int:
    """Return the id that stands where rows go, which are not its own."""
    return getattr(tokenizer, "bos_token_id", None) or 0


def _joined(prompt: str, text: str) -> str:
    """Join a prompt and a text, with a space between where neither has one."""
    apart = not prompt or not text or prompt[-1].isspace() or text[0].isspace()
    return prompt + ("" if apart else " ") + text


def _common(a: list[int], b: list[int]) -> int:
    """Return how many tokens two lists begin with in common."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


BATCH_NUMBERS = 3 << 17
"""Numbers of the residual stream a batch on a CPU: 2,048 tokens at d_model 192, 512 at GPT-2's 768.
What the layers hand on then stays in the caches, less of it is padding, and no array is so large
that the system hands out and clears its pages each time."""


def batch_tokens(W_U: Float[Tensor, "d_model vocab"]) -> int:
    """Return the number of padded tokens per batch for a model with this unembedding."""
    return min(max(BATCH_NUMBERS // len(W_U), 256), 2_048) if W_U.device.type == "cpu" else 16_384


def batches(lengths: list[int], max_tokens: int) -> list[list[int]]:
    """Put rows in order of length, as many per batch as fit `max_tokens` padded tokens."""
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


def pad(
    ids: list[list[int]], *, left: bool = False
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Return token ids as one tensor with its attention mask.

    They are padded on the right, or on the left for generation.
    """
    lengths = torch.tensor([len(sequence) for sequence in ids])[:, None]
    places = torch.arange(int(lengths.max()))
    real = places >= places.numel() - lengths if left else places < lengths
    tokens = torch.zeros(real.shape, dtype=torch.long)
    tokens[real] = torch.tensor(list(chain.from_iterable(ids)), dtype=torch.long)
    return tokens, real.long()
