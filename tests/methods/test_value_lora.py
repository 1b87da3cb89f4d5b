"""A LoRA of the last values: it is one, how far a steer is one of them, and its fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.evaluate.sign_margin import sign_margin
from steerlens.methods.baselines.value_lora import ValueLora, fit_value_lora, value_edits
from steerlens.models.hooks import eval_mode
from steerlens.models.partial_forward import batch_of, cache_residuals, final_states
from steerlens.values.training import Training
from tests.contract import everywhere, laws
from tests.models.zoo import TEXTS, zoo
from tests.values.make import make_readout, random

SITE = "blocks.1.attn.hook_v"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_keeps_the_laws_of_interventions(dtype: torch.dtype) -> None:
    value = ValueLora(random(8, 2, seed=1), random(2, 8, seed=2), 1, make_readout())
    laws(value, {SITE: random(4, 5, 2, 4, seed=4).to(dtype)})


def test_it_is_the_model_with_another_value_projection() -> None:
    model = zoo("gpt2")
    d = model.cfg.d_model
    value = ValueLora(random(d, 3, seed=1), 0.1 * random(3, d, seed=2), 1, sl.readout(model))
    ids = model.to_tokens(TEXTS[3])
    with torch.no_grad(), sl.steered(model, value, 0.7):
        found = model(ids)
    weights = model.original_model.transformer.h[1].attn.c_attn
    weights = getattr(weights, "original_component", weights)
    parts = list(weights.parameters())
    before = [t.detach().clone() for t in parts]
    with torch.no_grad():
        plain = model(ids)
        for t in parts:  # keys and queries stay, the last third are the values
            t[..., 2 * d :] += 0.7 * t[..., 2 * d :] @ value.A @ value.B
        expected = model(ids)
        for t, b in zip(parts, before, strict=True):
            t.copy_(b)
    assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert (expected - plain).abs().max() > 100 * (found - expected).abs().max()


def explained(model: Any, wanted: ValueLora | sl.Steer, n_steps: int = 80) -> float:
    """How much of what an intervention does to the final states the best matrix on the last values
    does too: share of the squared size."""
    d = model.cfg.d_model
    kept = cache_residuals(model, sl.Labelled(TEXTS, [0.0] * len(TEXTS)), 0)
    batch = batch_of(kept, range(len(TEXTS)))
    with eval_mode(model):
        plain, moved = (
            final_states(model, kept, batch, edits) for edits in ((), wanted.edits(1.0))
        )
    A, B = torch.eye(d), torch.zeros(d, d, requires_grad=True)
    descent = torch.optim.Adam([B], lr=0.03)
    for _ in range(n_steps):
        descent.zero_grad()
        with eval_mode(model, gradients=True):
            found = final_states(model, kept, batch, value_edits(A, B, 1, 1.0))
            missing = (found - moved).square().sum() / (plain - moved).square().sum()
            missing.backward()
        descent.step()
    return 1 - float(missing.detach())


def test_a_steer_is_no_lora_of_the_last_values() -> None:
    """A steer turns each token's own final state; values reach a token only mixed by attention,
    which is the same for all matrices. With full rank and nothing but four texts to explain, a
    change of the values explains another one, and leaves much of a steer."""
    model = zoo("gpt2")
    on, d = sl.readout(model), model.cfg.d_model
    lora = ValueLora(torch.eye(d), 0.5 * random(d, d, seed=4) / d**0.5, 1, on)
    steer = sl.Steer(0.2 * random(d, d, seed=3) / d**0.5, on)
    found = [explained(model, one) for one in (lora, steer)]
    assert found[0] > 0.95 and found[1] < 0.8


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_it_is_fitted_kept_in_files_and_leaves_the_model_alone(name: str, tmp_path: Path) -> None:
    model = zoo(name)  # llama has fewer values than queries
    data = sl.Labelled(
        [
            f"the {a} was {w} ."
            for a in ("film", "cast", "plot", "food", "book")
            for w in ("good", "bad")
        ],
        [1.0, -1.0] * 5,
    )
    before = {k: p.clone() for k, p in model.named_parameters()}
    fit = fit_value_lora(model, data, rank=2, training=Training(epochs=3, lr=0.1), progress=False)
    assert all(torch.equal(p, before[k]) and p.grad is None for k, p in model.named_parameters())
    back = sl.load(sl.save(fit, tmp_path / "x.safetensors"), model)
    assert isinstance(back, ValueLora) and torch.equal(back.A, fit.value.A) and back.layer == 1
    assert fit.value.B.norm() > 0 and sign_margin(model, data, fit.value).sign_margin > 0.01
    with pytest.raises(ValueError, match="rank: got 99"):
        fit_value_lora(model, data, rank=99, progress=False)
    with pytest.raises(ValueError, match="layer: got 7"):
        fit_value_lora(model, data, layer=7, progress=False)


def test_what_is_no_matrix_of_low_rank_is_refused(unchecked: None) -> None:
    on = make_readout()
    with pytest.raises(ValueError, match=r"A, B: got shapes \(8, 2\) and \(3, 8\)"):
        ValueLora(torch.zeros(8, 2), torch.zeros(3, 8), 1, on)
    with pytest.raises(ValueError, match="holds NaN"):
        ValueLora(torch.full((8, 2), torch.nan), torch.zeros(2, 8), 1, on)
    ((_, edit),) = ValueLora(torch.zeros(8, 2), torch.zeros(2, 8), 1, on).edits(1.0)
    with pytest.raises(ValueError, match="values of width 8, these are 12 wide"):
        edit(torch.zeros(1, 1, 3, 4), everywhere(torch.zeros(1, 1, 3, 4)))
