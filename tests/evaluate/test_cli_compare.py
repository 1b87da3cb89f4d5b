"""`steerlens compare`."""

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import steerlens as sl
from steerlens.cli import app
from steerlens.evaluate.spend import OwnText


def run(*arguments: object):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "tone.jsonl"
    rows = [{"text": text, "label": label} for text, label in sl.toy.corpus("tone", n=40, seed=0)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_methods_are_fitted_compared_and_kept(data: Path, tmp_path: Path):
    prompts = tmp_path / "begin.jsonl"
    prompts.write_text('{"prompt": {"text": "you are"}}\n{"prompt": {"text": "my"}}\n')
    model = sl.load_model("toy-64")
    saved = sl.save(
        sl.Steer(0.01 * model.W_U @ model.W_U.T, sl.readout(model)), tmp_path / "mine.safetensors"
    )
    options = (
        "--model", "toy-64", "--data", data, "--out", tmp_path / "out", "--method", "log-odds", "--steer", saved,
        "--kl", "0.1", "--scorer", "grammar:tone", "--prompts", prompts, "--quiet",
    )  # fmt: skip
    found = run(*options)
    assert found.exit_code == 0, found.output
    table = pd.read_csv(tmp_path / "out" / "compare.csv")
    assert table.method.tolist() == [
        "base",
        "log-odds",
        "mine",
        "random direction",
        "shuffled labels (log-odds)",
    ]
    assert set(table.kind) == {"begin"} and (table.prompts == 2).all()
    assert all(name in found.output for name in table.method)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "compare.csv", "compare.json", "compare.pdf", "compare.png", "texts"
    }  # fmt: skip
    again = run(*options[:-2], prompts, "--preset", "lm-steer", "--quiet")
    assert again.exit_code == 2 and "samples was 5 and is 25" in again.output


def test_no_row_of_the_table_is_left_out_for_its_name(data: Path, tmp_path: Path):
    for folder in ("s1", "s2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "steer.safetensors").write_text("one of two")
    one, two = (tmp_path / folder / "steer.safetensors" for folder in ("s1", "s2"))
    for given in (
        ("--steer", one, "--steer", two),
        ("--steer", one, "--method", "steer"),
        ("--method", "steer", "--method", "steer"),
    ):
        found = run("--model", "toy-64", "--data", data, "--out", tmp_path / "out", *given)
        assert found.exit_code == 2 and "are both called 'steer' in the table" in found.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", [(), ("--own-text",)])
def test_budgets_are_of_given_texts_or_of_own_ones(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: tuple[str, ...]
):
    asked = []

    def compare(*_: object, kl: object, **others: object) -> None:
        asked.append(kl)
        raise ValueError("enough")

    monkeypatch.setattr("steerlens.evaluate.compare_writing.compare_writing", compare)
    found = run(
        "--model", "toy-64", "--data", data, "--out", tmp_path / "out", "--kl", "0.1,0.2",
        "--scorer", "grammar:tone", "--quiet", *flag,
    )  # fmt: skip
    assert found.exit_code == 2 and "enough" in found.output
    budgets = asked[0].kl if flag else asked[0]
    assert isinstance(asked[0], OwnText) == bool(flag) and list(budgets) == [0.1, 0.2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scorer", "moods"), "--scorer: got 'moods'"),
        (("--method", "magic"), "names: got 'magic', expected some of steer"),
        (("--kl", "x"), "--kl: got 'x', expected numbers"),
        (("--preset", "huge", "--scorer", "grammar:tone"), "preset: got 'huge'"),
        (("--prompts", "none.jsonl"), "no file none.jsonl"),
    ],
)
def test_what_is_wrong_is_one_line(data: Path, tmp_path: Path, options: tuple[str, str], said: str):
    found = run("--model", "toy-64", "--data", data, "--out", tmp_path / "out", "--quiet", *options)
    assert found.exit_code == 2 and said in found.output and "Traceback" not in found.output
    assert not (tmp_path / "out").exists()
