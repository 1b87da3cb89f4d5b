"""Singular words: planted directions are found, signs are fixed, the natural metric does not depend
on the basis."""

from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import false_discovery_control

import steerlens as sl
from steerlens.analysis.svd import (
    directions,
    singular_scores,
    singular_words,
    spectrum,
    split_half_reliability,
)
from steerlens.analysis.svd.scores import against
from steerlens.evaluate.fluency import strength_cost
from steerlens.maths.stats import benjamini_hochberg
from steerlens.methods.steer.refit import fit_shuffled
from steerlens.values.fit import Fit
from steerlens.values.metric import Metric
from steerlens.values.readout import Readout
from steerlens.values.states import Shard, States
from steerlens.values.steer import Steer, zero_steer

WORDS = ("bad", "good", "dull", "fine", "so", "very", "cat", "dog")


@pytest.fixture
def on() -> Readout:
    """Eight words whose embeddings are the axes."""
    return Readout(torch.eye(8), torch.zeros(8), WORDS)


def planted(on: Readout, gains: tuple[float, float] = (3.0, 1.0)) -> Steer:
    """Where "so" was likely: "good" up and "bad" down; where "cat" was: "dog" up and "fine" down,
    more weakly."""
    W = torch.zeros(8, 8)
    W[4, 1], W[4, 0] = gains[0], -0.5 * gains[0]
    W[6, 7], W[6, 3] = gains[1], -0.5 * gains[1]
    return Steer(W, on, name="planted")


def make_states(on: Readout, c: torch.Tensor) -> States:
    n = len(c)
    shard = Shard(c, torch.zeros(n, dtype=torch.int32), torch.arange(n, dtype=torch.int32))
    return States(
        on,
        (shard,),
        torch.zeros(n),
        torch.ones(n, dtype=torch.long),
        torch.ones(n, dtype=torch.bool),
    )


def test_planted_words_are_found(on: Readout):
    table = singular_words(planted(on), rank=2, tokens=1)
    assert table.direction.tolist() == [1, 1, 2, 2]
    assert table.side.tolist() == ["+", "-", "+", "-"]
    first, second = table.iloc[0], table.iloc[2]
    assert (first.reads, first.writes, first.avoids) == ("so", "good", "(bad)")
    assert (second.reads, second.writes, second.avoids) == ("cat", "dog", "(fine)")
    assert table.gain.iloc[0] == pytest.approx(3 * 1.25**0.5)
    assert table.share.iloc[0] == pytest.approx(0.9)


def test_scores_are_what_strength_one_adds_to_the_logits(on: Readout):
    steer = planted(on)
    scores = singular_scores(steer, rank=1, tokens=1)
    good = scores[(scores.side == "+") & (scores.role == "writes")].iloc[0]
    c = torch.eye(8)[4]
    change = on.logits(steer.apply(c, 1.0)) - on.logits(c)
    assert good.word == "good"
    assert good.score == pytest.approx(float(change[1] - change.mean()), rel=1e-5)


