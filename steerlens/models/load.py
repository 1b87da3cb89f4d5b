"""Load a model by name."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steerlens.models.sites import Model, readout
from steerlens.values.files import read_value
from steerlens.values.prompt import Prompt
from steerlens.values.reft import Reft
from steerlens.values.steer import Steer

TOYS = Path(__file__).parent.parent / "toy" / "weights"


def load_model(name: str | Path, *, hooked: bool = False, device: str = "cpu") -> Model:
    """A TransformerLens model with raw weights, in evaluation mode.

    Args:
        name: a toy model that ships with steerlens (`toy-64`, `toy-128`, `toy-96-llama`; `toy-tasks` for
            `steerlens.toy.tasks`), a local Hugging Face folder, or a Hugging Face hub id (the only case that uses the network).
        hooked: a `HookedTransformer` without processing instead of a `TransformerBridge`; TransformerLens 3.x only.
        device: where to put it.

    Raises:
        ValueError: `hooked` on TransformerLens 4, which has no `HookedTransformer`.
        FileNotFoundError: a path that is not a model folder.

    Example:
        >>> load_model("toy-64").cfg.d_model
        64
    """
    toy = TOYS / str(name)
    local = toy if toy.is_dir() else Path(name).expanduser()
    if not local.is_dir() and (str(name).startswith((".", "/", "~", "toy-")) or local.exists()):
        toys = ", ".join(sorted(p.name for p in TOYS.iterdir() if p.is_dir()))
        raise FileNotFoundError(f"name: no model folder at {str(name)!r}; toy models are {toys}")
    if local.is_dir() and not (local / "config.json").is_file():
        raise FileNotFoundError(f"name: {local} holds no config.json, so it is no Hugging Face model folder")
    if hooked:
        return _hooked_transformer(local if local.is_dir() else Path(name), device)
    return _bridge(local if local.is_dir() else name, device)


def _bridge(source: str | Path, device: str) -> Model:
    import torch
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    with _silent():
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    # the name is only recorded: model and tokenizer are given
    return TransformerBridge.boot_transformers(
        str(source), hf_model=model, tokenizer=tokenizer, device=device, dtype=torch.float32
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Without the bar that transformers shows while it copies weights; downloads keep theirs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _hooked_transformer(folder: Path, device: str) -> Model:
    try:
        from importlib import import_module

        loading: Any = import_module("transformer_lens.loading_from_pretrained")
        HookedTransformer: Any = import_module("transformer_lens").HookedTransformer
    except ImportError:
        raise ValueError(
            "hooked: this TransformerLens has no HookedTransformer (it was removed in 4.0); use hooked=False, or "
            "install transformer-lens<4"
        ) from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hub_id = not folder.is_dir()
    if hub_id:
        return HookedTransformer.from_pretrained_no_processing(str(folder), device=device)
    # from_pretrained takes official names only; these are the steps it would take
    with _silent():
        source: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with TemporaryDirectory(prefix="steerlens-") as copy:
        # TransformerLens guesses an architecture from a path that says "llama" or "gemma", and reads n_ctx from GPT-2
        # configurations, which no longer have it; so it reads a completed copy under a neutral name
        context = source.config.max_position_embeddings
        whole = {**source.config.to_dict(), "architectures": [type(source).__name__], "n_ctx": context}
        (Path(copy) / "config.json").write_text(json.dumps(whole), encoding="utf-8")
        config = loading.get_pretrained_model_config(copy, device=device)
        config.model_name, config.tokenizer_name = folder.name, str(folder)
        model = HookedTransformer(config, AutoTokenizer.from_pretrained(folder), move_to_device=False)
        state = loading.get_pretrained_state_dict(copy, config, source)
    model.load_and_process_state_dict(
        state, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model.to(device, print_details=False).eval()


def load(path: str | Path, model: Model) -> Steer | Reft | Prompt:
    """The steer, `Reft` or `Prompt` of a file that `steerlens.save` wrote, bound to a model.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is cut short or was changed, or the steer lives on another `W_U` than the model's (the message
            says which, and what to do).

    Example:
        >>> import steerlens as sl
        >>> sl.load("joy.safetensors", sl.load_model("toy-64"))                       # doctest: +SKIP
    """
    return read_value(path, readout(model))
