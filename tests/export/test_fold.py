"""A folded checkpoint is the hooked model, to whoever loads it; an adapter on the head likewise."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

import steerlens as sl
from steerlens.models.adapters import HuggingFace
from steerlens.models.fold import fold
from steerlens.models.lora import lora
from steerlens.values.affine import AffineSteer
from tests.models.families import model_of
from tests.models.zoo import (
    COMMON,
    LLAMA,
    N_CTX,
    PADDING,
    D,
    HookedTransformer,
    folder,
    random_steer,
    tokenizer,
    zoo,
)

NEOX: dict[str, Any] = {
    "hidden_size": D, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": N_CTX, **COMMON,
}  # fmt: skip
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "neox": ("GPTNeoXConfig", NEOX),
    "gemma3": ("Gemma3TextConfig", {**LLAMA, "head_dim": 8, "sliding_window": 64}),
    "granite": ("GraniteConfig", {**LLAMA, "logits_scaling": 4.0, "tie_word_embeddings": True}),
}
KINDS = ("gpt2", "llama", "gemma2", "cohere", *OTHERS)
STRENGTH = 3.0


@cache
def bridge(kind: str) -> Any:
    if kind not in OTHERS:
        return zoo(kind)
    name, options = OTHERS[kind]
    words = tokenizer("bytes")
    config = getattr(transformers, name)(vocab_size=len(words), initializer_range=0.3, **options)
    torch.manual_seed(0)
    path = Path(mkdtemp(prefix="steerlens-fold-")) / f"tiny-{kind}"
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    words.save_pretrained(path)
    return sl.load_model(path)


def greedy(model: Any, start: Tensor, n: int = 8) -> Tensor:
    tokens = start
    with torch.no_grad():
        for _ in range(n):
            logits = model(tokens)
            logits = getattr(logits, "logits", logits)
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
    return tokens


def prompts(model: Any) -> Tensor:
    return torch.randint(2, 40, (2, 5), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
def test_the_folded_model_writes_the_hooked_models_text(kind: str, tmp_path: Path) -> None:
    model = bridge(kind)
    steer, start = random_steer(model, size=0.8), prompts(model)
    if kind == "cohere" and HookedTransformer is not None:
        pytest.skip(
            "TransformerLens 3.9 computes Cohere otherwise than transformers; load_model refuses it"
        )
    unsteered, before = greedy(model, start), model.W_U.detach().clone()
    path = fold(model, steer, STRENGTH, tmp_path / "steered")
    assert torch.equal(model.W_U, before)
    again = transformers.AutoModelForCausalLM.from_pretrained(path)
    found = again.generate(
        start, attention_mask=torch.ones_like(start), do_sample=False, max_new_tokens=8,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with sl.steered(model, steer, STRENGTH):
        assert torch.equal(found, greedy(model, start))
    assert not torch.equal(found, unsteered)
    assert again.config.tie_word_embeddings is False
    embeds = model.original_model.get_input_embeddings()
    embeds = getattr(embeds, "_original_component", embeds)
    assert torch.equal(again.get_input_embeddings().weight, embeds.weight)
    about = json.loads((path / "steerlens.json").read_text(encoding="utf-8"))
    assert (about["strength"], about["readout_digest"]) == (STRENGTH, steer.readout.digest)


def test_a_plain_hugging_face_model_is_folded_too(tmp_path: Path) -> None:
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder("gpt2"))
    steer, start = random_steer(zoo("gpt2"), size=0.8), prompts(plain)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        fold(plain, steer, STRENGTH, tmp_path / "x")
    )
    with sl.steered(zoo("gpt2"), steer, STRENGTH):
        assert torch.equal(greedy(again, start), greedy(zoo("gpt2"), start))
    assert plain.config.tie_word_embeddings is True  # the one in memory is as it was


def test_a_background_is_folded_in(tmp_path: Path) -> None:
    model = zoo("gpt2")
    both = random_steer(model, seed=1).with_background(random_steer(model, seed=2))
    again = transformers.AutoModelForCausalLM.from_pretrained(
        fold(model, both, -2.0, tmp_path / "x")
    )
    tokens = prompts(model)
    with torch.no_grad(), sl.steered(model, both, -2.0):
        expected = model(tokens)
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, expected, atol=1e-3, rtol=1e-4)


def affine(model: Any) -> AffineSteer:
    """A constant that changes what is written, besides a steer."""
    steer = random_steer(model)
    return AffineSteer(steer, torch.randn(D, generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("family", ["gptj", "gpt_neox", "opt"])
def test_a_constant_becomes_a_bias_of_the_head_or_of_the_norm_before_it(
    family: str, tmp_path: Path
) -> None:
    model = HuggingFace(model_of(family), tokenizer("bytes"))
    value, tokens = affine(model), torch.randint(2, 300, (2, 5))
    again = transformers.AutoModelForCausalLM.from_pretrained(
        fold(model, value, STRENGTH, tmp_path / "x")
    )
    with torch.no_grad():
        found = again(tokens).logits
        with sl.steered(model, value, STRENGTH):
            expected = model.model(tokens).logits
        with sl.steered(model, value.steer, STRENGTH):
            without = model.model(tokens).logits
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)
    assert float((without - expected).abs().max()) > 0.5


def test_a_constant_is_folded_through_a_bridge_too(tmp_path: Path) -> None:
    model, tokens = zoo("gpt2"), prompts(zoo("gpt2"))
    path = fold(model, affine(model), STRENGTH, tmp_path / "x")
    with torch.no_grad(), sl.steered(model, affine(model), STRENGTH):
        expected = model(tokens)
    with torch.no_grad():
        found = transformers.AutoModelForCausalLM.from_pretrained(path)(tokens).logits
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)


def test_a_constant_without_a_place_is_refused_by_name(tmp_path: Path, unchecked) -> None:
    for kind in ("llama", "gemma2"):
        with pytest.raises(ValueError, match="a constant, for which .* has no bias.*logit_steer"):
            fold(zoo(kind), affine(zoo(kind)), STRENGTH, tmp_path / "x")
    model = zoo("gpt2")
    W = -torch.eye(D)  # at strength 1 nothing is left of what comes in
    W[0, 0] = 0
    gone = AffineSteer(sl.Steer(W, sl.readout(model), "gone"), affine(model).shift)
    with pytest.raises(ValueError, match=r"no inverse of I \+ sW"):
        fold(model, gone, 1.0, tmp_path / "x")
    with pytest.raises(ValueError, match="acts under conditions.*weights act on every token"):
        fold(model, random_steer(model).when("new"), 1.0, tmp_path / "x")  # pyright: ignore
    assert not list(tmp_path.iterdir())


def test_texts_are_read_as_before(tmp_path: Path) -> None:
    path = fold(zoo("gpt2"), random_steer(zoo("gpt2")), 1.0, tmp_path / "x")
    mine, before = (transformers.AutoTokenizer.from_pretrained(p) for p in (path, folder("gpt2")))
    for text in ("the film was good", " a slow plot?", "nothing"):
        for special in (True, False):
            assert (
                mine(text, add_special_tokens=special)["input_ids"]
                == before(text, add_special_tokens=special)["input_ids"]
            )


@pytest.mark.parametrize("plain", [True, False])
def test_the_tokenizer_that_a_model_was_given_goes_with_it(plain: bool, tmp_path: Path) -> None:
    made: Any = sl.load_model(folder("gpt2", PADDING), plain=plain)
    words = made.tokenizer
    words.add_special_tokens({"additional_special_tokens": ["<|user|>"]})
    words.chat_template = "<|user|> {{ messages[0]['content'] }}"
    path = fold(made, random_steer(made), 1.0, tmp_path / "x")
    again = transformers.AutoTokenizer.from_pretrained(path)
    assert again.get_vocab() == words.get_vocab()
    assert again.chat_template == words.chat_template
    read = [t("<|user|> the film", add_special_tokens=False)["input_ids"] for t in (words, again)]
    assert read[0] == read[1]


def test_settings_of_generate_that_transformers_reads_are_written_as_they_came(
    tmp_path: Path,
) -> None:
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder("gpt2"))
    plain.generation_config.temperature = 0.7  # without do_sample, as many on the hub
    path = fold(plain, random_steer(HuggingFace(plain)), 1.0, tmp_path / "x")
    again = transformers.AutoModelForCausalLM.from_pretrained(path).generation_config
    assert again.temperature == 0.7 and not again.do_sample
    assert plain.generation_config.temperature == 0.7


def test_a_model_that_reads_pictures_too_is_folded_as_what_it_is(tmp_path: Path) -> None:
    words, small = tokenizer("bytes"), {"hidden_size": 16, "intermediate_size": 32}
    sees = {
        **small,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(vocab_size=len(words), **LLAMA),
        vision_config=transformers.CLIPVisionConfig(**sees),
        image_token_index=len(words) - 1,
    )
    torch.manual_seed(0)
    model = HuggingFace(transformers.LlavaForConditionalGeneration(config).eval(), words)
    steer, tokens = random_steer(model), prompts(model)
    path = fold(model, steer, STRENGTH, tmp_path / "x")
    again = transformers.LlavaForConditionalGeneration.from_pretrained(path)
    with torch.no_grad(), sl.steered(model, steer, STRENGTH):
        expected = model.model(tokens).logits
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, expected, atol=1e-4, rtol=1e-4)


def test_a_head_of_another_dtype_than_the_body_is_refused_by_name(tmp_path: Path) -> None:
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        folder("llama"), dtype=torch.bfloat16, tie_word_embeddings=False
    )
    plain.lm_head.float().register_forward_pre_hook(lambda head, given: (given[0].float(),))
    with pytest.raises(ValueError, match=r"head is torch.float32.*torch.bfloat16.*rebase"):
        fold(plain, random_steer(HuggingFace(plain)), 1.0, tmp_path / "x")
    assert not list(tmp_path.iterdir())


class Wrapped(torch.nn.Module):
    """A model inside a module that passes on what it is asked, as peft's."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.base_model = model

    def __getattr__(self, name: str) -> Any:
        return self._modules.get(name) or getattr(self._modules["base_model"], name)

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **given: Any) -> Any:
        return self.base_model(input_ids=input_ids, attention_mask=attention_mask, **given)


