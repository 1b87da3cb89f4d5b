"""Find the Hugging Face model below a model, and its head."""

from typing import Any

from steerlens.models.hooks import Model, adapter


def plain_source(model: Model) -> Any:
    """Return the Hugging Face model below a model.

    Raises:
        ValueError: there is none, it has no output embeddings, or lies inside of something else.
    """
    from transformers import PreTrainedModel

    held = adapter(model).model
    source: Any = getattr(held, "original_model", held)
    kind = type(source).__name__
    if not hasattr(source, "get_output_embeddings") or not hasattr(source, "save_pretrained"):
        raise ValueError(
            f"model: got {type(model).__name__}, which holds no Hugging Face model; load a bridge with steerlens.load_model(name)"
        )
    if not isinstance(source, PreTrainedModel):
        raise ValueError(
            f"model: a {kind} lies around the model, and its weights bear names that no plain model has; merge what it adds "
            "first (of peft: model.merge_and_unload()), or give the model inside (model.get_base_model())"
        )
    if source.get_output_embeddings() is None:
        raise ValueError(f"model: {kind} names no output embeddings")
    return source


def head_name(source: Any) -> str:
    """Return the name of the weight of a Hugging Face model's head."""
    head = source.get_output_embeddings()
    return next(name for name, m in source.named_modules() if m is head) + ".weight"
