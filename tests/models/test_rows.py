"""Rows before the input are read as the tokens that they stand for, or refused by name."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

import steerlens as sl
from steerlens.methods.baselines.latent_vectors import fit_latent_vectors
from steerlens.methods.baselines.mean_difference import fit_mean_difference
from steerlens.methods.hidden.fit import fit_hidden_steer
from steerlens.methods.prompt.soft_prompt import SoftPrompt, prompt_sites
from steerlens.models.adapters import HuggingFace
from steerlens.models.embeddings import embeddings
from steerlens.models.hooks import adapter
from steerlens.models.rows import check_rows
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.training import Training
from tests.models.families import model_of
from tests.models.laws import traces
from tests.models.zoo import TEXTS, tokenizer

DATA = sl.Labelled(TEXTS, (1.0, -1.0, 0.5, -0.5))


def plain(family: str, **changes: Any) -> HuggingFace:
    return HuggingFace(model_of(family, **changes), tokenizer("bytes"))


def bridge(family: str, folder: Path, **changes: Any) -> Any:
    model_of(family, **changes).save_pretrained(folder)
    tokenizer("bytes").save_pretrained(folder)
    return sl.load_model(folder)


def sites(model: Any, kind: str) -> tuple[str, ...]:
    n = adapter(model).n_layers
    return prompt_sites(kind, {"soft": (), "deep": (n - 1,), "kv": tuple(range(n))}[kind])


@pytest.mark.parametrize("family", ["llama", "ctrl", "mamba", "rwkv"])
def test_where_rows_are_tokens_nothing_is_said(family: str) -> None:
    model = plain(family)  # CTRL goes on to write into what its embedding gave
    with torch.no_grad():  # some classes set themselves up at their first pass
        adapter(model).logits(torch.zeros(1, 3, dtype=torch.long), None)
    before = traces(model)
    for kind in ("soft", "deep"):
        check_rows(model, sites(model, kind))
    assert traces(model) == before


def test_embeddings_by_layer_are_the_fillers_and_refused_in_every_verb() -> None:
    model = plain("gemma4_text")
    tokens, ones = torch.tensor([[5, 9, 7, 40, 41, 42]]), torch.ones(1, 6, dtype=torch.long)
    rows = embeddings(model)[tokens[0, :3]]
    prompt = SoftPrompt(rows[None], 0 * rows[None], "soft", (), sl.readout(model))
    # by hand: fillers with the embeddings of the tokens are not the tokens
    filled = torch.cat([0 * tokens[:, :3], tokens[:, 3:]], 1)
    handle = model.model.get_input_embeddings().register_forward_hook(
        lambda m, given, made: torch.cat([rows[None], made[:, 3:]], 1)
    )
    with torch.no_grad():
        found = model.logits(filled, ones).log_softmax(-1)
        handle.remove()
        expected = model.logits(tokens, ones).log_softmax(-1)
    assert float((found - expected)[:, 3:].abs().max()) > 0.1
    said = "Gemma4ForCausalLM does not read rows at hook_embed as the tokens.*fit_steer"
    for verb in (
        lambda: sl.score(model, TEXTS, prompt),
        lambda: sl.collect(model, TEXTS, intervention=prompt, progress=False),
        lambda: sl.generate(model, ["the film"], prompt),
        lambda: sl.fit_prompt(model, DATA, length=2, progress=False),
    ):
        with pytest.raises(ValueError, match=said):
            verb()


@pytest.mark.parametrize("family", ["falcon_h1", "deepseek_v3"])
def test_keys_and_values_that_are_not_all_that_is_kept_are_refused(
    family: str, tmp_path: Path
) -> None:
    """A state beside them; a part of the keys that comes by another way."""
    if family == "deepseek_v3" and int(version("transformer-lens").split(".")[0]) < 4:
        pytest.skip("this TransformerLens' bridge of DeepSeek is another model, which is refused")
    model = bridge(family, tmp_path)
    with pytest.raises(ValueError, match="does not read rows at blocks.0.attn.hook_k and"):
        sl.fit_prompt(model, DATA, length=2, kind="kv", progress=False)
    for kind in ("soft", "deep"):
        check_rows(model, sites(model, kind))


def test_layers_without_keys_and_values_are_named(tmp_path: Path) -> None:
    model = bridge("jamba", tmp_path)
    said = r"JambaForCausalLM keeps more of a token.*no blocks.0.attn.hook_k \(of 4 layers 2 lack"
    for layers in (None, (1, 3)):  # those that have them would stand on the fillers' states
        with pytest.raises(ValueError, match=said):
            sl.fit_prompt(model, DATA, length=2, kind="kv", layers=layers, progress=False)


@pytest.mark.parametrize("loaded", ["plain", "bridge"])
def test_embeddings_narrower_than_the_layers_take_the_kinds_of_one_width(
    loaded: str, tmp_path: Path
) -> None:
    narrow = {"word_embed_proj_dim": 16, "do_layer_norm_before": False}  # as OPT-350m
    model = plain("opt", **narrow) if loaded == "plain" else bridge("opt", tmp_path, **narrow)
    fit = sl.fit_prompt(model, DATA, length=2, epochs=1, progress=False)
    assert fit.value.rows.shape == (1, 2, 16)
    with pytest.raises(ValueError, match=r"16 at hook_embed, 32 at .*kind='soft'$"):
        sl.fit_prompt(model, DATA, length=2, kind="deep", progress=False)


@pytest.mark.parametrize("loaded", ["plain", "bridge"])
def test_layers_wider_than_the_heads_input_are_edited_where_a_width_of_their_own_does(
    loaded: str, tmp_path: Path
) -> None:
    narrow = {"word_embed_proj_dim": 16, "do_layer_norm_before": False}  # as OPT-350m
    model = plain("opt", **narrow) if loaded == "plain" else bridge("opt", tmp_path, **narrow)
    once = Training(epochs=1)
    shift = fit_mean_difference(model, DATA, layer=0)
    vectors = fit_latent_vectors(model, DATA, layer=0, n_texts=4, n_steps=2)
    edit = sl.fit_reft(model, DATA, rank=1, training=once, progress=False).value
    assert shift.vector.shape == vectors.vector.shape == (32,) and edit.R.shape[-1] == 32
    assert fit_mean_difference(model, DATA, layer="unembed").vector.shape == (16,)
    for value in (shift, vectors, replace(edit, b=edit.b + 1)):
        plain_text, moved = (
            sl.score(model, ["the film"], value, strengths=(s,)).log_prob for s in (0.0, 3.0)
        )
        assert float((plain_text - moved).abs().max()) > 1e-6
    elsewhere = replace(shift, site=UNEMBED_IN, vector=torch.ones(16))
    assert sl.score(model, ["the film"], elsewhere, strengths=(1.0,)).log_prob.notna().all()
    with pytest.raises(ValueError, match="made for states of width 8, those at .* are 32 wide"):
        sl.score(model, ["the film"], replace(shift, vector=torch.ones(8)), strengths=(1.0,))
    with pytest.raises(ValueError, match=r"are 32 wide where the unembedding reads 16.*fit_reft"):
        fit_hidden_steer(model, DATA, site="blocks.0.hook_resid_post", rank=1, progress=False)
    for site in ("hook_embed", UNEMBED_IN):
        found = fit_hidden_steer(model, DATA, site=site, rank=1, training=once, progress=False)
        assert found.value.A.shape == (16, 1)
