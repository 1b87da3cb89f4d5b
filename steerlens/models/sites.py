"""The one place that knows how TransformerLens classes differ.

`HookedTransformer` (3.x) and `TransformerBridge` (3.x and 4.x), raw or processed, are told apart by what they have,
never by inheritance: everything a steer does is expressed on the model's own `W_U`.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.models.tokens import Convention
from steerlens.models.vocabulary import special_ids, token_strings
from steerlens.values.intervention import UNEMBED_IN, Edit
from steerlens.values.positions import Places
from steerlens.values.readout import Readout

Model = Any
"""A `TransformerBridge`, or on TransformerLens 3.x a `HookedTransformer`; duck-typed on purpose."""

PROBE_TOLERANCE = 1e-3
"""Largest error of the probe's logits, relative to their size: float32 gives 1e-6, bfloat16 5e-3 on top (see below)."""


def architecture(model: Model) -> str:
    """The name of the model's architecture, for messages."""
    return str(
        getattr(model.cfg, "original_architecture", None) or getattr(model.cfg, "architecture", None) or "unknown"
    )


def model_id(model: Model) -> str:
    return str(getattr(model.cfg, "model_name", None) or architecture(model)).rstrip("/").rsplit("/", 1)[-1]


def check_site(model: Model, site: str) -> None:
    """Raise where a model has no such hook: TransformerLens 3.9 would ignore it in silence."""
    if site not in model.hook_dict:
        near = difflib.get_close_matches(site, model.hook_dict, n=3, cutoff=0.4)
        raise KeyError(
            f"site: {type(model).__name__} ({architecture(model)}) has no hook {site!r}; nearest: {', '.join(near) or 'none'}. "
            "steerlens needs TransformerLens 3.9 or newer"
        )


