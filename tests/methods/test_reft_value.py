"""An edit of hidden states: a frozen value that keeps the laws of interventions, in memory and on
disk."""

from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from steerlens.methods.files import read_metadata, read_value, save
from steerlens.methods.reft.formulas import ACTIVATIONS, FORMS
from steerlens.methods.reft.reft import Reft
from steerlens.values.positions import TokenIndex, places_of
from tests.contract import everywhere, laws, run
from tests.values.make import (
    D,
    contents,
    forget,
    make_readout,
    make_reft,
    make_steer,
    picked,
    random,
    rewrite,
)

KINDS: dict[str, dict[str, Any]] = {
    "one layer": {},
    "several layers": {"layers": (3, 0, 1)},
    "both ends, tied": {"layers": (0, 2), "positions": "f2+l1"},
    "both ends, apart": {"layers": (0, 2), "positions": "f2+l1", "tied": False},
    "the end": {"positions": "l2"},
    "the prompt": {"positions": "prompt+new", "rank": 1},
}
SITES = {layer: f"blocks.{layer}.hook_resid_post" for layer in range(4)}


def states(
    *layers: int, rows: int = 3, width: int = 5, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Hidden states behind some layers."""
    return {SITES[layer]: 2 * random(rows, width, D, seed=20 + layer).to(dtype) for layer in layers}


@pytest.mark.parametrize(
    "variant, kind, dtype",
    [
        *((variant, "both ends, apart", torch.float32) for variant in FORMS),
        *((variant, "several layers", torch.bfloat16) for variant in FORMS),
        *(("noreft", kind, torch.float32) for kind in KINDS),
        ("loreft", "the end", torch.float64),
    ],
)
def test_edits_keep_the_laws_of_interventions(variant: str, kind: str, dtype: torch.dtype) -> None:
    edit = make_reft(variant, **KINDS[kind])
    laws(edit, states(*edit.layers, dtype=dtype))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_edits_with_an_activation_keep_the_laws(activation: str) -> None:
    laws(make_reft("nodireft", activation=activation), states(0))


def columns(edit: Reft, k: int, h: Tensor) -> Tensor:
    """`Δ(h)` of the `k`-th edit by the class's own docstring, for one column, float64."""
    R, b, h = edit.R[k].double(), edit.b[k].double(), h.double()
    target = b if edit.A is None else edit.A[k].double() @ h + b
    target = {None: lambda x: x, "tanh": torch.tanh, "relu": torch.relu}[edit.activation](target)
    return (
        R.T @ (target - R @ h) if edit.variant in ("loreft", "noreft", "consreft") else R.T @ target
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "variant, activation", [*((v, None) for v in FORMS), ("loreft", "tanh"), ("nodireft", "relu")]
)
def test_every_token_is_edited_by_the_formula_of_its_layer_and_end_or_left_alone(
    variant: str, kind: str, activation: Any
) -> None:
    edit = make_reft(variant, **KINDS[kind], activation=activation)
    at, strength = states(0, 1, 2, 3), torch.tensor([-1.5, 0.5, 2.0])
    mask, prompts = (
        torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 1, 0]]),
        torch.tensor([4, 2, 1]),
    )
    places, pads = places_of(mask, prompts), (0, 2, 0)
    after = dict(at)
    for site, function in edit.edits(strength):
        after[site] = function(after[site], places)
    a_layer = len(edit.R) // len(edit.layers)
    changed = 0
    for layer, site in SITES.items():
        expected = at[site].double()
        if layer in edit.layers:
            first = edit.layers.index(layer) * a_layer
            for row in range(3):
                beginning, end = picked(edit.positions, int(prompts[row]), int(mask[row].sum()))
                for i in [*beginning, *end]:
                    k = first + (a_layer - 1 if i in end else 0)
                    h = at[site][row, pads[row] + i]
                    expected[row, pads[row] + i] += float(strength[row]) * columns(edit, k, h)
                    changed += 1
        assert_close(after[site].double(), expected, rtol=1e-4, atol=1e-5)
    assert 0 < changed < 60  # of the 3 × 5 tokens behind 4 layers


@pytest.mark.parametrize("variant", FORMS)
def test_an_edit_grows_with_its_strength(variant: str) -> None:
    edit, at = make_reft(variant), states(0)
    h = at[SITES[0]]
    one, three = (run(edit, s, at)[SITES[0]] - h for s in (1.0, -3.0))
    assert one.abs().max() > 0.1
    assert_close(three, -3 * one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["loreft", "consreft"])
