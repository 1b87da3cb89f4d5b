"""Text in, text out, exactly, for every kind of tokenizer."""

import copy
import json
import warnings
from typing import Any

import pytest
import regex
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from torch.testing import assert_close

import steerlens as sl
from steerlens.models.hooks import adapter
from steerlens.models.pieces import pieces, text_of
from steerlens.models.tokenization import Convention, encode, encode_prompts
from steerlens.models.vocabulary import special_ids, token_strings
from tests.models.zoo import CORPUS, KINDS, SPECIAL, TEXTS, copy_of, tiny_with, zoo

PLAIN, SPACED = Convention(True, False, 400), Convention(True, True, 400)
NAMES = (*SPECIAL, "<|end|>", "<|unk|>")
TOKENIZERS = {kind: copy_of(kind) for kind in KINDS}
for _one in TOKENIZERS.values():
    _one.add_tokens(["<mood>", "né"])  # not special
# a word, spaces, line ends, accents both ways, emoji with joiners and flags, scripts without
# spaces, right to left, NUL
PARTS = (
    "the", " film", "wonderful", " ", "  ", "\n", "\r\n", "é", "e\u0301", "ﬁ", "😀", "👨\u200d👩\u200d👧", "🇩🇪", "👍🏽", "\u200d",
    "电影", "はとても", "ดีมาก", "שלום", "\u202e", "फिल्म", "\x00", "<mood>", "né", "\ufeff", "'s", ".", "ß", "🂡",
)  # fmt: skip
ANY_TEXT = st.lists(st.sampled_from(PARTS), max_size=9).map("".join) | st.text(max_size=12)
quiet = pytest.mark.filterwarnings("ignore:the tokenizer does not know")


@pytest.mark.parametrize("kind", KINDS)
@given(text=ANY_TEXT)
def test_pieces_are_whole_characters_and_give_the_text(kind: str, text: str) -> None:
    words = TOKENIZERS[kind]
    ids = words(text, add_special_tokens=False)["input_ids"]
    spaced = words(text if text[:1].isspace() else f" {text}", add_special_tokens=False)[
        "input_ids"
    ]
    for how, inside in ((PLAIN, ids), (SPACED, spaced)):
        (found,) = pieces(words, [text], how, end=True)
        assert len(found) == 1 + len(inside) + 1 and found[0] == "" and found[-1] == words.eos_token
        if inside and text:
            assert "".join(found[:-1]) == text and found[1]
            ends = {m.end() for m in regex.finditer(r"\X", text)}
            reached = [len("".join(found[:k])) for k in range(2, len(found)) if found[k]]
            assert ends.issuperset(reached)


@pytest.mark.parametrize("kind", KINDS)
@given(text=ANY_TEXT)
def test_ordinary_text_is_read_as_the_tokenizer_reads_it(kind: str, text: str) -> None:
    words = TOKENIZERS[kind]
    plain = words(text, add_special_tokens=False)["input_ids"]
    text_of(words, plain)
    if words.unk_token_id is None or words.unk_token_id not in plain:
        (ids,) = encode(words, [text], PLAIN, end=True).ids
        assert ids == [words.bos_token_id, *plain, words.eos_token_id]


@quiet
@pytest.mark.parametrize("kind", KINDS)
def test_names_of_special_tokens_in_a_text_are_text(kind: str) -> None:
    words = TOKENIZERS[kind]
    before = words.backend_tokenizer.to_str(), words.backend_tokenizer.encode_special_tokens
    special = special_ids(words) - {words.unk_token_id}
    texts = [f"the film {name} was{name} good <mood> and {name}" for name in NAMES]
    found = encode(words, texts, PLAIN, end=True)
    for text, ids, cut in zip(texts, found.ids, pieces(words, texts, PLAIN, end=True), strict=True):
        assert special.isdisjoint(ids[1:-1]) and len(cut) == len(ids)
        assert "".join(cut[:-1]) == text
        assert words.convert_tokens_to_ids("<mood>") in ids
        if kind in ("bytes", "fallback"):
            assert words.decode(ids[1:-1]) == text
    assert before == (
        words.backend_tokenizer.to_str(),
        words.backend_tokenizer.encode_special_tokens,
    )


