"""Add to hidden states what labels change in their mean: the simplest steering vector."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.models.embeddings import states_at
from steerlens.models.hooks import Model, adapter, convention
from steerlens.models.readout import readout
from steerlens.models.tokenization import encode
from steerlens.values.hook_names import resid_post
from steerlens.values.intervention import Edit, Strength
from steerlens.values.labelled import Labelled
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout
from steerlens.values.steer import per_row


@dataclass(frozen=True, eq=False)
class MeanDifference:
    """`h + s · vector` at every position behind a layer. Made by `fit_mean_difference`.

    Args:
        vector: `[d_model]`; what a label of 1 adds.
        layer: that it is added behind.
        readout: of the model.
        name: for tables and figures.

    Raises:
        ValueError: a vector of another width, or one that is not finite.
    """

    vector: Float[Tensor, " d_model"]
    layer: int
    readout: Readout
    name: str = "mean difference"
    prefix = 0
    file_kind: ClassVar[str] = "mean difference"

    def __post_init__(self) -> None:
        if self.vector.shape != (self.readout.d_model,):
            raise ValueError(
                f"vector: got shape {tuple(self.vector.shape)}, expected ({self.readout.d_model},)"
            )
        if not bool(torch.isfinite(self.vector).all()):
            raise ValueError(
                f"vector of {self.name!r} holds NaN or infinity; do the model's states?"
            )

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        def edit(h: Tensor, places: TokenIndex) -> Tensor:
            wide = h.to(torch.promote_types(h.dtype, torch.float32))
            return (wide + per_row(strength, h) * self.vector.to(wide)).to(h.dtype)

        return ((resid_post(self.layer), edit),)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps of it."""
        return {"vector": self.vector}, {"layer": self.layer}

    @classmethod
    def unpack(
        cls, tensors: dict[str, Tensor], about: dict[str, Any], readout: Readout
    ) -> "MeanDifference":
        """Make it again from what `pack` gave."""
        return cls(tensors["vector"], int(about["layer"]), readout, about["name"])

    def __repr__(self) -> str:
        r = self.readout
        return (
            f"MeanDifference({self.name!r}, layer {self.layer}, on {r.model_id!r} [{r.digest[:8]}])"
        )


def fit_mean_difference(
    model: Model, data: Labelled, *, layer: int | None = None, name: str = "mean difference"
) -> MeanDifference:
    """Fit what a label changes in the mean of a text's states behind a layer.

        vector = Σ_i (y_i − ȳ) h̄_i / Σ_i (y_i − ȳ)²        h̄_i = mean of h over the tokens of text i

    the slope of a regression on the label; for labels −1 and +1, equally often, half the difference
    of the two means. One pass of the model up to the layer. It knows nothing of what the model says
    next, so its unit means nothing: hold it against others by `evaluate.compare`, at equal KL.

    Source: Rimsky et al. (arXiv 2312.06681), contrastive activation addition; DiffMean of AxBench
    (arXiv 2501.17148).

    Args:
        data: labelled texts; prompts are not read.
        layer: the vector is added behind; None: the middle one.

    Raises:
        ValueError: all labels equal, or a layer that the model has not.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> fit_mean_difference(model, sl.toy.corpus("tone", n=60, seed=0)).vector.shape
        torch.Size([64])
    """
    n_layers = adapter(model).n_layers
    layer = (n_layers - 1) // 2 if layer is None else layer
    if not 0 <= layer < n_layers:
        raise ValueError(f"layer: got {layer}, expected 0 … {n_layers - 1}")
    on = readout(model)
    how = convention(model, on)
    ids = encode(adapter(model).tokenizer, list(data.texts), how, end=False).ids
    states = states_at(model, ids, resid_post(layer))
    # begin-of-text is no part of what was said; a text without a token says nothing
    rows = [
        (h[int(how.bos) :].mean(0), y)
        for h, y in zip(states, data.labels, strict=True)
        if len(h) > how.bos
    ]
    means, labels = (
        torch.stack([h for h, _ in rows]).double(),
        torch.tensor([y for _, y in rows]).double(),
    )
    y = labels - labels.mean()
    if not bool((y.abs() > 1e-9).any()):
        raise ValueError(
            f"data: every label is {labels[0]:g}, so nothing is told apart; add texts of another label"
        )
    vector = (y @ means / y.square().sum()).float()
    return MeanDifference(vector.to(on.W_U.device), layer, on, name)
