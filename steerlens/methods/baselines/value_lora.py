"""Change the values of the last block by a matrix of low rank: the LoRA that a steer is said to be."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steerlens.maths.numbers import as_count, as_seed, check_tensor
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.checks import as_layer
from steerlens.methods.training import Schedule, build_fit, split, train_on_texts
from steerlens.models.hooks import Model, adapter, check_site, eval_mode, run_until
from steerlens.models.partial_forward import cache_residuals
from steerlens.values.arguments import check_labelled
from steerlens.values.fit import Fit
from steerlens.values.intervention import Edit, Strength
from steerlens.values.labelled import Labelled
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout, check_readout
from steerlens.values.steer import Steer, per_row
from steerlens.values.texts import as_name
from steerlens.values.training import USUAL, Training, lasting

LR = 0.02
"""Highest learning rate of the factors' entries, in their size at the start."""


@dataclass(frozen=True, eq=False)
class ValueLora:
    """`v + s · (v A) B` at every token's values of one layer, all heads together.

    As `v = x W_V + b_V`, this is `W_V ← W_V (I + s AB)`, and the bias with it: a LoRA of rank r of
    the value projection. Where `W_V` is square and invertible every LoRA of it, with its bias, has
    this form. It is a steer's formula one attention earlier: what it changes reaches the
    unembedding mixed over the tokens that are attended to, and through a feed-forward layer and a
    norm. Made by `fit_value_lora`.

    Args:
        A: `[width, rank]`; what is read of the values, width being that of all heads' values.
        B: `[rank, width]`; what is written.
        layer: 0 the first.
        readout: of the model.
        name: for tables and figures.

    Raises:
        ValueError: shapes that do not belong together, or numbers that are not finite.
    """

    A: Float[Tensor, "width rank"]
    B: Float[Tensor, "rank width"]
    layer: int
    readout: Readout
    name: str = "value lora"
    prefix = 0
    file_kind: ClassVar[str] = "value lora"

    def __post_init__(self) -> None:
        as_name(self.name)
        check_readout(self.readout)
        as_count(self.layer, "layer", "a whole number, 0 the first", least=0)
        check_tensor(self.A, "A", "(width, rank)")
        check_tensor(self.B, "B", "(rank, width)")
        if self.A.ndim != 2 or self.A.mT.shape != self.B.shape or not self.A.shape[1]:
            raise ValueError(
                f"A, B: got shapes {tuple(self.A.shape)} and {tuple(self.B.shape)}, expected (width, rank) and (rank, width)"
            )
        if not all(bool(torch.isfinite(t).all()) for t in (self.A, self.B)):
            raise ValueError(
                f"A or B of {self.name!r} holds NaN or infinity; was the fit's step too large?"
            )

    @property
    def n_parameters(self) -> int:
        """Numbers that were fitted."""
        return self.A.numel() + self.B.numel()

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        return value_edits(self.A, self.B, self.layer, strength)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps of it."""
        return {"A": self.A, "B": self.B}, {"layer": self.layer}

    @classmethod
    def unpack(
        cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout
    ) -> "ValueLora":
        """Make it again from what `pack` gave."""
        return cls(tensors["A"], tensors["B"], int(about["layer"]), readout, about["name"])

    def __repr__(self) -> str:
        r = self.readout
        return f"ValueLora({self.name!r}, rank {self.A.shape[1]}, layer {self.layer}, on {r.model_id!r} [{r.digest[:8]}])"


def values_site(layer: int) -> str:
    """Return the name of the hook at a layer's values, `[batch, pos, heads, d_head]`."""
    return f"blocks.{layer}.attn.hook_v"


