"""What collecting states of large models costs, by arithmetic from what was measured on a small one,
and what a fit to them costs, which `growth.py` measures.

    python benchmarks/sizes.py             # the tables, as docs/scale.md has them
    python benchmarks/sizes.py --page      # into docs/scale.md; measures nothing

Work per token is 2 floating-point operations per weight of the layers. The rate of two CPU cores is
that of the line `collect` in results.json, which `benchmarks/run.py --only collect` measures; that of
a GPU is an assumption, written as such.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import _measure
import growth

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
TOKENS = 1_000_000
H100 = 0.4 * 989e12
"""Assumed: 40 % of the dense bfloat16 peak of its data sheet."""


class Shape(NamedTuple):
    name: str
    layers: int
    d_model: int
    d_ff: int
    d_kv: int
    vocab: int
    gated: bool = True

    @property
    def weights(self) -> int:
        """Of the layers, without embeddings, norms and biases."""
        attention = 2 * self.d_model * (self.d_model + self.d_kv)
        return self.layers * (attention + (2 + self.gated) * self.d_model * self.d_ff)


MEASURED = Shape("GPT-2 small (random weights)", 12, 768, 3072, 768, 50_257, gated=False)
SHAPES = (
    MEASURED,
    Shape("SmolLM2-135M", 30, 576, 1536, 192, 49_152),
    Shape("Llama-3-8B", 32, 4096, 14_336, 1024, 128_256),
    Shape("Llama-3-70B", 80, 8192, 28_672, 1024, 128_256),
)


def hours(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.0f} h"


def table() -> str:
    line = _measure.read_results()["collect"]
    rate = next(r["value"] for r in line["ratios"] if r["name"].startswith("tokens"))
    flops = 2 * MEASURED.weights * rate
    where = line["setting"]
    rows = [
        f"| model | GFLOP per token | two CPU cores, {TOKENS:,} tokens | one H100 | states, float32 | states, "
        "bfloat16 | weights of the layers, bfloat16 | read-out, bfloat16 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for s in SHAPES:
        work, states = 2 * s.weights * TOKENS, TOKENS * s.d_model / 1e9
        cpu = f"{hours(work / flops)} ({'measured rate' if s is MEASURED else 'arithmetic'})"
        # a small model does not keep such a device busy
        gpu = f"{hours(work / H100)} (assumed rate)" if s.d_model >= 4096 else "–"
        each = 2 * s.weights / 1e9
        rows.append(
            f"| {s.name} | {each:.2f} | {cpu} | {gpu} | {4 * states:.1f} GB | {2 * states:.1f} GB | {each:.1f} GB | "
            f"{2 * s.d_model * s.vocab / 1e9:.2f} GB |"
        )
    about = (
        f"Measured: {rate:,.0f} tokens per second with {MEASURED.name} in float32 ({where['threads']} threads, "
        f"{where['cpu']}, torch {where['torch']}; `python benchmarks/run.py --only collect`), {flops / 1e9:.0f} GFLOP/s. "
        f"Assumed: {H100 / 1e12:.0f} TFLOP/s on one H100, 40 % of its data sheet's dense bfloat16 peak; no GPU was measured. "
        "All else is arithmetic from these two and the shapes (`python benchmarks/sizes.py`)."
    )
    return "\n".join(rows) + f"\n\n{about}"


def block() -> str:
    """What docs/scale.md has between its marks: of what `growth.py` was not yet run for, nothing."""
    tables = [table()]
    if growth.measured_all("shapes"):
        tables.append(growth.fit_table())
    if growth.points():
        tables.append(growth.growth_table())
    return "\n\n".join(tables)


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--page", action="store_true")
    if asked.parse_args().page:
        PAGE.write_text(_measure.into(PAGE.read_text(encoding="utf-8"), block()), encoding="utf-8")
    else:
        print(block())


if __name__ == "__main__":
    main()