def test_a_wrapper_around_a_model_is_refused_by_name(tmp_path: Path) -> None:
    inner = transformers.AutoModelForCausalLM.from_pretrained(folder("gpt2"))
    model = HuggingFace(Wrapped(inner), tokenizer("bytes"))
    for write in (fold, lora):
        with pytest.raises(ValueError, match=r"a Wrapped lies around the model.*get_base_model"):
            write(model, random_steer(model), 1.0, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    model = zoo("bfloat16")
    path = fold(model, random_steer(model), 1.0, tmp_path / "x")
    weights = load_file(path / "model.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["folded", "native"])
def test_weights_that_are_not_plain_are_refused_and_nothing_is_left(
    kind: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="raw|no Hugging Face model"):
        fold(zoo(kind), random_steer(zoo(kind)), 2.0, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_head_that_cannot_be_untied_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tie(self, *args: Any, **options: Any) -> None:
        self.lm_head.weight = self.transformer.wte.weight

    steer = random_steer(zoo("gpt2"))
    monkeypatch.setattr(transformers.GPT2LMHeadModel, "tie_weights", tie)
    with pytest.raises(ValueError, match="GPT2LMHeadModel.*cannot be untied"):
        fold(zoo("gpt2"), steer, 2.0, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steerlens.models import fold as module
    from tests.models.zoo import hook_count

    model, path = zoo("gpt2"), tmp_path / "x"
    fold(model, random_steer(model), 1.0, path)
    hooks, learned = hook_count(model), [p.requires_grad for p in model.parameters()]

    def interrupted(*_: Any) -> float:
        raise KeyboardInterrupt

    for name in ("_reloaded_error", "_tokenizer", "_logits"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, name, interrupted)
            fold(model, random_steer(model), 2.0, path, overwrite=True)
        assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert json.loads((path / "steerlens.json").read_text())["strength"] == 1.0
    assert hook_count(model) == hooks
    assert [p.requires_grad for p in model.parameters()] == learned


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    model, path = zoo("gpt2"), tmp_path / "x"
    steer = random_steer(model)
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="not empty; choose another"):
            fold(model, steer, 1.0, path, overwrite=overwrite)
    assert (path / "thesis.txt").read_text() == "years of work"
    shutil.rmtree(path)
    fold(model, steer, 1.0, path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        fold(model, steer, 2.0, path)
    fold(model, steer, 2.0, path, overwrite=True)
    assert json.loads((path / "steerlens.json").read_text())["strength"] == 2.0
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_what_is_no_map_of_the_context_is_refused(tmp_path: Path, unchecked) -> None:
    from tests.models.zoo import random_reft

    model = zoo("gpt2")
    with pytest.raises(ValueError, match="Reft.*linear map"):
        fold(model, random_reft(model), 1.0, tmp_path / "x")  # pyright: ignore
    with pytest.raises(ValueError, match="one finite number"):
        fold(model, random_steer(model), float("nan"), tmp_path / "x")
    with pytest.raises(ValueError, match="lives on the W_U"):
        fold(model, random_steer(zoo("toy-64")), 1.0, tmp_path / "x")
    assert not list(tmp_path.iterdir())


# ---- as an adapter ----


def adapted(kind: str, path: Path, tokens: Tensor) -> Tensor:
    """Logits of the plain model with the adapter, from its files, by peft's rule."""
    config = json.loads((path / "adapter_config.json").read_text())
    (name,) = config["target_modules"]
    weights = load_file(path / "adapter_model.safetensors")
    A, B = (weights[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    assert A.shape[0] == B.shape[1] == config["r"]
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder(kind))
    head = plain.get_submodule(name)
    scaling = config["lora_alpha"] / config["r"]
    bias = weights.get(f"base_model.model.{name}.lora_B.bias", torch.zeros(len(B)))
    assert config["lora_bias"] == (f"base_model.model.{name}.lora_B.bias" in weights)
    head.register_forward_hook(
        lambda m, given, out: out + scaling * ((given[0] @ A.mT) @ B.mT + bias)
    )
    with torch.no_grad():
        return plain(tokens).logits


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("made", [random_steer, affine])
def test_an_adapter_on_the_head_is_the_steer(
    kind: str, made: Callable[[Any], Any], tmp_path: Path
) -> None:
    model = zoo(kind)
    steer, tokens = made(model), prompts(model)
    found = adapted(kind, lora(model, steer, STRENGTH, tmp_path / "joy"), tokens)
    with torch.no_grad():
        plain = model(tokens)
        with sl.steered(model, steer, STRENGTH):
            expected = model(tokens)
    assert float((plain - expected).abs().max()) > 0.5
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def test_an_adapter_of_a_rank_is_the_steer_of_that_rank(tmp_path: Path, unchecked) -> None:
    model = zoo("gpt2")
    steer, tokens = random_steer(model), prompts(model)
    path = lora(model, steer, 1.0, tmp_path, rank=3)
    assert json.loads((path / "adapter_config.json").read_text())["r"] == 3
    with torch.no_grad(), sl.steered(model, steer.truncate(3)):
        expected = model(tokens)
    torch.testing.assert_close(adapted("gpt2", path, tokens), expected, atol=1e-3, rtol=1e-4)
    for rank in (0, D + 1, 2.5, "4", True):
        with pytest.raises(ValueError, match=f"rank: got .*expected a whole number, 1 … {D}"):
            lora(model, steer, 1.0, tmp_path, rank=rank)  # pyright: ignore


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
@pytest.mark.parametrize("made", [random_steer, affine])
def test_peft_reads_it(made: Callable[[Any], Any], tmp_path: Path) -> None:
    peft = pytest.importorskip(
        "peft", reason="peft is not installed; the adapter's files are checked by hand"
    )
    model = zoo("gpt2")
    steer, tokens = made(model), prompts(model)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder("gpt2"))
    found = peft.PeftModel.from_pretrained(plain, lora(model, steer, STRENGTH, tmp_path))
    with torch.no_grad(), sl.steered(model, steer, STRENGTH):
        expected = model(tokens)
    with torch.no_grad():
        torch.testing.assert_close(found(tokens).logits, expected, atol=1e-3, rtol=1e-4)
        with found.disable_adapter():
            torch.testing.assert_close(found(tokens).logits, model(tokens), atol=1e-3, rtol=1e-4)


class Own(transformers.GPT2LMHeadModel):
    """A class of the user's, as code beside weights brings it."""


def test_code_beside_weights_is_not_asked_for(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("builtins.input", lambda *said: pytest.fail(f"asked: {said}"))
    plain = sl.load_model("toy-64", plain=True)
    made = Own(plain.model.config).eval()
    made.load_state_dict(plain.model.state_dict())
    made.config.auto_map = {"AutoModelForCausalLM": "mine.Own", "AutoConfig": "mine.OwnConfig"}
    model = sl.models.HuggingFace(made, plain.tokenizer)
    steer = sl.Steer(0.1 * torch.eye(64), sl.readout(model))
    assert (sl.export.fold(model, steer, 1.0, tmp_path / "folded") / "config.json").is_file()


def test_nothing_is_folded_inside_a_steered_block(tmp_path: Path) -> None:
    model = bridge("gpt2")
    with (
        sl.steered(model, random_steer(model), 2.0),
        pytest.raises(RuntimeError, match="leave the block"),
    ):
        fold(model, random_steer(model), 1.0, tmp_path / "never")
    assert not (tmp_path / "never").exists()
