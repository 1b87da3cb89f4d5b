"""What a steer loses on its way through logits alone, beside what rounding alone does.

    python benchmarks/from_logits.py                         # toy-128 and its texts
    python benchmarks/from_logits.py --model FOLDER --train FILE --test FILE
    python benchmarks/from_logits.py --model FOLDER --test FILE --random 8    # a random steer of rank 8

A steer is fitted (or drawn, and scaled to 0.05 nats), and its logits at strength 3 are had in two
ways on contexts of held-out texts: from the hidden states (`c' W_U`, the truth), and by
`LogitSteer.apply` from the plain model's logits as they come out of a model in float32, bfloat16 or
float16. In nats per token, with 95 % over texts (a t interval): the size of the steer KL(steered ‖
plain), KL(true ‖ from logits), and what rounding the true logits to the dtype does by itself. The
table goes into from_logits.json too.
"""

import argparse
import json
import os
from pathlib import Path

for pool in ("OMP", "MKL"):
    os.environ.setdefault(f"{pool}_NUM_THREADS", "2")

import pandas as pd
import torch
from torch import Tensor

import steerlens as sl
from steerlens.maths.logits import logits
from steerlens.maths.stats import mean_interval
from steerlens.values.readout import Readout

STRENGTH = 3.0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OUT = Path(__file__).with_suffix(".json")


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of each row of logits, nats, in float64."""
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def random_steer(states: sl.States, rank: int) -> sl.Steer:
    """A seeded steer that costs 0.05 nats per token at strength 1."""
    d, r = states.d_model, torch.Generator().manual_seed(0)
    W = torch.randn(d, rank, generator=r) @ torch.randn(rank, d, generator=r) / d
    steer = sl.Steer(W, states.readout, "random")
    return sl.strength_at_kl(steer, states, kl=0.05) * steer


def compare(joy: sl.Steer, states: sl.States, dtype: str) -> dict[str, Tensor]:
    """Sums over the positions of each text: the steer, the way through logits, rounding alone."""
    r, kind = joy.readout, DTYPES[dtype]
    on = Readout(r.W_U.to(kind), r.b_U.to(kind), r.tokens, r.special, r.scale, r.softcap)
    steer = sl.Steer(joy.W, on, joy.name)
    it = sl.export.logit_steer(steer, max_gain=1e3)
    exact = on.head._replace(W_U=on.W_U.double(), b_U=on.b_U.double())
    found: dict[str, list[Tensor]] = {"size": [], "from logits": [], "rounding alone": []}
    for chunk in states.chunks(256):
        c = chunk[0].double()
        plain, true = logits(exact, c), logits(exact, c + STRENGTH * c @ joy.W.double())
        found["size"].append(kl(true, plain))
        found["from logits"].append(kl(true, it.apply(plain.to(kind).float(), STRENGTH)))
        found["rounding alone"].append(kl(true, true.to(kind)))
    return {"gain": torch.tensor(it.gain), **{k: torch.cat(x) for k, x in found.items()}}


def rows(name: str, joy: sl.Steer, states: sl.States) -> list[dict[str, object]]:
    """A row per dtype, for the whole steer and, if it has more, for its nearest of rank 4."""
    table = []
    for steer in (joy, *([joy.truncate(4)] if int(torch.linalg.matrix_rank(joy.W)) > 4 else [])):
        for dtype in DTYPES:
            measured = compare(steer, states, dtype)
            gain = float(measured.pop("gain"))
            row: dict[str, object] = {
                "model": name,
                "rank": int(torch.linalg.matrix_rank(steer.W)),
                "logits": dtype,
                "gain at strength 3": round(STRENGTH * gain, 2),
            }
            n = states.sum_by_text(torch.ones(states.n_positions)).double()
            for what, x in measured.items():
                per_text = states.sum_by_text(x.float()).double() / n.clamp_min(1)
                mean, low, high = mean_interval(per_text[n > 0].numpy())
                row[what] = f"{mean:.2g} [{low:.2g}, {high:.2g}]"
            table.append(row)
    return table


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--model", default="toy-128")
    asked.add_argument("--train", help="labelled texts; none: the toy world's")
    asked.add_argument("--test")
    asked.add_argument("--texts", type=int, default=2000, help="to fit on; a tenth to measure on")
    asked.add_argument("--positions", type=int, default=2000, help="to measure on")
    asked.add_argument("--random", type=int, help="rank of a random steer, instead of a fit")
    given = asked.parse_args()
    model = sl.load_model(given.model)
    n = given.texts // 10
    toy = sl.toy.corpus("sentiment", n=given.texts + n, seed=0)
    test = sl.read_labelled(given.test)[:n] if given.test else toy[given.texts :]
    states = sl.collect(model, test, progress=False).sample(given.positions, seed=0)
    if given.random:
        joy = random_steer(states, given.random)
    else:
        train = sl.read_labelled(given.train)[: given.texts] if given.train else toy[: given.texts]
        joy = sl.fit_steer(sl.collect(model, train, progress=False), progress=False).value
    table = rows(Path(given.model).name, joy, states)
    earlier = json.loads(OUT.read_text(encoding="utf-8")) if OUT.is_file() else []
    kept = [row for row in earlier if row["model"] != Path(given.model).name]
    OUT.write_text(json.dumps(kept + table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(pd.DataFrame(table).to_string(index=False))


if __name__ == "__main__":
    main()
