"""Sentiment control, the third table of the LM-Steer paper, with our rows: at one KL, and at the
paper's strength.

    python figures/sentiment_table.py            # both targets; writes figures/out/sentiment_table.{pdf,png,json}
    python figures/sentiment_table.py positive   # one of them; or negative
    python figures/sentiment_table.py reviews    # reviews-192 in the place of the toy model

On toy-64 the exact grammar judges what 15 prompts of a kind are continued with, five times each, by
the paper's rivals as far as they are here and three of ours; the others are in equal_kl. On
reviews-192, a GPT-2 of d_model 192 trained on reviews, methods are fitted to 800 sentences of SST-5,
prompts are those of the sentiment benchmark, and a classifier judges that we fitted to the other
sentences of SST-5. Neither is the paper's: the order of methods may be compared, no number.
`above_half` is the share of positive texts: to be high for the target positive, low for negative.
"""

import time
from functools import cache

from _tables import CHEAP, DATA, World, asked, draw, fill, publish, signed, toy_methods, toy_prompts

import steerlens as sl
from steerlens.analysis.recipes import Words, recipes
from steerlens.evaluate.prompts import read_prompts
from steerlens.evaluate.protocols import sentiment
from steerlens.evaluate.scorers import fit_text_classifier, oracle

WORDS = Words(
    codes=("superb", "terrible"),
    instructions=("it was a superb film .", "it was a terrible film ."),
)
ROWS = (
    "steer", "authors' recipe", "logit bias", "constant shift", "mean difference", "values' LoRA",
    "DAPT", "GeDi", "DExperts", "instruction",
)  # fmt: skip
MEASURES = ("above_half", "corpus_perplexity", "distinct_2", "own_kl")
TARGETS = ("positive", "negative")
AGAINST = {"positive": "negative", "negative": "positive"}


def toy() -> list[World]:
    grades = {"positive": (0.5, 1.0), "neutral": (0.0,), "negative": (-1.0, -0.5)}
    prompts = {kind: toy_prompts("sentiment", some, 15) for kind, some in grades.items()}
    train, data = (sl.toy.corpus("sentiment", n=n, seed=s) for n, s in ((800, 0), (200, 1)))
    model, judge = sl.load_model("toy-64"), oracle("sentiment")
    methods = toy_methods(model, WORDS, ROWS)
    return [
        World(
            f"toy-64, {target}", model, train, data,
            sentiment({k: prompts[k] for k in ("neutral", AGAINST[target])}, judge, target=target),
            methods,
        )
        for target in TARGETS
    ]  # fmt: skip


def reviews() -> list[World]:
    model = sl.load_model(DATA.parent / "lms/reviews-192")
    texts, dev = (sl.read_labelled(DATA / f"sst5_{part}.jsonl") for part in ("train", "dev"))
    judge = fit_text_classifier(
        texts.pick(range(3000, len(texts))), measures="how positive", name="TF-IDF, SST-5", test=dev
    )
    prompts = {
        kind: read_prompts(DATA / f"sentiment_prompts_{kind}.jsonl", n=20)
        for kind in ("neutral", *TARGETS)
    }
    train = signed(texts.first(3000), 800, 0)
    methods = {k: cache(m) for k, m in recipes(model, CHEAP).items()}
    return [
        World(
            f"reviews-192, {target}", model, train, signed(dev, 100, 0),
            sentiment({k: prompts[k] for k in ("neutral", AGAINST[target])}, judge, target=target),
            methods,
        )
        for target in TARGETS
    ]  # fmt: skip


def main() -> None:
    start, words = time.perf_counter(), asked("reviews", *TARGETS)
    if "reviews" in words and not DATA.is_dir():
        print("SST-5 and reviews-192 are not at hand")
        return
    wanted = [target for target in TARGETS if target in words] or list(TARGETS)
    worlds = [
        world
        for world in (reviews() if "reviews" in words else toy())
        if world.name.endswith(tuple(wanted))
    ]
    tables = {world.name: fill("sentiment_table", world) for world in worlds}
    picture = draw(tables, MEASURES, "neutral")
    publish("sentiment_table", tables, worlds, start, picture)


if __name__ == "__main__":
    main()
