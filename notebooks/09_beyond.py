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
# # Beyond one matrix
#
# A steer acts at every token, moves one attribute, and is fitted to labelled texts. Here are steers that act under
# conditions, steers of several attributes that leave each other alone, steers made by hand, and steers inside the model. All are
# values with the same verbs, so each can be held against the plain steer at equal KL; what is not worth its while is said too.

# %%
import pandas as pd
import torch

import steerlens as sl
from steerlens.evaluate.compare import compare
from steerlens.evaluate.leak import leak
from steerlens.methods.hidden.fit import fit_hidden_steer
from steerlens.methods.steer.about import fit_about
from steerlens.methods.steer.by_hand import steer_from_texts, steer_from_words, steer_towards_words
from steerlens.methods.steer.erase import fit_eraser
from steerlens.methods.steer.several import fit_steers, orthogonal_to
from steerlens.show.layers import plot_sites
from steerlens.toy import Condition, grammar

model = sl.load_model("toy-64")
train, test = (sl.toy.corpus("sentiment", n=n, seed=seed) for n, seed in ((800, 0), (150, 5)))
states = sl.collect(model, train)
fit = sl.fit_steer(states, name="joy")
joy = fit.value

# %% [markdown]
# ## Only where, only when
#
# `steer.when(…)` takes conditions, in words or as values: `"new"`, `"from 5"`, `"every 3"`, `"fade 20"`, `"rise 20"`,
# `"entropy > 1.5"`, `"top 50"`. Several have to hold together. The same random numbers are drawn for each, so the texts part
# where the steer sets in.

# %%
gated = {
    "plain": 0 * joy,
    "joy": joy,
    "late": joy.when("from 7"),
    "fading": joy.when("fade 8"),
}
for name, value in gated.items():
    table = sl.generate(model, ["the film was"], value, strengths=3, max_new_tokens=18, top_p=0.9)
    print(f"{name:8}the film was{table.text[0]}")

# %% [markdown]
# What is gated is still a vector: add, subtract, multiply, save.

# %%
manners = sl.fit_steer(
    sl.collect(model, sl.toy.corpus("tone", n=800, seed=0)), name="manners"
).value
blend = 3 * joy.when("entropy > 1") - 2 * manners.when("every 2")
sl.save(blend, "/tmp/blend.safetensors")
sl.load("/tmp/blend.safetensors", model)

# %% [markdown]
# ## Is a gate worth it?
#
# A steer behind a gate costs less KL, so it can be stronger for the same cost. Does that make it better? At equal KL, no:
# a fitted steer already does little where the next word is settled, so that a bound on the entropy takes nothing away that
# cost anything; and where a gate does take something away, the rest cannot make up for it (`figures/gates.py` has several
# draws). A gate is for *where* you want the style, not for more of it.

# %%
gates = ("entropy > 1", "entropy > 2.5", "every 2", "top 20")
table = compare(model, {"everywhere": joy, **{gate: joy.when(gate) for gate in gates}}, test)
table.set_index("name").round(3)

# %% [markdown]
# ## Where the text is about films
#
# A condition can be fitted: a plane between the states of two kinds of texts. How far a state knows its text's topic is told
# on texts that chose nothing, beside 0.5, which is chance. It is little here: what a model needs for the next word says only
# so much about the topic.

# %%
kinds = [
    (topic, grammar.sample(150, Condition(topic=topic), seed=3)) for topic in ("films", "food")
]
about = sl.Labelled([t for _, some in kinds for t in some], [1] * 150 + [-1] * 150)
films = fit_about(sl.collect(model, about), name="films")
print(f"{films.accuracy:.3f} of {films.positions} held-out positions")
joy.when(films.value)

# %% [markdown]
# ## Several attributes at once
#
# Here are texts in which praise tends to be polite: the two labels have a correlation of 0.8. A steer for tone that is fitted
# alone learns praise as well, indeed more of it. `fit_steers` holds each attribute still while the other is fitted.


# %%
def draw(n: int, correlation: float, seed: int) -> tuple[list[str], torch.Tensor]:
    levels = [(a, b) for a in (-1.0, 1.0) for b in (-1.0, 1.0)]
    counts = [round(n * (1 + correlation * a * b) / 4) for a, b in levels]
    some = [
        text
        for k, ((a, b), m) in enumerate(zip(levels, counts, strict=True))
        for text in grammar.sample(m, Condition(sentiment=a, tone=b), seed=10 * seed + k)
    ]
    return some, torch.tensor(
        [pair for pair, m in zip(levels, counts, strict=True) for _ in range(m)]
    )


texts, labels = draw(600, 0.8, seed=1)
mixed = sl.collect(model, texts)
columns = {"joy": labels[:, 0], "manners": labels[:, 1]}
alone = {f"{name}, alone": sl.fit_steer(mixed.relabel(y), name=name) for name, y in columns.items()}
beside = fit_steers(mixed, columns, interactions=True)
beside

