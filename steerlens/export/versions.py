"""Carry a steer between versions of the same weights, exactly: raw and norm-folded, centred, other
dtypes."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.hooks import Model
from steerlens.models.readout import readout
from steerlens.values.affine import AffineSteer
from steerlens.values.fit import Fit, value_of
from steerlens.values.readout import Readout
from steerlens.values.steer import Steer

ROUNDING = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""How far equal weights may lie apart, of their size; 1e-5 for float32, in which norms are folded."""


@torch_defaults()
def rebase(steer: Steer | Fit, model: Model) -> Steer:
    """Return the same steer on another version of the same weights.

        W_U' = G W_U (+ w 1ᵀ)        c = c' G        W' = G W G⁻¹

    with a diagonal `G`: the gain of a norm that was folded into the unembedding, or 1. Centring the
    unembedding adds the same to all logits and changes no probability, so `W` stays; likewise in
    another dtype, where the steer is as it was and acts on rounded words. `G` is read off the two
    unembeddings and checked: what they differ by beyond it must be rounding.

    Args:
        steer: a `Steer`, or a `Fit`, which stands for its value.
        model: another version of the model on which it was fitted.

    Raises:
        ValueError: the weights are not the same ones; or the norm had a bias, which was folded too
            and makes the steer affine (`rebase_affine` carries that); or the folding took a
            direction of `W_U` away into which the steer writes.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-96-llama")
        >>> joy = sl.fit_steer(sl.collect(model, sl.toy.corpus("sentiment", n=100, seed=0))).value
        >>> half = sl.load_model("toy-96-llama", dtype="bfloat16")
        >>> rebase(joy, half).readout is sl.readout(half)
        True
    """
    found = rebase_affine(steer, model)
    if bool(found.shift.any()):
        raise ValueError(
            f"steer: {found.name!r} is affine on {found.readout.model_id!r}: between the two versions the final norm's bias was "
            "folded into b_U, so the steer acts on a constant besides; steerlens.export.rebase_affine carries it"
        )
    return found.steer


@torch_defaults()
def rebase_affine(steer: Steer | AffineSteer | Fit, model: Model) -> AffineSteer:
    """Return the same steer on another version of the same weights, with what a norm's bias adds.

        c = c' T + β        W' = T W T⁻¹        v' = (βW + v) T⁻¹

    with `β` from `b_U' = b_U + β W_U`: the bias of a norm that was folded. Folding a LayerNorm,
    TransformerLens also takes the mean over `d_model` out of `W_U`, for the norm's output has none:
    `T = (1 − 11ᵀ/d) G` has no inverse. From folded to raw weights that costs nothing; from raw to
    folded ones a steer can only go if it writes nothing into the direction that is lost.

    Raises:
        ValueError: the weights are not the same ones; or the steer writes into what was lost.
    """
    given = value_of(steer)
    if not isinstance(given, Steer | AffineSteer):
        raise ValueError(f"steer: got {type(given).__name__}, expected a Steer or an AffineSteer")
    linear = given if isinstance(given, Steer) else given.steer
    old, new = linear.readout, readout(model)
    W = linear.W.double().cpu()
    v = torch.zeros(len(W)).double() if isinstance(given, Steer) else given.shift.double().cpu()
    shift = v
    if not old.same_as(new):
        basis = _basis(old, new)
        written = torch.cat([W, (basis.bias @ W + v)[None]])
        lost = (written @ basis.lost).norm() / written.norm().clamp_min(1e-300)
        if float(lost) > 1e-5:
            raise ValueError(
                f"steer: {linear.name!r} writes {float(lost):.2g} of its size into a direction that {new.model_id!r} "
                f"[{new.digest[:8]}] has no more: folding the LayerNorm took the mean over d_model out of W_U; load raw weights"
            )
        W, shift = basis.T @ W @ basis.back, (basis.bias @ W + v) @ basis.back
    device = new.W_U.device
    moved = Steer(W.float().to(device), new, linear.name, linear.terms)
    return AffineSteer(moved, shift.float().to(device))


