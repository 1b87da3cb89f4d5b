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
# # Your own data
#
# You have some hundred labelled sentences and the name of a language model. This notebook takes you from the file to a steer
# that you can trust, or to the finding that there is none. A *steer* is a matrix that changes the style of what the model
# writes, at a strength that you choose.
#
# It runs as it is, on a small model and 300 reviews that ship with it. For yours, change two lines: `FILE = …` in section 1
# and `MODEL = …` in section 2. Then the names of the columns, and the sentences in quotes. Where else you may want to put
# something of your own it says `# yours`.

# %%
import sys
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import steerlens as sl

pd.set_option("display.max_colwidth", 120)
warnings.showwarning = lambda message, *_: print("warning:", message)  # in one line

# %% [markdown]
# ## 1. Read the file
#
# Say which column holds the texts and which the labels. Labels are numbers from −1 to 1; `scale=(1, 5)` makes such numbers of
# stars. `dropna=True` leaves out rows without text or label, and says how many. Without it the first such row stops the
# reading.

# %%
FILE = "data/reviews.csv"  # yours: .csv, .tsv, .jsonl, .json or .parquet
data = sl.read_labelled(FILE, text="review", label="stars", scale=(1, 5), dropna=True)
print(data)
print(data.understood())  # the same as a string
print(pd.Series(data.texts).duplicated().sum(), "texts stand there more than once")
data[0]

# %% [markdown]
# Read that line before anything else. Are all texts there? Are all labels? Is −1 the end that you mean by −1?
#
# Texts that stand there more than once count once in the verdict of section 3. Near-copies, such as a sentence with another
# ending, do not: one half of the texts would know the answers of the other, so take them out.
#
# The same from a DataFrame, for files that need pandas' options.

# %%
frame = pd.read_csv(FILE, sep=";")
same = sl.Labelled.from_pandas(frame, text="review", label="stars", scale=(1, 5), dropna=True)
print(same == data)
frame.head(3)

# %% [markdown]
# Labels may be words. Then `labels=` says what each word means; a word that is not in it is an error, not a zero.

# %%
frame["mood"] = frame.stars.map({1: "bad", 3: "so-so", 5: "good"})
words = sl.Labelled.from_pandas(
    frame, text="review", label="mood", labels={"bad": -1, "so-so": 0, "good": 1}, dropna=True
)
print(words == data)

# %% [markdown]
# Keep some texts out of everything that follows. They are asked at the end.

# %%
train, test = data.split(0.8, seed=0)
print(train, test, sep="\n")

# %% [markdown]
# ## 2. Is it the right model?
#
# A toy model's name, a folder in the format of Hugging Face, or a hub id such as `"gpt2"`; with `device="cuda"` on a GPU.

# %%
MODEL = "toy-64"  # yours: "gpt2", or a folder
model = sl.load_model(MODEL)

# %% [markdown]
# Does its tokenizer know the words? GPT-2 and its like can spell anything. Others, like this toy, read a word that they do
# not know as *unknown*, and the model does not see it. These are the words of the file that are lost:

# %%
unknown = model.tokenizer.unk_token_id
lost = [
    (row, word)
    for row, text in enumerate(data.texts)
    for word in text.split()
    if unknown in model.tokenizer(word).input_ids
]
pd.DataFrame(lost, columns=["text", "word"])

# %% [markdown]
# A handful of words does no harm, and nothing is said. Where more than a tenth is lost there is a warning. The usual reason
# is another way of writing: this model knows `the film was great !`, in small letters and with spaces.

# %%
tokens = sl.score(model, ["The Film was great!"])

# %% [markdown]
# Does it expect such texts? `sl.score` gives the log-probability of every token. The mean of its negative is the NLL in nats
# per token, to be held against two numbers: the same words in random order, and what pure guessing costs.


# %%
def nll(model, texts):
    """Mean NLL of each text, nats per token."""
    return -sl.score(model, texts).groupby("text").log_prob.mean()


