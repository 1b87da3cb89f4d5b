"""A steer inside the model: the same linear map, on the states at a hook before the unembedding."""

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.brief import brief
from steerlens.maths.numbers import as_number, is_number
from steerlens.values.intervention import UNEMBED_IN, Edit, Strength, added_name, scaled_name
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout
from steerlens.values.steer import per_row

PARTS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Where a block's states of width d_model can be steered."""
_SITE = re.compile(rf"blocks\.(\d+)\.hook_({'|'.join(PARTS)})")


@dataclass(frozen=True, eq=False)
class HiddenSteer:
    """The linear map of a steer on hidden states, at one hook and every token:

        h' = h + s · hW        W = AB

    with rows `h [pos, d_model]`, `A [d_model, rank]`, `B [rank, d_model]` and strength `s`; 1 means
    "as fitted". At `unembed.hook_in` it is the steer itself; at the embeddings of the input it is
    the same map on the words that are read in place of those that are written. Values at one site
    form a vector space, as steers do: `a + b` has the ranks of both.

    Behind the last layer it can say what a steer says, but for the length of the context vector:
    with a final RMSNorm of gains `γ`, `W = diag(γ) W' diag(γ)⁻¹` gives
    `c' = (c + s · cW') · |h| / |h + s · hW|`.

    Args:
        A, B: the factors, float32.
        site: the name of the hook, as in TransformerLens: `hook_embed`, `blocks.k.hook_resid_pre`,
            `…resid_mid`, `…resid_post`, `…attn_out`, `…mlp_out`, or `unembed.hook_in`.
        readout: of the model it was fitted on.
        name: for tables and figures.

    Raises:
        ValueError: factors that do not belong together or are not finite, a site of another kind,
            values of two sites or models that are added.

    Example:
        >>> r = Readout(torch.eye(2), torch.zeros(2), ("a", "b"))
        >>> A, B = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0, 1.0]])
        >>> turn = HiddenSteer(A, B, "blocks.0.hook_resid_post", r)
        >>> (2 * turn - turn).apply(torch.tensor([[1.0, 0.0]]), 3.0)
        tensor([[1., 3.]])
    """

    A: Float[Tensor, "d_model rank"]
    B: Float[Tensor, "rank d_model"]
    site: str
    readout: Readout
    name: str = "hidden steer"
    prefix = 0
    file_kind: ClassVar[str] = "hidden steer"

    def __post_init__(self) -> None:
        d = self.readout.d_model
        fits = self.A.ndim == 2 and self.A.shape[0] == d and self.B.shape == self.A.shape[::-1]
        if not (fits and self.A.shape[1]):
            raise ValueError(
                f"A, B: got shapes {tuple(self.A.shape)} and {tuple(self.B.shape)}, expected ({d}, rank) and (rank, {d}), the "
                f"d_model of {self.readout.model_id!r}"
            )
        if not bool(torch.isfinite(self.A).all() and torch.isfinite(self.B).all()):
            raise ValueError(
                f"A, B of {self.name!r} hold NaN or infinity; do the model's states, or was the lr too large?"
            )
        last_layer_below(self.site, 1)

    @property
    def rank(self) -> int:
        """The inner size of the factors, which the rank of `W` is at most."""
        return self.A.shape[1]

    @property
    def matrix(self) -> Float[Tensor, "d_model d_model"]:
        """The whole of `W = AB`; by another name than a steer's, which acts on other states."""
        return self.A @ self.B

    @property
    def n_parameters(self) -> int:
        """Numbers that were fitted."""
        return self.A.numel() + self.B.numel()

    def apply(
        self, h: Float[Tensor, "*batch d_model"], strength: Strength
    ) -> Float[Tensor, "*batch d_model"]:
        """Return `h + s · hAB`, computed in float32 at least and cast back to the dtype of `h`."""
        return moved(h, self.A, self.B, strength)

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        def edit(h: Tensor, places: TokenIndex) -> Tensor:
            return self.apply(h, strength)

        return ((self.site, edit),)

    def __add__(self, other: "HiddenSteer") -> "HiddenSteer":
        if not isinstance(other, HiddenSteer):
            return NotImplemented
        if self.site != other.site or not self.readout.same_as(other.readout):
            raise ValueError(
                f"hidden steers {self.name!r} at {self.site} of {self.readout.model_id!r} and {other.name!r} at {other.site} of "
                f"{other.readout.model_id!r} act on different states and cannot be added; add values of one site and model"
            )
        A, B = torch.cat([self.A, other.A], 1), torch.cat([self.B, other.B])
        return replace(self, A=A, B=B, name=added_name(self.name, other.name))

    def __mul__(self, factor: float) -> "HiddenSteer":
        if not is_number(factor):
            return NotImplemented
        by = as_number(factor, "factor", "a finite number of steers")
        return replace(self, B=by * self.B, name=scaled_name(self.name, by))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "HiddenSteer":
        return self * (1 / divisor)

    def __neg__(self) -> "HiddenSteer":
        return self * -1

    def __sub__(self, other: "HiddenSteer") -> "HiddenSteer":
        return self + -other

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps of it."""
        return {"A": self.A, "B": self.B}, {"site": self.site}

    @classmethod
    def unpack(
        cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout
    ) -> "HiddenSteer":
        """Make it again from what `pack` gave."""
        return cls(tensors["A"], tensors["B"], about["site"], readout, about["name"])

    def __repr__(self) -> str:
        r = self.readout
        return (
            f"HiddenSteer({self.name!r} at {self.site}, rank {self.rank}, |W|={self.matrix.norm():.3g}, on {r.model_id!r} "
            f"[{r.digest[:8]}])"
        )


def moved(
    h: Float[Tensor, "*batch d_model"],
    A: Float[Tensor, "d_model rank"],
    B: Float[Tensor, "rank d_model"],
    strength: Strength,
) -> Float[Tensor, "*batch d_model"]:
    """Return `h + s · hAB` in the dtype of `h`, with gradients to the factors where they have any.

    Example:
        >>> moved(torch.ones(1, 2), torch.eye(2)[:, :1], torch.eye(2)[1:], 3.0).tolist()
        [[1.0, 4.0]]
    """
    wide = h.to(torch.promote_types(h.dtype, torch.float32))
    return (wide + per_row(strength, h) * ((wide @ A.to(wide)) @ B.to(wide))).to(h.dtype)


def last_layer_below(site: str, n_layers: int) -> int:
    """Return the layer behind which a pass can begin that is to reach a site; -1: at the tokens.

    Raises:
        ValueError: a site at which no map of d_model numbers is fitted.

    Example:
        >>> last_layer_below("blocks.2.hook_mlp_out", 4), last_layer_below("blocks.2.hook_resid_post", 4)
        (1, 2)
    """
    found = _SITE.fullmatch(site) if isinstance(site, str) else None
    if found is not None:
        return int(found[1]) - (found[2] != "resid_post")
    if site not in ("hook_embed", UNEMBED_IN):
        raise ValueError(
            f"site: got {brief(site)}, expected 'hook_embed', '{UNEMBED_IN}' or "
            f"'blocks.K.hook_…' with one of {', '.join(PARTS)}"
        )
    return -1 if site == "hook_embed" else n_layers - 1
