"""Edits of hidden states inside a learned subspace: the rivals of a steer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.brief import brief
from steerlens.maths.numbers import check_tensor
from steerlens.methods.reft.formulas import ACTIVATIONS, FORMS, Activation, Form, Variant, change
from steerlens.values.hook_names import resid_post
from steerlens.values.intervention import Edit, Strength
from steerlens.values.positions import TokenIndex, parse_positions
from steerlens.values.readout import Readout, check_readout
from steerlens.values.steer import per_row
from steerlens.values.texts import as_name

ORTHONORMAL = 1e-4
"""Largest deviation of `RRᵀ` from the identity."""


@dataclass(frozen=True, eq=False)
class Reft:
    """An edit of the residual stream behind some layers, at some tokens, inside a subspace of low
    rank:

        h' = h + s · Δ(h)        Δ(h) = Rᵀ(Ah + b − Rh)    loreft: R orthonormal
                                        Rᵀ(Ah + b − Rh)    noreft: R free
                                        Rᵀ(Ah + b)         direft: R orthonormal; nodireft: R free
                                        Rᵀ(b − Rh)         consreft: R orthonormal
                                        Rᵀb                lobireft: R orthonormal
                                        b·v                r1: one unit vector v = R, at every token; b is the
                                                           mean size of the edits that training made

    with columns `h [d_model]` (rows of a batch in code), `R, A [rank, d_model]`, `b [rank]` and
    strength `s`; 1 means "as fitted", 0 leaves the model as it is. The first four may have an
    activation on `Ah + b`. `hook_resid_post` is edited. Source: Wu et al., ReFT (arXiv 2404.03592),
    and AxBench for r1.

    Args:
        R: `[n_edits, rank, d_model]`, an edit for each layer, or two (beginning and end of the
            prompt) where they are apart.
        A: the same shape; None where the variant reads nothing.
        b: `[n_edits, rank]`.
        variant: which formula.
        layers: behind which layers, 0 the first.
        positions: at which tokens; see `steerlens.values.positions.parse_positions`.
        readout: of the model it was fitted on.
        activation: "relu", "gelu", "silu", "tanh" or None.
        name: for tables and figures.

    Raises:
        ValueError: shapes that do not belong together, rows that are not orthonormal where they
            must be, NaN.

    Example:
        >>> import torch
        >>> r = Readout(torch.eye(2), torch.zeros(2), ("a", "b"))
        >>> one = Reft(torch.tensor([[[1.0, 0.0]]]), None, torch.tensor([[5.0]]), "consreft", (0,), "all", r)
        >>> one.change(torch.tensor([3.0, 4.0]))
        tensor([2., 0.])
    """

    R: Float[Tensor, "n_edits rank d"]
    A: Float[Tensor, "n_edits rank d"] | None
    b: Float[Tensor, "n_edits rank"]
    variant: Variant
    layers: tuple[int, ...]
    positions: str
    readout: Readout
    activation: Activation | None = None
    name: str = "reft"
    prefix = 0
    file_kind: ClassVar[str] = "reft"

    def __post_init__(self) -> None:
        as_name(self.name)
        check_readout(self.readout)
        for letter, tensor in (("R", self.R), ("A", self.A), ("b", self.b)):
            if letter != "A" or tensor is not None:
                check_tensor(tensor, letter, "see the formula of Reft")
        check_form(self.variant, self.activation)
        where = parse_positions(self.positions)
        if self.R.ndim != 3 or not self.R.shape[1]:
            raise ValueError(
                f"R: got shape {tuple(self.R.shape)}, expected (edits, rank, d_model) with a rank of at least 1"
            )
        n_edits, rank, _ = self.R.shape
        if not self.layers or len(set(self.layers)) < len(self.layers) or min(self.layers) < 0:
            raise ValueError(f"layers: got {self.layers}, expected different numbers from 0")
        if n_edits not in (len(self.layers), 2 * len(self.layers)):
            raise ValueError(
                f"R: got {n_edits} edits for {len(self.layers)} layers, expected one or two per layer"
            )
        if n_edits > len(self.layers) and not (where.first and where.last):
            raise ValueError(
                f"positions: {self.positions!r} has one end, so a layer has one edit, not two"
            )
        if (self.A is not None) != self.form.reads or (
            self.A is not None and self.A.shape != self.R.shape
        ):
            expected = f"shape {tuple(self.R.shape)}" if self.form.reads else "None"
            raise ValueError(
                f"A: expected {expected} for {self.variant!r}, got {None if self.A is None else tuple(self.A.shape)}"
            )
        if self.b.shape != (n_edits, rank):
            raise ValueError(f"b: got shape {tuple(self.b.shape)}, expected ({n_edits}, {rank})")
        if self.variant == "r1" and rank != 1:
            raise ValueError(f"R: got rank {rank}, expected 1 for 'r1'")
        if not all(
            bool(torch.isfinite(t).all()) for t in (self.R, self.A, self.b) if t is not None
        ):
            raise ValueError(
                f"R, A or b of {self.name!r} holds NaN or infinity; was the fit's step too large?"
            )
        off = (self.R @ self.R.mT - torch.eye(rank, device=self.R.device)).abs().max()
        if self.form.orthonormal and float(off) > ORTHONORMAL:
            raise ValueError(
                f"R: its rows are not orthonormal (off by {float(off):.2g}), as {self.variant!r} needs"
            )

    @property
    def form(self) -> Form:
        return FORMS[self.variant]

    @property
    def rank(self) -> int:
        return self.R.shape[1]

    @property
    def tied(self) -> bool:
        """Whether beginning and end of the prompt share their numbers."""
        return len(self.R) == len(self.layers)

    @property
    def n_parameters(self) -> int:
        """Numbers that were fitted."""
        return sum(t.numel() for t in (self.R, self.A, self.b) if t is not None)

    def change(
        self,
        h: Float[Tensor, "*batch d"],
        edit: int = 0,
        rows: Float[Tensor, "*#batch rank"] | None = None,
    ) -> Float[Tensor, "*batch d"]:
        """Return one edit's `Δ(h)`, what strength 1 adds; `rows` weighs the rows of the
        subspace."""
        R, b = self.R[edit].to(h), self.b[edit].to(h)
        A = None if self.A is None else self.A[edit].to(h)
        return change(h, R, A, b, self.form.replaces, self.activation, rows)

    def detect(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """Return `ReLU(h·v)`: how strongly a token shows what r1 was fitted to."""
        if self.variant != "r1":
            raise ValueError(f"variant: {self.variant!r} detects nothing, only 'r1' does")
        return torch.relu(h.float() @ self.R[0, 0].to(h.device))

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        return edits_at(
            self.layers,
            self.positions,
            len(self.R),
            lambda h, edit, _: self.change(h, edit),
            strength,
        )

    def rows(self, rows: Sequence[int], name: str | None = None) -> "Reft":
        """Return the edit inside a part of the subspace.

        Each row of `R` makes its own change, so the parts add up to the whole.
        """
        pick = list(rows)
        if not pick or not all(0 <= row < self.rank for row in pick) or len(set(pick)) < len(pick):
            raise ValueError(
                f"rows: got {pick}, expected different numbers from 0 to {self.rank - 1}"
            )
        A = None if self.A is None else self.A[:, pick]
        return replace(
            self, R=self.R[:, pick], A=A, b=self.b[:, pick], name=name or f"{self.name} {pick}"
        )

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps of it."""
        tensors = {"R": self.R, "b": self.b} | ({} if self.A is None else {"A": self.A})
        about = {name: getattr(self, name) for name in ("variant", "positions", "activation")}
        return tensors, {**about, "layers": list(self.layers)}

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout) -> "Reft":
        """Make it again from what `pack` gave."""
        numbers = tensors["R"], tensors.get("A"), tensors["b"]
        where = tuple(about["layers"]), about["positions"]
        return cls(*numbers, about["variant"], *where, readout, about["activation"], about["name"])

    def __repr__(self) -> str:
        r = self.readout
        layers = ", ".join(map(str, self.layers))
        return (
            f"Reft({self.name!r}, {self.variant}, rank {self.rank}, layers {layers}, positions {self.positions!r}, "
            f"{self.n_parameters:,} parameters, on {r.model_id!r} [{r.digest[:8]}])"
        )


