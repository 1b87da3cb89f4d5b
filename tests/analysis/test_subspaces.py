"""Subspaces of edits against a steer's: carried by the exact Jacobian, found where they are
planted, and else near chance."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.testing import assert_close

import steerlens as sl
from steerlens.analysis import subspaces
from steerlens.analysis.subspaces import carried, compare_subspaces
from steerlens.models.hooks import eval_mode, run_until
from steerlens.models.partial_forward import ResidualCache, batch_of, cache_residuals, resumed
from steerlens.values.metric import Metric
from tests.models.zoo import hook_count, random_steer
from tests.values.make import make_reft, orthonormal_rows

D, LAST, RANK = 64, 2, 2
QUESTIONS = ["writes", "writes, norm only", "reads", "mean difference", "probe"]


@pytest.fixture(scope="module")
def data() -> sl.Labelled:
    return sl.toy.corpus("tone", n=30, seed=3)


@pytest.fixture(scope="module")
def kept(model, data) -> Callable[[int], ResidualCache]:
    found = {layer: cache_residuals(model, data, layer) for layer in range(LAST + 1)}
    return found.__getitem__


@pytest.fixture(scope="module")
def metric(model) -> Metric:
    return sl.natural_metric(
        sl.collect(model, sl.toy.corpus("tone", n=100, seed=0), progress=False), damping=1e-2
    )


@pytest.fixture
def uncarried(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the questions that need no pass of the model."""
    monkeypatch.setattr(subspaces, "carried", lambda model, kept, directions, through: directions)


@pytest.fixture(scope="module")
def few(data) -> sl.Labelled:
    return sl.Labelled(data.texts[:8], data.labels[:8])


def edit(
    model,
    R: Tensor | None = None,
    *,
    layer: int = 0,
    seed: int = 0,
    variant: Any = "consreft",
    **options: Any,
):
    """A random edit, or one with the given rows of `R`."""
    made = make_reft(variant, sl.readout(model), layers=(layer,), rank=RANK, seed=seed)
    return subspaces.Reft(made.R if R is None else R[None], **{"A": made.A, "b": made.b, "variant": variant, "layers": (layer,),
                          "positions": "all", "readout": made.readout, **options})  # fmt: skip


def containing(direction: Tensor, seed: int = 0) -> Tensor:
    """Orthonormal rows whose span holds a direction, none of them along it."""
    other = torch.randn(RANK - 1, D, generator=torch.Generator().manual_seed(seed))
    Q = torch.linalg.qr(torch.cat([direction[None] / direction.norm(), other]).mT).Q.mT
    turn = torch.linalg.qr(
        torch.randn(RANK, RANK, generator=torch.Generator().manual_seed(seed + 1))
    ).Q
    return (turn @ Q).contiguous()


def compared(
    model, data, metric, edits, steer=None, *, draws: int = 6, rank: int = 1, **options: Any
) -> pd.DataFrame:
    edits = edits if isinstance(edits, dict) else {edits.layers[0]: edits}
    steer = random_steer(model) if steer is None else steer
    return compare_subspaces(model, steer, edits, data, metric, draws=draws, rank=rank, **options)


def answer(table: pd.DataFrame, question: str, layer: int = 0) -> pd.Series:
    return table[(table.question == question) & (table.layer == layer)].iloc[0]


def exact(model, kept: ResidualCache, directions: Tensor) -> Tensor:
    """`E[∂c/∂h] · r` by automatic differentiation, backwards and then backwards through that."""
    total, n = torch.zeros(len(directions), D), 0
    with eval_mode(model, gradients=True):
        for rows in kept.batches(range(len(kept))):
            batch = batch_of(kept, rows)
            step, weight = (torch.zeros(D, requires_grad=True) for _ in range(2))
            with resumed(model, kept.layer, batch.resid + step):
                c = run_until(model, "unembed.hook_in", batch.tokens, batch.mask)
            (slope,) = torch.autograd.grad(
                c[:, :-1][batch.real].sum(0) @ weight, step, create_graph=True
            )
            for k, r in enumerate(directions):
                total[k] += torch.autograd.grad(slope @ r, weight, retain_graph=True)[0]
            n += int(batch.real.sum())
    return total / n


