"""Is there, at every layer, a vector that makes a model say a given text? And does their mean hold a
style?

    python figures/latent_vectors.py               # some four minutes on one core that is free

Writes figures/out/latent_vectors.{pdf,png,json}. Latent steering vectors (Subramani, Suresh and
Peters, arXiv 2205.05124) of toy-128, behind each layer, one per text, 300 steps each. Left: of 40 texts, the share
of tokens that are the likeliest where the vector is added, and of texts that greedy decoding gives
back whole. Right: what labels change in the mean of the vectors of 200 texts, as a steering vector at
0.05 nats of KL, beside the steer; means over three draws, 95 % intervals over 300 new texts.
"""

import time

from _setting import OUT

import matplotlib.pyplot as plt
import pandas as pd

import steerlens as sl
from steerlens.evaluate.draws import compare_draws
from steerlens.methods.baselines.latent_vectors import fit_latent_vectors, latent_vectors
from steerlens.methods.baselines.shift import Shift
from steerlens.models.collect import reader
from steerlens.models.partial_forward import cache_residuals
from steerlens.show.figures import records, save_figure
from steerlens.show.style import (
    BLUE,
    COLUMN,
    GREY,
    PURPLE,
    RED,
    axes,
    label_panels,
    legend_above,
    look,
)
from steerlens.values.hook_names import resid_post

MODEL, ATTRIBUTE, LAYERS, STEPS, SAID = "toy-128", "sentiment", (0, 1, 2), 300, 40
DRAWS, TEXTS, OFFSETS, OFFSET_STEPS, JUDGES = (101, 102, 103), 500, 100, 100, 300


def recovery(model: object) -> pd.DataFrame:
    """Return how much of each text its own vector makes the model say, by layer."""
    data, rows = sl.toy.corpus(ATTRIBUTE, n=SAID, seed=300), []
    for layer in (None, *LAYERS):
        vectors = [None] * SAID
        if layer is not None:
            kept = cache_residuals(model, data, layer)
            found = latent_vectors(model, kept, layer, STEPS, seed=0)
            vectors = [Shift(z, resid_post(layer), kept.readout) for z in found]
        for text, vector in zip(data.texts, vectors, strict=True):
            states = reader(model, [text], vector)(1.0)
            shard = next(states.chunks(10**6))
            z = states.logits(shard)
            right = z.argmax(1) == shard.next
            nll = -float(z.log_softmax(1).gather(1, shard.next[:, None]).double().mean())
            rows.append((layer, float(right.float().mean()), bool(right.all()), nll))
    table = pd.DataFrame(rows, columns=["layer", "tokens", "whole", "nll"])
    return table.groupby("layer", dropna=False, as_index=False).mean()


def offsets(model: object) -> pd.DataFrame:
    """Return what the style offsets are worth at equal KL, by layer."""
    draws = [sl.toy.corpus(ATTRIBUTE, n=TEXTS, seed=seed) for seed in DRAWS]
    fits: dict[str, list] = {"steer": [sl.fit_steer(model, d, progress=False) for d in draws]}
    for layer in LAYERS:
        fits[f"layer {layer}"] = [
            fit_latent_vectors(model, d, layer=layer, n_texts=OFFSETS, n_steps=OFFSET_STEPS)
            for d in draws
        ]
    test = sl.toy.corpus(ATTRIBUTE, n=JUDGES, seed=20_000)
    return compare_draws(model, fits, test, against="steer")


def main() -> None:
    model, start = sl.load_model(MODEL), time.perf_counter()
    said, style = recovery(model), offsets(model)
    print(said.round(4).to_string(), style.round(4).to_string(), sep="\n")
    with look():
        fig, (left, right) = plt.subplots(1, 2, figsize=(2 * COLUMN, 2.1), layout="constrained")
        axes(left)
        plain, by_layer = said[said.layer.isna()].iloc[0], said[said.layer.notna()]
        for column, colour, marker in (("tokens", PURPLE, "o"), ("whole", BLUE, "s")):
            name = {"tokens": "tokens", "whole": "whole texts"}[column]
            left.plot(
                by_layer.layer, by_layer[column], color=colour, marker=marker, ms=4, label=name
            )
            left.axhline(plain[column], color=colour, lw=0.8, ls="--")
        left.set(xlabel="vector behind layer", ylabel="share given back", ylim=(-0.03, 1.03))
        left.set_xticks(LAYERS)
        legend_above(left)
        axes(right)
        steer, rest = style.iloc[0], style.iloc[1:]
        right.axhspan(steer.low, steer.high, color=RED, alpha=0.12, lw=0)
        right.axhline(steer.sign_margin, color=RED, lw=1.2, label="steer")
        ends = [rest.sign_margin - rest.low, rest.high - rest.sign_margin]
        right.errorbar(
            LAYERS,
            rest.sign_margin,
            ends,
            fmt="o",
            ms=4,
            lw=1,
            color=GREY,
            label="offset of vectors",
        )
        right.set(xlabel="vector behind layer", ylabel="sign margin (nats)", ylim=(0, None))
        right.set_xticks(LAYERS)
        legend_above(right)
        label_panels((left, right), ("a text in a vector", "a style in their mean"))
    numbers = {
        "command": "python figures/latent_vectors.py",
        "settings": {"model": MODEL, "attribute": ATTRIBUTE, "steps": STEPS, "texts_said": SAID, "draws": DRAWS, "texts": TEXTS,
                     "offset_texts_per_sign": OFFSETS, "offset_steps": OFFSET_STEPS, "judges": JUDGES, "kl": 0.05},
        "seconds": round(time.perf_counter() - start),
        "recovery": records(said),
        "offsets": records(style),
    }  # fmt: skip
    save_figure(fig, OUT, "latent_vectors", numbers)


if __name__ == "__main__":
    main()
