"""What is likely of a steer beforehand: coordinates, the minimum under each prior, and which of the
two halves of the texts take."""

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.evaluate.losses import sign_margins
from steerlens.maths.stats import permute_labels
from steerlens.methods.steer.cost import Cost, sample_cost
from steerlens.methods.steer.evidence import evidence_of, explain
from steerlens.methods.steer.judge import (
    MIXES,
    USUAL,
    Asked,
    judge_halves,
    mixes_of,
    worth_per_text,
)
from steerlens.methods.steer.prior import (
    ALL,
    FEW,
    Coordinates,
    Evidence,
    Objective,
    Prior,
    coordinates,
    curvature_along,
    most_likely,
    search_under,
)
from steerlens.values.metric import Metric
from steerlens.values.states import States
from tests.values.make import make_readout, make_states, random

D, V = 16, 40
ON = make_readout(d=D, vocab=V)
ONE = torch.outer(random(D, seed=70), random(D, seed=71)) / D
ANY = 0.12 * random(D, D, seed=72)
NOWHERE = torch.zeros(D, D)


def lopsided(largest: float) -> Metric:
    """A metric whose contexts vary along one direction more than along all others."""
    spread = torch.linspace(1, 2, D).double()
    spread[-1] = largest
    return Metric(torch.diag(spread), torch.diag(torch.linspace(1, 3, D).double()), damping=0.0)


def cost_of(states: States) -> Cost:
    labels = states.labels - states.labels.mean()
    weight = torch.ones_like(labels)
    return sample_cost(states, labels, weight, NOWHERE, (512, 512), 0)


def whiten(W: torch.Tensor, whitened: Coordinates) -> torch.Tensor:
    return torch.linalg.solve(whitened.read, torch.linalg.solve(whitened.write, W.mT).mT)


def test_coordinates_undo_themselves_and_slopes_pair_with_steps() -> None:
    whitened = coordinates(lopsided(3.0), FEW)
    G, W = random(D, D, seed=1), random(D, D, seed=2)
    V = whiten(W, whitened)
    assert_close(whitened.unwhiten(V), W, rtol=1e-4, atol=1e-5)
    # ⟨W, G⟩ is the same number in any coordinates
    assert float((W * G).sum()) == pytest.approx(float((V * whitened.whiten_slope(G)).sum()), rel=1e-3)  # fmt: skip


def test_one_loud_direction_says_little_of_the_others() -> None:
    """Damped relative to the largest eigenvalue all others would count for nothing."""
    prior = FEW._replace(read=0.03)

    def others(largest: float, damping: float | None) -> torch.Tensor:
        roots = torch.diagonal(coordinates(lopsided(largest), prior, damping).read)[:-1]
        return roots / roots.norm()

    relative_to_mean, relative_to_largest = (
        float((others(4.0, damping) - others(400.0, damping)).norm())
        for damping in (None, prior.read)
    )
    assert relative_to_mean < 0.5 * relative_to_largest


