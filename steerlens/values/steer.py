"""A steer: a matrix on the output word embeddings, with a strength."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, overload

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.brief import class_name
from steerlens.maths.numbers import as_count, as_number, check_tensor, is_number
from steerlens.maths.svd import truncate
from steerlens.values.conditions import Condition
from steerlens.values.gate import Gated, when
from steerlens.values.intervention import UNEMBED_IN, Edit, Part, Strength, check_parts, sum_name
from steerlens.values.metric import Metric, check_metric_on
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout, check_readout
from steerlens.values.tensor_file import digest
from steerlens.values.texts import as_name


@dataclass(frozen=True, eq=False)
class Steer:
    """The linear map `e ← (I + sW) e` of the output word embeddings, carried out on the context
    vectors:

        c' = c + s · cW        logits = c' W_U + b_U

    with rows `c [pos, d_model]`, `W [d_model, d_model]` and strength `s`; 1 means "as fitted", the
    strength of a text with label 1. A steer is bound to the read-out whose basis its numbers refer
    to. Steers on one read-out form a vector space: `a + b`, `a - b`, `2 * a`, `-a`, `a / 2`.

    Source: Han et al., ACL 2024 (arXiv 2305.12798), section 3 and appendix D.

    Args:
        W: the matrix, float32, `[d_model, d_model]`; row vectors, so it acts from the right.
        readout: the read-out it lives on.
        name: for tables, figures and messages; algebra keeps it readable.

    Raises:
        ValueError: `W` has another shape than the read-out asks for, or holds NaN; or two steers
            that live on different read-outs are added.

    Example:
        >>> import torch
        >>> r = Readout(torch.eye(2), torch.zeros(2), ("a", "b"))
        >>> joy = Steer(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), r, name="joy")
        >>> (2 * joy - joy / 2).name
        '1.5·joy'
        >>> joy.apply(torch.tensor([[1.0, 0.0]]), 3.0)
        tensor([[1., 3.]])
    """

    W: Float[Tensor, "d_model d_model"]
    readout: Readout
    name: str = "steer"
    terms: tuple[Part, ...] = ()
    """The name as a sum; empty means one term, `name` itself."""

    def __post_init__(self) -> None:
        as_name(self.name)
        check_readout(self.readout)
        d = self.readout.d_model
        check_tensor(self.W, "W", f"({d}, {d})")
        if self.W.shape != (d, d):
            raise ValueError(
                f"W: got shape {tuple(self.W.shape)}, expected ({d}, {d}), the d_model of {self.readout.model_id!r}; a steer "
                "for another model is moved with steerlens.transfer, not by reshaping"
            )
        check_parts(self.terms)
        # its own numbers: what is done to the tensor afterwards does not reach a frozen value
        object.__setattr__(self, "W", self.W.detach().to(torch.float32, copy=True))
        if not torch.isfinite(self.W).all():
            raise ValueError(
                f"W of steer {self.name!r} holds NaN or infinity; was a factor too large, or the fit's step or ridge too small?"
            )

    prefix = 0
    file_kind: ClassVar[str] = "steer"

    def apply(
        self, c: Float[Tensor, "*batch d_model"], strength: Strength
    ) -> Float[Tensor, "*batch d_model"]:
        """Return `c + s · cW`, computed in float32 at least and cast back to the dtype of `c`.

        It is exactly `c` at strength 0. A tensor of strengths has one value for each entry of the
        first axis of `c`.
        """
        wide = c.to(torch.promote_types(c.dtype, torch.float32))
        return (wide + per_row(strength, c) * (wide @ self.W.to(wide))).to(c.dtype)

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        return ((UNEMBED_IN, lambda c, places: self.apply(c, strength)),)

    def with_background(self, background: "Steer") -> "SteerWithBackground":
        """Return this steer, on a model whose background is always on; see
        `SteerWithBackground`."""
        return SteerWithBackground(self, background)

    def when(self, *conditions: Condition | str) -> Gated:
        """Return this steer, acting only where all conditions hold: `joy.when("entropy > 1.5")`.

        Conditions are values of `steerlens.values.conditions`, or such words as
        `steerlens.values.condition_forms.parse_condition` reads; see `steerlens.values.gate.Gated`.
        """
        return when(self, *conditions)

    def truncate(self, rank: int, metric: Metric | None = None) -> "Steer":
        """Return the nearest steer of a rank: truncated SVD of `W`, or, given a `Metric`, of
        `C^{1/2} W S^{1/2}`, which is the best one of that rank in nats and does not depend on the
        basis."""
        as_count(
            rank,
            "rank",
            f"1 … {self.readout.d_model} (d_model)",
            most=self.readout.d_model,
        )
        if metric is None:
            W = truncate(self.W, rank)
        else:
            check_metric_on(metric, self.readout)
            W = metric.unwhiten(truncate(metric.whiten(self.W), rank))
        return replace(self, W=W, name=f"{self.name} (rank {rank})", terms=())

    @overload
    def __add__(self, other: "Steer") -> "Steer": ...

    @overload
    def __add__(self, other: Gated) -> Gated: ...

    def __add__(self, other: "Steer | Gated") -> "Steer | Gated":
        if not isinstance(other, Steer):
            return NotImplemented
        if not self.readout.same_as(other.readout):
            raise ValueError(
                f"steers {self.name!r} on {self.readout.model_id!r} ({self.readout.digest[:8]}) and {other.name!r} on "
                f"{other.readout.model_id!r} ({other.readout.digest[:8]}) live on different W_U and cannot be added; "
                "move one with steerlens.transfer first"
            )
        found: dict[tuple[str, str], float] = {}
        for name, k, mark in (*self._terms, *other._terms):
            before = found.get((name, mark), 0.0)
            # a coefficient that only rounding left over is no term: 0.1 + 0.2 - 0.3
            near = abs(before + k) <= 1e-12 * abs(k)
            found[name, mark] = 0.0 if near else before + k
        return self._named(
            self.W + other.W, tuple((name, k, mark) for (name, mark), k in found.items() if k)
        )

    def __radd__(self, other: object) -> "Steer":
        # sum() begins with 0
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __mul__(self, factor: float) -> "Steer":
        if not is_number(factor):
            return NotImplemented
        factor = as_number(factor, "factor", "a finite number of steers")
        return self._named(
            factor * self.W,
            tuple((name, factor * k, mark) for name, k, mark in self._terms if factor * k != 0),
        )

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "Steer":
        return self * (1 / divisor)

    def __neg__(self) -> "Steer":
        return self * -1

    @overload
    def __sub__(self, other: "Steer") -> "Steer": ...

    @overload
    def __sub__(self, other: Gated) -> Gated: ...

    def __sub__(self, other: "Steer | Gated") -> "Steer | Gated":
        return self + -other

    @property
    def _terms(self) -> tuple[Part, ...]:
        if self.terms or self.name == "0":
            return self.terms
        return ((self.name, 1.0, self._digest),)

    @cached_property
    def _digest(self) -> str:
        return digest({"W": self.W.detach().cpu()})[:16]

    def _named(self, W: Tensor, terms: tuple[Part, ...]) -> "Steer":
        return Steer(W, self.readout, sum_name([(name, k) for name, k, _ in terms]), terms)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps of it."""
        return {"W": self.W}, {"site": UNEMBED_IN, "terms": [list(term) for term in self.terms]}

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout) -> "Steer":
        """Make it again from what `pack` gave."""
        return cls(
            tensors["W"],
            readout,
            about["name"],
            tuple((name, k, *(mark or [""])) for name, k, *mark in about["terms"]),
        )

    def __repr__(self) -> str:
        r = self.readout
        return f"Steer({self.name!r}, d_model={r.d_model}, |W|={self.W.norm():.3g}, on {r.model_id!r} [{r.digest[:8]}])"


