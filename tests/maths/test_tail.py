"""A vocabulary in two tiers beside the whole one."""

import pytest
import torch
from torch.testing import assert_close

from steerlens.maths.evidence import even_kl, predicted
from steerlens.maths.logits import UnembedWeights, nll_gradient
from steerlens.maths.numbers import generator
from steerlens.maths.tail import draw_words, two_tiers, word_chances
from tests.values.make import random

D, VOCAB, N = 6, 400, 40
# words of very unequal probability, as a language has them
HEAD = UnembedWeights(
    random(D, VOCAB, seed=1), -1.5 * torch.arange(VOCAB).float().add(1).log(), scale=0.8
)
C = 0.3 * random(N, D, seed=2)


def test_no_move_costs_nothing_and_the_slope_of_every_position_is_exact() -> None:
    likely, tail = two_tiers(HEAD, C, 50)
    assert tail is not None and likely.W_U.shape == (D, 50)
    p = torch.softmax(HEAD.scale * (C @ HEAD.W_U + HEAD.b_U), 1)
    total = torch.logsumexp(HEAD.scale * (C @ HEAD.W_U + HEAD.b_U), 1)
    inside = torch.logsumexp(likely.scale * (C @ likely.W_U + likely.b_U), 1)
    assert (total - inside).min() > 0.02  # the tail is not nothing
    assert_close(torch.logaddexp(inside, tail.log_mass), total)
    q = torch.softmax(likely.scale * (C @ likely.W_U + likely.b_U), 1)
    share = (tail.log_mass - total).exp()[:, None]
    mean = (1 - share) * HEAD.scale * (q @ likely.W_U.mT) + share * tail.mean
    assert_close(mean, HEAD.scale * (p @ HEAD.W_U.mT), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [0.05, 0.3])
def test_cost_and_gradient_are_those_of_the_whole_vocabulary_where_leaving_words_out_is_not(
    size: float,
) -> None:
    move = size * random(N, D, seed=3)
    exact, slope = even_kl(HEAD, C, move)
    likely, tail = two_tiers(HEAD, C, 50)
    found, pull = even_kl(likely, C, move, tail)
    without, gone = even_kl(likely, C, move)
    assert exact.mean() > 1e-6
    cost, bare = ((kl.mean() / exact.mean() - 1).abs() for kl in (found, without))
    assert cost < 0.01 < 0.03 < bare
    error, left_out = ((m - slope).norm() / slope.norm() for m in (pull, gone))
    assert error < 0.03 < 0.1 < left_out


def test_the_gradient_is_autograds_of_the_lumped_cost() -> None:
    likely, tail = two_tiers(HEAD, C, 50)
    assert tail is not None
    move = (0.5 * random(N, D, seed=4)).requires_grad_(True)
    z = likely.scale * (C @ likely.W_U + likely.b_U)
    u = likely.scale * (move @ likely.W_U)
    along, bend = (move * tail.mean).sum(1), ((move @ tail.cov) * move).sum(1) / 2

    def whole(sign: int) -> torch.Tensor:
        lump = tail.log_mass + sign * along + abs(sign) * bend
        return torch.logaddexp(torch.logsumexp(z + sign * u, 1), lump)

    cost = (whole(1) + whole(-1)) / 2 - whole(0)
    cost.sum().backward()
    known = predicted(likely, C, tail)
    assert_close(known.p.sum(1) + known.rest, torch.ones(N))
    assert known.rest.min() > 0.02  # the tail is not nothing
    for beforehand in (None, known):
        found, pull = even_kl(likely, C, move.detach(), tail, beforehand)
        assert_close(found, cost.detach(), atol=1e-5, rtol=1e-4)
        assert_close(pull, move.grad, atol=1e-5, rtol=1e-4)


def test_rows_are_those_of_some_positions() -> None:
    likely, tail = two_tiers(HEAD, C, 50)
    assert tail is not None
    move = random(N, D, seed=5)
    part = slice(3, 17)
    whole, _ = even_kl(likely, C, move, tail)
    assert_close(even_kl(likely, C[part], move[part], tail.rows(part))[0], whole[part])


@pytest.mark.parametrize(
    ("head", "n_words"), [(HEAD, 201), (HEAD._replace(softcap=5.0), 50)], ids=["small", "capped"]
)
def test_a_small_vocabulary_and_a_capped_one_stay_whole(head: UnembedWeights, n_words: int) -> None:
    assert two_tiers(head, C, n_words) == (head, None)


@pytest.mark.parametrize("n_words", [20, 50, 200, 399])
def test_chances_add_up_and_are_in_proportion_where_they_are_below_one(n_words: int) -> None:
    chances = word_chances(HEAD, C, n_words)
    assert float(chances.sum()) == pytest.approx(n_words, rel=1e-4)
    assert chances.min() > 0 and chances.max() == 1 and (chances < 1).any()
    p = torch.softmax(HEAD.scale * (C @ HEAD.W_U + HEAD.b_U), 1).mean(0)
    assert p[chances == 1].min() >= p[chances < 1].max()  # the likely ones are certain
    q = 0.99 * p + 0.01 / VOCAB
    rate = (chances / q)[chances < 1]
    assert_close(rate, rate.mean().expand(len(rate)), rtol=1e-3, atol=0.0)


def test_the_sum_over_drawn_words_is_right_on_average_wherever_the_context_is() -> None:
    chances, random = word_chances(HEAD, C, 50), generator(0)
    target = torch.tensor([7, 399, 7, 120])  # likely and rare, one twice
    moved = C[:4] + 0.7 * random_move(4)
    truth = torch.logsumexp(HEAD.scale * (moved @ HEAD.W_U + HEAD.b_U), 1).exp()
    sums, words = [], []
    for _ in range(600):
        some, at = draw_words(HEAD, chances, target, random)
        assert torch.equal(some.W_U[:, at], HEAD.W_U[:, target])
        assert torch.equal(some.b_U[at], HEAD.b_U[target])  # a certain word stands for itself
        words.append(len(some.b_U))
        z = some.scale * (moved @ some.W_U + some.b_U)
        sums.append(torch.logsumexp(z, 1).exp())
    found = torch.stack(sums)
    error = found.std(0) / len(sums) ** 0.5
    assert ((found.mean(0) - truth).abs() < 4 * error).all()
    assert (error / truth < 0.03).all() and (error > 0).all()
    assert max(words) - min(words) <= 2 and abs(sum(words) / len(words) - 50) < 4
    sure = (chances == 1).nonzero().squeeze(1)
    without = torch.logsumexp(HEAD.scale * (moved @ HEAD.W_U + HEAD.b_U)[:, sure], 1).exp()
    assert (without < 0.97 * truth).all()  # the rest is not nothing


def test_a_steps_gradient_over_drawn_words_is_nearly_that_over_all() -> None:
    target = torch.randint(VOCAB, (N,), generator=generator(3))
    weight, random = torch.ones(N), generator(1)
    exact = nll_gradient(HEAD, C, target, weight)
    found = []
    for _ in range(200):
        some, at = draw_words(HEAD, word_chances(HEAD, C, 50), target, random)
        found.append(nll_gradient(some, C, at, weight))
    mean = torch.stack(found).mean(0)
    one, all_ = ((m - exact).norm() / exact.norm() for m in (found[0], mean))
    assert all_ < 0.02 and 3 * all_ < one < 0.2


def random_move(n: int) -> torch.Tensor:
    return random(n, D, seed=9)
