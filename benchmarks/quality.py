"""How good a fit is on new texts, and how long the authors' training takes to be as good.

    python benchmarks/quality.py                 # toy-128, 400 texts, 200 steps: about a minute
    python benchmarks/quality.py --quick         # small, within a minute: whether it runs
    python benchmarks/quality.py --case toy-128 --n 400 2000 4000 --draws 5 --steps 1000
    python benchmarks/quality.py --case reviews-192 --n 300 1000 3000 all --draws 3 --steps 3000
    python benchmarks/quality.py --case smollm2-135m --n 300 2500 --steps 200
    python benchmarks/quality.py --form factors matrix --lr 1e-2 3e-3

Every draw takes other training texts (of all texts: another seed), the texts it is judged on stay.
The training is run from kept states, which is the same training; its seconds are those of steps
through the model, timed before and after the fit, times their number. Numbers go into
benchmarks/quality.json under the command that made them.

NLL is that of new texts at their own label over the background. A margin is how much likelier the
right sign makes a token than the wrong one, in texts whose label is not 0: at strength 1, and at
the strength where both signs together cost 0.05 nats of KL per token over the method's own
background, so that a training is not better for having a larger norm. Intervals are 95 %, over the
texts; where there are several draws, means of the draws' ends.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

for pool in ("OMP", "MKL"):
    os.environ.setdefault(f"{pool}_NUM_THREADS", "2")

import pandas as pd
import torch
from _measure import setting, take
from _models import SMOLLM2, TOY, Case, frozen, reviews_case
from _recipe import through_model

import steerlens as sl
from steerlens.evaluate.losses import measure, sign_margins
from steerlens.maths.stats import bootstrap_ratio
from steerlens.methods.baselines.lm_steer_recipe import (
    OF_PAPER,
    OFFICIAL,
    Recipe,
    through_states,
    training_steps,
)
from steerlens.values.steer import zero_steer

NUMBERS = Path(__file__).parent / "quality.json"
KL = 0.05
"""Nats per token at which margins are compared."""
SHOWN = (50, 100, 200, 400, 1000, 3000)
"""Steps of the training that are judged, next to the last and the one at which the fit is done."""
TIMED = 5
"""Steps through the model that are timed, before the fit and after it."""
CALIBRATED_ON = 8_192
"""Positions of the new texts, the same for all methods."""


class Fitted(NamedTuple):
    """A steer, its background, and the strength that a label of 1 asks for."""

    value: sl.Steer
    background: sl.Steer
    strength: float = 1.0


class Judged(NamedTuple):
    """What new texts say of a fit, in nats per token.

    `gains` (nats, at equal KL over the background) and `tokens` are those of each text with a sign;
    `alone` is the margin at equal KL over the plain model, with its interval.
    """

    nll: float
    background: float
    at_one: float
    strength: float
    alone: tuple[float, float, float]
    gains: torch.Tensor
    tokens: torch.Tensor

    def margin(self, less: "Judged | None" = None) -> tuple[float, float, float]:
        """Return the margin at equal KL, or what it is more than another's, with its interval."""
        gains = self.gains if less is None else self.gains - less.gains
        return bootstrap_ratio(gains.numpy(), self.tokens.numpy())


def judge(held: sl.States, fit: Fitted) -> Judged:
    """Judge any fit on new texts."""
    value, background = fit.value, fit.background
    losses = measure(held, value, background, strength=fit.strength).all
    strength = sl.strength_at_kl(
        value.with_background(background), held.sample(CALIBRATED_ON, seed=0), kl=KL
    )
    signed = held.select(held.labels != 0)
    at_one, at_kl = sign_margins(signed, [fit.strength * value, strength * value], background)[
        :, signed.keep
    ]
    tokens = signed.lengths[signed.keep].double()
    # over the plain model: a background that harms it makes room for a margin, see LOG
    same = sl.strength_at_kl(value, held.sample(CALIBRATED_ON, seed=0), kl=KL) * value
    over_plain = sign_margins(signed, [same], zero_steer(held.readout))[0, signed.keep]
    alone = bootstrap_ratio(over_plain.numpy(), tokens.numpy())
    one = float(at_one.sum() / tokens.sum())
    return Judged(losses.steered, losses.background, one, strength, alone, at_kl, tokens)


