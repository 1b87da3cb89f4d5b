"""Worth and cost of any intervention: for a steer those of the steer's own formulas, for an edit those of whole passes."""

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import steerlens as sl
from steerlens.analysis import rivals
from steerlens.analysis.cost import strength_cost
from steerlens.analysis.rivals import at_equal_kl, composition, reft_quality
from steerlens.fits.reft import fit_reft_tasks
from steerlens.models.measure import contrast, kl_cost, strength_for_kl
from steerlens.values.calibrate import calibrate, strength_at
from steerlens.values.losses import contrasts, kl_along
from steerlens.values.steer import Steer, zero_steer
from tests.models.zoo import TEXTS, by_hand, contexts, random_reft, zoo


@pytest.fixture(scope="module")
def train() -> sl.Labelled:
    return sl.toy.corpus("tone", n=200, seed=0)


@pytest.fixture(scope="module")
def held() -> sl.Labelled:
    """A third of them without a sign."""
    return sl.toy.corpus("tone", n=14, seed=1)


def quickly(states: Any, **options: Any) -> sl.Fit[Steer]:
    """A fit that tries one step and one damping."""
    return sl.fit_steer(states, ridge=(0.1, 1.0), damping=0.1, step=0.1, **options)


@pytest.fixture(scope="module")
def tone(model, train) -> Steer:
    return quickly(sl.collect(model, train, progress=False), name="tone").value


def some(data: sl.Labelled, keep: Any) -> sl.Labelled:
    pairs = [pair for pair in data if keep(pair[1])]
    return sl.Labelled(tuple(t for t, _ in pairs), tuple(y for _, y in pairs))


def nll(model, data: sl.Labelled, value: Any, strength: float) -> tuple[np.ndarray, int]:
    """Summed NLL of each text at the strength times its label, and how many tokens there are, by `score`."""
    total, n = np.zeros(len(data)), 0
    for label in set(data.labels):
        rows = [i for i, y in enumerate(data.labels) if y == label]
        scores = sl.score(model, [data.texts[i] for i in rows], value, strengths=(strength * label,))
        total[rows] = -scores.groupby("text").log_prob.sum().sort_index()
        n += len(scores)
    return total, n


@pytest.mark.parametrize("kind", ["steer", "reft"])
def test_the_contrast_is_that_of_the_scores(model, held, tone, kind: str):
    value = tone if kind == "steer" else random_reft(model, layers=(1,))
    signed = some(held, bool)
    (right, n), (wrong, _) = (nll(model, signed, value, s) for s in (0.7, -0.7))
    found = contrast(model, held, value, strength=0.7)
    assert found.index.tolist() == ["contrast", "low", "high", "texts"]
    assert found.contrast == pytest.approx((wrong - right).sum() / n, rel=1e-3, abs=1e-5)
    assert abs(found.contrast) > 1e-3
    assert found.texts == len(signed) < len(held)


def test_the_contrast_of_a_steer_is_that_of_its_states(model, held, tone):
    signed = some(held, bool)
    states = sl.collect(model, signed, progress=False)
    expected = float(contrasts(states, [tone], zero_steer(tone.readout)).sum()) / states.n_positions
    assert contrast(model, held, tone).contrast == pytest.approx(expected, rel=1e-3)
    assert expected > 1e-3


def test_the_contrast_of_nothing_is_zero_and_turns_with_the_strength(model, held, tone):
    for value, strength in ((zero_steer(tone.readout), 1.0), (tone, 0.0), (random_reft(model), 0.0)):
        assert contrast(model, held, value, strength=strength)[["contrast", "low", "high"]].tolist() == [0, 0, 0]
    for value in (tone, random_reft(model)):
        one, other = (contrast(model, held, value, strength=s) for s in (2.0, -2.0))
        assert one.contrast == -other.contrast != 0
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=0.2 * (one.high - one.low))


