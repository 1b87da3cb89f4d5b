"""How a fit grows with tokens, vocabulary and d_model, up to the shape of a large model's read-out.

    python benchmarks/growth.py                 # what growth.json lacks, a process per point
    python benchmarks/growth.py --only tokens   # one axis: tokens, vocabulary, d_model, shapes
    python benchmarks/growth.py --again         # all of it anew
    python benchmarks/sizes.py --page           # the tables into docs/scale.md; measures nothing

States are synthetic, with a steer and a background of four directions planted in what follows them.
Seconds are of one processor core, which what else runs on the machine hardly changes; gigabytes are
of the process, before and at the most. A point is one of

    sums     what a metric and a closed form are made of, one pass
    fit      `fit_steer` as it is
    short    `fit_steer` with few steps, see SHORT

and says what its seconds went to: products of matrices, decompositions, everything else. A fit at the
shape of Llama-3-8B takes longer than a benchmark should, so a short one is measured at a wide shape,
and how much of each kind of work a whole fit does is counted at a d_model of 72, where it is quick;
`whole` does the sum, and the points at SmolLM2's shape hold it against a whole fit.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import _measure
import torch
from torch.overrides import TorchFunctionMode

import steerlens as sl
from steerlens.maths.logits import quickest
from steerlens.methods.steer import background, evidence, judge
from steerlens.methods.steer.problem import sums_over
from steerlens.values.states import Shard

RESULTS = Path(__file__).parent / "growth.json"
LENGTH = 25
"""Tokens per text."""
SMALL = 72
"""The d_model at which work is counted: no other dimension of any product is the same."""
SHORT: tuple[tuple[Any, str, Any], ...] = (
    (background, "FEWEST", 256), (background, "AGAIN", 1), (evidence, "TRIAL", (1_024, 1)), (evidence, "ROUGHLY", (2_048, 1)),
    (evidence, "FEWEST", 1), (evidence, "MOST", 1), (judge, "MIXES", (0.0,)),
)  # fmt: skip
"""One step where a fit takes many, and one mix of the priors where it tries five."""

SHORT_AT = (
    {"d_model": 576, "vocabulary": 49_152}, {"d_model": 4_096, "vocabulary": 200_000},
)  # fmt: skip
"""SmolLM2-135M's read-out, and the widest that was tried."""
PEAK = {"bfloat16": 0.4 * 989e12, "float32": 0.4 * 67e12, "float64": 0.4 * 67e12}
CUBES = {"linalg_svd": 22.0, "linalg_eigh": 9.0, "linalg_matrix_norm": 8 / 3}
"""Operations of the usual algorithms, in cubes of d_model (Golub and Van Loan)."""
DECOMPOSES = 1e12
"""Assumed of one H100, as the rates of `PEAK` are."""

Point = dict[str, Any]
AXES: dict[str, list[Point]] = {
    "tokens": [
        {"kind": kind, "tokens": n, "d_model": 256, "vocabulary": 32_000}
        for kind in ("sums", "fit")
        for n in (1_000, 4_000, 16_000)
    ],
    "vocabulary": [
        {"kind": kind, "tokens": 1_000, "d_model": 128, "vocabulary": v}
        for kind in ("sums", "fit")
        for v in (12_500, 50_000, 200_000)
    ],
    "d_model": [
        *({"kind": "sums", "tokens": 1_000, "d_model": d, "vocabulary": 8_192} for d in (256, 1_024, 4_096)),
        {"kind": "sums", "tokens": 1_000, "d_model": 4_096, "vocabulary": 200_000},
        *({"kind": "fit", "tokens": 1_000, "d_model": d, "vocabulary": 8_192} for d in (256, 512, 1_024)),
    ],
    "shapes": [
        *({"kind": "short", "tokens": 200, "d_model": d, "vocabulary": 49_152} for d in (SMALL, 576)),
        *({"kind": "fit", "tokens": 20_000, "d_model": d, "vocabulary": 49_152} for d in (SMALL, 576)),
        *({"kind": "short", "tokens": 200, "d_model": d, "vocabulary": 200_000} for d in (SMALL, 4_096)),
        {"kind": "fit", "tokens": 20_000, "d_model": SMALL, "vocabulary": 128_256},
    ],
}  # fmt: skip


