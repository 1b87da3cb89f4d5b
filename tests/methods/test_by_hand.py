"""Steers by hand do exactly what was asked of the words, and least to all else."""

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.evaluate.sign_margin import sign_margin
from steerlens.methods.steer.by_hand import (
    DAMPING,
    steer_from_texts,
    steer_from_words,
    steer_towards_words,
)
from tests.methods.make import model
from tests.values.make import make_readout, random

ON = make_readout(d=6, vocab=17)
CENTRED = (ON.W_U - ON.W_U.mean(1, keepdim=True)).double()
PAIRS = {"superb": "awful", "wonderful": "horrible", "pleasant": "disgusting"}


@pytest.fixture(scope="module")
def states() -> sl.States:
    return sl.collect(model(), sl.toy.corpus("sentiment", n=200, seed=0), progress=False)


# from words


def test_listed_words_are_scaled_and_all_others_move_least() -> None:
    found = steer_from_words(ON, {"w3": "w5", "w7": 0.5}).W.double()  # type: ignore[dict-item]
    ids, scores = [3, 5, 7], torch.tensor([1.0, -1.0, 0.5]).double()
    X = CENTRED[:, ids]
    assert_close(found @ X, X * scores, rtol=1e-5, atol=1e-5)
    S = CENTRED @ CENTRED.mT

    def spent(W: torch.Tensor) -> float:
        return float((W @ S @ W.mT).trace())

    plain = (X * scores) @ torch.linalg.pinv(X)  # does the same, and knows no other word
    assert_close(plain @ X, X * scores)
    assert spent(found) < 0.95 * spent(plain)
    off = torch.eye(6).double() - X @ torch.linalg.pinv(X)  # what leaves the words alone
    for seed in range(5):
        other = found + 0.1 * random(6, 6, seed=seed).double() @ off
        assert_close(other @ X, X * scores, rtol=1e-4, atol=1e-4)
        assert spent(other) > spent(found)


def test_a_words_logit_over_the_mean_of_all_words_is_multiplied() -> None:
    steer, c = steer_from_words(ON, {"w3": 1.0, "w5": -1.0}), random(9, 6, seed=2)
    before, after = (
        (x @ ON.W_U) - (x @ ON.W_U).mean(1, keepdim=True) for x in (c, steer.apply(c, 0.4))
    )
    assert_close(after[:, 3], 1.4 * before[:, 3], rtol=1e-3, atol=1e-3)
    assert_close(after[:, 5], 0.6 * before[:, 5], rtol=1e-3, atol=1e-3)


def test_more_words_than_dimensions_are_least_squares() -> None:
    scores = {f"w{i}": (-1.0) ** i for i in range(1, 12)}
    found, X = steer_from_words(ON, scores).W.double(), CENTRED[:, 1:12]
    aim = X * torch.tensor(list(scores.values())).double()
    best = torch.linalg.lstsq(X.mT, aim.mT).solution.mT
    assert_close(found, best, rtol=1e-4, atol=1e-4)
    assert (found @ X - aim).norm() > 0.01


