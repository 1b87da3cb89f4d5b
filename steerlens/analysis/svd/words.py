"""What a steer reads and what it writes: its singular directions as words, and how far to believe
them."""

from collections.abc import Sequence

import pandas as pd

from steerlens.analysis.svd.directions import check_pairs, split_half_reliability
from steerlens.analysis.svd.scores import sides_and_scores
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.values.arguments import steer_of
from steerlens.values.fit import Fit
from steerlens.values.metric import Metric
from steerlens.values.states import States
from steerlens.values.steer import Steer

ORDINARY = 0.05
"""Words whose `p_noise`, or `p` where there is none, is above this are shown in parentheses."""


@torch_defaults()
def singular_words(
    steer: Steer | Fit,
    *,
    rank: int = 5,
    tokens: int = 12,
    metric: Metric | None = None,
    states: States | None = None,
    refits: Sequence[tuple[Steer, Steer]] = (),
    noise: Sequence[Steer] = (),
) -> pd.DataFrame:
    """Return the words that each singular direction of a steer reads and writes.

        W = Σ_k gain_k · probe_kᵀ write_k         cW = Σ_k gain_k · (c · probe_k) · write_k

    Where the model was about to say the words in `reads`, a positive strength makes it say more of
    those in `writes` and fewer of those in `avoids`; a negative strength does the opposite. Plain,
    this is the SVD of `W`, whose answer depends on the basis of the model (Han et al., arXiv
    2305.12798, section 5.2). Given the natural metric it is the SVD of
    `C^{1/2} W S^{1/2} = Σ_k gain_k a_kᵀ b_k`, which does not:

        probe_k = a_k C^{-1/2}    (readings `c · probe_k` have mean square 1 over the text as it is weighed in the metric)
        read_k  = a_k C^{1/2}     (the context that goes with reading 1: E[reading · c])
        write_k = b_k S^{-1/2}    (as a shift of logits its variance under the model's own prediction is 1)

    so `gain` is then the typical shift of logits in nats at strength 1. `½ Σ gain²` is the metric's
    Kronecker approximation of what the steer costs, which takes contexts and the covariance of
    words as independent; undamped it is 1.4 to 3.9 times too small on fitted steers, see
    `spectrum`. With a damped metric all this holds for the damped `C` and `S`, and the number is
    larger.

    Words are ranked by their logits alone, or, with `states`, by what happens on that text; see
    `singular_scores`. The latter is what one usually wants: logits rank rare words high that the
    model would never say there.

    A direction has two sides, contexts with positive and with negative readings. Which one is
    called "+" is a convention: with `states` the one where the direction changes the prediction
    more, summed over contexts; without, the one where the strongest word has a positive score.

    How far to believe it: words in parentheses are ordinary. With `noise`, steers fitted to
    shuffled labels (`steerlens.methods.steer.refit.fit_shuffled`), they are those of which such a
    steer has as many as strong in more than 1 of 20 cases. Without, they are those to which a
    random direction of the same norm gives as large a score in more than 1 of 20, which frequent
    words often are, and the converse says little: a fit to noise is no random direction, it follows
    what the text varies in, and with shuffled labels 15 to 72 % of the listed words were without
    parentheses (toy models). Give `refits` besides: `kept` says how much of a direction replicates
    on other texts. Look at it first, a row that does not replicate means nothing, however good its
    words look. Lists show the ends of a direction, not all it does, and two directions of nearly
    the same gain may be any rotation of each other.

    Args:
        rank: how many directions, the largest gain first.
        tokens: words per list. Whole words of letters only, one of each up to case; where the
            tokenizer marks a leading space, only tokens that have it, and with `states` none that
            the text mostly goes on with. Special tokens and padding rows never.
        metric: of the same model, from `natural_metric`; None for the plain SVD.
        states: of the same model: rank the words by what happens on this text.
        refits: the same steer from halves of the texts, from `fit_split_halves`: adds `kept` and
            its `spread`, see `split_half_reliability`.
        noise: the same steer from labels in random order, from
            `steerlens.methods.steer.refit.fit_shuffled`; 19 at least, or no word can be rare.

    Returns:
        Two rows per direction: `direction` (1 …), `side` ("+", "-"), `gain`, `share` (of the sum of
        squares), `used` (with
        `states`: the share of contexts on that side), `kept`, `spread` (with `refits`), `reads`,
        `writes`, `avoids` (words,
        strongest first; empty where no word has a score of that sign, or no context is on that
        side). Fewer directions than `rank` where the steer has fewer.

    Raises:
        ValueError: `rank` or `tokens` out of range, a metric or states of another model, no whole
            word in the vocabulary.

    Example (in three dimensions every word is ordinary):
        >>> import torch
        >>> from steerlens import Readout
        >>> on = Readout(torch.eye(3), torch.zeros(3), ("bad", "good", "so"))
        >>> W = torch.zeros(3, 3)
        >>> W[2, 1], W[2, 0] = 2.0, -1.0                  # contexts that would say "so": "good" up, "bad" down
        >>> singular_words(Steer(W, on), rank=1, tokens=1).iloc[0][["reads", "writes", "avoids"]].tolist()
        ['(so)', '(good)', '(bad)']
    """
    steer = steer_of(steer)
    if not isinstance(refits, Sequence) or len(refits):
        check_pairs(refits, "refits")
    sides, scores = sides_and_scores(
        steer, rank=rank, tokens=tokens, metric=metric, states=states, noise=noise
    )
    chance = scores.p_noise if noise else scores.p
    shown = scores.assign(word=scores.word.where(chance <= ORDINARY, "(" + scores.word + ")"))
    if refits:
        again = split_half_reliability(
            steer, refits, rank=int(sides.direction.max()), metric=metric
        )
        sides = sides.merge(again[["direction", "kept", "spread"]], on="direction")
    on = ["direction", "side"]
    for role in ("reads", "writes", "avoids"):
        listed = shown[shown.role == role].groupby(on).word.agg(", ".join).rename(role)
        sides = sides.join(listed, on=on).fillna({role: ""})
    return sides


def replicates(kept: float, spread: float) -> bool:
    """Return whether a direction's share that another half of the texts keeps is clearly above 0;
    NaN is not.

    Example:
        >>> replicates(0.8, 0.1), replicates(0.1, 0.1), replicates(float("nan"), float("nan"))
        (True, False, False)
    """
    return bool(kept > 2 * spread)