# ---- one point, in a process of its own ----


class Work(TorchFunctionMode):
    """What the block's seconds go to.

    Products by their dtype, their floating-point operations parted by how many of the three
    dimensions are d_model; decompositions by name.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.flops: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        begun = time.process_time()
        made = func(*args, **(kwargs or {}))
        took, name = time.process_time() - begun, getattr(func, "__name__", "")
        if name in ("matmul", "mm", "addmm"):
            a, b = args[-2:]
            sizes = (math.prod(made.shape[:-1]), a.shape[-1], b.shape[-1])
            kind = str(a.dtype).removeprefix("torch.")
            self.flops[f"{kind}, d^{sizes.count(self.d_model)}"] += 2 * math.prod(sizes)
            self.seconds[kind] += took
        elif name in ("linalg_svd", "linalg_eigh", "linalg_matrix_norm", "linalg_qr"):
            self.calls[name] += 1
            self.seconds[name] += took
        return made


def synthetic(n: int, d: int, vocab: int) -> sl.States:
    """States after which words of a planted steer and background are likelier than others."""
    random = torch.Generator().manual_seed(0)
    W_U = torch.empty(d, vocab)
    for row in W_U:
        torch.randn(vocab, generator=random, out=row)
    W_U /= d**0.5
    text = torch.arange(n // LENGTH).repeat_interleave(LENGTH)
    labels = torch.tensor([1.0, -1.0]).repeat(n)[: n // LENGTH]
    c = torch.randn(len(text), d, generator=random)
    shared, steer = (
        torch.randn(d, 4, generator=random) @ torch.randn(4, d, generator=random) / d
        for _ in range(2)
    )
    following = []
    for some, y in zip(c.split(64), labels[text].split(64), strict=True):
        words = torch.randint(vocab, (len(some), 32), generator=random)  # of which one follows
        moved = some + some @ shared + y[:, None] * (some @ steer)
        z = (moved[:, None] * W_U.mT[words]).sum(2)
        chance = -torch.empty_like(z).exponential_(generator=random).log()
        following.append(words.gather(1, (z + chance).argmax(1)[:, None]).squeeze(1))
    on = sl.Readout(W_U, torch.zeros(vocab), tuple(map(str, range(vocab))))
    shard = Shard(c, torch.cat(following), text)
    lengths = torch.full((len(labels),), LENGTH)
    return sl.States(on, (shard,), labels, lengths, torch.ones(len(labels), dtype=torch.bool))


def memory(name: str) -> float:
    """Gigabytes of this process: `VmRSS` now, `VmHWM` at the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024 / 1e9


def measured(kind: str, tokens: int, d_model: int, vocabulary: int) -> Point:
    states = synthetic(tokens, d_model, vocabulary)
    run = {
        "sums": lambda: sums_over(states, "labels", quickest(states.readout.head)),
        "fit": lambda: sl.fit_steer(states, progress=False),
    }["sums" if kind == "sums" else "fit"]
    run_small = synthetic(200, 32, 512)
    sums_over(run_small, "labels")  # loads what is loaded on first use
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is forgotten
    before, work = memory("VmRSS"), Work(d_model)
    with ExitStack() as held:
        for where, name, value in SHORT if kind == "short" else ():
            held.enter_context(patch.object(where, name, value))
        begun = time.process_time()
        with work:
            run()
        seconds = time.process_time() - begun
    counted = {"flops": work.flops, "calls": work.calls, "seconds of": work.seconds}
    return {
        "seconds": round(seconds, 3), "GB before": round(before, 3), "GB at most": round(memory("VmHWM"), 3),
        **{name: {k: round(x, 3) for k, x in sorted(found.items())} for name, found in counted.items()},
    }  # fmt: skip


# ---- what follows from the points ----


def points() -> list[Point]:
    return json.loads(RESULTS.read_text(encoding="utf-8"))["points"] if RESULTS.exists() else []


def point(**key: Any) -> Point:
    return next(p for p in points() if key.items() <= p.items())


