"""What a user does first: any of it works, or says what to do, and nothing is silently wrong."""

import copy
import gc
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import steerlens as sl
from steerlens.evaluate.compare import compare
from steerlens.evaluate.sign_margin import sign_margin
from steerlens.models.guards import exclusive
from steerlens.values.readout import Readout, bit_sum

DATA = sl.toy.corpus("sentiment", n=120, seed=0)


@pytest.fixture(scope="module")
def model():
    return sl.load_model("toy-64")


@pytest.fixture(scope="module")
def fit(model) -> sl.Fit:
    return sl.fit_steer(sl.collect(model, DATA, progress=False), solver="closed-form", name="joy")


# ---- devices and dtypes ----


@pytest.mark.parametrize("device", ["banana", "meta", "cuda:99"])
def test_a_device_that_cannot_be_used_is_refused_with_those_that_can(device: str) -> None:
    with pytest.raises(ValueError, match=rf"device: '{device}'.*cpu"):
        sl.load_model("toy-64", device=device)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_a_dtype_is_that_of_the_weights_and_steers_stay_float32(dtype) -> None:
    half = sl.load_model("toy-64", dtype=dtype)
    expected = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    assert {p.dtype for p in half.parameters()} == {expected}
    states = sl.collect(half, DATA, progress=False)
    assert sl.fit_steer(states, solver="closed-form").value.W.dtype == torch.float32
    with pytest.raises(ValueError, match="dtype: got 'int8'.*bfloat16"):
        sl.load_model("toy-64", dtype="int8")


# ---- weights that change under a steer ----


@pytest.mark.parametrize("change", ["add", "data", "one number", "sign"])
def test_a_weight_changed_in_place_is_seen_everywhere(change: str, tmp_path: Path) -> None:
    model = sl.load_model("toy-64")
    states = sl.collect(model, DATA, progress=False)
    joy = sl.fit_steer(states, solver="closed-form").value
    before = joy.readout.digest
    W = model.W_U
    with torch.no_grad():
        if change == "add":
            W.add_(1e-3)
        elif change == "data":  # as peft's merge does: torch's own version counter does not see it
            W.data += 1e-3
        elif change == "one number":
            W.data[3, 5] = torch.nextafter(W[3, 5], torch.tensor(9.0))
        else:
            W.data *= -1
    for use in (
        lambda: sl.generate(model, ["the"], joy),
        lambda: sl.score(model, ["the film"], joy),
        lambda: sl.fit_steer(states),
        lambda: sl.singular_words(joy),
        lambda: sl.transfer(joy, sl.load_model("toy-128")),
    ):
        with pytest.raises(ValueError, match=r"in place|lives on the W_U"):
            use()
    path = sl.save(joy, tmp_path / "joy.safetensors")
    assert joy.readout.digest == before == sl.read_metadata(path)["readout_digest"]
    with pytest.raises(ValueError, match="was fitted on the W_U"):
        sl.load(path, model)
    assert torch.equal(sl.load(path, sl.load_model("toy-64")).W, joy.W)
    assert sl.readout(model).digest != before


def test_a_bit_sum_tells_orders_and_places_apart() -> None:
    x = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    sums = {
        bit_sum(y)
        for y in (x, x[torch.tensor([1, 0, 2, 3, 4, 5, 6])], -x, x.roll(1, 0), x + 0, x.half())
    }
    assert len(sums) == 5  # x + 0 is x
    assert bit_sum(x.T) == bit_sum(x.T.clone(memory_format=torch.preserve_format))


def test_one_readout_per_model_shared_by_all_its_steers(tmp_path: Path) -> None:
    half = sl.load_model("toy-64", dtype="bfloat16")

    def copies() -> int:
        gc.collect()
        seen = [
            x for x in gc.get_objects() if isinstance(x, torch.Tensor) and x.dtype == torch.float32
        ]
        return len({x.untyped_storage().data_ptr() for x in seen if x.numel() == half.W_U.numel()})

    before = copies()  # of other models
    joy = sl.fit_steer(sl.collect(half, DATA, progress=False), solver="closed-form").value
    path = sl.save(joy, tmp_path / "joy.safetensors")
    steers = [sl.load(path, half) for _ in range(5)]
    assert all(steer.readout is joy.readout for steer in steers)
    assert copies() <= before + 1
    carried = pickle.dumps(steers[0])
    assert len(carried) < 1.5 * (joy.W.numel() * 4 + half.W_U.numel() * 2)  # no float32 copy
    back = pickle.loads(carried)
    other = copy.deepcopy(half)
    assert sl.generate(other, ["the film"], back).equals(sl.generate(half, ["the film"], joy))


