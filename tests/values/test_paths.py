"""Paths as users give them, and files that cannot be written."""

import errno
import os
import stat
from pathlib import Path

import pytest
from safetensors import SafetensorError

import steerlens as sl
from steerlens.values.atomic import write_bytes, written_whole
from steerlens.values.paths import as_path


def test_the_home_folder_is_meant_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir(), here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    model = sl.load_model("toy-64")
    states = sl.collect(
        model, sl.toy.corpus("tone", n=30, seed=0), folder="~/states", progress=False
    )
    joy = sl.fit_steer(states, solver="closed-form", progress=False).value
    sl.save(joy, "~/joy.safetensors")
    sl.export.export_lm_steer(joy, "~/joy.pt", rank=4)
    sl.export.hub.save_pretrained(joy, "~/joy", base_model="toy-64", license="mit")
    (home / "data.csv").write_text("text,label\ngood .,1\nbad .,-1\n")
    assert len(sl.read_labelled("~/data.csv")) == 2
    assert sl.load("~/joy.safetensors", model).name == joy.name
    assert sl.export.hub.from_pretrained("~/joy", model).name == joy.name
    assert not list(here.iterdir())
    assert {"states", "joy.safetensors", "joy.pt", "joy"} <= {p.name for p in home.iterdir()}


def test_a_home_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="folder: got '~nobody-of-this-name/x'.*home"):
        as_path("~nobody-of-this-name/x", "folder")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error")]
)
def test_what_the_disk_refuses_is_said_of_the_file_that_was_asked_for(
    error: Exception, tmp_path: Path
) -> None:
    path = tmp_path / "joy.safetensors"
    path.write_bytes(b"earlier")
    with pytest.raises(OSError, match="nothing was written") as said, written_whole(path) as aside:
        aside.write_bytes(b"half")
        raise error
    assert str(path) in str(said.value)
    assert path.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [path]


def test_another_file_s_error_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as said, written_whole(tmp_path / "a") as aside:
        aside.write_bytes((tmp_path / "other").read_bytes())
    assert said.value.filename == str(tmp_path / "other")


def test_a_file_keeps_its_mode_and_a_link_stays_one(tmp_path: Path) -> None:
    mine, link = tmp_path / "mine", tmp_path / "link"
    write_bytes(mine, b"1")
    before = os.umask(0)
    os.umask(before)
    assert stat.S_IMODE(mine.stat().st_mode) == 0o666 & ~before
    mine.chmod(0o600)
    link.symlink_to(mine)
    write_bytes(link, b"2")
    assert stat.S_IMODE(mine.stat().st_mode) == 0o600
    assert link.is_symlink() and mine.read_bytes() == b"2"
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "link"}
