"""The shipped language models: their files, their tokenizers, their distance from the truth."""

import numpy as np
import pytest
import torch

from steerlens.toy import NAMES, default_grammar, weights_folder
from steerlens.toy.batches import build_batch, build_pieces
from steerlens.toy.tokens import piece_tokenizer, word_tokenizer
from steerlens.toy.train import (
    HELD_OUT_SEED,
    RECIPES,
    Recipe,
    build_model,
    load,
    measure,
    train,
)


@pytest.fixture(scope="module")
def shipped() -> dict:
    return {name: load(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_files_are_plain_and_small(name: str):
    files = {path.name: path.stat().st_size for path in weights_folder(name).iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    } <= set(files)
    assert files["model.safetensors"] <= 3e6
    assert sum(files.values()) <= 4e6


# nats per token of the grammar: what minutes of training on two cores reach, with a margin for 100
# texts.
@pytest.mark.parametrize(
    ("name", "bound"), [("toy-64", 0.05), ("toy-128", 0.05), ("toy-96-llama", 0.06)]
)
def test_models_are_close_to_the_truth_and_were_not_before_training(
    shipped: dict, name: str, bound: float
):
    model, tokenizer = shipped[name]
    grammar = default_grammar()
    trained = measure(model, grammar, tokenizer, n=100, seed=HELD_OUT_SEED)
    assert -4 * trained["error"] < trained["gap"] < bound
    torch.manual_seed(0)
    untrained = build_model(RECIPES[name], len(tokenizer)).eval()
    assert measure(untrained, grammar, tokenizer, n=20)["gap"] > 3


@pytest.mark.parametrize("name", NAMES)
def test_models_load_in_float32_and_eval_mode(shipped: dict, name: str):
    model, _ = shipped[name]
    assert model.dtype == torch.float32
    assert not model.training
    assert model.config.architectures == [type(model).__name__]


@pytest.mark.parametrize("name", NAMES)
def test_tokenizers_give_texts_back(shipped: dict, name: str):
    _, tokenizer = shipped[name]
    texts = default_grammar().sample(300, seed=8)
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 0
    assert tokenizer.unk_token_id == 1
    assert 1 not in tokenizer.encode(" ".join(texts))


@pytest.mark.parametrize("name", NAMES)
def test_tokenizers_are_the_ones_that_the_grammar_makes(shipped: dict, name: str):
    grammar, size = default_grammar(), RECIPES[name].llama_vocab
    made = word_tokenizer(grammar) if size is None else piece_tokenizer(grammar, size)
    assert made.get_vocab() == shipped[name][1].get_vocab()


def test_vocabularies_overlap_in_part_and_in_another_order(shipped: dict):
    words = shipped["toy-128"][1].get_vocab()
    pieces = shipped["toy-96-llama"][1].get_vocab()
    shared = [word for word in words if "▁" + word in pieces]
    assert 0.3 * len(words) < len(shared) < 0.7 * len(words)
    assert len(pieces) < 0.75 * len(words)
    order = np.corrcoef([words[w] for w in shared], [pieces["▁" + w] for w in shared])[0, 1]
    assert abs(order) < 0.5
    assert shipped["toy-64"][1].get_vocab() == words


def test_batches_aim_at_the_exact_next_token():
    grammar = default_grammar()
    tokenizer = word_tokenizer(grammar)
    texts = grammar.sample(3, seed=1)
    batch = build_batch(texts, grammar, build_pieces(grammar, tokenizer, len(tokenizer)))
    width, row = batch.ids.shape[1], 0
    for i, text in enumerate(texts):
        tokens = text.split()
        assert batch.ids[i, : len(tokens) + 1].tolist() == [0, *tokenizer.encode(text)]
        for j in range(len(tokens) + 1):
            assert batch.place[row] == i * width + j
            exact = grammar.next_token(" ".join(tokens[:j]))
            # Id 1 stands for unknown words; all words are one further than in the grammar.
            np.testing.assert_allclose(
                batch.target[row].numpy()[[0, *range(2, len(tokenizer))]], exact, atol=1e-6
            )
            row += 1
    assert len(batch.target) == row == batch.n_tokens


def test_batches_of_pieces_aim_at_every_piece():
    grammar = default_grammar()
    tokenizer = piece_tokenizer(grammar, 900)
    texts = grammar.sample(20, seed=1)
    batch = build_batch(texts, grammar, build_pieces(grammar, tokenizer, len(tokenizer)))
    torch.testing.assert_close(batch.target.sum(1), torch.ones(len(batch.target)))
    following = {}
    for i, text in enumerate(texts):
        ids = [0, *tokenizer.encode(text), 0]
        following |= {i * batch.ids.shape[1] + j: ids[j + 1] for j in range(len(ids) - 1)}
    assert sorted(batch.place.tolist()) == sorted(following)
    chosen = batch.target[
        torch.arange(len(batch.place)), [following[p] for p in batch.place.tolist()]
    ]
    assert (chosen > 0).all()
    # Some places are exact distributions, some are sampled pieces.
    assert 0.05 < (batch.target.max(1).values < 1).float().mean() < 1


def test_training_repeats_itself():
    grammar = default_grammar()
    tokenizer = word_tokenizer(grammar)
    recipe = Recipe(d=8, layers=1, heads=1, steps=3, rate=1e-2, tokens=512)
    one, two = (train(recipe, grammar, tokenizer, seed=0) for _ in range(2))
    torch.manual_seed(0)
    start = build_model(recipe, len(tokenizer))
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    assert not torch.equal(one.lm_head.weight, start.lm_head.weight)
