"""Drawing texts from the tables, all texts at once."""

import numpy as np
from jaxtyping import Float, Int

from steerlens.toy.tables import Tables


def draw_rows(
    cumulative: Float[np.ndarray, "rows n"],
    row: Int[np.ndarray, " draws"],
    generator: np.random.Generator,
) -> Int[np.ndarray, " draws"]:
    """Draw one index for each requested row, inverting all distribution functions laid end to
    end."""
    n = cumulative.shape[1]
    ladder = (cumulative / cumulative[:, -1:] + np.arange(len(cumulative))[:, None]).ravel()
    found = np.searchsorted(ladder, row + generator.random(len(row)), side="right")
    return np.clip(found - row * n, 0, n - 1)


def draw_texts(
    tables: Tables,
    conditions: Int[np.ndarray, " texts"],
    min_sentences: int,
    stop: float,
    generator: np.random.Generator,
) -> list[str]:
    """Draw one text for each condition.

    Draw sentences until it stops, a template for each, a word at each place.
    """
    n_sentences = min_sentences - 1 + generator.geometric(stop, len(conditions))
    owner = np.repeat(np.arange(len(conditions)), n_sentences)
    template = draw_rows(tables.start.cumsum(axis=1), conditions[owner], generator)
    length = tables.length[template]
    sentence = np.repeat(np.arange(len(owner)), length)
    position = np.arange(len(sentence)) - np.repeat(np.cumsum(length) - length, length)
    row = tables.row[template[sentence], position, conditions[owner[sentence]]]
    # The last row is padding: it sums to 0 and no sentence asks for it.
    word = draw_rows(tables.emission[:-1].cumsum(axis=1), row, generator)
    ends = np.cumsum(np.bincount(owner[sentence], minlength=len(conditions)))[:-1]
    return [" ".join(tables.vocab[i] for i in part) for part in np.split(word, ends)]
