"""What lies near what: neighbours, analogies, and similarity as people judge it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.analysis.embeddings.table import (
    Embedding,
    ResultTable,
    check_embedding,
    require_at_least,
)
from steerlens.maths.brief import brief
from steerlens.maths.numbers import numpy_generator
from steerlens.maths.stats import rank_correlation, share_interval
from steerlens.maths.torch_defaults import torch_defaults

Question = tuple[str, str, str, str]
CHUNK, DRAWS = 512, 1_000


@torch_defaults()
def neighbours(emb: Embedding, words: str | Sequence[str], n: int = 10) -> ResultTable:
    """Return the nearest words by cosine, `cos(e, e') = e · e' / |e| |e'|`.

    Near means used in the same places, not meaning the same: of `good` the nearest three include
    `bad` in a GPT-2 of d_model 192, and `terrible` lies among `fantastic` and `wonderful`.

    Args:
        words: a word or several; one that comes twice is listed once.
        n: neighbours of each, at most all other words.

    Returns:
        One row a neighbour: `word`, `rank`, `neighbour`, `cosine`.

    Raises:
        ValueError: none of the words is a single token, `n` below 1.

    Example:
        >>> emb = Embedding(("cat", "dog", "tea"), torch.tensor([[1.0, 0], [1, 0.2], [0, 1]]))
        >>> neighbours(emb, ["cat"], n=1).table.neighbour.tolist()
        ['dog']
    """
    if n < 1:
        raise ValueError(f"n: got {n}, expected at least 1 neighbour")
    check_embedding(emb)
    rows, dropped = emb.find([words] if isinstance(words, str) else words)
    rows = list(dict.fromkeys(rows))
    require_at_least("words", rows, 1, dropped)
    cosine = emb.unit[rows] @ emb.unit.mT
    cosine[torch.arange(len(rows)), rows] = -torch.inf
    top = torch.topk(cosine, min(n, len(emb.words) - 1))
    table = [
        (emb.words[row], rank, emb.words[i], value)
        for row, values, places in zip(rows, top.values.tolist(), top.indices.tolist(), strict=True)
        for rank, (value, i) in enumerate(zip(values, places, strict=True), 1)
    ]
    return ResultTable(
        pd.DataFrame(table, columns=["word", "rank", "neighbour", "cosine"]), dropped
    )


@torch_defaults()
def analogies(
    emb: Embedding,
    questions: Iterable[Question] | Mapping[str, Iterable[Question]],
    *,
    method: Literal["add", "mul"] = "add",
) -> ResultTable:
    """Measure how often the fourth word of "a is to b as c is to …" is found.

        add:  argmax_w  cos(w, b) − cos(w, a) + cos(w, c)
        mul:  argmax_w  cos'(w, b) · cos'(w, c) / (cos'(w, a) + 0.001)        cos' = (cos + 1) / 2

    Source: Levy and Goldberg (CoNLL 2014). The three words of the question are no answers, as is
    usual; that flatters every model, because the nearest word to b − a + c is mostly b or c itself.
    `only_c` is what is left without any arithmetic, the accuracy of always answering with the word
    nearest to c (Linzen, RepEval 2016): what counts is what lies above it. On a GPT-2 of d_model
    192 the family section reaches 0.56, below its `only_c` of 0.70, and plural verbs 0.81 over
    0.00. Of `questions-words`, a model of some thousand tokens has few words: see `kept`. Questions
    of a section share their words, so the interval, which takes them as independent, is too narrow.
    A tie counts as wrong.

    Args:
        questions: of four words, or sections of them by name.
        method: as above.

    Returns:
        One row a section and one for "all": `section`, `asked`, `kept` (all four words are single
        tokens, and the answer is not in the question), `accuracy` with its 95 % Wilson interval
        `low`, `high`, `reciprocal_rank` (mean), `only_c`, `chance` (of a random word).

    Raises:
        ValueError: another method, a question that is no four words, none whose words are all
            there, a section named "all".

    Example:
        >>> emb = Embedding(("king", "man", "queen", "woman", "tea"),
        ...                 torch.tensor([[1.0, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1], [-1, 0, 0]]))
        >>> analogies(emb, [("man", "king", "woman", "queen")]).table.accuracy.tolist()
        [1.0, 1.0]
    """
    if method not in ("add", "mul"):
        raise ValueError(f"method: got {brief(method)}, expected 'add' or 'mul'")
    sections = dict(questions) if isinstance(questions, Mapping) else {"questions": questions}
    if "all" in sections:
        raise ValueError(
            "questions: a section is named 'all', as the last row of the table is; give it another name"
        )
    asked, rows, owner, dropped = {}, [], [], dict[str, None]()
    for name, part in sections.items():
        part = list(part)
        asked[name] = len(part)
        for question in part:
            if isinstance(question, str) or len(question) != 4:
                raise ValueError(
                    f"questions: got {brief(question)}, expected four words (a, b, c, d)"
                )
            found, missing = emb.find(question)
            dropped |= dict.fromkeys(missing)
            if not missing and found[3] not in found[:3]:
                rows.append(found)
                owner.append(name)
    require_at_least("questions", rows, 1, tuple(dropped))
    ranks, alone = (found.numpy() for found in _ranks(emb, torch.tensor(rows), method))
    owners = np.array(owner)
    table = []
    for name in [*sections, "all"]:
        those = (owners == name) | (name == "all")
        mine = ranks[those]
        n = sum(asked.values()) if name == "all" else asked[name]
        right = int((mine == 1).sum())
        share, reciprocal, low, high = [np.nan] * 4
        if len(mine):
            share, reciprocal = right / len(mine), float((1 / mine).mean())
            low, high = share_interval(share, len(mine))
        only_c = float((alone[those] == 1).mean()) if len(mine) else np.nan
        table.append(
            (
                name,
                n,
                len(mine),
                share,
                low,
                high,
                reciprocal,
                only_c,
                1 / max(len(emb.words) - 3, 1),
            )
        )
    columns = [
        "section",
        "asked",
        "kept",
        "accuracy",
        "low",
        "high",
        "reciprocal_rank",
        "only_c",
        "chance",
    ]
    return ResultTable(pd.DataFrame(table, columns=columns), tuple(dropped))


def _ranks(
    emb: Embedding, rows: Int[Tensor, "n 4"], method: str
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Return the place of the right answer, by the method and by nearness to c.

    It is the place among all words but the three of the question.
    """
    found, alone = [], []
    for part in rows.split(CHUNK):
        a, b, c = (emb.unit[part[:, k]] @ emb.unit.mT for k in range(3))
        alone.append(_place(c.clone(), part))
        if method == "add":
            score = b - a + c
        else:
            a, b, c = ((x + 1) / 2 for x in (a, b, c))
            score = b * c / (a + 1e-3)
        found.append(_place(score, part))
    return torch.cat(found), torch.cat(alone)


def _place(score: Float[Tensor, "n words"], part: Int[Tensor, "n 4"]) -> Int[Tensor, " n"]:
    """Return 1 + the number of words that do as well as the answer or better; writes to `score`."""
    answer = score.gather(1, part[:, 3:])
    return (score.scatter_(1, part, -torch.inf) >= answer).sum(1) + 1


@torch_defaults()
def word_similarity(
    emb: Embedding, pairs: Iterable[tuple[str, str, float]], *, seed: int = 0
) -> ResultTable:
    """Return Spearman's correlation of cosines with people's judgements of word pairs.

    The pairs are those of WordSim-353 and the like.

    A vocabulary of some thousand tokens holds few of the pairs, and not a fair sample: the frequent
    words (of WordSim's 353 a GPT-2 with 2,555 whole words keeps 75). Two models are comparable on
    the same pairs alone. A pair that comes twice counts twice.

    Args:
        pairs: two words and what people said, more for more alike.
        seed: of the bootstrap.

    Returns:
        One row: `correlation` with its 95 % bootstrap interval over pairs `low`, `high`, `pairs`
            (kept), `asked`.

    Raises:
        ValueError: fewer than five pairs whose words are both single tokens, all judged the same, a
            judgement that is no number.

    Example:
        >>> emb = Embedding(tuple("abcdef"), torch.arange(12.0).reshape(6, 2))
        >>> pairs = [("a", "b", 1), ("b", "c", 2), ("c", "d", 3), ("d", "e", 4), ("e", "f", 5)]
        >>> round(float(word_similarity(emb, pairs).table.correlation[0]), 6)
        1.0
    """
    kept, dropped, asked = [], dict[str, None](), 0
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 3:
            raise ValueError(f"pairs: got {brief(pair)}, expected (word, word, judgement)")
        one, other, score = pair
        asked += 1
        rows, missing = emb.find((one, other))
        dropped |= dict.fromkeys(missing)
        if not missing:
            kept.append((*rows, float(score)))
    require_at_least("pairs", kept, 5, tuple(dropped))
    wrong = [(emb.words[i], emb.words[j], score) for i, j, score in kept if not np.isfinite(score)]
    if wrong or len({score for *_, score in kept}) == 1:
        raise ValueError(
            f"pairs: got {(wrong or kept)[0][2]} as {'a' if wrong else 'every'} judgement, expected different numbers"
        )
    i, j, judged = (np.array(column) for column in zip(*kept, strict=True))
    cosine: Float[np.ndarray, " n"] = (emb.unit[i] * emb.unit[j]).sum(1).numpy()
    random = numpy_generator(seed)
    draws = random.integers(0, len(kept), (DRAWS, len(kept)))
    values = [rank_correlation(cosine[d], judged[d]) for d in draws if len(set(judged[d])) > 1]
    low, high = np.nanquantile(values, (0.025, 0.975))
    row = {
        "correlation": rank_correlation(cosine, judged),
        "low": low,
        "high": high,
        "pairs": len(kept),
        "asked": asked,
    }
    return ResultTable(pd.DataFrame([row]), tuple(dropped))
