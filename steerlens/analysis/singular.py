"""What a steer reads and what it writes: its singular directions as words."""

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.head import logits
from steerlens.values.metric import Metric
from steerlens.values.readout import Readout
from steerlens.values.states import States
from steerlens.values.steer import Steer

SAMPLE = 4_096
"""Positions of the text on which words are ranked."""
CHUNK = 512


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
    """The words that each singular direction of a steer reads and writes.

        W = Σ_k gain_k · probe_kᵀ write_k         cW = Σ_k gain_k · (c · probe_k) · write_k

    Where the model was about to say the words in `reads`, a positive strength makes it say more of those in `writes` and
    fewer of those in `avoids`; a negative strength does the opposite. Plain, this is the SVD of `W`, whose answer depends
    on the basis of the model. Given the natural metric it is the SVD of `C^{1/2} W S^{1/2} = Σ_k gain_k a_kᵀ b_k`,
    which does not:

        probe_k = a_k C^{-1/2}    (readings `c · probe_k` have mean square 1 over the text of the metric)
        read_k  = a_k C^{1/2}     (the context that goes with reading 1: E[reading · c])
        write_k = b_k S^{-1/2}    (as a shift of logits its variance under the model's own prediction is 1)

    so `gain` is then the typical shift of logits in nats at strength 1, and `½ Σ gain²` the KL that the steer costs in the
    metric's approximation. With a damped metric all this holds for the damped `C` and `S`.

    Words are ranked by their logits alone, or, with `states`, by what happens on that text; see `singular_scores`. The
    latter is what one usually wants: logits rank rare words high that the model would never say there.

    A direction has two sides, contexts with positive and with negative readings. Which one is called "+" is a convention:
    with `states` the one where the direction changes the prediction more, summed over contexts; without, the one where
    the strongest word has a positive score.

    Args:
        rank: how many directions, the largest gain first.
        tokens: words a list. Whole words of letters only, one of each up to case; where the tokenizer marks a leading
            space, only tokens that have it (there, beginnings of words are among them). Special tokens and padding rows
            never.
        metric: of the same model, from `natural_metric`; None for the plain SVD.
        states: of the same model: rank the words by what happens on this text.

    Returns:
        Two rows a direction: `direction` (1 …), `side` ("+", "-"), `gain`, `share` (of the sum of squares), `used` (with
        `states`: the share of contexts on that side), `reads`, `writes`, `avoids` (words, strongest first).

    Raises:
        ValueError: `rank` or `tokens` out of range, a metric or states of another model, no whole word in the vocabulary.

    Example:
        >>> import torch
        >>> from steerlens import Readout
        >>> on = Readout(torch.eye(3), torch.zeros(3), ("bad", "good", "so"))
        >>> W = torch.zeros(3, 3)
        >>> W[2, 1], W[2, 0] = 2.0, -1.0                  # contexts that would say "so": "good" up, "bad" down
        >>> singular_words(Steer(W, on), rank=1, tokens=1).iloc[0][["reads", "writes", "avoids"]].tolist()
        ['so', 'good', 'bad']
    """
    scores = singular_scores(steer, rank=rank, tokens=tokens, metric=metric, states=states)
    keys = [name for name in ("direction", "side", "gain", "share", "used") if name in scores]
    lists = scores.groupby([*keys, "role"], sort=False).word.agg(", ".join).unstack("role").reset_index()
    lists.columns.name = None
    order = ["direction", "side"]  # "+" comes before "-"
    return lists.sort_values(order, ignore_index=True)[[*keys, "reads", "writes", "avoids"]]


