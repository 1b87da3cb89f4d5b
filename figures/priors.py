"""Prompt tuning: does the prior matter, does the prompt keep to it, can it be read, and does it
move the context as a steer does?

    python figures/priors.py                                     # toy-64, five seeds, ten minutes
    python figures/priors.py --model toy-128
    python figures/priors.py --model FOLDER --train FILE --test FILE

Writes figures/out/priors.{pdf,png,json}, for another model priors_MODEL.
"""

import argparse
from pathlib import Path

from _setting import OUT

import matplotlib.pyplot as plt
import pandas as pd
import torch

import steerlens as sl
from steerlens.analysis.prompts import compare_priors, over_seeds, readability
from steerlens.analysis.state_shift import state_shift_overlap
from steerlens.evaluate.compare import compare
from steerlens.methods.prompt.model_priors import (
    activation_prior,
    label_prior,
    text_prior,
    vocabulary_prior,
)
from steerlens.methods.prompt.priors import (
    Exclusion,
    Interpolation,
    Prior,
    Xavier,
    fit_gaussian,
    isotropic,
)
from steerlens.methods.prompt.vae import fit_vae
from steerlens.models.hooks import Model
from steerlens.show.figures import save_figure
from steerlens.show.priors import plot_moves, plot_priors, plot_readability
from steerlens.show.style import COLUMN, INK, label_panels, legend_above, look
from steerlens.show.tables import records

SEEDS = range(5)
LENGTH = 8


def known_priors(model: Model, train: sl.Labelled) -> dict[str, Prior]:
    words = vocabulary_prior(model)
    fitted = fit_gaussian(words.vectors)
    ends = [
        activation_prior(model, [t for t, y in train if sign * y > 0], shrink=0.05)
        for sign in (1, -1)
    ]
    d = words.vectors.shape[1]
    return {
        "isotropic 0.02": isotropic(d, 0.02),
        "Xavier": Xavier(d),
        "fitted to words": fitted,
        "fitted to texts": activation_prior(model, train.texts, shrink=0.05),
        "exclusion, radius": Exclusion(fitted),
        "exclusion, published": Exclusion(fitted, rule="published"),
        "interpolation": Interpolation(*ends),
        "VAE": fit_vae(words.vectors, seed=0),
        "vocabulary": words,
        "frequent words": vocabulary_prior(model, frequent=100, texts=train.texts),
        "label words": label_prior(model, ["good", "awful"]),
        "a text": text_prior(model, train.texts[0]),
    }


def shuffled(states: sl.States) -> sl.Steer:
    """A steer for nothing: the same texts under each other's labels."""
    order = torch.randperm(len(states.labels), generator=torch.Generator().manual_seed(0))
    return sl.fit_steer(states.relabel(states.labels[order]), name="shuffled labels").value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="toy-64")
    parser.add_argument("--train")
    parser.add_argument("--test")
    arguments = parser.parse_args()
    toy = arguments.train is None
    model = sl.load_model(arguments.model)
    train = sl.toy.corpus("sentiment", n=1000, seed=0) if toy else sl.read_labelled(arguments.train)
    test = sl.toy.corpus("sentiment", n=300, seed=1) if toy else sl.read_labelled(arguments.test)
    few, some = train.first(300), test.first(100)

    found = compare_priors(
        model, few, test, known_priors(model, few), seeds=SEEDS, length=LENGTH, epochs=6
    )
    fitted = {"fitted to words, in the loss": fit_gaussian(vocabulary_prior(model).vectors)}
    believed = compare_priors(
        model, few, test, fitted, seeds=SEEDS, length=LENGTH, epochs=6, prior_weight=1.0
    )
    table = pd.concat([found, believed], ignore_index=True)

    states = sl.collect(model, train, progress=False)
    fits = [sl.fit_steer(states, name="steer", seed=seed) for seed in SEEDS]
    fit = fits[0]
    metric = sl.natural_metric(states.sample(16_384, seed=0), damping=fit.report.damping or 0.0)
    controls = {"shuffled labels": shuffled(states)}
    if toy:
        other = sl.toy.corpus("tone", n=1000, seed=0)
        controls["tone"] = sl.fit_steer(sl.collect(model, other, progress=False), name="tone").value
    read, moved = [], []
    worth = [
        compare(model, {"steer": one.value}, test).assign(seed=seed, intervention="steer")
        for seed, one in zip(SEEDS, fits, strict=True)
    ]
    for kind in ("soft", "kv"):
        for seed in SEEDS:
            prompt = sl.fit_prompt(
                model, train, kind=kind, length=LENGTH, seed=seed, progress=False
            ).value
            moved.append(
                state_shift_overlap(
                    model, prompt, fit.value, some, metric, controls=controls
                ).assign(seed=seed, intervention=kind)
            )
            worth.append(compare(model, {kind: prompt}, test).assign(seed=seed, intervention=kind))
            if kind == "soft":
                read.append(readability(model, prompt, test, seed=seed).assign(seed=seed))
    read, moved, worth = (pd.concat(part, ignore_index=True) for part in (read, moved, worth))

    with look():
        fig, axes = plt.subplots(
            2, 2, figsize=(2.15 * COLUMN, 5.2), layout="constrained", height_ratios=(3, 2)
        )
        plot_priors(table, number="nll", ax=axes[0, 0]).set_xlabel(
            "NLL on new texts (nats per token)"
        )
        axes[0, 0].axvline(table.plain_nll[0], color=INK, lw=0.8, ls=(0, (4, 3)))
        ax = plot_priors(table, number="drift", start="start_drift", ax=axes[0, 1])
        ax.set(xlabel="distance from its own prior (1 is typical)", xscale="log", yticklabels=[])
        legend_above(ax)
        plot_readability(read, ax=axes[1, 0])
        plot_moves(moved, question="steer's move", ax=axes[1, 1])
        label_panels(axes.flat)
    summary = over_seeds(table)
    numbers = {
        "model": arguments.model, "seeds": list(SEEDS), "length": LENGTH, "texts": [len(few), len(train), len(test)],
        "priors": records(table), "summary": records(summary), "readability": records(read), "moves": records(moved),
        "equal_kl": records(worth),
    }  # fmt: skip
    save_figure(
        fig,
        OUT,
        "priors" if arguments.model == "toy-64" else f"priors_{Path(arguments.model).name}",
        numbers,
    )
    wide = summary.pivot(index="prior", columns="number", values="mean").loc[
        list(dict.fromkeys(table.prior))
    ]
    print(f"plain {table.plain_nll[0]:.4f}")
    print(
        wide[
            ["start_nll", "nll", "sign_margin", "half_way", "drift", "moved", "nearest", "collapse"]
        ]
        .round(3)
        .to_string()
    )
    shown = ["nll", "sign_margin", "drift"]
    print(summary[summary.number.isin(shown)].round(4).to_string(index=False))
    for rows, by in (
        (read, ["what"]),
        (moved, ["intervention", "steer", "question"]),
        (worth, ["intervention"]),
    ):
        rows = rows.assign(group=rows[by].agg(" | ".join, axis=1)).select_dtypes(
            ["number", "object", "string"]
        )
        keep = [c for c in ("nll", "sign_margin", "kept", "share") if c in rows]
        print(
            over_seeds(rows[["group", "seed", *keep]], by="group").round(4).to_string(index=False)
        )


if __name__ == "__main__":
    main()
