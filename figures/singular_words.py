"""What a sentiment steer writes, and which of its directions come again from other texts.

The counterpart of the SVD table of Han et al. (arXiv 2305.12798, section 5.2), in the natural
metric and with what the paper leaves open: how far each row can be believed. Writes
figures/out/singular_words.{pdf,png,json}.
"""

from _setting import OUT

import matplotlib.pyplot as plt

import steerlens as sl
from steerlens.analysis.svd import singular_scores
from steerlens.show.figures import plot_singular_words, save_figure
from steerlens.show.reading import plot_spectrum
from steerlens.show.style import COLUMN, label_panels, look
from steerlens.show.tables import records

SEED = 0


def main() -> None:
    model = sl.load_model("toy-128")
    states = sl.collect(model, sl.toy.corpus("sentiment", n=2000, seed=SEED), progress=False)
    fit = sl.fit_steer(states, name="sentiment", seed=SEED)
    metric = sl.natural_metric(states.sample(16_384, seed=SEED), damping=fit.report.damping)
    scores = singular_scores(fit.value, rank=2, tokens=10, metric=metric, states=states)
    again = sl.split_half_reliability(
        fit.value, sl.fit_split_halves(states, fit, pairs=4, seed=SEED), rank=16, metric=metric
    )
    plain = sl.split_half_reliability(
        fit.value, sl.fit_split_halves(states, fit, pairs=4, seed=SEED), rank=16
    )
    with look():
        fig, axes = plt.subplots(
            1, 3, figsize=(2.15 * COLUMN, 2.9), width_ratios=(1, 1, 1.5), layout="constrained"
        )
        for ax, direction in zip(axes, (1, 2), strict=False):
            side = "+" if direction == 1 else "-"
            plot_singular_words(scores, direction=direction, side=side, ax=ax)
        plot_spectrum(sl.spectrum(fit.value, metric=metric), again, n=16, ax=axes[2])
        label_panels(axes, ("direction 1+", "direction 2−"))
    numbers = {
        "model": "toy-128", "seed": SEED, "scores": records(scores), "natural": records(again), "plain": records(plain),
    }  # fmt: skip
    save_figure(fig, OUT, "singular_words", numbers)
    print(again.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
