"""The natural metric of a language model on text: coordinates in which no basis is special."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from steerlens.maths.brief import brief
from steerlens.maths.numbers import as_number, check_tensor
from steerlens.maths.svd import spectrum
from steerlens.values.readout import Readout

Spectrum = tuple[Float[Tensor, " d_model"], Float[Tensor, "d_model d_model"]]


@dataclass(frozen=True, eq=False)
class Metric:
    """Hold the second moments in whose coordinates the likelihood is near isotropic.

    With `C = E[cᵀc]` over the positions of a text and `S = E_t[Cov_{p_t}(s e)]`, the covariance
    under the model's own prediction of what output word embeddings add to a logit (`s`: the slope
    of scale and soft cap), a steer of strength 1 costs to second order, in nats per token,

        KL(base ‖ steered) ≈ E_t[½ Var_{p_t}(s · c_t W e)]  ~  ½ tr(Wᵀ C W S) = ½ ‖C^{1/2} W
        S^{1/2}‖²

    The first is exact as the strength goes to 0. The second factorises the mean over positions, as
    K-FAC does (Martens and Grosse 2015): equal at one position, over many it takes the context and
    the covariance there as independent. Where a fitted steer acts they are not: its true KL is 1.4
    to 3.9 times what the second says. So the metric gives coordinates, and nats come from states:
    `strength_cost` (exact) and `spectrum` (second order, by directions).

    Means are over the text as it is weighed: by default `natural_metric` gives negative, zero and
    positive labels the same weight in sum, see its `weights`.

    Singular values in these coordinates do not depend on the basis of the softmax model
    (`e → Ae, c → A⁻ᵀc`). Small directions of `C` and `S` are poorly known, so both are damped:
    `C + damping · λ_max(C) · I`, the same for `S`.

    Args:
        C: second moment of the contexts, `[d_model, d_model]`, symmetric, float64.
        S: mean covariance of `s e`, `[d_model, d_model]`, symmetric, float64.
        damping: relative to the largest eigenvalue; 0 for the exact, basis-free metric.
        digest: of the read-out in whose basis its numbers are; empty where that is not known.

    Raises:
        ValueError: no square matrices of one shape, NaN, a damping that is no number ≥ 0.

    Example:
        >>> import torch
        >>> m = Metric(torch.eye(2).double() * 4, torch.eye(2).double(), damping=0.0)
        >>> float(m.kl(torch.eye(2)))
        4.0
    """

    C: Float[Tensor, "d_model d_model"]
    S: Float[Tensor, "d_model d_model"]
    damping: float = 1e-2
    digest: str = ""

    def __post_init__(self) -> None:
        for name, matrix in (("C", self.C), ("S", self.S)):
            check_tensor(matrix, name, "[d_model, d_model]")
            if matrix.ndim != 2 or matrix.shape != self.C.mT.shape:
                raise ValueError(
                    f"C, S: got shapes {tuple(self.C.shape)} and {tuple(self.S.shape)}, expected both [d_model, d_model]"
                )
        expected = "a number ≥ 0, relative to the largest eigenvalue"
        if as_number(self.damping, "damping", expected) < 0:
            raise ValueError(f"damping: got {self.damping}, expected {expected}")
        if not isinstance(self.digest, str) or self.digest.strip("0123456789abcdef"):
            raise ValueError(f"digest: got {brief(self.digest)}, expected that of a read-out")

    def __repr__(self) -> str:
        where = f", on [{self.digest[:8]}]" if self.digest else ""
        return f"Metric(d_model={len(self.C)}, damping={self.damping:g}{where})"

    @cached_property
    def spectra(self) -> tuple[Spectrum, Spectrum]:
        """Eigenvalues and eigenvectors of `C` and of `S`, undamped."""
        # here and not where it is made: a damping of the same metric costs next to nothing
        for name, matrix in (("C", self.C), ("S", self.S)):
            if not matrix.is_meta and not bool(matrix.isfinite().all()):
                raise ValueError(f"{name}: holds NaN or infinity; are all states finite?")
        return spectrum(self.C), spectrum(self.S)

    def damped(self, damping: float) -> "Metric":
        """Return the same metric under another damping; the spectra, which cost most, are
        shared."""
        other = replace(self, damping=damping)
        other.__dict__["spectra"] = self.spectra
        return other

    def floored(self, values: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
        """Return eigenvalues with the damping added."""
        # 1e-10 keeps the inverse finite where a direction is never used; it is below float32's
        # resolution
        return values + max(self.damping, 1e-10) * values.max().clamp_min(1e-30)

    def _power(self, of: Spectrum, power: float) -> Tensor:
        values, vectors = of
        return ((vectors * self.floored(values) ** power) @ vectors.mT).float()

    @cached_property
    def C_root(self) -> Float[Tensor, "d_model d_model"]:
        return self._power(self.spectra[0], 0.5)

    @cached_property
    def S_root(self) -> Float[Tensor, "d_model d_model"]:
        return self._power(self.spectra[1], 0.5)

    @cached_property
    def C_inverse_root(self) -> Float[Tensor, "d_model d_model"]:
        return self._power(self.spectra[0], -0.5)

    @cached_property
    def S_inverse_root(self) -> Float[Tensor, "d_model d_model"]:
        return self._power(self.spectra[1], -0.5)

    @property
    def dimensions(self) -> tuple[float, float]:
        """How many directions of `C` and of `S` count: `Σ λ / (λ + damping · λ_max)`, d_model
        without damping."""
        n_C, n_S = (float((values / self.floored(values)).sum()) for values, _ in self.spectra)
        return n_C, n_S

    def whiten(self, W: Float[Tensor, "d_model d_model"]) -> Float[Tensor, "d_model d_model"]:
        """Return `C^{1/2} W S^{1/2}`, whose half squared length is the Kronecker number `kl`,
        damped."""
        return self.C_root.to(W) @ W @ self.S_root.to(W)

    def unwhiten(self, V: Float[Tensor, "d_model d_model"]) -> Float[Tensor, "d_model d_model"]:
        """Undo `whiten`."""
        return self.C_inverse_root.to(V) @ V @ self.S_inverse_root.to(V)

    def whiten_slope(
        self, G: Float[Tensor, "*batch d_model d_model"]
    ) -> Float[Tensor, "*batch d_model d_model"]:
        """Return `C^{-1/2} G S^{-1/2}` in float64, the slope in the coordinates of `whiten`: with
        `V` a whitened `W`, `⟨W, G⟩` is its product with `V`."""
        return self.C_inverse_root.double() @ G.double() @ self.S_inverse_root.double()

    def kl(self, W: Float[Tensor, "d_model d_model"]) -> Float[Tensor, ""]:
        """Approximate what a matrix costs at strength 1, undamped: `½ tr(Wᵀ C W S)`.

        A Kronecker approximation of nats per token. It compares matrices that act alike; it does
        not state a cost, which on fitted steers is 1.4 to 3.9 times as large: for that see
        `strength_cost`, or `spectrum` with states.
        """
        W = W.double()
        return 0.5 * (self.C.double() @ W @ self.S.double() * W).sum()


def check_metric_on(metric: Any, on: Readout, name: str = "metric") -> None:
    """Raise where something else than a metric was given, or one in the basis of another
    read-out."""
    made_by = "steerlens.natural_metric(states) makes one"
    if not isinstance(metric, Metric):
        raise ValueError(f"{name}: got {brief(metric)}, expected a Metric; {made_by}")
    if len(metric.C) != on.d_model or metric.digest not in ("", on.digest):
        raise ValueError(
            f"{name}: got one of another model (d_model {len(metric.C)}, {metric.digest[:8] or 'made by hand'}), expected one of "
            f"{on.model_id!r} (d_model {on.d_model}, {on.digest[:8]}); {made_by}"
        )
