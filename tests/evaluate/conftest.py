"""The model that tests of the measures read."""

from typing import Any

import pytest

import steerlens as sl


@pytest.fixture(scope="module")
def model() -> Any:
    return sl.load_model("toy-64")
