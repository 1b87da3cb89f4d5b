"""A steer that needs nothing but logits: for servers that hand out no hidden states."""

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths import from_logits
from steerlens.maths.brief import brief
from steerlens.maths.numbers import check_tensor
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.values.intervention import Strength
from steerlens.values.steer import per_row
from steerlens.values.tensor_file import read_tensors, write_tensors

Logits = TypeVar("Logits", Tensor, np.ndarray)
KIND = "logit steer"
TENSORS = ("P", "Q", "b", "witness", "A", "W_U", "shift")
MARGIN = 16.0
"""Standard deviations of rounding within which logits count as the model's own."""


@dataclass(frozen=True, eq=False)
class LogitSteer:
    """A steer on logits alone, without the model or its hidden states:

        l' = l + s ((l − b) P Q + v W_U)        P = (W_U − ē 1ᵀ)⁺ A    Q = B W_U    W = AB

    Logits are linear in the context vector, so a vocabulary larger than `d_model` holds it whole:
    `(l − b) P = cA`, and `cA Q = cW W_U` is what the steer adds. The constant `v` of an affine steer
    adds the same to the logits at every position; one that is all constant (rank 0) reads nothing,
    so anything may have been done to them before. A soft cap is taken off before and put on after.
    A constant added to all logits of a row (log-probabilities) does not matter, for `1ᵀP = 0`. It
    costs `2 · d_vocab · rank` multiply-adds per token.

    Only the model's own logits will do. What others did to them before (a penalty, a bias, another
    model, a head in fewer bits) shows in directions `witness` that these logits never have, and is
    refused; so is a −∞ where `W_U` was not kept. Made by `logit_steer`.

    Args:
        P, Q, b: float32, `[d_vocab, rank]`, `[rank, d_vocab]`, `[d_vocab]`; the model's scale of
            the logits is in them.
        witness: `[d_vocab, n]`; see `maths.from_logits.witnesses`.
        gain: `‖PQ‖₂`, what noise on logits is multiplied by at strength 1, at most.
        precision: relative rounding of the logits that it will meet.
        A, W_U: `[d_model, rank]` and the scaled `[d_model, d_vocab]`, where holes are to be filled.
        softcap: of the model.
        shift: the scaled `v W_U`, `[d_vocab]`; None where there is no constant.
        max_gain: a strength with a larger gain is refused.
        name, model_id, readout_digest: of the steer and of where it lived.

    Example:
        >>> import steerlens as sl
        >>> words = sl.Readout(torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 1]]), torch.zeros(4), tuple("abcd"))
        >>> it = sl.export.logit_steer(sl.Steer(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), words, "swap"))
        >>> it.apply(words.logits(torch.tensor([[2.0, 0.0]])), 0.5).round(decimals=4)
        tensor([[2., 1., 0., 3.]])
    """

    P: Float[Tensor, "d_vocab rank"]
    Q: Float[Tensor, "rank d_vocab"]
    b: Float[Tensor, " d_vocab"]
    witness: Float[Tensor, "d_vocab n"]
    gain: float
    precision: float
    A: Float[Tensor, "d_model rank"] | None = None
    W_U: Float[Tensor, "d_model d_vocab"] | None = None
    softcap: float | None = None
    shift: Float[Tensor, " d_vocab"] | None = None
    max_gain: float = 30.0
    name: str = "steer"
    model_id: str = "model"
    readout_digest: str = ""

    def __post_init__(self) -> None:
        rows, n = self.P.shape if self.P.ndim == 2 else (-1, -1)
        d = -1 if self.W_U is None or self.A is None else self.A.shape[0]
        shapes = {
            "P": (self.P, (rows, n)), "Q": (self.Q, (n, rows)), "b": (self.b, (rows,)),
            "witness": (self.witness, (rows, self.witness.shape[-1] if self.witness.ndim else -1)),
            "A": (self.A, (d, n)),
            "W_U": (self.W_U, (d, rows)), "shift": (self.shift, (rows,)),
        }  # fmt: skip
        for name, (t, shape) in shapes.items():
            if t is not None and (t.shape != shape or not bool(torch.isfinite(t).all())):
                raise ValueError(
                    f"{name}: got shape {tuple(t.shape)}, expected finite numbers, {list(shape)}"
                )
        for name in ("gain", "precision", "max_gain", "softcap"):
            x = getattr(self, name)
            number = isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)
            if not (number and x >= 0) and not (name == "softcap" and x is None):
                raise ValueError(f"{name}: got {brief(x)}, expected a positive number")

    @property
    def d_vocab(self) -> int:
        return len(self.b)

    @property
    def reads(self) -> bool:
        """Whether what it adds depends on the logits that it is given."""
        return self.P.shape[1] > 0 or self.softcap is not None

    def apply(self, logits: Logits, strength: Strength = 1.0) -> Logits:
        """Return the steered logits; a row of strength 0 as it is, bit for bit.

        Args:
            logits: `[…, d_vocab]`, a torch tensor or a NumPy array, before temperature and top-k.
                They are computed in float32 at least and come back in their own dtype.
            strength: a number, or a tensor with one value for each entry of the first axis.

        Raises:
            ValueError: logits of another vocabulary, that are not this model's own, that hold NaN,
                or a −∞ that cannot be filled; a strength whose gain on noise is above `max_gain`.
        """
        if isinstance(logits, np.ndarray):
            # a copy only where torch cannot take NumPy's array as it is
            native = logits.dtype.newbyteorder("=")
            known = np.float64 if native == np.longdouble else native
            given = torch.from_numpy(np.require(logits, known, ["C", "W"]))
            return self.apply(given, strength).numpy().astype(logits.dtype, copy=False)
        check_tensor(logits, "logits", "[…, d_vocab], or an array of NumPy")
        if logits.shape[-1:] != self.b.shape:
            raise ValueError(
                f"logits: got {logits.shape[-1] if logits.ndim else 0} columns, expected {self.d_vocab}, "
                f"the words of {self.model_id!r}; a server that pads its vocabulary hands over the first {self.d_vocab}"
            )
        if logits.ndim == 1:
            return self.apply(logits[None], strength)[0]
        s = torch.as_tensor(per_row(strength, logits), device=logits.device)
        s = s.expand((*logits.shape[:-1], 1) if s.ndim == logits.ndim else logits.shape[:-1])
        s = s.reshape(-1).to(torch.promote_types(logits.dtype, torch.float32))
        rows = logits.reshape(-1, self.d_vocab)
        moved = s != 0
        if not bool(moved.any()):
            return logits
        self.check_strength(float(s.abs().max()))
        if bool(moved.all()):
            return self._steer(rows, s).to(logits.dtype).reshape(logits.shape)
        steered = rows.clone()
        steered[moved] = self._steer(rows[moved], s[moved]).to(logits.dtype)
        return steered.reshape(logits.shape)

    def check_strength(self, strength: float) -> None:
        """Raise where a strength lets noise grow by more than `max_gain`.

        Raises:
            ValueError: it does, or it is no finite number.
        """
        if not math.isfinite(strength):
            raise ValueError(f"strength: got {strength}, expected a finite number")
        if abs(strength) * self.gain > self.max_gain:
            raise ValueError(
                f"strength: at {strength:g} the rounding of the logits grows {abs(strength) * self.gain:.3g} times, more than "
                f"max_gain {self.max_gain:g}; take at most {self.max_gain / self.gain:.3g}, a steer of lower rank "
                "(steer.truncate(rank, metric)), or fold it into the weights (steerlens.export.fold)"
            )

    def _steer(
        self, rows: Float[Tensor, "rows d_vocab"], s: Float[Tensor, " rows"]
    ) -> Float[Tensor, "rows d_vocab"]:
        """Return rows, none of strength 0, steered; float32 at least."""
        at, wide = self.to(rows.device), rows.to(s.dtype)
        if bool((torch.isnan(wide) | torch.isposinf(wide)).any()):
            raise ValueError("logits: they hold NaN or +∞; what came before the steer?")
        z, lost, slope = self._uncap(wide)
        z = z - at.b.to(s.dtype)
        if not self.P.shape[1]:  # a mask hides nothing that is read
            lost = lost & ~torch.isneginf(wide)
        reads, whole = z.new_empty(len(z), at.P.shape[1]), z
        full = ~lost.any(1)
        reads[full] = z[full] @ at.P.to(s.dtype)
        if not bool(full.all()):
            whole = z.clone()
            for mask in lost[~full].unique(dim=0):
                group = (lost == mask).all(1)
                reads[group], whole[group] = at._fill(z[group], ~mask, s[group])
        at._check_own(torch.where(lost, whole, wide), whole, slope)
        added = reads @ at.Q.to(s.dtype)
        added = s[:, None] * (added if at.shift is None else added + at.shift.to(s.dtype))
        if self.softcap is None:
            return wide + added
        capped = self.softcap * torch.tanh((whole + added + at.b.to(s.dtype)) / self.softcap)
        return torch.where(torch.isneginf(wide), wide, capped)

    def _uncap(self, logits: Float[Tensor, "rows d_vocab"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits before the soft cap, which of them are lost, and the slope of the cap.

        Where the cap swallowed a number it is as lost as under a mask.
        """
        lost = torch.isneginf(logits)
        if self.softcap is None:
            return logits, lost, torch.ones_like(logits[:1, :1])
        part = torch.where(lost, 0.0, logits / self.softcap)
        if bool((part.abs() > 1 + self.precision).any()):
            raise ValueError(
                f"logits: some are beyond the soft cap of {self.model_id!r}, {self.softcap:g}; are these log-probabilities? Hand "
                "over the logits"
            )
        slope = 1 - part.square()
        flat = slope < math.sqrt(self.precision)
        z = self.softcap * torch.atanh(torch.where(flat, 0.0, part))
        return z, lost | flat, torch.where(flat, 1.0, slope)

    def _fill(
        self, z: Float[Tensor, "rows d_vocab"], seen: Tensor, s: Float[Tensor, " rows"]
    ) -> tuple[Float[Tensor, "rows rank"], Float[Tensor, "rows d_vocab"]]:
        """Return `cA` of rows with the same holes, and the rows with these filled."""
        hidden = int((~seen).sum())
        if self.W_U is None or self.A is None or self._gram is None:
            raise ValueError(
                f"logits: {hidden} of {len(seen)} are −∞ (bad words, a grammar, allowed tokens, a minimum length) or at the soft "
                "cap; leave that option out, put the steer before it, or make it with logit_steer(steer, holes=True)"
            )
        told = from_logits.seen_only(self.W_U, self._gram, seen, self.A, self.Q)
        grows = told.gain * float(s.abs().max())
        if told.miss > 1e-6 or grows > self.max_gain:
            raise ValueError(
                f"logits: the {len(seen) - hidden} that are not −∞ do not tell the context vector (miss {told.miss:.2g}, "
                f"noise grows {grows:.3g} times, max_gain {self.max_gain:g}); put the steer before the mask, or fold it"
            )
        c, whole = from_logits.context_of(z, seen, self.W_U, told.inverse)
        return (c @ self.A.double()).to(z.dtype), whole.to(z.dtype)

    @cached_property
    def _gram(self) -> from_logits.Gram | None:
        return None if self.W_U is None else from_logits.gram(self.W_U)

    def _check_own(self, logits: Tensor, z: Tensor, slope: Tensor) -> None:
        """Raise where logits are not those of this read-out, within what rounding explains."""
        if not self.witness.shape[1]:
            return
        size = logits.abs() + logits.square().mean(1, keepdim=True).sqrt()
        rounding = self.precision * size / slope
        expected = (rounding.square() @ self.witness.to(z.dtype).square()).sqrt()
        off = ((z @ self.witness.to(z.dtype)).abs() / expected.clamp_min(1e-30)).amax()
        if not off <= MARGIN:
            raise ValueError(
                f"logits: they are not those of {self.model_id!r}: {float(off):.3g} standard deviations of rounding (precision "
                f"{self.precision:.2g}) where {MARGIN:g} are allowed. A penalty, a bias, temperature or another processor came "
                "first, the weights are another model's, or it runs in fewer bits: logit_steer(steer, precision=2**-8) for "
                "bfloat16, 1e-2 for a head of eight bits"
            )

    def to(self, device: torch.device | str) -> "LogitSteer":
        """Return it with its tensors on a device; itself where they are there."""
        device = torch.device(device)
        if self.P.device == device:
            return self
        moved = self._on.get(device)
        if moved is None:
            tensors = {name: getattr(self, name) for name in TENSORS}
            there = {n: None if t is None else t.to(device) for n, t in tensors.items()}
            moved = self._on[device] = replace(self, **there)
        return moved

    @cached_property
    def _on(self) -> dict[torch.device, "LogitSteer"]:
        """Copies on other devices, so that a server moves it once."""
        return {}

    def save(self, path: str | Path) -> Path:
        """Write it to one `.safetensors` file, whole or not at all; `load_logit_steer` reads it.

        Raises:
            ValueError: another ending.
            FileNotFoundError: no such folder.
        """
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {n: own.pop(n) for n in TENSORS}
        kept = {n: t for n, t in tensors.items() if t is not None}
        return write_tensors(path, KIND, kept, own)

    def __repr__(self) -> str:
        return (
            f"LogitSteer({self.name!r}, rank {self.P.shape[1]}, {self.d_vocab} words, gain {self.gain:.3g}, on "
            f"{self.model_id!r} [{self.readout_digest[:8]}])"
        )


@torch_defaults()
def load_logit_steer(path: str | Path) -> LogitSteer:
    """Load what `LogitSteer.save` wrote; no model and no TransformerLens are needed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut short, changed after it was written, of a later format, something else.
    """
    tensors, about = read_tensors(path, KIND)
    names = {f.name for f in fields(LogitSteer)}
    try:
        return LogitSteer(**tensors, **{n: x for n, x in about.items() if n in names})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not what LogitSteer.save wrote ({error})") from None
