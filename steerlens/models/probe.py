"""Ask a model for a few fixed tokens, and refuse one on which whatever is fitted would be worthless:
it sees the token that it predicts, or TransformerLens' compatibility mode made another model of it."""

from typing import NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.numbers import generator
from steerlens.models.adapters import Adapter, Model
from steerlens.models.fingerprint import fingerprint
from steerlens.models.hooks import adapter, add_hooks, architecture, check_places, eval_mode
from steerlens.models.vocabulary import special_ids
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.warn import warn_user

MOVED, MOVED_IN_HALF, MOVED_BY_TENSOR = 1e-3, 3e-2, 0.15
"""Largest change of a logit that is rounding, relative to the size of the logits."""
AGREES, AGREES_IN_HALF = 1e-3, 1e-1
"""Largest difference of log-probabilities that is rounding, relative to their size."""
WORDS = 512
"""Of how many words the plain model's log-probabilities are remembered."""


def probe(model: Model, n_tokens: int) -> tuple[Tensor, Tensor]:
    """Return context vectors and logits of one seeded batch of random tokens.

    Raises:
        ValueError: the model is not causal, goes past its unembedding, asks it twice or not for every
            position and word, or was processed into another one.
    """
    asked = adapter(model)
    tokens = probe_tokens(model, n_tokens)
    seen: list[Tensor] = []

    def look(c: Tensor) -> Tensor:
        seen.append(c)
        return c

    with eval_mode(model), add_hooks(model, ((UNEMBED_IN, look),)):
        logits = asked.logits(tokens, torch.ones_like(tokens))
    if not seen:
        raise ValueError(
            f"model: a pass of {architecture(model)} ({type(model).__name__}) does not come by its output embedding: it "
            "multiplies by that one's weight itself, where no steer can act. Let its forward call the module"
        )
    if seen[0].ndim == 3 and seen[0].shape[1] > tokens.shape[1]:
        check_places(model, seen[0], tokens)
    d_model, d_vocab = asked.W_U.shape
    shapes = tuple(seen[0].shape), tuple(logits.shape)
    expected = (*tokens.shape, d_model), (*tokens.shape, d_vocab)
    if len(seen) > 1 or shapes != expected:
        raise ValueError(
            f"model: a pass of {architecture(model)} ({type(model).__name__}) over tokens of shape {tuple(tokens.shape)} asks "
            f"its output embedding {len(seen)} times, with states of shape {shapes[0]}, and gives logits of shape {shapes[1]}; "
            f"expected once, {expected[0]} and {expected[1]}: every position, and every word of its W_U. Let its forward do that"
        )
    check_causal(model, tokens, logits)
    check_processed(model, tokens, logits)
    return seen[0], logits


def probe_tokens(model: Model, n_tokens: int) -> Int[Tensor, "batch pos"]:
    """Return one seeded batch of random tokens.

    Without special ones, of which some models make masks of their own.
    """
    asked = adapter(model)
    tokens = torch.randint(n_tokens, (2, 6), generator=generator(0))
    special = special_ids(asked.tokenizer)
    words = [i for i in range(min(n_tokens, 64)) if i not in special]
    tokens = torch.tensor(words)[tokens % len(words)] if words else tokens
    return tokens.to(asked.W_U.device)


def check_causal(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    logits: Float[Tensor, "batch pos vocab"],
) -> None:
    """Raise where a later token moves an earlier logit, or a mask of ones moves any.

    A model is tried once as it is: both follow from its modules and configuration.

    Args:
        logits: of the tokens, under a mask of ones.

    Raises:
        ValueError: a masked language model, an encoder, a decoder whose mask is not its own.
    """
    asked = adapter(model)
    now = fingerprint(asked)
    if _CAUSAL.get(asked.model) == now:
        return
    ones, size = torch.ones_like(tokens), logits.float().abs().max().clamp_min(1e-6)
    # layers may be coarser than the head, which quantisation leaves as it is
    coarse = any(p.dtype not in (torch.float32, torch.float64) for p in asked.module.parameters())
    tolerance = MOVED_IN_HALF if coarse else MOVED
    if any("quantized" in type(m).__module__ for m in asked.module.modules()):
        tolerance = MOVED_BY_TENSOR
    later = tokens.clone()
    later[:, -1] = (later[:, -1] + 1) % asked.W_U.shape[1]
    moved = (asked.logits(later, ones) - logits)[:, :-1].float().abs().max() / size
    if moved > tolerance:
        raise ValueError(
            f"model: {architecture(model)} is not causal: another last token moves the logits before it by "
            f"{float(moved):.2g} of their size, so it has seen the word that it is to predict. Take a causal language model; "
            "one of BERT's kind may be one with is_decoder=True in its configuration"
        )
    masked = (asked.logits(tokens, None) - logits).float().abs().max() / size
    if masked > tolerance:
        raise ValueError(
            f"model: an attention mask of ones moves the logits of {architecture(model)} by {float(masked):.2g} of their size, "
            "so texts of several lengths cannot be read together; load it as a plain Hugging Face model "
            "(steerlens.load_model(name, plain=True)), or update TransformerLens"
        )
    _CAUSAL[asked.model] = now


_CAUSAL: WeakKeyDictionary[Model, int] = WeakKeyDictionary()
"""Models that were found to be causal, as they were then."""


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
        points = asked.model.hook_dict.values()
        if any(not hook.is_permanent for point in points for hook in point.fwd_hooks):
            return  # inside a block, or under hooks of the user's: not what it says by itself
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
