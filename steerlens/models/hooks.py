"""The one place that knows how TransformerLens classes differ.

`HookedTransformer` (3.x) and `TransformerBridge` (3.x and 4.x), raw or processed, are told apart by
what they have, never by inheritance: everything a steer does is expressed on the model's own `W_U`.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.models.exclusive import exclusive
from steerlens.models.tokenization import Convention
from steerlens.values.intervention import UNEMBED_IN, Edit
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout

Model = Any
"""A `TransformerBridge`, or on TransformerLens 3.x a `HookedTransformer`; duck-typed on purpose."""


def architecture(model: Model) -> str:
    """Return the name of the model's architecture, for messages."""
    return str(
        getattr(model.cfg, "original_architecture", None)
        or getattr(model.cfg, "architecture", None)
        or "unknown"
    )


def model_id(model: Model) -> str:
    return (
        str(getattr(model.cfg, "model_name", None) or architecture(model))
        .rstrip("/")
        .rsplit("/", 1)[-1]
    )


def check_model(model: Model) -> None:
    """Raise, with the next step, where something else than a TransformerLens model was given.

    Raises:
        ValueError: a name, a plain Hugging Face model, a fit; a model without numbers ("meta") or
            in several devices.
    """
    if not all(hasattr(model, name) for name in ("cfg", "hook_dict", "W_U")):
        kind = type(model).__name__
        if isinstance(model, str | Path):
            step = f"load it first: steerlens.load_model({str(model)!r})"
        elif hasattr(model, "get_output_embeddings"):
            step = (
                "steerlens.load_model(its folder or hub id) loads it anew; TransformerBridge.boot_transformers(name, "
                "hf_model=model, tokenizer=tokenizer) of transformer_lens takes it as it is"
            )
        else:
            step = "models come first: f(model, texts, ...); steerlens.load_model(name) loads one"
        raise ValueError(f"model: got {kind}, expected a TransformerLens model; {step}")
    if model.W_U.is_meta:
        raise ValueError(
            "model: its weights are on the device 'meta', which holds no numbers; load it on 'cpu' or 'cuda'"
        )


def check_site(model: Model, site: str) -> None:
    """Raise where a model has no such hook: TransformerLens 3.9 would ignore it in silence."""
    if site not in model.hook_dict:
        near = difflib.get_close_matches(site, model.hook_dict, n=3, cutoff=0.4)
        raise KeyError(
            f"site: {type(model).__name__} ({architecture(model)}) has no hook {site!r}; nearest: {', '.join(near) or 'none'}. "
            "steerlens needs TransformerLens 3.9 or newer"
        )


