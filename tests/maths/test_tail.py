"""A vocabulary in two tiers beside the whole one."""

import pytest
import torch
from torch.testing import assert_close

from steerlens.maths.evidence import even_kl
from steerlens.maths.logits import UnembedWeights
from steerlens.maths.tail import two_tiers
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
    found, pull = even_kl(likely, C, move.detach(), tail)
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