@pytest.mark.parametrize("layer", [0, 1, LAST])
def test_what_is_carried_is_the_mean_jacobian(model, kept, layer: int):
    directions = orthonormal_rows(3, D, seed=layer)
    found, expected = carried(model, kept(layer), directions), exact(model, kept(layer), directions)
    assert found.shape == (3, D)
    assert ((found - expected).norm(dim=1) < 1e-3 * expected.norm(dim=1)).all()
    assert (expected.norm(dim=1) > 0.1).all()
    other = exact(model, kept((layer + 1) % 3), directions)
    assert ((found - other).norm(dim=1) > 0.1 * expected.norm(dim=1)).all()


def test_from_the_last_layer_only_the_norm_is_between(model, kept):
    directions = orthonormal_rows(3, D)
    assert_close(
        carried(model, kept(LAST), directions, "norm"),
        carried(model, kept(LAST), directions, "model"),
    )
    for layer in (0, 1):
        through = [carried(model, kept(layer), directions, way) for way in ("norm", "model")]
        assert ((through[0] - through[1]).norm(dim=1) > 0.1 * through[1].norm(dim=1)).all()


def test_the_norm_alone_carries_as_its_own_jacobian(model, kept):
    """The final norm by itself, on the states of each predicting token."""
    here, directions = kept(0), orthonormal_rows(2, D)
    norm = model.ln_final
    ends = [*here.starts.tolist()[1:], len(here.resid)]
    h = torch.cat([here.resid[a : b - 1] for a, b in zip(here.starts.tolist(), ends, strict=True)])
    for row, r in zip(carried(model, here, directions, "norm"), directions, strict=True):
        exact = torch.autograd.functional.jvp(norm, h, r.expand_as(h))[1].mean(0)
        assert float((row - exact).norm()) < 1e-2 * float(exact.norm())


def test_what_is_carried_is_linear_in_the_directions_and_their_scale_does_not_matter(model, kept):
    one, two = orthonormal_rows(2, D, seed=5)
    both = (one + 2 * two) / 5**0.5
    a, b, sum_, scaled, turned = carried(
        model, kept(0), torch.stack([one, two, both, 40 * one, -1e-3 * one])
    )
    assert_close(sum_, (a + 2 * b) / 5**0.5, rtol=1e-3, atol=1e-4)
    assert_close(scaled, a, rtol=1e-4, atol=1e-5)
    assert_close(turned, -a, rtol=1e-4, atol=1e-5)
    assert (a - b).norm() > 0.1


def test_a_mean_over_the_positions_of_all_texts(model, data, kept):
    directions = orthonormal_rows(1, D)
    parts = [
        sl.Labelled(data.texts[:4], data.labels[:4]),
        sl.Labelled(data.texts[4:], data.labels[4:]),
    ]
    means = [carried(model, cache_residuals(model, part, 0), directions) for part in parts]
    n = [sl.collect(model, part, progress=False).n_positions for part in parts]
    assert_close(
        (n[0] * means[0] + n[1] * means[1]) / sum(n),
        carried(model, kept(0), directions),
        rtol=1e-3,
        atol=1e-4,
    )
    assert (means[0] - means[1]).norm() > 0.01


def test_a_direction_of_zeros_carries_nothing(model, kept):
    assert (
        carried(model, kept(0), torch.zeros(1, D)).abs().max()
        == 0
        < carried(model, kept(0), torch.eye(D)[:1]).abs().max()
    )


def test_carrying_needs_a_known_way_and_passes_that_can_be_resumed(
    model, data, kept, no_resuming, unchecked
):
    with pytest.raises(ValueError, match="through: got 'lens', expected 'model' or 'norm'"):
        carried(model, kept(0), torch.eye(D)[:1], "lens")
    no_resuming()
    with pytest.raises(ValueError, match="model: its passes cannot be resumed"):
        carried(model, cache_residuals(model, data, 0), torch.eye(D)[:1])


def test_the_table_has_a_row_a_layer_and_question_and_shares_of_one(model, few, metric):
    edits = {layer: edit(model, layer=layer, variant="loreft") for layer in (LAST, 0)}
    table = compared(model, few, metric, edits, again=edits, rank=3, draws=3)
    assert table.columns.tolist() == [
        "layer", "question", "overlap", "chance", "chance_high", "largest", "largest_chance_high"
    ]  # fmt: skip
    assert table.layer.tolist() == [LAST] * 6 + [0] * 6
    assert table.question.tolist() == [*QUESTIONS, "other texts"] * 2
    numbers = table.drop(columns=["layer", "question"])
    assert numbers.map(lambda x: 0 <= x <= 1).all(None)
    assert (table.chance <= table.chance_high).all() and (
        table.overlap <= table.largest + 1e-6
    ).all()
    assert compared(model, few, metric, {0: edits[0]}, draws=1).question.tolist() == QUESTIONS


