"""Make a steer that needs nothing but logits."""

import torch

from steerlens.maths import from_logits
from steerlens.maths.numbers import as_number
from steerlens.maths.svd import svd
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.values.affine import AffineSteer
from steerlens.values.fit import value_of
from steerlens.values.gate import Gated
from steerlens.values.logit_steer import LogitSteer
from steerlens.values.steer import Steer


@torch_defaults()
def logit_steer(
    steer: Steer | AffineSteer,
    *,
    rank: int | None = None,
    holes: bool = False,
    precision: float | None = None,
    max_gain: float = 30.0,
) -> LogitSteer:
    """Return a steer as it acts on logits alone; exact but for rounding.

    Args:
        steer: on the read-out of the model that will be served; the constant of an affine one is a
            bias of the logits. With a background that is always on, `strength * steer +
            background`, at strength 1.
        rank: the nearest steer of a rank, by its SVD; `steer.truncate(rank, metric)` before is
            nearer in nats. None: all of it.
        holes: keep `W_U` (`d_model · d_vocab` numbers), so that −∞ may be among the logits.
        precision: relative rounding of the logits that will come: that of the model's dtype if
            None; about 1e-2 for a head in 8 bits.
        max_gain: by how much noise may grow; see `LogitSteer.gain`.

    Raises:
        ValueError: the read-out hides from its logits what the steer reads; a rank or a precision out of
            range; something else than a steer, such as one behind a gate.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> joy = sl.fit_steer(sl.collect(model, sl.toy.corpus("sentiment", n=100, seed=0))).value
        >>> sl.export.logit_steer(joy).gain < 10
        True
    """
    steer = value_of(steer)
    if isinstance(steer, Gated):
        raise ValueError(
            f"steer: {steer.name!r} acts under conditions, which a file for servers does not ask; make one of what is behind the "
            "gate (.terms[0].value), and where the condition is on places give the processor a strength for each step"
        )
    if not isinstance(steer, Steer | AffineSteer):
        raise ValueError(
            f"steer: got {type(steer).__name__}, expected a Steer or the Fit of one; over a background the sum "
            "strength * steer + background"
        )
    if precision is not None and not as_number(precision, "precision") > 0:
        raise ValueError(
            f"precision: got {precision}, expected a number > 0, the relative rounding of logits, e.g. 1e-2, or None"
        )
    r = steer.readout
    linear = steer.steer if isinstance(steer, AffineSteer) else steer
    U, s, Vh = svd((linear if rank is None else linear.truncate(rank)).W.double())
    kept = int((s > 1e-7 * s[0]).sum()) if rank is None else rank
    root = s[:kept].sqrt()
    A, B = U[:, :kept] * root, root[:, None] * Vh[:kept]
    W_U = r.scale * r.head.W_U
    of = from_logits.gram(W_U)
    P, miss = from_logits.reading(W_U, A, of)
    if miss > 1e-6:
        raise ValueError(
            f"steer: {steer.name!r} reads what the logits of {r.model_id!r} do not show (miss {miss:.2g}): its W_U has not full "
            "row rank; fold the steer into the weights instead (steerlens.export.fold)"
        )
    rounding = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}.get(r.W_U.dtype, 1e-6)
    Q = from_logits.writing(B, W_U)
    return LogitSteer(
        P=P.float(),
        Q=Q,
        b=r.scale * r.head.b_U,
        # what reads nothing need not know whose logits these are
        witness=from_logits.witnesses(W_U, of, 8 if kept else 0).float(),
        gain=from_logits.gain(P, Q),
        precision=rounding if precision is None else precision,
        A=A.float() if holes else None,
        W_U=W_U if holes else None,
        softcap=r.softcap,
        shift=from_logits.writing(steer.shift[None], W_U)[0]
        if isinstance(steer, AffineSteer)
        else None,
        max_gain=max_gain,
        name=steer.name,
        model_id=r.model_id,
        readout_digest=r.digest,
    )
