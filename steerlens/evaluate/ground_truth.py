"""How well a steer explains labelled texts, and how far it is from the truth of the toy world."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch

from steerlens.maths.brief import brief
from steerlens.maths.numbers import as_count, as_floats, as_numpy_seed, decimal
from steerlens.maths.stats import ratio_error
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.collect import collect
from steerlens.models.generate import generate
from steerlens.models.hooks import Model
from steerlens.models.score import state_log_probs
from steerlens.models.steering import check_intervention, check_lives_on
from steerlens.toy import Condition, default_grammar
from steerlens.values.arguments import background_of, check_same_model, line_of, steer_of
from steerlens.values.fit import Fit, value_of
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer, SteerWithBackground

DRAWS = 1_000
"""Bootstrap samples of the texts behind an interval."""


@torch_defaults()
def label_curve(
    states: States,
    steer: Steer | Fit,
    *,
    background: Steer | None = None,
    strengths: float | Iterable[float] = (-3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3),
) -> pd.DataFrame:
    """Return how likely the texts of each label are at each strength, relative to strength 0.

        Σ_texts (log P_s(text) − log P_0(text)) / Σ_texts tokens        nats per token

    Where labels are what the steer was fitted on, the curve of label 1 should have its top near
    strength 1, that of label -1 near -1, and that of 0 near 0. Take texts that were not trained on.

    Args:
        states: labelled, from `collect`.
        steer: on the same model.
        background: always on, at strength 0 too; None for the plain model.
        strengths: any; 0 need not be among them.

    Returns:
        One row per label and strength: `label`, `strength`, `log_likelihood` (nats per token, 0 at
        strength 0), `error` (its
        standard error over the texts), `texts`, `tokens`.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=100, seed=0), progress=False)
        >>> table = sl.label_curve(states, sl.fit_steer(states).value, strengths=(0, 1))
        >>> float(table.log_likelihood[table.strength == 0].abs().max())
        0.0
    """
    check_states(states)
    steer = steer_of(steer)
    check_same_model(states, steer)
    values = as_floats(strengths, "strengths")
    line = steer if background is None else steer.with_background(background_of(background))
    log_probs = state_log_probs(states, line, (0.0, *values)).double()
    by_text = states.sum_by_text(log_probs[1:] - log_probs[0])
    rows = []
    for label in states.labels[states.keep].unique().tolist():
        mine = states.keep & (states.labels == label) & (states.lengths > 0)
        tokens = states.lengths[mine].double().numpy()
        for strength, change in zip(values, by_text[:, mine].numpy(), strict=True):
            mean = change.sum() / tokens.sum()
            error = ratio_error(change, tokens) if len(tokens) > 1 else np.nan
            rows.append(
                (decimal(label), strength, float(mean), error, len(tokens), int(tokens.sum()))
            )
    return pd.DataFrame(
        rows, columns=["label", "strength", "log_likelihood", "error", "texts", "tokens"]
    )


@torch_defaults()
def gap_closed(
    model: Model,
    steer: Steer | SteerWithBackground | Fit,
    attribute: str,
    *,
    strengths: float | Iterable[float] = (0.5, 1, 1.5, 2, 3),
    n: int = 1000,
    seed: int = 1_000_003,
) -> pd.DataFrame:
    """Return how much of the distance to the truth a steer covers, on texts of the toy world.

        gap closed = (base − steered) / (base − truth)        of mean NLL in nats per token of the grammar

    `base` is the model without the steer, `steered` the model at strength = the texts' own grade,
    `truth` the exact grammar that is told the grade. A token of the grammar is a word or the end of
    the text, whatever the model's own tokens. The distance has two parts, which the columns tell
    apart: base − `grammar` (the grammar that is not told the grade) is what the model has not
    learned, and no steer can be asked for it; `grammar` − truth is what knowing the grade is worth.
    Both models infer the grade from the words as they read, so it is worth most at the beginning of
    a text.

    Args:
        model: a toy model, or any whose texts are the toy world's.
        steer: its strength follows the grade of each text.
        attribute: "sentiment" or "tone".
        strengths: multiples of the grade, among which the best is chosen on `n` other texts.
        n: texts in all, the grades in equal parts; drawn anew, by `seed`.

    Returns:
        One row per grade and one for "all": `grade`, `texts`, `tokens`, `base`, `steered`, `truth`,
        `grammar`, `gap_closed` and its 95 % interval over texts `low`, `high` (NaN where a grade has
        one text); then `multiple`, the
        best of `strengths`, with `best_steered`, `best_gap_closed`, `best_low`, `best_high`. At
        grade 0 the strength is 0 and the gap closed is 0 by construction.

    Raises:
        ValueError: an attribute without grades, or fewer texts than grades.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> tone = sl.fit_steer(sl.collect(model, sl.toy.corpus("tone", n=300, seed=0))).value
        >>> sl.gap_closed(model, tone, "tone", n=30).columns[:7].tolist()
        ['grade', 'texts', 'tokens', 'base', 'steered', 'truth', 'grammar']
    """
    steer = line_of(steer)
    check_lives_on(steer, model, "steer")
    multiples = as_floats(strengths, "strengths")
    n, seed = as_count(n, "n"), as_numpy_seed(seed)
    chosen = _measure(model, steer, attribute, multiples, n, seed + 1)
    multiple = multiples[int(np.argmin([chosen[f"at {m}"].sum() for m in multiples]))]
    table = _measure(model, steer, attribute, [1.0, multiple], n, seed)
    random = np.random.default_rng(seed)
    parts = [(grade, part) for grade, part in table.groupby("grade")]
    rows = []
    for grade, groups in [
        *((g, [part]) for g, part in parts),
        ("all", [part for _, part in parts]),
    ]:
        whole = pd.concat(groups)
        per_token = whole.drop(columns="grade").sum() / whole.tokens.sum()
        row = {
            "grade": grade,
            "texts": len(whole),
            "tokens": int(whole.tokens.sum()),
            "base": per_token.base,
        }
        row |= {
            "steered": per_token["at 1.0"],
            "truth": per_token.truth,
            "grammar": per_token.grammar,
        }
        row |= dict(
            zip(("gap_closed", "low", "high"), _closed(groups, "at 1.0", random), strict=True)
        )
        row |= {"multiple": multiple, "best_steered": per_token[f"at {multiple}"]}
        closed = _closed(groups, f"at {multiple}", random)
        rows.append(
            row | dict(zip(("best_gap_closed", "best_low", "best_high"), closed, strict=True))
        )
    return pd.DataFrame(rows)


@torch_defaults()
def written_attribute(
    model: Model,
    steer: Intervention | Fit,
    attribute: str,
    *,
    strengths: float | Iterable[float] = (-4, -2, 0, 2, 4),
    prompts: Sequence[str] = ("",),
    samples: int = 50,
    seed: int = 0,
    max_new_tokens: int = 40,
) -> pd.DataFrame:
    """Return what a toy model writes at each strength, judged by the grammar's exact posterior.

    The judge sees the prompt too. It knows the grammar and nothing of the steer: E[grade | text] is
    between -1 and 1, the mean of the grades weighted by how likely each would have made this text.

    Args:
        attribute: "sentiment" or "tone".
        prompts: beginnings that the grammar can say; "" lets the model write from nothing.
        samples: texts per prompt and strength; see `generate` for this and the rest.

    Returns:
        One row per text: `prompt`, `strength`, `sample`, `text` (the continuation), `attribute`
        (its posterior mean),
        `grammatical` (whether the grammar can begin a text that way).

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> tone = sl.fit_steer(sl.collect(model, sl.toy.corpus("tone", n=300, seed=0))).value
        >>> sl.written_attribute(model, tone, "tone", strengths=(-2, 2), samples=3).shape
        (6, 6)
    """
    _grades(attribute)
    check_intervention(value_of(steer), "steer")
    written = generate(
        model,
        prompts,
        steer,
        strengths=strengths,
        samples=samples,
        seed=seed,
        max_new_tokens=max_new_tokens,
    )
    judged = default_grammar().posteriors(
        [(p + t).strip() for p, t in zip(written.prompt, written.text, strict=True)]
    )
    return written.drop(columns="log_prob").assign(
        attribute=judged.mean(attribute), grammatical=judged.grammatical
    )


def _grades(attribute: str) -> tuple[float, ...]:
    axes = default_grammar().axes
    if attribute not in ("sentiment", "tone"):
        raise ValueError(
            f"attribute: got {brief(attribute)}, expected 'sentiment' or 'tone', whose grades are numbers"
        )
    return tuple(float(level) for level in axes[attribute] if level is not None)


def _measure(
    model: Model,
    steer: Steer | SteerWithBackground,
    attribute: str,
    multiples: Sequence[float],
    n: int,
    seed: int,
) -> pd.DataFrame:
    """Return the NLL of fresh texts in nats, one row per text.

    Of the model, steered at multiples of the grade, and of the grammar.
    """
    grammar, grades = default_grammar(), _grades(attribute)
    if n < len(grades):
        raise ValueError(
            f"n: got {n}, expected at least one text for each of the {len(grades)} grades"
        )
    parts = []
    for k, grade in enumerate(grades):
        condition = (
            Condition(sentiment=grade) if attribute == "sentiment" else Condition(tone=grade)
        )
        texts = grammar.sample(len(range(k, n, len(grades))), condition, seed=seed * 101 + k)
        states = collect(model, Labelled(tuple(texts), (grade,) * len(texts)), progress=False)
        log_probs = state_log_probs(states, steer, [0.0, *(m * grade for m in multiples)]).double()
        # without a background, strength 0 is the plain model; with one, the plain model is scored
        # by itself
        plain = (
            log_probs[0]
            if isinstance(steer, Steer)
            else state_log_probs(states, None, [0.0])[0].double()
        )
        sums = -states.sum_by_text(torch.cat([plain[None], log_probs[1:]]))
        part = pd.DataFrame(
            {"grade": grade, "tokens": [len(t.split()) + 1 for t in texts], "base": sums[0].numpy()}
        )
        for multiple, nll in zip(multiples, sums[1:], strict=True):
            part[f"at {multiple}"] = nll.numpy()
        parts.append(
            part.assign(
                truth=-grammar.log_probs(texts, condition), grammar=-grammar.log_probs(texts)
            )
        )
    return pd.concat(parts, ignore_index=True)


def _closed(
    groups: list[pd.DataFrame], column: str, random: np.random.Generator
) -> tuple[float, float, float]:
    """Return the gap closed and its 95 % interval; texts are drawn again within each grade, and of a
    grade with one text there is none."""
    gained = distance = np.zeros(1 + DRAWS)
    for group in groups:
        pick = random.integers(len(group), size=(DRAWS, len(group)))
        won = (group.base - group[column]).to_numpy()
        far = (group.base - group.truth).to_numpy()
        gained = gained + np.concatenate([[won.sum()], won[pick].sum(1)])
        distance = distance + np.concatenate([[far.sum()], far[pick].sum(1)])
    closed = gained / distance
    if any(len(group) < 2 for group in groups):
        return float(closed[0]), np.nan, np.nan
    low, high = np.quantile(closed[1:], (0.025, 0.975))
    return float(closed[0]), float(low), float(high)
