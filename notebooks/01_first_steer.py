# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: -all
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
# ---

# %% [markdown]
# # A first steer
#
# A language model picks its next word by inner products of a context vector `c` with the output embeddings of the words. A
# *steer* is a matrix `W` that moves the context by `s · cW`, at a strength `s` that you choose. This notebook fits one from
# labelled texts, writes with it, reads it, and compares it with the truth.

# %%
import pandas as pd

import steerlens as sl
from steerlens.show import (
    plot_cost,
    plot_gap_closed,
    plot_label_curve,
    plot_written_attribute,
)

pd.set_option("display.max_colwidth", 120)
model = sl.load_model("toy-128")

# %% [markdown]
# `toy-128` is a small GPT-2 that ships with the package. It was trained on texts of a grammar whose every probability is known,
# which is why the last question, *is it the truth?*, can be answered. For another model give a folder or a hub id.

# %%
data = sl.toy.corpus("sentiment", n=1500, seed=0)  # or sl.read_labelled("reviews.jsonl")
pd.DataFrame({"label": data.labels[:5], "text": data.texts[:5]})

# %% [markdown]
# ## Fit
#
# The model reads every text once; its final hidden states are kept. The fit works on them alone and never runs the model again.

# %%
states = sl.collect(model, data, progress=False)
states

# %%
fit = sl.fit_steer(states, name="joy")
joy = fit.value
fit.report

# %% [markdown]
# Read the verdict first: each half of the texts gave a steer that the other half judged, against labels in random order.
# All losses are nats per token on texts that were held out; the *sign margin* is how much worse they are explained when the sign
# of the steer is turned. Strength 1 is a cost, 0.05 nats of KL per token, so that steers of different texts have a common
# unit. What a label of 1 asks for is the *strength* in the report.
#
# ## Write
#
# The same beginnings at five strengths. Along a row the same random numbers are drawn, so only the steer changes.

# %%
written = sl.generate(
    model,
    ["it was", "i think", "how can"],
    joy,
    strengths=(-4, -2, 0, 2, 4),
    seed=1,
    max_new_tokens=16,
)
written.pivot(index="prompt", columns="strength", values="text")

# %% [markdown]
# The grammar can judge any text: its exact posterior mean of sentiment lies between −1 and 1. Here are sixty texts at each
# strength, written from nothing.

# %%
judged = sl.written_attribute(model, joy, "sentiment", strengths=range(-4, 5), samples=60, seed=0)
ax = plot_written_attribute(judged, name="sentiment")
# %% [markdown]
# The effect has a price. The line is the KL divergence from the plain model; the dots are what the plain model thinks of what was
# written. Read an effect beside its cost.

# %%
from steerlens.evaluate.fluency import strength_cost, writing_cost

fresh = sl.collect(model, sl.toy.corpus("sentiment", n=400, seed=1), progress=False)
ax = plot_cost(
    strength_cost(fresh.sample(2000, seed=0), joy, strengths=range(-4, 5)),
    writing_cost(model, judged),
)
# %% [markdown]
# ## Read
#
# The singular directions of the steer, as words. In contexts where the model was about to say what is in `reads`, a positive
# strength makes it say more of `writes` and less of `avoids`.

# %%
metric = sl.natural_metric(fresh, damping=fit.report.damping)
sl.singular_words(joy, rank=2, tokens=7, metric=metric, states=fresh)

# %% [markdown]
# ## Which strength explains a text?
#
# Texts of each label should be likeliest near the strength that equals their label, once the steer is as long as labels ask
# for. These texts are new to the fit.

# %%
asked = fit.report.strength * joy
ax = plot_label_curve(sl.label_curve(fresh, asked, background=fit.background))
# %% [markdown]
# ## Is it the truth?
#
# The best possible reader of a positive text is the grammar itself, told that the text is positive. How much of the way from the
# plain model to that reader does the steer go?

# %%
gap = sl.gap_closed(model, asked, "sentiment", n=500)
ax = plot_gap_closed(gap)
gap[["grade", "base", "steered", "truth", "grammar", "gap_closed", "low", "high"]].round(3)

# %% [markdown]
# Part of that way no steer can go: `base − grammar` is what the model has not learned of the grammar at all.
#
# ## Steers add
#
# A second steer, for tone, lives in the same space. Sums, differences and multiples of steers are steers.

# %%
courteous = sl.fit_steer(
    sl.collect(model, sl.toy.corpus("tone", n=1500, seed=0), progress=False), name="courteous"
).value
kind_critic = courteous - 0.7 * joy
kind_critic

# %%
rows = []
for name, steer in {"joy": joy, "courteous": courteous, "courteous - 0.7·joy": kind_critic}.items():
    texts = sl.written_attribute(model, steer, "sentiment", strengths=(3,), samples=60, seed=0)
    tone = sl.toy.grammar.attribute_mean(list(texts.text), "tone")
    rows.append(
        {
            "steer": name,
            "sentiment": texts.attribute.mean(),
            "tone": tone.mean(),
            "example": texts.text[1],
        }
    )
pd.DataFrame(rows).round(2)

# %% [markdown]
# ## Keep it
#
# One safetensors file holds the matrix, the report, and a fingerprint of the model it belongs to; another model refuses it.

# %%
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    path = sl.save(joy, Path(folder) / "joy.safetensors", report=fit.report)
    again = sl.load(path, model)
    other = sl.load_model("toy-64")
    try:
        sl.load(path, other)
    except ValueError as error:
        print(str(error).split(": ", 1)[1])
again

# %% [markdown]
# The same from the shell, as a page: `steerlens report`.