def test_edits_fitted_twice_the_same_share_all_and_others_what_chance_gives(
    model, data, metric, uncarried
):
    here, other = (edit(model, seed=seed) for seed in (0, 7))
    turned = edit(model, (torch.tensor([[0.6, 0.8], [-0.8, 0.6]]) @ here.R[0]).contiguous())
    same = answer(compared(model, data, metric, here, again={0: turned}, draws=3), "other texts")
    assert (same.overlap, same.largest) == pytest.approx((1, 1), abs=1e-5)
    apart = answer(compared(model, data, metric, here, again={0: other}, draws=40), "other texts")
    cosines = torch.linalg.svdvals(here.R[0] @ other.R[0].mT).square()
    assert (apart.overlap, apart.largest) == pytest.approx(
        (float(cosines.mean()), float(cosines.max())), abs=1e-5
    )
    assert apart.chance == pytest.approx(RANK / D, abs=0.015)
    assert apart.overlap < 0.2 > apart.largest_chance_high


def mean_difference(kept: ResidualCache) -> tuple[Tensor, Tensor]:
    """Mean states of the texts that have a sign, their labels' signs: text by text."""
    ends = [*kept.starts.tolist()[1:], len(kept.resid)]
    mean = torch.stack(
        [kept.resid[a:b].mean(0) for a, b in zip(kept.starts.tolist(), ends, strict=True)]
    )
    signed = kept.labels != 0
    return mean[signed], kept.labels[signed] > 0


@pytest.mark.parametrize("layer", [0, LAST])
def test_the_mean_difference_is_found_where_it_is_planted(
    model, data, metric, kept, uncarried, layer: int
):
    mean, up = mean_difference(kept(layer))
    planted = mean[up].mean(0) - mean[~up].mean(0)
    table = compared(model, data, metric, edit(model, containing(planted), layer=layer), draws=40)
    row = answer(table, "mean difference", layer)
    assert (row.overlap, row.largest) == pytest.approx((1, 1), abs=1e-4)
    assert row.chance == pytest.approx(RANK / D, abs=0.02) and row.chance_high < 0.2
    other = answer(
        compared(model, data, metric, edit(model, layer=layer)), "mean difference", layer
    )
    assert other.overlap < 0.2


def test_the_normal_of_a_probe_is_found_where_it_is_planted(model, data, metric, kept, uncarried):
    mean, up = mean_difference(kept(0))
    spread = mean.std(0)
    probe = LogisticRegression(C=0.1, max_iter=1000).fit((mean / spread).numpy(), up.numpy())
    normal = torch.tensor(probe.coef_[0]).float() / spread
    assert probe.score((mean / spread).numpy(), up.numpy()) > 0.8
    table = compared(model, data, metric, edit(model, containing(normal)), draws=20)
    assert answer(table, "probe").overlap == pytest.approx(1, abs=1e-3)
    assert answer(table, "probe").chance_high < 0.2
    assert answer(table, "mean difference").overlap < 0.95  # they are two directions
    assert answer(compared(model, data, metric, edit(model)), "probe").overlap < 0.2


def steer_that_writes(model, direction: Tensor, seed: int = 1) -> sl.Steer:
    """A steer of rank 1."""
    read = torch.randn(D, generator=torch.Generator().manual_seed(seed))
    return sl.Steer(torch.outer(read, direction), sl.readout(model))


@pytest.mark.parametrize(
    "layer, through, question",
    [(0, "model", "writes"), (0, "norm", "writes, norm only"), (LAST, "model", "writes")],
)
def test_an_edit_that_pushes_the_final_states_as_the_steer_does_is_seen(
    model, few, metric, layer: int, through: str, question: str
):
    mine, other = (edit(model, layer=layer, seed=seed) for seed in (0, 7))
    written = torch.tensor([0.8, -0.6]) @ carried(
        model, cache_residuals(model, few, layer), mine.R[0], through
    )
    steer = steer_that_writes(model, written)
    table = compared(model, few, metric, mine, steer)
    row = answer(table, question, layer)
    assert row.largest == pytest.approx(1, abs=1e-3) == row.overlap
    assert row.largest_chance_high < 0.9
    assert (
        answer(compared(model, few, metric, other, steer, draws=1), question, layer).largest < 0.9
    )
    if layer != LAST:  # the layers between matter
        assert (
            answer(table, ({"writes", "writes, norm only"} - {question}).pop(), layer).largest
            < 0.95
        )


