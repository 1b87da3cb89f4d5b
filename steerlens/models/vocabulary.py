"""The vocabulary of a tokenizer: what each token stands for, and what no text may hold."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

from steerlens.values.warn import warn_user

Tokenizer = Any
"""A Hugging Face tokenizer."""

UNKNOWN_SHARE = 0.1
"""Of the tokens of some texts: beyond, it is said that the tokenizer does not know them."""
SPACES = frozenset({"▁", "Ġ"})
"""Tokens that are a space alone."""
RARE = "\U000133a0"
"""A character that no vocabulary has (a hieroglyph): a tokenizer that gives nothing for it passes
over what it does not know."""


def token_strings(tokenizer: Tokenizer, d_vocab: int) -> tuple[str, ...]:
    """Return the text of each token id, a leading space kept where the tokenizer marks one (`Ġ`,
    `▁`).

    Ids that no token has are "". What is no whole character is spelled by its bytes, `<0xE2>`,
    whatever the tokenizer. Stops at the largest id that a token has: columns of `W_U` beyond it are
    padding.
    """
    ids = sorted({i for i in tokenizer.get_vocab().values() if 0 <= i < d_vocab})
    added = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items()}
    spell = _byte_level if is_byte_level(tokenizer) else lambda token: _spelled(tokenizer, token)
    strings = [""] * (ids[-1] + 1)
    for i, token in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True):
        strings[i] = added[i] if i in added and spell is _byte_level else spell(token)
    return tuple(strings)


def special_ids(tokenizer: Tokenizer | None) -> frozenset[int]:
    """Return the ids of tokens that stand for no text: begin, end, padding, and all that were added
    as special."""
    if not tokenizer:
        return frozenset()
    added = (i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset(tokenizer.all_special_ids).union(added) - {padding_word(tokenizer)}


def special_names(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return how those tokens are written, the longest first."""
    added = (token for token in tokenizer.added_tokens_decoder.values() if token.special)
    names = {*map(str, added), *map(str, tokenizer.all_special_tokens)} - {""}
    if padding_word(tokenizer) is not None:
        names -= {str(tokenizer.pad_token)}
    return tuple(sorted(names, key=lambda name: (-len(name), name)))


