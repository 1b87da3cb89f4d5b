"""Add to hidden states what labels change in their mean: the simplest steering vector."""

from typing import Literal

import torch

from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.checks import as_layer
from steerlens.methods.baselines.shift import Shift
from steerlens.models.embeddings import states_at
from steerlens.models.hooks import Model, adapter, convention
from steerlens.models.readout import readout
from steerlens.models.tokenization import encode
from steerlens.values.arguments import check_labelled, check_labels_differ
from steerlens.values.hook_names import resid_post
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.labelled import Labelled
from steerlens.values.texts import as_name


@torch_defaults()
def fit_mean_difference(
    model: Model,
    data: Labelled,
    *,
    layer: int | Literal["unembed"] | None = None,
    name: str = "mean difference",
) -> Shift:
    """Fit what a label changes in the mean of a text's states behind a layer.

        vector = Σ_i (y_i − ȳ) h̄_i / Σ_i (y_i − ȳ)²        h̄_i = mean of h over the tokens of text i

    the slope of a regression on the label; for labels −1 and +1, equally often, half the difference
    of the two means. One pass of the model up to the layer. It knows nothing of what the model says
    next, so its unit means nothing: hold it against others by `evaluate.compare`, at equal KL.

    Source: Rimsky et al. (arXiv 2312.06681), contrastive activation addition; DiffMean of AxBench
    (arXiv 2501.17148).

    Args:
        data: labelled texts; prompts are not read.
        layer: the vector is added behind; None: the middle one; "unembed": at the input of the
            unembedding, where a steer acts.

    Raises:
        ValueError: all labels equal, or a layer that the model has not.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> fit_mean_difference(model, sl.toy.corpus("tone", n=60, seed=0)).vector.shape
        torch.Size([64])
    """
    n_layers = adapter(model).n_layers
    if isinstance(layer, str) and layer == "unembed":
        site = UNEMBED_IN
    else:
        middle = (n_layers - 1) // 2 if layer is None else layer
        site = resid_post(as_layer(middle, n_layers, ", or 'unembed'"))
    check_labelled(data)
    name = as_name(name)
    on = readout(model)
    how = convention(model, on)
    ids = encode(adapter(model).tokenizer, list(data.texts), how, end=False).ids
    states = states_at(model, ids, site)
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
    check_labels_differ(labels)
    y = labels - labels.mean()
    vector = (y @ means / y.square().sum()).float()
    return Shift(vector.to(on.W_U.device), site, on, name)