@contextmanager
def hooked(model: Model, functions: Iterable[tuple[str, Callable[[Tensor], Tensor]]]) -> Iterator[None]:
    """Run functions at their sites inside the block; hooks that were there before stay, ours go on any exit."""
    functions = tuple(functions)
    for site, _ in functions:
        check_site(model, site)
    if not functions:  # TransformerLens would list all of its hooks to set none
        yield
        return

    def as_hook(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        return lambda tensor, hook: function(tensor)

    with model.hooks(fwd_hooks=[(site, as_hook(function)) for site, function in functions]):
        yield


@contextmanager
def edited(model: Model, edits: Iterable[Edit], places: Callable[[int, Tensor], Places]) -> Iterator[None]:
    """Run an intervention's edits inside the block; `places` says which tokens the activation of the k-th edit belongs to.

    It is given the activation with its tokens on the second axis, where those of attention have the heads.
    """

    def placed(k: int, site: str, edit: Callable[[Tensor, Places], Tensor]) -> Callable[[Tensor], Tensor]:
        heads = site.endswith(("hook_attn_scores", "hook_pattern"))
        return lambda tensor: edit(tensor, places(k, tensor.transpose(1, 2) if heads else tensor))

    with hooked(model, ((site, placed(k, site, edit)) for k, (site, edit) in enumerate(edits))):
        yield


@contextmanager
def evaluating(model: Model, *, gradients: bool = False) -> Iterator[None]:
    """Dropout off and no gradients inside the block; every module's mode is as before afterwards.

    With `gradients` they flow through the model to what was put into it, never to the model's own numbers.
    """
    training = [module for module in model.modules() if module.training]
    learned = [p for p in model.parameters() if p.requires_grad] if gradients else []
    try:
        for module in training:  # what `model.eval()` does, at no cost where there is nothing to do
            module.training = False
        for p in learned:
            p.requires_grad_(False)
        with torch.set_grad_enabled(gradients):
            yield
    finally:
        for p in learned:
            p.requires_grad_(True)
        for module in training:
            module.training = True


class _Reached(Exception):
    """Raised at a hook to stop a forward pass: the unembedding that follows is never run."""


def run_to(
    model: Model, site: str, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos *width"]:
    """The activation at a site, stopping the forward pass there.

    Cost: one pass up to the site. At `unembed.hook_in` that leaves out the product with `W_U`, the larger part of a
    small model's cost.
    """
    seen: list[Tensor] = []

    def stop(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        raise _Reached

    try:
        with hooked(model, ((site, stop),)):
            model(tokens, attention_mask=mask)
    except _Reached:
        return seen[0]
    raise RuntimeError(
        f"{type(model).__name__} ({architecture(model)}) finished a forward pass without reaching {site!r}"
    )


def decoder(
    model: Model,
) -> Callable[[Int[Tensor, "batch new"], Int[Tensor, "batch pos"]], Float[Tensor, "batch vocab"]]:
    """A function that reads new tokens behind those it has read and returns the logits after the last of them.

    It is called first with the left-padded prompts, then with one token a row; the mask covers all tokens so far.
    Keys and values are cached by the model's own class; a model that keeps none is run anew on all tokens each time.
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


def readout(model: Model) -> Readout:
    """The frozen read-out of a model, checked against the model itself.

    `W_U`, `b_U` are the model's own, so folded and compatibility-mode models work; their numbers are another basis.
    On a seeded probe batch the logits that the model gives are compared with `softcap(scale · (c W_U + b_U))`.

    Raises:
        ValueError: the logits are something else (the message names the architecture and the error).
        KeyError: the model has no `unembed.hook_in`.

    Example:
        >>> import steerlens as sl
        >>> sl.readout(sl.load_model("toy-64")).d_model
        64
    """
    W_U, b_U = model.W_U.detach(), model.b_U.detach()
    tokenizer = getattr(model, "tokenizer", None)
    # a model without a tokenizer has numbers for names, so that everything but text works
    tokens = token_strings(tokenizer, W_U.shape[1]) if tokenizer else tuple(map(str, range(W_U.shape[1])))
    c, logits = _probe(model, len(tokens))
    plain = Readout(W_U, b_U, tokens, special_ids(tokenizer), model_id=model_id(model))
    size = logits.float().abs().max().clamp_min(1e-6)
    worst = {}
    for scale, softcap in _post_candidates(model):
        found = Readout(W_U, b_U, tokens, plain.special, scale, softcap, plain.model_id)
        error = float((found.logits(c) - logits).float().abs().max() / size)
        if error < (PROBE_TOLERANCE if logits.dtype == torch.float32 else 30 * PROBE_TOLERANCE):
            return found
        worst[(scale, softcap)] = error
    tried = "; ".join(f"scale {s:.4g}, softcap {cap}: error {e:.2g}" for (s, cap), e in worst.items())
    raise ValueError(
        f"model: the logits of {architecture(model)} ({type(model).__name__}) are not softcap(scale · (c W_U + b_U)) of the "
        f"input of its unembedding ({tried}); steers cannot be expressed on it. If TransformerLens was updated "
        "lately, load the raw weights (steerlens.load_model) and report the architecture"
    )


def _probe(model: Model, n_tokens: int) -> tuple[Tensor, Tensor]:
    """Context vectors and logits of one seeded batch of random tokens."""
    device = model.W_U.device
    tokens = torch.randint(n_tokens, (2, 6), generator=torch.Generator().manual_seed(0)).to(device)
    seen: list[Tensor] = []

    def look(c: Tensor) -> Tensor:
        seen.append(c)
        return c

    with evaluating(model), hooked(model, ((UNEMBED_IN, look),)):
        logits = model(tokens, attention_mask=torch.ones_like(tokens))
    return seen[0], logits


def _post_candidates(model: Model) -> Iterator[tuple[float, float | None]]:
    """What may follow the unembedding, by the names that configurations use; the probe decides."""
    configs = [model.cfg, getattr(getattr(model, "original_model", None), "config", None)]

    def value(*names: str) -> float | None:
        found = [getattr(config, name, None) for config in configs for name in names]
        return next((float(x) for x in found if isinstance(x, int | float) and x > 0), None)

    softcap = value("output_logits_soft_cap", "final_logit_softcapping")
    scales = [1.0, value("logit_scale"), value("lm_head_multiplier"), value("logits_scaling")]
    divisor = value("logits_scaling")
    for scale in [*scales, 1 / divisor if divisor else None]:
        if scale is not None:
            yield scale, softcap
            if softcap is not None:
                yield scale, None


def convention(model: Model, on: Readout) -> Convention:
    """How texts begin for a model, so that a text is read as the model was trained to read texts.

    Begin-of-text comes first where TransformerLens says so. A space comes first where the model itself expects one:
    where its byte-level tokenizer tells " word" from "word" and more than half of the probability after
    begin-of-text is on tokens with a leading space. (Encoding "the film" for a model that was trained on " the film"
    costs half a nat per token.)

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
    if bos and plain and spaced and on.tokens[spaced[0]].startswith(" ") and not on.tokens[plain[0]].startswith(" "):
        start = torch.tensor([[tokenizer.bos_token_id]], device=on.W_U.device)
        with evaluating(model):
            c = run_to(model, UNEMBED_IN, start, torch.ones_like(start))
        p = on.logits(c.float())[0, 0].softmax(0)
        space = float(p[[i for i, token in enumerate(on.tokens) if token.startswith(" ")]].sum()) > 0.5
    return Convention(bos, space, int(model.cfg.n_ctx), on.d_vocab)
