"""The grammar's exact distribution over a tokenizer's ids, at every position that a model reads."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from steerlens.toy.batches import Pieces
from steerlens.toy.condition import Condition
from steerlens.toy.hmm import Grammar

Spelling = tuple[int, ...]


class ExpectedIds(NamedTuple):
    """P(next id | ids before, condition), position by position, the positions of a text together.

    A text of m ids has m + 1 positions: before its first id, then after each. `following` is the id
    that the text itself has next.
    """

    rows: sparse.csr_matrix
    following: Int[np.ndarray, " positions"]
    offset: Int[np.ndarray, " texts"]

    @property
    def entropy(self) -> Float[np.ndarray, " positions"]:
        """Return the entropy of each row, nats."""
        return self.cross_entropy(self)

    def cross_entropy(self, other: "ExpectedIds") -> Float[np.ndarray, " positions"]:
        """Return −Σ q log q′ of each row, q′ that of the other over the same texts, nats."""
        log = other.rows.copy()
        log.data = np.log(np.maximum(log.data, 1e-300))
        return -np.asarray(self.rows.multiply(log).sum(axis=1)).ravel()


def word_rows(
    grammar: Grammar, texts: Sequence[str], condition: Condition | None = None
) -> sparse.csr_matrix:
    """Return P(next word | words before, condition) at every position, `[positions, vocab]`.

    Example:
        >>> from steerlens.toy import grammar
        >>> rows = word_rows(grammar, ["the plot"])
        >>> bool(abs(rows[2].toarray()[0] - grammar.next_token("the plot")).max() < 1e-15)
        True
    """
    found = grammar.next_rows(texts, condition)
    shape = (found.n_positions, len(grammar.mixtures))
    weights = sparse.csr_matrix((found.weight, (found.position, found.row)), shape=shape)
    return sparse.csr_matrix(weights @ sparse.csr_matrix(grammar.mixtures))


def expected_ids(
    grammar: Grammar, texts: Sequence[str], condition: Condition | None, pieces: Pieces
) -> ExpectedIds:
    """Return the exact distribution over ids at every position of texts of the grammar.

    Where a word begins it is that of words by their first piece. Inside a word it is that of the
    words whose pieces begin as those so far, by their next piece; where those so far are a word
    themselves, also that of the word that would come after it.

    Args:
        texts: texts of the grammar, whole or not; the end of each is predicted too.
        condition: what the grammar is told; None: nothing.
        pieces: how each word is spelled in ids.

    Example:
        >>> from steerlens.toy import grammar
        >>> from steerlens.toy.batches import build_pieces
        >>> from steerlens.toy.tokens import word_tokenizer
        >>> pieces = build_pieces(grammar, word_tokenizer(grammar), 1286)
        >>> found = expected_ids(grammar, grammar.sample(3, seed=0), None, pieces)
        >>> bool(abs(found.rows.sum(axis=1) - 1).max() < 1e-12)
        True
    """
    spelling, n_ids = pieces.spelling, pieces.mixtures.shape[1]
    places = _Places(grammar, list(texts), spelling)
    rows = word_rows(grammar, texts, condition)
    first = _first_pieces(spelling, n_ids)
    # P(the word goes on, or is another that ends here) of all that begin as the pieces so far
    goes_on, ends = _parts_of_words(places, rows, spelling, n_ids)
    after = sparse.csr_matrix(rows[places.word] @ first)
    other = np.nonzero(places.another)[0]
    if len(other):
        # the text's own word is longer: what follows had it ended here takes a text that ends so
        cut = [places.shortened(int(at)) for at in other]
        last = np.cumsum([len(text.split()) + 1 for text in cut]) - 1
        instead = word_rows(grammar, cut, condition)[last] @ first
        own = sparse.diags((~places.another).astype(float)) @ after
        put = sparse.csr_matrix(
            (np.ones(len(other)), (other, np.arange(len(other)))), shape=(len(ends), len(other))
        )
        after = own + put @ instead
    found = sparse.csr_matrix(sparse.diags(ends) @ after + goes_on)
    return ExpectedIds(found, places.following, places.offset)


class _Places:
    """Every position of some texts: the word that it is in and how many pieces of it are read."""

    def __init__(self, grammar: Grammar, texts: list[str], spelling: tuple[Spelling, ...]) -> None:
        self.texts, self.words = [text.split() for text in texts], grammar.vocab
        spelled = [[0, *(grammar.word_index[word] for word in text), 0] for text in self.texts]
        # word i of all texts in a row is the one that row i of the grammar comes after
        row = [word for words in spelled for word in words[:-1]]
        lengths = np.array([len(spelling[word]) for word in row])
        self.word = np.repeat(np.arange(len(row)), lengths)
        self.piece = np.arange(len(self.word)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        self.so_far = [
            spelling[row[i]][: k + 1] for i, k in zip(self.word, self.piece, strict=True)
        ]
        whole = {pieces: word for word, pieces in enumerate(spelling)}
        self.so_far_word = [whole.get(pieces, -1) for pieces in self.so_far]
        ended = self.piece + 1 == lengths[self.word]
        self.another = np.array([word >= 0 for word in self.so_far_word]) & ~ended
        self.following = np.concatenate(
            [[i for word in words for i in spelling[word]][1:] for words in spelled]
        )
        counts = [sum(len(spelling[word]) for word in words[:-1]) for words in spelled]
        self.offset = np.cumsum([0, *counts])[:-1]
        self.begin = np.cumsum([0, *(len(words) - 1 for words in spelled)])

    def shortened(self, at: int) -> str:
        """Return the text up to the word that the pieces so far are, had it ended there."""
        text = int(np.searchsorted(self.begin, self.word[at], side="right")) - 1
        before = self.texts[text][: int(self.word[at] - self.begin[text]) - 1]
        return " ".join([*before, self.words[self.so_far_word[at]]])


def _first_pieces(spelling: tuple[Spelling, ...], n_ids: int) -> sparse.csr_matrix:
    ones, words = np.ones(len(spelling)), np.arange(len(spelling))
    return sparse.csr_matrix(
        (ones, (words, [s[0] for s in spelling])), shape=(len(spelling), n_ids)
    )


def _parts_of_words(
    places: _Places, rows: sparse.csr_matrix, spelling: tuple[Spelling, ...], n_ids: int
) -> tuple[sparse.csr_matrix, Float[np.ndarray, " positions"]]:
    """Return the probability of each next piece of the word that is being spelled, and that it ends
    here."""
    longer: dict[Spelling, list[int]] = defaultdict(list)
    for word, pieces in enumerate(spelling):
        for k in range(1, len(pieces)):
            longer[pieces[:k]].append(word)
    groups: dict[Spelling, list[int]] = defaultdict(list)
    for at, pieces in enumerate(places.so_far):
        if pieces in longer:
            groups[pieces].append(at)
    ends = np.ones(len(places.so_far))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for pieces, listed in groups.items():
        at, others = np.array(listed), longer[pieces]
        known = places.so_far_word[listed[0]]
        candidates = others if known < 0 else [*others, known]
        # the word being spelled is predicted by the row before its own
        mass = rows[places.word[at] - 1][:, candidates].toarray()
        mass /= mass.sum(axis=1, keepdims=True)
        ends[at] = 0.0 if known < 0 else mass[:, -1]
        next_piece = [spelling[word][len(pieces)] for word in others]
        part = mass[:, : len(others)]
        entries.append((np.repeat(at, len(others)), np.tile(next_piece, len(at)), part.ravel()))
    if not entries:
        return sparse.csr_matrix((len(ends), n_ids)), ends
    where, ids, mass = (np.concatenate(column) for column in zip(*entries, strict=True))
    return sparse.csr_matrix((mass, (where, ids)), shape=(len(ends), n_ids)), ends
