"""The strength of a text: the top of its likelihood curve, found in texts whose strength is
known."""

import numpy as np
import pytest
import torch
from scipy.stats import binom
from scipy.stats import t as student

import steerlens as sl
from steerlens.evaluate.sign_margin import sign_margin
from steerlens.evaluate.strength import infer_strength, state_strengths
from steerlens.values.readout import Readout
from steerlens.values.states import Shard, States
from steerlens.values.steer import Steer, zero_steer
from tests.models.zoo import random_steer, zoo

WORDS = tuple("abcdefgh")


@pytest.fixture(scope="module")
def tone(model) -> Steer:
    states = sl.collect(model, sl.toy.corpus("tone", n=300, seed=0), progress=False)
    return sl.fit_steer(states, name="tone", ridge=0.1, damping=0.1, lr=0.1).value


def sampled(n_texts: int, length: int, strengths: list[float]) -> tuple[States, Steer]:
    """Texts whose tokens are drawn from the steered softmax itself, at known strengths."""
    random = torch.Generator().manual_seed(0)
    on = Readout(torch.randn(4, 8, generator=random), torch.zeros(8), WORDS)
    steer = Steer(torch.randn(4, 4, generator=random) * 0.5, on)
    c = torch.randn(n_texts * length, 4, generator=random)
    text = torch.arange(n_texts).repeat_interleave(length)
    s = torch.tensor(strengths)[text][:, None]
    target = torch.multinomial(
        torch.softmax(on.logits(c + s * (c @ steer.W)), 1), 1, generator=random
    ).squeeze(1)
    shard = Shard(c, target.int(), text.int())
    lengths = torch.full((n_texts,), length)
    return States(
        on, (shard,), torch.zeros(n_texts), lengths, torch.ones(n_texts, dtype=torch.bool)
    ), steer


def test_strengths_that_made_the_texts_are_found_within_their_errors():
    truth = np.linspace(-1.5, 1.5, 60)
    states, steer = sampled(60, 120, truth.tolist())
    table = state_strengths(states, steer).table
    z = (table.strength - truth) / table.error
    assert 0.7 < z.std() < 1.3 and abs(z.mean()) < 0.4
    assert np.corrcoef(table.strength, truth)[0, 1] > 0.95
    # the model is true here, so both errors agree
    assert np.median(table.robust_error / table.error) == pytest.approx(1, abs=0.1)


def covered(table, errors: str) -> list[bool]:
    inside = table[~table.at_limit]
    return ((inside.strength - 1).abs() <= 2 * inside[errors]).tolist()


def by_chance(hits: list[bool], share: float) -> bool:
    """Say whether so many hits come about in 99 of 100 cases, if each has this chance."""
    low, high = binom.interval(0.99, len(hits), share)
    return bool(low <= sum(hits) <= high)


@pytest.mark.parametrize("length", [10, 20, 40])
def test_two_errors_of_texts_of_a_known_strength_cover_it(length: int):
    """1,000 texts, the steered model true: few tokens need the correction, and may make it too
    wide."""
    states, steer = sampled(1000, length, [1.0] * 1000)
    table = state_strengths(states, steer).table
    assert by_chance(covered(table, "error"), 0.95)
    robust = covered(table, "robust_error")
    assert by_chance(robust, 0.95) or (length < 40 and 0.95 < np.mean(robust) < 0.985)


def test_only_robust_errors_cover_where_tokens_vary_more_than_the_model_says():
    """Tokens farther out on either side than the steered softmax has them, with its mean."""
    states, steer = sampled(1000, 40, [1.0] * 1000)
    shard = states.shards[0]
    assert isinstance(shard, Shard)
    u = (shard.hidden @ steer.W @ states.readout.W_U).double()
    p = torch.softmax(states.readout.logits(shard.hidden + shard.hidden @ steer.W).double(), 1)
    off = u - (p * u).sum(1, keepdim=True)
    # each side weighted by its distance, and then the sides so that they balance: slope 0 at 1
    sides = [p * (sign * off).clamp_min(0) for sign in (1, -1)]
    right, left = (side / side.sum(1, keepdim=True) for side in sides)
    far, near = (right * off).sum(1, keepdim=True), -(left * off).sum(1, keepdim=True)
    q = (near * right + far * left) / (near + far)
    assert (q * off).sum(1).abs().max() < 1e-6
    target = torch.multinomial(q, 1, generator=torch.Generator().manual_seed(1)).squeeze(1)
    bent = States(
        states.readout,
        (Shard(shard.hidden, target.int(), shard.text),),
        states.labels,
        states.lengths,
        states.keep,
    )
    table = state_strengths(bent, steer).table
    assert np.mean(covered(table, "error")) < 0.9 and by_chance(
        covered(table, "robust_error"), 0.95
    )


