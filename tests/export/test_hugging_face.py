"""Plain `generate` with a processor writes what the hooked model writes, token for token."""

from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import steerlens as sl
from steerlens.export.hugging_face import processor
from tests.models.zoo import HookedTransformer, folder, random_steer, zoo

# TransformerLens 3.9 computes Cohere otherwise than transformers
KINDS = ("gpt2", "llama", "gemma2", *(("cohere",) if HookedTransformer is None else ()))


@cache
def plain(kind: str) -> Any:
    """The same weights, as anybody would load them."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder(kind)).eval()


def prompts(model: Any, rows: int = 2) -> Tensor:
    return torch.randint(2, 40, (rows, 5), generator=torch.Generator().manual_seed(3))


def written(model: Any, start: Tensor, processors: list[Any], **options: Any) -> Tensor:
    options = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, **options}
    mask = torch.ones_like(start)
    return model.generate(start, attention_mask=mask, logits_processor=processors, **options)


def hooked(kind: str, steer: sl.Steer, strength: Any, start: Tensor, n: int = 8) -> Tensor:
    """Greedy, from the model's own hook, the whole text anew for each token."""
    model, tokens = zoo(kind), start
    with torch.no_grad(), sl.steered(model, steer, strength):
        for _ in range(n):
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_is_the_hooked_models_token_for_token(kind: str) -> None:
    steer, start = random_steer(zoo(kind), size=0.8), prompts(zoo(kind))
    it = sl.export.logit_steer(steer, holes=True, max_gain=1e3)
    found = written(plain(kind), start, [processor(it, 3.0)], eos_token_id=None)
    assert torch.equal(found, hooked(kind, steer, 3.0, start))
    assert not torch.equal(found, written(plain(kind), start, [], eos_token_id=None))


def test_one_strength_per_prompt_is_shared_by_its_samples() -> None:
    steer, start = random_steer(zoo("gpt2"), size=0.4), prompts(zoo("gpt2"))
    it = sl.export.logit_steer(steer)
    strengths = torch.tensor([-2.0, 1.0])
    found = written(plain("gpt2"), start, [processor(it, strengths)], eos_token_id=None)
    assert torch.equal(found, hooked("gpt2", steer, strengths, start))
    torch.manual_seed(0)
    options = {"do_sample": True, "num_return_sequences": 3, "top_k": 1, "eos_token_id": None}
    six = written(plain("gpt2"), start, [processor(it, strengths)], **options)
    assert torch.equal(six, found.repeat_interleave(3, 0))
    with pytest.raises(ValueError, match="3 values for 2 rows"):
        written(plain("gpt2"), start, [processor(it, torch.ones(3))])


def test_a_schedule_counts_the_tokens_written() -> None:
    steer, start = random_steer(zoo("gpt2"), size=0.4), prompts(zoo("gpt2"))
    asked: list[int] = []

    def late(n: int) -> float:
        asked.append(n)
        return 2.0 if n >= 3 else 0.0

    it = processor(sl.export.logit_steer(steer), late, prompt_length=5)
    found = written(plain("gpt2"), start, [it], eos_token_id=None)
    assert asked == list(range(8))
    beginning = written(plain("gpt2"), start, [], max_new_tokens=3, eos_token_id=None)
    assert torch.equal(found, hooked("gpt2", steer, 2.0, beginning, 5))


def test_a_prompt_that_is_not_handed_over_is_not_counted() -> None:
    start, model = prompts(zoo("gpt2")), plain("gpt2")
    steer, asked = sl.export.logit_steer(random_steer(zoo("gpt2"), size=0.4)), []
    embeds = model.get_input_embeddings()(start)
    options = {"inputs_embeds": embeds, "max_new_tokens": 2, "eos_token_id": None}
    with pytest.raises(ValueError, match="prompt_length: got 5, .* hands over 0 tokens"):
        model.generate(logits_processor=[processor(steer, float, prompt_length=5)], **options)
    model.generate(logits_processor=[processor(steer, lambda n: asked.append(n) or 1.0)], **options)
    assert asked == [0, 1]