def test_texts_without_a_sign_do_not_count_and_others_count_by_their_label(model, held, tone):
    signed = some(held, bool)
    more = sl.Labelled((*signed.texts, "it was good ."), (*signed.labels, 0.0))
    pd.testing.assert_series_equal(contrast(model, signed, tone), contrast(model, more, tone))
    counted = sl.Labelled(more.texts, (*signed.labels, 1.0))
    assert contrast(model, counted, tone).texts == len(signed) + 1
    half = sl.Labelled(signed.texts, tuple(y / 2 for y in signed.labels))
    pd.testing.assert_series_equal(contrast(model, half, tone, strength=2.0), contrast(model, signed, tone))
    assert contrast(model, half, tone).contrast != contrast(model, signed, tone).contrast


def test_prompts_are_read_and_not_scored(model, tone):
    data = sl.Labelled(("good .", "bad ."), (1.0, -1.0), ("the food was", "it was"))
    whole = sl.Labelled(("the food was good .", "it was bad ."), data.labels)
    gained, n, everything = 0.0, 0, 0.0
    for text, label, prompt in zip(whole.texts, whole.labels, data.prompts, strict=True):
        right, wrong = (sl.score(model, [text], tone, strengths=(s * label,)).log_prob.to_numpy() for s in (1.0, -1.0))
        behind = (right - wrong)[len(prompt.split()) :]
        gained, n, everything = gained + behind.sum(), n + len(behind), everything + (right - wrong).sum()
    assert contrast(model, data, tone).contrast == pytest.approx(gained / n, rel=1e-3)
    assert n == 6 and abs(gained - everything) > 1e-3


def test_the_interval_holds_the_contrast_and_narrows_with_more_texts(model, tone):
    data = sl.toy.corpus("tone", n=160, seed=2)
    few, many = (contrast(model, sl.Labelled(data.texts[:n], data.labels[:n]), tone) for n in (25, 160))
    for found in (few, many):
        assert found.low < found.contrast < found.high
    assert many.high - many.low < 0.7 * (few.high - few.low)
    # about two standard errors to each side
    signed = some(data, bool)
    (right, n), (wrong, _) = (nll(model, signed, tone, s) for s in (1, -1))
    error = float((wrong - right).std()) * len(signed) ** 0.5 / n
    assert many.high - many.low == pytest.approx(2 * 1.96 * error, rel=0.3)
    pd.testing.assert_series_equal(few, contrast(model, sl.Labelled(data.texts[:25], data.labels[:25]), tone))


def test_without_any_sign_there_is_no_contrast(model, tone):
    with pytest.raises(ValueError, match="data: every label is 0"):
        contrast(model, sl.Labelled(("it was good .",), (0.0,)), tone)


def test_the_cost_of_a_steer_is_that_of_its_own_formula(model, held, tone):
    states = sl.collect(model, held, progress=False)
    for strength in (0.5, 3.0):
        expected = float(kl_along(states, tone, (strength, -strength)).mean())
        assert kl_cost(model, held, tone, strength=strength) == pytest.approx(expected, rel=1e-3)
        assert strength_cost(states, tone, strengths=(strength, -strength)).kl.mean() == pytest.approx(expected)
        assert expected > 1e-3
    assert kl_cost(model, list(held.texts), tone) == pytest.approx(kl_cost(model, held, tone), rel=1e-6)


