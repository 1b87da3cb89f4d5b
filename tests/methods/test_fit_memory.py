"""What a fit holds of a read-out: the model's own matrix, and a part of it in bfloat16."""

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import steerlens as sl
from steerlens.maths import logits
from steerlens.methods.steer import cost
from tests.values.make import make_readout, make_states

D, VOCAB = 40, 4_800


class ReadoutsAlive(TorchDispatchMode):
    """Bytes of matrices `[d, words]` of half of the vocabulary at least that are made inside the
    block and held at once, at the most, and the dtypes of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.most, self.dtypes = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for x in made if isinstance(made, tuple | list) else (made,):
            if not isinstance(x, torch.Tensor) or x.ndim != 2 or len(x) != D:
                continue
            whole = x.untyped_storage()
            if x.shape[1] >= VOCAB / 2 and not any(
                isinstance(a, torch.Tensor) and a.untyped_storage().data_ptr() == whole.data_ptr()
                for a in args
            ):
                self.alive[whole.data_ptr()] = whole.nbytes()
                weakref.finalize(x, self.alive.pop, whole.data_ptr(), None)
                self.most = max(self.most, sum(self.alive.values()))
                self.dtypes.add(x.dtype)
        return made


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "closed-form"])
def test_the_read_out_never_stands_there_twice(
    solver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logits, "multiplies_bfloat16", lambda device: True)
    monkeypatch.setattr(logits, "BLOCK", 512)
    monkeypatch.setattr(cost, "LIKELY", 200)
    states = make_states(60, on=make_readout(d=D, vocab=VOCAB), length=8)
    assert states.readout.head.W_U.data_ptr() == states.readout.W_U.data_ptr()
    with ReadoutsAlive() as seen:
        sl.fit_steer(states, solver=solver, tolerance=1e-1, ridge=0.3, damping=1e-2, lr=0.1)
    copy = D * VOCAB * 2
    assert seen.dtypes == ({torch.bfloat16} if solver != "closed-form" else set())
    assert seen.most == (copy if solver != "closed-form" else 0)