def test_the_readout_follows_a_tokenizer_that_grows(model) -> None:
    mine = copy.deepcopy(model)
    before = sl.readout(mine)
    assert sl.readout(mine) is before
    mine.tokenizer = copy.deepcopy(mine.tokenizer)
    assert sl.readout(mine).tokens == before.tokens


def test_values_are_compared_and_are_keys(model, fit: sl.Fit) -> None:
    names = {fit: "joy", sl.highlight(model, fit, "the film was good ."): "a film"}
    assert names[copy.copy(fit)] == "joy" and fit == copy.copy(fit)
    found = sl.highlight(model, fit, "the film was good .")
    assert found != copy.deepcopy(found) and found not in names
    shown = repr(sl.natural_metric(sl.collect(model, DATA[:20], progress=False)))
    assert shown.startswith("Metric(d_model=64, ") and sl.readout(model).digest[:8] in shown


# ---- threads ----


def test_threads_get_what_they_would_get_alone(model, fit: sl.Fit) -> None:
    prompts, strengths = ["the film was", "my husband"], (-4.0, 0.0, 4.0)

    def write(s: float) -> list[str]:
        return sl.generate(model, prompts, fit, strengths=s, max_new_tokens=12).text.tolist()

    alone = {s: write(s) for s in strengths}
    assert alone[-4.0] != alone[4.0]
    found: dict[tuple[int, float], list[str]] = {}
    for turn in range(3):
        threads = [
            threading.Thread(target=lambda s=s, turn=turn: found.update({(turn, s): write(s)}))
            for s in strengths
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {(turn, s): alone[s] for turn in range(3) for s in strengths}


def test_a_model_steered_by_another_thread_is_refused_and_free_again_afterwards(
    model, fit: sl.Fit
) -> None:
    said: list[str] = []

    def other() -> None:
        try:
            sl.collect(model, ["the film"], progress=False)
        except RuntimeError as error:
            said.append(str(error))

    with sl.steered(model, fit):
        sl.collect(model, ["the film"], progress=False)  # the same thread may
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(said) == 1 and "steerlens.steered" in said[0]
    other()
    assert len(said) == 1


def test_an_error_inside_gives_the_turn_back(model) -> None:
    with pytest.raises(KeyError), exclusive(model, by_user=True):
        raise KeyError
    done: list[int] = []
    thread = threading.Thread(
        target=lambda: done.append(sl.collect(model, ["the film"], progress=False).n_texts)
    )
    thread.start()
    thread.join(timeout=30)
    assert done == [1]


# ---- natural first calls ----


def test_a_fit_stands_for_its_value(model, fit: sl.Fit, tmp_path: Path) -> None:
    joy = fit.value
    assert sl.generate(model, ["the film"], fit).equals(sl.generate(model, ["the film"], joy))
    assert sl.score(model, ["the film"], fit, strengths=(1.0,)).equals(
        sl.score(model, ["the film"], joy, strengths=(1.0,))
    )
    assert sl.singular_words(fit, rank=1).equals(sl.singular_words(joy, rank=1))
    path = sl.save(fit, tmp_path / "joy.safetensors")
    assert torch.equal(sl.load(path, model).W, joy.W)
    assert sl.read_metadata(path)["report"]["seed"] == 0
    assert torch.equal(sl.transfer(fit, "toy-128").W, sl.transfer(joy, sl.load_model("toy-128")).W)
    few = DATA.first(4)
    assert compare(model, {"joy": fit}, few).equals(compare(model, {"joy": joy}, few))
    assert sign_margin(model, few, fit).equals(sign_margin(model, few, joy))


def test_fits_are_summed_and_scaled_as_their_values_are(fit: sl.Fit, unchecked) -> None:
    joy = fit.value
    for one, other in (
        (2 * fit, 2 * joy), (fit * 0.5, 0.5 * joy), (-fit, -joy), (fit + fit, 2 * joy), (sum([fit, fit]), 2 * joy),
        (fit + joy, 2 * joy), (joy - 3 * fit, -2 * joy), (fit - 3 * joy, -2 * joy),
    ):  # fmt: skip
        assert (
            isinstance(one, sl.Steer)
            and torch.allclose(one.W, other.W, atol=1e-6)
            and one.name == other.name
        )
    with pytest.raises(TypeError):
        _ = fit * "2"


def test_a_fit_from_a_model_and_texts_is_that_from_their_states(
    model, fit: sl.Fit, unchecked
) -> None:
    short = sl.fit_steer(model, DATA, solver="closed-form", name="joy")
    assert torch.equal(short.value.W, fit.value.W)
    with pytest.raises(ValueError, match=r"data: got NoneType.*fit_steer\(model"):
        sl.fit_steer(model)
    with pytest.raises(ValueError, match="data: states were given"):
        sl.fit_steer(sl.collect(model, DATA, progress=False), DATA)


@pytest.mark.parametrize(
    "strengths",
    [
        2,
        2.0,
        np.float32(2),
        np.array([2.0]),
        pd.Series([1.0, 2.0])[[1]],
        torch.tensor(2.0),
        [np.int64(2)],
    ],
)
def test_strengths_come_in_any_form(model, fit: sl.Fit, strengths, unchecked) -> None:
    table = sl.generate(model, ["the film was"], fit, strengths=strengths, max_new_tokens=4)
    assert table.equals(
        sl.generate(model, ["the film was"], fit, strengths=(2.0,), max_new_tokens=4)
    )


@pytest.mark.parametrize("strengths", [(), np.inf, (1.0, np.nan), "2", None, ["-2", "2"]])
def test_strengths_that_are_none_are_refused(model, fit: sl.Fit, strengths, unchecked) -> None:
    with pytest.raises(ValueError, match="strengths: got"):
        sl.generate(model, ["the film was"], fit, strengths=strengths)


@pytest.mark.parametrize("seed", [np.int64(3), np.array(3), torch.tensor(3)])
def test_seeds_come_in_any_form_of_an_integer(model, seed, unchecked) -> None:
    states = sl.collect(model, DATA, seed=seed, progress=False)
    assert torch.equal(
        states.shards[0].next, sl.collect(model, DATA, seed=3, progress=False).shards[0].next
    )
    with pytest.raises(ValueError, match="seed: got 1.5"):
        sl.collect(model, DATA, seed=1.5, progress=False)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("toy-64", r"got str.*load_model\('toy-64'\)"),
        (None, "got NoneType"),
        (DATA, "models come first"),
    ],
)
def test_what_is_no_model_is_refused_with_the_next_step(wrong, said: str, unchecked) -> None:
    for use in (sl.readout, lambda m: sl.collect(m, ["x"]), lambda m: sl.generate(m, ["x"])):
        with pytest.raises(ValueError, match=f"model: .*{said}"):
            use(wrong)


