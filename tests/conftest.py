"""What holds for every test: no network, few threads, repeatable examples, and shapes that are
checked."""

import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("MPLBACKEND", "Agg")
for pool in (
    "OMP",
    "MKL",
    "OPENBLAS",
):  # before torch and numpy load; small tensors gain nothing from more
    os.environ.setdefault(f"{pool}_NUM_THREADS", "1")

import jaxtyping
import pytest
from hypothesis import settings

from tests.typecheck import first_of_each

settings.register_profile("steerlens", deadline=None, derandomize=True)
settings.load_profile("steerlens")

# a third of the tests' time, which one of two runs over the same code need not take
SHAPES = os.environ.get("STEERLENS_TEST_SHAPES", "1") != "0"
if SHAPES:
    jaxtyping.jaxtyped = first_of_each(jaxtyping.jaxtyped)  # as what the hook inserts finds it
    jaxtyping.install_import_hook("steerlens", "tests.typecheck.typechecked")

# The hook passes over whatever it does not recognise, and every test would then run unchecked.
_spec = find_spec("steerlens")
if SHAPES and _spec and _spec.origin and not type(_spec.loader).__module__.startswith("jaxtyping"):
    raise RuntimeError(
        f"the shape checks do not reach steerlens as it is installed ({_spec.origin})"
    )


LONGEST = (
    "tests/test_api.py",
    "tests/show/test_page.py",
    "tests/test_cli.py",
    "tests/test_readme.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files that would come last come first: a worker that begins one when the other has
    nothing left to do ends alone."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def folders_that_pytest_takes_away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models that are built once per process are in folders that outlive a test, not the run."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("made"))
    yield
    tempfile.tempdir = before


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the checks, as users run the package: for tests of the errors that we raise
    ourselves.

    With them a wrong shape is a `jaxtyping.TypeCheckError` before our own line is reached.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def no_resuming(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called, no model's passes can be resumed behind a layer, as those of a few classes
    cannot."""

    def forbid() -> None:
        monkeypatch.setattr("steerlens.models.partial_forward.resumes", lambda *_: False)

    return forbid


@pytest.fixture
def no_bos(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Texts of the model that it is called with begin without begin-of-text."""
    return lambda model: monkeypatch.setattr(model.cfg, "default_prepend_bos", False)
