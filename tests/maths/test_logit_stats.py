"""Several sets of logits from shared products, against whole distributions in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from steerlens.evaluate.losses import kl_at_strengths, measure, sign_margins
from steerlens.maths.logit_stats import Mix, logit_stats, mixed_logits
from steerlens.maths.logits import BLOCK, UnembedWeights, blocks, logits
from steerlens.methods.steer.background import FRACTIONS, fraction_of
from steerlens.methods.steer.selection import LONGER, longer
from tests.maths.test_logits import HEADS, D, N, problem
from tests.values.make import make_states, make_steer


def wide(head: UnembedWeights, seed: int) -> UnembedWeights:
    """The same with as many words as make three parts."""
    r, vocab = torch.Generator().manual_seed(seed), 2 * BLOCK + 100
    W_U, b_U = torch.randn(D, vocab, generator=r).double(), torch.randn(vocab, generator=r).double()
    return head._replace(W_U=W_U, b_U=b_U)


def whole(head: UnembedWeights, terms: list[Tensor], mix: Mix) -> Tensor:
    """Log-probabilities of each set, by the definition."""
    sets = []
    for row in mix:
        c = torch.zeros_like(terms[0])
        for coefficient, term in zip(row, terms, strict=True):
            c = c + torch.as_tensor(coefficient).double().reshape(-1, 1) * term
        sets.append(torch.log_softmax(logits(head, c), 1))
    return torch.stack(sets)


@pytest.mark.parametrize("kind", HEADS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), large=st.booleans())
def test_they_are_those_of_whole_distributions(kind: str, seed: int, large: bool) -> None:
    head, c, target, label = problem(seed, *HEADS[kind])
    if large:
        head, target = wide(head, seed), target * 700
    assert len(blocks(head)) == (3 if large else 1)
    terms, others = [c, c.roll(1, 0), 3 * c.flip(1)], 3
    mix: Mix = [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, label], [1.0, -0.5, -label],
                [0.0, 0.0, 1.0], [1.0, 0.0, -1.0]]  # fmt: skip
    log_p = whole(head, terms, mix)
    told = logit_stats(head, target, terms, mix, others)
    assert_close(told.nll, -log_p[:, torch.arange(N), target], rtol=1e-10, atol=1e-12)
    kl = (log_p[0].exp() * (log_p[0] - log_p[-others:])).sum(2)
    assert_close(told.kl, kl, rtol=1e-10, atol=1e-12)
    assert (told.kl > 0.01).any()
    assert logit_stats(head, target, terms, mix).kl.shape == (0, N)


def test_a_set_without_terms_is_the_bias_alone() -> None:
    head, c, target, _ = problem(0, *HEADS["plain"])
    told = logit_stats(head, target, [c], [[1.0], [0.0]], others=1)
    bias = torch.log_softmax(head.b_U, 0)
    assert_close(told.nll[1], -bias[target])
    # for every other set the bias is added once, however many terms there are
    twice = logit_stats(head, target, [c, c], [[0.5, 0.5]])
    assert_close(twice.nll[0], told.nll[0])


def test_sums_are_in_the_dtype_of_the_terms_whatever_the_products_are_in() -> None:
    head, c, target, _ = problem(1, *HEADS["plain"])
    rough = head._replace(W_U=head.W_U.bfloat16(), b_U=head.b_U.bfloat16())
    told = logit_stats(rough, target, [c.float(), 0.1 * c.float()], [[1.0, 0.0], [1.0, 1.0]])
    exact = logit_stats(head, target, [c, 0.1 * c], [[1.0, 0.0], [1.0, 1.0]])
    assert told.nll.dtype == torch.float32
    assert_close(told.nll.double(), exact.nll, rtol=0.1, atol=0.1)
    assert not torch.allclose(told.nll.double(), exact.nll, rtol=1e-6, atol=1e-6)


class Products(TorchDispatchMode):
    """Counts products whose result is as wide as the vocabulary."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vocab, self.n = vocab, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        wide = isinstance(found, Tensor) and found.ndim == 2 and found.shape[1] == self.vocab
        self.n += wide and func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        return found


def test_a_product_with_the_read_out_serves_every_set_it_is_part_of() -> None:
    states, steer, other = make_states(), make_steer(), make_steer(1)
    vocab = states.readout.head.W_U.shape[1]
    states = states.sample(200, seed=0)
    assert len(list(states.chunks(256))) == 1
    asked = {
        lambda: measure(states, steer, other): 3,  # for six sets
        lambda: kl_at_strengths(states, steer, (-2.0, -1.0, 1.0, 2.0)): 2,  # for five
        lambda: sign_margins(states, [steer, other], steer): 3,  # for four
        lambda: fraction_of(other.W, states): 2,  # for five
        lambda: longer(steer.W, other.W, 0.0, states): 2,  # for five
    }
    assert len(FRACTIONS) == len(LONGER) == 5
    for ask, terms in asked.items():
        with Products(vocab) as count:
            ask()
        assert count.n == terms, ask


def test_the_same_sums_are_made_once() -> None:
    head, c, _, label = problem(2, *HEADS["plain"])
    terms = [c, c.roll(1, 0), 3 * c.flip(1)]
    mix: Mix = [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, label], [1.0, 1.0, 2.0]]
    added = []

    class Sums(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            aten = torch.ops.aten
            added.append(func.overloadpacket in (aten.add, aten.addcmul, aten.addmm))
            return func(*args, **(kwargs or {}))

    with Sums():
        mixed_logits(head, terms, mix)
    assert sum(added) == 4  # one per set