random = np.random.default_rng(0)
mixed = [" ".join(random.permutation(text.split())) for text in data.texts]
pd.Series(
    {
        "your texts": nll(model, data).mean(),
        "their words in random order": nll(model, mixed).mean(),
        "pure guessing": np.log(model.cfg.d_vocab),
    },
    name="nats per token",
).round(2).to_frame()

# %% [markdown]
# The first number should be far below the second. If it is not, the model does not know this kind of text: take another one.
# To compare two models, divide by characters instead of tokens, for their tokens differ. And look at the texts that surprise
# it most: here are the faults of a file.

# %%
surprise = pd.DataFrame({"nll": nll(model, data).round(2), "text": data.texts})
surprise.nlargest(4, "nll")

# %% [markdown]
# ## 3. Fit
#
# The model reads each text once. The fit then finds the matrix that explains the most of the labels for what it costs, beside
# a *background* that all texts share and that is not used to write.

# %%
fit = sl.fit_steer(model, train, name="joy", progress=False)  # leave that out to see bars
print(fit.report)

# %% [markdown]
# **The verdict comes first.** It answers two questions at once. Each half of the texts gave a steer, and the other half,
# which it never saw, judged it: does it *replicate*? And labels in random order were judged in the same way: is it *better
# than chance*? The sign margin is how much likelier a token is at the right sign of the steer than at the wrong one. Its
# interval should leave out 0.
#
# **Strength 1 is a cost**, not an effect: a KL of 0.05 nats per token between the plain and the steered model, the mean of
# both signs, on these texts (`kl=0.05`). So strengths of different steers can be compared. What a label of 1 asks for is
# another number, in the row *strength that a label of 1 asks for*.
#
# **Do not judge by the fall of the NLL.** Most of it is the background, which learns what the texts are about.
#
# Now the same with the labels in random order, to know what *nothing* looks like. And with 40 of the texts, to know what *not
# enough* looks like.

# %%
shuffled = sl.Labelled(train.texts, random.permutation(train.labels))
nothing = sl.fit_steer(model, shuffled, name="nothing", progress=False)
print(nothing.report.verdict)

# %%
few = sl.fit_steer(model, train.first(40), name="few", progress=False)
print(few.report.verdict)

# %%
verdicts = {
    f"your {len(train)} texts": fit.report.verdict,
    "labels in random order": nothing.report.verdict,
    "40 of the texts": few.report.verdict,
}
with sl.show.look():
    ax = plt.subplots(figsize=(4.2, 1.5), layout="constrained")[1]
    for row, v in enumerate(verdicts.values()):
        ax.errorbar(
            v.margin,
            -row,
            xerr=[[v.margin - v.low], [v.high - v.margin]],
            fmt="o",
            color="C0" if v.found else "0.6",
        )
    ax.axvline(0, color="0.6", linewidth=0.7)
    ax.set(
        yticks=range(0, -3, -1),
        yticklabels=verdicts,
        ylim=(-2.5, 0.5),
        xlabel="sign margin, nats per token, 95 %",
    )
pd.DataFrame(
    {
        name: {
            "better than chance": v.found,
            "p": v.p,
            "margin": v.margin,
            "halves agree (cosine)": v.agreement,
        }
        for name, v in verdicts.items()
    }
).T

# %% [markdown]
# What to do:
#
# | you see | do |
# |---|---|
# | *Better than shuffled labels* | Go on. If the halves' cosine is small, trust the effect, not yet single words. |
# | *Not told from …*, and the interval has no room for a useful effect | Check a dozen rows: is each label that of its text? |
# | *Not told from …*, and the interval is wide | These texts cannot tell. Collect more: four times as many halve the interval. |
# | a fit that passed, and you doubt it | 1 of 20 fits to noise passes. Fit it again to new texts. |
#
# ## 4. Write
#
# The same beginnings at several strengths. Along a row the same random numbers are drawn, so that only the steer changes.
# Beside each text stands what the steer costs along it, in nats per token.

# %%
from steerlens.evaluate.sign_margin import written_kl
from steerlens.show.text import continuations

