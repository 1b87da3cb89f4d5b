"""One vector at one hook: the laws, the convex problem, and that it is a logit bias of low rank."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import steerlens as sl
from steerlens.methods.baselines.logit_bias import LogitBias
from steerlens.methods.baselines.shift import Shift, fit_shift
from steerlens.values.states import Shard, States
from tests.contract import laws
from tests.values.make import make_readout, make_states, random


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("site", ["blocks.1.hook_resid_post", "unembed.hook_in"])
def test_it_keeps_the_laws_of_interventions(site: str, dtype: torch.dtype) -> None:
    on = make_readout()
    laws(
        Shift(random(on.d_model, seed=3), site, on),
        {site: random(4, 5, on.d_model, seed=4).to(dtype)},
    )


def shifted(states: States, v: torch.Tensor, d: torch.Tensor, seed: int) -> States:
    """The same contexts with next tokens drawn under `c + y·v + d`."""
    (shard,) = states.shards
    assert isinstance(shard, Shard)
    y = states.labels[shard.text.long()][:, None]
    p = torch.softmax(states.readout.logits(shard.hidden + y * v + d), 1)
    drawn = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(seed)).squeeze(1)
    return replace(states, shards=(shard._replace(next=drawn.int()),))


def test_a_planted_shift_is_found_with_what_is_always_on_left_out() -> None:
    v, d = 0.5 * random(6, seed=7), 0.5 * random(6, seed=8)
    few, many = (
        fit_shift(shifted(make_states(n, length=30), v, d, seed=n)).vector for n in (30, 900)
    )
    assert (many - v).norm() < 0.15 * v.norm() < (d - v).norm()
    assert (many - v).norm() < (few - v).norm()


def test_no_other_vector_explains_the_texts_much_better() -> None:
    states = shifted(make_states(300), random(6, seed=1), torch.zeros(6), seed=2)
    (shard,) = states.shards
    assert isinstance(shard, Shard)
    y, found = states.labels[shard.text.long()][:, None], fit_shift(states).vector

    def loss(v: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        return cross_entropy(states.readout.logits(shard.hidden + y * v + d), shard.next.long())

    best = [torch.zeros(6, requires_grad=True) for _ in "vd"]
    descent = torch.optim.LBFGS(best, max_iter=200, line_search_fn="strong_wolfe")
    descent.step(lambda: (descent.zero_grad(), (value := loss(*best)).backward(), value)[-1])
    free, none = (
        float(loss(v, best[1].detach()).detach()) for v in (best[0].detach(), torch.zeros(6))
    )
    assert none - free > 0.05
    assert float(loss(found, best[1].detach())) - free < 0.02 * (none - free)


def test_at_the_unembedding_it_is_the_logit_bias_of_its_words(tmp_path: Path) -> None:
    model = sl.load_model("toy-64")
    on = sl.readout(model)
    shift = Shift(0.3 * random(64, seed=5), "unembed.hook_in", on)
    bias = LogitBias(shift.vector @ on.W_U, on)
    a, b = (
        sl.score(model, ["the film was good ."], value, strengths=(0, 1, -2))
        for value in (shift, bias)
    )
    assert_close(torch.tensor(a.log_prob), torch.tensor(b.log_prob), rtol=1e-4, atol=1e-4)
    texts = [sl.generate(model, ["it was"], value, strengths=(1, 2), samples=5).text.tolist()
             for value in (shift, bias)]  # fmt: skip
    assert texts[0] == texts[1]
    back = sl.load(sl.save(shift, tmp_path / "a.safetensors"), model)
    assert torch.equal(back.vector, shift.vector) and back.site == shift.site


def test_what_makes_no_vector_is_refused(unchecked: None) -> None:
    on = make_readout()
    with pytest.raises(ValueError, match="vector: got shape"):
        Shift(torch.zeros(on.d_model + 1), "unembed.hook_in", on)
    with pytest.raises(ValueError, match="holds NaN"):
        Shift(torch.full((on.d_model,), torch.nan), "unembed.hook_in", on)
    states = make_states()
    with pytest.raises(ValueError, match="every label is 1"):
        fit_shift(states.relabel(torch.ones_like(states.labels)))


def test_vectors_of_one_site_add_as_numbers_do() -> None:
    on, site = make_readout(), "blocks.1.hook_resid_post"
    a, b = (
        Shift(random(on.d_model, seed=k), site, on, name) for k, name in ((3, "joy"), (4, "rude"))
    )
    found = (2 * a - b / 4) * 0.5
    assert_close(found.vector, a.vector - 0.125 * b.vector)
    assert found.name == "0.5·(2·joy - 0.25·rude)" and (-a).name == "-joy"
    h = random(3, 5, on.d_model, seed=5)
    (_, edit), (_, first), (_, second) = (v.edits(1.5)[0] for v in (a + b, a, b))
    places = None
    assert_close(edit(h, places), second(first(h, places), places))  # pyright: ignore[reportArgumentType]
    for other in (
        Shift(b.vector, "unembed.hook_in", on),
        Shift(b.vector, site, make_readout(seed=9)),
        Shift(random(7, seed=1), site, on),
    ):
        with pytest.raises(ValueError, match=r"act on different states.*add vectors of one site"):
            a + other
    with pytest.raises(TypeError):
        a + 1  # pyright: ignore[reportOperatorIssue]
