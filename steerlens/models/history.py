"""Read tokens behind keys and values that may be changed first: what a model remembers of a text."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from steerlens.models.adapters import HuggingFace, Model
from steerlens.models.adapters.bridge import read_behind as through_bridge
from steerlens.models.adapters.protocol import Hook
from steerlens.models.decoding import habits
from steerlens.models.hooks import adapter, add_hooks, model_id
from steerlens.values.hook_names import EMBED
from steerlens.values.intervention import UNEMBED_IN

Pairs = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, `[rows, heads, pos, d_head]`, as the model keeps them."""


class Reading(NamedTuple):
    """What reading some tokens gave: logits after the last, the contexts before the unembedding at
    each, and the history, with them in it."""

    logits: Float[Tensor, "rows vocab"]
    c: Float[Tensor, "rows new d_model"]
    history: Any


def check_history(model: Model) -> None:
    """Raise where a model keeps no keys and values that can be changed.

    Raises:
        ValueError: a recurrent model, one whose cache changes its logits, or one of another library
            than Hugging Face's underneath.

    Example:
        >>> import steerlens as sl
        >>> check_history(sl.load_model("toy-64"))
    """
    found = adapter(model)
    wraps = isinstance(found, HuggingFace) or hasattr(found.model, "original_model")
    if not wraps or not habits(model).caches:
        raise ValueError(
            f"model: {model_id(model)!r} ({found.architecture}) keeps no keys and values that can be "
            "changed between tokens; take a transformer, plain or as a TransformerBridge"
        )


def read_behind(
    model: Model,
    tokens: Int[Tensor, "rows new"],
    mask: Int[Tensor, "rows pos"],
    history: Any = None,
    *,
    embedded: Float[Tensor, "rows new d_model"] | None = None,
) -> Reading:
    """Return what a model makes of tokens behind a history, which stays as it is.

    Args:
        mask: of the history's tokens and the new ones; padding on the left.
        history: from an earlier reading; None: nothing was read.
        embedded: what is read in the place of the tokens' embeddings; gradients flow to it, and to
            a history that `changed` made.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.models.hooks import eval_mode
        >>> model = sl.load_model("toy-64")
        >>> ids = model.to_tokens("the film was", prepend_bos=True)
        >>> mask = ids.new_ones(ids.shape)
        >>> with eval_mode(model):
        ...     whole = read_behind(model, ids, mask)
        ...     first = read_behind(model, ids[:, :2], mask[:, :2])
        ...     rest = read_behind(model, ids[:, 2:], mask, first.history)
        >>> bool((whole.logits - rest.logits).abs().max() < 1e-4)
        True
    """
    found = adapter(model)
    seen: list[Tensor] = []
    hooks: list[Hook] = [(UNEMBED_IN, lambda c: (seen.append(c), c)[1])]
    if embedded is not None:
        hooks.append((EMBED, lambda e: embedded.to(e.dtype)))
    cache = None if history is None else _fork(history)
    with add_hooks(model, hooks):
        if isinstance(found, HuggingFace):
            logits, cache = found.read_behind(tokens, mask, cache)
        else:
            logits, cache = through_bridge(found.model, tokens, mask, cache, {})
    return Reading(logits[:, -1].float(), seen[-1].float(), cache)


def keys_and_values(history: Any) -> Pairs:
    """Return keys and values of each layer of a history.

    Raises:
        ValueError: a layer without them (a recurrent one).
    """
    layers = getattr(history, "layers", ())
    pairs = [(getattr(at, "keys", None), getattr(at, "values", None)) for at in layers]
    if not pairs or not all(isinstance(t, Tensor) for pair in pairs for t in pair):
        raise ValueError(
            f"model: its {type(history).__name__} has layers without keys and values, so that they "
            "cannot be changed; take a model whose layers are all of attention"
        )
    return [(k, v) for k, v in pairs if k is not None and v is not None]


def changed(history: Any, by: Sequence[tuple[Tensor, Tensor]]) -> Any:
    """Return a history with something added to the keys and values of each layer."""
    made = _fork(history)
    for layer, (dk, dv) in zip(made.layers, by, strict=True):
        layer.keys = layer.keys + dk.to(layer.keys.dtype)
        layer.values = layer.values + dv.to(layer.values.dtype)
    return made


def _fork(history: Any) -> Any:
    """Return a history that grows without the other one: layers put new tensors in the place of
    old ones, so these need no copies."""
    made = copy.copy(history)
    made.layers = [copy.copy(layer) for layer in history.layers]
    return made
