"""Tell plain causal language models from what is none."""

import inspect
from typing import Any

from torch import Tensor

READ = ("input_ids", "attention_mask", "position_ids", "use_cache", "return_dict")
"""What a pass over text is given."""
UNQUANTISED = "leave it out of the quantisation (llm_int8_skip_modules=['lm_head'] or the like)"


def check_plain(model: Any) -> None:
    """Raise, with the next step, where something is no plain causal language model.

    Raises:
        ValueError: a model whose forward needs more than text, without output embedding, with a quantised one,
            one of an encoder and a decoder, or one that a `TransformerBridge` holds.
    """
    kind = type(model).__name__
    if not all(hasattr(model, name) for name in ("config", "get_output_embeddings", "forward")):
        raise ValueError(f"model: got {kind}, expected a Hugging Face AutoModelForCausalLM")
    needs = [
        name
        for name, p in inspect.signature(model.forward).parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if more := [name for name in needs if name not in READ]:
        raise ValueError(
            f"model: {kind} cannot read text alone, its forward needs {', '.join(more)}; take the language model in it, such as "
            "AutoModelForCausalLM loads"
        )
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
            else f"has a {type(head).__name__} for its output embedding, which shows no weights; if it is quantised, "
            f"{UNQUANTISED}; if it holds the layer that has them, put that layer there (model.set_output_embeddings)"
        )
        raise ValueError(f"model: {kind} {fault}")
    if type(head).__module__.startswith("transformer_lens"):
        raise ValueError(
            f"model: {kind} lies inside a TransformerBridge, which changed it; give the bridge"
        )
    if type(head).__name__ == "Conv1D":
        raise ValueError(
            f"model: the output embedding of {kind} is a Conv1D, whose weights lie as [d_model, vocab]; put a torch.nn.Linear "
            "with the same weights, transposed, in its place (model.set_output_embeddings)"
        )
    if weight.ndim != 2 or not weight.is_floating_point() or weight.dtype.itemsize < 2:
        raise ValueError(
            f"model: the output embedding of {kind} holds {weight.dtype} of shape "
            f"{tuple(weight.shape)}, expected numbers [vocab, d_model]; {UNQUANTISED}"
        )


def check_tokenizer(tokenizer: Any) -> None:
    """Raise, with the next step, where something is neither None nor a tokenizer of transformers."""
    from transformers import PreTrainedTokenizerBase

    if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(
            f"tokenizer: got {type(tokenizer).__name__}, expected one of Hugging Face, such as "
            "transformers.AutoTokenizer.from_pretrained(name) or transformers.PreTrainedTokenizerFast(tokenizer_object=…), or "
            "None for the one beside the weights"
        )


def check_output(model: Any, made: Any) -> None:
    """Raise where a pass gave something else than logits by their name."""
    if not isinstance(getattr(made, "logits", None), Tensor):
        raise ValueError(
            f"model: the forward of {type(model).__name__} returned a {type(made).__name__} without `.logits`, expected what "
            "those of transformers return (transformers.modeling_outputs.CausalLMOutputWithPast(logits=…))"
        )
