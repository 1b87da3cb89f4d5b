"""Tokens back to text, in whole characters."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, groupby

import regex

from steerlens.models.special import Span, read_tokens
from steerlens.models.tokenization import Convention, begin, lay_out
from steerlens.models.vocabulary import Tokenizer, is_byte_level, special_ids

BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def pieces(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    convention: Convention,
    *,
    end: bool,
    prompts: Sequence[str] = (),
) -> list[list[str]]:
    """Return the part of its text that each token of `encode` stands for, begin and end tokens
    included.

    Joined they are the text, whatever the tokenizer makes of it (case, composed characters, unknown
    words); of a text that was cut, what was read of it. A space belongs to the word after it. Of
    the tokens of one character (an emoji with its joiners, a letter with its accents) the first has
    it and the others are "". A tokenizer that does not say where its tokens lie (not a fast one)
    gives what it decodes them to. The end of the text is spelled by its token.
    """
    strings = lay_out(tokenizer, texts, convention, prompts)
    fast = bool(getattr(tokenizer, "is_fast", False))
    read = read_tokens(
        tokenizer, [s.whole for s in strings], [s.start for s in strings], spans=fast
    )
    found = []
    for row, (ids, laid) in enumerate(zip(read.ids, strings, strict=True)):
        lead = begin(tokenizer, convention, ids)
        ids = ids[: convention.n_ctx - len(lead)]
        if fast:
            spans = [(max(i - laid.lead, 0), max(j - laid.lead, 0)) for i, j in read.spans[row]]
            cut = _cut(laid.whole[laid.lead :], spans, len(ids))
        else:
            cut = _decoded(tokenizer, ids)
        finish = [str(tokenizer.eos_token)] if end and tokenizer.eos_token_id is not None else []
        found.append([*[""] * len(lead), *cut, *finish][: convention.n_ctx])
    return found


def text_of(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Return the text of tokens, special ones left out; bytes that are no character are U+FFFD, and
    they alone.

    A tokenizer that falls back to bytes would give up all bytes of a run for one that is wrong.
    """
    special = special_ids(tokenizer)
    ids = [i for i in ids if i not in special]
    tokens = [token or "" for token in tokenizer.convert_ids_to_tokens(ids)]
    if is_byte_level(tokenizer) or not any(map(BYTE.fullmatch, tokens)):
        return tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    parts = []
    for are_bytes, run in groupby(tokens, lambda token: BYTE.fullmatch(token) is not None):
        some = list(run)
        parts += (
            [bytes(int(t[3:5], 16) for t in some).decode(errors="replace")] if are_bytes else some
        )
    return tokenizer.convert_tokens_to_string(parts)


def continuation(tokenizer: Tokenizer, prompt: Sequence[int], new: Sequence[int]) -> str:
    """Return the text of new tokens, a space before it kept where one belongs.

    The prompt's text and this make the whole.

    Decoding the new tokens alone would lose the space that some tokenizers put between words.
    """
    before, whole = text_of(tokenizer, prompt), text_of(tokenizer, [*prompt, *new])
    return whole[len(before) :] if whole.startswith(before) else text_of(tokenizer, new)


def _cut(text: str, spans: Sequence[Span], n: int) -> list[str]:
    """Cut a text into the pieces of its first `n` tokens.

    A piece begins where no token before it reaches, between characters.
    """
    edges = [
        0,
        *accumulate(map(len, regex.findall(r"\X", text))),
    ]  # of characters as people see them
    firsts, starts, reach = [0], [0], 0
    for k, (i, j) in enumerate(spans[:n]):
        # what lies between two tokens belongs to the second, but for what ends the character of the
        # first
        edge = edges[bisect_left(edges, reach)]
        if starts[-1] < edge <= i:
            firsts.append(k)
            starts.append(edge)
        reach = max(reach, j)
    last = len(text) if n == len(spans) else edges[bisect_left(edges, reach)]
    found = [""] * n
    if not n:
        return found
    for first, i, j in zip(firsts, starts, [*starts[1:], last], strict=True):
        found[first] = text[i:j]
    return found


def _decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Return what each token adds to the decoded text; the first token of a character has it."""
    found, first, before = [""] * len(ids), 0, ""
    for k in range(len(ids)):
        text = tokenizer.decode(ids[: k + 1], clean_up_tokenization_spaces=False)
        if len(text) > len(before) and not text.endswith("\ufffd"):
            found[first], first, before = text[len(before) :], k + 1, text
    return found
