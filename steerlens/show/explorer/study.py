"""Everything that an explorer page shows, as numbers: texts at every stop, their next words, their
evidence, what strengths cost, and what the steers say."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.analysis.highlight import NOISE, word_edges
from steerlens.analysis.svd import singular_words
from steerlens.maths.numbers import as_floats
from steerlens.maths.spans import Span, best_spans
from steerlens.methods.steer.natural_metric import natural_metric
from steerlens.models.collect import collect, reader
from steerlens.models.generate import generate
from steerlens.models.hooks import Model, adapter, convention
from steerlens.models.pieces import pieces
from steerlens.models.readout import readout
from steerlens.models.score import state_log_probs
from steerlens.models.steering import check_lives_on
from steerlens.show.explorer.candidates import Candidates, Cost, mean_kl, price, tabulate
from steerlens.values.labelled import Labelled
from steerlens.values.readout import Readout
from steerlens.values.states import States
from steerlens.values.steer import Steer
from steerlens.values.texts import as_texts
from steerlens.values.verdict import Verdict

KL_BUDGET = 0.4
"""Nats per token that a steer at its ends may cost; beyond, text comes apart."""
TOPS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
STOPS = {1: 9, 2: 5}
"""Strengths per steer at which text is written, by the number of steers."""
WORDS = 24
"""Candidates per position."""
SAMPLES = 16
"""Plain texts per prompt on which the cost is measured where no texts are given."""
SPANS, SPAN, PRICE = 2, 10, 0.1
"""Best spans per text, their largest length in pieces, and the nats that a piece must be worth to be
in one."""


@dataclass(frozen=True)
class Asked:
    """What is to be written: `strengths` at which, the same for each steer (None: as far as
    `KL_BUDGET` goes), of so many tokens at most, from a seed."""

    strengths: tuple[float, ...] | None = None
    max_new_tokens: int = 24
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a steer beside its matrix: a verdict, and a table of its words from
    `steerlens.singular_words`, such as one with `refits`, that says what replicates."""

    verdict: Verdict | None = None
    words: pd.DataFrame | None = None


@dataclass(frozen=True)
class Written:
    """A prompt and what was written after it.

    `pieces` joined are the text, the first `start` of them the prompt; `positions` are the rows of
    `Candidates` that each piece was chosen from, −1 where the model does not predict it. `evidence`
    is that of each piece for each steer, log P₊₁ − log P₋₁ in nats, and `spans` the best spans for
    each.
    """

    pieces: tuple[str, ...]
    start: int
    positions: tuple[int, ...]
    evidence: tuple[tuple[float, ...], ...]
    spans: tuple[tuple[Span, ...], ...]


@dataclass(frozen=True, eq=False)
class Exploration:
    """All that a page shows.

    `grid[p, i, …]` is the number in `written` of the text of prompt `p` at stop `i` of the first
    steer (and `j` of the second); `known` is by steer, always
    with words; `given` says whether the cost is measured on given texts or on what the plain model
    writes.
    """

    readout: Readout
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    stops: tuple[tuple[float, ...], ...]
    grid: Int[np.ndarray, "prompts *stops"]
    written: tuple[Written, ...]
    candidates: Candidates
    cost: Cost
    known: Mapping[str, Known]
    given: bool
    asked: Asked


def study(
    model: Model,
    steers: Mapping[str, Steer],
    prompts: Iterable[str],
    *,
    texts: Labelled | Iterable[str] | None,
    known: Mapping[str, Known],
    asked: Asked,
) -> Exploration:
    """Write, read and measure what a page shows.

    Args:
        model: the one that the steers live on; unchanged afterwards.
        steers: one or two, by the names that the page calls them.
        prompts: what each text begins with.
        texts: on which the cost is measured and the steers are read; None for what the plain model
            writes after the prompts.
        known: of some of the steers.
        asked: strengths, length and seed.

    Raises:
        ValueError: no steer or more than two, something else than a steer, no prompts, strengths
            that are all 0 or too large for a page to compute.
    """
    prompts = tuple(dict.fromkeys(as_texts(prompts, "prompts")))
    values = tuple(steers.values())
    on = readout(model)
    for steer in values:
        check_lives_on(steer, model)
    about = _reference(model, prompts, texts, asked)
    stops = tuple(_stops(about, steer, asked.strengths, len(values)) for steer in values)
    ends = tuple(s[0] for s in stops), tuple(s[-1] for s in stops)
    whole, grid = _write(model, values, prompts, stops, asked)
    written, (c, chosen) = _read(model, values, whole)
    return Exploration(
        on, tuple(steers), prompts, stops, grid, written,
        tabulate(on.head, c, chosen, values, ends, WORDS), price(about, values, ends),
        {name: _known(steer, known.get(name, Known()), about) for name, steer in steers.items()},
        texts is not None, asked,
    )  # fmt: skip


def _known(steer: Steer, known: Known, about: States) -> Known:
    """Return what is known, with words that are read on a text where there are none.

    Words of a steer in doubt are not shown, so they are not read.
    """
    doubt = known.verdict is not None and not known.verdict.found
    if known.words is not None or doubt or not bool(steer.W.any()):
        return known
    metric = natural_metric(about)
    return replace(
        known, words=singular_words(steer, rank=2, tokens=8, metric=metric, states=about)
    )


