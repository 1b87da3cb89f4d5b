"""Tell plain causal language models from what is none, and hooks that are there from such that went."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

UNQUANTISED = "leave it out of the quantisation (llm_int8_skip_modules=['lm_head'] or the like)"


def check_plain(model: Any) -> None:
    """Raise, with the next step, where something is no plain causal language model.

    Raises:
        ValueError: a model without output embedding, with a quantised one, one of an encoder and a
            decoder, or one that a `TransformerBridge` holds.
    """
    kind = type(model).__name__
    if not all(hasattr(model, name) for name in ("config", "get_output_embeddings", "forward")):
        raise ValueError(f"model: got {kind}, expected a Hugging Face AutoModelForCausalLM")
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(
            f"model: {kind} reads with an encoder and writes with a decoder; steers are expressed on "
            "models that do both in one, such as AutoModelForCausalLM loads"
        )
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if head is None or not isinstance(weight, Tensor):
        fault = (
            "has no output embedding, so it gives no logits of words; load it with AutoModelForCausalLM"
            if head is None
            else f"has a {type(head).__name__} for its output embedding, which shows no weights; {UNQUANTISED}"
        )
        raise ValueError(f"model: {kind} {fault}")
    if type(head).__module__.startswith("transformer_lens"):
        raise ValueError(
            f"model: {kind} lies inside a TransformerBridge, which changed it; give the bridge"
        )
    if weight.ndim != 2 or not weight.is_floating_point() or weight.dtype.itemsize < 2:
        raise ValueError(
            f"model: the output embedding of {kind} holds {weight.dtype} of shape "
            f"{tuple(weight.shape)}, expected numbers [vocab, d_model]; {UNQUANTISED}"
        )


def check_still_there(hooks: Iterable[RemovableHandle]) -> None:
    """Raise where hooks of torch that were set for a block are gone at its end.

    What ran after they went was plain, and nothing in it would say so.

    Example:
        >>> import torch
        >>> handle = torch.nn.Linear(1, 1).register_forward_hook(lambda module, given, made: None)
        >>> check_still_there([])
        >>> check_still_there([handle])     # the module itself is gone
        Traceback (most recent call last):
            ...
        RuntimeError: model: hooks were taken away inside the block that had set them, so what ran after that was not steered. ...
    """
    if not all(hook.id in (hook.hooks_dict_ref() or ()) for hook in hooks):
        raise RuntimeError(
            "model: hooks were taken away inside the block that had set them, so what ran after that was not steered. "
            "model.reset_hooks() does it, and some libraries do at each call (pyvene); leave it out, or give them a "
            "folded copy of the model (steerlens.export.fold)"
        )
