"""Steer llama.cpp from its logits, through llama-cpp-python."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from steerlens.export.hugging_face import tokens_written
from steerlens.values.logit_steer import LogitSteer


@dataclass(frozen=True, eq=False)
class LlamaCppProcessor:
    """What `Llama.create_completion(logits_processor=…)` calls before each token; made by
    `processor`.

    llama.cpp calls it from C, where an error of Python is printed and forgotten, and the text would
    go on unsteered. So it keeps the error, lets nothing but token 0 be written, and `check` raises.
    """

    steer: LogitSteer
    strength: float | Callable[[int], float] = 1.0
    prompt_length: int = 0
    errors: list[Exception] = field(default_factory=list, repr=False)

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return the steered scores of the next token; one text, `[d_vocab]`."""
        try:
            strength = self.strength
            if callable(strength):
                strength = strength(tokens_written(len(input_ids), self.prompt_length))
            return self.steer.apply(scores, strength)
        except Exception as error:
            self.errors.append(error)
            return np.where(np.arange(len(scores)) == 0, 0, -1e30).astype(scores.dtype)

    def check(self, input_ids: Any = None, logits: Any = None) -> bool:
        """Raise the first error that it met; else return that writing need not stop."""
        if self.errors:
            first = self.errors[0]
            self.errors.clear()
            raise first
        return False

    def options(self) -> dict[str, Any]:
        """Return what to pass to `Llama`, so that an error is raised: processor and stopping
        criterion."""
        # by name: beside this file a checker takes it for the file itself
        llama_cpp: Any = import_module("llama_cpp")
        return {
            "logits_processor": llama_cpp.LogitsProcessorList([self]),
            "stopping_criteria": llama_cpp.StoppingCriteriaList([self.check]),
        }


def processor(
    steer: LogitSteer,
    strength: float | Callable[[int], float] = 1.0,
    *,
    prompt_length: int = 0,
) -> LlamaCppProcessor:
    """Return a logits processor for llama-cpp-python.

        llm = llama_cpp.Llama("model.gguf")
        llm("the film was", **processor(steer, 2.0).options())

    It comes before llama.cpp's own samplers, so penalties, grammars and top-k act on steered
    logits. A GGUF in 16 or 32 bits has the head that the steer was fitted on. One in fewer bits has
    another: `logit_steer(steer, precision=1e-2)` allows for eight.

    Args:
        steer: from `logit_steer` or `load_logit_steer`.
        strength: a number, or a function of the number of tokens written so far.
        prompt_length: tokens of the prompt, which a function does not count.

    Raises:
        ValueError: something else than a `LogitSteer`.
    """
    if not isinstance(steer, LogitSteer):
        raise ValueError(
            f"steer: got {type(steer).__name__}, expected a LogitSteer; steerlens.export.logit_steer(steer) makes one"
        )
    return LlamaCppProcessor(steer, strength, prompt_length)