def _reference(
    model: Model, prompts: Sequence[str], texts: Labelled | Iterable[str] | None, asked: Asked
) -> States:
    """Return states on which costs are measured: of the given texts, or of what the plain model
    writes."""
    if texts is not None:
        return collect(model, texts, progress=False).sample(2_048, seed=asked.seed)
    table = generate(
        model, prompts, samples=SAMPLES, seed=asked.seed + 1, max_new_tokens=asked.max_new_tokens
    )
    table = table[table.text.str.strip() != ""]
    if table.empty:
        raise ValueError("prompts: the plain model ends every text at once; give other prompts")
    plain = Labelled(tuple(table.text), (0.0,) * len(table), tuple(table.prompt))
    return reader(model, plain, None, end=False, apart=False)(0.0)


def _stops(
    about: States, steer: Steer, strengths: Sequence[float] | None, n_steers: int
) -> tuple[float, ...]:
    """Return the strengths at which text is written, 0 among them."""
    if strengths is not None:
        found = sorted({0.0, *as_floats(strengths, "strengths")})
        if len(found) < 2:
            raise ValueError("strengths: got 0 alone, expected at least one other, e.g. (-2, 0, 2)")
        return tuple(found)
    both = np.array([[sign * top] for top in TOPS for sign in (-1, 1)])
    kl = mean_kl(about, [steer], both).reshape(-1, 2).max(1)
    top = max([t for t, cost in zip(TOPS, kl, strict=True) if cost <= KL_BUDGET], default=TOPS[0])
    return tuple(np.linspace(-top, top, STOPS[n_steers]).tolist())


def _write(
    model: Model,
    steers: Sequence[Steer],
    prompts: Sequence[str],
    stops: Sequence[Sequence[float]],
    asked: Asked,
) -> tuple[list[tuple[str, str]], Int[np.ndarray, "prompts *stops"]]:
    """Write at all stops, and return prompts with their different texts, and which is where."""
    first, others = steers[0], steers[1:]
    grid = np.zeros((len(prompts), *map(len, stops)), dtype=np.int64)
    known: dict[tuple[str, str], int] = {}
    for index in product(*(range(len(axis)) for axis in stops[1:])):
        # along the first steer at once; where the second one stands it is on as a background
        value = first
        if others:
            value = first.with_background(stops[1][index[0]] * others[0])
        table = generate(
            model, prompts, value, strengths=stops[0], seed=asked.seed, max_new_tokens=asked.max_new_tokens
        )  # fmt: skip
        for row, (prompt, text) in enumerate(zip(table.prompt, table.text, strict=True)):
            p, i = divmod(row, len(stops[0]))
            grid[(p, i, *index)] = known.setdefault((prompt, prompt + text), len(known))
    return list(known), grid


def _read(
    model: Model, steers: Sequence[Steer], whole: Sequence[tuple[str, str]]
) -> tuple[tuple[Written, ...], tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]]:
    """Return texts with their evidence, and the context vectors and words of all their positions.

    A position that texts share, for they begin alike, is there once.
    """
    # after an empty prompt the model may end at once: then there is nothing to read
    filled = [k for k, (_, text) in enumerate(whole) if text]
    if not filled:
        raise ValueError("prompts: the model ends every text at once; give other prompts")
    texts = [whole[k][1] for k in filled]
    states = collect(model, texts, end=False, progress=False)
    rows = next(states.chunks(max(states.n_positions, 1)))
    both = [state_log_probs(states, steer, (1.0, -1.0)).double() for steer in steers]
    evidence = torch.stack([high - low for high, low in both])
    order = torch.argsort(rows.text, stable=True).split(states.lengths.tolist())
    cut = pieces(adapter(model).tokenizer, texts, convention(model, states.readout), end=False)
    nothing = Written((), 0, (), ((),) * len(steers), ((),) * len(steers))
    found = [nothing] * len(whole)
    first: dict[tuple[object, ...], int] = {}
    kept: list[int] = []
    for k, of, here in zip(filled, cut, order, strict=True):
        lead = len(of) - len(here)
        path: tuple[object, ...] = tuple(of[:lead])
        places = [-1] * lead
        for row in here.tolist():
            path = (*path, int(rows.next[row]))
            if path not in first:
                first[path] = len(kept)
                kept.append(row)
            places.append(first[path])
        found[k] = _merged(whole[k][0], of, places, evidence[:, here])
    return tuple(found), (rows.hidden[kept], rows.next[kept])


def _merged(
    prompt: str, of: Sequence[str], places: Sequence[int], evidence: Float[Tensor, "steers n"]
) -> Written:
    """Return a text in pieces of whole characters, as `highlight` has them."""
    full = torch.zeros(len(evidence), len(of), dtype=torch.float64)
    full[:, len(of) - evidence.shape[1] :] = evidence
    seen = [i for i, part in enumerate(of) if part]
    piece = torch.tensor([bool(part) for part in of]).cumsum(0).sub(1).clamp_min(0)
    total = torch.zeros(len(evidence), len(seen), dtype=torch.float64).index_add(1, piece, full)
    shown = [of[i] for i in seen]
    starts, ends = word_edges(shown)
    spans = [
        tuple(best_spans(clear, SPANS, SPAN, price=PRICE, starts=starts, ends=ends))
        for clear in torch.where(total.abs() < NOISE, 0.0, total)
    ]
    length, start = 0, 0
    for part in shown:
        length += len(part)
        start += length <= len(prompt)
    return Written(
        tuple(shown),
        start,
        tuple(places[i] for i in seen),
        tuple(map(tuple, total.tolist())),
        tuple(spans),
    )
