"""Steer Hugging Face's `generate` from its logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.maths.numbers import as_count, as_floats, is_number
from steerlens.values.intervention import Strength
from steerlens.values.logit_steer import LogitSteer

Schedule = Callable[[int], Strength]
"""From the number of tokens written so far to a strength."""


@dataclass(frozen=True, eq=False)
class HuggingFaceProcessor:
    """What `generate(logits_processor=[…])` calls before each token; made by `processor`."""

    steer: LogitSteer
    strength: Strength | Schedule = 1.0
    prompt_length: int = 0

    def __call__(
        self, input_ids: Int[Tensor, "rows pos"], scores: Float[Tensor, "rows d_vocab"]
    ) -> Float[Tensor, "rows d_vocab"]:
        """Return the steered log-probabilities of the next token; rows of strength 0 as they are."""
        strength = self.strength
        if callable(strength):
            strength = strength(tokens_written(input_ids.shape[1], self.prompt_length))
        strength = _for_rows(_as_strength(strength), input_ids, self.prompt_length)
        strength = strength.to(scores.device)
        steered = self.steer.apply(scores, strength)
        # beam search adds them up, and takes them for what they are called
        moved = (strength != 0).expand(len(scores))[:, None]
        return torch.where(moved, steered.log_softmax(1), scores)


def processor(
    steer: LogitSteer, strength: Strength | Schedule = 1.0, *, prompt_length: int = 0
) -> HuggingFaceProcessor:
    """Return a logits processor for `model.generate(logits_processor=[…])`.

    `generate` calls it behind its own penalties and masks and before temperature and top-k. So a
    repetition penalty or another model's logits are refused by `LogitSteer.apply`, and bad words, a
    minimum length or a grammar need `logit_steer(steer, holes=True)`. Beam search hands over
    log-probabilities, which do as well where the model has no soft cap; the steered scores are
    log-probabilities too, so that beams compare.

    Args:
        steer: from `logit_steer` or `load_logit_steer`.
        strength: a number; one value per prompt, which its beams and samples share; or a function
            from the number of tokens written so far to either.
        prompt_length: tokens of the (padded) prompt, which a function does not count.

    Raises:
        ValueError: something else than a `LogitSteer`, a strength that is none.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> joy = sl.fit_steer(sl.collect(model, sl.toy.corpus("sentiment", n=100, seed=0))).value
        >>> steer = sl.export.hugging_face.processor(sl.export.logit_steer(joy), 2.0)
        >>> scores = sl.readout(model).logits(torch.randn(1, 64))
        >>> steer(torch.zeros(1, 3, dtype=torch.long), scores).shape
        torch.Size([1, 1286])
    """
    if not isinstance(steer, LogitSteer):
        raise ValueError(
            f"steer: got {type(steer).__name__}, expected a LogitSteer; steerlens.export.logit_steer(steer) makes one"
        )
    as_count(prompt_length, "prompt_length", "a whole number, at least 0", least=0)
    made = strength if callable(strength) else _as_strength(strength)
    return HuggingFaceProcessor(steer, made, prompt_length)


def tokens_written(length: int, prompt_length: int) -> int:
    """Return how many of a text's tokens are behind its prompt.

    Raises:
        ValueError: the text is shorter than its prompt.
    """
    if length < prompt_length:
        raise ValueError(
            f"prompt_length: got {prompt_length}, but `generate` hands over {length} tokens, of prompt and text together; "
            "expected the length of this prompt, or 0 where it is given as inputs_embeds, which are not handed over"
        )
    return length - prompt_length


def _as_strength(given: Any) -> Tensor:
    """Return one finite strength or several as a tensor."""
    if isinstance(given, Tensor) and given.is_floating_point():
        as_floats(given.detach().flatten().tolist(), "strength")
        return given
    found = torch.tensor(as_floats(given, "strength"))
    return found[0] if is_number(given) else found


def _for_rows(strength: Tensor, input_ids: Int[Tensor, "rows pos"], prompt_length: int) -> Tensor:
    """Return one strength per row; the rows of one prompt lie together, and begin alike."""
    if strength.ndim == 0:
        return strength
    n, rows = len(strength), len(input_ids)
    begin = input_ids[:, : max(prompt_length, 1)]
    each = begin.reshape(n, rows // n, -1) if n and rows % n == 0 else None
    if each is None or bool((each != each[:, :1]).any()):
        raise ValueError(
            f"strength: got {n} values for {rows} rows, expected one per prompt, whose samples and beams begin alike"
        )
    return strength.repeat_interleave(rows // n)