def singular_scores(
    steer: Steer,
    *,
    rank: int = 5,
    tokens: int = 12,
    metric: Metric | None = None,
    states: States | None = None,
) -> pd.DataFrame:
    """`singular_words` with one row a word: also `role` ("reads", "writes", "avoids"), `word` and `score`.

    Without `states` scores are logits in nats, centred over the words of the vocabulary. Of a word that is read: how much
    likelier it is in a context with reading 1 (-1 on side "-"). Of a word that is written or avoided: what strength 1
    adds to its logit in such a context.

    With `states` let `p` be the model's mean prediction over all contexts, `q` over those of the side, and `Δq` what
    strength 1 adds to `q` by this direction alone, to first order. Of a word that is read the score is `(q − p) / √p`, of
    one that is written or avoided `Δq / √q`. Half its square is the word's part, in nats, of a KL: of `q` from `p`, or of
    the side's prediction from what it was.
    """
    _check(steer, rank, tokens, metric, states)
    found = directions(steer.W, rank, metric)
    columns = word_columns(steer.readout)
    words = [steer.readout.tokens[i].strip() for i in columns]
    scored = _logit_scores(found, steer.readout, columns) if states is None else _text_scores(found, states, columns)
    rows = []
    for k in range(rank):
        for side, reads, writes, used in scored[k]:
            head = {"direction": k + 1, "side": side, "gain": float(found.gain[k]), "share": float(found.share[k])}
            head |= {} if used is None else {"used": used}
            for role, scores in (("reads", reads), ("writes", writes), ("avoids", -writes)):
                top = torch.topk(scores, min(tokens, len(words)))
                sign = -1 if role == "avoids" else 1
                rows += [
                    {**head, "role": role, "word": words[i], "score": sign * score}
                    for score, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
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


class _Side(NamedTuple):
    """One side of a direction: a score a word, and the share of contexts that are there."""

    side: str
    reads: Float[Tensor, " words"]
    writes: Float[Tensor, " words"]
    used: float | None


def _logit_scores(found: Directions, on: Readout, columns: list[int]) -> list[tuple[_Side, _Side]]:
    E = on.scale * on.W_U[:, columns].double().cpu()
    sides = []
    for gain, read, write in zip(found.gain, found.read @ E, found.write @ E, strict=True):
        reads, writes = read - read.mean(), gain * (write - write.mean())
        size = writes.abs()
        # of words that are as strong, up to rounding, the first decides
        sign = 1.0 if writes[(size >= size.max() * (1 - 1e-9)).nonzero()[0, 0]] >= 0 else -1.0
        sides.append((_Side("+", sign * reads, sign * writes, None), _Side("-", -sign * reads, -sign * writes, None)))
    return sides


def _text_scores(found: Directions, states: States, columns: list[int]) -> list[tuple[_Side, _Side]]:
    head, rank = states.readout.head, len(found.gain)
    probe = found.probe.to(head.W_U)
    shift = head.scale * (found.gain[:, None] * found.write).to(head.W_U) @ head.W_U
    count = torch.zeros(2, rank, 1)
    q, change = torch.zeros(2, 2, rank, len(columns)).unbind()
    for c, _, _ in states.sample(SAMPLE, seed=0).chunks(CHUNK):
        c = c.to(head.W_U.device)
        p = torch.softmax(logits(head, c), 1)
        reading = c @ probe.mT
        surplus = p @ shift.mT  # what each direction adds to a mean logit
        for side, sign in enumerate((1, -1)):
            on = (sign * reading > 0).to(p)
            weight = on * reading
            count[side] += on.sum(0)[:, None].cpu()
            q[side] += (on.mT @ p[:, columns]).cpu()
            change[side] += (
                shift[:, columns] * (weight.mT @ p[:, columns]) - (weight * surplus).mT @ p[:, columns]
            ).cpu()
    p = (q.sum(0) / count.sum(0)).double()
    q, change = ((x / count.clamp_min(1)).double() for x in (q, change))
    reads = (q - p) / p.clamp_min(1e-12).sqrt()
    writes = change / q.clamp_min(1e-12).sqrt()
    used = (count / count.sum(0)).squeeze(2)
    effect = used * writes.square().sum(2)
    found_sides = []
    for k in range(rank):
        first = int(effect[0, k] < effect[1, k])
        pair = [
            _Side(name, reads[i, k], writes[i, k], float(used[i, k])) for name, i in (("+", first), ("-", 1 - first))
        ]
        found_sides.append((pair[0], pair[1]))
    return found_sides


def _check(steer: Steer, rank: int, tokens: int, metric: Metric | None, states: States | None) -> None:
    d = steer.readout.d_model
    if not 1 <= rank <= d:
        raise ValueError(f"rank: got {rank}, expected 1 … {d} (d_model)")
    if tokens < 1:
        raise ValueError(f"tokens: got {tokens}, expected at least 1 word a list")
    if metric is not None and metric.C.shape != steer.W.shape:
        raise ValueError(f"metric: its C is {tuple(metric.C.shape)}, expected ({d}, {d}); it is another model's")
    if states is not None and not states.readout.same_as(steer.readout):
        raise ValueError(
            f"states: they come from {states.readout.model_id!r}, the steer lives on {steer.readout.model_id!r}"
        )
    if not word_columns(steer.readout):
        raise ValueError(
            f"steer: {steer.readout.model_id!r} has no token that is a whole word, so directions have no words"
        )
