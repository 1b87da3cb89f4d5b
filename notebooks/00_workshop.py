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
# # Workshop: from nothing to a finding
#
# In a few minutes on a laptop's processor you fit two steers, check that they are not noise, use them together, find
# that one of them spoils the other, and find out when. Each step asks a question: answer it before you run the cell.
#
# The model is `toy-128`, a small GPT-2 that ships with the package. It has learned texts of a grammar whose every
# probability is known, so a judge that never errs can say what a text means. With your own model the steps are the
# same, but for that judge.

# %%
import random
from collections import Counter

import matplotlib.pyplot as plt
import pandas as pd

import steerlens as sl
from steerlens.show.style import axes, look, shade

pd.set_option("display.max_colwidth", 100)
model = sl.load_model("toy-128")

# %% [markdown]
# ## 1. What does the model say by itself?
#
# Ten beginnings of one sentence. **Question: are more of them kind or unkind?**

# %%
plain = sl.generate(model, ["the film was"], samples=10, seed=0, max_new_tokens=8)
plain[["text", "log_prob"]].round(1)

# %% [markdown]
# ## 2. Fit a steer
#
# Texts with a label between −1 and 1 are all that is needed. The model reads them once; the fit then works on its final
# hidden states alone, and takes seconds.

# %%
data = sl.toy.corpus("sentiment", n=1000, seed=0)  # or sl.read_labelled("reviews.csv")
states = sl.collect(model, data, progress=False)
fit = sl.fit_steer(states, name="joy", progress=False)
print(fit.report.verdict)

# %% [markdown]
# ## 3. Would noise look like that?
#
# Never show words or texts of a steer before this question is answered. Here the same texts have their labels in random
# order. **Question: what will the verdict be? And the cosine of the two halves?**

# %%
order = random.Random(0).sample(range(len(data)), len(data))
shuffled = sl.Labelled(data.texts, [data.labels[k] for k in order])
nothing = sl.fit_steer(sl.collect(model, shuffled, progress=False), progress=False)
print(nothing.report.verdict)

# %% [markdown]
# The steer of noise has the same length, for a length is a cost that was asked for (0.05 nats per token at strength 1).
# Only its *sign margin* on texts that it has not seen tells it from the other.
#
# ## 4. Turn the dial
#
# The same random numbers at every strength, so that only the steer changes.

# %%
table = sl.generate(
    model, ["the film was"], fit, strengths=(-2, -1, 0, 1, 2), seed=1, max_new_tokens=12
)
print(sl.show.continuations(table))

# %% [markdown]
# The judge reads many such texts. It gives the expected sentiment, from −1 to 1, under the exact grammar. **Question:
# texts of label 1 have 0.7 on average. Is there a strength that overdoes it?**

# %%
written = sl.written_attribute(model, fit, "sentiment", strengths=(-3, -1.5, 0, 1.5, 3), samples=80)
sl.show.plot_written_attribute(written, name="joy")
plt.show()

# %% [markdown]
# ## 5. Read it
#
# What does the matrix say? Where the model was about to say the words in *reads*, a positive strength makes it say more
# of *writes* and less of *avoids*. A direction has two sides. The column `kept` tells how much of it fits to other
# texts have too, `spread` how much that varies. Words in parentheses are ordinary: most directions would list them.
# **Question: how many directions are real?**

# %%
halves = sl.fit_split_halves(states, fit, pairs=2, progress=False)
metric = sl.natural_metric(states)
words = sl.singular_words(fit, rank=2, tokens=6, metric=metric, states=states, refits=halves)
words[["direction", "side", "gain", "kept", "spread", "writes", "avoids"]].round(2)

# %% [markdown]
# One: other texts give the first direction again. Of the second, which is weak to begin with, they give a third.
#
# ## 6. A second steer, and a prediction
#
# Tone goes from rude to courteous. In the natural metric the two steers are nearly orthogonal. **Question: does it
# follow that they can be added without harm to each other?**

# %%
polite = sl.toy.corpus("tone", n=1000, seed=0)
manners = sl.fit_steer(sl.collect(model, polite, progress=False), name="manners", progress=False)
print(manners.report.verdict)
a, b = (metric.whiten(one.value.W) for one in (fit, manners))
print(f"cosine {float((a * b).sum() / a.norm() / b.norm()):+.2f}")

