"""What tests of several parts of the mathematics share."""

from collections.abc import Callable

import pytest

from steerlens.maths import logits


@pytest.fixture
def words_per_block(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many words' logits are read at once, so that a small vocabulary has several parts."""
    return lambda n: monkeypatch.setattr(logits, "BLOCK", n)
