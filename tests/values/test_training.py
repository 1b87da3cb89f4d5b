"""What a descent is asked for, and what is filled in where it is not said."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlens.values.training import EPOCHS, STEPS, USUAL, Training, lasting


@given(n=st.integers(1, 5000), size=st.integers(1, 64))
def test_few_texts_get_as_many_steps_as_many_and_many_no_more_passes_than_ten(
    n: int, size: int
) -> None:
    planned = Training(batch_size=size).planned(n, lr=0.5)
    assert planned.epochs is not None and planned.patience is not None
    per_epoch = -(-n // size)
    assert planned.epochs * per_epoch >= STEPS
    assert planned.epochs == EPOCHS or (planned.epochs - 1) * per_epoch < STEPS
    assert 1 <= planned.patience <= planned.epochs and planned.lr == 0.5


def test_what_was_said_stays() -> None:
    asked = Training(lr=0.0, epochs=1, batch_size=3, patience=7, warmup=1.0, weight_decay=0.1)
    assert asked.planned(10, lr=0.5) == asked
    assert replace(USUAL, lr=0.1).planned(10, lr=0.5).lr == 0.1


BAD: dict[str, dict[str, Any]] = {
    "lr": {"lr": -0.1},
    "epochs": {"epochs": 0},
    "batch_size": {"batch_size": 0},
    "patience": {"patience": 0},
    "warmup": {"warmup": 1.1},
    "weight_decay": {"weight_decay": float("nan")},
}


@pytest.mark.parametrize("name", BAD)
def test_numbers_out_of_range_are_refused_by_name(name: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=f"{name}: got {BAD[name][name]}, expected"):
        Training(**BAD[name])


def test_two_numbers_of_epochs_are_refused_and_one_is_taken_from_where_it_is_said() -> None:
    for training, epochs, taken in (
        (Training(), None, None), (Training(), 3, 3), (Training(epochs=3), 3, 3), (Training(epochs=2), None, 2),
    ):  # fmt: skip
        assert lasting(training, epochs).epochs == taken
    with pytest.raises(ValueError, match=r"epochs: got 3, and training=Training\(epochs=9\)"):
        lasting(Training(epochs=9), 3)
