"""Log-odds of words: against counts by hand, signs and grades, and the gate it sets."""

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.methods.baselines.log_odds import fit_log_odds
from steerlens.values.states import Shard, States
from tests.values.make import make_readout


def counted(words: list[list[int]], labels: list[float]) -> States:
    """Texts of given words; the contexts do not matter."""
    on = make_readout()
    text = torch.tensor([k for k, row in enumerate(words) for _ in row])
    shard = Shard(
        torch.zeros(len(text), on.d_model),
        torch.tensor([i for row in words for i in row]).int(),
        text.int(),
    )
    lengths = torch.tensor([len(row) for row in words])
    return States(on, (shard,), torch.tensor(labels), lengths, torch.ones(len(words)).bool())


def test_it_is_the_z_score_of_counts() -> None:
    found = fit_log_odds(counted([[1, 1, 1, 2], [2, 2, 2, 3]], [1.0, -1.0]), prior=1.0)
    V = found.readout.d_vocab
    a, b, total = torch.tensor([4.0, 2.0, 1.0]), torch.tensor([1.0, 4.0, 2.0]), 4.0 + V
    delta = (a / (total - a)).log() - (b / (total - b)).log()
    assert_close(found.offset[1:4], delta / (1 / a + 1 / b).sqrt())
    assert_close(found.offset[4:], torch.zeros(V - 4))
    assert found.top == 50


def test_turned_labels_turn_it_and_neutral_texts_do_not_count() -> None:
    words = [[1, 1, 2], [2, 3], [5, 5, 5]]
    one = fit_log_odds(counted(words, [1.0, -1.0, 0.0])).offset
    other = fit_log_odds(counted(words, [-1.0, 1.0, 0.0])).offset
    assert_close(one, -other)
    assert one.abs().max() > 0.3 and one[5] == one[6]  # as a word that never came
    half = fit_log_odds(counted(words, [0.5, -1.0, 0.0])).offset
    assert 0 < half[1] < one[1]  # a text of half the label counts half


def test_words_beyond_the_gate_keep_their_order_and_odds() -> None:
    model = sl.load_model("toy-64")
    states = sl.collect(model, sl.toy.corpus("tone", n=150, seed=0), progress=False)
    gated, free = (fit_log_odds(states, top=top) for top in (5, None))
    with torch.no_grad():
        plain = model(model.to_tokens("my"))[0, -1]
        with sl.steered(model, gated, 2.0):
            moved = model(model.to_tokens("my"))[0, -1]
        with sl.steered(model, free, 2.0):
            all_moved = model(model.to_tokens("my"))[0, -1]
    assert int((moved != plain).sum()) <= 5 < int((all_moved != plain).sum())
    inside = plain >= plain.topk(5).values[-1]
    assert_close(moved[inside], all_moved[inside])


def test_one_sided_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="no text has a negative label"):
        fit_log_odds(counted([[1], [2]], [1.0, 0.5]))
    with pytest.raises(ValueError, match="no text has a positive label"):
        fit_log_odds(counted([[1], [2]], [-1.0, 0.0]))
    with pytest.raises(ValueError, match="prior: got 0"):
        fit_log_odds(counted([[1], [2]], [-1.0, 1.0]), prior=0.0)
