"""Compatibility mode is compared with the plain model, and refused where it is another."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import steerlens as sl
from steerlens.models.duplicate import duplicate
from tests.models.families import model_of
from tests.models.zoo import tokenizer

pytestmark = pytest.mark.skipif(
    not hasattr(TransformerBridge, "enable_compatibility_mode"), reason="no compatibility mode"
)
NARROW = {"word_embed_proj_dim": 16}
"""An OPT with a projection between its last norm and its head, into which the norm is folded."""


def saved(folder: Path, family: str, **changes: Any) -> Path:
    model_of(family, **changes).save_pretrained(folder)
    tokenizer("bytes").save_pretrained(folder)
    return folder


def log_probs(model: Any) -> torch.Tensor:
    tokens = torch.randint(2, 300, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(tokens, attention_mask=torch.ones_like(tokens)).log_softmax(-1)


@pytest.mark.parametrize("family, changes", [("opt", NARROW), ("gpt_oss", {})])
def test_one_that_is_another_model_is_refused(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model: Any = sl.load_model(saved(tmp_path, family, **changes))
    before = log_probs(model)
    assert sl.readout(model)
    model.enable_compatibility_mode(disable_warnings=True)
    assert float((log_probs(model) - before).abs().max()) > 0.3
    for verb in (sl.readout, lambda m: sl.score(m, ["the film"]), lambda m: sl.generate(m, ["a"])):
        with pytest.raises(ValueError, match=r"compatibility mode.*nats.*leave"):
            verb(model)


@pytest.mark.parametrize("family", ["opt", "gpt2", "gemma2"])
def test_one_that_is_the_model_is_taken_without_a_word(family: str, tmp_path: Path) -> None:
    model: Any = sl.load_model(saved(tmp_path, family))
    before = log_probs(model)
    model.enable_compatibility_mode(disable_warnings=True)
    assert float((log_probs(model) - before).abs().max()) < 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert sl.readout(model).d_model == 32
        assert sl.readout(duplicate(model))


def test_one_that_was_never_seen_plain_is_warned_of_once(tmp_path: Path) -> None:
    path = str(saved(tmp_path, "opt", **NARROW))
    unseen, seen = (TransformerBridge.boot_transformers(path, device="cpu") for _ in range(2))
    sl.readout(seen)
    for model in (unseen, seen):
        model.enable_compatibility_mode(disable_warnings=True)
    with pytest.warns(UserWarning, match=r"was not seen.*steerlens.readout\(model\) before"):
        sl.readout(unseen)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sl.readout(unseen)
    with pytest.raises(ValueError, match="compatibility mode"):
        sl.readout(seen)


def test_weights_that_changed_before_are_the_plain_model(tmp_path: Path) -> None:
    model: Any = sl.load_model(saved(tmp_path, "gpt2"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    assert sl.readout(model)
    model.enable_compatibility_mode(disable_warnings=True)
    assert sl.readout(model)


@pytest.mark.parametrize("by", ["block", "hook"])
def test_what_a_model_says_under_hooks_is_not_what_it_says_by_itself(by: str) -> None:
    model: Any = sl.load_model("toy-64")
    on = sl.readout(model)
    steer = sl.Steer(torch.eye(64), on)
    half = [("blocks.0.hook_resid_post", lambda t, hook: t * 0.5)]
    with sl.steered(model, steer, 3.0) if by == "block" else model.hooks(fwd_hooks=half):
        sl.score(model, ["the film was good ."])
    model.enable_compatibility_mode(disable_warnings=True)
    assert sl.readout(model).d_model == 64
