"""Theory on ground truth, on a shipped model: identities, bounds, and what is known to be there."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import steerlens as sl
from steerlens.analysis import theory
from steerlens.evaluate.losses import measure
from steerlens.maths.logits import UnembedWeights, logits
from steerlens.values.readout import Readout
from steerlens.values.states import Shard, States
from steerlens.values.steer import Steer, zero_steer

DATA = sl.toy.corpus("tone", n=120, seed=0)


@pytest.fixture(scope="module")
def states(model) -> States:
    return sl.collect(model, DATA, progress=False)


@pytest.fixture(scope="module")
def truth(model, states):
    return theory.truth_of(model, DATA, "tone", states)


@pytest.fixture(scope="module")
def fit(model) -> sl.Fit:
    return sl.fit_steer(model, sl.toy.corpus("tone", n=600, seed=1), progress=False)


@pytest.fixture(scope="module")
def tone(fit) -> Steer:
    """As long as labels ask for: strength 1 is a cost, which few texts do not justify."""
    return fit.report.strength * fit.value


@pytest.fixture(scope="module")
def best(truth, states):
    return theory.distil_truth(truth, theory.metric_of(states), ridge=1e-2, tolerance=2e-3)


def test_the_truth_is_what_drawn_tokens_are_around(truth, states, tone) -> None:
    """Cross-entropies to the exact distribution against losses on the texts' own tokens."""
    drawn = measure(states, tone, zero_steer(states.readout)).all
    exact = [float(truth.nll(c).mean()) for c in (truth.c, truth.steered(tone))]
    # 2,900 positions with a spread of some 2 nats
    assert exact == pytest.approx([drawn.base, drawn.steered], abs=0.1)
    assert (truth.nll(truth.c) - truth.entropy > -1e-3).all()
    assert (truth.untold - truth.entropy > -1e-5).all()
    labels = torch.tensor(DATA.labels)
    assert torch.equal(truth.label, labels[truth.text].float())


def test_entropies_are_the_grammars(truth) -> None:
    """In sum over texts the exact entropy is that of the grammar on its own texts, drawn."""
    from steerlens.toy import Condition, grammar

    nats = -np.concatenate(
        [
            grammar.log_probs(
                [t for t, y in zip(DATA.texts, DATA.labels, strict=True) if y == g],
                Condition(tone=g),
            )
            for g in (-1.0, 0.0, 1.0)
        ]
    )
    assert float(truth.entropy.sum()) == pytest.approx(nats.sum(), rel=0.02)


def test_only_the_models_own_spelling_is_read(model, states, unchecked) -> None:
    other = sl.toy.corpus("tone", n=len(DATA), seed=1)
    with pytest.raises(ValueError, match="other texts"):
        theory.truth_of(model, other, "tone", states)


def test_the_distilled_steer_is_at_its_minimum(truth, best, tone, states) -> None:
    loss = float(truth.nll(truth.steered(best.steer)).mean())
    assert loss < float(truth.nll(truth.steered(tone)).mean()) < float(truth.nll(truth.c).mean())
    assert best.optimality_gap is not None and best.optimality_gap < 2e-3
    metric, random = theory.metric_of(states), torch.Generator().manual_seed(0)
    for _ in range(3):
        V = torch.randn(64, 64, generator=random)
        other = Steer(best.steer.W + metric.unwhiten(0.1 * V / V.norm()), states.readout)
        assert float(truth.nll(truth.steered(other)).mean()) > loss - 1e-4


def test_the_parts_of_the_gap_are_the_gap(truth, tone, best) -> None:
    table = theory.gap_parts(truth, tone, best.steer).set_index("part")
    parts = table.drop(index="gap")
    assert parts.nats.sum() == pytest.approx(table.nats["gap"], rel=1e-5)
    assert parts.share.sum() == pytest.approx(1, rel=1e-5)
    assert (table.low <= table.share + 1e-9).all() and (table.share <= table.high + 1e-9).all()
    assert table.nats["closed by the fit"] > 0 and table.nats["not in the data"] > 0
    itself = theory.gap_parts(truth, tone, tone).set_index("part")
    assert itself.nats["not in the data"] == 0


def test_margins_are_those_of_drawn_tokens_at_the_asked_cost(states, tone) -> None:
    found = theory.margin_at_kl(tone, states)
    again = theory.margin_at_kl(3 * tone, states)
    assert found.low < found.margin < found.high
    assert again.margin == pytest.approx(found.margin, rel=1e-2)
    assert again.strength == pytest.approx(found.strength / 3, rel=1e-3)
    assert theory.margin_at_kl(-1 * tone, states).margin == pytest.approx(-found.margin, rel=1e-2)


