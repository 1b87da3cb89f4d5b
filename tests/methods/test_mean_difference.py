"""The mean difference: against its definition, under the laws, on disk, and beside a steer."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.evaluate.compare import compare
from steerlens.evaluate.sign_margin import sign_margin
from steerlens.methods.baselines.mean_difference import MeanDifference, fit_mean_difference
from tests.contract import laws
from tests.models.zoo import TEXTS, zoo
from tests.values.make import make_readout, random

DATA = sl.Labelled(TEXTS[:4], [1.0, -0.5, -1.0, 0.5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_keeps_the_laws_of_interventions(dtype: torch.dtype) -> None:
    on = make_readout()
    value = MeanDifference(random(on.d_model, seed=3), 1, on)
    laws(value, {"blocks.1.hook_resid_post": random(4, 5, on.d_model, seed=4).to(dtype)})


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("layer", [0, 1])
def test_it_is_the_slope_of_mean_states_on_labels(name: str, layer: int) -> None:
    model = zoo(name)
    means = []
    for text in DATA.texts:
        ids = model.to_tokens(text, prepend_bos=True)
        site = f"blocks.{layer}.hook_resid_post"
        with torch.no_grad():
            means.append(
                model.run_with_cache(ids, names_filter=site)[1][site][0, 1:].double().mean(0)
            )
    y = torch.tensor(DATA.labels).double()
    y = y - y.mean()
    expected = sum(k * h for k, h in zip(y, means, strict=True)) / (y**2).sum()
    found = fit_mean_difference(model, DATA, layer=layer)
    assert_close(found.vector.double(), expected, rtol=1e-3, atol=1e-5)
    assert found.vector.norm() > 1e-3 and found.layer == layer
    turned = fit_mean_difference(
        model, sl.Labelled(DATA.texts, [-k for k in DATA.labels]), layer=layer
    )
    assert_close(turned.vector, -found.vector)
    halved = fit_mean_difference(
        model, sl.Labelled(DATA.texts, [k / 2 for k in DATA.labels]), layer=layer
    )
    assert_close(halved.vector, 2 * found.vector)


def test_it_is_saved_loaded_written_with_and_compared_like_a_steer(tmp_path: Path) -> None:
    model = sl.load_model("toy-64")
    train, new = (sl.toy.corpus("sentiment", n=n, seed=n) for n in (200, 150))
    value = fit_mean_difference(model, train, name="joy")
    back = sl.load(sl.save(value, tmp_path / "joy.safetensors"), model)
    assert isinstance(back, MeanDifference) and torch.equal(back.vector, value.vector)
    assert (back.layer, back.name) == (value.layer, "joy")
    plain, steered = (
        sl.generate(model, ["it was"], value, strengths=s, seed=1).text[0] for s in (0.0, 6.0)
    )
    assert plain == sl.generate(model, ["it was"], seed=1).text[0] != steered
    table = compare(
        model,
        {
            "mean difference": value,
            "turned": MeanDifference(-value.vector, value.layer, value.readout),
        },
        new,
    )
    assert table.sign_margin[0] > 0.02 and table.sign_margin[1] == pytest.approx(
        -table.sign_margin[0], rel=0.05
    )
    assert sign_margin(model, new, value).sign_margin > 0


def test_what_tells_nothing_apart_is_refused(unchecked: None) -> None:
    model = zoo("gpt2")
    with pytest.raises(ValueError, match="data: every label is 1, so nothing is told apart"):
        fit_mean_difference(model, sl.Labelled(DATA.texts, [1.0] * 4))
    with pytest.raises(ValueError, match="layer: got 9, expected 0 …"):
        fit_mean_difference(model, DATA, layer=9)
    on = make_readout()
    with pytest.raises(ValueError, match="vector: got shape"):
        MeanDifference(torch.zeros(on.d_model + 1), 0, on)
    with pytest.raises(ValueError, match="holds NaN"):
        MeanDifference(torch.full((on.d_model,), torch.nan), 0, on)
    other = fit_mean_difference(zoo("llama"), DATA)
    with pytest.raises(ValueError, match="transfer"):
        sl.generate(model, ["it was"], other)
