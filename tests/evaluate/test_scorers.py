"""Scorers: what they say, what they are worth, and what is refused."""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.feature_extraction.text import TfidfVectorizer

import steerlens as sl
from steerlens.evaluate.scorers import (
    Scorer,
    ask,
    fit_text_classifier,
    function_scorer,
    heldout,
    hugging_face_scorer,
    load_text_classifier,
    oracle,
    save_text_classifier,
    vader,
    word_list,
)
from steerlens.evaluate.scorers.ngrams import Grams, tfidf
from steerlens.evaluate.scorers.text_classifier import CUTS, TextClassifier

ODD = ["A  fine\tfilm, isn't it?", "", "x", "été 3-4 words_with", "so so so good", "日本 a"]


def test_a_classifier_is_judged_on_no_copy_of_what_it_learned() -> None:
    texts = sl.toy.corpus("sentiment", n=100, seed=0).texts
    coin = np.random.default_rng(0).choice([-1.0, 1.0], 100).tolist()
    card = fit_text_classifier(sl.Labelled(texts * 4, coin * 4), measures="a coin").card
    assert card.heldout is not None and card.heldout.auc < 0.8


@pytest.fixture(scope="module")
def joy() -> TextClassifier:
    return fit_text_classifier(
        sl.toy.corpus("sentiment", n=500, seed=0),
        measures="how positive",
        test=sl.toy.corpus("sentiment", n=200, seed=1),
    )


@pytest.mark.parametrize("cut", CUTS)
def test_ngrams_are_scikit_learns(cut: Grams):
    texts = [*sl.toy.corpus("tone", n=30, seed=0).texts, *ODD]
    theirs = TfidfVectorizer(
        analyzer=cut.kind, ngram_range=(cut.least, cut.most), sublinear_tf=True, min_df=2
    )
    wanted = theirs.fit_transform(texts[:-3])
    columns = {term: k for k, term in enumerate(theirs.get_feature_names_out())}
    for some, rows in ((texts[:-3], wanted), (texts, theirs.transform(texts))):
        found = tfidf(some, cut, columns, theirs.idf_)
        assert found.nnz == rows.nnz > 0
        assert abs(found - rows).max() < 1e-12


def test_a_classifier_tells_new_texts_apart_and_knows_how_well(joy):
    texts = sl.toy.corpus("sentiment", n=200, seed=1)
    found = joy.card.heldout
    assert found == heldout(joy, texts, on="of the same kind")
    assert found.auc_low > 0.75 and found.auc_low < found.auc < found.auc_high
    # no classifier is better than the grammar, but by chance
    assert heldout(oracle("sentiment"), texts, on="").auc > found.auc_low
    shuffled = sl.Labelled(texts.texts, np.random.default_rng(0).permutation(texts.labels))
    assert abs(heldout(joy, shuffled, on="").auc - 0.5) < 0.15


def test_graded_labels_become_shares():
    texts = [f"word{k % 3} filler" for k in range(300)]
    labels = [(-0.8, 0.0, 0.6)[k % 3] for k in range(300)]
    data = sl.Labelled(texts, labels)
    found = fit_text_classifier(data, measures="", test=data).scores(texts[:3])
    np.testing.assert_allclose(found, [0.1, 0.5, 0.8], atol=0.03)


def test_a_classifier_comes_back_from_its_file(joy, tmp_path: Path):
    path = save_text_classifier(joy, tmp_path / "joy.safetensors")
    again = load_text_classifier(path)
    assert again.card == joy.card and again.terms == joy.terms
    np.testing.assert_array_equal(again.scores(ODD), joy.scores(ODD))
    with safe_open(str(path), framework="np") as file:
        assert json.loads(file.metadata()["steerlens scorer"])["format"] == 1
    with pytest.raises(ValueError, match="ends in .safetensors"):
        save_text_classifier(joy, tmp_path / "joy.pkl")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_text_classifier(tmp_path / "cut.safetensors")
    steer = sl.Steer(torch.eye(64), sl.readout(sl.load_model("toy-64")))
    with pytest.raises(ValueError, match="not a file that save_text_classifier wrote"):
        load_text_classifier(sl.save(steer, tmp_path / "steer.safetensors"))