def test_a_model_in_a_bridge_is_refused_and_one_that_is_loaded_needs_no_loading(
    model, unchecked
) -> None:
    with pytest.raises(ValueError, match="inside a TransformerBridge.*give the bridge"):
        sl.readout(model.original_model)
    with pytest.raises(
        ValueError, match=r"can be given .* as it is.*HuggingFace\(model, tokenizer"
    ):
        sl.load_model(model.original_model)


def test_what_is_no_intervention_is_refused_with_the_next_step(
    model, tmp_path: Path, unchecked
) -> None:
    for wrong in ("joy.safetensors", torch.eye(64)):
        with pytest.raises(ValueError, match="intervention: got .*expected a Steer"):
            sl.generate(model, ["the film"], wrong)
        with pytest.raises(ValueError, match="value: got .*expected a Steer"):
            sl.save(wrong, tmp_path / "x.safetensors")


def test_steers_are_summed_and_scaled_by_any_number(fit: sl.Fit, unchecked) -> None:
    joy = fit.value
    assert torch.equal(sum([joy, joy]).W, (2 * joy).W)
    assert (np.float32(2) * joy).name == (joy * np.float64(2)).name == "2·joy"
    with pytest.raises(TypeError):
        _ = joy + 1


# ---- numbers that overflow ----


