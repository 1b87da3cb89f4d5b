"""The causal direction: its definition, its own invariance, and what it leaves alone."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from steerlens.methods.baselines.causal_direction import (
    causal_direction,
    causal_dual,
    fit_causal_direction,
)
from steerlens.values.readout import Readout
from tests.values.make import make_readout, make_states, random


def whitened(on: Readout) -> torch.Tensor:
    words = on.W_U[:, on.ordinary].double()
    return torch.cov(words, correction=0)


def test_it_is_the_inverse_covariance_of_embeddings_times_the_concept() -> None:
    on = make_readout(vocab=200)
    gamma = (on.W_U[:, [3, 5]] - on.W_U[:, [2, 4]]).mean(1).double()
    found = causal_direction(on, [("w2", "w3"), ("w4", "w5")]).vector.double()
    expected = torch.linalg.solve(whitened(on), gamma)
    assert_close(found, expected / (gamma @ expected).sqrt(), rtol=2e-3, atol=1e-4)
    # of length 1 in the causal inner product
    assert float(found @ whitened(on) @ found) == pytest.approx(1, rel=2e-3)


def test_a_concept_that_is_causally_separable_does_not_move() -> None:
    on = make_readout(vocab=200)
    on = replace(on, W_U=torch.tensor([3.0, 2, 1, 1, 0.5, 0.3])[:, None] * on.W_U)
    gamma = random(on.d_model, seed=3).double()
    inverse = torch.linalg.inv(whitened(on))
    other = random(on.d_model, seed=4).double()
    other -= gamma * float(gamma @ inverse @ other) / float(gamma @ inverse @ gamma)
    vector = causal_dual(on, gamma.float()).double()
    assert abs(float(other @ vector)) < 2e-3 * float(gamma @ vector)
    assert abs(float(other @ gamma)) > 0.05 * float(gamma @ gamma)  # as a Euclidean step would


def test_the_logits_it_adds_do_not_depend_on_the_basis() -> None:
    on = make_readout(vocab=200)
    A = (
        torch.diag(torch.tensor([2.0, 1.5, 1, 1, 0.7, 0.5]))
        @ torch.linalg.qr(random(6, 6, seed=9)).Q
    )
    turned = replace(on, W_U=A @ on.W_U)
    pairs = [("w2", "w3"), ("w4", "w5")]
    one, other = (r.W_U.mT @ causal_direction(r, pairs).vector for r in (on, turned))
    assert_close(one, other, rtol=2e-2, atol=2e-2)
    euclid = [r.W_U.mT @ (r.W_U[:, 3] - r.W_U[:, 2]) for r in (on, turned)]
    assert (euclid[0] - euclid[1]).norm() > 0.3 * euclid[0].norm()


def test_texts_that_favour_a_word_give_its_direction() -> None:
    states = make_states(60)
    (shard,) = states.shards
    y = states.labels[shard.text.long()]  # type: ignore[union-attr]
    drawn = torch.where(y > 0, 3, torch.where(y < 0, 2, 1)).int()
    states = replace(states, shards=(shard._replace(next=drawn),))  # type: ignore[union-attr]
    found = fit_causal_direction(states.relabel(states.labels)).vector
    pair = causal_direction(states.readout, [("w2", "w3")]).vector
    assert torch.cosine_similarity(found, pair, dim=0) > 0.9


def test_what_names_no_direction_is_refused() -> None:
    on = make_readout()
    with pytest.raises(ValueError, match="pairs: got none"):
        causal_direction(on, [])
    with pytest.raises(ValueError, match="'splendid' is no single token"):
        causal_direction(on, [("w2", "splendid")])
    states = make_states()
    with pytest.raises(ValueError, match="every label is the same"):
        fit_causal_direction(states.relabel(torch.ones_like(states.labels)))
