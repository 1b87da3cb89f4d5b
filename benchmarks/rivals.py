"""What a steer, an edit of hidden states and a tuned prompt learn from the same few texts, at the
same cost.

    python benchmarks/rivals.py                            # 500 texts, one draw: a few minutes
    python benchmarks/rivals.py --draws 10                 # the numbers of docs/choose.md
    python benchmarks/rivals.py --case toy-128 --n 300 --method reft --draws 3

Each is fitted by its defaults; nothing is tuned on the texts that it is judged on. A margin is how
much likelier the right sign makes a token of new texts than the wrong one, in nats per token, at
the strength where both signs together cost 0.05 nats of KL per token over the method's own
background (the steer's background, the neutral prompt, the plain model for an edit). Intervals are
95 %, over the new texts; of several draws, means of the draws' ends. Every draw takes other
training texts and another seed; the new texts stay. Seconds are the process's own, as other jobs
may run beside it; a fit is not shared out over threads by default. Numbers go into
benchmarks/rivals.json under the command that made them.
"""

import argparse
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

for pool in ("OMP", "MKL"):
    os.environ.setdefault(f"{pool}_NUM_THREADS", "1")

import pandas as pd
import torch
from _measure import setting
from _models import TOY, Case, frozen, reviews_case
from quality import plain, write

import steerlens as sl
from steerlens.evaluate.compare import compare

NUMBERS = Path(__file__).parent / "rivals.json"
REVIEWS = "reviews-128"


def steer(model: object, data: sl.Labelled, seed: int) -> tuple[sl.Intervention, sl.Report]:
    fit = sl.fit_steer(sl.collect(model, data, progress=False), seed=seed)
    return fit.value.with_background(fit.background), fit.report


def reft(model: object, data: sl.Labelled, seed: int) -> tuple[sl.Intervention, sl.Report]:
    fit = sl.fit_reft(model, data, seed=seed, progress=False)
    return fit.value, fit.report


def prompt(model: object, data: sl.Labelled, seed: int) -> tuple[sl.Intervention, sl.Report]:
    fit = sl.fit_prompt(model, data, seed=seed, progress=False)
    return fit.value, fit.report


METHODS: dict[str, Callable[[object, sl.Labelled, int], tuple[sl.Intervention, sl.Report]]] = {
    "steer": steer,
    "reft": reft,
    "prompt": prompt,
}


def draws(name: str, n: int, seeds: Sequence[int], n_test: int) -> Iterator[tuple[int, Case]]:
    """Yield each draw of the training texts; the new texts are the same.

    Raises:
        SystemExit: the model of reviews or its texts are not there.
    """
    if name == TOY:
        model, test = frozen(sl.load_model(name)), sl.toy.corpus("sentiment", n=n_test, seed=10_000)
        yield from (
            (k, Case(name, model, sl.toy.corpus("sentiment", n=n, seed=k), test)) for k in seeds
        )
        return
    found = reviews_case(name)
    if isinstance(found, str):
        raise SystemExit(f"skipped: {found}")
    for seed in seeds:
        order = torch.randperm(len(found.train), generator=torch.Generator().manual_seed(seed))
        yield (
            seed,
            found._replace(
                train=found.train.pick(order[:n].tolist()), test=found.test.first(n_test)
            ),
        )


def judged(case: Case, method: str, seed: int) -> dict[str, Any]:
    """Fit one method to one draw and judge it; whether it learned is what its report says."""
    with warnings.catch_warnings():  # what is kept from the start is a column here
        warnings.simplefilter("ignore", UserWarning)
        begun = time.process_time()
        value, report = METHODS[method](case.model, case.train, seed)
        seconds = time.process_time() - begun
    found = compare(case.model, {method: value}, case.test).iloc[0]
    trials = [trial["heldout_nll"] for trial in report.trials] if method != "steer" else []
    return {
        "margin": float(found.sign_margin), "low": float(found.low), "high": float(found.high),
        "learned": report.settings.get("epoch_kept", 1) > 0,
        "found": report.verdict is not None and report.verdict.found,
        "epoch": report.settings.get("epoch_kept"), "epochs": report.settings.get("epochs"),
        "start": trials[0] if trials else None, "best": min(trials) if trials else None, "seconds": seconds,
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Summarise the draws of each case and method: mean margin and interval, its range, what was
    learned."""
    frame = pd.DataFrame(rows)
    return frame.groupby(["case", "method"], sort=False).agg(
        draws=("draw", "count"), margin=("margin", "mean"), low=("low", "mean"), high=("high", "mean"),
        least=("margin", "min"), most=("margin", "max"), learned=("learned", "sum"), found=("found", "sum"),
        seconds=("seconds", "median"),
    )  # fmt: skip


def arguments() -> argparse.Namespace:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument(
        "--case", nargs="+", choices=(TOY, REVIEWS, "reviews-192"), default=[TOY, REVIEWS]
    )
    asked.add_argument("--method", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    asked.add_argument("--n", type=int, default=500, help="training texts")
    asked.add_argument("--test", type=int, default=500, help="new texts")
    asked.add_argument("--draws", type=int, default=1)
    asked.add_argument("--threads", type=int, default=int(os.environ["OMP_NUM_THREADS"]))
    return asked.parse_args()


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    where = setting(quick=False, threads=given.threads)
    command = shlex.join(["python", "benchmarks/rivals.py", *sys.argv[1:]])
    print(f"{where.threads} threads, {where.cpu}, torch {where.torch}", flush=True)
    rows: list[dict[str, Any]] = []
    for name in given.case:
        for draw, case in draws(name, given.n, range(given.draws), given.test):
            for method in given.method:
                row = {"case": name, "draw": draw, "method": method, **judged(case, method, draw)}
                rows.append(row)
                print(
                    f"{name}, draw {draw}, {method}: {row['margin']:+.4f} in {row['seconds']:.0f} s",
                    flush=True,
                )
                # after every fit, so that an interrupt loses one
                write(
                    command, {"setting": where._asdict(), "rows": list(map(plain, rows))}, NUMBERS
                )
    print(table(rows).to_string(float_format=lambda x: f"{x:.4g}"))


if __name__ == "__main__":
    main()