# %% [markdown]
# ## 7. The measurement
#
# Joy at +2 and −2, with manners at five strengths, 150 texts each. If the steers do not meddle with each other, the
# sentiment stays where it is.

# %%
judge, rows = sl.toy.grammar, []
for strength in (-2, -1, 0, 1, 2):
    for sign in (-1, 1):
        both = 2 * sign * fit.value + strength * manners.value
        texts = sl.generate(model, [""], both, samples=150, seed=1, max_new_tokens=40).text
        rows += [(strength, 2 * sign, text.strip()) for text in texts if text.strip()]
plane = pd.DataFrame(rows, columns=["manners", "joy", "text"])
found = judge.posteriors(list(plane.text))
plane = plane.assign(
    sentiment=found.mean("sentiment"), tone=found.mean("tone"), grammatical=found.grammatical
)
plane.groupby(["joy", "manners"])[["sentiment", "tone", "grammatical"]].mean().round(2)

# %%
with look():
    ax = axes()
    for joy, part in plane.groupby("joy"):
        by = part.groupby("manners").sentiment
        ax.errorbar(
            by.mean().index,
            by.mean(),
            2 * by.sem(),
            capsize=3,
            color=shade(joy, 2),
            label=f"joy {joy:+d}",
        )
    ax.set(xlabel="strength of manners", ylabel="sentiment", ylim=(-1, 1))
    ax.legend()
plt.show()

# %% [markdown]
# Orthogonal, and yet: at +2 of manners a third of the sentiment and more is gone, on both sides. At ±1 hardly any is, and
# rude texts keep theirs. (Bars: two standard errors.)
#
# ## 8. Is it the steers, or is it the world?
#
# Perhaps courteous people speak more mildly. The texts know: here is the sentiment of *real* texts of label ±1, by
# their tone.

# %%
real = sl.toy.corpus("sentiment", n=3000, seed=5)
found = judge.posteriors(list(real.texts))
real = pd.DataFrame(
    {
        "label": real.labels,
        "text": real.texts,
        "sentiment": found.mean("sentiment"),
        "tone": found.mean("tone"),
    }
)
names = ["very rude", "rude", "neutral", "courteous", "very courteous"]
real["group"] = pd.cut(real.tone, [-1.01, -0.95, -0.5, 0.5, 0.95, 1.01], labels=names)
real = real[real.label.abs() == 1]
real.pivot_table(index="group", columns="label", values="sentiment", observed=True).round(2)

# %% [markdown]
# In the world, too, much tone takes some sentiment away, but a sixth at most, not a third. **Question: what else can
# it be?** Count the words that texts of tone +1 have five times as often as those of −1.

# %%
count = {
    sign: Counter(w for text, y in polite if y == sign for w in text.split()) for sign in (-1, 1)
}
courteous = {w for w, n in count[1].items() if n > 5 * count[-1][w] + 5}


def courtesy(text):
    words = text.split()
    return sum(w in courteous for w in words) / len(words)


written = plane.assign(share=plane.text.map(courtesy)).groupby("manners").share.mean()
natural = real.assign(share=real.text.map(courtesy)).groupby("group", observed=True).share.mean()
pd.concat([natural, written.rename(lambda k: f"written at {k:+d}")]).round(3).to_frame("share")

# %% [markdown]
# At +1 there are as many courteous words as in the very courteous texts. At +2 there are twice as many, and fewer texts
# that the grammar could have made at all: the steer has left the range of its labels, and the words that it says too
# often take the room of those that carry the sentiment.
#
# **The finding.** *Steers that are orthogonal add up within the range of their labels; beyond it one crowds out the
# other.* This is one model and one seed of each fit, a hint and not a result. To believe it, repeat with `toy-64` and
# other seeds. And rude words do not crowd out sentiment at −2: why not?
#
# ## 9. Look for yourself
#
# One page that needs no server: both dials, the next words at every place, and what each strength costs. Does the cost
# tell you where the range ends?

# %%
page = sl.show.explore(model, {"joy": fit, "manners": manners}, ["the film was", "my friend"])
print(page)  # as the last line of a cell, `page` shows itself; page.save("explorer.html") keeps it

# %% [markdown]
# **Where to go on.** [A first steer](01_first_steer.ipynb) looks at the fit more closely, [Reading the
# steer](02_reading_the_steer.ipynb) at the words, [Your own data](10_your_own_data.ipynb) begins with your file and
# your model.
