"""The fit of a prompt, on a toy model: what it finds, what it reports, and that it leaves the model
alone."""

import json
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import steerlens as sl
from steerlens.methods.prompt.model_priors import states_of
from steerlens.methods.prompt.priors import Exclusion, FixedRows, Gaussian, Vocabulary, fit_gaussian
from steerlens.methods.prompt.soft_prompt import prompt_sites
from steerlens.models.embeddings import embeddings
from steerlens.values.training import Training
from tests.methods.make import (
    assert_losses_are_over,
    cut,
    data,
    heldout_rows,
    model,
    nll_of,
    rows_of,
)
from tests.models.test_partial_forward import traces

N, LENGTH = 40, 3
ONCE = Training(epochs=1, batch_size=16)
QUICK: dict[str, Any] = {"length": LENGTH, "training": ONCE, "progress": False}
TINY: dict[str, Any] = {**QUICK, "training": replace(ONCE, lr=0.0)}
SLOW: dict[str, Any] = {**QUICK, "training": replace(ONCE, lr=2e-2)}
SITES = {"soft": 1, "deep": 2, "kv": 6}
WIDTH = {"soft": 64, "deep": 64, "kv": 64}


@cache
def vocabulary() -> Tensor:
    return embeddings(model())


@cache
def believed() -> Gaussian:
    return fit_gaussian(vocabulary(), shrink=0.1)


@cache
def fitted(kind: Any = "soft", encoder: Any = "none") -> sl.Fit[sl.SoftPrompt]:
    """Trained enough to have moved: few texts, one epoch, or for the first more of them."""
    if (kind, encoder) == ("soft", "none"):
        return sl.fit_prompt(
            model(), data(60), **{**QUICK, "training": replace(ONCE, epochs=3, lr=0.1)}
        )
    return sl.fit_prompt(
        model(), data(24), kind=kind, encoder=encoder, name=f"{kind} {encoder}", **SLOW
    )


def texts_of(encoder: str, kind: str) -> sl.Labelled:
    return data(60) if (kind, encoder) == ("soft", "none") else data(24)


KINDS = ("soft", "deep", "kv")
CASES = [
    *(("soft", encoder) for encoder in ("none", "mlp", "lstm")),
    ("deep", "none"),
    ("kv", "none"),
    ("kv", "mlp"),
]


# what it finds


def test_a_fit_explains_held_out_texts_better_than_its_start_and_the_plain_model_better_than_nothing() -> (
    None
):
    report = fitted().report
    losses = [trial["heldout_nll"] for trial in report.trials]
    assert len(losses) == 4 and [trial["epoch"] for trial in report.trials] == [0, 1, 2, 3]
    assert (
        losses[0] > report.settings["plain_nll"] + 0.05
    )  # words at random before a text do it no good
    assert min(losses) < losses[0] - 0.05
    assert report.heldout.steered == pytest.approx(min(losses), abs=1e-4)
    assert (
        abs(report.heldout.base - losses[0]) > 0.02
    )  # base is the neutral prompt, which was learned too


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_keeps_the_start_is_told_so_in_words(kind: Any) -> None:
    options: dict[str, Any] = {
        "length": LENGTH,
        "kind": kind,
        "training": replace(ONCE, lr=0.0),
        "progress": False,
    }
    with pytest.warns(UserWarning, match="fit_prompt: nothing was learnt"):
        fit = sl.fit_prompt(model(), data(24), **options)
    assert fit.report.settings["epoch_kept"] == 0 and not fit.value.directions.any()
    assert fit.report.verdict is not None and str(fit.report.verdict).startswith(
        "Nothing was learnt"
    )