def test_an_orthonormal_edit_that_replaces_holds_what_it_says_at_strength_one(variant: str) -> None:
    edit, at = make_reft(variant), states(0)
    h = at[SITES[0]]
    after = run(edit, 1.0, at)[SITES[0]]
    R, b = edit.R[0], edit.b[0]
    target = b.expand(3, 5, -1) if edit.A is None else h @ edit.A[0].mT + b
    assert (h @ R.mT - target).abs().max() > 1
    assert_close(after @ R.mT, target, rtol=1e-5, atol=1e-5)
    if variant == "consreft":  # what is there already is not replaced again
        again = run(edit, 1.0, {SITES[0]: after})[SITES[0]]
        assert_close(again, after, rtol=1e-5, atol=1e-5)


def test_constant_edits_of_orthogonal_subspaces_do_not_meet() -> None:
    both = make_reft("consreft", rank=4)
    one, other = both.rows([0, 2]), both.rows([3, 1])
    at = states(0)
    twice = run(other, 1.0, run(one, 1.0, at))
    assert_close(twice, run(one, 1.0, run(other, 1.0, at)), rtol=1e-4, atol=1e-5)
    assert_close(twice, run(both, 1.0, at), rtol=1e-4, atol=1e-5)
    assert (twice[SITES[0]] - run(one, 1.0, at)[SITES[0]]).abs().max() > 0.5


@pytest.mark.parametrize("variant", ["lobireft", "r1"])
def test_biased_edits_move_every_token_by_the_same_vector(variant: str) -> None:
    edit, at = make_reft(variant), states(0)
    moved = run(edit, 2.0, at)[SITES[0]] - at[SITES[0]]
    assert moved.abs().max() > 0.1
    assert_close(moved, (2 * edit.b[0] @ edit.R[0]).expand_as(moved), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["one layer", "both ends, apart"])
@pytest.mark.parametrize("variant", [v for v in FORMS if v != "r1"])
def test_parts_of_a_subspace_make_changes_that_add_up(variant: str, kind: str) -> None:
    edit = make_reft(variant, **{**KINDS[kind], "rank": 3})
    parts, at = (edit.rows([2, 0], "a"), edit.rows(range(1, 2))), states(*edit.layers)
    assert (parts[0].name, parts[0].rank, parts[1].name, parts[1].rank) == ("a", 2, "edit [1]", 1)
    whole, *some = (run(value, 1.5, at) for value in (edit, *parts))
    for site, h in at.items():
        first, second = (one[site] - h for one in some)
        assert min(first.abs().max(), second.abs().max()) > 0.1
        assert_close(first + second, whole[site] - h, rtol=1e-4, atol=1e-5)
    weight = torch.tensor([1.0, 0.0, 1.0]).expand(3, 5, -1)
    h = at[SITES[0]]
    assert_close(edit.change(h, rows=weight), parts[0].change(h), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [[], [0, 0], [2], [-1]])
def test_rows_that_are_not_there_are_refused(rows: list[int]) -> None:
    with pytest.raises(ValueError, match="rows: got"):
        make_reft().rows(rows)


def test_only_r1_detects_and_what_it_detects_is_the_size_along_its_vector() -> None:
    edit, h = make_reft("r1"), states(0)[SITES[0]]
    found, v = edit.detect(h), edit.R[0, 0]
    expected = torch.tensor([[max(float(x @ v), 0.0) for x in row] for row in h])
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert 0 < (found == 0).sum() < found.numel()
    assert edit.detect(h.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="variant: 'loreft' detects nothing"):
        make_reft().detect(h)


@pytest.mark.parametrize(
    "variant, rank, n",
    [("loreft", 1, 8_193), ("loreft", 4, 32_772), ("loreft", 8, 65_544), ("consreft", 1, 4_097)],
)
def test_parameters_are_as_many_as_the_paper_counts(variant: str, rank: int, n: int) -> None:
    on = make_readout(d=4096, vocab=2)
    assert make_reft(variant, on, rank=rank).n_parameters == n
    apart = make_reft(variant, on, rank=rank, layers=(0, 5), positions="f1+l1", tied=False)
    assert apart.n_parameters == 4 * n and not apart.tied
    assert (apart.rank, apart.form) == (rank, FORMS[variant])


def test_an_edit_is_frozen_and_says_what_it_is() -> None:
    edit = make_reft("noreft", layers=(1, 3), rank=2, positions="f1+l2")
    with pytest.raises(FrozenInstanceError):
        edit.b = edit.b  # pyright: ignore[reportAttributeAccessIssue]
    for part in (
        "'edit'",
        "noreft",
        "rank 2",
        "layers 1, 3",
        "'f1+l2'",
        f"{4 * D * 2 + 4:,} parameters",
        "'m0'",
    ):
        assert part in repr(edit)


