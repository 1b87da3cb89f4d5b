"""The pages of the site that are made from the repository: tutorials, figures, the API, the log."""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from _docstrings import home_of
from PIL import Image

import steerlens

ROOT = Path(__file__).parent.parent
ROOMS = {
    "show": "Figures and pages",
    "analysis": "Reading, moving, comparing",
    "export": "Leaving the lab: servers, checkpoints, adapters, the hub",
    "methods": "Methods: what is fitted, and how",
    "evaluate": "Measures: what an intervention is worth and costs",
    "toy": "The toy world",
    "models": "Models: the only part that knows the libraries of models",
    "values": "Values: the nouns",
    "maths": "Mathematics: tensors in, tensors out",
}
VERBS = {
    "Load, read, collect": ["load_model", "read_labelled", "Labelled", "pair", "collect", "States", "readout", "Readout"],
    "Fit": ["fit_steer", "fit_split_halves", "natural_metric", "Metric", "Fit", "Report", "Training", "Steer"],
    "Write and score": ["generate", "score", "steered", "strength_at_kl", "Intervention"],
    "Read": ["singular_words", "spectrum", "split_half_reliability", "highlight", "infer_strength", "classify"],
    "Move": ["transfer", "transfer_report", "align"],
    "Compare": ["fit_reft", "Reft", "fit_prompt", "SoftPrompt", "label_curve", "gap_closed", "written_attribute"],
    "Keep": ["save", "load", "read_metadata"],
}  # fmt: skip


def write_pages(docs: Path) -> None:
    """Write everything that is made into `docs/made`; a file that is as it was is left alone."""
    made = docs / "made"
    pages = {
        "gallery.md": gallery(),
        "log.md": copied("LOG.md"),
        "changes.md": copied("CHANGELOG.md"),
        "contributing.md": copied("CONTRIBUTING.md"),
        "cite.md": citation(),
        "tutorials.md": tutorials(),
        **{f"tutorials/{path.name}": tutorial(path) for path in notebooks()},
        **api(),
    }
    if others := unlisted(docs):
        pages["more.md"] = (
            "# More\n\n```{toctree}\n:maxdepth: 1\n\n" + "\n".join(others) + "\n```\n"
        )
    for name, content in pages.items():
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
    for path in made.rglob("*.*"):
        if str(path.relative_to(made)) not in pages and "site" not in path.parts:
            path.unlink()
    example(made / "site" / "explorer.html")


def unlisted(docs: Path) -> list[str]:
    """Return the pages that no list of the first page has."""
    index = (docs / "index.md").read_text(encoding="utf-8").splitlines()
    found = [path.stem for path in sorted(docs.glob("*.md")) if path.stem != "index"]
    return [f"/{name}" for name in found if not any(fnmatch(name, line) for line in index)]


def example(path: Path) -> None:
    """Write an explorer page to play with, unless it is there."""
    if path.exists():
        return
    from steerlens.show.explorer.build import Known, explore

    model = steerlens.load_model("toy-64")
    fits, known = {}, {}
    for name, attribute in (("joy", "sentiment"), ("manners", "tone")):
        states = steerlens.collect(
            model, steerlens.toy.corpus(attribute, n=1000, seed=0), progress=False
        )
        fit = fits[name] = steerlens.fit_steer(states, name=name, progress=False)
        halves = steerlens.fit_split_halves(states, fit, pairs=2, progress=False)
        metric = steerlens.natural_metric(states)
        words = steerlens.singular_words(
            fit, rank=2, tokens=8, metric=metric, states=states, refits=halves
        )
        known[name] = Known(words=words)
    prompts = ["the film was", "this soup is", "my friend", "the waiter"]
    path.parent.mkdir(parents=True, exist_ok=True)
    explore(model, fits, prompts, known=known).save(path)


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def tutorials() -> str:
    """Return the list of the tutorials."""
    rows = "\n".join(f"tutorials/{path.stem}" for path in notebooks())
    return (
        "# Tutorials\n\nBegin with the workshop, or with *A first steer*; *Your own data* begins with your file. "
        "Each is a notebook that runs on the models of the package, without a download; "
        "its outputs are those of the last full check. The files are in `notebooks/`.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{rows}\n```\n"
    )


