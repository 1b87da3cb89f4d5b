"""Files under stress: every byte wrong, a process killed while it writes, disks that are full or
read-only."""

import os
import random as rnd
import resource
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steerlens.export.logits import logit_steer
from steerlens.methods.files import read_metadata, read_value, save
from steerlens.values.atomic import write_json
from steerlens.values.logit_steer import LogitSteer, load_logit_steer
from steerlens.values.readout import Readout
from steerlens.values.steer import Steer
from tests.values.make import contents, make_readout, make_steer, random, rewrite

STEER = make_steer()
ON_LOGITS = logit_steer(make_steer(), max_gain=1e6)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    return {
        "steer": save(STEER, folder / "a.safetensors").read_bytes(),
        "logits": ON_LOGITS.save(folder / "b.safetensors").read_bytes(),
    }


def unharmed(kind: str, path: Path) -> bool:
    """Return whether a file gives the numbers that were saved, or is refused by name."""
    try:
        if kind == "steer":
            return torch.equal(read_value(path, make_readout()).W, STEER.W)
        found = load_logit_steer(path)
        return isinstance(found, LogitSteer) and torch.equal(found.P, ON_LOGITS.P)
    except ValueError as error:
        return path.name in str(error)


@pytest.mark.parametrize("kind", ["steer", "logits"])
@settings(max_examples=150)
@given(place=st.floats(0, 1), bit=st.integers(0, 7))
@example(place=0.0, bit=7)
@example(place=0.9999, bit=0)
def test_any_bit_that_turned_is_noticed_or_harmless(
    files: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    place: float,
    bit: int,
) -> None:
    content = bytearray(files[kind])
    content[min(int(place * len(content)), len(content) - 1)] ^= 1 << bit
    path = tmp_path_factory.mktemp("bit") / "turned.safetensors"
    path.write_bytes(content)
    assert unharmed(kind, path)


@pytest.mark.parametrize("kind", ["steer", "logits"])
@settings(max_examples=60)
@given(cut=st.floats(0, 1), tail=st.binary(max_size=40))
def test_any_other_ending_is_noticed(
    files: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    cut: float,
    tail: bytes,
) -> None:
    path = tmp_path_factory.mktemp("cut") / "torn.safetensors"
    path.write_bytes(files[kind][: int(cut * len(files[kind]))] + tail)
    assert unharmed(kind, path)


@settings(max_examples=60)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "noise.safetensors"
    path.write_bytes(content)
    for read in (read_metadata, load_logit_steer):
        with pytest.raises(ValueError, match=r"noise\.safetensors"):
            read(path)


JUNK = (None, True, 5, -1, 2.5, "x", "", [], [[1]], [["a", "b"]], {}, {"a": 1})


@pytest.mark.parametrize("kind", ["steer", "logits"])
def test_any_other_word_in_the_metadata_is_noticed_or_harmless(
    files: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(files[kind])
    meta, tensors = contents(path)
    for key in meta:
        for junk in JUNK:
            rewrite(path, tensors, {**meta, key: junk})
            assert unharmed(kind, path), f"{key}: {junk!r}"
        rewrite(path, tensors, {k: x for k, x in meta.items() if k != key})
        assert unharmed(kind, path), f"no {key}"
    for name in tensors:
        rewrite(path, {n: t for n, t in tensors.items() if n != name}, meta)
        assert unharmed(kind, path), f"no {name}"
        rewrite(path, {**tensors, name: tensors[name].flatten()}, meta)
        assert unharmed(kind, path), f"flat {name}"


# ---- processes and disks ----


def in_a_child(work: Callable[[], None]) -> int:
    """Run something in a process of its own and return its pid; an exception is exit code 1."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_process_killed_while_it_writes_leaves_the_old_file_or_the_new_one(
    tmp_path: Path,
) -> None:
    d = 300
    on = Readout(random(d, 320), torch.zeros(320), ("w",) * 320)
    steers = [Steer(random(d, d, seed=seed), on) for seed in (1, 2)]
    path = save(steers[0], tmp_path / "joy.safetensors")

    def forever() -> None:
        while True:
            for steer in steers:
                save(steer, path)

    r = rnd.Random(0)
    for _ in range(12):
        pid = in_a_child(forever)
        time.sleep(r.uniform(0.01, 0.06))
        os.kill(pid, signal.SIGKILL)
        assert code_of(pid) == -signal.SIGKILL
        W = read_value(path, on).W
        assert any(torch.equal(W, steer.W) for steer in steers)
    left = [p for p in tmp_path.iterdir() if p != path]
    assert all(
        p.name.startswith(".joy.safetensors.") for p in left
    )  # at most what was half written
    save(steers[1], path)
    assert torch.equal(read_value(path, on).W, steers[1].W)


WRITERS: dict[str, Callable[[Path], object]] = {
    "steer": lambda path: save(2 * STEER, path),
    "logits": lambda path: ON_LOGITS.save(path),
    "json": lambda path: write_json(path, list(range(2000))),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")

    def starved() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))  # a file may hold no more bytes
        try:
            WRITERS[kind](path)
        except OSError:
            os._exit(7)

    assert code_of(in_a_child(starved)) == 7
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_read_only_folder_is_said_to_be_one(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):  # others may look, nobody may write
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    tmp_path.chmod(0o555)

    def barred() -> None:
        if os.getuid() == 0:
            os.setuid(65534)  # root may write anywhere
        try:
            WRITERS[kind](path)
        except PermissionError as error:
            os._exit(7 if str(tmp_path) in str(error) else 8)

    try:
        assert code_of(in_a_child(barred)) == 7
        assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    finally:
        tmp_path.chmod(0o755)
