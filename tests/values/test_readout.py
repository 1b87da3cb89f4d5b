"""A read-out is its numbers."""

import pytest
import torch
from torch.testing import assert_close

from steerlens.values.readout import Readout
from tests.values.make import D, V, make_readout, random


def test_logits_are_scaled_and_capped_after_the_bias() -> None:
    r = Readout(random(D, V), random(V, seed=1), tuple(map(str, range(V))), scale=0.5, softcap=2.0)
    c = random(3, 4, D, seed=2)
    assert_close(r.logits(c), 2.0 * torch.tanh(0.5 * (c @ r.W_U + r.b_U) / 2.0))
    assert not r.convex and make_readout().convex


def test_digest_depends_on_the_values_alone() -> None:
    r = make_readout()
    half = Readout(r.W_U.half(), r.b_U.half(), r.tokens)
    assert half.digest == Readout(half.W_U.float(), half.b_U.float(), ("another",)).digest
    assert r.digest == Readout(r.W_U.mT.contiguous().mT, r.b_U, r.tokens, model_id="other").digest
    changed = r.W_U.clone()
    changed[3, 4] += 1e-6
    others = [
        Readout(changed, r.b_U, r.tokens),
        Readout(r.W_U, r.b_U + 1e-6, r.tokens),
        Readout(r.W_U, r.b_U, r.tokens, scale=2.0),
        Readout(r.W_U, r.b_U, r.tokens, softcap=30.0),
    ]
    assert len({r.digest, *(other.digest for other in others)}) == 5
    assert not any(r.same_as(other) for other in others)


def test_words_are_the_columns_that_stand_for_text() -> None:
    r = Readout(random(D, 6), torch.zeros(6), ("<end>", " good", " ", "bad"), frozenset({0}))
    assert r.word_ids.tolist() == [1, 3]
    assert (r.n_tokens, r.d_vocab) == (4, 6)


def test_shapes_that_do_not_fit_are_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"\[d_model, d_vocab\]"):
        Readout(random(V, D), random(V), ("a",))
    with pytest.raises(ValueError, match="strings"):
        Readout(random(D, 2), random(2), ("a", "b", "c"))


def test_a_read_out_says_what_it_is_in_a_line() -> None:
    on = Readout(torch.eye(2), torch.zeros(2), ("a", "b"), scale=0.5, softcap=30.0, model_id="m")
    said = f"Readout(d_model=2, d_vocab=2, scale=0.5, softcap=30, torch.float32, of 'm' [{on.digest[:8]}])"
    assert repr(on) == said