def test_the_heads_limit_is_below_every_steer_and_above_the_entropy(truth, best) -> None:
    few = truth.pick(torch.arange(len(truth)) < 40)
    limit = theory.head_limit(few, steps=12)
    assert (limit <= few.nll(few.steered(best.steer)) + 1e-4).all()
    assert (limit >= few.entropy - 1e-3).all()
    assert float((few.nll(few.c) - limit).mean()) > 0.01


# ---- linearity ----


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), k=st.floats(-1, 3), strength=st.floats(0.1, 30))
def test_no_context_is_further_from_the_line_than_the_bound(seed, k, strength) -> None:
    steers, states = made(seed)
    table = theory.interpolation_error(steers[0], states, strengths=(strength,), k=k)
    assert table.violations[0] == 0 and table.measured[0] <= table.largest[0] <= 8
    ends = theory.interpolation_error(steers[0], states, strengths=(strength,), k=1.0)
    assert ends.largest[0] < 1e-12


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), strength=st.floats(0.1, 30))
def test_no_sum_is_further_from_its_parts_than_the_bound(seed, strength) -> None:
    steers, states = made(seed)
    table = theory.composition_error(*steers, states, strengths=(strength,))
    assert table.violations[0] == 0 < table.measured[0]
    alone = theory.composition_error(steers[0], 0 * steers[0], states, strengths=(strength,))
    assert alone.largest[0] < 1e-12


def test_two_words_come_within_two_fifths_of_the_bound() -> None:
    """Of p and 1 − p the second derivative has the L1 norm 2 p (1 − p) |1 − 2p| R², at most
    R² / (3 √3), which the line between small strengths is off by in proportion; the bound has
    R² / 2."""
    p = 0.5 - 12**-0.5
    # c e is 0 and 1 of the two words, so the second's odds are exp(1 + b)
    bias = torch.tensor([0.0, math.log(p / (1 - p)) - 1])
    readout = Readout(torch.tensor([[0.0, 1.0]]), bias, ("a", "b"))
    shard = Shard(torch.ones(1, 1), torch.zeros(1).long(), torch.zeros(1).long())
    one = torch.ones(1, dtype=torch.bool)
    states = States(readout, (shard,), torch.zeros(1), torch.tensor([1]), one)
    steer = Steer(torch.ones(1, 1), readout)
    table = theory.interpolation_error(steer, states, strengths=(1e-2,))
    assert table.measured[0] / table.bound[0] == pytest.approx(2 * 27**-0.5, rel=1e-2)


def made(seed: int) -> tuple[tuple[Steer, Steer], States]:
    random = torch.Generator().manual_seed(seed)
    W_U = torch.randn(4, 9, generator=random)
    readout = Readout(W_U, torch.randn(9, generator=random), tuple("abcdefghi"))
    shard = Shard(
        torch.randn(20, 4, generator=random), torch.zeros(20).long(), torch.zeros(20).long()
    )
    states = States(
        readout, (shard,), torch.zeros(1), torch.tensor([20]), torch.ones(1, dtype=torch.bool)
    )
    one, other = (Steer(torch.randn(4, 4, generator=random), readout) for _ in "ab")
    return (one, other), states


def test_eigenvalues_would_not_bound_it() -> None:
    """A nilpotent W has no eigenvalue but 0, and moves the words all the same."""
    _, states = made(0)
    W = torch.zeros(4, 4)
    W[0, 1] = 1.0
    assert torch.linalg.eigvals(W).abs().max() == 0
    table = theory.interpolation_error(Steer(W, states.readout), states, strengths=(2.0,))
    assert 0.01 < table.measured[0] <= table.paper[0]


def test_the_bounds_say_something_where_the_papers_do_not(states, tone) -> None:
    table = theory.interpolation_error(tone, states, strengths=(0.5, 8.0), n=128)
    assert table.bound[0] < 2 < table.paper[0]
    assert table.bound[1] > 2  # and none does at large strengths


def test_a_shift_of_the_prior_is_found_again() -> None:
    from steerlens.toy import grammar
    from steerlens.toy.belief import sample_with_redraw, tilted_prior

    for tilt in (-1.5, 0.7):
        texts = sample_with_redraw(grammar, 150, tilted_prior(grammar, "tone", tilt), redraw=0.0)
        kappa, error = theory.prior_shift(texts, "tone", draws=50)
        assert abs(kappa - tilt) < 4 * error < 1.6


# ---- gauge ----


def test_only_one_rule_survives_a_change_of_basis(states, tone) -> None:
    table = theory.gauge_errors(tone, states, conditions=(1.0, 3.0, 30.0), n=64)
    assert (table.similarity < 1e-8).all()
    assert table.congruence[0] < 1e-8 and 0.1 < table.congruence[1] < table.congruence[2]
    assert (table.congruence_best <= table.congruence + 1e-9).all()


