"""Where prompts end: on planted rows the answers are known."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student
from torch import Tensor

import steerlens as sl
from steerlens.analysis import prompts
from steerlens.analysis.prompts import (
    compare_priors,
    drift,
    effective_rank,
    embedding_geometry,
    nearest_tokens,
    of_words,
    over_seeds,
    readability,
    words,
)
from steerlens.evaluate.sign_margin import text_nll
from steerlens.evaluate.signed import with_nonzero_label
from steerlens.maths.stats import bootstrap_ratio, mean_interval
from steerlens.methods.prompt.priors import (
    Exclusion,
    FixedRows,
    Vocabulary,
    Xavier,
    fit_gaussian,
    isotropic,
)
from steerlens.models.embeddings import embeddings
from tests.values.make import random

N, D = 8, 64


@pytest.fixture(scope="module")
def E(model) -> Tensor:
    """Embeddings of ordinary tokens."""
    on = sl.readout(model)
    return embeddings(model)[[i for i in range(on.n_tokens) if i not in on.special]]


@pytest.fixture(scope="module")
def test() -> sl.Labelled:
    return sl.toy.corpus("sentiment", n=40, seed=1)


# rows


@given(st.integers(2, 6), st.floats(0.01, 100), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_the_effective_rank_is_that_of_equal_directions_whatever_scale_and_place(
    k: int, scale: float, seed: int
) -> None:
    simplex = (
        scale
        * torch.eye(k, dtype=torch.float64)
        @ torch.linalg.qr(random(9, k, seed=seed).double()).Q.mT
    )
    assert effective_rank(simplex) == pytest.approx(k - 1, rel=1e-6)
    assert effective_rank(simplex + 3.0) == pytest.approx(k - 1, rel=1e-4)
    line = torch.arange(k, dtype=torch.float64)[:, None] * random(1, 9, seed=seed).double()
    assert effective_rank(line) == pytest.approx(1, rel=1e-6)


def test_words_are_found_at_distance_zero_and_what_is_near_is_named(model) -> None:
    on = sl.readout(model)
    ids = [
        on.tokens.index(word) for word in on.tokens if word.strip() in ("superb", "film", "was")
    ][:3]
    found = nearest_tokens(model, embeddings(model)[ids] * 1.0, k=3)
    first = found[found["rank"] == 1]
    assert first.token.tolist() == [on.tokens[i] for i in ids]
    assert first.distance.tolist() == [0.0] * 3 and first.cosine.tolist() == pytest.approx(
        [1.0] * 3, abs=1e-5
    )
    assert found.groupby("row").distance.is_monotonic_increasing.all() and len(found) == 9
    nudged = nearest_tokens(model, embeddings(model)[ids] + 1e-3, k=1)
    assert nudged.token.tolist() == first.token.tolist() and (nudged.distance > 0).all()
    assert not set(found.token) & {on.tokens[i] for i in on.special}


def test_words_lie_among_words_and_a_heap_has_collapsed(model, E) -> None:
    many = [
        E[torch.randperm(len(E), generator=torch.Generator().manual_seed(9 + k))[:N]]
        for k in range(20)
    ]
    found = pd.DataFrame([embedding_geometry(model, words, start=words) for words in many])
    assert (found.nearest == 0).all() and (found.moved == 0).all() and (found.same_word == 1).all()
    assert abs(found.collapse.mean()) < 0.1 and found.spread.mean() == pytest.approx(1, abs=0.1)
    words, here = many[0], found.iloc[0]
    heap = E[:1] + 1e-3 * random(N, D)
    there = embedding_geometry(model, heap, start=words)
    assert there.spread < 0.02 and there.same_word < 0.5 and there.moved > 0.5
    line = torch.linspace(-3, 3, N)[:, None] * E[:1]
    assert embedding_geometry(model, line).collapse == pytest.approx(1, abs=1e-5)
    far = embedding_geometry(model, 10 * words, start=words)
    assert far.nearest > 5 and far["size"] == pytest.approx(10 * here["size"], rel=1e-5)
    assert far.moved == pytest.approx(9 * here["size"], rel=1e-5)


# drift


def test_rows_are_near_to_the_prior_that_they_come_from_and_far_from_others() -> None:
    L = random(D, D, seed=5)
    known = {
        "own": fit_gaussian(random(4000, D, seed=1) @ L),
        "narrow": isotropic(D, 0.05),
        "xavier": Xavier(D),
    }
    table = drift(known["own"].sample(N, 77), known).set_index("prior")
    own = table.loc["own"]
    assert own.own_low < own.distance < own.own_high and own.distance == pytest.approx(1, abs=0.15)
    assert table.distance["narrow"] > 10 and table.distance["narrow"] > table.own_high["narrow"]
    assert abs(own.log_prob) < 0.2 and table.log_prob["narrow"] < -10
    # moved by k typical distances along every direction of the prior
    moved = (
        known["own"].mean
        + 3
        * math.sqrt(D)
        * torch.nn.functional.normalize(random(N, D), dim=1)
        @ known["own"].root.mT
    )
    assert drift(moved, {"own": known["own"]}).distance[0] == pytest.approx(3, rel=1e-4)


def test_priors_without_a_density_are_taken_for_their_moments() -> None:
    cloud = random(500, D, seed=2)
    table = drift(
        cloud[:N], {"cloud": Vocabulary(cloud), "outside": Exclusion(fit_gaussian(cloud))}
    ).set_index("prior")
    assert table.log_prob.isna().all()
    assert table.distance["cloud"] == pytest.approx(1, abs=0.1)
    assert (
        table.distance["outside"] < table.own_low["outside"]
    )  # it is inside of what the prior leaves out
    # one and the same row each time has no covariance
    same = drift(cloud[:N], {"one": FixedRows(cloud[:1])})
    assert same.distance.isna().all()
    with pytest.raises(ValueError, match="makes rows of width 3, the prompt's are 64"):
        drift(cloud[:N], {"thin": isotropic(3)})


# readability


def test_a_prompt_of_words_is_read_faithfully(model, E, test) -> None:
    on = sl.readout(model)
    plus, minus = (
        [on.tokens.index(w) for w in on.tokens if w.strip() in words]
        for words in (("superb",), ("terrible",))
    )
    prompt = of_words(embeddings(model)[plus * 2], embeddings(model)[minus * 2], on)
    assert torch.equal(prompt.at(1.0)[0], embeddings(model)[plus * 2])
    table = readability(model, prompt, test, draws=2).set_index("what")
    assert table.loc["nearest words"].tolist() == pytest.approx(
        table.loc["prompt"].tolist(), abs=1e-6, nan_ok=True
    )
    assert table.sign_margin["prompt"] > 0.005
    many = readability(model, prompt, sl.toy.corpus("sentiment", n=400, seed=2), draws=1)
    assert many.low[0] > 0 and many.kept.tolist()[:2] == pytest.approx([1, 1], abs=1e-4)
    assert many.kept[2] < 0.8
    assert (
        table.sign_margin["random words"] < table.sign_margin["prompt"]
        and table.sign_margin["no prompt"] == 0
    )
    assert table.nll["no prompt"] == pytest.approx(
        bootstrap_ratio(*text_nll(model, with_nonzero_label(test), None))[0]
    )
    assert table.nll["prompt"] == pytest.approx(
        -_scores(model, with_nonzero_label(test), prompt), rel=1e-4
    )


def _scores(model: Any, test: sl.Labelled, prompt: sl.SoftPrompt) -> float:
    """Mean log-probability of a token, each text at its own label, by `score`."""
    found = []
    for label in set(test.labels):
        texts = [text for text, y in test if y == label]
        found += sl.score(model, texts, prompt, strengths=(label,)).log_prob.tolist()
    return float(np.mean(found))


def test_a_prompt_far_from_words_is_not_what_they_say(model, E, test) -> None:
    on = sl.readout(model)
    rows = 5 * random(1, 3, D)
    table = readability(
        model, sl.SoftPrompt(rows, 0.1 * random(1, 3, D, seed=1), "soft", (), on), test, draws=1
    )
    assert table.nll[0] != pytest.approx(table.nll[1], abs=1e-2)
    # of a prompt whose margin may be 0 nothing can be kept
    assert table.low[0] <= 0 and table.kept.isna().all()
    wide = model.cfg.n_heads * model.cfg.d_head
    other = sl.SoftPrompt(torch.zeros(2, 3, wide), torch.zeros(2, 3, wide), "kv", (0,), on)
    with pytest.raises(ValueError, match="got kind 'kv', expected a prompt of kind 'soft'"):
        readability(model, other, test)


def test_random_words_differ_between_the_signs(
    model, E, test, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, of = [], words.of_words

    def noting(plus: torch.Tensor, minus: torch.Tensor, *given: Any) -> sl.SoftPrompt:
        made.append((plus, minus))
        return of(plus, minus, *given)

    monkeypatch.setattr(words, "of_words", noting)
    prompt = of(E[[3, 5]], E[[7, 9]], sl.readout(model))
    readability(model, prompt, test, draws=3)
    assert len(made) == 4 and all(not torch.equal(plus, minus) for plus, minus in made)


# priors against one another


def test_every_prior_and_seed_has_a_row_and_the_numbers_are_those_of_the_fit(
    model, test, monkeypatch
) -> None:
    train = sl.toy.corpus("sentiment", n=30, seed=0)
    kept = []
    real = prompts.compare.fit_prompt
    monkeypatch.setattr(
        prompts.compare, "fit_prompt", lambda *a, **k: kept.append(real(*a, **k)) or kept[-1]
    )
    known = {"narrow": isotropic(D, 0.1), "words": Vocabulary(embeddings(model)[5:])}
    table = compare_priors(
        model, train, test, known, seeds=(0, 1), length=2, epochs=1, progress=False
    )
    assert list(zip(table.prior, table.seed, strict=True)) == [
        ("narrow", 0),
        ("narrow", 1),
        ("words", 0),
        ("words", 1),
    ]
    for row, fit in zip(table.itertuples(), kept, strict=True):
        assert row.nll == pytest.approx(
            bootstrap_ratio(*text_nll(model, with_nonzero_label(test), fit.value))[0], rel=1e-5
        )
        start = known[row.prior].sample(2, row.seed)
        assert row.moved == pytest.approx(
            float(embedding_geometry(model, fit.value.rows[0], start=start).moved), rel=1e-5
        )
        assert row.seconds == fit.report.seconds and row.half_way in (0, 1)
        assert row.start_nll > row.plain_nll  # random rows before a text do harm
    assert table.start_drift[:2].between(0.7, 1.3).all()
    # what has moved has left its prior; a fit whose epoch did harm has not moved
    assert ((table.drift > 1.1 * table.start_drift) == (table.moved > 0)).all() and (
        table.moved > 0
    ).any()


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=9))
@settings(max_examples=30, deadline=None)
def test_intervals_over_seeds_are_students(x: list[float]) -> None:
    table = over_seeds(pd.DataFrame({"prior": "a", "seed": range(len(x)), "nll": x}))
    assert table.number.tolist() == ["nll"] and table.seeds.tolist() == [len(x)]
    se = np.std(x, ddof=1) / math.sqrt(len(x))
    expected = (
        student.interval(0.95, len(x) - 1, loc=np.mean(x), scale=se) if se else (np.mean(x),) * 2
    )
    assert (table.low[0], table.high[0]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_one_seed_has_no_interval_and_none_is_an_error() -> None:
    mean, low, high = mean_interval([2.0])
    assert mean == 2 and math.isnan(low) and math.isnan(high)
    with pytest.raises(ValueError, match="x: got no numbers"):
        mean_interval([])
