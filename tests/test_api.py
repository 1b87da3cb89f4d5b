"""The public names, what they cost to import, and the examples in their docstrings."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import chdir
from functools import cache, wraps
from pathlib import Path
from typing import Any

import pytest

import steerlens as sl

PUBLIC = [
    "Fit", "Intervention", "Labelled", "Metric", "Readout", "Reft", "Report", "SoftPrompt", "States", "Steer",
    "Training", "align", "classify", "collect", "fit_prompt", "fit_reft", "fit_split_halves", "fit_steer", "gap_closed",
    "generate", "highlight", "infer_strength", "label_curve", "load", "load_model", "natural_metric", "pair",
    "read_labelled", "read_metadata", "readout", "save", "score", "singular_words", "spectrum",
    "split_half_reliability", "steered", "strength_at_kl", "transfer", "transfer_report", "written_attribute",
]  # fmt: skip
ROOMS = ["analysis", "evaluate", "export", "models", "show", "toy"]
ROOT = Path(sl.__file__).parent
MODULES = sorted(
    ".".join(("steerlens", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


def test_the_public_names_are_these() -> None:
    assert sorted(sl.__all__) == sorted(PUBLIC + ROOMS)
    assert set(PUBLIC + ROOMS) <= set(dir(sl))
    assert len(PUBLIC) <= 40


@pytest.mark.parametrize("name", PUBLIC + ROOMS)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    documented = inspect.getdoc(getattr(sl, name))
    assert documented and len(documented.split()) > 5


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    with pytest.raises(AttributeError, match=r"'fit_stear'.*fit_steer"):
        _ = sl.fit_stear


def test_importing_the_package_loads_neither_torch_nor_transformer_lens() -> None:
    heavy = "[m for m in ('torch', 'transformer_lens', 'transformers', 'pandas', 'seaborn') if m in sys.modules]"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; import steerlens; print({heavy})"],
        capture_output=True, text=True, check=True, cwd=ROOT.parent,
    )  # fmt: skip
    assert found.stdout.strip() == "[]"


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Answer the same question with the same object, bars or no bars."""
    kept = cache(function)

    @wraps(function)
    def answer(*given: Any, **options: Any) -> Any:
        options.pop("progress", None)
        known = all(isinstance(x, Hashable) for x in (*given, *options.values()))
        return (kept if known else function)(*given, **options)

    return answer


@pytest.fixture(scope="module")
def shared() -> Iterator[None]:
    """Most examples begin with one of a few fits: it is made once, as nothing changes a value."""
    with pytest.MonkeyPatch.context() as patch:
        for home, name in (
            (sl, "load_model"),
            (sl.toy, "corpus"),
            (sl, "collect"),
            (sl, "fit_steer"),
        ):
            patch.setattr(home, name, once(getattr(home, name)))
        yield


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_do_what_they_say(module: str, tmp_path: Path, shared: None) -> None:
    loaded = importlib.import_module(module)
    finder, runner = (
        doctest.DocTestFinder(exclude_empty=True),
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS),
    )
    examples = [
        test for test in finder.find(loaded, module, globs=vars(loaded).copy()) if test.examples
    ]
    assert examples, "an example is not where doctest looks for it"
    complaints: list[str] = []
    with chdir(tmp_path):
        for example in examples:
            runner.run(example, out=complaints.append)
    assert not runner.failures, "".join(complaints)


def test_what_is_imported_on_first_use_draws_nothing_from_the_users_generator() -> None:
    """`rich`, which scikit-learn imports, does; in a process that has neither yet."""
    code = (
        "import random, sys, steerlens as sl; random.seed(0); state = random.getstate(); sl.classify; "
        "kept = random.getstate() == state; del sys.modules['rich.style']; import rich.style; "
        "print(kept, random.getstate() == state)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("room", ["analysis", "evaluate"])
def test_every_module_of_a_room_is_reached_from_it_or_serves_another_alone(room: str) -> None:
    package = importlib.import_module(f"steerlens.{room}")
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert modules - set(package.ROOMS) <= {"run_folder", "run_settings"}
    assert set(package.ROOMS) <= modules
    for name in package.ROOMS:
        assert getattr(package, name).__name__ == f"steerlens.{room}.{name}"
