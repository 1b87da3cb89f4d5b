"""Sentiment control, the third table of the LM-Steer paper, with our rows: at one KL, and at the
paper's strength.

    python figures/sentiment_table.py            # both targets; writes figures/out/sentiment_table.{pdf,png,json}
    python figures/sentiment_table.py positive   # one of them; or negative
    python figures/sentiment_table.py reviews    # reviews-192 in the place of the toy model
    python figures/sentiment_table.py smollm2    # SmolLM2-135M: 23 minutes of one core per target; goes on where it stopped
    python figures/sentiment_table.py smollm2 rivals   # and those that fine-tune copies or ask in words: 50 minutes more

On toy-64 the exact grammar judges what 15 prompts of a kind are continued with, five times each, by
the paper's rivals as far as they are here and three of ours; the others are in equal_kl. On
reviews-192, a GPT-2 of d_model 192 trained on reviews, and on SmolLM2-135M, methods are fitted to 800
sentences of SST-5, prompts are those of the sentiment benchmark, and a classifier judges that we fitted
to the other sentences of SST-5. Neither is the paper's: the order of methods may be compared, no number.
`above_half` is the share of positive texts: to be high for the target positive, low for negative.
"""

import time
from pathlib import Path

from _tables import (
    DATA,
    RIVALS,
    SMOLLM2,
    World,
    asked,
    draw,
    fill,
    publish,
    real_methods,
    signed,
    toy_methods,
    toy_prompts,
)

import steerlens as sl
from steerlens.analysis.recipes import Words
from steerlens.evaluate.prompts import read_prompts
from steerlens.evaluate.protocols import sentiment
from steerlens.evaluate.scorers import fit_text_classifier, oracle
from steerlens.models.hooks import adapter

WORDS = Words(
    codes=("superb", "terrible"),
    instructions=("it was a superb film .", "it was a terrible film ."),
)
ASKED = Words(
    codes=("positive review:", "negative review:"),
    instructions=("Write in a positive and joyful way.", "Write in a negative and sad way."),
)
ROWS = (
    "steer", "authors' recipe", "logit bias", "constant shift", "mean difference", "values' LoRA",
    "DAPT", "GeDi", "DExperts", "MuCoLa", "instruction",
)  # fmt: skip
MEASURES = ("above_half", "corpus_perplexity", "distinct_2", "own_kl")
TARGETS = ("positive", "negative")
REAL = {
    "reviews": ("reviews-192", DATA.parent / "lms/reviews-192", 20, 100),
    "smollm2": ("SmolLM2-135M", SMOLLM2, 10, 30),
}
"""By the word that asks for it: a model of real text, its folder, prompts of each kind, texts that set the cost."""
LONGEST = 60
"""Tokens of a prompt; one in Russian has 112, which with what is written is more than some contexts."""
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


def real(name: str, folder: Path, n: int, given: int, rivals: tuple[str, ...]) -> list[World]:
    """Return both targets on a model of real text, by `n` prompts of each kind; `given` texts set
    the cost."""
    model = sl.load_model(folder)
    texts, dev = (sl.read_labelled(DATA / f"sst5_{part}.jsonl") for part in ("train", "dev"))
    judge = fit_text_classifier(
        texts.pick(range(3000, len(texts))), measures="how positive", name="TF-IDF, SST-5", test=dev
    )
    words = adapter(model).tokenizer
    prompts = {
        kind: [
            text
            for text in read_prompts(DATA / f"sentiment_prompts_{kind}.jsonl")
            if len(words(text)["input_ids"]) <= LONGEST
        ][:n]
        for kind in ("neutral", *TARGETS)
    }
    train = signed(texts.first(3000), 800, 0)
    methods = real_methods(model, ASKED, f"{name}-sst5", rivals)
    return [
        World(
            f"{name}, {target}", model, train, signed(dev, given, 0),
            sentiment({k: prompts[k] for k in ("neutral", AGAINST[target])}, judge, target=target),
            methods,
        )
        for target in TARGETS
    ]  # fmt: skip


def main() -> None:
    start, words = time.perf_counter(), asked(*REAL, *TARGETS, "rivals")
    found, rivals = [], RIVALS if "rivals" in words else ()
    for name, folder, n, given in (REAL[word] for word in words & REAL.keys()):
        if not (folder.is_dir() and DATA.is_dir()):
            print(f"{name} or SST-5 are not at hand")
            return
        found += real(name, folder, n, given, rivals)
    wanted = [target for target in TARGETS if target in words] or list(TARGETS)
    worlds = [world for world in found or toy() if world.name.endswith(tuple(wanted))]
    tables = {world.name: fill("sentiment_table", world) for world in worlds}
    picture = draw(tables, MEASURES, "neutral")
    publish("sentiment_table", tables, worlds, start, picture)


if __name__ == "__main__":
    main()
