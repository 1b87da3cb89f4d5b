"""Dual steering and FishBack: the metric's solver, what a step promises, and that no other step of
the same worth costs less."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.maths.logits import logits
from steerlens.methods.baselines.dual_steering import DualSteering, fit_dual_steering
from steerlens.methods.baselines.fishback import FishBack, fit_fishback
from steerlens.methods.baselines.fisher import cheapest_step, solve_fisher
from steerlens.methods.baselines.logit_bias import LogitBias
from steerlens.values.readout import Readout
from tests.contract import everywhere, laws
from tests.values.make import make_readout, make_states, random

IN = "unembed.hook_in"


def dual(on: Readout, n_steps: int = 4) -> DualSteering:
    return DualSteering(random(on.d_model, seed=3), on, n_steps=n_steps)


def fishback(on: Readout, n_steps: int = 4) -> FishBack:
    return FishBack((1, 2, 3), (4, 5), on, n_steps=n_steps)


def fisher(on: Readout, c: torch.Tensor) -> torch.Tensor:
    """The metric of one state, by autograd: minus the second derivative of E_p log p at c."""

    def kl(moved: torch.Tensor) -> torch.Tensor:
        p, q = (logits(on.head, x).log_softmax(-1) for x in (c, moved))
        return (p.exp() * (p - q)).sum()

    return torch.autograd.functional.hessian(kl, c)  # type: ignore[return-value]


def moved(value: Any, c: torch.Tensor, strength: float) -> torch.Tensor:
    ((_, edit),) = value.edits(strength)
    return edit(c[None], everywhere(c[None]))[0]


def kl(on: Readout, c: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    p, q = (on.logits(x).log_softmax(-1) for x in (c, other))
    return (p.exp() * (p - q)).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [dual, fishback])
def test_they_keep_the_laws_of_interventions(make: Any, dtype: torch.dtype) -> None:
    on = make_readout()
    laws(make(on), {IN: random(4, 5, on.d_model, seed=4).to(dtype)})


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_the_solver_inverts_the_curvature_of_kl(softcap: float | None) -> None:
    on = make_readout(softcap=softcap)
    c, b = random(3, on.d_model, seed=5), random(3, on.d_model, seed=6)
    found = solve_fisher(on.head, c, b, damping=0.0, iterations=50)
    for k in range(3):
        assert_close(fisher(on, c[k]) @ found[k], b[k], rtol=1e-2, atol=1e-2)
    damped = solve_fisher(on.head, c, b, damping=0.5, iterations=50)
    alpha = 0.5 * torch.stack([fisher(on, x).trace() for x in c]) / on.d_model
    assert_close(
        torch.stack([fisher(on, c[k]) @ damped[k] + alpha[k] * damped[k] for k in range(3)]),
        b,
        rtol=1e-2,
        atol=1e-2,
    )


def test_no_other_step_that_gains_as_much_costs_less() -> None:
    on = make_readout()
    c, slope = random(40, on.d_model, seed=1), random(40, on.d_model, seed=2)
    step = 0.1 * cheapest_step(on.head, c, slope)
    assert_close(torch.linalg.vecdot(slope, step), torch.full((40,), 0.1))
    best = kl(on, c, c + step)
    for seed in range(5):
        other = random(40, on.d_model, seed=10 + seed)
        other = 0.1 * other / torch.linalg.vecdot(slope, other)[:, None]
        assert bool((kl(on, c, c + other) > 0.9 * best).all())
    plain = 0.1 * slope / slope.square().sum(1, keepdim=True)
    assert float(kl(on, c, c + plain).mean()) > 1.5 * float(best.mean())


def test_dual_steering_goes_as_far_as_the_strength_and_moves_the_mean_embedding_along_the_probe() -> (
    None
):
    on = make_readout()
    c = random(30, on.d_model, seed=7)
    # one step is as long as the strength at every state, and only the probe's direction counts
    once, value = dual(on, n_steps=1), dual(on, n_steps=8)
    for s in (0.5, -0.5):
        assert_close((moved(once, c, s) - c).norm(dim=1), torch.full((30,), 0.5))
    assert_close(moved(replace(value, probe=3 * value.probe), c, 0.5), moved(value, c, 0.5))
    after = moved(value, c, 0.5)
    assert bool(((after - c).norm(dim=1) <= 0.5 + 1e-5).all())
    by = ((after - c) @ value.probe)[:, None]
    assert bool((by > 0).all())

    def turn(x: torch.Tensor) -> torch.Tensor:
        """How the mean embedding moves, beside the probe."""
        mean = [on.logits(y).softmax(-1) @ on.W_U.mT for y in (c, x)]
        return torch.cosine_similarity(mean[1] - mean[0], value.probe.expand_as(c))

    plain = c + by * value.probe / value.probe.square().sum()  # as far along the probe
    assert float(turn(after).mean()) > 0.85 > 1.5 * float(turn(plain).mean())
    assert float(kl(on, c, after).mean()) < float(kl(on, c, plain).mean())


def odds(value: FishBack, z: torch.Tensor) -> torch.Tensor:
    log_p = z.log_softmax(-1)
    favoured, avoided = (
        log_p[:, list(ids)].logsumexp(-1) for ids in (value.favoured, value.avoided)
    )
    return favoured - avoided


def test_fishback_raises_the_odds_by_the_strength_at_every_position() -> None:
    on = make_readout()
    value, c = fishback(on, n_steps=16), random(30, on.d_model, seed=8)
    gained = odds(value, on.logits(moved(value, c, 0.5))) - odds(value, on.logits(c))
    assert_close(gained, torch.full((30,), 0.5), rtol=0.05, atol=0.02)
    lost = odds(value, on.logits(moved(value, c, -0.5))) - odds(value, on.logits(c))
    assert_close(lost, torch.full((30,), -0.5), rtol=0.05, atol=0.02)


def test_with_as_many_dimensions_as_words_one_step_for_one_word_is_the_logit_bias() -> None:
    """Where the state can move every logit by itself, the cheapest way to another odds of one
    word against another is known: exponential tilting, which is a bias on these words."""
    on = Readout(torch.eye(5), torch.zeros(5), tuple("abcde"))
    value = FishBack((1,), (2,), on, n_steps=64)
    c = random(1, 5, seed=3)
    after = on.logits(moved(value, c, 1.0)).softmax(-1)[0]
    p = on.logits(c).softmax(-1)[0]
    # the least KL with these odds: only the two words share their mass anew
    assert_close(after[[0, 3, 4]], p[[0, 3, 4]], rtol=0.05, atol=0.01)
    assert float((after[1] / after[2]).log() - (p[1] / p[2]).log()) == pytest.approx(1, abs=0.1)
    ((_, edit),) = LogitBias(torch.tensor([0, 0.5, -0.5, 0, 0]), on).edits(1.0)
    biased = edit(on.logits(c)[None], everywhere(c[None]))[0, 0].softmax(-1)
    assert (biased[[0, 3, 4]] - p[[0, 3, 4]]).abs().max() > (
        after[[0, 3, 4]] - p[[0, 3, 4]]
    ).abs().max()


def test_they_are_fitted_and_kept_in_files(tmp_path: Path) -> None:
    model = sl.load_model("toy-64")
    states = sl.collect(model, sl.toy.corpus("sentiment", n=150, seed=0), progress=False)
    one, other = fit_dual_steering(states), fit_fishback(states, n_words=20)
    words = [states.readout.tokens[i] for i in other.favoured]
    assert {"pleasant", "lovely", "brilliance"} <= set(words)
    for value in (one, other):
        back = sl.load(sl.save(value, tmp_path / "x.safetensors"), model)
        assert type(back) is type(value) and back.n_steps == value.n_steps
        new = [sl.generate(model, ["it was"], v, strengths=(0, 2.0)).text.tolist()
               for v in (value, back)]  # fmt: skip
        assert new[0] == new[1] and new[0][0] == sl.generate(model, ["it was"]).text[0]


def test_the_probe_reads_what_is_planted() -> None:
    states = make_states(400, length=20)
    (shard,) = states.shards
    u = random(states.d_model, seed=2)
    y = states.labels[shard.text.long()][:, None]  # type: ignore[union-attr]
    planted = shard._replace(hidden=shard.hidden + y * u)  # type: ignore[union-attr]
    states = sl.States(states.readout, (planted,), states.labels, states.lengths, states.keep)
    found = fit_dual_steering(states).probe
    # contexts are isotropic, so the probe is the direction in which the labels move them
    assert torch.cosine_similarity(found, u, dim=0) > 0.95


def test_what_makes_no_step_is_refused(unchecked: None) -> None:
    on = make_readout()
    for bad in (torch.zeros(on.d_model), torch.full((on.d_model,), torch.nan)):
        with pytest.raises(ValueError, match="is zero, or holds NaN"):
            DualSteering(bad, on)
    with pytest.raises(ValueError, match="probe: got shape"):
        DualSteering(torch.ones(on.d_model + 1), on)
    with pytest.raises(ValueError, match="n_steps: got 0"):
        dual(on, n_steps=0)
    with pytest.raises(ValueError, match="n_steps: got 0"):
        fishback(on, n_steps=0)
    with pytest.raises(ValueError, match="'w2' is in both"):
        FishBack((1, 2), (2, 3), on)
    with pytest.raises(ValueError, match="avoided: got "):
        FishBack((1, 2), (99,), on)
    states = make_states()
    with pytest.raises(ValueError, match="states: every label is"):
        fit_dual_steering(states.relabel(torch.ones_like(states.labels)))
    with pytest.raises(ValueError, match="n_words: got 500"):
        fit_fishback(states, n_words=500)


def test_a_text_is_the_same_beside_others() -> None:
    """In float32 what a batch rounds otherwise grew a thousandfold: to 1e-3 of a log-probability."""
    model = sl.load_model("toy-64")
    data = sl.toy.corpus("sentiment", n=80, seed=0)
    states = sl.collect(model, data, progress=False)
    for value in (fit_dual_steering(states), fit_fishback(states)):
        beside = sl.score(model, data.texts[:10], value, strengths=2.0)
        for k, text in enumerate(data.texts[:10]):
            alone = sl.score(model, [text], value, strengths=2.0).log_prob.to_numpy()
            found = beside[beside.text == k].log_prob.to_numpy()
            assert abs(found - alone).max() < 2e-4