def test_directions_add_up_to_the_matrix(on: Readout):
    torch.manual_seed(0)
    W = torch.randn(8, 8)
    A, B = torch.randn(8, 8).double(), torch.randn(8, 8).double()
    for metric in (None, Metric(A @ A.T, B @ B.T, damping=0.01)):
        d = directions(W, 8, metric)
        total = torch.einsum("k,ki,kj->ij", d.gains, d.probes, d.writes)
        torch.testing.assert_close(total.float(), W, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(
            (d.reads * d.probes).sum(1), torch.ones(8).double(), atol=1e-4, rtol=1e-4
        )


def test_sign_is_a_function_of_the_steer(on: Readout):
    steer = planted(on)
    there, mirrored = (singular_words(s, rank=1, tokens=1) for s in (steer, -steer))
    assert there.equals(singular_words(steer, rank=1, tokens=1))
    # -W writes the opposite where W's contexts are, so its side "+", named by the strongest word,
    # is where they are not
    assert mirrored.writes.tolist() == there.writes.tolist()
    assert mirrored.reads.tolist() == there.reads.tolist()[::-1]
    assert there.writes[0] != there.avoids[0]


def test_on_a_text_the_opposite_steer_swaps_what_is_written_and_avoided(on: Readout):
    torch.manual_seed(0)
    states = make_states(on, torch.randn(400, 8) + torch.eye(8)[4])
    steer = planted(on)
    table, opposite = (singular_words(s, rank=2, tokens=3, states=states) for s in (steer, -steer))
    assert opposite.reads.tolist() == table.reads.tolist()
    assert opposite.writes.tolist() == table.avoids.tolist()
    assert table.writes[0].strip("(").startswith("good") and table.avoids[0].strip("(").startswith(
        "bad"
    )
    assert table.reads[0].strip("(").startswith("so")
    assert (table.used.groupby(table.direction).sum() - 1).abs().max() < 1e-6
    assert table.used[0] > 0.6


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_on_a_text_scores_are_the_first_order_of_the_prediction(softcap: float | None):
    """`Δq / √q` against the change of the mean prediction at a small strength, scale and soft cap
    in it."""
    random = torch.Generator().manual_seed(3)
    on = Readout(3 * torch.eye(8), torch.zeros(8), WORDS, scale=1.5, softcap=softcap)
    states, steer = make_states(on, torch.randn(300, 8, generator=random)), planted(on)
    scores = singular_scores(steer, rank=1, tokens=3, states=states)
    seen = scores[(scores.side == "+") & (scores.role != "reads")]
    found, c = directions(steer.W, 1), states.shards[0].hidden.double()
    reading = c @ found.probes[0]

    def mean(contexts: torch.Tensor) -> torch.Tensor:
        z = 1.5 * contexts @ on.W_U.double()
        z = z if softcap is None else softcap * torch.tanh(z / softcap)
        return torch.softmax(z, 1).mean(0)

    def change(sign: int) -> torch.Tensor:
        side = sign * reading > 0
        moved = c[side] + 1e-5 * (found.gains[0] * reading[side])[:, None] * found.writes[0]
        return (mean(moved) - mean(c[side])) / 1e-5 / mean(c[side]).sqrt()

    want = torch.stack([change(1), change(-1)])[:, [WORDS.index(word) for word in seen.word]]
    near = (want - torch.tensor(seen.score.to_numpy())).abs().amax(1) / want.abs().amax(1)
    assert near.min() < 1e-3 < 0.1 < near.max()  # one of the sides is "+"


def test_readings_have_mean_square_1_over_the_text_as_it_is_weighed(on: Readout):
    """By default both signs of the labels weigh the same, however many texts there are of each."""
    random = torch.Generator().manual_seed(2)
    labels = torch.tensor([1.0] * 40 + [-1.0] * 10)
    c = torch.randn(50, 8, generator=random) * torch.where(labels > 0, 1.0, 3.0)[:, None]
    states = make_states(on, c).relabel(labels)
    squares = {}
    for weights in ("labels", "tokens"):
        metric = sl.natural_metric(states, weights=weights)
        squares[weights] = (c.double() @ directions(planted(on).W, 2, metric).probes.mT) ** 2
    halves = (squares["labels"][:40].mean(0) + squares["labels"][40:].mean(0)) / 2
    one = torch.ones(2).double()
    torch.testing.assert_close(halves, one, rtol=1e-3, atol=0)
    torch.testing.assert_close(squares["tokens"].mean(0), one, rtol=1e-3, atol=0)
    assert (squares["labels"].mean(0) < 0.9).all()


def test_the_natural_metric_does_not_see_the_basis():
    torch.manual_seed(1)
    W_U, W = torch.randn(4, 8).double(), torch.randn(4, 4).double()
    C, S = (x @ x.T for x in torch.randn(2, 4, 9).double())
    A = torch.eye(4).double() + 0.4 * torch.randn(4, 4).double()
    back = torch.linalg.inv(A)

    def words(W_U, W, C, S):
        steer = Steer(W.float(), Readout(W_U.float(), torch.zeros(8), WORDS))
        return singular_scores(steer, rank=2, tokens=2, metric=Metric(C, S, damping=0.0))

    one = words(W_U, W, C, S)
    # e -> Ae, and contexts go along: the same model in another basis
    other = words(A @ W_U, A @ W @ back, back.T @ C @ back, A @ S @ A.T)
    assert other.word.tolist() == one.word.tolist()
    torch.testing.assert_close(
        torch.tensor(other.score), torch.tensor(one.score), rtol=1e-3, atol=1e-3
    )
    plain = singular_scores(
        Steer((A @ W @ back).float(), Readout((A @ W_U).float(), torch.zeros(8), WORDS)), rank=2
    )
    assert plain.gain[0] != pytest.approx(one.gain[0], rel=1e-2)


def test_a_zero_steer_has_gains_of_zero(on: Readout):
    table = singular_words(zero_steer(on), rank=2, tokens=2)
    assert table.gain.tolist() == [0.0] * 4
    assert not table.isna().any().any()


def test_a_word_is_listed_where_its_score_has_the_sign_of_the_role(on: Readout):
    """However long the lists may be: all words of the vocabulary would fit."""
    random = torch.Generator().manual_seed(0)
    steer, c = Steer(torch.randn(8, 8, generator=random), on), torch.randn(60, 8, generator=random)
    for states in (None, make_states(on, c)):
        scores = singular_scores(steer, rank=3, tokens=8, states=states)
        assert (scores.score[scores.role != "avoids"] > 0).all()
        assert (scores.score[scores.role == "avoids"] < 0).all()
        ends = scores[scores.role != "reads"]
        assert not ends.duplicated(["direction", "side", "word"]).any()
        table = singular_words(steer, rank=3, tokens=8, states=states)
        for row in table.itertuples():
            mine = scores[(scores.direction == row.direction) & (scores.side == row.side)]
            for role in ("reads", "writes", "avoids"):
                words = getattr(row, role).replace("(", "").replace(")", "").split(", ")
                assert words == mine.word[mine.role == role].tolist()


def test_a_side_that_no_context_has_lists_no_words(on: Readout):
    c = torch.rand(50, 8, generator=torch.Generator().manual_seed(0))  # all readings of one sign
    W = torch.zeros(8, 8)
    W[4, 1], W[4, 0] = 2.0, -1.0
    refits = [(Steer(W, on), Steer(W, on))]
    table = singular_words(Steer(W, on), rank=1, states=make_states(on, c), refits=refits)
    assert table.side.tolist() == ["+", "-"] and table.used.tolist() == [1.0, 0.0]
    assert table.loc[1, ["reads", "writes", "avoids"]].tolist() == ["", "", ""]
    assert "good" in table.writes[0] and "bad" in table.avoids[0] and table.kept.notna().all()
    one = Readout(torch.ones(2, 3), torch.zeros(3), ("word", "!", "?"))  # no word has a score
    alone = singular_words(Steer(torch.eye(2), one), rank=1)
    assert alone[["reads", "writes", "avoids"]].eq("").all(axis=None) and len(alone) == 2


def test_lists_of_unequal_length_are_held_against_noise():
    scores = pd.DataFrame(
        {"direction": 1, "role": ["writes"] * 2 + ["reads"], "p": [0.2, 0.01, 0.5]}
    )
    short = pd.DataFrame({"role": ["writes"], "p": [0.001]})
    found = against(scores, [short] * 19).p_noise.tolist()
    # one word as strong has every fit to noise, two or one that is read has none
    assert found == [1.0, 1.0, 0.05]
    long = pd.DataFrame({"role": ["writes"] * 3, "p": [0.3, 0.1, 0.4]})
    assert against(scores, [long] * 19).p_noise.tolist() == [0.05, 0.05, 0.05]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"rank": 0}, "rank"), ({"rank": 9}, "rank"), ({"tokens": 0}, "tokens")],
)
def test_arguments_out_of_range(on: Readout, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        singular_words(planted(on), **arguments)


def test_without_words_it_says_so():
    on = Readout(torch.eye(2), torch.zeros(2), ("!", "?"))
    with pytest.raises(ValueError, match="whole word"):
        singular_words(zero_steer(on), rank=1)


def test_states_of_another_model_are_refused(on: Readout):
    other = Readout(2 * torch.eye(8), torch.zeros(8), WORDS)
    with pytest.raises(ValueError, match="states"):
        singular_words(planted(on), rank=1, states=make_states(other, torch.randn(5, 8)))


@pytest.mark.parametrize("on_text", [False, True])
@pytest.mark.parametrize("natural", [False, True])
def test_p_is_how_often_random_directions_of_the_same_norm_do_as_much(
    on: Readout, natural: bool, on_text: bool
):
    """Against drawing the directions: the same gain, the other vector kept, this one evenly from
    the sphere."""
    random = torch.Generator().manual_seed(0)
    A, B = torch.randn(2, 8, 12, generator=random).double()
    metric = Metric(A @ A.T, B @ B.T, damping=0.0) if natural else None
    states = make_states(on, torch.randn(600, 8, generator=random)) if on_text else None
    steer = Steer(
        torch.outer(torch.randn(8, generator=random), torch.randn(8, generator=random)), on
    )
    seen = singular_scores(steer, rank=1, tokens=8, metric=metric, states=states)
    mine = directions(steer.W, 1, metric)

    def drawn(role: str) -> pd.DataFrame:
        """Scores of all words for one random direction in the place of the one that reads, or
        writes."""
        other = torch.randn(8, generator=random).double()
        other /= other.norm()
        a, b = (other, mine.b[0]) if role == "reads" else (mine.a[0], other)
        W = mine.gains[0] * torch.outer(a, b)
        W = (W if metric is None else metric.unwhiten(W)).float()
        return singular_scores(Steer(W, on), rank=1, tokens=8, metric=metric, states=states)

    word = seen[(seen.role == "reads") & (seen.side == "+")].iloc[0]
    draws = [drawn("reads") for _ in range(150)]
    scores = [abs(d[(d.role == "reads") & (d.word == word.word)].score.iloc[0]) for d in draws]
    assert np.mean(np.array(scores) >= abs(word.score)) == pytest.approx(word.p, abs=0.12)
    if not on_text:  # on a text, which side is "+" depends on what is written
        word = seen[(seen.role == "writes") & (seen.side == "+")].iloc[0]
        draws = [drawn("writes") for _ in range(150)]
        scores = [abs(d[(d.role == "writes") & (d.word == word.word)].score.iloc[0]) for d in draws]
        assert np.mean(np.array(scores) >= abs(word.score)) == pytest.approx(word.p, abs=0.12)


def test_q_is_that_of_benjamini_and_hochberg():
    p = np.array([0.001, 0.2, 0.03, 0.004, 0.9])
    few, many = benjamini_hochberg(p, 5), benjamini_hochberg(p, 50)
    assert few.tolist() == pytest.approx(false_discovery_control(p).tolist())
    padded = np.concatenate([p, np.ones(45)])
    assert many.tolist() == pytest.approx(false_discovery_control(padded)[:5].tolist())
    assert (many >= few).all() and benjamini_hochberg(p, 5000).max() == 1


def test_a_spectrum_adds_up_to_the_cost(on: Readout):
    A, B = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(1)).double()
    metric = Metric(A @ A.T, B @ B.T, damping=0.0)
    found, plain = spectrum(planted(on), metric=metric), spectrum(planted(on, gains=(1.0, 1.0)))
    assert found.kronecker == pytest.approx(float(metric.kl(planted(on).W)), rel=1e-5)
    assert found.table.kronecker.sum() == pytest.approx(found.kronecker) and found.kl is None
    assert (
        found.table.cumulative.iloc[-1] == pytest.approx(1)
        and found.table.gain.is_monotonic_decreasing
    )
    assert plain.effective_rank == pytest.approx(2) and plain.kl is None and plain.kronecker is None
    for k in (1, 2):  # what truncation keeps
        left = metric.kl(planted(on).truncate(k, metric).W) / found.kronecker
        assert float(left) == pytest.approx(found.table.cumulative[k - 1], rel=1e-4)


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_a_spectrum_with_states_costs_what_a_small_strength_does(damping: float):
    """Of a fitted steer, whole and by directions; the Kronecker number is off by more than 1.4."""
    model = sl.load_model("toy-64")
    states = sl.collect(model, sl.toy.corpus("sentiment", n=150, seed=0), progress=False)
    steer = sl.fit_steer(states, ridge=(0.02, 1.0), damping=0.1, lr=0.1).value
    metric = sl.natural_metric(states, damping=damping, weights="tokens")
    found = spectrum(steer, metric=metric, states=states)

    on, c = states.readout, torch.cat([chunk.hidden for chunk in states.chunks(1 << 16)]).double()

    def kl(of: Steer) -> float:
        """At a small strength, over its square; in float64, for it is small."""
        W_U, b_U, step = on.W_U.double(), on.b_U.double(), 1e-3 * (c @ of.W.double())
        log_p, log_q = (torch.log_softmax(x @ W_U + b_U, 1) for x in (c, c + step))
        return float((log_p.exp() * (log_p - log_q)).sum(1).mean()) / 1e-6

    assert found.kl is not None and found.kronecker is not None
    assert found.kl == pytest.approx(kl(steer), rel=2e-3)
    assert found.kl / float(metric.kl(steer.W)) > 1.4
    assert float(strength_cost(states, steer, strengths=(0.2,)).kl[0]) == pytest.approx(
        0.04 * found.kl, rel=0.1
    )
    assert found.table.part.sum() == pytest.approx(found.kl, rel=1e-4)
    first = steer.truncate(1, metric)
    assert found.table.cost[0] == pytest.approx(kl(first), rel=0.01)
    plain = spectrum(steer, states=states)
    assert plain.kl == pytest.approx(found.kl, rel=1e-4)
    assert plain.kronecker is None and "kronecker" not in plain.table
    assert "second order" in found._repr_html_()
    assert "Kronecker" in spectrum(steer, metric=metric)._repr_html_()


