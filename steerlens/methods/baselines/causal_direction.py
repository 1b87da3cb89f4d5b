"""Add the direction of a concept under the causal inner product: a step that leaves other concepts
where they are, on average."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.brief import brief
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.shift import Shift
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.readout import Readout, check_readout
from steerlens.values.states import States, check_states
from steerlens.values.texts import as_list, as_name

DAMPING = 1e-4
"""Added to the eigenvalues of the covariance, in units of the largest: rows of an unembedding may
be dependent."""


@torch_defaults()
def causal_direction(
    readout: Readout, pairs: Sequence[tuple[str, str]], *, name: str = "causal direction"
) -> Shift:
    """Return the concept that pairs of words differ in, as a shift of the unembedding's input.

        γ̄ = mean of γ(second) − γ(first)        vector = Cov(γ)⁻¹ γ̄ / √(γ̄ᵀ Cov(γ)⁻¹ γ̄)

    `γ` are the output word embeddings, the columns of `W_U`, and `Cov(γ)` is over the vocabulary,
    every word weighing the same. A shift by `Cov(γ)⁻¹ γ̄` changes the logit differences of the pairs
    and, under the causal inner product, none of a concept that is causally separable.

    Source: Park, Choe and Veitch (arXiv 2311.03658), theorem 3.2 and section 3.3.

    Args:
        readout: of the model, from `steerlens.readout`.
        pairs: words of one token, without and with the concept, e.g. `[("bad", "good")]`.
        name: for tables and figures.

    Raises:
        ValueError: no pairs; a word that is no token, with or without a leading space.

    Example:
        >>> import steerlens as sl
        >>> on = sl.readout(sl.load_model("toy-64"))
        >>> joy = causal_direction(on, [("terrible", "good"), ("awful", "excellent")])
        >>> good, bad = (on.tokens.index(word) for word in ("good", "terrible"))
        >>> bool(joy.vector @ (on.W_U[:, good] - on.W_U[:, bad]) > 0)
        True
    """
    check_readout(readout)
    name = as_name(name)
    ids = torch.tensor([[_token(readout, word) for word in pair] for pair in _pairs(pairs)])
    W_U = readout.W_U.detach().float()
    gamma = (W_U[:, ids[:, 1]] - W_U[:, ids[:, 0]]).mean(1)
    if not bool(gamma.any()):
        raise ValueError(
            "pairs: their differences add up to nothing; give pairs that turn the same way"
        )
    return Shift(causal_dual(readout, gamma), UNEMBED_IN, readout, name)


@torch_defaults()
def fit_causal_direction(states: States, *, name: str = "causal direction") -> Shift:
    """Return the concept that labels change in the words of texts, under the causal inner product.

        γ̄ = Σ_t (y_t − ȳ) γ(word t)        vector as in `causal_direction`

    Where there are labelled texts and no pairs of words. It looks at the words alone: the model
    gives nothing but their embeddings.

    Source: Park, Choe and Veitch (arXiv 2311.03658), with their pairs replaced by the words of
    labelled texts.

    Raises:
        ValueError: all labels equal.

    Example:
        >>> import steerlens as sl
        >>> states = sl.collect(sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0), progress=False)
        >>> fit_causal_direction(states).vector.shape
        torch.Size([64])
    """
    check_states(states)
    name = as_name(name)
    weight = torch.zeros(2, states.readout.d_vocab, dtype=torch.float64)
    for _, target, text in states.chunks(1 << 16):
        weight[0].index_add_(0, target, states.labels[text].double())
        weight[1].index_add_(0, target, torch.ones(len(target), dtype=torch.float64))
    slope = weight[0] - weight[0].sum() / weight[1].sum() * weight[1]
    if not bool(slope.abs().max() > 1e-9):
        raise ValueError(
            "states: every label is the same, so nothing is told apart; add texts of another label"
        )
    gamma = states.readout.W_U.detach().float() @ slope.float().to(states.readout.W_U.device)
    return Shift(causal_dual(states.readout, gamma), UNEMBED_IN, states.readout, name)


def causal_dual(readout: Readout, gamma: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """Return `Cov(γ)⁻¹ γ̄`, of length 1 under the causal inner product of embeddings.

    Rows of padding and special tokens are no words and do not count.
    """
    words = readout.W_U.detach()[:, readout.ordinary].double()
    centred = words - words.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(centred @ centred.mT / words.shape[1])
    inverse = 1 / (values + DAMPING * values[-1])
    dual = vectors @ (inverse * (vectors.mT @ gamma.double()))
    return (dual / (gamma.double() @ dual).sqrt()).float()


def _pairs(given: Any) -> list[tuple[str, str]]:
    """Return pairs of words, as they were given."""
    found = as_list("pairs", given)
    for pair in found or [None]:
        words = list(pair) if isinstance(pair, tuple | list) else []
        if len(words) != 2 or not all(isinstance(word, str) for word in words):
            got = "none" if not found else brief(pair)
            raise ValueError(f"pairs: got {got}, expected words such as [('bad', 'good')]")
    return found


def _token(readout: Readout, word: str) -> int:
    """Return the id of a word, with the leading space where the vocabulary has it so."""
    for form in (f" {word}", word):
        if form in readout.tokens:
            return readout.tokens.index(form)
    raise ValueError(
        f"pairs: {brief(word)} is no single token of {readout.model_id!r}; take words that are"
    )
