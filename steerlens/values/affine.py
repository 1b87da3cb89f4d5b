"""A steer with a constant: what a linear steer becomes behind a norm with a bias, and what a
steering direction is."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import as_number
from steerlens.values.gate import Gated
from steerlens.values.intervention import UNEMBED_IN, Edit, Strength
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout
from steerlens.values.steer import Steer, SteerWithBackground, per_row


@dataclass(frozen=True, eq=False)
class AffineSteer:
    """`c' = c + s (cW + v)`: a steer and a direction that comes with it, at one strength.

    With `W = 0` it is a steering vector behind the final norm. `export.rebase_affine` makes one of
    a steer, where a norm's bias was folded into the unembedding.

    Args:
        steer: the linear part, `W`.
        shift: `v`, `[d_model]`, float32.

    Raises:
        ValueError: a shift of another width, or one that is not finite.

    Example:
        >>> words = Readout(torch.eye(2), torch.zeros(2), ("a", "b"))
        >>> up = AffineSteer(Steer(torch.zeros(2, 2), words, "up"), torch.tensor([0.0, 1.0]))
        >>> up.apply(torch.tensor([[5.0, 5.0]]), 3.0)
        tensor([[5., 8.]])
    """

    steer: Steer
    shift: Float[Tensor, " d_model"]
    prefix = 0
    file_kind: ClassVar[str] = "affine steer"

    def __post_init__(self) -> None:
        if self.shift.shape != (self.readout.d_model,):
            raise ValueError(
                f"shift: got shape {tuple(self.shift.shape)}, expected ({self.readout.d_model},)"
            )
        if not bool(torch.isfinite(self.shift).all()):
            raise ValueError(f"shift of {self.name!r} holds NaN or infinity")

    @property
    def readout(self) -> Readout:
        return self.steer.readout

    @property
    def name(self) -> str:
        return self.steer.name

    def apply(
        self, c: Float[Tensor, "*batch d_model"], strength: Strength
    ) -> Float[Tensor, "*batch d_model"]:
        """Return `c + s (cW + v)`, computed in float32 at least and cast back to the dtype of
        `c`."""
        wide = c.to(torch.promote_types(c.dtype, torch.float32))
        change = wide @ self.steer.W.to(wide) + self.shift.to(wide)
        return (wide + per_row(strength, c) * change).to(c.dtype)

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        def edit(c: Tensor, places: TokenIndex) -> Tensor:
            return self.apply(c, strength)

        return ((UNEMBED_IN, edit),)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps of it."""
        tensors, about = self.steer.pack()
        return {**tensors, "shift": self.shift}, about

    @classmethod
    def unpack(
        cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout
    ) -> "AffineSteer":
        """Make it again from what `pack` gave."""
        return cls(Steer.unpack(tensors, about, readout), tensors["shift"])

    def __repr__(self) -> str:
        r = self.readout
        return (
            f"AffineSteer({self.name!r}, |W|={self.steer.W.norm():.3g}, |v|={self.shift.norm():.3g}, on {r.model_id!r} "
            f"[{r.digest[:8]}])"
        )


def affine_map(
    value: object, strength: float
) -> tuple[Float[Tensor, "d_model d_model"], Float[Tensor, " d_model"]]:
    """Return what an intervention at the unembedding does to every context, as `c' = cM + v`.

    `M` is `I + sW`, over a background `I + D + sW`; both are float64, on the CPU.

    Raises:
        ValueError: an intervention that does something else, or a strength that is no number.

    Example:
        >>> words = Readout(torch.eye(2), torch.zeros(2), ("a", "b"))
        >>> affine_map(Steer(torch.eye(2), words, "twice"), 1.0)[0].diagonal().tolist()
        [2.0, 2.0]
    """
    if isinstance(value, Gated):
        raise ValueError(
            f"steer: {value.name!r} acts under conditions, and weights act on every token; steer the model while it runs "
            "(steerlens.steered, generate), or put what is behind the gate into the weights (.terms[0].value)"
        )
    if not isinstance(value, Steer | AffineSteer | SteerWithBackground):
        raise ValueError(
            f"steer: got {type(value).__name__}, expected a Steer, an AffineSteer, or a steer over its background: only a "
            "linear map of the context, and a constant, can be put into a head"
        )
    expected = "one finite number per checkpoint"
    if getattr(strength, "ndim", 0):
        raise ValueError(f"strength: got {strength}, expected {expected}")
    s = as_number(strength, "strength", expected)
    steer = value if isinstance(value, Steer) else value.steer
    M = torch.eye(len(steer.W), dtype=torch.float64) + s * steer.W.double().cpu()
    if isinstance(value, SteerWithBackground):
        M = M + value.background.W.double().cpu()
    shift = value.shift.double().cpu() if isinstance(value, AffineSteer) else 0 * M[0]
    return M, s * shift
