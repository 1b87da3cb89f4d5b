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
# # The embedding space
#
# A steer is a map of the output word embeddings. What is in that space before anything is steered? Everything here works on
# the embeddings of any model, `W_U` or `W_E`, with whole words only.

# %%
import pandas as pd

import steerlens as sl
from steerlens.analysis.embeddings import (
    analogies,
    compare_embeddings,
    components,
    embedding,
    lexicon_alignment,
    neighbours,
    probe,
)
from steerlens.show.reading import plot_components

pd.set_option("display.max_colwidth", 80)
model = sl.load_model("toy-128")
emb = embedding(model)
emb

# %% [markdown]
# ## Neighbours
#
# Words that may stand for each other lie together: the model has learned the classes of the grammar.

# %%
near = neighbours(emb, ["wonderful", "idiots", "chef", "zebra"], n=6)
near.table.groupby("word").neighbour.agg(", ".join).to_frame()

# %% [markdown]
# A word that is no single token is left out, and said.

# %%
near.dropped

# %% [markdown]
# ## Which inner product?
#
# Logits do not change when embeddings are mapped by any invertible matrix and contexts by its inverse, so the plain inner
# product of two output embeddings is a matter of convention. The causal inner product, whitened by the covariance of the
# vocabulary, is not. Here both answer analogies between grades: *terrible : superb = bad : good*.

# %%
ends = {
    c.name: [
        [w for w, g in zip(c.words, c.levels, strict=True) if g == grade] for grade in (-1.0, 1.0)
    ]
    for c in sl.toy.grammar.classes
    if c.factor == "sentiment"
}
verbs = list(zip(*ends["loved"], strict=False))
questions = [(a, b, c, d) for a, b in verbs for c, d in verbs if a != c]
pd.concat(
    analogies(embedding(model, inner=inner), questions).table.tail(1).assign(inner=inner)
    for inner in ("plain", "causal")
)[
    ["inner", "asked", "kept", "accuracy", "low", "high", "reciprocal_rank", "only_c", "chance"]
].round(3)

# %% [markdown]
# Nothing in the grammar pairs *hated* with *loved* rather than with *adored*, so the accuracy of any one pair cannot be
# high. `only_c` is the accuracy without any arithmetic, of always answering with the word nearest to the third: what counts
# is what lies above it.
#
# ## Components
#
# The axes of largest variance, with the words at both ends.

# %%
pca = components(emb, n=6, tokens=7)
fig = plot_components(pca.table)

# %% [markdown]
# Independent components look for the axes whose values are least Gaussian. Read their stability beside `chance` first:
# noise of the same shape has 0.7, so most of these are accidents.

# %%
components(emb, n=6, method="ica", tokens=6)

# %% [markdown]
# ## Is sentiment in there?
#
# An axis that looks like a theme is a hypothesis. A probe tests it: can the grade of a word be read off its embedding, for
# words whose relatives were held out? The control gives the grades to other words at random: `control_low` to `control_high`
# holds 95 % of such scores.

# %%
grades = {
    word: float(grade)
    for words in sl.toy.grammar.classes
    if words.factor == "sentiment"
    for word, grade in zip(words.words, words.levels, strict=True)
}
probe(emb, grades)

# %%
topics = {
    word: topic
    for words in sl.toy.grammar.classes
    if words.factor == "topic"
    for word, topic in zip(words.words, words.levels, strict=True)
}
probe(emb, topics)

# %% [markdown]
# ## Does the steer write along it?
#
# The direction of the lexicon is the mean of the embeddings weighted by their grades. In the natural metric the first
# direction of a sentiment steer lies along it, nearer than with the grades shuffled among the words. This fit has no other
# direction: the rest of the rows is empty. The sign of a direction, and so that of `spearman`, is arbitrary.

# %%
states = sl.collect(model, sl.toy.corpus("sentiment", n=1500, seed=0), progress=False)
fit = sl.fit_steer(states, name="joy")
metric = sl.natural_metric(states.sample(16_384, seed=0), damping=fit.report.damping)
lexicon_alignment(fit.value, grades, metric=metric, rank=4)

# %% [markdown]
# ## Input and output
#
# `toy-128` ties its embeddings, `toy-96-llama` does not. How alike are what a word is read as and what it is written as?

# %%
llama = sl.load_model("toy-96-llama")
untied = compare_embeddings(embedding(llama), embedding(llama, "W_E"))
untied

# %% [markdown]
# And two models of the same language, with other dimensions and another order of tokens:

# %%
compare_embeddings(emb, embedding(llama))

# %% [markdown]
# The words whose neighbours differ most between reading and writing:

# %%
untied.words.head(8)

# %% [markdown]
# On real text (small GPT-2s trained on reviews) the same tables are sobering. At `d_model` 192 family analogies reach 0.56,
# but the word nearest to the third alone answers 0.70 of them; plural verbs (0.81 over 0.00) are real. A probe reads AFINN
# valence with R² 0.47 (control −0.02). At `d_model` 128 the first direction of an SST-5 steer has cosine 0.61 with the
# AFINN direction in the natural metric and 0.31 in the plain one, the later ones none.
