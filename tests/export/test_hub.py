"""A steer with a card, in a folder and on a stand-in of the hub."""

import html
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError

import steerlens as sl
from steerlens.export.hub import from_pretrained, push_to_hub, save_pretrained
from tests.models.zoo import random_steer, zoo


@pytest.fixture(scope="module")
def fit() -> sl.Fit:
    data = sl.toy.corpus("sentiment", n=120, seed=0)
    return sl.fit_steer(sl.collect(zoo("toy-64"), data), name="joy", progress=False)


@pytest.fixture
def folder(fit: sl.Fit, tmp_path: Path) -> Path:
    picture = tmp_path / "a figure.png"
    picture.write_bytes(b"\x89PNG")
    return save_pretrained(
        fit, tmp_path / "joy", base_model="me/toy-64", license="mit", figures=[picture]
    )


def test_a_folder_is_read_back_without_a_network(fit: sl.Fit, folder: Path) -> None:
    model = zoo("toy-64")
    assert torch.equal(from_pretrained(folder, model).W, fit.value.W)
    assert torch.equal(from_pretrained(folder, model, background=True).W, fit.background.W)
    names = {p.name for p in folder.iterdir()}
    assert names == {"steer.safetensors", "background.safetensors", "README.md", "a figure.png"}


@pytest.mark.parametrize("wrong", ["/home/me/gpt2", "a model", "a/b/c", object()])
def test_what_the_hub_would_refuse_is_refused_before(
    fit: sl.Fit, tmp_path: Path, wrong: Any, unchecked: None
) -> None:
    with pytest.raises(ValueError, match="base_model: got .*expected a model's name on the hub"):
        save_pretrained(fit, tmp_path / "joy", base_model=wrong)
    with pytest.raises(ValueError, match="license: got 'MIT License', expected a short name"):
        save_pretrained(fit, tmp_path / "joy", license="MIT License")
    assert not (tmp_path / "joy").exists()


def test_no_background_of_another_fit_stays(fit: sl.Fit, folder: Path) -> None:
    save_pretrained(fit.value, folder)
    assert not (folder / "background.safetensors").exists()
    with pytest.raises((FileNotFoundError, ValueError), match="background"):
        from_pretrained(folder, zoo("toy-64"), background=True)


def test_the_card_says_what_the_report_says(fit: sl.Fit, folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "base_model": "me/toy-64", "license": "mit", "library_name": "steerlens", "model_name": "joy",
        "tags": ["steerlens", "steering", "interpretability"],
    }  # fmt: skip
    for name, text in fit.report.rows():
        assert name == "verdict" or html.escape(name, quote=False).replace("|", "\\|") in body
        assert html.escape(text, quote=False).split("|")[0] in body
    assert f"{fit.report.kl[0]:.4f} nats per token at strength +1" in body
    assert 'load_model("me/toy-64")' in body and "(a%20figure.png)" in body
    assert fit.value.readout.digest[:12] in body


def test_the_cards_example_runs(fit: sl.Fit, tmp_path: Path) -> None:
    folder = save_pretrained(fit, tmp_path / "joy")
    card = (folder / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0]
    code = code.replace("this repository or folder", str(folder)).replace("print(", "str(")
    exec(compile(code, "card", "exec"), {})
    assert "None was stated" in card


def test_a_hostile_name_is_inert(tmp_path: Path) -> None:
    steer = random_steer(zoo("gpt2"), name="<script>x</script>`\n# joy | --- ")
    card = (save_pretrained(steer, tmp_path) / "README.md").read_text(encoding="utf-8")
    head, body = card.split("---\n", 2)[1:]
    assert "<script>" not in body and "\n# joy" not in body
    assert yaml.safe_load(head)["model_name"] == steer.name


def test_figures_that_are_none_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    steer = random_steer(zoo("gpt2"))
    with pytest.raises(ValueError, match=r"'x\.exe'"):
        save_pretrained(steer, tmp_path / "s", figures=["x.exe"])
    with pytest.raises(FileNotFoundError, match=r"x\.png"):
        save_pretrained(steer, tmp_path / "s", figures=["x.png"])
    assert not list(tmp_path.iterdir())


# ---- a stand-in of the hub ----


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder per repository; it refuses what the real one refuses, with the same errors."""
    root = tmp_path / "hub"
    answer = httpx.Response(404, request=httpx.Request("GET", "http://localhost"))

    def create_repo(self, repo_id: str, *, private: Any = None, exist_ok: bool = False) -> Any:
        (root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, commit_message: str, allow_patterns: list[str]
    ) -> str:
        from fnmatch import fnmatch

        for path in Path(folder_path).iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, root / repo_id / path.name)
        return f"hub/{repo_id}"

    def download(repo_id: str, filename: str, **options: Any) -> str:
        assert options == {"revision": None, "token": None, "library_name": "steerlens"}
        if not (root / repo_id).is_dir():
            raise RepositoryNotFoundError("404", response=answer)
        if not (root / repo_id / filename).is_file():
            raise RemoteEntryNotFoundError("404", response=answer)
        return str(root / repo_id / filename)

    stand_in = type(
        "HfApi",
        (huggingface_hub.HfApi,),
        {"create_repo": create_repo, "upload_folder": upload_folder},
    )
    monkeypatch.setattr(huggingface_hub, "HfApi", stand_in)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return root


def test_there_and_back(hub: Path, fit: sl.Fit, folder: Path) -> None:
    (folder / "secrets.txt").write_text("stays here")
    assert push_to_hub(folder, "me/joy") == "hub/me/joy"
    assert torch.equal(from_pretrained("me/joy", zoo("toy-64")).W, fit.value.W)
    assert not (hub / "me/joy/secrets.txt").exists() and (hub / "me/joy/a figure.png").exists()


def test_what_is_not_there_is_named(hub: Path, tmp_path: Path) -> None:
    model = zoo("gpt2")
    with pytest.raises(FileNotFoundError, match="neither a folder nor a repository.*'me/nothing'"):
        from_pretrained("me/nothing", model)
    save_pretrained(random_steer(model), tmp_path / "plain")
    push_to_hub(tmp_path / "plain", "me/plain")
    with pytest.raises(FileNotFoundError, match=r"'me/plain' gives no background\.safetensors"):
        from_pretrained("me/plain", model, background=True)
    with pytest.raises(FileNotFoundError, match="no folder"):
        from_pretrained("./nowhere", model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no steer"):
        from_pretrained(tmp_path / "empty", model)
    with pytest.raises(ValueError, match=r"holds no steer\.safetensors"):
        push_to_hub(tmp_path / "empty", "me/empty")


def test_a_broken_file_is_not_pushed(hub: Path, folder: Path) -> None:
    (folder / "steer.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        push_to_hub(folder, "me/joy")
    assert not hub.exists()


def test_another_model_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="transfer"):
        from_pretrained(folder, zoo("gpt2"))
