"""A model is steered inside the block, exactly, and nowhere else."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from torch.testing import assert_close
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

import steerlens as sl
from steerlens.models.folders import find_model
from steerlens.models.hooks import adapter
from tests.models.zoo import (
    BUILDERS,
    add_hook,
    by_hand,
    contexts,
    hook_count,
    near,
    other_than,
    random_steer,
    tokens_of,
    zoo,
)
from tests.values.make import make_reft


def logits_of(model, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).float()


@pytest.mark.parametrize("strength", [-2.0, 0.5, 1.0])
def test_steered_logits_are_those_computed_by_hand(model, strength: float) -> None:
    tokens, steer = tokens_of(model), random_steer(model)
    c = contexts(model, tokens).float()
    expected = by_hand(model, (c + strength * c @ steer.W).to(model.W_U.dtype))
    plain = logits_of(model, tokens)
    assert (expected - plain).abs().max() > 0.1
    with sl.steered(model, steer, strength) as same:
        assert same is model
        assert_close(logits_of(model, tokens), expected, **near(model))
    assert torch.equal(logits_of(model, tokens), plain)


def test_strength_zero_is_exactly_the_plain_model(model) -> None:
    tokens, steer = tokens_of(model), random_steer(model)
    plain = logits_of(model, tokens)
    for zero in (0.0, torch.zeros(len(tokens))):
        with sl.steered(model, steer, zero):
            assert torch.equal(logits_of(model, tokens), plain)


def test_each_row_has_its_own_strength(model) -> None:
    tokens, steer, strengths = tokens_of(model), random_steer(model), (-2.0, 0.0, 1.5)
    with sl.steered(model, steer, torch.tensor(strengths)):
        together = logits_of(model, tokens)
    for row, strength in enumerate(strengths):
        with sl.steered(model, steer, strength):
            assert_close(
                together[row : row + 1], logits_of(model, tokens[row : row + 1]), **near(model)
            )


def test_a_steer_over_its_background_adds_both(model) -> None:
    tokens, steer, background = (
        tokens_of(model),
        random_steer(model),
        random_steer(model, seed=1, name="background"),
    )
    with sl.steered(model, steer.with_background(background), 2.0):
        found = logits_of(model, tokens)
    with sl.steered(model, 2.0 * steer + background):
        assert_close(found, logits_of(model, tokens), **near(model))


def test_nested_blocks_compose_as_maps_the_inner_acting_last(model) -> None:
    tokens, a, b = tokens_of(model), random_steer(model), random_steer(model, seed=1)
    c = contexts(model, tokens).float()
    after_a = (c + 2.0 * c @ a.W).to(model.W_U.dtype).float()
    expected = by_hand(model, (after_a - after_a @ b.W).to(model.W_U.dtype))
    with sl.steered(model, a, 2.0):
        once = logits_of(model, tokens)
        with sl.steered(model, b, -1.0):
            # two rounded steps in bfloat16: twice the tolerance
            assert_close(
                logits_of(model, tokens),
                expected,
                rtol=2 * near(model)["rtol"],
                atol=2 * near(model)["atol"],
            )
        assert torch.equal(logits_of(model, tokens), once)
    assert (once - expected).abs().max() > 0.1


def test_no_hook_is_left_after_an_exception(model) -> None:
    tokens, steer, before = tokens_of(model), random_steer(model), hook_count(model)
    plain = logits_of(model, tokens)
    with pytest.raises(KeyboardInterrupt), sl.steered(model, steer):
        assert hook_count(model) > before
        raise KeyboardInterrupt
    with (
        pytest.raises(ValueError, match="one value per row"),
        sl.steered(model, steer, torch.ones(len(tokens) + 1)),
    ):
        logits_of(model, tokens)
    assert hook_count(model) == before
    assert torch.equal(logits_of(model, tokens), plain)


def test_the_users_own_hooks_survive_and_act_too(model) -> None:
    tokens, steer = tokens_of(model), random_steer(model)
    seen: list[torch.Tensor] = []
    double = lambda tensor, hook: seen.append(tensor) or 2 * tensor  # noqa: E731
    remove = add_hook(model, "unembed.hook_in", double)
    try:
        with sl.steered(model, steer, 0.0):
            inside = logits_of(model, tokens)
        assert len(seen) == 1
        assert torch.equal(logits_of(model, tokens), inside) and len(seen) == 2
    finally:
        remove()
    assert (inside - logits_of(model, tokens)).abs().max() > 0.1


def test_a_steer_for_another_model_is_refused(model) -> None:
    with (
        pytest.raises(ValueError, match=r"folding a norm.*transfer"),
        sl.steered(model, random_steer(other_than(model))),
    ):
        raise AssertionError("the block ran")


def test_folding_makes_a_model_another_one_even_after_the_steer_was_made() -> None:
    model = BUILDERS["gpt2"]()
    steer = random_steer(model)
    assert steer.readout.digest
    model.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(ValueError, match="folding"), sl.steered(model, steer):
        raise AssertionError("the block ran")


def test_an_equal_model_takes_the_steer() -> None:
    steer, model, tokens = random_steer(zoo("gpt2")), BUILDERS["gpt2"](), tokens_of(zoo("gpt2"))
    with sl.steered(model, steer), sl.steered(zoo("gpt2"), steer):
        assert torch.equal(logits_of(model, tokens), logits_of(zoo("gpt2"), tokens))


@pytest.mark.parametrize("strength", [float("nan"), torch.tensor([1.0, float("nan")])])
def test_a_strength_that_is_no_number_is_refused_before_the_block(tiny, strength) -> None:
    with (
        pytest.raises(ValueError, match="strength: got"),
        sl.steered(tiny, random_steer(tiny), strength),
    ):
        raise AssertionError("the block was entered")


def test_hooks_that_are_taken_away_inside_the_block_are_missed(model) -> None:
    steer, tokens = random_steer(model), tokens_of(model)
    plain = logits_of(model, tokens)

    def take_away() -> None:
        if hasattr(model, "reset_hooks"):
            model.reset_hooks()
        else:  # as pyvene does at each call
            adapter(model).unembedding._forward_pre_hooks.clear()

    with pytest.raises(RuntimeError, match="hooks were taken away"), sl.steered(model, steer):
        assert not torch.equal(logits_of(model, tokens), plain)
        take_away()
        assert torch.equal(logits_of(model, tokens), plain)  # which nothing else would say
    with pytest.raises(KeyError), sl.steered(model, steer):  # an error inside is the one seen
        take_away()
        raise KeyError("mine")
    with sl.steered(model, steer):
        assert not torch.equal(logits_of(model, tokens), plain)
    assert torch.equal(logits_of(model, tokens), plain)


def test_a_copy_that_would_stay_steered_is_refused_inside_the_block(model) -> None:
    with sl.steered(model, random_steer(model)):
        for copies in (copy.deepcopy, pickle.dumps):
            with pytest.raises(RuntimeError, match=r"stay steered.*steerlens\.export\.fold"):
                copies(adapter(model).module)
    tokens = tokens_of(model)
    assert torch.equal(logits_of(copy.deepcopy(model), tokens), logits_of(model, tokens))


def test_a_trace_that_would_stay_steered_is_refused_inside_the_block() -> None:
    model, tokens = sl.load_model("toy-64", plain=True), torch.tensor([[3, 4, 5]])

    class Logits(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return model.model(input_ids=ids, use_cache=False).logits

    with torch.no_grad(), sl.steered(model, random_steer(model)):
        with pytest.raises(RuntimeError, match=r"traced or exported.*stay steered"):
            torch.jit.trace(Logits(), (tokens,))
        with pytest.raises(RuntimeError, match=r"traced or exported.*stay steered"):
            torch.export.export(Logits(), (tokens,), strict=False)


def test_a_copy_of_the_head_alone_does_not_stay_steered_in_silence() -> None:
    model = zoo("plain-gpt2")
    with sl.steered(model, random_steer(model)):
        head = copy.deepcopy(adapter(model).unembedding)
    with pytest.raises(RuntimeError, match="is over.*copied inside"):
        head(torch.zeros(1, adapter(model).d_model))


def test_of_two_generators_that_take_turns_in_blocks_the_first_to_leave_says_so(tiny) -> None:
    tokens, steer = tokens_of(tiny), random_steer(tiny)

    def stream(strength: float) -> Iterator[torch.Tensor]:
        with sl.steered(tiny, steer, strength):
            for _ in range(2):
                yield logits_of(tiny, tokens)

    up, down = list(stream(2.0)), list(stream(-2.0))
    together: list[Any] = []
    with pytest.raises(RuntimeError, match="left before one that was entered after it"):
        together += zip(stream(2.0), stream(-2.0), strict=True)
    with sl.steered(tiny, steer, 1.0):  # one inside of the other is a composition
        nested = list(stream(1.0))
    assert not torch.equal(up[0], down[0]) and torch.equal(nested[0], nested[1])
    assert torch.equal(next(stream(2.0)), up[0])


def test_gradients_reach_a_strength_that_is_one_number(tiny) -> None:
    tokens, steer = tokens_of(tiny, rows=1), random_steer(tiny)
    found = []
    for strength in (torch.tensor(0.7), torch.tensor([0.7])):
        with sl.steered(tiny, steer, strength.requires_grad_()):
            loss = tiny(tokens).float().square().mean()
        # the model is other tests', too: nothing is left in its parameters' gradients
        found.append(torch.autograd.grad(loss, strength)[0].reshape(()))
    assert found[0].abs() > 1e-3
    assert_close(found[0], found[1])


@pytest.mark.parametrize("positions", ["f1+l2", "new", "prompt"])
def test_several_tokens_behind_a_cache_are_no_prompt(positions: str) -> None:
    """As where `generate` tries words that it found in the prompt, several in a pass."""
    model = AutoModelForCausalLM.from_pretrained(find_model("toy-96-llama")).eval()
    reft = make_reft("loreft", sl.readout(model), positions=positions, layers=(0, 1))
    prompt = torch.tensor([[5, 9, 7, 8, 5, 9]])
    writing: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad(), sl.steered(model, reft, 2.0):
        one_by_one = model.generate(prompt, **writing)
        cache = model(prompt, use_cache=True).past_key_values
        behind = model(one_by_one[:, 6:], past_key_values=cache).logits
    with torch.no_grad(), sl.steered(model, reft, 2.0, prompt=6):
        several = model.generate(prompt, prompt_lookup_num_tokens=3, **writing)
        whole = model(one_by_one, use_cache=False).logits
        cache = model(prompt[:, :4], use_cache=True).past_key_values  # a prompt in two passes
        parts = model(one_by_one[:, 4:], past_key_values=cache).logits
    assert several.tolist() == one_by_one.tolist()
    assert_close(behind, whole[:, 6:], atol=1e-4, rtol=1e-4)
    assert_close(parts, whole[:, 4:], atol=1e-4, rtol=1e-4)


def test_verbs_refuse_a_block_that_steers_by_row() -> None:
    """They sort texts by length, so strengths would be those of other texts."""
    model = sl.load_model("toy-64")
    steer, texts = random_steer(model), ["it was the best film of all .", "good ."]
    with sl.steered(model, steer, torch.tensor([2.0, -2.0])):
        model(torch.tensor([[1, 2], [3, 4]]))
        for verb in (
            lambda: sl.score(model, texts), lambda: sl.collect(model, texts, progress=False),
            lambda: sl.generate(model, texts, max_new_tokens=2),
        ):  # fmt: skip
            with pytest.raises(RuntimeError, match="a strength per row.*to the verb itself"):
                verb()
    with sl.steered(model, steer, 2.0):
        inside = sl.score(model, texts)
    assert_close(
        inside.log_prob.to_numpy(),
        sl.score(model, texts, steer, strengths=(2.0,)).log_prob.to_numpy(),
    )


class PastTheHead(transformers.LlamaForCausalLM):
    """Multiplies a single token by the head's weight itself, as fast kernels do."""

    def forward(
        self, input_ids: Any, attention_mask: Any = None, past_key_values: Any = None, **given: Any
    ) -> Any:
        made = self.model(
            input_ids, attention_mask, past_key_values=past_key_values, use_cache=True
        )
        h = made.last_hidden_state
        logits = h @ self.lm_head.weight.T if input_ids.shape == (1, 1) else self.lm_head(h)
        return CausalLMOutputWithPast(logits=logits, past_key_values=made.past_key_values)


