"""A read-out is the model's, whatever its class."""

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.models.hooks import add_hooks, check_site, convention
from steerlens.models.readout import readout
from tests.models.zoo import BUILDERS, PADDING, by_hand, contexts, near, tokens_of, zoo


def test_readout_turns_contexts_into_the_models_logits(model) -> None:
    tokens = tokens_of(model)
    with torch.no_grad():
        logits = model(tokens).float()
    c = contexts(model, tokens)
    assert logits.std() > 0.1  # a model whose logits are all alike would fit any read-out
    assert_close(readout(model).logits(c), logits, **near(model))
    assert_close(by_hand(model, c), logits, **near(model))


def test_readout_names_the_tokens_that_the_tokenizer_has(model) -> None:
    on = readout(model)
    assert on.n_tokens == min(len(model.tokenizer), on.d_vocab)
    assert on.special == set(model.tokenizer.all_special_ids)
    word = on.word_ids[len(on.word_ids) // 2]
    assert model.tokenizer.decode([int(word)]).strip() == on.tokens[word].strip()


def test_scale_and_soft_cap_are_found() -> None:
    assert (readout(zoo("gemma2")).softcap, readout(zoo("gemma2")).scale) == (4.0, 1.0)
    assert (readout(zoo("cohere")).softcap, readout(zoo("cohere")).scale) == (None, 0.25)
    assert not readout(zoo("gemma2")).convex and readout(zoo("cohere")).convex


def test_padding_rows_of_the_vocabulary_are_no_words() -> None:
    on = readout(zoo("padded"))
    assert on.d_vocab - on.n_tokens == PADDING
    assert int(on.word_ids.max()) < on.n_tokens


def test_folding_gives_another_readout_and_an_equal_load_the_same() -> None:
    raw = readout(zoo("gpt2"))
    assert not raw.same_as(readout(zoo("folded")))
    assert raw.digest == readout(BUILDERS["gpt2"]()).digest
    if "hooked-gpt2" in BUILDERS:
        assert raw.digest == readout(zoo("hooked-gpt2")).digest


def test_logits_that_the_readout_cannot_express_are_refused_by_architecture(tiny) -> None:
    tiny.add_hook("unembed.hook_out", lambda z, hook: z**2)
    try:
        with pytest.raises(ValueError, match="the logits of GPT2LMHeadModel"):
            readout(tiny)
    finally:
        tiny.hook_dict["unembed.hook_out"].remove_hooks()
    assert readout(tiny).d_vocab


def test_an_unknown_site_is_refused_with_the_nearest_names(model) -> None:
    with pytest.raises(KeyError, match=r"'unembed\.hook_inn'.*unembed\.hook_in"):
        check_site(model, "unembed.hook_inn")
    with (
        pytest.raises(KeyError, match="nearest"),
        add_hooks(model, (("unembed.hook_in", torch.relu), ("nowhere", torch.relu))),
    ):
        raise AssertionError("the block ran")


def test_texts_begin_as_the_model_expects(model) -> None:
    how = convention(model, readout(model))
    assert how.bos == bool(model.cfg.default_prepend_bos)
    assert how.n_ctx == model.cfg.n_ctx


def test_a_space_comes_first_where_the_model_expects_one(
    tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = readout(tiny)
    spaced = torch.tensor([token.startswith(" ") for token in on.tokens])
    assert 5 < spaced.sum() < 300
    for favoured in (True, False):
        b_U = torch.where(spaced == favoured, 30.0, 0.0)
        expected = sl.Readout(on.W_U, b_U, on.tokens, on.special)
        assert convention(tiny, expected).space is favoured


def test_a_model_without_tokenizer_has_numbers_for_names_and_reads_no_text() -> None:
    model = BUILDERS["gpt2"]()
    model.tokenizer = None
    assert readout(model).tokens[:3] == ("0", "1", "2")
    with pytest.raises(ValueError, match="no tokenizer"):
        sl.collect(model, ["the film"])
