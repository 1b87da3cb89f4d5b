"""The command line: it works, and what a user can mend is one clear line and exit code 2."""

import json
import os
import subprocess
import sys
from contextlib import chdir

import pytest
from typer.testing import CliRunner

import steerlens as sl
from steerlens.cli import app


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.jsonl"
    rows = [{"text": text, "label": label} for text, label in sl.toy.corpus("tone", n=40, seed=0)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_help_lists_the_commands_and_is_quick():
    result = run("--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in ("report", "fit", "write"))
    for name in ("report", "fit", "write"):
        assert "--model" in run(name, "--help").output
    code = (
        "import sys, steerlens.cli; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def write(path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


BAD = {
    "missing.jsonl": (None, "missing.jsonl"),
    "latin.csv": (b"text,label\ncaf\xe9,1\n", "not UTF-8"),
    "columns.csv": (b"phrase,label\ngood,1\n", "no column 'text'"),
    "labels.csv": (b"text,label\ngood,5\n", "expected a text"),
    "nan.tsv": (b"text\tlabel\ngood\tnan\n", "nan"),
    "words.csv": (b"text,label\ngood,positive\n", "not a number"),
    "empty.jsonl": (b"", "no rows"),
    "few.csv": (b"text,label\ngood,1\nbad,-1\n", "at least 20"),
    "same.csv": (b"text,label\n" + b"good,1\n" * 30, "every label is 1"),
    "kind.txt": (b"good", "expected one of"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_one_clear_line(tmp_path, name: str):
    content, message = BAD[name]
    path = str(tmp_path / name) if content is None else write(tmp_path / name, content)
    before = set(tmp_path.iterdir())
    result = run(
        "report", "--model", "toy-64", "--data", path, "--out", str(tmp_path / "out"), "--quiet"
    )
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("model", ["toy-65", "./nowhere"])
def test_an_unknown_model_is_named(tmp_path, good, model: str):
    out = tmp_path / "out"
    result = run("report", "--model", model, "--data", str(good), "--out", str(out), "--quiet")
    assert result.exit_code == 2
    assert model in result.stderr and "toy-128" in result.stderr
    assert not out.exists()


def test_other_models_need_data(tmp_path):
    result = run("report", "--model", "gpt2", "--out", str(tmp_path / "out"))
    assert result.exit_code == 2 and "--data" in result.stderr


def test_folders_and_files_that_exist_are_kept(tmp_path, good):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    result = run("report", "--model", "toy-64", "--out", str(out))
    assert result.exit_code == 2 and "--overwrite" in result.stderr
    assert (out / "mine.txt").read_text() == "mine"
    steer = tmp_path / "joy.safetensors"
    steer.write_text("mine")
    result = run("fit", "--model", "toy-64", "--data", str(good), "--out", str(steer))
    assert result.exit_code == 2 and "--overwrite" in result.stderr
    assert steer.read_text() == "mine"
    result = run("report", "--model", "toy-64", "--out", str(tmp_path / "no" / "such" / "folder"))
    assert result.exit_code == 2 and "create it first" in result.stderr


@pytest.fixture
def nothing_loaded(monkeypatch):
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    # the first that it does: modules that are imported meanwhile would keep another load_model for good
    monkeypatch.setattr("steerlens.models.load.as_dtype", load)


@pytest.mark.parametrize(
    "command",
    [
        ("fit", "--data", "GOOD", "--out", "no/joy.safetensors"),
        ("fit", "--data", "GOOD", "--out", "joy.safetensors", "--background-out", "no/b.safetensors"),
        ("move", "--steer", "GOOD", "--to", "toy-128", "--out", "no/joy.safetensors"),
        ("export", "--steer", "GOOD", "--out", "no/joy.safetensors"),
        ("export", "--steer", "GOOD", "--to", "lm-steer", "--out", "no/joy.pt"),
        ("explore", "--steer", "GOOD", "--out", "no/page.html"),
        ("compare", "--data", "GOOD", "--out", "no/run"),
        ("report", "--data", "GOOD", "--out", "no/report"),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_there_is_named_before_anything_is_computed(
    tmp_path, good, nothing_loaded, command
):
    with chdir(tmp_path):
        asked = [str(good) if word == "GOOD" else word for word in command]
        result = run(asked[0], "--model", "toy-64", *asked[1:], "--quiet")
    assert result.exit_code == 2 and "does not exist; create it first" in result.stderr


def test_a_folder_for_a_file_and_a_file_for_a_folder_are_named(tmp_path, good, nothing_loaded):
    (tmp_path / "joy.safetensors").mkdir()
    for command, said in (
        (("fit", "--data", good, "--out", tmp_path / "joy.safetensors"), "is a folder"),
        (("compare", "--data", good, "--out", good), "is a file"),
        (("export", "--steer", good, "--to", "lora", "--out", good, "--overwrite"), "is a file"),
    ):
        result = run(*map(str, command), "--model", "toy-64")
        assert result.exit_code == 2 and said in result.stderr, result.output


def test_two_outputs_are_two_files(tmp_path, good, nothing_loaded):
    with chdir(tmp_path):
        result = run(
            "fit", "--model", "toy-64", "--data", str(good), "--out", "joy.safetensors",
            "--background-out", str(tmp_path / "joy.safetensors"), "--overwrite",
        )  # fmt: skip
    assert result.exit_code == 2
    assert "--background-out" in result.stderr and "the file of --out" in result.stderr


def test_the_package_is_the_command_too():
    found = subprocess.run(
        [sys.executable, "-m", "steerlens", "--version"], check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == f"steerlens {sl.__version__}"


def test_debug_shows_where_an_error_comes_from(tmp_path):
    result = run("report", "--data", str(tmp_path / "missing.csv"), "--debug")
    assert isinstance(result.exception, FileNotFoundError)


def test_fit_then_write(tmp_path, good):
    steer, background = tmp_path / "tone.safetensors", tmp_path / "background.safetensors"
    arguments = (
        "--model",
        "toy-64",
        "--data",
        str(good),
        "--out",
        str(steer),
        "--background-out",
        str(background),
    )
    result = run("fit", *arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(steer)
    assert "held-out NLL" in result.stderr
    assert sl.read_metadata(steer)["report"]["n_texts"] == 40
    assert background.is_file()
    options = (
        "--model",
        "toy-64",
        "--steer",
        str(steer),
        "--prompt",
        "it was",
        "--prompt",
        "i think",
        "--max-new-tokens",
        "5",
    )
    written = run("write", *options, "--strengths=-2,0,2", "--samples", "2")
    assert written.exit_code == 0, written.output
    lines = written.stdout.splitlines()
    assert lines.count("it was") == 2 and lines.count("i think") == 2
    assert sum(line.strip().startswith("-2  (") for line in lines) == 4
    assert all(" nats)" in line for line in lines if line.startswith("  "))
    assert written.stdout == run("write", *options, "--strengths=-2,0,2", "--samples", "2").stdout
    # of one word there is nothing to draw, however hot; and a set that holds all is no set
    hot = ("--strengths=2", "--temperature", "3")
    greedy = run("write", *options, "--strengths=2", "--temperature", "0").stdout
    assert run("write", *options, *hot, "--top-k", "1").stdout == greedy
    assert run("write", *options, *hot, "--top-p", "1e-6").stdout == greedy
    assert run("write", *options, *hot, "--top-p", "1").stdout != greedy
    wrong = run("write", *options, "--strengths=-2,much")
    assert wrong.exit_code == 2 and "--strengths" in wrong.stderr
    other = run("write", "--model", "toy-128", "--steer", str(steer), "--prompt", "it was")
    assert other.exit_code == 2 and "toy-64" in other.stderr


def test_fit_then_move(tmp_path, good):
    steer, moved, texts = (
        tmp_path / "tone.safetensors",
        tmp_path / "moved.safetensors",
        tmp_path / "texts.txt",
    )
    assert (
        run(
            "fit", "--model", "toy-64", "--data", str(good), "--out", str(steer), "--quiet"
        ).exit_code
        == 0
    )
    texts.write_text("\n".join(sl.toy.corpus("tone", n=60, seed=1).texts), encoding="utf-8")
    options = (
        "--model",
        "toy-64",
        "--steer",
        str(steer),
        "--to",
        "toy-96-llama",
        "--out",
        str(moved),
    )
    assert run("move", *options).exit_code == 0
    llama = sl.load_model("toy-96-llama")
    by_rule = sl.load(moved, llama)
    assert by_rule.name == "tone"
    refused = run("move", *options)
    assert refused.exit_code == 2 and "--overwrite" in refused.stderr
    again = (*options, "--overwrite")
    result = run("move", *again, "--rule", "distil", "--text", str(texts), "--kl", "0.03")
    assert result.exit_code == 0, result.output
    found = sl.load(moved, llama)
    assert not (found.W - by_rule.W).norm() < 0.1 * by_rule.W.norm()
    states = sl.collect(llama, sl.toy.corpus("tone", n=60, seed=1).texts, progress=False)
    assert sl.strength_at_kl(found, states, kl=0.03) == pytest.approx(1, rel=1e-2)
    for wrong, message in (
        (("--rule", "distil"), "reads text"),
        (("--rule", "magic"), "expected one of congruence"),
        (("--kl", "0.1"), "pass --text"),
        (("--text", str(texts)), "reads none"),
        (("--text", str(tmp_path / "no.txt"), "--rule", "distil"), "no.txt"),
    ):
        bad = run("move", *again, *wrong)
        assert bad.exit_code == 2 and message in bad.stderr and "Traceback" not in bad.output


def test_labels_in_words_and_on_a_scale_are_said_back(tmp_path) -> None:
    rows = []
    for subject in ("film", "book", "song", "dress", "soup"):  # copies of a text would count once
        for verb in ("was", "seemed", "felt", "is"):
            rows += [
                (f"the {subject} {verb} superb .", "pos", 5),
                (f"the {subject} {verb} awful .", "neg", 1),
            ]
    data = tmp_path / "data.csv"
    data.write_text(
        "Text;Label;stars\n" + "".join(f"{t};{w};{s}\n" for t, w, s in rows), encoding="utf-8"
    )
    steer = str(tmp_path / "joy.safetensors")
    options = ("fit", "--model", "toy-64", "--data", str(data), "--out", steer, "--overwrite")
    by_word = run(*options, "--labels", "pos=1,neg=-1")
    assert by_word.exit_code == 0, by_word.output
    assert "40 texts, labels -1 ×20, 1 ×20" in by_word.stderr
    first = sl.load(steer, sl.load_model("toy-64")).W
    assert run(*options, "--label-column", "stars", "--scale", "1,5").exit_code == 0
    assert (sl.load(steer, sl.load_model("toy-64")).W - first).abs().max() < 1e-5
    for wrong in (
        ("--labels", "pos"),
        ("--labels", "pos=1,neg=-1,pos=-1"),
        ("--scale", "1"),
        ("--scale", "1,nan"),
    ):
        refused = run(*options, *wrong)
        assert refused.exit_code == 2 and wrong[0] in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "--model", "toy-64", "--data", "no.csv", "--out", "x.safetensors"),
        ("fit", "--model", "toy-65", "--data", __file__, "--out", "x.safetensors"),
        ("fit", "--model", "toy-64", "--data", __file__, "--out", "x.safetensors", "--kl", "-1"),
        ("write", "--model", "toy-64", "--steer", "no.safetensors", "--prompt", "my"),
        ("write", "--model", "toy-64", "--steer", __file__, "--prompt", "my", "--strengths", "a"),
        (
            "move",
            "--model",
            "toy-64",
            "--to",
            "toy-128",
            "--steer",
            __file__,
            "--out",
            "x.safetensors",
            "--rule",
            "distil",
        ),
        (
            "move",
            "--model",
            "toy-64",
            "--to",
            "toy-129",
            "--steer",
            __file__,
            "--out",
            "x.safetensors",
        ),
        ("report", "--model", "toy-64", "--data", "no.csv"),
    ],
    ids=lambda arguments: " ".join(arguments[:5]),
)
def test_what_is_wrong_is_said_before_anything_heavy_is_imported(
    tmp_path, arguments: tuple[str, ...]
) -> None:
    code = "import sys; from steerlens.cli import app\ntry: app(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (
        done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    )
    assert done.stdout.strip() == "False"


def test_the_version_is_said() -> None:
    assert run("--version").stdout == f"steerlens {sl.__version__}\n"


def test_a_steer_is_written_with_under_conditions(tmp_path, good):
    model = sl.load_model("toy-64")
    fit = sl.fit_steer(model, sl.read_labelled(good), progress=False)
    path = str(sl.save(fit, tmp_path / "tone.safetensors"))
    asked = ("write", "--model", "toy-64", "--steer", path, "--prompt", "the film was", "--strengths=8")  # fmt: skip
    plain, gated, shut = (run(*asked, *more) for more in ((), ("--when", "from 6"), ("--when", "prompt")))  # fmt: skip
    assert plain.exit_code == gated.exit_code == shut.exit_code == 0
    assert len({plain.output, gated.output, shut.output}) == 3
    assert "(0.000 nats)" in shut.output and "(0.000 nats)" not in gated.output
    bad = run(*asked, "--when", "often")
    assert bad.exit_code == 2 and "entropy > 1.5" in bad.stderr


@pytest.fixture(scope="module")
def steer(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("steers")
    states = sl.collect(
        sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0), progress=False
    )
    fit = sl.fit_steer(states, solver="closed-form", progress=False)
    return str(sl.save(fit, folder / "tone.safetensors"))


def test_a_warning_is_a_note_in_one_line_and_another_encoding_gets_what_it_can_show(
    steer: str,
) -> None:
    asked = ("--prompt", "the zyxt 😀", "--max-new-tokens", "3", "--strengths=2")
    done = subprocess.run(
        [sys.executable, "-m", "steerlens.cli", "write", "--model", "toy-64", "--steer", steer, *asked],
        capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"the zyxt \\U0001f600" in done.stdout
    notes = done.stderr.splitlines()
    assert notes and all(line.startswith(b"note: ") for line in notes), done.stderr
    assert len(set(notes)) == len(notes)


def test_what_says_how_a_fit_went_can_be_shown_by_a_terminal_of_another_encoding(good) -> None:
    fit = sl.fit_steer(sl.load_model("toy-64"), sl.read_labelled(good), solver="closed-form")
    for shown in (str(fit.report), repr(fit.value), str(fit.report.verdict)):
        shown.encode("cp1252")


@pytest.mark.parametrize(
    "wrong",
    [
        "write --steer {junk} --prompt my", "write --steer {folder} --prompt my", "write --steer {steer} --prompt \ud800",
        "write --steer {steer} --prompt my --device cuda:9", "write --steer {steer} --prompt my --temperature inf",
        "write --steer {steer} --prompt my --top-p 1.5",
        "write --steer {steer} --prompt my --strengths=1e999", "move --steer {junk} --to toy-128 --out {new}",
        "move --steer {steer} --to toy-128 --out {new} --device x", "move --steer {steer} --to toy-128 --out no/{new}",
        "explore --steer {steer} --strengths=a --out {new}.html", "explore --steer {junk} --out {new}.html",
        "compare --data {data} --out {data}", "compare --data {data} --out {new} --kl nan",
        "compare --data {data} --out {new} --device x", "report --model toy-64 --data {data} --out {new}.d --dtype int3",
        "compare --data {data} --out {new} --method magic", "export --steer {steer} --out {new} --to x",
        "export --steer {steer} --out {new} --rank 999", "export --steer {steer} --out {new}.pt --to lora --strength nan",
        "fold --steer {steer} --strength nan --out {new}.d", "fold --steer {junk} --strength 1 --out {new}.d",
        "fit --data {folder} --out {new}", "fit --data {data} --out {new} --scale 1,1", "fit --data {junk} --out {new}",
        "report --data {data} --seed 99999999999999999999 --out {new}.d", "report --data {data} --labels a --out {new}.d",
    ],
)  # fmt: skip
def test_whatever_is_wrong_is_one_line(tmp_path, good, steer: str, wrong: str) -> None:
    junk = write(tmp_path / "junk.safetensors", b"\0" * 99)
    before = set(tmp_path.iterdir())
    names = {"junk": junk, "folder": ".", "steer": steer, "data": str(good), "new": "x.safetensors"}
    command, *options = (part.format(**names) for part in wrong.split())
    with chdir(tmp_path):
        result = run(command, "--model", "toy-64", *options)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.exception
    *_, last = result.stderr.splitlines()  # behind what says how far it is
    assert last.startswith("error: ") and result.stderr.count("error: ") == 1, result.stderr
    assert set(tmp_path.iterdir()) == before


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    code = """
import typer
from steerlens.cli.input import plain_errors
def say():
    with plain_errors(debug=False):
        input()
        print("y" * 99_999)
typer.run(say)
"""
    command = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert command.stdin and command.stdout and command.stderr
    command.stdout.close()
    command.stdin.write(b"\n")
    command.stdin.close()
    assert command.stderr.read() == b"" and command.wait() == 1
    command.stderr.close()


def test_export_refuses_what_its_form_does_not_have(good, tmp_path):
    steer = str(tmp_path / "tone.safetensors")
    assert run("fit", "--model", "toy-64", "--data", str(good), "--out", steer).exit_code == 0
    for to, option in (
        ("logits", "--strength=3"),
        ("lm-steer", "--strength=3"),
        ("lora", "--holes"),
    ):
        out = str(tmp_path / "out.safetensors")
        done = run(
            "export", "--model", "toy-64", "--steer", steer, "--out", out, "--to", to, option
        )
        assert done.exit_code == 2 and option.partition("=")[0] in done.output


def test_quiet_still_says_what_was_left_out_of_the_users_data(tmp_path):
    rows = [
        "review\tmood",
        "\t1",
        *(f"{text}\t{y}" for text, y in sl.toy.corpus("tone", n=40, seed=0)),
    ]
    path, out = tmp_path / "r.tsv", str(tmp_path / "q.safetensors")
    path.write_text("\n".join(rows), encoding="utf-8")
    columns = ("--text-column", "review", "--label-column", "mood", "--dropna", "--quiet")
    done = run("fit", "--model", "toy-64", "--data", str(path), "--out", out, *columns)
    assert done.exit_code == 0 and "1 of 41 rows are left out" in done.output
