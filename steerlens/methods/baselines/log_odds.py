"""Favour the words that one class of texts uses more, among the model's likeliest: no training."""

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import as_number
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.logit_bias import LogitBias, as_top
from steerlens.values.states import States, check_states
from steerlens.values.texts import as_name

PRIOR = 0.5
"""Times that each word is taken to be seen by each class beforehand (Jeffreys)."""


@torch_defaults()
def fit_log_odds(
    states: States, *, top: int | None = 50, prior: float = PRIOR, name: str = "log-odds"
) -> LogitBias:
    """Count how much more one sign's texts use each word, as a bias on the likeliest `top` words.

        δ_v = log (a_v + α)/(A + αV − a_v − α) − log (b_v + α)/(B + αV − b_v − α)
        offset_v = δ_v / √(1/(a_v + α) + 1/(b_v + α))

    `a_v` and `b_v` count the words of the texts with positive and with negative label, each text
    weighing as much as its label; `A` and `B` are their sums, `V` the vocabulary. The bias of one
    unit per standard error is added to the logits of the `top` words that are likeliest at the
    position, so that no word is written that does not fit there. Nothing is learned from the model:
    it only sets the gate.

    Source: SWAI (arXiv 2601.10960, version 2), with the z-score of Monroe, Colaresi and Quinn
    (2008). The paper raises one class against the rest; here one table serves both signs. Its `K`
    and its prior are not stated where we could read them: 50, and half a count.

    Args:
        states: of labelled texts; only their words are read.
        top: words that are moved at each position; None: all.
        prior: `α`.

    Raises:
        ValueError: no text with a positive label or none with a negative one; a prior that is not
            positive.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> value = fit_log_odds(sl.collect(model, sl.toy.corpus("tone", n=200, seed=0), progress=False))
        >>> kind, rude = (value.offset[value.readout.tokens.index(word)] for word in ("grateful", "stupid"))
        >>> bool(kind > 0 > rude)
        True
    """
    check_states(states)
    name, top = as_name(name), as_top(top)
    if not as_number(prior, "prior", "a positive number of counts") > 0:
        raise ValueError(f"prior: got {prior}, expected a positive number of counts")
    counts = torch.zeros(2, states.readout.d_vocab, dtype=torch.float64)
    for _, target, text in states.chunks(1 << 16):
        y = states.labels[text].double()
        counts[0].index_add_(0, target, y.clamp_min(0))
        counts[1].index_add_(0, target, (-y).clamp_min(0))
    if not bool((counts.sum(1) > 0).all()):
        missing = "positive" if not bool(counts[0].any()) else "negative"
        raise ValueError(f"states: no text has a {missing} label; add some, or turn the labels")
    z = z_scores(counts, prior).float().to(states.readout.W_U.device)
    return LogitBias(z, states.readout, name, top)


def z_scores(counts: Float[Tensor, "2 vocab"], prior: float) -> Float[Tensor, " vocab"]:
    """Return the log-odds ratio of each word between two classes, in standard errors.

    Example:
        >>> z = z_scores(torch.tensor([[8.0, 2.0], [2.0, 8.0]]), 1.0)       # log-odds 2 log 3, error √(4/9)
        >>> [round(x, 2) for x in z.tolist()]
        [3.3, -3.3]
    """
    seen = counts + prior
    log_odds = (seen / (seen.sum(1, keepdim=True) - seen)).log()
    return (log_odds[0] - log_odds[1]) / (1 / seen).sum(0).sqrt()