# ---- cases ----


def cases(
    name: str, sizes: Sequence[int], draws: range, n_test: int, fresh: bool
) -> Iterator[tuple[int, int, Case]]:
    """Yield each size, draw and case; a size of 0 is all texts, where there is an end of them.

    Fresh ones are judged on texts on which nothing of the fit was ever chosen.

    Raises:
        SystemExit: reviews-192 or its texts are not there.
    """
    if name.startswith("toy"):
        test = sl.toy.corpus("sentiment", n=n_test, seed=20_000 if fresh else 10_000)
        model = frozen(sl.load_model(name))
        for n, seed in product(sizes, draws):
            yield n, seed, Case(name, model, sl.toy.corpus("sentiment", n=n, seed=seed), test)
        return
    found = reviews_case(name)
    if isinstance(found, str):
        raise SystemExit(f"skipped: {found}")
    if fresh:  # no test sentences are beside the repository: some of the training file are set aside for it
        apart = torch.randperm(
            len(found.train), generator=torch.Generator().manual_seed(20_000)
        ).tolist()
        found = found._replace(
            train=found.train.pick(apart[n_test:]), test=found.train.pick(apart[:n_test])
        )
    for n, seed in product(sizes, draws):
        order = torch.randperm(len(found.train), generator=torch.Generator().manual_seed(seed))
        train = found.train.pick(order[:n].tolist()) if n else found.train
        yield (
            len(train),
            seed,
            found._replace(name=name, train=train, test=found.test.first(n_test)),
        )


# ---- one draw ----


def timed(run: Callable[..., Any], *given: Any) -> tuple[Any, float]:
    begun = time.perf_counter()
    found = run(*given)
    return found, time.perf_counter() - begun


def compare(
    case: Case,
    held: sl.States,
    hows: Sequence[Recipe],
    steps: int,
    seed: int,
    solvers: Sequence[str] = ("auto",),
) -> Iterator[tuple[dict[str, Any], Judged]]:
    """Yield the fit by each solver, the first as "ours", then each training at its shown steps.

    Each with what it is, its seconds and how good it is.
    """
    model, train = case.model, case.train
    sl.collect(model, train.first(8), progress=False)  # warms up
    whole = {
        how: training_steps(through_model(model, train), train, held.d_model, how, seed=seed)
        for how in hows
    }
    for steps_of_it in whole.values():
        take(steps_of_it, 1)
    before = {how: timed(take, whole[how], TIMED)[1] for how in hows}
    states, collecting = timed(lambda: sl.collect(model, train, progress=False))
    fits = {
        solver: timed(lambda solver=solver: sl.fit_steer(states, solver=solver, seed=seed))
        for solver in solvers
    }
    after = {how: timed(take, whole[how], TIMED)[1] for how in hows}
    ours = collecting + fits[solvers[0]][1]
    for solver, (fit, fitting) in fits.items():
        method = "ours" if solver == solvers[0] else f"ours, {solver}"
        yield (
            {"method": method, "solver": solver, "seconds": collecting + fitting},
            judge(held, Fitted(fit.value, fit.background, fit.report.strength)),
        )
    for how in hows:
        a_step = (before[how] + after[how]) / (2 * TIMED)
        same_time = max(int(ours / a_step), 1)
        stops = {s for s in (*SHOWN, steps, same_time) if s <= steps}
        for step, replayed, rival in snapshots(
            training_steps(through_states(states), train, held.d_model, how, seed=seed), stops, held
        ):
            about = {
                "method": how.form, "lr": how.lr, "l2": how.l2, "step": step, "seconds": step * a_step,
                "seconds on kept states": collecting + replayed, "in our time": step == same_time,
            }  # fmt: skip
            yield about, judge(held, rival)


