"""Find for each text the vector that makes a model say it, and add what labels change in their
mean: latent steering vectors."""

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.numbers import as_count, as_seed, generator
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.checks import as_layer
from steerlens.methods.baselines.shift import Shift
from steerlens.methods.training import backward
from steerlens.models.embeddings import states_at
from steerlens.models.hooks import Model, adapter, eval_mode
from steerlens.models.partial_forward import (
    ResidualCache,
    batch_of,
    cache_residuals,
    final_states,
)
from steerlens.values.arguments import check_labelled, check_labels_differ
from steerlens.values.hook_names import resid_post
from steerlens.values.intervention import Edit
from steerlens.values.labelled import Labelled
from steerlens.values.positions import TokenIndex
from steerlens.values.steer import zero_steer
from steerlens.values.texts import as_name

LR = 0.3
"""Highest learning rate, in the size of a usual state's entries."""


@torch_defaults()
def fit_latent_vectors(
    model: Model,
    data: Labelled,
    *,
    layer: int | None = None,
    n_texts: int = 100,
    n_steps: int = 100,
    seed: int = 0,
    name: str = "latent vectors",
) -> Shift:
    """Fit what a label changes in the vectors that make the model say each text.

        z_i = argmax Σ_t log p(x_t | x_<t, h + z_i)        vector = Σ_i (y_i − ȳ) z_i / Σ_i (y_i − ȳ)²

    `z_i` is added behind a layer at every token of text `i`, the model frozen. For labels −1 and +1,
    equally often, `vector` is half the difference of the mean vectors of the two styles. Where the
    mean difference averages what a model reads, this averages what it takes to make it write.

    Source: Subramani, Suresh and Peters (arXiv 2205.05124), sections 2 and 4: 100 texts of each
    class, at most 500 steps of Adam that fall tenfold where the loss stalls; here `n_steps` that
    fall to zero, batches of texts at once.

    Args:
        data: labelled texts; prompts are only read.
        layer: behind which; None: the middle one.
        n_texts: of each sign of the label at most, drawn at random; of fewer, all. More say little
            more.
        n_steps: of Adam, for each text.
        seed: of the texts and of the vectors' start.

    Raises:
        ValueError: all labels equal, a layer that the model has not, fewer than one step or text.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> fit_latent_vectors(model, data, n_texts=5, n_steps=5).site
        'blocks.1.hook_resid_post'
    """
    n_layers = adapter(model).n_layers
    layer = as_layer((n_layers - 1) // 2 if layer is None else layer, n_layers)
    check_labelled(data)
    n_texts, n_steps = as_count(n_texts, "n_texts"), as_count(n_steps, "n_steps")
    name, seed = as_name(name), as_seed(seed)
    rows = _draw(data, n_texts, seed)
    kept = cache_residuals(model, data.pick(rows), layer)
    z, y = latent_vectors(model, kept, layer, n_steps, seed).double().cpu(), kept.labels.double()
    check_labels_differ(y)
    y = (y - y.mean()).cpu()
    vector = (y @ z / y.square().sum()).float()
    return Shift(vector.to(kept.readout.W_U.device), resid_post(layer), kept.readout, name)


def latent_vectors(
    model: Model, kept: ResidualCache, layer: int, n_steps: int, seed: int
) -> Float[Tensor, "n_texts d"]:
    """Return for each text the vector behind a layer that makes the model say it, as far as found.

    Adam, whose learning rate of `LR` falls to zero. Each text has a vector of its own; batches only
    save time.
    """
    on = kept.readout
    # begin-of-text may be hundreds of times as long as any other state
    states = states_at(model, kept.ids, resid_post(layer))
    size = float(torch.cat(states).norm(dim=1).median())
    d = states[0].shape[1]
    start = torch.randn(len(kept), d, generator=generator(seed))
    found = 1e-2 * size / d**0.5 * start
    nothing = zero_steer(on)
    for texts in kept.batches(range(len(kept))):
        batch = batch_of(kept, texts)
        z = found[texts].to(on.W_U.device).requires_grad_()

        def edits(z: Tensor = z) -> tuple[Edit, ...]:
            def add(h: Tensor, places: TokenIndex) -> Tensor:
                return (h.float() + z[:, None]).to(h.dtype)

            return ((resid_post(layer), add),)

        adam = torch.optim.Adam([z], lr=LR * size / d**0.5)
        falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.01, n_steps)
        weight = torch.ones(len(batch.targets), device=z.device)
        with eval_mode(model, gradients=True):
            for _ in range(n_steps):
                adam.zero_grad()
                backward(
                    kept, final_states(model, kept, batch, edits()), batch.targets, weight, nothing
                )
                adam.step()
                falling.step()
        found[texts] = z.detach().cpu()
    return found


def _draw(data: Labelled, n: int, seed: int) -> list[int]:
    """Return rows of at most `n` texts of each sign, drawn at random, in their order."""
    order = torch.randperm(len(data), generator=generator(seed)).tolist()
    signs = [
        [k for k in order if (data.labels[k] > 0) - (data.labels[k] < 0) == sign]
        for sign in (-1, 0, 1)
    ]
    return sorted(k for rows in signs for k in rows[:n])
