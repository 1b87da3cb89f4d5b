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
# # Reading the steer
#
# A steer is a matrix, so it can be taken apart. Which contexts does it react to, which words does it write there, and how
# much of that would come out again from other texts? Then the other way round: given a text, which of its words speak for
# the steer, and how strongly is it steered?

# %%
import pandas as pd

import steerlens as sl
from steerlens.analysis.svd import singular_scores
from steerlens.show.figures import plot_singular_words
from steerlens.show.reading import plot_highlight, plot_spectrum, plot_text_strengths

pd.set_option("display.max_colwidth", 90)
model = sl.load_model("toy-128")
train, test = sl.toy.corpus("sentiment", n=2000, seed=0), sl.toy.corpus("sentiment", n=400, seed=1)
states = sl.collect(model, train, progress=False)
fit = sl.fit_steer(states, name="joy")
joy = fit.value

# %% [markdown]
# ## Directions
#
# The singular value decomposition writes the matrix as a sum of directions, `W = Σ gain · probeᵀ write`: each reads one
# number off the context and shifts the logits in proportion. The plain SVD depends on the basis of the model, which is
# arbitrary: the same model in other coordinates would give other directions. The natural metric does not. Given states, the
# spectrum also says what each direction costs there, in nats per token at strength 1: `cost` alone, `part` as its part of the
# whole. `kronecker` is what the gains alone would make of it: it takes contexts and the model's doubt there as independent, and
# has the damping of the metric in it.

# %%
metric = sl.natural_metric(states.sample(16_384, seed=0), damping=fit.report.damping)
spectrum = sl.spectrum(joy, metric=metric, states=states.sample(4_096, seed=0))
spectrum

# %% [markdown]
# One direction carries nine tenths of the sum of squared gains. Are the others something, or noise? Fit the steer to two
# halves of the texts that have no text in common, and ask how much of a direction found in one half the other half has.
# Noise has none on average.

# %%
halves = sl.fit_split_halves(states, fit, pairs=3)
again = sl.split_half_reliability(joy, halves, rank=12, metric=metric)
ax = plot_spectrum(spectrum, again)
again.round(2)

# %% [markdown]
# The first direction replicates, the second partly; from the third on a row is mostly a mixture that other texts would mix
# otherwise. The columns `reads` and `writes` say the same of the two sides of a direction, beside `chance`. What the
# first one writes is found again more easily than what it reads.
#
# ## Words
#
# A direction has two sides. In contexts where the model was about to say what is in `reads`, strength +1 makes it say more
# of `writes` and less of `avoids`. Words in parentheses are ordinary: a random direction of the same norm gives them as
# large a score in more than one of twenty cases. And `kept` reminds you which rows to believe.

# %%
sl.singular_words(joy, rank=3, tokens=8, metric=metric, states=states, refits=halves)

# %%
scores = singular_scores(joy, rank=1, tokens=10, metric=metric, states=states)
ax = plot_singular_words(scores, direction=1, side="+")

# %% [markdown]
# The toy world knows the truth: every word of sentiment has a grade in the lexicon. How many of the listed words are of the
# right end?

# %%
grade = {
    word: level
    for words in sl.toy.grammar.classes
    if words.factor == "sentiment"
    for word, level in zip(words.words, words.levels, strict=True)
}
ends = scores[(scores.side == "+") & (scores.role != "reads")]
listed = ends.assign(grade=ends.word.map(grade).fillna(0.0))
by_role = listed.groupby("role").grade.agg(
    right=lambda g: (g > 0).mean(),
    wrong=lambda g: (g < 0).mean(),
    neutral=lambda g: (g == 0).mean(),
)
by_role.loc["avoids", ["right", "wrong"]] = by_role.loc["avoids", ["wrong", "right"]].to_numpy()
by_role.assign(chance=sum(g > 0 for g in grade.values()) / len(sl.readout(model).tokens)).round(2)

# %% [markdown]
# The other side of the first direction is less clean: there the words that the steer shifts are those that go along with a
# topic. A list is the end of a direction, not its meaning.
#
# ## Which words of a text speak for the steer?
#
# Evidence of a token: its log-probability at strength +1 less that at −1. The boxes are the best spans, found exactly by
# dynamic programming.

# %%
text = "the plot was weak , but the director was brilliant . my wife felt bored . i loved it ."
sl.highlight(model, joy, text, spans=4, price=0.1)

# %%
ax = plot_highlight(sl.highlight(model, joy, text, spans=4, price=0.1))

# %% [markdown]
# A word that its context has already announced carries little evidence, however strong it is by itself: evidence is
# surprise, turned by the sign.
#
# ## How strongly is a text steered?
#
# The likelihood of a text is concave in the strength, so it has one top. The curvature there gives a standard error; a
# sentence or two leaves it wide.

# %%
texts = ["the film was superb . i loved it .", text, "the film was awful . i hated it ."]
found = sl.infer_strength(model, joy, texts, strengths=[s / 4 for s in range(-16, 17)])
ax = plot_text_strengths(found, names=["superb", "mixed", "awful"])
found

# %% [markdown]
# ## The steer as a classifier
#
# The sign of that strength tells the label. No classifier was trained: the steer was fitted to make texts likely. Beside it
# two that were.

# %%
sl.classify(model, (fit.report.strength * joy).with_background(fit.background), train, test).round(
    3
)

# %% [markdown]
# How good could any reader be? The grammar's exact posterior is the limit.

# %%
import numpy as np

truth = sl.toy.grammar.attribute_mean(list(test.texts), "sentiment")
labels = np.array(test.labels)
print(f"accuracy of the exact posterior: {((truth > 0) == (labels > 0))[labels != 0].mean():.3f}")

# %% [markdown]
# On real texts the picture is more modest. For SST-5 on a GPT-2 of `d_model` 192 the first direction replicates and no
# other does, the likelihood ratio is overconfident (words of real texts depend on each other more than the model believes),
# and a bag of words classifies better than the steer, which beats the linear probe. Read the table of kept directions
# before you read any words.