def measured_all(axis: str) -> bool:
    known = points()
    return all(any(key.items() <= p.items() for p in known) for key in AXES[axis])


def parts(found: Point) -> dict[str, float]:
    """Seconds of products, of decompositions, and of everything else."""
    products = sum(s for kind, s in found["seconds of"].items() if "linalg" not in kind)
    known = sum(found["seconds of"].values())
    return {
        "products": products,
        "decompositions": known - products,
        "else": found["seconds"] - known,
    }


def flops_at(found: Point, kind: str, d_model: int) -> float:
    """Floating-point operations of a kind of products, from those counted at another d_model."""
    times = d_model / found["d_model"]
    return sum(
        n * times ** int(name[-1])
        for name, n in found["flops"].items()
        if name.startswith(f"{kind},")
    )


def whole(short: Point, d_model: int, vocabulary: int) -> dict[str, float]:
    """Seconds of the whole fit to 20,000 tokens, from a short one of some shape and what was counted
    with that vocabulary: as much work of each kind, done as fast as there."""
    counted = point(kind="fit", d_model=SMALL, vocabulary=vocabulary)
    times, total = d_model / short["d_model"], dict.fromkeys(("products", "decompositions"), 0.0)
    for kind, seconds in short["seconds of"].items():
        if "linalg" in kind:
            # below 512 dimensions no low rank is looked for, which is what QR is for
            of = "linalg_svd" if kind == "linalg_qr" else kind
            calls = counted["calls"][of] / short["calls"][of]
            total["decompositions"] += seconds * calls * times**3
        else:
            here = flops_at(short, kind, short["d_model"])
            total["products"] += seconds * flops_at(counted, kind, d_model) / here
    # what is done to words does not know d_model; what is done to matrices, once per step, does
    few = point(kind="short", d_model=SMALL, vocabulary=short["vocabulary"])
    of_matrices = (parts(short)["else"] - parts(few)["else"]) * times**2
    steps = counted["calls"]["linalg_svd"] / short["calls"]["linalg_svd"]
    return {**total, "else": parts(counted)["else"] + steps * of_matrices}


def exponents(axis: str, kind: str) -> list[tuple[Point, float | None]]:
    """Return the points of an axis that were measured, and between each and the one before it the
    power of the axis that its seconds grow with; None where something else differs too."""
    known, found = points(), []
    for key in (key for key in AXES[axis] if key["kind"] == kind):
        here = next((p for p in known if key.items() <= p.items()), None)
        if here is None:  # not yet
            continue
        power, before = None, found[-1][0] if found else None
        if before and all(before[name] == x for name, x in key.items() if name != axis):
            ratio = here["seconds"] / before["seconds"]
            power = math.log(ratio) / math.log(here[axis] / before[axis])
        found.append((here, power))
    return found


def on_gpu(vocabulary: int, d_model: int) -> float:
    """Seconds of the products and decompositions of the whole fit on one H100, by arithmetic."""
    counted = point(kind="fit", vocabulary=vocabulary, d_model=SMALL)
    products = sum(flops_at(counted, kind, d_model) / rate for kind, rate in PEAK.items())
    return products + sum(
        n * CUBES[name] * d_model**3 / DECOMPOSES for name, n in counted["calls"].items()
    )


def gigabytes(short: Point, d_model: int, vocabulary: int) -> float:
    """What the fit holds beside the model and its states: `W_U` in float32, its copy in bfloat16,
    and what a short fit held beyond those, which grows as d_model squared."""
    copy = 2e-9 * short["d_model"] * short["vocabulary"]
    more = short["GB at most"] - short["GB before"] - copy
    return 6e-9 * d_model * vocabulary + more * (d_model / short["d_model"]) ** 2


