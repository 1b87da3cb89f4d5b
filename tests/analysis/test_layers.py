"""The same map at every site: which sites there are, and that the table holds what the fits say."""

import pytest

import steerlens as sl
from steerlens.analysis.layers import sites_of, steer_by_site
from steerlens.evaluate.compare import compare
from steerlens.methods.hidden.fit import fit_hidden_steer
from tests.methods.make import model
from tests.models.zoo import TEXTS, zoo

ONCE = sl.Training(lr=0, epochs=1)


def test_sites_are_in_the_order_in_which_they_run_and_none_that_the_model_has_not() -> None:
    found = sites_of(model())
    assert len(found) == 2 + 3 * 3 and (found[0], found[-1]) == ("hook_embed", "unembed.hook_in")
    assert found[4:7] == tuple(
        f"blocks.1.hook_{part}" for part in ("attn_out", "mlp_out", "resid_post")
    )
    assert sites_of(zoo("plain-gpt2")) == (
        "hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "unembed.hook_in",
    )  # fmt: skip


def test_the_table_holds_what_each_fit_is_worth_beside_the_steer() -> None:
    texts = sl.Labelled(
        [f"{text} {k}" for k, text in enumerate(2 * TEXTS)], [1.0, -0.5, 0.5, -1.0] * 2
    )
    test, sites = (
        sl.Labelled(TEXTS, [1.0, -0.5, 1.0, -1.0]),
        ("blocks.0.hook_mlp_out", "hook_embed"),
    )
    table = steer_by_site(
        zoo("gpt2"), [texts], test, sites=sites, rank=1, training=ONCE, progress=False
    )
    fits = {"steer": sl.fit_steer(zoo("gpt2"), texts, progress=False).value} | {
        site: fit_hidden_steer(
            zoo("gpt2"), texts, site=site, rank=1, training=ONCE, progress=False
        ).value
        for site in sites
    }
    expected = compare(zoo("gpt2"), fits, test)
    assert table.site.tolist() == ["steer", *sites]
    assert table.sign_margin.to_numpy() == pytest.approx(expected.sign_margin.to_numpy(), rel=1e-3)
    assert table.sign_margin.abs().min() > 1e-4 and (table.seconds > 0).all()
