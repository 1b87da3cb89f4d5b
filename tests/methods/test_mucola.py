"""MuCoLa: its step is the authors' where both tables are one, strength 0 is the model to the letter,
the constraint is broken before and met after, by texts that are better than random words."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.evaluate.compare_writing import compare_writing
from steerlens.evaluate.measures import continuation_nll
from steerlens.evaluate.protocols import detoxification
from steerlens.evaluate.runs import Entrant, run_protocol
from steerlens.evaluate.scorers import oracle
from steerlens.evaluate.verbs import Sampling, write
from steerlens.evaluate.writer import Writer
from steerlens.methods.baselines.langevin import Energy, Langevin, Texts, landing, read
from steerlens.methods.baselines.mucola import Mucola, fit_mucola, mean_features
from steerlens.models.embeddings import embeddings
from steerlens.models.hooks import adapter, eval_mode
from tests.models.zoo import zoo

SHORT = Langevin(n_steps=12, cooling=6)
BEGUN = ["it was", "finally i watched the cartoon"]


def some_mucola(model: Any, langevin: Langevin = SHORT) -> Mucola:
    on = sl.readout(model)
    w = torch.randn(2 * on.d_model, generator=torch.Generator().manual_seed(3))
    return Mucola(w, 0.2, on, langevin)


def written(value: Mucola, model: Any, prompts: list[str] = BEGUN, **how: Any) -> pd.DataFrame:
    return value.generate(model, prompts, **({"samples": 2, "max_new_tokens": 6} | how))


@pytest.mark.parametrize("plain", [False, True])
def test_a_step_lands_where_the_authors_does(plain: bool) -> None:
    """Their energy has the text's own embeddings on both sides of the softmax; one gradient, one
    step, the nearest row."""
    model = sl.load_model("toy-64", plain=plain)
    on, words = sl.readout(model), embeddings(model)
    assert_close(words, on.W_U.T[: len(words)])  # one table
    random = torch.Generator().manual_seed(1)
    w = torch.randn(2 * 64, generator=random)
    n, width = 3, 5
    tokens = torch.randint(5, 900, (n, 9), generator=random)
    ones = torch.ones(n, 9, dtype=torch.long)
    new = torch.ones(n, width, dtype=torch.bool)
    side, wanted = torch.tensor([1.0, -1.0, 1.0]), torch.full((n,), 2.0)
    texts = Texts(tokens, ones, ones.bool(), new, new, side, wanted)
    noise, step = torch.randn(n, width, 64, generator=random), torch.tensor([0.02, 0.1, 0.3])
    weight = torch.tensor([0.0, 1.0, 4.0])
    with eval_mode(model, gradients=True):
        leaf = words[tokens].requires_grad_()
        seen = read(Energy(model, on, w, 0.1), texts, leaf)
        (slope,) = torch.autograd.grad((seen.nll + weight * seen.excess).sum(), leaf)
        found = landing(texts, seen, slope, words, step, noise)

        leaf = words[tokens].requires_grad_()
        hooks = [("hook_embed", lambda e, hook=None: leaf)]
        c: list[torch.Tensor] = []
        if plain:
            out = adapter(model).module(inputs_embeds=leaf, output_hidden_states=True)
            c.append(out.hidden_states[-1])
        else:
            hooks.append(("unembed.hook_in", lambda t, hook=None: (c.append(t), t)[1]))
            model.run_with_hooks(tokens, fwd_hooks=hooks)
        h, e = c[0][:, -width - 1 : -1], leaf[:, -width:]
        own, was = (h * e).sum(2), (h * e.detach()).sum(2)
        nll = -own + ((h @ words.T).exp().sum(2) + own.exp() - was.exp()).log()
        log_odds = torch.cat([c[0], leaf], 2).mean(1) @ w + 0.1
        assert_close(seen.nll, nll.sum(1))
        assert_close(seen.excess, wanted - side * log_odds)
        loss = nll.sum(1) + weight * (wanted - side * log_odds)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        to = e - step[:, None, None] * gradient[:, -width:] + noise
        far = torch.cdist(to, words.expand(n, -1, -1)).square() / 2
    found, far = (t - t[..., :1] for t in (found.detach(), far.detach()))
    assert_close(found, far, atol=1e-3, rtol=1e-3)
    assert (found.argmin(2) == far.argmin(2)).all()
    assert (far.argmin(2) != tokens[:, -width:]).any()  # it went somewhere


@pytest.mark.parametrize("name", ["toy-64", "llama"])
def test_strength_0_is_the_model_and_a_row_does_not_hear_its_neighbours(name: str) -> None:
    model: Any = sl.load_model(name) if name.startswith("toy") else zoo(name)
    value = some_mucola(model)
    assert isinstance(value, Writer) and value.n_parameters == len(value.w) + 1
    learned = [p.requires_grad for p in adapter(model).module.parameters()]
    before = [p.clone() for p in adapter(model).module.parameters()]
    made = written(value, model, strengths=(0, 1, -1))
    plain = sl.generate(model, BEGUN, strengths=(0,), samples=2, max_new_tokens=6)
    none = made[made.strength == 0]
    assert none.text.tolist() == plain.text.tolist()
    np.testing.assert_allclose(none.log_prob, plain.log_prob, atol=1e-5)
    assert made[made.strength != 0].log_prob.isna().all() and none.met.all()
    assert (made.text[made.strength == 1].to_numpy() != plain.text.to_numpy()).any()
    rows = made[(made.prompt == BEGUN[1]) & (made.strength == 1)]
    alone = written(value, model, BEGUN[1:], strengths=(1,))
    assert alone.text.tolist() == rows.text.tolist() and alone.met.tolist() == rows.met.tolist()
    assert written(value, model, strengths=1, seed=1).text.tolist() != (
        made.text[made.strength == 1].tolist()
    )
    after = list(adapter(model).module.parameters())
    assert [p.requires_grad for p in after] == learned and any(learned)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, after, strict=True))


def test_a_constraint_that_is_broken_is_met_by_texts_better_than_random_words() -> None:
    model, data = sl.load_model("toy-64"), sl.toy.corpus("sentiment", n=800, seed=0)
    value = fit_mucola(model, data, langevin=Langevin(n_steps=50))

    def broken(made: pd.DataFrame, side: int) -> np.ndarray:
        """By how much, read from the texts by the function that the classifier was fitted with."""
        texts = (made.prompt + made.text).tolist()
        x = mean_features(model, sl.Labelled(texts, [0.0] * len(texts)))
        return 2.0 - side * (x @ value.w.numpy() + value.b)

    begun = ["at the restaurant in", "yesterday i saw the", "the waiter said that"]
    made = written(value, model, begun, strengths=(-1, 0, 1), samples=4, max_new_tokens=12)
    own = made[made.strength == 0]
    for side in (-1, 1):
        rows = made[made.strength == side]
        before, after = broken(own, side), broken(rows, side)
        was = before > 0
        assert was.sum() >= 4 and before[was].mean() > 1.0
        assert rows.met.mean() > 0.9 and after[rows.met.to_numpy()].max() < 0.01
        kept = rows.text.to_numpy() == own.text.to_numpy()
        assert kept[~was].all()  # what meets it by itself is left alone
        assert kept[~rows.met.to_numpy()].all()
    by = made.assign(score=oracle("sentiment").scores((made.prompt + made.text).tolist()))
    means = by.groupby("strength").score.mean()
    assert means[-1.0] + 0.1 < means[0.0] < means[1.0] - 0.1

    moved = made[(made.strength != 0) & made.met]
    words = [t.strip() for t in value.readout.tokens if t.strip().isalpha()]
    draw = np.random.default_rng(0)
    random = [" " + " ".join(draw.choice(words, len(t.split()))) for t in moved.text]
    nll = [
        np.sum((seen := continuation_nll(model, moved.prompt.tolist(), texts)).nats)
        / np.sum(seen.tokens)
        for texts in (moved.text.tolist(), random)
    ]
    assert nll[0] < 5.0 and nll[1] > 8.0  # a uniform guess costs 7.2


def test_it_has_no_price_and_is_compared_at_its_own_setting(tmp_path: Path) -> None:
    model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
    value = some_mucola(model, Langevin(n_steps=4, cooling=2))
    table = value.score(model, ["the film was good ."], strengths=(0, 1))
    plain = sl.score(model, ["the film was good ."])
    none, some = (table[table.strength == s] for s in (0, 1))
    assert (none.log_prob.to_numpy() == plain.log_prob.to_numpy()).all() and (none.kl == 0).all()
    assert some[["log_prob", "kl"]].isna().all(axis=None) and len(some) == len(none)
    task = detoxification(["you are", "it was"], oracle("tone", sign=-1))
    task = replace(task, sampling=Sampling(samples=2, max_new_tokens=3))
    with pytest.warns(UserWarning, match="shuffled"):
        found = compare_writing(
            model,
            {"MuCoLa": value},
            task,
            data.first(8),
            kl=(0.05, 0.1),
            progress=False,
            folder=tmp_path,
        )
    (row,) = found[found.method == "MuCoLa"].to_dict("records")  # once, not per budget
    assert row["note"] == "has no next-token distribution; its cost is not known"
    missing = ("kl", "given_kl", "own_kl", "sign_margin", "wrong_sign")
    assert row["strength"] == 1 and np.isnan([row[name] for name in missing]).all()
    assert row["texts"] == 4 and row["corpus_perplexity"] > 1 and row["parameters"] == 129
    entrant = Entrant("MuCoLa at nan", value, 1.0)
    again = run_protocol(model, [entrant], task, folder=tmp_path, progress=False)
    assert np.isnan(np.concatenate(again.kl.to_list())).all() and len(again) == 4  # from its files
    assert len(write(model, value, ["it was"], strength=1.0, sampling=task.sampling)) == 2


def test_what_cannot_be_is_refused() -> None:
    model = zoo("gpt2")
    value = some_mucola(model)
    for verb in (value.score, value.generate):
        with pytest.raises(ValueError, match="made for"):
            verb(zoo("llama"), ["the film was good ."])
    with pytest.raises(ValueError, match="got 0 texts of one sign"):
        fit_mucola(model, sl.Labelled(["the film", "it was"], [1.0, 0.5]))
    few = sl.toy.corpus("tone", n=60, seed=0)
    with pytest.warns(UserWarning, match="margin is 90"):
        fit_mucola(sl.load_model("toy-64"), few, langevin=Langevin(margin=90.0))
    for what in ({"step_size": 0.0}, {"n_steps": 0}, {"margin": -1.0}, {"noise": (0.1, 0.5)},
                 {"cooling": 1}, {"step_size": float("nan")}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(what))):
            Langevin(**what)  # type: ignore[arg-type]


def test_the_noise_falls_geometrically_from_the_first_step_to_the_last_of_cooling() -> None:
    how = Langevin()
    assert (how.sigma(0), how.sigma(how.cooling - 1)) == pytest.approx(how.noise, rel=1e-12)
    assert how.sigma(10 * how.cooling) == how.noise[1]
    assert how.sigma(1) / how.sigma(0) == pytest.approx(how.sigma(11) / how.sigma(10), rel=1e-12)
