"""The map between two vocabularies in closed form beside the authors' 5,000 steps of Adam, in one process.

    python benchmarks/transfer.py            # toy-128 → toy-64 in full, and d 1024 → 768 with 50,000 shared tokens
    python benchmarks/transfer.py --models A B

Reference (Han et al., appendix F and script): `H` from normal noise by Adam with step 0.01, 5,000 steps on the mean squared
error over the shared tokens. At the large size its time is that of 10 steps, times 500, and it has no residual.
The closed form includes held-out R² over five folds. Runs alternate; medians.
"""

import argparse
import os
import time
from pathlib import Path

for pool in ("OMP", "MKL"):
    os.environ.setdefault(f"{pool}_NUM_THREADS", "2")

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import steerlens as sl
from steerlens.maths.lstsq import regress

STEPS = 5_000


def adam(
    X: Float[Tensor, "n d_x"], Y: Float[Tensor, "n d_y"], steps: int, seed: int
) -> tuple[Float[Tensor, "d_x d_y"], float]:
    """The reference and its seconds."""
    M = torch.randn(X.shape[1], Y.shape[1], generator=torch.Generator().manual_seed(seed)).requires_grad_(True)
    optimiser = torch.optim.Adam([M], lr=0.01)
    begun = time.perf_counter()
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(X @ M, Y).backward()
        optimiser.step()
    return M.detach(), time.perf_counter() - begun


def compare(name: str, X: Float[Tensor, "n d_x"], Y: Float[Tensor, "n d_y"], steps: int, repeats: int) -> list[dict]:
    """Both ways in turn; residual as a share of ‖Y‖²."""
    seconds, residual = {"closed form": [], "Adam": []}, {"closed form": np.nan, "Adam": np.nan}
    for k in range(repeats):
        begun = time.perf_counter()
        found = regress(X, Y)
        seconds["closed form"].append(time.perf_counter() - begun)
        M, taken = adam(X, Y, steps, seed=k)
        seconds["Adam"].append(taken * STEPS / steps)
        residual["closed form"] = float(((Y - X @ found.M.float()) ** 2).sum() / (Y**2).sum())
        if steps == STEPS:
            residual["Adam"] = float(((Y - X @ M) ** 2).sum() / (Y**2).sum())
    slow = np.median(seconds["Adam"])
    size = f"{name}: d {Y.shape[1]} → {X.shape[1]}, {len(X):,} tokens"
    return [
        {
            "what": size,
            "method": method + ("" if steps == STEPS or method != "Adam" else f" (from {steps} steps)"),
            "seconds": np.median(taken),
            "range": np.ptp(taken),
            "times faster": slow / np.median(taken),
            "residual": residual[method],
        }
        for method, taken in seconds.items()
    ]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--models", nargs=2, default=("toy-128", "toy-64"))
    asked.add_argument("--repeats", type=int, default=3)
    given = asked.parse_args()
    X, Y = (e.float() for e in sl.align(*map(sl.load_model, given.models)).embeddings())
    rows = compare(" → ".join(Path(m).name for m in given.models), X, Y, STEPS, given.repeats)
    random = torch.Generator().manual_seed(0)
    shared = torch.randn(50_000, 768, generator=random)
    noisy = shared @ torch.randn(768, 1024, generator=random) / 28 + torch.randn(50_000, 1024, generator=random)
    rows += compare("random", shared, noisy, 10, given.repeats)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda x: f"{x:.4g}"))


if __name__ == "__main__":
    main()
