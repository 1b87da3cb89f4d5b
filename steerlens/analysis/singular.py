"""What a steer reads and what it writes: its singular directions as words."""

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.values.metric import Metric
from steerlens.values.readout import Readout
from steerlens.values.states import States
from steerlens.values.steer import Steer

SAMPLE = 4_096
"""Positions from which the share of contexts on either side is counted."""


class Directions(NamedTuple):
    """`W = Σ_k gain_k · probe_kᵀ write_k`, and the contexts `read_k` that each probe answers to.

    A context `c` (a row) has the reading `c · probe_k` and is shifted by `gain_k · reading · write_k`. `read_k` is the
    context that goes with a reading of 1: `read_k · probe_k = 1`.
    """

    gain: Float[Tensor, " rank"]
    probe: Float[Tensor, "rank d_model"]
    read: Float[Tensor, "rank d_model"]
    write: Float[Tensor, "rank d_model"]
    share: Float[Tensor, " rank"]


def singular_words(
    steer: Steer,
    *,
    rank: int = 5,
    tokens: int = 12,
    metric: Metric | None = None,
    states: States | None = None,
) -> pd.DataFrame:
    """The words that each singular direction of a steer reads and writes; scores in `singular_scores`.

        W = Σ_k gain_k · probe_kᵀ write_k         cW = Σ_k gain_k · (c · probe_k) · write_k

    Where the model was about to say the words in `reads`, a positive strength makes it say those in `writes`; a negative
    strength pushes the other way. Plain, this is the SVD of `W`, whose answer depends on the basis of the model. Given
    the natural metric it is the SVD of `C^{1/2} W S^{1/2} = Σ_k gain_k a_kᵀ b_k`, which does not:

        probe_k = a_k C^{-1/2}    (readings have mean square 1 over the text of the metric)
        read_k  = a_k C^{1/2}     (the context that goes with reading 1: E[reading · c])
        write_k = b_k S^{-1/2}    (as a shift of logits its variance under the model's own prediction is 1)

    so `gain` is then the typical shift of logits in nats at strength 1, and `½ Σ gain²` the KL that the steer costs. With
    a damped metric all this holds for the damped `C` and `S`.

    The joint sign of a pair is a convention. With `states`, side "+" is where the mean reading is positive, so that its
    `writes` are what a positive strength adds on average; without, the strongest word that is written is on side "+".

    Args:
        rank: how many directions, the largest gain first.
        tokens: words a list. Whole words of letters only, one of each up to case; where the tokenizer marks a leading
            space, only tokens that have it. Special tokens and padding rows never.
        metric: of the same model, from `natural_metric`; None for the plain SVD.
        states: of the same model: adds the column `used`, the share of contexts on each side.

    Returns:
        Two rows a direction: `direction` (1 …), `side` ("+", "-"), `gain`, `share` (of the sum of squares), `used` (with
        `states`), `reads`, `writes` (the words, strongest first).

    Raises:
        ValueError: `rank` or `tokens` out of range, a metric or states of another size, no whole word in the vocabulary.

    Example:
        >>> import torch
        >>> from steerlens import Readout
        >>> on = Readout(torch.eye(3), torch.zeros(3), ("bad", "good", "so"))
        >>> W = torch.zeros(3, 3)
        >>> W[2, 1], W[2, 0] = 1.0, -1.0                  # contexts that would say "so": "good" up, "bad" down
        >>> singular_words(Steer(W, on), rank=1, tokens=1).writes.tolist()
        ['good', 'bad']
    """
    scores = singular_scores(steer, rank=rank, tokens=tokens, metric=metric, states=states)
    keys = [name for name in ("direction", "side", "gain", "share", "used") if name in scores]
    lists = scores.groupby([*keys, "role"], sort=False).word.agg(", ".join).unstack("role").reset_index()
    lists.columns.name = None
    return lists.sort_values(["direction", "side"], key=_side_order, ignore_index=True)[[*keys, "reads", "writes"]]