def test_a_spectrum_refuses_states_of_another_model(on: Readout):
    other = Readout(2 * torch.eye(8), torch.zeros(8), WORDS)
    with pytest.raises(ValueError, match="states"):
        spectrum(planted(on), states=make_states(other, torch.randn(5, 8)))


def test_what_comes_again_is_kept_and_noise_is_not():
    random = torch.Generator().manual_seed(0)
    on = Readout(
        torch.randn(64, 100, generator=random), torch.zeros(100), tuple(f"w{i}" for i in range(100))
    )
    signal = 6 * torch.outer(
        *torch.nn.functional.normalize(torch.randn(2, 64, generator=random), dim=1)
    )

    def noisy(size: float) -> Steer:
        return Steer(signal + size * torch.randn(64, 64, generator=random) / 8, on)

    pairs = [(noisy(1.0), noisy(1.0)) for _ in range(3)]
    mean = sum((x for pair in pairs for x in pair[1:]), pairs[0][0]) / 4
    table = split_half_reliability(mean, pairs, rank=4)
    assert table.kept[0] > 0.8 and table.reads[0] > 0.8 and table.writes[0] > 0.8
    assert (table.kept[1:].abs() < 0.3).all() and (table.reads[1:] < 5 * table.chance[1:]).all()
    assert table.comparisons[0] == 6
    with pytest.raises(ValueError, match="pairs"):
        split_half_reliability(mean, [])
    with pytest.raises(ValueError, match="different W_U"):
        split_half_reliability(
            mean, [(mean, zero_steer(Readout(torch.eye(64), torch.zeros(64), ("a",))))]
        )


