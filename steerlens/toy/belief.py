"""The grammar as a linear model, P(next word) = c · e: its exact belief over condition and place.

`Grammar` does its sums sentence by sentence and lets go of the condition where a word does not
depend on it. Here the belief is carried word by word with the condition kept everywhere, which is
what a change of the condition's prior acts on; and the condition may be drawn anew on the way.
"""

import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from steerlens.toy.hmm import Grammar
from steerlens.toy.sample import draw_rows
from steerlens.toy.tables import FACTORS, TERMINATORS


@dataclass(frozen=True, eq=False)
class LinearModel:
    """P(next word | words before) = c E at every position of some texts.

    A column of `c` is a condition and a distribution of words (an emission row, or the end of the
    text); `c` holds the belief that the next word is drawn so. Position j of a text comes after j
    words.

    Args:
        c: beliefs, `[positions, conditions · rows]`, rows sum to 1.
        E: of each column the distribution that it stands for, `[conditions · rows, vocab]`.
        condition: of each column.
        text: of each position.
    """

    c: sparse.csr_matrix
    E: sparse.csr_matrix
    condition: Int[np.ndarray, " columns"]
    text: Int[np.ndarray, " positions"]

    def predict(
        self, weight: Float[np.ndarray, " conditions"] | None = None
    ) -> Float[np.ndarray, "positions vocab"]:
        """Return P(next word), or with the steer `W = diag(weight of the column's condition)`

            c W E / (c W 1)

        Example:
            >>> from steerlens.toy import grammar
            >>> model = exact_linear_model(grammar, ["the plot"])
            >>> bool(np.allclose(model.predict()[2], grammar.next_token("the plot")))
            True
        """
        c = self.c if weight is None else self.c @ sparse.diags(weight[self.condition])
        rows = _dense(c @ self.E)
        total = rows.sum(axis=1, keepdims=True)
        return np.divide(rows, total, out=rows, where=total > 0)

    def belief(self) -> Float[np.ndarray, "positions conditions"]:
        """Return P(condition | words before)."""
        n = int(self.condition.max()) + 1
        ones, columns = np.ones(len(self.condition)), np.arange(len(self.condition))
        by_condition = sparse.csr_matrix((ones, (columns, self.condition)), shape=(len(ones), n))
        return _dense(self.c @ by_condition)


def exact_linear_model(
    grammar: Grammar,
    texts: Sequence[str],
    prior: Float[np.ndarray, " conditions"] | None = None,
    *,
    redraw: float = 0.0,
) -> LinearModel:
    """Return the grammar as a linear model over some texts.

    Forward messages over (condition × template × position in it), normalised at every word, then
    summed over templates that draw the next word from the same distribution.

    Args:
        texts: texts of the grammar, whole or not.
        prior: of the condition at the beginning; None: uniform, as the grammar has it.
        redraw: the chance, after every word, that the condition is drawn anew from the uniform
            prior. The grammar has 0: its condition persists.

    Example:
        >>> from steerlens.toy import grammar
        >>> model = exact_linear_model(grammar, ["the plot was"])
        >>> bool(np.allclose(model.belief()[0], 1 / 90))
        True
    """
    tables = grammar.tables
    n_conditions, n_rows = len(tables.start), len(tables.emission)  # the last stands for the end
    prior = np.full(n_conditions, 1 / n_conditions) if prior is None else prior
    parts = []
    for text, one in enumerate(texts):
        for place, (inside, stop) in enumerate(_messages(grammar, one, prior, redraw)):
            template, condition = np.nonzero(inside[1])
            column = condition * n_rows + tables.row[template, inside[0], condition]
            mass = (1 - stop) * inside[1][template, condition]
            parts.append((text, place, column, mass))
            if stop:
                ends = np.arange(n_conditions) * n_rows + n_rows - 1
                parts.append((text, place, ends, stop * inside[1].sum(axis=0)))
    lengths = np.array([len(one.split()) + 1 for one in texts])
    offset = np.cumsum(lengths) - lengths
    at = np.concatenate([np.full(len(part[2]), offset[part[0]] + part[1]) for part in parts])
    columns, mass = (np.concatenate([part[k] for part in parts]) for k in (2, 3))
    shape = (int(lengths.sum()), n_conditions * n_rows)
    c = sparse.csr_matrix((mass, (at, columns)), shape=shape)
    emission = tables.emission[:, :-1].copy()
    emission[-1, 0] = 1.0
    E = sparse.csr_matrix(np.tile(emission, (n_conditions, 1)))
    condition = np.repeat(np.arange(n_conditions), n_rows)
    return LinearModel(c, E, condition, np.repeat(np.arange(len(lengths)), lengths))


Message = tuple[tuple[int, Float[np.ndarray, "templates conditions"]], float]


def _messages(
    grammar: Grammar, text: str, prior: Float[np.ndarray, " conditions"], redraw: float
) -> Iterator[Message]:
    """Yield, before each word and after the last, the position in the sentence with the belief over
    template and condition, and the chance that the text ends here."""
    tables, fresh = grammar.tables, 1 / len(grammar.tables.start)
    belief, position, done = prior * tables.start.T, 0, 0
    ends = 0.0
    for word in [*text.split(), None]:
        yield (position, belief), ends
        if word is None:
            return
        index = grammar.word_index.get(word, len(tables.vocab))
        row = tables.row[:, min(position, tables.row.shape[1] - 1)]
        belief = belief * tables.by_word[index][row]
        belief = belief / max(belief.sum(), 1e-300)
        if redraw:
            kept = belief.sum(axis=1, keepdims=True)
            belief = (1 - redraw) * belief + redraw * fresh * kept
        position, ends = position + 1, 0.0
        if word in TERMINATORS:
            done, position = done + 1, 0
            ends = grammar.stop if done >= grammar.min_sentences else 0.0
            belief = belief.sum(axis=0) * tables.start.T


