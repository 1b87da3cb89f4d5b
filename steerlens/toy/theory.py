"""Hidden Markov models as linear language models: when a matrix on the words is an exact steer.

    P(o_1 … o_T) = μ · D(o_1) T D(o_2) T … D(o_T) 1        D(o) = diag(P(o | state))

so that, with the belief `b` over the state that emits the next word, `P(o | words before) = b · p(o)`,
`p(o)` the column of emission probabilities: contexts times word vectors, without a softmax.

The theorem that holds. Let every state have a condition that never changes (`T` is block-diagonal)
and let the prior of the conditions be turned from π to π′. Then W = diag(π′(y)/π(y)) on the belief
gives the new model exactly, at every position:

    c W E / (c W 1) = P′(o | words before)

for every joint probability of words and a state of condition y is π(y) times what does not know π.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from steerlens.toy.hmm import Grammar


class HiddenMarkov(NamedTuple):
    """A hidden Markov model whose states have a condition.

    Args:
        start: P(first state).
        transition: P(next state | state), rows sum to 1.
        emission: P(word | state), rows sum to 1.
        condition: of each state.
    """

    start: Float[np.ndarray, " states"]
    transition: Float[np.ndarray, "states states"]
    emission: Float[np.ndarray, "states vocab"]
    condition: Int[np.ndarray, " states"]

    def beliefs(self, words: Sequence[int]) -> Float[np.ndarray, "positions states"]:
        """Return the belief over the state that emits each next word: before the first word, then
        after each.

        Example:
            >>> hmm = random_hmm(2, 3, 4, seed=0)
            >>> hmm.beliefs([1, 2]).shape
            (3, 6)
        """
        rows = [self.start / self.start.sum()]
        for word in words:
            after = (rows[-1] * self.emission[:, word]) @ self.transition
            rows.append(after / after.sum())
        return np.stack(rows)

    def with_prior(self, ratio: Float[np.ndarray, " conditions"]) -> "HiddenMarkov":
        """Return the model whose prior over conditions is multiplied by `ratio`, and normalised."""
        start = self.start * ratio[self.condition]
        return self._replace(start=start / start.sum())


def random_hmm(
    n_conditions: int, n_states: int, vocab: int, *, redraw: float = 0.0, seed: int = 0
) -> HiddenMarkov:
    """Draw a model with `n_states` per condition, all its distributions from flat Dirichlets.

    Args:
        redraw: the chance per step that the condition is drawn anew, uniformly; the place within
            the condition's states is kept.

    Example:
        >>> bool(np.allclose(random_hmm(2, 3, 4).transition.sum(axis=1), 1))
        True
    """
    random = np.random.default_rng(seed)
    n = n_conditions * n_states
    condition = np.repeat(np.arange(n_conditions), n_states)
    transition = np.zeros((n, n))
    for y in range(n_conditions):
        block = slice(y * n_states, (y + 1) * n_states)
        transition[block, block] = random.dirichlet(np.ones(n_states), n_states)
    swap = np.kron(np.full((n_conditions, n_conditions), 1 / n_conditions), np.eye(n_states))
    transition = transition @ ((1 - redraw) * np.eye(n) + redraw * swap)
    start = random.dirichlet(np.ones(n))
    return HiddenMarkov(start, transition, random.dirichlet(np.ones(vocab), n), condition)


class Linear(NamedTuple):
    """A linear language model: P(o | words before) ∝ c · W e_o, contexts and word vectors in any
    basis of the belief's space.

        c = b R₁ᵀ        e_o = R₂ p(o)        R₁ᵀ R₂ = 1

    Source: Han et al. (arXiv 2305.12798), appendix C, proposition 1.
    """

    R1: Float[np.ndarray, "d states"]
    R2: Float[np.ndarray, "d states"]
    emission: Float[np.ndarray, "states vocab"]

    def predict(
        self, belief: Float[np.ndarray, "positions states"], W: Float[np.ndarray, "d d"]
    ) -> Float[np.ndarray, "positions vocab"]:
        """Return the normalised rows of `c W E`."""
        rows = belief @ self.R1.T @ W @ self.R2 @ self.emission
        return rows / rows.sum(axis=1, keepdims=True)

    def steer(self, weight: Float[np.ndarray, " states"]) -> Float[np.ndarray, "d d"]:
        """Return the matrix that is `diag(weight)` on the belief: `R₁⁺ᵀ diag(weight) R₂⁺`."""
        return np.linalg.pinv(self.R1.T) @ np.diag(weight) @ np.linalg.pinv(self.R2)


def in_basis(hmm: HiddenMarkov, d: int, seed: int = 0) -> Linear:
    """Write a model in a random basis of `d` dimensions, at least one per state.

    Example:
        >>> hmm = random_hmm(2, 2, 3)
        >>> form = in_basis(hmm, 6)
        >>> bool(np.allclose(form.R1.T @ form.R2, np.eye(4)))
        True
    """
    n = len(hmm.start)
    if d < n:
        raise ValueError(f"d: got {d}, expected at least {n}, one dimension for each state")
    R2 = np.random.default_rng(seed).standard_normal((d, n))
    return Linear(np.linalg.pinv(R2).T, R2, hmm.emission)


# ---- the published assumptions ----


class Residuals(NamedTuple):
    """How far a model is from assumption 1 of the paper, with the condition features that it forces.

    With a stochastic `T` and a persisting condition each condition feature is constant on one
    closed class of states, `φ_k = 1_k / √n_k`, and has to be an eigenvector of `T` from both sides.

    Args:
        right: largest |T φ_k − φ_k|: 0 where conditions persist.
        left: largest |φ_k T − φ_k|: 0 only where every state of the class is visited equally often.
        third: the least that `max_k Σ_s φ_i² φ_k` can be, over every choice of a semantic feature
            `φ_i` of energy 1 whose states all have a condition; the assumption asks for 0.
    """

    right: float
    left: float
    third: float


def assumption_residuals(
    transition: sparse.csr_matrix, condition: Int[np.ndarray, " states"]
) -> Residuals:
    """Measure the paper's assumption 1 on a chain whose condition persists.

    `Σ_k √n_k Σ_s φ_i² φ_k = Σ_s φ_i² = 1` whatever `φ_i` is, so the largest of the third-order sums
    is `1 / Σ_k √n_k` at least: with a condition everywhere, meaning is nowhere. More states make the
    number small, and the contradiction no smaller.

    Example:
        >>> hmm = random_hmm(2, 3, 4)
        >>> found = assumption_residuals(sparse.csr_matrix(hmm.transition), hmm.condition)
        >>> found.right < 1e-12, found.left > 0.1, found.third > 0.1
        (True, True, True)
    """
    sizes = np.bincount(condition)
    right = left = 0.0
    for k, n in enumerate(sizes):
        phi = (condition == k) / np.sqrt(n)
        right = max(right, float(np.linalg.norm(transition @ phi - phi)))
        left = max(left, float(np.linalg.norm(transition.T @ phi - phi)))
    return Residuals(right, left, float(1 / np.sqrt(sizes).sum()))


def grammar_chain(grammar: Grammar) -> tuple[sparse.csr_matrix, Int[np.ndarray, " states"]]:
    """Return the transitions of a grammar that never ends, over (condition × template × position),
    and each state's condition.

    Example:
        >>> from steerlens.toy import grammar
        >>> T, condition = grammar_chain(grammar)
        >>> bool(np.allclose(T.sum(axis=1), 1)), int(condition.max())
        (True, 89)
    """
    length, start = grammar.tables.length, grammar.tables.start
    begin = np.cumsum(length) - length
    n = int(length.sum())
    inside = np.setdiff1d(np.arange(n), begin + length - 1)
    rows, columns, values = [], [], []
    for y in range(len(start)):
        rows += [y * n + inside, y * n + np.repeat(begin + length - 1, len(length))]
        columns += [y * n + inside + 1, y * n + np.tile(begin, len(length))]
        values += [np.ones(len(inside)), np.tile(start[y], len(length))]
    at = (np.concatenate(rows), np.concatenate(columns))
    T = sparse.csr_matrix((np.concatenate(values), at), shape=(n * len(start), n * len(start)))
    return T, np.repeat(np.arange(len(start)), n)


# ---- what a softmax with free contexts and words can do ----


class Softmax(NamedTuple):
    """Logits `(c + s cW) E` of every history, with signs s = ±1 for two distributions."""

    c: Float[np.ndarray, "histories d"]
    E: Float[np.ndarray, "d vocab"]
    W: Float[np.ndarray, "d d"]

    def predict(self, sign: int) -> Float[np.ndarray, "histories vocab"]:
        z = (self.c + sign * self.c @ self.W) @ self.E
        p = np.exp(z - z.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)


def two_worlds(
    plus: Float[np.ndarray, "histories vocab"], minus: Float[np.ndarray, "histories vocab"]
) -> Softmax:
    """Return contexts, words and a diagonal W with `P_{+W} = plus` and `P_{−W} = minus`, whatever
    these next-word distributions are, as long as no entry is 0.

    Two dimensions per history: `c = (1, 1)` there and 0 elsewhere, W = diag(0, 1), and word vectors

        u = (log plus − log minus) / 2,  m = (log plus + log minus) / 2 − u:    m + (1 ± 1) u = log P_±

    Existence over free contexts and words: of a trained model, whose contexts and words are given,
    it says nothing.
    Source: Han et al. (arXiv 2305.12798), appendix I.

    Example:
        >>> model = two_worlds(np.array([[0.9, 0.1]]), np.array([[0.2, 0.8]]))
        >>> model.predict(1).round(3).tolist(), model.predict(-1).round(3).tolist()
        ([[0.9, 0.1]], [[0.2, 0.8]])
    """
    if plus.shape != minus.shape or min(plus.min(), minus.min()) <= 0:
        raise ValueError(
            f"plus, minus: got shapes {plus.shape} and {minus.shape}, least entry {min(plus.min(), minus.min()):g}; "
            "expected one shape and positive probabilities: a softmax reaches 0 only in the limit"
        )
    u = (np.log(plus) - np.log(minus)) / 2
    m = (np.log(plus) + np.log(minus)) / 2 - u
    n = len(plus)
    return Softmax(np.tile(np.eye(n), 2), np.concatenate([m, u]), np.diag(np.repeat([0.0, 1.0], n)))
