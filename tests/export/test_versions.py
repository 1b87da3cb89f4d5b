"""The same weights in another form: the same steer, the same words."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import steerlens as sl
from steerlens.export.versions import rebase, rebase_affine
from steerlens.values.affine import AffineSteer
from tests.contract import laws
from tests.models.zoo import folder, random_steer, tokenizer, tokens_of, zoo


@cache
def compatible(kind: str) -> Any:
    """TransformerLens' compatibility mode: norms folded, writing weights and unembedding centred."""
    model = sl.load_model(folder(kind))
    model.enable_compatibility_mode(disable_warnings=True)
    return model


def log_probs(model: Any, value: Any, strength: float, tokens: Tensor) -> Tensor:
    with torch.no_grad(), sl.steered(model, value, strength):
        return model(tokens).float().log_softmax(-1)


def kl(p: Tensor, q: Tensor) -> float:
    return float((p.exp() * (p - q)).sum(-1).mean())


NEAR = 1e-6
"""Nats: what rounding does to logits of some ten, on the way through folded weights."""


def test_folding_a_norm_without_bias_is_a_change_of_scale() -> None:
    raw, folded = zoo("llama"), compatible("llama")
    steer, tokens = random_steer(raw), tokens_of(raw)
    moved = rebase(steer, folded)
    expected = log_probs(raw, steer, 2.0, tokens)
    assert kl(expected, log_probs(folded, moved, 2.0, tokens)) < NEAR
    # the same numbers in the other basis are another steer
    unmoved = sl.Steer(steer.W, sl.readout(folded))
    assert kl(expected, log_probs(folded, unmoved, 2.0, tokens)) > 0.01
    with pytest.raises(ValueError, match="lives on the W_U"):
        log_probs(folded, steer, 2.0, tokens)
    again = rebase(moved, raw)
    torch.testing.assert_close(again.W, steer.W, atol=1e-4, rtol=1e-4)


@cache
def gptj(folded: bool) -> Any:
    """A tiny GPT-J, whose head has a bias: raw, or with its final norm folded by hand."""
    from transformer_lens.model_bridge import TransformerBridge

    config = transformers.GPTJConfig(
        vocab_size=len(tokenizer("bytes")), n_embd=32, n_layer=1, n_head=4, n_positions=40, rotary_dim=8,
        initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    hf: Any = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        norm, head = hf.transformer.ln_f, hf.lm_head
        for p in (norm.weight, norm.bias, head.bias):
            p.add_(0.4 * torch.randn_like(p))
        if folded:
            head.bias.add_(norm.bias @ head.weight.mT)
            head.weight.mul_(norm.weight)
            norm.weight.fill_(1.0)
            norm.bias.zero_()
    hf.config.architectures = ["GPTJForCausalLM"]
    return TransformerBridge.boot_transformers(
        "tiny-gptj", hf_model=hf, tokenizer=zoo("gpt2").tokenizer, device="cpu"
    )


def test_a_norms_bias_is_refused_unless_it_is_carried() -> None:
    raw, folded = gptj(False), gptj(True)
    steer, tokens = random_steer(raw), tokens_of(raw)
    with pytest.raises(ValueError, match="affine.*norm's bias.*rebase_affine"):
        rebase(steer, folded)
    moved = rebase_affine(steer, folded)
    expected = log_probs(raw, steer, 2.0, tokens)
    assert kl(expected, log_probs(folded, moved, 2.0, tokens)) < NEAR
    assert kl(expected, log_probs(folded, moved.steer, 2.0, tokens)) > 1e-3  # the bias matters
    back = rebase_affine(moved, raw)
    torch.testing.assert_close(back.steer.W, steer.W, atol=1e-4, rtol=1e-4)
    assert float(back.shift.norm()) < 1e-4 * float(moved.shift.norm())


def test_a_layer_norm_that_is_folded_with_its_mean_loses_a_direction() -> None:
    raw, folded = zoo("gpt2"), compatible("gpt2")
    tokens = tokens_of(raw)
    with pytest.raises(ValueError, match="took the mean over d_model out of W_U"):
        rebase_affine(random_steer(raw), folded)
    # back to the raw weights every steer can go
    steer = random_steer(folded)
    with pytest.raises(ValueError, match="affine"):
        rebase(steer, raw)
    moved = rebase_affine(steer, raw)
    expected = log_probs(folded, steer, 2.0, tokens)
    assert kl(expected, log_probs(folded, steer, 0.0, tokens)) > 0.1
    assert kl(expected, log_probs(raw, moved, 2.0, tokens)) < NEAR
    # and that one writes nothing where it would be lost
    again = rebase_affine(moved, folded)
    assert kl(expected, log_probs(folded, again, 2.0, tokens)) < NEAR


def test_a_copy_in_bfloat16_takes_the_steer_as_it_is() -> None:
    raw, half = zoo("gpt2"), zoo("bfloat16")
    steer, tokens = random_steer(raw), tokens_of(raw)
    with pytest.raises(ValueError, match="the same but for rounding.*rebase"):
        log_probs(half, steer, 1.0, tokens)
    moved = rebase(steer, half)
    assert torch.equal(moved.W, steer.W) and moved.readout is sl.readout(half)
    true = log_probs(raw, steer, 1.0, tokens)
    assert kl(true, log_probs(raw, steer, 0.0, tokens)) > 0.1
    assert kl(true, log_probs(half, moved, 1.0, tokens)) < 0.01
    assert torch.equal(rebase(moved, raw).W, steer.W)


def test_a_centred_unembedding_takes_the_steer_as_it_is() -> None:
    steer = random_steer(zoo("gpt2"))
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder("gpt2"))
    from transformer_lens.model_bridge import TransformerBridge

    with torch.no_grad():
        W = hf.lm_head.weight  # tied no more
        hf.lm_head.weight = torch.nn.Parameter(W - W.mean(0))
    centred = TransformerBridge.boot_transformers(
        "tiny", hf_model=hf, tokenizer=zoo("gpt2").tokenizer, device="cpu"
    )
    moved = rebase(steer, centred)
    assert torch.equal(moved.W, steer.W)
    tokens = tokens_of(zoo("gpt2"))
    found, expected = (
        log_probs(m, s, 2.0, tokens) for m, s in ((centred, moved), (zoo("gpt2"), steer))
    )
    assert kl(expected, found) < NEAR