def exact_beliefs(
    grammar: Grammar,
    texts: Sequence[str],
    prior: Float[np.ndarray, " conditions"] | None = None,
    *,
    redraw: float = 0.0,
) -> Float[np.ndarray, "positions conditions"]:
    """Return P(condition | words before) at every position, `LinearModel.belief` without the rest.

    Example:
        >>> from steerlens.toy import grammar
        >>> exact_beliefs(grammar, ["the plot was"]).shape
        (4, 90)
    """
    n = len(grammar.tables.start)
    prior = np.full(n, 1 / n) if prior is None else prior
    return np.stack(
        [
            inside[1].sum(axis=0)
            for text in texts
            for inside, _ in _messages(grammar, text, prior, redraw)
        ]
    )


def revealed_grade(
    model: LinearModel, grade: Float[np.ndarray, " conditions"]
) -> Float[np.ndarray, "positions vocab"]:
    """Return how much each next word would change the expected grade of the text.

        E[g | words, v] − E[g | words] = ∂/∂κ log P_κ(v | words) at κ = 0        P_κ: prior ∝ exp(κ g)

    It is what a shift of the log-prior adds to the word's log-probability: the logit shift that a
    steer has if it does what the theorem's does. 0 for words that cannot follow.

    Args:
        model: of the grammar on some texts.
        grade: of each condition.

    Example:
        >>> from steerlens.toy import grammar
        >>> model = exact_linear_model(grammar, ["the plot was"])
        >>> grade = grades_of(grammar, "sentiment")
        >>> found = revealed_grade(model, grade)[3]
        >>> bool(found[grammar.word_index["superb"]] > 0.5)
        True
    """
    plain = _dense(model.c @ model.E)
    graded = _dense(model.c @ sparse.diags(grade[model.condition]) @ model.E)
    mean = (model.belief() @ grade)[:, None]
    return np.where(plain > 0, graded / np.maximum(plain, 1e-300) - mean, 0.0)


def grades_of(grammar: Grammar, factor: str) -> Float[np.ndarray, " conditions"]:
    """Return the grade of each condition in "sentiment" or "tone".

    Example:
        >>> from steerlens.toy import grammar
        >>> sorted(set(grades_of(grammar, "tone").tolist()))
        [-1.0, 0.0, 1.0]
    """
    if factor not in ("sentiment", "tone"):
        raise ValueError(
            f'factor: got {reprlib.repr(factor)}, expected "sentiment" or "tone", which have grades'
        )
    levels = grammar.tables.levels[:, FACTORS.index(factor)]
    return np.array(grammar.axes[factor], dtype=float)[levels]


def sample_with_redraw(
    grammar: Grammar,
    n: int,
    prior: Float[np.ndarray, " conditions"],
    *,
    redraw: float,
    seed: int = 0,
) -> list[str]:
    """Draw texts whose condition comes from `prior` and is drawn anew, uniformly, with chance
    `redraw` after every word.

    Example:
        >>> from steerlens.toy import grammar
        >>> prior = np.eye(90)[0]
        >>> len(sample_with_redraw(grammar, 2, prior, redraw=0.1, seed=0))
        2
    """
    tables, random = grammar.tables, np.random.default_rng(seed)
    start, emission = tables.start.cumsum(axis=1), tables.emission[:-1].cumsum(axis=1)
    n_conditions, texts = len(tables.start), []

    def draw(ladder: Float[np.ndarray, "rows n"], row: int) -> int:
        return int(draw_rows(ladder, np.array([row]), random)[0])

    for condition in random.choice(n_conditions, size=n, p=prior / prior.sum()):
        words: list[str] = []
        for _ in range(grammar.min_sentences - 1 + int(random.geometric(grammar.stop))):
            template = draw(start[[condition]], 0)
            for position in range(int(tables.length[template])):
                row = int(tables.row[template, position, condition])
                words.append(tables.vocab[draw(emission[[row]], 0)])
                if random.random() < redraw:
                    condition = random.integers(n_conditions)
        texts.append(" ".join(words))
    return texts


def tilted_prior(grammar: Grammar, factor: str, tilt: float) -> Float[np.ndarray, " conditions"]:
    """Return the prior ∝ exp(tilt · grade): a shift of the log-prior by `tilt` times the grade.

    Example:
        >>> from steerlens.toy import grammar
        >>> p = tilted_prior(grammar, "sentiment", 2.0)
        >>> round(float(p.max() / p.min()), 3) == round(float(np.exp(4)), 3)
        True
    """
    weight = np.exp(tilt * grades_of(grammar, factor))
    return weight / weight.sum()


def kl_rows(
    p: Float[np.ndarray, "positions vocab"], q: Float[np.ndarray, "positions vocab"]
) -> Float[np.ndarray, " positions"]:
    """Return KL(p ‖ q) of each row, nats; infinite where q rules out what p allows."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0).sum(axis=1)


def _dense(product: Any) -> Float[np.ndarray, "rows columns"]:
    """Return a sparse product as an array; scipy's stubs take it for an array already."""
    return product.toarray()