class _Basis(NamedTuple):
    """`c = c' T + bias`, from the context vectors of one version to those of another; `back` turns
    changes of `c` into changes of `c'`, but for those along the columns of `lost`."""

    T: Float[Tensor, "d_model d_model"]
    bias: Float[Tensor, " d_model"]
    back: Float[Tensor, "d_model d_model"]
    lost: Float[Tensor, "d_model n"]


def _basis(old: Readout, new: Readout) -> _Basis:
    """Return how the context vectors of two versions of the same weights hang together.

    Raises:
        ValueError: they are not the same weights.
    """
    n = min(old.n_tokens, new.n_tokens)
    if old.d_model != new.d_model or old.tokens[:n] != new.tokens[:n]:
        raise _other(old, new, "other words or another width")
    if old.softcap != new.softcap:
        raise _other(old, new, f"soft caps {old.softcap} and {new.softcap}")
    allowed = max(ROUNDING.get(r.W_U.dtype, 1e-5) for r in (old, new))
    X, Y = (r.scale * r.W_U[:, :n].double().cpu() for r in (old, new))
    x, y = (r.scale * r.b_U[:n].double().cpu() for r in (old, new))
    if old.softcap is None:  # what all logits have in common changes nothing, unless it is capped
        X, Y = (t - t.mean(1, keepdim=True) for t in (X, Y))
        x, y = x - x.mean(), y - y.mean()
    one = torch.eye(old.d_model).double()
    mean = torch.full_like(one, 1 / old.d_model)
    tried = []
    for C in (one, one - mean):  # a norm folded, and also its mean taken out
        gain, off = _gain(X, Y, C, allowed)
        tried.append(off)
        if off <= allowed:
            bias = _bias(X, y - x, max(x.norm(), y.norm()), allowed)
            lost = torch.zeros(len(one), 0).double() if C is one else (1 / gain)[:, None]
            if bias is not None:
                return _Basis(C * gain, bias, one / gain, lost / lost.norm(dim=0))
        gain, off = _gain(Y, X, C, allowed)
        tried.append(off)
        if off <= allowed:
            bias = _bias(Y, x - y, max(x.norm(), y.norm()), allowed)
            if bias is not None:
                T = torch.linalg.pinv(C * gain)
                return _Basis(T, -bias @ T, C * gain, torch.zeros(len(one), 0).double())
    raise _other(old, new, f"W_U and b_U differ by {min(tried):.2g}, {allowed:.1g} is allowed")


def _gain(X: Tensor, Y: Tensor, C: Tensor, allowed: float) -> tuple[Float[Tensor, " d"], float]:
    """Return the `g` that brings `C diag(g) X` nearest to `Y`, and how far off the worst row is.

    (C ∘ XXᵀ) g = diag(C Y Xᵀ), for C is a projection
    """
    normal = C * (X @ X.mT)
    gain = torch.linalg.lstsq(normal, (C @ Y * X).sum(1)[:, None], driver="gelsd").solution[:, 0]
    if float((gain - 1).abs().max()) <= allowed:
        gain = torch.ones_like(gain)
    size = Y.norm(dim=1).clamp_min(1e-300)
    off = ((C * gain) @ X - Y).norm(dim=1) / size
    return gain, float(off.max()) if bool((gain != 0).all()) else float("inf")


def _bias(
    X: Tensor, change: Tensor, size: Tensor, allowed: float
) -> Float[Tensor, " d_model"] | None:
    """Return the `β` with `βX = change`, 0 where that is rounding; None where there is none."""
    if float(change.norm()) <= allowed * float(size):
        return torch.zeros(len(X)).double()
    bias = torch.linalg.lstsq(X.mT, change[:, None], driver="gelsd").solution[:, 0]
    missed = float((change - bias @ X).norm() / change.norm())
    return bias if missed <= 100 * allowed else None


def _other(old: Readout, new: Readout, why: str) -> ValueError:
    return ValueError(
        f"model: {new.model_id!r} [{new.digest[:8]}] does not hold the weights of {old.model_id!r} [{old.digest[:8]}], on "
        f"which the steer lives ({why}); to another model it is moved with steerlens.transfer"
    )
