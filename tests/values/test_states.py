"""States in memory and on disk behave as one, and sums over their parts add."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import steerlens as sl
from steerlens.maths.moments import Moments, moments
from steerlens.values.states import Shard, States
from tests.values.make import make_states, make_steer, on_disk

STATES = make_states(20, n_shards=3)


def rows(states: States, size: int = 7, seed: int | None = None) -> list[tuple]:
    """Every position as something that can be compared and sorted."""
    found = []
    for c, target, text in states.chunks(size, seed=seed):
        assert 0 < len(c) <= size
        assert (c.dtype, target.dtype, text.dtype) == (torch.float32, torch.int64, torch.int64)
        found += zip(text.tolist(), target.tolist(), map(tuple, c.tolist()), strict=True)
    return found


def sums(states: States, size: int) -> Moments:
    head, total = states.readout.head, None
    for c, target, text in states.chunks(size):
        part = moments(head, c, target, states.labels[text], torch.ones(len(c)))
        total = part if total is None else total.plus(part)
    assert total is not None
    return total


def mask(*texts: int, n: int = 20) -> Tensor:
    return torch.zeros(n, dtype=torch.bool).index_fill(0, torch.tensor(texts), True)


@settings(max_examples=30)
@given(
    size=st.integers(1, 300),
    seed=st.none() | st.integers(0, 9),
    keep=st.sets(st.integers(0, 19), min_size=1),
)
def test_chunks_cover_every_position_of_the_kept_texts_once(
    size: int, seed: int | None, keep: set[int]
) -> None:
    part = STATES.select(mask(*keep))
    stored = rows(STATES, 1000)
    assert sorted(rows(part, size, seed)) == sorted(row for row in stored if row[0] in keep)
    assert part.n_texts == len(keep)
    assert part.n_positions == len(rows(part))


def test_a_seed_shuffles_and_no_seed_keeps_the_order() -> None:
    assert rows(STATES, 5) == rows(STATES, 50)
    assert rows(STATES, 5, seed=1) == rows(STATES, 5, seed=1)
    assert len({tuple(rows(STATES, 5, seed=seed)) for seed in (None, 1, 2)}) == 3


def test_shards_on_disk_behave_as_in_memory(tmp_path: Path) -> None:
    disk = on_disk(STATES, tmp_path)
    assert "on disk" in repr(disk) and "in memory" in repr(STATES)
    for seed in (None, 3):
        assert rows(disk, 7, seed) == rows(STATES, 7, seed)
    part = mask(1, 4, 19)
    assert rows(disk.select(part), 7, 2) == rows(STATES.select(part), 7, 2)


def test_a_shard_that_was_cut_short_is_named(tmp_path: Path) -> None:
    disk = on_disk(STATES, tmp_path)
    path = tmp_path / "1.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"1\.safetensors.*collect again"):
        rows(disk)
    path.unlink()
    with pytest.raises(ValueError, match=r"1\.safetensors.*collect again"):
        rows(disk)


def test_states_stored_in_half_precision_come_out_as_float32() -> None:
    shards = tuple(
        Shard(s.hidden.bfloat16(), s.next, s.text) for s in STATES.shards if isinstance(s, Shard)
    )
    half = States(STATES.readout, shards, STATES.labels, STATES.lengths, STATES.keep)
    for a, b in zip(half.chunks(9), STATES.chunks(9), strict=True):
        assert a.hidden.dtype == torch.float32
        assert_close(a.hidden, b.hidden, rtol=1e-2, atol=1e-2)


@settings(max_examples=15)
@given(share=st.floats(0.0, 1.0), seed=st.integers(0, 9))
def test_sums_over_the_parts_of_a_split_add(share: float, seed: int) -> None:
    one, two = STATES.split(share, seed=seed)
    assert one.n_texts >= 1 and two.n_texts >= 1
    assert not (one.keep & two.keep).any() and torch.equal(one.keep | two.keep, STATES.keep)
    assert_close(
        tuple(sums(one, 11).plus(sums(two, 13))), tuple(sums(STATES, 1000)), rtol=1e-5, atol=1e-4
    )


def test_splitting_a_part_stays_within_it() -> None:
    part = STATES.select(mask(1, 2, 3, 4))
    one, two = part.split(0.5, seed=0)
    assert (one.n_texts, two.n_texts) == (2, 2)
    assert torch.equal(one.keep | two.keep, part.keep)
    with pytest.raises(ValueError, match="cannot be split"):
        STATES.select(mask(3)).split(0.5, seed=0)


@pytest.mark.parametrize("n", [1, 40, 10**9])
def test_a_sample_holds_about_as_many_positions_as_asked_for(n: int) -> None:
    part = STATES.sample(n, seed=0)
    longest = int(STATES.lengths.max())
    assert min(n, STATES.n_positions) <= part.n_positions <= n + longest or part.n_texts == 20
    assert torch.equal(part.keep, STATES.sample(n, seed=0).keep)
    assert len({tuple(STATES.sample(40, seed=s).keep.tolist()) for s in range(4)}) > 1


@pytest.mark.parametrize(
    "hold", [list, tuple, iter, np.array, pd.Series, lambda y: pd.Series(y, index=range(9, 9 + len(y))), torch.tensor]
)  # fmt: skip
def test_labels_in_any_sequence_are_other_labels(hold: Callable) -> None:
    labels = [(-1.0, 0.25, 1.0)[k % 3] for k in range(len(STATES.labels))]
    found = STATES.relabel(hold(labels)).labels
    assert found.dtype == torch.float32 and found.tolist() == labels
    sides = STATES.relabel(hold([y > 0 for y in labels])).labels
    assert sides.tolist() == [1.0 if y > 0 else -1.0 for y in labels]
    with pytest.raises(ValueError, match=r"labels\[1\]: got nan"):
        STATES.relabel(hold([0.0, float("nan"), *labels[2:]]))


def test_relabelled_states_are_the_same_under_other_labels() -> None:
    labels = torch.linspace(-1, 1, 20)
    other = STATES.relabel(labels)
    assert rows(other) == rows(STATES)
    assert torch.equal(other.labels, labels) and not torch.equal(STATES.labels, labels)


@pytest.mark.parametrize(
    "labels", [torch.zeros(19), torch.full((20,), 1.5), torch.full((20,), torch.nan)]
)
def test_labels_that_do_not_fit_are_refused(labels: Tensor, unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"expected (20 numbers|a number) in \[-1, 1\]"):
        STATES.relabel(labels)


def test_parts_of_states_are_asked_for_in_numbers_that_have_a_meaning(unchecked: None) -> None:
    mask = [k % 3 == 0 for k in range(20)]
    for held in (mask, np.array(mask), pd.Series(mask)):
        assert torch.equal(STATES.select(held).keep, STATES.select(torch.tensor(mask)).keep)
    for wrong in (torch.ones(20), np.arange(20), list(range(20)), [mask]):
        with pytest.raises(ValueError, match="texts: got .*expected a mask"):
            STATES.select(wrong)
    for share in (1.5, -0.1, float("nan"), "half"):
        with pytest.raises(ValueError, match="share: got"):
            STATES.split(share, seed=0)  # pyright: ignore
    for n in (0, -5, 1.5):
        with pytest.raises(ValueError, match="n_positions: got"):
            STATES.sample(n, seed=0)  # pyright: ignore


def test_a_mask_over_another_number_of_texts_is_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match="over 3 texts, expected 20"):
        STATES.select(torch.ones(3, dtype=torch.bool))


def test_of_no_selected_text_nothing_is_asked() -> None:
    states = make_states(6)
    none = states.select(states.labels > 2)
    assert none.n_texts == 0
    steer = make_steer()
    for ask in (
        sl.natural_metric, lambda s: sl.strength_at_kl(steer, s), lambda s: sl.label_curve(s, steer),
        lambda s: sl.spectrum(steer, states=s), lambda s: sl.singular_words(steer, states=s),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"states: none of 6 texts is selected"):
            ask(none)
