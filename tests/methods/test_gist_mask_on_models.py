"""A gist mask in models of every class: what new text knows of an instruction, it knows through the
gist."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import steerlens as sl
from steerlens.methods.gist.mask import GistMask, mask_gist, respects_mask
from steerlens.models.adapters import HuggingFace
from tests.models.test_collect import by_text, ids_of
from tests.models.zoo import BUILDERS, TEXTS, hook_count, zoo

MODELS = [
    n for n in ("gpt2", "llama", "folded", "gemma2", "hooked-gpt2", "hooked-llama") if n in BUILDERS
]
PROMPTS = (
    "the film was good . a very",
    "we liked the food",
    "a",
    "nothing here is worth the money",
)
DATA = sl.Labelled(TEXTS, (0.0,) * 4, PROMPTS)
GIST = 2
CLOSE: dict[str, float] = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> Any:
    sl.score(zoo(request.param), TEXTS[:1])
    before = hook_count(zoo(request.param))
    yield request.param
    assert hook_count(zoo(request.param)) == before


def states(model: Any, data: sl.Labelled, value: Any = None) -> list[Tensor]:
    """Behind the prompt alone: the last of its tokens, which predicts the first of the text, is
    gist itself."""
    found = by_text(sl.collect(model, data, intervention=value, progress=False))
    return [found[row][0][1:] for row in range(len(data))]


def test_every_model_of_the_zoo_heeds_its_mask_or_says_that_it_does_not(model) -> None:
    n = int(model.cfg.n_layers)
    if model is zoo("native"):
        assert respects_mask(model, n) == (False,) * n
        with pytest.raises(
            ValueError,
            match="does not read what is put at hook_attn_scores of layers 0, 1.*load_model",
        ):
            mask_gist(model)
    elif isinstance(model, HuggingFace):  # it shows nothing of what is inside a layer
        with pytest.raises(KeyError, match=r"hook_attn_scores.*load_model"):
            mask_gist(model)
    else:
        assert respects_mask(model, n) == (True,) * n
        assert mask_gist(model).sites == tuple(
            f"blocks.{k}.attn.hook_attn_scores" for k in range(n)
        )


def test_a_model_without_the_hook_is_refused(tiny) -> None:
    with pytest.raises(KeyError, match="has no hook 'blocks.2.attn.hook_attn_scores'"):
        respects_mask(tiny, 3)


def test_patterns_are_zero_where_the_mask_says_and_sum_to_one(name: str) -> None:
    model = zoo(name)
    value = mask_gist(model, GIST)
    ids = ids_of(model, PROMPTS[0] + " " + TEXTS[0], end=False)
    n = len(ids_of(model, PROMPTS[0], end=False))
    sites = [f"blocks.{k}.attn.hook_pattern" for k in range(2)]
    found = {}
    for strength in (0.0, 1.0):
        with torch.no_grad(), sl.steered(model, value, strength, prompt=n):
            found[strength] = model.run_with_cache(torch.tensor([ids]), names_filter=sites)[1]
    for site in sites:
        before, after = found[0.0][site][0].float(), found[1.0][site][0].float()
        assert before[:, n:, : n - GIST].amax() > 0.05
        assert (after[:, n:, : n - GIST] == 0).all()
        assert after[:, n:, n - GIST : n].amin() > 0
        assert_close(after.sum(2), torch.ones_like(after.sum(2)), **CLOSE)
    # the prompt's own tokens attend as ever
    first = sites[0]
    assert_close(found[1.0][first][0, :, :n], found[0.0][first][0, :, :n], **CLOSE)


def test_strength_zero_and_the_positive_control_are_the_plain_model_bit_for_bit(name: str) -> None:
    model = zoo(name)
    plain, masked = (
        sl.score(model, DATA),
        sl.score(model, DATA, mask_gist(model, GIST), strengths=(0.0, 1.0)),
    )
    positive = sl.score(model, DATA, mask_gist(model, GIST, control="positive"), strengths=(1.0,))
    off, on = (masked[masked.strength == s].log_prob.to_numpy() for s in (0.0, 1.0))
    assert (off == plain.log_prob).all() and (positive.log_prob == plain.log_prob).all()
    assert abs(on - off).max() > 0.05


@pytest.mark.parametrize("control", ["gist", "negative"])
def test_a_batch_is_each_text_alone(name: str, control: Any) -> None:
    model = zoo(name)
    value = mask_gist(model, GIST, control=control)
    together, plain = states(model, DATA, value), states(model, DATA)
    for row in range(len(DATA)):
        alone = states(model, sl.Labelled((TEXTS[row],), (0.0,), (PROMPTS[row],)), value)[0]
        assert_close(together[row], alone, **CLOSE)
    assert max(float((a - b).abs().max()) for a, b in zip(together, plain, strict=True)) > 0.05


def test_the_lower_bound_knows_nothing_of_instruction_or_gist(name: str) -> None:
    """The words of a prompt in another order: as many tokens, so that positions stay, and another
    gist too."""
    model = zoo(name)
    one, two = (
        sl.Labelled(TEXTS[:1], (0.0,), (p,)) for p in ("the film was good", "the good was film")
    )
    value = mask_gist(model, GIST, control="negative")
    assert (states(model, one)[0] - states(model, two)[0]).abs().max() > 0.01
    assert_close(states(model, one, value)[0], states(model, two, value)[0], **CLOSE)


def test_what_follows_depends_on_the_instruction_through_the_gist_alone(name: str) -> None:
    """By gradient: with the keys and values of the gist held still nothing of the instruction comes
    through; without, it does."""
    model = zoo(name)
    ids = torch.tensor([ids_of(model, "the film was good . a very fine cast", end=False)])
    n, layers = 6, range(int(model.cfg.n_layers))
    value = mask_gist(model, GIST)
    reached = {}
    for still in (False, True):
        for masked in (0.0, 1.0):
            seen: list[Tensor] = []

            def embed(t: Tensor, hook: Any, seen: list[Tensor] = seen) -> Tensor:
                seen.append(t.detach().clone().requires_grad_(True))
                return seen[0]

            def hold(t: Tensor, hook: Any) -> Tensor:
                gist = torch.zeros(t.shape[1], dtype=torch.bool)
                gist[n - GIST : n] = True
                return torch.where(gist.reshape(1, -1, *[1] * (t.ndim - 2)), t.detach(), t)

            hooks = [("hook_embed", embed)]
            if still:
                hooks += [(f"blocks.{k}.attn.hook_{part}", hold) for k in layers for part in "kv"]
            with sl.steered(model, value, masked, prompt=n):
                logits = model.run_with_hooks(ids, fwd_hooks=hooks)
            (gradient,) = torch.autograd.grad(logits[0, n:].logsumexp(1).sum(), seen[0])
            reached[still, masked] = float(gradient[0, : n - GIST].abs().max())
    assert reached[False, 0.0] > 1e-3 and reached[False, 1.0] > 1e-4 and reached[True, 0.0] > 1e-4
    assert reached[True, 1.0] == 0


WRITING = [(n, "gist") for n in ("gpt2", "llama", "hooked-gpt2", "hooked-llama") if n in BUILDERS]


@pytest.mark.parametrize("which, control", [*WRITING, ("gpt2", "negative")])
def test_cached_writing_of_a_padded_batch_is_that_of_whole_passes_one_at_a_time(
    which: str, control: Any
) -> None:
    model = zoo(which)
    value = mask_gist(model, GIST, control=control)
    prompts = ["the film was good", "a very fine cast , and a slow"]
    table = sl.generate(
        model, prompts, value, strengths=(0.0, 1.0), temperature=0, max_new_tokens=4
    )
    for row in table.itertuples():
        ids = ids_of(model, row.prompt, end=False)
        n, log_prob = len(ids), 0.0
        for _ in range(4):
            with torch.no_grad(), sl.steered(model, value, row.strength, prompt=n):
                logits = model(torch.tensor([ids]))[0, -1].float()
            ids.append(int(logits[: sl.readout(model).n_tokens].argmax()))
            log_prob += float(torch.log_softmax(logits, 0)[ids[-1]])
            if ids[-1] == model.tokenizer.eos_token_id:
                break
        assert row.log_prob == pytest.approx(log_prob, abs=2e-3)
    at = {s: part.log_prob.to_numpy() for s, part in table.groupby("strength")}
    assert abs(at[1.0] - at[0.0]).max() > 0.01


def test_a_mask_of_another_model_is_refused(tiny) -> None:
    other = mask_gist(zoo("llama"))
    assert isinstance(other, GistMask)
    with pytest.raises(ValueError, match="transfer"):
        sl.score(tiny, DATA, other)
