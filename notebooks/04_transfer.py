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
# # Moving a steer to another model
#
# A steer is a matrix on one model's output embeddings. Another model has other embeddings, of another dimension. What of the
# steer can be carried over, and by what rule?

# %%
import pandas as pd

import steerlens as sl
from steerlens.analysis.transfer import token_weights
from steerlens.evaluate.losses import sign_margins
from steerlens.show.transfer import legend, plot_transfer

big, small, other = (sl.load_model(name) for name in ("toy-128", "toy-64", "toy-96-llama"))
labelled, text, new = (
    sl.toy.corpus("sentiment", n=n, seed=seed) for n, seed in ((1500, 0), (1500, 1), (600, 2))
)
fits = {
    name: sl.fit_steer(sl.collect(m, labelled, progress=False), name="joy")
    for name, m in (("128", big), ("64", small))
}
joy = fits["128"].value
joy

# %% [markdown]
# ## Words in common
#
# Both models have an embedding for each shared word, so there is a linear map `e_src ≈ H e_tgt`. It is a least-squares
# problem with a closed form; `r2` is of words that the map was not fitted on.

# %%
alignment = sl.align(big, small)
alignment

# %% [markdown]
# With another tokenizer there are fewer words in common, and fewer dimensions are known well.

# %%
sl.align(big, other)

# %% [markdown]
# ## The paper's rule
#
# If contexts map as embeddings do, the steer on the target is `W' = HᵀWH`. That is the default.

# %%
moved = sl.transfer(joy, small)
sl.generate(small, ["the film was"], moved, strengths=(-3, 0, 3), seed=0)[["strength", "text"]]

# %% [markdown]
# A moved steer has no unit of its own. `strength_at_kl` gives it one: the strength that costs so many nats per token.

# %%
states = sl.collect(small, text.texts, progress=False).sample(8_192, seed=0)
sl.strength_at_kl(moved, states, kl=0.05), sl.strength_at_kl(fits["64"].value, states, kl=0.05)

# %% [markdown]
# ## Contexts do not map as embeddings do
#
# Logits are inner products `c · e`. If embeddings are mapped by `H`, contexts must be mapped by its inverse, or the models
# would not agree; the paper's rule is right only if `H` is orthogonal. `"similarity"` has the inverse and is exact between
# two bases of one model. Between two models that were trained apart it does worse all the same: the inverse of a map that
# holds badly magnifies what is wrong with it.
#
# So why not ask the models? Rules that read let both read the same text, which needs no labels.

# %%
pairs = sl.pair(big, small, text, progress=False)
pairs

# %% [markdown]
# ## Every rule at equal cost
#
# Each steer is scaled to 0.05 nats per token. *Sign margin* is what turning its sign costs on new labelled texts, *share* the
# part of the directly trained steer's. *Match* is how much of the source's logit shifts it reproduces.

# %%
there = sl.transfer_report(
    fits["128"], fits["64"], sl.collect(small, new, progress=False), pairs=pairs
)
there.table.round(3)

# %%
ax = plot_transfer(there.table, title="toy-128 → toy-64")
legend(ax.figure, there.table.rule)

# %% [markdown]
# The toy world knows the truth: how much of the distance to the exact grammar that is told the grade does each close, at the
# best of a few strengths?

# %%
closed = {
    rule: sl.gap_closed(small, there.steers[rule], "sentiment", n=400, seed=3)
    .set_index("grade")
    .loc["all"]
    for rule in ("trained", "selftrain", "congruence", "similarity")
}
pd.DataFrame(closed).T[["best_gap_closed", "best_low", "best_high", "multiple"]].astype(
    float
).round(3)

# %% [markdown]
# Share may pass 1: the trained steer has its own noise, and these rules have read other texts.
#
# `"distil"` looks for the steer whose logit shifts are nearest to the source's on the text, in the metric of KL: a convex
# problem again. `"selftrain"` also lets the source say how strongly it finds each text steered, fits a steer on the target
# to these numbers, and takes a mean of the two, or the first alone if the second does not help on texts kept aside. Neither
# has seen a label.
#
# And the other way, to the larger model:

# %%
new_big = sl.collect(big, new, progress=False)
back = sl.transfer_report(fits["64"], fits["128"], new_big, pairs=pairs.reverse())
back.table[["rule", "sign_margin", "share", "low", "high", "match", "seconds"]].round(3)

# %% [markdown]
# ## What does weighting do?
#
# The paper weighs all shared words alike. A model's predictions are made of common words, so one might weigh by probability;
# and a ridge, chosen on words kept aside, shrinks what is badly known. Here both do harm: the words that carry sentiment are
# rare, and weighing takes the map's care from them. (On SST-5, where the style is in common words too, weighing helps a
# little, in one trial.)

# %%
weights = token_weights(sl.collect(small, text.texts, progress=False).sample(16_384, seed=0))
maps = {
    "all alike": sl.align(big, small),
    "centred": sl.align(big, small, centre=True),
    "by probability": sl.align(big, small, weights=weights, centre=True),
    "by probability, ridge": sl.align(big, small, weights=weights, centre=True, ridge=None),
}
target = sl.collect(small, new, progress=False)
signed = target.select(target.labels != 0)  # what has no sign has no margin
rows = []
for name, found in maps.items():
    for rule in ("congruence", "similarity"):
        steer = sl.transfer(joy, small, rule=rule, alignment=found)
        over = steer.with_background(fits["64"].background)
        unit = sl.strength_at_kl(over, target.sample(8_192, seed=0), kl=0.05) * steer
        worth = (
            sign_margins(signed, [unit], fits["64"].background).sum().item() / signed.n_positions
        )
        rows.append((name, rule, found.r2, worth / there.table.sign_margin[0]))
pd.DataFrame(rows, columns=["map", "rule", "R²", "share"]).pivot(
    index="map", columns="rule", values="share"
).round(3)

# %% [markdown]
# ## To another tokenizer
#
# Nothing in the rules that read asks for the same tokens: places are compared by how many characters have been read. What the
# source does to words that the target does not have as a token cannot be matched; `"selftrain"` reads whole texts and is less
# bound by that.

# %%
steer = sl.transfer(joy, other, rule="selftrain", text=text, source=big)
sl.written_attribute(other, steer, "sentiment", strengths=(-3, 0, 3), samples=60, seed=0).groupby(
    "strength"
).attribute.mean()

# %% [markdown]
# ## Which rule when
#
# - No text at hand: the default. Expect more than half of the effect with one vocabulary, little with two that share half.
# - The same model in another basis (folded, centred): `"similarity"`, exact.
# - Text without labels, a few thousand sentences of the kind that the steer is for: `"selftrain"`, or `"distil"` if it must be
#   quick. They keep about all of the effect where the vocabulary is the same, and are the only choice where it is not.
# - As many labels for the target as the source had: fit it there.
# - Regularise first, move second: a steer that is overfitted on its own model is noise on any other.
