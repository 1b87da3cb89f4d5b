"""Add one vector to states: what several rivals do, and the one that is learned at the
unembedding."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.moments import second_moments
from steerlens.maths.numbers import as_number, as_seed, check_tensor, is_number
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.offsets import Span, fit_offsets, text_moments
from steerlens.values.intervention import UNEMBED_IN, Edit, Strength, added_name, scaled_name
from steerlens.values.metric import Metric
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout, check_readout
from steerlens.values.states import States, check_states
from steerlens.values.steer import per_row
from steerlens.values.texts import as_name


@dataclass(frozen=True, eq=False)
class Shift:
    """`h + s · vector` at every position of one hook.

    Made by `fit_shift`, and by the other fits of one vector in `steerlens.methods.baselines`.
    Vectors of one site add, subtract and scale.

    Args:
        vector: `[d_model]`, of the site's width; what a label of 1 adds.
        site: the hook's name, e.g. `blocks.2.hook_resid_post`, or `unembed.hook_in`.
        readout: of the model.
        name: for tables and figures.

    Raises:
        ValueError: a vector of another width, or one that is not finite.
    """

    vector: Float[Tensor, " d_model"]
    site: str
    readout: Readout
    name: str = "shift"
    prefix = 0
    file_kind: ClassVar[str] = "shift"

    def __post_init__(self) -> None:
        as_name(self.name)
        as_name(self.site, "site")
        check_readout(self.readout)
        check_tensor(self.vector, "vector", f"({self.readout.d_model},)")
        # layers may be wider than the head's input, as OPT-350m's
        free = self.site != UNEMBED_IN and self.vector.ndim == 1
        if not free and self.vector.shape != (self.readout.d_model,):
            raise ValueError(
                f"vector: got shape {tuple(self.vector.shape)}, expected ({self.readout.d_model},)"
            )
        if not bool(torch.isfinite(self.vector).all()):
            raise ValueError(
                f"vector of {self.name!r} holds NaN or infinity, as states in half precision may; load the model in float32"
            )

    @property
    def n_parameters(self) -> int:
        """Numbers that were fitted."""
        return self.vector.numel()

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        def edit(h: Tensor, places: TokenIndex) -> Tensor:
            if h.shape[-1] != len(self.vector):
                raise ValueError(
                    f"vector: made for states of width {len(self.vector)}, those at {self.site} are {h.shape[-1]} wide"
                )
            wide = h.to(torch.promote_types(h.dtype, torch.float32))
            return (wide + per_row(strength, h) * self.vector.to(wide)).to(h.dtype)

        return ((self.site, edit),)

    def __add__(self, other: "Shift") -> "Shift":
        if not isinstance(other, Shift):
            return NotImplemented
        alike = self.site == other.site and self.vector.shape == other.vector.shape
        if not alike or not self.readout.same_as(other.readout):
            raise ValueError(
                f"shifts {self.name!r} at {self.site} of {self.readout.model_id!r} and {other.name!r} at {other.site} of "
                f"{other.readout.model_id!r} act on different states and cannot be added; add vectors of one site and model"
            )
        vector = self.vector + other.vector.to(self.vector)
        return replace(self, vector=vector, name=added_name(self.name, other.name))

    def __mul__(self, factor: float) -> "Shift":
        if not is_number(factor):
            return NotImplemented
        by = as_number(factor, "factor", "a finite number of vectors")
        return replace(self, vector=by * self.vector, name=scaled_name(self.name, by))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "Shift":
        return self * (1 / divisor)

    def __neg__(self) -> "Shift":
        return self * -1

    def __sub__(self, other: "Shift") -> "Shift":
        return self + -other

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps of it."""
        return {"vector": self.vector}, {"site": self.site}

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout) -> "Shift":
        """Make it again from what `pack` gave."""
        return cls(tensors["vector"], about["site"], readout, about["name"])

    def __repr__(self) -> str:
        r = self.readout
        return f"Shift({self.name!r} at {self.site}, on {r.model_id!r} [{r.digest[:8]}])"


@torch_defaults()
def fit_shift(states: States, *, seed: int = 0, name: str = "shift") -> Shift:
    """Fit the vector that a label adds to the input of the unembedding.

        minimise  mean CE(softmax((c + y·v + d) W_U + b_U), next token) + ridge/2 · (vᵀSv + dᵀSd)

    A logit bias of rank d_model: `(c + v) W_U = c W_U + v W_U`. Convex, solved to 1e-4 nats with a
    certificate; `S` is the natural metric's covariance of embeddings, so the ridge is in nats, and
    held-out texts choose it. `d`, always on, is fitted beside it and left out.

    Source: Han et al. (arXiv 2305.12798), appendix I, and `add` in their code.

    Args:
        states: of labelled texts, from `steerlens.collect`.
        seed: of the texts that choose the ridge.

    Raises:
        ValueError: all labels equal, a single text.

    Example:
        >>> import steerlens as sl
        >>> states = sl.collect(sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0), progress=False)
        >>> fit_shift(states).site
        'unembed.hook_in'
    """
    check_states(states)
    name, seed = as_name(name), as_seed(seed)
    metric = Metric(*second_moments(states.readout.head, text_moments(states)), damping=1e-4)
    root, W_U = metric.S_inverse_root.to(states.readout.head.W_U), states.readout.head.W_U
    span = Span(len(root), lambda V: V @ root @ W_U, lambda g: g @ W_U.mT @ root)
    return Shift(fit_offsets(states, span, seed)[0] @ root, UNEMBED_IN, states.readout, name)
