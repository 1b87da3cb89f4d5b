"""After erasing, no linear probe of the concept beats a constant; before it did."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

import steerlens as sl
from steerlens.methods.steer.erase import erase_directions, fit_eraser
from steerlens.values.states import Shard, States
from tests.methods.make import model
from tests.values.make import make_readout, random


@pytest.fixture(scope="module")
def states() -> States:
    return sl.collect(model(), sl.toy.corpus("sentiment", n=150, seed=0), progress=False)


def rows(states: States, eraser: sl.Steer | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Contexts and labels, position by position."""
    parts = list(states.chunks(1 << 14))
    c, y = torch.cat([p.hidden for p in parts]), states.labels[torch.cat([p.text for p in parts])]
    return (c if eraser is None else eraser.apply(c, 1.0)).double().numpy(), y.double().numpy()


def explained(c: np.ndarray, y: np.ndarray) -> float:
    """R² of the best linear probe with a constant."""
    c, y = c - c.mean(0), y - y.mean()
    return 1 - ((y - c @ np.linalg.lstsq(c, y, rcond=1e-6)[0]) ** 2).mean() / (y**2).mean()


def logistic_gain(c: np.ndarray, y: np.ndarray) -> float:
    """Nats that the best logistic probe of the sign, hardly regularised, gains over a constant."""
    sign, scale = y > 0, c.std()
    probe = LogisticRegression(C=1e4, max_iter=2000, tol=1e-6).fit(c / scale, sign)
    p, base = probe.predict_proba(c / scale)[:, 1], sign.mean()
    nll = -np.log(np.where(sign, p, 1 - p)).mean()
    return -(base * np.log(base) + (1 - base) * np.log(1 - base)) - nll


def test_no_linear_probe_beats_the_constant_and_before_one_did(states: States) -> None:
    eraser = fit_eraser(states, torch.stack([states.labels, (states.labels > 0).float()], 1))
    before, after = rows(states), rows(states, eraser)
    assert explained(*before) > 0.05 and explained(*after) < 1e-5
    assert logistic_gain(*before) > 0.02 and logistic_gain(*after) < 1e-4
    mean = [np.abs(c[y > 0].mean(0) - c[y <= 0].mean(0)).max() for c, y in (before, after)]
    assert mean[0] > 0.1 and mean[1] < 1e-4


def test_on_other_texts_less_is_left() -> None:
    many, other = (
        sl.collect(model(), sl.toy.corpus("sentiment", n=300, seed=seed), progress=False)
        for seed in (0, 9)
    )
    before, after = (logistic_gain(*rows(other, e)) for e in (None, fit_eraser(many)))
    assert before > 0.01 and after < 0.75 * before


def test_it_is_the_cheapest_of_all_that_erase_whatever_a_word_costs(states: States) -> None:
    eraser, metric = fit_eraser(states), sl.natural_metric(states, weights="tokens")
    c, y = (torch.from_numpy(x) for x in rows(states))
    B = (c - c.mean(0)).mT @ (y - y.mean()) / len(c)
    unit = B / B.norm()
    for S in (metric.S, torch.eye(64).double()):
        best = (metric.C @ eraser.W.double() @ S * eraser.W.double()).sum()
        for seed in range(4):
            free = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed)).double() / 300
            other = eraser.W.double() + free - torch.outer(unit, unit @ free)
            assert_close((B @ other), -B, rtol=1e-3, atol=1e-4)  # it erases too
            assert (metric.C @ other @ S * other).sum() > best
    assert_close(eraser.W @ eraser.W, -eraser.W, rtol=1e-3, atol=1e-4)
    assert torch.linalg.matrix_rank(eraser.W, rtol=1e-4) == 1


