"""Learned rows before the input: a frozen value that keeps the laws of interventions, in memory and
on disk."""

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from steerlens.methods.files import read_metadata, read_value, save
from steerlens.methods.prompt.soft_prompt import SoftPrompt, prompt_edits, prompt_sites
from steerlens.values.hook_names import EMBED
from steerlens.values.positions import places_of
from tests.contract import laws, run
from tests.values.make import D, contents, forget, make_readout, random, rewrite

N = 3
HEADS, HEAD = 2, 3  # keys and values of a layer: two heads of three numbers
KINDS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "soft": ("soft", ()),
    "deep": ("deep", (1,)),
    "deep, two layers": ("deep", (0, 2)),
    "kv": ("kv", (1,)),
    "kv, two layers": ("kv", (2, 0)),
}
SITES: dict[str, tuple[str, ...]] = {
    "soft": ("hook_embed",),
    "deep": ("hook_embed", "blocks.1.hook_resid_pre"),
    "deep, two layers": ("hook_embed", "blocks.0.hook_resid_pre", "blocks.2.hook_resid_pre"),
    "kv": ("blocks.1.attn.hook_k", "blocks.1.attn.hook_v"),
    "kv, two layers": (
        "blocks.2.attn.hook_k", "blocks.2.attn.hook_v", "blocks.0.attn.hook_k", "blocks.0.attn.hook_v",
    ),
}  # fmt: skip


def make_prompt(case: str, *, n: int = N, still: bool = False, seed: int = 0) -> SoftPrompt:
    """A seeded prompt; `still` is the one of the same rows whose directions are zero."""
    kind, layers = KINDS[case]
    shape = (len(SITES[case]), n, D)
    directions = torch.zeros(shape) if still else random(*shape, seed=seed + 1)
    return SoftPrompt(random(*shape, seed=seed), directions, kind, layers, make_readout(), "cheer")


