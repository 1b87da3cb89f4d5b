"""The laws that every intervention keeps, as one function."""

import torch
from torch import Tensor
from torch.testing import assert_close

from steerlens.values.intervention import Intervention
from steerlens.values.positions import TokenIndex, places_of


def everywhere(t: Tensor) -> TokenIndex:
    """Rows without padding, all of them prompt."""
    return places_of(torch.ones(t.shape[:2], dtype=torch.long), torch.full((len(t),), t.shape[1]))


def run(
    intervention: Intervention, strength: float | Tensor, at: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The activations after the edits; several at one site in the order given."""
    after = dict(at)
    for site, edit in intervention.edits(strength):
        after[site] = edit(after[site], everywhere(after[site]))
    return after


def laws(
    intervention: Intervention, at: dict[str, Tensor], *, at_zero: Intervention | None = None
) -> None:
    """Assert the laws on activations `{site: [batch, pos, …]}`; with `at_zero`, what strength 0
    leaves (at strength 1).

    Shape, dtype and device stay; nothing is written to; a number and a tensor of equal numbers
    agree; every row has its own strength; a row's result does not depend on its neighbours;
    strength 0 is the identity, or `at_zero`.
    """
    assert isinstance(intervention, Intervention)
    assert intervention.readout.d_model > 0
    sites = {site for site, _ in intervention.edits(1.0)}
    assert sites and sites <= at.keys(), f"activations are missing for {sites - at.keys()}"
    rows = len(next(iter(at.values())))
    kept = {site: t.clone() for site, t in at.items()}
    coarse = any(t.dtype in (torch.bfloat16, torch.float16) for t in at.values())
    near = {"rtol": 2e-2, "atol": 2e-2} if coarse else {"rtol": 1e-4, "atol": 1e-5}

    full = run(intervention, 1.0, at)
    for site, before in at.items():
        assert torch.equal(before, kept[site]), "the input was written to"
        assert (full[site].shape, full[site].dtype, full[site].device) == (
            before.shape,
            before.dtype,
            before.device,
        )
    zero = run(intervention, 0.0, at)
    expected = at if at_zero is None else run(at_zero, 1.0, at)
    for site in at:
        if at_zero is None:
            assert torch.equal(zero[site], at[site]), "strength 0 is not the identity"
        else:
            assert_close(zero[site], expected[site], **near)
    assert any(not torch.equal(full[site], zero[site]) for site in sites), "strength 1 does nothing"

    strengths = torch.linspace(-1.5, 2.0, rows)
    mixed, number, same = (
        run(intervention, s, at) for s in (strengths, 0.5, torch.full((rows,), 0.5))
    )
    for site in at:
        assert_close(number[site], same[site], **near)
    for row, s in enumerate(strengths.tolist()):
        alone = run(intervention, s, {site: t[row : row + 1] for site, t in at.items()})
        for site in at:
            assert_close(mixed[site][row : row + 1], alone[site], **near)
