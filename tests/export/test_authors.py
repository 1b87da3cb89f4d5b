"""Checkpoints of the authors' code: read without running anything, and written so that their
formula gives our steer."""

import argparse
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import steerlens as sl
from steerlens.export.authors import export_lm_steer, import_direction, import_lm_steer
from tests.models.zoo import random_steer, tokens_of, zoo

D = 32


def checkpoint(path: Path, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A file as `train.py` leaves it: the parsed arguments, the parameters, the number of steps."""
    torch.manual_seed(3)
    args = argparse.Namespace(
        **{
            "model_name": "gpt2", "adaptor_class": "multiply", "adapted_component": "final_layer", "epsilon": 1e-3, "rank": 5,
            "num_steers": 3, "training_steer": 0, "dummy_steer": 1, "lr": 1e-2, "cuda": True, "steer_values": None, **changes,
        }
    )  # fmt: skip
    state = OrderedDict(
        (name, nn.Parameter(4 * torch.randn(3, D, 5).to(dtype)))
        for name in ("projector1", "projector2")
    )
    torch.save([args, state, 1000], path)
    return path


def by_their_formula(path: Path, state: Tensor, values: list[float], epsilon: float) -> Tensor:
    """What their adaptor makes of a context vector `[batch, pos, d]`, written out per steer."""
    saved = torch.load(path, weights_only=False)[1]
    change = torch.zeros_like(state)
    for k, value in enumerate(values):
        for i in range(state.shape[0]):
            low = state[i] @ saved["projector1"][k].detach().float()
            change[i] += value * low @ saved["projector2"][k].detach().float().T
    return state + epsilon * change


def test_a_checkpoint_is_the_map_that_their_code_makes_of_it(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "detox.pt")
    found = import_lm_steer(path, zoo("gpt2"))
    assert found.background is not None
    assert (found.steer.name, found.background.name) == ("detox", "detox dummy")
    c = torch.randn(2, 4, D)
    both = found.steer.with_background(found.background)
    (_, edit), *_ = both.edits(5.0)
    from tests.contract import everywhere

    expected = by_their_formula(path, c, [5.0, 1.0, 0.0], 1e-3)
    assert float((expected - c).norm()) > 0.1 * float(c.norm())
    torch.testing.assert_close(edit(c, everywhere(c)), expected, atol=1e-4, rtol=1e-4)


def test_indices_and_epsilon_are_the_files_unless_given(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "x.pt", dummy_steer=None, training_steer=2, epsilon=1e-2)
    found = import_lm_steer(path, zoo("gpt2"))
    third = import_lm_steer(path, zoo("gpt2"), steer=2, epsilon=1e-3, background=0, name="third")
    assert found.background is None and third.background is not None
    torch.testing.assert_close(found.steer.W, 10 * third.steer.W)
    assert third.steer.name == "third"
    for wrong in ({"steer": 3}, {"background": -1}):
        with pytest.raises(ValueError, match=r"holds steers 0 … 2"):
            import_lm_steer(path, zoo("gpt2"), **wrong)


def test_half_precision_and_easysteers_payload_are_read(tmp_path: Path) -> None:
    half = import_lm_steer(checkpoint(tmp_path / "h.pt", dtype=torch.float16), zoo("gpt2"))
    whole = import_lm_steer(checkpoint(tmp_path / "w.pt"), zoo("gpt2"))
    torch.testing.assert_close(half.steer.W, whole.steer.W, atol=1e-3, rtol=1e-2)
    saved = torch.load(tmp_path / "w.pt", weights_only=False)[1]
    one = {name: P[0].detach() for name, P in saved.items()}
    torch.save(one, tmp_path / "payload.pt")
    torch.testing.assert_close(
        import_lm_steer(tmp_path / "payload.pt", zoo("gpt2")).steer.W, whole.steer.W
    )


def test_ours_in_their_format_is_read_back_and_does_the_same(tmp_path: Path) -> None:
    model = zoo("gpt2")
    joy, plain = random_steer(model, seed=1, name="joy"), random_steer(model, seed=2).truncate(4)
    path = export_lm_steer(joy, tmp_path / "joy.pt", background=plain, epsilon=2e-3)
    c = torch.randn(1, 3, D)
    torch.testing.assert_close(
        by_their_formula(path, c, [1.5, 1.0], 2e-3),
        c + 1.5 * c @ joy.W + c @ plain.W, atol=1e-4, rtol=1e-4,
    )  # fmt: skip
    found = import_lm_steer(path, model)
    assert found.background is not None
    torch.testing.assert_close(found.steer.W, joy.W, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.background.W, plain.W, atol=1e-5, rtol=1e-4)
    args, state, _ = torch.load(path, weights_only=False)
    assert state["projector1"].shape == (2, D, args.rank) and args.num_steers == 2
    cut = export_lm_steer(joy, tmp_path / "cut.pt", rank=3)
    torch.testing.assert_close(
        import_lm_steer(cut, model).steer.W, joy.truncate(3).W, atol=1e-5, rtol=1e-4
    )


class Bomb:
    """What a hostile file would hold."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def test_a_file_that_would_run_something_is_refused_unrun(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for content in ([Bomb(mark), {}, 0], [argparse.Namespace(x=Bomb(mark)), {}, 0], Bomb(mark)):
        torch.save(content, tmp_path / "bad.pt")
        with pytest.raises(ValueError, match=r"bad\.pt.*nothing of it was run"):
            import_lm_steer(tmp_path / "bad.pt", zoo("gpt2"))
    assert not mark.exists()
    torch.load(tmp_path / "bad.pt", weights_only=False)
    assert mark.exists()  # it would have


@pytest.mark.parametrize("cut", [0, 10, 200, -30])
def test_a_file_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    path = checkpoint(tmp_path / "x.pt")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"x\.pt"):
        import_lm_steer(path, zoo("gpt2"))


