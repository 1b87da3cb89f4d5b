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
# # Prompts: where they start, where they end, what they do
#
# Prompt tuning leaves the model alone and learns a few rows that are read before the text. It has as many ways to start as
# there are distributions of rows. Does the start matter? Does a tuned prompt stay near it? Can it be read as words? And does it
# do to the context what a steer does?

# %%
import pandas as pd

import steerlens as sl
from steerlens.analysis.prompts import (
    compare_priors,
    drift,
    embedding_geometry,
    nearest_tokens,
    over_seeds,
    readability,
)
from steerlens.analysis.state_shift import state_shift_overlap
from steerlens.analysis.trajectories import cluster_report, project, step_statistics, trajectories
from steerlens.evaluate.compare import compare
from steerlens.methods.gist.distill import distil_prompt
from steerlens.methods.prompt.model_priors import label_prior, vocabulary_prior
from steerlens.methods.prompt.priors import Exclusion, fit_gaussian, isotropic
from steerlens.show.priors import plot_moves, plot_priors
from steerlens.show.trajectories import plot_map
from steerlens.toy.tasks import TASKS, task

model = sl.load_model("toy-64")
train, new = (sl.toy.corpus("sentiment", n=n, seed=seed) for n, seed in ((800, 0), (300, 1)))

# %% [markdown]
# ## A prompt with a sign
#
# The rows are `rows + s · directions`: what all texts have in common, and what the label changes. So one value is the prompt of
# both signs, and its strength can be turned like a steer's. Strength 0 is the neutral prompt, not the plain model.

# %%
soft = sl.fit_prompt(model, train, length=8, seed=0, name="joy, eight rows", progress=False)
soft

# %%
sl.generate(model, ["the film was"], soft.value, strengths=(-2, 0, 2), seed=2)[["strength", "text"]]

# %% [markdown]
# Rows before the input are the weakest way to say something to a model: all that follows has to be worked out from them. A
# *prefix* puts keys and values before the text in every layer. At equal cost, beside a steer:

# %%
prefix = sl.fit_prompt(model, train, kind="kv", length=8, seed=0, progress=False)
states = sl.collect(model, train, progress=False)
steer = sl.fit_steer(states, name="steer")
rivals = {"steer": steer.value, "soft prompt": soft.value, "prefix": prefix.value}
compare(model, rivals, new).assign(
    seconds=[steer.report.seconds, soft.report.seconds, prefix.report.seconds]
).round(3)

# %% [markdown]
# Here the steer is worth more, in less time; on toy-128 with fewer texts a prompt was worth more (LOG.md).

# %% [markdown]
# ## Where it starts
#
# A prior is a small object that makes rows: normal ones, normal ones like the model's words, words, the words of the labels,
# and rows that keep away from words. Three fits each here; `figures/priors.py` has twelve priors and five seeds.

# %%
words = vocabulary_prior(model)
known = {
    "isotropic": isotropic(64, 0.02),
    "fitted to words": fit_gaussian(words.vectors),
    "far from words": Exclusion(fit_gaussian(words.vectors)),
    "words": words,
    "label words": label_prior(model, ["good", "awful"]),
}
few = sl.Labelled(train.texts[:200], train.labels[:200])
found = compare_priors(model, few, new, known, seeds=range(3), length=8, epochs=5, progress=False)
ax = plot_priors(found, number="nll")
_ = ax.set_xlabel("NLL on new texts (nats per token)")

# %%
over_seeds(found).pivot(index="prior", columns="number", values="mean").loc[
    list(known), ["start_nll", "nll", "sign_margin", "start_drift", "drift"]
].round(3)

# %% [markdown]
# The starts differ by far more than the ends do. `drift` is the distance from a prompt's own prior in that prior's own units; 1
# is typical of its samples. No prompt stays: the prior decides where the search begins, and little else. It can be made a
# belief instead, as a term of the loss (`prior_weight=1`): then the rows end nearer to its middle than its own samples are, as
# a mode does.

