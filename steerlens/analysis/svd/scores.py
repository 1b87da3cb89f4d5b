"""The words of each singular direction: scores, and how extreme they are among random
directions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.special import betainc
from torch import Tensor

from steerlens.analysis.svd.directions import (
    ROUNDING,
    Directions,
    check_rank,
    check_text,
    directions,
)
from steerlens.analysis.svd.sides import (
    logit_features,
    logit_sides,
    look,
    text_features,
    text_sides,
)
from steerlens.maths.brief import class_name
from steerlens.maths.numbers import as_count
from steerlens.maths.stats import benjamini_hochberg
from steerlens.values.arguments import check_metric, steer_of
from steerlens.values.fit import Fit
from steerlens.values.metric import Metric
from steerlens.values.states import States
from steerlens.values.steer import Steer
from steerlens.values.words import word_columns

SAMPLE = 4_096
"""Positions of the text on which words are ranked."""
CHUNK = 512
FEWEST = 19
"""Fits to noise: of so many a word can be rarer than 1 in 20."""


def singular_scores(
    steer: Steer | Fit,
    *,
    rank: int = 5,
    tokens: int = 12,
    metric: Metric | None = None,
    states: States | None = None,
    noise: Sequence[Steer] = (),
) -> pd.DataFrame:
    """Return `singular_words` with one row per word.

    It also has `role` ("reads", "writes", "avoids"), `word`, `score`, `p` and `q`. A word is
    listed where its score has the sign of the role: never both as written and as avoided, and none
    on a side that no context has.

    Every score is linear in a singular vector: `score = a · x` for a word that is read, `b · x` for
    one that is written or avoided, with an `x` that depends on word and text alone.

    Without `states` scores are logits in nats, centred over the words of the vocabulary. Of a word
    that is read: how much likelier it is in a context with reading 1 (-1 on side "-"). Of a word
    that is written or avoided: what strength 1 adds to its logit in such a context.

    With `states` let `p` be the model's mean prediction over all contexts, `q` over those of the
    side, and `Δq` what strength 1 adds to `q` by this direction alone, to first order. Of a word
    that is read the score is `Cov(reading, p_v) / √p_v` (turned on side "-"), of one that is
    written or avoided `Δq / √q`. Half the square of the latter is the word's part, in nats, of the
    KL of the side's prediction from what it was.

    `p` is the chance that a random direction of the same norm, drawn evenly from the sphere in the
    metric, gives this word so large a score; exact,

        P(|a · x| ≥ score) = 1 − I_{t²}(1/2, (d − 1)/2)        t = score / |x|

    (the regularised incomplete beta function). `q` allows for the number of words in the
    vocabulary: the share of accidents to be expected among the listed words with a `p` as small as
    this (Benjamini and Hochberg; only listed words count as found, so it is an upper bound).

    Both are against random directions, not against fits to noise, which are not random: they follow
    what the text varies in, and with shuffled labels 15 to 72 % of the listed words had `p ≤ 0.05`,
    and up to 20 % of a list `q ≤ 0.05` (toy models). So a small `p` or `q` says that a random
    direction would not write the word. It says neither that the labels make the steer write it nor
    that the direction would replicate on other texts: see `split_half_reliability`.

    With `noise`, steers fitted to shuffled labels (`fit_shuffled`), `p_noise` answers the first of
    the two. Of the word whose `p` is the j-th smallest in its role and direction,

        p_noise = (1 + #{noise steers whose j-th smallest p in that role ≤ p}) / (1 + #noise)

    no less than that of the words before it: so many words as strong has a fit to noise in no more
    than that share of cases. Its largest direction stands for it.

    Raises:
        ValueError: as `singular_words`; fewer than 19 steers in `noise`, of which no word can be
            rare.
    """
    return sides_and_scores(
        steer, rank=rank, tokens=tokens, metric=metric, states=states, noise=noise
    )[1]


def sides_and_scores(
    steer: Steer | Fit,
    *,
    rank: int,
    tokens: int,
    metric: Metric | None,
    states: States | None,
    noise: Sequence[Steer],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both sides of each direction, one per row, with or without words; and
    `singular_scores`."""
    steer = steer_of(steer)
    check_rank(steer, rank)
    check_metric(metric, steer)
    tokens = as_count(tokens, "tokens", "at least 1 word per list")
    check_text(states, steer)
    _check_noise(noise)
    found = directions(steer.W, rank, metric)
    rank = max(
        1, int((found.gains >= ROUNDING * found.gains[0]).sum())
    )  # what rounding left is no direction
    found = Directions(*(part[:rank] for part in found))
    columns = word_columns(steer.readout, states)
    if not columns:
        raise ValueError(
            f"steer: {steer.readout.model_id!r} has no token that is a whole word, so directions have no words"
        )
    words = [steer.readout.tokens[i].strip() for i in columns]
    seen = None if states is None else list(states.sample(SAMPLE, seed=0).chunks(CHUNK))
    sides = (
        logit_sides(found, steer.readout, columns)
        if seen is None
        else text_sides(found, steer, seen, columns)
    )
    lists = []
    for k, pair in enumerate(sides):
        for side in pair:
            for role, scores in (
                ("reads", side.reads),
                ("writes", side.writes),
                ("avoids", -side.writes),
            ):
                top = torch.topk(scores, min(tokens, len(words)))
                n = 0 if side.used == 0 else int((top.values > 0).sum())
                lists.append((k, side, role, top.values[:n], top.indices[:n]))
    picked = sorted({columns[i] for *_, indices in lists for i in indices.tolist()})
    text = None if seen is None else look(steer, seen, picked)
    roots = _roots(metric, on_text=seen is not None, d=len(steer.W))
    heads, rows = [], []
    for k, side, role, values, indices in lists:
        ids = [columns[i] for i in indices.tolist()]
        if text is None:
            x = logit_features(steer.readout, columns, ids)
        else:
            x = text_features(
                found.probes[k], side, role, steer, text, [picked.index(i) for i in ids], ids
            )
        gain = float(found.gains[k])
        x = x @ roots[0] if role == "reads" else gain * x @ roots[1]
        head = {
            "direction": k + 1,
            "side": side.name,
            "gain": gain,
            "share": float(found.shares[k]),
        }
        head |= {} if side.used is None else {"used": side.used}
        heads.append(head)
        sign = -1 if role == "avoids" else 1
        p = _chance(values, x)
        rows += [
            {**head, "role": role, "word": words[i], "score": sign * score, "p": chance}
            for score, i, chance in zip(values.tolist(), indices.tolist(), p.tolist(), strict=True)
        ]
    both = pd.DataFrame(heads).drop_duplicates(["direction", "side"], ignore_index=True)
    table = pd.DataFrame(rows, columns=[*both.columns, "role", "word", "score", "p"])
    tests = table.groupby(
        ["direction", "side", table.role == "reads"], sort=False
    ).p  # both ends of one test
    table = table.assign(q=tests.transform(lambda p: benjamini_hochberg(p.to_numpy(), len(words))))
    if not noise:
        return both, table
    for one in noise:
        _ = steer + one  # raises where they live on different read-outs
    options = {"rank": 1, "tokens": tokens, "metric": metric, "states": states}
    return both, against(table, [singular_scores(one, **options) for one in noise])


def against(table: pd.DataFrame, noise: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return scores with `p_noise` beside them, from the scores of steers fitted to shuffled
    labels."""
    table = table.assign(p_noise=1.0)
    for _, part in table.groupby(["direction", "role"]):
        role = str(part.role.iloc[0])
        ordered = part.p.sort_values()
        smallest = np.full((len(noise), len(part)), np.inf)  # lists may be shorter: no word there
        for row, one in zip(smallest, noise, strict=True):
            theirs = np.sort(one.p[one.role == role])[: len(row)]
            row[: len(theirs)] = theirs
        reached = (smallest <= ordered.to_numpy() * (1 + 1e-9)).sum(0)
        table.loc[ordered.index, "p_noise"] = np.maximum.accumulate(
            (1 + reached) / (1 + len(noise))
        )
    return table


def _check_noise(noise: Sequence[Steer]) -> None:
    said = f"expected at least {FEWEST}, or no word can be rarer than 1 in 20"
    some = noise if isinstance(noise, Sequence) else [noise]
    if (other := next((one for one in some if not isinstance(one, Steer)), None)) is not None:
        raise ValueError(
            f"noise: got {class_name(other)}, expected a sequence of steers fitted to shuffled labels, "
            "steerlens.methods.steer.refit.fit_shuffled; of a fit take .value"
        )
    if some is not noise:
        raise ValueError("noise: got one steer, expected a sequence of them")
    if 0 < len(noise) < FEWEST:
        raise ValueError(f"noise: got {len(noise)} steers, {said}")


def _roots(
    metric: Metric | None, *, on_text: bool, d: int
) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """Return what turns features into the coordinates of the singular vectors.

    The first is for features of what is read, the second for those of what is written.
    """
    if metric is None:
        return torch.eye(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    read = metric.C_inverse_root if on_text else metric.C_root
    return read.double().cpu(), metric.S_inverse_root.double().cpu()


def _chance(score: Float[Tensor, " words"], x: Float[Tensor, "words d"]) -> np.ndarray:
    """Return how likely a random direction gives each word so large a cosine.

    It is 1 where a word has no features.
    """
    length = x.norm(dim=1)
    t = (score.abs() / length.clamp_min(1e-300)).clamp(0, 1).numpy()
    return np.where(length.numpy() > 0, betainc((x.shape[1] - 1) / 2, 0.5, 1 - t**2), 1.0)
