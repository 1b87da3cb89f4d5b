"""The verdict: true labels are found, and labels in random order are called so as seldom as they
say."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import steerlens as sl
from steerlens.evaluate.verdict import Heldout, copies_as_one, judge_heldout
from steerlens.maths.stats import permute_labels, ratio_error
from steerlens.values.states import Shard, States
from steerlens.values.training import Training
from steerlens.values.verdict import Verdict
from tests.values.make import make_readout, make_states, random

D, V = 16, 40
ON = make_readout(d=D, vocab=V)
PLANTED = torch.outer(random(D, seed=70), random(D, seed=71)) / D
GIVEN = {"ridge": (0.0, 0.05), "damping": 3e-2, "lr": 0.1}


def test_a_planted_steer_is_told_from_shuffled_labels_and_they_from_nothing() -> None:
    states = make_states(240, on=ON, planted=PLANTED)
    found = sl.fit_steer(states, **GIVEN).report.verdict
    assert found is not None and found.found and found.p <= 0.01 and found.how == "halves"
    assert 0 < found.low < found.margin < found.high
    assert found.agreement is not None and found.agreement > 0.3
    assert str(found).startswith("Better than shuffled labels") and f"{found.margin:+.4f}" in str(
        found
    )
    order = torch.randperm(240, generator=torch.Generator().manual_seed(1))
    report = sl.fit_steer(states.relabel(states.labels[order]), **GIVEN).report
    none = report.verdict
    assert none is not None and not none.found and abs(none.margin) < 0.3 * found.margin
    assert "Not told from shuffled labels" in str(report) and "collect more labelled texts" in str(
        none
    )


def test_labels_of_0_and_1_get_the_verdict_of_minus_and_plus_and_the_domain_does_not_pass_for_a_margin() -> (
    None
):
    floor = 0.5 * random(D, D, seed=72) / D**0.5
    states = make_states(240, on=ON, planted=0 * PLANTED, background=floor)
    labels = (torch.arange(240) % 2).float()[
        torch.randperm(240, generator=torch.Generator().manual_seed(3))
    ]
    zero_one, plus_minus = (
        sl.fit_steer(states.relabel(y), **GIVEN).report for y in (labels, 2 * labels - 1)
    )
    assert (zero_one.mean_label, plus_minus.mean_label) == pytest.approx((0.5, 0.0), abs=0.01)
    losses = zero_one.heldout
    assert losses.base - losses.background > 0.1  # there is a domain to be learned
    assert abs(losses.sign_margin) < 0.02
    a, b = zero_one.verdict, plus_minus.verdict
    assert a is not None and b is not None and not a.found
    assert (a.margin, a.low, a.high, a.p) == pytest.approx((b.margin, b.low, b.high, b.p), abs=2e-3)
    assert zero_one.strength == pytest.approx(2 * plus_minus.strength, rel=1e-2)


def test_a_fit_that_nothing_could_judge_says_so_wherever_it_is_shown() -> None:
    states = make_states(60, on=ON, planted=PLANTED)
    fit = sl.fit_steer(states, **GIVEN)
    fit = replace(fit, report=replace(fit.report, verdict=None))
    for shown in (repr(fit), str(fit.report), fit._repr_html_()):
        assert "Not tested against shuffled labels" in shown and "None" not in shown


def rare(n: int, few: int, seed: int) -> torch.Tensor:
    """Labels of 1, and of −1 for a few texts."""
    labels = torch.ones(n)
    labels[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:few]] = -1
    return labels


FLOOR = random(D, D, seed=72) / D**0.5


def test_a_background_does_not_know_the_labels() -> None:
    states = make_states(60, on=ON, planted=PLANTED, background=FLOOR)
    fits = [sl.fit_steer(states.relabel(rare(60, 6, seed)), **GIVEN) for seed in (0, 1)]
    one, other = (
        f.background.W + f.report.mean_label * f.report.strength * f.value.W for f in fits
    )
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert (fits[0].value.W - fits[1].value.W).norm() > 0.3 * fits[0].value.W.norm()
    assert fits[0].report.mean_label > 0.5


@pytest.mark.slow
def test_what_texts_of_a_rare_label_share_with_all_does_not_pass_for_a_margin() -> None:
    margins = []
    for seed in range(8):
        states = make_states(100, on=ON, background=FLOOR, seed=seed)
        verdict = sl.fit_steer(
            states.relabel(rare(100, 10, 1000 + seed)), seed=seed, **GIVEN
        ).report.verdict
        assert verdict is not None
        margins.append(verdict.margin)
    # 0.024 ± 0.003 over a background that weighs texts of a rare label more
    assert abs(np.mean(margins)) < 0.01


def upsampled(n: int, few: int, copies: int, seed: int) -> States:
    """Texts of which nothing tells the label; those of the rare label are there `copies` times."""
    states = make_states(n, on=ON, background=FLOOR, seed=seed)
    labels = rare(n, few, 1000 + seed)
    (shard,) = states.shards
    assert isinstance(shard, Shard)
    again = shard.text.long()
    rows = torch.cat([torch.arange(n), *[(labels < 0).nonzero().squeeze(1)] * (copies - 1)])
    of_row = [(again == row).nonzero().squeeze(1) for row in rows.tolist()]
    at = torch.cat(of_row)
    text = torch.repeat_interleave(torch.arange(len(rows)), states.lengths[rows])
    return States(
        ON,
        (Shard(shard.hidden[at], shard.next[at], text.int()),),
        labels[rows],
        states.lengths[rows],
        torch.ones(len(rows), dtype=torch.bool),
        copy_of=rows,
    )


@pytest.mark.slow
def test_copies_that_make_a_rare_label_frequent_do_not_pass_for_a_style() -> None:
    ps = []
    for seed in range(12):
        verdict = sl.fit_steer(upsampled(80, 10, 8, seed), seed=seed, **GIVEN).report.verdict
        assert verdict is not None and verdict.n_texts == 72  # nine tenths of those that differ
        ps.append(verdict.p)
    # eight of them where each copy weighed as much as a text
    assert sum(p <= 0.05 for p in ps) <= 2


def test_copies_of_a_text_say_together_what_one_of_them_says() -> None:
    gains, labels = torch.tensor([[3.0, 1.0, 5.0, 0.0]]).double(), torch.tensor([1.0, 1, -1, 1])
    tokens, of = torch.tensor([4.0, 2, 4, 0]).double(), torch.tensor([0, 1, 0, 0])
    found = copies_as_one(of, gains, labels.double(), tokens)
    assert [x.tolist() for x in found] == [
        [[4.0, 1.0, 0.0, 0.0]],
        [0.0, 1.0, 0, 0],
        [4.0, 2.0, 0, 0],
    ]


@pytest.mark.slow
def test_of_shuffled_labels_as_many_pass_as_the_p_value_says() -> None:
    states = make_states(60, on=ON, planted=PLANTED)
    ps = []
    for seed in range(24):
        order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
        verdict = sl.fit_steer(
            states.relabel(states.labels[order]), seed=seed, **GIVEN
        ).report.verdict
        assert verdict is not None
        ps.append(verdict.p)
    # 5 % of 24 are one; five or more would be chance once in two hundred
    assert sum(p <= 0.05 for p in ps) <= 4


def test_the_largest_of_several_ways_is_held_against_the_largest() -> None:
    rng = np.random.default_rng(0)
    y = rng.choice([-1.0, 1.0], 40)
    ps = [permute_labels(rng.standard_normal((8, 40)), y, orders=199, seed=k).p for k in range(200)]
    assert (
        2 <= sum(p <= 0.05 for p in ps) <= 20
    )  # 10 expected; the smallest of eight p-values would give 60
    assert permute_labels(np.stack([y, 0 * y]), y).p == 0.001
    found = permute_labels(y[None], np.array([*y[:-1], 5.0]))
    assert found.gains.shape == (1, 40)


def test_texts_at_the_mean_label_gain_nothing_and_count() -> None:
    y = np.array([-1.0, 0.0, 1.0, 0.0])
    found = permute_labels(np.ones((1, 4)), y)
    assert found.gains.tolist() == [[-1, 0, 1, 0]]


def test_labels_hardly_out_of_balance_have_hardly_another_margin() -> None:
    y, units = np.array([-1.0, 1.0] * 10 + [0.0] * 20), np.full(40, 3.0)
    worth = np.array([-1.0, 1.0] * 10 + [0.5] * 20)
    found = [
        permute_labels(worth[None], labels) for labels in (y, y + np.array([1e-4] + [0.0] * 39))
    ]
    margins = [f.gains.sum() / units.sum() for f in found]
    assert margins[1] == pytest.approx(margins[0], rel=1e-3) and margins[0] == pytest.approx(1 / 6)


def test_the_error_of_a_ratio_is_the_bootstraps() -> None:
    rng = np.random.default_rng(1)
    bottom = rng.uniform(5, 20, 400)
    top = 0.1 * bottom + rng.standard_normal(400)
    picks = rng.integers(0, 400, (4000, 400))
    assert ratio_error(top, bottom) == pytest.approx(
        (top[picks].sum(1) / bottom[picks].sum(1)).std(), rel=0.05
    )


def heard(gains: list[float], labels: torch.Tensor, tokens: torch.Tensor) -> Heldout:
    wrong = torch.tensor([gains], dtype=torch.float64)
    return Heldout(torch.zeros_like(wrong), wrong, labels, tokens)


def test_held_out_texts_judge_around_the_mean_label() -> None:
    labels, tokens = torch.tensor([1.0, 0.0] * 20), torch.full((40,), 10)
    found = judge_heldout(heard([2.0] * 40, labels - 0.5, tokens), 0.05, seed=0)
    assert found == Verdict(0.2, 0.2, 0.2, 0.001, 0.05, 40, "held-out")
    # what all texts share gains with one label what it loses with the other
    none = judge_heldout(heard([2.0, -2.0] * 20, labels - 0.5, tokens), 0.05, seed=0)
    assert none is not None and none.margin == 0 and not none.found
    assert judge_heldout(heard([1.0] * 40, torch.ones(40), tokens), 0.05, seed=0) is None


def test_the_best_of_many_values_is_not_judged_by_the_texts_that_chose_it() -> None:
    labels, tokens, rng = (
        torch.tensor([1.0, -1.0] * 15),
        torch.full((30,), 10),
        np.random.default_rng(0),
    )
    chosen, told, covered, few = [], [], 0, 0
    for seed in range(300):
        worth = torch.from_numpy(rng.standard_normal((12, 30)))  # of a unit of label, by value
        right = -worth * labels / 2
        found = judge_heldout(Heldout(right, -right, labels, tokens), 0.05, seed)
        assert found is not None
        best = right.sum(1).argmin()
        chosen.append(float(-2 * right[best].sum() / tokens.sum()))
        told.append(found.margin)
        covered += found.low <= 0 <= found.high
        few += found.p <= 0.05
    assert np.mean(chosen) > 0.02 and abs(np.mean(told)) < 3 * np.std(told) / 300**0.5
    assert covered / 300 > 0.91 and few / 300 < 0.09
    # of one value all texts judge it
    alone = judge_heldout(Heldout(right[:1], -right[:1], labels, tokens), 0.05, 0)
    assert alone is not None
    assert alone.margin == pytest.approx(float(-2 * right[0].sum() / tokens.sum()), abs=0.01)
    # and of values that are worth something the margin is that of the best
    right = torch.linspace(0, -1, 5)[:, None] * torch.ones(30) + 0.01 * right[:5]
    found = judge_heldout(Heldout(right, -right, labels, tokens), 0.05, 0)
    assert found is not None and found.found and found.margin == pytest.approx(0.2, rel=0.05)


def test_what_an_edit_does_to_all_texts_is_no_margin_of_a_rare_label() -> None:
    labels, tokens = torch.tensor([1.0] * 36 + [-1.0] * 4), torch.full((40,), 10)
    worth = 1 + 0.2 * random(40, seed=3).double()  # positive for all: the edit knows the domain
    found = judge_heldout(heard((worth * labels).tolist(), labels, tokens), 0.05, seed=0)
    assert found is not None and found.low < 0 < found.high and found.p > 0.05
    assert abs(found.margin) < 0.01  # 0.08 where the domain counts


def test_texts_that_were_not_asked_keep_their_labels() -> None:
    labels, rng, few = torch.tensor([-1.0, 0.0, 1.0] * 15), np.random.default_rng(3), []
    for seed in range(200):
        gains = labels.double() * torch.from_numpy(rng.standard_normal(45))
        found = judge_heldout(heard(gains.tolist(), labels, torch.full((45,), 9)), 0.05, seed)
        assert found is not None
        few.append(found.p <= 0.1)
    # 0.14 of 800 where a label of 0 goes to texts that are worth something, and theirs to those of 0
    assert 0.05 < np.mean(few) < 0.12


def test_labels_of_0_and_1_turn_into_each_other_for_an_edit_too() -> None:
    texts = sl.toy.corpus("sentiment", n=20, seed=0).texts
    data = sl.Labelled(texts, [float(k % 2) for k in range(20)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is to be learnt
        report = sl.fit_reft(
            sl.load_model("toy-64"), data, rank=1, training=Training(epochs=1), progress=False
        ).report
    assert report.mean_label == 0.5 and report.verdict is not None
    # at a strength of 0 and of 1 a text of either label says what a unit of label is worth
    assert report.by_label[0.0].flipped != report.by_label[0.0].steered
