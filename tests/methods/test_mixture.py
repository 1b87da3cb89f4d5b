"""Rivals that mix logits: each formula by hand, strength 0 is the base model to the letter, writing
and scoring agree, and copies are made once."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

import steerlens as sl
from steerlens.evaluate.writer import Writer
from steerlens.methods.baselines.copies import FineTuning, fine_tuned_copy
from steerlens.methods.baselines.ctrl import fit_ctrl
from steerlens.methods.baselines.dapt import fit_dapt
from steerlens.methods.baselines.dexperts import add_difference, fit_dexperts
from steerlens.methods.baselines.gedi import fit_gedi, weigh_by_class
from steerlens.methods.baselines.instruction import instruct
from steerlens.methods.baselines.mixing import Voice, toward_sides
from steerlens.methods.baselines.mixture import Mixture
from steerlens.models.adapters import HuggingFace
from steerlens.models.duplicate import duplicate
from steerlens.models.hooks import convention
from steerlens.models.tokenization import batch_tokens, encode
from tests.models.zoo import zoo

TEXTS = ["the film was good .", "a very fine cast , and a slow plot ?"]
LEADS = (5, 9, 7), (8,)
SHORT = FineTuning(lr=3e-3, epochs=2, batch_size=8)
LONGER = FineTuning(lr=5e-3, epochs=8, batch_size=8)


def other(model: Any, seed: int) -> Any:
    """The model with other numbers, as fine-tuning would leave it."""
    made, random = cast(Any, duplicate(model)), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.3 * p.std() * torch.randn(p.shape, generator=random) if p.numel() > 1 else 0
    return made


@cache
def mixtures(of: str) -> dict[str, Mixture]:
    model: Any = sl.load_model(of) if of.startswith("toy") else zoo(of)
    on, a, b = sl.readout(model), other(model, 1), other(model, 2)
    return {
        "dexperts": Mixture((Voice(a), Voice(b)), add_difference, on, 0, "dexperts"),
        "anti-only": Mixture((Voice(None), Voice(b)), add_difference, on, 0, "anti-only"),
        "dapt": Mixture((Voice(a), Voice(b)), toward_sides, on, 0, "dapt"),
        "ctrl": Mixture(tuple(Voice(a, lead) for lead in LEADS), toward_sides, on, 0, "ctrl"),
        "gedi": Mixture(tuple(Voice(a, lead) for lead in LEADS), weigh_by_class, on, 0, "gedi"),
        "instruction": Mixture(tuple(Voice(None, lead) for lead in LEADS), toward_sides, on, 0, "i"),
    }  # fmt: skip


def log_p(model: Any, ids: list[int], lead: tuple[int, ...] = ()) -> Tensor:
    """Log-probabilities of what may follow each token of a text behind a lead, by plain passes."""
    with torch.no_grad():
        z = model(torch.tensor([[ids[0], *lead, *ids[1:]]]))[0]
    return z[len(lead) :].log_softmax(-1)


def by_hand(value: Mixture, model: Any, ids: list[int], s: float) -> Tensor:
    """The log-probabilities of a mixture at each token of a text, word by word."""
    base = log_p(model, ids)
    first, second = (
        log_p(model if v.model is None else v.model, ids, v.lead) for v in value.voices
    )
    side = first if s > 0 else second
    if value.mix is add_difference:
        return (base + s * (first - second)).log_softmax(-1)
    if value.mix is toward_sides:
        return (base + abs(s) * (side - base)).log_softmax(-1)
    rows = []
    for t in range(len(ids)):
        told = [
            (sum(float(p[k, ids[k + 1]]) for k in range(t)) + p[t]) / (t + 1)
            for p in (first, second)
        ]
        posterior = torch.stack(told).softmax(0)[0 if s > 0 else 1]
        rows.append(base[t] + abs(s) * posterior.log())
    return torch.stack(rows).log_softmax(-1)


@pytest.mark.parametrize("name", ["dexperts", "anti-only", "dapt", "ctrl", "gedi", "instruction"])
def test_each_token_has_the_probability_of_the_formula(name: str) -> None:
    model = zoo("gpt2")
    value = mixtures("gpt2")[name]
    assert isinstance(value, Writer)
    table = value.score(model, TEXTS, strengths=(0.0, -0.6, 2.5))
    plain = sl.score(model, TEXTS)
    none = table[table.strength == 0]
    assert_close(
        torch.tensor(none.log_prob.to_numpy()),
        torch.tensor(plain.log_prob.to_numpy()).double(),
        atol=1e-5,
        rtol=0,
    )
    assert none.kl.abs().max() < 1e-6 and none.token.tolist() == plain.token.tolist()
    for (row, text), strength in product(enumerate(TEXTS), (-0.6, 2.5)):
        ids = [*model.to_tokens(text, prepend_bos=True)[0].tolist(), model.tokenizer.eos_token_id]
        q, p = by_hand(value, model, ids, strength), log_p(model, ids)
        found = table[(table.text == row) & (table.strength == strength)]
        wanted = q[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        assert_close(torch.tensor(found.log_prob.to_numpy()).float(), wanted, rtol=1e-3, atol=1e-3)
        kl = (p.exp() * (p - q)).sum(1)[:-1]
        assert_close(torch.tensor(found.kl.to_numpy()).float(), kl, rtol=1e-2, atol=1e-4)
        assert kl.max() > 1e-3


@pytest.mark.parametrize("name", ["dexperts", "gedi", "instruction"])
def test_writing_and_scoring_agree_and_strength_0_is_the_base_model(name: str) -> None:
    """What is written has the log-probability that scoring gives it: the caches, the leads and the
    history of what was read are right."""
    model = sl.load_model("toy-64")
    value = mixtures("toy-64")[name]
    prompts = ["it was", "finally i watched the cartoon"]
    made = value.generate(model, prompts, strengths=(0, 0.5, -0.5), samples=2, max_new_tokens=8)
    plain = sl.generate(model, prompts, strengths=(0,), samples=2, max_new_tokens=8)
    assert made[made.strength == 0].text.tolist() == plain.text.tolist()
    assert (made.text[made.strength != 0].to_numpy() != [*plain.text, *plain.text]).any()
    alone = value.generate(model, prompts[1:], strengths=(0.5,), samples=2, max_new_tokens=8)
    rows = made[(made.prompt == prompts[1]) & (made.strength == 0.5)]
    assert alone.text.tolist() == rows.text.tolist()
    for row in made.to_dict("records"):
        data = sl.Labelled([row["text"]], [1.0], [row["prompt"]])
        told = value.score(model, data, strengths=(row["strength"],))
        ended = len(told) <= 8  # else the end was not written, and is not told
        assert float(told.log_prob[: None if ended else 8].sum()) == pytest.approx(
            row["log_prob"], abs=2e-3
        )


def test_a_copy_is_made_once_and_kept_and_the_model_is_as_before(tmp_path: Path) -> None:
    model = zoo("gpt2")
    texts = [f"the {a} was {b} ." for a in ("film", "cast", "plot", "food", "book", "author")
             for b in ("good", "slow")]  # fmt: skip
    before = {k: p.clone() for k, p in model.named_parameters()}
    made: Any = fine_tuned_copy(model, texts, tuning=SHORT, folder=tmp_path)
    assert all(torch.equal(p, before[k]) and p.grad is None for k, p in model.named_parameters())
    right, base = (sl.score(m, texts).log_prob.mean() for m in (made, model))
    assert right > base + 0.1
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again: Any = fine_tuned_copy(model, texts, tuning=SHORT, folder=tmp_path)
    assert file.stat().st_mtime_ns == written and torch.equal(again.W_U, made.W_U)
    assert sl.score(again, texts).log_prob.mean() == pytest.approx(right)
    fine_tuned_copy(model, texts[:-1], tuning=SHORT, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # of other texts it is another
    led: Any = fine_tuned_copy(model, texts, leads=[(5,)] * len(texts), tuning=SHORT)
    assert not torch.equal(led.W_U, made.W_U)


def test_a_step_over_texts_that_do_not_fit_at_once_is_that_over_all_of_them() -> None:
    model: Any = sl.load_model("toy-64")
    text = " ".join(sl.toy.corpus("tone", n=5, seed=0).texts)
    how = convention(model, sl.readout(model))
    (ids,) = encode(model.tokenizer, [text], how, end=True).ids
    assert 22 * len(ids) > batch_tokens(model.W_U) > len(ids)  # the 22 that are learned from
    tuning = FineTuning(lr=1e-3, epochs=1, batch_size=32)
    copy: Any = fine_tuned_copy(model, [text] * 24, tuning=tuning)
    # all texts are one text, so the step is that of its gradient
    by_hand: Any = duplicate(model)
    tokens = torch.tensor([ids])
    logits = by_hand(tokens)[0, :-1]
    torch.nn.functional.cross_entropy(logits, tokens[0, 1:]).backward()
    learned = [p for p in by_hand.parameters() if p.grad is not None]
    torch.optim.AdamW(learned, lr=1e-3, weight_decay=0.0).step()
    moved = (by_hand.W_U - model.W_U).norm()
    assert moved > 0.01 and (copy.W_U - by_hand.W_U).norm() < 0.02 * moved


def drawing() -> Any:
    """A plain model with dropout, in train mode, its layers frozen."""
    words = zoo("gpt2").tokenizer
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    config = GPT2Config(
        vocab_size=len(words),
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.4,
        **ends,
    )
    model = GPT2LMHeadModel(config).train()
    for p in model.transformer.h.parameters():
        p.requires_grad_(False)
    return HuggingFace(model, words)


def test_a_seed_makes_one_copy_of_a_model_in_any_mode_and_of_what_is_frozen() -> None:
    """Dropout would draw from the user's generator, and frozen parameters would stay."""
    model = drawing()
    state = {k: (p.clone(), p.requires_grad) for k, p in model.model.named_parameters()}
    copies = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        copies.append(cast(Any, fine_tuned_copy(model, TEXTS * 4, tuning=SHORT)).model)
        assert torch.equal(torch.get_rng_state(), before)
    assert model.model.training and all(m.training for m in copies[0].modules())
    model.model.eval()
    copies.append(cast(Any, fine_tuned_copy(model, TEXTS * 4, tuning=SHORT)).model)
    for p in model.model.parameters():
        p.requires_grad_(False)
    copies.append(cast(Any, fine_tuned_copy(model, TEXTS * 4, tuning=SHORT)).model)
    for k, p in copies[0].named_parameters():
        value, learned = state[k]
        assert all(torch.equal(p, dict(other.named_parameters())[k]) for other in copies[1:])
        assert not torch.equal(p, value) and p.requires_grad == learned
    for k, p in model.model.named_parameters():
        assert torch.equal(p, state[k][0]) and p.grad is None and not p.requires_grad
    assert not any(p.requires_grad for p in copies[-1].parameters())
    held = {
        p.untyped_storage().data_ptr() for p in (*model.model.parameters(), *model.model.buffers())
    }
    for one in copies:
        assert not any(
            p.untyped_storage().data_ptr() in held for p in (*one.parameters(), *one.buffers())
        )


