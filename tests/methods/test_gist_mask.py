"""A gist mask keeps the laws of interventions and gives attention what `gist_mask` says."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steerlens.methods.gist.formulas import gist_mask
from steerlens.methods.gist.mask import GistMask
from steerlens.values.positions import TokenIndex, places_of
from tests.contract import laws
from tests.values.make import make_readout, random

N = 6
SITES = ("blocks.0.attn.hook_attn_scores", "blocks.1.attn.hook_attn_scores")


def make_mask(gist: int = 2, control: str = "gist", begin: int = 0) -> GistMask:
    return GistMask(gist, 2, make_readout(), control, begin)  # type: ignore[arg-type]


def scores(rows: int = 3, heads: int = 2, new: int = N, keys: int = N) -> Tensor:
    return random(rows, heads, new, keys, seed=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_keep_the_laws_of_interventions(dtype: torch.dtype) -> None:
    """The contract's prompt is as long as the second axis, that of the heads: with more tokens the
    last are new text."""

    class Two:
        readout, prefix = make_readout(), 0

        def edits(self, strength):
            def short(edit):
                def run(t: Tensor, places: TokenIndex) -> Tensor:
                    return edit(t, places._replace(prompt=places.prompt - 3))

                return run

            return tuple((site, short(edit)) for site, edit in make_mask().edits(strength))

    at = {site: random(3, N, N, N, seed=k).to(dtype) for k, site in enumerate(SITES)}
    laws(Two(), at)


@pytest.mark.parametrize("control", ["gist", "negative"])
@pytest.mark.parametrize("left", [True, False])
def test_scores_of_what_may_not_be_seen_are_minus_infinity_and_no_others_change(
    control, left
) -> None:
    mask = torch.tensor(
        [[1] * N, [0] * 2 + [1] * 4, [1] * N] if left else [[1] * N, [1] * 4 + [0] * 2, [1] * N]
    )
    places = places_of(mask, torch.tensor([4, 3, 1]))
    value, before = make_mask(control=control), scores()
    edit = value.edits(1.0)[0][1]
    found = edit(before, places)
    seen = gist_mask(places.index, torch.tensor([2, 1, 0]), places.prompt, control=control)
    causal = gist_mask(places.index, places.prompt, places.prompt)
    hidden = (causal & ~seen)[:, None].expand_as(before)
    assert hidden.any() and hidden[1].any()
    assert (found[hidden] == -torch.inf).all()
    assert torch.equal(found[~hidden], before[~hidden])
    assert torch.softmax(found, 3).isfinite().all()
    assert torch.equal(edit(found, places), found)  # twice is once


@pytest.mark.parametrize("control", ["gist", "positive", "negative"])
@pytest.mark.parametrize("new", [1, 3])
def test_with_a_cache_the_new_tokens_see_what_they_would_in_a_whole_pass(control, new) -> None:
    mask = torch.tensor([[1] * N, [0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
    places = places_of(mask, torch.tensor([4, 2, 3]))
    value, before = make_mask(control=control), scores()
    whole = value.edits(1.0)[0][1](before, places)
    found = value.edits(1.0)[0][1](
        before[:, :, -new:], places._replace(index=places.index[:, -new:])
    )
    assert torch.equal(found, whole[:, :, -new:])
    assert (control == "positive") or (whole[:, :, -new:] != before[:, :, -new:]).any()


def test_strength_zero_is_the_plain_model_bit_for_bit_and_any_other_the_whole_mask() -> None:
    places, before = (
        places_of(torch.ones(3, N, dtype=torch.long), torch.tensor([4, 4, 4])),
        scores(),
    )
    edit = {s: make_mask().edits(s)[0][1](before, places) for s in (0.0, 1.0, -0.01, 7.0)}
    assert torch.equal(edit[0.0], before) and not torch.equal(edit[1.0], before)
    assert torch.equal(edit[1.0], edit[-0.01]) and torch.equal(edit[1.0], edit[7.0])
    mixed = make_mask().edits(torch.tensor([0.0, 2.0, 0.0]))[0][1](before, places)
    assert torch.equal(mixed[[0, 2]], before[[0, 2]]) and torch.equal(mixed[1], edit[1.0][1])


def test_the_positive_control_and_texts_that_are_all_prompt_change_nothing() -> None:
    before = scores()
    some = places_of(torch.ones(3, N, dtype=torch.long), torch.tensor([4, 4, 4]))
    whole = some._replace(prompt=torch.tensor([N, N, N]))
    assert torch.equal(make_mask(control="positive").edits(1.0)[0][1](before, some), before)
    assert torch.equal(make_mask().edits(1.0)[0][1](before, whole), before)
    assert torch.equal(make_mask(gist=9).edits(1.0)[0][1](before, some), before)  # no instruction
    assert not torch.equal(make_mask().edits(1.0)[0][1](before, some), before)


def test_begin_stays_visible() -> None:
    places, before = (
        places_of(torch.ones(3, N, dtype=torch.long), torch.tensor([4, 4, 4])),
        scores(),
    )
    for control in ("gist", "negative"):
        one, none = (
            make_mask(control=control, begin=b).edits(1.0)[0][1](before, places) for b in (1, 0)
        )
        assert (none[:, :, 4:, 0] == -torch.inf).all() and torch.equal(one[..., 0], before[..., 0])
        assert (one[:, :, 4:, 1] == -torch.inf).all() and torch.equal(one[..., 1:], none[..., 1:])


def test_it_is_a_frozen_value_that_says_what_is_wrong_with_its_arguments(unchecked) -> None:
    value = make_mask()
    assert value.sites == SITES and value.prefix == 0 and value.name == "gist mask"
    for change, message in (
        ({"gist": 0}, "gist: got 0, expected at least 1"),
        ({"n_layers": 0}, "n_layers: got 0"),
        ({"control": "half"}, "control: got 'half'"),
        ({"begin": -1}, "begin: got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(value, **change)