def value_edits(
    A: Float[Tensor, "width rank"],
    B: Float[Tensor, "rank width"],
    layer: int,
    strength: Strength,
) -> tuple[Edit, ...]:
    """Return `v + s · (v A) B` as edits."""

    def edit(v: Tensor, places: TokenIndex) -> Tensor:
        flat = v.flatten(2)
        if flat.shape[2] != len(A):
            raise ValueError(
                f"A: made for values of width {len(A)}, these are {flat.shape[2]} wide; it is of another model"
            )
        wide = flat.to(torch.promote_types(v.dtype, torch.float32))
        added = per_row(strength, wide) * (wide @ A.to(wide) @ B.to(wide))
        return (wide + added).to(v.dtype).reshape(v.shape)

    return ((values_site(layer), edit),)


@torch_defaults()
def fit_value_lora(
    model: Model,
    data: Labelled,
    *,
    rank: int = 16,
    layer: int | None = None,
    background: Steer | None = None,
    training: Training = USUAL,
    seed: int = 0,
    name: str = "value lora",
    progress: bool = True,
) -> Fit[ValueLora]:
    """Fit a LoRA of the last block's values to labelled texts, on the steer's signed objective.

        minimise  mean CE(p(next token | W_V (I + y·AB)))

    with the label of each text as strength, so that one value serves both signs. Not convex: AdamW
    from `B = 0`, the parameters with the best held-out NLL are kept.

    Source: Hu et al., LoRA (arXiv 2106.09685); that a steer is one of the last block's value path
    is a remark at github.com/Glaciohound/LM-Steer (issue 1).

    Args:
        model: of TransformerLens, which names the values; unchanged afterwards.
        data: labelled texts.
        rank: of the change, at most the width of the values.
        layer: whose values; None: the last.
        background: a steer that is always on; None: none.
        training: learning rate, epochs, batch size. The `lr` is in units of the entries that `A`
            starts with; None: 0.02.
        seed: of the split, the start and the order of the texts.
        name: for tables and figures.
        progress: show a bar.

    Returns:
        `Fit(value: ValueLora, background, report)`.

    Raises:
        ValueError: fewer than four texts, a rank or a layer out of range.
        KeyError: a model without that hook.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.values.training import Training
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> fit_value_lora(model, data, rank=2, training=Training(epochs=1), progress=False).value.layer
        2
    """
    started = time.perf_counter()
    n_layers = adapter(model).n_layers
    layer = as_layer(n_layers - 1 if layer is None else layer, n_layers)
    check_labelled(data)
    name, seed, training = as_name(name), as_seed(seed), lasting(training, None)
    check_site(model, values_site(layer))
    width = _width(model, layer)
    rank = as_count(rank, "rank", f"1 … {width}, the width of the values", most=width)
    kept = cache_residuals(model, data, layer - 1)
    parts = split(model, kept, background, seed)
    random = torch.Generator().manual_seed(seed)
    scale = width**-0.5
    A = nn.Parameter(
        (scale * torch.randn(width, rank, generator=random)).to(adapter(model).W_U.device)
    )
    B = nn.Parameter(torch.zeros(rank, width, device=adapter(model).W_U.device))

    def made(texts: Sequence[int], strength: Tensor) -> tuple[Edit, ...]:
        return value_edits(A, B, layer, strength)

    schedule = Schedule(training, LR, seed, progress, "fit_value_lora")
    parts, found = train_on_texts(model, parts, [(A, scale), (B, scale)], made, made, schedule)
    value = ValueLora(A.detach().clone(), B.detach().clone(), layer, kept.readout, name)
    settings = {"rank": rank, "layer": layer, "n_parameters": value.n_parameters, "resumed": kept.layer >= 0}  # fmt: skip
    return build_fit(
        model, parts, value, lambda _, s: value.edits(s), found, seed, settings, started
    )


def _width(model: Model, layer: int) -> int:
    """Return how wide the values of a token are, all heads together."""
    token = torch.zeros(1, 1, dtype=torch.long, device=adapter(model).W_U.device)
    with eval_mode(model):
        return (
            run_until(model, values_site(layer), token, torch.ones_like(token)).flatten(2).shape[2]
        )