def growth_table() -> str:
    rows = [
        "| | tokens | d_model | vocabulary | processor seconds | power of the growing one | products, decompositions, "
        "rest | `W_U`, GB | GB beyond what was there |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    names = {"sums": "sums of one pass", "fit": "fit"}
    for axis in ("tokens", "vocabulary", "d_model"):
        for kind, name in names.items():
            for p, power in exponents(axis, kind):
                shares = ", ".join(f"{seconds / p['seconds']:.0%}" for seconds in parts(p).values())
                rows.append(
                    f"| {name} | {p['tokens']:,} | {p['d_model']:,} | {p['vocabulary']:,} | {_measure.show(p['seconds'])} | "
                    f"{'' if power is None else f'{power:.2f}'} | {shares} | {4e-9 * p['d_model'] * p['vocabulary']:.2f} | "
                    f"{p['GB at most'] - p['GB before']:.2f} |"
                )
    return "\n".join(rows)


def fit_table() -> str:
    """The cost of a whole fit at real shapes; needs all points of the axis `shapes`."""
    small, widest = (point(kind="short", **shape) for shape in SHORT_AT)
    real = point(kind="fit", tokens=20_000, **SHORT_AT[0])
    told = [("SmolLM2-135M", small, 576, 49_152, parts(real), "measured")]
    told += [
        (name, short, d, v, whole(short, d, v), "arithmetic")
        for name, short, d, v in (
            ("SmolLM2-135M", small, 576, 49_152), ("Llama-3-8B", widest, 4_096, 128_256), ("Llama-3-70B", widest, 8_192, 128_256),
        )
    ]  # fmt: skip
    rows = [
        "| read-out of | one CPU core | of which products, decompositions, rest | memory beside model and states | one H100 |",
        "|---|---|---|---|---|",
    ]
    for name, short, d, vocabulary, seconds, how in told:
        total = sum(seconds.values())
        shares = ", ".join(f"{part / total:.0%}" for part in seconds.values())
        gpu = f"{on_gpu(vocabulary, d):.0f} s (assumed rates)" if d >= 4_096 else "–"
        held = gigabytes(short, d, vocabulary)
        rows.append(f"| {name} | {duration(total)} ({how}) | {shares} | {held:.1f} GB | {gpu} |")
    most = widest["GB at most"] - widest["GB before"]
    W_U = 4e-9 * widest["d_model"] * widest["vocabulary"]
    cpu = real["setting"]["cpu"]
    cpu += "" if "bfloat16" in cpu else " without bfloat16"
    about = (
        f"Fits to {real['tokens']:,} tokens with all defaults, on a core of an {cpu}. Arithmetic: a short fit is measured at the "
        "shape, and how much more of each kind of work the whole one is was counted with few "
        "dimensions (`python benchmarks/growth.py`); the first two rows hold that against a whole fit. "
        f"With 200,000 words of 4,096 dimensions, `W_U` of {W_U:.2f} GB, the fit held {most:.2f} GB beyond "
        "it at the most. Memory is `W_U` in float32, where the processor multiplies that its copy in "
        "bfloat16, and the fit's own matrices. "
        "Assumed of an H100: 40 % of its data sheet's dense bfloat16 peak, as much of its float32 peak "
        "outside of the matrix units, and 1 TFLOP/s for decompositions; no GPU was measured."
    )
    return "\n".join(rows) + f"\n\n{about}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--only", choices=AXES)
    asked.add_argument("--again", action="store_true")
    asked.add_argument("--point", nargs=4, metavar=("KIND", "TOKENS", "D_MODEL", "VOCABULARY"))
    given = asked.parse_args()
    if given.point:
        kind, *sizes = given.point
        print(json.dumps(measured(kind, *map(int, sizes))))
        return
    setting = _measure.setting(quick=False, threads=1)._asdict()
    for key in (p for axis, some in AXES.items() if given.only in (None, axis) for p in some):
        found = points()
        if not given.again and any(key.items() <= p.items() for p in found):
            continue
        child = [sys.executable, __file__, "--point", *map(str, key.values())]
        env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        out = subprocess.run(child, check=True, capture_output=True, text=True, env=env).stdout
        new = {**key, **json.loads(out.splitlines()[-1]), "setting": setting}
        kept = [p for p in found if not key.items() <= p.items()]
        text = json.dumps({"points": [*kept, new]}, indent=1)
        RESULTS.write_text(text + "\n", encoding="utf-8")
        print(key, new["seconds"], new["GB before"], new["GB at most"], parts(new), flush=True)


if __name__ == "__main__":
    main()