@pytest.mark.parametrize("fit", [fit_dexperts, fit_dapt, fit_ctrl, fit_gedi])
def test_prompts_are_read_and_never_predicted(fit: Any, tmp_path: Path) -> None:
    """The copy is that of the same texts with a lead of the prompt's tokens, and not of whole texts
    or of texts alone; its file is found again."""
    model: Any = zoo("gpt2")
    texts = [" was good .", " was bad !"] * 6
    data = sl.Labelled(texts, [1.0, -1.0] * 6, ["the film"] * 12)
    codes = {"codes": ("good", "bad")} if fit in (fit_ctrl, fit_gedi) else {}
    how = FineTuning(lr=3e-3, epochs=1, batch_size=8)
    value = fit(model, data, tuning=how, folder=tmp_path, **codes)
    how_read = convention(model, sl.readout(model))
    (prompt,) = encode(model.tokenizer, ["the film"], how_read._replace(bos=False), end=False).ids
    for k, voice in enumerate(value.voices[: 1 if codes else 2]):
        signs = (0, 1) if codes else (k,)
        leads = {sign: [*value.voices[sign].lead, *prompt] for sign in signs}
        rows = [row for row in range(12) if row % 2 in signs]
        same: Any = fine_tuned_copy(
            model, [texts[row] for row in rows], leads=[leads[row % 2] for row in rows], tuning=how
        )
        assert torch.equal(voice.model.W_U, same.W_U)
        alone: Any = fine_tuned_copy(
            model,
            [texts[row] for row in rows],
            leads=[value.voices[row % 2].lead for row in rows] if codes else (),
            tuning=how,
        )
        assert not torch.equal(voice.model.W_U, alone.W_U)
    made = len(list(tmp_path.iterdir()))
    fit(model, data, tuning=how, folder=tmp_path, **codes)
    assert len(list(tmp_path.iterdir())) == made


