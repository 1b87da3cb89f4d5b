"""Highlighted texts: evidence of each token for a sentiment steer, the best spans, and the strength
that each text has.

The counterpart of the keyword highlighting of Han et al. (arXiv 2305.12798, section 5.2). Writes
figures/out/highlight.{pdf,png,json}.
"""

from _setting import OUT

import matplotlib.pyplot as plt

import steerlens as sl
from steerlens.show.figures import save_figure
from steerlens.show.reading import plot_highlight, plot_text_strengths
from steerlens.show.style import COLUMN, look
from steerlens.show.tables import records

SEED = 0
TEXTS = (
    "the film was superb from start to finish . i loved it .",
    "the plot was weak , but the director was brilliant . my wife felt bored .",
    "the waiter was awful and the soup was cold . never again .",
)


def main() -> None:
    model = sl.load_model("toy-128")
    states = sl.collect(model, sl.toy.corpus("sentiment", n=2000, seed=SEED), progress=False)
    steer = sl.fit_steer(states, name="sentiment", seed=SEED).value
    found = [sl.highlight(model, steer, text, spans=3, price=0.1) for text in TEXTS]
    strengths = sl.infer_strength(model, steer, TEXTS, strengths=[s / 4 for s in range(-16, 17)])
    with look():
        fig = plt.figure(figsize=(2.15 * COLUMN, 3.3))
        for k, one in enumerate(found):
            ax = fig.add_axes((0.02, 0.88 - 0.11 * k, 0.96, 0.1))
            plot_highlight(one, ax=ax)
        ax = fig.add_axes((0.12, 0.13, 0.55, 0.4))
        rows = strengths.table.itertuples()
        names = [
            f"text {k}: {row.strength:+.1f} ± {row.error:.1f}".replace("-", "−")
            for k, row in enumerate(rows, 1)
        ]
        plot_text_strengths(strengths, names=names, ax=ax).legend(
            loc="center left", bbox_to_anchor=(1.02, 0.5)
        )
    numbers = {
        "model": "toy-128", "seed": SEED, "strengths": records(strengths.table), "curves": records(strengths.curve),
        "texts": [{"text": str(one), "tokens": records(one.tokens), "spans": records(one.spans)} for one in found],
    }  # fmt: skip
    save_figure(fig, OUT, "highlight", numbers)
    print(strengths.table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