def snapshots(
    steps: Iterator[tuple[torch.Tensor, torch.Tensor]], stops: set[int], held: sl.States
) -> Iterator[tuple[int, float, Fitted]]:
    """Yield some steps of a training, each with the seconds until there.

    What is done between them does not count.
    """
    done, seconds = 0, 0.0
    for stop in sorted(stops):
        (W, D), taken = timed(take, steps, stop - done)
        done, seconds = stop, seconds + taken
        yield stop, seconds, Fitted(sl.Steer(W, held.readout), sl.Steer(D, held.readout))


def rows_of(found: Iterator[tuple[dict[str, Any], Judged]]) -> Iterator[dict[str, Any]]:
    """Turn what was judged into plain numbers, each training also less ours (the first)."""
    ours = None
    for about, judged in found:
        ours = ours or judged
        margin, low, high = judged.margin()
        more = ours.margin(judged)
        yield {
            **about, "NLL": judged.nll, "background": judged.background, "margin at 1": judged.at_one,
            "strength": judged.strength, "margin alone": judged.alone[0], "alone, low": judged.alone[1],
            "alone, high": judged.alone[2], "margin": margin, "low": low, "high": high,
            "ours more": more[0], "ours more, low": more[1], "ours more, high": more[2],
        }  # fmt: skip


# ---- what follows ----


