"""The mean difference: against its definition, under the laws, on disk, and beside a steer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.evaluate.compare import compare
from steerlens.evaluate.sign_margin import sign_margin
from steerlens.methods.baselines.mean_difference import fit_mean_difference
from steerlens.methods.baselines.shift import Shift
from tests.models.zoo import TEXTS, zoo

DATA = sl.Labelled(TEXTS[:4], [1.0, -0.5, -1.0, 0.5])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("layer", [0, 1, "unembed"])
def test_it_is_the_slope_of_mean_states_on_labels(name: str, layer: Any) -> None:
    model, site = zoo(name), ""
    means = []
    for text in DATA.texts:
        ids = model.to_tokens(text, prepend_bos=True)
        site = f"blocks.{layer}.hook_resid_post" if layer != "unembed" else "unembed.hook_in"
        with torch.no_grad():
            means.append(
                model.run_with_cache(ids, names_filter=site)[1][site][0, 1:].double().mean(0)
            )
    y = torch.tensor(DATA.labels).double()
    y = y - y.mean()
    expected = sum(k * h for k, h in zip(y, means, strict=True)) / (y**2).sum()
    found = fit_mean_difference(model, DATA, layer=layer)
    assert_close(found.vector.double(), expected, rtol=1e-3, atol=1e-5)
    assert found.vector.norm() > 1e-3 and found.site == site
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
    train, new = (sl.toy.corpus("sentiment", n=n, seed=n) for n in (200, 60))
    value = fit_mean_difference(model, train, name="joy")
    back = sl.load(sl.save(value, tmp_path / "joy.safetensors"), model)
    assert isinstance(back, Shift) and torch.equal(back.vector, value.vector)
    assert (back.site, back.name) == (value.site, "joy")
    plain, steered = (
        sl.generate(model, ["it was"], value, strengths=s, seed=1).text[0] for s in (0.0, 6.0)
    )
    assert plain == sl.generate(model, ["it was"], seed=1).text[0] != steered
    table = compare(
        model,
        {
            "mean difference": value,
            "turned": Shift(-value.vector, value.site, value.readout),
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
    other = fit_mean_difference(zoo("llama"), DATA)
    with pytest.raises(ValueError, match="transfer"):
        sl.generate(model, ["it was"], other)
