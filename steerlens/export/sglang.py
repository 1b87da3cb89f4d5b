"""Steer an SGLang server from its logits, request by request."""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.brief import brief
from steerlens.values.logit_steer import load_logit_steer

ARGUMENT = "steer_strength"
"""What a request sets to be steered: `custom_params={"steer_strength": 2.0}`."""


def processor(path: str | Path) -> type:
    """Return a custom logit processor class for SGLang, bound to a steer's file.

    In a module of your own that both client and server can import (SGLang sends the class by its
    name),

        # my_steers.py
        from steerlens.export.sglang import processor
        Joy = processor("joy.logits.safetensors")

    then start the server with `--enable-custom-logit-processor`, and send with each request
    `custom_logit_processor=Joy.to_str()` and `sampling_params={"custom_params":
    {"steer_strength": 2.0}}`. SGLang applies its penalties, biases and grammars first and asks no
    processor beforehand, so a request that has both is refused while it runs; masks alone pass
    where the steer keeps `W_U`.

    Written against the documented interface; tested with a stand-in of it, not with a server.

    Raises:
        ImportError: no SGLang.
        ValueError: a file that is no logit steer.
    """
    from sglang.srt.sampling.custom_logit_processor import (  # pyright: ignore
        CustomLogitProcessor,
    )

    steer = load_logit_steer(path)

    class SteerProcessor(CustomLogitProcessor):
        """Steers each request's row by its own strength."""

        def __call__(
            self,
            logits: Float[Tensor, "rows d_vocab"],
            custom_param_list: list[dict[str, Any] | None] | None = None,
        ) -> Float[Tensor, "rows d_vocab"]:
            asked = [(params or {}).get(ARGUMENT, 0.0) for params in custom_param_list or []]
            for value in asked:
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if not number or not math.isfinite(value):
                    raise ValueError(f"{ARGUMENT}: got {brief(value)}, expected a finite number")
            if len(asked) != len(logits):
                raise ValueError(
                    f"custom_params: got {len(asked)} for {len(logits)} rows; each request sends "
                    f"its own, with {ARGUMENT!r}"
                )
            strength = torch.tensor(asked, dtype=torch.float32)
            return steer.to(logits.device).apply(logits, strength)

    return SteerProcessor
