"""Gates are exact in running models: written or read, in a batch or alone, cached or not, padded on
either side."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.evaluate.compare import compare
from steerlens.methods.baselines.shift import Shift
from steerlens.models.generate import edited_steps
from steerlens.models.hooks import adapter, apply_edits, convention, eval_mode
from steerlens.models.tokenization import encode_prompts, pad
from steerlens.values.conditions import (
    Candidates,
    Condition,
    Entropy,
    NewTokens,
    Schedule,
    plain_entropy,
)
from steerlens.values.gate import when
from steerlens.values.positions import places_of
from tests.models.test_collect import by_text
from tests.models.zoo import TEXTS, near, random_steer, zoo

PROMPTS = ("the film was", "", "nothing here is worth the money .", "we liked the")
DATA = sl.Labelled(TEXTS, (1.0, 0.5, 0.0, -1.0), PROMPTS)
SOME = ["gpt2", "toy-96-llama", "gemma2"]


def steer_of(model: Any) -> sl.Steer:
    return 2 * random_steer(model)


def conditions(model: Any) -> list[Condition]:
    states = sl.collect(model, DATA, progress=False)
    c = torch.cat([chunk.hidden for chunk in states.chunks(1 << 12)])
    middle = float(plain_entropy(sl.readout(model), c).median())
    return [NewTokens(2, 2), Schedule(1, 0, 3), Entropy(above=middle), Candidates(5)]


@pytest.mark.parametrize("name", SOME)
def test_states_under_a_gate_are_the_formula_at_each_position(name: str) -> None:
    model = zoo(name)
    joy, conds = steer_of(model), conditions(model)
    plain = by_text(sl.collect(model, DATA, progress=False))
    middle = conds[2].above  # type: ignore[attr-defined]
    for condition in conds[:3]:
        gated = joy.when(condition)
        found = by_text(sl.collect(model, DATA, intervention=gated, strength=1.5, progress=False))
        for row, (c, _) in plain.items():
            n = torch.arange(1, len(c) + 1)
            g = {
                NewTokens: ((n >= 2) & (n % 2 == 0)).float(),
                Schedule: 1 - (n - 1).clamp_max(3) / 3,
                Entropy: (plain_entropy(joy.readout, c) > middle).float(),
            }[type(condition)]  # fmt: skip
            assert_close(found[row][0], c + 1.5 * g[:, None] * (c @ joy.W), **near(model))


@pytest.mark.parametrize("name", SOME)
def test_token_by_token_with_a_cache_is_as_read_whole(name: str) -> None:
    """Written: padded on the left, one token at a time. Read: padded on the right, all at once."""
    model = zoo(name)
    prompts, new = (
        [[0, 5, 6, 7], [0, 9], [0, 8, 4]],
        torch.tensor([[3, 4, 9], [7, 7, 2], [5, 3, 8]]),
    )
    strength = torch.tensor([1.0, -1.0, 2.0])
    tokens, mask = pad([p + row for p, row in zip(prompts, new.tolist(), strict=True)])
    places = places_of(mask, torch.tensor([len(p) for p in prompts]))
    plain = written(model, None, prompts, new, strength)
    for condition in (None, *conditions(model)):
        joy = steer_of(model)
        value = joy if condition is None else joy.when(condition)
        with (
            eval_mode(model),
            apply_edits(model, value.edits(strength), lambda _, t: places),
        ):
            read = adapter(model).logits(tokens, mask)
        found = written(model, value, prompts, new, strength)
        for row, prompt in enumerate(prompts):
            whole = read[row, len(prompt) - 1 :][:4]
            assert_close(found[row, : len(whole)], whole, **near(model))
        assert (found - plain).abs().max() > 0.01


def written(
    model: Any, value: Any, prompts: list[list[int]], new: torch.Tensor, strength: torch.Tensor
) -> torch.Tensor:
    """The logits of each step of writing."""
    tokens, mask = pad(prompts, left=True)
    with eval_mode(model):
        step, found = edited_steps(model, value)(prompts, strength), []
        for k in range(new.shape[1] + 1):
            found.append(step(tokens, mask))
            tokens = new[:, k : k + 1]
            mask = torch.cat([mask, torch.ones(len(prompts), 1, dtype=mask.dtype)], dim=1)
    return torch.stack(found, 1)


def test_a_layer_is_gated_by_places(tiny: Any) -> None:
    on = sl.readout(tiny)
    shift = Shift(
        torch.randn(on.d_model, generator=torch.Generator().manual_seed(0)),
        "blocks.0.hook_resid_post",
        on,
    )
    whole, prompt, new = (
        sl.score(tiny, DATA, value, strengths=2.0).log_prob
        for value in (shift, when(shift, "prompt"), when(shift, "new"))
    )
    plain = sl.score(tiny, DATA).log_prob
    both = sl.score(tiny, DATA, when(shift, "prompt") + when(shift, "new"), strengths=2.0).log_prob
    assert_close(torch.tensor(both), torch.tensor(whole), rtol=1e-4, atol=1e-4)
    for part in (prompt, new):
        assert min(abs(part - plain).max(), abs(part - whole).max()) > 1e-3


def test_a_steer_in_the_prompt_alone_writes_nothing_else(tiny: Any) -> None:
    joy, prompts = steer_of(tiny), ["the film was", "we"]
    plain, gated, steered = (
        sl.generate(tiny, prompts, x, max_new_tokens=8).text.tolist()
        for x in (None, joy.when("prompt"), joy)
    )
    assert gated == plain != steered


def test_steered_knows_the_first_pass_for_the_prompt(tiny: Any) -> None:
    joy, tokens = steer_of(tiny), torch.tensor([[0, 5, 6, 7], [0, 9, 8, 4]])
    plain = tiny(tokens)
    with sl.steered(tiny, joy.when("new")):
        new = tiny(tokens)
    with sl.steered(tiny, joy.when("prompt")):
        prompt = tiny(tokens)
    with sl.steered(tiny, joy):
        whole = tiny(tokens)
    assert torch.equal(new[:, :3], plain[:, :3]) and torch.equal(prompt[:, 3], plain[:, 3])
    assert_close(new[:, 3], whole[:, 3])
    assert_close(prompt[:, :3], whole[:, :3])


def test_gates_stand_in_compare_at_equal_kl() -> None:
    model = sl.load_model("toy-64")
    data, test = (sl.toy.corpus("tone", n=n, seed=s) for n, s in ((120, 0), (24, 1)))
    tone = sl.fit_steer(sl.collect(model, data, progress=False), progress=False).value
    gates = {
        "steer": tone,
        "open": tone.when("entropy > 0"),
        "candidates": tone.when("top 30"),
        "often": tone.when("entropy > 1.5"),
    }
    table = compare(model, gates, test).set_index("name")
    assert_close(*(torch.tensor(float(table.sign_margin[n])) for n in ("steer", "open")), rtol=1e-3, atol=1e-5)  # fmt: skip
    assert (table.sign_margin > 0).all() and (table.low < table.sign_margin).all()
    assert table.strength["often"] > table.strength["steer"]  # shut in places, stronger elsewhere


@pytest.mark.parametrize("words", [("from 3",), ("entropy > 1",), ("top 4",)])
def test_transformers_own_generate_is_gated_too(words: tuple[str, ...]) -> None:
    model = sl.load_model("toy-64", plain=True)
    tokens = adapter(model).tokenizer
    value = steer_of(model).when(*words)
    ids = torch.tensor(encode_prompts(tokens, ["the film was"], convention(model, sl.readout(model))))  # fmt: skip
    asked: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False}  # fmt: skip
    plain = model.model.generate(ids, **asked)
    with sl.steered(model, value, 3.0):
        found = model.model.generate(ids, **asked)
    assert not torch.equal(plain, found)
    ours = sl.generate(model, ["the film was"], value, strengths=3.0, temperature=0, max_new_tokens=8)  # fmt: skip
    text = tokens.decode(found[0][ids.shape[1] :], skip_special_tokens=True)
    assert ours.text[0].strip() == text.strip()
    if words == ("from 3",):
        n = ids.shape[1]
        assert torch.equal(found[0][: n + 2], plain[0][: n + 2])
