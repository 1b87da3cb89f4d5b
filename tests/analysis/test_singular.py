"""Singular words: planted directions are found, signs are fixed, the natural metric does not depend on the basis."""

import pytest
import torch

from steerlens.analysis.singular import directions, singular_scores, singular_words, word_columns
from steerlens.values.metric import Metric
from steerlens.values.readout import Readout
from steerlens.values.states import Shard, States
from steerlens.values.steer import Steer, zero_steer

WORDS = ("bad", "good", "dull", "fine", "so", "very", "cat", "dog")


@pytest.fixture
def on() -> Readout:
    """Eight words whose embeddings are the axes."""
    return Readout(torch.eye(8), torch.zeros(8), WORDS)


def planted(on: Readout, gains: tuple[float, float] = (3.0, 1.0)) -> Steer:
    """Where "so" was likely: "good" up and "bad" down; where "cat" was: "dog" up and "fine" down, more weakly."""
    W = torch.zeros(8, 8)
    W[4, 1], W[4, 0] = gains[0], -0.5 * gains[0]
    W[6, 7], W[6, 3] = gains[1], -0.5 * gains[1]
    return Steer(W, on, name="planted")


def make_states(on: Readout, c: torch.Tensor) -> States:
    n = len(c)
    shard = Shard(c, torch.zeros(n, dtype=torch.int32), torch.arange(n, dtype=torch.int32))
    return States(on, (shard,), torch.zeros(n), torch.ones(n, dtype=torch.long), torch.ones(n, dtype=torch.bool))


def test_planted_words_are_found(on: Readout):
    table = singular_words(planted(on), rank=2, tokens=1)
    assert table.direction.tolist() == [1, 1, 2, 2]
    assert table.side.tolist() == ["+", "-", "+", "-"]
    first, second = table.iloc[0], table.iloc[2]
    assert (first.reads, first.writes, first.avoids) == ("so", "good", "bad")
    assert (second.reads, second.writes, second.avoids) == ("cat", "dog", "fine")
    assert table.gain.iloc[0] == pytest.approx(3 * 1.25**0.5)
    assert table.share.iloc[0] == pytest.approx(0.9)


def test_scores_are_what_strength_one_adds_to_the_logits(on: Readout):
    steer = planted(on)
    scores = singular_scores(steer, rank=1, tokens=1)
    good = scores[(scores.side == "+") & (scores.role == "writes")].iloc[0]
    c = torch.eye(8)[4]
    change = on.logits(steer.apply(c, 1.0)) - on.logits(c)
    assert good.word == "good"
    assert good.score == pytest.approx(float(change[1] - change.mean()), rel=1e-5)


def test_directions_add_up_to_the_matrix(on: Readout):
    torch.manual_seed(0)
    W = torch.randn(8, 8)
    A, B = torch.randn(8, 8).double(), torch.randn(8, 8).double()
    for metric in (None, Metric(A @ A.T, B @ B.T, damping=0.01)):
        d = directions(W, 8, metric)
        total = torch.einsum("k,ki,kj->ij", d.gain, d.probe, d.write)
        torch.testing.assert_close(total.float(), W, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close((d.read * d.probe).sum(1), torch.ones(8).double(), atol=1e-4, rtol=1e-4)


def test_sign_is_a_function_of_the_steer(on: Readout):
    steer = planted(on)
    there, mirrored = (singular_words(s, rank=1, tokens=1) for s in (steer, -steer))
    assert there.equals(singular_words(steer, rank=1, tokens=1))
    # -W writes the opposite where W's contexts are, so its side "+", named by the strongest word, is where they are not
    assert mirrored.writes.tolist() == there.writes.tolist()
    assert mirrored.reads.tolist() == there.reads.tolist()[::-1]
    assert there.writes[0] != there.avoids[0]


def test_on_a_text_the_opposite_steer_swaps_what_is_written_and_avoided(on: Readout):
    torch.manual_seed(0)
    states = make_states(on, torch.randn(400, 8) + torch.eye(8)[4])
    steer = planted(on)
    table, opposite = (singular_words(s, rank=2, tokens=3, states=states) for s in (steer, -steer))
    assert opposite.reads.tolist() == table.reads.tolist()
    assert opposite.writes.tolist() == table.avoids.tolist()
    assert table.writes[0].startswith("good") and table.avoids[0].startswith("bad") and table.reads[0].startswith("so")
    assert (table.used.groupby(table.direction).sum() - 1).abs().max() < 1e-6
    assert table.used[0] > 0.6


def test_the_natural_metric_does_not_see_the_basis():
    torch.manual_seed(1)
    W_U, W = torch.randn(4, 8).double(), torch.randn(4, 4).double()
    C, S = (x @ x.T for x in torch.randn(2, 4, 9).double())
    A = torch.eye(4).double() + 0.4 * torch.randn(4, 4).double()
    back = torch.linalg.inv(A)

    def words(W_U, W, C, S):
        steer = Steer(W.float(), Readout(W_U.float(), torch.zeros(8), WORDS))
        return singular_scores(steer, rank=2, tokens=2, metric=Metric(C, S, damping=0.0))

    one = words(W_U, W, C, S)
    # e -> Ae, and contexts go along: the same model in another basis
    other = words(A @ W_U, A @ W @ back, back.T @ C @ back, A @ S @ A.T)
    assert other.word.tolist() == one.word.tolist()
    torch.testing.assert_close(torch.tensor(other.score), torch.tensor(one.score), rtol=1e-3, atol=1e-3)
    plain = singular_scores(Steer((A @ W @ back).float(), Readout((A @ W_U).float(), torch.zeros(8), WORDS)), rank=2)
    assert plain.gain[0] != pytest.approx(one.gain[0], rel=1e-2)


def test_only_whole_words_once_and_no_padding():
    tokens = ("<|end|>", " good", " Good", "good", "ing", " bad", " 12", " !", "  ")
    on = Readout(torch.randn(3, 12), torch.zeros(12), tokens, frozenset({0}))
    assert [tokens[i] for i in word_columns(on)] == [" good", " bad"]
    bare = Readout(torch.randn(3, 4), torch.zeros(4), ("good", "bad", ".", "x2"))
    assert [bare.tokens[i] for i in word_columns(bare)] == ["good", "bad"]


def test_a_zero_steer_has_gains_of_zero(on: Readout):
    table = singular_words(zero_steer(on), rank=2, tokens=2)
    assert table.gain.tolist() == [0.0] * 4
    assert not table.isna().any().any()


@pytest.mark.parametrize(
    ("arguments", "message"), [({"rank": 0}, "rank"), ({"rank": 9}, "rank"), ({"tokens": 0}, "tokens")]
)
def test_arguments_out_of_range(on: Readout, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        singular_words(planted(on), **arguments)


def test_without_words_it_says_so():
    on = Readout(torch.eye(2), torch.zeros(2), ("!", "?"))
    with pytest.raises(ValueError, match="whole word"):
        singular_words(zero_steer(on), rank=1)


def test_states_of_another_model_are_refused(on: Readout):
    other = Readout(2 * torch.eye(8), torch.zeros(8), WORDS)
    with pytest.raises(ValueError, match="states"):
        singular_words(planted(on), rank=1, states=make_states(other, torch.randn(5, 8)))
