"""Methods that write at the same cost, and advice on one of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import steerlens as sl
from steerlens.evaluate import advise as advise_module
from steerlens.evaluate import compare_writing as module
from steerlens.evaluate import price
from steerlens.evaluate.advise import advise
from steerlens.evaluate.compare import compare
from steerlens.evaluate.compare_writing import compare_writing, fit_recipe
from steerlens.evaluate.controls import random_steer, shuffle_labels
from steerlens.evaluate.price import n_parameters, slowdown
from steerlens.evaluate.protocols import Protocol, detoxification
from steerlens.evaluate.scorers import oracle
from steerlens.evaluate.sign_margin import sign_margin
from steerlens.evaluate.spend import OwnText
from steerlens.evaluate.verbs import Sampling, cost_in_writing, cost_on, given_margins
from steerlens.methods.baselines.instruction import instruct
from tests.evaluate.writers import AsWriter, OneSided

BUDGETS = (0.05, 0.4)
BEGIN = ("you are", "my", "it was", "the film was")


@pytest.fixture(scope="module")
def train() -> sl.Labelled:
    return sl.toy.corpus("tone", n=300, seed=0)


@pytest.fixture(scope="module")
def held() -> sl.Labelled:
    return sl.toy.corpus("tone", n=36, seed=1)


@pytest.fixture(scope="module")
def more() -> sl.Labelled:
    """Enough texts to tell a share from one half."""
    return sl.toy.corpus("tone", n=90, seed=1)


@pytest.fixture(scope="module")
def tone(model, train) -> sl.Steer:
    states = sl.collect(model, train, progress=False)
    return sl.fit_steer(states, ridge=(0.1, 1.0), damping=0.1, lr=0.1, name="tone").value


@pytest.fixture(scope="module")
def task() -> Protocol:
    prompts = [" ".join(text.split()[:3]) for text in sl.toy.corpus("tone", n=10, seed=5).texts]
    sampling = Sampling(samples=3, max_new_tokens=12)
    return replace(detoxification(prompts, oracle("tone", sign=-1)), sampling=sampling)


class Recipe:
    """Gives the fitted steer for the true labels and a random one for any others, and counts."""

    def __init__(self, tone: sl.Steer, train: sl.Labelled) -> None:
        self.tone, self.train, self.asked = tone, train, []

    def __call__(self, data: sl.Labelled) -> sl.Steer:
        self.asked.append(data)
        if set(zip(data.texts, data.labels, strict=True)) <= set(
            zip(self.train.texts, self.train.labels, strict=True)
        ):
            return self.tone
        return random_steer(self.tone.readout, seed=9)


@pytest.fixture(scope="module")
def table(model, tone, train, held, task) -> pd.DataFrame:
    methods = {"steer": Recipe(tone, train), "writer": AsWriter(tone)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "slowdown", lambda *_, strength: 1 + abs(strength))
        return compare_writing(model, methods, task, held, kl=BUDGETS, train=train, progress=False)


def test_there_is_a_row_per_method_and_budget_with_base_and_controls(table):
    names = ["steer", "writer", "random direction", "shuffled labels (steer)"]
    assert list(zip(table.method, table.kl, strict=True)) == [
        ("base", 0.0), *((name, kl) for name in names for kl in BUDGETS)
    ]  # fmt: skip
    base = table.iloc[0]
    assert base[["strength", "given_kl", "gain", "own_kl", "parameters", "slowdown"]].tolist() == [
        0,
        0,
        0,
        0,
        0,
        1,
    ]


def test_price_is_that_of_each_method(table):
    some = table[table.kl == BUDGETS[0]].set_index("method")
    assert some.parameters.tolist() == [4096, 7, 0, 4096]  # at random nothing was learned
    np.testing.assert_allclose(some.slowdown, 1 + some.strength)
    assert some.seconds["steer"] >= 0 and np.isnan(some.seconds["writer"])


def test_all_cost_the_same_on_the_given_texts(model, tone, held, table):
    some = table[table.kl > 0]
    np.testing.assert_allclose(some.given_kl, some.kl, rtol=0.05)
    assert (some.note == "").all() and (some.strength > 0).all()
    row = some[some.method == "steer"].iloc[1]
    assert cost_on(model, tone, held)(row.strength) == pytest.approx(row.given_kl, rel=1e-3)


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's clock decides here how slow a method is."""
    monkeypatch.setattr(module, "slowdown", lambda *_, strength: 1.0)


