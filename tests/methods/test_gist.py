"""A prompt distilled into rows: held to the prompted model of `collect`, with the controls that
bound it."""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import steerlens as sl
from steerlens.maths.logits import UnembedWeights, kl_and_gradient, logits
from steerlens.methods.gist import distill
from steerlens.methods.gist.distill import compression, distil_prompt
from steerlens.methods.gist.mask import Distilled
from steerlens.methods.prompt.model_priors import states_of, text_prior, vocabulary_prior
from steerlens.methods.prompt.priors import FixedRows
from steerlens.methods.prompt.soft_prompt import prompt_sites
from steerlens.models.embeddings import embeddings
from steerlens.values.training import Training
from tests.methods.make import model
from tests.models.test_collect import ids_of
from tests.models.test_partial_forward import traces
from tests.models.zoo import zoo

PROMPT = "i loathed this hotel . the room was awful and the staff was rude ."
WAYS = ["prompted", "no prompt", "random words", "last tokens", "untrained rows", "distilled"]
ONCE = Training(epochs=1, batch_size=16)
QUICK: dict[str, Any] = {"length": 2, "training": ONCE, "n": 16, "progress": False}
TINY: dict[str, Any] = {**QUICK, "training": replace(ONCE, lr=1e-9)}


@cache
def written(n: int = 80, seed: int = 0) -> tuple[str, ...]:
    found = sl.generate(model(), [PROMPT], samples=n, seed=seed, max_new_tokens=20).text
    return tuple(text for text in found if text.strip())


@cache
def distilled() -> Distilled:
    return distil_prompt(
        model(), PROMPT, written(), length=3, training=replace(ONCE, epochs=4), progress=False
    )


