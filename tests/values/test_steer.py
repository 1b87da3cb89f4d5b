"""Steers are a vector space that acts on context vectors."""

from dataclasses import FrozenInstanceError
from importlib.util import find_spec, module_from_spec
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from steerlens.values.arguments import check_metric, steer_of
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.metric import Metric
from steerlens.values.steer import Steer, zero_steer
from tests.contract import everywhere, laws
from tests.values.make import D, exact_metric, make_readout, make_steer, random

numbers = st.floats(-4, 4, allow_subnormal=False)
seeds = st.integers(0, 5)


@settings(max_examples=25)
@given(i=seeds, j=seeds, k=seeds, x=numbers, y=numbers)
def test_steers_are_a_vector_space(i: int, j: int, k: int, x: float, y: float) -> None:
    a, b, c = make_steer(i), make_steer(j), make_steer(k)
    near = {"rtol": 1e-4, "atol": 1e-4}
    assert_close((a + b).W, (b + a).W)
    assert_close(((a + b) + c).W, (a + (b + c)).W, **near)
    assert_close((a + zero_steer(a.readout)).W, a.W)
    assert (a - a).W.abs().sum() == 0
    assert_close((x * (a + b)).W, (x * a + x * b).W, **near)
    assert_close(((x + y) * a).W, (x * a + y * a).W, **near)
    assert_close((x * (y * a)).W, ((x * y) * a).W, **near)
    assert torch.equal((1 * a).W, a.W) and torch.equal((-a).W, (a * -1).W)
    assert torch.equal((a / 2).W, (0.5 * a).W)


@pytest.mark.parametrize(
    "two", [2, True + 1, np.float32(2), np.array(2.0), torch.tensor(2.0), torch.tensor(2)]
)
def test_a_factor_is_a_number_in_any_form_on_either_side(two: Any, unchecked: None) -> None:
    a = make_steer(0)
    for found in (two * a, a * two):
        assert torch.equal(found.W, 2 * a.W) and found.name == "2·joy"
    assert torch.equal((a / two).W, 0.5 * a.W)
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = a * torch.ones(2)


@pytest.mark.parametrize(
    "write, name",
    [
        (lambda a, b: 0.7 * a - 0.3 * b, "0.7·joy - 0.3·rude"),
        (lambda a, b: a + b + a, "2·joy + rude"),
        (lambda a, b: -(a - b), "-joy + rude"),
        (lambda a, b: 2 * (a + b) / 2, "joy + rude"),
        (lambda a, b: a - a + b, "rude"),
        (lambda a, b: a - a, "0"),
        (lambda a, b: 2 * a.truncate(2), "2·(joy (rank 2))"),
    ],
)
def test_names_stay_readable_after_algebra(write, name: str) -> None:
    assert write(make_steer(0), make_steer(1, name="rude")).name == name


def test_names_survive_sums_that_cancel_only_up_to_rounding() -> None:
    a = make_steer()
    assert (0.1 * a + 0.2 * a - 0.3 * a + make_steer(1, name="rude")).name == "rude"


def test_steers_on_different_readouts_are_not_added_and_the_message_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="transfer"):
        make_steer() + make_steer(on=make_readout(5))
    with pytest.raises(ValueError, match="m5"):
        make_steer().with_background(make_steer(on=make_readout(5)))


def test_steers_on_equal_readouts_are_added_whatever_object_holds_them() -> None:
    assert_close(
        (make_steer(0, make_readout()) + make_steer(0, make_readout())).W, 2 * make_steer().W
    )


@pytest.mark.parametrize("other", [1, "joy", None])
def test_only_steers_are_added_to_steers_and_only_numbers_multiply_them(other) -> None:
    with pytest.raises((TypeError, jaxtyping.TypeCheckError)):
        make_steer() + other


def test_two_steers_are_not_multiplied(unchecked: None) -> None:
    with pytest.raises(TypeError):
        make_steer() * make_steer()  # pyright: ignore[reportOperatorIssue]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_strength_zero_is_exactly_the_input(dtype: torch.dtype) -> None:
    c = random(4, 3, D, seed=3).to(dtype)
    c = c + random(4, 3, D, seed=4).to(dtype) / 3
    joy = make_steer()
    assert not torch.equal(joy.apply(c, 1.0), c)
    for zero in (0.0, torch.zeros(4), torch.tensor(0.0)):
        assert torch.equal(joy.apply(c, zero), c)


@settings(max_examples=25)
@given(strengths=st.lists(numbers, min_size=3, max_size=3))
def test_each_row_is_steered_at_its_own_strength(strengths: list[float]) -> None:
    c, joy = random(3, 5, D), make_steer()
    together = joy.apply(c, torch.tensor(strengths))
    for row, s in enumerate(strengths):
        assert_close(together[row], joy.apply(c[row], s))


def test_apply_is_the_formula() -> None:
    c, joy = random(7, D), make_steer()
    assert_close(joy.apply(c, 2.5), c + 2.5 * c @ joy.W)
    assert joy.edits(1.0)[0][0] == UNEMBED_IN


@pytest.mark.parametrize("strength", [torch.ones(2), torch.ones(3, 1)])
def test_strengths_of_another_number_than_rows_are_refused(
    strength: torch.Tensor, unchecked: None
) -> None:
    with pytest.raises(ValueError, match="one value per row"):
        make_steer().apply(random(3, 5, D), strength)


