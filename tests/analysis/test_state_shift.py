"""What an intervention does to the final states, beside a steer: by hand, and where the answer is
planted."""

from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import steerlens as sl
from steerlens.analysis.state_shift import state_shift_overlap
from steerlens.values.metric import Metric
from steerlens.values.steer import Steer
from tests.models.zoo import hook_count, random_reft, random_steer

RANK = 3


@pytest.fixture(scope="module")
def data() -> sl.Labelled:
    return sl.toy.corpus("tone", n=25, seed=3)


@pytest.fixture(scope="module")
def metric(model) -> Metric:
    return sl.natural_metric(
        sl.collect(model, sl.toy.corpus("tone", n=100, seed=0), progress=False), damping=1e-2
    )


def shares(table: pd.DataFrame, steer: str) -> dict[str, float]:
    return dict(table[table.steer == steer].set_index("question").share)


def low_rank(model: Any, metric: Metric, rank: int, seed: int) -> Steer:
    return random_steer(model, seed=seed).truncate(rank, metric)


def by_hand(model: Any, value: Any, data: sl.Labelled) -> Tensor:
    """(c(+1) − c(−1)) / 2, text by text."""
    found = []
    for text in data.texts:
        up, down = (
            next(
                sl.collect(model, [text], intervention=value, strength=s, progress=False).chunks(
                    1 << 16
                )
            ).hidden
            for s in (1.0, -1.0)
        )
        found.append((up - down).double() / 2)
    return torch.cat(found)


def test_a_steer_moves_as_it_does_itself_and_not_as_another(model, data, metric) -> None:
    one, other = (low_rank(model, metric, RANK, seed) for seed in (1, 2))
    table = state_shift_overlap(
        model, one, one, data, metric, rank=RANK, controls={"other": other}, draws=5
    )
    own, far = shares(table, one.name), shares(table, "other")
    assert own["writes"] == pytest.approx(1, abs=1e-3)
    assert own["steer's move"] == pytest.approx(1, abs=1e-3)
    assert far["writes"] < 0.6 and far["steer's move"] < 0.3


def test_the_shares_are_those_of_the_moves_by_hand(model, data, metric) -> None:
    steer, edit = random_steer(model, seed=1), random_reft(model, layers=(1,))
    found = shares(
        table := state_shift_overlap(model, edit, steer, data, metric, rank=RANK, draws=3),
        steer.name,
    )
    moved = by_hand(model, edit, data)
    X = moved @ metric.S_root.double()
    U, _, Vh = torch.linalg.svd(metric.whiten(steer.W).double())
    assert found["writes"] == pytest.approx(
        float((X @ Vh[:RANK].mT).square().sum() / X.square().sum()), rel=1e-3
    )
    R = moved @ metric.C_inverse_root.double()
    assert found["reads"] == pytest.approx(
        float((R @ U[:, :RANK]).square().sum() / R.square().sum()), rel=1e-3
    )
    c = torch.cat(
        [next(sl.collect(model, [t], progress=False).chunks(1 << 16)).hidden for t in data.texts]
    ).double()
    Y = c @ steer.W.double() @ metric.S_root.double()
    expected = float((X * Y).sum() ** 2 / (X.square().sum() * Y.square().sum()))
    assert found["steer's move"] == pytest.approx(expected, rel=1e-2, abs=1e-6)
    constant = float(table[table.question == "constant"].share.iloc[0])
    assert constant == pytest.approx(
        float(len(X) * X.mean(0).square().sum() / X.square().sum()), rel=1e-3
    )


def test_all_directions_hold_everything_and_random_ones_their_share(model, data, metric) -> None:
    steer, edit = random_steer(model, seed=1), random_reft(model, layers=(1,))
    d = steer.readout.d_model
    whole = state_shift_overlap(model, edit, steer, data, metric, rank=d, draws=1)
    rows = whole[whole.question.isin(["writes", "reads"])]
    assert rows.share.tolist() == pytest.approx(
        [1, 1], abs=1e-6
    ) and rows.chance.tolist() == pytest.approx([1, 1], abs=1e-6)
    few = state_shift_overlap(model, edit, steer, data, metric, rank=8, draws=60)
    few = few[few.question.isin(["writes", "reads"])]
    assert few.chance.tolist() == pytest.approx([8 / d] * 2, rel=0.25)
    assert (few.chance_high > few.chance).all()


def test_intervals_hold_the_share_and_more_of_a_steer_is_the_same_move(model, data, metric) -> None:
    steer, edit = random_steer(model, seed=1), random_reft(model, layers=(1,))
    one, doubled = (
        state_shift_overlap(model, edit, by * steer, data, metric, draws=2) for by in (1.0, 2.0)
    )
    assert ((one.low <= one.share) & (one.share <= one.high)).all()
    pd.testing.assert_series_equal(one.share, doubled.share, rtol=1e-6)
    again = state_shift_overlap(model, edit, steer, data, metric, draws=2)
    pd.testing.assert_frame_equal(one, again)


def test_the_model_is_left_alone_and_what_moves_nothing_is_refused(model, data, metric) -> None:
    before = hook_count(model)
    steer = random_steer(model, seed=1)
    state_shift_overlap(model, steer, steer, data, metric, draws=1)
    assert hook_count(model) == before
    with pytest.raises(ValueError, match="moves nothing at strength 0"):
        state_shift_overlap(model, steer, steer, data, metric, strength=0.0)
    for options in ({"rank": 0}, {"rank": 65}, {"draws": 0}):
        with pytest.raises(ValueError, match="rank, draws: got"):
            state_shift_overlap(model, steer, steer, data, metric, **options)


def test_what_lives_on_another_model_is_refused() -> None:
    model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=30, seed=0)
    metric, on = sl.natural_metric(sl.collect(model, data, progress=False)), sl.readout(model)
    own, other = (sl.Steer(torch.eye(64), r) for r in (on, sl.Readout(-on.W_U, on.b_U, on.tokens)))
    with pytest.raises(ValueError, match="metric: got one of another model"):
        state_shift_overlap(model, own, other, data, metric, draws=2)
    for controls, moves in (({"x": other}, own), (None, other)):
        with pytest.raises(ValueError, match="lives on|fitted on"):
            state_shift_overlap(model, moves, own, data, metric, controls=controls, draws=2)


def test_one_text_has_no_interval_and_shares_are_shares(model, data, metric) -> None:
    steers = [low_rank(model, metric, RANK, seed) for seed in (1, 2)]
    one, two = (
        state_shift_overlap(model, *steers, data.first(n), metric, rank=RANK, draws=3)
        for n in (1, 2)
    )
    assert one[["low", "high"]].isna().all(axis=None)
    assert two[["low", "high"]].notna().all(axis=None)
    assert two.low.between(0, 1).all() and two.high.between(0, 1).all()
