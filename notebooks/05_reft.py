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
# # Edits of hidden states beside a steer
#
# A steer acts at the unembedding, on every token, linearly, and its best value is found by convex optimisation. ReFT (Wu et al.,
# 2024) acts earlier: it rewrites the residual stream behind some layer, inside a subspace of low rank, and is trained by
# descent. Both can be fitted to the same labelled texts. Which is better, and do they find the same thing?

# %%
import pandas as pd
import torch

import steerlens as sl
from steerlens.analysis.reft import composition
from steerlens.analysis.subspaces import compare_subspaces
from steerlens.evaluate.compare import compare
from steerlens.methods.reft.fit import fit_reft_tasks
from steerlens.methods.reft.memorization import memorise
from steerlens.show.reft import plot_composition, plot_subspaces

model = sl.load_model("toy-128")
train, new = (sl.toy.corpus("sentiment", n=n, seed=seed) for n, seed in ((800, 0), (300, 1)))

# %% [markdown]
# ## One edit
#
# LoReFT replaces what a subspace holds: `h + s · Rᵀ(Ah + b − Rh)`, with the label of a text as the strength `s`, as for a steer.
# The layers below the edit run once for the whole fit.

# %%
fit = sl.fit_reft(
    model, train, layers=1, rank=4, epochs=5, name="joy, behind layer 1", progress=False
)
fit

# %% [markdown]
# The value is frozen tensors: it writes, scores, is saved and loaded as a steer is.

# %%
sl.generate(model, ["the film was"], fit.value, strengths=(-2, 0, 2), seed=0)[["strength", "text"]]

# %% [markdown]
# ## At equal cost
#
# A stronger intervention looks better and costs more. So each is scaled to 0.05 nats per token of KL from the plain model.
# *Sign margin* is what turning the sign costs on new texts.

# %%
states = sl.collect(model, train, progress=False)
steer = sl.fit_steer(states, name="joy")
metric = sl.natural_metric(states, damping=steer.report.damping)
edits = {k: sl.fit_reft(model, train, layers=k, rank=4, epochs=5, progress=False) for k in (0, 2)}
edits = {0: edits[0], 1: fit, 2: edits[2]}
rivals = {"steer": steer.value, "steer, rank 4": steer.value.truncate(4, metric)}
rivals |= {f"LoReFT, layer {k}": edit.value for k, edit in edits.items()}
table = compare(model, rivals, new)
# the second steer is the first, cut: it has no seconds of its own
table["seconds"] = [steer.report.seconds, None, *(edit.report.seconds for edit in edits.values())]
table.round(3)

# %% [markdown]
# A thousand numbers behind any layer do what a thousand numbers at the unembedding do: with this few texts there is nothing
# between them but the intervals.

# %% [markdown]
# ## Is it the same subspace?
#
# Four questions a layer, each with the answer of random subspaces (grey). *Writes*: the directions of `R`, carried through the
# layers above, against the steer's strongest write directions. *Reads*: what `A` takes from the state against what the steer
# takes from the context.

# %%
again = {
    k: sl.fit_reft(
        model, sl.toy.corpus("sentiment", n=800, seed=7), layers=k, epochs=5, progress=False
    ).value
    for k in edits
}
some = sl.Labelled(new.texts[:80], new.labels[:80])
shared = compare_subspaces(
    model,
    steer.value,
    {k: edit.value for k, edit in edits.items()},
    some,
    metric,
    again=again,
    draws=6,
)
ax = plot_subspaces(shared)

# %% [markdown]
# Of what they write, one direction is shared, nearly as closely as two such edits share one that were fitted to different
# texts (right): steer and edit push the same way. Of what they read no more is shared than random subspaces of these contexts
# have in common: many ways of reading do. The difference of means is partly in the subspace; the normal of a probe, which is
# fitted to tell the classes apart and not to change what is said, hardly.

# %% [markdown]
# ## Two tasks in one subspace
#
# The rows of an orthonormal `R` make changes that do not meet. Rows 1 to 4 are trained on sentiment, 5 to 8 on tone, never
# together. Then all eight are turned on.

# %%
tasks = {name: sl.toy.corpus(name, n=800, seed=0) for name in ("sentiment", "tone")}
whole, parts = fit_reft_tasks(model, tasks, layers=1, rank=8, epochs=5, progress=False)
tests = {name: sl.toy.corpus(name, n=300, seed=1) for name in tasks}
ax = plot_composition(composition(model, parts, whole.value, tests))

# %% [markdown]
# Together they do on each task what the task's own rows do alone. The rows of a task are worth nothing on the other's texts.

# %% [markdown]
# ## How much does one edit hold?
#
# One edit of one token can add one vector. How many tokens can it make the model say? On a model of seven billion parameters the
# paper reports two thousand. This one has less than one million.

# %%
random = torch.Generator().manual_seed(0)
ids = [
    i
    for text in train.texts[:40]
    for i in model.tokenizer(text, add_special_tokens=False)["input_ids"]
]
sequences = {"text": [ids[8 * k : 8 * k + 8] for k in range(8)]}
sequences["scrambled"] = [
    [s[i] for i in torch.randperm(8, generator=random).tolist()] for s in sequences["text"]
]
asked = [sequence for kind in sequences.values() for sequence in kind]
held = memorise(model, asked, layer=0, steps=200, progress=False)
held.table["kind"] = [kind for kind, found in sequences.items() for _ in found]
held.table.groupby("kind")[["length", "recovered", "nll_before", "nll", "stored"]].mean().round(2)

# %% [markdown]
# Two or three tokens of eight come out exactly, fewer if scrambled. The vector is not empty, it saves many nats; but the model
# has no room behind one token for more. What ReFT can store is a property of the model, not of ReFT.

# %%
k = int(held.table.recovered.idxmax())
said = sl.generate(model, [""], held.edits[k], temperature=0, max_new_tokens=8).text[0]
pd.Series({"asked": model.tokenizer.decode(asked[k]), "said": said.strip()})

# %% [markdown]
# ## Which when
#
# - A style of wording, one model, labelled texts: the steer. It is convex, adds and subtracts, moves to other models.
# - An effect on some tokens of a prompt, or one that needs what comes after the layer to work it out: ReFT.
# - Compare at equal KL, and with more than one seed.
