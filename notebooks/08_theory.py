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
# # When is a steer exact, and when must it fail?
#
# The toy world is a hidden Markov model whose every probability is known, and there are language models of it. So what is
# said about steers can be held against the truth: first on the grammar itself, then on a model.

# %%
import numpy as np
import pandas as pd

import steerlens as sl
from steerlens.analysis import theory
from steerlens.show.theory import plot_bounds, plot_prior_shift
from steerlens.toy import grammar
from steerlens.toy.belief import (
    exact_linear_model,
    grades_of,
    kl_rows,
    revealed_grade,
    sample_with_redraw,
    tilted_prior,
)
from steerlens.toy.theory import assumption_residuals, grammar_chain, in_basis, random_hmm

# %% [markdown]
# ## The grammar as a linear model
#
# A state is a condition (sentiment × tone × topic), a template and a position in it. Forward messages over states, normalised,
# are a belief `c`; the next word has probability
#
# $$P(o \mid \text{words before}) = c \cdot e_o$$
#
# with `e_o` the chance of the word in each state. No softmax: contexts times word vectors are probabilities.

# %%
texts = grammar.sample(20, seed=1)
model = exact_linear_model(grammar, texts)
prefix = " ".join(texts[0].split()[:3])
float(abs(model.predict()[3] - grammar.next_token(prefix)).max())

# %% [markdown]
# ## The theorem that holds
#
# Write the joint probability of the words so far and a state `s` of condition `y(s)`. If the condition never changes, every
# path to `s` began with `y(s)`, so that the prior π of the condition is a factor in front of what does not know it:
#
# $$P_\pi(o_{<t}, s) = \pi(y(s)) \cdot f(o_{<t}, s) \quad\Rightarrow\quad
#   P_{\pi'}(o_{<t}, s) = \frac{\pi'(y(s))}{\pi(y(s))}\, P_\pi(o_{<t}, s)$$
#
# The diagonal matrix `W = diag(π′/π)` on the belief is the whole change, at every position of every text; what is left is to
# normalise. Here the odds of a grade are multiplied by exp(2 · grade).

# %%
prior = tilted_prior(grammar, "sentiment", 2.0)
ratio = len(prior) * prior
turned = sample_with_redraw(grammar, 20, prior, redraw=0.0, seed=2)
model = exact_linear_model(grammar, turned)
truth = exact_linear_model(grammar, turned, prior).predict()
pd.Series(
    {
        "no steer": kl_rows(truth, model.predict()).mean(),
        "W = diag(π′/π)": kl_rows(truth, model.predict(ratio)).mean(),
    },
    name="KL, nats per word",
)

# %% [markdown]
# In any other basis of the belief it is `R₁⁺ᵀ diag(π′/π) R₂⁺`: a full matrix on word vectors, as a steer is.

# %%
hmm = random_hmm(2, 3, 4, seed=0)
form, odds = in_basis(hmm, d=8), np.array([0.2, 3.0])
W = form.steer(odds[hmm.condition])
words = [0, 3, 1]
there = hmm.with_prior(odds).beliefs(words) @ hmm.emission
float(abs(form.predict(hmm.beliefs(words), W) - there).max())

# %% [markdown]
# ## Where it must fail
#
# If the condition is drawn anew with chance δ after every word, the same matrix pushes what has been forgotten
# (`figures/theorem.py` has more, with the best matrix and intervals).

# %%
rows = []
for redraw in (0.0, 0.01, 0.1, 1.0):
    some = sample_with_redraw(grammar, 20, prior, redraw=redraw, seed=2)
    fading = exact_linear_model(grammar, some, redraw=redraw)
    target = exact_linear_model(grammar, some, prior, redraw=redraw).predict()
    costs = [kl_rows(target, fading.predict(w)).mean() for w in (None, ratio)]
    rows.append((redraw, *costs))
pd.DataFrame(rows, columns=["δ", "no steer", "the theorem's W"]).set_index("δ").round(4)

# %% [markdown]
# ## What the published assumptions force
#
# The paper writes `T = φ_sem A φ_semᵀ + φ_cond φ_condᵀ` and asks for (1) equal energy, Σ_s φ_i² = C, (2) orthogonal features,
# (3) Σ_s φ_i φ_j φ_k = 0 where k is a condition feature and not all are equal. From (1) and (2), `T φ_k = C φ_k` and
# `φ_k T = C φ_k`. What `T` has done t times has `C^t`, so that a condition that does not fade has C = 1, and `φ_k` is an
# eigenvector of a stochastic matrix at 1 from both sides: 0 on transient states, a constant `a_c` on each closed class c of
# `n_c` states. The class's indicator (or the chance to end there) is an eigenvector too, so it lies in the span of the features:
# `1_c = s_c + n_c a_c φ_k` with `s_c` a sum of others. Into (3) with these, S = Σ_s φ_k³:
#
# $$\textstyle\sum_s \varphi_k^2 s_c = 0 \Rightarrow a_c = S, \qquad
#   \sum_s s_c\, s_d\, \varphi_k = 0 \Rightarrow a_c + a_d = S$$
#
# for classes with `a ≠ 0`: there is one of them. Then, for a semantic feature,
#
# $$\sum_s \varphi_i^2\, \varphi_k = \frac{1}{\sqrt{n_k}} \sum_{s \in k} \varphi_i^2 = 0$$
#
# so none has any energy on the class: condition and meaning never meet, and on the class `T = φ_k φ_kᵀ = 1 1ᵀ/n`, words are
# drawn without memory. Where every state has a condition the sums cannot all vanish, for
#
# $$\sum_k \sqrt{n_k} \sum_s \varphi_i^2\, \varphi_k = \sum_s \varphi_i^2 = 1.$$
#
# On the toy grammar: conditions persist (right), are not visited evenly (left; 0 is asked), and the third-order sums are at
# least this large for every choice of meaning:

