"""Models that are spread over devices and the disk (`device_map`) give what they give in one piece."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import steerlens as sl
from steerlens.models.adapters import HuggingFace
from tests.models.zoo import LLAMA, TEXTS, tokenizer

pytest.importorskip("accelerate")

DATA = sl.Labelled(TEXTS, (1.0, 0.5, 0.0, -1.0))
HERE = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head")  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer("bytes")), tie_word_embeddings=False, **LLAMA)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def spread(saved: Path, scratch: Path, *on_disk: str) -> HuggingFace:
    where = {name: "disk" if name in on_disk else "cpu" for name in HERE}
    model = AutoModelForCausalLM.from_pretrained(
        saved, device_map=where, offload_folder=scratch / "offload"
    )
    return HuggingFace(model.eval(), tokenizer("bytes"))


def test_layers_on_the_disk_give_the_same_states_and_steer_the_same(
    saved: Path, tmp_path: Path
) -> None:
    whole = HuggingFace(AutoModelForCausalLM.from_pretrained(saved).eval(), tokenizer("bytes"))
    parted = spread(saved, tmp_path, "model.embed_tokens", "model.layers.0", "model.layers.1")
    assert any(p.is_meta for p in parted.model.parameters())
    states = [sl.collect(model, DATA, progress=False) for model in (whole, parted)]
    assert states[0].readout.digest == states[1].readout.digest
    for a, b in zip(states[0].chunks(10**6), states[1].chunks(10**6), strict=True):
        assert torch.equal(a.hidden, b.hidden)
    d = states[0].d_model
    W = torch.randn(d, d, generator=torch.Generator().manual_seed(0)) / d
    steers = [sl.Steer(W, some.readout, "random") for some in states]
    one, two = (
        sl.score(model, list(TEXTS), steer, strengths=(-1, 0, 1))
        for model, steer in zip((whole, parted), steers, strict=True)
    )
    assert one.equals(two)


def test_an_output_embedding_without_numbers_is_named_with_the_remedy(
    saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"output embedding is on .*'lm_head': 'cpu'"):
        sl.readout(spread(saved, tmp_path, "lm_head"))
