"""Whole words: once each, no pieces, no padding."""

import torch

from steerlens.values.readout import Readout
from steerlens.values.states import Shard, States
from steerlens.values.words import word_columns


def test_only_whole_words_once_and_no_padding():
    tokens = ("<|end|>", " good", " Good", "good", "ing", " bad", " 12", " !", "  ")
    on = Readout(torch.randn(3, 12), torch.zeros(12), tokens, frozenset({0}))
    assert [tokens[i] for i in word_columns(on)] == [" good", " bad"]
    bare = Readout(torch.randn(3, 4), torch.zeros(4), ("good", "bad", ".", "x2"))
    assert [bare.tokens[i] for i in word_columns(bare)] == ["good", "bad"]


def test_a_piece_that_a_text_goes_on_with_is_no_word():
    tokens = (" won", "der", "ful", " good", ".", " rare")
    on = Readout(torch.randn(3, 6), torch.zeros(6), tokens)
    following = torch.tensor(
        [0, 1, 2, 3, 4, 0, 3, 0, 1, 3], dtype=torch.int32
    )  # wonderful good. | won good wonder good
    text = torch.tensor([0] * 5 + [1] * 5, dtype=torch.int32)
    states = States(
        on,
        (Shard(torch.randn(10, 3), following, text),),
        torch.zeros(2),
        torch.tensor([5, 5]),
        torch.ones(2).bool(),
    )
    assert [tokens[i] for i in word_columns(on)] == [" won", " good", " rare"]
    assert [tokens[i] for i in word_columns(on, states)] == [" good"]  # " rare" never occurs
