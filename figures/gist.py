"""How few rows stand for a prompt: the share of its effect that distilled rows have, beside cut
prompts and random words.

    python figures/gist.py

Three prompts, five seeds; each fit is judged on a hundred texts of its own that the prompted model
has written. Writes figures/out/gist.{pdf,png,json}.
"""

from _setting import OUT

import pandas as pd

import steerlens as sl
from steerlens.methods.gist.distill import compression, distil_prompt
from steerlens.show.figures import save_figure
from steerlens.show.priors import plot_compression
from steerlens.show.tables import records

PROMPTS = (
    "the singer at the arena was typical . yesterday i replayed the song again . i loathed every minute of this concert .",
    "i would recommend this hotel to anyone . the room was wonderful and the staff was friendly . thank you kindly .",
    "the soup at the restaurant was decent . last week we ordered the dessert again .",
)
LENGTHS = (1, 2, 4, 8)
SEEDS = range(5)


def main() -> None:
    model = sl.load_model("toy-128")
    parts = []
    for prompt in PROMPTS:
        new = [
            text for text in sl.generate(model, [prompt], samples=100, seed=99).text if text.strip()
        ]
        for length in LENGTHS:
            for seed in SEEDS:
                found = distil_prompt(
                    model, prompt, n=150, length=length, epochs=6, seed=seed, progress=False
                )
                table = compression(model, prompt, new, {"distilled": found.value}, seed=seed)
                parts.append(
                    table.assign(prompt=prompt, length=length, seed=seed, seconds=found.seconds)
                )
    table = pd.concat(parts, ignore_index=True)
    numbers = {"model": "toy-128", "seeds": list(SEEDS), "table": records(table)}
    save_figure(plot_compression(table).get_figure(root=True), OUT, "gist", numbers)
    shown = table[table.way.isin(["distilled", "last tokens", "random words"])]
    shown = shown.assign(prompt=shown.prompt.str.split().str[:3].str.join(" "))
    print(
        shown.groupby(["prompt", "way", "length"], sort=False)[["kl", "gap_closed"]]
        .agg(["mean", "std"])
        .round(4)
        .to_string()
    )


if __name__ == "__main__":
    main()