STRENGTHS = (-4, -2, -1, 0, 1, 2, 4)
written = sl.generate(model, ["it was", "the"], fit, strengths=STRENGTHS, seed=3, max_new_tokens=16)
written["kl"] = written_kl(model, written, fit.value)
print(continuations(written, width=100))

# %% [markdown]
# How strong? Write more at each strength and put three columns side by side: what you want, what it costs, and whether the
# text still holds together. For the first you need a judge who knows nothing of the steer: a classifier, or yourself with the
# strengths hidden. The toy world has an exact one, from −1 to 1.


# %%
def judge(texts):
    return sl.toy.grammar.attribute_mean(texts, "sentiment")  # yours: one number per text


from steerlens.evaluate.fluency import strength_cost, writing_cost

many = sl.generate(model, ["it was", "the"], fit, strengths=STRENGTHS, samples=20, seed=4)
many["judged"] = judge(list(many.prompt + many.text))
many["kl"] = written_kl(model, many, fit.value)
price = writing_cost(model, many)
table = (
    many.groupby("strength")[["judged", "kl"]]
    .mean()
    .reset_index()
    .merge(price[["strength", "nll", "distinct_2"]])
)
table.round(2)

# %%
held_out = sl.collect(model, test, progress=False)
ax = sl.show.plot_cost(strength_cost(held_out, fit.value, strengths=STRENGTHS), price)

# %% [markdown]
# `nll` is what the plain model thinks of the text, `distinct_2` the share of different word pairs; it falls when the text
# repeats itself. Start at ±1 and double. Stop where `judged` no longer moves, or where `nll` leaves that of your texts
# (section 2). The cost grows with the square of the strength, the effect does not.
#
# ## 5. Read
#
# Where is the evidence in a text? Red tokens are likelier at strength 1 than at −1, blue ones less likely. The boxes are the
# spans that hold most of it.

# %%
text = "the plot was weak , but the director was brilliant . i loved it ."  # a sentence of your own
found = sl.highlight(model, fit, text, spans=3)
print(found)
ax = sl.show.plot_highlight(found)

# %% [markdown]
# Which words does it write? A steer has directions, the strongest first. In contexts where the model was about to say what is
# in `reads`, a positive strength makes it say more of `writes` and less of `avoids`. Any matrix gives such lists, noise too.
# So the same fit is made 19 times with labels in random order: words in parentheses are no stronger than what that gives.

# %%
from steerlens.methods.steer.refit import fit_shuffled

states = sl.collect(model, train, progress=False)
noise = fit_shuffled(states, fit, n=19, progress=False)  # half of this notebook's time
metric = sl.natural_metric(states, damping=fit.report.damping)
sl.singular_words(fit, rank=1, tokens=8, metric=metric, states=states, noise=noise)

# %% [markdown]
# Believe the words without parentheses. If there are none, the texts are enough for an effect and not for a vocabulary.
#
# Last, the texts that were kept out. `sl.infer_strength` finds the strength at which each is likeliest. It has not seen their
# stars.

# %%
strengths = sl.infer_strength(model, fit, test).table.assign(label=test.labels)
asked = fit.report.strength
with sl.show.look():
    ax = plt.subplots(figsize=(3.35, 2.3), layout="constrained")[1]
    for label, part in strengths.groupby("label"):
        ax.plot(
            label + random.uniform(-0.15, 0.15, len(part)),
            part.strength,
            "o",
            markersize=3,
            alpha=0.5,
        )
        ax.plot(label, part.strength.median(), "_", markersize=28, markeredgewidth=1.5, color="0.4")
    ax.plot([-1, 1], [-asked, asked], ":", color="0.5", label="what labels ask for")
    ax.set(xticks=(-1, 0, 1), xlabel="label of the held-out text", ylabel="likeliest strength")
    ax.legend(frameon=False)
strengths.groupby("label")[["strength", "error"]].median().round(2)

# %% [markdown]
# One short text says little: look at `error`, its standard error. Are the medians in the order of the labels? That is the
# simplest sign that something was learned. `sl.classify(model, fit, train, test)` has accuracies beside a probe and a bag of
# words.
#
# ## 6. Keep it, move it, and the command line
#
# A steer is one safetensors file, without pickle. It holds the report, and a fingerprint of the model that it belongs to.

