"""Models by name, and steers bound to them."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch.testing import assert_close

import steerlens as sl
from steerlens.models.folders import TOYS, find_model
from tests.models.zoo import (
    HookedTransformer,
    folder,
    hook_count,
    other_than,
    random_steer,
    tokenizer,
    tokens_of,
    zoo,
)

FOLDERS = [("gpt2", 0), ("llama", 0), ("gpt2", 5)]
CLASSES = [False] if HookedTransformer is None else [False, True]


@pytest.mark.parametrize("hooked", CLASSES, ids=lambda hooked: "hooked" if hooked else "bridge")
@pytest.mark.parametrize("kind, padding", FOLDERS)
def test_a_folder_gives_the_model_that_hugging_face_reads_from_it(
    kind: str, padding: int, hooked: bool
) -> None:
    path = folder(kind, padding)
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    model = sl.load_model(path, hooked=hooked)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before
    assert not any(m.training for m in model.modules())
    assert hook_count(model) == 0
    assert sl.readout(model).model_id == f"tiny-{kind}"
    reference = transformers.AutoModelForCausalLM.from_pretrained(path)
    tokens = tokens_of(model)
    with torch.no_grad():
        expected, found = reference(tokens).logits, model(tokens)
    assert expected.std() > 0.1
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(
    HookedTransformer is None, reason="this TransformerLens has no HookedTransformer"
)
@pytest.mark.parametrize("name", ["toy-64", "toy-96-llama"])
def test_toy_models_are_the_same_in_both_classes(name: str) -> None:
    one, two = sl.load_model(name), sl.load_model(name, hooked=True)
    assert isinstance(two, HookedTransformer)  # pyright: ignore[reportArgumentType]
    tokens = tokens_of(one)
    with torch.no_grad():
        assert_close(one(tokens), two(tokens), rtol=1e-4, atol=1e-4)
    assert sl.readout(one).digest == sl.readout(two).digest


@pytest.mark.skipif(
    HookedTransformer is not None, reason="this TransformerLens has HookedTransformer"
)
def test_hooked_is_refused_where_there_is_no_such_class() -> None:
    with pytest.raises(ValueError, match="hooked=False"):
        sl.load_model("toy-64", hooked=True)


def test_names_that_are_no_model_folder_are_refused_and_the_toys_listed(tmp_path: Path) -> None:
    for name in (tmp_path / "nowhere", "./nowhere", "~/nowhere-at-all", "toy-9000"):
        with pytest.raises(FileNotFoundError, match="toy-64"):
            sl.load_model(name)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        sl.load_model(tmp_path)


def test_a_saved_steer_is_bound_to_its_model_and_refused_by_another(model, tmp_path: Path) -> None:
    steer = random_steer(model)
    path = sl.save(steer, tmp_path / "joy.safetensors")
    back = sl.load(path, model)
    assert torch.equal(back.W, steer.W) and back.readout.same_as(steer.readout)
    tokens = tokens_of(model)
    with torch.no_grad(), sl.steered(model, back):
        found = model(tokens)
        with sl.steered(model, -1 * steer + steer, 1.0):
            assert torch.equal(model(tokens), found)
    with pytest.raises(ValueError, match=r"raw weights.*transfer"):
        sl.load(path, other_than(model))


def test_a_steer_of_the_raw_model_is_refused_by_the_folded_one(tmp_path: Path) -> None:
    path = sl.save(random_steer(zoo("gpt2")), tmp_path / "joy.safetensors")
    with pytest.raises(ValueError, match="no folding"):
        sl.load(path, zoo("folded"))


@pytest.mark.parametrize("plain", [False, True], ids=["bridge", "plain"])
def test_weights_without_a_tokenizer_are_loaded_with_one_that_is_given(
    plain: bool, tmp_path: Path, unchecked: None
) -> None:
    words = transformers.AutoTokenizer.from_pretrained(folder("gpt2", 0))
    alone = tmp_path / "alone"
    transformers.AutoModelForCausalLM.from_pretrained(folder("gpt2", 0)).save_pretrained(alone)
    found = sl.load_model(alone, plain=plain, tokenizer=words)
    whole = sl.load_model(folder("gpt2", 0), plain=plain)
    assert sl.readout(found).tokens == sl.readout(whole).tokens
    assert sl.readout(found).digest == sl.readout(whole).digest
    with pytest.raises(ValueError, match="tokenizer: got str, expected one of Hugging Face"):
        sl.load_model(alone, plain=plain, tokenizer="gpt2")
    source = transformers.AutoModelForCausalLM.from_pretrained(alone)
    with pytest.raises(ValueError, match=r"name: got GPT2LMHeadModel.*HuggingFace\(model, tokeniz"):
        sl.load_model(source, tokenizer=words)


def words_of(specials: bool) -> Any:
    """A tokenizer that was made in memory, with or without special tokens."""
    vocabulary = {f"w{k}": k for k in range(60)}
    made = Tokenizer(WordLevel(vocabulary, unk_token="w0"))
    made.pre_tokenizer = WhitespaceSplit()
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "w1") if specials else {}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names)


@pytest.mark.parametrize("specials", [True, False], ids=["with", "without"])
def test_a_tokenizer_made_in_memory_is_read_alike_with_and_without_special_tokens(
    specials: bool, tmp_path: Path
) -> None:
    """TransformerLens reads a tokenizer anew from its place, and gives one without special tokens
    some that the model has no embeddings for."""
    config = transformers.GPT2Config(
        vocab_size=60, n_embd=32, n_layer=2, n_head=2, n_positions=32, bos_token_id=None, eos_token_id=None
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    texts, scores = ["w3 w4 w5", "w6 w7"], []
    for plain in (False, True):
        model = sl.load_model(tmp_path, plain=plain, tokenizer=words_of(specials))
        scores.append(sl.score(model, texts).log_prob.to_numpy())
        assert len(sl.generate(model, ["w3"], max_new_tokens=3)) == 1
    assert len(scores[0]) == (
        7 if specials else 3
    )  # a first token, and the end, where there are such
    assert abs(scores[0] - scores[1]).max() < 1e-4


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_no_folder(name: str) -> None:
    with pytest.raises(ValueError, match=f"name: got '{name}', expected a toy model's name"):
        sl.load_model(name)


def test_a_folder_of_an_adapter_says_so(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="holds an adapter of peft.*merge_and_unload"):
        sl.load_model(tmp_path)


def test_loading_draws_nothing_from_the_users_generators() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    sl.load_model("toy-64")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("plain", [True, False])
def test_weights_without_a_tokenizer_say_how_to_give_one(plain: bool, tmp_path: Path) -> None:
    load_plain_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"name: .*no tokenizer beside.*tokenizer="):
        sl.load_model(tmp_path, plain=plain)


@pytest.mark.parametrize("plain", [True, False])
def test_code_beside_weights_is_not_run_and_the_next_step_is_named(
    plain: bool, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    made = load_plain_model()
    made.save_pretrained(tmp_path)
    sl.load_model("toy-64", plain=True).tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "auto_map": {
            "AutoConfig": "mine.MyConfig",
            "AutoModelForCausalLM": "mine.MyLM",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("print('it ran')")
    with pytest.raises(ValueError, match="code of its own, which load_model does not run"):
        sl.load_model(tmp_path, plain=plain)
    assert "it ran" not in capfd.readouterr().out


def load_plain_model() -> Any:
    return sl.load_model("toy-64", plain=True).model


def test_the_folder_that_one_is_in_is_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOYS / "toy-64")
    for name in (".", Path("."), "../toy-64", "toy-64", "toy-64/"):
        assert (find_model(name) or Path()).resolve() == (TOYS / "toy-64").resolve()
    monkeypatch.chdir(TOYS.parent)
    for name in (".", ".."):
        with pytest.raises(FileNotFoundError, match=rf"name: {re.escape(name)} holds no config"):
            find_model(name)


@pytest.mark.parametrize("left", [0, 3_000])
@pytest.mark.parametrize("plain", [True, False])
def test_weights_that_were_copied_half_way_are_named(
    plain: bool, left: int, tmp_path: Path
) -> None:
    shutil.copytree(TOYS / "toy-64", tmp_path, dirs_exist_ok=True)
    os.truncate(tmp_path / "model.safetensors", left)
    with pytest.raises(ValueError, match=f"name: .*weights in '{tmp_path}'.*copy the folder again"):
        sl.load_model(tmp_path, plain=plain)


@pytest.mark.parametrize("plain", [True, False])
def test_weights_of_another_size_than_the_configuration_says_are_named(
    plain: bool, tmp_path: Path
) -> None:
    shutil.copytree(TOYS / "toy-64", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 1_300}))
    with pytest.raises(
        ValueError, match=r"name: the weights in .* lack .*'transformer.wte.weight'"
    ):
        sl.load_model(tmp_path, plain=plain)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "config, said",
    [
        (transformers.T5Config(), "T5.*no causal language model.*encoder-decoder"),
        (transformers.LlavaConfig(), "Llava.*AutoModelForImageTextToText.*HuggingFace"),
    ],
    ids=["t5", "llava"],
)
def test_what_is_of_another_kind_is_named_in_few_words(
    tmp_path: Path, config: Any, said: str, plain: bool
) -> None:
    config.save_pretrained(tmp_path)
    tokenizer("bytes").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"(?s)name: .*{said}") as raised:
        sl.load_model(tmp_path, plain=plain)
    assert len(str(raised.value)) < 500