def test_the_same_model_is_the_same_steer() -> None:
    steer = random_steer(zoo("gpt2"))
    moved = rebase(steer, zoo("gpt2"))
    assert torch.equal(moved.W, steer.W) and moved.name == steer.name


@pytest.mark.parametrize("other", ["toy-64", "llama", "gemma2", "native", "padded"])
def test_other_weights_are_refused(other: str) -> None:
    with pytest.raises(ValueError, match="does not hold the weights.*transfer"):
        rebase(random_steer(zoo("gpt2")), zoo(other))


def test_weights_that_were_trained_on_are_refused() -> None:
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder("gpt2"))
    from transformer_lens.model_bridge import TransformerBridge

    with torch.no_grad():
        hf.lm_head.weight = torch.nn.Parameter(hf.lm_head.weight.clone())
        hf.lm_head.weight[7] += 0.05
    tuned = TransformerBridge.boot_transformers(
        "tiny", hf_model=hf, tokenizer=zoo("gpt2").tokenizer, device="cpu"
    )
    with pytest.raises(ValueError, match="differ by"):
        rebase(random_steer(zoo("gpt2")), tuned)


# ---- the value ----


def make_affine() -> AffineSteer:
    steer = random_steer(zoo("gpt2"))
    return AffineSteer(steer, torch.randn(32, generator=torch.Generator().manual_seed(4)))


def test_an_affine_steer_keeps_the_laws() -> None:
    c = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(1))
    laws(make_affine(), {"unembed.hook_in": c})


def test_an_affine_steer_is_read_back(tmp_path: Path) -> None:
    value = make_affine()
    back = sl.load(sl.save(value, tmp_path / "affine.safetensors"), zoo("gpt2"))
    assert torch.equal(back.shift, value.shift) and torch.equal(back.steer.W, value.steer.W)


def test_a_shift_that_is_none_is_refused(unchecked) -> None:
    steer = random_steer(zoo("gpt2"))
    with pytest.raises(ValueError, match="shape"):
        AffineSteer(steer, torch.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        AffineSteer(steer, torch.full((32,), torch.nan))
