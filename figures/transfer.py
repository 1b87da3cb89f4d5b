"""What is left of a steer on another model, by every rule: the paper's transfer figure, at equal KL
and with intervals.

    python figures/transfer.py                                                 # toy models, both ways
    python figures/transfer.py --models A B --train FILE --test FILE --name N   # two models and labelled texts

Half of the training texts have labels and train the source's steer and the target's; the other half
is read without labels by the rules that read. Writes figures/out/NAME.{pdf,png,json}.
"""

import argparse
from pathlib import Path

from _setting import OUT

import matplotlib.pyplot as plt

import steerlens as sl
from steerlens.analysis.transfer import TransferReport
from steerlens.show.figures import save_figure
from steerlens.show.style import COLUMN, label_panels, look
from steerlens.show.tables import records
from steerlens.show.transfer import legend, plot_transfer

TOYS = (
    ("toy-128", "toy-64"),
    ("toy-64", "toy-128"),
    ("toy-128", "toy-96-llama"),
    ("toy-96-llama", "toy-128"),
)


def reports(
    directions: list[tuple[str, str]],
    labelled: sl.Labelled,
    unlabelled: sl.Labelled,
    test: sl.Labelled,
    seed: int,
) -> dict[str, TransferReport]:
    """A report for each direction; every model reads and is fitted once."""
    models = {name: sl.load_model(name) for pair in directions for name in pair}
    fits = {
        k: sl.fit_steer(sl.collect(m, labelled, progress=False), seed=seed)
        for k, m in models.items()
    }
    new = {k: sl.collect(m, test, progress=False) for k, m in models.items()}
    found = {}
    for a, b in directions:
        pairs = sl.pair(models[a], models[b], unlabelled, progress=False)
        title = " → ".join(Path(name).name for name in (a, b))
        found[title] = sl.transfer_report(
            fits[a], fits[b], new[b], pairs=pairs, home=new[a], seed=seed
        )
        print(title, found[title].alignment, f"contexts R² {found[title].context_r2:.2f}", sep="\n")
        print(found[title].table.round(3).to_string(index=False), flush=True)
    return found


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--models", nargs=2)
    asked.add_argument("--train")
    asked.add_argument("--test")
    asked.add_argument("--name", default="transfer")
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    if given.models:
        labelled, unlabelled = sl.read_labelled(given.train).split(0.5, seed=given.seed)
        test, directions = (
            sl.read_labelled(given.test),
            [tuple(given.models), tuple(reversed(given.models))],
        )
    else:
        labelled, unlabelled, test = (
            sl.toy.corpus("sentiment", n=n, seed=given.seed * 3 + k)
            for k, n in enumerate((2000, 2000, 1000))
        )
        directions = list(TOYS)
    found = reports(directions, labelled, unlabelled, test, given.seed)
    numbers = {title: records(report.table) for title, report in found.items()}
    with look():
        rows = (len(found) + 1) // 2
        fig, axes = plt.subplots(
            rows, 2, figsize=(2 * COLUMN, 2.35 * rows + 0.4), layout="constrained", squeeze=False
        )
        for ax, report in zip(axes.flat, found.values(), strict=True):
            plot_transfer(report.table, ax=ax)
        label_panels(axes.flat, list(found))
        legend(fig, next(iter(found.values())).table.rule)
    save_figure(fig, OUT, given.name, {"seed": given.seed, "kl": 0.05, "directions": numbers})


if __name__ == "__main__":
    main()