# %%
believed = sl.fit_prompt(
    model, few, prior=known["fitted to words"], prior_weight=1.0, epochs=5, progress=False
)
free = sl.fit_prompt(model, few, prior=known["fitted to words"], epochs=5, progress=False)
pd.DataFrame(
    {
        name: drift(fit.value.at(1.0)[0], {"p": known["fitted to words"]}).iloc[0]
        for name, fit in (("only a start", free), ("in the loss", believed))
    }
).T[["distance", "own_low", "own_high"]]

# %% [markdown]
# ## Where it ends
#
# Far from every word: `nearest` counts in distances between neighbouring words, `size` in the size of an embedding. The rows
# have not collapsed onto one another: as many directions as random words have (`collapse` near 0).

# %%
start = words.sample(8, 0)
pd.DataFrame(
    {f"P({s:+g})": embedding_geometry(model, soft.value.at(s)[0], start=start) for s in (-1, 0, 1)}
).round(2)

# %% [markdown]
# ## What it says
#
# One may still ask which words are nearest.

# %%
ends = {f"at {s:+g}": nearest_tokens(model, soft.value.at(s)[0], k=1).token for s in (1, -1)}
pd.DataFrame(ends).T

# %% [markdown]
# It is tempting to read these. Whether the reading is right can be tried: put the words where the prompt was.

# %%
readability(model, soft.value, new).round(3)

# %% [markdown]
# The prompt is worth something, its nearest words next to nothing; they do harm to the NLL, as random words do. This
# prompt is not its nearest words. On toy-128 one was, nearly (LOG.md): hence the trial.

# %% [markdown]
# ## What it does to the context
#
# A steer adds `cW` to the context. What does the prompt add? Half of the difference between +1 and −1, position by position, in
# the natural metric, where squared lengths are nats.

# %%
metric = sl.natural_metric(states, damping=steer.report.damping)
tone = sl.fit_steer(
    sl.collect(model, sl.toy.corpus("tone", n=800, seed=0), progress=False), name="tone"
).value
some = sl.Labelled(new.texts[:100], new.labels[:100])
moved = pd.concat(
    [
        state_shift_overlap(
            model, value, steer.value, some, metric, controls={"tone": tone}, draws=30
        ).assign(intervention=name, seed=0)
        for name, value in list(rivals.items())[1:]
    ]
)
moved.set_index(["intervention", "steer", "question"])[
    ["share", "low", "high", "chance", "chance_high"]
].round(3)

# %%
ax = plot_moves(moved)

# %% [markdown]
# Along the steer's strongest write directions both push more than along random ones. But so they do along those of a steer for
# tone: such directions are what language uses. It is the move as a whole that tells: its squared cosine with what the steer for
# sentiment adds at the same places is small, many times that with the steer for tone, and far above chance. So a prompt
# contains the steer's effect, with much besides.

# %% [markdown]
# ## A prompt in fewer rows
#
# The gist of a prompt: rows behind which the model predicts as it does behind the whole text. The controls say what that is
# worth: nothing in its place, random words, the last words of the prompt.

# %%
prompt = " ".join(new.texts[3].split()[:16])
gist = distil_prompt(model, prompt, n=300, length=2, epochs=8, progress=False)
print(prompt)
gist

# %% [markdown]
# ## Where states go
#
# A small model of three tasks: reviews, words under a mask, sums. Do its states lie apart by task while it writes?

# %%
several = sl.load_model("toy-tasks")
ways = trajectories(several, {name: task(name, 40, seed=0) for name in TASKS}, layer=1)
ax = plot_map(ways, project(ways))

# %%
cluster_report(ways).round(3)

# %% [markdown]
# The picture is for the eye, the table for the claim: silhouettes and clusters against permutations of whole texts. Sums lie
# apart. Reviews and sentences with a masked word are near one another, and still told apart. Single positions are not: what a
# state holds is mostly its own word.
#
# And along a text, do states wander off as a random walk does, or stay?

# %%
step_statistics(ways).set_index(["task", "statistic"])[
    ["value", "low", "high", "walk", "shuffled"]
].round(2)

# %% [markdown]
# They stay: the mean squared way hardly grows with the lag (exponent near 0, a random walk has 1), and steps turn back nearly
# as those of states in any order do. Sums swing, as their exercises come round every seven tokens.
