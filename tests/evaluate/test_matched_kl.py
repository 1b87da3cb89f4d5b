"""The strength that costs so many nats, against KL from its definition in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import steerlens as sl
from steerlens.evaluate.fluency import strength_cost
from steerlens.evaluate.losses import CHUNK, measure
from steerlens.evaluate.matched_kl import ROUGHLY, kl_at_strength, solve_strength, strength_at_kl
from steerlens.values.readout import Readout
from steerlens.values.states import States
from steerlens.values.steer import Steer, SteerWithBackground, zero_steer
from tests.values.make import D, V, make_readout, make_states, make_steer, random


def measured(steer: Steer | SteerWithBackground, states: States, strength: float) -> float:
    """KL(p_0 ‖ p_s), mean of both signs and of all positions."""
    on = states.readout
    c = next(states.chunks(10**9)).hidden.double()
    W = (steer.steer if isinstance(steer, SteerWithBackground) else steer).W.double()
    start = c + c @ steer.background.W.double() if isinstance(steer, SteerWithBackground) else c

    def log_p(x: Tensor) -> Tensor:
        z = on.scale * (x @ on.W_U.double() + on.b_U.double())
        return torch.log_softmax(
            z if on.softcap is None else on.softcap * torch.tanh(z / on.softcap), 1
        )

    p = log_p(start)
    kl = [
        (p.exp() * (p - log_p(start + sign * strength * (c @ W)))).sum(1).mean() for sign in (1, -1)
    ]
    return float(sum(kl)) / 2


@pytest.fixture(scope="module")
def toy() -> States:
    return sl.collect(sl.load_model("toy-64"), sl.toy.corpus("tone", n=8, seed=0), progress=False)


def steers(states: States) -> list[Steer | SteerWithBackground]:
    on = states.readout
    wide = Steer(random(on.d_model, on.d_model) / on.d_model**0.5, on, "wide")
    narrow = Steer(random(on.d_model, 1, seed=1) @ random(1, on.d_model, seed=2), on, "narrow")
    return [
        wide,
        narrow,
        wide.with_background(
            Steer(0.3 * random(on.d_model, on.d_model, seed=3) / on.d_model**0.5, on, "bg")
        ),
    ]


@pytest.mark.parametrize("which", range(3), ids=["wide", "narrow", "over a background"])
def test_at_the_strength_the_kl_is_the_wanted_one_and_it_grows_with_it(
    toy: States, which: int
) -> None:
    steer = steers(toy)[which]
    found = []
    for kl in (2e-3, 0.05, 2.0):
        found.append(strength_at_kl(steer, toy, kl=kl))
        assert measured(steer, toy, found[-1]) == pytest.approx(kl, rel=3e-3)
    assert found[0] < found[1] < found[2]
    assert found[1] == strength_at_kl(steer, toy)  # the default
    assert (
        abs((found[2] / found[0]) ** 2 / 1000 - 1) > 0.05
    )  # the quadratic law alone would miss it


def test_a_fitted_steer_costs_the_wanted_kl_by_the_report_s_own_measure(toy: States) -> None:
    fit = sl.fit_steer(toy, tolerance=1e-2)
    s = strength_at_kl(fit.value, toy, kl=0.2)
    assert measured(fit.value, toy, s) == pytest.approx(0.2, rel=3e-3)
    up, down = measure(toy, s * fit.value, zero_steer(toy.readout)).kl
    assert (up + down) / 2 == pytest.approx(0.2, rel=3e-3)
    assert abs(up - down) > 1e-3  # the signs differ, their mean is what counts


@pytest.mark.parametrize("factor", [1e-4, 0.5, -1.0, 30.0, 1e4])
def test_a_steer_k_times_as_large_needs_a_strength_k_times_as_small(factor: float) -> None:
    states, steer = make_states(), make_steer()
    assert strength_at_kl(factor * steer, states) == pytest.approx(
        strength_at_kl(steer, states) / abs(factor), rel=1e-3
    )


def test_a_background_is_part_of_where_the_kl_starts() -> None:
    states, steer, other = make_states(), make_steer(), make_steer(1)
    assert strength_at_kl(
        steer.with_background(zero_steer(states.readout)), states
    ) == strength_at_kl(steer, states)
    s = strength_at_kl(steer.with_background(other), states)
    assert measured(steer.with_background(other), states, s) == pytest.approx(0.05, rel=3e-3)
    assert abs(measured(steer, states, s) / 0.05 - 1) > 0.05


@pytest.mark.parametrize("scale, softcap", [(0.25, None), (1.0, 2.0), (3.0, 1.5)])
def test_scale_and_soft_cap_are_the_read_out_s(scale: float, softcap: float | None) -> None:
    on = Readout(
        random(D, V), random(V, seed=1), tuple(map(str, range(V))), scale=scale, softcap=softcap
    )
    states, steer = make_states(on=on), make_steer(on=on)
    assert measured(steer, states, strength_at_kl(steer, states, kl=0.1)) == pytest.approx(
        0.1, rel=3e-3
    )


def test_only_texts_that_are_kept_count_and_shards_and_chunks_do_not_matter() -> None:
    states, steer = make_states(), make_steer()
    whole = strength_at_kl(steer, states)
    assert strength_at_kl(steer, make_states(n_shards=3)) == pytest.approx(whole, rel=1e-4)
    some, _ = states.split(0.3, seed=0)
    s = strength_at_kl(steer, some)
    assert measured(steer, some, s) == pytest.approx(0.05, rel=3e-3)
    assert abs(s / whole - 1) > 1e-3
    assert states.n_positions > CHUNK  # so it is a sum over chunks, which must be that over all
    assert kl_at_strength(steer, states, whole) == pytest.approx(
        measured(steer, states, whole), rel=1e-4
    )


def test_the_kl_at_a_strength_is_even_and_zero_at_zero() -> None:
    states, steer = make_states(), make_steer()
    assert kl_at_strength(steer, states, 0.0) == pytest.approx(0.0, abs=1e-6)
    assert kl_at_strength(steer, states, 0.7) == pytest.approx(kl_at_strength(steer, states, -0.7))
    assert kl_at_strength(steer, states, 0.7) == pytest.approx(
        measured(steer, states, 0.7), rel=1e-4
    )


@pytest.mark.parametrize("kl", [0.0, -0.1, float("nan")])
def test_a_kl_that_is_not_positive_is_refused(kl: float) -> None:
    with pytest.raises(ValueError, match="expected a positive number of nats"):
        strength_at_kl(make_steer(), make_states(), kl=kl)


def test_a_steer_of_another_read_out_is_refused() -> None:
    other = make_steer(on=make_readout(1), name="rude")
    for steer in (other, other.with_background(other)):
        with pytest.raises(
            ValueError, match=r"'m0', steer 'rude.*' lives on 'm1'.*collect states of that model"
        ):
            strength_at_kl(steer, make_states())


def test_a_steer_that_no_strength_makes_cost_anything_is_refused() -> None:
    states = make_states()
    for steer in (zero_steer(states.readout, "nothing"), 1e-12 * make_steer(name="nothing")):
        with pytest.raises(ValueError, match=r"nothing' costs 0\.05 nats .* is it zero\?"):
            strength_at_kl(steer, states)


def test_a_kl_beyond_what_a_soft_cap_allows_is_refused() -> None:
    on = Readout(random(D, V), random(V, seed=1), tuple(map(str, range(V))), softcap=0.5)
    with pytest.raises(ValueError, match="costs 50 nats per token at no strength up to a million"):
        strength_at_kl(make_steer(on=on), make_states(on=on), kl=50.0)


@pytest.mark.parametrize("power", [0.7, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_strength_at_a_cost_solves_for_it_whatever_the_power(power: float, scale: float):
    calls: list[float] = []

    def cost(s: float) -> float:
        calls.append(s)
        return (scale * s) ** power

    found = solve_strength(cost, 0.05, "it")
    assert found == pytest.approx(0.05 ** (1 / power) / scale, rel=1e-3)
    assert min(calls) > 0 and len(calls) < 80
    assert power != 2.0 or len(calls) < 10


def test_the_strength_at_a_cost_is_found_where_the_cost_levels_off_or_steps():
    assert solve_strength(lambda s: 0.06 * s**2 / (1 + s**2), 0.05, "it") == pytest.approx(
        5**0.5, rel=1e-3
    )
    assert solve_strength(lambda s: 1e-9 * s**2 if s < 3 else s, 0.05, "it") == pytest.approx(
        3, rel=1e-3
    )
    with pytest.raises(ValueError, match="'it' costs 0.05"):
        solve_strength(lambda s: 0.04 * s**2 / (1 + s**2), 0.05, "it")


def test_a_search_that_begins_on_few_positions_ends_on_all() -> None:
    """Heavy texts are rare: a part of the positions alone would be far off."""
    states = make_states(400)
    assert states.n_positions > 2 * ROUGHLY
    shard = next(states.chunks(10**9))
    few = states.sample(ROUGHLY, seed=0)
    heavy = torch.where(few.keep[shard.text][:, None], shard.hidden, 1.5 * shard.hidden)
    states = replace(states, shards=(shard._replace(hidden=heavy),))
    steer = make_steer(on=states.readout)
    for kl in (1e-3, 0.05, 1.0):
        strength = strength_at_kl(steer, states, kl=kl)
        assert measured(steer, states, strength) == pytest.approx(kl, rel=5e-3)
        there = measured(steer, states.select(few.keep), strength)
        assert abs(there / kl - 1) > 0.1


def test_below_what_float32_resolves_the_cost_is_a_square(model) -> None:
    states = sl.collect(model, sl.toy.corpus("tone", n=60, seed=2), progress=False)
    steer = sl.Steer(
        torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) / 40, sl.readout(model)
    )
    near = strength_at_kl(steer, states, kl=1e-4)
    for kl in (1e-6, 1e-9, 1e-12):
        assert strength_at_kl(steer, states, kl=kl) == pytest.approx(
            near * (kl / 1e-4) ** 0.5, rel=0.02
        )
    assert (strength_cost(states, steer, strengths=(1e-3, 1e-5)).kl >= 0).all()
