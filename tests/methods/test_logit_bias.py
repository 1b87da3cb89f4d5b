"""The logit bias: the laws, its optimum, the gate, and that what happens behind the unembedding is
seen everywhere or refused."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

import steerlens as sl
from steerlens.analysis.state_shift import state_shift_overlap
from steerlens.evaluate.compare import compare
from steerlens.evaluate.sign_margin import kl_on_texts, nll, written_kl
from steerlens.methods.baselines.logit_bias import LogitBias, fit_logit_bias
from steerlens.models.folders import find_model
from steerlens.values.states import Shard
from tests.contract import everywhere, laws
from tests.models.zoo import TEXTS, zoo
from tests.values.make import make_readout, make_states, random

OUT = "unembed.hook_out"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("top", [None, 3])
def test_it_keeps_the_laws_of_interventions(top: int | None, dtype: torch.dtype) -> None:
    on = make_readout()
    value = LogitBias(random(on.d_vocab, seed=3), on, top=top)
    laws(value, {OUT: random(4, 5, on.d_vocab, seed=4).to(dtype)})


def test_with_a_gate_only_the_likeliest_words_move() -> None:
    on = make_readout()
    z = random(2, 3, on.d_vocab, seed=1)
    places = everywhere(z)
    (_, edit), (_, free) = (
        LogitBias(1 + random(on.d_vocab, seed=2).abs(), on, top=top).edits(1.0)[0]
        for top in (4, None)
    )
    moved = edit(z, places) != z
    assert torch.equal(moved.sum(-1), torch.full((2, 3), 4))
    assert torch.equal(moved, z >= z.topk(4).values[..., -1:])
    assert torch.equal(edit(z, places)[moved], free(z, places)[moved])


def test_one_word_per_label_has_the_closed_form() -> None:
    """Contexts that say nothing: the optimum is the log-odds of counts, as far as the ridge lets
    it."""
    on = make_readout()
    states = make_states(900, on=on, length=20)
    (shard,) = states.shards
    assert isinstance(shard, Shard)
    text = shard.text.long()
    drawn = torch.where(
        torch.rand(len(text), generator=torch.Generator().manual_seed(0)) < 0.8,
        torch.where(states.labels[text] > 0, 1, 2),
        torch.where(states.labels[text] > 0, 2, 1),
    )
    blind = shard._replace(hidden=torch.zeros_like(shard.hidden), next=drawn.int())
    states = sl.States(
        on, (blind,), states.labels, states.lengths, states.keep & (states.labels != 0)
    )
    found = fit_logit_bias(states).offset
    # words 1 and 2 have odds 4 to 1 at label 1, and 1 to 4 at label −1
    assert float(found[1] - found[2]) == pytest.approx(torch.tensor(4.0).log().item(), rel=0.1)
    assert found[3:].abs().max() < 0.1


def test_it_is_worth_less_than_a_steer_where_the_context_decides() -> None:
    """Where the word that a label favours turns around with the context, a constant has nothing
    to say."""
    on = make_readout()
    states = make_states(300, on=on, planted=0.7 * random(6, 6, seed=5), length=20)
    train, test = states.split(0.7, seed=0)
    steer, bias = sl.fit_steer(train, progress=False), fit_logit_bias(train)

    def margin(turned: torch.Tensor) -> float:
        (shard,) = test.shards
        assert isinstance(shard, Shard)
        rows = test.keep[shard.text.long()]
        y = test.labels[shard.text.long()][rows][:, None]
        c, target = shard.hidden[rows], shard.next[rows].long()
        z = on.logits(c)
        added = c @ turned @ on.W_U if turned.ndim == 2 else turned
        right, wrong = (
            (z + s * y * added).log_softmax(1).gather(1, target[:, None]).mean() for s in (1, -1)
        )
        return float(right - wrong)

    found = margin(steer.report.strength * steer.value.W)
    assert found > 0.1 and abs(margin(bias.offset)) < 0.1 * found


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_reading_writing_and_measuring_see_it(name: str) -> None:
    """Gemma's soft cap comes behind the bias."""
    model = zoo(name)
    on = sl.readout(model)
    value = LogitBias(3 * random(on.d_vocab, seed=2), on, top=20)
    ids = model.to_tokens(TEXTS[0], prepend_bos=True)
    with torch.no_grad(), sl.steered(model, value, 1.5):
        whole = model(ids)
    with torch.no_grad():
        plain = model(ids)
    expected = whole[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)
    found = sl.score(model, [TEXTS[0]], value, strengths=(0.0, 1.5), end=False)
    at = found[found.strength == 1.5]
    kept = torch.tensor(at.log_prob.to_numpy(), dtype=expected.dtype)
    assert_close(kept, expected[-len(kept) :], rtol=1e-3, atol=1e-3)
    assert (at.log_prob.to_numpy() != found[found.strength == 0].log_prob.to_numpy()).any()
    # the KL of whole rows
    base, other = plain[0].log_softmax(-1), whole[0].log_softmax(-1)
    with torch.no_grad(), sl.steered(model, value, -1.5):
        minus = model(ids)[0].log_softmax(-1)
    expected_kl = sum(
        float((base.exp() * (base - q)).sum(-1)[:].mean()) for q in (other, minus)
    ) / 2  # fmt: skip
    assert kl_on_texts(model, [TEXTS[0]], value, strength=1.5) == pytest.approx(
        expected_kl, rel=0.02
    )


