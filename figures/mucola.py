"""MuCoLa beside the steer: what its threshold buys on the two toy tables, and what it costs in fluency.

    python figures/mucola.py     # writes figures/out/mucola.{pdf,png,json}; some ten minutes

Tasks, texts and steer of `figures/detox_table.py toy` and of `figures/sentiment_table.py positive`. MuCoLa has no
next-token distribution, so no KL: it has one row, at its own threshold (log-odds of 2 nats), with the cost
missing; perplexity and variety stand beside the attribute.
"""

import time

from _setting import OUT as OUT

import detox_table
import sentiment_table
from _tables import draw, fill, publish

NAMES = ("steer", "MuCoLa")
MEASURES = ("mean_score", "corpus_perplexity", "distinct_2", "own_kl")


def main() -> None:
    start = time.perf_counter()
    worlds = [
        world._replace(methods={name: world.methods[name] for name in NAMES})
        for world in (detox_table.toy(), sentiment_table.toy()[0])
    ]
    tables = {
        f"{world.task.name}, {world.name}": fill("mucola", world).replace(
            {"kind": {"non-toxic": "neutral"}}
        )
        for world in worlds
    }
    publish("mucola", tables, worlds, start, draw(tables, MEASURES, "neutral"))


if __name__ == "__main__":
    main()
