"""A gate lets an intervention act where its conditions hold, and nowhere else."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from steerlens.methods.baselines.logit_bias import LogitBias
from steerlens.methods.baselines.shift import Shift
from steerlens.methods.files import read_value, save
from steerlens.values.condition_forms import parse_condition
from steerlens.values.conditions import (
    About,
    Candidates,
    Entropy,
    NewTokens,
    PromptTokens,
    Schedule,
    plain_entropy,
)
from steerlens.values.gate import Gated, when
from steerlens.values.intervention import UNEMBED_IN, UNEMBED_OUT
from steerlens.values.positions import TokenIndex, places_of
from steerlens.values.steer import Steer
from tests.contract import laws, run
from tests.values.make import D, V, make_readout, make_reft, make_steer, random

ON = make_readout()
C = 2 * random(3, 4, D, seed=5)
ENTROPIES = plain_entropy(ON, C.flatten(0, 1)).reshape(3, 4)
MIDDLE = float(ENTROPIES.median())
ABOUT = About(random(D, seed=8), 0.0, ON, "films")
LAYER = "blocks.0.hook_resid_post"


def at(c: torch.Tensor) -> dict[str, torch.Tensor]:
    return {UNEMBED_IN: c, UNEMBED_OUT: c.float() @ ON.W_U + ON.b_U}


def moved(value: Gated, places: TokenIndex, c: torch.Tensor = C) -> torch.Tensor:
    """What it adds to context vectors."""
    ((site, edit),) = value.edits(1.0)
    assert site == UNEMBED_IN
    return edit(c, places) - c


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "condition",
    [PromptTokens(), Entropy(above=MIDDLE), Entropy(0.1, 2.0), Schedule(0.5, 1, 3), ABOUT],
    ids=str,
)
def test_gated_steers_keep_the_laws_of_interventions(condition, dtype: torch.dtype) -> None:
    """In the contract all tokens are prompt, of which the last predicts a new one."""
    laws(make_steer(on=ON).when(condition), {UNEMBED_IN: C.to(dtype)})


def test_what_acts_on_logits_keeps_the_laws_too() -> None:
    joy = make_steer(on=ON)
    bias = LogitBias(random(V, seed=3), ON)
    laws(joy.when(Candidates(3)), at(C))
    laws(when(bias, Entropy(above=MIDDLE)), at(C))
    laws(joy.when(Candidates(3), ABOUT) - when(bias, Entropy(below=MIDDLE)) + joy, at(C))
    laws(when(Shift(random(D), LAYER, ON), "prompt"), {LAYER: C})
    laws(when(make_reft(on=ON), "prompt"), {LAYER: C})


def test_over_a_background_the_gate_leaves_the_plain_model() -> None:
    over = make_steer(on=ON).with_background(make_steer(1, ON, "background"))
    places = places_of(torch.ones(3, 4, dtype=torch.long), torch.tensor([2, 2, 2]))
    found = moved(when(over, NewTokens(2)), places)
    assert torch.equal(found[:, :2], torch.zeros(3, 2, D)) and bool(found[:, 2:].abs().min() > 0)


# where a token is


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=3, max_size=3),
    left=st.booleans(),
    prompts=st.lists(st.integers(1, 6), min_size=3, max_size=3),
    cached=st.booleans(),
    first=st.integers(1, 3),
    every=st.integers(1, 3),
)
def test_places_are_counted_from_the_first_real_token_however_a_batch_is_laid_out(
    lengths: list[int], left: bool, prompts: list[int], cached: bool, first: int, every: int
) -> None:
    width = max(lengths)
    mask = torch.zeros(3, width, dtype=torch.long)
    for row, n in enumerate(lengths):
        mask[row, width - n if left else 0 : width if left else n] = 1
    places = places_of(mask, torch.tensor(prompts))
    c = random(3, width, D, seed=6)
    if cached:  # the last column alone is seen
        places, c = places._replace(index=places.index[:, -1:]), c[:, -1:]
    joy, ramp = make_steer(on=ON), Schedule(1.0, 0.0, 4)
    found = {
        condition: moved(joy.when(condition), places, c)
        for condition in (PromptTokens(), NewTokens(first, every), ramp)
    }
    for row, n in enumerate(lengths):
        start = width - n if left else 0
        for column in range(c.shape[1]):
            token = (width - 1 if cached else column) - start
            whole = c[row, column] @ joy.W
            number = token + 1 - prompts[row] + 1  # of the token that is predicted
            real = 0 <= token < n
            hit = number >= first and (number - first) % every == 0
            expected = {
                PromptTokens(): float(number < 1),
                NewTokens(first, every): float(hit),
                ramp: 1 - min(max(number - 1, 0) / 4, 1),
            }
            for condition, weight in expected.items():
                one = found[condition][row, column]
                assert_close(one, real * weight * whole, rtol=1e-4, atol=1e-5)


def test_in_a_layer_a_state_counts_as_the_token_that_was_read() -> None:
    shift, h = Shift(random(D), LAYER, ON), random(1, 4, D)
    places = places_of(torch.ones(1, 4, dtype=torch.long), torch.tensor([2]))
    for condition, expected in (("prompt", [1, 1, 0, 0]), ("new", [0, 0, 1, 1])):
        ((_, edit),) = when(shift, condition).edits(1.0)
        assert (edit(h, places) != h).any(-1)[0].int().tolist() == expected


# what the model is about to say


def test_entropy_gates_where_the_plain_prediction_says_so() -> None:
    joy = make_steer(on=ON)
    log_p = ON.logits(C).log_softmax(-1)
    assert_close(ENTROPIES, -(log_p.exp() * log_p).sum(-1))
    high, low = (run(joy.when(e), 1.0, at(C))[UNEMBED_IN] for e in (Entropy(MIDDLE), Entropy(below=MIDDLE)))  # fmt: skip
    open_high, open_low = ENTROPIES > MIDDLE, ENTROPIES < MIDDLE
    assert 0 < open_high.sum() < 12 and 0 < open_low.sum() < 12
    plain = joy.apply(C, 1.0)
    for found, is_open in ((high, open_high), (low, open_low)):
        assert torch.equal(found[is_open], plain[is_open])  # bit for bit, open or shut
        assert torch.equal(found[~is_open], C[~is_open])


def test_candidates_alone_are_moved_and_as_the_steer_moves_them() -> None:
    joy = make_steer(on=ON)
    found, z = run(joy.when(Candidates(3)), 2.0, at(C)), at(C)[UNEMBED_OUT]
    assert torch.equal(found[UNEMBED_IN], C)
    whole = joy.apply(C, 2.0) @ ON.W_U + ON.b_U
    inside = torch.zeros_like(z).scatter(-1, z.topk(3).indices, 1.0).bool()
    assert_close(found[UNEMBED_OUT][inside], whole[inside], rtol=1e-4, atol=1e-4)
    assert torch.equal(found[UNEMBED_OUT][~inside], z[~inside])
    all_in = run(joy.when(Candidates(V)), 2.0, at(C))[UNEMBED_OUT]
    assert_close(all_in, whole, rtol=1e-4, atol=1e-4)


def test_about_is_a_half_space() -> None:
    found = run(make_steer(on=ON).when(ABOUT), 1.0, at(C))[UNEMBED_IN]
    side = C @ ABOUT.vector > 0
    assert 0 < side.sum() < 12
    assert torch.equal((found != C).any(-1), side)


def test_all_conditions_of_a_term_have_to_hold() -> None:
    joy = make_steer(on=ON)
    once = joy.when(Entropy(above=MIDDLE), ABOUT)
    twice = joy.when(ABOUT).terms[0].value  # gating again adds a condition
    again = when(joy.when(Entropy(above=MIDDLE)), ABOUT)
    assert twice is joy and torch.equal(run(once, 1.0, at(C))[UNEMBED_IN], run(again, 1.0, at(C))[UNEMBED_IN])  # fmt: skip
    chained = joy.when(Entropy(above=MIDDLE)).when(ABOUT)
    assert chained.terms == again.terms
    both = (joy.when("from 3") + joy).when("every 2", "fade 9")
    assert [len(term.when) for term in both.terms] == [3, 2]
    side = (C @ ABOUT.vector > 0) & (ENTROPIES > MIDDLE)
    assert torch.equal((run(once, 1.0, at(C))[UNEMBED_IN] != C).any(-1), side)


# algebra

numbers = st.floats(-3, 3, allow_subnormal=False)


@settings(max_examples=25)
@given(x=numbers, y=numbers, s=numbers)
def test_gated_steers_are_a_vector_space_too(x: float, y: float, s: float) -> None:
    a, b = (make_steer(i, ON, name) for i, name in ((0, "joy"), (1, "rude")))
    f, g = a.when(Entropy(above=MIDDLE)), b.when("prompt")

    def acts(value, strength: float = s) -> torch.Tensor:
        return run(value, strength, {UNEMBED_IN: C})[UNEMBED_IN] - C

    near = {"rtol": 1e-3, "atol": 1e-3}
    assert_close(acts(f + g), acts(f) + acts(g), **near)
    assert_close(acts(f + g), acts(g + f), **near)
    assert_close(acts(x * f - y * g), x * acts(f) - y * acts(g), **near)
    assert_close(acts(f + b), acts(f) + acts(b), **near)
    assert_close(acts(b - f), acts(b) - acts(f), **near)
    assert_close(acts(x * f), acts(f, x * s), **near)
    assert_close(acts(-f), acts(f, -s), **near)
    assert_close(acts(f + a.when(Entropy(below=MIDDLE))), acts(a) * (ENTROPIES != MIDDLE)[..., None], **near)  # fmt: skip
    assert not acts(f - f).any() and not acts(f / 2 + f / 2 - f).any()
    assert sum([f, g]).name == (f + g).name


@pytest.mark.parametrize(
    "write, name",
    [
        (lambda a, b: 2 * a.when("new") - b, "2·(joy when new tokens) - rude"),
        (lambda a, b: b - a.when("every 2", "entropy<1"), "rude - (joy when every 2nd new token, entropy < 1)"),
        (lambda a, b: (a - b).when("from 5"), "joy - rude when from new token 5"),
        (lambda a, b: a.when("new") + a.when("new"), "2·(joy when new tokens)"),
        (lambda a, b: -a.when("top 4"), "-(joy when among the top 4)"),
    ],
)  # fmt: skip
def test_names_say_what_acts_when(write, name: str) -> None:
    assert write(make_steer(on=ON), make_steer(1, ON, "rude")).name == name


def test_a_steer_stays_a_steer_among_steers() -> None:
    assert isinstance(make_steer() + make_steer(1), Steer)
    with pytest.raises(FrozenInstanceError):
        make_steer().when("new").terms = ()  # pyright: ignore[reportAttributeAccessIssue]


# files


@pytest.mark.parametrize(
    "make",
    [
        lambda a: 2 * a.when(Schedule(1, 0, 7), Entropy(0.2, 1.5)) - a.when(ABOUT) + a,
        lambda a: a.when(Candidates(3)) + when(LogitBias(random(V), ON), Entropy(below=2.0)),
        lambda a: when(a.with_background(a), NewTokens(2, 3)) + when(a, "prompt"),
        lambda a: when(Shift(random(D), LAYER, ON), "prompt"),
    ],
)
def test_a_gated_value_is_read_back_exactly(tmp_path: Path, make) -> None:
    value = make(make_steer(on=ON))
    back = read_value(save(value, tmp_path / "gated.safetensors"), ON)
    assert isinstance(back, Gated) and back.name == value.name
    assert [t.factor for t in back.terms] == [t.factor for t in value.terms]
    where = at(C) | {LAYER: C}
    before, after = (run(x, 1.5, where) for x in (value, back))
    assert all(torch.equal(before[site], after[site]) for site in where)


def test_what_cannot_be_kept_says_so(tmp_path: Path) -> None:
    class Odd:
        kind, asks = "odd", "place"

        def weight(self, seen):
            return seen.real.float()

    with pytest.raises(ValueError, match="Odd cannot be kept"):
        save(make_steer().when(Odd()), tmp_path / "odd.safetensors")


# words, and what is refused


@pytest.mark.parametrize(
    "text, condition",
    [
        ("prompt", PromptTokens()), ("new", NewTokens()), ("from 5", NewTokens(first=5)), ("every  3", NewTokens(every=3)),
        ("fade 20", Schedule(1, 0, 20)), ("rise20", Schedule(0, 1, 20)), ("entropy>1.5", Entropy(above=1.5)),
        ("entropy  < 1", Entropy(below=1.0)), ("top 50", Candidates(50)),
    ],
)  # fmt: skip
def test_conditions_are_read_from_words(text: str, condition) -> None:
    assert parse_condition(text) == condition


@pytest.mark.parametrize("text", ["", "often", "entropy", "from 0", "top -1", "every 0", "entropy > 1.2.3"])  # fmt: skip
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="condition"):
        parse_condition(text)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda a: a.when(), "one at least"),
        (lambda a: a.when(3), "expected a condition"),
        (lambda a: when("joy", "new"), "expected a Steer"),
        (lambda a: Gated(()), "terms"),
        (lambda a: a.when(Candidates(3), NewTokens()), "asks where a token is"),
        (lambda a: a.when("top 3") + a.when("new"), "asks where a token is"),
        (lambda a: when(LogitBias(torch.ones(V), ON), "new"), "asks where a token is"),
        (lambda a: when(Shift(torch.ones(D), LAYER, ON), "entropy > 1"), "known at the unembedding"),
        (lambda a: a.when(About(torch.ones(D), 0.0, make_readout(7))), "transfer"),
        (lambda a: a.when("new") + make_steer(on=make_readout(7)), "transfer"),
        (lambda a: About(torch.ones(D - 1), 0.0, ON), "vector"),
        (lambda a: About(torch.full((D,), torch.nan), 0.0, ON), "NaN"),
        (lambda a: Entropy(), "bound"),
        (lambda a: Entropy(2.0, 1.0), "no entropy"),
        (lambda a: Entropy(above=torch.inf), "bound"),
        (lambda a: Schedule(1.5, 0, 3), "weight"),
        (lambda a: Schedule(1, 0, 0), "tokens"),
        (lambda a: NewTokens(first=0), "first"),
        (lambda a: Candidates(True), "top"),
    ],
)  # fmt: skip
def test_what_cannot_be_gated_is_refused_by_name(make, said: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=said):
        make(make_steer(on=ON))


def test_counts_of_numpy_are_taken_as_plain_numbers_which_a_file_can_hold(
    tmp_path: Path, unchecked: None
) -> None:
    two = np.int64(2)
    for counted, plain in (
        (NewTokens(two, two), NewTokens(2, 2)),
        (Schedule(1, 0, two), Schedule(1, 0, 2)),
        (Candidates(two), Candidates(2)),
    ):
        assert counted == plain and str(counted) == str(plain)
        path = save(make_steer(on=ON).when(counted), tmp_path / "gated.safetensors")
        assert str(plain) in str(read_value(path, ON))


def test_logits_without_their_states_are_refused() -> None:
    edits = dict(make_steer(on=ON).when("top 3").edits(1.0))
    places = places_of(torch.ones(3, 4, dtype=torch.long), torch.full((3,), 4))
    with pytest.raises(RuntimeError, match="one pass"):
        edits[UNEMBED_OUT](at(C)[UNEMBED_OUT], places)