# %%
pd.Series(assumption_residuals(*grammar_chain(grammar))._asdict()).round(5)

# %% [markdown]
# The number is small because there are many states, not because the assumption nearly holds. The theorem above needs none of it.
#
# ## The softmax
#
# A language model's steer adds `u = cWe` to logits. What would the theorem's add? To first order in a shift κ of the
# log-prior, the grade that a word reveals:
#
# $$\frac{\partial}{\partial\kappa} \log P_\kappa(v \mid \text{words}) = E[g \mid \text{words}, v] - E[g \mid \text{words}]$$

# %%
linear = exact_linear_model(grammar, ["the plot was"])
found = pd.Series(revealed_grade(linear, grades_of(grammar, "sentiment"))[3], index=grammar.vocab)
found[["superb", "good", "so-so", "dull", "awful"]].round(2)

# %% [markdown]
# A fitted steer does this. `cosine` is of the two shifts under the model's own prediction; `chance` is what 95 % of random
# matrices with the same singular values stay below; the other attribute's steer is a control.

# %%
lm = sl.load_model("toy-128")
states, fits = {}, {}
for attribute in ("sentiment", "tone"):
    states[attribute] = sl.collect(lm, sl.toy.corpus(attribute, n=1000, seed=0), progress=False)
    fits[attribute] = sl.fit_steer(states[attribute], name=attribute, progress=False)
steers = {name: fit.value for name, fit in fits.items()}
metric = theory.metric_of(states["sentiment"].sample(8_192, seed=0))
theory.belief_alignment(
    steers, lm, grammar.sample(40, seed=5), "sentiment", metric, draws=20
).round(3)

# %% [markdown]
# Do the states hold the belief that the theorem acts on? A linear probe of the exact belief, on texts that it was not fitted
# on; `chance` is of beliefs of other texts.

# %%
theory.belief_probe(theory.read_beliefs(lm, grammar.sample(300, seed=6), "sentiment")).round(3)

# %% [markdown]
# ## Strength as a shift of the log-prior
#
# What is written at a strength, as the shift κ of the grammar's log-prior under which it is likeliest.

# %%
rows = []
for s in (-1.0, -0.5, 0.0, 0.5, 1.0):
    written = sl.generate(
        lm, [""], fits["sentiment"], strengths=(s,), samples=60, seed=7, max_new_tokens=40
    )
    kappa = theory.prior_shift([t for t in written.text if t.strip()], "sentiment", draws=50)
    rows.append((s, *kappa))
shifts = pd.DataFrame(rows, columns=["strength", "kappa", "error"])
weight = 1 / shifts.error**2
slope = float((weight * shifts.strength * shifts.kappa).sum() / (weight * shifts.strength**2).sum())
ax = plot_prior_shift(shifts, slope=slope)

# %% [markdown]
# ## How straight is it?
#
# The second derivative of a softmax along `u` is `q[(u − ū)² − Var u]`, whose L1 norm is at most `R²/2` with `R` the range of
# `u`: hence a bound on the distance from a straight line that holds for every read-out, and says something at small strengths.
# The bound of version 1 of the paper is in the column `paper`.

# %%
table = theory.interpolation_error(steers["sentiment"], states["sentiment"])
table

# %%
ax = plot_bounds(table)

# %% [markdown]
# ## The gap to the truth, in parts
#
# The best linear steer is fitted to the grammar's exact distribution in place of drawn words. (Here toy-64 with few texts, in a
# hurry; `figures/ceiling.py` has all models.)

# %%
small, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=300, seed=1)
there = sl.collect(small, data, progress=False)
known = theory.truth_of(small, data, "tone", there)
best = theory.distil_truth(known, theory.metric_of(there), ridge=1e-2, tolerance=5e-3)
fit = sl.fit_steer(small, sl.toy.corpus("tone", n=1000, seed=0), progress=False)
new = theory.exact_truth(small, "tone", n=300, seed=77)
theory.gap_parts(new, fit.report.strength * fit.value, best.steer).round(3)

# %% [markdown]
# ## Another basis of the same model
#
# `e → Ae, c → cA⁻¹` leaves all logits as they are. Relative errors in the logit shifts, by the condition number of A:

# %%
theory.gauge_errors(steers["sentiment"], states["sentiment"]).set_index("condition").round(3)
