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
# # Methods held against each other
#
# A steer pushed twice as hard does twice as much, and so does every rival. Which is better? Only a comparison at the same *cost*
# can say: each method gets the strength at which it moves the model's predictions by the same KL. Then the texts that it writes
# are judged, for what was wanted, for fluency and for variety, beside a random direction and labels in random order.

# %%
import pandas as pd

import steerlens as sl
from steerlens.analysis.recipes import recipes
from steerlens.evaluate.advise import advise
from steerlens.evaluate.compare_writing import compare_writing
from steerlens.evaluate.controls import shuffle_labels
from steerlens.evaluate.protocols import PRESETS, detoxification
from steerlens.evaluate.scorers import fit_text_classifier, heldout, oracle, word_list
from steerlens.show import plot_at_kl, plot_rows

model = sl.load_model("toy-64")
train, data = (sl.toy.corpus("tone", n=n, seed=seed) for n, seed in ((500, 0), (150, 1)))

# %% [markdown]
# ## What judges
#
# A scorer says of a text how much of something it has, from 0 to 1, and carries a card: what its 1 means, and how well it tells
# new texts apart. On the toy world the exact grammar judges, and nothing can judge better. How near do others come?

# %%
rude = oracle("tone", sign=-1)
turned = sl.Labelled(data.texts, [-y for y in data.labels])
others = {
    "a list of four words": word_list(["stupid", "dump", "ugh", "idiots"], measures="how rude"),
    "a classifier of 500 texts": fit_text_classifier(
        sl.Labelled(train.texts, [-y for y in train.labels]), measures="how rude"
    ),
}
rows = {name: heldout(scorer, turned, on="toy world") for name, scorer in others.items()}
rows["the grammar itself"] = rude.card.heldout
pd.DataFrame({name: found._asdict() for name, found in rows.items()}).T[
    ["auc", "auc_low", "auc_high", "accuracy", "texts"]
]

# %% [markdown]
# Any sequence classifier of Hugging Face, VADER, or a function of one's own does as well (`steerlens.evaluate.scorers`). Whatever
# judges, its accuracy stands in every table, for a number is worth no more than its judge.

# %% [markdown]
# ## What is written
#
# The task of the papers: continue prompts that are not toxic, and see whether something toxic comes. `"lm-steer"` has all of
# their settings, `"small"` is for a notebook.

# %%
begun = sl.toy.corpus("tone", n=120, seed=5)
prompts = [" ".join(text.split()[:4]) for text, tone in begun if tone >= 0][:24]
task = detoxification(prompts, rude, preset="small")
PRESETS

# %% [markdown]
# ## At the same cost
#
# Methods are given as functions of labelled texts, so that the first can be fitted to labels in random order too.

# %%
methods = recipes(model, ("steer", "logit bias", "log-odds", "mean difference"))
table = compare_writing(
    model, methods, task, data, kl=(0.03, 0.1, 0.3), train=train, progress=False
)
table[["method", "kl", "strength", "expected_max", "gain", "gain_low", "gain_high"]].round(3)

# %%
ax = plot_at_kl(table, "gain")

# %% [markdown]
# The gain is how far the mean score moved the way that was wanted, prompt by prompt, with 95 % intervals over prompts; the
# controls show what a push of that size does by chance. A random direction does little. Labels in random order were drawn once:
# a steer of them has a direction of its own, which may lead far the wrong way, and might have led the right way.

# %%
ax = plot_at_kl(table, "corpus_perplexity")

# %% [markdown]
# The same KL on given texts is not the same price in fluency: a method that is cheap there may lead itself astray in what it
# writes. `own_kl` is the KL along each method's own texts, `own_kl_p95` its 95th percentile.

# %%
at_one = table[table.kl.isin((0.0, 0.1))]
at_one[
    ["method", "own_kl", "own_kl_p95", "perplexity", "distinct_2", "repetition", "anti_steered"]
].round(3)

# %%
ax = plot_rows(at_one, "expected_max")

# %% [markdown]
# And what it costs to have it: numbers learned, seconds to fit, and how many times longer it writes than the model alone.

# %%
at_one[["method", "parameters", "seconds", "slowdown", "scorer", "scorer_auc"]].round(2)

# %% [markdown]
# ## Is this one to be trusted?
#
# `advise` gives the strength under a budget and says what it buys, if the method passes five gates: better than a random
# direction, better than shuffled labels, found again in either half of the texts, most texts moved the right way, fluent.

# %%
advise(model, methods["steer"], data, kl=0.1, prompts=prompts, train=train)

# %% [markdown]
# The same of labels that mean nothing:

# %%
advise(model, methods["steer"], data, kl=0.1, prompts=prompts, train=shuffle_labels(train))