def test_a_matrix_too_long_for_the_lump_of_unlikely_words_is_shortened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SmolLM2 with 300 sentences ended in NaN: one position of a thousand had no finite cost."""
    monkeypatch.setattr("steerlens.methods.steer.cost.LIKELY", 8)
    states = make_states(60, on=ON, planted=ANY)
    cost, whitened = cost_of(states), coordinates(sl.natural_metric(states), FEW)
    assert cost.tail is not None
    W = random(D, D, seed=5)
    W = cost.of_cost(0.05, 1e-3 * W)
    assert not cost(1e20 * W)[0] < 1e4  # also NaN, further on
    assert cost(cost.of_cost(0.05, 1e20 * W))[0] == pytest.approx(0.05, rel=0.1)
    V = whiten(W, whitened)
    short, long = (curvature_along(cost, whitened, by * V) for by in (1.0, 1e15))
    assert 0.2 * short < long < 5 * short
    assert cost.measured(W) == (1.0, cost(W)[0])
    # and slopes of any size are fitted
    search = search_under(FEW, whitened, cost, Asked())
    G = random(D, D, seed=3)
    found, _ = most_likely(Evidence(1e15 * G, 0 * G), search, (512, 4))
    assert bool(torch.isfinite(found).all())
    with pytest.raises(ValueError, match="no multiple of a steer has a finite cost"):
        cost.measured(W * float("nan"))


@pytest.mark.parametrize("prior", [FEW, ALL], ids=["few", "all"])
def test_the_descent_ends_where_the_problem_is_stationary(prior: Prior) -> None:
    states = make_states(120, on=ON, planted=ANY + ONE)
    cost, metric = cost_of(states), sl.natural_metric(states)
    search = search_under(prior, coordinates(metric, prior), cost, Asked())
    evidence = Evidence(0.02 * random(D, D, seed=3), 0.002 * random(D, D, seed=4))
    slope = search.whitened.whiten_slope(evidence.slope)
    flat = search._replace(prior=prior._replace(ridge=0.0))
    start = whiten(most_likely(evidence, flat, (512, 0))[0], search.whitened)
    ridge = prior.ridge * curvature_along(cost, search.whitened, start)
    smooth = Objective(cost, search.whitened, slope, ridge)

    def value(n_steps: int) -> float:
        """The objective, penalty included, after so many steps."""
        W, threshold = most_likely(evidence, search, (512, n_steps))
        V = whiten(W, search.whitened)
        return smooth(V)[0] + threshold * float(torch.linalg.matrix_norm(V, "nuc"))

    end = value(200)
    assert value(0) > end
    assert abs(value(30) - end) < 0.05 * (value(0) - end)


def test_few_directions_leave_few_and_all_leave_all() -> None:
    states = make_states(200, on=ON, planted=ONE)
    metric = sl.natural_metric(states)
    few, all_ = (explain(states, metric, NOWHERE, Asked(few=part)) for part in (1.0, 0.0))
    assert torch.linalg.matrix_rank(few.W, rtol=1e-4) < D == torch.linalg.matrix_rank(all_.W, rtol=1e-4)  # fmt: skip
    assert few.threshold > 0 == all_.threshold
    half = explain(states, metric, NOWHERE, Asked(few=0.5))
    assert_close(half.W, (few.W + all_.W) / 2)
    assert half.strength is half.verdict is None and half.trials == ()


def test_four_times_the_texts_halve_what_singular_values_are_lowered_by() -> None:
    """Whatever is planted: noise is what halves of the texts contradict each other in."""
    for planted in (ONE, 3 * ONE):
        lowered = {}
        for n in (100, 400, 1_600):
            states = make_states(n, on=ON, planted=planted)
            lowered[n] = explain(states, sl.natural_metric(states), NOWHERE, Asked(few=1.0)).threshold  # fmt: skip
        assert lowered[100] / lowered[400] == pytest.approx(2, rel=0.35)
        assert lowered[400] / lowered[1_600] == pytest.approx(2, rel=0.35)


def test_the_share_is_one_of_the_noise_and_leaves_a_direction_however_large() -> None:
    states = make_states(120, on=ON, planted=ONE)
    metric, cost = sl.natural_metric(states), cost_of(states)
    noise = Evidence(0.02 * random(D, D, seed=5), 0.01 * random(D, D, seed=6))
    found = {}
    for share in (0.2, 0.4, 100.0):
        prior = FEW._replace(share=share)
        search = search_under(prior, coordinates(metric, prior), cost, Asked())
        found[share] = most_likely(noise, search, (512, 2))
    assert found[0.4][1] == pytest.approx(2 * found[0.2][1], rel=1e-5)
    assert torch.linalg.matrix_rank(found[100.0][0], rtol=1e-4) == 1
    assert torch.linalg.matrix_rank(found[0.2][0], rtol=1e-4) > 1


@pytest.mark.parametrize(
    ("planted", "part"), [(4 * ONE, 1.0), (0.4 * ANY, 0.0)], ids=["few", "all"]
)
def test_halves_take_the_prior_that_new_texts_like(planted: torch.Tensor, part: float) -> None:
    states, new = (make_states(n, on=ON, planted=planted, seed=k) for n, k in ((600, 0), (900, 9)))
    metric = sl.natural_metric(states)
    found = explain(states, metric, NOWHERE, Asked())
    assert abs(found.few - part) <= 0.5
    margins = {trial["few"]: trial["margin"] for trial in found.trials}
    assert margins[part] > margins[1 - part]
    assert [trial["few"] for trial in found.trials] == list(MIXES)
    nothing = sl.Steer(NOWHERE, states.readout)
    worth = {}
    for few in (0.0, 1.0):
        steer = sl.Steer(explain(states, metric, NOWHERE, Asked(few=few)).W, states.readout)
        strength = sl.strength_at_kl(steer, new, kl=0.05)
        worth[few] = float(sign_margins(new, [strength * steer], nothing).sum())
    assert worth[part] > worth[1 - part] > 0


@pytest.mark.parametrize("lead", [*MIXES, None])
def test_the_usual_mix_is_left_for_one_that_is_clearly_better(lead: float | None) -> None:
    states = make_states(400, on=ON, planted=ANY)
    labels = states.labels - states.labels.mean()
    halves = [evidence_of(part, labels, NOWHERE, Asked()) for part in states.split(0.5, seed=0)]
    path = [ANY if mix == lead else 0.1 * ANY for mix in MIXES]
    judged = [half._replace(path=path) for half in halves]
    margins, best, verdict = judge_halves(judged, sl.natural_metric(states), Asked())
    assert MIXES[best] == (USUAL if lead is None else lead)
    assert verdict is not None and verdict.margin == pytest.approx(margins[best])
    ps = [
        permute_labels(*worth_per_text(there, here.path)[:2], seed=k).p
        for k, (here, there) in enumerate((judged, judged[::-1]))
    ]
    assert verdict.p == min(1.0, 2 * min(ps)) > min(ps)


def test_a_rank_is_that_of_one_prior() -> None:
    assert mixes_of(None) == MIXES and mixes_of(2) == (0.0, 1.0)
    states = make_states(200, on=ON, planted=ANY)
    found = explain(states, sl.natural_metric(states), NOWHERE, Asked(rank=2))
    assert torch.linalg.matrix_rank(found.W, rtol=1e-4) == 2
    assert [trial["few"] for trial in found.trials] == [0.0, 1.0]


def test_labels_of_a_hundredth_give_the_same_steer_as_many_times_longer() -> None:
    states = make_states(200, on=ON, planted=ONE + ANY)
    metric = sl.natural_metric(states)
    whole = explain(states, metric, NOWHERE, Asked())
    small = explain(states.relabel(states.labels / 128), metric, NOWHERE, Asked())
    assert_close(small.W / 128, whole.W, rtol=1e-3, atol=1e-5)
    assert small.few == whole.few and small.strength == pytest.approx(whole.strength, rel=1e-3)
    assert small.verdict is not None and whole.verdict is not None
    assert small.verdict.margin == pytest.approx(whole.verdict.margin, rel=1e-3)