def test_budgets_on_own_texts_are_met_there(model, held, task, table, untimed):
    """What puts words before a text costs another sum on given texts than where it writes."""
    asked = instruct(model, instructions=("my dear friend ,", "you idiots ,"))
    few = replace(
        task, groups=(("all", task.prompts[:5]),), sampling=Sampling(samples=3, max_new_tokens=8)
    )
    with pytest.warns(UserWarning, match="no control by shuffled labels"):
        own = compare_writing(
            model, {"asked": asked}, few, held.first(12), kl=OwnText(0.2), progress=False
        ).set_index("method")
    assert set(own.kl_on) == {"own"} and set(table.kl_on) == {"given"}
    row = own.loc["asked"]
    assert row.note == "" and row.own_kl == pytest.approx(0.2, rel=0.05)
    assert cost_on(model, asked, held.first(12))(row.strength) == pytest.approx(
        row.given_kl, rel=1e-3
    )
    assert abs(row.given_kl / 0.2 - 1) > 0.2


def test_the_cost_of_writing_is_that_of_the_texts_and_nothing_written_is_dearest(model, tone):
    prompts, sampling = ["it was", "my"], Sampling(samples=2, max_new_tokens=5)
    cost = cost_in_writing(model, tone, prompts, sampling=sampling)
    assert cost(0.0) == 0 < cost(0.5) == cost(0.5) < cost(2.0)
    same = cost_in_writing(model, AsWriter(tone), prompts, sampling=sampling)
    assert same(0.5) == pytest.approx(cost(0.5), rel=1e-3)
    silent = cost_in_writing(model, Silence(tone), prompts, sampling=sampling)
    assert silent(1.0) == np.inf


class Silence(AsWriter):
    """One that writes nothing."""

    def generate(self, model: Any, prompts: Any, **options: Any) -> pd.DataFrame:
        return super().generate(model, prompts, **options).assign(text="")


def test_both_kinds_of_method_have_the_same_numbers(table):
    columns = [
        "strength",
        "expected_max",
        "gain",
        "perplexity",
        "own_kl",
        "sign_margin",
        "wrong_sign",
    ]
    steer, writer = (
        table.loc[table.method == name, columns].to_numpy(float) for name in ("steer", "writer")
    )
    np.testing.assert_allclose(steer, writer, rtol=2e-2, atol=1e-3)


def test_the_steer_gains_and_the_controls_do_not(table):
    gains = table.set_index(["method", "kl"])
    steer = gains.loc[("steer", 0.4)]
    assert steer.gain_low > 0 and steer.sign_margin_low > 0
    for name in ("random direction", "shuffled labels (steer)"):
        control = gains.loc[(name, 0.4)]
        assert control.gain < steer.gain_low and control.sign_margin < steer.sign_margin_low
    assert gains.loc[("steer", 0.05)].gain < steer.gain  # more is bought with more


def test_recipes_are_fitted_once_to_the_labels_and_the_first_once_to_shuffled_ones(
    model, tone, train, held, task, untimed
):
    first, second = Recipe(tone, train), Recipe(tone, train)
    quick = replace(task, groups=(("all", ("you are",)),))
    found = compare_writing(
        model,
        {"a": first, "b": second, "c": 2 * tone},
        quick,
        held,
        kl=0.1,
        train=train,
        progress=False,
    )
    assert [len(recipe.asked) for recipe in (first, second)] == [2, 1]
    assert first.asked[0] == second.asked[0] == train
    assert first.asked[1].texts == train.texts and first.asked[1].labels != train.labels
    seconds = found.set_index("method").seconds
    assert seconds["a"] > 0 and np.isnan(seconds["c"])
    assert found.set_index("method").strength["a"] == pytest.approx(
        2 * found.set_index("method").strength["c"], rel=0.02
    )


def test_without_a_recipe_the_missing_control_is_said(model, tone, held, task):
    quick = replace(task, groups=(("all", ("you are",)),))
    with pytest.warns(UserWarning, match="no control by shuffled labels"):
        found = compare_writing(model, {"tone": tone}, quick, held, kl=0.1, progress=False)
    assert found.method.tolist() == ["base", "tone", "random direction"]