def test_a_pass_that_goes_past_a_hook_is_no_steered_one() -> None:
    path = find_model("toy-96-llama")
    words = transformers.AutoTokenizer.from_pretrained(path)
    model = sl.models.HuggingFace(PastTheHead.from_pretrained(path).eval(), words)
    steer, tokens = random_steer(model), torch.tensor([[3, 4, 5]])
    with pytest.raises(RuntimeError, match=r"without reaching 'unembed\.hook_in'"):
        sl.generate(model, ["the film was"], steer, max_new_tokens=3, seed=1)
    plain, rows = (sl.load_model(path, plain=True), ["the film was", "my uncle and"])
    written = [sl.generate(m, rows, steer, max_new_tokens=3).text.tolist() for m in (model, plain)]
    assert written[0] == written[1]  # several rows go through the head
    with torch.no_grad(), sl.steered(model, steer):
        model.model(tokens)
        model.model.model(tokens[:, :1])  # the layers alone have no head to go past
        with pytest.raises(RuntimeError, match=r"without reaching 'unembed\.hook_in'"):
            model.model.generate(tokens, min_new_tokens=3, max_new_tokens=3, do_sample=False)


def _fewer_words(self: Any, made: Any) -> Any:
    return self.lm_head(made)[..., :500]


def _last_only(self: Any, made: Any) -> Any:
    return self.lm_head(made)[:, -1:]


