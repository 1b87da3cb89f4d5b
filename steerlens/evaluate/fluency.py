"""What a steer costs: how far it moves the model, and what that does to the text it writes."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from steerlens.evaluate.losses import kl_at_strengths
from steerlens.evaluate.measures import TextNll, continuation_nll
from steerlens.maths.numbers import as_floats
from steerlens.maths.stats import ratio_error
from steerlens.models.hooks import Model
from steerlens.values.arguments import check_same_model, steer_of
from steerlens.values.fit import Fit
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer


def strength_cost(
    states: States, steer: Steer | Fit, *, strengths: Sequence[float] = (-4, -2, -1, 0, 1, 2, 4)
) -> pd.DataFrame:
    """Return KL(plain model ‖ steered model) over the positions of a text, at each strength.

    Exact, in nats per token.

    To second order it grows with the square of the strength; a sample of some thousand positions is
    plenty.

    Returns:
        `strength`, `kl`.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=100, seed=0), progress=False)
        >>> strength_cost(states, sl.fit_steer(states).value, strengths=(0,)).kl.tolist()
        [0.0]
    """
    steer = steer_of(steer)
    check_states(states)
    check_same_model(states, steer)
    strengths = as_floats(strengths, "strengths")
    kl = kl_at_strengths(states, steer, strengths)
    return pd.DataFrame({"strength": strengths, "kl": kl.numpy()})


def writing_cost(model: Model, written: pd.DataFrame) -> pd.DataFrame:
    """Return the fluency and variety of what was written at each strength.

    So a steer's effect is read beside its price.

    Args:
        model: judges the texts as it is, without the steer.
        written: with columns `prompt`, `strength`, `text`, from `generate` or `written_attribute`.

    Returns:
        One row per strength: `nll`, the mean NLL per token of the continuations under the plain
        model, the end of the text
        left out (nats; its exponential is the perplexity), `error`, its standard error over texts,
        `distinct_1` and `distinct_2`, the share of different words and word pairs among all that
        were written, and `texts`. Shares of different words fall with the amount of text: compare
        strengths, not runs of different size.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> writing_cost(model, sl.generate(model, ["it is"], samples=5)).columns.tolist()
        ['strength', 'nll', 'error', 'distinct_1', 'distinct_2', 'texts']
    """
    rows = []
    for strength, part in written.groupby("strength"):
        part = part[(part.prompt + part.text).str.strip().astype(bool)]
        nll, error = _mean(continuation_nll(model, part.prompt.tolist(), part.text.tolist()))
        words = [text.split() for text in part.text]
        rows.append((strength, nll, error, _distinct(words, 1), _distinct(words, 2), len(part)))
    return pd.DataFrame(
        rows, columns=["strength", "nll", "error", "distinct_1", "distinct_2", "texts"]
    )


def _mean(found: TextNll) -> tuple[float, float]:
    """Return the mean NLL per token, and its standard error over texts, of which one has none."""
    nats, tokens = (x[found.tokens > 0] for x in found)
    if not len(tokens):
        return np.nan, np.nan
    mean = nats.sum() / tokens.sum()
    return float(mean), ratio_error(nats, tokens) if len(tokens) > 1 else np.nan


def _distinct(texts: list[list[str]], n: int) -> float:
    """Return the share of different n-grams among all n-grams of the texts."""
    grams = [
        tuple(text)
        for text in texts
        for text in (zip(text, strict=True) if n == 1 else pairwise(text))
    ]
    return len(set(grams)) / len(grams) if grams else float("nan")