@pytest.mark.parametrize("seed", range(3))
def test_few_texts_are_learned_from_by_every_draw_and_nobody_is_warned(seed: int) -> None:
    texts = sl.toy.corpus("sentiment", n=100, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        report = sl.fit_prompt(model(), texts, seed=seed, training=ONCE, progress=False).report
    assert report.heldout.steered < report.trials[0]["heldout_nll"] - 0.02


@pytest.mark.parametrize("kind, encoder", CASES)
def test_every_kind_is_learned_by_every_encoder_and_comes_out_as_plain_numbers(
    kind: Any, encoder: Any
) -> None:
    fit = fitted(kind, encoder)
    value, settings = fit.value, fit.report.settings
    sites = prompt_sites(kind, value.layers)
    assert value.layers == {"soft": (), "deep": (2,), "kv": (0, 1, 2)}[kind]
    assert (value.kind, value.prefix, len(sites)) == (kind, LENGTH, SITES[kind])
    assert value.rows.shape == (SITES[kind], LENGTH, WIDTH[kind])
    for t in (value.rows, value.directions):
        assert (
            type(t) is Tensor and not t.requires_grad and t.grad_fn is None and t.isfinite().all()
        )
    assert value.directions.abs().max() > 1e-4
    expected = {
        "kind": kind, "length": LENGTH, "layers": list(value.layers), "prior": "vocabulary", "prior_weight": 0.0,
        "encoder": encoder, "n_parameters": 2 * SITES[kind] * LENGTH * WIDTH[kind],
    }  # fmt: skip
    assert (
        {key: settings[key] for key in expected}
        == expected
        == {**expected, "n_parameters": value.n_parameters}
    )
    held = fit.report.heldout
    texts = texts_of(encoder, kind)
    some = rows_of(texts, heldout_rows(len(texts.texts), tries=fit.report.settings["tries"]))
    for expected_nll, sign in ((held.base, 0.0), (held.steered, 1.0), (held.flipped, -1.0)):
        assert nll_of(model(), some, value, sign * fit.report.strength) == pytest.approx(
            expected_nll, abs=1e-4
        )
    assert nll_of(model(), some, None) == pytest.approx(settings["plain_nll"], abs=1e-4)
    assert abs(held.steered - settings["plain_nll"]) > 1e-3
    assert held.steered < fit.report.trials[0]["heldout_nll"]


def test_layers_are_those_that_are_asked_for() -> None:
    for kind, layers, n in (("deep", (0, 1), 3), ("kv", (1,), 2)):
        value = sl.fit_prompt(model(), data(8), kind=kind, layers=layers[::-1], **QUICK).value
        assert (value.layers, len(value.rows)) == (layers, n)


# what it starts from


@pytest.mark.parametrize("kind, encoder", [*((kind, "none") for kind in KINDS), ("kv", "mlp")])
def test_it_starts_at_the_prior_without_a_direction(kind: Any, encoder: Any) -> None:
    """Steps of no size, whichever texts are held out: the rows are tokens of the vocabulary, or
    what the model makes of them."""
    fit = sl.fit_prompt(model(), data(8), kind=kind, encoder=encoder, seed=3, **TINY)
    on = sl.readout(model())
    words = [i for i in range(on.n_tokens) if i not in on.special]
    embedded = Vocabulary(vocabulary()[words]).sample(LENGTH, 3)
    start = states_of(model(), on, embedded, prompt_sites(kind, fit.value.layers))
    assert_close(fit.value.rows, start, rtol=0, atol=1e-5)
    assert start.abs().max() > 0.05 and fit.value.directions.abs().max() < 1e-5
    h, first = fit.report.heldout, fit.report.trials[0]["heldout_nll"]
    assert h.base == pytest.approx(h.steered, abs=1e-5) and h.base == pytest.approx(
        h.flipped, abs=1e-5
    )
    assert first == pytest.approx(h.base, abs=1e-4)
    some = rows_of(data(8), heldout_rows(8, seed=3, tries=2))
    other = sl.SoftPrompt(start, torch.zeros_like(start), kind, fit.value.layers, on)
    assert nll_of(model(), some, other, 0.0) == pytest.approx(first, abs=1e-4)


def test_every_kind_starts_as_the_same_prompt() -> None:
    reports = [sl.fit_prompt(model(), data(8), kind=k, **TINY).report for k in KINDS]
    first, plain = (
        [report.trials[0]["heldout_nll"] for report in reports],
        reports[0].settings["plain_nll"],
    )
    assert max(first) - min(first) < 1e-4 and min(abs(x - plain) for x in first) > 1e-2


def test_rows_start_where_the_prior_says() -> None:
    for prior in (Exclusion(believed()), FixedRows(vocabulary()[5:7], "two")):
        fit = sl.fit_prompt(model(), data(8), prior=prior, seed=1, **TINY)
        assert_close(fit.value.rows[0], prior.sample(LENGTH, 1), rtol=0, atol=1e-5)
        assert fit.report.settings["prior"] == prior.name
        assert (
            fit.value.rows[0] - prior.sample(LENGTH, 2)
        ).abs().max() > 0.05 or prior.name == "two"


def test_a_strong_belief_keeps_the_rows_nearer_to_it() -> None:
    training = replace(ONCE, epochs=3, lr=0.2, patience=9)
    options: dict[str, Any] = {**QUICK, "prior": believed(), "training": training, "seed": 1}
    far = {}
    for weight in (0.0, 1000.0):
        fit = sl.fit_prompt(model(), data(24), prior_weight=weight, **options)
        rows = fit.value.at(1.0)[0], fit.value.at(-1.0)[0]
        far[weight] = [float(believed().distance(r).mean()) for r in rows]
        assert fit.report.settings["prior_weight"] == weight
    start = float(believed().distance(believed().sample(LENGTH, 1)).mean())
    # without it the rows of either sign leave; with it both come nearer than they began
    for without, kept in zip(far[0.0], far[1000.0], strict=True):
        assert without > start + 0.5 and kept < start - 2


# what it depends on


@pytest.mark.parametrize("encoder", ["none", "mlp", "lstm"])
def test_the_same_seed_gives_the_same_numbers_and_the_global_generator_is_left_alone(
    encoder: Any,
) -> None:
    found = []
    model()  # building a model draws numbers, once
    with torch.random.fork_rng(devices=[]):
        for state, seed in ((3, 0), (4, 0), (3, 1)):
            torch.manual_seed(state)
            before = torch.get_rng_state()
            found.append(sl.fit_prompt(model(), data(8), encoder=encoder, seed=seed, **QUICK).value)
            assert torch.equal(torch.get_rng_state(), before)
    one, same, other = found
    assert torch.equal(one.rows, same.rows) and torch.equal(one.directions, same.directions)
    assert not torch.equal(one.rows, other.rows) and not torch.equal(
        one.directions, other.directions
    )


def test_it_stops_when_it_is_no_longer_patient() -> None:
    wild = sl.fit_prompt(
        model(), data(24), **{**QUICK, "training": replace(ONCE, epochs=8, lr=20.0, patience=1)}
    )
    losses = [trial["heldout_nll"] for trial in wild.report.trials]
    assert len(losses) == 1 + losses.index(min(losses)) + 1 < 9
    assert wild.report.heldout.steered == pytest.approx(min(losses), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_as_before(kind: Any) -> None:
    m = model()
    weights = {name: t.clone() for name, t in m.state_dict().items()}
    m.train()
    flagged = next(p for p in m.parameters() if p.is_floating_point())
    flagged.requires_grad_(not flagged.requires_grad)
    try:
        before = traces(m)
        assert len({flag for flag, _ in before[1]}) == 2 and before[0][0]
        sl.fit_prompt(m, data(8), kind=kind, **QUICK)
        assert traces(m) == before
    finally:
        m.eval()
        flagged.requires_grad_(not flagged.requires_grad)
    assert all(torch.equal(t, weights[name]) for name, t in m.state_dict().items())


# prompts, backgrounds, files


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_of_texts_come_behind_the_rows_and_only_the_texts_count(kind: Any) -> None:
    fit = sl.fit_prompt(model(), cut(24), kind=kind, **SLOW)
    held = rows_of(cut(24), heldout_rows(len(cut(24).texts), tries=fit.report.settings["tries"]))
    h = fit.report.heldout
    assert fit.report.n_positions == sl.collect(model(), cut(24), progress=False).n_positions
    assert fit.report.n_positions == sum(len(text.split()) + 1 for text in cut(24).texts)
    assert nll_of(model(), held, fit.value, fit.report.strength) == pytest.approx(
        h.steered, abs=1e-4
    )
    assert nll_of(model(), held, None) == pytest.approx(fit.report.settings["plain_nll"], abs=1e-4)
    bare = sl.Labelled(held.texts, held.labels)
    assert (
        abs(nll_of(model(), bare, fit.value) - h.steered) > 1e-2
    )  # without their prompts they are other texts


def test_a_background_is_always_on_and_is_reported() -> None:
    on = sl.readout(model())
    background = sl.Steer(
        0.05 * torch.randn(64, 64, generator=torch.Generator().manual_seed(1)), on, "other"
    )
    kept = background.W.clone()
    fit = sl.fit_prompt(model(), data(24), background=background, **QUICK)
    assert fit.background is background and torch.equal(background.W, kept)
    assert_losses_are_over(
        kept, fit, rows_of(data(24), heldout_rows(24, tries=fit.report.settings["tries"]))
    )
    with pytest.raises(ValueError, match="transfer"):
        other = sl.Steer(torch.zeros(128, 128), sl.readout(sl.load_model("toy-128")), "elsewhere")
        sl.fit_prompt(model(), data(8), background=other, **QUICK)


def test_a_report_is_plain_numbers_and_goes_into_the_file(tmp_path: Path) -> None:
    fit = fitted()
    plain = fit.report.as_dict()
    written = json.loads(json.dumps(plain, allow_nan=False))
    assert (plain["solver"], plain["optimality_gap"], plain["n_texts"]) == ("adam", None, 60)
    assert plain["n_positions"] == sl.collect(model(), data(60), progress=False).n_positions
    back = sl.load(sl.save(fit.value, tmp_path / "cheer.safetensors", report=fit.report), model())
    assert isinstance(back, sl.SoftPrompt)
    assert torch.equal(back.rows, fit.value.rows) and torch.equal(
        back.directions, fit.value.directions
    )
    assert sl.read_metadata(tmp_path / "cheer.safetensors")["report"] == written


# errors


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no rows": ({"length": 0}, "length: got 0, expected 1 … 254; the context is 256"),
    "rows that fill the context": ({"length": 255}, "length: got 255"),
    "kind": ({"kind": "hard"}, "kind, layers: got 'hard'"),
    "layers of a soft one": ({"layers": (0,)}, r"kind, layers: got 'soft' at layers \(0,\)"),
    "no layers": ({"kind": "kv", "layers": ()}, r"kind, layers: got 'kv' at layers \(\)"),
    "a layer too deep": ({"kind": "deep", "layers": (3,)}, r"layers: got \(3,\), expected numbers from 0 to 2"),
    "a layer below": ({"kind": "kv", "layers": (-1, 0)}, r"layers: got \(-1, 0\)"),
    "encoder": ({"encoder": "gru"}, "encoder: got 'gru', expected 'none', 'mlp' or 'lstm'"),
    "weight of no prior": ({"prior_weight": 1.0}, "prior_weight: got 1.0 for kind 'soft' and prior None"),
    "weight below 0": ({"prior_weight": -1.0, "prior": FixedRows(torch.ones(1, 64))}, "prior_weight: got -1.0"),
    "weight of a prior without a density": (
        {"prior_weight": 1.0, "prior": FixedRows(torch.ones(1, 64))}, "prior: 'given' has no density",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_by_name(case: str, unchecked: None) -> None:
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        sl.fit_prompt(model(), data(8), **{**QUICK, **options})


@pytest.mark.parametrize("kind", ["deep", "kv"])
def test_a_belief_belongs_to_embeddings_alone(kind: Any) -> None:
    with pytest.raises(
        ValueError, match=f"prior_weight: got 1.0 for kind '{kind}' and prior 'fitted gaussian'"
    ):
        sl.fit_prompt(model(), data(8), kind=kind, prior=believed(), prior_weight=1.0, **QUICK)


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="data: got 3 texts"):
        sl.fit_prompt(model(), rows_of(data(N), [0, 1, 2]), **QUICK)