@quiet
@pytest.mark.parametrize("kind", ["fallback", "unigram"])
def test_in_a_prompt_they_are_the_tokens_and_begin_of_text_is_not_doubled(kind: str) -> None:
    words = TOKENIZERS[kind]
    prompt = "<s>the film </s> was"
    (ids,) = encode_prompts(words, [prompt], PLAIN)
    assert (
        ids == words(prompt, add_special_tokens=False)["input_ids"]
        and ids.count(words.bos_token_id) == 1
    )
    whole = encode(words, ["a </s> good"], PLAIN, end=False, prompts=[prompt])
    assert whole.ids[0][: len(ids)] == ids and whole.prompt == [len(ids)]
    assert (
        special_ids(words).isdisjoint(whole.ids[0][len(ids) :]) or kind == "unigram"
    )  # which does not know "<"
    (cut,) = pieces(words, ["a </s> good"], PLAIN, end=False, prompts=[prompt])
    assert "".join(cut) == f"{prompt} a </s> good" and "".join(cut[len(ids) :]) == " a </s> good"


def test_a_special_token_that_is_no_word_of_its_own_is_refused_by_name() -> None:
    words = copy_of("bytes")
    words.sep_token = "!"
    assert encode(words, ["good ."], PLAIN, end=True).ids
    with pytest.raises(ValueError, match=r"text 'bad!': '!' is a special token of the tokenizer"):
        encode(words, ["good .", "bad!"], PLAIN, end=True)


def test_a_word_that_pads_stays_a_word() -> None:
    plain = sl.load_model("toy-64", plain=True)
    words = copy.deepcopy(adapter(plain).tokenizer)
    words.pad_token = "."
    model = sl.models.HuggingFace(adapter(plain).module, words)
    texts = ["the film was good .", "my soup . was bad . you know"]
    found, wanted = (sl.score(m, texts, end=False) for m in (model, plain))
    assert (found.token == wanted.token).all() and found.token.str.contains(".", regex=False).any()
    assert_close(torch.tensor(found.log_prob), torch.tensor(wanted.log_prob))
    written, as_before = (
        sl.generate(m, ["the film", "my"], samples=8, max_new_tokens=16).text
        for m in (model, plain)
    )
    assert (written == as_before).all() and written.str.contains(" .", regex=False).any()