def test_it_is_fitted_saved_compared_and_its_texts_are_priced(tmp_path: Path) -> None:
    model = sl.load_model("toy-64")
    train, new = (sl.toy.corpus("sentiment", n=n, seed=n) for n in (200, 60))
    value = fit_logit_bias(sl.collect(model, train, progress=False), name="joy")
    back = sl.load(sl.save(value, tmp_path / "joy.safetensors"), model)
    assert torch.equal(back.offset, value.offset) and (back.name, back.top) == ("joy", None)
    assert compare(model, {"joy": value}, new).sign_margin[0] > 0.02
    right, wrong = (nll(model, new, value, strength=s) for s in (1, -1))
    assert right < wrong
    written = sl.generate(model, ["it was"], value, strengths=(0.0, 3.0), samples=2)
    costs = written_kl(model, written, value)
    assert costs[:2] == pytest.approx([0, 0], abs=1e-6) and (costs[2:] > 0.01).all()
    assert written.text[0] == sl.generate(model, ["it was"], samples=2).text[0]


def test_a_plain_hugging_face_model_has_its_hook_too() -> None:
    model = sl.load_model("toy-64")
    plain = AutoModelForCausalLM.from_pretrained(find_model("toy-64") or "")
    on = sl.readout(model)
    value = LogitBias(random(on.d_vocab, seed=2), on, top=20)
    one, other = (
        sl.score(m, ["the film was good ."], value, strengths=2.0) for m in (model, plain)
    )
    assert one.log_prob.tolist() == pytest.approx(other.log_prob.tolist(), abs=1e-4)
    texts = [sl.generate(m, ["it was"], value, strengths=2.0).text[0] for m in (model, plain)]
    assert texts[0] == texts[1] != sl.generate(model, ["it was"]).text[0]


def test_what_holds_no_logits_refuses_it() -> None:
    model, data = sl.load_model("toy-64"), sl.toy.corpus("sentiment", n=40, seed=0)
    states = sl.collect(model, data, progress=False)
    value = fit_logit_bias(states)
    with pytest.raises(ValueError, match=r"changes logits, behind the states .* sl?.*score"):
        sl.collect(model, data, intervention=value, progress=False)
    steer = sl.fit_steer(states, progress=False).value
    with pytest.raises(ValueError, match="changes logits"):
        state_shift_overlap(model, value, steer, data, sl.natural_metric(states), draws=2)


def test_what_makes_no_bias_is_refused(unchecked: None) -> None:
    on = make_readout()
    with pytest.raises(ValueError, match="offset: got shape"):
        LogitBias(torch.zeros(on.d_vocab + 1), on)
    with pytest.raises(ValueError, match="holds NaN"):
        LogitBias(torch.full((on.d_vocab,), torch.nan), on)
    with pytest.raises(ValueError, match="top: got 0"):
        LogitBias(torch.zeros(on.d_vocab), on, top=0)
    states = make_states()
    with pytest.raises(ValueError, match="every label is 0"):
        fit_logit_bias(states.relabel(torch.zeros_like(states.labels)))
