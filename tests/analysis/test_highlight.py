"""Highlighted spans: evidence is the log likelihood ratio, spans keep to words, the page is
safe."""

import re

import numpy as np
import pytest
import torch

import steerlens as sl
from steerlens.analysis.highlight import highlight, word_edges
from steerlens.values.steer import Steer, zero_steer
from tests.models.zoo import TEXTS, copy_of, random_steer, tiny_with, zoo

TEXT = "the plot was wonderful . the waiter was awful ."


@pytest.fixture(scope="module")
def joy(model) -> Steer:
    states = sl.collect(model, sl.toy.corpus("sentiment", n=300, seed=0), progress=False)
    return sl.fit_steer(states, name="joy", ridge=0.1, damping=0.1, lr=0.1).value


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "toy-96-llama"])
def test_evidence_is_the_log_ratio_of_the_steered_models(name: str, bos: bool, no_bos):
    lm = zoo(name)
    if not bos:
        no_bos(lm)
    assert lm.cfg.default_prepend_bos is bos
    steer = random_steer(lm, size=0.3)
    for text in TEXTS[:2]:
        found = highlight(lm, steer, text, strength=1.5, against=-0.5)
        high, low = (
            part.log_prob.to_numpy()
            for _, part in sl.score(lm, [text], steer, strengths=(1.5, -0.5), end=False).groupby(
                "strength", sort=False
            )
        )
        evidence = found.tokens.evidence.to_numpy()
        assert len(evidence) == len(high) + (not bos)
        np.testing.assert_allclose(evidence[len(evidence) - len(high) :], high - low, atol=1e-5)
        assert (
            found.total == pytest.approx((high - low).sum(), abs=1e-4) and abs(found.total) > 1e-3
        )
        assert "".join(found.tokens.token).strip().startswith(text)


def test_planted_words_are_found_with_their_signs(model, joy: Steer):
    found = highlight(model, joy, TEXT, spans=2, max_len=1)
    assert found.spans.text.tolist() == ["wonderful", "awful"]
    assert found.spans.evidence[0] > 1 and found.spans.evidence[1] < -1
    assert highlight(model, joy, TEXT, spans=1, max_len=1, sign="+").spans.text.tolist() == [
        "wonderful"
    ]
    assert highlight(model, joy, TEXT, spans=1, max_len=1, sign="-").spans.text.tolist() == [
        "awful"
    ]
    assert str(found).startswith("the plot was [wonderful +")


def test_spans_sum_their_tokens_and_turn_with_the_steer(model, joy: Steer):
    found, turned = highlight(model, joy, TEXT, spans=3), highlight(model, -joy, TEXT, spans=3)
    for s in found.spans.itertuples():
        assert s.evidence == pytest.approx(found.tokens.evidence[s.start : s.end].sum())
    assert turned.spans.text.tolist() == found.spans.text.tolist()
    np.testing.assert_allclose(turned.spans.evidence, -found.spans.evidence, atol=1e-5)
    assert highlight(model, joy, TEXT, strength=-1.0).total == pytest.approx(-found.total, abs=1e-4)


def test_words_are_not_cut():
    starts, ends = word_edges([" won", "der", "ful", ",", " isn", "'t", " it", "?"])
    assert starts.tolist() == [True, False, False, True, True, False, True, True]
    assert ends.tolist() == [False, False, True, True, False, True, True, True]
    lm = zoo("gpt2")
    steer = random_steer(lm, size=0.5)
    text = "wonderfulness tomorrow"
    cut = highlight(lm, steer, text, spans=4, max_len=3, whole_words=False)
    assert any(s.text not in text.split() for s in cut.spans.itertuples())
    whole = highlight(lm, steer, text, spans=4, max_len=50)
    assert set(" ".join(whole.spans.text).split()) <= set(text.split())


@pytest.fixture(scope="module", params=["bytes", "fallback", "unigram", "lower"])
def worded(request: pytest.FixtureRequest):
    """A small model of each other kind of tokenizer."""
    return tiny_with(copy_of(request.param))


@pytest.mark.filterwarnings("ignore:the tokenizer does not know")
def test_pieces_are_whole_characters_and_lose_no_evidence(worded):
    steer = random_steer(worded, size=0.5)
    for text in (
        "the plot 😀 was naïve .",
        "film e\u0301tude 👨\u200d👩\u200d👧",
        "The ﬁlm\r\nis  good",
        "a שלום\x00 b",
        "<s>good</s> film",
    ):
        found = highlight(worded, steer, text, spans=3)
        assert "".join(found.tokens.token) == text and found.tokens.token.map(len).min() > 0
        high, low = (
            part.log_prob.sum()
            for _, part in sl.score(worded, [text], steer, strengths=(1, -1), end=False).groupby(
                "strength", sort=False
            )
        )
        assert found.total == pytest.approx(high - low, abs=1e-4)
        html = found._repr_html_()
        assert (
            "\ufffd" not in html
            and "0xF0" not in html
            and "\x00" not in html
            and "dir='auto'" in html
        )


