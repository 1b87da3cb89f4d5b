"""Whether a toy model's states hold the exact belief, and whether a steer acts on it as theory has
it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.brief import brief
from steerlens.maths.least_squares import regress
from steerlens.maths.numbers import as_count, as_number, generator
from steerlens.maths.stats import top_by_chance
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.embeddings import states_at
from steerlens.models.hooks import Model, adapter, convention
from steerlens.models.readout import readout
from steerlens.models.steering import check_lives_on
from steerlens.models.tokenization import encode
from steerlens.toy import default_grammar
from steerlens.toy.batches import build_pieces
from steerlens.toy.belief import (
    exact_beliefs,
    exact_linear_model,
    grades_of,
    revealed_grade,
)
from steerlens.toy.corpus import Attribute
from steerlens.toy.tables import FACTORS
from steerlens.values.arguments import steer_of
from steerlens.values.fit import Fit
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.metric import Metric, check_metric_on
from steerlens.values.steer import Steer
from steerlens.values.texts import as_choice, as_texts

RIDGE = 1e-4
"""Of the probes, relative to the mean eigenvalue of the states' second moment."""


class Beliefs(NamedTuple):
    """States of a model where a word has been read whole, and the exact belief there.

    Args:
        states: by place in the model, `[n, d_model]`.
        belief: P(grade of the attribute | words so far), `[n, grades]`.
        grades: of the attribute.
        text: of each row.
    """

    states: dict[str, Float[Tensor, "n d_model"]]
    belief: Float[Tensor, "n grades"]
    grades: Float[Tensor, " grades"]
    text: Float[Tensor, " n"]


@torch_defaults()
def read_beliefs(model: Model, texts: Sequence[str], attribute: Attribute) -> Beliefs:
    """Read texts of the toy world, and work out the exact belief after every word.

    Places are the embeddings, what each block leaves, and the input of the unembedding.
    """
    as_choice(attribute, "attribute", get_args(Attribute))
    texts = as_texts(texts)
    grammar, on = default_grammar(), readout(model)
    levels = grammar.tables.levels[:, FACTORS.index(attribute)]
    onto = np.eye(len(grammar.axes[attribute]))[levels]
    belief = exact_beliefs(grammar, texts) @ onto
    ids = encode(adapter(model).tokenizer, list(texts), convention(model, on), end=False).ids
    spelling = build_pieces(grammar, adapter(model).tokenizer, on.d_vocab).spelling
    # after the begin-of-text token and after the last piece of each word
    ends = [
        np.cumsum([1, *(len(spelling[grammar.word_index[word]]) for word in text.split())]) - 1
        for text in texts
    ]
    blocks = [f"blocks.{layer}.hook_resid_post" for layer in range(adapter(model).n_layers)]
    states = {
        site: torch.cat([h[at] for h, at in zip(states_at(model, ids, site), ends, strict=True)])
        for site in ("blocks.0.hook_resid_pre", *blocks, UNEMBED_IN)
    }
    text = torch.cat([torch.full((len(at),), float(i)) for i, at in enumerate(ends)])
    grades = torch.from_numpy(np.array(grammar.axes[attribute], dtype=np.float32))
    return Beliefs(states, torch.from_numpy(belief).float(), grades, text)


@torch_defaults()
def belief_probe(beliefs: Beliefs, *, share: float = 0.7, seed: int = 0) -> pd.DataFrame:
    """Return how much of the exact belief is a linear function of the states, place by place.

    Ridge regression on some texts, `R²` on others, of deviations from the mean belief. `chance` is
    the same with each text's beliefs given to another text of the fit: what place in the text alone
    tells, and what a probe of this size makes of noise. Shai et al. (arXiv 2405.15943) find beliefs
    linear in the residual stream of transformers that were trained on hidden Markov models.

    Returns:
        One row per place: `site`, `r2`, `chance`.
    """
    rows = []
    n_texts = int(beliefs.text.max()) + 1
    fitted = round(as_number(share, "share", "a number between 0 and 1") * n_texts)
    if not 0 < fitted < n_texts:
        raise ValueError(
            f"share: got {share} of {n_texts} texts, expected some to fit on and some to test on"
        )
    order = torch.randperm(n_texts, generator=generator(seed))
    train = torch.isin(beliefs.text, order[:fitted].float())
    wrong = _given_to_another(beliefs, seed)
    for site, states in beliefs.states.items():
        X = torch.cat([states, torch.ones(len(states), 1)], 1)
        scores = []
        for Y in (beliefs.belief, wrong):
            M = regress(X[train], Y[train], ridge=RIDGE).M.to(X)
            left = (Y[~train] - X[~train] @ M).square().sum()
            scores.append(float(1 - left / (Y[~train] - Y[train].mean(0)).square().sum()))
        rows.append((site, *scores))
    return pd.DataFrame(rows, columns=["site", "r2", "chance"])


