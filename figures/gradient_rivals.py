"""PPLM and MuCoLa beside the steer: rivals that follow a gradient through the model while they
write.

    python figures/gradient_rivals.py            # writes figures/out/gradient_rivals.{pdf,png,json}; half an hour
    python figures/gradient_rivals.py smollm2 detox   # SmolLM2-135M in the toy's place, hours; or positive, negative

Tasks, texts and steer are those of `figures/detox_table.py` and `figures/sentiment_table.py`; on
SmolLM2 the first five prompts of each kind and ten given texts of at most twelve words, since each
step of either runs the model forwards and backwards. MuCoLa has no next-token distribution, so no
KL: it has one row, at its own threshold (log-odds of 2 nats), with the cost missing; perplexity and
variety stand beside the attribute.
"""

import time
from dataclasses import replace
from functools import cache

import detox_table
import sentiment_table
from _tables import SMOLLM2, World, asked, draw, fill, publish, toy_methods

from steerlens.analysis.recipes import recipes

TASKS = ("detox", *sentiment_table.TARGETS)
NAMES = ("steer", "PPLM", "MuCoLa")
MEASURES = ("mean_score", "corpus_perplexity", "distinct_2", "own_kl")
PROMPTS, GIVEN, WORDS = 5, 10, 12


def toy() -> list[World]:
    """Return the three tasks on the toy, of sentiment with the control codes that its table leaves
    out."""
    return [
        world._replace(methods=toy_methods(world.model, words, names))
        for world, words, names in (
            (detox_table.toy(), detox_table.WORDS, NAMES),
            *((world, sentiment_table.WORDS, (*NAMES, "CTRL")) for world in sentiment_table.toy()),
        )
    ]


def smollm2(task: str) -> World:
    """Return one of three tasks on SmolLM2, cut to what an hour or two of one core can write."""
    if task == "detox":
        world = detox_table.smollm2(dry=False)
    else:
        both = sentiment_table.real(*sentiment_table.REAL["smollm2"], rivals=())
        world = both[sentiment_table.TARGETS.index(task)]
    rivals = {name: cache(recipe) for name, recipe in recipes(world.model, NAMES[1:]).items()}
    few = tuple((kind, prompts[:PROMPTS]) for kind, prompts in world.task.groups)
    short = [k for k, (text, _) in enumerate(world.data) if len(text.split()) <= WORDS]
    return world._replace(
        data=world.data.pick(short[:GIVEN]),
        task=replace(world.task, groups=few),
        methods={"steer": world.methods["steer"]} | rivals,
    )


def main() -> None:
    start, words = time.perf_counter(), asked("smollm2", *TASKS)
    if words and not (SMOLLM2.is_dir() and detox_table.DATA.is_dir()):
        print("SmolLM2-135M or the data are not at hand")
        return
    tasks = [task for task in TASKS if task in words] or TASKS
    worlds = [smollm2(task) for task in tasks] if words else toy()
    tables = {
        f"{world.task.name}, {world.name}": fill("gradient_rivals", world).replace(
            {"kind": {"non-toxic": "neutral"}}
        )
        for world in worlds
    }
    publish("gradient_rivals", tables, worlds, start, draw(tables, MEASURES, "neutral"))


if __name__ == "__main__":
    main()
