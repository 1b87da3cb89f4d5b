"""Ask a model for its read-out, and check the answer against the model itself."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steerlens.maths.logits import UnembedWeights
from steerlens.maths.logits import logits as head_logits
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.adapters import Adapter, Model
from steerlens.models.hooks import adapter, architecture, check_model, eval_mode, model_id
from steerlens.models.probe import probe
from steerlens.models.vocabulary import special_ids, token_strings
from steerlens.values.readout import Readout, bit_sum

PROBE_TOLERANCE = 1e-3
"""Largest error of the probe's logits, relative to their size: float32 gives 1e-6, bfloat16 5e-3 on
top (see below)."""


@torch_defaults()
def readout(model: Model) -> Readout:
    """Return the frozen read-out of a model, checked against the model itself.

    `W_U`, `b_U` are the model's own, so folded and compatibility-mode models work; their numbers
    are another basis. On a seeded probe batch the logits that the model gives are compared with
    `softcap(scale · (c W_U + b_U))`.

    Raises:
        ValueError: the logits are something else (the message names the architecture and the
            error); or those of TransformerLens' compatibility mode are not the plain model's.
        KeyError: the model has no `unembed.hook_in`.

    Example:
        >>> import steerlens as sl
        >>> sl.readout(sl.load_model("toy-64")).d_model
        64
    """
    asked = adapter(model)
    with eval_mode(model):
        W_U, b_U, tokenizer = asked.W_U.detach(), asked.b_U.detach(), asked.tokenizer
        known = _KNOWN.get(asked.model)
        tokens, special = _names(tokenizer, W_U.shape[1], known)
        same = known is not None and known.holds(W_U, b_U)
        head = (
            known.readout.head
            if known is not None and same
            else UnembedWeights(W_U.float(), b_U.float())
        )
        scale, softcap = _after_unembedding(model, *probe(model, len(tokens)), head)
        made = (tokens, special, scale, softcap)
        if known is None or not same or made != known.form:
            on = Readout(W_U, b_U, tokens, special, scale, softcap, model_id(model))
            # the copy in float32 that it would make anew
            on.__dict__["head"] = head._replace(scale=scale, softcap=softcap)
            known = _Known(
                on, None if tokenizer is None else weakref.ref(tokenizer), _size(tokenizer)
            )
            _KNOWN[asked.model] = known
        return known.readout


def as_readout(given: Model | Readout, name: str = "model") -> Readout:
    """Return a read-out, a model's own where a model is given.

    Raises:
        ValueError: neither; the message names the argument.
    """
    if isinstance(given, Readout):
        return given
    check_model(given, name)
    return readout(given)


SOFTCAPS = (
    "output_logits_soft_cap",
    "final_logit_softcapping",
    "logits_soft_cap",
    "output_logit_soft_cap",
)
"""What configurations call a soft cap of the logits."""


class _Known(NamedTuple):
    """The read-out that a model had when it was last asked, and whose names of tokens it has."""

    readout: Readout
    tokenizer: Callable[[], Any] | None
    size: int

    @property
    def form(self) -> tuple[Any, ...]:
        r = self.readout
        return r.tokens, r.special, r.scale, r.softcap

    def holds(self, W_U: Tensor, b_U: Tensor) -> bool:
        """Return whether its numbers are still the model's.

        They are if the tensors are the same and nothing was written to them.
        """
        r = self.readout
        same = (
            r.W_U.data_ptr() == W_U.data_ptr()
            and r.W_U.shape == W_U.shape
            and r.W_U.dtype == W_U.dtype
        )
        return same and bit_sum(W_U, b_U) == r.checksum


_KNOWN: weakref.WeakKeyDictionary[Model, _Known] = weakref.WeakKeyDictionary()
"""One read-out per model, so that ten steers share its numbers; true only as far as `holds` says,
which is asked each time."""


def _size(tokenizer: Any) -> int:
    return 0 if tokenizer is None else len(tokenizer)


def _names(
    tokenizer: Any, d_vocab: int, known: _Known | None
) -> tuple[tuple[str, ...], frozenset[int]]:
    """Return the strings of all tokens and the ids of the special ones.

    The strings are read anew where the tokenizer is another or has grown.
    """
    if tokenizer is None:  # numbers for names, so that everything but text works
        return tuple(map(str, range(d_vocab))), frozenset()
    if (
        known is not None
        and known.tokenizer is not None
        and known.tokenizer() is tokenizer
        and known.size == _size(tokenizer)
        and known.readout.d_vocab == d_vocab
    ):
        return known.readout.tokens, special_ids(tokenizer)
    return token_strings(tokenizer, d_vocab), special_ids(tokenizer)


def _after_unembedding(
    model: Model,
    c: Float[Tensor, "batch pos d_model"],
    found: Float[Tensor, "batch pos vocab"],
    head: UnembedWeights,
) -> tuple[float, float | None]:
    """Return the scale and the soft cap with which the read-out gives the model's own logits.

    Raises:
        ValueError: none that configurations name does.
    """
    if not bool(found.isfinite().any(-1).all()):
        raise ValueError(
            f"model: the logits of {architecture(model)} are NaN or infinite; are its weights finite, and is its dtype wide "
            "enough for them (float16 ends at 65,504)?"
        )
    if not bool(head.b_U.isfinite().all()):
        raise ValueError(
            f"model: the bias of its unembedding is not finite at {int((~head.b_U.isfinite()).sum()):,} tokens; give tokens that "
            "are never to be written -1e4 instead of -inf"
        )
    size = found.float().abs().max().clamp_min(1e-6)
    # a model may hand out float32 logits that it computed in bfloat16
    single = {found.dtype, c.dtype} == {torch.float32}
    tolerance = PROBE_TOLERANCE if single else 30 * PROBE_TOLERANCE
    errors: dict[tuple[float, float | None], float] = {}
    for scale, softcap in _post_candidates(model):
        ours = head_logits(head._replace(scale=scale, softcap=softcap), c.float())
        errors[scale, softcap] = float((ours - found).float().abs().max() / size)
    least = min(errors.values())
    unmerged = _unmerged(adapter(model), c)
    if least < tolerance and not unmerged:
        # the first that is as good as any: in half precision a scale of 1.02 is near to one of 1
        return next(form for form, error in errors.items() if error <= 2 * least)
    wrong = (~head.W_U.isfinite()).any(0).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"model: the output embeddings of {len(wrong):,} tokens are NaN or infinite, the first is token {wrong[0]}; load its "
            "weights anew, or give new rows numbers"
        )
    tried = [f"scale {a:.4g}, softcap {b}: error {error:.2g}" for (a, b), error in errors.items()]
    raise ValueError(
        f"model: the logits of {architecture(model)} ({type(model).__name__}) are not softcap(scale · (c W_U + b_U)) "
        f"of the input of its unembedding ({'; '.join(tried)}); steers cannot be expressed on it. "
        + (
            unmerged
            or _in_between(adapter(model))
            or "If something changes its logits just now (a hook of yours, a `steered` block of a logit bias), ask "
            "outside of it. If TransformerLens was updated lately, load the raw weights (steerlens.load_model) and "
            "report the architecture"
        )
    )


def _unmerged(found: Adapter, c: Float[Tensor, "batch pos d_model"]) -> str:
    """Return what to do with an adapter on the unembedding that acts; without one nothing.

    Half precision hides a small one from the probe, but not from this: one that is merged, switched
    off or all zeros changes no bit.
    """
    unembedding = found.unembedding
    names = () if unembedding is None else (name for name, _ in unembedding.named_modules())
    adapters = [name for name in names if "lora" in name.lower() or "adapter" in name.lower()]
    if unembedding is None or not adapters:
        return ""
    if torch.equal(unembedding(c), nn.functional.linear(c, found.W_U.mT, found.b_U)):
        return ""
    return (
        f"Its unembedding carries an adapter that is not merged ({', '.join(adapters)[:60]}): merge it first, e.g. "
        "peft's merge_and_unload()"
    )


def _in_between(found: Adapter) -> str:
    """Return what else stands between the weight of an unembedding and its logits, with what to do;
    none is an empty text."""
    if hasattr(found.model, "_original_forward"):
        return (
            "accelerate has put mixed precision around its forward: take it off first, e.g. "
            "accelerator.unwrap_model(model, keep_fp32_wrapper=False)"
        )
    if found.unembedding is None:
        return ""
    # torch's older norms of weights make the weight anew before every pass
    hooks = (type(hook) for hook in found.unembedding._forward_pre_hooks.values())
    norms = [kind.__name__ for kind in hooks if kind.__module__.startswith("torch.nn.utils.")]
    if norms:
        return (
            f"The weight of its unembedding is made anew in every pass ({', '.join(norms)} of torch.nn.utils): make it "
            "permanent, e.g. torch.nn.utils.remove_spectral_norm, or use torch.nn.utils.parametrizations"
        )
    return ""


def _post_candidates(model: Model) -> Iterator[tuple[float, float | None]]:
    """Yield what may follow the unembedding, by the names that configurations use; the probe
    decides."""
    configs = adapter(model).configs

    def value(*names: str) -> float | None:
        found = [getattr(config, name, None) for config in configs for name in names]
        return next((float(x) for x in found if isinstance(x, int | float) and x > 0), None)

    softcap = value(*SOFTCAPS)
    scales = [1.0, value("logit_scale"), value("lm_head_multiplier"), value("logits_scaling")]
    divisor = value("logits_scaling")
    for scale in [*scales, 1 / divisor if divisor else None]:
        if scale is not None:
            yield scale, softcap
            if softcap is not None:
                yield scale, None
