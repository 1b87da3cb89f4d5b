"""Checkpoints in the format of the LM-Steer authors' code, in and out, and steering directions."""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.svd import svd
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.hooks import Model
from steerlens.models.readout import readout
from steerlens.values.affine import AffineSteer
from steerlens.values.arguments import background_of
from steerlens.values.atomic import written_whole
from steerlens.values.fit import Fit, value_of
from steerlens.values.paths import as_path, check_folder
from steerlens.values.steer import Steer, zero_steer

EPSILON = 1e-3
"""The unit of strength in the paper, and what `--epsilon` is if it is not given."""


class LmSteer(NamedTuple):
    """A steer of a checkpoint, and its dummy steer, which the authors keep always on; None if it
    has none."""

    steer: Steer
    background: Steer | None


@torch_defaults()
def import_lm_steer(
    path: str | Path,
    model: Model,
    *,
    steer: int | None = None,
    background: int | None = None,
    epsilon: float | None = None,
    name: str | None = None,
) -> LmSteer:
    """Read a checkpoint of the LM-Steer authors' code (`[args, state, step]`, a `.pt` file).

        W = ε P1 P2ᵀ        c' = c + v cW

    so a strength here is a steer value there. EasySteer's payload, a dictionary with the same two
    projections, is read too. It is unpickled with `weights_only=True`: tensors, plain values and
    `argparse.Namespace`, nothing that could run.

    Source: Han et al., ACL 2024, appendix D; github.com/Glaciohound/LM-Steer, `steers.py`.

    Args:
        path: the checkpoint.
        model: the one it was trained on, with raw weights.
        steer: which of its steers; None: the one that `args.training_steer` names, else 0.
        background: which of them is the dummy; None: the one that `args.dummy_steer` names, else
            none.
        epsilon: None: `args.epsilon`, else 1e-3.
        name: of the steer; None: the file's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no checkpoint of this kind, one that asks for code, another adaptor than
            "multiply", a width that is not the model's, an index out of range.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> joy = sl.fit_steer(sl.collect(model, sl.toy.corpus("sentiment", n=100, seed=0))).value
        >>> found = import_lm_steer(export_lm_steer(joy, "joy.pt", rank=8), model)
        >>> bool((found.steer.W - joy.truncate(8).W).norm() < 1e-5 * joy.W.norm())
        True
    """
    path = as_path(path)
    args, P1, P2 = _projections(path)
    on = readout(model)
    if P1.shape != P2.shape or P1.shape[1] != on.d_model:
        raise ValueError(
            f"{path}: its projections are {list(P1.shape)} and {list(P2.shape)} [steers, d, rank], {on.model_id!r} has d_model "
            f"{on.d_model}; load the model it was trained on"
        )
    chosen = _first(steer, args.get("training_steer"), 0)
    dummy = _first(background, args.get("dummy_steer"))
    for what, index in (("steer", chosen), ("background", dummy)):
        if index is not None and not 0 <= index < len(P1):
            raise ValueError(f"{what}: got {index}, {path.name} holds steers 0 … {len(P1) - 1}")
    scale = float(_first(epsilon, args.get("epsilon"), EPSILON))
    name = name or path.stem

    def at(index: int, called: str) -> Steer:
        W = scale * P1[index].double() @ P2[index].double().mT
        return Steer(W.float().to(on.W_U.device), on, called)

    return LmSteer(at(chosen, name), None if dummy is None else at(dummy, f"{name} dummy"))