class Python(transformers.PreTrainedTokenizer):
    """Characters, in Python; splits special tokens only if it is told to."""

    vocab_files_names: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        self.letters = {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz </>.")}
        super().__init__(bos_token="<s>", eos_token="</s>", **options)

    vocab_size = property(lambda self: len(self.letters))

    def get_vocab(self) -> dict[str, int]:
        return self.letters | self.get_added_vocab()

    def _tokenize(self, text: str, **options: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.letters[token]

    def _convert_id_to_token(self, index: int) -> str:
        return list(self.letters)[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


def test_a_tokenizer_in_python_reads_them_as_text_too() -> None:
    words = Python()
    (ids,) = encode(words, ["a </s> b"], PLAIN, end=True).ids
    assert ids == [
        words.bos_token_id,
        *map(words.letters.__getitem__, "a </s> b"),
        words.eos_token_id,
    ]
    assert pieces(words, ["a </s> b"], PLAIN, end=False) == [["", *"a </s> b"]]
    with pytest.raises(ValueError, match="both hold names of special tokens; Python"):
        encode(words, ["a </s> b"], PLAIN, end=True, prompts=["</s> a"])


def test_of_a_text_that_is_cut_the_pieces_are_what_was_read() -> None:
    for kind in ("bytes", "fallback"):
        words, text = TOKENIZERS[kind], "the film 😀 was wonderful"
        for n in range(2, 30):
            how = PLAIN._replace(n_ctx=n)
            (ids,), (cut,) = (
                encode(words, [text], how, end=True).ids,
                pieces(words, [text], how, end=True),
            )
            assert len(cut) == len(ids) <= n
            assert f"{text}{words.eos_token}".startswith("".join(cut))


@pytest.mark.parametrize("kind", ["bytes", "fallback"])
def test_what_is_no_character_costs_no_character_beside_it(kind: str) -> None:
    words = TOKENIZERS[kind]
    smile = words("😀", add_special_tokens=False)["input_ids"]
    prompt, part = (
        [i for i in smile if i not in words("", add_special_tokens=False)["input_ids"]],
        smile[-4:-2],
    )
    for ids, text in (
        (prompt + part, "😀�"),
        (prompt + prompt[-4:], "😀😀"),
        (prompt + part[:1] + prompt[-4:], "😀�😀"),
    ):
        assert text_of(words, ids).strip() == text
    assert text_of(words, prompt + part)[len(text_of(words, prompt)) :] == "�"


def holed() -> Any:
    """A tokenizer whose ids leave out forty in the middle, as its last twenty were moved up, and a
    model for it."""
    words = copy_of("bytes")
    made = json.loads(words.backend_tokenizer.to_str())
    top = sorted(made["model"]["vocab"], key=made["model"]["vocab"].get)[-20:]
    for token in top:
        made["model"]["vocab"][token] += 40
    raw = type(words.backend_tokenizer).from_str(json.dumps(made))
    moved = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|end|>", eos_token="<|end|>"
    )
    return tiny_with(moved, max(made["model"]["vocab"].values()) + 1 + 7), top


def test_holes_in_a_vocabulary_are_no_tokens() -> None:
    model, top = holed()
    on, used = sl.readout(model), set(model.tokenizer.get_vocab().values())
    assert on.n_tokens == max(used) + 1 == on.d_vocab - 7 > len(model.tokenizer)
    assert set(on.unused) == set(range(on.n_tokens)) - used and len(on.unused) == 40
    assert set(on.ordinary) == used - on.special
    assert set(on.word_ids.tolist()) <= used and int(on.word_ids.max()) > len(model.tokenizer)
    word = model.tokenizer.convert_tokens_to_string(top[-1:])
    scored = sl.score(model, ["the" + word], end=False)
    assert "".join(scored.token) == "the" + word
    written: list[int] = []
    for seed in range(3):
        texts = sl.generate(
            model, ["the"], samples=40, seed=seed, max_new_tokens=20, temperature=3.0
        )
        written += model.tokenizer("".join(texts.text), add_special_tokens=False)["input_ids"]
    assert used.issuperset(written) and max(written) >= len(model.tokenizer)


def test_names_of_tokens_are_no_words_whatever_the_tokenizer_says_of_them() -> None:
    words = copy_of("fallback")
    names = ["<|reserved_special_token_0|>", "<|python_tag|>", "<unused7>", "[unused3]"]
    words.add_tokens([AddedToken(names[0], special=True), *(AddedToken(n) for n in names[1:])])
    on = sl.readout(tiny_with(words))
    kept = {on.tokens[i].strip() for i in on.word_ids.tolist()}
    assert {"film", "good", ".", "?"} <= kept
    assert kept.isdisjoint(names) and {name.strip() for name in on.tokens} >= set(names)
    assert not any(word.startswith("<0x") for word in kept)  # and bytes are none either


def test_a_tokenizer_that_is_larger_than_the_model_is_said_to_be() -> None:
    words = copy_of("bytes")
    model = tiny_with(words, 250)
    assert sl.readout(model).n_tokens == 250 < len(words)
    for use in (lambda: sl.collect(model, TEXTS), lambda: sl.generate(model, TEXTS)):
        with pytest.raises(ValueError, match="the model a vocabulary of 250.*resize"):
            use()


def test_padding_and_begin_of_text_are_never_written(
    spelled: list[tuple[list[int], list[int]]],
) -> None:
    words = copy_of("fallback")
    sl.generate(tiny_with(words), ["the"], samples=200, max_new_tokens=20, temperature=10.0, seed=1)
    seen = [token for _, new in spelled for token in new]
    assert len(seen) > 9 * len(words)  # all is about as likely
    assert {words.bos_token_id, words.pad_token_id}.isdisjoint(seen)
    assert words.eos_token_id in seen  # it ends a text


def test_a_token_without_an_embedding_is_named_with_the_remedy() -> None:
    words = copy_of("bytes")
    n = len(words)
    words.add_tokens(["<mood>"])
    model = tiny_with(words, n)
    message = rf"text 1 \('a <mood> film'\): token '<mood>' has id {n}, .* vocabulary of {n}.*resize_token_embeddings\({n + 1}\)"
    texts = ["fine .", "a <mood> film"]
    calls = (
        lambda: sl.score(model, texts),
        lambda: sl.collect(model, texts, progress=False),
        lambda: sl.generate(model, texts, max_new_tokens=2),
    )
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()
    assert len(sl.score(model, texts[:1]))


def test_a_text_that_the_tokenizer_does_not_know_is_said() -> None:
    model = zoo("toy-64")
    with pytest.warns(
        UserWarning, match=r"does not know 67% of the texts, e\.g\. 'Xyzzy' of text 0"
    ):
        sl.score(model, ["Xyzzy film plugh"], end=False)
    with pytest.raises(ValueError, match=r"knows nothing in them, e\.g\. 'Xyzzy' of text 0"):
        sl.collect(model, ["Xyzzy", "plugh xyzzy"], progress=False)
    known = ["the film was good ."] * 20
    with pytest.warns(
        UserWarning, match=r"knows nothing in 1 of 21 texts, e\.g\. 'Xyzzy', text 20: "
    ):
        sl.collect(model, [*known, "Xyzzy"], progress=False)
    with pytest.warns(UserWarning, match="does not know"):
        sl.generate(model, ["Xyzzy film"], max_new_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("toy-64", "toy-96-llama"):
            for attribute in ("sentiment", "tone"):
                encode(
                    zoo(name).tokenizer,
                    list(sl.toy.corpus(attribute, n=200, seed=3).texts),
                    PLAIN,
                    end=True,
                )


def test_a_tokenizer_that_passes_over_what_it_does_not_know_is_found_out() -> None:
    made = json.loads(copy_of("fallback").backend_tokenizer.to_str())
    made["model"] |= {"byte_fallback": False, "unk_token": None}
    raw = type(copy_of("fallback").backend_tokenizer).from_str(json.dumps(made))
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>")
    assert encode(words, [CORPUS], PLAIN, end=False).ids == [
        [1, *words(CORPUS, add_special_tokens=False)["input_ids"]]
    ]
    with pytest.warns(UserWarning, match=r"does not know 67% of the texts, e\.g\. '这' of text 1"):
        encode(words, ["a", "a 这部电影"], PLAIN, end=False)
    with pytest.raises(ValueError, match=r"knows nothing in them, e\.g\. '这'"):
        encode(words, ["这部电影"], PLAIN, end=False)


def test_strings_of_tokens_are_text_and_parts_of_characters_their_bytes() -> None:
    words = copy_of("bytes")
    words.add_tokens(["  né"])
    found = token_strings(words, 10**6)
    assert len(found) == len(words) and found[-1] == "  né"
    spelled = dict(zip(words.convert_ids_to_tokens(range(len(found))), found, strict=True))
    assert spelled["Ġfilm"] == " film" and spelled["Ċ"] == "\n" and spelled["ð"] == "<0xF0>"
    for token, text in list(spelled.items())[:-1]:
        assert text == words.convert_tokens_to_string([token]) or "<0x" in text
    fallback = token_strings(TOKENIZERS["fallback"], 10**6)
    assert " the" in fallback and "<0xF0>" in fallback
    # a letter of Maltese does not make it a byte-level tokenizer
    maltese = copy_of("unigram")
    maltese.add_tokens(["Ġgantija"])
    assert any(len(token) > 1 and token[0] == " " for token in token_strings(maltese, 10**6))


def test_no_part_of_a_character_is_a_word() -> None:
    on = sl.readout(zoo("gpt2"))
    assert any("<0x" in token for token in on.tokens)
    assert not [i for i in on.word_ids.tolist() if "<0x" in on.tokens[i]]


@pytest.mark.parametrize("call", ["collect", "score", "generate", "infer_strength"])
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"text": list(TEXTS)}, r"\['text'\]"),
        (["good", None], r"\[1\] is missing"),
        (["good", "cut \ud83d"], r"\[1\] holds half a character"),
        ([], "got none"),
    ],
)
def test_what_is_no_text_is_refused_everywhere_alike(
    unchecked: None, call: str, texts: Any, message: str
) -> None:
    model = zoo("gpt2")
    steer = sl.Steer(sl.readout(model).W_U.new_zeros(32, 32), sl.readout(model))
    calls = {
        "collect": lambda: sl.collect(model, texts, progress=False),
        "score": lambda: sl.score(model, texts),
        "generate": lambda: sl.generate(model, texts, max_new_tokens=1),
        "infer_strength": lambda: sl.infer_strength(model, steer, texts),
    }
    with pytest.raises(ValueError, match=message):
        calls[call]()


