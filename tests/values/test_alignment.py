"""The same text is the same word, whatever the tokenizer marks and however."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerlens.values.alignment import shared_tokens, spellings, text_ids
from steerlens.values.readout import Readout


def on(*tokens: str, special: tuple[int, ...] = (), padding: int = 0) -> Readout:
    """A read-out of these tokens; `padding` columns of `W_U` more than there are tokens."""
    n = len(tokens) + padding
    return Readout(torch.ones(2, n), torch.zeros(n), tokens, frozenset(special))


def shared(src: Readout, tgt: Readout) -> list[tuple[str, int, int]]:
    tokens, src_ids, tgt_ids = shared_tokens(src, tgt)
    assert src_ids.dtype == tgt_ids.dtype == torch.int64
    return list(zip(tokens, src_ids.tolist(), tgt_ids.tolist(), strict=True))


SPACED = on("<end>", "ing", " word", "word", " good", "s", ".", " .", ",", " 7", special=(0,))
PIECES = on("[PAD]", "word", "##ing", "good", "##s", ".", ",", "7", special=(0,))
WORDS = on("<unk>", "good", ".", ",", "word", "7", "bad", special=(0,))


def test_a_space_in_front_is_kept() -> None:
    expected = {
        "ing": 1,
        " word": 2,
        "word": 3,
        " good": 4,
        "s": 5,
        ".": 6,
        " .": 7,
        ",": 8,
        " 7": 9,
    }
    assert spellings(SPACED) == expected


def test_pieces_lose_their_mark_and_words_get_a_space() -> None:
    assert spellings(PIECES) == {" word": 1, "ing": 2, " good": 3, "s": 4, ".": 5, ",": 6, " 7": 7}


def test_whole_words_get_a_space_and_marks_do_not() -> None:
    assert spellings(WORDS) == {" good": 1, ".": 2, ",": 3, " word": 4, " 7": 5, " bad": 6}
    assert spellings(on("'s", "##", "#hash", "n't", "été")) == {
        "'s": 0,
        "##": 1,
        "#hash": 2,
        " n't": 3,
        " été": 4,
    }


def test_three_conventions_meet_in_the_words_and_marks_that_they_share() -> None:
    assert shared(SPACED, PIECES) == [
        (" word", 2, 1), ("ing", 1, 2), (" good", 4, 3), ("s", 5, 4), (".", 6, 5), (",", 8, 6), (" 7", 9, 7),
    ]  # fmt: skip
    assert shared(SPACED, WORDS) == [
        (" good", 4, 1),
        (".", 6, 2),
        (",", 8, 3),
        (" word", 2, 4),
        (" 7", 9, 5),
    ]
    assert shared(PIECES, WORDS) == [
        (" good", 3, 1),
        (".", 5, 2),
        (",", 6, 3),
        (" word", 1, 4),
        (" 7", 7, 5),
    ]


def test_a_vocabulary_shares_all_of_itself() -> None:
    for same in (SPACED, PIECES, WORDS):
        assert [(i, j) for _, i, j in shared(same, same)] == [(i, i) for i in text_ids(same)]


@pytest.mark.parametrize(
    "marks, expected",
    [
        ((" .",), {".": 1}),  # alone: a mark is a mark
        ((".",), {".": 1}),
        ((" .", "."), {" .": 1, ".": 2}),  # both: they are told apart
        ((" ...", "."), {"...": 1, ".": 2}),
        ((" ,", ".", " ."), {",": 1, ".": 2, " .": 3}),
        ((" 's", " #1"), {" 's": 1, " #1": 2}),  # letters and digits make a word
        (("\n", " "), {"\n": 1, " ": 2}),
    ],
)
def test_a_mark_behind_a_space_is_the_mark_where_there_is_no_other(
    marks: tuple[str, ...], expected: dict[str, int]
) -> None:
    assert spellings(on(" a", *marks)) == {" a": 0, **expected}


def test_a_mark_that_is_told_apart_is_matched_without_its_space() -> None:
    words = on("good", ".")
    assert shared(on(" good", " .", "."), words) == [(" good", 0, 0), (".", 2, 1)]
    assert shared(on(" good", " ."), words) == [(" good", 0, 0), (".", 1, 1)]


def test_a_lone_space_does_not_make_a_convention() -> None:
    assert spellings(on(" ", "word", "##ing")) == {" ": 0, " word": 1, "ing": 2}


def test_special_tokens_padding_and_broken_characters_are_no_text() -> None:
    odd = on(
        "<s>",
        " good",
        "",
        "\ufffd",
        " \ufffd",
        "x\ufffd",
        " bad",
        "</s>",
        special=(0, 7),
        padding=3,
    )
    assert text_ids(odd) == [1, 6]
    assert spellings(odd) == {" good": 1, " bad": 6}
    assert shared(odd, odd) == [(" good", 1, 1), (" bad", 6, 6)]


def test_a_special_token_that_looks_like_a_word_hides_nothing() -> None:
    assert spellings(on("good", "good", special=(0,))) == {" good": 1}
    # and a special ' word' does not make a vocabulary one of leading spaces
    assert spellings(on(" pad", "good", special=(0,))) == {" good": 1}


def test_a_text_that_two_tokens_spell_is_left_out() -> None:
    twice = on(" good", " bad", " good", ".")
    assert spellings(twice) == {" bad": 1, ".": 3}
    assert [text for text, _, _ in shared(twice, on("good", "bad", "."))] == [" bad", "."]
    assert [text for text, _, _ in shared(on("good", "bad", "."), twice)] == [" bad", "."]
    # a mark that goes on is not one that begins
    assert spellings(on(".", "##.", "good")) == {".": 0, "##.": 1, " good": 2}
    assert spellings(on(" a", " !", "! ", "?")) == {" a": 0, "?": 3}


def test_nothing_in_common_is_an_empty_answer() -> None:
    assert shared(on(" good", " fine"), on("bad", "poor")) == []


def test_the_order_is_the_target_s() -> None:
    src, tgt = on(" a", " b", " c"), on("c", "x", "a")
    assert [text for text, _, _ in shared(src, tgt)] == [" c", " a"]
    assert [text for text, _, _ in shared(tgt, src)] == [" a", " c"]


PARTS = st.sampled_from(["a", "b", "ab", "ing", ".", "!", "7", "\ufffd"])
TOKENS = st.one_of(PARTS, PARTS.map(" {}".format), PARTS.map("##{}".format))
VOCABULARIES = st.builds(
    lambda tokens, special: on(*tokens, special=tuple(special), padding=1),
    st.lists(TOKENS, max_size=14),
    st.sets(st.integers(0, 14), max_size=3),
)


@settings(max_examples=100)
@given(src=VOCABULARIES, tgt=VOCABULARIES)
def test_matching_is_symmetric_and_one_to_one(src: Readout, tgt: Readout) -> None:
    there, back = shared(src, tgt), shared(tgt, src)
    assert sorted(there) == sorted((text, i, j) for text, j, i in back)
    for column in zip(*there, strict=True):
        assert len(set(column)) == len(there)
    for text, i, j in there:
        assert i in text_ids(src) and j in text_ids(tgt)
        assert src.tokens[i].strip().removeprefix("##") == tgt.tokens[j].strip().removeprefix(
            "##"
        ) == text.strip() or (
            # '##' is a mark only where no leading space is
            text.strip() in (src.tokens[i].strip(), tgt.tokens[j].strip())
        )
