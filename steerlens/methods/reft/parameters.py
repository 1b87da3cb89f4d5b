"""The numbers of an edit while they are learned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from steerlens.methods.reft.formulas import FORMS, Activation, Variant, change, top_mean
from steerlens.methods.reft.reft import Reft, edits_at
from steerlens.methods.training import Sized
from steerlens.values.intervention import Edit
from steerlens.values.positions import TokenIndex, parse_positions
from steerlens.values.readout import Readout

TOP = 8
"""Tokens whose activations are averaged in training r1, as in AxBench."""
IDLE = 0.005
"""Weight of the r1 activations that are not among the largest, ramped up over the fit, as in
AxBench."""
HAIR = 1e-6
"""Where `b` starts under relu, in units of states: at 0 it is flat, and nothing would ever be
learned."""


@dataclass(frozen=True)
class Shape:
    """What an edit is before its numbers are known; the fields of `Reft`."""

    variant: Variant
    rank: int
    layers: tuple[int, ...]
    positions: str
    tied: bool
    activation: Activation | None
    d_model: int

    @property
    def n_edits(self) -> int:
        return len(self.layers) * (1 if self.tied else 2)


class Learned:
    """Parameters of an edit; `R` keeps its rows orthonormal by parametrisation where the variant
    asks for it.

    It starts where the edit changes nothing, as far as the variant can: `A = R`, `b = 0` where the
    subspace's content is replaced, `A = 0`, `b = 0` where something is added to it. `consreft`
    alone replaces the content by a constant from the start; `b` then is the mean content. An
    activation of what is replaced cannot be undone at the start either.

    Args:
        mean, sizes: the mean state behind each layer, and the norm of a usual one.
    """

    def __init__(
        self, shape: Shape, mean: Float[Tensor, "n_layers d"], sizes: Sequence[float], seed: int
    ) -> None:
        self.shape, self.form = shape, FORMS[shape.variant]
        n, rank = shape.n_edits, shape.rank
        # behind each layer the beginning's edits and the end's are neighbours, see `edits_at`
        self.sizes = torch.tensor(sizes, device=mean.device).repeat_interleave(n // len(mean))
        with torch.random.fork_rng(
            devices=[]
        ):  # the parametrisation draws from the global generator
            torch.manual_seed(seed)
            self.sources = [self._source(mean) for _ in range(n)]
        R = self.R.detach()
        self.A = (
            nn.Parameter(R.clone() if self.form.replaces else torch.zeros_like(R))
            if self.form.reads
            else None
        )
        level = torch.full(
            (n, rank), HAIR if shape.activation == "relu" else 0.0, device=mean.device
        )
        if shape.variant == "consreft":
            level = (
                torch.einsum("nrd,nd->nr", R, mean.repeat_interleave(n // len(mean), 0))
                / self.sizes[:, None]
            )
        self.level = nn.Parameter(level)

    def _source(self, like: Tensor) -> nn.Module:
        """Return a layer whose weight is one edit's `R`: random rows, orthonormal to begin with."""
        source = nn.utils.skip_init(nn.Linear, self.shape.d_model, self.shape.rank, bias=False)
        start = torch.linalg.qr(torch.randn(self.shape.d_model, self.shape.rank)).Q.mT.to(like)
        source.weight = nn.Parameter(start)
        if self.form.orthonormal:
            source = orthogonal(source)
            source.weight = start
        return source

    @property
    def R(self) -> Float[Tensor, "n_edits rank d"]:
        return torch.stack([cast(Tensor, source.weight) for source in self.sources])

    @property
    def b(self) -> Float[Tensor, "n_edits rank"]:
        return self.level * self.sizes[:, None]

    def parameters(self) -> list[Sized]:
        """Return all that is learned, in units in which a step of 1 changes each part of `Δ`
        by up to the size of a state.

        `b` is as long as states are; a row of `R` or `A` is one of `d` numbers, all of which may
        move at once.
        """
        rows = [p for source in self.sources for p in source.parameters()] + (
            [] if self.A is None else [self.A]
        )
        levels = [] if self.shape.variant == "r1" else [self.level]
        return [*((p, self.shape.d_model**-0.5) for p in rows), *((p, 1.0) for p in levels)]

    def edits(
        self,
        strength: Float[Tensor, " batch"],
        rows: Float[Tensor, "batch rank"] | None,
        idle: list[Tensor],
    ) -> tuple[Edit, ...]:
        """Do as `Reft.edits` does, with gradients.

        `rows` says which rows of the subspace each text uses.

        For r1 what the activations that were not among the largest sum to, per token, is appended
        to `idle`.
        """
        s, R = self.shape, self.R

        def delta(h: Tensor, k: int, places: TokenIndex) -> Tensor:
            if s.variant == "r1":
                size, rest = top_mean(h, R[k, 0], (places.index >= 0).to(h), TOP)
                idle.append(rest)
                return (size[:, None, None] * R[k, 0]).expand_as(h)
            A, used = None if self.A is None else self.A[k], None if rows is None else rows[:, None]
            return change(h, R[k], A, self.b[k], self.form.replaces, s.activation, used)

        return edits_at(s.layers, s.positions, s.n_edits, delta, strength)

    def value(self, readout: Readout, name: str) -> Reft:
        """Return the frozen edit: plain tensors, no parametrisation."""
        s = self.shape
        A = None if self.A is None else self.A.detach().clone()
        return Reft(
            self.R.detach().clone(),
            A,
            self.b.detach().clone(),
            s.variant,
            s.layers,
            s.positions,
            readout,
            s.activation,
            name,
        )


def dropping(edits: tuple[Edit, ...], positions: str, share: float) -> tuple[Edit, ...]:
    """Apply dropout to the whole edited state, where it is edited."""
    where = parse_positions(positions)

    def dropped(
        edit: Callable[[Tensor, TokenIndex], Tensor],
    ) -> Callable[[Tensor, TokenIndex], Tensor]:
        def run(h: Tensor, places: TokenIndex) -> Tensor:
            found = edit(h, places)
            beginning, end = where.masks(places)
            return torch.where(
                (beginning | end)[..., None], nn.functional.dropout(found, share), found
            )

        return run

    return tuple((site, dropped(edit)) for site, edit in edits)
