"""Steers without labelled texts: from words, from a lexicon, from two example texts."""

import difflib
import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.evaluate.matched_kl import strength_at_kl
from steerlens.maths.brief import brief
from steerlens.maths.logits import logits, softcap_gradient
from steerlens.maths.numbers import is_number
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.steer.natural_metric import natural_metric
from steerlens.methods.steer.problem import sums_over
from steerlens.models.collect import collect
from steerlens.models.hooks import Model
from steerlens.models.readout import as_readout
from steerlens.values.labelled import Labelled
from steerlens.values.readout import Readout
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer
from steerlens.values.texts import as_name

Words = Mapping[str, str | float]
"""Pairs, the wanted word first (`{"good": "bad"}`), or words with scores (`{"good": 1.0}`)."""
DAMPING = 0.03
"""Of both sides of the metric, as in `fit_steer`."""
SAMPLE = 20_000
"""Positions that the metric and the gradient are taken from, at most."""
FLOOR = 1e-6
"""Of the embeddings' covariance, relative to its largest eigenvalue."""


@torch_defaults()
def steer_from_words(readout: Readout, words: Words, *, name: str = "words") -> Steer:
    """Return the steer that scales the logits of given words, and moves all other words least.

        W (e_v − ē) = a_v (e_v − ē)  for each word v with score a_v        minimise  Σ_u |W (e_u − ē)|²

    over the columns `e` of `W_U`, `ē` their mean. At strength `s` the logit of a word, over the
    mean of all words, is `1 + s·a_v` times what it was: where the model had a use for "good" and
    "bad", it now has more for the one and less for the other, and where it had none nothing
    changes. A closed form, exact while the words are fewer than `d_model` and their embeddings
    independent; of more words, least squares. No text is read and nothing is fitted, so the
    strength has no unit: `steerlens.strength_at_kl` gives it one, or `steer_towards_words`.

    Args:
        readout: of the model, `steerlens.readout(model)`.
        words: pairs, the wanted word first, which count as 1 and −1, or scores; every spelling of
            a word that is one token counts.
        name: for tables and figures.

    Raises:
        ValueError: no words, a word that is no single token, one with two scores, no score but 0.

    Example:
        >>> import steerlens as sl
        >>> on = sl.readout(sl.load_model("toy-64"))
        >>> joy = steer_from_words(on, {"good": "awful", "superb": "dreadful"}, name="joy")
        >>> good, mean = on.W_U[:, on.tokens.index("good")], on.W_U.mean(1)
        >>> torch.allclose(joy.W @ (good - mean), good - mean, atol=1e-4)
        True
    """
    readout = as_readout(readout, "readout")
    ids, scores = _scored(readout, words)
    W_U = readout.head.W_U.double()
    centred = W_U - W_U.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(centred @ centred.mT / centred.shape[1])
    root = values.clamp_min(FLOOR * float(values[-1])).sqrt()
    X = centred[:, ids]
    # in whitened coordinates the least change is the least norm
    white = (vectors.mT @ X) / root[:, None]
    V = (X * scores.to(X)) @ torch.linalg.pinv(white, rtol=1e-8)
    return Steer(((V / root) @ vectors.mT).float(), readout, name)


def steer_towards_words(
    states: States, words: Words, *, kl: float = 0.05, name: str = "words"
) -> Steer:
    """Return the steer that raises the expected score of the next word fastest for what it costs.

        W ∝ C⁻¹ G S⁻¹        G = ∂/∂W E_t Σ_v p_t(v) a_v = E_t cᵀ Σ_v p_t(v) (a_v − E_p a) e_v

    the natural gradient at the plain model, in closed form: of all steers of one cost in the natural
    metric it gains most to first order. Unlike `steer_from_words` it knows the contexts in which a
    model uses the words. Texts need no labels, and labels are not read.

    Args:
        states: of any texts of the kind that will be written; 20,000 positions are used.
        words: pairs, the wanted word first, which count as 1 and −1, or scores.
        kl: what strength 1 costs on the texts, nats per token, as for a fitted steer.
        name: for tables and figures.

    Raises:
        ValueError: words as for `steer_from_words`; words that the model never predicts there.

    Example:
        >>> import steerlens as sl
        >>> states = sl.collect(sl.load_model("toy-64"), sl.toy.corpus("sentiment", n=60).texts, progress=False)
        >>> joy = steer_towards_words(states, {"superb": 1, "good": 0.5, "awful": -1})
        >>> round(sl.strength_at_kl(joy, states), 2)
        1.0
    """
    check_states(states)
    states.readout.check_unchanged()
    ids, scores = _scored(states.readout, words)
    some = states.sample(SAMPLE, seed=0)
    return _of_cost(_score_gradient(some, ids, scores), some, kl, name)