def test_the_cost_is_zero_at_zero_even_in_the_strength_and_grows(model, held, tone):
    for value in (tone, random_reft(model)):
        up, down, twice = (kl_cost(model, held, value, strength=s) for s in (0.1, -0.1, 0.2))
        assert up == pytest.approx(down, rel=1e-9)
        assert twice == pytest.approx(4 * up, rel=0.15) and up > 1e-6
        assert kl_cost(model, held, value, strength=0.0) == 0


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "cohere"])
def test_cost_and_contrast_of_edits_are_those_of_whole_passes_under_soft_cap_and_scale_too(name: str):
    model, labels = zoo(name), (1.0, -1.0, 0.5, -0.5)
    edit, total, gained, n, signs = random_reft(model, layers=(0,), rank=3), 0.0, 0.0, 0, (1, -1)
    for text, label in zip(TEXTS, labels, strict=True):
        ids = _ids(model, text)
        tokens = torch.tensor([ids])
        plain = by_hand(model, contexts(model, tokens))[0, :-1].double().log_softmax(1)
        for sign in signs:
            with sl.steered(model, edit, sign, prompt=len(ids)):
                moved = by_hand(model, contexts(model, tokens))[0, :-1].double().log_softmax(1)
            total += float((plain.exp() * (plain - moved)).sum()) / 2
            with sl.steered(model, edit, sign * label, prompt=len(ids)):
                read = by_hand(model, contexts(model, tokens))[0, :-1].double().log_softmax(1)
            gained += sign * float(read.gather(1, tokens[0, 1:, None]).sum())
        n += len(ids) - 1
    data = sl.Labelled(TEXTS, labels)
    assert kl_cost(model, data, edit) == pytest.approx(total / n, rel=2e-3)
    assert contrast(model, data, edit).contrast == pytest.approx(gained / n, rel=2e-3)
    assert total / n > 1e-2 and abs(gained / n) > 1e-3


def _ids(model, text: str) -> list[int]:
    """With begin and end of text, as `collect` reads it: the tokens that it predicts, behind begin-of-text."""
    states = sl.collect(model, [text], progress=False)
    return [model.tokenizer.bos_token_id, *states.shards[0].next.tolist()]


def test_the_strength_of_a_steer_at_a_cost_is_that_of_calibrate(model, held, tone):
    states = sl.collect(model, held, progress=False)
    found = {kl: strength_for_kl(model, held, tone, kl=kl) for kl in (0.01, 0.2)}
    for kl, strength in found.items():
        assert strength == pytest.approx(calibrate(tone, states, kl=kl), rel=1e-3)
    assert found[0.2] > 2 * found[0.01]


@pytest.mark.parametrize("variant", ["loreft", "lobireft"])
def test_an_edit_at_its_strength_costs_what_was_asked(model, held, variant: str):
    edit = random_reft(model, variant, layers=(1,))
    before = kl_cost(model, held, edit)
    strength = strength_for_kl(model, held, edit, kl=0.03)
    assert kl_cost(model, held, edit, strength=strength) == pytest.approx(0.03, rel=1e-3)
    assert abs(before - 0.03) > 0.01 and abs(strength - 1) > 0.05


def test_what_costs_nothing_has_no_strength_at_a_cost(model, tone):
    with pytest.raises(ValueError, match="'zero' costs 0.05 nats per token at no strength up to a million; is it zero"):
        strength_for_kl(model, ["it was good ."], zero_steer(tone.readout, "zero"))