def test_a_matrix_of_another_shape_is_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"expected \(6, 6\)"):
        Steer(torch.zeros(5, 5), make_readout())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_matrix_with_nan_is_refused(bad: float) -> None:
    W = torch.zeros(D, D)
    W[1, 2] = bad
    with pytest.raises(ValueError, match="NaN"):
        Steer(W, make_readout(), "sour")


@pytest.mark.parametrize("rank", [0, D + 1])
def test_ranks_that_do_not_exist_are_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        make_steer().truncate(rank)


def test_truncation_gives_the_rank_and_is_exact_at_full_rank() -> None:
    joy, metric = make_steer(), exact_metric(make_readout(), random(40, D))
    for cut in (joy.truncate(2), joy.truncate(2, metric)):
        assert torch.linalg.matrix_rank(cut.W, rtol=1e-4) == 2
    assert_close(joy.truncate(D).W, joy.W, rtol=1e-3, atol=1e-4)
    assert_close(joy.truncate(D, metric).W, joy.W, rtol=1e-3, atol=1e-3)


def test_natural_truncation_costs_fewer_nats_than_plain_truncation() -> None:
    on, joy = make_readout(), make_steer()
    metric = exact_metric(on, random(200, D, seed=9) * torch.tensor([5.0, 3.0, 1.0, 0.5, 0.2, 0.1]))
    for rank in (1, 2, 3):
        plain, natural = joy.truncate(rank), joy.truncate(rank, metric)
        assert float(metric.kl(joy.W - natural.W)) < 0.9 * float(metric.kl(joy.W - plain.W))


def test_everything_is_frozen() -> None:
    joy = make_steer()
    with pytest.raises(FrozenInstanceError):
        joy.name = "gloom"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(FrozenInstanceError):
        joy.with_background(joy).steer = joy  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(FrozenInstanceError):
        joy.readout.scale = 2.0  # pyright: ignore[reportAttributeAccessIssue]


def test_what_is_done_to_the_users_matrix_does_not_reach_the_steer() -> None:
    W = torch.nn.Parameter(random(D, D, seed=3))
    joy = Steer(W, make_readout())
    kept = joy.W.clone()
    W.data.zero_()
    assert torch.equal(joy.W, kept) and not joy.W.requires_grad


def test_a_matrix_that_is_not_dense_is_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"W: got a tensor of layout torch.sparse_coo"):
        Steer(torch.eye(D).to_sparse(), make_readout())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["steer", "over"])
def test_steers_keep_the_laws_of_interventions(kind: str, dtype: torch.dtype) -> None:
    joy, background = make_steer(), make_steer(1, name="background")
    c = random(3, 4, D).to(dtype)
    if kind == "steer":
        laws(joy, {UNEMBED_IN: c})
    else:
        laws(joy.with_background(background), {UNEMBED_IN: c}, at_zero=background)


def test_over_its_background_is_the_sum_of_both() -> None:
    joy, background, c = make_steer(), make_steer(1, name="background"), random(3, 4, D)
    ((_, edit),) = joy.with_background(background).edits(2.0)
    assert_close(edit(c, everywhere(c)), (2 * joy + background).apply(c, 1.0), rtol=1e-4, atol=1e-4)
    assert joy.with_background(background).name == "joy over background"


def test_a_value_of_before_a_reload_is_refused_as_such() -> None:
    steer, spec = make_steer(0), find_spec(Steer.__module__)
    assert steer_of(steer) is steer and spec is not None and spec.loader is not None
    other = module_from_spec(spec)  # the same file, loaded a second time
    spec.loader.exec_module(other)
    of_other = other.Steer(steer.W, steer.readout)
    with pytest.raises(
        ValueError,
        match=r"steer: got Steer of before steerlens\.values\.steer was loaded anew.*kernel",
    ):
        steer_of(of_other)


def test_two_matrices_of_one_name_are_told_apart_in_the_name_of_their_sum() -> None:
    a, b = make_steer(0), make_steer(1)
    same, other = (Steer(x.W, x.readout, "steer") for x in (a, b))
    assert (same + other).name == "steer + steer′" and (same - other).name == "steer - steer′"
    assert (same + 2 * same).name == "3·steer" and (same - same).name == "0"


def test_a_metric_of_another_model_is_refused(unchecked: None) -> None:
    steer = make_steer(0)
    own = exact_metric(steer.readout, random(9, D))
    named = Metric(own.C, own.S, own.damping, digest=steer.readout.digest)
    assert_close(steer.truncate(2, named).W, steer.truncate(2, own).W)
    foreign = Metric(own.C, own.S, own.damping, digest="0" * len(steer.readout.digest))
    with pytest.raises(ValueError, match="metric: got one of another model"):
        steer.truncate(2, foreign)
    with pytest.raises(ValueError, match="metric: got one of another model"):
        check_metric(foreign, steer)
    with pytest.raises(ValueError, match="metric: got 'x'"):
        steer.truncate(2, "x")  # pyright: ignore[reportArgumentType]


def test_numbers_that_float32_does_not_hold_are_no_steer() -> None:
    W = torch.full((6, 6), 1e300, dtype=torch.float64)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        Steer(W, make_readout())