def test_under_a_prior_both_errors_are_of_strengths_that_it_draws():
    truth = torch.randn(600, generator=torch.Generator().manual_seed(5)).tolist()
    states, steer = sampled(600, 15, truth)
    table = state_strengths(states, steer, prior=1.0).table
    for errors in ("error", "robust_error"):
        hits = ((table.strength - truth).abs() <= 2 * table[errors]).tolist()
        assert by_chance(hits, 0.95) or 0.95 < np.mean(hits) < 0.98


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "cohere"])
def test_the_top_is_where_a_grid_has_it(name: str):
    lm = zoo(name)
    texts = ["the film was good .", "a very fine cast , and a slow plot ?"]
    steer = random_steer(lm, size=0.3)
    grid = np.linspace(-10, 10, 801)
    found = infer_strength(lm, steer, texts, strengths=grid.tolist())
    for text, part in found.curve.groupby("text"):
        row = found.table.loc[text]
        best = part.strength.iloc[part.log_likelihood.argmax()]
        if not row.at_limit:
            assert row.strength == pytest.approx(best, abs=0.03)
            assert row.gain == pytest.approx(part.log_likelihood.max(), abs=1e-3)


def test_tokens_add_up_to_their_text(model, tone: Steer):
    found = infer_strength(
        model, tone, ["please try the soup .", "the damned soup was cold ."], strengths=(-1, 1)
    )
    for text, part in found.tokens.groupby("text"):
        row = found.table.loc[text]
        assert len(part) == row.tokens and part.position.tolist() == list(range(len(part)))
        assert part.slope.sum() == pytest.approx(0, abs=1e-3) and part.slope.abs().sum() > 0.1
        assert part.information.sum() == pytest.approx(row.error**-2, rel=1e-4)
    wide = found.curve.pivot(index="text", columns="strength", values="log_likelihood")
    assert (wide[1.0] - wide[-1.0]).to_numpy() == pytest.approx(
        found.table.evidence.to_numpy(), abs=1e-4
    )
    assert found.token_curve.token[:3].tolist() == ["please", "try", "the"]
    assert "<table" in found._repr_html_()


@pytest.mark.parametrize("prior", [None, 0.5])
def test_both_errors_and_the_sums_of_slopes_are_those_of_the_tokens(
    model, tone: Steer, prior: float | None
):
    found = infer_strength(
        model, tone, ["please try the soup .", "the damned soup was cold ."], prior=prior
    )
    pull = 0.0 if prior is None else 1 / prior**2
    for text, part in found.tokens.groupby("text"):
        row, known = found.table.loc[text], part.information.sum() + pull
        assert part.slope.sum() == pytest.approx(pull * row.strength, abs=1e-3)
        assert 1 / row.error**2 == pytest.approx(known, rel=1e-4)
        variance = (part.slope**2 / (1 - part.information / known)).sum() + pull
        reach = student.ppf(0.975, known**2 / (part.information**2).sum()) / 2
        assert row.robust_error == pytest.approx(reach * variance**0.5 / known, rel=1e-3)
        plain = ((part.slope**2).sum() + pull) ** 0.5 * reach / known
        assert prior is not None or row.robust_error > 1.01 * plain


def test_a_strength_given_twice_counts_once(model, tone: Steer):
    once, twice = (
        infer_strength(model, tone, ["please try the soup ."], strengths=s)
        for s in ((1, 0), (1, 1.0, 0, -0.0, 1))
    )
    assert once.curve.equals(twice.curve) and once.token_curve.equals(twice.token_curve)


