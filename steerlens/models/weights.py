"""Weights and tokenizers out of folders of Hugging Face, or what is wrong with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def read_weights(source: str | Path, dtype: torch.dtype) -> Any:
    """Return a Hugging Face model all of whose weights were found.

    Raises:
        ValueError: some were not, so that transformers drew them at random; a file cannot be read.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        with without_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                output_loading_info=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # those are named below
            )
    except ValueError as error:
        _refuse_code(source, error)
        _refuse_other_kind(source, error)
        raise
    except (SafetensorError, RuntimeError, EOFError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise ValueError(
            f"name: transformers cannot read the weights in {str(source)!r} ({why}); if a file there is cut short, or only a "
            "pointer to it (git lfs pull), copy the folder again"
        ) from error
    model, told = loaded
    lacking = sorted({*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])})
    if lacking:
        named = ", ".join(map(repr, lacking[:3])) + (", …" if len(lacking) > 3 else "")
        raise ValueError(
            f"name: the weights in {str(source)!r} lack {len(lacking)} of {type(model).__name__} ({named}), which "
            "would be random; it is a checkpoint of another kind (a classifier, an encoder) or cut short: take the causal "
            "language model that it was made from"
        )
    return model.eval()


def tokenizer_beside(source: str | Path) -> Any:
    """Return the tokenizer beside some weights.

    Raises:
        ValueError: there is none that transformers reads.
    """
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        if not found.vocab_size:  # made of nothing, by its class's name alone
            raise ValueError("no vocabulary")
        return found
    except (ValueError, LookupError, TypeError, AttributeError, ImportError) as error:
        _refuse_code(source, error)
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise ValueError(
            f"name: transformers reads no tokenizer beside the weights in {str(source)!r} ({why}); give one: "
            "load_model(…, tokenizer=transformers.AutoTokenizer.from_pretrained(…))"
        ) from error


def _refuse_code(source: str | Path, error: Exception) -> None:
    """Raise where transformers asks whether to run code that lies beside some weights."""
    if "trust_remote_code" in str(error):
        raise ValueError(
            f"name: {str(source)!r} comes with code of its own, which load_model does not run; load it with transformers, if you "
            "trust it (AutoModelForCausalLM.from_pretrained(…, trust_remote_code=True)), and give that model to every function, "
            "as it is or as steerlens.models.HuggingFace(model, tokenizer)"
        ) from error


def _refuse_other_kind(source: str | Path, error: Exception) -> None:
    """Raise where transformers lists every causal model that it knows, and this one is none."""
    if "Unrecognized configuration class" in str(error):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        next_step = (
            "an encoder-decoder has no context vectors of a text that it goes on with; take a causal language model"
            if getattr(config, "is_encoder_decoder", False)
            else "if it writes text, load it with its own class (such as transformers.AutoModelForImageTextToText), and give it "
            "to every function as steerlens.models.HuggingFace(model, tokenizer)"
        )
        raise ValueError(
            f"name: {str(source)!r} is a {type(config).__name__.removesuffix('Config')}, which transformers has no causal "
            f"language model for: {next_step}"
        ) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """Run the block without the bar that transformers shows while it copies weights.

    Downloads keep theirs.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
