"""Steer llama.cpp from its logits, through llama-cpp-python."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from steerlens.values.logit_steer import LogitSteer


@dataclass(frozen=True, eq=False)
class LlamaCppProcessor:
    """What `Llama.create_completion(logits_processor=…)` calls before each token; made by
    `processor`."""

    steer: LogitSteer
    strength: float | Callable[[int], float] = 1.0
    prompt_length: int = 0

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return the steered scores of the next token; one text, `[d_vocab]`."""
        strength = self.strength
        if callable(strength):
            strength = strength(len(input_ids) - self.prompt_length)
        return self.steer.apply(scores, strength)


def processor(
    steer: LogitSteer,
    strength: float | Callable[[int], float] = 1.0,
    *,
    prompt_length: int = 0,
) -> LlamaCppProcessor:
    """Return a logits processor for llama-cpp-python.

        llm = llama_cpp.Llama("model.gguf")
        llm("the film was", logits_processor=llama_cpp.LogitsProcessorList([processor(steer, 2.0)]))

    It comes before llama.cpp's own samplers, so penalties and top-k act on steered logits. A GGUF
    in 16 or 32 bits has the head that the steer was fitted on. One in fewer bits has another:
    `logit_steer(steer, precision=1e-2)` allows for eight.

    Args:
        steer: from `logit_steer` or `load_logit_steer`.
        strength: a number, or a function of the number of tokens written so far.
        prompt_length: tokens of the prompt, which a function does not count.
    """
    if not isinstance(steer, LogitSteer):
        raise ValueError(
            f"steer: got {type(steer).__name__}, expected a LogitSteer; steerlens.export.logit_steer(steer) makes one"
        )
    return LlamaCppProcessor(steer, strength, prompt_length)
