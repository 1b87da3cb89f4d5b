"""Raise the odds of a concept's words by the step that changes the prediction least: FishBack."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from steerlens.maths.logits import logits, softcap_gradient
from steerlens.maths.numbers import as_count
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.checks import as_ids
from steerlens.methods.baselines.fisher import cheapest_step, exact, walk
from steerlens.methods.baselines.log_odds import fit_log_odds
from steerlens.values.intervention import UNEMBED_IN, Edit, Strength
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout, check_readout
from steerlens.values.states import States, check_states
from steerlens.values.texts import as_name


@dataclass(frozen=True, eq=False)
class FishBack:
    """Steps of the context vector that raise a concept's log-odds at the least cost in KL:

        c ← c + ε G⁻¹ ∇g / (∇gᵀ G⁻¹ ∇g)        g = log P(favoured) − log P(avoided)
        G = Cov_p(e) + αI                       ε = s / n, n times

    with `p`, `G` and `∇g = E_p[e | favoured] − E_p[e | avoided]` where the step begins. To first
    order every position's odds move by `s` nats, whatever the context. Made by `fit_fishback`.

    The paper pulls the metric of the softmax back through the layers to any of them; this is the
    last one, where the pull-back is the identity.

    Args:
        favoured, avoided: ids of words.
        readout: of the model.
        name: for tables and figures.
        n_steps: in how many steps.

    Raises:
        ValueError: no words, one that is in both, or an id that there is not; no step.
    """

    favoured: tuple[int, ...]
    avoided: tuple[int, ...]
    readout: Readout
    name: str = "fishback"
    n_steps: int = 4
    prefix = 0
    file_kind: ClassVar[str] = "fishback"

    def __post_init__(self) -> None:
        as_name(self.name)
        check_readout(self.readout)
        as_count(self.n_steps, "n_steps")
        for what, ids in (("favoured", self.favoured), ("avoided", self.avoided)):
            if not as_ids(ids, what, self.readout.d_vocab):
                raise ValueError(f"{what}: got none, expected ids of words, at least one")
        both = set(self.favoured) & set(self.avoided)
        if both:
            raise ValueError(
                f"favoured, avoided: {self.readout.tokens[min(both)]!r} is in both; leave it out of one"
            )

    @property
    def n_parameters(self) -> int:
        """Numbers that were fitted: none, words are chosen."""
        return 0

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        head = exact(self.readout.head)
        sides = [torch.tensor(ids, device=head.W_U.device) for ids in (self.favoured, self.avoided)]

        def step(c: Tensor, by: Tensor) -> Tensor:
            z = logits(head, c)
            bend = softcap_gradient(head, z)
            # mean embedding of each side's words, as the model weighs them
            means = [
                ((z[:, ids].softmax(1) * bend_of(bend, ids)) @ head.W_U[:, ids].mT) for ids in sides
            ]
            return by * cheapest_step(head, c, means[0] - means[1])

        def edit(c: Tensor, places: TokenIndex) -> Tensor:
            return walk(c, strength, self.n_steps, step)

        return ((UNEMBED_IN, edit),)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps of it."""
        words = {"favoured": list(self.favoured), "avoided": list(self.avoided)}
        return {}, {**words, "n_steps": self.n_steps}

    @classmethod
    def unpack(
        cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout
    ) -> "FishBack":
        """Make it again from what `pack` gave."""
        words = tuple(about["favoured"]), tuple(about["avoided"])
        return cls(*words, readout, about["name"], about["n_steps"])

    def __repr__(self) -> str:
        r = self.readout
        return (
            f"FishBack({self.name!r}, {len(self.favoured)} words against {len(self.avoided)}, on {r.model_id!r} "
            f"[{r.digest[:8]}])"
        )


def bend_of(bend: Tensor | float, ids: Tensor) -> Tensor | float:
    """Return the slope of scale and soft cap at some words."""
    return bend[:, ids] if isinstance(bend, Tensor) else bend


@torch_defaults()
def fit_fishback(
    states: States, *, n_words: int = 50, n_steps: int = 4, name: str = "fishback"
) -> FishBack:
    """Choose the words that one sign's texts use more than the other's, as concept and counter-concept.

    They are the `n_words` with the largest and the smallest z-score of `fit_log_odds`. Where the
    concept is known as words, give them to `FishBack` itself.

    Source: Wang and Zhao (arXiv 2605.17231), the closed-form step and its iteration; the concept's
    words are ours to choose, theirs are verb forms.

    Args:
        states: of labelled texts; only their words are read.
        n_words: of each side.
        n_steps: see `FishBack`.

    Raises:
        ValueError: no text with a positive label or none with a negative one; more words than there
            are.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=60, seed=0), progress=False)
        >>> len(fit_fishback(states, n_words=10).favoured)
        10
    """
    check_states(states)
    name, n_steps = as_name(name), as_count(n_steps, "n_steps")
    n_words = as_count(n_words, "n_words")
    z = fit_log_odds(states).offset
    most = min(int((z > 0).sum()), int((z < 0).sum()))
    as_count(n_words, "n_words", f"1 … {most}, the words that these texts tell apart", most=most)
    favoured, avoided = (tuple((sign * z).topk(n_words).indices.tolist()) for sign in (1, -1))
    return FishBack(favoured, avoided, states.readout, name, n_steps)
