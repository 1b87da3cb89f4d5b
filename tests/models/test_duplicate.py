"""A copy of a model outlives it, and neither changes the other."""

import gc
import weakref
from typing import Any

import pytest
import torch

import steerlens as sl
from steerlens.models.duplicate import duplicate
from tests.models.zoo import BUILDERS, IN_TURN, zoo


@pytest.mark.parametrize("name", IN_TURN)
def test_a_copy_gives_the_same_and_shares_nothing(name: str) -> None:
    model = zoo(name)
    made: Any = duplicate(model)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = model(ids)
        assert torch.equal(made(ids), before)
        for p in made.parameters():
            p.mul_(1.5)
        assert not torch.equal(made(ids), before) and torch.equal(model(ids), before)


def test_a_copy_outlives_the_model() -> None:
    model: Any = sl.load_model("toy-64")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = model(ids)  # which sets the hooks that capture inputs
    made: Any = duplicate(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    with torch.no_grad():
        assert gone() is None and torch.equal(made(ids), before)


@pytest.mark.parametrize("name", IN_TURN)
def test_a_model_that_was_run_with_gradients_is_copied_too(name: str) -> None:
    model: Any = BUILDERS[name]()
    ids = torch.tensor([[5, 6, 7, 8]])
    for p in model.parameters():
        p.requires_grad_(True)
    assert model(ids).requires_grad  # its blocks now hold tensors of that graph
    made: Any = duplicate(model)
    with torch.no_grad():
        assert torch.equal(made(ids), model(ids))