@pytest.mark.parametrize("power", [0.7, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_strength_at_a_cost_solves_for_it_whatever_the_power(power: float, scale: float):
    calls: list[float] = []

    def cost(s: float) -> float:
        calls.append(s)
        return (scale * s) ** power

    found = strength_at(cost, 0.05, "it")
    assert found == pytest.approx(0.05 ** (1 / power) / scale, rel=1e-3)
    assert min(calls) > 0 and len(calls) < 80
    assert power != 2.0 or len(calls) < 10


def test_the_strength_at_a_cost_is_found_where_the_cost_levels_off_or_steps():
    assert strength_at(lambda s: 0.06 * s**2 / (1 + s**2), 0.05, "it") == pytest.approx(5**0.5, rel=1e-3)
    assert strength_at(lambda s: 1e-9 * s**2 if s < 3 else s, 0.05, "it") == pytest.approx(3, rel=1e-3)
    with pytest.raises(ValueError, match="'it' costs 0.05"):
        strength_at(lambda s: 0.04 * s**2 / (1 + s**2), 0.05, "it")


def test_at_equal_cost_the_scale_of_a_steer_does_not_matter(model, held, tone):
    table = at_equal_kl(model, {"plain": tone, "turned": -3 * tone}, held, kl=0.1)
    assert table.columns.tolist() == ["name", "contrast", "low", "high", "strength"]
    assert table.name.tolist() == ["plain", "turned"]
    plain, turned = table.contrast
    assert plain == pytest.approx(-turned, rel=1e-2)
    assert plain > 1.05 * contrast(model, held, tone, strength=table.strength[1]).contrast > 0
    assert table.strength[0] == pytest.approx(3 * table.strength[1], rel=1e-2)
    for strength, value in zip(table.strength, (tone, -3 * tone), strict=True):
        assert kl_cost(model, held, value, strength=strength) == pytest.approx(0.1, rel=1e-2)


def test_the_cost_is_measured_on_the_first_hundred_texts(model, tone, monkeypatch: pytest.MonkeyPatch):
    data, seen = sl.toy.corpus("tone", n=130, seed=5), []
    data = sl.Labelled(data.texts, data.labels, ("it was",) * 130)
    monkeypatch.setattr(rivals, "strength_for_kl", lambda _, sample, value, kl: seen.append((sample, value, kl)) or 0.3)
    found = at_equal_kl(model, {"tone": tone}, data, kl=0.1)
    assert seen == [(sl.Labelled(data.texts[:100], data.labels[:100], data.prompts[:100]), tone, 0.1)]
    assert found.strength.tolist() == [0.3]
    assert found.contrast[0] == contrast(model, data, tone, strength=0.3).contrast


KL = 0.04


@pytest.fixture(scope="module")
def quality(model, train, held) -> tuple[pd.DataFrame, list[sl.Reft], sl.Fit[Steer]]:
    """The table, the edits in its order (seeded ones in the place of fitted ones), and the fit of the steer (a quick one)."""
    edits: list[sl.Reft] = []
    fits: list[sl.Fit[Steer]] = []

    def quick(states: Any, *, seed: int) -> sl.Fit[Steer]:
        fits.append(quickly(states, seed=seed))
        return fits[-1]

    def stand_in(*args: Any, **options: Any) -> Any:
        asked = inspect.signature(sl.fit_reft).bind(*args, **options).arguments
        assert asked["model"] is model and asked["data"] is train
        assert (asked["epochs"], asked["seed"], asked["progress"]) == (1, 3, False)
        edits.append(
            random_reft(model, asked["variant"], layers=(asked["layers"],), rank=asked["rank"], seed=len(edits))
        )
        return SimpleNamespace(value=edits[-1], report=SimpleNamespace(seconds=float(len(edits))))

    patch = pytest.MonkeyPatch()
    patch.setattr(rivals, "fit_reft", stand_in)
    patch.setattr(rivals, "fit_steer", quick)
    try:
        table = reft_quality(model, train, held, ranks=(1,), layers=(1,), kl=KL, epochs=1, seed=3)
    finally:
        patch.undo()
    return table, edits, fits[0]


def test_quality_lists_edits_beside_steers_of_the_same_rank_and_of_full_rank(quality):
    table, edits, _ = quality
    assert table.columns.tolist() == [
        "method", "layers", "rank", "parameters", "contrast", "low", "high", "strength", "seconds"
    ]  # fmt: skip
    rows = list(table[["method", "layers", "rank", "parameters"]].itertuples(index=False, name=None))
    assert rows == [
        ("steer", "unembedding", 1, 2 * 64),
        ("steer", "unembedding", 64, 64 * 64),
        ("loreft", "1", 1, 64 + 64 + 1),
    ]
    assert table.parameters[2:].tolist() == [edit.n_parameters for edit in edits]
    assert table.seconds[2:].tolist() == [1.0] and (table.seconds[:2] > 0).all()


def test_quality_fits_every_variant_at_every_rank_and_r1_once(model, train, held, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def stand_in(*_: Any, **options: Any) -> Any:
        asked.append((options["variant"], options["rank"], options["epochs"]))
        at = options["layers"]
        layers = (at,) if isinstance(at, int) else at
        value = random_reft(model, options["variant"], layers=layers, rank=options["rank"])
        return SimpleNamespace(value=value, report=SimpleNamespace(seconds=1.0))

    def unmeasured(_: Any, values: dict[str, Any], data: sl.Labelled, *, kl: float) -> pd.DataFrame:
        assert data is held and kl == 0.05
        return pd.DataFrame([{"name": n, "contrast": 0.0, "low": 0.0, "high": 0.0, "strength": 1.0} for n in values])

    monkeypatch.setattr(rivals, "fit_reft", stand_in)
    monkeypatch.setattr(rivals, "fit_steer", quickly)
    monkeypatch.setattr(rivals, "at_equal_kl", unmeasured)
    table = reft_quality(model, train, held, variants=("direft", "r1"), ranks=(2, 3), epochs=7)
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
        assert kl_cost(model, held, edit, strength=strength) == pytest.approx(KL, rel=1e-3)
        assert abs(kl_cost(model, held, edit) - KL) > 0.01  # at strength 1 it does not
    for (_, row), edit in zip(table[2:].iterrows(), edits, strict=True):
        found = contrast(model, held, edit, strength=row.strength)
        assert row[["contrast", "low", "high"]].tolist() == found[["contrast", "low", "high"]].tolist()


def test_quality_of_steers_is_that_of_truncated_steers(model, train, held, quality):
    table, _, fit = quality
    states = sl.collect(model, train, progress=False)
    assert fit.report.seed == 3
    metric = sl.natural_metric(states.sample(16_384, seed=3), damping=fit.report.damping or 0.0)
    for row, rank in zip(table[:2].itertuples(), (1, 64), strict=True):
        steer = fit.value.truncate(rank, metric)
        strength = calibrate(steer, sl.collect(model, held, progress=False), kl=KL)
        assert row.strength == pytest.approx(strength, rel=5e-3)
        assert row.contrast == pytest.approx(contrast(model, held, steer, strength=strength).contrast, rel=2e-2)
    assert np.ptp(table.contrast[:2]) > 1e-4


@pytest.fixture(scope="module")
def tasks(model) -> tuple[Any, dict[str, sl.Reft], dict[str, sl.Labelled], pd.DataFrame]:
    names = ("sentiment", "tone")
    train = {name: sl.toy.corpus(name, n=300, seed=0) for name in names}
    whole, parts = fit_reft_tasks(model, train, rank=4, layers=1, epochs=3, step=3e-2, batch=16, progress=False)
    tests = {name: sl.toy.corpus(name, n=80, seed=1) for name in names}
    return whole.value, parts, tests, composition(model, parts, whole.value, tests)


def test_each_part_is_worth_more_on_its_own_task_and_the_whole_on_both(tasks):
    table = tasks[-1]
    assert table.columns.tolist() == ["edit", "task", "contrast", "low", "high"]
    assert table.edit.tolist() == ["sentiment"] * 2 + ["tone"] * 2 + ["together"] * 2
    assert table.task.tolist() == ["sentiment", "tone"] * 3
    at = table.set_index(["edit", "task"]).contrast
    for mine, other in (("sentiment", "tone"), ("tone", "sentiment")):
        assert at[mine, mine] > at[mine, other]
        assert at[mine, mine] > at[other, mine]
        assert at["together", mine] > 0.5 * at[mine, mine] > 0
    assert (table.low < table.contrast).all() and (table.contrast < table.high).all()


def test_composition_is_the_contrast_of_each_part_on_each_task(model, tasks):
    _, parts, tests, table = tasks
    for row in table[1:4].itertuples():
        found = contrast(model, tests[row.task], parts[row.edit])
        assert (row.contrast, row.low, row.high) == (found.contrast, found.low, found.high)


def test_composition_needs_the_texts_of_the_parts_tasks(model, tasks):
    whole, parts, tests, _ = tasks
    for wrong in ({"tone": tests["tone"]}, {**tests, "topic": tests["tone"]}):
        with pytest.raises(
            ValueError, match=r"tests: got \[.*\], expected the tasks of the parts, \['sentiment', 'tone'\]"
        ):
            composition(model, parts, whole, wrong)
