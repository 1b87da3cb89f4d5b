"""States that are collected in parts are those of `collect`, whoever made the parts and whatever
happened on the way."""

import gc
import json
import shutil
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

import steerlens as sl
from steerlens.models import parts as module
from steerlens.models.parts import collect_parts, read_states
from steerlens.values.state_folder import open_folder
from steerlens.values.states import StoredShard
from steerlens.values.warn import warn_user
from tests.models.workers import load, load_mortal, load_plain

DATA = sl.toy.corpus("tone", n=240, seed=0)
SIZE = 3000
"""Bytes per part: ten parts of DATA."""


def collected(folder: Path, load=load_plain, data=DATA, **options) -> sl.States:
    return collect_parts(load, data, folder, part_bytes=SIZE, progress=False, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def whole_files(folder: Path) -> dict[str, bytes]:
    """Without what a killed process had half written, which nobody reads."""
    return {name: content for name, content in files(folder).items() if name[0] != "."}


def by_text(states: sl.States) -> list[torch.Tensor]:
    """All positions in order of text; those of a text are stored in order."""
    whole = [torch.cat(part) for part in zip(*states.chunks(10**9), strict=True)]
    order = whole[2].argsort(stable=True)
    return [tensor[order] for tensor in whole]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that one process makes."""
    folder = tmp_path_factory.mktemp("alone") / "states"
    collected(folder)
    return folder


def test_parts_hold_what_collect_holds(alone: Path) -> None:
    states, whole = read_states(alone), sl.collect(load_plain(), DATA, progress=False)
    assert len(states.shards) == 10 and all(isinstance(s, StoredShard) for s in states.shards)
    assert states.labels.tolist() == list(DATA.labels)
    assert torch.equal(states.lengths, whole.lengths) and bool(states.keep.all())
    assert states.readout.digest == whole.readout.digest
    assert states.readout.tokens == whole.readout.tokens
    for a, b in zip(by_text(states), by_text(whole), strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert "on disk" in repr(states)


def test_a_call_goes_on_from_what_processes_left_when_one_was_killed(
    alone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "states"
    again = partial(load_mortal, tmp_path / "killed")
    with joblib.parallel_config("loky", n_jobs=2), pytest.raises(Exception, match="SIGKILL"):
        collected(folder, again)
    done = {name for name in files(folder) if name.startswith("part")}
    assert 0 < len(done) < 10 and not (folder / "index.json").exists()
    times = {name: (folder / name).stat().st_mtime_ns for name in done}
    collected(folder, again)
    assert {name: (folder / name).stat().st_mtime_ns for name in done} == times
    assert whole_files(folder) == files(alone)


@pytest.mark.parametrize(
    "left",
    [".part-000001.safetensors.k3x", ".readout.safetensors.a", ".index.json.b", ".tmpELbsha"],
)
def test_files_that_a_killed_run_left_half_written_are_no_hindrance(
    tmp_path: Path, left: str
) -> None:
    (tmp_path / left).write_bytes(b"half")
    assert open_folder(tmp_path) == tmp_path
    (tmp_path / ".tmp").write_bytes(b"of someone else")
    with pytest.raises(ValueError, match=r"holds something else .*'\.tmp'"):
        open_folder(tmp_path)


def test_ranks_share_the_parts_of_one_folder(alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "states"
    first = collected(folder, part=(0, 3))
    assert not (folder / "index.json").exists() and len(first.shards) == 4
    with pytest.raises(ValueError, match=r"4 parts of a number that is not known.*unfinished=True"):
        read_states(folder)
    some = read_states(folder, unfinished=True)
    assert torch.equal(some.keep, first.keep[: len(some.keep)]) and not first.keep.all()
    shares = [first, *(collected(folder, part=(rank, 3)) for rank in (1, 2))]
    assert files(folder) == files(alone)
    assert sum(states.keep.int() for states in shares).tolist() == [1] * len(DATA)
    assert sum(states.n_positions for states in shares) == read_states(folder).n_positions
    with pytest.raises(ValueError, match="these texts make 10 parts, none for rank 11"):
        collected(folder, part=(11, 12))
    with pytest.raises(ValueError, match=r"part: got 2, expected \(rank, world\)"):
        collected(folder, part=(2, 2))


def test_any_finished_parts_can_be_fitted_and_folders_add(alone: Path, tmp_path: Path) -> None:
    one, two = DATA[:150], DATA[150:]
    collected(tmp_path / "one", data=one)
    collected(tmp_path / "two", data=two)
    both = read_states(tmp_path / "one", tmp_path / "two")
    assert both.labels.tolist() == list(DATA.labels)
    with pytest.raises(ValueError, match="folders: .*one is there twice"):
        read_states(tmp_path / "one", tmp_path / "two", tmp_path / "two" / ".." / "one")
    for a, b in zip(by_text(both), by_text(read_states(alone)), strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-4)
    for number in (2, 5):
        (tmp_path / "one" / f"part-{number:06d}.safetensors").unlink()
    with pytest.raises(ValueError, match="4 parts of 6; run collect_parts"):
        read_states(tmp_path / "one")
    some = read_states(tmp_path / "one", tmp_path / "two", unfinished=True)
    assert 0 < some.n_texts < len(DATA) == len(some.keep)
    assert sum(len(chunk.text) for chunk in some.chunks(10**9)) == some.n_positions
    labels = torch.tensor(DATA.labels)
    assert torch.equal(some.labels[some.keep], labels[some.keep])
    fit = sl.fit_steer(some, solver="closed-form", progress=False)
    assert fit.report.n_texts == some.n_texts


def test_a_fit_needs_no_model_and_is_that_of_the_same_states(alone: Path) -> None:
    states = read_states(alone)
    fits = [
        sl.fit_steer(some, solver="closed-form", progress=False)
        for some in (states, collected(alone))
    ]
    assert torch.equal(fits[0].value.W, fits[1].value.W)
    assert torch.equal(fits[0].background.W, fits[1].background.W)
    with sl.steered(load(), fits[0].value, 1.0):  # it lives on the model
        pass


def test_copies_are_told_across_parts(tmp_path: Path) -> None:
    texts = [*DATA.texts[:100], *DATA.texts[:100]]
    data = sl.Labelled(texts, [1.0, -1.0] * 100)
    states = collected(tmp_path / "states", data=data)
    copy_of = sl.collect(load(), data, progress=False).copy_of
    assert states.copy_of is not None and copy_of is not None
    assert torch.equal(states.copy_of, copy_of)


def test_an_iterator_is_read_once_in_order_and_no_further_than_workers_are(tmp_path: Path) -> None:
    read = 0

    def texts():
        nonlocal read
        for text in DATA.texts:
            read += 1
            yield text

    def slow():
        assert read < 60  # of 240
        return load()

    states = collected(tmp_path / "states", slow, texts())
    assert read == len(DATA) and states.labels.tolist() == [0.0] * len(DATA)
    assert torch.equal(states.lengths, sl.collect(load(), DATA, progress=False).lengths)


def test_labelled_rows_that_follow_their_labels_are_said(tmp_path: Path) -> None:
    order = sorted(range(len(DATA)), key=DATA.labels.__getitem__)
    with pytest.warns(UserWarning, match=r"parts: \d\d% of the variance.*shuffle the rows"):
        collected(tmp_path / "sorted", data=iter([DATA.pick(order)]))
    collected(tmp_path / "random", data=iter([DATA]))  # no warning, which would be an error


def test_prompts_are_read_and_not_predicted(tmp_path: Path) -> None:
    data = sl.Labelled(DATA.texts[:60], DATA.labels[:60], ["the film is", ""] * 30)
    states = collected(tmp_path / "states", data=data)
    assert torch.equal(states.lengths, sl.collect(load(), data, progress=False).lengths)


def test_half_precision_takes_half(alone: Path, tmp_path: Path) -> None:
    half = collected(tmp_path / "states", dtype="bfloat16")
    name = "part-000003.safetensors"
    a, b = load_file(tmp_path / "states" / name)["hidden"], load_file(alone / name)["hidden"]
    assert a.dtype == torch.bfloat16 and torch.equal(a, b.bfloat16())
    assert half.n_positions == read_states(alone).n_positions


@pytest.mark.parametrize(
    "other, message",
    [
        ({"data": DATA[1:]}, "states of other texts, labels or prompts"),
        ({"data": sl.Labelled(DATA.texts, [-y for y in DATA.labels])}, "of other texts, labels"),
        ({"dtype": torch.bfloat16}, "of another dtype, end or part_bytes"),
        ({"end": False}, "of another dtype, end or part_bytes"),
        ({"load": partial(sl.load_model, "toy-128")}, "states of another model.*read-outs"),
        ({"load": partial(sl.load_model, "toy-64", dtype="bfloat16")}, "read-outs or dtypes"),
    ],
)
def test_a_folder_of_something_else_is_refused_and_left_alone(
    alone: Path, other: dict, message: str
) -> None:
    before = files(alone)
    with pytest.raises(ValueError, match=message):
        collected(alone, **other)
    assert files(alone) == before


def test_another_model_with_the_same_read_out_is_told(alone: Path, tmp_path: Path) -> None:
    def tuned():
        model = load_plain()
        with torch.no_grad():
            layer = model.model.get_submodule("transformer.h.1.mlp.c_fc")
            layer.weight += 0.05 * layer.weight.std() * torch.randn_like(layer.weight)
        return model

    (alone.parent / "copy").mkdir(exist_ok=True)
    for name, content in files(alone).items():
        (alone.parent / "copy" / name).write_bytes(content)
    (alone.parent / "copy" / "part-000003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"another model.*states of a probe, by 0\.\d+"):
        collected(alone.parent / "copy", tuned)
    # another library gives the same up to rounding
    collected(alone.parent / "copy", load)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds something else than parts.*thesis\.txt"):
        collected(tmp_path)
    assert list(files(tmp_path)) == ["thesis.txt"]
    with pytest.raises(ValueError, match="holds no states yet"):
        read_states(tmp_path)


def test_files_that_were_changed_or_cut_are_named(alone: Path, tmp_path: Path) -> None:
    for name, content in files(alone).items():
        (tmp_path / name).write_bytes(content)
    part = tmp_path / "part-000004.safetensors"
    whole = bytearray(part.read_bytes())
    whole[len(whole) // 2] ^= 1
    part.write_bytes(whole)
    with pytest.raises(ValueError, match=r"part-000004.*was changed after.*makes this file anew"):
        read_states(tmp_path)
    part.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"part-000004.*not a whole part"):
        read_states(tmp_path)
    readout = tmp_path / "readout.safetensors"
    content = bytearray(readout.read_bytes())
    content[-40_000] ^= 1
    readout.write_bytes(content)
    with pytest.raises(ValueError, match="was changed after it was written"):
        read_states(tmp_path)


def test_more_parts_than_the_texts_make_are_refused(alone: Path, tmp_path: Path) -> None:
    for name, content in files(alone).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "part-000010.safetensors").write_bytes(files(alone)["part-000009.safetensors"])
    with pytest.raises(ValueError, match="holds 11 parts of an earlier run, and these texts make"):
        collected(tmp_path)


def test_two_runs_in_one_folder_do_not_meet(alone: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as runs:
        found = list(runs.map(lambda _: collected(tmp_path / "states"), range(2)))
    assert files(tmp_path / "states") == files(alone)
    assert found[0].n_positions == found[1].n_positions == read_states(alone).n_positions


def test_a_part_that_is_lost_in_silence_is_an_error(tmp_path: Path) -> None:
    lost = tmp_path / "states" / "part-000003.safetensors"

    def texts():
        for text in DATA.texts:
            lost.unlink(missing_ok=True)  # while others are read
            yield text

    with pytest.raises(RuntimeError, match=r"parts \[3\].*were not written.*same call again"):
        collected(tmp_path / "states", data=texts())
    assert not (tmp_path / "states" / "index.json").exists()


def test_what_is_wrong_names_its_part(tmp_path: Path) -> None:
    long = sl.Labelled(["the film was good ."] * 3, [1.0, 0.0, -1.0])

    def without_tokenizer():
        model = load()
        model.tokenizer = None
        return model

    with pytest.raises(ValueError, match=r"part 0, whose text 0 is row \d of all: .*no tokenizer"):
        collected(tmp_path / "a", without_tokenizer, long)
    with pytest.raises(ValueError, match="load: got TransformerBridge.*steerlens.load_model"):
        collected(tmp_path / "b", load())
    with pytest.raises(ValueError, match="data: got no texts"):
        collected(tmp_path / "b", data=iter([]))


@pytest.mark.parametrize("name, wrong", [
    ("dtype", ["x", torch.int32, torch.float64, None]), ("part", [3, None, (0,), ("0", "1"), (-1, 2), (1.5, 2)]),
    ("part_bytes", ["x", 0, 1.5, None]), ("folder", [3, None, [], __file__]), ("data", [3, None, "good", {"text": ["a"]}, [3]]),
    ("load", ["toy-64", None, 3]),
])  # fmt: skip
def test_what_cannot_be_used_is_refused_by_its_name(
    name: str, wrong: list, tmp_path: Path, unchecked: None
) -> None:
    for value in wrong:
        arguments = {"load": load, "data": DATA, "folder": tmp_path / "states", "progress": False}
        with pytest.raises(ValueError, match=rf"^{name}: "):
            collect_parts(**{**arguments, name: value})
    with pytest.raises(ValueError, match="folders: got 3"):
        read_states(3)  # pyright: ignore[reportArgumentType]


def test_a_name_is_no_function(tmp_path: Path, unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"load: got str.*functools.partial\(steerlens.load_model"):
        collect_parts("toy-64", DATA, tmp_path)  # pyright: ignore[reportArgumentType]


def test_warnings_of_workers_are_given_once(tmp_path: Path) -> None:
    def load_far_off() -> Any:
        model = load_plain()
        with torch.no_grad():  # sure of one word, and seldom right
            model.model.transformer.ln_f.weight.mul_(30)
        return model

    with pytest.warns(UserWarning, match="nats each, where a blind guess") as caught:
        collected(tmp_path / "states", load_far_off)
    assert len(caught) == 1
    assert warn_user is module.warn_user


def test_a_folder_of_collect_is_refused_by_name_and_the_other_way_round(
    alone: Path, tmp_path: Path
) -> None:
    sl.collect(load_plain(), DATA.first(5), folder=tmp_path, progress=False)
    for call in (lambda: read_states(tmp_path), lambda: collected(tmp_path)):
        with pytest.raises(ValueError, match=r"steerlens\.collect\(.*only the same call reads"):
            call()
    before = files(alone)
    with pytest.raises(ValueError, match=r"collect_parts; steerlens\.models\.read_states returns"):
        sl.collect(load_plain(), DATA.first(5), folder=alone, progress=False)
    assert files(alone) == before


def test_the_index_names_what_was_read(alone: Path) -> None:
    index = json.loads((alone / "index.json").read_text())
    assert (index["parts"], index["texts"]) == (10, len(DATA))


def test_no_model_stays_behind_in_this_process(tmp_path: Path) -> None:
    loaded: list[weakref.ref] = []

    def load_seen() -> Any:
        loaded.append(weakref.ref(model := load_plain()))
        return model

    collected(tmp_path / "states", load_seen)
    gc.collect()
    assert len(loaded) == 1 and loaded[0]() is None


def test_parts_of_another_folder_are_not_believed(alone: Path, tmp_path: Path) -> None:
    turned = sl.Labelled(DATA.texts, [-y for y in DATA.labels])
    collected(tmp_path / "turned", data=turned)
    mixed, twice = tmp_path / "mixed", tmp_path / "twice"
    for folder in (mixed, twice):
        shutil.copytree(alone, folder)
    name = "part-000001.safetensors"
    shutil.copy(tmp_path / "turned" / name, mixed)
    shutil.copy(alone / "part-000000.safetensors", twice / name)
    for folder in (mixed, twice):
        with pytest.raises(ValueError, match="parts that are not its own"):
            read_states(folder)


def test_states_are_found_from_another_working_folder(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    states = sl.collect(load_plain(), DATA.first(20), folder="states", progress=False)
    parts = collected(Path("parts"), data=DATA.first(20))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for found in (states, parts):
        assert sum(len(chunk.next) for chunk in found.chunks(99)) == found.n_positions
