"""Every rule held against a steer that was trained on the target, at equal cost."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.analysis.transfer.align import align
from steerlens.analysis.transfer.distill import context_map, shift_match
from steerlens.analysis.transfer.move import transfer
from steerlens.evaluate.losses import sign_margins
from steerlens.evaluate.matched_kl import strength_at_kl
from steerlens.maths.numbers import as_numpy_seed
from steerlens.maths.stats import even_weights
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.steer.natural_metric import natural_metric
from steerlens.values.alignment import Alignment, shared_tokens
from steerlens.values.arguments import check_fit
from steerlens.values.copies import by_distinct_text
from steerlens.values.fit import Fit
from steerlens.values.metric import Metric
from steerlens.values.pairs import Pairs
from steerlens.values.readout import Readout
from steerlens.values.rules import READ_TEXT, RULES, Rule
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer
from steerlens.values.texts import as_choice, as_list

DRAWS = 1000
RIDGE = 0.1
"""Of an alignment on fewer shared tokens than dimensions."""
SAMPLE = 4_096
"""Positions on which costs and matches are measured."""


@dataclass(frozen=True, eq=False)
class TransferReport:
    """What is left of a steer on another model, by every rule; made by `transfer_report`.

    `table`, one row per rule, beginning with "trained": `rule`, `sign_margin` (held-out NLL with
    the sign turned less that with the right sign, nats per token, over the target's background;
    positive and negative labels weigh the same),
    `share` of the trained steer's, its 95 % interval over texts `low`, `high` (all three NaN where
    the trained steer's own interval is not above 0, so that there is nothing to have a share of),
    `strength` (which costs the KL), `cosine` (with the trained steer, natural metric), `match` (R²
    of the source's logit shifts on the text), `seconds`. `steers` are the moved ones, scaled so
    that strength 1 costs `kl`.
    """

    table: pd.DataFrame
    steers: dict[str, Steer]
    alignment: Alignment
    context_r2: float
    kl: float

    def _repr_html_(self) -> str:
        shared = f"{len(self.alignment.tokens):,} shared tokens, R² {self.alignment.r2:.2f}"
        note = f"sign margin at {self.kl:g} nats per token; {shared}"
        return f"<p>{escape(note)}</p>{self.table.round(3).to_html(index=False, escape=True)}"


@torch_defaults()
def transfer_report(
    src: Fit,
    tgt: Fit,
    data: States,
    *,
    pairs: Pairs | None = None,
    home: States | None = None,
    rules: Sequence[Rule] = RULES,
    kl: float = 0.05,
    seed: int = 0,
) -> TransferReport:
    """Measure how much of a directly trained steer's effect a moved one keeps.

    For every rule, at equal KL:

        sign margin = NLL(sign turned) − NLL(sign right)        share = sign margin of the moved steer / of the trained one

    in nats per token on labelled texts that neither was fitted on, each read at its own label, all
    steers scaled to cost the same KL over the target's background. Texts with label 0 have no sign
    and count for the cost alone. A share above 1 is possible: a rule may have read more text than
    the training. There is none, NaN, where the trained steer's margin is not clearly above 0.

    Args:
        src: the fit on the source, whose steer is moved.
        tgt: a fit on the target from labels, to compare with; it gives the background too.
        data: the target's states on labelled texts that are new to both.
        pairs: from `pair(source, target, texts)`, for the rules that read text; without it they are
            left out.
        home: the source's states on the same labelled texts: adds the row "at home", what the
            source's steer is worth where it was trained, the natural limit of rules that imitate
            it. Its margin is per token of the target too, so that shares are those of nats per text.
        rules: which. Where fewer tokens are shared than the models have dimensions, the alignment
            of the rules with one has a ridge of 0.1.
        kl: nats per token at which all are compared.
        seed: of the rules, the sample that costs are measured on, and the bootstrap.

    Raises:
        ValueError: states or pairs of other models, labels that are all 0.

    Example:
        >>> import steerlens as sl
        >>> data, models = sl.toy.corpus("tone", n=300, seed=0), [sl.load_model(name) for name in ("toy-128", "toy-64")]
        >>> fits = [sl.fit_steer(sl.collect(model, data, progress=False)) for model in models]
        >>> new = sl.collect(models[1], sl.toy.corpus("tone", n=100, seed=1), progress=False)
        >>> sl.transfer_report(*fits, new, rules=("congruence",)).table.rule.tolist()
        ['trained', 'congruence']
    """
    _check(src, tgt, data, pairs, home)
    for rule in as_list("rules", rules):
        as_choice(rule, "rules", RULES)
    seed = as_numpy_seed(seed)
    sample = data.sample(SAMPLE, seed=seed)
    places = None if pairs is None else pairs.sample(SAMPLE, seed=seed)
    steers, rows = {}, []
    started = {"trained": float(tgt.report.seconds)}
    candidates: dict[str, Steer] = {"trained": tgt.value}
    begun = time.perf_counter()
    alignment = _aligned(src.value.readout, data.readout, seed)
    aligning = time.perf_counter() - begun
    for rule in rules:
        if rule in READ_TEXT and pairs is None:
            continue
        begun = time.perf_counter()
        aligned = rule not in ("distil", "selftrain")
        candidates[rule] = transfer(
            src.value,
            data.readout,
            rule=rule,
            text=pairs if rule in READ_TEXT else None,
            alignment=alignment if aligned else None,
            seed=seed,
        )
        started[rule] = time.perf_counter() - begun + aligning * aligned
    metric = natural_metric(sample, damping=1e-2)
    for name, steer in candidates.items():
        strength = strength_at_kl(steer.with_background(tgt.background), sample, kl=kl)
        steers[name] = strength * steer
        rows.append(
            {
                "rule": name,
                "strength": strength,
                "cosine": _cosine(metric, steer, tgt.value),
                "match": np.nan if places is None else shift_match(src.value, steer, places),
                "seconds": started[name],
            }
        )
    signed = data.select(data.labels != 0)
    worth = sign_margins(signed, list(steers.values()), tgt.background)
    if home is not None:
        strength = strength_at_kl(
            src.value.with_background(src.background), home.sample(SAMPLE, seed=seed), kl=kl
        )
        worth = torch.cat([worth, sign_margins(home, [strength * src.value], src.background)])
        rows.append({"rule": "at home", "strength": strength, "seconds": float(src.report.seconds)})
    table = pd.concat([pd.DataFrame(rows), _shares(worth, signed, seed)], axis=1)
    order = [
        "rule",
        "sign_margin",
        "share",
        "low",
        "high",
        "strength",
        "cosine",
        "match",
        "seconds",
    ]
    context = float("nan") if pairs is None else context_map(pairs).r2
    return TransferReport(pd.DataFrame(table[order]), steers, alignment, context, kl)


def _aligned(src: Readout, tgt: Readout, seed: int) -> Alignment:
    few = len(shared_tokens(src, tgt)[0]) < max(src.d_model, tgt.d_model)
    return align(src, tgt, ridge=RIDGE if few else 0.0, seed=seed)


def _shares(worth: Float[Tensor, "n_steers n_texts"], data: States, seed: int) -> pd.DataFrame:
    """Return the contrast per token, its share of the first row's, and that share's 95 % interval.

    Positive and negative labels weigh the same. The interval is over texts drawn again, of which
    copies are one. A share of what may be 0 or less is NaN.
    """
    said, labels = by_distinct_text(np.vstack([worth.numpy(), data.lengths.double().numpy()]), data)
    weight = even_weights(said[-1], labels)
    weighed = said * weight
    values, n = weighed[:-1], weighed[-1].sum()
    random = np.random.default_rng(seed)
    pick = random.integers(values.shape[1], size=(DRAWS, values.shape[1]))
    drawn = values[:, pick].sum(2)
    whole = values.sum(1)
    table = pd.DataFrame({"sign_margin": whole / n, "share": np.nan, "low": np.nan, "high": np.nan})
    if np.quantile(drawn[0], 0.025) > 0:
        table["share"] = whole / whole[0]
        table["low"], table["high"] = np.quantile(drawn / drawn[:1], (0.025, 0.975), axis=1)
    return table


def _cosine(metric: Metric, a: Steer, b: Steer) -> float:
    x, y = (metric.whiten(steer.W).flatten() for steer in (a, b))
    return float(torch.nn.functional.cosine_similarity(x, y, dim=0))


def _check(src: Fit, tgt: Fit, data: States, pairs: Pairs | None, home: States | None) -> None:
    check_fit(src, "src")
    check_fit(tgt, "tgt")
    check_states(data, "data")
    if home is not None:
        check_states(home, "home")
    if pairs is not None and not isinstance(pairs, Pairs):
        raise ValueError(
            f"pairs: got {type(pairs).__name__}, expected Pairs, or None; steerlens.pair(source, target, texts) makes them"
        )
    on = tgt.value.readout
    pairings = [("data", data.readout, on)]
    if pairs is not None:
        pairings += [
            ("pairs", pairs.src.readout, src.value.readout),
            ("pairs", pairs.tgt.readout, on),
        ]
    if home is not None:
        pairings.append(("home", home.readout, src.value.readout))
    for name, theirs, ours in pairings:
        if not theirs.same_as(ours):
            raise ValueError(f"{name}: they are of {theirs.model_id!r}, expected {ours.model_id!r}")
    if not bool(data.labels[data.keep].any()):
        raise ValueError(
            "data: all labels are 0, so turning a steer's sign changes nothing; give labelled texts"
        )
    if home is not None and len(home.labels) != len(data.labels):
        raise ValueError(
            f"home: got {len(home.labels)} texts, expected the {len(data.labels)} of data"
        )
    if home is not None and not (
        torch.equal(home.labels, data.labels) and home.copies() == data.copies()
    ):
        raise ValueError(
            "home: its labels, or which of its texts are copies, are not those of data, text by text; collect the states of "
            "both models from the same labelled texts"
        )