def test_a_strength_that_overflows_is_an_error_and_no_text() -> None:
    half = sl.load_model("toy-64", dtype="float16")
    joy = sl.fit_steer(sl.collect(half, DATA, progress=False), solver="closed-form").value
    assert len(sl.generate(half, ["the film was"], joy, strengths=4.0, max_new_tokens=3)) == 1
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"strengths: at 1e\+08 .*float32"):
            sl.generate(half, ["the film was"], joy, strengths=1e8, temperature=temperature)
    with pytest.raises(ValueError, match="states over text 0 hold NaN or infinity"):
        sl.collect(half, ["the film was"], intervention=joy, strength=1e8, progress=False)
    with pytest.raises(ValueError, match="strength: got inf"), sl.steered(half, joy, np.inf):
        half(torch.tensor([[1, 2]]))


# ---- inference mode ----


def test_under_inference_mode_everything_is_as_without(fit: sl.Fit) -> None:
    with torch.inference_mode():
        inside = sl.load_model("toy-64")
        again = sl.fit_steer(sl.collect(inside, DATA, progress=False), solver="closed-form")
        text = sl.generate(inside, ["the film"], again)
    assert torch.equal(again.value.W, fit.value.W)
    assert not again.value.W.is_inference()
    assert text.equals(sl.generate(inside, ["the film"], again))


# ---- a vocabulary that grew ----


def grown(readout: Readout, extra: int) -> Readout:
    """The same basis with more columns."""
    new = torch.ones(readout.d_model, extra)
    return Readout(
        torch.cat([readout.W_U, new], 1), torch.cat([readout.b_U, torch.zeros(extra)]),
        (*readout.tokens, *(f"new{k}" for k in range(extra))), readout.special,
    )  # fmt: skip


def test_a_vocabulary_that_grew_is_the_same_basis_and_one_that_changed_is_not(
    model, fit: sl.Fit, tmp_path: Path
) -> None:
    from dataclasses import replace

    from steerlens.methods.files import read_value

    on = fit.value.readout
    larger = grown(on, 3)
    assert on.same_as(larger) and larger.same_as(on)
    path = sl.save(fit, tmp_path / "joy.safetensors")
    back = read_value(path, larger)
    assert torch.equal(back.W, fit.value.W) and back.readout is larger
    assert torch.equal((back + fit.value).W, (2 * fit.value).W)
    moved = replace(larger, W_U=larger.W_U + 1e-3)
    assert not on.same_as(moved)
    with pytest.raises(ValueError, match="rows added to the vocabulary do no harm"):
        read_value(path, moved)
    shrunk = Readout(on.W_U[:, :-1], on.b_U[:-1], on.tokens[: on.d_vocab - 1])
    with pytest.raises(ValueError, match="was fitted on the W_U"):
        read_value(path, shrunk)


# ---- what lies around a model, and numbers that float32 does not hold ----


def test_what_holds_a_model_names_the_part_to_give() -> None:
    plain: Any = sl.load_model("toy-64", plain=True)
    with pytest.raises(ValueError, match=r"model: got DataParallel.* in it, its \.module"):
        sl.readout(torch.nn.DataParallel(plain.model))
    quantised = copy.deepcopy(plain.model)
    quantised.lm_head = torch.nn.Identity()
    with pytest.raises(ValueError, match="has a Identity for its output embedding"):
        sl.readout(quantised)


def test_a_strength_that_float32_does_not_hold_is_refused(model, fit: sl.Fit) -> None:
    for use in (
        lambda: sl.steered(model, fit, 1e39).__enter__(),
        lambda: sl.generate(model, ["the"], fit, strengths=1e39),
        lambda: sl.score(model, ["the"], fit, strengths=(0, -1e39)),
    ):
        with pytest.raises(ValueError, match=r"strengths?: got .*finite"):
            use()


def test_a_prompt_that_no_tokenizer_knows_is_called_a_prompt(model) -> None:
    with pytest.raises(ValueError, match="prompts: the tokenizer knows nothing"):
        sl.generate(model, ["Xyzzy"])
    with pytest.raises(ValueError, match="text: it is empty"):
        sl.highlight(model, sl.Steer(torch.eye(64), sl.readout(model)), " ")
    with pytest.raises(ValueError, match="prompts: .* tokens or more, the context is"):
        sl.generate(model, ["the " * 2000])
