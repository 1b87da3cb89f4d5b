"""The laws on one small model of each kind of architecture; `python -m tests.models.sweep` tries all."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import steerlens as sl
from steerlens.models.adapters import HuggingFace
from steerlens.models.decoding import habits
from tests.models import laws
from tests.models.families import V, config_of, model_of
from tests.models.zoo import tokenizer

KINDS = [
    "bert",  # an encoder made causal, positions from the tokens
    "bloom",  # ALiBi
    "cohere",  # logits scaled by the configuration
    "deepseek_v3",  # latent attention, experts
    "falcon_h1",  # attention and a state side by side
    "granite",  # logits divided
    "gptj",  # a bias at the head
    "mamba",  # a state alone
    "opt",  # positions behind an offset
    "recurrent_gemma",  # a soft cap, a state that hears padding
    "rwkv",  # a state that is wrong in batches
]


def of(family: str, **changes: Any) -> HuggingFace:
    return HuggingFace(model_of(family, **changes), tokenizer("bytes"))


@pytest.mark.parametrize("family", KINDS)
def test_every_kind_of_architecture_keeps_the_laws(family: str) -> None:
    model = of(family)
    found = laws.verdicts(model, leave_out=() if family == "gptj" else ("distilled",))
    assert {law: why for law, why in found.items() if why and law != "habits"} == {}
    on = sl.readout(model)
    assert on.d_vocab == V and on.n_tokens == len(model.tokenizer) < V


def test_what_a_configuration_does_to_the_logits_is_found() -> None:
    ends = {f: (sl.readout(of(f)).scale, sl.readout(of(f)).softcap) for f in ("cohere", "granite")}
    cohere, granite = model_of("cohere").config, model_of("granite", logits_scaling=8.0)
    assert ends["cohere"] == (cohere.logit_scale, None) and cohere.logit_scale != 1
    divided = sl.readout(HuggingFace(granite, tokenizer("bytes")))
    assert (divided.scale, divided.softcap) == (1 / 8, None)
    assert (
        sl.readout(of("recurrent_gemma")).softcap
        == model_of("recurrent_gemma").config.logits_soft_cap
    )


@pytest.mark.parametrize("family", ["gptj", "mamba", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_laws_at_its_rounding(family: str, dtype: torch.dtype) -> None:
    model = HuggingFace(model_of(family).to(dtype), tokenizer("bytes"))
    found = laws.verdicts(model, leave_out=("distilled",))
    assert {law: why for law, why in found.items() if why and law != "habits"} == {}


def test_a_law_that_does_not_hold_is_noticed() -> None:
    """Each law fails on a model that breaks it: else it would prove nothing."""
    model = of("gptj")
    head = model.unembedding
    handle = head.register_forward_hook(lambda module, given, made: made * 1.0005)
    with pytest.raises(laws.Failed, match="logits: off"):
        laws.steered_logits(model)
    handle.remove()
    drop = head.register_forward_hook(lambda m, x, y: y + 1e-3 * torch.rand(y.shape))
    with pytest.raises(laws.Failed, match="bit for bit"):
        laws.strength_zero(model)
    drop.remove()

    def another(steer: sl.Steer, there: Any, **options: Any) -> sl.Steer:
        found = sl.transfer(steer, there, **options)
        return replace(found, W=(0.99 if not options else 0.0) * found.W)

    with pytest.raises(laws.Failed, match="transfer from the model: off by 0.01"):
        laws.transfer(model, another)
    with pytest.raises(laws.Failed, match="distilled: 1.00 of what the steer adds"):
        laws.distilled(model, another)


def test_what_changes_the_logits_is_not_used() -> None:
    assert habits(of("mamba")) == (True, True)
    assert habits(of("rwkv")) == (False, False)  # its cached state is wrong for more than one row
    assert not habits(of("recurrent_gemma")).pads


# ---- what is refused ----


def test_a_model_that_sees_the_word_it_predicts_is_refused() -> None:
    config = transformers.BertConfig(
        vocab_size=V,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
    )
    torch.manual_seed(0)
    for made in (transformers.BertForMaskedLM(config), transformers.BertLMHeadModel(config)):
        with pytest.raises(ValueError, match=f"{type(made).__name__} is not causal.*is_decoder"):
            sl.readout(HuggingFace(made.eval(), tokenizer("bytes")))


class HearsOnes(transformers.GPT2LMHeadModel):
    """A model that reads other words where it is given a mask, be it one of ones."""

    def forward(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> Any:
        ids = input_ids if attention_mask is None else (input_ids + 1) % V
        return super().forward(input_ids=ids, **options)


def test_a_model_that_hears_a_mask_of_ones_is_refused() -> None:
    model = HearsOnes(config_of("gpt2")).eval()
    with pytest.raises(ValueError, match="mask of ones moves the logits of HearsOnes"):
        sl.readout(HuggingFace(model, tokenizer("bytes")))


def test_a_bridge_that_differs_from_the_model_it_was_made_of_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    boot = TransformerBridge.boot_transformers

    def wrong(*given: Any, **named: Any) -> Any:
        bridge = boot(*given, **named)
        with torch.no_grad():
            next(bridge.parameters()).mul_(1.1)
        return bridge

    assert sl.load_model("toy-64")
    monkeypatch.setattr(TransformerBridge, "boot_transformers", wrong)
    with pytest.raises(
        ValueError, match=r"GPT2LMHeadModel differ from the model's own by.*plain=True"
    ):
        sl.load_model("toy-64")


def test_a_family_that_only_hugging_face_runs_right_goes_plain(tmp_path: Path) -> None:
    model_of("falcon", alibi=True).save_pretrained(tmp_path)  # TransformerLens: logits 6 % off
    tokenizer("bytes").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="FalconForCausalLM.*plain=True"):
        sl.load_model(tmp_path)
    assert laws.verdicts(sl.load_model(tmp_path, plain=True))["steered logits"] == ""


@pytest.mark.parametrize("plain", [False, True])
def test_weights_that_would_be_drawn_at_random_are_an_error(tmp_path: Path, plain: bool) -> None:
    config = model_of("llama").config
    config.architectures = None
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer("bytes").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lack 1 of LlamaForCausalLM \('lm_head.weight'\)"):
        sl.load_model(tmp_path, plain=plain)


def test_nothing_is_installed_for_a_model_that_reads_pictures_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("something was installed")

    monkeypatch.setattr(subprocess, "check_call", refused)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    model_of("gemma3").save_pretrained(tmp_path)
    tokenizer("bytes").save_pretrained(tmp_path)
    with pytest.raises(ImportError, match=r"pip install torchvision.*plain=True"):
        sl.load_model(tmp_path)
    model = sl.load_model(tmp_path, plain=True)
    assert laws.verdicts(model)["steered logits"] == ""


@pytest.mark.parametrize("family", ["gpt2", "opt", "roberta"])
def test_texts_are_cut_where_positions_end_whatever_a_configuration_says(family: str) -> None:
    model, text = of(family), "the film was good . " * 60
    said = model.n_ctx
    with pytest.warns(UserWarning, match=f"longer than the model's context, {said} tokens"):
        plain = sl.score(model, [text])
    assert len(plain) == said - 1
    model.model.config.max_position_embeddings = 1_000
    with pytest.warns(UserWarning, match=f"longer than the model's context, {said} tokens"):
        assert sl.score(model, [text]).log_prob.tolist() == plain.log_prob.tolist()


def test_a_bridge_is_cut_where_positions_end_too() -> None:
    model = sl.load_model("toy-64")
    model.cfg.n_ctx = 1_000
    with pytest.warns(UserWarning, match="longer than the model's context, 256 tokens"):
        assert len(sl.score(model, ["the film was good . " * 60])) == 255