def _flattened(self: Any, made: Any) -> Any:
    return self.lm_head(made.flatten(0, 1)).unflatten(0, made.shape[:2])


def _twice(self: Any, made: Any) -> Any:
    self.lm_head(made * 2)
    return self.lm_head(made)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (_fewer_words, r"logits of shape \(2, 6, 500\)"), (_last_only, r"logits of shape \(2, 1, "),
        (_flattened, r"states of shape \(12, 96\)"), (_twice, "output embedding 2 times"),
    ],
)  # fmt: skip
def test_logits_of_other_positions_or_words_than_the_heads_are_refused(
    unchecked: None, head: Callable[..., Any], said: str
) -> None:
    class Odd(transformers.LlamaForCausalLM):
        def forward(self, input_ids: Any, attention_mask: Any = None, **given: Any) -> Any:
            made = self.model(input_ids, attention_mask).last_hidden_state
            return CausalLMOutputWithPast(logits=head(self, made))

    path = find_model("toy-96-llama")
    words = transformers.AutoTokenizer.from_pretrained(path)
    with pytest.raises(ValueError, match=rf"(?s)model: .*Odd.*{said}.*every position"):
        sl.readout(sl.models.HuggingFace(Odd.from_pretrained(path).eval(), words))


def test_a_prompt_of_one_token_behind_another_text_is_a_prompt() -> None:
    model = sl.load_model("toy-64", plain=True)
    later = random_steer(model).when("from 2")
    writing: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    writing |= {"return_dict_in_generate": True, "output_logits": True, "pad_token_id": 0}

    def logits(*ids: int) -> torch.Tensor:
        return torch.cat(model.model.generate(torch.tensor([ids]), **writing).logits)

    with sl.steered(model, later, 3.0):
        alone = logits(5)
    with sl.steered(model, later, 3.0):
        logits(5, 9, 7)
        again = logits(5)
    plain = logits(5)
    assert torch.equal(alone, again)
    assert torch.equal(alone[0], plain[0]) and (alone[1] - plain[1]).abs().max() > 0.1