def test_what_is_kept_is_bounded_and_undefined_where_there_is_no_gain():
    on = Readout(torch.eye(8), torch.zeros(8), WORDS)
    random = torch.Generator().manual_seed(0)
    noise = [Steer(torch.randn(8, 8, generator=random), on) for _ in range(4)]
    pairs = [(noise[0], noise[1]), (noise[2], noise[3])]
    weak, none = 1e-2 * noise[0], 1e-6 * noise[0]

    bounded = split_half_reliability(weak, pairs, rank=3)  # halves with a hundred times its gain
    assert bounded.kept.abs().max() <= 1 and (bounded.comparisons == 4).all()
    unbounded = directions(noise[1].W, 1).gains / directions(weak.W, 1).gains
    assert float(unbounded) > 50

    for steer, halves in (
        (none, pairs),  # fitted to labels that say nothing, next to halves that are not
        (zero_steer(on), pairs),
        (noise[0], [(noise[1], none)]),  # the other half has no gain, or the one where it is found
        (zero_steer(on), [(zero_steer(on), zero_steer(on))]),
    ):
        table = split_half_reliability(steer, halves, rank=3)
        assert table.kept.isna().all() and table.spread.isna().all()
        assert (table.comparisons == 0).all() and table.reads.notna().all()

    single = split_half_reliability(noise[0].truncate(1), pairs, rank=2)
    assert single.kept.notna().tolist() == [True, False]  # the second direction is rounding
    mixed = split_half_reliability(noise[0], [*pairs, (noise[1], none)], rank=2)
    assert mixed.comparisons.tolist() == [4, 4] and mixed.kept.notna().all()
    pd.testing.assert_series_equal(mixed.kept, split_half_reliability(noise[0], pairs, rank=2).kept)