@dataclass(frozen=True, eq=False)
class SteerWithBackground:
    """A steer over a background that is always on: `c' = c + cD + s · cW`.

    The background `D` of a fit absorbs how its texts differ from what the model was trained on. The
    steer alone is what most uses want; over its background it explains the texts it was fitted on.
    Strength 0 gives the background, not the plain model. Made by
    `steer.with_background(background)`.
    """

    steer: Steer
    background: Steer
    prefix = 0
    file_kind: ClassVar[str] = "steer over background"

    def __post_init__(self) -> None:
        for part, given in (("steer", self.steer), ("background", self.background)):
            if not isinstance(given, Steer):
                raise ValueError(
                    f"{part}: got {class_name(given)}, expected a Steer; of a fit take .value or .background"
                )
        _ = self.steer + self.background  # raises where they live on different read-outs

    @property
    def readout(self) -> Readout:
        return self.steer.readout

    @property
    def name(self) -> str:
        return f"{self.steer.name} over {self.background.name}"

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        def edit(c: Tensor, places: TokenIndex) -> Tensor:
            wide = c.to(torch.promote_types(c.dtype, torch.float32))
            return (self.steer.apply(wide, strength) + wide @ self.background.W.to(wide)).to(
                c.dtype
            )

        return ((UNEMBED_IN, edit),)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps of it."""
        parts = {"steer": self.steer, "background": self.background}
        about = {
            part: {"name": x.name, "terms": [list(term) for term in x.terms]}
            for part, x in parts.items()
        }
        return {part: x.W for part, x in parts.items()}, {"site": UNEMBED_IN, **about}

    @classmethod
    def unpack(
        cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout
    ) -> "SteerWithBackground":
        """Make it again from what `pack` gave."""
        parts = ("steer", "background")
        return cls(*(Steer.unpack({"W": tensors[part]}, about[part], readout) for part in parts))


def per_row(strength: Strength, c: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "..."] | float:
    """Return a strength shaped to multiply `c`: a number as it is, one value per row as
    `[rows, 1, …]`.

    Raises:
        ValueError: a tensor of another length than the first axis of `c`.
    """
    if not isinstance(strength, Tensor) or strength.ndim == 0:
        number = as_number(strength, "strength")
        if isinstance(strength, Tensor) and strength.requires_grad:
            return strength.to(device=c.device, dtype=torch.float32)
        return number
    if strength.shape != c.shape[:1]:
        raise ValueError(
            f"strength: got shape {tuple(strength.shape)} for a batch of {c.shape[0]} rows, expected a number or one "
            "value per row; with several samples per prompt use repeat_interleave"
        )
    return strength.to(device=c.device, dtype=torch.float32).reshape(-1, *([1] * (c.ndim - 1)))


def zero_steer(readout: Readout, name: str = "0") -> Steer:
    """Return the steer that changes nothing."""
    return Steer(
        torch.zeros(readout.d_model, readout.d_model, device=readout.W_U.device), readout, name
    )