@given(seed=st.integers(0, 100))
def test_a_constant_vector_at_the_head_is_a_logit_bias(seed) -> None:
    random = torch.Generator().manual_seed(seed)
    W_U, b, c, v = (
        torch.randn(*s, generator=random).double() for s in ((4, 9), (9,), (5, 4), (4,))
    )
    moved = logits(UnembedWeights(W_U, b), c + v)
    torch.testing.assert_close(moved, logits(UnembedWeights(W_U, b + v @ W_U), c))
    # so the log-odds of two words move by the same in every context, as those of a steer do not
    odds = (moved - logits(UnembedWeights(W_U, b), c))[:, :2].diff(dim=1)
    assert odds.std() < 1e-9
    shift = (c @ torch.eye(4).double() @ W_U)[:, :2].diff(dim=1)
    assert shift.std() > 1e-3


# ---- the belief ----


def test_the_states_carry_the_belief_and_the_steer_shifts_the_prior(model, states, fit) -> None:
    texts = sl.toy.grammar.sample(120, seed=5)
    probed = theory.belief_probe(theory.read_beliefs(model, texts, "tone")).set_index("site")
    assert probed.r2["unembed.hook_in"] > 0.02 > 0 > probed.chance["unembed.hook_in"]
    assert probed.r2["blocks.2.hook_resid_post"] > 2 * probed.r2["blocks.0.hook_resid_pre"]
    random = torch.Generator().manual_seed(0)
    order = torch.randperm(len(states.labels), generator=random)
    shuffled = sl.fit_steer(states.relabel(states.labels[order]), progress=False).value
    metric = theory.metric_of(states)
    found = theory.belief_alignment(
        {"tone": fit.value, "shuffled": shuffled}, model, texts[:15], "tone", metric, draws=10
    ).set_index("steer")
    assert found.cosine["tone"] > 0.5 > 0.3 > found.chance["tone"]
    assert abs(found.cosine["shuffled"]) < 0.5 * found.cosine["tone"]
    assert found.kappa["tone"] > 0.5


def test_a_model_of_pieces_has_no_word_to_align(unchecked) -> None:
    llama = sl.load_model("toy-96-llama")
    steer = zero_steer(sl.readout(llama))
    data = sl.collect(llama, DATA.texts[:5], progress=False)
    with pytest.raises(ValueError, match="pieces"):
        theory.belief_alignment({"0": steer}, llama, ["the plot ."], "tone", theory.metric_of(data))


def test_what_cannot_be_asked_is_refused_by_name(model, states, truth, tone, unchecked) -> None:
    texts, beliefs = list(DATA.texts[:3]), theory.read_beliefs(model, DATA.texts[:3], "tone")
    for ask, said in (
        (lambda: theory.prior_shift(texts, "zz"), "attribute: got 'zz', expected one of 'sentiment', 'tone'"),
        (lambda: theory.prior_shift([], "tone"), "texts: got none"),
        (lambda: theory.prior_shift("please .", "topic"), "attribute: got 'topic'"),
        (lambda: theory.prior_shift(texts, "tone", draws=1), "draws: got 1, expected a whole number, at least 2"),
        (lambda: theory.read_beliefs(model, [], "tone"), "texts: got none"),
        (lambda: theory.read_beliefs(model, texts, "zz"), "attribute: got 'zz'"),
        (lambda: theory.belief_probe(beliefs, share=1.0), "share: got 1.0 of 3 texts"),
        (lambda: theory.belief_alignment({}, model, texts, "tone", theory.metric_of(states)), "steers: got {}"),
        (lambda: theory.truth_of(model, DATA, "zz", states), "attribute: got 'zz'"),
        (lambda: theory.truth_of(model, texts, "tone", states), "data: got list, expected labelled texts"),
        (lambda: theory.truth_of(model, DATA, "tone", DATA), "states: got Labelled"),
        (lambda: theory.margin_at_kl(tone, DATA), "states: got Labelled"),
        (lambda: theory.margin_at_kl(tone, states.relabel(0 * states.labels)), "states: every label is 0"),
        (lambda: theory.gap_parts(states, tone, tone), "truth: got States"),
        (lambda: theory.head_limit(states), "truth: got States"),
        (lambda: theory.distil_truth(states, theory.metric_of(states)), "truth: got States"),
        (lambda: theory.distil_truth(truth, None), "metric: got None, expected a Metric"),
        (lambda: theory.interpolation_error(tone, states, strengths=()), "strengths: got none"),
        (lambda: theory.interpolation_error(tone, states, n=0), "n: got 0"),
        (lambda: theory.composition_error(tone, tone, states, strengths="1"), "strengths: got '1'"),
        (lambda: theory.gauge_errors(tone, states, conditions=(0.5,)), "condition: got 0.5"),
        (lambda: theory.gauge_errors(tone, DATA), "states: got Labelled"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
            ask()
