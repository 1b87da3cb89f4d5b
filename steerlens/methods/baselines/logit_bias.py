"""Add a constant to the logit of each word, learned from labels: the soft blacklist."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from steerlens.maths.numbers import as_count, as_seed, check_tensor
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.offsets import Span, fit_offsets, text_moments
from steerlens.values.intervention import UNEMBED_OUT, Edit, Strength
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout, check_readout
from steerlens.values.states import States, check_states
from steerlens.values.steer import per_row
from steerlens.values.texts import as_name


@dataclass(frozen=True, eq=False)
class LogitBias:
    """`logits + s · offset`, the same at every position, before scale and soft cap.

    With `top`, only of the words that are the model's likeliest `top` at the position. Made by
    `fit_logit_bias` and `steerlens.methods.baselines.log_odds.fit_log_odds`.

    Args:
        offset: `[d_vocab]`; what a label of 1 adds. Words that a vocabulary gains later get nothing.
        readout: of the model.
        name: for tables and figures.
        top: how many words at each position; None: all.

    Raises:
        ValueError: an offset of another length, or one that is not finite; a `top` below 1.
    """

    offset: Float[Tensor, " d_vocab"]
    readout: Readout
    name: str = "logit bias"
    top: int | None = None
    prefix = 0
    file_kind: ClassVar[str] = "logit bias"

    def __post_init__(self) -> None:
        as_name(self.name)
        check_readout(self.readout)
        as_top(self.top)
        check_tensor(self.offset, "offset", f"({self.readout.d_vocab},)")
        if self.offset.ndim != 1 or not 0 < len(self.offset) <= self.readout.d_vocab:
            raise ValueError(
                f"offset: got shape {tuple(self.offset.shape)}, expected ({self.readout.d_vocab},)"
            )
        if not bool(torch.isfinite(self.offset).all()):
            raise ValueError(
                f"offset of {self.name!r} holds NaN or infinity, as states in half precision may; load the model in float32"
            )

    @property
    def n_parameters(self) -> int:
        """Numbers that were fitted."""
        return self.offset.numel()

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        def edit(z: Tensor, places: TokenIndex) -> Tensor:
            wide = z.to(torch.promote_types(z.dtype, torch.float32))
            added = pad(self.offset.to(wide), (0, z.shape[-1] - len(self.offset)))
            if self.top is not None and self.top < z.shape[-1]:
                # of equal logits all are in, so that none depends on the order of the vocabulary
                added = added * (wide >= wide.topk(self.top).values[..., -1:])
            return (wide + per_row(strength, z) * added).to(z.dtype)

        return ((UNEMBED_OUT, edit),)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps of it."""
        return {"offset": self.offset}, {"top": self.top}

    @classmethod
    def unpack(
        cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout
    ) -> "LogitBias":
        """Make it again from what `pack` gave."""
        return cls(tensors["offset"], readout, about["name"], about["top"])

    def __repr__(self) -> str:
        r = self.readout
        gate = "" if self.top is None else f", of the {self.top} likeliest words"
        return f"LogitBias({self.name!r}{gate}, on {r.model_id!r} [{r.digest[:8]}])"


def as_top(given: int | None) -> int | None:
    """Return how many words are moved at each position; None: all.

    Raises:
        ValueError: no whole number, or none of them.
    """
    expected = "a whole number, at least 1, or None for all words"
    return None if given is None else as_count(given, "top", expected)


@torch_defaults()
def fit_logit_bias(states: States, *, seed: int = 0, name: str = "logit bias") -> LogitBias:
    """Fit the constant that a label adds to the logit of each word: the paper's soft blacklist.

        minimise  mean CE(softmax(c W_U + b_U + y·o + d), next token) + ridge/2 · Σ_v (p̄_v + 1/N) (o_v² + d_v²)

    Convex, solved to 1e-4 nats with a certificate; `p̄` is the model's mean prediction over N
    positions, so the ridge is in nats, and held-out texts choose it. `d`, always on, is fitted
    beside it and left out. The authors take 1,000 steps of Adam and no ridge. It moves the same words everywhere: that "not"
    turns the next word's sign around it cannot say (their appendix I).

    Source: Han et al. (arXiv 2305.12798), table 1 and appendix I ("Soft-Blacklist"; `offset` in
    their code).

    Args:
        states: of labelled texts, from `steerlens.collect`.
        seed: of the texts that choose the ridge.

    Raises:
        ValueError: all labels equal, a single text.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=60, seed=0), progress=False)
        >>> fit_logit_bias(states).offset.shape == (model.cfg.d_vocab,)
        True
    """
    check_states(states)
    name, seed = as_name(name), as_seed(seed)
    sums = text_moments(states)
    # a word that is never predicted costs nothing to move; one position's worth keeps it in bounds
    size = ((sums.p + 1) / sums.weight).sqrt().to(states.readout.head.W_U)
    span = Span(len(size), lambda V: V / size, lambda g: g / size)
    return LogitBias(span.expand(fit_offsets(states, span, seed))[0], states.readout, name)