def test_what_is_no_such_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    model = zoo("gpt2")
    for changes in ({"adaptor_class": "offset"}, {"adapted_component": "input_embedding"}):
        with pytest.raises(ValueError, match="expected 'multiply' of 'final_layer'"):
            import_lm_steer(checkpoint(tmp_path / "x.pt", **changes), model)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "y.pt")
    with pytest.raises(ValueError, match="without projector1"):
        import_lm_steer(tmp_path / "y.pt", model)
    with pytest.raises(ValueError, match="d_model 64"):
        import_lm_steer(checkpoint(tmp_path / "x.pt"), zoo("toy-64"))
    with pytest.raises(FileNotFoundError):
        import_lm_steer(tmp_path / "none.pt", model)


def test_what_cannot_be_written_is_refused(tmp_path: Path, unchecked, monkeypatch) -> None:
    joy = random_steer(zoo("gpt2"))
    for options, message in (
        ({"epsilon": 0.0}, "epsilon"),
        ({"rank": 0}, "rank"),
        ({"background": random_steer(zoo("toy-64"))}, "different W_U"),
    ):
        with pytest.raises(ValueError, match=message):
            export_lm_steer(joy, tmp_path / "x.pt", **options)
    with pytest.raises(ValueError, match=r"\.pt"):
        export_lm_steer(joy, tmp_path / "x.bin")
    with pytest.raises(FileNotFoundError):
        export_lm_steer(joy, tmp_path / "nowhere" / "x.pt")

    def full(*_) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672]\nmore of torch's own")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"x\.pt: \[enforce fail.*nothing was written"):
        export_lm_steer(joy, tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


def test_a_direction_adds_its_logits(tmp_path: Path) -> None:
    model = zoo("gpt2")
    vector, tokens = torch.randn(D, generator=torch.Generator().manual_seed(2)), tokens_of(model)
    up = import_direction(vector, model, name="up")
    with torch.no_grad():
        plain = model(tokens)
        with sl.steered(model, up, -2.0):
            found = model(tokens)
    torch.testing.assert_close(found, plain - 2 * (vector @ model.W_U), atol=1e-4, rtol=1e-4)