def test_on_the_toy_the_first_direction_lists_the_planted_lexicon():
    """Of the words that the believed direction writes and avoids, most are of the right end of the
    lexicon."""
    model = sl.load_model("toy-64")
    states = sl.collect(model, sl.toy.corpus("sentiment", n=1000, seed=0), progress=False)
    fit = sl.fit_steer(states, ridge=(0.02, 1.0), damping=0.1, lr=0.1)
    metric = sl.natural_metric(states.sample(8_000, seed=0), damping=0.1)
    pairs = sl.fit_split_halves(states, fit, pairs=1)
    table = singular_words(fit.value, rank=1, tokens=10, metric=metric, states=states, refits=pairs)
    assert table.kept[0] > 0.5
    grade = {
        w: level
        for c in sl.toy.grammar.classes
        if c.factor == "sentiment"
        for w, level in zip(c.words, c.levels, strict=True)
    }

    def right(words: str, sign: float) -> float:
        listed = words.replace("(", "").replace(")", "").split(", ")
        return sum(sign * grade.get(word, 0.0) > 0 for word in listed) / len(listed)

    chance = np.mean([grade.get(w.strip(), 0.0) > 0 for w in sl.readout(model).tokens])
    ends = (right(table.writes[0], 1.0) + right(table.avoids[0], -1.0)) / 2
    assert max(ends, 1 - ends) >= 0.75 and chance < 0.3


