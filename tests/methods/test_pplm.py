"""PPLM: its numbers by whole passes under TransformerLens' own hooks, strength 0 is the model to the
letter, writing and scoring agree, and it goes where its classifier points."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import steerlens as sl
from steerlens.evaluate.classify import mean_states
from steerlens.evaluate.writer import Writer
from steerlens.methods.baselines.pplm import Ascent, Pplm, fit_pplm
from steerlens.models.history import keys_and_values, read_behind
from steerlens.models.hooks import adapter
from tests.models.zoo import zoo

TEXT = "the film was good ."
HARD = Ascent(step_size=1.0, n_iterations=2, kl_scale=0.7, fusion=0.8)


def some_pplm(model: Any, ascent: Ascent = HARD) -> Pplm:
    on = sl.readout(model)
    w = torch.randn(on.d_model, generator=torch.Generator().manual_seed(3))
    return Pplm(0.1 * w, 0.2, on, ascent)


class ByHand:
    """The same by whole passes: at each layer keys and values of the past are put in the place of
    those that a pass makes."""

    def __init__(self, model: Any, value: Pplm) -> None:
        self.model, self.value = model, value
        self.sites = [
            f"blocks.{k}.attn.hook_{part}" for k in range(model.cfg.n_layers) for part in "kv"
        ]
        self.words = torch.stack([self.embed(i) for i in range(len(value.readout.tokens))])

    def embed(self, token: int) -> Tensor:
        seen: list[Tensor] = []
        with torch.no_grad():
            self.model.run_with_hooks(
                torch.tensor([[token]]), fwd_hooks=[("hook_embed", lambda t, hook: seen.append(t))]
            )
        return seen[0][0, 0].float()

    def run(
        self, ids: list[int], past: list[Tensor] | None = None, last: Tensor | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Logits after the last token, contexts of all, and keys and values."""
        seen: dict[str, Tensor] = {}

        def replace(site: str, of: Tensor | None) -> Any:
            def hook(t: Tensor, hook: Any) -> Tensor:
                if of is not None and of.shape[1]:
                    t = torch.cat([of, t[:, of.shape[1] :]], 1)
                seen[site] = t
                return t

            return site, hook

        def put(e: Tensor, hook: Any) -> Tensor:
            return e if last is None else torch.cat([e[:, :-1], last[None, None]], 1)

        hooks = [
            replace(site, None if past is None else past[k]) for k, site in enumerate(self.sites)
        ]
        c: list[Tensor] = []
        look = ("unembed.hook_in", lambda t, hook: c.append(t))
        z = self.model.run_with_hooks(
            torch.tensor([ids]), fwd_hooks=[*hooks, look, ("hook_embed", put)]
        )
        return z[0, -1], c[0][0], [seen[site] for site in self.sites]

    def log_probs(self, ids: list[int], strength: float) -> list[tuple[Tensor, Tensor]]:
        """Log-probabilities after each token but the last, of the method and of the model."""
        value, ascent = self.value, self.value.ascent
        found, past = [], [t[:, :0] for t in self.run(ids[:1])[2]]
        for n in range(1, len(ids)):
            read = ids[:n]
            z, c, _ = self.run(read)
            log_p = z.detach().log_softmax(-1)
            push = [torch.zeros_like(t) for t in past]
            for step in range(ascent.n_iterations if n > 1 else 0):
                push = [t.detach().requires_grad_() for t in push]
                there, here, _ = self.run(read, [a + b for a, b in zip(past, push, strict=True)])
                log_q = there.log_softmax(-1)
                meant = log_q.exp()[: len(self.words)] @ self.words
                _, ahead, _ = self.run([*read, 0], last=meant)
                mean = (c[:-1].sum(0).detach() + here[-1].detach() + ahead[-1]) / (n + 1)
                side = 1.0 if strength > 0 else -1.0
                liked = torch.sigmoid(side * (mean @ value.w + value.b)).log()
                away = (log_q.exp() * (log_q - log_p)).sum()
                loss = ascent.kl_scale * (away if step else 0.0) - liked  # no slope at the start
                grads = torch.autograd.grad(loss, push)
                for k in range(0, len(push), 2):
                    size = sum(float(g.square().sum()) for g in grads[k : k + 2]) ** 0.5
                    for j in (k, k + 1):
                        push[j] = push[j] - abs(strength) * ascent.step_size * grads[j] / size
            there, _, past = self.run(read, [a + b for a, b in zip(past, push, strict=True)])
            past = [t.detach() for t in past]
            mixed = ascent.fusion * there.log_softmax(-1) + (1 - ascent.fusion) * log_p
            found.append((mixed.log_softmax(-1).detach(), log_p))
        return found


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_each_token_has_the_probability_of_the_formulas(name: str) -> None:
    model = zoo(name)
    value = some_pplm(model)
    assert isinstance(value, Writer) and value.n_parameters == len(value.w) + 1
    # a second, longer text beside it: padding and company change nothing
    texts = [TEXT, "we liked the food , not the waiter ."]
    table = value.score(model, texts, strengths=(1.0, -0.7), end=False)
    ids = model.to_tokens(TEXT, prepend_bos=True)[0].tolist()
    for strength in (1.0, -0.7):
        rows = table[(table.text == 0) & (table.strength == strength)]
        by_hand = ByHand(model, value).log_probs(ids, strength)
        assert len(rows) == len(by_hand) == len(ids) - 1
        told = torch.stack([q[ids[k + 1]] for k, (q, _) in enumerate(by_hand)])
        assert_close(torch.tensor(rows.log_prob.to_numpy()).float(), told, atol=1e-3, rtol=1e-3)
        kl = torch.stack([(p.exp() * (p - q)).sum() for q, p in by_hand])
        assert_close(torch.tensor(rows.kl.to_numpy()).float(), kl, atol=1e-4, rtol=2e-2)
        assert kl[0] < 1e-6 and kl[2:].min() > 1e-3  # behind one token nothing can be pushed
    assert not any(p.requires_grad is False for p in adapter(model).module.parameters())


