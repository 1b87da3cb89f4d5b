"""Parameters against quality of ReFT and of steers at equal KL, and two tasks in one subspace used
together.

    python figures/reft_quality.py

Writes figures/out/reft_quality.{pdf,png,json}.
"""

from _setting import OUT

import matplotlib.pyplot as plt

import steerlens as sl
from steerlens.analysis.reft import composition, reft_quality
from steerlens.methods.reft.fit import fit_reft_tasks
from steerlens.show.figures import save_figure
from steerlens.show.reft import plot_composition, plot_quality
from steerlens.show.style import COLUMN, label_panels, look
from steerlens.show.tables import records

SEED = 0
TASKS = ("sentiment", "tone")


def main() -> None:
    model = sl.load_model("toy-128")
    train, test = (
        {name: sl.toy.corpus(name, n=n, seed=SEED + k) for name in TASKS}
        for k, n in enumerate((2000, 600))
    )
    quality = reft_quality(
        model, train["sentiment"], test["sentiment"], variants=("loreft", "direft", "consreft"), ranks=(1, 2, 4, 8, 16),
        layers=(1,), seed=SEED,
    )  # fmt: skip
    fit, parts = fit_reft_tasks(model, train, rank=8, seed=SEED, progress=False)
    composed = composition(model, parts, fit.value, test)
    with look():
        fig, (left, right) = plt.subplots(1, 2, figsize=(2.15 * COLUMN, 2.6), layout="constrained")
        plot_quality(quality, ax=left)
        plot_composition(composed, ax=right)
        label_panels((left, right))
    numbers = {
        "model": "toy-128",
        "seed": SEED,
        "kl": 0.05,
        "quality": records(quality),
        "composition": records(composed),
    }
    save_figure(fig, OUT, "reft_quality", numbers)
    print(quality.round(4).to_string(index=False))
    print(composed.round(4).to_string(index=False))


if __name__ == "__main__":
    main()