def padding_word(tokenizer: Tokenizer) -> int | None:
    """Return the id of a padding token that is an ordinary word, as `tokenizer.pad_token = "."`
    makes one; None where padding is nothing else.

    Masks tell padding from text, so that such a word stays one.
    """
    pad = tokenizer.pad_token_id
    others = (None, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    return None if pad in others or pad in tokenizer.added_tokens_decoder else pad


def is_byte_level(tokenizer: Tokenizer) -> bool:
    """Return whether tokens are bytes, written in the alphabet of GPT-2, in which `Ġ` is a
    space."""
    if getattr(tokenizer, "is_fast", False):
        return "ByteLevel" in repr(tokenizer.backend_tokenizer.decoder)
    # `Ġ` is a letter too (Maltese), so one such token does not tell
    first = Counter(token[:1] for token in tokenizer.get_vocab())
    return first["Ġ"] > first["▁"]


def _spelled(tokenizer: Tokenizer, token: str) -> str:
    """Return the text of a token that is written as it is, but for spaces; of one that is a byte
    under the letter of its number (ByT5), which is no letter, the byte."""
    letter = (
        len(token) == 1 and "\x80" <= token <= "\xff" and not getattr(tokenizer, "is_fast", False)
    )
    if letter and tokenizer.convert_tokens_to_string([token]) != token:
        return f"<0x{ord(token):02X}>"
    return token.replace("▁", " ")


def _alphabet() -> dict[str, int]:
    """Return the byte that each letter of byte-level tokens stands for."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(own))
    return {chr(b): b for b in own} | {chr(256 + k): b for k, b in enumerate(others)}


ALPHABET = _alphabet()


def _byte_level(token: str) -> str:
    """Return the text of a byte-level token; bytes that are part of a character by their
    numbers."""
    if not all(letter in ALPHABET for letter in token):
        return token
    text = bytes(ALPHABET[letter] for letter in token).decode("utf-8", "surrogateescape")
    return re.sub(r"[\udc80-\udcff]", lambda part: f"<0x{ord(part[0]) - 0xDC00:02X}>", text)


def check_embedded(
    tokenizer: Tokenizer, ids: Sequence[Sequence[int]], texts: Sequence[str], d_vocab: int
) -> None:
    """Raise where a token has no embedding in the model.

    Raises:
        ValueError: tokens were added to the tokenizer and the model was not resized.
    """
    for row, sequence in enumerate(ids):
        beyond = next((i for i in sequence if i >= d_vocab), None)
        if beyond is not None:
            raise ValueError(
                f"text {row} ({_excerpt(texts[row])}): token {tokenizer.convert_ids_to_tokens(beyond)!r} has id {beyond}, the "
                f"model a vocabulary of {d_vocab}; a token was added to the tokenizer alone: call "
                f"model.resize_token_embeddings({max(tokenizer.get_vocab().values()) + 1}) on the Hugging Face model and load "
                "that, or leave the token out"
            )


def check_known(
    tokenizer: Tokenizer, ids: Sequence[Sequence[int]], texts: Sequence[str], name: str = "texts"
) -> None:
    """Warn where a text is wholly unknown to the tokenizer, or more than a tenth of all, or is left
    out by it.

    Raises:
        ValueError: all of it is.
    """
    share, row, word = (
        _unknown(tokenizer, ids, texts) or _left_out(tokenizer, texts) or (0.0, 0, "")
    )
    if 0 < share <= UNKNOWN_SHARE:
        wholly = [
            row for row, text in enumerate(ids) if text and set(text) == {tokenizer.unk_token_id}
        ]
        if wholly:
            warn_user(
                f"the tokenizer knows nothing in {len(wholly)} of {len(texts)} texts, e.g. {_excerpt(texts[wholly[0]])}, text "
                f"{wholly[0]}: the model sees none of it; leave such texts out, or write them as its own are written"
            )
    if share <= UNKNOWN_SHARE:
        return
    example = f"e.g. {_excerpt(word)} of text {row}"
    if share == 1:
        raise ValueError(
            f"{name}: the tokenizer knows nothing in them, {example}; take a model of this language"
        )
    warn_user(
        f"the tokenizer does not know {share:.0%} of the texts, {example}: the model does not see it; take a model whose "
        "vocabulary has these words, or write the texts as its own are written (case, spaces)",
    )


def _unknown(
    tokenizer: Tokenizer, ids: Sequence[Sequence[int]], texts: Sequence[str]
) -> tuple[float, int, str] | None:
    """Return the share of unknown tokens, and a text and its word that is one; None if there are
    none."""
    unknown = tokenizer.unk_token_id
    row = next((row for row, sequence in enumerate(ids) if unknown in sequence), None)
    if row is None:
        return None
    counts = Counter(chain.from_iterable(ids))
    marks = zip(counts, tokenizer.convert_ids_to_tokens(list(counts)), strict=True)
    said = counts.total() - sum(
        counts[i] for i, token in marks if token in SPACES
    )  # spaces alone say nothing
    words = (
        word
        for word in texts[row].split()
        if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]
    )
    return counts[unknown] / said, row, next(words, texts[row])


def _left_out(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[float, int, str] | None:
    """Return the share of characters that a tokenizer without an unknown token passes over.

    With it comes a text with such a character.
    """
    if not texts or not getattr(tokenizer, "is_fast", False):
        return None
    if not SPACES.issuperset(
        tokenizer.convert_ids_to_tokens(tokenizer(RARE, add_special_tokens=False)["input_ids"])
    ):
        return None
    found = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    said, lost = 0, []
    for row, (text, ids, spans) in enumerate(
        zip(texts, found["input_ids"], found["offset_mapping"], strict=True)
    ):
        tokens = zip(tokenizer.convert_ids_to_tokens(ids), spans, strict=True)
        read = {place for token, (i, j) in tokens if token not in SPACES for place in range(i, j)}
        said += sum(not c.isspace() for c in text)
        lost += [(row, c) for place, c in enumerate(text) if place not in read and not c.isspace()]
    return (len(lost) / said, *lost[0]) if lost else None


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")
