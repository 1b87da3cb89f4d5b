"""`steerlens fold` and `steerlens export`."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from typer.testing import CliRunner

import steerlens as sl
from steerlens.cli import app
from tests.models.zoo import contexts, random_steer, zoo

MODEL = "toy-64"


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return sl.save(random_steer(zoo(MODEL), name="joy"), tmp_path / "joy.safetensors")


def test_fold_writes_a_checkpoint(file: Path, tmp_path: Path) -> None:
    options = ("--model", MODEL, "--steer", file, "--strength", "-2", "--out", tmp_path / "sad")
    result = run("fold", *options, "--quiet")
    assert result.exit_code == 0 and result.stdout.strip() == str(tmp_path / "sad")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "sad")
    tokens = torch.tensor([[5, 9, 77]])
    with torch.no_grad(), sl.steered(zoo(MODEL), random_steer(zoo(MODEL)), -2.0):
        torch.testing.assert_close(again(tokens).logits, zoo(MODEL)(tokens), atol=1e-3, rtol=1e-4)
    refused = run("fold", *options)
    assert refused.exit_code == 2 and "not empty" in refused.stderr
    assert run("fold", *options, "--overwrite").exit_code == 0


def test_export_writes_each_form(file: Path, tmp_path: Path) -> None:
    options = ("--model", MODEL, "--steer", file, "--rank", 8)
    logits, tuned, theirs = (tmp_path / n for n in ("joy.logits.safetensors", "lora", "joy.pt"))
    result = run("export", *options, "--out", logits)
    assert result.exit_code == 0 and "noise on logits" in result.stderr
    joy, z = random_steer(zoo(MODEL)), sl.readout(zoo(MODEL)).logits(torch.randn(2, 64))
    expected = sl.export.logit_steer(joy, rank=8).apply(z, 2.0)
    found = sl.export.load_logit_steer(logits)
    assert torch.equal(found.apply(z, 2.0), expected)
    assert run("export", *options, "--out", tuned, "--to", "lora").exit_code == 0
    assert json.loads((tuned / "adapter_config.json").read_text())["r"] == 8
    assert run("export", *options, "--out", theirs, "--to", "lm-steer").exit_code == 0
    back = sl.export.import_lm_steer(theirs, zoo(MODEL)).steer
    torch.testing.assert_close(back.W, joy.truncate(8).W, atol=1e-5, rtol=1e-4)


def test_a_model_that_is_served_in_bfloat16(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.safetensors"
    options = ("--model", MODEL, "--steer", file, "--out", out, "--dtype", "bfloat16")
    assert run("export", *options).exit_code == 0
    half = sl.load_model(MODEL, dtype="bfloat16")
    it = sl.export.load_logit_steer(out)
    assert it.precision == 2.0**-8
    tokens = torch.tensor([[5, 9, 77]])
    with torch.no_grad():
        z = half(tokens).float()
        on = sl.Steer(random_steer(zoo(MODEL)).W, sl.readout(half))
        with sl.steered(half, on, 1.0):
            true = half(tokens).float()
    assert contexts(half, tokens).dtype == torch.bfloat16
    gap = (it.apply(z, 1.0) - true).abs().max()
    assert float(gap) < 0.1 * float((z - true).abs().max())


@pytest.mark.parametrize(
    "change, message",
    [
        (("--to", "gguf"), "expected one of logits, lora, lm-steer"),
        (("--out", "joy.bin"), "ends in .safetensors"),
        (("--steer", "none.safetensors"), "no file"),
        (("--model", "toy-128"), "transfer"),
    ],
)
def test_what_cannot_be_is_one_line(
    file: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    options = {"--model": MODEL, "--steer": str(file), "--out": str(tmp_path / "x.safetensors")}
    result = run("export", *(part for pair in (options | dict([change])).items() for part in pair))
    assert result.exit_code == 2 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2
