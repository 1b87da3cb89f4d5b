"""Priors from what a model knows, against its own numbers."""

from collections import Counter

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.methods.prompt.model_priors import (
    activation_prior,
    label_prior,
    text_prior,
    vocabulary_prior,
)
from steerlens.methods.prompt.priors import fit_gaussian
from steerlens.models.embeddings import embeddings
from tests.models.test_collect import ids_of
from tests.models.zoo import TEXTS, D, zoo


@pytest.mark.parametrize("name", ["gpt2", "llama", "padded"])
def test_the_vocabulary_is_every_token_but_special_ones(name: str) -> None:
    model = zoo(name)
    on, known = sl.readout(model), embeddings(model)
    ids = [i for i in range(on.n_tokens) if i not in on.special]
    assert 0 < len(ids) < on.n_tokens
    assert torch.equal(vocabulary_prior(model).vectors, known[ids])
    assert torch.equal(vocabulary_prior(model, frequent=5).vectors, known[ids[:5]])


def test_frequent_tokens_are_those_that_are_common_in_given_texts() -> None:
    model = zoo("llama")
    counts = Counter(i for text in TEXTS for i in ids_of(model, text, end=False)[1:])
    found = vocabulary_prior(model, frequent=3, texts=TEXTS).vectors
    common = sorted(counts, key=lambda i: (-counts[i], i))[:3]
    assert counts[common[0]] > counts[common[-1]] and common != [2, 3, 4]
    assert torch.equal(found, embeddings(model)[common])


def test_label_words_come_first_and_the_rest_is_drawn_from_the_vocabulary() -> None:
    for name, several in (("llama", 1), ("gpt2", 2)):
        model = zoo(name)
        known = embeddings(model)
        words = ("good", "tomorrow")
        ids = [model.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
        assert max(map(len, ids)) >= several
        prior = label_prior(model, words)
        rows = prior.sample(6, 3)
        assert_close(rows[:2], torch.stack([known[i].mean(0) for i in ids]))
        assert torch.equal(rows[2:], vocabulary_prior(model).sample(4, 3))
        assert torch.equal(prior.sample(1, 0), rows[:1]) and torch.equal(
            prior.sample(2, 9), rows[:2]
        )
    few = label_prior(zoo("llama"), ("good",), frequent=2).sample(3, 0)[1:]
    both = vocabulary_prior(zoo("llama"), frequent=2).vectors
    assert {tuple(r) for r in few.tolist()} == {tuple(r) for r in both.tolist()}


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_text_gives_its_own_embeddings_without_begin_of_text(name: str) -> None:
    model = zoo(name)
    ids = ids_of(model, TEXTS[0], end=False)
    ids = ids[1:] if ids[0] == model.tokenizer.bos_token_id else ids
    prior = text_prior(model, TEXTS[0])
    assert torch.equal(prior.vectors, embeddings(model)[ids]) and prior.name == "text"


@pytest.mark.parametrize("site", ["hook_embed", "blocks.1.hook_resid_post"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_activations_are_those_of_each_text_alone_and_padding_does_not_count(
    name: str, site: str
) -> None:
    model = zoo(name)
    rows = []
    for text in TEXTS:
        ids = ids_of(model, text, end=False)
        with torch.no_grad():
            found = model.run_with_cache(torch.tensor([ids]), names_filter=site)[1][site][0]
        rows.append(found[ids[0] == model.tokenizer.bos_token_id :])
    expected = fit_gaussian(torch.cat(rows), shrink=0.1)
    found = activation_prior(model, TEXTS, site=site, shrink=0.1)
    assert_close(found.mean, expected.mean, rtol=1e-4, atol=1e-4)
    assert_close(found.root @ found.root.mT, expected.root @ expected.root.mT, rtol=1e-3, atol=1e-4)
    assert found.sample(3, 0).shape == (3, D) and expected.mean.abs().max() > 0.05


def test_bad_arguments_are_refused_by_name() -> None:
    model = zoo("llama")
    for call, message in (
        (lambda: vocabulary_prior(model, frequent=0), "frequent: got 0, expected 1 … "),
        (lambda: vocabulary_prior(model, frequent=10**6), "frequent: got 1000000"),
        (lambda: vocabulary_prior(model, texts=TEXTS), "texts: given without frequent="),
        (
            lambda: vocabulary_prior(model, texts=["good"], frequent=2),
            "frequent: got 2, expected 1 … 1",
        ),
        (lambda: label_prior(model, []), "words: got"),
        (lambda: label_prior(model, ["good", " "]), "words: ' ' holds no token"),
        (lambda: text_prior(model, ""), "text: '' holds no token"),
        (lambda: activation_prior(model, ["good"]), "vectors, shrink: got 1 vectors"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(KeyError, match="has no hook 'blocks.9.hook_resid_post'"):
        activation_prior(model, TEXTS, site="blocks.9.hook_resid_post")


def test_one_word_is_a_list_of_one() -> None:
    model = zoo("llama")
    one, listed, other = (
        label_prior(model, words).sample(3, 0) for words in ("good", ["good"], ["bad"])
    )
    assert torch.equal(one, listed) and not torch.equal(one, other)


def test_rows_at_sites_of_different_widths_are_refused_by_name() -> None:
    from steerlens.methods.prompt.model_priors import states_of

    model = zoo("gpt2")
    rows = torch.zeros(2, int(model.cfg.d_model))
    sites = ("blocks.0.hook_resid_pre", "blocks.0.mlp.hook_post")
    assert states_of(model, sl.readout(model), rows, sites[:1]).shape == (1, *rows.shape)
    with pytest.raises(
        ValueError, match=r"layers: .*different widths.*blocks\.0\.mlp\.hook_post.*kind='soft'"
    ):
        states_of(model, sl.readout(model), rows, sites)
