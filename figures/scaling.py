"""How the cost of a fit grows with tokens, vocabulary and d_model, beside the two matrix products
that bound it.

    python figures/scaling.py            # writes figures/out/scaling.{pdf,png,json}; some three minutes

States are synthetic: the cost does not depend on what they hold. All settings are given, so that no
trial fits are made.
"""

import time
from collections.abc import Iterator

from _setting import OUT

import matplotlib.pyplot as plt
import pandas as pd
import torch

import steerlens as sl
from steerlens.show.figures import save_figure
from steerlens.show.scaling import plot_scaling
from steerlens.show.style import COLUMN, label_panels, look
from steerlens.show.tables import records
from steerlens.values.states import Shard

LENGTH, ROUNDS, ENOUGH = 25, 3, 6.0  # a size is left after that many seconds
SIZES = {
    "tokens": (
        "tokens",
        [{"n": n, "d": 128, "vocab": 4_096} for n in (1_000, 3_200, 10_000, 32_000, 100_000)],
    ),
    "vocab": (
        "vocabulary",
        [{"n": 2_000, "d": 128, "vocab": v} for v in (1_000, 3_200, 10_000, 32_000, 100_000)],
    ),
    "d": (
        "d_model",
        [{"n": 1_000, "d": d, "vocab": 2_048} for d in (64, 128, 256, 512, 1_024, 2_048)],
    ),
}
FIXED = {
    "tokens": "d 128, vocabulary 4,096",
    "vocab": "2,000 tokens, d 128",
    "d": "1,000 tokens, vocabulary 2,048",
}


def states_of(*, n: int, d: int, vocab: int) -> sl.States:
    random = torch.Generator().manual_seed(0)
    on = sl.Readout(
        torch.randn(d, vocab, generator=random) / d**0.5,
        torch.zeros(vocab),
        tuple(map(str, range(vocab))),
    )
    n_texts = n // LENGTH
    text = torch.arange(n_texts).repeat_interleave(LENGTH)
    following = torch.randint(vocab, (len(text),), generator=random)
    shard = Shard(torch.randn(len(text), d, generator=random), following, text)
    labels = torch.tensor([1.0, -1.0]).repeat(n_texts)[:n_texts]
    return sl.States(
        on, (shard,), labels, torch.full((n_texts,), LENGTH), torch.ones(n_texts, dtype=torch.bool)
    )


def products(states: sl.States) -> None:
    W_U = states.readout.W_U
    for chunk in states.chunks(512):
        _ = (chunk.hidden @ W_U) @ W_U.mT


def runs(sizes: list[dict[str, int]], of: str) -> Iterator[dict]:
    """Fit and products in turn, round by round."""
    for size in sizes:
        states = states_of(**size)
        ways = {
            "fit": lambda states=states: sl.fit_steer(states, ridge=0.3, damping=1e-2, lr=0.1),
            "two products": lambda states=states: products(states),
        }
        started = time.perf_counter()
        for k in range(ROUNDS):
            if time.perf_counter() - started > ENOUGH:
                break
            for way, run in ways.items():
                begun = time.perf_counter()
                run()
                yield {
                    "size": size[of],
                    "way": way,
                    "round": k,
                    "seconds": time.perf_counter() - begun,
                }


def main() -> None:
    sl.fit_steer(states_of(n=1_000, d=64, vocab=512), ridge=0.3, damping=1e-2, lr=0.1)  # warms up
    tables = {
        of: pd.DataFrame(runs(sizes, "n" if of == "tokens" else of))
        for of, (_, sizes) in SIZES.items()
    }
    with look():
        fig, axes = plt.subplots(1, 3, figsize=(2.3 * COLUMN, 2.5), layout="constrained")
        for ax, (of, table) in zip(axes, tables.items(), strict=True):
            plot_scaling(table, what=SIZES[of][0], ax=ax)
        for ax in axes[1:]:
            ax.set_ylabel("")
        label_panels(axes, [FIXED[of] for of in tables])
    numbers = {
        "threads": torch.get_num_threads(),
        **{of: records(table) for of, table in tables.items()},
    }
    save_figure(fig, OUT, "scaling", numbers)
    for table in tables.values():
        print(
            table.groupby(["size", "way"], sort=False)
            .seconds.median()
            .unstack()
            .round(3)
            .to_string()
        )


if __name__ == "__main__":
    main()