@pytest.mark.parametrize(
    "text",
    [
        "映画はとても良かったし俳優も素晴らしかった",
        "这部电影很好看但是结局让人失望",
        "ภาพยนตร์ดีมากแต่ตอนจบน่าผิดหวัง",
    ],
)
def test_scripts_without_spaces_have_words_to_find(text: str):
    for kind in ("bytes", "fallback"):
        lm = tiny_with(copy_of(kind))
        found = highlight(lm, random_steer(lm, size=0.5), text, spans=3, max_len=4)
        assert len(found.spans) == 3 and found.spans.text.str.len().min() > 0 and not found.note
        assert all(part in text for part in found.spans.text)


def test_words_are_those_of_unicode():
    starts, ends = word_edges(
        ["e\u0301", "tude", "’s", " 3", ".5", " 电", "影", "  ", " カタ", "カナ", "\n"]
    )
    assert starts.tolist() == [
        True,
        False,
        False,
        True,
        False,
        True,
        True,
        False,
        True,
        False,
        False,
    ]
    assert ends.tolist() == [False, False, True, False, True, True, True, False, False, True, False]


@pytest.mark.parametrize("whole_words", [True, False])
def test_no_span_ends_in_a_space_or_in_a_word_without_evidence(whole_words: bool, no_bos):
    lm = zoo("gpt2")
    no_bos(lm)  # nothing predicts the first token
    for seed in range(4):
        steer = random_steer(lm, seed=seed, size=0.5)
        found = highlight(
            lm, steer, "the film  \n\n  was good \n", spans=3, max_len=20, whole_words=whole_words
        )
        for s in found.spans.itertuples():
            for end in (s.start, s.end - 1):
                assert found.tokens.token[end].strip() and abs(found.tokens.evidence[end]) > 1e-5


def test_the_note_says_why_there_is_no_span(model, joy: Steer):
    assert highlight(model, joy, TEXT, spans=0).note == "no span was asked for"
    assert (
        "no span of whole words of at most 10 pieces has evidence"
        in highlight(model, joy, TEXT, price=99.0)._repr_html_()
    )
    assert (
        highlight(model, zero_steer(sl.readout(model)), TEXT, spans=3).note
        == "no token has any evidence"
    )
    assert highlight(model, joy, TEXT).note == ""


def test_several_texts_are_refused_with_the_next_step(unchecked: None, model, joy: Steer):
    with pytest.raises(ValueError, match="text: got list, expected one text; for several"):
        highlight(model, joy, [TEXT, TEXT])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="half a character"):
        highlight(model, joy, "the \ud83d")


def test_a_price_sheds_tokens_that_hardly_count(model, joy: Steer):
    free = highlight(model, joy, TEXT, spans=1)
    assert free.spans.text[0].endswith("was awful")
    hardly = abs(free.tokens.evidence[free.spans.start[0]])
    assert hardly < 0.3 * abs(free.spans.evidence[0])
    cheap, dear = (highlight(model, joy, TEXT, spans=1, price=k * hardly) for k in (0.9, 1.1))
    assert cheap.spans.text[0] == free.spans.text[0] and dear.spans.text[0].endswith("awful")
    lengths = [int(h.spans.end[0] - h.spans.start[0]) for h in (free, dear)]
    assert lengths[1] < lengths[0]


def test_nothing_to_show_is_said(model, joy: Steer):
    silent = highlight(model, zero_steer(sl.readout(model)), TEXT)
    assert silent.spans.empty and "no token has any evidence" in silent._repr_html_()
    assert silent.spans.columns.tolist() == ["start", "end", "text", "evidence"]
    one = highlight(model, joy, "wonderful", spans=5, max_len=100)
    assert one.spans.text.tolist() == ["wonderful"]
    assert highlight(model, joy, TEXT, spans=0).spans.empty


def test_a_text_beyond_the_context_is_cut_and_said(model, joy: Steer):
    found = highlight(model, joy, " ".join(["good"] * 500))
    assert found.truncated and "was cut" in found._repr_html_()
    assert len(found.tokens) < 500 and not highlight(model, joy, TEXT).truncated


def test_the_html_is_escaped_and_needs_nothing(joy: Steer):
    lm = zoo("gpt2")
    steer = Steer(random_steer(lm).W, sl.readout(lm), name="<i>evil</i>")
    html = highlight(lm, steer, "<script>alert('x')</script> & \"so\"")._repr_html_()
    assert "<script" not in html and "<i>" not in html and "&lt;i&gt;evil" in html
    bare = re.sub(r"<[^<>]*>", "", html)
    assert "&lt;" in bare and "&amp;" in bare
    assert re.findall(r"class='([^']*)'", html) == ["tex2jax_ignore mathjax_ignore"]
    for banned in ("http", "url(", "onmouse"):
        assert banned not in html
    assert re.search(r"title='[+-]\d\.\d{3} nats'", html)
    # tags are balanced
    for tag in ("b", "span", "sub", "div"):
        assert len(re.findall(rf"<{tag}[ >]", html)) == html.count(f"</{tag}>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 0.0}, "against"),
        ({"strength": 1.0, "against": 1.0}, "against"),
        ({"spans": -1}, "spans"),
        ({"max_len": 0}, "max_len"),
        ({"text": "  "}, "empty"),
    ],
)
def test_bad_arguments(model, joy: Steer, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        highlight(model, joy, **{"text": TEXT, **arguments})


def test_ten_thousand_tokens_take_no_quadratic_memory():
    from steerlens.maths.spans import best_spans

    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    found = best_spans(x, 4, 10)
    assert len(found) == 4 and sum(abs(s.value) for s in found) > 30
