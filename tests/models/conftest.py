"""Every model class that is here, and after every test the proof that it was left as it was."""

from collections.abc import Iterator
from typing import Any

import pytest

import steerlens.models.generate as generating
from tests.models.zoo import IN_TURN, hook_count, zoo


def _left_alone(name: str) -> Iterator[Any]:
    model = zoo(name)
    before = hook_count(model)
    yield model
    assert hook_count(model) == before, "a hook was left behind"


@pytest.fixture(params=IN_TURN)
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each model of the zoo in turn."""
    yield from _left_alone(request.param)


@pytest.fixture(params=[name for name in IN_TURN if name != "bfloat16"])
def single(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each model in float32. In bfloat16 likeliest tokens tie, so a batch may write otherwise than
    a row alone."""
    yield from _left_alone(request.param)


@pytest.fixture
def tiny() -> Iterator[Any]:
    """One model, where the class does not matter."""
    yield from _left_alone("gpt2")


@pytest.fixture
def spelled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """The tokens of each prompt and of what was written behind it, in the order of the rows.

    Scripts of others look at them in the same place, so it has to stay and to be asked.
    """
    seen: list[tuple[list[int], list[int]]] = []
    spell = generating._continuation

    def watched(tokenizer: Any, prompt: list[int], new: list[int]) -> str:
        seen.append((prompt, new))
        return spell(tokenizer, prompt, new)

    monkeypatch.setattr(generating, "_continuation", watched)
    return seen