def good(**changes: Any) -> dict[str, Any]:
    """What a valid edit is made of, with changes."""
    edit = make_reft(rank=2)
    names = ("R", "A", "b", "variant", "layers", "positions", "readout", "activation")
    return {**{name: getattr(edit, name) for name in names}, **changes}


NAN = torch.full((1, 2), torch.nan)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a variant that is not there": (
        {"variant": "lora"},
        "variant: got 'lora', expected one of loreft, noreft",
    ),
    "an activation that is not there": (
        {"activation": "sigmoid"},
        "activation: got 'sigmoid' for 'loreft'",
    ),
    "an activation of nothing": (
        {"variant": "consreft", "A": None, "activation": "relu"},
        "activation: got 'relu'",
    ),
    "positions": ({"positions": "f0"}, "positions: got 'f0'"),
    "no layers": ({"layers": ()}, r"layers: got \(\), expected different numbers from 0"),
    "a layer twice": ({"layers": (1, 1)}, r"layers: got \(1, 1\)"),
    "a layer below the first": ({"layers": (-1,)}, r"layers: got \(-1,\)"),
    "too few edits": ({"layers": (0, 1)}, "R: got 1 edits for 2 layers"),
    "too many edits": (
        {
            "R": make_reft().R.repeat(3, 1, 1),
            "A": random(3, 2, D),
            "b": random(3, 2),
            "positions": "f1+l1",
        },
        "R: got 3 edits for 1 layers",
    ),
    "two edits for one end": (
        {
            "R": make_reft().R.repeat(2, 1, 1),
            "A": random(2, 2, D),
            "b": random(2, 2),
            "positions": "f2",
        },
        "positions: 'f2' has one end",
    ),
    "no A where it is read": ({"A": None}, r"A: expected shape \(1, 2, 6\) for 'loreft', got None"),
    "A where nothing is read": ({"variant": "lobireft"}, "A: expected None for 'lobireft'"),
    "A of another shape": (
        {"A": random(1, 1, D)},
        r"A: expected shape \(1, 2, 6\).*got \(1, 1, 6\)",
    ),
    "b of another shape": ({"b": random(1, 3)}, r"b: got shape \(1, 3\), expected \(1, 2\)"),
    "r1 of rank 2": ({"variant": "r1", "A": None}, "R: got rank 2, expected 1 for 'r1'"),
    "NaN in b": ({"b": NAN}, "R, A or b of 'reft' holds NaN"),
    "infinity in A": (
        {"A": torch.full((1, 2, D), torch.inf)},
        "R, A or b of 'reft' holds NaN or infinity",
    ),
    "NaN in R": ({"R": torch.full((1, 2, D), torch.nan)}, "R, A or b of 'reft' holds NaN"),
    "rows that are not orthogonal": (
        {"R": random(1, 2, D)},
        "R: its rows are not orthonormal .*'loreft' needs",
    ),
    "rows that are not of length 1": (
        {"R": 1.01 * make_reft().R},
        "R: its rows are not orthonormal .*0.0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_belong_together_is_refused_by_name(case: str, unchecked: None) -> None:
    changes, message = BAD[case]
    Reft(**good())
    with pytest.raises(ValueError, match=message):
        Reft(**good(**changes))


def test_only_variants_without_the_constraint_take_any_rows() -> None:
    free = {"R": random(1, 2, D)}
    assert Reft(**good(variant="noreft", **free)).form.orthonormal is False
    for variant in ("loreft", "direft"):
        with pytest.raises(ValueError, match=f"orthonormal .*{variant}"):
            Reft(**good(variant=variant, **free))


@pytest.mark.parametrize(
    "variant, kind",
    [*((v, "both ends, apart") for v in FORMS), ("direft", "several layers"), ("r1", "one layer")],
)
def test_an_edit_is_read_back_exactly(variant: str, kind: str, tmp_path: Path) -> None:
    activation = "gelu" if FORMS[variant].reads else None
    edit = make_reft(variant, **KINDS[kind], activation=activation, name="cheer")
    back = read_value(save(edit, tmp_path / "cheer.safetensors"), make_readout())
    assert isinstance(back, Reft)
    assert torch.equal(back.R, edit.R) and torch.equal(back.b, edit.b)
    assert back.A is None if edit.A is None else torch.equal(back.A, edit.A)  # pyright: ignore[reportArgumentType]
    for name in ("variant", "layers", "positions", "activation", "name", "tied"):
        assert getattr(back, name) == getattr(edit, name)
    at = states(*edit.layers)
    found, expected = (run(value, 1.5, at) for value in (back, edit))
    assert all(torch.equal(found[site], expected[site]) for site in at)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(
        make_reft(layers=(2, 0), positions="f1+l2", name="cheer"), tmp_path / "cheer.safetensors"
    )


def test_metadata_says_what_the_edit_is(path: Path) -> None:
    expected = {
        "format": 1, "kind": "reft", "name": "cheer", "variant": "loreft", "layers": [2, 0], "positions": "f1+l2",
        "activation": None, "model_id": "m0", "d_model": 6, "readout_digest": make_readout().digest, "report": None,
    }  # fmt: skip
    meta = read_metadata(path)
    assert {key: meta[key] for key in expected} == expected


def test_every_changed_byte_of_the_numbers_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    n = 4 * sum(t.numel() for t in contents(path)[1].values())
    for place in (1, n // 2, n):  # the numbers are the end of the file
        path.write_bytes(
            whole[:-place] + bytes([whole[-place] ^ 1]) + whole[len(whole) - place + 1 :]
        )
        with pytest.raises(ValueError, match="changed after it was saved"):
            read_value(path, make_readout())
    path.write_bytes(whole)
    assert isinstance(read_value(path, make_readout()), Reft)


def test_numbers_that_are_missing_or_exchanged_are_noticed(path: Path) -> None:
    meta, tensors = contents(path)
    for wrong in (
        {name: t for name, t in tensors.items() if name != "A"},
        {**tensors, "A": tensors["R"], "R": tensors["A"]},
    ):
        rewrite(path, wrong, meta)
        with pytest.raises(ValueError, match="changed after it was saved"):
            read_value(path, make_readout())


@pytest.mark.parametrize(
    "missing", ["variant", "layers", "positions", "activation", "name", "digest", "kind"]
)
def test_metadata_that_lacks_a_part_is_refused(path: Path, missing: str) -> None:
    forget(path, missing)
    with pytest.raises(ValueError, match=r"cheer\.safetensors.*not one that steerlens\.save wrote"):
        read_value(path, make_readout())


def test_an_edit_is_no_steer_and_the_other_way_round(path: Path, tmp_path: Path) -> None:
    meta, tensors = contents(path)
    rewrite(path, tensors, {**meta, "kind": "steer"})
    with pytest.raises(ValueError, match="not one that"):
        read_value(path, make_readout())
    other = save(make_steer(), tmp_path / "joy.safetensors")
    meta, tensors = contents(other)
    rewrite(other, tensors, {**meta, "kind": "reft"})
    with pytest.raises(ValueError, match="not one that"):
        read_value(other, make_readout())


def test_metadata_that_makes_no_edit_is_refused(path: Path) -> None:
    meta, tensors = contents(path)
    for wrong, message in (
        ({"variant": "consreft"}, "A: expected None"),
        ({"layers": [1]}, "positions|R: got"),
    ):
        rewrite(path, tensors, {**meta, **wrong, "positions": "f1"})
        with pytest.raises(ValueError, match=message):
            read_value(path, make_readout())


def test_a_readout_with_another_W_U_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match=r"reft 'cheer'.*'m0'.*'m3'.*transfer"):
        read_value(path, make_readout(3))


def test_a_view_of_larger_tensors_is_saved_alone(tmp_path: Path) -> None:
    edit = make_reft("noreft")
    wide = torch.zeros(1, 200, 600)
    wide[:, ::100, ::100] = edit.R
    view = replace(edit, R=wide[:, ::100, ::100])
    path = save(view, tmp_path / "view.safetensors")
    back = read_value(path, make_readout())
    assert isinstance(back, Reft) and torch.equal(back.R, edit.R)
    assert path.stat().st_size < 4000


def test_a_cached_step_is_edited_as_the_token_is_in_one_pass() -> None:
    edit, h = make_reft(positions="l1+new"), states(0)[SITES[0]]
    ((_, function),) = edit.edits(1.0)
    prompts = torch.tensor([1, 3, 5])
    whole = function(h, everywhere(h)._replace(prompt=prompts))
    steps = [
        function(h[:, i : i + 1], TokenIndex(torch.full((3, 1), i), prompts)) for i in range(5)
    ]
    assert_close(torch.cat(steps, 1), whole)
    assert [int((row != before).any(1).sum()) for row, before in zip(whole, h, strict=True)] == [
        5,
        3,
        1,
    ]
