"""Load a model by name."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from steerlens.maths.brief import brief
from steerlens.maths.numbers import generator
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.adapters import HuggingFace, Model
from steerlens.models.adapters.check import check_tokenizer
from steerlens.models.dtypes import as_dtype
from steerlens.models.folders import find_model
from steerlens.models.probe import check_processed
from steerlens.models.weights import read_weights, tokenizer_beside, without_bars

AGREES, AGREES_IN_HALF = 1e-3, 1e-1
"""Largest difference of logits between a bridge and the model it was made of, relative to their
size."""


@torch_defaults()
def load_model(
    name: str | Path,
    *,
    hooked: bool = False,
    plain: bool = False,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    tokenizer: Any = None,
) -> Model:
    """Load a model with raw weights, in evaluation mode: a `TransformerBridge` of TransformerLens,
    or with `plain` the Hugging Face model as it is.

    Args:
        name: a toy model that ships with steerlens (`toy-64`, `toy-128`, `toy-96-llama`;
            `toy-tasks` for `steerlens.toy.tasks`), a local Hugging Face folder, or a Hugging Face
            hub id (the only case that uses the network).
        hooked: a `HookedTransformer` without processing instead of a `TransformerBridge`;
            TransformerLens 3.x only.
        plain: a `steerlens.models.HuggingFace`, which is the model of transformers (`.model`) with
            its tokenizer (`.tokenizer`). It knows every causal family of transformers, not only
            those of TransformerLens, keeps its fast attention, and has hooks between layers but
            none inside them.
        device: where its weights go, e.g. "cpu", "cuda", "cuda:1", "mps".
        dtype: of its weights: "float32", "bfloat16" or "float16". What steerlens fits and sums is
            float32 all the same.
        tokenizer: of Hugging Face, for weights that have none beside them; None: theirs.

    Raises:
        ValueError: a device that is not there, another dtype; `hooked` on TransformerLens 4, which
            has no `HookedTransformer`, or together with `plain`; something that is no name, such as
            a model; a folder whose weights lack some of the model's, or that TransformerLens runs
            otherwise than transformers, or whose tokenizer transformers does not read; code beside
            the weights.
        FileNotFoundError: a path that is not a model folder.
        ImportError: TransformerLens would install a package for this model; it is named instead.

    Example:
        >>> load_model("toy-64").cfg.d_model
        64
    """
    if not isinstance(name, str | Path):
        raise ValueError(
            f"name: got {type(name).__name__}, expected a toy model's name, a Hugging Face folder or a hub id; a Hugging Face "
            "model that is loaded already can be given to every function as it is, or with another tokenizer as "
            "steerlens.models.HuggingFace(model, tokenizer)"
        )
    if hooked and plain:
        raise ValueError(
            "hooked, plain: both are True, and a model is of one library; leave one out"
        )
    where, kind = _device(device), as_dtype(dtype)
    check_tokenizer(tokenizer)
    local = find_model(name)
    if hooked:
        return _hooked_transformer(local or Path(name), where, kind, tokenizer)
    if plain:
        return _plain(local or name, where, kind, tokenizer)
    return _bridge(local or name, where, kind, tokenizer)


def _device(device: str | torch.device) -> torch.device:
    """Return a device that is there and holds numbers.

    TransformerLens records a name without moving anything.
    """
    try:
        if not isinstance(device, str | int | torch.device):
            raise ValueError(f"a {type(device).__name__} is no name of a device")
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
            f"device: {brief(str(device))} cannot be used ({why}); here are {', '.join(there)}"
        ) from None
    return found


def _plain(
    source: str | Path, device: torch.device, dtype: torch.dtype, tokenizer: Any
) -> HuggingFace:
    return HuggingFace(
        read_weights(source, dtype).to(device),
        tokenizer_beside(source) if tokenizer is None else tokenizer,
    )


def _bridge(source: str | Path, device: torch.device, dtype: torch.dtype, tokenizer: Any) -> Model:
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = tokenizer_beside(source) if tokenizer is None else tokenizer
    model = read_weights(source, dtype).to(device)
    _check_installs_nothing(model)
    plain = HuggingFace(model, tokenizer)
    tokens = torch.randint(plain.W_U.shape[1], (2, 6), generator=generator(0)).to(device)
    ones = torch.ones_like(tokens)
    with torch.no_grad():  # before TransformerLens takes the model's parts in its hands
        expected = plain.logits(tokens, ones).float()
    # name and device are only recorded: model and tokenizer are given, and the model is where it
    # should be
    kind = type(model).__name__
    try:
        # it draws weights that it does not keep, and reads the tokenizer anew
        with torch.random.fork_rng(devices=[]), _with_a_place(tokenizer) as placed:
            bridge: Any = TransformerBridge.boot_transformers(
                str(source), hf_model=model, tokenizer=placed, device=str(device), dtype=dtype
            )
        _take_away_made_up(bridge, len(plain.W_E))
        with torch.no_grad():
            found = bridge(tokens, attention_mask=ones).float()
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        why = str(error).split(". ")[0].split("\n")[0]
        raise ValueError(
            f"name: TransformerLens cannot take {kind} ({why[:200]}); load it with plain=True"
        ) from error
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
    if not error <= (AGREES if dtype == torch.float32 else AGREES_IN_HALF):
        raise ValueError(
            f"name: TransformerLens' logits of {kind} differ from the model's own by {error:.2g} of their "
            "size, so whatever is fitted there would be of another model; load it with plain=True"
        )
    check_processed(bridge, tokens, found)  # remembers what it says as it is
    return bridge


@contextmanager
def _with_a_place(tokenizer: Any) -> Iterator[Any]:
    """Yield a tokenizer that can be read anew from where it is: one that was made in memory is
    written to a folder first."""
    if getattr(tokenizer, "init_kwargs", {}).get("name_or_path"):
        yield tokenizer
        return
    from transformers import AutoTokenizer

    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        yield AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _take_away_made_up(bridge: Any, n_words: int) -> None:
    """Take away the special tokens that TransformerLens gives a tokenizer without any, which the
    model has no embeddings for."""
    for name in ("bos_token", "eos_token", "pad_token"):
        if (getattr(bridge.tokenizer, f"{name}_id", None) or 0) >= n_words:
            setattr(bridge.tokenizer, name, None)
    if bridge.tokenizer.bos_token_id is None:
        bridge.cfg.default_prepend_bos = False


def _check_installs_nothing(model: Any) -> None:
    """Raise where TransformerLens would run `pip install torchvision`: for models that read
    pictures too, if it is not here.

    Raises:
        ImportError: it would.
    """
    config = model.config
    if config.get_text_config(decoder=True) is config or find_spec("torchvision") is not None:
        return
    raise ImportError(
        f"torchvision: TransformerLens installs it by itself for models such as {type(model).__name__}; install it first "
        "(pip install torchvision, of the version that your torch wants), or load the model with plain=True, which reads "
        "texts without it"
    )


def _hooked_transformer(
    folder: Path, device: torch.device, dtype: torch.dtype, tokenizer: Any
) -> Model:
    try:
        from importlib import import_module

        loading: Any = import_module("transformer_lens.loading_from_pretrained")
        HookedTransformer: Any = import_module("transformer_lens").HookedTransformer
    except ImportError:
        raise ValueError(
            "hooked: this TransformerLens has no HookedTransformer (it was removed in 4.0); use hooked=False, or "
            "install transformer-lens<4"
        ) from None
    from transformers import AutoModelForCausalLM

    hub_id = not folder.is_dir()
    if hub_id:
        model = HookedTransformer.from_pretrained_no_processing(
            str(folder), device=str(device), dtype=dtype, tokenizer=tokenizer
        )
        return model.eval()
    # from_pretrained takes official names only; these are the steps it would take
    with without_bars():
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
            config,
            tokenizer_beside(folder) if tokenizer is None else tokenizer,
            move_to_device=False,
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