@torch_defaults()
def export_lm_steer(
    steer: Steer | Fit,
    path: str | Path,
    *,
    background: Steer | None = None,
    rank: int | None = None,
    epsilon: float = EPSILON,
) -> Path:
    """Write a steer as a checkpoint that the LM-Steer authors' code loads, and EasySteer.

    Steer 0 is the steer, steer 1 the background as their dummy; `P1 = U √(S/ε)`, `P2 = V √(S/ε)` of
    `W = U S Vᵀ`. Run their scripts with the `--rank`, `--num_steers` and `--epsilon` that the file
    names, and give the strength as the steer value.

    Args:
        steer: a `Steer`, or a `Fit`, which stands for its value; its background is not taken along
            by itself.
        path: ends in .pt; an existing file is replaced, at once or not at all.
        background: a second steer, on the same read-out.
        rank: of the projections; None: enough for all of both.
        epsilon: the ε that their code multiplies by; 1e-3 is theirs.

    Raises:
        ValueError: another ending, a rank or an epsilon out of range, two read-outs.
        FileNotFoundError: no such folder.
    """
    path, value = as_path(path), value_of(steer)
    if path.suffix != ".pt":
        raise ValueError(f"path: got {path.name!r}, expected a name that ends in .pt")
    check_folder(path)
    if not isinstance(value, Steer):
        raise ValueError(
            f"steer: got {type(value).__name__}, expected a Steer: a matrix is all that the authors' format holds"
        )
    if not epsilon > 0:
        raise ValueError(f"epsilon: got {epsilon}, expected a positive number, e.g. {EPSILON}")
    steers = [value] if background is None else [value, background_of(background)]
    _ = sum(
        steers, start=zero_steer(value.readout)
    )  # raises where they live on different read-outs
    parts = [svd(one.W.double().cpu()) for one in steers]
    needed = max(max(int((s > 1e-7 * s[0]).sum()), 1) for _, s, _ in parts)
    if rank is not None and not 1 <= rank <= value.readout.d_model:
        raise ValueError(f"rank: got {rank}, expected 1 … {value.readout.d_model} (d_model)")
    kept = rank or needed
    roots = [(s[:kept] / epsilon).sqrt() for _, s, _ in parts]
    P1 = torch.stack([U[:, :kept] * root for (U, _, _), root in zip(parts, roots, strict=True)])
    P2 = torch.stack([Vh[:kept].mT * root for (*_, Vh), root in zip(parts, roots, strict=True)])
    args = Namespace(
        model_name=value.readout.model_id, adaptor_class="multiply", adapted_component="final_layer", epsilon=epsilon,
        init_var=1e-2, rank=kept, num_steers=len(steers), training_steer=0, dummy_steer=1 if background is not None else None,
        low_resource_mode=False,
    )  # fmt: skip
    state = {"projector1": P1.float().contiguous(), "projector2": P2.float().contiguous()}
    with written_whole(path) as aside:
        try:
            torch.save([args, state, 0], aside)
        except RuntimeError as error:  # of a full disk torch says what line of its own failed
            said = str(error).splitlines()[0]
            raise OSError(f"{path}: {said}; is the disk full? nothing was written") from error
    return path


@torch_defaults()
def import_direction(
    vector: Float[Tensor, " d_model"], model: Model, *, name: str = "direction"
) -> AffineSteer:
    """Return a steering direction as an intervention behind the final norm: `c' = c + s v`.

    What repeng and steering-vectors fit is a direction per layer, added to the residual stream
    behind it; one of those is `methods.baselines.shift.Shift(vector, hook_name, readout)`. A
    direction of the unembedding's input, such as a difference of output embeddings, is this.

    Raises:
        ValueError: a vector of another width, or one that is not finite.
    """
    on = readout(model)
    return AffineSteer(zero_steer(on, name), vector.float().to(on.W_U.device))


def _projections(path: Path) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Return the arguments, `P1` and `P2` of a checkpoint, `[steers, d, rank]`."""
    if not path.is_file():
        raise FileNotFoundError(f"path: no file {path}")
    try:
        with _namespace_allowed():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        why = str(error).split("\n")[0].split(". ")[0]
        raise ValueError(
            f"{path}: no whole checkpoint that holds only tensors and plain values ({why}); nothing of it was run"
        ) from None
    args: Any = {}
    if isinstance(content, list | tuple) and len(content) >= 2:
        args, content = content[0], content[1]
    args = vars(args) if isinstance(args, Namespace) else args if isinstance(args, Mapping) else {}
    kind = args.get("adaptor_class", "multiply")
    if kind != "multiply" or args.get("adapted_component", "final_layer") != "final_layer":
        raise ValueError(
            f"{path}: an adaptor {kind!r} of {args.get('adapted_component', 'final_layer')!r}, expected 'multiply' of "
            "'final_layer', which alone is a linear map of the output embeddings"
        )
    named = content if isinstance(content, Mapping) else {}
    pair = [named.get(f"projector{k}") for k in (1, 2)]
    found = [P for P in pair if isinstance(P, Tensor) and P.ndim in (2, 3)]
    if len(found) != 2:
        raise ValueError(f"{path}: a torch file, but without projector1 and projector2")
    P1, P2 = (P.detach().float() for P in found)
    return dict(args), P1 if P1.ndim == 3 else P1[None], P2 if P2.ndim == 3 else P2[None]


@contextmanager
def _namespace_allowed() -> Iterator[None]:
    """Let `argparse.Namespace` be unpickled inside the block: a bag of values without code."""
    with torch.serialization.safe_globals([Namespace]):
        yield


def _first(*choices: Any) -> Any:
    return next((choice for choice in choices if choice is not None), None)