# %% [markdown]
# The column `joy × manners` is their interaction: what both together say beyond the sum. Its verdict says whether there is
# one.
#
# The leak is the sign margin of an attribute under the steer of the other, on new texts in which both are independent. The
# last two rows take away from a steer its part along the other, in the natural metric: between steers that were fitted alone
# this overshoots, since what it is made orthogonal to is itself a mixture.

# %%
fresh, told = draw(120, 0.0, seed=7)
tests = {name: sl.Labelled(fresh, told[:, k].tolist()) for k, name in enumerate(columns)}
metric = sl.natural_metric(mixed, damping=0.03)
a, b = alone.values()
steers = {
    **alone,
    "joy": beside.steers["joy"],
    "manners": beside.steers["manners"],
    "joy, alone, less manners": orthogonal_to(a, [b], metric),
    "manners, alone, less joy": orthogonal_to(b, [a], metric),
}
leaks = leak(model, steers, tests)
leaks.pivot(index="steer", columns="attribute", values="sign_margin").loc[list(steers)].round(3)

# %% [markdown]
# ## By hand
#
# A steer can be written down. `steer_from_words` reads no text at all: it scales the logits of the words that are named and
# moves all others least. `steer_towards_words` knows in which contexts the model uses them, from texts without labels. And
# two texts can be an example, a poor one: they differ in much else.

# %%
words = {
    "superb": "awful",
    "wonderful": "horrible",
    "fantastic": "dreadful",
    "pleasant": "disgusting",
}
hand = {
    "fitted to 800 labelled texts": joy,
    "four pairs of words": steer_from_words(sl.readout(model), words, name="words"),
    "towards four pairs of words": steer_towards_words(states, words, name="words"),
    "two texts": steer_from_texts(
        model,
        "the film was superb . i adored the acting .",
        "the film was awful . i loathed the acting .",
        states=states,
    ),
}
compare(model, hand, test).set_index("name").round(3)

# %%
by_words = hand["four pairs of words"]
strong = sl.strength_at_kl(by_words, states, kl=0.3) * by_words
table = sl.generate(model, ["the film was"], strong, strengths=(-1, 0, 1), top_p=0.9)
print(sl.show.continuations(table))

# %% [markdown]
# ## Erased
#
# `fit_eraser` is a steer that takes a concept *out* of the states at strength 1, in closed form: afterwards no least-squares
# probe of the labels does better on these states than a constant (no linear probe at all, where there are two labels). It is
# the cheapest that does so.

# %%
eraser = fit_eraser(states, name="sentiment")


def explained(x: sl.States) -> float:
    """Part of the labels' variance that the best linear probe explains, position by position."""
    c = torch.cat([part.hidden for part in x.chunks(1 << 14)]).double()
    y = x.labels[torch.cat([part.text for part in x.chunks(1 << 14)])].double()
    c, y = c - c.mean(0), y - y.mean()
    # directions that only rounding left are no directions
    rest = y - c @ (torch.linalg.pinv(c, rtol=1e-5) @ y)
    return 1 - float(rest.square().mean() / y.square().mean())


without = sl.collect(model, train, intervention=eraser)
pd.Series({"before": explained(states), "after": explained(without)}).round(6)

# %% [markdown]
# That a state does not say how the text felt so far does not keep a steer from working: one that is fitted to the erased
# states is worth no less (nats per token at 0.05 nats of KL, halves of the texts judging each other). What a steer moves are
# words, and their contexts need not know. (This model's contexts know little to begin with: 3 % of the labels' variance.)

# %%
again = sl.fit_steer(without, name="joy, erased")
verdicts = {"plain states": fit.report.verdict, "erased states": again.report.verdict}
pd.DataFrame(
    {name: (v.margin, v.low, v.high, v.p) for name, v in verdicts.items()},
    index=["sign margin", "low", "high", "p"],
).T.round(3)

# %% [markdown]
# ## Inside the model
#
# The same linear map can act on any hidden state: on what the model reads (the embeddings of the input), on what attention or an
# MLP adds, behind a layer. `fit_hidden_steer` begins at a closed form from one pass forward and one back, and descends a little
# from there.

# %%
sites = ("hook_embed", "blocks.0.hook_attn_out", "blocks.1.hook_resid_post")
inside = {site: fit_hidden_steer(model, train, site=site, rank=4, progress=False) for site in sites}
held = compare(model, {"steer": joy, **inside}, test)
held.round(3)

# %%
ax = plot_sites(held.rename(columns={"name": "site"}), title="at 0.05 nats per token")

# %% [markdown]
# Behind a layer the map is worth what the steer is, for several times the time. At the input, and on attention's
# output, it is worth less: toy-64 has not learned to hear sentiment, so other words to read change little of what it writes.
# On toy-128, which has, the embeddings of the input are level with the rest, and attention's output alone is worth less
# ([layers](../docs/layers.md)).
#
# Nor do curves help: a constant, a quadratic term, a small MLP or softly routed experts beside the matrix close at most a
# hundredth more of the gap to the truth on toy-128 than the best matrix alone, fitted to exact distributions (`python
# figures/beyond_linear.py`).