def activations(
    case: str, *, rows: int = 3, width: int = 5, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """What a model holds at the sites of a kind, keys and values by heads."""
    at = {
        site: 2 * random(rows, width, D, seed=20 + k).to(dtype)
        for k, site in enumerate(SITES[case])
    }
    return {site: t.unflatten(2, (HEADS, HEAD)) if "attn" in site else t for site, t in at.items()}


# edits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", KINDS)
def test_prompts_keep_the_laws_and_strength_zero_is_the_neutral_one(
    case: str, dtype: torch.dtype
) -> None:
    laws(make_prompt(case), activations(case, dtype=dtype), at_zero=make_prompt(case, still=True))


@pytest.mark.parametrize("case", KINDS)
def test_strength_zero_is_not_the_plain_model(case: str) -> None:
    at = activations(case)
    found = run(make_prompt(case), 0.0, at)
    assert all(not torch.equal(found[site], at[site]) for site in SITES[case])


@pytest.mark.parametrize("case", KINDS)
def test_the_sites_of_each_kind(case: str) -> None:
    prompt = make_prompt(case)
    assert prompt_sites(*KINDS[case]) == SITES[case] == tuple(site for site, _ in prompt.edits(1.0))
    assert EMBED == "hook_embed"


@pytest.mark.parametrize("case", KINDS)
@pytest.mark.parametrize("width", [2, N, 5])
def test_the_first_tokens_of_every_row_are_replaced_and_the_others_left_alone(
    case: str, width: int
) -> None:
    """Padded on either side, not at all, and a pass that goes on in the middle of the rows or
    behind them."""
    prompt, at, strengths = (
        make_prompt(case),
        activations(case, rows=4, width=width),
        (-1.5, 0.5, 2.0, 1.0),
    )
    index = places_of(torch.ones(4, width, dtype=torch.long), torch.full((4,), N)).index.clone()
    index[1, :1], index[1, 1:] = -1, torch.arange(width - 1)
    index[2] += 2
    index[3] += N
    places = places_of(torch.ones(4, width, dtype=torch.long), torch.full((4,), N))._replace(
        index=index
    )
    replaced, kept = 0, 0
    for k, (site, edit) in enumerate(prompt.edits(torch.tensor(strengths))):
        found, before = edit(at[site], places).flatten(2), at[site].flatten(2)
        for row, s in enumerate(strengths):
            for pos, i in enumerate(index[row].tolist()):
                if 0 <= i < N:
                    expected = prompt.rows[k, i] + s * prompt.directions[k, i]
                    assert_close(found[row, pos], expected, rtol=1e-5, atol=1e-5)
                    assert (before[row, pos] - expected).abs().max() > 0.05
                    replaced += 1
                else:
                    assert torch.equal(found[row, pos], before[row, pos])
                    kept += 1
    assert replaced > 0 and kept > 0


@pytest.mark.parametrize("case", KINDS)
def test_the_rows_at_a_strength_are_what_a_pass_holds(case: str) -> None:
    prompt, at = make_prompt(case), activations(case)
    assert torch.equal(prompt.at(0.0), prompt.rows) and torch.equal(
        prompt.at(1.0), prompt.rows + prompt.directions
    )
    assert_close((prompt.at(1.0) + prompt.at(-1.0)) / 2, prompt.rows, rtol=1e-5, atol=1e-6)
    for s in (1.0, -2.5):
        found = run(prompt, s, at)
        for k, site in enumerate(SITES[case]):
            for row in range(3):
                assert_close(found[site][row, :N].flatten(1), prompt.at(s)[k], rtol=1e-5, atol=1e-5)


def test_what_was_there_before_the_rows_has_no_part_in_it() -> None:
    prompt, at = make_prompt("deep"), activations("deep")
    other = {site: t + 1 for site, t in at.items()}
    one, two = run(prompt, 1.0, at), run(prompt, 1.0, other)
    for site in SITES["deep"]:
        assert torch.equal(one[site][:, :N], two[site][:, :N]) and not torch.equal(
            one[site], two[site]
        )


def test_gradients_reach_rows_and_directions_and_not_what_they_replace() -> None:
    rows, directions = (random(1, N, D, seed=seed).requires_grad_() for seed in (0, 1))
    t = activations("soft")["hook_embed"].requires_grad_()
    strengths = torch.tensor([1.0, -1.0, 2.0])
    ((_, edit),) = prompt_edits(rows, directions, "soft", (), strengths)
    edit(t, places_of(torch.ones(3, 5, dtype=torch.long), torch.full((3,), N))).sum().backward()
    assert rows.grad is not None and directions.grad is not None and t.grad is not None
    assert torch.equal(rows.grad, torch.full_like(rows, 3.0))
    assert_close(directions.grad, torch.full_like(directions, 2.0))
    assert t.grad[:, :N].abs().max() == 0 and torch.equal(t.grad[:, N:], torch.ones(3, 2, D))


def test_rows_of_another_width_are_refused_where_they_would_go() -> None:
    with pytest.raises(
        ValueError, match=f"rows: width {D} at a site of width {D + 2}; they are of another model"
    ):
        run(make_prompt("soft"), 1.0, {"hook_embed": random(2, 5, D + 2)})


# what it is


@pytest.mark.parametrize("case", KINDS)
def test_a_prompt_is_frozen_and_says_what_it_is(case: str) -> None:
    prompt = make_prompt(case)
    with pytest.raises(FrozenInstanceError):
        prompt.rows = prompt.rows  # pyright: ignore[reportAttributeAccessIssue]
    n = 2 * len(SITES[case]) * N * D
    assert (prompt.prefix, prompt.n_parameters) == (N, n)
    where = {
        "soft": "3 rows, ",
        "deep": "layers 1,",
        "deep, two layers": "layers 0, 2,",
        "kv": "layers 1,",
    }
    for part in (
        "'cheer'",
        KINDS[case][0],
        f"{n} parameters",
        "'m0'",
        where.get(case, "layers 2, 0,"),
    ):
        assert part in repr(prompt)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a kind that is not there": (
        {"kind": "hard"},
        r"kind, layers: got 'hard' at layers \(\), expected 'soft' without",
    ),
    "layers of a soft one": ({"layers": (1,)}, r"kind, layers: got 'soft' at layers \(1,\)"),
    "no layers of a deep one": ({"kind": "deep"}, r"kind, layers: got 'deep' at layers \(\)"),
    "no layers of keys and values": ({"kind": "kv"}, r"kind, layers: got 'kv' at layers \(\)"),
    "too few sites": (
        {"kind": "deep", "layers": (0, 1)},
        r"expected both \(3, n, width\) for 'deep' at layers \(0, 1\)",
    ),
    "keys without values": (
        {"kind": "kv", "layers": (1,)},
        r"expected both \(2, n, width\) for 'kv' at layers \(1,\)",
    ),
    "too many sites": (
        {"rows": random(2, N, D), "directions": random(2, N, D)},
        r"got shapes \(2, 3, 6\) and \(2, 3, 6\)",
    ),
    "directions of another length": (
        {"directions": random(1, N + 1, D)},
        r"got shapes \(1, 3, 6\) and \(1, 4, 6\)",
    ),
    "directions of another width": (
        {"directions": random(1, N, D + 1)},
        r"\(1, 3, 6\) and \(1, 3, 7\), expected both",
    ),
    "no rows": ({"rows": random(1, 0, D), "directions": random(1, 0, D)}, "n at least 1"),
    "NaN": (
        {"rows": torch.full((1, N, D), torch.nan)},
        "rows or directions of 'cheer' hold NaN or infinity",
    ),
    "infinity": (
        {"directions": torch.full((1, N, D), torch.inf)},
        "hold NaN or infinity; was the fit's step too large",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_belong_together_is_refused_by_name(case: str, unchecked: None) -> None:
    good = make_prompt("soft")
    parts: dict[str, Any] = {
        "rows": good.rows, "directions": good.directions, "kind": "soft", "layers": (), "readout": good.readout, "name": "cheer",
    }  # fmt: skip
    SoftPrompt(**parts)
    changes, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        SoftPrompt(**{**parts, **changes})


# on disk


@pytest.mark.parametrize("case", KINDS)
def test_a_prompt_is_read_back_exactly(case: str, tmp_path: Path) -> None:
    prompt = make_prompt(case)
    back = read_value(save(prompt, tmp_path / "cheer.safetensors"), make_readout())
    assert isinstance(back, SoftPrompt)
    assert torch.equal(back.rows, prompt.rows) and torch.equal(back.directions, prompt.directions)
    assert (back.kind, back.layers, back.name, back.prefix) == (*KINDS[case], "cheer", N)
    at = activations(case)
    found, expected = (run(value, 1.5, at) for value in (back, prompt))
    assert all(torch.equal(found[site], expected[site]) for site in at)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(make_prompt("kv, two layers"), tmp_path / "cheer.safetensors")


def test_metadata_says_what_the_prompt_is(path: Path) -> None:
    expected = {
        "format": 1, "kind": "prompt", "name": "cheer", "prompt_kind": "kv", "layers": [2, 0], "model_id": "m0", "d_model": D,
        "readout_digest": make_readout().digest, "report": None,
    }  # fmt: skip
    meta = read_metadata(path)
    assert {key: meta[key] for key in expected} == expected


def test_a_changed_number_and_exchanged_ones_are_noticed(path: Path) -> None:
    assert isinstance(read_value(path, make_readout()), SoftPrompt)
    meta, tensors = contents(path)
    moved = tensors["rows"].clone()
    moved[0, 0, 0] += 1e-3
    for wrong in (
        {**tensors, "rows": moved},
        {"rows": tensors["directions"], "directions": tensors["rows"]},
        {"rows": tensors["rows"]},
    ):
        rewrite(path, wrong, meta)
        with pytest.raises(ValueError, match="changed after it was saved"):
            read_value(path, make_readout())


@pytest.mark.parametrize(
    "missing", ["prompt_kind", "layers", "name", "digest", "kind", "readout_digest"]
)
def test_metadata_that_lacks_a_part_is_refused(path: Path, missing: str) -> None:
    forget(path, missing)
    with pytest.raises(ValueError, match=r"cheer\.safetensors.*not one that steerlens\.save wrote"):
        read_value(path, make_readout())


def test_metadata_that_makes_no_prompt_and_another_model_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="prompt 'cheer' was fitted on the W_U of 'm0'"):
        read_value(path, make_readout(seed=5))
    meta, tensors = contents(path)
    for wrong, message in (
        ({"layers": [2]}, r"expected both \(2, n, width\)"),
        ({"prompt_kind": "soft"}, "kind, layers: got 'soft'"),
        ({"kind": "reft"}, "not one that"),
        ({"kind": "steer"}, "not one that"),
    ):
        rewrite(path, tensors, {**meta, **wrong})
        with pytest.raises(ValueError, match=message):
            read_value(path, make_readout())
