"""Measure how many files a reader follows: python tests/measure_walks.py [transfer] [report]

Prints the files of steerlens in which a function runs while `transfer(joy, model)` does, by every
rule, and while `steerlens report` does on a toy model. No test: it measures, and `LOG.md` says what
came of it.

- Files that `collect`, `generate` and `score` all run too (hooks, the read-out, checks of arguments)
  are counted apart, as shared: who has read one verb knows them.
- The report is followed through `cli/` and `show/`; what it calls of other rooms are verbs, which it
  calls by their names. What only draws is counted apart from what computes.
"""

import inspect
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import steerlens as sl
from steerlens.cli.report import report

ROOT = Path(sl.__file__).parent
NO_HOPS = {"__init__.py", "analysis/__init__.py", "lazy.py"}
"""What finds the module of a name: nothing to read."""

Walk = dict[str, set[str]]
"""The functions that ran, by file."""


@cache
def file_of(code: CodeType) -> str | None:
    """Return the file of the package that a function is written in; None for other code, and for
    the bodies of modules and classes, which run when they are imported."""
    path = Path(code.co_filename)
    if not code.co_flags & inspect.CO_OPTIMIZED or not path.is_relative_to(ROOT):
        return None
    name = path.relative_to(ROOT).as_posix()
    return name if path.suffix == ".py" and name not in NO_HOPS else None


def walk(run: Callable[[], object], apart: str = "") -> tuple[Walk, Walk]:
    """Return what ran, and beside it what ran within the function `apart` and nowhere else."""
    found, beside = defaultdict(set), defaultdict(set)
    within: FrameType | None = None

    def look(frame: FrameType, event: str, _: Any) -> None:
        nonlocal within
        if event == "return" and frame is within:
            within = None
        if event == "call" and (file := file_of(frame.f_code)):
            (beside if within else found)[file].add(frame.f_code.co_qualname)
            if frame.f_code.co_name == apart:
                within = frame

    sys.setprofile(look)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found, {file: names for file, names in beside.items() if file not in found}


def say(title: str, files: Walk, shared: set[str]) -> None:
    own = sorted(files.keys() - shared)
    print(f"{title}: {len(own)} files, {len(files.keys() & shared)} shared: {', '.join(own)}")


def of_transfer() -> None:
    """Print the walk of each rule."""
    big, small = sl.load_model("toy-128"), sl.load_model("toy-64")
    data, texts = (sl.toy.corpus("tone", n=n, seed=n) for n in (300, 100))
    joy = sl.fit_steer(sl.collect(big, data, progress=False), name="joy", progress=False).value
    basics: list[Callable[[Any], object]] = [
        lambda model: sl.collect(model, texts, progress=False),
        lambda model: sl.generate(model, ["the film was"], joy, max_new_tokens=2),
        lambda model: sl.score(model, list(texts.texts), joy),
    ]
    # a steer lives on one model; a second one is new to the verb, so that nothing is remembered
    models = (sl.load_model("toy-128") for _ in basics)
    walks = [walk(partial(verb, model))[0] for verb, model in zip(basics, models, strict=True)]
    shared = set.intersection(*map(set, walks))
    print(f"shared by collect, generate and score: {len(shared)}: {', '.join(sorted(shared))}")
    for rule in ("congruence", "similarity", "procrustes", "authors"):
        say(rule, walk(partial(sl.transfer, joy, sl.load_model("toy-64"), rule=rule))[0], shared)
    for rule in ("paired", "distil", "selftrain"):
        read = partial(sl.transfer, joy, small, rule=rule, text=texts, source=big)
        say(rule, walk(read)[0], shared)


def of_report() -> None:
    """Print the walk of `steerlens report` on a toy model."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report"
        everything, drawn = walk(
            lambda: report(model="toy-64", out=out, texts=400, quiet=True), apart="write_files"
        )
    own = {file: names for file, names in everything.items() if file.startswith(("cli/", "show/"))}
    say("report, what it computes", own, set())
    for file, names in own.items():
        print(f"  {file}: {', '.join(sorted(names))}")
    say("report, what only draws", {f: n for f, n in drawn.items() if f.startswith("show/")}, set())
    print(f"report, with all that its verbs run: {len(everything)} files")


if __name__ == "__main__":
    for name in sys.argv[1:] or ("transfer", "report"):
        {"transfer": of_transfer, "report": of_report}[name]()