def test_pairs_are_scores_of_one_and_minus_one_and_spellings_count() -> None:
    assert torch.equal(
        steer_from_words(ON, {"w3": "w5"}).W, steer_from_words(ON, {"w3": 1, "w5": -1}).W
    )
    tokens = ("<s>", " good", "good", "bad", *(f"x{i}" for i in range(13)))
    spelled = sl.Readout(ON.W_U, ON.b_U, tokens, frozenset({0}))
    X = CENTRED[:, [1, 2, 3]]
    found = steer_from_words(spelled, {"good": "bad"}).W.double()
    assert_close(found @ X, X * torch.tensor([1.0, 1.0, -1.0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "words, said",
    [
        ({}, "expected pairs"), ({"w3": "w99"}, "nearest: w9"), ({"w3": "w5", "w5": "w3"}, "both sides"),
        ({"w3": 0.0}, "every score is 0"), ({"w3": float("nan")}, "finite"), ({"<s>": 1.0}, "no single token"),
    ],
)  # fmt: skip
def test_words_that_make_no_steer_are_refused(words, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        steer_from_words(ON, words)


# towards words, in the natural metric


def test_it_is_the_natural_gradient_of_the_expected_score(states: sl.States) -> None:
    some, on = states.sample(300, seed=1), states.readout
    c = torch.cat([part.hidden for part in some.chunks(1 << 14)])
    a = torch.zeros(on.d_vocab)
    a[on.tokens.index("superb")], a[on.tokens.index("awful")] = 1.0, -0.5
    W = torch.zeros(64, 64, requires_grad=True)
    (((c + c @ W) @ on.W_U + on.b_U).softmax(1) @ a).mean().backward()
    metric = sl.natural_metric(some, damping=DAMPING, weights="tokens")
    expected = metric.C_inverse_root @ metric.C_inverse_root @ W.grad @ metric.S_inverse_root @ metric.S_inverse_root  # type: ignore[operator]  # fmt: skip
    found = steer_towards_words(some, {"superb": 1.0, "awful": -0.5}).W
    assert torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.999
    # of one cost in the metric none gains more to first order
    gain, length = (found * W.grad).sum(), metric.whiten(found).norm()  # type: ignore[operator]
    for seed in range(5):
        other = metric.unwhiten(torch.randn(64, 64, generator=torch.Generator().manual_seed(seed)))
        assert (other * W.grad).sum().abs() / metric.whiten(other).norm() < gain / length  # type: ignore[operator]


def test_five_words_do_some_of_what_labels_do_and_need_none(states: sl.States) -> None:
    joy = steer_towards_words(states, PAIRS, name="joy")
    assert torch.equal(joy.W, steer_towards_words(states.relabel(-states.labels), PAIRS).W)
    assert_close(sl.strength_at_kl(joy, states, kl=0.05), 1.0, rtol=0.1, atol=0.0)
    test = sl.toy.corpus("sentiment", n=80, seed=5)
    assert sign_margin(model(), test, joy).low > 0.02
    raw = steer_from_words(states.readout, PAIRS)
    raw = sl.strength_at_kl(raw, states) * raw
    assert sign_margin(model(), test, raw).low > 0.02


def test_words_that_are_never_said_make_no_steer(states: sl.States) -> None:
    with pytest.raises(ValueError, match="every score"):
        steer_towards_words(states, {"superb": 0.0})


# from two texts

UP, DOWN = (
    "the film was superb . i adored the wonderful acting .",
    "the film was awful . i loathed the horrible acting .",
)


def test_two_texts_are_told_apart_and_the_order_is_the_sign(states: sl.States) -> None:
    there, back = (steer_from_texts(model(), *pair, states=states) for pair in ((UP, DOWN), (DOWN, UP)))  # fmt: skip
    assert_close(there.W, -back.W, rtol=1e-2, atol=1e-3)
    scores = sl.score(model(), [UP, DOWN], there, strengths=(-1, 1)).groupby(["text", "strength"])
    total = scores.log_prob.sum()
    assert total[0, 1.0] > total[0, -1.0] and total[1, 1.0] < total[1, -1.0]
    assert sign_margin(model(), sl.toy.corpus("sentiment", n=80, seed=5), there).low > 0


def test_texts_weigh_the_same_whatever_their_length(states: sl.States) -> None:
    once, thrice = (steer_from_texts(model(), up, DOWN, states=states).W for up in (UP, " ".join([UP] * 3)))  # fmt: skip
    assert torch.cosine_similarity(once.flatten(), thrice.flatten(), dim=0) > 0.7


def test_texts_that_make_no_steer_are_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"unwanted: got list \['.*'\], expected a text"):
        steer_from_texts(model(), UP, [UP])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="same text"):
        steer_from_texts(model(), UP, UP)
    with pytest.raises(ValueError, match="empty"):
        steer_from_texts(model(), UP, " ")


def test_a_model_stands_for_its_readout_and_scores_are_numbers(unchecked: None) -> None:
    model = sl.load_model("toy-64")
    words = {"good": 1.0, "bland": -1.0}
    assert torch.equal(
        steer_from_words(model, words).W, steer_from_words(sl.readout(model), words).W
    )
    for wrong in (None, ["bland"], {"bland": 1}, float("inf")):
        with pytest.raises(ValueError, match="words: 'good' has the score"):
            steer_from_words(model, {"good": wrong})  # pyright: ignore[reportArgumentType]