def test_turning_the_steer_turns_the_strength_and_doubling_halves_it(model, tone: Steer):
    texts = sl.toy.corpus("tone", n=12, seed=4).texts
    there, back, double = (infer_strength(model, s, texts).table for s in (tone, -tone, 2 * tone))
    inside = ~there.at_limit & ~double.at_limit
    assert inside.sum() > 6
    np.testing.assert_allclose(back.strength, -there.strength, atol=1e-3)
    np.testing.assert_allclose(2 * double.strength[inside], there.strength[inside], atol=1e-3)
    np.testing.assert_allclose(2 * double.error[inside], there.error[inside], rtol=1e-3)


def test_on_the_toy_strengths_follow_the_labels(model, tone: Steer):
    data = sl.toy.corpus("tone", n=150, seed=7)
    table = infer_strength(model, tone, data.texts, prior=1.0).table
    means = table.strength.groupby(np.array(data.labels)).mean()
    assert means.loc[-1.0] < -0.1 < 0.2 < means.loc[1.0]
    assert abs(means.loc[0.0]) < 0.25


def test_a_prior_draws_to_zero_and_bounds_what_has_no_top():
    states, steer = sampled(40, 3, [2.0] * 40)
    free, bound = (
        state_strengths(states, steer).table,
        state_strengths(states, steer, prior=1.0).table,
    )
    assert free.at_limit.any() and not bound.at_limit.any()
    assert (
        np.isinf(free.error[free.at_limit]).all()
        and (free.strength.abs()[free.at_limit] == 10).all()
    )
    assert (bound.strength.abs() <= free.strength.abs() + 1e-4).all()
    assert (bound.error <= 1).all()


def test_texts_left_out_are_left_out():
    states, steer = sampled(6, 20, [0.5] * 6)
    some = states.select(torch.tensor([True, False, True, True, False, True]))
    part, whole = state_strengths(some, steer).table, state_strengths(states, steer).table
    assert part.text.tolist() == [0, 2, 3, 5]
    np.testing.assert_allclose(part.strength, whole.strength[[0, 2, 3, 5]], atol=1e-6)


def test_a_zero_steer_says_nothing(model):
    table = infer_strength(
        model, zero_steer(sl.readout(model)), "the film was good .", prior=1.0
    ).table
    assert (
        table.strength[0] == 0
        and table.gain[0] == pytest.approx(0, abs=1e-5)
        and table.error[0] == 1
    )
    assert table.robust_error[0] == pytest.approx(1, rel=0.03)
    free = infer_strength(model, zero_steer(sl.readout(model)), "the film was good .").table
    assert np.isinf(free[["error", "robust_error"]]).all(None)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"limit": 0.0}, "limit"), ({"prior": -1.0}, "prior")]
)
def test_arguments_out_of_range(model, tone: Steer, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        infer_strength(model, tone, "good", **arguments)


def test_an_empty_text_and_another_models_steer_are_refused(model, tone: Steer):
    with pytest.raises(ValueError, match=r"texts\[1\] is empty"):
        infer_strength(model, tone, ["good", " "])
    with pytest.raises(ValueError, match="transfer"):
        infer_strength(sl.load_model("toy-128"), tone, "good")


def test_labelled_texts_are_texts(model, tone: Steer):
    texts = ["the film was good .", "you are rude ."]
    plain = infer_strength(model, tone, texts).table
    labelled = infer_strength(model, tone, sl.Labelled(texts, [1.0, -1.0])).table
    np.testing.assert_array_equal(labelled.strength, plain.strength)


def test_texts_that_are_cut_are_said_to_be(model, tone: Steer) -> None:
    long = ["the film was good . " * 60, "it was bad ."]
    for verb in (
        lambda: sl.infer_strength(model, tone, long),
        lambda: sign_margin(model, sl.Labelled(long, [1, -1]), tone),
        lambda: sl.pair(model, model, long, progress=False),
    ):
        with pytest.warns(UserWarning, match="1 of 2 are longer than the model's context"):
            verb()
