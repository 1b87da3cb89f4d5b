"""What a language model of the grammar is trained on: fresh texts, and what should be predicted
where."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.toy.hmm import Grammar
from steerlens.toy.tokens import Tokenizer, load_pieces

N_POSITIONS = 256


@dataclass(frozen=True, eq=False)
class Pieces:
    """How each token of the grammar is spelled in ids, and the exact mixtures over first pieces."""

    spelling: tuple[tuple[int, ...], ...]
    extendable: Bool[np.ndarray, " vocab"]
    mixtures: Float[Tensor, "rows ids"]


def build_pieces(grammar: Grammar, tokenizer: Tokenizer, n_ids: int) -> Pieces:
    """Spell every word.

    `extendable` marks words whose pieces begin a longer word: there q alone does not say what
    follows.
    """
    spelling = load_pieces(tokenizer, grammar.vocab)
    longer = {pieces[:k] for pieces in spelling for k in range(1, len(pieces))}
    extendable = np.array([pieces in longer for pieces in spelling])
    first = np.zeros((len(grammar.vocab), n_ids), dtype=np.float32)
    first[np.arange(len(first)), [pieces[0] for pieces in spelling]] = 1.0
    return Pieces(
        spelling, extendable, torch.from_numpy(grammar.mixtures.astype(np.float32) @ first)
    )


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded ids, the places (in the flattened batch) that predict, and what they should
    predict."""

    ids: Int[Tensor, "texts positions"]
    place: Int[Tensor, " predictions"]
    target: Float[Tensor, "predictions ids"]
    n_tokens: int


def build_batch(texts: list[str], grammar: Grammar, pieces: Pieces) -> Batch:
    """Encode texts as bos, words, eos; exact distributions where a word begins, sampled pieces
    elsewhere."""
    words = [[0, *(grammar.word_index[word] for word in text.split()), 0] for text in texts]
    spelled = [[id_ for word in row for id_ in pieces.spelling[word]] for row in words]
    width = max(len(ids) for ids in spelled) - 1
    ids = np.zeros((len(texts), width), dtype=int)
    exact, sampled, following = [], [], []
    for i, (row, spell) in enumerate(zip(words, spelled, strict=True)):
        ids[i] = (spell[:-1] + [0] * width)[:width]
        lengths = np.array([len(pieces.spelling[word]) for word in row[:-1]])
        last = np.cumsum(lengths) - 1
        exact.append(i * width + last)
        inside = np.setdiff1d(np.arange(last[-1]), last)
        sampled.append(i * width + inside)
        following.append((np.array(spell)[last + 1], np.array(spell)[inside + 1]))
    rows = grammar.next_rows(texts)
    weights = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([rows.position, rows.row])),
        torch.from_numpy(rows.weight.astype(np.float32)),
        (rows.n_positions, len(pieces.mixtures)),
        check_invariants=False,
    )
    target = torch.sparse.mm(weights, pieces.mixtures)
    unsure = np.nonzero(np.concatenate([pieces.extendable[row[:-1]] for row in words]))[0]
    target[unsure] = one_hot(np.concatenate([f[0] for f in following])[unsure], target.shape[1])
    target = torch.cat(
        [target, one_hot(np.concatenate([f[1] for f in following]), target.shape[1])]
    )
    place = torch.from_numpy(np.concatenate(exact + sampled))
    return Batch(torch.from_numpy(ids), place, target, rows.n_positions)


def one_hot(ids: Int[np.ndarray, " n"], n_ids: int) -> Float[Tensor, "n ids"]:
    """Return a row with a single 1 for each id."""
    return torch.nn.functional.one_hot(torch.from_numpy(ids), n_ids).float()


def training_batches(grammar: Grammar, pieces: Pieces, tokens: int, seed: int) -> Iterator[Batch]:
    """Yield fresh batches without end.

    2,048 texts at a time are sorted by length so that little is padding.

    `tokens` bounds the padded positions of a batch; texts of more than `N_POSITIONS` ids are left
    out.
    """
    generator = np.random.default_rng(seed)
    while True:
        texts = grammar.sample(2048, seed=int(generator.integers(2**31)))
        length = np.array([spelled_length(text, grammar, pieces) for text in texts])
        batches: list[list[str]] = [[]]
        for i in np.argsort(length, kind="stable"):
            if length[i] > N_POSITIONS:
                break
            if (len(batches[-1]) + 1) * length[i] > tokens:
                batches.append([])
            batches[-1].append(texts[i])
        for b in generator.permutation(len(batches)):
            yield build_batch(batches[b], grammar, pieces)


def spelled_length(text: str, grammar: Grammar, pieces: Pieces) -> int:
    """Return the number of positions that a text occupies: bos and all pieces."""
    return 1 + sum(len(pieces.spelling[grammar.word_index[word]]) for word in text.split())
