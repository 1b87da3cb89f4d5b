"""A steer at any site: a frozen value that keeps the laws; a closed form that is Newton's step; what
it can say behind the last layer is what the unembedding's steer says."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import steerlens as sl
from steerlens.evaluate.sign_margin import sign_margin, text_nll
from steerlens.methods.hidden.evidence import evidence, newton_factors
from steerlens.methods.hidden.fit import fit_hidden_steer
from steerlens.methods.hidden.hidden_steer import HiddenSteer, last_layer_below
from steerlens.methods.training import split
from steerlens.models.hooks import adapter, add_hooks, eval_mode
from steerlens.models.partial_forward import cache_residuals
from steerlens.values.intervention import UNEMBED_IN, Edit, Strength
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout
from steerlens.values.steer import per_row
from tests.contract import laws, run
from tests.methods.make import data, model
from tests.models.zoo import HookedTransformer, zoo
from tests.values.make import D, make_readout, random

POST = "blocks.0.hook_resid_post"
ONCE = sl.Training(lr=0, epochs=1)


def make(
    site: str = POST, rank: int = 2, *, seed: int = 0, on: Readout | None = None
) -> HiddenSteer:
    on = on or make_readout()
    A, B = random(on.d_model, rank, seed=seed), random(rank, on.d_model, seed=seed + 1)
    return HiddenSteer(A, B, site, on, f"h{seed}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("site", [POST, "blocks.3.hook_attn_out", "hook_embed", UNEMBED_IN])
def test_it_keeps_the_laws_of_interventions(site: str, dtype: torch.dtype) -> None:
    laws(make(site), {site: 2 * random(3, 5, D, seed=20).to(dtype)})


def test_it_is_the_steer_of_its_matrix_and_its_sums_are_those_of_matrices() -> None:
    a, b, at = make(seed=0), make(seed=4, rank=1), {POST: random(3, 5, D, seed=20)}
    steer = sl.Steer(a.A @ a.B, a.readout)
    assert_close(run(a, 1.5, at)[POST], steer.apply(at[POST], 1.5), rtol=1e-5, atol=1e-5)
    mixed = 2 * a - b / 4
    assert_close(mixed.matrix, 2 * a.matrix - b.matrix / 4, rtol=1e-5, atol=1e-5)
    assert (mixed.rank, mixed.n_parameters) == (3, 2 * 3 * D)
    assert mixed.name == "2·h0 - 0.25·h4" and (-mixed).name == "-(2·h0 - 0.25·h4)"
    assert torch.equal((-a).matrix, -a.matrix) and a.matrix.abs().max() > 0.1


BAD: dict[str, tuple[Any, str]] = {
    "a site of another kind": (lambda: make("blocks.0.attn.hook_z"), "site: got 'blocks.0.attn.hook_z', expected 'hook_embed'"),
    "factors of another model": (
        lambda: HiddenSteer(random(3, 1), random(1, 3), POST, make_readout()), r"A, B: got shapes \(3, 1\) and \(1, 3\)",
    ),
    "no rank": (lambda: HiddenSteer(random(D, 0), random(0, D), POST, make_readout()), "A, B: got shapes"),
    "NaN": (lambda: HiddenSteer(random(D, 2) * math.nan, random(2, D), POST, make_readout()), "A, B of .* hold NaN or infinity"),
    "NaN of them": (lambda: make() * math.nan, "factor: got nan, expected a finite number"),
    "two sites": (lambda: make() + make("hook_embed"), "at blocks.0.hook_resid_post of .* and .* at hook_embed"),
    "two models": (lambda: make() - make(on=make_readout(5)), "act on different states and cannot be added"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_map_is_refused(case: str, unchecked: None) -> None:
    made, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        made()


def test_a_pass_begins_below_the_site() -> None:
    expected = {"resid_pre": 1, "resid_mid": 1, "attn_out": 1, "mlp_out": 1, "resid_post": 2}
    for part, layer in expected.items():
        assert last_layer_below(f"blocks.2.hook_{part}", 4) == layer
    assert (last_layer_below(UNEMBED_IN, 4), last_layer_below("hook_embed", 4)) == (3, -1)


def behind_the_last_layer(value: HiddenSteer, on: Any, strength: float) -> Tensor:
    return next(
        sl.collect(on, data(12), intervention=value, strength=strength, progress=False).chunks(
            10**6
        )
    ).hidden


@pytest.mark.parametrize("plain", [False, True], ids=["TransformerLens", "Hugging Face"])
def test_behind_the_last_layer_it_says_what_the_steer_says_but_for_the_length(plain: bool) -> None:
    """`γ`-conjugated, through a final RMSNorm; a rotation keeps the length, and is equal."""
    model = sl.load_model("toy-96-llama", plain=plain)
    on, last = sl.readout(model), adapter(model).n_layers - 1
    gains = sl.load_model("toy-96-llama", plain=True).model.model.norm.weight.detach()
    site, eye = f"blocks.{last}.hook_resid_post", torch.eye(on.d_model)
    skew = random(on.d_model, on.d_model, seed=3) / on.d_model**0.5
    for W, turns in ((skew, False), (torch.linalg.matrix_exp(skew - skew.mT) - eye, True)):
        hidden = HiddenSteer(W, eye, site, on)
        steer = sl.Steer(W * gains / gains[:, None], on)
        found, expected, plainly = (
            behind_the_last_layer(value, model, s)
            for value, s in (
                (hidden, 1.0),
                (HiddenSteer(steer.W, eye, UNEMBED_IN, on), 1.0),
                (hidden, 0.0),
            )
        )
        cosine = torch.cosine_similarity(found, expected, dim=1)
        assert torch.cosine_similarity(plainly, expected, dim=1).max() < 0.99
        assert cosine.min() > 1 - 1e-5
        off = (found - expected).abs().max() / expected.abs().max()
        assert off < 1e-4 if turns else off > 0.05


class ButTheFirst:
    """A map of all states but the first of a text."""

    def __init__(self, W: Tensor, site: str, readout: Readout) -> None:
        self.W, self.site, self.readout, self.prefix = W, site, readout, 0

    def edits(self, strength: Strength) -> tuple[Edit, ...]:
        def edit(h: Tensor, places: TokenIndex) -> Tensor:
            used = (places.index > 0).to(h)[..., None]
            return h + per_row(strength, h) * used * (h @ self.W)

        return ((self.site, edit),)


@pytest.mark.parametrize(
    "name, site",
    [("gpt2", "blocks.1.hook_attn_out"), ("llama", POST), ("plain-gpt2", "hook_embed"), ("gpt2", UNEMBED_IN)],
)  # fmt: skip
def test_the_evidence_is_the_slope_of_the_likelihood(name: str, site: str) -> None:
    """Central differences of the NLL along a random map, on the texts that it was taken from."""
    model = zoo(name)
    texts = sl.Labelled(
        ("the film was good .", "a very fine cast", "the film was bad !", "we liked the food", "nothing here"),
        (1.0, 1.0, -1.0, 0.5, -0.5),
    )  # fmt: skip
    parts = split(model, cache_residuals(model, texts, last_layer_below(site, 2)), None, 0)
    found = evidence(model, parts, site)
    d, W = found.slope.shape[0], random(*found.slope.shape, seed=2) / found.slope.shape[0]
    some = texts.pick(parts.fitting)
    y = torch.tensor(some.labels)
    centred = sl.Labelled(some.texts, ((y - y.mean()) / 2).tolist())
    n = sum(len(parts.kept.ids[row]) - 1 for row in parts.fitting)
    step, probe = 1e-2, ButTheFirst(W, site, sl.readout(model))
    up, down = (text_nll(model, centred, probe, strength=2 * s)[0].sum() for s in (step, -step))
    expected = float((found.slope * W).sum())
    assert abs(expected) > 1e-4
    assert (down - up) / 2 / step / n == pytest.approx(expected, rel=2e-2, abs=1e-5)
    P, Q = newton_factors(found, d)
    step_of = found.metric.C_inverse_root @ P @ Q @ found.metric.S_inverse_root
    C, S = (
        (root := torch.linalg.inv(inverse.double())) @ root
        for inverse in (found.metric.C_inverse_root, found.metric.S_inverse_root)
    )
    slope = C @ step_of.double() @ S * found.label2
    assert_close(slope.float(), found.slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("site", ["blocks.1.hook_resid_post", "blocks.0.hook_mlp_out"])
def test_a_fit_steers_new_texts_and_the_descent_is_no_worse_than_its_start(site: str) -> None:
    before = {k: p.clone() for k, p in model().named_parameters()}
    start = fit_hidden_steer(model(), data(160), site=site, training=ONCE, progress=False)
    fit = fit_hidden_steer(
        model(), data(160), site=site, training=sl.Training(epochs=2), progress=False
    )
    assert all(torch.equal(p, before[k]) and p.grad is None for k, p in model().named_parameters())
    assert start.report.settings["epoch_kept"] == 0
    losses, first = fit.report.heldout, start.report.heldout
    assert losses.steered <= first.steered < first.base < first.flipped
    new = sl.toy.corpus("sentiment", n=60, seed=1)
    assert sign_margin(model(), new, fit.value, strength=0.5).low > 0
    assert sign_margin(model(), new, start.value, strength=0.5).low > 0
    assert (
        not torch.equal(fit.value.matrix, start.value.matrix)
        or fit.report.settings["epoch_kept"] == 0
    )
    assert (
        torch.linalg.matrix_rank(fit.value.matrix, rtol=1e-4) == 4 and fit.background.W.norm() == 0
    )


def test_a_fit_comes_back_from_a_file(tmp_path: Path) -> None:
    fit = fit_hidden_steer(
        model(), data(40), site="blocks.0.hook_attn_out", rank=1, training=ONCE, name="early", progress=False
    )  # fmt: skip
    again = sl.load(sl.save(fit, tmp_path / "early.safetensors"), model())
    assert isinstance(again, HiddenSteer) and (again.name, again.site) == ("early", fit.value.site)
    assert torch.equal(again.matrix, fit.value.matrix)
    texts = ["the film was good ."]
    plain, one, other = (
        sl.score(model(), texts, v, strengths=2.0).log_prob.to_numpy()
        for v in (None, fit.value, again)
    )
    assert abs(one - other).max() < 1e-5 and abs(one - plain).max() > 0.01


def test_labels_that_say_nothing_are_told_so() -> None:
    noise = sl.Labelled(data(40).texts, [(-1.0) ** k for k in range(40)])
    with pytest.warns(UserWarning, match="nothing was learnt at hook_embed. Neither the closed"):
        fit = fit_hidden_steer(model(), noise, site="hook_embed", training=ONCE, progress=False)
    assert fit.report.verdict is not None and not fit.report.verdict.learnt


def test_what_cannot_be_fitted_is_refused(unchecked: None) -> None:
    with pytest.raises(KeyError, match="has no hook 'blocks.0.hook_attn_out'; nearest: blocks.0"):
        fit_hidden_steer(zoo("plain-gpt2"), data(8), site="blocks.0.hook_attn_out")
    with pytest.raises(KeyError, match="has no hook 'blocks.7.hook_resid_post'"):
        fit_hidden_steer(model(), data(8), site="blocks.7.hook_resid_post")
    with pytest.raises(ValueError, match="site: got 'embed', expected"):
        fit_hidden_steer(model(), data(8), site="embed")
    with pytest.raises(ValueError, match="site: got 3, expected"):
        fit_hidden_steer(model(), data(8), site=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="data: got list, expected labelled texts"):
        fit_hidden_steer(model(), ["good ."], site=POST)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"rank: got 65, expected 1 … 64"):
        fit_hidden_steer(model(), data(8), site=POST, rank=65)
    with pytest.raises(ValueError, match="data: every label is 1, so nothing is told"):
        fit_hidden_steer(model(), sl.Labelled(data(8).texts, [1.0] * 8), site=POST)


def test_a_middle_that_reaches_the_mlp_alone_is_refused() -> None:
    """What the refusal says is what happens: the stream behind the block moves by the MLP alone."""
    site = "blocks.0.hook_resid_mid"
    with pytest.raises(ValueError, match="reaches the MLP but not the stream beside it; take"):
        fit_hidden_steer(model(), data(8), site=site)
    tokens, by = torch.tensor([[5, 6, 7]]), random(64, seed=1)
    moved: dict[bool, dict[str, Tensor]] = {False: {}, True: {}}
    for steered, seen in moved.items():

        def keep(h: Tensor, name: str, seen: dict[str, Tensor] = seen) -> Tensor:
            seen[name] = h.clone()
            return h

        hooks = [(name, lambda h, n=name: keep(h, n)) for name in ("blocks.0.hook_mlp_out", POST)]
        with (
            eval_mode(model()),
            add_hooks(model(), [(site, lambda h, s=steered: h + s * by), *hooks]),
        ):
            adapter(model()).logits(tokens, torch.ones_like(tokens))
    mlp, post = (moved[True][name] - moved[False][name] for name in ("blocks.0.hook_mlp_out", POST))
    assert mlp.abs().max() > 0.1
    assert_close(post, mlp, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(
    HookedTransformer is None, reason="this TransformerLens has no HookedTransformer"
)
def test_a_hooked_transformer_has_a_middle() -> None:
    on, texts = (
        zoo("hooked-gpt2"),
        sl.Labelled(["the film was good .", "a bad cast"] * 4, [1, -1] * 4),
    )
    texts = sl.Labelled([f"{t} {k}" for k, t in enumerate(texts.texts)], texts.labels)
    fit = fit_hidden_steer(
        on, texts, site="blocks.1.hook_resid_mid", rank=1, training=ONCE, progress=False
    )
    assert fit.report.settings["resumed"] and fit.value.matrix.norm() > 0


def test_what_is_asked_of_steers_alone_refuses_it_by_name(unchecked: None) -> None:
    value = make(on=sl.readout(model()))
    with pytest.raises(ValueError, match="steer: got HiddenSteer 'h0', expected a Steer.*concave"):
        sl.infer_strength(model(), value, "the film was good .")  # pyright: ignore[reportArgumentType]
    states = sl.collect(model(), data(4), progress=False)
    with pytest.raises(
        ValueError, match="steer: got HiddenSteer 'h0', expected a Steer.*sign_margin"
    ):
        sl.strength_at_kl(value, states)  # pyright: ignore[reportArgumentType]