def edits_at(
    layers: Sequence[int],
    positions: str,
    n_edits: int,
    change: Callable[[Tensor, int, TokenIndex], Tensor],
    strength: Strength,
) -> tuple[Edit, ...]:
    """Return `h + s · Δ(h)` behind each layer at some positions.

    One change per layer, or two (beginning and end of the prompt).
    """
    where = parse_positions(positions)
    a_layer = n_edits // len(layers)

    def at(first: int) -> Callable[[Tensor, TokenIndex], Tensor]:
        def edit(h: Tensor, places: TokenIndex) -> Tensor:
            wide = h.to(torch.promote_types(h.dtype, torch.float32))
            beginning, end = (mask[..., None] for mask in where.masks(places))
            if a_layer == 1:
                changed = (beginning | end) * change(wide, first, places)
            else:
                changed = beginning * change(wide, first, places) + end * change(
                    wide, first + 1, places
                )
            return (wide + per_row(strength, h) * changed).to(h.dtype)

        return edit

    return tuple((resid_post(layer), at(k * a_layer)) for k, layer in enumerate(layers))


def check_form(variant: str, activation: str | None) -> None:
    """Raise on a variant or an activation that there is not, or that do not go together."""
    if str(variant) not in FORMS:
        raise ValueError(f"variant: got {brief(variant)}, expected one of {', '.join(FORMS)}")
    if activation is not None and (str(activation) not in ACTIVATIONS or not FORMS[variant].reads):
        reading = ", ".join(name for name, form in FORMS.items() if form.reads)
        raise ValueError(
            f"activation: got {brief(activation)} for {variant!r}, expected None, "
            f"or one of {', '.join(ACTIVATIONS)} with {reading}"
        )