def verdict(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Derive of one draw when the training is as good as ours, and how good it is in our time.

    Args:
        rows: ours first, then the training's, by step.
    """
    ours, *theirs = rows
    equal = next((row for row in theirs if row["margin"] >= ours["margin"]), None)
    same = next((row for row in theirs if row["in our time"]), None)
    better = next((row for row in theirs if row["NLL"] <= ours["NLL"]), None)
    last = theirs[-1]
    return {
        "within": last["step"],
        "equal margin at step": equal and equal["step"],
        "equal margin, times our seconds": equal and equal["seconds"] / ours["seconds"],
        "equal margin on kept states, times": equal
        and equal["seconds on kept states"] / ours["seconds"],
        "equal NLL at step": better and better["step"],
        "equal NLL, times our seconds": better and better["seconds"] / ours["seconds"],
        "in our time, step": same and same["step"],
        "in our time, ours more": same and same["ours more"],
        "in our time, ours more, low": same and same["ours more, low"],
        "in our time, ours more, high": same and same["ours more, high"],
        "all steps, times our seconds": last["seconds"] / ours["seconds"],
    }


def say(verdicts: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Say of several draws what was derived; medians of those draws in which it happened."""
    within = max(v["within"] for v in verdicts)
    for what in ("margin", "NLL"):
        reached = [v for v in verdicts if v[f"equal {what} at step"]]
        if not reached:
            yield f"as good as ours in {what}: not within {within:,} steps"
            continue
        step, times = (
            pd.Series([v[f"equal {what}{key}"] for v in reached]).median()
            for key in (" at step", ", times our seconds")
        )
        yield (
            f"as good as ours in {what}: {len(reached)} of {len(verdicts)} draws, by step {step:,.0f}, "
            f"{times:.1f} × our seconds"
        )
    same = [v for v in verdicts if v["in our time, step"]]
    if same:
        keys = ("step", "ours more", "ours more, low", "ours more, high")
        step, more, low, high = pd.DataFrame(same)[[f"in our time, {key}" for key in keys]].mean()
        yield f"in our time ({step:.0f} steps): our margin is {more:+.4f} [{low:+.4f}, {high:+.4f}] nats more"
    else:
        yield f"in our time: more than {within:,} steps"


def of_draw(rows: Sequence[dict[str, Any]], draw: int, how: Recipe) -> list[dict[str, Any]]:
    """Pick one draw's rows: ours and one training's."""
    wanted = (("ours", None), (how.form, how.lr))
    return [r for r in rows if r["draw"] == draw and (r["method"], r.get("lr")) in wanted]


def report(
    name: str, n: int, rows: Sequence[dict[str, Any]], hows: Sequence[Recipe]
) -> list[dict[str, Any]]:
    """Print one size: a table of means over the draws, and what follows; return what follows."""
    frame = pd.DataFrame(rows).fillna({"lr": 0, "step": 0})
    # the step at our time differs by draw, so it has a line of its own
    frame["step"] = (
        frame["step"]
        .astype(int)
        .astype(str)
        .where(~frame["in our time"].fillna(False).astype(bool), "our time")
    )
    kept = frame.drop(columns=["draw", "l2", "n", "in our time", "solver"])
    means = kept.groupby(["method", "lr", "step"], sort=False).mean()
    print(f"\n{name}, {n:,} texts, {frame['draw'].nunique()} draws")
    print(means.to_string(float_format=lambda x: f"{x:.4g}"), flush=True)
    derived = []
    for how in hows:
        by_draw = [verdict(of_draw(rows, draw, how)) for draw in frame["draw"].unique().tolist()]
        print(f"{how.form}, lr {how.lr:g}: " + "; ".join(say(by_draw)), flush=True)
        derived += [
            {"n": n, "method": how.form, "lr": how.lr, "draw": k, **v}
            for k, v in enumerate(by_draw)
        ]
    return derived


def write(command: str, found: dict[str, Any], path: Path = NUMBERS) -> None:
    """Keep numbers under their command, in place of those it made before."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(
        json.dumps({**kept, command: found}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: float(f"{x:.6g}") if isinstance(x, float) else x for key, x in row.items()}


def arguments() -> argparse.Namespace:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--quick", action="store_true", help="toy-64, 200 texts, 60 steps")
    asked.add_argument(
        "--case", choices=("toy-64", TOY, "toy-96-llama", "reviews-192", SMOLLM2.name), default=TOY
    )
    asked.add_argument(
        "--n", nargs="+", type=lambda text: 0 if text == "all" else int(text), default=[400]
    )
    asked.add_argument("--test", type=int, default=500, help="new texts; reviews-192 has 1,101")
    asked.add_argument("--draws", type=int, default=1)
    asked.add_argument(
        "--fresh",
        action="store_true",
        help="draws from the 101st on, judged on texts kept for this",
    )
    asked.add_argument("--steps", type=int, default=200, help="of the training")
    asked.add_argument("--form", nargs="+", choices=("factors", "matrix"), default=["factors"])
    asked.add_argument(
        "--solver", nargs="+", default=["auto"], help="ours; the first is compared in time"
    )
    asked.add_argument("--lr", nargs="+", type=float, default=[OFFICIAL.lr])
    asked.add_argument("--l2", type=float, default=OFFICIAL.l2, help="of the factors")
    asked.add_argument("--threads", type=int, default=int(os.environ["OMP_NUM_THREADS"]))
    given = asked.parse_args()
    if given.quick:
        given.case, given.n, given.test, given.draws, given.steps = "toy-64", [200], 200, 1, 60
    if 0 in given.n and given.case.startswith("toy"):
        asked.error(f"--n all: {given.case} writes as many texts as it is asked for; give a number")
    return given


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    where = setting(quick=given.quick, threads=given.threads)
    command = shlex.join(["python", "benchmarks/quality.py", *sys.argv[1:]])
    print(f"{where.threads} threads, {where.cpu}, torch {where.torch}", flush=True)
    l2 = {"factors": given.l2, "matrix": OF_PAPER.l2}
    hows = [Recipe(form, lr, l2[form]) for form, lr in product(given.form, given.lr)]
    rows: list[dict[str, Any]] = []
    derived: list[dict[str, Any]] = []
    held = None
    draws = range(100, 100 + given.draws) if given.fresh else range(given.draws)
    for n, draw, case in cases(given.case, given.n, draws, given.test, given.fresh):
        held = held or sl.collect(case.model, case.test, progress=False)
        for row in rows_of(compare(case, held, hows, given.steps, draw, given.solver)):
            rows.append({"n": n, "draw": draw, **row})
            at = f"{row['method']} {row.get('step', '')}".strip()
            print(f"{n:,} texts, draw {draw}, {at}: margin {row['margin']:.4f}", flush=True)
        if draw == draws[-1]:
            derived += report(given.case, n, [row for row in rows if row["n"] == n], hows)
        numbers = {
            "setting": where._asdict(),
            "rows": list(map(plain, rows)),
            "derived": list(map(plain, derived)),
        }
        write(command, numbers)  # after every draw, so that an interrupt loses one


if __name__ == "__main__":
    main()
