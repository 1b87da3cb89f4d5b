"""What every rival in `steerlens/methods/baselines` is worth beside a steer, at the same cost.

    python benchmarks/baselines.py                         # the numbers of the log: 500 texts, three draws
    python benchmarks/baselines.py --method steer shift    # some of them

Each is fitted to the same labelled texts by its defaults; nothing is tuned on the texts that it is
judged on, and the draws are others than those on which the steer's defaults were chosen. A margin is
how much likelier the right sign makes a token of new texts than the wrong one, in nats per token, at
the strength where both signs together cost 0.05 nats of KL per token.
Intervals are 95 %, over the new texts; the summary shows the mean over draws, its ends the means of
the draws' ends, and in how many draws a rival is above the steer on the same texts. Every draw takes
other training texts and another seed; the new texts stay. The toy model knows no instructions: it is
asked with words of its world. Seconds are the process's own. Numbers go into
benchmarks/baselines.json under the command that made them.
"""

import argparse
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

for pool in ("OMP", "MKL"):
    os.environ.setdefault(f"{pool}_NUM_THREADS", "1")

import pandas as pd
from _measure import setting
from quality import plain, write

import steerlens as sl
from steerlens.evaluate.compare import compare
from steerlens.methods.baselines.causal_direction import fit_causal_direction
from steerlens.methods.baselines.copies import FineTuning
from steerlens.methods.baselines.ctrl import fit_ctrl
from steerlens.methods.baselines.dapt import fit_dapt
from steerlens.methods.baselines.dexperts import fit_dexperts
from steerlens.methods.baselines.dual_steering import fit_dual_steering
from steerlens.methods.baselines.fishback import fit_fishback
from steerlens.methods.baselines.gedi import fit_gedi
from steerlens.methods.baselines.instruction import instruct
from steerlens.methods.baselines.latent_vectors import fit_latent_vectors
from steerlens.methods.baselines.lm_steer_recipe import fit_lm_steer_recipe
from steerlens.methods.baselines.log_odds import fit_log_odds
from steerlens.methods.baselines.logit_bias import fit_logit_bias
from steerlens.methods.baselines.mean_difference import fit_mean_difference
from steerlens.methods.baselines.shift import fit_shift
from steerlens.methods.baselines.value_lora import fit_value_lora

NUMBERS = Path(__file__).parent / "baselines.json"
KL = 0.05
CODES = ("superb", "terrible")
ASKED = ("it was a superb film .", "it was a terrible film .")
TUNING = FineTuning(lr=3e-4, epochs=4)

Fitting = Callable[[Any, sl.Labelled, sl.States, int], Any]
METHODS: dict[str, Fitting] = {
    "steer": lambda model, data, states, seed: sl.fit_steer(states, seed=seed, progress=False),
    "authors' recipe": lambda model, data, states, seed: fit_lm_steer_recipe(states, seed=seed)[0],
    "shift": lambda model, data, states, seed: fit_shift(states, seed=seed),
    "logit bias": lambda model, data, states, seed: fit_logit_bias(states, seed=seed),
    "log-odds, top 50": lambda model, data, states, seed: fit_log_odds(states),
    "mean difference, layer 0": lambda model, data, states, seed: fit_mean_difference(
        model, data, layer=0
    ),
    "mean difference, layer 1": lambda model, data, states, seed: fit_mean_difference(
        model, data, layer=1
    ),
    "mean difference, unembedding": lambda model, data, states, seed: fit_mean_difference(
        model, data, layer="unembed"
    ),
    "latent vectors, layer 1": lambda model, data, states, seed: fit_latent_vectors(
        model, data, seed=seed
    ),
    "causal direction": lambda model, data, states, seed: fit_causal_direction(states),
    "loreft": lambda model, data, states, seed: sl.fit_reft(model, data, seed=seed, progress=False),
    "reft-r1": lambda model, data, states, seed: sl.fit_reft(
        model, data, variant="r1", rank=1, seed=seed, progress=False
    ),
    "lora of the last values": lambda model, data, states, seed: fit_value_lora(
        model, data, seed=seed, progress=False
    ),
    "dapt": lambda model, data, states, seed: fit_dapt(model, data, tuning=tuning(seed)),
    "dexperts": lambda model, data, states, seed: fit_dexperts(model, data, tuning=tuning(seed)),
    "ctrl": lambda model, data, states, seed: fit_ctrl(
        model, data, codes=CODES, tuning=tuning(seed)
    ),
    "gedi": lambda model, data, states, seed: fit_gedi(
        model, data, codes=CODES, tuning=tuning(seed)
    ),
    "instruction": lambda model, data, states, seed: instruct(model, instructions=ASKED),
    "dual steering": lambda model, data, states, seed: fit_dual_steering(
        states, n_steps=2, seed=seed
    ),
    "fishback": lambda model, data, states, seed: fit_fishback(states, n_steps=2),
}


def tuning(seed: int) -> FineTuning:
    return FineTuning(TUNING.lr, TUNING.epochs, TUNING.batch_size, seed)


def judged(
    model: Any, train: sl.Labelled, test: sl.Labelled, name: str, seed: int
) -> dict[str, Any]:
    states = sl.collect(model, train, progress=False)
    with warnings.catch_warnings():  # what learnt nothing shows in its margin
        warnings.simplefilter("ignore", UserWarning)
        begun = time.process_time()
        made = METHODS[name](model, train, states, seed)
        seconds = time.process_time() - begun
    method = made.value if isinstance(made, sl.Fit) else made
    found = compare(model, {name: method}, test, kl=KL).iloc[0]
    return {
        "draw": seed, "method": name, "margin": float(found.sign_margin), "low": float(found.low),
        "high": float(found.high), "strength": float(found.strength),
        "parameters": getattr(method, "n_parameters", None), "seconds": seconds,
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Summarise the draws of each method, best first, with the draws in which it beats the steer."""
    frame = pd.DataFrame(rows)
    steer = frame[frame.method == "steer"].set_index("draw").margin
    above = frame.margin.to_numpy() > frame.draw.map(steer).to_numpy()
    return (
        frame.assign(above=above)
        .groupby("method", sort=False)
        .agg(
            draws=("draw", "count"), margin=("margin", "mean"), low=("low", "mean"), high=("high", "mean"),
            above_steer=("above", "sum"), seconds=("seconds", "median"),
        )
        .sort_values("margin", ascending=False)
    )  # fmt: skip


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--method", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    asked.add_argument("--model", default="toy-128")
    asked.add_argument("--n", type=int, default=500, help="training texts")
    asked.add_argument("--test", type=int, default=200, help="new texts")
    asked.add_argument("--draws", type=int, default=3)
    given = asked.parse_args()
    where = setting(quick=False, threads=1)
    command = shlex.join(["python", "benchmarks/baselines.py", *sys.argv[1:]])
    model = sl.load_model(given.model)
    test = sl.toy.corpus("sentiment", n=given.test, seed=20_000)
    rows: list[dict[str, Any]] = []
    # the steer's defaults were chosen on the first draws, so none of them is here
    for draw in range(100, 100 + given.draws):
        train = sl.toy.corpus("sentiment", n=given.n, seed=draw)
        for name in given.method:
            rows.append(judged(model, train, test, name, draw))
            print(
                "draw {draw}, {method}: {margin:+.4f} at {strength:.3g}".format(**rows[-1]),
                flush=True,
            )
            # after every fit, so that an interrupt loses one
            write(command, {"setting": where._asdict(), "rows": list(map(plain, rows))}, NUMBERS)
    print(table(rows).to_string(float_format=lambda x: f"{x:.4g}"))


if __name__ == "__main__":
    main()