# %%
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)  # yours: where you keep such files
path = sl.save(fit.value, folder / "joy.safetensors", report=fit.report)
again = sl.load(path, model)
print((again.W == fit.value.W).all().item(), again)
about = sl.read_metadata(path)
pd.Series(
    {key: about[key] for key in ("name", "model_id", "d_model", "readout_digest", "versions")}
).to_frame("metadata")

# %% [markdown]
# Another model has other coordinates, so the steer must be moved. The rule without texts compares the words that both models
# share. After a move strength 1 has lost its meaning; `sl.strength_at_kl` gives it back. How much survives? The same measure on
# both models, on the held-out texts, at the same cost:

# %%
from steerlens.evaluate.sign_margin import sign_margin

other = sl.load_model("toy-128")  # yours
there = sl.transfer(fit, other)
there = sl.strength_at_kl(there, sl.collect(other, train, progress=False)) * there
pd.DataFrame(
    {
        MODEL: sign_margin(model, test, fit.value),
        "moved to toy-128": sign_margin(other, test, there),
    }
).T.round(3)

# %% [markdown]
# With some thousand texts, which need no labels, `rule="selftrain", text=…, source=model` keeps more; see
# [notebook 04](04_transfer.ipynb).
#
# The same from a shell, where `steerlens` is installed with the package:

# %%
steerlens = f"{sys.executable} -m steerlens.cli"
columns = "--text-column review --label-column stars --scale 1,5 --dropna"
file = folder / "joy2.safetensors"
# !{steerlens} fit --model {MODEL} --data {FILE} {columns} --out {file} --quiet
# !{steerlens} write --model {MODEL} --steer {file} --prompt "it was" --strengths=-2,0,2 --seed 3 --max-new-tokens 12

# %% [markdown]
# And all of this notebook as a page with figures:
#
#     steerlens report --model gpt2 --data reviews.csv --out my-report \
#         --text-column review --label-column stars --scale 1,5 --dropna
#
# ## 7. What goes wrong most often
#
# An error names the argument, what came, and what to do. The first words of the usual ones:

# %%
plain = model.original_model  # the Hugging Face model that it holds
one_label = train.pick(np.flatnonzero(np.array(train.labels) == 1))
mistakes = [
    (
        lambda: sl.read_labelled(FILE, text="review", label="stars", scale=(1, 5)),
        "pass dropna=True",
    ),
    (
        lambda: sl.read_labelled(FILE, text="sentence", label="stars", scale=(1, 5)),
        "name the column: text='review'",
    ),
    (
        lambda: sl.Labelled(["dull .", "superb ."], [1, 5]),
        "from_pandas or read_labelled with scale=(1, 5)",
    ),
    (
        lambda: sl.load_model(MODEL, device="gpu"),
        "'cuda', 'cuda:1', 'mps' or 'cpu'; what is there is listed",
    ),
    (
        lambda: sl.fit_steer(plain, train),
        "give what holds it: model",
    ),
    (
        lambda: sl.generate(other, ["it was"], fit),
        "load the model that it was fitted on, or sl.transfer it",
    ),
    (
        lambda: sl.fit_steer(model, train.first(3), progress=False),
        "some hundred texts; the verdict says when it is enough",
    ),
    (
        lambda: sl.fit_steer(model, one_label, progress=False),
        "add texts of another label",
    ),
]
rows = []
for mistake, remedy in mistakes:
    try:
        mistake()
    except ValueError as error:
        rows.append(
            {"the error begins": f"{type(error).__name__}: {error}"[:100] + "…", "remedy": remedy}
        )
assert len(rows) == len(mistakes)
pd.DataFrame(rows)

# %% [markdown]
# Next: [reading a steer](02_reading_the_steer.ipynb) closely, [moving it](04_transfer.ipynb), and [what else](05_reft.ipynb)
# the same texts can be fitted with.
