"""Log-probabilities at many strengths are those of the model steered at each."""

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from tests.models.test_collect import ids_of
from tests.models.zoo import N_CTX, TEXTS, copy_of, near, random_steer, tiny_with, zoo

STRENGTHS = (-1.5, 0.0, 2.0)


def directly(model, text: str) -> torch.Tensor:
    """Log-probability of each token of one text, from the model's own logits."""
    ids = torch.tensor(ids_of(model, text))
    with torch.no_grad():
        log_p = torch.log_softmax(model(ids[None]).float(), 2)[0]
    return log_p[:-1].gather(1, ids[1:, None]).squeeze(1)


def column(table, text: int, strength: float) -> torch.Tensor:
    part = table[(table.text == text) & (table.strength == strength)]
    assert part.position.tolist() == list(range(len(part)))
    return torch.tensor(part.log_prob.to_numpy())


@pytest.mark.parametrize("over", [False, True], ids=["steer", "over a background"])
def test_scores_are_log_softmax_of_the_steered_models_logits(model, over: bool) -> None:
    steer = random_steer(model, size=0.3)
    value = (
        steer.with_background(random_steer(model, seed=1, size=0.3, name="background"))
        if over
        else steer
    )
    table = sl.score(model, TEXTS, value, strengths=STRENGTHS)
    plain = sl.score(model, TEXTS)
    for i, text in enumerate(TEXTS):
        assert_close(column(plain, i, 0.0), directly(model, text), **near(model))
        for strength in STRENGTHS:
            with sl.steered(model, value, strength):
                assert_close(column(table, i, strength), directly(model, text), **near(model))
    assert (
        table[table.strength == 2.0].log_prob.to_numpy() - plain.log_prob.to_numpy()
    ).std() > 0.1


def test_several_strengths_are_each_alone(model) -> None:
    steer = random_steer(model)
    table = sl.score(model, TEXTS, steer, strengths=STRENGTHS)
    assert len(table) == len(STRENGTHS) * len(sl.score(model, TEXTS))
    for strength in STRENGTHS:
        alone = sl.score(model, TEXTS, steer, strengths=(strength,))
        part = table[table.strength == strength].reset_index(drop=True)
        assert part.equals(alone)


def test_strength_zero_is_exactly_the_plain_score(model) -> None:
    zero = sl.score(model, TEXTS, random_steer(model), strengths=(0.0,))
    assert zero.equals(sl.score(model, TEXTS))


def test_an_intervention_is_scored_at_strength_1_unless_it_is_said(tiny) -> None:
    steer = random_steer(tiny)
    found = sl.score(tiny, TEXTS, steer)
    assert found.equals(sl.score(tiny, TEXTS, steer, strengths=1.0)) and set(found.strength) == {1}
    assert (found.log_prob - sl.score(tiny, TEXTS).log_prob).abs().max() > 0.01


def test_tokens_are_named_in_order_and_the_end_is_optional(tiny) -> None:
    table = sl.score(tiny, TEXTS, end=False)
    for i, text in enumerate(TEXTS):
        assert "".join(table[table.text == i].token) == text
    with_end = sl.score(tiny, TEXTS)
    assert with_end.groupby("text").token.last().tolist() == ["<|end|>"] * len(TEXTS)


@pytest.mark.parametrize("kind", ["bytes", "fallback"])
def test_tokens_joined_are_the_text_with_emoji_accents_and_scripts_without_spaces(
    kind: str,
) -> None:
    model = tiny_with(copy_of(kind))
    texts = ["naïve café 😀 .", "这部电影", "the e\u0301tude\r\n"]
    table = sl.score(
        model, pd.Series(texts, index=[4, 2, 9]), random_steer(model), strengths=(0.0, 1.0)
    )
    for i, text in enumerate(texts):
        part = table[(table.text == i) & (table.strength == 1.0)]
        assert "".join(part.token) == f"{text}{model.tokenizer.eos_token}"
        assert len(part) == len(ids_of(model, text)) - 1  # still a row per token
    named = sl.score(model, [" </s> and <s>"], end=False)
    assert "".join(named.token) == " </s> and <s>"


def test_of_texts_behind_prompts_the_tokens_are_the_texts(tiny) -> None:
    data = sl.Labelled(("was good", "\nno 😀"), (1.0, -1.0), ("the film", ""))
    table = sl.score(tiny, data, end=False)
    assert table.groupby("text").token.sum().tolist() == [" was good", "\nno 😀"]


def test_a_steer_for_another_model_is_refused(tiny) -> None:
    with pytest.raises(ValueError, match="transfer"):
        sl.score(tiny, TEXTS, random_steer(zoo("llama")))


def test_a_text_beyond_the_context_is_said_to_be_cut(tiny) -> None:
    with pytest.warns(UserWarning, match=rf"texts: 1 of 2 are longer.*{N_CTX} tokens.*not scored"):
        table = sl.score(tiny, ["good .", "good . " * 60])
    assert (table.text == 1).sum() == N_CTX - 1