def test_one_sign_alone_teaches_nothing():
    data = sl.Labelled(["good ."] * 30, [1.0] * 30)
    with pytest.raises(ValueError, match="both signs are needed"):
        fit_text_classifier(data, measures="")
    with pytest.raises(ValueError, match="both signs are needed"):
        heldout(oracle("tone"), data, on="")


def test_the_oracle_is_the_grammars_posterior_and_turns_with_the_sign(unchecked):
    kind, rude = oracle("tone"), oracle("tone", sign=-1)
    texts = [*sl.toy.corpus("tone", n=20, seed=3).texts, "", "unheard words"]
    wanted = sl.toy.grammar.posteriors(texts).mean("tone")
    np.testing.assert_allclose(kind.scores(texts), (1 + wanted) / 2)
    np.testing.assert_allclose(kind.scores(texts) + rude.scores(texts), 1)
    assert kind.scores([]).shape == (0,)
    assert rude.card.measures == "how rude" and rude.card.heldout.auc > 0.8
    with pytest.raises(ValueError, match="attribute, sign"):
        oracle("topic")  # pyright: ignore


def test_word_lists():
    offensive = word_list(["damn"], measures="how toxic")
    assert offensive.scores(["Damn!", "damned", ""]).tolist() == [1, 0, 0]
    both = word_list(["fine", "state-of-the-art"], ["bad"], measures="praise")
    assert both.scores(["fine fine bad", "state-of-the-art", "so"]).tolist() == [2 / 3, 1, 0.5]
    data = sl.Labelled(["fine", "bad", "fine too", "bad too"], [1, -1, 1, -1])
    assert word_list(["fine"], measures="", data=data).card.heldout.accuracy == 1
    for wrong, said in ((["two words"], "'two words'"), ([], "none")):
        with pytest.raises(ValueError, match=f"words: got {said}"):
            word_list(wrong, measures="")


def test_words_in_any_script_are_words_and_one_text_is_no_list(unchecked):
    bad = word_list(["बुरी", "cafe\u0301", "नहीं"], measures="how negative")
    texts = ["यह फिल्म बुरी थी", "बुर", "the caf\u00e9", "नही", "cafe"]
    assert bad.scores(texts).tolist() == [1, 0, 1, 0, 0]
    assert word_list({"bad", "awful"}, measures="").high == {"bad", "awful"}
    for wrong, said in (("bad", "high: got one str, 'bad'"), (3, "high: got int 3")):
        with pytest.raises(ValueError, match=said):
            word_list(wrong, measures="")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="low: got one str, 'bad'"):
        word_list(["good"], "bad", measures="")


def test_what_a_classifier_cannot_learn_from_is_named(unchecked):
    data = sl.toy.corpus("sentiment", n=60, seed=0)
    faces = sl.Labelled(
        [f"{a} {b}" for a in "😀😃😄😁😆" for b in "😡😠😤🤬👿"], [1, -1] * 12 + [1]
    )
    for given, options, said in (
        (list(data), {}, "data: got list"),
        (data, {"test": list(data)}, "test: got list"),
        (data, {"min_count": 1000}, "no term .* in at least 1000 of 43 texts.*smaller min_count"),
        (data, {"min_count": 0}, "min_count: got 0"),
        (data, {"min_count": 0.5}, "min_count: got 0.5"),
        (data, {"seed": 2**70}, "seed: got 1180591620717411303424"),
        (faces, {}, "no term of words or characters"),
    ):
        with pytest.raises(ValueError, match=said):
            fit_text_classifier(given, measures="", **options)


def test_what_is_no_number_is_named_and_an_iterator_is_read():
    pipe = function_scorer(lambda texts: [{"label": "x", "score": 0.5} for _ in texts], "pipe")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"scorer: 'pipe' gave .*score.*\['score'\] for found"):
        ask(pipe, ["a"])
    assert ask(function_scorer(lambda texts: (0.5 for _ in texts), "half"), ["a"]).tolist() == [0.5]


