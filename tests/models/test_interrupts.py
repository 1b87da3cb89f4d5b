"""Ctrl-C before any line of the code that changes a model leaves the model as it was, and free."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import steerlens as sl
from steerlens.models.hooks import adapter, eval_mode
from steerlens.models.partial_forward import resumed
from tests.models.laws import traces
from tests.models.zoo import TEXTS, random_steer, zoo

MODELS = Path(sl.__file__).parent / "models"
FILES = frozenset(
    str(MODELS / name)
    for name in (
        "exclusive.py", "hooks.py", "steering.py", "rows.py", "readout.py", "partial_forward.py", "uncompiled.py",
        "adapters/hugging_face.py", "adapters/transformer_lens.py",
    )
)  # fmt: skip


def interrupted_before(work: Callable[[], object], k: int) -> int:
    """Do some work with Ctrl-C before the k-th of its lines; return how many lines were seen."""
    seen: set[tuple[str, int]] = set()

    def line(frame: FrameType, event: str, arg: Any) -> Any:
        place = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and place not in seen:
            seen.add(place)
            if len(seen) == k:
                sys.settrace(None)
                raise KeyboardInterrupt
        return line

    def call(frame: FrameType, event: str, arg: Any) -> Any:
        return line if frame.f_code.co_filename in FILES else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return len(seen)


def hooks_of(model: Any) -> list[int]:
    """TransformerLens' own lists, besides torch's."""
    return [len(point.fwd_hooks) for point in getattr(model, "hook_dict", {}).values()]


def steer(model: Any) -> None:
    with sl.steered(model, random_steer(model), 2.0):
        adapter(model).logits(torch.tensor([[1, 2, 3]]), None)


def score(model: Any) -> None:
    sl.score(model, TEXTS[:1], random_steer(model), end=False)


def learn(model: Any) -> None:
    """Layers that are passed over, parameters that are not learned."""
    resid = torch.zeros(1, 3, 32)
    for p in adapter(model).module.parameters():
        p.requires_grad_(True)
    with eval_mode(model, gradients=True), resumed(model, 0, resid):
        adapter(model).logits(torch.tensor([[1, 2, 3]]), None)


@pytest.mark.parametrize("name", ["gpt2", "plain-gpt2"])
@pytest.mark.parametrize("work, every", [(steer, 5), (score, 25), (learn, 1)])
def test_ctrl_c_before_any_line_leaves_nothing(
    name: str, work: Callable[[Any], None], every: int
) -> None:
    model = zoo(name)
    for _ in range(2):  # TransformerLens hangs hooks of its own on a model in its first passes
        work(model)
    before = traces(model), hooks_of(model)
    n = interrupted_before(lambda: work(model), 0)
    assert n > 30
    for k in range(1, n + 1, every):
        assert interrupted_before(lambda: work(model), k) == k
        assert (traces(model), hooks_of(model)) == before, f"before line {k}"
    free: list[object] = []
    thread = threading.Thread(target=lambda: free.append(sl.readout(model)))
    thread.start()
    thread.join(30)
    assert free, "another thread waits for ever"
