"""Interventions held against each other: at equal KL, by size, and parts against the whole."""

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import steerlens as sl
from steerlens.analysis import reft
from steerlens.analysis.reft import composition, reft_quality
from steerlens.evaluate.compare import compare
from steerlens.evaluate.matched_kl import strength_at_kl
from steerlens.evaluate.sign_margin import kl_on_texts, sign_margin, strength_on_texts
from steerlens.methods.reft.fit import fit_reft_tasks
from steerlens.values.steer import Steer
from steerlens.values.training import Training
from tests.models.zoo import random_reft


@pytest.fixture(scope="module")
def train() -> sl.Labelled:
    return sl.toy.corpus("tone", n=200, seed=0)


@pytest.fixture(scope="module")
def held() -> sl.Labelled:
    """A third of them without a sign."""
    return sl.toy.corpus("tone", n=14, seed=1)


def quickly(states: Any, **options: Any) -> sl.Fit[Steer]:
    """A fit that tries one step and one damping."""
    return sl.fit_steer(states, ridge=(0.1, 1.0), damping=0.1, lr=0.1, **options)


@pytest.fixture(scope="module")
def tone(model, train) -> Steer:
    return quickly(sl.collect(model, train, progress=False), name="tone").value


def test_at_equal_cost_the_scale_of_a_steer_does_not_matter(model, held, tone):
    table = compare(model, {"plain": tone, "turned": -3 * tone}, held, kl=0.1)
    assert table.columns.tolist() == ["name", "sign_margin", "low", "high", "strength"]
    assert table.name.tolist() == ["plain", "turned"]
    plain, turned = table.sign_margin
    assert plain == pytest.approx(-turned, rel=1e-2)
    assert plain > 1.05 * sign_margin(model, held, tone, strength=table.strength[1]).sign_margin > 0
    assert table.strength[0] == pytest.approx(3 * table.strength[1], rel=1e-2)
    for strength, value in zip(table.strength, (tone, -3 * tone), strict=True):
        assert kl_on_texts(model, held, value, strength=strength) == pytest.approx(0.1, rel=1e-2)


def test_the_cost_is_measured_on_the_first_hundred_texts(model, tone):
    data = sl.toy.corpus("tone", n=130, seed=5)
    data = sl.Labelled(data.texts, data.labels, ("it was",) * 130)
    first = sl.Labelled(data.texts[:100], data.labels[:100], data.prompts[:100])
    found = compare(model, {"tone": tone}, data, kl=0.1)
    (strength,) = found.strength
    assert strength == strength_on_texts(model, first, tone, kl=0.1)
    assert strength != strength_on_texts(model, data, tone, kl=0.1)
    assert found.sign_margin[0] == sign_margin(model, data, tone, strength=strength).sign_margin


KL = 0.04


@pytest.fixture(scope="module")
def quality(model, train, held) -> tuple[pd.DataFrame, list[sl.Reft], sl.Fit[Steer]]:
    """The table, the edits in its order (seeded ones in the place of fitted ones), and the fit of
    the steer (a quick one)."""
    edits: list[sl.Reft] = []
    fits: list[sl.Fit[Steer]] = []

    def quick(states: Any, *, seed: int, progress: bool) -> sl.Fit[Steer]:
        fits.append(quickly(states, seed=seed, progress=progress))
        return fits[-1]

    def stand_in(*args: Any, **options: Any) -> Any:
        asked = inspect.signature(sl.fit_reft).bind(*args, **options).arguments
        assert asked["model"] is model and asked["data"] is train
        assert (asked["training"].epochs, asked["seed"], asked["progress"]) == (1, 3, False)
        edits.append(
            random_reft(
                model,
                asked["variant"],
                layers=(asked["layers"],),
                rank=asked["rank"],
                seed=len(edits),
            )
        )
        return SimpleNamespace(value=edits[-1], report=SimpleNamespace(seconds=float(len(edits))))

    patch = pytest.MonkeyPatch()
    patch.setattr(reft, "fit_reft", stand_in)
    patch.setattr(reft, "fit_steer", quick)
    try:
        table = reft_quality(
            model, train, held, ranks=(1,), layers=(1,), kl=KL, training=Training(epochs=1), seed=3
        )
    finally:
        patch.undo()
    return table, edits, fits[0]


def test_quality_lists_edits_beside_steers_of_the_same_rank_and_of_full_rank(quality):
    table, edits, _ = quality
    assert table.columns.tolist() == [
        "method", "layers", "rank", "parameters", "sign_margin", "low", "high", "strength", "seconds"
    ]  # fmt: skip
    rows = list(
        table[["method", "layers", "rank", "parameters"]].itertuples(index=False, name=None)
    )
    assert rows == [
        ("steer", "unembedding", 1, 2 * 64),
        ("steer", "unembedding", 64, 64 * 64),
        ("loreft", "1", 1, 64 + 64 + 1),
    ]
    assert table.parameters[2:].tolist() == [edit.n_parameters for edit in edits]
    assert table.seconds[2:].tolist() == [1.0] and (table.seconds[:2] > 0).all()