def test_words_of_a_fit_are_held_against_fits_to_shuffled_labels():
    model = sl.load_model("toy-64")
    states = sl.collect(model, sl.toy.corpus("sentiment", n=300, seed=0), progress=False)
    fit = sl.fit_steer(states, damping=0.1)
    noise = fit_shuffled(states, fit, n=27, seed=0)
    assert len({round(float(steer.W.norm()), 6) for steer in noise}) == 27
    metric = sl.natural_metric(states, damping=0.1)
    options = {"rank": 1, "tokens": 8, "metric": metric, "states": states}
    tables = [singular_scores(one, **options) for one in noise]
    true = against(singular_scores(fit.value, **options), tables[:19])
    assert true.p_noise.between(1 / 20, 1).all()
    assert (true.p_noise[true.role != "reads"] <= 0.05).sum() >= 4
    # of fits to noise themselves hardly any has such a word, where most have some that a random
    # direction would not list
    words = [against(one, tables[:19]) for one in tables[19:]]
    passed = sum(bool((one[one.role != "reads"].p_noise <= 0.05).any()) for one in words)
    ordinary = sum(bool((one.p <= 0.05).any()) for one in words)
    assert passed <= 3 and ordinary >= 6  # of 8
    table = singular_words(fit.value, noise=noise[:19], **options)
    kept = {
        word
        for cell in (*table.writes, *table.avoids, *table.reads)
        for word in cell.split(", ")
        if word[0] != "("
    }
    assert kept == set(true.word[true.p_noise <= 0.05])
    with pytest.raises(ValueError, match="noise: got 3 steers, expected at least 19"):
        singular_scores(fit.value, noise=noise[:3], **options)


def test_a_fit_among_refits_or_noise_is_named(on: Readout, unchecked: None):
    steer = planted(on)
    fit: Any = Fit(steer, steer, cast(Any, None))
    with pytest.raises(ValueError, match=r"noise: got Fit, expected a sequence .*take \.value"):
        singular_scores(steer, noise=[fit] * 19)
    with pytest.raises(ValueError, match=r"noise: got one steer, expected a sequence"):
        singular_scores(steer, noise=steer)
    with pytest.raises(ValueError, match=r"refits: got \('Fit', 'Fit'\) among them.*\.value"):
        singular_words(steer, refits=[(fit, fit)])
