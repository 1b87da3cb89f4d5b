"""Load a model by name."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from steerlens.models.folders import find_model
from steerlens.models.hooks import Model


@torch.inference_mode(False)  # weights made in that mode could never be learned through
def load_model(
    name: str | Path,
    *,
    hooked: bool = False,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
) -> Model:
    """Load a TransformerLens model with raw weights, in evaluation mode.

    Args:
        name: a toy model that ships with steerlens (`toy-64`, `toy-128`, `toy-96-llama`;
            `toy-tasks` for `steerlens.toy.tasks`), a local Hugging Face folder, or a Hugging Face
            hub id (the only case that uses the network).
        hooked: a `HookedTransformer` without processing instead of a `TransformerBridge`;
            TransformerLens 3.x only.
        device: where its weights go, e.g. "cpu", "cuda", "cuda:1", "mps".
        dtype: of its weights: "float32", "bfloat16" or "float16". What steerlens fits and sums is
            float32 all the same.

    Raises:
        ValueError: a device that is not there, another dtype; `hooked` on TransformerLens 4, which
            has no `HookedTransformer`; something that is no name, such as a model.
        FileNotFoundError: a path that is not a model folder.

    Example:
        >>> load_model("toy-64").cfg.d_model
        64
    """
    if not isinstance(name, str | Path):
        raise ValueError(
            f"name: got {type(name).__name__}, expected a toy model's name, a Hugging Face folder or a hub id; a model that is "
            "loaded already goes through TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer)"
        )
    where, kind = _device(device), _dtype(dtype)
    local = find_model(name)
    if hooked:
        return _hooked_transformer(local or Path(name), where, kind)
    return _bridge(local or name, where, kind)


def _device(device: str | torch.device) -> torch.device:
    """Return a device that is there and holds numbers.

    TransformerLens records a name without moving anything.
    """
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise ValueError("it holds no numbers")
        torch.empty(1, device=found)
    except (RuntimeError, ValueError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        why = (
            "no such kind"
            if "Expected one of" in str(error)
            else str(error).split("\n")[0].split(". ")[0]
        )
        raise ValueError(
            f"device: {str(device)!r} cannot be used ({why}); here are {', '.join(there)}"
        ) from None
    return found


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    name = str(dtype).removeprefix("torch.")
    if name not in known:
        raise ValueError(f"dtype: got {dtype!r}, expected one of {', '.join(known)}")
    return known[name]


def _bridge(source: str | Path, device: torch.device, dtype: torch.dtype) -> Model:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    with _silent():
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).eval()
    # name and device are only recorded: model and tokenizer are given, and the model is where it
    # should be
    return TransformerBridge.boot_transformers(
        str(source), hf_model=model.to(device), tokenizer=tokenizer, device=str(device), dtype=dtype
    )


@contextmanager
def _silent() -> Iterator[None]:
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


def _hooked_transformer(folder: Path, device: torch.device, dtype: torch.dtype) -> Model:
    try:
        from importlib import import_module

        loading: Any = import_module("transformer_lens.loading_from_pretrained")
        HookedTransformer: Any = import_module("transformer_lens").HookedTransformer
    except ImportError:
        raise ValueError(
            "hooked: this TransformerLens has no HookedTransformer (it was removed in 4.0); use hooked=False, or "
            "install transformer-lens<4"
        ) from None
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hub_id = not folder.is_dir()
    if hub_id:
        model = HookedTransformer.from_pretrained_no_processing(
            str(folder), device=str(device), dtype=dtype
        )
        return model.eval()
    # from_pretrained takes official names only; these are the steps it would take
    with _silent():
        source: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    with TemporaryDirectory(prefix="steerlens-") as copy:
        # TransformerLens guesses an architecture from a path that says "llama" or "gemma", and
        # reads n_ctx from GPT-2 configurations, which no longer have it; so it reads a completed
        # copy under a neutral name
        context = source.config.max_position_embeddings
        whole = {
            **source.config.to_dict(),
            "architectures": [type(source).__name__],
            "n_ctx": context,
        }
        (Path(copy) / "config.json").write_text(json.dumps(whole), encoding="utf-8")
        config = loading.get_pretrained_model_config(copy, device=str(device), dtype=dtype)
        config.model_name, config.tokenizer_name = folder.name, str(folder)
        model = HookedTransformer(
            config, AutoTokenizer.from_pretrained(folder), move_to_device=False
        )
        state = loading.get_pretrained_state_dict(copy, config, source)
    model.load_and_process_state_dict(
        state,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.to(device, print_details=False).to(dtype, print_details=False).eval()