def log_probs(model: Any, ids: list[int], first: int) -> Tensor:
    """Log-probabilities of all tokens, where each token from `first` on is predicted, by one plain
    pass."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids]))[0].float(), 1)[first - 1 : -1].double()


def kl_by_hand(p: list[Tensor], q: list[Tensor]) -> float:
    a, b = torch.cat(p), torch.cat(q)
    return float((a.exp() * (a - b)).sum(1).mean())


# the loss


@pytest.mark.parametrize("scale, softcap", [(1.0, None), (0.25, None), (3.0, 1.5)])
def test_kl_and_its_gradient_are_those_of_autograd(scale: float, softcap: float | None) -> None:
    r = torch.Generator().manual_seed(0)
    W, b, c, aim = (torch.randn(*s, generator=r).double() for s in ((5, 11), (11,), (7, 5), (7, 5)))
    head, weight = UnembedWeights(W, b, scale, softcap), torch.rand(7, generator=r).double()
    c = c.requires_grad_(True)
    p, q = (torch.distributions.Categorical(logits=logits(head, x)) for x in (aim, c))
    kl = torch.distributions.kl_divergence(p, q)
    (slope,) = torch.autograd.grad((weight * kl).sum(), c)
    found, gradient = kl_and_gradient(head, c.detach(), aim, weight)
    assert kl.min() > 0.01 and slope.norm() > 0.01
    assert_close(found, kl.detach(), rtol=1e-9, atol=1e-12)
    assert_close(gradient, slope, rtol=1e-9, atol=1e-12)
    same, zero = kl_and_gradient(head, aim, aim, weight)
    assert same.abs().max() < 1e-12 and zero.abs().max() < 1e-12


# what it finds


def test_few_rows_close_most_of_the_gap_and_the_controls_bound_them() -> None:
    table = distilled().table.set_index("way")
    assert list(table.index) == WAYS
    assert table.kl["prompted"] < 1e-5 and table.gap_closed["prompted"] == pytest.approx(
        1, abs=1e-4
    )
    assert table.kl["no prompt"] > 0.1 and table.gap_closed["no prompt"] == 0
    assert table.gap_closed["distilled"] > 0.7 > table.gap_closed["untrained rows"] + 0.1
    assert table.gap_closed["distilled"] > table.gap_closed["last tokens"] + 0.05
    assert table.gap_closed["random words"] < 0.5
    assert ((table.low <= table.kl) & (table.kl <= table.high)).all()
    assert ((table.gap_low <= table.gap_closed) & (table.gap_closed <= table.gap_high)).all()
    tokens = len(PROMPT.split())
    assert (
        table.rows.tolist() == [tokens, 0, 3, 3, 3, 3]
        and (table.rows + table.saved == tokens).all()
    )


def test_on_fresh_texts_the_rows_are_nearly_as_good() -> None:
    fresh = compression(
        model(), PROMPT, written(40, seed=1), {"distilled": distilled().value}
    ).set_index("way")
    assert list(fresh.index) == [*WAYS[:4], "distilled"]
    assert fresh.gap_closed["distilled"] > 0.7 > fresh.gap_closed["last tokens"]


def test_the_best_epoch_is_kept_and_reported() -> None:
    fit = distilled()
    losses = [trial["heldout_kl"] for trial in fit.trials]
    table = fit.table.set_index("way")
    assert [trial["epoch"] for trial in fit.trials] == [0, 1, 2, 3, 4]
    assert table.kl["untrained rows"] == pytest.approx(losses[0], abs=1e-5)
    assert (
        table.kl["distilled"] == pytest.approx(min(losses), abs=1e-5)
        and min(losses) < 0.5 * losses[0]
    )
    assert (
        fit.value.prefix == 3
        and fit.value.name == "gist"
        and fit.prompt == PROMPT
        and fit.n_truncated == 0
    )
    assert fit.value.directions.abs().max() == 0 and not fit.value.rows.requires_grad
    assert fit.settings["n_parameters"] == 3 * 64 and fit.settings["prior"] == "own tokens"
    assert (
        "into 3 rows" in repr(fit) and "tokens saved" in repr(fit) and "<table" in fit._repr_html_()
    )


@pytest.mark.parametrize("kind", ["deep", "kv"])
def test_deeper_kinds_are_distilled_too(kind: Any) -> None:
    fit = distil_prompt(
        model(), PROMPT, written()[:40], kind=kind, **{**QUICK, "training": replace(ONCE, epochs=3)}
    )
    assert fit.value.kind == kind and fit.value.layers == {"deep": (2,), "kv": (0, 1, 2)}[kind]
    table = fit.table.set_index("way")
    assert table.gap_closed["distilled"] > 0.5 > table.gap_closed["untrained rows"]


# exactness


@pytest.mark.parametrize("name", ["gpt2", "llama", "toy-64"])
def test_the_table_is_that_of_plain_passes_over_one_text_at_a_time(name: str) -> None:
    """Any positions, texts of several lengths, one table; rows that are words are the words before
    begin-of-text."""
    m = zoo(name)
    prompt, texts = (
        "the film was good . a very",
        ["fine cast", "slow plot ? we liked the food", "dull book ."],
    )
    n, words = 2, text_prior(m, "the film")
    rows = words.sample(n, 0)[None]
    value = sl.SoftPrompt(rows, torch.zeros_like(rows), "soft", (), sl.readout(m))
    table = compression(m, prompt, texts, {"words": value}, seed=4).set_index("way")
    begin = (
        [m.tokenizer.bos_token_id]
        if ids_of(m, "a", end=False)[0] == m.tokenizer.bos_token_id
        else []
    )
    front = len(ids_of(m, prompt, end=False))
    known = embeddings(m)
    drawn = [int((known == row).all(1).nonzero()[0]) for row in vocabulary_prior(m).sample(n, 4)]
    before = ids_of(m, prompt, end=False)[len(begin) :]
    given = [int((known == row).all(1).nonzero()[0]) for row in rows[0]]
    ways: dict[str, list[int]] = {
        "prompted": begin + before, "no prompt": begin, "random words": drawn + begin, "last tokens": begin + before[-n:],
        "words": given + begin,
    }  # fmt: skip
    found: dict[str, list[Tensor]] = {way: [] for way in ways}
    for text in texts:
        rest = ids_of(m, f"{prompt} {text}")[front:]
        for way, first in ways.items():
            # without begin-of-text the first token of the text is only read
            found[way].append(log_probs(m, first + rest, len(first) + (not begin)))
    assert table.kl["no prompt"] > 0.005 and table.kl["words"] > 0.005
    for way in ways:
        assert table.kl[way] == pytest.approx(
            kl_by_hand(found["prompted"], found[way]), rel=1e-3, abs=1e-5
        )


def test_the_prompted_model_is_that_of_collect() -> None:
    """Positions and states: KL of the table from the states that `collect` keeps of texts with
    prompts."""
    texts = list(written()[:12])
    data = sl.Labelled(tuple(texts), (0.0,) * 12, (PROMPT,) * 12)
    aim = sl.collect(model(), data, progress=False, seed=3)
    plain = sl.collect(model(), texts, progress=False, seed=3)
    a, b = (next(s.chunks(10**6)) for s in (aim, plain))
    assert a.next.tolist() == b.next.tolist()
    p, q = (
        torch.log_softmax(s.readout.logits(c.hidden), 1).double() for s, c in ((aim, a), (plain, b))
    )
    table = compression(model(), PROMPT, texts, {"gist": distilled().value}).set_index("way")
    assert table.kl["no prompt"] == pytest.approx(kl_by_hand([p], [q]), rel=1e-4)
    rows = next(
        sl.collect(model(), texts, intervention=distilled().value, progress=False, seed=3).chunks(
            10**6
        )
    )
    q = torch.log_softmax(aim.readout.logits(rows.hidden), 1).double()
    assert table.kl["gist"] == pytest.approx(kl_by_hand([p], [q]), rel=1e-4)


def test_the_gap_and_its_interval_are_over_texts() -> None:
    one = compression(model(), PROMPT, written()[:1], {"gist": distilled().value}).set_index("way")
    assert np.isnan(one.low["gist"]) and np.isnan(one.high["gist"]) and one.kl["gist"] > 0
    table = compression(model(), PROMPT, written()[:20], {"gist": distilled().value}).set_index(
        "way"
    )
    assert np.allclose(table.gap_closed, 1 - table.kl / table.kl["no prompt"], atol=1e-6)
    assert table.high["no prompt"] - table.low["no prompt"] > 0.01


# what it starts from


def test_it_starts_from_means_of_the_prompts_own_tokens_or_where_the_prior_says() -> None:
    known = embeddings(model())[ids_of(model(), PROMPT, end=False)[1:]]
    assert len(known) == 15
    for kind in ("kv",):
        fit = distil_prompt(model(), PROMPT, written()[:8], kind=kind, **{**TINY, "length": 3})
        own = torch.stack([known[:5].mean(0), known[5:10].mean(0), known[10:].mean(0)])
        expected = states_of(model(), fit.value.readout, own, prompt_sites(kind, fit.value.layers))
        assert_close(fit.value.rows, expected, rtol=0, atol=1e-5)
    prior = FixedRows(known[2:4], "two")
    fit = distil_prompt(model(), PROMPT, written()[:8], prior=prior, **TINY)
    assert_close(fit.value.rows[0], known[2:4], rtol=0, atol=1e-5)
    assert fit.settings["prior"] == "two"
    whole = distil_prompt(model(), PROMPT, written()[:8], **{**TINY, "length": 15})
    assert_close(whole.value.rows[0], known, rtol=0, atol=1e-5)


def test_texts_are_written_by_the_prompted_model_where_none_are_given() -> None:
    fit = distil_prompt(model(), PROMPT, max_new_tokens=5, seed=2, **QUICK)
    texts = sl.generate(model(), [PROMPT], samples=16, seed=2, max_new_tokens=5).text
    same = distil_prompt(model(), PROMPT, [t for t in texts if t.strip()], seed=2, **QUICK)
    assert torch.equal(fit.value.rows, same.value.rows) and fit.table.equals(same.table)
    other = distil_prompt(model(), PROMPT, texts[:8].tolist(), seed=3, **QUICK)
    assert not torch.equal(fit.value.rows, other.value.rows)


def test_the_model_and_the_global_generator_are_left_alone() -> None:
    distilled()
    before, state = traces(model()), torch.get_rng_state()
    distil_prompt(model(), PROMPT, **QUICK)
    assert traces(model()) == before and torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model().parameters())


# bad arguments


def test_bad_arguments_are_refused_by_name(monkeypatch) -> None:
    texts = written()[:8]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"length": 0}, "length: got 0, expected 1 … 15, the tokens of the prompt"),
        ({"length": 16}, "length: got 16"),
        ({"prompt": " "}, "prompt: ' ' holds no token"),
        ({"texts": texts[:3]}, "data: got 3 texts with something to predict, expected at least 4"),
        ({"texts": []}, "texts: got none"),
        ({"texts": None, "n": 3}, "n: got 3, expected at least 4"),
        (
            {"prior": FixedRows(torch.zeros(1, 5))},
            r"prior: its rows have shape \(2, 5\), expected \(2, 64\)",
        ),
        ({"layers": (1,)}, "kind, layers: got 'soft' at layers"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            distil_prompt(model(), **{"prompt": PROMPT, "texts": texts, **QUICK, **change})
    monkeypatch.setattr(distill, "generate", lambda *_, **__: pd.DataFrame({"text": [" ", ""]}))
    with pytest.raises(ValueError, match="prompt: the model ends its text right after .*texts="):
        distil_prompt(model(), PROMPT, **QUICK)
    value = distilled().value
    with pytest.raises(ValueError, match=r"values: got prompts of \[\] rows"):
        compression(model(), PROMPT, texts, {})
    assert math.isfinite(float(compression(model(), PROMPT, texts, {"a": value}).kl.sum()))