def _given_to_another(beliefs: Beliefs, seed: int) -> Float[Tensor, "n grades"]:
    """Return each text's beliefs in the place of another's, at the same positions."""
    n = int(beliefs.text.max()) + 1
    order = torch.randperm(n, generator=generator(seed + 1)).tolist()
    rows = [beliefs.belief[beliefs.text == i] for i in range(n)]
    found = []
    for i, j in enumerate(order):
        at = torch.arange(len(rows[i])).clamp_max(len(rows[j]) - 1)
        found.append(rows[j][at])
    return torch.cat(found)


@torch_defaults()
def belief_alignment(
    steers: Mapping[str, Steer | Fit],
    model: Model,
    texts: Sequence[str],
    attribute: Attribute,
    metric: Metric,
    *,
    draws: int = 50,
    seed: int = 0,
) -> pd.DataFrame:
    """Return whether steers do to the words what a shift of the prior does.

    The theorem's steer `diag(π′/π)` with π′ ∝ π exp(κ g) adds, to first order in κ, to each word's
    logit the grade that the word would reveal (`revealed_grade`); a steer adds `u = cWe`. The cosine
    of the two under the model's own prediction,

        E_t Cov_{p_t}(u, r) / √(E_t Var u · E_t Var r)

    over the texts' contexts, is 1 for the theorem's steer in a model that carries the exact belief.

    Args:
        steers: on the model, by name.
        model: a toy model whose tokens are whole words.
        texts: of the toy world.
        attribute: whose grade is shifted.
        metric: the natural metric: random controls have the first steer's singular values there.
        draws: random controls.
        seed: of them.

    Returns:
        One row per steer: `steer`, `cosine`, `kappa` (the shift of the log-prior per unit of
        strength that fits best), and `chance`, which one more random steer's cosine exceeds in
        size in no more than 1 of 20 cases.

    Raises:
        ValueError: a model that splits words, no steers, a steer or a metric of another model.
    """
    as_choice(attribute, "attribute", get_args(Attribute))
    texts = as_texts(texts)
    if not isinstance(steers, Mapping) or not steers:
        raise ValueError(f"steers: got {brief(steers)}, expected at least one, by name")
    draws = as_count(draws, "draws")
    asked = {name: steer_of(steer, f"steers[{name!r}]") for name, steer in steers.items()}
    for name, steer in asked.items():
        check_lives_on(steer, model, f"steers[{name!r}]")
        check_metric_on(metric, steer.readout)
    grammar, on = default_grammar(), readout(model)
    spelling = build_pieces(grammar, adapter(model).tokenizer, on.d_vocab).spelling
    if max(map(len, spelling)) > 1:
        raise ValueError(
            f"model: {on.model_id!r} splits words into pieces; expected one whose tokens are the grammar's words"
        )
    words = [pieces[0] for pieces in spelling]
    ids = encode(adapter(model).tokenizer, list(texts), convention(model, on), end=False).ids
    c = torch.cat(states_at(model, ids, UNEMBED_IN))
    p = torch.softmax(on.logits(c), 1)[:, words]
    linear = exact_linear_model(grammar, texts)
    r = torch.from_numpy(revealed_grade(linear, grades_of(grammar, attribute))).float()
    E = on.head.W_U[:, words]

    def centred(u: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        return u - (p * u).sum(1, keepdim=True) / p.sum(1, keepdim=True)

    r = centred(r)
    size = float((p * r.square()).sum())

    def compare(W: Float[Tensor, "d d"]) -> tuple[float, float]:
        u = centred(c @ W @ E)
        inner = float((p * u * r).sum())
        return inner / (float((p * u.square()).sum()) * size) ** 0.5, inner / size

    first = next(iter(asked.values()))
    singular, random = torch.linalg.svdvals(metric.whiten(first.W)), generator(seed)
    chance = []
    for _ in range(draws):
        U, V = (torch.linalg.qr(torch.randn(*first.W.shape, generator=random))[0] for _ in "UV")
        chance.append(abs(compare(metric.unwhiten((U * singular) @ V.mT))[0]))
    top = top_by_chance(chance)
    rows = [(name, *compare(steer.W), top) for name, steer in asked.items()]
    return pd.DataFrame(rows, columns=["steer", "cosine", "kappa", "chance"])
