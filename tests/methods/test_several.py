"""Attributes that go together in the texts are told apart in the steers."""

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.evaluate.leak import leak, summed_nll
from steerlens.methods.steer.several import SteersFit, fit_steers, orthogonal_to, residualize
from steerlens.toy import Condition, grammar
from tests.methods.make import model
from tests.values.make import exact_metric, make_readout, make_steer, random

NAMES = ("joy", "manners")


def draw(n: int, correlation: float, seed: int) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Texts whose sentiment and tone, ±1 each, are so correlated."""
    texts: list[str] = []
    rows: list[tuple[float, float]] = []
    for k, (a, b) in enumerate(((-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0))):
        m = round(n * (1 + correlation * a * b) / 4)
        texts += grammar.sample(m, Condition(sentiment=a, tone=b), seed=10 * seed + k)
        rows += [(a, b)] * m
    return texts, dict(zip(NAMES, torch.tensor(rows).unbind(1), strict=True))


@pytest.fixture(scope="module")
def states() -> tuple[sl.States, dict[str, torch.Tensor]]:
    texts, labels = draw(280, 0.8, 1)
    return sl.collect(model(), texts, progress=False), labels


@pytest.fixture(scope="module")
def both(states) -> SteersFit:
    return fit_steers(*states, progress=False)


def test_a_steer_fitted_alone_leaks_and_one_fitted_beside_the_other_does_not(states, both) -> None:
    some, labels = states
    alone = sl.fit_steer(some.relabel(labels["manners"]), progress=False)
    texts, told = draw(60, 0.0, 7)
    tests = {name: sl.Labelled(texts, y.tolist()) for name, y in told.items()}
    table = leak(model(), {"alone": alone, "beside": both.fits["manners"]}, tests)
    margin = table.set_index(["steer", "attribute"]).sign_margin
    assert margin["alone", "joy"] > 0.5 * margin["alone", "manners"] > 0  # it is much joy
    assert margin["beside", "manners"] > 0.05
    assert abs(margin["beside", "joy"]) < 0.3 * margin["beside", "manners"]
    assert both.correlation.loc["joy", "manners"] > 0.6


def test_the_sum_at_the_labels_says_more_than_either(states, both) -> None:
    texts, told = draw(80, 0.0, 7)
    other = sl.collect(model(), texts, progress=False)
    nll = {
        "none": summed_nll(other, {}, told, both.background).sum(),
        **{n: summed_nll(other, {n: both.at_labels[n]}, told, both.background).sum() for n in NAMES},
        "both": summed_nll(other, both.at_labels, told, both.background).sum(),
    }  # fmt: skip
    assert nll["both"] < min(nll[n] for n in NAMES) and max(nll[n] for n in NAMES) < nll["none"]
    scores = sl.score(model(), texts[:3])
    assert_close(
        float(summed_nll(other, {}, {})[:3].sum()), -float(scores.log_prob.sum()), rtol=1e-4, atol=0.0
    )  # fmt: skip


def test_a_product_that_means_nothing_is_called_so(states) -> None:
    texts, labels = draw(64, 0.0, 3)
    found = fit_steers(sl.collect(model(), texts, progress=False), labels, interactions=True, progress=False)  # fmt: skip
    assert list(found.fits) == ["joy", "manners", "joy × manners"]
    assert found.fits["joy"].report.verdict.p < 0.05  # type: ignore[union-attr]
    assert found.fits["joy × manners"].report.verdict.p > 0.05  # type: ignore[union-attr]


def test_residuals_are_uncorrelated_with_the_others_over_the_positions() -> None:
    Y, weight = random(50, 3, seed=1).double(), random(50, seed=2).double().square()
    Y[:, 1] += 2 * Y[:, 0]
    r = residualize(Y, weight, ["a", "b", "c"])
    crossed = (weight[:, None] * r).mT @ Y
    assert_close(crossed, torch.diag(crossed.diag()), rtol=1e-8, atol=1e-8)
    assert_close(weight @ r, torch.zeros(3).double(), rtol=1e-8, atol=1e-8)
    # Frisch, Waugh and Lovell: the joint regression's own coefficients, one by one
    G = random(50, seed=3).double()
    root = weight.sqrt()[:, None]
    X = torch.cat([torch.ones(50, 1).double(), Y], 1)
    joint = torch.linalg.lstsq(root * X, root * G[:, None]).solution[1:, 0]
    assert_close((weight * r.mT) @ G / (weight * r.mT.square()).sum(1), joint, rtol=1e-7, atol=1e-7)


def test_what_is_orthogonal_in_the_metric_costs_no_more_beside_the_other() -> None:
    on = make_readout()
    metric = exact_metric(on, random(200, 6, seed=4))
    a, b, c = (make_steer(k, on) for k in range(3))
    free = orthogonal_to(a, [b, c], metric)

    def crossed(x: sl.Steer, y: sl.Steer) -> float:
        return float(metric.kl((x + y).W) - metric.kl(x.W) - metric.kl(y.W))

    for other in (b, c):
        assert abs(crossed(free, other)) < 1e-3 * metric.kl(other.W) < abs(crossed(a, other))
    assert metric.kl(free.W) < metric.kl(a.W)
    again = orthogonal_to(free, [b, c], metric)
    assert_close(again.W, free.W, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda s, y: fit_steers(s, {"joy": y["joy"]}), "at least two"),
        (lambda s, y: fit_steers(s, y | {"more": y["joy"][:5]}), "one per text"),
        (lambda s, y: fit_steers(s, y | {"more": 2 * y["joy"]}), r"\[-1, 1\]"),
        (lambda s, y: fit_steers(s, y | {"more": 0.9 * y["joy"]}), "say 100% of it"),
        (lambda s, y: fit_steers(s, y | {"more": torch.ones(len(y["joy"]))}), r"labels\['more'\]: every label is 1"),
        (lambda s, y: fit_steers(s, y | {"more": torch.full((len(y["joy"]),), 0.3)}), r"labels\['more'\]: every label is 0.3"),
        (lambda s, y: summed_nll(s, {"joy": make_steer()}, {}), "none for the steer"),
        (lambda s, y: summed_nll(s, {"joy": make_steer()}, y), "another W_U"),
        (lambda s, y: orthogonal_to(make_steer(), [], exact_metric(make_readout(), random(9, 6))), "others"),
        (lambda s, y: orthogonal_to(make_steer(), [2 * make_steer()], exact_metric(make_readout(), random(90, 6))), "span"),
        (lambda s, y: leak(model(), {}, {}), "at least one"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_apart_is_refused(states, make, said: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=said):
        make(*states)


def test_how_long_the_others_are_does_not_matter(unchecked: None) -> None:
    a, b, c = make_steer(0), make_steer(1), make_steer(2)
    metric = exact_metric(a.readout, random(90, 6))
    expected = orthogonal_to(a, [b, c], metric).W
    for k in (1e-3, 1e-7, 1e5):
        assert_close(orthogonal_to(a, [b, k * c], metric).W, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="is 0"):
        orthogonal_to(0 * a, [b], metric)
    with pytest.raises(ValueError, match="others: got one steer"):
        orthogonal_to(a, b, metric)  # pyright: ignore[reportArgumentType]