def singular_scores(
    steer: Steer,
    *,
    rank: int = 5,
    tokens: int = 12,
    metric: Metric | None = None,
    states: States | None = None,
) -> pd.DataFrame:
    """`singular_words` with one row a word: also `role` ("reads", "writes"), `word` and `score`.

    Scores are logits in nats, centred over the words of the vocabulary. Of a word that is read: how much likelier it is in
    a context with reading 1 (-1 on side "-"). Of a word that is written: what strength 1 adds to its logit there, gain
    included.
    """
    _check(steer, rank, tokens, metric, states)
    found = directions(steer.W, rank, metric)
    words = word_columns(steer.readout)
    labels = [steer.readout.tokens[i].strip() for i in words]
    E = steer.readout.scale * steer.readout.W_U[:, words].double().cpu()
    reads, writes = found.read @ E, found.gain[:, None] * (found.write @ E)
    reads, writes = (x - x.mean(1, keepdim=True) for x in (reads, writes))
    used = None if states is None else _used(found, states)
    rows = []
    for k in range(rank):
        sign = _sign(writes[k]) if used is None else (1.0 if used.mean[k] >= 0 else -1.0)
        for side, toward in (("+", sign), ("-", -sign)):
            head: dict[str, float | str] = {"direction": k + 1, "side": side, "gain": float(found.gain[k])}
            head["share"] = float(found.share[k])
            if used is not None:
                head["used"] = float(used.positive[k] if toward > 0 else 1 - used.positive[k])
            for role, scores in (("reads", reads[k]), ("writes", writes[k])):
                top = torch.topk(toward * scores, min(tokens, len(words)))
                rows += [
                    {**head, "role": role, "word": labels[i], "score": toward * s}
                    for s, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
                ]
    return pd.DataFrame(rows)


def directions(W: Float[Tensor, "d d"], rank: int, metric: Metric | None = None) -> Directions:
    """The leading singular directions, in float64; see `singular_words` for the formulas. Signs are as the SVD gives."""
    M = W.double().cpu() if metric is None else metric.whiten(W.double()).cpu()
    U, gain, Vh = torch.linalg.svd(M)
    a, b = U.mT[:rank], Vh[:rank]
    share = (gain**2 / (gain**2).sum().clamp_min(1e-300))[:rank]
    if metric is None:
        return Directions(gain[:rank], a, a, b, share)
    root, inverse, S_inverse = (x.double().cpu() for x in (metric.C_root, metric.C_inverse_root, metric.S_inverse_root))
    return Directions(gain[:rank], a @ inverse, a @ root, b @ S_inverse, share)


def word_columns(readout: Readout) -> list[int]:
    """Columns of `W_U` that are whole words: see `singular_words`, `tokens`. Of two spellings the first id stays."""
    ids = readout.word_ids.tolist()
    spaced = any(readout.tokens[i].startswith(" ") for i in ids)
    seen: dict[str, int] = {}
    for i in ids:
        token = readout.tokens[i]
        if token.strip().isalpha() and token.startswith(" ") == spaced:
            seen.setdefault(token.strip().lower(), i)
    return list(seen.values())


class _Used(NamedTuple):
    mean: Float[Tensor, " rank"]
    positive: Float[Tensor, " rank"]


def _used(found: Directions, states: States) -> _Used:
    """Mean reading and share of positive readings over a sample of positions."""
    chunk = next(states.sample(SAMPLE, seed=0).chunks(2 * SAMPLE))
    readings = chunk.hidden.double() @ found.probe.mT
    return _Used(readings.mean(0), (readings > 0).double().mean(0))


def _sign(writes: Float[Tensor, " words"]) -> float:
    """+1 or -1: the strongest written word gets a positive score; of two as strong the one with the lower id counts."""
    size = writes.abs()
    first = int((size >= size.max() * (1 - 1e-9)).nonzero()[0])
    return 1.0 if writes[first] >= 0 else -1.0


def _side_order(column: pd.Series) -> pd.Series:
    return column.map({"+": 0, "-": 1}) if column.name == "side" else column


def _check(steer: Steer, rank: int, tokens: int, metric: Metric | None, states: States | None) -> None:
    d = steer.readout.d_model
    if not 1 <= rank <= d:
        raise ValueError(f"rank: got {rank}, expected 1 … {d} (d_model)")
    if tokens < 1:
        raise ValueError(f"tokens: got {tokens}, expected at least 1 word a list")
    if metric is not None and metric.C.shape != steer.W.shape:
        raise ValueError(f"metric: its C is {tuple(metric.C.shape)}, expected ({d}, {d}); it is another model's")
    if states is not None and not states.readout.same_as(steer.readout):
        raise ValueError(f"states: they come from {states.readout.model_id!r}, the steer lives on {steer.readout.model_id!r}")
    if not word_columns(steer.readout):
        raise ValueError(f"steer: {steer.readout.model_id!r} has no token that is a whole word, so directions have no words")
