"""The numbers of a run: attribute, fluency, variety and cost of each entrant."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
from jaxtyping import Float

from steerlens.evaluate.measures import TextNll, distinct, fluency, repetition
from steerlens.evaluate.protocols import Protocol
from steerlens.maths.stats import ratio_interval, share_interval

HALF = 0.5
SHARES = ("above_half", "any_above")


def summarize(texts: pd.DataFrame, protocol: Protocol, *, base: str = "base") -> pd.DataFrame:
    """Return what each entrant of a run wrote, in numbers; intervals are 95 % over prompts.

    One prompt has no interval: NaN. Of fewer than 40 it is Student's, cut where scores and shares
    end; of `any_above`, and of a share that is 0 or 1 for every prompt, Wilson's.

    Args:
        texts: from `run_protocol`.
        protocol: of that run.
        base: the entrant that the others are held against.

    Returns:
        One row per entrant and kind of prompts: `entrant`, `kind`, `prompts`, `texts`; of the
        scores `mean_score`, `above_half` (share of texts that score above one half),
        `expected_max` (mean over prompts of the highest of a prompt's samples) and `any_above`
        (share of prompts with at least one text above one half), each with `_low` and `_high`;
        `gain`, how far the mean score moved from the base's the way that is wanted, prompt by
        prompt, with its interval; `anti_steered`, the share of prompts that moved the other way;
        `perplexity`, `corpus_perplexity`, `dropped`, `empty` (see `fluency`); `distinct_1`,
        `distinct_2`, `distinct_3` (mean over prompts), which like `corpus_perplexity` have `_low`
        and `_high`; `repetition`; `own_kl` and `own_kl_p95`, mean and 95th percentile of the KL
        from the model at the tokens it wrote; `scorer` and `scorer_auc`, what judged and how right
        it is.

    Raises:
        ValueError: prompts with unequal numbers of samples, whose maxima do not compare; no base.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.evaluate.protocols import detoxification
        >>> from steerlens.evaluate.runs import Entrant, run_protocol
        >>> from steerlens.evaluate.scorers import oracle
        >>> task = detoxification(["you are"], oracle("tone", sign=-1))
        >>> model, base = sl.load_model("toy-64"), Entrant("base", None, 0.0)
        >>> found = summarize(run_protocol(model, [base], task, progress=False), task)
        >>> found[["gain", "own_kl"]].iloc[0].tolist()
        [0.0, 0.0]
    """
    sizes = cast(pd.Series, texts.groupby(["entrant", "kind", "row"], sort=False).size())
    counts = sizes.reset_index(name="n")
    if counts.n.min() < counts.n.max():
        least, most = (counts.loc[at] for at in (counts.n.idxmin(), counts.n.idxmax()))
        raise ValueError(
            f"texts: {least.n} samples for prompt {least.row} of {least.entrant!r}, {most.n} for "
            f"prompt {most.row} of {most.entrant!r}; maxima over unequal samples do not compare"
        )
    if base not in set(texts.entrant):
        raise ValueError(f"base: no entrant {base!r} among {sorted(set(texts.entrant))}")
    zero = texts[texts.entrant == base].groupby(["kind", "row"], sort=False).score.mean()
    rows = []
    for key, part in texts.groupby(["entrant", "kind"], sort=False):
        entrant, kind = cast(tuple[str, str], key)
        by_prompt = part.groupby("row", sort=False)
        moved = (by_prompt.score.mean() - zero.loc[kind]).to_numpy()
        gains = moved if protocol.wanted == "high" else -moved
        scores = np.stack([scores.to_numpy() for _, scores in by_prompt.score])
        row = {"entrant": entrant, "kind": kind, "prompts": len(scores), "texts": len(part)}
        for name, values in (
            ("mean_score", scores.mean(1)),
            ("above_half", (scores > HALF).mean(1)),
            ("expected_max", scores.max(1)),
            ("any_above", (scores > HALF).any(1).astype(float)),
            ("gain", gains),
        ):
            found = (
                _share(values) if name in SHARES else _mean(values, least=-1.0 * (name == "gain"))
            )
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
        row["anti_steered"] = float((gains < -1e-9).mean())
        rows.append(row | _language(part) | _card(protocol))
    return pd.DataFrame(rows)


def _mean(values: Float[np.ndarray, " prompts"], least: float = 0.0) -> tuple[float, float, float]:
    """Return a mean of numbers between `least` and 1, and its interval, which ends there too."""
    if len(values) < 2:  # one prompt tells nothing of others
        return float(values.mean()), float("nan"), float("nan")
    mean, low, high = ratio_interval(values, np.ones(len(values)))
    return mean, max(low, least), min(high, 1.0)


def _share(values: Float[np.ndarray, " prompts"]) -> tuple[float, float, float]:
    """Return the mean of shares with its interval, which has a width also where all are alike."""
    if len(values) < 2 or not np.isin(values, (0.0, 1.0)).all():
        return _mean(values)
    return float(values.mean()), *share_interval(float(values.mean()), len(values))


def _language(part: pd.DataFrame) -> dict[str, float]:
    found = dict(fluency(TextNll(part.nats.to_numpy(), part.tokens.to_numpy()))._asdict())
    found |= _ends("corpus_perplexity", [np.exp(min(nll, 700.0)) for nll in _mean_nll(part)])
    groups = [some.tolist() for _, some in part.groupby("row", sort=False).text]
    for n in (1, 2, 3):
        shares = np.array([distinct(some, n) for some in groups])
        known = shares[~np.isnan(shares)]
        mean = _mean(known) if len(known) else (float("nan"),) * 3
        found |= {f"distinct_{n}": mean[0]} | _ends(f"distinct_{n}", mean)
    found["repetition"] = float(np.mean([repetition(text) for text in part.text]))
    kl = np.concatenate([np.zeros(0), *part.kl])
    found["own_kl"] = float(kl.mean()) if len(kl) else float("nan")
    found["own_kl_p95"] = float(np.quantile(kl, 0.95)) if len(kl) else float("nan")
    return found


def _mean_nll(part: pd.DataFrame) -> tuple[float, float, float]:
    """Return the NLL per token of what was written, with its interval over prompts."""
    prompt = pd.factorize(part.row)[0]
    nats, tokens = (np.bincount(prompt, part[name].to_numpy()) for name in ("nats", "tokens"))
    some = tokens > 0  # empty texts alone say nothing of fluency
    if some.sum() < 2:
        return float("nan"), float("nan"), float("nan")
    return ratio_interval(nats[some], tokens[some])


def _ends(name: str, found: Sequence[float]) -> dict[str, float]:
    return {f"{name}_low": float(found[1]), f"{name}_high": float(found[2])}


def _card(protocol: Protocol) -> dict[str, str | float]:
    card = protocol.scorer.card
    return {
        "scorer": card.name,
        "scorer_auc": float("nan") if card.heldout is None else card.heldout.auc,
    }
