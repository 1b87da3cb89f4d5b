"""What lies near what: neighbours, analogies, and similarity as people judge it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor

from steerlens.analysis.embeddings.table import Embedding, Found, enough

Question = tuple[str, str, str, str]
CHUNK, DRAWS = 512, 1_000


def neighbours(emb: Embedding, words: Sequence[str], n: int = 10) -> Found:
    """The nearest words by cosine.

    Returns:
        One row a neighbour: `word`, `rank`, `neighbour`, `cosine`.

    Example:
        >>> emb = Embedding(("cat", "dog", "tea"), torch.tensor([[1.0, 0], [1, 0.2], [0, 1]]))
        >>> neighbours(emb, ["cat"], n=1).table.neighbour.tolist()
        ['dog']
    """
    rows, dropped = emb.find(words)
    enough("words", rows, 1, dropped)
    cosine = emb.unit[rows] @ emb.unit.mT
    cosine[torch.arange(len(rows)), rows] = -torch.inf
    top = torch.topk(cosine, min(n, len(emb.words) - 1))
    table = [
        (emb.words[row], rank, emb.words[i], value)
        for row, values, places in zip(rows, top.values.tolist(), top.indices.tolist(), strict=True)
        for rank, (value, i) in enumerate(zip(values, places, strict=True), 1)
    ]
    return Found(pd.DataFrame(table, columns=["word", "rank", "neighbour", "cosine"]), dropped)


def analogies(
    emb: Embedding,
    questions: Iterable[Question] | Mapping[str, Iterable[Question]],
    *,
    method: Literal["add", "mul"] = "add",
) -> Found:
    """ "a is to b as c is to …": how often the fourth word is found.

        add:  argmax_w  cos(w, b) − cos(w, a) + cos(w, c)
        mul:  argmax_w  cos'(w, b) · cos'(w, c) / (cos'(w, a) + 0.001)        cos' = (cos + 1) / 2

    Source: Levy and Goldberg (CoNLL 2014). The three words of the question are no answers, as is usual; that flatters every
    model, because the nearest word to b − a + c is mostly b or c itself. Of `questions-words`, a model of some thousand
    tokens has few words: see `kept`, and the interval.

    Args:
        questions: of four words, or sections of them by name.
        method: as above.

    Returns:
        One row a section and one for "all": `section`, `asked`, `kept` (all four words are single tokens), `accuracy` with its
        95 % Wilson interval `low`, `high`, `reciprocal_rank` (mean), `chance` (of a random word).

    Raises:
        ValueError: another method, or no question whose words are all there.

    Example:
        >>> emb = Embedding(("king", "man", "queen", "woman", "tea"),
        ...                 torch.tensor([[1.0, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1], [-1, 0, 0]]))
        >>> analogies(emb, [("man", "king", "woman", "queen")]).table.accuracy.tolist()
        [1.0, 1.0]
    """
    if method not in ("add", "mul"):
        raise ValueError(f"method: got {method!r}, expected 'add' or 'mul'")
    sections = dict(questions) if isinstance(questions, Mapping) else {"questions": questions}
    asked, rows, owner, dropped = {}, [], [], dict[str, None]()
    for name, part in sections.items():
        part = list(part)
        asked[name] = len(part)
        for question in part:
            found, missing = emb.find(question)
            dropped |= dict.fromkeys(missing)
            if not missing:
                rows.append(found)
                owner.append(name)
    enough("questions", rows, 1, tuple(dropped))
    ranks = _ranks(emb, torch.tensor(rows), method).numpy()
    owners = np.array(owner)
    table = []
    for name in [*sections, "all"]:
        mine = ranks if name == "all" else ranks[owners == name]
        n = sum(asked.values()) if name == "all" else asked[name]
        right = int((mine == 1).sum())
        low, high = wilson(right, len(mine))
        share, reciprocal = (right / len(mine), float((1 / mine).mean())) if len(mine) else (np.nan, np.nan)
        table.append((name, n, len(mine), share, low, high, reciprocal, 1 / max(len(emb.words) - 3, 1)))
    columns = ["section", "asked", "kept", "accuracy", "low", "high", "reciprocal_rank", "chance"]
    return Found(pd.DataFrame(table, columns=columns), tuple(dropped))


def _ranks(emb: Embedding, rows: Int[Tensor, "n 4"], method: str) -> Int[Tensor, " n"]:
    """The place of the right answer among all words but the three of the question."""
    found = []
    for part in rows.split(CHUNK):
        a, b, c = (emb.unit[part[:, k]] @ emb.unit.mT for k in range(3))
        if method == "add":
            score = b - a + c
        else:
            a, b, c = ((x + 1) / 2 for x in (a, b, c))
            score = b * c / (a + 1e-3)
        answer = score.gather(1, part[:, 3:])
        score.scatter_(1, part[:, :3], -torch.inf)
        found.append((score > answer).sum(1) + 1)
    return torch.cat(found)


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    Example:
        >>> [round(x, 3) for x in wilson(8, 10)]
        [0.49, 0.943]
    """
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    p, factor = right / n, 1 + z * z / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return float(max((middle - half) / factor, 0)), float(min((middle + half) / factor, 1))


def word_similarity(emb: Embedding, pairs: Iterable[tuple[str, str, float]], *, seed: int = 0) -> Found:
    """Spearman's correlation of cosines with people's judgements of word pairs (WordSim-353 and the like).

    Returns:
        One row: `correlation` with its 95 % bootstrap interval over pairs `low`, `high`, `pairs` (kept), `asked`.

    Raises:
        ValueError: fewer than five pairs whose words are both single tokens.

    Example:
        >>> emb = Embedding(tuple("abcdef"), torch.arange(12.0).reshape(6, 2))
        >>> pairs = [("a", "b", 1), ("b", "c", 2), ("c", "d", 3), ("d", "e", 4), ("e", "f", 5)]
        >>> round(float(word_similarity(emb, pairs).table.correlation[0]), 6)
        1.0
    """
    kept, dropped, asked = [], dict[str, None](), 0
    for one, other, score in pairs:
        asked += 1
        rows, missing = emb.find((one, other))
        dropped |= dict.fromkeys(missing)
        if not missing:
            kept.append((*rows, float(score)))
    enough("pairs", kept, 5, tuple(dropped))
    i, j, judged = (np.array(column) for column in zip(*kept, strict=True))
    cosine: Float[np.ndarray, " n"] = (emb.unit[i] * emb.unit[j]).sum(1).numpy()
    random = np.random.default_rng(seed)
    draws = random.integers(0, len(kept), (DRAWS, len(kept)))
    values = [spearmanr(cosine[d], judged[d]).statistic for d in draws if len(set(judged[d])) > 1]
    low, high = np.nanquantile(values, (0.025, 0.975))
    row = {
        "correlation": spearmanr(cosine, judged).statistic,
        "low": low,
        "high": high,
        "pairs": len(kept),
        "asked": asked,
    }
    return Found(pd.DataFrame([row]), tuple(dropped))