def test_writing_and_scoring_agree_and_strength_0_is_the_model() -> None:
    model = sl.load_model("toy-64")
    value = some_pplm(model, Ascent(step_size=1.0, n_iterations=2))
    prompts = ["it was", "finally i watched the cartoon"]
    made = value.generate(model, prompts, strengths=(0, 1, -1), samples=2, max_new_tokens=6)
    plain = sl.generate(model, prompts, strengths=(0,), samples=2, max_new_tokens=6)
    assert made[made.strength == 0].text.tolist() == plain.text.tolist()
    assert (made.text[made.strength != 0].to_numpy() != [*plain.text, *plain.text]).any()
    alone = value.generate(model, prompts[1:], strengths=(1,), samples=2, max_new_tokens=6)
    rows = made[(made.prompt == prompts[1]) & (made.strength == 1)]
    assert alone.text.tolist() == rows.text.tolist()
    for strength, rows in made.groupby("strength"):
        data = sl.Labelled(rows.text.tolist(), [1.0] * len(rows), rows.prompt.tolist())
        told = value.score(model, data, strengths=(strength,), end=False)
        sums = told.groupby("text").log_prob.sum().to_numpy()
        whole = [not text.endswith(".") or len(text.split()) == 6 for text in rows.text]
        np.testing.assert_allclose(sums[whole], rows.log_prob.to_numpy()[whole], atol=5e-3)
        assert (told.kl.abs().max() < 1e-6) == (strength == 0)


def test_it_writes_what_its_classifier_likes() -> None:
    """The classifier tells new texts apart, and is the judge here: what is written goes the way
    that each sign asks for, and further at a larger step."""
    model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=400, seed=0)
    value = fit_pplm(model, data, ascent=Ascent(step_size=0.2, n_iterations=3))

    def liked(texts: sl.Labelled) -> np.ndarray:
        states = sl.collect(model, texts, progress=False, end=False)
        return mean_states(states) @ value.w.numpy() + value.b

    new = sl.toy.corpus("tone", n=200, seed=1)
    signs = np.sign(new.labels)
    assert (np.sign(liked(new))[signs != 0] == signs[signs != 0]).mean() > 0.62
    made = value.generate(
        model, ["you are", "the film"], strengths=(-4, -1, 1, 4), samples=12, max_new_tokens=12
    )
    made["liked"] = liked(sl.Labelled((made.prompt + made.text).tolist(), [0.0] * len(made)))
    by = made.groupby("strength").liked.mean()
    assert by[-4.0] < by[-1.0] < by[1.0] < by[4.0]


def test_a_plain_model_gives_the_same_and_a_history_stays_as_it_was() -> None:
    model, plain = sl.load_model("toy-64"), sl.load_model("toy-64", plain=True)
    texts = ["the film was good .", "you are"]
    one, other = (some_pplm(m).score(m, texts, strengths=(0.3,), end=False) for m in (model, plain))
    np.testing.assert_allclose(one.log_prob, other.log_prob, atol=1e-3)
    ids = model.to_tokens("the film was", prepend_bos=True)
    with torch.no_grad():
        first = read_behind(model, ids[:, :3], torch.ones_like(ids[:, :3]))
        again = [read_behind(model, ids[:, 3:], torch.ones_like(ids), first.history) for _ in "ab"]
    assert torch.equal(again[0].logits, again[1].logits)


def test_what_cannot_be_pushed_is_refused() -> None:
    model = zoo("gpt2")
    value = some_pplm(model)
    with pytest.raises(ValueError, match="made for"):
        value.score(zoo("llama"), [TEXT])
    with pytest.raises(ValueError, match="SimpleNamespace has layers without keys and values"):
        keys_and_values(SimpleNamespace(layers=[SimpleNamespace(keys=None, values=None)]))
    with pytest.raises(ValueError, match="got 0 texts of one sign"):
        fit_pplm(model, sl.Labelled([TEXT, TEXT], [1.0, 0.5]))
    for what in ({"step_size": 0.0}, {"n_iterations": 0}, {"kl_scale": -1.0}, {"fusion": 0.0}):
        with pytest.raises(ValueError, match=next(iter(what))):
            Ascent(**what)  # type: ignore[arg-type]
