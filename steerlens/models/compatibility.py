"""Refuse a model of TransformerLens whose compatibility mode is another model than the plain one."""

from typing import NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.numbers import generator
from steerlens.models.adapters import Adapter, Model
from steerlens.models.hooks import adapter, eval_mode
from steerlens.values.warn import warn_user

AGREES, AGREES_IN_HALF = 1e-3, 1e-1
"""Largest difference of log-probabilities that is rounding, relative to their size."""
WORDS = 512
"""Of how many words the plain model's log-probabilities are remembered."""


class _Plain(NamedTuple):
    """What a model said of some words before its weights were processed."""

    tokens: Int[Tensor, "batch pos"]
    log_probs: Float[Tensor, "batch pos words"]


def check_processed(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    logits: Float[Tensor, "batch pos vocab"],
) -> None:
    """Remember what a plain model says of some tokens; in compatibility mode hold it against that.

    `enable_compatibility_mode` folds norms into the weights in place, which for some architectures
    makes another model (a GPT-OSS, 1.6 nats; an OPT with a projection behind its last norm, 0.5).
    The probabilities must be what they were when steerlens last saw the model plain: in
    `load_model`, or in any verb. A model that it never saw so is warned of, once.

    Args:
        logits: of the tokens, under a mask of ones.

    Raises:
        ValueError: they are not.
    """
    asked = adapter(model)
    if not hasattr(asked.model, "compatibility_mode"):  # of a plain Hugging Face model
        return
    if not asked.model.compatibility_mode:
        _PLAIN[asked.model] = _Plain(tokens, _log_probs(asked, logits))
        _CHECKED.discard(asked.model)
        return
    if asked.model in _CHECKED:
        return
    plain, name = _PLAIN.get(asked.model), f"{asked.architecture} (TransformerBridge)"
    if plain is None:
        warn_user(
            f"model: {name} is in compatibility mode, and what it was before was not seen, so the two were not compared; some "
            "architectures come out as another model. Load it with steerlens.load_model, or ask steerlens.readout(model) "
            "before enable_compatibility_mode()"
        )
        _CHECKED.add(asked.model)
        return
    with eval_mode(model):
        again = asked.logits(plain.tokens, torch.ones_like(plain.tokens))
    off = (_log_probs(asked, again) - plain.log_probs).abs().max()
    size = plain.log_probs.abs().max().clamp_min(1e-6)
    if not off <= size * (AGREES if asked.W_U.dtype == torch.float32 else AGREES_IN_HALF):
        raise ValueError(
            f"model: in compatibility mode the log-probabilities of {name} differ from those of the plain model by up to "
            f"{float(off):.2g} nats, so whatever is fitted there would be of another model. Load it again and leave "
            "enable_compatibility_mode() out, or pass no_processing=True; if its weights were changed in between, ask "
            "steerlens.readout(model) after the change and before that call"
        )
    _CHECKED.add(asked.model)


def same_history(model: Model, copy: Model) -> None:
    """Let a copy of a model count as seen where the model was."""
    one, other = adapter(model).model, adapter(copy).model
    if one in _PLAIN:
        _PLAIN[other] = _PLAIN[one]
    if one in _CHECKED:
        _CHECKED.add(other)


def _log_probs(
    asked: Adapter, logits: Float[Tensor, "batch pos vocab"]
) -> Float[Tensor, "batch pos words"]:
    """Return the log-probabilities of some words, on the CPU."""
    n = asked.W_U.shape[1]
    words = torch.randperm(n, generator=generator(0))[:WORDS].to(logits.device)
    return logits.detach().float().log_softmax(-1)[..., words].cpu()


_PLAIN: WeakKeyDictionary[Model, _Plain] = WeakKeyDictionary()
_CHECKED: WeakSet[Model] = WeakSet()
"""Models whose compatibility mode was compared, or warned of."""
