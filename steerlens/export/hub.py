"""Steers on the Hugging Face hub, or in a folder that could go there: a file and a card that says
what it is, how good it is, what it costs and how to load it."""

import html
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steerlens.maths.brief import brief
from steerlens.methods.files import load, read_metadata, save
from steerlens.models.hooks import Model
from steerlens.values.atomic import write_bytes
from steerlens.values.fit import Fit, Report, value_of
from steerlens.values.paths import as_path

FILE, BACKGROUND, CARD = "steer.safetensors", "background.safetensors", "README.md"
HUB_ID, LICENSE = re.compile(r"[\w.-]+(/[\w.-]+)?"), re.compile(r"[a-z0-9][a-z0-9.+-]*")
FIGURES = {".png", ".svg", ".jpg", ".jpeg", ".webp", ".pdf"}


def save_pretrained(
    value: Any,
    folder: str | Path,
    *,
    base_model: str | None = None,
    license: str | None = None,
    report: Report | None = None,
    figures: Sequence[str | Path] = (),
) -> Path:
    """Write a steer and its model card to a folder, ready for the hub: look at it, then
    `push_to_hub`.

    The folder holds `steer.safetensors`, of a `Fit` also `background.safetensors`, `README.md` with
    the card, and the figures. The card is made from the report: verdict, numbers, costs, settings.

    Args:
        value: a `Fit`, or what `steerlens.save` takes.
        folder: made where it does not exist; files of these names in it are replaced, or taken away.
        base_model: the model's hub id, for the card's metadata and its example.
        license: a short name as the hub has them, such as "mit"; the card says so where none is
            given.
        report: of the fit; a `Fit` brings its own.
        figures: files of pictures, copied and shown.

    Raises:
        ValueError: a value that cannot be saved, a figure of another kind.
        FileNotFoundError: a figure that is not there.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> fit = sl.fit_steer(sl.collect(model, sl.toy.corpus("sentiment", n=100, seed=0)))
        >>> folder = save_pretrained(fit, "joy", base_model="toy-64", license="mit")
        >>> from_pretrained(folder, model).name == fit.value.name
        True
    """
    pictures = [as_path(figure, "figures") for figure in figures]
    for picture in pictures:
        if picture.suffix.lower() not in FIGURES:
            raise ValueError(
                f"figures: got {picture.name!r}, expected one of {', '.join(sorted(FIGURES))}"
            )
        if not picture.is_file():
            raise FileNotFoundError(f"figures: no file {picture}")
    for name, given, form, expected in (
        ("base_model", base_model, HUB_ID, "a model's name on the hub, e.g. 'gpt2' or 'owner/model'"),
        ("license", license, LICENSE, "a short name as the hub has them, e.g. 'mit', 'apache-2.0' or 'other'"),
    ):  # fmt: skip
        if given is not None and not (isinstance(given, str) and form.fullmatch(given)):
            raise ValueError(f"{name}: got {brief(given)}, expected {expected}")
    folder = as_path(folder, "folder")
    folder.mkdir(parents=True, exist_ok=True)
    save(value, folder / FILE, report=report)
    if isinstance(value, Fit):
        report = report or value.report
        save(value.background, folder / BACKGROUND, report=report)
    else:  # one of another fit would be taken for this steer's
        (folder / BACKGROUND).unlink(missing_ok=True)
    for picture in pictures:
        shutil.copyfile(picture, folder / picture.name)
    text = _card(value_of(value), report, base_model, license, [p.name for p in pictures])
    write_bytes(folder / CARD, text.encode())
    return folder


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "A steer, by steerlens",
) -> str:
    """Upload a folder that `save_pretrained` wrote to the Hugging Face hub, and return its address.

    Args:
        folder: as `save_pretrained` left it; you may have edited its card.
        repo_id: "you/joy"; made where it does not exist.
        private: of a repository that is made; None: as your account has it.
        token: None: the one you are logged in with.
        commit_message: of the upload.

    Raises:
        ValueError: the folder holds no steer.
    """
    from huggingface_hub import HfApi

    folder = as_path(folder, "folder")
    for name in (FILE, CARD):
        if not (folder / name).is_file():
            raise ValueError(f"folder: {folder} holds no {name}; write it with save_pretrained")
    read_metadata(folder / FILE)  # raises where it is cut short
    api = HfApi(token=token)
    repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    allowed = [FILE, BACKGROUND, CARD, *(f"*{suffix}" for suffix in sorted(FIGURES))]
    return str(
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=commit_message,
            allow_patterns=allowed,
        )
    )


