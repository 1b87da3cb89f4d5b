"""Latent steering vectors: each makes the model say its own text and no other, and their mean
differs as labels do."""

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.evaluate.sign_margin import sign_margin
from steerlens.methods.baselines.latent_vectors import fit_latent_vectors, latent_vectors
from steerlens.methods.baselines.shift import Shift
from steerlens.models.partial_forward import cache_residuals
from steerlens.models.score import score
from tests.models.zoo import zoo


def test_a_vector_makes_the_model_say_its_own_text() -> None:
    """What only it does: greedy decoding from nothing may give the text back."""
    model = sl.load_model("toy-64")
    texts = ["the film was good .", "the food was terrible !"]
    kept = cache_residuals(model, sl.Labelled(texts, [1.0, -1.0]), 1)
    z = latent_vectors(model, kept, 1, n_steps=150, seed=0)
    site, on = "blocks.1.hook_resid_post", sl.readout(model)
    written = [
        sl.generate(model, [""], Shift(v, site, on), temperature=0).text[0].strip() for v in z
    ]
    assert written[0] == texts[0] != written[1]
    plain, own, other = (
        score(model, texts[:1], value, strengths=1.0).log_prob.sum()
        for value in (None, *(Shift(v, site, on) for v in z))
    )
    assert own > 0.4 * plain and own > other + 10


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_it_is_the_slope_of_the_vectors_on_labels(name: str) -> None:
    model = zoo(name)
    data = sl.Labelled(["a very fine cast", "the film was bad !", "the author wrote"], [1, -1, 0.5])
    found = fit_latent_vectors(model, data, layer=0, n_texts=3, n_steps=8)
    kept = cache_residuals(model, data, 0)
    z = latent_vectors(model, kept, 0, n_steps=8, seed=0)
    y = torch.tensor(data.labels) - sum(data.labels) / 3
    assert_close(found.vector, (y @ z / y.square().sum()), rtol=1e-4, atol=1e-6)
    assert found.vector.norm() > 0
    before = {k: p.clone() for k, p in model.named_parameters()}
    again = fit_latent_vectors(model, data, layer=0, n_texts=3, n_steps=8)
    assert torch.equal(again.vector, found.vector)
    assert all(torch.equal(p, before[k]) and p.grad is None for k, p in model.named_parameters())


def test_of_few_texts_all_are_taken() -> None:
    """As many as there are, where `n_texts` asks for more, as its default may."""
    model = zoo("gpt2")
    data = sl.Labelled(["a very fine cast", "the film was bad !", "the author wrote"], [1, -1, 0.5])
    usual, three = (fit_latent_vectors(model, data, n_steps=3, **n) for n in ({}, {"n_texts": 3}))
    assert torch.equal(usual.vector, three.vector)


def test_it_steers_new_texts() -> None:
    model = sl.load_model("toy-64")
    data = sl.toy.corpus("tone", n=80, seed=0)
    value = fit_latent_vectors(model, data, n_texts=20, n_steps=20)
    new = sl.toy.corpus("tone", n=40, seed=1)
    assert sign_margin(model, new, value, strength=0.3).low > 0


def test_what_cannot_be_fitted_is_refused() -> None:
    model, data = zoo("gpt2"), sl.Labelled(["the film was good .", "nothing"], [1.0, 1.0])
    with pytest.raises(ValueError, match="every label is 1"):
        fit_latent_vectors(model, data, n_texts=2, n_steps=2)
    for what, number in (("layer", 9), ("n_texts", 0), ("n_steps", 0)):
        with pytest.raises(ValueError, match=f"{what}: got {number}"):
            fit_latent_vectors(model, data, **{"n_texts": 1, what: number})  # type: ignore[arg-type]
