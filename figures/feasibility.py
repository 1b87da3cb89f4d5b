"""Can the paper's assumption 1 be met? Its feasibility experiment, and what the solution looks like.

    python figures/feasibility.py                   # writes figures/out/feasibility.{pdf,png,json}; some twenty minutes
    python figures/feasibility.py --steps 500000    # as many as the paper; the numbers of the gallery are of 140,000

n 200 states, 20 semantic features and one of the condition, transitions T = S A Sᵀ + c cᵀ (S the
semantic features, c the condition's). The sum of five mean squares is minimised by Adam from four
random starts: energies that differ from one number C, features that are not orthogonal, third-order
sums of condition features, rows of T that do not sum to 1, negative entries of T. The authors
publish no code of it; this is a reading of LM-Steer's appendix. Drawn: the sum, and C, the energy of
every feature. At the end: on how many states the condition has energy, how much of the semantic
energy is on those, and the share of T's mass that leaves them.
"""

import argparse
import sys
from typing import NamedTuple

from _setting import OUT

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor

from steerlens.show import save_figure
from steerlens.show.style import BLUE, COLUMN, RED, look
from steerlens.show.tables import records

STATES, SEMANTIC, STARTS, LR = 200, 20, 4, 1e-3
EVERY, PATIENCE = 2_000, 100
"""Steps between lines of the table; steps without a fall of the sum after which Adam's step is halved."""


class Features(NamedTuple):
    """Features of the states, the condition's last, the semantic transition, and log C."""

    phi: Tensor
    A: Tensor
    log_C: Tensor

    @property
    def transition(self) -> Tensor:
        S, c = self.phi[..., :SEMANTIC], self.phi[..., SEMANTIC:]
        return S @ self.A @ S.mT + c @ c.mT


def penalties(at: Features) -> Tensor:
    """Return the five mean squares of each start, `[5, starts]`."""
    phi, T, C = at.phi, at.transition, at.log_C.exp()
    d = SEMANTIC + 1
    gram, eye = phi.mT @ phi, torch.eye(d)
    third = (phi * phi[..., SEMANTIC:]).mT @ phi  # Σ_s φ_i φ_j φ_condition
    counts = torch.ones(d, d)
    counts[SEMANTIC, SEMANTIC] = 0  # all equal
    return torch.stack(
        [
            (gram.diagonal(dim1=-2, dim2=-1) - C[:, None]).square().mean(-1),
            (gram * (1 - eye)).square().sum((-2, -1)) / (d * (d - 1)),
            (third * counts).square().sum((-2, -1)) / counts.sum(),
            (T.sum(-1) - 1).square().mean(-1),
            T.clamp_max(0).square().mean((-2, -1)),
        ]
    )


def solution(at: Features) -> pd.DataFrame:
    """Return what each start ended at."""
    rows, sums = [], penalties(at)
    for k in range(STARTS):
        c, S, T = at.phi[k, :, SEMANTIC], at.phi[k, :, :SEMANTIC], at.transition[k]
        on = c.square() > 0.01 * c.square().max()
        rows.append(
            {
                "start": k,
                "penalty": float(sums[:, k].sum()),
                "C": float(at.log_C[k].exp()),
                "states with a condition": int(on.sum()),
                "semantic energy on them": float(S[on].square().sum() / S.square().sum()),
                "mass that leaves them": float(T[on][:, ~on].sum() / T[on].sum()),
                "condition's share of T": float(c.sum() ** 2 / T.sum()),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--steps", type=int, default=140_000)
    given = asked.parse_args()
    random = torch.Generator().manual_seed(0)
    at = Features(
        torch.randn(STARTS, STATES, SEMANTIC + 1, generator=random) / STATES**0.5,
        torch.randn(STARTS, SEMANTIC, SEMANTIC, generator=random) / SEMANTIC**0.5,
        torch.zeros(STARTS),
    )
    for tensor in at:
        tensor.requires_grad_(True)
    adam = torch.optim.Adam(list(at), lr=LR)
    halve = torch.optim.lr_scheduler.ReduceLROnPlateau(
        adam, factor=0.5, patience=PATIENCE, threshold=1e-4, min_lr=1e-6
    )
    path = []
    for step in range(given.steps + 1):
        found = penalties(at)
        if step % EVERY == 0:
            C = at.log_C.detach().exp().tolist()
            path += [
                {"step": step, "start": k, "penalty": p, "C": C[k]}
                for k, p in enumerate(found.detach().sum(0).tolist())
            ]
            print(
                step, [f"{row['penalty']:.2g} {row['C']:.2f}" for row in path[-STARTS:]], flush=True
            )
            if (step and step % (10 * EVERY) == 0) or step == given.steps:
                write(pd.DataFrame(path), at)
        adam.zero_grad()
        found.sum().backward()
        adam.step()
        halve.step(float(found.detach().sum()))


@torch.no_grad()
def write(path: pd.DataFrame, at: Features) -> None:
    end = solution(at)
    with look():
        fig, (left, right) = plt.subplots(1, 2, figsize=(2 * COLUMN, 2.2), layout="constrained")
        for _, part in path[path.step > 0].groupby("start"):
            left.plot(part.step, part.penalty, color=BLUE, lw=1)
            right.plot(part.step, part.C, color=RED, lw=1)
        left.set(xscale="log", yscale="log", xlabel="steps", ylabel="sum of penalties")
        right.set(xscale="log", xlabel="steps", ylabel="C, energy of a feature")
        right.set_ylim(0, 1.05)
    about = {"command": " ".join(["python figures/feasibility.py", *sys.argv[1:]])}
    save_figure(fig, OUT, "feasibility", {**about, "end": records(end), "path": records(path)})
    plt.close(fig)
    print(end.round(6).to_string(), flush=True)


if __name__ == "__main__":
    main()
