"""Run a model with functions at its hooks, whatever library it comes from."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.brief import class_name
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.adapters import Adapter, HuggingFace, Model, TransformerLens
from steerlens.models.guards import (
    as_written,
    check_not_by_row,
    exclusive,
    of_this_thread,
    restoring,
    uncompiled,
)
from steerlens.models.tokenization import Convention
from steerlens.values.intervention import UNEMBED_IN, Edit
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout


def adapter(model: Model, name: str = "model") -> Adapter:
    """Return a model as the verbs see it; an adapter is returned as it is.

    Raises:
        ValueError: a name, a fit; a Hugging Face model without an output embedding; a model without
            numbers ("meta"). The message says what to do.

    Example:
        >>> import steerlens as sl
        >>> adapter(sl.load_model("toy-64")).d_model
        64
    """
    model = as_written(model)
    if isinstance(model, HuggingFace):
        found: Adapter = model
    elif all(hasattr(model, part) for part in ("cfg", "hook_dict", "W_U")):
        found = TransformerLens(model)
    elif hasattr(model, "config") and hasattr(model, "get_output_embeddings"):
        found = HuggingFace(model)
    elif all(hasattr(type(model), verb) for verb in ("hook", "logits", "decoder")):
        found = cast(Adapter, model)  # of another library
    else:
        raise ValueError(
            f"{name}: got {class_name(model)}, expected a model of TransformerLens or of Hugging Face; "
            + (
                f"load it first: steerlens.load_model({str(model)!r})"
                if isinstance(model, str | Path)
                else _next_step(model)
            )
        )
    if found.W_U.is_meta:
        spread = getattr(found.module, "hf_device_map", None)
        raise ValueError(
            f"{name}: its output embedding is on the device 'meta', which holds no numbers; "
            + (
                "load it on 'cpu' or 'cuda'"
                if spread is None
                else "its layers may be on the disk or on any device (device_map), the output embedding must be on one: "
                "device_map={..., 'lm_head': 'cpu'}"
            )
        )
    return found


def _next_step(given: object) -> str:
    """Say what to do with what is no model: something around one, or anything else."""
    for part in ("module", "model"):  # DataParallel and its kin; pipelines and trainers
        inner = getattr(given, part, None)
        if hasattr(inner, "config") and hasattr(inner, "get_output_embeddings"):
            return f"give the {type(inner).__name__} in it, its .{part}"
    return "models come first: f(model, texts, ...); steerlens.load_model(name) loads one"


def architecture(model: Model) -> str:
    """Return the name of the model's architecture, for messages."""
    return adapter(model).architecture


def model_id(model: Model) -> str:
    """Return the model's name without the folder it lies in."""
    return adapter(model).name.rstrip("/").rsplit("/", 1)[-1]


def check_model(model: Model, name: str = "model") -> None:
    """Raise, with the next step, where something else than a model was given; see `adapter`."""
    adapter(model, name)


def check_site(model: Model, site: str) -> None:
    """Raise where a model has no such hook: TransformerLens 3.9 would ignore it in silence."""
    _check_sites(adapter(model), [site])


def _check_sites(found: Adapter, sites: Iterable[str]) -> None:
    names = found.hook_names
    for site in sites:
        if site not in names:
            near = ", ".join(difflib.get_close_matches(site, names, n=3, cutoff=0.4))
            kind = type(found.model).__name__
            raise KeyError(
                f"site: {kind} ({found.architecture}) has no hook {site!r}; nearest: {near or 'none'}. "
                "Hooks inside a layer are TransformerLens' (3.9 or newer): steerlens.load_model(name) loads its model"
            )


