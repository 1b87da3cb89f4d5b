"""Which columns of an unembedding are whole words, for tables that people read."""

import torch

from steerlens.values.readout import Readout
from steerlens.values.states import States


def word_columns(readout: Readout, states: States | None = None) -> list[int]:
    """Return the ids of tokens that are whole words of letters, one of each up to case.

    Of two spellings the first id stays. Where the tokenizer marks a leading space only tokens that
    have it count. Beginnings of longer words are among those: given the states of a text, a token
    that was continued there more often than not is left out, and so is one that never occurs there.
    Special tokens and padding rows never count.

    Example:
        >>> import torch
        >>> on = Readout(torch.eye(4), torch.zeros(4), (" Good", " good", "ness", " !"))
        >>> word_columns(on)
        [0]
    """
    ids = readout.word_ids.tolist()
    spaced = any(readout.tokens[i].startswith(" ") for i in ids)
    pieces = _no_words(readout, states) if spaced and states is not None else set()
    seen: dict[str, int] = {}
    for i in ids:
        token = readout.tokens[i]
        if token.strip().isalpha() and token.startswith(" ") == spaced and i not in pieces:
            seen.setdefault(token.strip().lower(), i)
    return list(seen.values())


def _no_words(readout: Readout, states: States) -> set[int]:
    """Return tokens that a text continues without a space more often than not, or does not have."""
    goes_on = torch.tensor(
        [token[:1].isalnum() for token in readout.tokens]
    )  # no space, a letter or digit first
    seen, continued = torch.zeros(2, len(readout.tokens)).unbind()
    for chunk in states.chunks(1 << 16):
        token, following = chunk.next[:-1], chunk.next[1:]
        same = chunk.text[:-1] == chunk.text[1:]
        seen.index_add_(0, chunk.next, torch.ones(len(chunk.next)))
        continued.index_add_(0, token[same], goes_on[following[same]].float())
    return set((continued >= seen / 2).nonzero().squeeze(1).tolist())