def test_scores_that_are_none_are_named_with_their_text():
    for scores, said in (
        ([0.5, math.nan], r"nan for texts\[1\], 'b'"),
        ([1.5, 0.5], r"1.5 for texts\[0\], 'a'"),
        ([0.5], r"shape \(1,\) for 2 texts"),
    ):
        with pytest.raises(ValueError, match=f"scorer: 'odd' gave.*{said}"):
            ask(function_scorer(lambda _, s=scores: s, "odd"), ["a", "b"])
    fine = function_scorer(lambda texts: [0.25] * len(texts), "fine")
    assert ask(fine, ["a", "b"]).tolist() == [0.25, 0.25]
    assert str(fine.card).endswith("its accuracy is not known")
    assert all(isinstance(s, Scorer) for s in (fine, oracle("tone")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier in a folder, with the toy tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    path = tmp_path_factory.mktemp("classifier")
    tokenizer = AutoTokenizer.from_pretrained(sl.toy.weights_folder("toy-64"))
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, pad_token_id=tokenizer.pad_token_id,
        id2label={0: "calm", 1: "loud"}, label2id={"calm": 0, "loud": 1},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(path)
    return path


def test_a_classifier_of_hugging_face_from_a_folder(folder: Path):
    loud, calm = hugging_face_scorer(folder), hugging_face_scorer(folder, label="calm")
    texts = ["the film was superb .", "so so .", "the plot was awful and the cast was bad ."]
    np.testing.assert_allclose(loud.scores(texts) + calm.scores(texts), 1)
    assert np.ptp(loud.scores(texts)) > 1e-4
    # alone or in a batch, the same
    np.testing.assert_allclose(loud.scores(texts)[1], loud.scores(texts[1:2])[0], atol=1e-6)
    assert loud.card.measures == "probability of 'loud'"
    with pytest.raises(ValueError, match="label: got 'bold', expected one of calm, loud"):
        hugging_face_scorer(folder, label="bold")


def test_a_text_is_scored_alike_whatever_its_neighbours_where_padding_has_two_ids(tmp_path: Path):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    words = AutoTokenizer.from_pretrained(sl.toy.weights_folder("toy-64"))
    words.pad_token = words.eos_token
    words.save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=(words.pad_token_id + 5) % len(words), initializer_range=0.5,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    scorer = hugging_face_scorer(tmp_path)
    texts = ["the film was superb .", "so so .", "the plot was awful and the cast was bad ."]
    alone = np.concatenate([scorer.scores([text]) for text in texts])
    np.testing.assert_allclose(scorer.scores(texts), alone, atol=1e-6)
    assert np.ptp(alone) > 1e-2
    config.num_labels, config.problem_type = 1, "regression"
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"regression.*function_scorer"):
        hugging_face_scorer(tmp_path)


def test_vader_scores_where_it_is_installed_and_else_says_what_is_missing():
    if find_spec("vaderSentiment") is None:
        with pytest.raises(ValueError, match=r"pip install 'steerlens\[vader\]'"):
            vader()
        return
    good, bad = vader().scores(["A superb, lovely film.", "A horrible, awful film."])
    assert bad < 0.5 < good


def test_the_area_under_the_curve_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    data = sl.toy.corpus("tone", n=60, seed=2)
    scorer = oracle("tone")
    found = heldout(scorer, data, on="")
    y = np.array(data.labels)
    assert found.auc == pytest.approx(
        roc_auc_score(y[y != 0] > 0, scorer.scores(data.texts)[y != 0])
    )
    assert found.texts == (y != 0).sum()


def noise_texts(n: int, highs: int) -> sl.Labelled:
    """Texts of words that say nothing of their labels, of which so many are +1."""
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefgh"), 5)) for _ in range(60)]
    texts = [" ".join(random.choice(words, 6)) for _ in range(n)]
    return sl.Labelled(texts, random.permutation([1.0] * highs + [-1.0] * (n - highs)).tolist())


def test_a_text_without_a_known_term_has_the_base_rate():
    data = noise_texts(400, 380)
    scorer = fit_text_classifier(data, test=data, measures="noise")
    assert scorer.scores(["qqq"])[0] == pytest.approx(0.95, abs=0.03)


def test_a_network_may_be_a_judge() -> None:
    net = torch.nn.Linear(1, 1)
    for dtype in (torch.float32, torch.bfloat16):
        judge = function_scorer(
            lambda texts, dtype=dtype: torch.sigmoid(net(torch.ones(len(texts), 1))).squeeze(1).to(dtype), "net"
        )  # fmt: skip
        expected = torch.sigmoid(net(torch.ones(1, 1))).item()
        assert ask(judge, ["a", "b"]) == pytest.approx([expected] * 2, rel=1e-2)