def test_one_string_is_one_text_and_labelled_prompts_are_refused(unchecked: None) -> None:
    model = zoo("gpt2")
    for call in (sl.score, sl.generate):
        assert call(model, "the film").equals(call(model, ["the film"]))
    assert sl.collect(model, "the film", progress=False).n_texts == 1
    with pytest.raises(ValueError, match="prompts: got labelled texts"):
        sl.generate(model, sl.Labelled(TEXTS[:1], (1.0,)))


def test_half_a_character_in_labelled_texts_is_refused() -> None:
    for prompts in ((), ("the", "cut \ud83d")):
        texts = ("good", "bad") if prompts else ("good", "cut \ud83d")
        with pytest.raises(ValueError, match=r"\[1\] holds half a character"):
            sl.collect(zoo("gpt2"), sl.Labelled(texts, (1.0, -1.0), prompts), progress=False)


@pytest.mark.parametrize("kind", KINDS)
def test_behind_a_special_token_at_the_end_of_a_prompt_no_space_is_put(kind: str) -> None:
    words = TOKENIZERS[kind]
    prompt = f"how was it ?{words.eos_token}"
    (ids,) = encode(words, ["good film"], PLAIN, end=False, prompts=[prompt]).ids
    expected = words(prompt + "good film", add_special_tokens=False)["input_ids"]
    assert ids[-len(expected) :] == expected
    # a model whose texts begin with a space begins one there too
    (spaced,) = encode(words, ["good film"], SPACED, end=False, prompts=[prompt]).ids
    expected = words(f"{prompt} good film", add_special_tokens=False)["input_ids"]
    assert spaced[-len(expected) + 6 :] == expected[6:]


def test_tokens_that_are_bytes_under_the_letters_of_their_numbers_are_spelled_as_bytes() -> None:
    words = transformers.ByT5Tokenizer()
    strings = token_strings(words, 384)
    assert strings[3 + 0x41] == "A"
    assert [strings[3 + b] for b in (0x80, 0xC3, 0xFF)] == ["<0x80>", "<0xC3>", "<0xFF>"]