def test_quality_fits_every_variant_at_every_rank_and_r1_once(
    model, train, held, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def stand_in(*_: Any, **options: Any) -> Any:
        asked.append((options["variant"], options["rank"], options["training"].epochs))
        at = options["layers"]
        layers = (at,) if isinstance(at, int) else at
        value = random_reft(model, options["variant"], layers=layers, rank=options["rank"])
        return SimpleNamespace(value=value, report=SimpleNamespace(seconds=1.0))

    def unmeasured(_: Any, values: dict[str, Any], data: sl.Labelled, *, kl: float) -> pd.DataFrame:
        assert data is held and kl == 0.05
        return pd.DataFrame(
            [
                {"name": n, "sign_margin": 0.0, "low": 0.0, "high": 0.0, "strength": 1.0}
                for n in values
            ]
        )

    monkeypatch.setattr(reft, "fit_reft", stand_in)
    monkeypatch.setattr(reft, "fit_steer", quickly)
    monkeypatch.setattr(reft, "compare", unmeasured)
    table = reft_quality(
        model, train, held, variants=("direft", "r1"), ranks=(2, 3), training=Training(epochs=7)
    )
    assert asked == [("direft", 2, 7), ("direft", 3, 7), ("r1", 1, 7)]
    assert table.method.tolist() == ["steer"] * 3 + ["direft"] * 2 + ["r1"]
    assert table["rank"].tolist() == [2, 3, 64, 2, 3, 1]
    assert table.parameters.tolist() == [256, 384, 4096, 2 * 129, 3 * 129, 65]
    assert set(table.layers[3:]) == {"0"}
    table = reft_quality(model, train, held, ranks=(2,), layers=(1, (0, 2)))
    assert table.layers.tolist() == ["unembedding"] * 2 + ["1", "0, 2"]
    assert table.parameters[2:].tolist() == [2 * 129, 4 * 129]


def test_quality_holds_all_at_the_same_cost(model, held, quality):
    table, edits, _ = quality
    for strength, edit in zip(table.strength[2:], edits, strict=True):
        assert kl_on_texts(model, held, edit, strength=strength) == pytest.approx(KL, rel=1e-3)
        assert abs(kl_on_texts(model, held, edit) - KL) > 0.01  # at strength 1 it does not
    for (_, row), edit in zip(table[2:].iterrows(), edits, strict=True):
        found = sign_margin(model, held, edit, strength=row.strength)
        assert (
            row[["sign_margin", "low", "high"]].tolist()
            == found[["sign_margin", "low", "high"]].tolist()
        )


def test_quality_of_steers_is_that_of_truncated_steers(model, train, held, quality):
    table, _, fit = quality
    states = sl.collect(model, train, progress=False)
    assert fit.report.seed == 3
    metric = sl.natural_metric(states.sample(16_384, seed=3), damping=fit.report.damping or 0.0)
    for row, rank in zip(table[:2].itertuples(), (1, 64), strict=True):
        steer = fit.value.truncate(rank, metric)
        strength = strength_at_kl(steer, sl.collect(model, held, progress=False), kl=KL)
        assert row.strength == pytest.approx(strength, rel=5e-3)
        assert row.sign_margin == pytest.approx(
            sign_margin(model, held, steer, strength=strength).sign_margin, rel=2e-2
        )
    assert np.ptp(table.sign_margin[:2]) > 1e-4


@pytest.fixture(scope="module")
def tasks(model) -> tuple[Any, dict[str, sl.Reft], dict[str, sl.Labelled], pd.DataFrame]:
    names = ("sentiment", "tone")
    train = {name: sl.toy.corpus(name, n=300, seed=0) for name in names}
    whole, parts = fit_reft_tasks(
        model,
        train,
        rank=4,
        layers=1,
        training=Training(lr=0.1, epochs=3, batch_size=16),
        progress=False,
    )
    tests = {name: sl.toy.corpus(name, n=80, seed=1) for name in names}
    return whole.value, parts, tests, composition(model, parts, whole.value, tests)


def test_each_part_is_worth_more_on_its_own_task_and_the_whole_on_both(tasks):
    table = tasks[-1]
    assert table.columns.tolist() == ["edit", "task", "sign_margin", "low", "high"]
    assert table.edit.tolist() == ["sentiment"] * 2 + ["tone"] * 2 + ["together"] * 2
    assert table.task.tolist() == ["sentiment", "tone"] * 3
    at = table.set_index(["edit", "task"]).sign_margin
    for mine, other in (("sentiment", "tone"), ("tone", "sentiment")):
        assert at[mine, mine] > at[mine, other]
        assert at[mine, mine] > at[other, mine]
        assert at["together", mine] > 0.5 * at[mine, mine] > 0
    assert (table.low < table.sign_margin).all() and (table.sign_margin < table.high).all()


def test_composition_is_the_sign_margin_of_each_part_on_each_task(model, tasks):
    _, parts, tests, table = tasks
    for row in table[1:4].itertuples():
        found = sign_margin(model, tests[row.task], parts[row.edit])
        assert (row.sign_margin, row.low, row.high) == (found.sign_margin, found.low, found.high)


def test_composition_needs_the_texts_of_the_parts_tasks(model, tasks):
    whole, parts, tests, _ = tasks
    for wrong in ({"tone": tests["tone"]}, {**tests, "topic": tests["tone"]}):
        with pytest.raises(
            ValueError,
            match=r"tests: got \[.*\], expected the tasks of the parts, \['sentiment', 'tone'\]",
        ):
            composition(model, parts, whole, wrong)


def test_what_acts_late_is_not_taken_for_idle_by_short_texts_that_come_first(model, tone) -> None:
    long = sl.toy.corpus("tone", n=40, seed=1)
    short = sl.Labelled(
        [" ".join(text.split()[:4]) for text in long.texts[:5]], [1.0, -1.0] * 2 + [1.0]
    )
    late = tone.when("from 8")
    first, last = (
        compare(model, {"late": late}, test).set_index("name").loc["late"]
        for test in (short + long, long + short)
    )
    assert first.sign_margin == pytest.approx(last.sign_margin, rel=1e-3) and first.strength > 0
    never = compare(model, {"never": tone.when("from 99")}, long).set_index("name").loc["never"]
    assert never.sign_margin == 0 and np.isnan(never.strength)
