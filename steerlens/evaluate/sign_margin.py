"""What any intervention is worth and what it costs, by passes of the model."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.evaluate.matched_kl import solve_strength
from steerlens.evaluate.signed import with_nonzero_label
from steerlens.maths.logit_stats import logit_stats
from steerlens.maths.stats import even_interval
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.collect import reader
from steerlens.models.hooks import Model
from steerlens.models.score import state_log_probs, warn_of_cut
from steerlens.values.copies import by_distinct_text
from steerlens.values.fit import Fit, value_of
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled
from steerlens.values.states import States

CHUNK = 1024


@torch_defaults()
def sign_margin(
    model: Model, data: Labelled, intervention: Intervention | Fit, *, strength: float = 1.0
) -> pd.Series:
    """Return what the sign of an intervention is worth on labelled texts.

    That is the NLL at the wrong sign less that at the right one. Two passes of the model.

        Σ_texts w (NLL at −s·y − NLL at s·y) / Σ_texts w tokens        nats per token

    The weights `w` let positive and negative labels weigh the same (see `even_interval`): where most
    texts have one label, what makes any of them likelier would look like a style. Of texts of one
    sign only it does. Texts with label 0 have no sign and do not count (see `with_nonzero_label`).

    Returns:
        `sign_margin`, its 95 % interval over texts `low`, `high`, `nll` at the right sign (nats per
        token), and `texts`.

    Raises:
        ValueError: no text has a sign.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=300, seed=0)
        >>> tone = sl.fit_steer(sl.collect(model, data, progress=False)).value
        >>> bool(sign_margin(model, sl.toy.corpus("tone", n=100, seed=1), tone).sign_margin > 0)
        True
    """
    some = with_nonzero_label(data)
    at = reader(model, some, intervention)
    (right, n), (wrong, _) = (
        _text_nll(model, at([sign * strength * y for y in some.labels])) for sign in (1, -1)
    )
    found, low, high = margin_interval(wrong - right, n, some)
    nll = float(right.sum() / n.sum())
    return pd.Series(
        {"sign_margin": found, "low": low, "high": high, "nll": nll, "texts": float(len(n))}
    )


def margin_interval(
    gains: Float[np.ndarray, " n"], tokens: Float[np.ndarray, " n"], data: Labelled | States
) -> tuple[float, float, float]:
    """Return what labelled texts gain per token, positive and negative labels weighing the same,
    and its 95 % interval over the texts, of which copies are one.

    Example:
        >>> data = Labelled(["good .", "good .", "bad ."], [1, 1, -1])
        >>> margin_interval(np.array([2.0, 2.0, 4.0]), np.full(3, 2.0), data)[0]
        1.5
    """
    (top, bottom), labels = by_distinct_text(np.stack([gains, tokens]), data)
    return even_interval(top, bottom, labels)


def nll(
    model: Model, data: Labelled, intervention: Intervention | Fit | None, *, strength: float = 1.0
) -> float:
    """Return the mean NLL in nats per token under an intervention.

    At `strength` times each text's label; None: of the plain model.

    Example:
        >>> import steerlens as sl
        >>> text = sl.Labelled(("the film was good .",), (1.0,))
        >>> nll(sl.load_model("toy-64"), text, None) < 5
        True
    """
    nats, n = text_nll(model, data, intervention, strength=strength)
    return float(nats.sum() / n.sum())


def text_nll(
    model: Model, data: Labelled, intervention: Intervention | Fit | None, *, strength: float = 1.0
) -> tuple[Float[np.ndarray, " n_texts"], Float[np.ndarray, " n_texts"]]:
    """Return the summed NLL of each text in nats under an intervention, and its tokens.

    The intervention is at `strength` times each text's label.

    Example:
        >>> import steerlens as sl
        >>> nats, tokens = text_nll(sl.load_model("toy-64"), sl.Labelled(("the film was good .",), (1.0,)), None)
        >>> tokens.tolist()
        [6.0]
    """
    return _text_nll(model, reader(model, data, intervention)([strength * y for y in data.labels]))


def _text_nll(
    model: Model, states: States
) -> tuple[Float[np.ndarray, " n_texts"], Float[np.ndarray, " n_texts"]]:
    warn_of_cut(model, states, "not judged")
    nats = states.sum_by_text(state_log_probs(states, None, (0.0,))[0])
    return -nats.numpy(), states.lengths.double().numpy()


def kl_on_texts(
    model: Model,
    data: Labelled | Sequence[str],
    intervention: Intervention | Fit,
    *,
    strength: float = 1.0,
) -> float:
    """Return KL(at strength 0 ‖ under the intervention), nats per token.

    The mean is over the positions of a text and over both signs. Three passes of the model; for a
    steer `steerlens.strength_at_kl` and `strength_cost` need none.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=100, seed=0)
        >>> kl_on_texts(model, data, sl.fit_steer(sl.collect(model, data, progress=False)).value, strength=0.0)
        0.0
    """
    return kl_by_strength(model, data, intervention)(strength)


def kl_by_strength(
    model: Model, data: Labelled | Sequence[str], intervention: Intervention | Fit
) -> Callable[[float], float]:
    """Return `kl_on_texts` as a function of the strength.

    The states at strength 0 are read once.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=100, seed=0)
        >>> kl_by_strength(model, data, sl.fit_steer(sl.collect(model, data, progress=False)).value)(0.0)
        0.0
    """
    at = reader(model, data, intervention)
    plain = at(0.0)

    def cost(strength: float) -> float:
        total = sum(
            float(part.sum())
            for sign in (1, -1)
            for part in position_kl(plain, at(sign * strength))
        )
        return total / 2 / plain.n_positions

    return cost


def written_kl(
    model: Model, written: pd.DataFrame, intervention: Intervention | Fit
) -> Float[np.ndarray, " n"]:
    """Return what an intervention costs along each text that it wrote: the mean over its tokens of

        KL(plain model ‖ under the intervention at the row's strength)        nats per token

    exact at every position, no estimate from the tokens that were drawn. Two passes of the model,
    over prompt and text as one string; a token that the end of the prompt shares counts.

    Args:
        written: from `steerlens.generate`: `prompt`, `strength`, `text`.

    Returns:
        One number per row; NaN for a text that ended at once.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=100, seed=0)
        >>> tone = sl.fit_steer(sl.collect(model, data, progress=False)).value
        >>> costs = written_kl(model, sl.generate(model, ["my"], tone, strengths=(0, 1, 2)), tone)
        >>> [bool(x) for x in (costs[0] == 0, 0 < costs[1] < costs[2])]
        [True, True]
    """
    found = np.full(len(written), np.nan)
    rows = [row for row, text in enumerate(written.text) if text.strip()]
    if not rows:
        return found
    some = written.iloc[rows]
    texts = Labelled(some.text, [0.0] * len(rows), some.prompt)
    found[rows] = [
        kl.mean() for kl in kl_by_text(model, texts, intervention, some.strength.tolist())
    ]
    return found


def kl_by_text(
    model: Model,
    texts: Labelled,
    intervention: Intervention | Fit | None,
    strength: float | list[float],
) -> list[Float[np.ndarray, " n"]]:
    """Return KL(plain model ‖ under an intervention) at each token of texts that were written, in
    nats.

    One array per text; of the plain model itself (None) zeros.

    Args:
        texts: as they were written behind their prompts, the space between where there was one.
        strength: one for all texts, or one for each.
    """
    plain = reader(model, texts, None, apart=False)(0.0)
    if intervention is None:
        return [np.zeros(n) for n in plain.lengths.tolist()]
    there = reader(model, texts, intervention, apart=False)(strength)
    costs = torch.cat(list(position_kl(plain, there))).numpy()
    text = torch.cat([chunk.text for chunk in plain.chunks(1 << 14)]).numpy()
    return [costs[text == k] for k in range(len(plain.labels))]


def position_kl(base: States, other: States) -> Iterator[Float[Tensor, " n"]]:
    """Yield KL(base ‖ other) at each position of the same texts, in stored order."""
    head, device = base.readout.head, base.readout.W_U.device
    if base.logit_edit is not None or other.logit_edit is not None:
        yield from _logits_kl(base, other)
        return
    for a, b in zip(
        base.chunks(CHUNK, device=device), other.chunks(CHUNK, device=device), strict=True
    ):
        told = logit_stats(head, a.next, (a.hidden, b.hidden), [[1.0, 0.0], [0.0, 1.0]], others=1)
        yield told.kl[0].double().cpu()


def _logits_kl(base: States, other: States) -> Iterator[Float[Tensor, " n"]]:
    """Yield what `position_kl` does, from whole rows of logits: an edit of them may need all."""
    for a, b in zip(base.chunks(CHUNK // 8), other.chunks(CHUNK // 8), strict=True):
        log_p, log_q = (s.logits(c).log_softmax(1) for s, c in ((base, a), (other, b)))
        yield (log_p.exp() * (log_p - log_q)).sum(1).double().cpu()


def strength_on_texts(
    model: Model,
    data: Labelled | Sequence[str],
    intervention: Intervention | Fit,
    *,
    kl: float = 0.05,
) -> float:
    """Return the strength at which any intervention costs `kl` nats per token.

    This is `steerlens.strength_at_kl` for what is no steer: states that were read once tell what a
    change at the unembedding does alone.

    Some ten passes of the model, more where the cost is far from a square; a hundred texts are
    plenty. Where the cost does not grow steadily with the strength, one of those that cost as much.

    Raises:
        ValueError: no strength up to a million costs as much.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> tone = sl.fit_steer(sl.collect(model, data, progress=False)).value
        >>> s = strength_on_texts(model, data, tone)
        >>> round(kl_on_texts(model, data, tone, strength=s), 3)
        0.05
    """
    return solve_strength(
        kl_by_strength(model, data, intervention), kl, getattr(value_of(intervention), "name", "it")
    )
