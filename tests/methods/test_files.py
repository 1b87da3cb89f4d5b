"""A steer on disk is the steer, or an error that says why not."""

import json
import os
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from steerlens.methods.files import known_kinds, read_metadata, read_value, save
from steerlens.methods.gist.mask import GistMask
from steerlens.values import atomic
from steerlens.values.atomic import write_json, written_whole
from steerlens.values.readout import Readout
from tests.values.make import make_readout, make_steer, random


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(make_steer(), tmp_path / "joy.safetensors")


def rewrite(path: Path, **changes: object) -> None:
    """The same file with other metadata."""
    with safe_open(str(path), framework="pt") as file:
        meta, W = json.loads(file.metadata()["steerlens"]), file.get_tensor("W")
    save_file({"W": W}, path, metadata={"steerlens": json.dumps({**meta, **changes})})


def test_a_steer_is_read_back_exactly(tmp_path: Path) -> None:
    blend = 0.7 * make_steer(0) - 0.3 * make_steer(1, name="rude")
    back = read_value(str(save(blend, str(tmp_path / "blend.safetensors"))), make_readout())
    assert torch.equal(back.W, blend.W)
    assert (back.name, back.terms) == (blend.name, blend.terms)
    assert (2 * back).name == "1.4·joy - 0.6·rude"


def test_a_file_that_is_written_over_in_place_changes_no_value_that_was_read(path: Path) -> None:
    before, steer = make_steer().W, read_value(path, make_readout())
    with path.open("r+b") as file:  # as cp, rsync --inplace and some editors do
        file.seek(-before.nbytes, os.SEEK_END)
        file.write(bytes(before.nbytes))
    assert torch.equal(steer.W, before)


def test_metadata_says_what_the_steer_is(path: Path) -> None:
    meta, on = read_metadata(path), make_readout()
    expected = {
        "format": 1, "name": "joy", "site": "unembed.hook_in", "model_id": "m0", "d_model": 6, "d_vocab": 17,
        "readout_digest": on.digest, "tokenizer_digest": on.tokenizer_digest, "dtype": "float32", "report": None,
    }  # fmt: skip
    assert {key: meta[key] for key in expected} == expected
    assert set(meta["versions"]) == {"steerlens", "torch", "transformer-lens", "safetensors"}


def test_the_file_holds_no_pickle(path: Path) -> None:
    content = path.read_bytes()
    assert json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # a plain JSON header
    with pytest.raises(Exception):  # noqa: B017  (whatever pickle makes of it, it is not one)
        list(pickletools.genops(content))