def tutorial(path: Path) -> str:
    """Return a notebook without what needs a kernel, bars of progress, and with links that open it
    where one runs."""
    book = json.loads(path.read_text(encoding="utf-8"))
    if links := open_elsewhere(path.stem, _cited().get("repository-code", "")):
        book["cells"].insert(
            1, {"cell_type": "markdown", "id": "elsewhere", "metadata": {}, "source": links}
        )
    book["metadata"].pop("widgets", None)
    for cell in book["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [one for one in cell["outputs"] if not _is_widget(one)]
        if cell["cell_type"] == "markdown":
            cell["source"] = linked("".join(cell["source"]), path.parent)
    return json.dumps(book)


def open_elsewhere(name: str, repository: str) -> str:
    """Return a line that opens a notebook in Colab and on GitHub.

    Nothing as long as the repository has no address there (`repository-code` in CITATION.cff). No
    badges: the site loads no picture from elsewhere.
    """
    path = repository.rstrip("/").removeprefix("https://github.com/")
    if path == repository.rstrip("/"):
        return ""
    at = f"{path}/blob/main/notebooks/{name}.ipynb"
    return (
        f"[Open in Colab](https://colab.research.google.com/github/{at}), where the first cell is to be "
        f"`%pip install git+https://github.com/{path}`, or [on GitHub](https://github.com/{at})."
    )


def _cited() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def _is_widget(output: dict[str, Any]) -> bool:
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def gallery() -> str:
    """Return all figures that are kept, with what they show and the command that makes them."""
    parts = [
        "# Gallery\n\nEvery figure has a script of its own, which writes PDF, PNG and its numbers as JSON to "
        "`figures/out/`; those below are kept in `figures/gallery/`.\n"
    ]
    pictures = sorted(path.stem for path in (ROOT / "figures" / "gallery").glob("*.png"))
    for script, names in by_script(pictures).items():
        said = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
        head, _, rest = said.partition("\n\n")
        rest = "\n\n".join(p for p in rest.split("\n\n") if not p.lstrip().startswith("python "))
        rest = re.sub(r"\s*Writes figures/out/\S+", "", rest).strip()
        title = script.stem.replace("_", " ")
        parts.append(f"## {title[0].upper()}{title[1:]}\n\n{escaped(head)}\n\n{escaped(rest)}\n")
        for name in names:
            parts.append(
                f"![{head.split('.')[0]}](../../figures/gallery/{name}.png)\n\n"
                f"```sh\n{command_of(name, script)}\n```\n"
            )
    return sized("\n".join(parts), ROOT / "docs" / "made")


def command_of(name: str, script: Path) -> str:
    """Return the command that made a picture, which its numbers say where they are of one run."""
    said = json.loads((ROOT / f"figures/gallery/{name}.json").read_text(encoding="utf-8"))
    known = said.get("command") if isinstance(said, dict) else None
    return known or f"python figures/{script.name}"


def by_script(pictures: list[str]) -> dict[Path, list[str]]:
    """Return each script with its pictures: those of its name, with the words it was called with
    behind it."""
    found: dict[Path, list[str]] = {}
    for name in pictures:
        script = ROOT / "figures" / f"{name}.py"
        while not script.is_file():
            script = script.with_stem(script.stem.rpartition("_")[0])
        found.setdefault(script, []).append(name)
    return found


def copied(name: str) -> str:
    """Return a page of the repository's root."""
    return linked((ROOT / name).read_text(encoding="utf-8"), ROOT)


def citation() -> str:
    """Return how to cite the package and the paper that it builds on, from CITATION.cff."""
    ours = _cited()
    parts = [f"# Citation\n\n{ours['message']}\n"]
    for key, kind, one in (
        ("steerlens", "software", ours),
        ("han2024word", "inproceedings", ours["references"][0]),
    ):
        authors = " and ".join(
            a.get("name") or f"{a['family-names']}, {a['given-names']}" for a in one["authors"]
        )
        fields = {
            "title": one["title"],
            "author": authors if kind == "inproceedings" else f"{{{authors}}}",
            "booktitle": one.get("collection-title"),
            "version": one.get("version"),
            "year": one.get("year"),
            "url": one.get("url"),
        }
        rows = ",\n".join(f"  {name} = {{{x}}}" for name, x in fields.items() if x)
        parts.append(f"```bibtex\n@{kind}{{{key},\n{rows}\n}}\n```\n")
    return "\n".join(parts)


PAGES = {
    "CITATION.cff": "/made/cite.md",
    "LOG.md": "/made/log.md",
    "CHANGELOG.md": "/made/changes.md",
    "CONTRIBUTING.md": "/made/contributing.md",
    "README.md": "/index.md",
}


def linked(text: str, folder: Path) -> str:
    """Return Markdown whose links within the repository lead to pages of the site, or are the names
    of files."""

    def one(found: re.Match) -> str:
        label, target = found[1], found[2]
        if re.match(r"(https?:|#)", target) or found[0].startswith("!"):
            return found[0]
        path = (folder / target.split("#")[0]).resolve()
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else target
        if name in PAGES:
            return f"[{label}]({PAGES[name]})"
        if name.startswith("notebooks/") and path.suffix == ".ipynb":
            return f"[{label}](/made/tutorials/{path.name})"
        if name.startswith("docs/") and path.suffix == ".md":
            return f"[{label}](/{name.removeprefix('docs/')})"
        return f"{label} (`{name}`)" if label != name else f"`{name}`"

    return re.sub(r"!?\[([^\]]*)\]\(([^)\s]+)\)", one, text)


PIXELS = 120
"""Of a page for an inch of a figure, as far as the page is wide enough."""


def sized(text: str, folder: Path) -> str:
    """Return Markdown whose figures are shown at the size they are drawn for: their letters are alike."""

    def one(found: re.Match) -> str:
        with Image.open(
            (folder / found[1]).resolve()
        ) as picture:  # the folder need not be there yet
            if (dpi := picture.info.get("dpi")) is None:
                return found[0]
            return f"{found[0]}{{width={round(PIXELS * picture.width / dpi[0])}px}}"

    return re.sub(r"!\[[^\]]*\]\(([^)\s]+\.png)\)(?!\{)", one, text)


def escaped(text: str) -> str:
    """Return prose of a docstring as Markdown; what stands further in is a block of code."""
    return "\n".join(
        line if line.startswith("    ") else re.sub(r"(?<!`)([*_<])(?!`)", r"\\\1", line)
        for line in text.split("\n")
    )


# ---- the API ----


def api() -> dict[str, str]:
    """Return the pages of the reference: the public names by what they are for, and a page per
    room."""
    homes = steerlens._HOME
    listed = {name for names in VERBS.values() for name in names}
    others = {"More": sorted(homes.keys() - listed)} if homes.keys() - listed else {}
    parts = [
        "# Reference\n\n`import steerlens as sl` has these names; the rooms below have the rest.\n"
    ]
    for title, names in (VERBS | others).items():
        rows = [
            f"| {{py:obj}}`sl.{name} <{home_of(name)}>` | {_first(getattr(steerlens, name))} |"
            for name in names
        ]
        parts.append(f"## {title}\n\n| | |\n|---|---|\n" + "\n".join(rows) + "\n")
    rooms = "\n".join(rooms_of_package())
    parts.append(f"## Rooms\n\n```{{toctree}}\n:maxdepth: 1\n\n{rooms}\n```\n")
    return {
        "api/index.md": "\n".join(parts),
        **{f"api/{page}.md": text for room in rooms_of_package() for page, text in _room(room)},
    }


def rooms_of_package() -> dict[str, str]:
    """Return the rooms that the package has, with what each is for; one that is not listed says so
    itself."""
    there = {path.parent.name: path for path in (ROOT / "steerlens").glob("*/__init__.py")}
    found = {room: title for room, title in ROOMS.items() if room in there}
    for room in sorted(there.keys() - ROOMS.keys() - {"cli"}):
        found[room] = _said(there[room])
    return found


def _said(path: Path) -> str:
    """Return what a package says that it is for."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.parent.name
    return said.split("\n\n")[0].replace("\n", " ").rstrip(".")


def _room(room: str) -> Iterator[tuple[str, str]]:
    """Yield the pages of a room: its own modules, and a page for each package in it."""
    folder = ROOT / "steerlens" / room
    inner = sorted(path.parent for path in folder.glob("*/__init__.py"))
    parts = [f"# steerlens.{room}\n\n{rooms_of_package()[room]}.\n"]
    if inner:
        pages = "\n".join(f"{room}.{path.name}" for path in inner)
        parts.append(f"```{{toctree}}\n:maxdepth: 1\n\n{pages}\n```\n")
    yield room, "\n".join([*parts, *_modules(folder.glob("*.py"))])
    for path in inner:
        head = f"# steerlens.{room}.{path.name}\n\n{_said(path / '__init__.py')}.\n"
        yield f"{room}.{path.name}", "\n".join([head, *_modules(path.rglob("*.py"))])


def _modules(paths: Iterable[Path]) -> list[str]:
    """Return the sections of the modules that have public names."""
    parts = []
    for path in sorted(paths):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public = [
            node for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        ]  # fmt: skip
        if public and not path.name.startswith("_"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            parts.append(
                f"## {module.removeprefix('steerlens.')}\n\n```{{eval-rst}}\n.. automodule:: {module}\n```\n"
            )
    return parts


def _first(found: Any) -> str:
    """Return the first sentence of a docstring, in one line of a table."""
    said = re.split(r"(?<=[.:])\s", (found.__doc__ or "").strip().replace("\n", " "), maxsplit=1)[0]
    return re.sub(r"\s+", " ", said).rstrip(":").replace("|", "\\|")