def test_a_text_that_is_all_prompt_trains_nothing() -> None:
    """Such as one whose prompt fills the context: its loss would be that of no token."""
    model: Any = zoo("gpt2")
    full = "the film was good . " * 40
    prompts = [*["the film"] * 8, full]
    data = sl.Labelled([" was good ."] * 9, [1.0] * 9, prompts)
    with_it, without = (
        cast(Any, fine_tuned_copy(model, part, tuning=SHORT)) for part in (data, data.first(8))
    )
    assert torch.equal(with_it.W_U, without.W_U)
    with pytest.raises(ValueError, match="texts: got 0 with something to predict"):
        fine_tuned_copy(model, sl.Labelled([" was good ."] * 5, [1.0] * 5, [full] * 5))


def test_numbers_of_other_libraries_name_the_same_file(tmp_path: Path, unchecked: None) -> None:
    model = zoo("gpt2")
    for seed in (0, np.int64(0), torch.tensor(0)):
        fine_tuned_copy(
            model, TEXTS * 4, tuning=replace(SHORT, seed=cast(int, seed)), folder=tmp_path
        )
    assert len(list(tmp_path.iterdir())) == 1


def test_a_copy_that_learned_nothing_says_so_and_is_the_model() -> None:
    model = sl.load_model("toy-64")
    texts = sl.toy.corpus("tone", n=12, seed=0).texts
    with pytest.warns(UserWarning, match="nothing was learnt"):
        copy: Any = fine_tuned_copy(model, texts, tuning=FineTuning(lr=0.0, epochs=2))
    assert torch.equal(copy.W_U, model.W_U)
    # nor is one kept that learned what held-out texts are worse for
    with pytest.warns(UserWarning, match="nothing was learnt"):
        copy = fine_tuned_copy(model, texts, tuning=FineTuning(lr=1.0, epochs=2))
    assert torch.equal(copy.W_U, model.W_U)