def test_a_view_of_a_larger_tensor_is_saved_alone(tmp_path: Path) -> None:
    big = random(60, 60)
    from steerlens.values.steer import Steer

    joy = Steer(big[::10, ::10].mT, make_readout())
    path = save(joy, tmp_path / "view.safetensors")
    assert torch.equal(read_value(path, make_readout()).W, joy.W)
    assert path.stat().st_size < 3000


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_file_that_was_cut_short_is_refused(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_value(path, make_readout())


def test_every_changed_byte_of_the_matrix_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    for place in (1, 77, 144):
        path.write_bytes(
            whole[:-place] + bytes([whole[-place] ^ 1]) + whole[len(whole) - place + 1 :]
        )
        with pytest.raises(ValueError, match="changed after it was saved"):
            read_value(path, make_readout())


def test_a_later_format_is_refused(path: Path) -> None:
    rewrite(path, format=2)
    with pytest.raises(ValueError, match="format 2.*update steerlens"):
        read_value(path, make_readout())


@pytest.mark.parametrize(
    "metadata", [None, {"steerlens": "[]"}, {"steerlens": "{}"}, {"other": "x"}, {"steerlens": "{"}]
)
def test_another_safetensors_file_is_refused(tmp_path: Path, metadata: dict | None) -> None:
    save_file({"W": torch.zeros(6, 6)}, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        read_value(tmp_path / "x.safetensors", make_readout())


@pytest.mark.parametrize("missing", ["format", "readout_digest", "terms", "name"])
def test_metadata_that_lacks_a_part_is_refused(path: Path, missing: str) -> None:
    with safe_open(str(path), framework="pt") as file:
        meta, W = json.loads(file.metadata()["steerlens"]), file.get_tensor("W")
    del meta[missing]
    save_file({"W": W}, path, metadata={"steerlens": json.dumps(meta)})
    with pytest.raises(ValueError, match=r"joy\.safetensors"):
        read_value(path, make_readout())


def test_a_readout_with_another_W_U_is_refused_with_what_to_do(path: Path) -> None:
    with pytest.raises(ValueError, match=r"'m0'.*'m3'.*transfer"):
        read_value(path, make_readout(3))
    r = make_readout()
    with pytest.raises(ValueError, match="transfer"):
        read_value(path, Readout(r.W_U - r.W_U.mean(1, keepdim=True), r.b_U, r.tokens))


def test_the_same_values_in_another_storage_are_the_same_readout(tmp_path: Path) -> None:
    r = make_readout()
    half = Readout(r.W_U.half(), r.b_U.half(), r.tokens)
    path = save(make_steer(on=half), tmp_path / "half.safetensors")
    assert read_metadata(path)["dtype"] == "float16"
    assert torch.equal(
        read_value(path, Readout(half.W_U.float(), half.b_U.float(), r.tokens)).W, make_steer().W
    )


def test_a_write_that_fails_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(atomic.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        save(2 * make_steer(), path)
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no half-written file beside it


def test_saving_replaces_an_older_file(path: Path) -> None:
    save(2 * make_steer(), path)
    assert torch.equal(read_value(path, make_readout()).W, 2 * make_steer().W)
    assert os.stat(path).st_mode & 0o777 == 0o644


def test_paths_that_cannot_be_written_or_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        save(make_steer(), tmp_path / "joy.pt")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        save(make_steer(), tmp_path / "nowhere" / "joy.safetensors")
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_value(tmp_path / "nothing.safetensors", make_readout())


def test_numbers_that_are_not_json_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"nll": float("nan")})
    assert not list(tmp_path.iterdir())


# ---- every intervention ----


@dataclass(frozen=True)
class Loud:
    """A user's own intervention: all states times a number."""

    factor: float
    readout: Readout
    name: str = "loud"
    prefix = 0
    file_kind: ClassVar[str] = "tests.loud"

    def edits(self, strength):
        return (("unembed.hook_in", lambda c, places: c * (1 + strength * self.factor)),)

    def pack(self):
        return {"factor": torch.tensor([self.factor])}, {"unit": "none"}

    @classmethod
    def unpack(cls, tensors, about, readout):
        assert about["unit"] == "none"
        return cls(float(tensors["factor"]), readout, about["name"])


def test_a_steer_over_its_background_is_read_back_exactly(tmp_path: Path) -> None:
    both = (2 * make_steer(0)).with_background(
        make_steer(1, name="plain") - make_steer(2, name="odd")
    )
    back = read_value(save(both, tmp_path / "both.safetensors"), make_readout())
    assert torch.equal(back.steer.W, both.steer.W) and torch.equal(
        back.background.W, both.background.W
    )
    assert (back.name, back.steer.terms, back.background.terms) == (
        both.name,
        both.steer.terms,
        both.background.terms,
    )


@pytest.mark.parametrize("control", ["gist", "positive", "negative"])
def test_a_gist_mask_is_read_back(tmp_path: Path, control: str) -> None:
    mask = GistMask(2, 3, make_readout(), control, begin=1, name="short")
    back = read_value(save(mask, tmp_path / "mask.safetensors"), make_readout())
    assert [getattr(back, x) for x in ("gist", "n_layers", "control", "begin", "name")] == [
        2,
        3,
        control,
        1,
        "short",
    ]


def test_a_class_of_ones_own_is_saved_and_loaded_where_it_is_named(tmp_path: Path) -> None:
    path = save(Loud(0.5, make_readout()), tmp_path / "loud.safetensors")
    assert read_value(path, make_readout(), kinds=(Loud,)).factor == 0.5
    with pytest.raises(ValueError, match=r"holds a 'tests.loud'.*kinds=\(TheClass,\)"):
        read_value(path, make_readout())


@pytest.mark.parametrize("kind", known_kinds().values())
def test_every_kind_of_our_own_can_be_packed(kind: type) -> None:
    assert callable(kind.pack) and callable(kind.unpack)


def test_two_kinds_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(known_kinds()) >= 6
    monkeypatch.setattr(GistMask, "file_kind", "steer")
    with pytest.raises(ValueError, match="GistMask and Steer are both 'steer'"):
        known_kinds()


def test_two_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with written_whole(path) as first, written_whole(path) as second:
        assert first != second and first.name.startswith(".x.bin.")
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"  # the last to finish
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyError), written_whole(path) as aside:
        aside.write_bytes(b"half")
        raise KeyError
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]
