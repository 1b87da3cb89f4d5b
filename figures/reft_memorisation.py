"""How much text a rank-1 edit of one token holds, by layer and length, with scrambled and random
tokens as controls.

The counterpart of the memorisation experiment of Wu et al. (arXiv 2404.03592), on models that are a
thousand times smaller.

    python figures/reft_memorisation.py                    # toy-128
    python figures/reft_memorisation.py --model FOLDER --text FILE --name NAME

Writes figures/out/NAME.{pdf,png,json}.
"""

import argparse
from itertools import chain

from _setting import OUT

import matplotlib.pyplot as plt
import pandas as pd
import torch

import steerlens as sl
from steerlens.methods.reft.memorization import memorise
from steerlens.show.figures import save_figure
from steerlens.show.reft import plot_memory
from steerlens.show.style import COLUMN, label_panels, look
from steerlens.show.tables import records
from steerlens.values.readers import read_texts

LENGTHS = (1, 2, 4, 8, 16)
EACH = 8
"""Sequences a kind and length."""


def sequences(model: object, texts: list[str], seed: int) -> tuple[pd.DataFrame, list[list[int]]]:
    """Runs of text, the same tokens in random order, and tokens drawn at random; none overlaps
    another."""
    random = torch.Generator().manual_seed(seed)
    ids = list(
        chain.from_iterable(
            model.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts
        )
    )
    known = [t for t in range(sl.readout(model).n_tokens) if t not in sl.readout(model).special]
    rows, found, at = [], [], 0
    for length in LENGTHS:
        for _ in range(EACH):
            text = ids[at : at + length]
            at += length
            shuffled = [text[i] for i in torch.randperm(length, generator=random).tolist()]
            drawn = [
                known[i] for i in torch.randint(len(known), (length,), generator=random).tolist()
            ]
            for kind, tokens in (("text", text), ("scrambled", shuffled), ("random", drawn)):
                rows.append(kind)
                found.append(tokens)
    return pd.DataFrame({"kind": rows}), found


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--model", default="toy-128")
    asked.add_argument("--text")
    asked.add_argument("--name", default="reft_memorisation")
    asked.add_argument("--steps", type=int, default=400)
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    model = sl.load_model(given.model)
    texts = (
        read_texts(given.text)[:200]
        if given.text
        else list(sl.toy.corpus("sentiment", n=200, seed=given.seed).texts)
    )
    kinds, tokens = sequences(model, texts, given.seed)
    parts = []
    for layer in range(model.cfg.n_layers):
        table = memorise(
            model, tokens, layer=layer, steps=given.steps, seed=given.seed, progress=False
        ).table
        parts.append(pd.concat([kinds, table], axis=1).assign(layer=layer))
    table = pd.concat(parts, ignore_index=True)
    n = model.cfg.n_layers
    with look():
        fig, axes = plt.subplots(
            2, n, figsize=(0.75 * COLUMN * n, 4.2), sharex=True, sharey="row", layout="constrained"
        )
        for layer in range(n):
            for row, value in enumerate(("recovered", "stored")):
                ax = plot_memory(table[table.layer == layer], value=value, ax=axes[row, layer])
                if (row, layer) != (0, 0):
                    ax.get_legend().remove()
        top = float(table.groupby(["layer", "kind", "length"]).recovered.mean().max())
        axes[0, 0].set_ylim(0, top + 1)
        label_panels(axes[0], [f"edit behind layer {layer}" for layer in range(n)])
    save_figure(
        fig,
        OUT,
        given.name,
        {"model": given.model, "steps": given.steps, "seed": given.seed, "rows": records(table)},
    )
    print(
        table.groupby(["layer", "kind", "length"])[["recovered", "stored"]]
        .mean()
        .round(2)
        .unstack("length")
        .to_string()
    )


if __name__ == "__main__":
    main()
