"""Pairs of places: exchanged, split by text, sampled, and refused where they are none."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerlens.values.pairs import Pairs, hidden
from steerlens.values.states import States
from tests.values.make import make_readout, make_states

N_TEXTS = 9


def unlabelled(d: int, seed: int, **options: int) -> States:
    """States of some texts; their stored order is not that of the texts."""
    states = make_states(N_TEXTS, on=make_readout(seed, d=d), seed=seed, n_shards=2, **options)
    return states.relabel(torch.zeros(N_TEXTS))


def texts(states: States) -> Tensor:
    return torch.cat([chunk.text for chunk in states.chunks(10**9)])


def make_pairs(seed: int = 0) -> Pairs:
    """The first positions of each text stand at the same places, as many as the shorter side
    has."""
    src, tgt = unlabelled(6, seed), unlabelled(4, seed + 50)
    rows: list[tuple[int, int]] = []
    for text in range(N_TEXTS):
        sides = [(texts(states) == text).nonzero().squeeze(1).tolist() for states in (src, tgt)]
        rows += zip(*sides, strict=False)
    return Pairs(src, tgt, torch.tensor(rows).mT)


def places(pairs: Pairs) -> set[tuple[int, ...]]:
    return set(map(tuple, pairs.rows.mT.tolist()))


def test_contexts_are_the_stored_rows_of_both_sides() -> None:
    pairs = make_pairs()
    stored = [
        torch.cat([chunk.hidden for chunk in states.chunks(5)]) for states in (pairs.src, pairs.tgt)
    ]
    assert (pairs.c_src.shape, pairs.c_tgt.shape) == ((len(pairs), 6), (len(pairs), 4))
    for i, (a, b) in enumerate(pairs.rows.mT.tolist()):
        assert torch.equal(pairs.c_src[i], stored[0][a]) and torch.equal(
            pairs.c_tgt[i], stored[1][b]
        )
    assert torch.equal(hidden(pairs.src), stored[0])


def test_the_share_is_of_the_target_s_positions() -> None:
    pairs = make_pairs()
    assert pairs.share == len(pairs) / len(hidden(pairs.tgt)) < 1
    assert pairs.reverse().share == len(pairs) / len(hidden(pairs.src)) != pairs.share
    assert f"{len(pairs)} places in {N_TEXTS} texts, 'm0' → 'm50'" in repr(pairs)


def test_reversed_twice_is_the_same_and_once_is_not() -> None:
    pairs = make_pairs()
    once, twice = pairs.reverse(), pairs.reverse().reverse()
    assert torch.equal(once.c_src, pairs.c_tgt) and torch.equal(once.c_tgt, pairs.c_src)
    assert once.src is pairs.tgt and once.tgt is pairs.src
    assert torch.equal(twice.rows, pairs.rows) and not torch.equal(once.rows, pairs.rows)
    assert twice.src is pairs.src and torch.equal(twice.c_src, pairs.c_src)


@settings(max_examples=25)
@given(share=st.floats(0, 1), seed=st.integers(0, 1000), back=st.booleans())
def test_a_split_leaves_no_text_in_both_parts_and_no_place_out(
    share: float, seed: int, back: bool
) -> None:
    pairs = make_pairs().reverse() if back else make_pairs()
    parts = pairs.split(share, seed=seed)
    found = [set(texts(part.tgt)[part.rows[1]].tolist()) for part in parts]
    assert found == [set(texts(part.src)[part.rows[0]].tolist()) for part in parts]
    assert not found[0] & found[1] and found[0] | found[1] == set(range(N_TEXTS))
    assert len(found[0]) == min(max(round(share * N_TEXTS), 1), N_TEXTS - 1)
    assert places(parts[0]) | places(parts[1]) == places(pairs) and sum(map(len, parts)) == len(
        pairs
    )
    again = pairs.split(share, seed=seed)
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(parts, again, strict=True))


def test_splits_differ_by_seed() -> None:
    assert len({frozenset(places(make_pairs().split(0.5, seed=seed)[0])) for seed in range(5)}) > 1


def test_one_text_cannot_be_split() -> None:
    pairs = make_pairs()
    one = Pairs(pairs.src, pairs.tgt, pairs.rows[:, texts(pairs.tgt)[pairs.rows[1]] == 3])
    with pytest.raises(ValueError, match="1 text cannot be split in two; give more texts"):
        one.split(0.5, seed=0)


@settings(max_examples=25)
@given(n=st.integers(1, 200), seed=st.integers(0, 1000))
def test_a_sample_is_so_many_places_and_all_where_there_are_no_more(n: int, seed: int) -> None:
    pairs = make_pairs()
    some = pairs.sample(n, seed=seed)
    assert len(some) == len(places(some)) == min(n, len(pairs))
    assert places(some) <= places(pairs)
    assert torch.equal(some.rows, pairs.sample(n, seed=seed).rows)
    assert torch.equal(some.c_tgt, hidden(pairs.tgt)[some.rows[1]])


def test_samples_differ_by_seed() -> None:
    assert len({frozenset(places(make_pairs().sample(5, seed=seed))) for seed in range(5)}) == 5


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_chunks_are_all_places_in_order(size: int) -> None:
    pairs = make_pairs()
    chunks = list(pairs.chunks(size))
    assert all(0 < len(a) == len(b) <= size for a, b in chunks)
    assert torch.equal(torch.cat([a for a, _ in chunks]), pairs.c_src)
    assert torch.equal(torch.cat([b for _, b in chunks]), pairs.c_tgt)


def test_states_with_labels_are_refused_on_either_side() -> None:
    pairs, labelled = make_pairs(), make_states(N_TEXTS)
    for sides in ((labelled, pairs.tgt), (pairs.tgt, labelled), (labelled, labelled)):
        with pytest.raises(ValueError, match=r"without labels.*or use steerlens\.pair"):
            Pairs(*sides, torch.tensor([[0], [0]]))


def test_states_of_another_number_of_texts_are_refused() -> None:
    other = make_states(N_TEXTS + 1).relabel(torch.zeros(N_TEXTS + 1))
    with pytest.raises(ValueError, match="on the same texts"):
        Pairs(make_pairs().src, other, torch.tensor([[0], [0]]))


def test_no_place_in_common_is_refused() -> None:
    pairs = make_pairs()
    with pytest.raises(ValueError, match="end nowhere at the same place"):
        Pairs(pairs.src, pairs.tgt, pairs.rows[:, :0])
    with pytest.raises(ValueError, match="end nowhere at the same place"):
        pairs.sample(0, seed=0)
