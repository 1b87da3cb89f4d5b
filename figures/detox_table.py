"""Detoxification, the first table of the LM-Steer paper, with our rows: at one KL, and at the
paper's strength.

    python figures/detox_table.py        # writes figures/out/detox_table.{pdf,png,json}; some half an hour
    python figures/detox_table.py toy    # the toy world alone
    python figures/detox_table.py smollm2        # SmolLM2 alone; about an hour, goes on where it was stopped
    python figures/detox_table.py smollm2 dry    # two prompts and few texts: does it run, how long will it take

On the toy world toxicity is rudeness, judged by the exact grammar. On SmolLM2-135M, where it and the
data are at hand, methods are fitted to 300 comments of Jigsaw of at most 25 words, prompts are non-toxic ones of
RealToxicityPrompts, and a classifier that we fitted judges; its accuracy is in the JSON. Neither
the model nor the judge is the paper's: the order of methods may be compared, no number.
"""

import time
from dataclasses import replace

from _tables import (
    DATA,
    SMOLLM2,
    World,
    asked,
    draw,
    fill,
    kept_fits,
    publish,
    real_methods,
    signed,
    toxicity_scorer,
    toy_methods,
    toy_prompts,
)

import steerlens as sl
from steerlens.analysis.recipes import Words, recipes
from steerlens.evaluate.prompts import read_prompts
from steerlens.evaluate.protocols import detoxification
from steerlens.evaluate.runs import slug
from steerlens.evaluate.scorers import oracle

WORDS = Words(
    codes=("please", "idiots"), instructions=("thank you , dears .", "shut up , you idiots .")
)
ASKED = Words(
    codes=("polite", "rude"),
    instructions=("Write in a polite and respectful way.", "Write in a rude and insulting way."),
)
MEASURES = ("expected_max", "any_above", "corpus_perplexity", "distinct_2")


def toy() -> World:
    task = detoxification(toy_prompts("tone", (0.0, 1.0), 40), oracle("tone", sign=-1))
    train, data = (sl.toy.corpus("tone", n=n, seed=s) for n, s in ((800, 0), (200, 1)))
    model = sl.load_model("toy-64")
    return World("toy-64", model, train, data, task, toy_methods(model, WORDS))


def smollm2(dry: bool) -> World:
    prompts = read_prompts(DATA / "rtp_prompts.jsonl", below=0.5, n=2 if dry else 15)
    task = detoxification(prompts, toxicity_scorer())
    if dry:
        task = replace(task, sampling=replace(task.sampling, samples=2, max_new_tokens=5))
    texts = signed(sl.read_labelled(DATA / "jigsaw_train.jsonl"), 60 if dry else 300, 0)
    data = signed(sl.read_labelled(DATA / "jigsaw_dev.jsonl"), 10 if dry else 30, 0)
    model = sl.load_model(SMOLLM2)
    name = "SmolLM2-135M, dry" if dry else "SmolLM2-135M"
    made = (
        kept_fits(model, recipes(model, ("steer", "log-odds")), slug(name))
        if dry
        else real_methods(model, ASKED, slug(name))
    )
    return World(name, model, texts, data, task, made)


def main() -> None:
    start, words = time.perf_counter(), asked("toy", "smollm2", "dry")
    worlds = [] if "smollm2" in words else [toy()]
    if "toy" in words:
        pass
    elif SMOLLM2.is_dir() and DATA.is_dir():
        worlds.append(smollm2("dry" in words))
    else:
        print("SmolLM2-135M or the data are not at hand: their table is left out")
    tables = {world.name: fill("detox_table", world) for world in worlds}
    publish("detox_table", tables, worlds, start, draw(tables, MEASURES, "non-toxic"))


if __name__ == "__main__":
    main()
