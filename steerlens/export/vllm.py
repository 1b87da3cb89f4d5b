"""Steer a vLLM server from its logits, request by request."""

import math
from collections.abc import Sized
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.brief import brief
from steerlens.values.logit_steer import LogitSteer, load_logit_steer

ARGUMENT = "steer_strength"
"""What a request sets to be steered: `vllm_xargs={"steer_strength": 2.0}`."""
BEFORE = {
    "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "logit_bias": None,
}  # fmt: skip
"""What changes finite logits before or beside a processor, by its name, and its idle value."""
MASKS = {
    "bad_words": None, "allowed_token_ids": None, "min_tokens": 0, "structured_outputs": None,
    "guided_decoding": None,
}  # fmt: skip
"""What puts −∞ among the logits first."""


def processor(path: str | Path, *, runner: int = 2) -> type:
    """Return a logits processor class for vLLM, bound to a steer's file.

    In a module of your own that the server can import,

        # my_steers.py
        from steerlens.export.vllm import processor
        Joy = processor("joy.logits.safetensors")

    then `vllm serve MODEL --logits-processors my_steers:Joy`, and per request
    `"vllm_xargs": {"steer_strength": 2.0}`. A request without it is not touched. One that asks for
    what would change the logits first (penalties, a bias; a mask, unless the steer keeps `W_U`) is
    refused at the door, by name. The class says that it moves the argmax, so greedy requests are
    steered too. vLLM's `logprobs` are the unsteered ones unless the server runs with
    `--logprobs-mode processed_logprobs`.

    Written against the documented interfaces; tested with stand-ins of them, not with a server.

    Args:
        path: what `LogitSteer.save` wrote.
        runner: of the server: 2 (the default of vLLM 0.32), where a draft's rows are steered too;
            or 1 (`VLLM_USE_V2_MODEL_RUNNER=0` and older servers), which refuses drafts.

    Raises:
        ImportError: no vLLM with this runner.
        ValueError: another runner, or a file that is no logit steer.
    """
    if runner not in (1, 2):
        raise ValueError(f"runner: got {brief(runner)}, expected 2, or 1 for older servers")
    steer = load_logit_steer(path)
    return _for_runner_2(steer) if runner == 2 else _for_runner_1(steer)


def strength_of(steer: LogitSteer, params: Any) -> float | None:
    """Return the strength that a request asks for; None where it asks for none.

    Raises:
        ValueError: no finite number, too strong for the steer, or together with an option that
            changes the logits before a processor sees them.
    """
    asked = (getattr(params, "extra_args", None) or {}).get(ARGUMENT)
    if asked is None:
        return None
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not math.isfinite(asked):
        raise ValueError(f"{ARGUMENT}: got {brief(asked)}, expected a finite number")
    if asked == 0:
        return None
    steer.check_strength(float(asked))
    clash = BEFORE if steer.W_U is not None else BEFORE | MASKS
    clash = clash if steer.reads else {}
    for name, idle in clash.items():
        given = getattr(params, name, idle)
        empty = isinstance(given, Sized) and not len(given)  # as clients send none: {}, [], ()
        if given not in (idle, None) and not empty:
            raise ValueError(
                f"{ARGUMENT}: cannot be had together with {name}={given!r}, which changes the logits that the steer reads; leave "
                "one of them out"
            )
    return float(asked)


def _for_runner_2(steer: LogitSteer) -> type:
    from vllm.v1.worker.gpu.sample.logits_processor.interface import (  # pyright: ignore
        LogitsProcessor,
    )

    class SteerProcessor(LogitsProcessor):
        """Steers the rows of each request by its own strength."""

        def __init__(self, vllm_config: Any, req_states: Any) -> None:
            self.steer = steer.to(req_states.device)
            self.strength = torch.zeros(req_states.max_num_reqs)

        @classmethod
        def validate_params(cls, sampling_params: Any) -> None:
            strength_of(steer, sampling_params)

        def add_request(self, req_idx: int, sampling_params: Any) -> bool:
            strength = strength_of(steer, sampling_params)
            self.strength[req_idx] = strength or 0.0  # the slot may hold what was there before
            return strength is not None

        def apply(
            self, logits: Float[Tensor, "rows d_vocab"], ctx: Any
        ) -> Float[Tensor, "rows d_vocab"]:
            slots = ctx.expanded_idx_mapping.to(self.strength.device).long()
            return self.steer.apply(logits, self.strength[slots])

    return SteerProcessor


def _for_runner_1(steer: LogitSteer) -> type:
    from vllm.v1.sample.logits_processor import (  # pyright: ignore
        LogitsProcessor,
        MoveDirectionality,
    )

    class SteerProcessor(LogitsProcessor):
        """Steers each request's row by its own strength."""

        def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
            self.steer = steer.to(device)
            self.strength: dict[int, float] = {}

        @classmethod
        def validate_params(cls, sampling_params: Any) -> None:
            strength_of(steer, sampling_params)

        def is_argmax_invariant(self) -> bool:
            return False  # otherwise greedy requests would pass it by

        def update_state(self, batch_update: Any) -> None:
            if batch_update is None:
                return
            for row in batch_update.removed:
                self.strength.pop(row, None)
            for row, params, _, _ in batch_update.added:
                self._set(row, strength_of(steer, params))
            for a, b, how in batch_update.moved:
                one, other = self.strength.pop(a, None), self.strength.pop(b, None)
                self._set(b, one)
                if how == MoveDirectionality.SWAP:
                    self._set(a, other)

        def _set(self, row: int, strength: float | None) -> None:
            if strength is None:
                self.strength.pop(row, None)
            else:
                self.strength[row] = strength

        def apply(self, logits: Float[Tensor, "rows d_vocab"]) -> Float[Tensor, "rows d_vocab"]:
            if not self.strength:
                return logits
            strength = torch.zeros(len(logits))
            for row, value in self.strength.items():
                strength[row] = value
            return self.steer.apply(logits, strength)

    return SteerProcessor
