"""The fit of an edit of hidden states, on a toy model: what it finds, what it reports, and that it
leaves the model alone."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import steerlens as sl
from steerlens.methods.reft.fit import fit_reft_tasks
from steerlens.methods.reft.formulas import FORMS
from steerlens.methods.reft.parameters import Learned, Shape
from steerlens.methods.training import split
from steerlens.models.hooks import eval_mode
from steerlens.models.partial_forward import batch_of, cache_residuals, final_states
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
from tests.values.make import random

N = 160
SEED = 0
ONCE = Training(lr=0.03, epochs=1, batch_size=16)
QUICK: dict[str, Any] = {"training": ONCE, "rank": 2, "progress": False}
FAST: dict[str, Any] = {**QUICK, "training": replace(ONCE, lr=0.1)}


@cache
def fitted(variant: Any = "noreft", **options: Any) -> sl.Fit[sl.Reft]:
    more = {"layers": (1, 2), "training": replace(ONCE, lr=0.1, epochs=3)}
    return sl.fit_reft(model(), data(N), variant=variant, **{**QUICK, **more, **options})


def equal(one: sl.Reft, other: sl.Reft) -> bool:
    pairs = ((one.R, other.R), (one.A, other.A), (one.b, other.b))
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


# what it finds


def test_labels_that_mean_something_are_learned() -> None:
    report = fitted().report
    h = report.heldout
    assert h.steered < h.base - 0.003 and h.steered < h.flipped
    assert h.sign_margin > 0.02
    assert report.train.sign_margin > 0.02 and min(report.kl) > 1e-3


@pytest.mark.parametrize("seed", range(2))
def test_three_hundred_texts_are_learned_from_by_every_draw_and_nobody_is_warned(seed: int) -> None:
    texts = sl.toy.corpus("sentiment", n=300, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        report = sl.fit_reft(
            model(), texts, seed=seed, training=Training(epochs=3), progress=False
        ).report
    assert (
        report.heldout.steered < report.heldout.base - 0.0005 and report.heldout.sign_margin > 0.002
    )
    assert (
        report.settings["epoch_kept"] > 0 and report.verdict is not None and report.verdict.learnt
    )


@pytest.mark.parametrize("variant", FORMS)
def test_whoever_keeps_the_start_is_told_so_in_words_and_has_the_plain_model(variant: Any) -> None:
    options: dict[str, Any] = {
        "rank": 1,
        "layers": 1,
        "training": Training(lr=0.0, epochs=1),
        "progress": False,
    }
    with pytest.warns(
        UserWarning,
        match=r"fit_reft: nothing was learnt.*12 held-out texts, nor others.*48 texts, lr 0\).*more texts",
    ):
        fit = sl.fit_reft(model(), data(60), variant=variant, **options)
    report = fit.report
    assert report.settings["epoch_kept"] == 0 and report.verdict is not None
    assert not report.verdict.found and str(report.verdict).startswith("Nothing was learnt")
    if variant not in ("consreft", "r1"):  # which cannot start from nothing
        plain, edited = (
            sl.score(model(), data(N).texts[:2], v, strengths=(1.0,)) for v in (None, fit.value)
        )
        assert_close(torch.tensor(edited.log_prob), torch.tensor(plain.log_prob), rtol=0, atol=1e-5)


def test_labels_of_other_texts_are_not_learned_and_whoever_keeps_the_start_is_told_to_check_them() -> (
    None
):
    texts, warned = sl.toy.corpus("sentiment", n=60, seed=0), 0
    for by in (1, 2):
        turned = sl.Labelled(texts.texts, texts.labels[by:] + texts.labels[:by])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit = sl.fit_reft(model(), turned, **{**QUICK, "training": replace(ONCE, lr=0.3)})
        said = [str(w.message) for w in caught if "nothing was learnt" in str(w.message)]
        assert (
            len(said) == (fit.report.settings["epoch_kept"] == 0)
            and fit.report.heldout.sign_margin < 0.02
        )
        assert all("do the labels belong to other texts?" in message for message in said)
        warned += len(said)
    assert warned


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
def test_an_activation_that_is_flat_at_the_start_is_learned_through(activation: Any) -> None:
    options = {**QUICK, "layers": 1, "training": replace(ONCE, lr=0.1)}
    fit = sl.fit_reft(model(), data(60), variant="direft", activation=activation, **options)
    assert fit.report.trials[1]["heldout_nll"] != pytest.approx(
        fit.report.trials[0]["heldout_nll"], abs=1e-4
    )


@pytest.mark.parametrize("variant", FORMS)
def test_the_value_is_a_frozen_edit_of_its_form_that_works_everywhere(variant: Any) -> None:
    r1 = variant == "r1"
    options: dict[str, Any] = {"layers": 1, "rank": 1} if r1 else {"layers": (0, 2)}
    fit = sl.fit_reft(model(), data(16), variant=variant, name="cheer", **{**QUICK, **options})
    value = fit.value
    assert (value.variant, value.name, value.layers) == (variant, "cheer", (1,) if r1 else (0, 2))
    for t in (value.R, value.b, *([] if value.A is None else [value.A])):
        assert not t.requires_grad and t.grad_fn is None and type(t) is Tensor
    if FORMS[variant].orthonormal:
        assert_close(
            value.R @ value.R.mT,
            torch.eye(value.rank).expand(len(value.R), -1, -1),
            rtol=0,
            atol=1e-4,
        )
    settings = fit.report.settings
    assert (settings["variant"], settings["rank"], settings["n_parameters"]) == (
        variant,
        value.rank,
        value.n_parameters,
    )
    assert settings["resumed"] is True and settings["layers"] == list(value.layers)
    assert sl.score(model(), data(N).texts[:2], value, strengths=(1.0,)).log_prob.notna().all()


def test_both_ends_apart_behind_several_layers_have_their_own_numbers() -> None:
    options: dict[str, Any] = {"positions": "f1+l2", "tied": False, "activation": "tanh"}
    fit = sl.fit_reft(model(), cut(20), variant="nodireft", layers=(0, 2), **options, **QUICK)
    assert fit.value.R.shape == (4, 2, 64) and not fit.value.tied and fit.value.activation == "tanh"
    assert len({tuple(R.flatten().tolist()) for R in fit.value.R}) == 4


def test_it_starts_from_the_plain_model_where_the_variant_can_and_keeps_the_best_epoch() -> None:
    report = fitted().report
    losses = [trial["heldout_nll"] for trial in report.trials]
    assert losses[0] == pytest.approx(report.heldout.base, abs=1e-4)
    assert [trial["epoch"] for trial in report.trials] == list(range(len(losses)))
    assert (
        report.heldout.steered == pytest.approx(min(losses), abs=1e-4)
        and min(losses) < losses[0] - 0.003
    )


def test_it_stops_when_no_epoch_was_better_for_as_long_as_it_is_patient() -> None:
    training = replace(ONCE, lr=20.0, epochs=9, patience=2)
    wild = sl.fit_reft(model(), data(40), variant="noreft", **{**QUICK, "training": training})
    losses = [trial["heldout_nll"] for trial in wild.report.trials]
    assert len(losses) == 1 + losses.index(min(losses)) + 2 < 10
    assert wild.report.heldout.steered == pytest.approx(min(losses), abs=1e-4)


# what it reports


def test_the_losses_are_those_of_scoring_each_text_at_its_label() -> None:
    fit = fitted()
    held = rows_of(data(N), heldout_rows(N, tries=fit.report.settings["tries"]))
    found = fit.report.heldout
    assert found.base == found.background == pytest.approx(nll_of(model(), held, None), abs=1e-4)
    assert found.steered == pytest.approx(
        nll_of(model(), held, fit.value, fit.report.strength), abs=1e-4
    )
    assert found.flipped == pytest.approx(
        nll_of(model(), held, fit.value, -fit.report.strength), abs=1e-4
    )
    assert found.flipped - found.steered > 0.02
    for label, losses in fit.report.by_label.items():
        some = rows_of(held, [row for row, y in enumerate(held.labels) if y == label])
        assert losses.steered == pytest.approx(
            nll_of(model(), some, fit.value, fit.report.strength), abs=1e-4
        )
    plain = next(sl.collect(model(), held, progress=False).chunks(10**6)).hidden
    on = fit.value.readout
    p = torch.log_softmax(on.logits(plain), 1)
    for kl, sign in zip(fit.report.kl, (1.0, -1.0), strict=True):
        under = sl.collect(model(), held, intervention=fit.value, strength=sign, progress=False)
        q = torch.log_softmax(on.logits(next(under.chunks(10**6)).hidden), 1)
        assert kl == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-2) and kl > 1e-3


def test_a_background_is_always_on_and_never_changed() -> None:
    on = sl.readout(model())
    background = sl.Steer(0.15 * random(64, 64, seed=5) / 8, on, "shift")
    before = background.W.clone()
    fit = sl.fit_reft(model(), data(60), variant="noreft", background=background, layers=1, **QUICK)
    assert fit.background is background and torch.equal(background.W, before)
    assert_losses_are_over(
        before, fit, rows_of(data(60), heldout_rows(60, tries=fit.report.settings["tries"]))
    )
    with pytest.raises(ValueError, match="transfer"):
        other = sl.Steer(torch.zeros(128, 128), sl.readout(sl.load_model("toy-128")), "elsewhere")
        sl.fit_reft(model(), data(60), background=other, **QUICK)


def test_a_report_is_plain_numbers_and_goes_into_the_file(tmp_path: Path) -> None:
    fit = fitted()
    plain = fit.report.as_dict()
    written = json.loads(json.dumps(plain, allow_nan=False))
    assert (
        written["heldout"] == plain["heldout"]
        and len(written["trials"]) == len(fit.report.trials) > 1
    )
    assert (plain["solver"], plain["optimality_gap"], plain["gap_reason"]) == (
        "adam",
        None,
        "the problem is not convex",
    )
    assert (plain["n_texts"], plain["seed"], plain["rank"]) == (N, SEED, 2)
    assert plain["n_positions"] == sl.collect(model(), data(N), progress=False).n_positions
    assert "noreft" in str(fit.report) and "noreft" in fit._repr_html_()
    back = sl.load(sl.save(fit.value, tmp_path / "cheer.safetensors", report=fit.report), model())
    assert isinstance(back, sl.Reft) and equal(back, fit.value)
    assert sl.read_metadata(tmp_path / "cheer.safetensors")["report"] == written


def test_r1_adds_the_mean_size_of_training_and_says_what_the_largest_was() -> None:
    options = {**QUICK, "rank": 1}
    fit = sl.fit_reft(model(), data(60), variant="r1", layers=1, **options)
    kept = cache_residuals(model(), data(60), 1)
    sizes, largest = [], 0.0
    for row in sorted(set(range(60)) - set(heldout_rows(60, tries=fit.report.settings["tries"]))):
        found = fit.value.detect(
            kept.resid[kept.starts[row] : kept.starts[row] + len(kept.ids[row])]
        )
        top = found.sort(descending=True).values[:8]
        sizes.append(float(top.mean()))
        largest = max(largest, float(found.max()))
    assert (
        float(fit.value.b) == pytest.approx(sum(sizes) / len(sizes), rel=1e-3)
        and float(fit.value.b) > 0.1
    )
    assert fit.report.settings["largest_activation"] == pytest.approx(largest, rel=1e-3)
    assert largest > float(fit.value.b)
    assert fit.value.n_parameters == 65 and fit.value.A is None


# what it depends on


@pytest.mark.parametrize("variant", FORMS)
def test_the_same_seed_gives_the_same_numbers_and_the_global_generator_is_left_alone(
    variant: Any,
) -> None:
    options: dict[str, Any] = {**QUICK, "layers": 1, "dropout": 0.2}
    if variant == "r1":
        options |= {"rank": 1}
    found = []
    with torch.random.fork_rng(devices=[]):
        for state, seed in ((3, 0), (4, 0), (3, 1)):
            torch.manual_seed(state)
            before = torch.get_rng_state()
            found.append(
                sl.fit_reft(model(), data(20), variant=variant, seed=seed, **options).value
            )
            assert torch.equal(torch.get_rng_state(), before)
    one, same, other = found
    assert equal(one, same) and not torch.equal(one.R, other.R)


def test_dropout_and_weight_decay_do_something_and_only_in_training() -> None:
    options: dict[str, Any] = {**QUICK, "layers": 1, "variant": "noreft"}
    plain, dropped, decayed = (
        sl.fit_reft(model(), data(20), **{**options, **more})
        for more in ({}, {"dropout": 0.3}, {"training": replace(ONCE, weight_decay=0.5)})
    )
    # before the first step the numbers are the same, and held-out texts are read without dropout
    assert dropped.report.trials[0] == plain.report.trials[0]
    for other in (dropped, decayed):
        assert other.report.trials[1] != plain.report.trials[1]
    again = sl.score(model(), data(N).texts[:3], dropped.value, strengths=(1.0,))
    assert again.equals(sl.score(model(), data(N).texts[:3], dropped.value, strengths=(1.0,)))


def test_resumed_fits_are_those_from_the_tokens(no_resuming) -> None:
    def fit() -> sl.Fit[sl.Reft]:
        return sl.fit_reft(
            model(), cut(40), variant="noreft", layers=(0, 2), positions="f1+l1+new", **FAST
        )

    one = fit()
    no_resuming()
    whole = fit()
    assert (one.report.settings["resumed"], whole.report.settings["resumed"]) == (True, False)
    assert one.report.trials[1]["heldout_nll"] != pytest.approx(
        one.report.trials[0]["heldout_nll"], abs=3e-4
    )
    assert whole.report.trials[1]["heldout_nll"] == pytest.approx(
        one.report.trials[1]["heldout_nll"], abs=1e-4
    )
    assert_close(whole.value.R, one.value.R, rtol=1e-2, atol=2e-3)
    assert whole.report.heldout.flipped == pytest.approx(one.report.heldout.flipped, abs=1e-3)


def test_the_model_is_as_before() -> None:
    m = model()
    weights = {name: t.clone() for name, t in m.state_dict().items()}
    stops: list[bool] = []
    last = m.blocks[-1].register_forward_pre_hook(lambda *_: broken() if stops else None)
    m.train()
    flagged = next(p for p in m.parameters() if p.is_floating_point())
    flagged.requires_grad_(not flagged.requires_grad)
    try:
        before = traces(m)
        assert len({flag for flag, _ in before[1]}) == 2
        sl.fit_reft(m, data(40), layers=(0, 1), **{**QUICK, "dropout": 0.1})
        assert traces(m) == before
        stops.append(True)
        with pytest.raises(KeyboardInterrupt):
            sl.fit_reft(m, data(40), layers=(0, 1), **QUICK)
        assert traces(m) == before
    finally:
        last.remove()
        m.eval()
        flagged.requires_grad_(not flagged.requires_grad)
    assert all(torch.equal(t, weights[name]) for name, t in m.state_dict().items())


def broken() -> None:
    if torch.is_grad_enabled():  # in the middle of a step
        raise KeyboardInterrupt


# prompts


def test_only_what_follows_a_prompt_counts_and_the_edit_is_made_where_it_was_asked_for() -> None:
    texts = cut(40)
    fit = sl.fit_reft(model(), texts, variant="consreft", positions="l1", layers=(0, 2), **QUICK)
    held = rows_of(texts, heldout_rows(len(texts), tries=fit.report.settings["tries"]))
    assert fit.report.n_positions == sl.collect(model(), texts, progress=False).n_positions
    assert fit.report.n_positions == sum(len(text.split()) + 1 for text in texts.texts)
    found = fit.report.heldout
    assert found.base == pytest.approx(nll_of(model(), held, None), abs=1e-4)
    assert found.steered == pytest.approx(
        nll_of(model(), held, fit.value, fit.report.strength), abs=1e-4
    )
    assert abs(found.steered - found.base) > 1e-3
    # a prompt is edited at its last token: without prompts that is begin-of-text, and something
    # else
    bare = sl.Labelled(held.texts, held.labels)
    assert abs(nll_of(model(), bare, fit.value) - nll_of(model(), bare, None)) != pytest.approx(
        abs(found.steered - found.base), abs=1e-5
    )
    seen: list[Tensor] = []
    one = rows_of(held, [0])
    ids = cache_residuals(model(), one, 0)
    with torch.no_grad(), sl.steered(model(), fit.value, 1.0, prompt=int(ids.prompt)):
        hooks = [("blocks.0.hook_resid_post", lambda h, hook: seen.append(h[0]))]
        model().run_with_hooks(torch.tensor(ids.ids), fwd_hooks=hooks)
    moved = (seen[0] - ids.resid).abs().amax(1) > 1e-5
    assert moved.nonzero().flatten().tolist() == [int(ids.prompt) - 1] == [4]


def test_texts_whose_prompt_fills_the_context_are_left_out() -> None:
    short = tuple(f"the {thing} was" for thing in ("film", "book", "soup", "drama"))
    long = sl.Labelled(
        ("good .",) * 5, (1.0, -1.0, 1.0, -1.0, 1.0), ("the film was " * 200, *short)
    )
    fit = sl.fit_reft(model(), long, variant="noreft", positions="l1", **QUICK)
    assert fit.report.n_truncated == 1 and fit.report.n_positions == 4 * 3
    with pytest.raises(ValueError, match="data: got 3 texts with something to predict"):
        sl.fit_reft(model(), rows_of(long, [0, 1, 2, 3]), positions="l1", **QUICK)


# several tasks


def test_rows_of_a_task_are_trained_on_its_texts_alone() -> None:
    variant = "loreft"
    tasks = {
        "feeling": data(40),
        "none": sl.Labelled(sl.toy.corpus("tone", n=30, seed=1).texts, (0.0,) * 30),
    }
    options: dict[str, Any] = {**QUICK, "rank": 4, "training": replace(ONCE, epochs=2)}
    whole, parts = fit_reft_tasks(model(), tasks, variant=variant, layers=1, **options)
    value = whole.value
    assert (list(parts), value.rank, value.name) == (["feeling", "none"], 4, "feeling and none")
    h = 2 * random(5, 64, seed=9)
    assert_close(
        sum(part.change(h) for part in parts.values()), value.change(h), rtol=1e-4, atol=1e-4
    )
    for k, part in enumerate(parts.values()):
        assert torch.equal(part.R, value.R[:, 2 * k : 2 * k + 2]) and torch.equal(
            part.b, value.b[:, 2 * k : 2 * k + 2]
        )
    # at strength 0 nothing is learned: the second task's rows are where they began, though they
    # were on for no text of the first
    learned = Learned(
        Shape(variant, 4, (1,), "all", True, None, 64), torch.zeros(1, 64), [1.0], SEED
    )
    assert learned.A is not None and value.A is not None
    moved = (value.A - learned.A.detach()).abs().amax((0, 2)), value.b.abs().amax(0)
    for change in moved:
        assert change[:2].min() > 1e-3 and change[2:].max() == 0


def test_gradients_of_a_text_reach_the_rows_of_its_task_alone() -> None:
    learned = Learned(
        Shape("noreft", 4, (1,), "all", True, None, 64), torch.zeros(1, 64), [1.0], SEED
    )
    kept = cache_residuals(model(), data(8), 1)
    rows = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(8, -1)
    assert learned.A is not None
    with eval_mode(model(), gradients=True):
        batch = batch_of(kept, list(range(8)))
        c = final_states(model(), kept, batch, learned.edits(torch.ones(8), rows, []))
        (c @ random(64, seed=2)).sum().backward()
    for gradient in (learned.A.grad, learned.sources[0].weight.grad):
        assert gradient is not None
        size = gradient.reshape(4, 64).abs().amax(1)
        assert size[:2].min() > 1e-3 and size[2:].max() == 0


def test_the_report_of_several_tasks_reads_each_text_with_its_own_rows() -> None:
    tasks = {"feeling": data(40), "manner": sl.toy.corpus("tone", n=30, seed=1)}
    whole, parts = fit_reft_tasks(model(), tasks, variant="consreft", layers=(1, 2), **FAST)
    total, other, n = 0.0, 0.0, 0
    values = list(parts.values())
    for row in heldout_rows(70, tries=whole.report.settings["tries"]):
        task, texts = (0, tasks["feeling"]) if row < 40 else (1, tasks["manner"])
        one = rows_of(texts, [row - 40 * task])
        for sign, value in ((1, values[task]), (-1, values[1 - task])):
            found = sl.score(
                model(), one, value, strengths=(whole.report.strength * one.labels[0],)
            ).log_prob
            total, other = (
                total - (sign > 0) * float(found.sum()),
                other - (sign < 0) * float(found.sum()),
            )
        n += len(found)
    assert whole.report.heldout.steered == pytest.approx(total / n, abs=1e-4)
    assert (
        abs(other / n - total / n) > 1e-3
    )  # with the other task's rows it would be something else
    assert whole.report.n_texts == 70


# errors


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "variant": ({"variant": "lora"}, "variant: got 'lora'"),
    "activation": ({"activation": "sigmoid"}, "activation: got 'sigmoid'"),
    "activation of nothing": (
        {"variant": "lobireft", "activation": "relu"},
        "activation: got 'relu'",
    ),
    "positions": ({"positions": "f2-l1"}, "positions: got 'f2-l1'"),
    "a layer too deep": ({"layers": 3}, "layers: got 3, expected numbers from 0 to 2"),
    "a layer below": ({"layers": (-1, 0)}, r"layers: got \(-1, 0\)"),
    "no layer": ({"layers": ()}, r"layers: got \(\)"),
    "no rank": ({"rank": 0}, "rank: got 0, expected 1 … 64"),
    "rank beyond the width": ({"rank": 65}, "rank: got 65"),
    "r1 of rank 2": ({"variant": "r1", "rank": 2}, "variant: 'r1' is one unit vector.*rank 2"),
    "r1 in places": ({"variant": "r1", "rank": 1, "positions": "l1"}, "variant: 'r1'.*'l1'"),
    "r1 behind two layers": (
        {"variant": "r1", "rank": 1, "layers": (0, 1)},
        r"variant: 'r1'.*\(0, 1\)",
    ),
    "ends apart that are one": ({"positions": "l1", "tied": False}, "tied: 'l1' has one end"),
    "dropout": ({"dropout": 1.0}, r"dropout: got 1.0, expected a number in \[0, 1\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_by_name(case: str, unchecked: None) -> None:
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        sl.fit_reft(model(), data(8), **{**QUICK, **options})


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="data: got 3 texts"):
        sl.fit_reft(model(), rows_of(data(N), [0, 1, 2]), **QUICK)


TASKS: dict[str, tuple[Callable[[], dict[str, sl.Labelled]], dict[str, Any], str]] = {
    "one task": (lambda: {"a": data(8)}, {}, "tasks: got 1 for rank 2"),
    "a rank that they do not divide": (
        lambda: {"a": data(8), "b": data(8)},
        {"rank": 3},
        "tasks: got 2 for rank 3",
    ),
    "prompts in some": (lambda: {"a": data(8), "b": cut(8)}, {}, "tasks: some have prompts"),
    "a layer": (lambda: {"a": data(8), "b": data(8)}, {"layers": 9}, "layers: got 9"),
}


@pytest.mark.parametrize("case", TASKS)
def test_tasks_that_do_not_go_together_are_refused(case: str) -> None:
    tasks, options, message = TASKS[case]
    with pytest.raises(ValueError, match=message):
        fit_reft_tasks(model(), tasks(), **{**QUICK, **options})


def test_copies_of_a_text_are_in_one_part_and_all_of_their_labels_are_learned_from() -> None:
    once = sl.Labelled(
        ("good .",) * 3, (1.0, -1.0, 1.0), ("the film was", "the book was", "the soup was")
    )
    with pytest.raises(ValueError, match="data: got 3 texts with something to predict"):
        sl.fit_reft(model(), once + once, positions="l1", **QUICK)
    texts = sl.toy.corpus("sentiment", n=40, seed=1).texts
    both = sl.Labelled(texts + texts[:20] + texts, (1.0,) * 60 + (-1.0,) * 40)
    parts = split(model(), cache_residuals(model(), both, 1), None, 0)
    assert sorted(parts.fitting + parts.heldout) == list(range(100))
    for part in (parts, parts.swapped()):
        here, there = ({both.texts[row] for row in rows} for rows in (part.fitting, part.heldout))
        assert not here & there and len(here | there) == 40
    fit = sl.fit_reft(model(), both, **QUICK)
    assert fit.report.verdict is not None
    held = (parts if fit.report.settings["tries"] == 1 else parts.swapped()).heldout
    assert fit.report.verdict.n_texts == len({both.texts[row] for row in held}) < len(held)
