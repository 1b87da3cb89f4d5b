"""Write reviews.csv beside this file: 300 short reviews in the words of the toy models, with a few faults.

    python notebooks/data/make_reviews.py

The texts are drawn from the toy grammar; the stars are their true labels, -1, 0 and 1 as 1, 3 and 5. The faults are those that
a sheet filled in by hand has: rows without text or label, and words that a tokenizer does not know.
"""

import csv
from pathlib import Path

import numpy as np

import steerlens as sl

SEED, N, MOST_WORDS = 0, 300, 17
STARS = {-1.0: "1", 0.0: "3", 1.0: "5"}


def short_reviews() -> list[list[str]]:
    """Return rows of id, review and stars, as the grammar has them."""
    drawn = [(text, y) for text, y in sl.toy.corpus("sentiment", n=2500, seed=SEED) if y in STARS]
    short = [(text, STARS[y]) for text, y in drawn if len(text.split()) <= MOST_WORDS]
    return [[f"r{k:03}", text, stars] for k, (text, stars) in enumerate(short[:N], 1)]


def spoil(rows: list[list[str]]) -> None:
    """Put the faults in, each in a row of its own."""
    order = iter(np.random.default_rng(SEED).permutation(len(rows)))
    for column, value in ((1, ""), (1, "  "), (2, ""), (2, "n/a"), (2, "")):
        rows[next(order)][column] = value
    for add in (" 😀", " meh ; whatever .", " LOL !"):
        rows[next(order)][1] += add


if __name__ == "__main__":
    reviews = short_reviews()
    spoil(reviews)
    with open(Path(__file__).with_name("reviews.csv"), "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=";", lineterminator="\n").writerows(
            [["id", "review", "stars"], *reviews]
        )
