"""Every measurement of speed and memory, each beside a reference and a physical limit.

    python benchmarks/run.py                       # all of them: a quarter of an hour on two quiet cores
    python benchmarks/run.py --quick               # all of them small, within a minute; judges nothing
    python benchmarks/run.py --only fit write      # some groups
    python benchmarks/run.py --only vocabulary --threads 1     # on SmolLM2, which takes twenty minutes and is not among all
    python benchmarks/run.py --only fit --model toy-128        # where reviews-192 is at hand this is not among all
    python benchmarks/run.py --only fit --model FOLDER --train FILE --test FILE
    python benchmarks/run.py --page                # the table of results.json into docs/numbers.md; measures nothing

Ways alternate in one process (A B A B); numbers are medians with quartiles over the rounds. Results
are merged by line into benchmarks/results.json; a quick line never takes a full one's place.
"""

import argparse
import os
import time
from pathlib import Path

for pool in ("OMP", "MKL"):
    os.environ.setdefault(f"{pool}_NUM_THREADS", "2")

import _collect
import _fit
import _import
import _maths
import _measure
import _memory
import _score
import _vocabulary
import _write
import torch

GROUPS = {
    "fit": _fit.lines, "collect": _collect.lines, "write": _write.lines, "score": _score.lines, "memory": _memory.lines,
    "maths": _maths.lines, "import": _import.lines, "vocabulary": _vocabulary.lines,
}  # fmt: skip
LONG = "vocabulary"
"""Run where it is asked for: twenty minutes on SmolLM2."""
ORDER = (
    "fit-reviews", "fit-toy", "refit-reviews", "refit-toy", "collect", "collect-toy", "write", "write-11", "score-11", "memory",
    "map", "map-toy", "highlight", "svd", "import", "vocabulary",
)  # fmt: skip
PAGE = Path(__file__).parent.parent / "docs" / "numbers.md"


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--quick", action="store_true")
    asked.add_argument("--only", nargs="+", choices=GROUPS, help="groups; none: all")
    asked.add_argument("--threads", type=int, default=int(os.environ["OMP_NUM_THREADS"]))
    asked.add_argument("--page", action="store_true")
    asked.add_argument("--model", help="for the group fit: a model instead of the usual ones")
    asked.add_argument("--train", help="labelled texts for it; none: the toy world's")
    asked.add_argument("--test")
    given = asked.parse_args()
    if given.page:
        text = _measure.into(
            PAGE.read_text(encoding="utf-8"), _measure.block(_measure.read_results())
        )
        PAGE.write_text(text, encoding="utf-8")
        return
    torch.set_num_threads(given.threads)
    where = _measure.setting(quick=given.quick, threads=given.threads)
    print(
        f"{where.threads} threads, {where.cpu}, torch {where.torch}{', quick sizes' if where.quick else ''}",
        flush=True,
    )
    found = []
    for name in given.only or [group for group in GROUPS if given.quick or group != LONG]:
        begun = time.perf_counter()
        own = (
            {"model": given.model, "train": given.train, "test": given.test}
            if name == "fit"
            else {}
        )
        for line in GROUPS[name](given.quick, **own):
            line = _measure.unjudged(line) if given.quick else line
            found.append(line)
            print(_measure.table([line]).splitlines()[-1], flush=True)
            kept = _measure.merge(_measure.read_results(), [_measure.record(line, where)])
            _measure.write_results(kept, ORDER)  # after every line, so that an interrupt loses one
        print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
    found.sort(key=lambda line: ORDER.index(line.key) if line.key in ORDER else len(ORDER))
    print(f"\n{_measure.table(found)}")


if __name__ == "__main__":
    main()