def test_beams_of_log_probabilities_are_steered() -> None:
    steer, start = random_steer(zoo("gpt2"), size=0.4), prompts(zoo("gpt2"))
    it = processor(sl.export.logit_steer(steer), 1.5)
    options = {"num_beams": 3, "eos_token_id": None, "return_dict_in_generate": True}
    found: Any = written(plain("gpt2"), start, [it], output_scores=True, **options)
    with torch.no_grad(), sl.steered(zoo("gpt2"), steer, 1.5):
        log_p = zoo("gpt2")(found.sequences).log_softmax(-1)
    total = log_p[:, 4:-1].gather(2, found.sequences[:, 5:, None]).sum((1, 2)) / 8
    torch.testing.assert_close(found.sequences_scores, total, atol=1e-4, rtol=1e-4)


def test_options_that_change_the_logits_first() -> None:
    steer, start = random_steer(zoo("gpt2"), size=0.4), prompts(zoo("gpt2"))
    it, model = sl.export.logit_steer(steer), plain("gpt2")
    with pytest.raises(ValueError, match="not those of"):
        written(model, start, [processor(it)], repetition_penalty=1.3)
    with pytest.raises(ValueError, match="minimum length.*holes=True"):
        written(model, start, [processor(it)], min_new_tokens=4, eos_token_id=9)
    whole = processor(sl.export.logit_steer(steer, holes=True))
    found = written(model, start, [whole], bad_words_ids=[[7], [11]], eos_token_id=None)
    assert not {7, 11} & set(found[:, 5:].flatten().tolist())


def test_only_a_logit_steer_is_taken(unchecked) -> None:
    with pytest.raises(ValueError, match="expected a LogitSteer"):
        processor(random_steer(zoo("gpt2")))  # pyright: ignore


@pytest.mark.parametrize("strength", ["3", [1.0, float("nan")], torch.tensor([1.0, float("inf")])])
def test_a_strength_that_is_none_is_refused_before_anything_is_written(strength, unchecked) -> None:
    with pytest.raises(ValueError, match="strength: got"):
        processor(sl.export.logit_steer(random_steer(zoo("gpt2"))), strength)


def test_a_list_of_strengths_is_the_tensor_of_them(unchecked) -> None:
    start, it = prompts(zoo("gpt2")), sl.export.logit_steer(random_steer(zoo("gpt2"), size=0.4))
    given: list[Any] = [[3.0, 1.0], lambda n: [3.0, 1.0], torch.tensor([3.0, 1.0])]
    texts = [written(plain("gpt2"), start, [processor(it, s)], num_beams=2) for s in given]
    assert torch.equal(texts[0], texts[2]) and torch.equal(texts[1], texts[2])


def test_strengths_of_fewer_prompts_than_there_are_are_refused() -> None:
    steer = sl.export.logit_steer(random_steer(zoo("gpt2"), size=0.8), holes=True, max_gain=1e3)
    two = torch.tensor([4.0, -4.0])
    start = prompts(zoo("gpt2"), rows=4)
    assert len(start.unique(dim=0)) == 4
    with pytest.raises(ValueError, match="2 values for 4 rows.*begin alike"):
        written(plain("gpt2"), start, [processor(steer, two)])
    # several samples of each are what two strengths are for
    for length in (0, 5):
        pair = [processor(steer, two, prompt_length=length)]
        found = written(plain("gpt2"), start[:2], pair, num_return_sequences=2, num_beams=2)
        assert found.shape[0] == 4
    # alike in their first token alone
    start[:, 0] = 7
    with pytest.raises(ValueError, match="2 values for 4 rows"):
        written(plain("gpt2"), start, [processor(steer, two, prompt_length=5)])
