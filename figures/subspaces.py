"""Is the subspace that ReFT finds the one that the steer uses? Over layers, with random subspaces
as chance.

    python figures/subspaces.py                                             # toy-128, sentiment
    python figures/subspaces.py --model FOLDER --train FILE --test FILE --name NAME

Writes figures/out/NAME.{pdf,png,json}.
"""

import argparse

from _setting import OUT

import steerlens as sl
from steerlens.analysis.subspaces import compare_subspaces
from steerlens.show.figures import save_figure
from steerlens.show.reft import plot_subspaces
from steerlens.show.tables import records

RANK = 4


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--model", default="toy-128")
    asked.add_argument("--train")
    asked.add_argument("--test")
    asked.add_argument("--name", default="subspaces")
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    model = sl.load_model(given.model)
    if given.train:
        train, test = (
            sl.read_labelled(given.train),
            sl.read_labelled(given.test).split(0.2, seed=given.seed)[0],
        )
    else:
        train, test = (
            sl.toy.corpus("sentiment", n=n, seed=2 * given.seed + k)
            for k, n in enumerate((3000, 200))
        )
    one, other = train.split(0.5, seed=given.seed)
    states = sl.collect(model, one, progress=False)
    fit = sl.fit_steer(states, seed=given.seed)
    metric = sl.natural_metric(states.sample(16_384, seed=given.seed), damping=fit.report.damping)
    edits, again = (
        {
            k: sl.fit_reft(model, part, layers=k, rank=RANK, seed=given.seed, progress=False).value
            for k in range(model.cfg.n_layers)
        }
        for part in (one, other)
    )
    table = compare_subspaces(
        model, fit.value, edits, test, metric, again=again, rank=RANK, seed=given.seed
    )
    save_figure(
        plot_subspaces(table).figure, OUT, given.name,
        {"model": given.model, "rank": RANK, "seed": given.seed, "texts": len(one), "rows": records(table)},
    )  # fmt: skip
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