def test_what_cannot_be_compared_is_refused(model, tone, train, held, task, unchecked):
    with pytest.raises(ValueError, match="train: got none"):
        compare_writing(model, {"a": Recipe(tone, train)}, task, held, progress=False)
    for name in ("base", "random direction"):
        with pytest.raises(ValueError, match=f"methods: '{name}' is the name of a control"):
            compare_writing(model, {name: tone}, task, held, progress=False)
    with pytest.raises(ValueError, match="method: got str"):
        compare_writing(model, {"a": "tone"}, task, held, progress=False)  # pyright: ignore
    with pytest.raises(ValueError, match="kl: got 0"):
        compare_writing(
            model, {"a": Recipe(tone, train)}, task, held, kl=0.0, train=train, progress=False
        )


def test_a_method_that_changes_nothing_says_so_and_one_side_has_no_sign(
    model, tone, train, held, task, untimed
):
    quick = replace(task, groups=(("all", ("you are",)),))
    methods = {"a": Recipe(tone, train), "nothing": 0 * tone, "one-sided": OneSided(tone)}
    found = compare_writing(model, methods, quick, held, kl=0.1, train=train, progress=False)
    rows = found.set_index("method")
    nothing, one = rows.loc["nothing"], rows.loc["one-sided"]
    assert (nothing.note, nothing.strength, nothing.gain) == (
        "changes nothing at any strength",
        0,
        0,
    )
    assert np.isnan(one.sign_margin) and one.gain == rows.loc["a"].gain != 0


def test_parameters_are_what_a_method_says_or_what_a_file_keeps(model, tone):
    assert n_parameters(tone) == 64 * 64 and n_parameters(AsWriter(tone)) == 7

    class Silent:
        readout, prefix = tone.readout, 0

        def edits(self, strength: Any) -> tuple:
            return ()

    with pytest.raises(ValueError, match="Silent does not say how many numbers it learned"):
        n_parameters(Silent())


def test_slowdown_counts_the_quickest_round_of_each(model, tone, task, monkeypatch):
    # one prompt first, then 5 and 20, 2 and 8, 3 and 9
    clock = iter([0, 1, 1, 4, 0, 5, 5, 25, 30, 32, 32, 40, 40, 43, 43, 52])
    monkeypatch.setattr(price.time, "perf_counter", lambda: next(clock))
    assert slowdown(model, tone, task, strength=1.0) == 8 / 2


def test_what_is_slow_with_one_prompt_is_timed_by_that(model, tone, task, monkeypatch):
    clock = iter([0, 5, 5, 66])
    monkeypatch.setattr(price.time, "perf_counter", lambda: next(clock))
    assert slowdown(model, tone, task, strength=1.0) == 61 / 5


def test_compare_takes_writers_too(model, tone, held):
    held = held.first(10)
    found = compare(model, {"steer": tone, "writer": AsWriter(tone)}, held, kl=0.1)
    assert found.strength[1] == pytest.approx(found.strength[0], rel=0.02)
    assert found.sign_margin[1] == pytest.approx(found.sign_margin[0], rel=0.03)
    assert (
        found.sign_margin[0]
        == sign_margin(model, held, tone, strength=found.strength[0]).sign_margin
    )
    with pytest.raises(ValueError, match="'as writer' changes nothing at any strength"):
        compare(model, {"writer": AsWriter(0 * tone)}, held)


def test_controls(model, train):
    one, again, other = (random_steer(sl.readout(model), seed=s) for s in (0, 0, 1))
    assert (one.W == again.W).all() and not (one.W == other.W).all()
    shuffled = shuffle_labels(train, seed=3)
    assert shuffled == shuffle_labels(train, seed=3) != shuffle_labels(train, seed=4)
    assert sorted(shuffled.labels) == sorted(train.labels) and shuffled.texts == train.texts
    prompts = sl.Labelled(["a", "b"], [1, -1], ["x", "y"])
    assert shuffle_labels(prompts).prompts == ("x", "y")


def test_copies_are_not_parted_by_labels_in_random_order():
    texts = [text for k in range(9) for text in [f"text {k}"] * (1 if k < 6 else 4)]
    data = sl.Labelled(texts, [-1.0] * 6 + [1.0] * 12)
    orders = [shuffle_labels(data, seed=seed) for seed in range(20)]
    for order in orders:
        by_text = dict(zip(order.texts, order.labels, strict=True))
        assert order.labels == tuple(by_text[text] for text in order.texts)
        # six of nine texts, however many copies they have
        assert sorted(by_text.values()) == [-1.0] * 6 + [1.0] * 3
    assert len({order.labels for order in orders}) > 10