@contextmanager
def add_hooks(
    model: Model, functions: Iterable[tuple[str, Callable[[Tensor], Tensor]]]
) -> Iterator[None]:
    """Run functions at their sites inside the block; hooks that were there before stay, ours go on
    any exit."""
    functions = tuple(functions)
    for site, _ in functions:
        check_site(model, site)
    if not functions:  # TransformerLens would list all of its hooks to set none
        with exclusive(model):
            yield
        return

    def as_hook(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        return lambda tensor, hook: function(tensor)

    with (
        exclusive(model),
        model.hooks(fwd_hooks=[(site, as_hook(function)) for site, function in functions]),
    ):
        yield


@contextmanager
def apply_edits(
    model: Model, edits: Iterable[Edit], places: Callable[[int, Tensor], TokenIndex]
) -> Iterator[None]:
    """Run an intervention's edits inside the block; `places` says which tokens the activation of
    the k-th edit belongs to.

    It is given the activation with its tokens on the second axis, where those of attention have the
    heads.
    """

    def placed(
        k: int, site: str, edit: Callable[[Tensor, TokenIndex], Tensor]
    ) -> Callable[[Tensor], Tensor]:
        heads = site.endswith(("hook_attn_scores", "hook_pattern"))
        return lambda tensor: edit(tensor, places(k, tensor.transpose(1, 2) if heads else tensor))

    with add_hooks(model, ((site, placed(k, site, edit)) for k, (site, edit) in enumerate(edits))):
        yield


@contextmanager
def eval_mode(model: Model, *, gradients: bool = False) -> Iterator[None]:
    """Run the block with dropout off and no gradients; every module's mode is as before afterwards.

    With `gradients` they flow through the model to what was put into it, never to the model's own
    numbers.
    """
    with exclusive(model), torch.inference_mode(False), torch.set_grad_enabled(gradients):
        training = [module for module in model.modules() if module.training]
        learned = [p for p in model.parameters() if p.requires_grad] if gradients else []
        try:
            for (
                module
            ) in training:  # what `model.eval()` does, at no cost where there is nothing to do
                module.training = False
            for p in learned:
                p.requires_grad_(False)
            yield
        finally:
            for p in learned:
                p.requires_grad_(True)
            for module in training:
                module.training = True


class _Reached(Exception):
    """Raised at a hook to stop a forward pass: the unembedding that follows is never run."""


def run_until(
    model: Model, site: str, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos *width"]:
    """Return the activation at a site, stopping the forward pass there.

    Cost: one pass up to the site. At `unembed.hook_in` that leaves out the product with `W_U`, the
    larger part of a small model's cost.
    """
    seen: list[Tensor] = []

    def stop(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        raise _Reached

    try:
        with add_hooks(model, ((site, stop),)):
            model(tokens, attention_mask=mask)
    except _Reached:
        return seen[0]
    raise RuntimeError(
        f"{type(model).__name__} ({architecture(model)}) finished a forward pass without reaching {site!r}"
    )


def decoder(
    model: Model,
) -> Callable[[Int[Tensor, "batch new"], Int[Tensor, "batch pos"]], Float[Tensor, "batch vocab"]]:
    """Return a function that reads new tokens behind those it has read.

    It returns the logits after the last of them.

    It is called first with the left-padded prompts, then with one token per row; the mask covers
    all tokens so far. Keys and values are cached by the model's own class; a model that keeps none
    is run anew on all tokens each time.
    """
    if not hasattr(model, "original_model"):
        return _hooked_transformer_decoder(model)
    accepted = inspect.signature(model.original_model.forward).parameters
    options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
    cache: Any = None
    seen: list[Tensor] = []

    def step(new: Tensor, mask: Tensor) -> Tensor:
        nonlocal cache
        seen.append(new)
        tokens = new if cache is not None or len(seen) == 1 else torch.cat(seen, dim=1)
        if "position_ids" in accepted:
            # 3.9 derives positions from the mask only without a cache
            options["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)[:, -tokens.shape[1] :]
        logits, cache = model(
            tokens,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            return_type="logits_and_cache",
            **options,
        )
        return logits[:, -1]

    return step


def _hooked_transformer_decoder(model: Model) -> Callable[[Tensor, Tensor], Tensor]:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache  # 3.x

    cache: Any = None

    def step(new: Tensor, mask: Tensor) -> Tensor:
        nonlocal cache
        if cache is None:
            cache = TransformerLensKeyValueCache.init_cache(model.cfg, new.device, new.shape[0])
        return model(new, attention_mask=mask[:, -new.shape[1] :], past_kv_cache=cache)[:, -1]

    return step


def convention(model: Model, on: Readout) -> Convention:
    """Return how texts begin for a model, so that a text is read as the model was trained to read
    texts.

    Begin-of-text comes first where TransformerLens says so. A space comes first where the model
    itself expects one: where its byte-level tokenizer tells " word" from "word" and more than half
    of the probability after begin-of-text is on tokens with a leading space. (Encoding "the film"
    for a model that was trained on " the film" costs half a nat per token.)

    Raises:
        ValueError: the model has no tokenizer.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError(
            f"model: {model_id(model)!r} has no tokenizer, so texts cannot be read; give it one when it is built, e.g. "
            "TransformerBridge.boot_transformers(..., tokenizer=…)"
        )
    bos = bool(model.cfg.default_prepend_bos) and tokenizer.bos_token_id is not None
    plain, spaced = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("a", " a"))
    space = False
    if (
        bos
        and plain
        and spaced
        and on.tokens[spaced[0]].startswith(" ")
        and not on.tokens[plain[0]].startswith(" ")
    ):
        start = torch.tensor([[tokenizer.bos_token_id]], device=on.W_U.device)
        with eval_mode(model):
            c = run_until(model, UNEMBED_IN, start, torch.ones_like(start))
        p = on.logits(c.float())[0, 0].softmax(0)
        space = (
            float(p[[i for i, token in enumerate(on.tokens) if token.startswith(" ")]].sum()) > 0.5
        )
    return Convention(bos, space, int(model.cfg.n_ctx), on.d_vocab)
