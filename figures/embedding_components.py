"""The principal axes of toy-128's output embeddings, with the words at both ends of each.

The counterpart of the table of meaningful dimensions in the slides of Han et al., with what tells
an axis from an accident. Writes figures/out/embedding_components.{pdf,png,json}.
"""

from _setting import OUT

import steerlens as sl
from steerlens.analysis.embeddings import components, embedding, probe
from steerlens.show.figures import save_figure
from steerlens.show.reading import plot_components
from steerlens.show.tables import records

SEED = 0


def main() -> None:
    emb = embedding(sl.load_model("toy-128"))
    pca = components(emb, n=6, tokens=8, seed=SEED).table
    ica = components(emb, n=6, tokens=8, method="ica", seed=SEED).table
    classes = [c for c in sl.toy.grammar.classes if c.factor == "sentiment"]
    grades = {w: float(g) for c in classes for w, g in zip(c.words, c.levels, strict=True)}
    probed = probe(emb, grades, seed=SEED).table
    numbers = {
        "model": "toy-128",
        "seed": SEED,
        "pca": records(pca),
        "ica": records(ica),
        "sentiment_probe": records(probed),
    }
    save_figure(plot_components(pca), OUT, "embedding_components", numbers)
    print(pca[["component", "share", "stability"]].round(3).to_string(index=False))
    print(probed.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