def test_the_learning_rate_of_a_copy_falls_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, step = [], torch.optim.AdamW.step

    def noting(self: torch.optim.AdamW, *given: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    texts = sl.toy.corpus("tone", n=40, seed=0).texts
    fine_tuned_copy(
        sl.load_model("toy-64"), texts, tuning=FineTuning(lr=1e-3, epochs=2, batch_size=8)
    )
    n = len(rates)
    assert n >= 8 and rates == pytest.approx([1e-3 * (1 - k / n) for k in range(n)])


@pytest.mark.parametrize(
    "fit",
    [
        lambda model, data: fit_dexperts(model, data, tuning=LONGER),
        lambda model, data: fit_dapt(model, data, tuning=LONGER),
        lambda model, data: fit_ctrl(model, data, codes=("good", "bad"), tuning=LONGER),
        lambda model, data: fit_gedi(model, data, codes=("good", "bad"), tuning=LONGER),
    ],
    ids=["dexperts", "dapt", "ctrl", "gedi"],
)
def test_each_is_fitted_and_tells_the_signs_apart(fit: Callable[..., Mixture]) -> None:
    model = zoo("gpt2")
    subjects = ("film", "cast", "plot", "food", "book", "waiter", "author", "money")
    data = sl.Labelled(
        [f"the {a} was {b} ." for a in subjects for b in ("good", "dull")], [1.0, -0.5] * 8
    )
    value = fit(model, data)
    told = value.score(model, ["the corpus was good .", "the corpus was dull ."],
                       strengths=(3.0, -3.0)).groupby(["text", "strength"]).log_prob.sum()  # fmt: skip
    assert told[0, 3.0] - told[0, -3.0] > told[1, 3.0] - told[1, -3.0]
    assert value.n_parameters >= sum(p.numel() for p in model.parameters())


def test_an_instruction_learns_nothing_and_asks_with_words() -> None:
    model = zoo("gpt2")
    asked = instruct(model, instructions=("the film was good", "the film was bad"))
    assert asked.n_parameters == 0 and asked.voices[0].lead != asked.voices[1].lead
    text = " and the food"
    found = asked.score(model, [text], strengths=(1.0,), end=False)
    prompted = sl.score(model, sl.Labelled([text], [1.0], ["the film was good"]), end=False)
    assert found.token.tolist() == prompted.token.tolist()
    assert found.log_prob.tolist() == pytest.approx(prompted.log_prob.tolist(), abs=1e-4)
    assert (found.log_prob - sl.score(model, [text], end=False).log_prob).abs().max() > 0.1


def test_what_cannot_be_mixed_is_refused() -> None:
    model = zoo("gpt2")
    value: Any = mixtures("gpt2")["dapt"]
    with pytest.raises(ValueError, match="made for"):
        value.score(zoo("llama"), TEXTS)
    with pytest.raises(ValueError, match="another vocabulary"):
        Mixture((Voice(zoo("llama")),), toward_sides, sl.readout(model), 0, "x")
    with pytest.raises(ValueError, match="holds no token"):
        instruct(model, instructions=("good", " "))
    with pytest.raises(ValueError, match="are the same tokens"):
        fit_ctrl(model, sl.Labelled(TEXTS * 2, [1.0, -1.0] * 2), codes=("good", "good"))
    with pytest.raises(ValueError, match="data: got 1 with a positive label, expected at least 4"):
        fit_dapt(model, sl.Labelled(TEXTS, [1.0, -1.0]))
    with pytest.raises(ValueError, match="codes: 'film.* leaves no room"):
        fit_ctrl(model, sl.Labelled(TEXTS * 2, [1.0, -1.0] * 2), codes=("good", "film " * 400))
    with pytest.raises(ValueError, match="dtype='float32'"):
        fine_tuned_copy(zoo("bfloat16"), TEXTS * 2)
    for what in ({"lr": -1.0}, {"epochs": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(what))):
            FineTuning(**what)  # type: ignore[arg-type]