@pytest.mark.parametrize("gate", ["from 3", "every 2", "fade 4"])
def test_a_cache_of_before_the_block_holds_the_prompts_beginning(gate: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(find_model("toy-96-llama")).eval()
    later = random_steer(model).when(gate)
    ids = torch.tensor([[5, 9, 7, 8, 5, 9]])
    writing: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    writing |= {"return_dict_in_generate": True, "output_logits": True}

    def logits(prompt: int | None, held: int) -> torch.Tensor:
        with torch.no_grad():
            cache = model(ids[:, :held], use_cache=True).past_key_values if held else None
            with sl.steered(model, later, 3.0, prompt=prompt):
                return torch.cat(model.generate(ids, past_key_values=cache, **writing).logits)

    expected = logits(None, 0)
    with torch.no_grad():
        plain = torch.cat(model.generate(ids, **writing).logits)
    assert (expected - plain).abs().max() > 0.1
    for prompt, held in ((6, 0), (None, 3), (6, 3)):
        assert_close(logits(prompt, held), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kept", [[2, 3], [3, 0], [-1], [True, False, False, True]])
def test_places_that_are_named_are_steered_as_in_a_whole_pass(kept: list[int]) -> None:
    model = AutoModelForCausalLM.from_pretrained(find_model("toy-96-llama")).eval()
    ids, places = torch.tensor([[5, 9, 7, 8]]), torch.tensor(kept)
    with torch.no_grad(), sl.steered(model, random_steer(model).when("from 1"), 3.0, prompt=2):
        whole = model(ids).logits
        named = model(ids, logits_to_keep=places).logits
    assert_close(named, whole[:, places], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert (model(ids).logits[:, -1] - whole[:, -1]).abs().max() > 0.1