@contextmanager
def add_hooks(
    model: Model,
    functions: Iterable[tuple[str, Callable[[Tensor], Tensor]]],
    *,
    ours: Callable[[], bool] | None = None,
) -> Iterator[None]:
    """Run functions at their sites inside the block; hooks that were there before stay, ours go on
    any exit.

    Args:
        ours: whether the pass that runs is one of the block's; None: those of this thread are. What
            the user runs in another thread meanwhile is left as it is.
    """
    functions, is_ours = tuple(functions), ours or of_this_thread()

    def on_ours(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda tensor: function(tensor) if is_ours() else tensor

    found = adapter(model)
    if not functions:  # TransformerLens would list all of its hooks to set none
        with exclusive(found.model):
            yield
        return
    _check_sites(found, (site for site, _ in functions))
    placed = [(site, on_ours(function)) for site, function in functions]
    with exclusive(found.model), uncompiled(), found.hook(placed):
        yield


@contextmanager
def apply_edits(
    model: Model,
    edits: Iterable[Edit],
    places: Callable[[int, Tensor], TokenIndex],
    *,
    ours: Callable[[], bool] | None = None,
) -> Iterator[None]:
    """Run an intervention's edits inside the block; `places` says which tokens the activation of
    the k-th edit belongs to.

    It is given the activation with its tokens on the second axis, where those of attention have the
    heads. `ours` is that of `add_hooks`.
    """

    def placed(
        k: int, site: str, edit: Callable[[Tensor, TokenIndex], Tensor]
    ) -> Callable[[Tensor], Tensor]:
        heads = site.endswith(("hook_attn_scores", "hook_pattern"))

        def function(tensor: Tensor) -> Tensor:
            found = places(k, tensor.transpose(1, 2) if heads else tensor)
            with torch_defaults():  # a user may run the model under autocast
                # layers may be on other devices than the output embedding (device_map)
                return edit(tensor, TokenIndex(*(t.to(tensor.device) for t in found)))

        return function

    functions = [(site, placed(k, site, edit)) for k, (site, edit) in enumerate(edits)]
    with add_hooks(model, functions, ours=ours):
        yield


@contextmanager
def eval_mode(model: Model, *, gradients: bool = False) -> Iterator[None]:
    """Run the block with dropout off and no gradients; every module's mode is as before afterwards.

    With `gradients` they flow through the model to what was put into it, never to the model's own
    numbers.
    """
    found = adapter(model)
    modules = found.module.modules
    check_not_by_row(found.model)
    with exclusive(found.model), torch_defaults(), torch.set_grad_enabled(gradients):
        training = [module for module in modules() if module.training]
        learned = [p for p in found.module.parameters() if p.requires_grad] if gradients else []

        def restore() -> None:
            for p in learned:
                p.requires_grad_(True)
            for module in training:
                module.training = True

        with restoring(restore):
            # what `model.eval()` does, at no cost where there is nothing to do
            for module in training:
                module.training = False
            for p in learned:
                p.requires_grad_(False)
            yield


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
            adapter(model).logits(tokens, mask)
    except _Reached:
        return seen[0]
    raise RuntimeError(
        f"{type(model).__name__} ({architecture(model)}) finished a forward pass without reaching {site!r}"
    )


def read_out_states(
    model: Model, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    """Return the states before the unembedding, one per token; see `run_until`, `check_places`."""
    c = run_until(model, UNEMBED_IN, tokens, mask)
    check_places(model, c, tokens)
    return c


def check_places(
    model: Model, c: Float[Tensor, "batch places d_model"], tokens: Int[Tensor, "batch pos"]
) -> None:
    """Raise where a model read more than it was given, such as a prompt that peft has trained."""
    if c.shape[:2] != tokens.shape:
        raise ValueError(
            f"model: {type(adapter(model).model).__name__} read {c.shape[1]} tokens where {tokens.shape[1]} were given: it puts "
            "rows of its own before a text, whose places are then not known. Give the model without them (of peft: "
            "model.get_base_model()); steerlens.fit_prompt trains such rows beside the model"
        )


def convention(model: Model, on: Readout) -> Convention:
    """Return how texts begin for a model, so that a text is read as the model was trained to read
    texts.

    Begin-of-text comes first where TransformerLens says so; a plain model goes by the same rule. A
    space comes first where the model itself expects one: where its byte-level tokenizer tells
    " word" from "word" and more than half of the probability after begin-of-text is on tokens with
    a leading space. (Encoding "the film" for a model that was trained on " the film" costs half a
    nat per token.)

    Raises:
        ValueError: the model has no tokenizer.
    """
    found = adapter(model)
    tokenizer = found.tokenizer
    if tokenizer is None:
        raise ValueError(
            f"model: {model_id(model)!r} has no tokenizer, so texts cannot be read; give it one: "
            + (
                "steerlens.models.HuggingFace(model, tokenizer)"
                if isinstance(found, HuggingFace)
                else "TransformerBridge.boot_transformers(..., tokenizer=…)"
            )
        )
    bos = found.prepends_bos and tokenizer.bos_token_id is not None
    plain, spaced = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("a", " a"))
    space = False
    if (
        bos
        and plain
        and spaced
        and max(plain[0], spaced[0]) < on.n_tokens  # `encode` says so of a tokenizer that is larger
        and on.tokens[spaced[0]].startswith(" ")
        and not on.tokens[plain[0]].startswith(" ")
    ):
        start = torch.tensor([[tokenizer.bos_token_id]], device=on.W_U.device)
        with eval_mode(model):
            c = run_until(model, UNEMBED_IN, start, torch.ones_like(start))
        p = on.logits(c.float())[0, -1].softmax(0)
        space = (
            float(p[[i for i, token in enumerate(on.tokens) if token.startswith(" ")]].sum()) > 0.5
        )
    return Convention(bos, space, found.n_ctx, on.d_vocab)
