"""Where two models have read the same text and no more, by decoding what each of them has read."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.testing import assert_close

import steerlens as sl
from steerlens.models import pair as module
from steerlens.models import prepared_texts
from steerlens.models.adapters import HuggingFace
from steerlens.models.tokenization import Convention
from steerlens.values.pairs import Pairs, hidden
from tests.models.families import model_of
from tests.models.zoo import N_CTX, TEXTS, contexts, tokenizer, zoo

TOY = (
    "anyway , you will laugh when you see the tunes .",
    "it was good .",
    "a stale record with orchestral drums . i would endorse this song .",
    "good",
    "you will laugh",
)
LONG = (
    "the film was good . " * 9 + "nothing",
    "bad !",
    "we liked the food , not the waiter ; " * 8,
)


def read(model: Any, text: str) -> tuple[dict[int, Tensor], int]:
    """Context by number of characters read, from decoding ever longer prefixes, and the number of
    positions.

    The text is cut and ends as `collect` has it; of two tokens that end at one place the later
    counts.
    """
    words = model.tokenizer
    ids = words(text, add_special_tokens=False)["input_ids"]
    whole = [words.bos_token_id, *ids, words.eos_token_id][: model.cfg.n_ctx]
    c = contexts(model, torch.tensor([whole]))[0].float()
    ends = {}
    for k in range(len(whole) - 1):
        prefix = words.decode(ids[:k], clean_up_tokenization_spaces=False)
        assert text.startswith(prefix.rstrip("\ufffd")) or "<|unk|>" in prefix
        if "<|unk|>" in prefix:  # whole words: the k-th ends where the k-th word of the text does
            assert text.split()[:k] and len(ids) == len(text.split())
            prefix = text[: sum(map(len, text.split()[:k])) + k - 1]
        ends[len(prefix)] = c[k]
    return ends, len(whole) - 1


def stored(states: sl.States) -> Tensor:
    """The text of every stored position."""
    return torch.cat([chunk.text for chunk in states.chunks(10**9)])


def in_order(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """Texts and contexts of all places, text by text, each from its beginning to its end."""
    text = stored(pairs.tgt)[pairs.rows[1]]
    assert torch.equal(stored(pairs.src)[pairs.rows[0]], text)
    order = torch.argsort(text * pairs.tgt.n_positions + pairs.rows[1])
    return text[order], pairs.c_src[order], pairs.c_tgt[order]


def check(source: Any, target: Any, texts: tuple[str, ...]) -> tuple[Any, list[list[int]]]:
    """That the pairs are exactly the places that both models' decoded prefixes reach; returns them
    and the places."""
    pairs = sl.pair(source, target, texts, progress=False)
    text, c_src, c_tgt = in_order(pairs)
    places, expected, n_tgt = [], [], 0
    for string in texts:
        (mine, _), (theirs, n) = read(source, string), read(target, string)
        places.append(sorted(mine.keys() & theirs.keys()))
        expected += [(mine[place], theirs[place]) for place in places[-1]]
        n_tgt += n
    assert torch.bincount(text, minlength=len(texts)).tolist() == list(map(len, places))
    assert_close(c_src, torch.stack([a for a, _ in expected]), rtol=1e-4, atol=1e-4)
    assert_close(c_tgt, torch.stack([b for _, b in expected]), rtol=1e-4, atol=1e-4)
    assert pairs.share == len(expected) / n_tgt
    return pairs, places


def test_with_one_tokenizer_every_position_has_its_counterpart() -> None:
    models = zoo("toy-64"), sl.load_model("toy-128")
    pairs, _ = check(*models, TOY)
    states = [sl.collect(model, TOY, progress=False) for model in models]
    assert pairs.share == pairs.reverse().share == 1
    assert len(pairs) == states[0].n_positions == states[1].n_positions
    for rows, found, alone in zip(pairs.rows, (pairs.src, pairs.tgt), states, strict=True):
        assert sorted(rows.tolist()) == list(range(len(pairs)))
        assert torch.equal(hidden(found), hidden(alone))
        assert found.readout.same_as(alone.readout)
    following = [
        torch.cat([c.next for c in s.chunks(10**9)])[rows]
        for s, rows in zip(states, pairs.rows, strict=True)
    ]
    assert torch.equal(*following)


def test_with_two_tokenizers_places_are_the_ends_that_both_have() -> None:
    words, pieces = zoo("toy-64"), zoo("toy-96-llama")
    pairs, places = check(words, pieces, TOY)
    back, again = check(pieces, words, TOY)
    assert again == places
    assert pairs.share < 1 == back.share  # pieces end within words, words never within pieces
    assert torch.equal(pairs.reverse().c_src, back.c_src) and torch.equal(
        pairs.reverse().c_tgt, back.c_tgt
    )
    ends = [
        sorted({0} | {i for i in range(1, len(t) + 1) if i == len(t) or t[i] == " "}) for t in TOY
    ]
    assert places == ends


def test_texts_of_different_lengths_line_up_though_stored_in_another_order() -> None:
    for source, target in (("gpt2", "llama"), ("llama", "gpt2")):
        pairs, _ = check(zoo(source), zoo(target), TEXTS)
        assert all((stored(states).diff() < 0).any() for states in (pairs.src, pairs.tgt))


def test_the_two_models_may_store_the_texts_in_different_orders() -> None:
    texts = (
        "the author wrote a dull and long book",
        "xyzzy xyzzy",
        "a a a a",
        "tomorrow money worth here nothing",
    )
    pairs, _ = check(zoo("gpt2"), zoo("llama"), texts)
    order = [list(dict.fromkeys(stored(states).tolist())) for states in (pairs.src, pairs.tgt)]
    assert order[0] != order[1]


def test_texts_that_either_model_cuts_are_paired_as_far_as_both_have_read() -> None:
    pairs, places = check(zoo("gpt2"), zoo("llama"), LONG)
    assert pairs.src.n_truncated == pairs.tgt.n_truncated == 2
    assert 0 < places[0][-1] < len(LONG[0]) and places[1][-1] == len(LONG[1])
    assert max(map(len, places)) <= N_CTX - 1
    check(zoo("llama"), zoo("gpt2"), LONG)
    only, cut = check(zoo("toy-64"), zoo("gpt2"), LONG[:1])  # here the target alone is cut
    assert (only.src.n_truncated, only.tgt.n_truncated) == (0, 1) and cut[0][-1] < len(LONG[0])


def test_of_the_tokens_of_one_character_the_last_counts() -> None:
    texts = ("caf\u00e9 was good .", "a na\u00efve \u2019 film \U0001f600")
    pieces, words = zoo("gpt2"), zoo("llama")
    assert len(pieces.tokenizer("\u00e9", add_special_tokens=False)["input_ids"]) == 2
    check(words, pieces, texts)
    check(pieces, words, texts)
    check(pieces, zoo("padded"), texts)


def test_the_order_of_the_texts_does_not_matter() -> None:
    pairs = sl.pair(zoo("gpt2"), zoo("llama"), TEXTS, progress=False)
    turned = sl.pair(zoo("gpt2"), zoo("llama"), TEXTS[::-1], progress=False)
    text, c_src, c_tgt = in_order(pairs)
    other, d_src, d_tgt = in_order(turned)
    for i in range(len(TEXTS)):
        there = other == len(TEXTS) - 1 - i
        assert_close(
            (c_src[text == i], c_tgt[text == i]), (d_src[there], d_tgt[there]), rtol=1e-4, atol=1e-4
        )


def test_labels_are_not_looked_at() -> None:
    models = zoo("gpt2"), zoo("llama")
    plain = sl.pair(*models, list(TEXTS), progress=False)
    for labels in ((1.0, 0.5, 0.0, -1.0), (-1.0, 0.0, 1.0, 0.5)):
        found = sl.pair(*models, sl.Labelled(TEXTS, labels), progress=False)
        assert torch.equal(found.rows, plain.rows)
        assert torch.equal(found.c_src, plain.c_src) and torch.equal(found.c_tgt, plain.c_tgt)
        assert not found.src.labels.any() and not found.tgt.labels.any()
    labelled = [sl.collect(model, sl.Labelled(TEXTS, labels), progress=False) for model in models]
    with pytest.raises(ValueError, match="without labels"):
        Pairs(labelled[0], labelled[1], plain.rows)


def test_a_space_that_a_model_wants_in_front_is_not_part_of_the_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = tokenizer("bytes")
    for text in ("the film was good .", " the film", "nothing"):
        spaced = text if text[0] == " " else " " + text
        ids = words(spaced, add_special_tokens=False)["input_ids"]
        read = [len(words.decode(ids[:k])) - (text[0] != " ") for k in range(1, len(ids) + 1)]
        assert module.token_ends(words, [text], Convention(True, True, N_CTX)) == [
            [0, *(max(n, 0) for n in read)]
        ]
        assert module.token_ends(words, [text], Convention(False, True, N_CTX))[0] == [
            max(n, 0) for n in read
        ]
    models = zoo("gpt2"), zoo("llama")
    before = sl.pair(*models, TEXTS, progress=False)
    convention = module.convention

    def wanting(model: Any, on: sl.Readout) -> Convention:
        how = convention(model, on)
        return how._replace(space=True) if model is models[0] else how

    for where in (module, prepared_texts):
        monkeypatch.setattr(where, "convention", wanting)
    after = sl.pair(*models, TEXTS, progress=False)
    assert torch.equal(in_order(after)[0], in_order(before)[0]) and len(after) == len(before)
    assert_close(in_order(after)[2], in_order(before)[2], rtol=1e-4, atol=1e-4)
    assert (
        in_order(after)[1] - in_order(before)[1]
    ).abs().max() > 0.1  # the source reads " the", not "the"


@pytest.mark.parametrize(
    "texts, message",
    [
        ([], "got none"),
        (["good", " "], r"texts\[1\] is empty"),
    ],
)
def test_bad_texts_are_refused(texts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sl.pair(zoo("gpt2"), zoo("llama"), texts, progress=False)


def test_a_tokenizer_that_is_not_fast_is_refused() -> None:
    message = "tokenizer: ByT5Tokenizer does not say where .* its tokens end; load the model with a fast tokenizer"
    slow = transformers.ByT5Tokenizer()
    with pytest.raises(ValueError, match=message):
        module.token_ends(slow, ["good"], Convention(True, False, N_CTX))
    model = HuggingFace(model_of("gpt2", vocab_size=len(slow)), slow)
    for models in ((model, zoo("llama")), (zoo("llama"), model)):
        with pytest.raises(ValueError, match=message):
            sl.pair(*models, TEXTS, progress=False)


def test_models_are_left_as_they_were_and_bars_can_be_silenced(
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = zoo("gpt2"), zoo("llama")
    before = [[m.training for m in model.modules()] for model in models]
    sl.pair(*models, TEXTS, progress=False)
    assert capsys.readouterr() == ("", "")
    sl.pair(*models, TEXTS)
    assert "collect" in capsys.readouterr().err
    assert [[m.training for m in model.modules()] for model in models] == before