# ---- advice ----


def test_a_good_steer_is_to_be_used_at_the_budget(model, tone, train, more):
    found = advise(model, Recipe(tone, train), more, kl=0.2, train=train, prompts=BEGIN)
    assert found.trusted and found.verdict.startswith("Use 'tone' at strength")
    assert [gate.name for gate in found.gates] == [
        "random direction", "shuffled labels", "either half", "right way", "fluency"
    ]  # fmt: skip
    assert all(gate.passed is True for gate in found.gates)
    assert found.kl == pytest.approx(0.2, rel=0.05)
    assert cost_on(model, tone, more)(found.strength) == pytest.approx(found.kl, rel=1e-3)
    margin = sign_margin(model, more, tone, strength=found.strength)
    assert found.margin == pytest.approx(margin[["sign_margin", "low", "high"]].tolist(), rel=1e-6)
    assert "verdict" in found.as_dict() and "<b>Use" in found._repr_html_()


def test_a_steer_of_nothing_is_not_to_be_trusted(model, tone, train, held):
    nothing = random_steer(tone.readout, seed=4)
    found = advise(
        model, lambda data: random_steer(tone.readout, seed=len(data.texts[0])), held, train=train
    )
    assert not found.trusted and found.verdict.startswith("Do not trust 'random direction'")
    failed = {gate.name for gate in found.gates if gate.passed is False}
    assert {"random direction", "shuffled labels", "either half", "right way"} <= failed
    alone = advise(model, nothing, held, prompts=BEGIN)
    assert [gate.name for gate in alone.gates if gate.passed is None] == [
        "shuffled labels",
        "either half",
    ]


def test_what_moves_all_texts_is_no_style_of_a_label_that_most_of_them_have(model):
    def praise(n, seed):
        data = sl.toy.corpus("sentiment", n=3 * n, seed=seed)
        texts = [text for text, y in zip(data.texts, data.labels, strict=True) if y > 0][:n]
        return sl.Labelled(texts, [-1.0 if k % 10 == 0 else 1.0 for k in range(n)])

    domain = sl.fit_steer(model, praise(100, 3), progress=False).background
    found = advise(model, domain, praise(100, 4), prompts=BEGIN)
    # of all texts alike it is above 0.02, as nine of ten have the label that it likes
    gains, tokens = given_margins(model, domain, praise(100, 4), strength=found.strength)
    assert gains.sum() / tokens.sum() > 0.02 > found.margin[0] and not found.trusted
    assert [gate.passed for gate in found.gates if gate.passed is not None][:2] == [False, False]


def test_what_could_not_be_asked_is_said(model, tone, more):
    found = advise(model, tone, more, kl=0.2, prompts=BEGIN)
    assert found.trusted and found.verdict.endswith("Not asked: shuffled labels, either half.")
    assert "not asked" in str(found)


def test_a_budget_of_perplexity(model, tone, held):
    plain = advise(model, tone, held, kl=0.05, prompts=BEGIN)
    found = advise(model, tone, held, perplexity=1.6 * plain.base_perplexity, prompts=BEGIN)
    assert found.strength > plain.strength
    assert found.perplexity == pytest.approx(1.6 * plain.base_perplexity, rel=0.3)
    assert [gate.passed for gate in found.gates if gate.name == "fluency"] == [
        found.perplexity <= 1.5 * found.base_perplexity
    ]
    with pytest.raises(ValueError, match="the model's own text has"):
        advise(model, tone, held, perplexity=1.0, prompts=BEGIN)
    with pytest.raises(ValueError, match="expected one budget"):
        advise(model, tone, held, kl=0.1, perplexity=9.0)


def test_text_that_comes_apart_fails_the_gate_of_fluency(model, tone, held):
    found = advise(model, tone, held, kl=4.0, prompts=BEGIN)
    gate = found.gates[-1]
    assert gate.name == "fluency" and gate.passed is (
        found.perplexity <= advise_module.FLUENT * found.base_perplexity
    )
    assert found.perplexity > advise(model, tone, held, kl=0.05, prompts=BEGIN).perplexity


def test_recipes_and_values_are_told_apart(model, tone, train):
    recipe = Recipe(tone, train)
    assert fit_recipe(recipe, train) == (tone, recipe)
    assert fit_recipe(tone, train) == (tone, None)