def from_pretrained(
    name: str | Path,
    model: Model,
    *,
    background: bool = False,
    revision: str | None = None,
    token: str | None = None,
    kinds: Sequence[type] = (),
) -> Any:
    """Load a steer from a folder, or from the Hugging Face hub, bound to a model.

    Args:
        name: a folder that `save_pretrained` wrote (no network), or a hub id such as "you/joy"
            (one download, then the cache).
        model: the one it was fitted on.
        background: the background of the fit in its place.
        revision: a branch, tag or commit of the hub's repository.
        token: for a private one; None: the one you are logged in with.
        kinds: classes of your own that the file may hold, as for `steerlens.load`.

    Raises:
        FileNotFoundError: the folder holds no steer, or the hub no such repository or file.
        ValueError: the file is broken, or the steer lives on another `W_U` than the model's.
    """
    wanted, folder = BACKGROUND if background else FILE, as_path(name, "name")
    if folder.is_dir():
        if not (folder / wanted).is_file():
            raise FileNotFoundError(f"name: the folder {folder} holds no {wanted}")
        return load(folder / wanted, model, kinds=kinds)
    if str(name).startswith((".", "/", "~")) or str(name).count("/") > 1:
        raise FileNotFoundError(f"name: no folder {name}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    try:
        path = hf_hub_download(
            str(name), wanted, revision=revision, token=token, library_name="steerlens"
        )
    except RepositoryNotFoundError:
        raise FileNotFoundError(
            f"name: neither a folder nor a repository on the hub: {str(name)!r}; is it private (token=…)?"
        ) from None
    except EntryNotFoundError as error:
        raise FileNotFoundError(f"name: {str(name)!r} gives no {wanted}: {error}") from None
    return load(path, model, kinds=kinds)


def _card(
    value: Any, report: Report | None, base: str | None, license: str | None, figures: list[str]
) -> str:
    """Return the card: metadata in YAML, then what a reader needs, in Markdown."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=base, license=license, library_name="steerlens", model_name=value.name,
        tags=["steerlens", "steering", "interpretability"],
    )  # fmt: skip
    r = value.readout
    lines = [
        "---", data.to_yaml(), "---", "", f"# {_plain(value.name)}", "",
        f"A {_plain(value.file_kind)} on `{_plain(r.model_id)}` (d_model {r.d_model}, {r.d_vocab:,} words, read-out "
        f"`{r.digest[:12]}`), made with steerlens: strength 0 is the plain model, a positive one leads towards texts of label 1, "
        "a negative one towards label −1.", "",
    ]  # fmt: skip
    if report is not None:
        verdict = "not judged" if report.verdict is None else _plain(str(report.verdict))
        plus, minus = report.kl
        lines += [
            f"**Verdict:** {verdict}", "",
            f"**What it costs:** KL(plain ‖ steered) {plus:.4f} nats per token at strength +1, {minus:.4f} at −1; one product of "
            f"size {r.d_model} × {r.d_model} per token, none once it is folded.", "",
            "## Numbers", "", "Nats per token; held-out texts were not fitted on.", "", "| | |", "|---|---|",
            *(f"| {_cell(name)} | {_cell(text)} |" for name, text in report.rows() if name != "verdict"), "",
        ]  # fmt: skip
    if figures:
        lines += ["## Figures", "", *(f"![{_plain(name)}]({_link(name)})" for name in figures), ""]
    model = json.dumps(base or r.model_id)
    lines += [
        "## How to load it", "", "```python", "import steerlens as sl", "", f"model = sl.load_model({model})",
        'steer = sl.export.hub.from_pretrained("this repository or folder", model)',
        'print(sl.generate(model, ["the film was"], steer, strengths=(-2, 0, 2)))', "```", "",
        "The file is safetensors with JSON; nothing in it runs. Another model is refused by the digest of its unembedding.", "",
        "## Licence", "", _plain(license) if license else "None was stated. Ask before you use it.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Return text that Markdown and HTML show as it is, on one line."""
    return html.escape(" ".join(text.split()), quote=False).replace("`", "'")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _link(name: str) -> str:
    from urllib.parse import quote

    return quote(name)
