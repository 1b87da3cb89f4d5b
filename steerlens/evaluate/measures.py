"""How fluent and how varied written texts are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from steerlens.models.collect import collect
from steerlens.models.hooks import Model, adapter
from steerlens.models.score import state_log_probs
from steerlens.values.warn import warn_user

DROPPED = 1e4
"""Perplexity of a text from which on the papers leave it out of their mean."""


class TextNll(NamedTuple):
    """NLL of texts given what comes before them, in nats, and how many tokens that is."""

    nats: Float[np.ndarray, " n"]
    tokens: Float[np.ndarray, " n"]


def continuation_nll(evaluator: Model, prompts: Sequence[str], texts: Sequence[str]) -> TextNll:
    """Return the NLL of continuations given their prompts under a named model.

        nats = NLL(prompt + text) − NLL(prompt)        tokens = #(prompt + text) − #(prompt)

    both read anew as one string, as the papers' scripts do; the end of the text is not scored. A
    text without a token has 0 nats in 0 tokens.

    Args:
        evaluator: the unsteered model, or another.

    Example:
        >>> import steerlens as sl
        >>> found = continuation_nll(sl.load_model("toy-64"), ["it was", "it was"], [" good .", ""])
        >>> found.tokens.tolist()
        [2.0, 0.0]
    """
    wholes = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
    known = _string_nll(evaluator, sorted({s for s in (*wholes, *prompts) if s.strip()}))
    whole, head = (np.array([known.get(s, (0.0, 0.0)) for s in of]) for of in (wholes, prompts))
    found = (whole - head).reshape(-1, 2)
    # the last token of a prompt may take in what follows it; such a text has fewer tokens of its own
    empty = np.array([not text.strip() for text in texts], dtype=bool) | (found[:, 1] <= 0)
    found[empty] = 0.0
    return TextNll(found[:, 0], found[:, 1])


def _string_nll(model: Model, strings: list[str]) -> dict[str, tuple[float, float]]:
    if not strings:
        return {}
    states = collect(model, strings, end=False, progress=False)
    if states.n_truncated:
        warn_user(
            f"evaluator: {states.n_truncated} of {len(strings)} strings are longer than its context, {adapter(model).n_ctx} "
            "tokens; what lies behind it is in no perplexity. Take an evaluator of a longer context, or shorter prompts"
        )
    nats = -states.sum_by_text(state_log_probs(states, None, (0.0,))[0].double())
    return {
        s: (float(nll), float(n))
        for s, nll, n in zip(strings, nats.tolist(), states.lengths.tolist(), strict=True)
    }


class Fluency(NamedTuple):
    """Perplexity two ways, with what each leaves out."""

    perplexity: float
    corpus_perplexity: float
    dropped: int
    empty: int


def fluency(nll: TextNll) -> Fluency:
    """Return the perplexity of continuations.

        perplexity = mean over texts of exp(nats / tokens), those of 10,000 and more left out
        corpus perplexity = exp(Σ nats / Σ tokens)

    The first is the papers'; a few strange texts decide it. `dropped` counts what it leaves out,
    `empty` the texts without a token, which neither can take in.

    Example:
        >>> found = fluency(TextNll(np.array([0.0, 20.0, 0.0]), np.array([1.0, 2.0, 0.0])))
        >>> found.perplexity, round(found.corpus_perplexity), found.dropped, found.empty
        (1.0, 786, 1, 1)
    """
    some = nll.tokens > 0
    each = np.exp(np.minimum(nll.nats[some] / nll.tokens[some], 700.0))
    kept = each[each < DROPPED]
    total = nll.tokens.sum()
    return Fluency(
        float(kept.mean()) if len(kept) else float("nan"),
        float(np.exp(min(nll.nats.sum() / total, 700.0))) if total else float("nan"),
        int((each >= DROPPED).sum()),
        int((~some).sum()),
    )


def distinct(texts: Sequence[str], n: int) -> float:
    """Return dist-n of the continuations of one prompt: different n-grams over **all words**, for
    every n, as the papers have it; so dist-2 and dist-3 of varied texts are below 1.

    Words are what lies between single spaces. NaN without a word.

    Source: Liu et al. (arXiv 2105.03023), evaluation script; Han et al. (arXiv 2305.12798).

    Example:
        >>> distinct(["so so good", "so good"], 1), distinct(["so so good", "so good"], 2)
        (0.4, 0.4)
    """
    words = [text.strip().split(" ") if text.strip() else [] for text in texts]
    total = sum(map(len, words))
    grams = {tuple(w[i : i + n]) for w in words for i in range(len(w) - n + 1)}
    return len(grams) / total if total else float("nan")


def repetition(text: str, n: int = 4) -> float:
    """Return the share of a text's n-grams of words that were there before in the same text; 0 for
    a text of fewer words.

    Source: Welleck et al. (arXiv 1908.04319), seq-rep-n.

    Example:
        >>> repetition("to be or to be or to be", 2)
        0.5714285714285714
    """
    words = text.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