def test_only_as_many_of_the_steers_directions_count_as_asked(model, few, metric):
    mine = edit(model)
    strong, weak = (torch.randn(D, generator=torch.Generator().manual_seed(k)) for k in (1, 2))
    written = carried(model, cache_residuals(model, few, 0), mine.R[0])[0]
    W = 9 * torch.outer(strong, weak) + 0.1 * torch.outer(weak, written / written.norm())
    steer = sl.Steer(W, sl.readout(model))
    one, two = (
        answer(compared(model, few, metric, mine, steer, rank=k, draws=1), "writes") for k in (1, 2)
    )
    assert one.largest < 0.6
    assert two.largest > 0.95 > two.overlap


def test_an_edit_that_reads_what_the_steer_reads_is_seen(model, data, metric, kept, uncarried):
    direction = torch.randn(D, generator=torch.Generator().manual_seed(3))
    steer = sl.Steer(torch.outer(direction, torch.ones(D)), sl.readout(model))
    h, c = subspaces.states_and_contexts(model, kept(LAST))
    h, read = h - h.mean(0), (c - c.mean(0)) @ direction
    best = torch.linalg.lstsq(h.double(), read.double()[:, None]).solution.mT.float()
    A = torch.cat([best, torch.randn(1, D, generator=torch.Generator().manual_seed(4))])
    explained = 1 - float((read - h @ best[0]).square().sum() / read.square().sum())
    mine = edit(model, layer=LAST, variant="loreft", A=A[None])
    table = compared(model, data, metric, mine, steer, draws=20)
    row = answer(table, "reads", LAST)
    assert row.overlap == pytest.approx(row.largest) and row.overlap >= explained - 1e-3 > 0.8
    assert row.largest_chance_high < explained - 0.1
    other = answer(
        compared(model, data, metric, edit(model, layer=LAST, variant="loreft"), steer),
        "reads",
        LAST,
    )
    assert other.overlap < explained - 0.1
    # an edit that reads nothing is asked for what it replaces
    silent = answer(
        compared(model, data, metric, edit(model, containing(best[0]), layer=LAST), steer),
        "reads",
        LAST,
    )
    assert silent.overlap >= explained - 1e-3


def test_the_answers_depend_on_neither_seed_nor_draws_and_chance_does(model, few, metric):
    one, again, other = (
        compared(model, few, metric, edit(model), draws=3, seed=seed) for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(one, again)
    for name in ("overlap", "largest"):
        assert one[name].tolist() == pytest.approx(other[name].tolist(), abs=1e-6)
    assert (one.chance - other.chance).abs().max() > 1e-3


def test_the_strength_of_a_steer_and_the_numbers_of_an_edit_do_not_matter(model, few, metric):
    steer, mine = random_steer(model), edit(model)
    here = compared(model, few, metric, mine, steer, draws=2)
    there = compared(model, few, metric, edit(model, b=-5 * mine.b), -3 * steer, draws=2)
    pd.testing.assert_frame_equal(here, there, atol=1e-4)


def test_the_model_is_left_as_it_was(model, few, metric):
    before, hooks = {k: v.clone() for k, v in model.state_dict().items()}, hook_count(model)
    compared(model, few, metric, {1: edit(model, layer=1)}, draws=1)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert hook_count(model) == hooks
    assert all("forward" not in block.__dict__ and not block.training for block in model.blocks)


def test_edits_of_other_layers_or_of_both_ends_are_refused(model, data, metric):
    with pytest.raises(ValueError, match=r"edits: the one given for layer 1 is behind \(0,\)"):
        compared(model, data, metric, {1: edit(model)})
    two = make_reft("consreft", sl.readout(model), layers=(0, 1))
    with pytest.raises(ValueError, match=r"edits: the one given for layer 0 is behind \(0, 1\)"):
        compared(model, data, metric, {0: two})
    apart = make_reft("consreft", sl.readout(model), positions="f1+l1", tied=False)
    with pytest.raises(ValueError, match="expected one edit of that layer"):
        compared(model, data, metric, {0: apart})


@pytest.mark.parametrize("labels", [(1.0, 0.5, 0.0), (-1.0, 0.0, -1.0), (0.0, 0.0, 0.0)])
def test_labels_without_both_signs_are_refused(model, metric, labels: tuple[float, ...]):
    texts = sl.Labelled(("it was good .", "very good .", "fine ."), labels)
    with pytest.raises(ValueError, match="data: expected texts with labels above and below 0"):
        compared(model, texts, metric, edit(model))