def steer_from_texts(
    model: Model,
    wanted: str,
    unwanted: str,
    *,
    states: States | None = None,
    kl: float = 0.05,
    name: str = "texts",
) -> Steer:
    """Return the steer that tells two example texts apart fastest for what it costs.

        W ∝ C⁻¹ G S⁻¹        G = ∂/∂W (log p(wanted) / n − log p(unwanted) / m)

    the natural gradient at the plain model, `n` and `m` the texts' tokens. Two texts differ in much
    else than what is meant, so it takes their topics for the style as well: paragraphs on one
    subject, in two manners, say more than sentences. Labelled texts and `fit_steer` say far more.

    Args:
        wanted: what strength 1 makes likelier.
        unwanted: what it makes less likely.
        states: of other texts, for the metric; None: of the two texts alone, with little to go by.
        kl: what strength 1 costs, nats per token, as for a fitted steer.
        name: for tables and figures.

    Raises:
        ValueError: a text that is empty; states of another model; twice the same text.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> kind = steer_from_texts(model, "the film was superb .", "the film was awful .")
        >>> table = sl.score(model, ["the film was superb ."], kind, strengths=(-1, 1))
        >>> told = table.groupby("strength").log_prob.sum()
        >>> bool(told[1.0] > told[-1.0])
        True
    """
    wanted, unwanted = (
        as_name(text, side) for text, side in ((wanted, "wanted"), (unwanted, "unwanted"))
    )
    if wanted.strip() == unwanted.strip():
        raise ValueError("unwanted: the same text as wanted, so nothing is told apart")
    both = collect(model, Labelled((wanted, unwanted), (1.0, -1.0)), progress=False)
    around = both if states is None else states
    if not both.readout.same_as(around.readout):
        raise ValueError(
            f"states: they are of {around.readout.model_id!r}, the model is {both.readout.model_id!r}; collect its own"
        )
    # with the weights of "texts" either text weighs the same, whatever its length
    slope = sums_over(both, "texts").steer
    return _of_cost(slope, around.sample(SAMPLE, seed=0), kl, name)


def _of_cost(slope: Float[Tensor, "d d"], around: States, kl: float, name: str) -> Steer:
    """Return the natural gradient, scaled to a cost."""
    metric = natural_metric(around, damping=DAMPING, weights="tokens")
    white = metric.whiten_slope(slope)
    if not float(white.norm()) > 0:
        raise ValueError(f"{name!r}: nothing here raises one side over the other; are the words used at all?")  # fmt: skip
    direction = metric.unwhiten((white / white.norm()).float())
    steer = Steer(direction, around.readout, name)
    return Steer(strength_at_kl(steer, around, kl=kl) * direction, around.readout, name)


def _score_gradient(
    states: States, ids: list[int], scores: Float[Tensor, " n"]
) -> Float[Tensor, "d d"]:
    """Return the gradient of the expected score in a steer, at 0."""
    head = states.readout.head
    a = torch.zeros(head.W_U.shape[1], device=head.W_U.device)
    a[ids] = scores.to(a)
    total = torch.zeros(states.d_model, states.d_model, dtype=torch.float64, device=a.device)
    for c, _, _ in states.chunks(512, device=a.device):
        z = logits(head, c)
        p, bend = z.softmax(1), softcap_gradient(head, z)
        pull = p * (a - (p @ a)[:, None]) * bend
        total += (c.mT @ (pull @ head.W_U.mT)).double()
    return total / states.n_positions


def _scored(readout: Readout, words: Words) -> tuple[list[int], Float[Tensor, " n"]]:
    """Return the columns of words and their scores."""
    if not isinstance(words, Mapping) or not words:
        raise ValueError(
            f"words: got {brief(words)}, expected pairs ({{'good': 'bad'}}) or scores ({{'good': 1.0, 'bad': -1.0}})"
        )
    spelled: dict[str, list[int]] = {}
    for i in readout.word_ids.tolist():
        spelled.setdefault(readout.tokens[i].strip(), []).append(i)
    found: dict[str, float] = {}
    for word, told in words.items():
        pair = [(word, 1.0), (told, -1.0)] if isinstance(told, str) else [(word, told)]
        for one, score in pair:
            if not isinstance(one, str) or not is_number(score) or not math.isfinite(score):
                raise ValueError(
                    f"words: {one!r} has the score {brief(score)}, expected a word and a finite number, or another word"
                )
            if found.setdefault(one.strip(), float(score)) != float(score):
                raise ValueError(f"words: {one!r} is on both sides; leave one out")
    for word in found:
        if word not in spelled:
            near = ", ".join(difflib.get_close_matches(word, spelled, n=3)) or "none"
            raise ValueError(
                f"words: {word!r} is no single token of {readout.model_id!r} (nearest: {near}); a steer moves tokens, so "
                "take a word that is one"
            )
    if not any(found.values()):
        raise ValueError("words: every score is 0, so nothing is to be moved")
    rows = [(i, score) for word, score in found.items() for i in spelled[word]]
    return [i for i, _ in rows], torch.tensor([score for _, score in rows])