def test_classes_of_any_number_and_columns_that_depend(states: States) -> None:
    classes = torch.stack([(states.labels == y).float() for y in states.labels.unique()], 1)
    eraser = fit_eraser(states, classes)  # they sum to 1: the rank is one less
    assert torch.linalg.matrix_rank(eraser.W, rtol=1e-4) == classes.shape[1] - 1
    _, y = rows(states, eraser)
    for grade in np.unique(y):
        assert explained(rows(states, eraser)[0], (y == grade).astype(float)) < 1e-5


def test_directions_are_said_nothing_along_and_that_is_cheapest(states: States) -> None:
    on = states.readout
    pairs = (("good", "awful"), ("film", "book"))
    v = torch.stack([on.W_U[:, on.tokens.index(a)] - on.W_U[:, on.tokens.index(b)] for a, b in pairs])  # fmt: skip
    flat, c = erase_directions(states, v), torch.from_numpy(rows(states)[0]).float()
    before, after = (c @ v.mT).abs().max(), (flat.apply(c, 1.0) @ v.mT).abs().max()
    assert before > 1 and after < 1e-3
    z = flat.apply(c, 1.0) @ on.W_U
    assert_close(z[:, on.tokens.index("film")], z[:, on.tokens.index("book")], rtol=1e-3, atol=1e-3)
    metric, W = sl.natural_metric(states, weights="tokens"), flat.W.double()
    for C in (metric.C, torch.eye(64).double()):
        for seed in range(4):
            free = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed)).double() / 300
            other = W + free - free @ torch.linalg.pinv(v.double()) @ v.double()
            assert_close(other @ v.double().mT, -v.double().mT, rtol=1e-3, atol=1e-3)
            assert (C @ other @ metric.S * other).sum() > (C @ W @ metric.S * W).sum()


def test_it_is_in_the_algebra_and_a_file(states: States, tmp_path) -> None:
    eraser = fit_eraser(states, name="sentiment")
    back = sl.load(sl.save(eraser, tmp_path / "e.safetensors"), model())
    assert torch.equal(back.W, eraser.W)
    assert (eraser - 2 * eraser).name == "-sentiment"


def test_states_that_lie_in_a_subspace_are_erased_too() -> None:
    c, y = random(80, 3, seed=1) @ random(3, 6, seed=2), torch.randn(8).sign()
    y[0], y[1] = 1.0, -1.0
    shard = Shard(c, torch.zeros(80, dtype=torch.long), torch.arange(8).repeat_interleave(10))
    flat = States(make_readout(), (shard,), y, torch.full((8,), 10), torch.ones(8, dtype=torch.bool))  # fmt: skip
    assert explained(*rows(flat)) > 0.001 and explained(*rows(flat, fit_eraser(flat))) < 1e-4


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda s: fit_eraser(s.relabel(torch.ones_like(s.labels))), "all equal"),
        (lambda s: fit_eraser(s, torch.ones(3)), "one row per text"),
        (lambda s: erase_directions(s, torch.zeros(1, 64)), "all 0"),
        (lambda s: erase_directions(s, torch.ones(1, 63)), "d_model"),
        (lambda s: fit_eraser(model()), "collect"),
    ],
)
def test_what_cannot_be_erased_is_refused(states: States, make, said: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=said):
        make(states)


def test_numbers_of_any_kind_are_read_and_what_is_none_is_named(unchecked: None) -> None:
    states = sl.collect(
        sl.load_model("toy-64"), sl.toy.corpus("tone", n=20, seed=0), progress=False
    )
    expected = fit_eraser(states).W
    labels = states.labels.tolist()
    for given in (labels, np.array(labels)):
        assert_close(fit_eraser(states, given).W, expected)  # pyright: ignore[reportArgumentType]
    assert erase_directions(states, [[1.0] * 64]).W.any()  # pyright: ignore[reportArgumentType]
    for wrong in ("x", ["a"] * 20, [*labels[:-1], float("nan")], torch.zeros(20, 1, 2)):
        with pytest.raises(ValueError, match="labels: got"):
            fit_eraser(states, wrong)  # pyright: ignore[reportArgumentType]
