"""The pages of the site: their links lead somewhere, their code names what exists, docstrings become
reST."""

import ast
import importlib.util
import inspect
import re
import sys
from inspect import ismodule
from pathlib import Path

import pytest

import steerlens as sl

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))
CODE = {
    f"{page.stem}-{k}": code
    for page in PAGES
    for k, code in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    )
}


def load(name: str):
    """Load a module of `docs/`, which is no package."""
    sys.path.insert(0, str(DOCS))
    try:
        spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(DOCS))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_within_the_repository_leads_to_a_file(page: Path):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (DOCS / link).exists()]
    assert not missing


@pytest.mark.parametrize("name", CODE)
def test_the_code_of_pages_parses_and_names_what_exists(name: str):
    tree = ast.parse(CODE[name].replace("…", "..."))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "sl":
            assert hasattr(sl, node.attr), node.attr
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "sl.show":
            assert hasattr(sl.show, node.attr), node.attr
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("steerlens"):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.startswith("sl.") and called.count(".") == 1:
                known = inspect.signature(getattr(sl, called.removeprefix("sl."))).parameters
                assert {k.arg for k in node.keywords} <= set(known), called


def test_every_term_that_a_page_links_is_in_the_glossary():
    found = set(re.findall(r"(?m)^([a-z][a-z -]+)$", (DOCS / "glossary.md").read_text("utf-8")))
    used = [
        term.lower()
        for page in PAGES
        for term in re.findall(r"\{term\}`([^`<]+)`", page.read_text(encoding="utf-8"))
    ]
    assert used and set(used) <= found


def test_the_reference_has_every_public_name_once():
    pages = load("_pages")
    listed = [name for names in pages.VERBS.values() for name in names]
    offered = [name for name in sl.__all__ if not ismodule(getattr(sl, name))]
    assert sorted(listed) == sorted(offered) and len(set(listed)) == len(listed)
    rooms = {path.parent.name for path in Path(sl.__file__).parent.glob("*/__init__.py")}
    found = pages.rooms_of_package()
    assert set(found) == rooms - {"cli"} and all(len(title.split()) > 1 for title in found.values())


def test_links_of_copied_pages_lead_to_pages_or_are_names_of_files():
    pages = load("_pages")
    text = (
        "[log](LOG.md) ![x](figures/gallery/x.png) [n](notebooks/01_first_steer.ipynb) [a](https://b.org) "
        "[r](benchmarks/run.py)"
    )
    assert pages.linked(text, pages.ROOT) == (
        "[log](/made/log.md) ![x](figures/gallery/x.png) [n](/made/tutorials/01_first_steer.ipynb) [a](https://b.org) "
        "r (`benchmarks/run.py`)"
    )


def test_the_gallery_shows_every_picture_with_the_command_that_makes_it():
    pages = load("_pages")
    page = pages.gallery()
    pictures = [path.name for path in (pages.ROOT / "figures" / "gallery").glob("*.png")]
    assert all(page.count(f"gallery/{name})") == 1 for name in pictures)
    found = pages.by_script(["scaling", "detox_table_toy", "detox_table_smollm2"])
    assert {script.name: names for script, names in found.items()} == {
        "scaling.py": ["scaling"], "detox_table.py": ["detox_table_toy", "detox_table_smollm2"]
    }  # fmt: skip
    commands = re.findall(r"python (figures/\w+\.py)", page)
    assert len(commands) == len(pictures) and all(
        (pages.ROOT / name).is_file() for name in commands
    )


def test_figures_are_shown_at_the_size_they_are_drawn_for_and_code_is_left_as_it_is():
    pages = load("_pages")
    text = "![a](figures/gallery/ceiling.png) ![b](docs/_static/explorer.png)"
    with pages.Image.open(pages.ROOT / "figures" / "gallery" / "ceiling.png") as picture:
        width = round(120 * picture.width / picture.info["dpi"][0])
    assert 300 < width < 500
    assert pages.sized(text, pages.ROOT) == text.replace(" !", f"{{width={width}px}} !")
    assert pages.escaped("g_k is\n\n    g_k") == "g\\_k is\n\n    g_k"


def test_every_module_with_public_names_has_one_place_in_the_reference():
    pages = load("_pages")
    said = re.findall(r"automodule:: (\S+)", "".join(pages.api().values()))
    assert len(said) == len(set(said)) > 100
    homes = {getattr(getattr(sl, name), "__module__", None) for name in sl.__all__}
    assert {home for home in homes if home and home.startswith("steerlens.")} <= set(said)


def test_a_picture_of_other_arguments_has_the_command_that_its_numbers_keep():
    pages = load("_pages")
    script = pages.ROOT / "figures" / "layers.py"
    known = pages.command_of("layers_reviews-192", script)
    assert known == "python figures/layers.py --model reviews-192 --attribute SST-5"
    assert known in pages.gallery()
    assert pages.command_of("scaling", script.with_stem("scaling")) == "python figures/scaling.py"


def test_notebooks_are_opened_elsewhere_once_there_is_an_address():
    open_elsewhere = load("_pages").open_elsewhere
    found = open_elsewhere("01_first_steer", "https://github.com/lab/steerlens/")
    at = "lab/steerlens/blob/main/notebooks/01_first_steer.ipynb"
    assert f"(https://colab.research.google.com/github/{at})" in found
    assert f"(https://github.com/{at})" in found
    assert open_elsewhere("01_first_steer", "") == ""
    assert open_elsewhere("01_first_steer", "https://example.org/steerlens") == ""


@pytest.mark.parametrize("what", ["data", "attribute", "property"])
def test_what_stands_before_a_colon_is_no_type(what: str):
    napoleon = pytest.importorskip("sphinx.ext.napoleon")
    for lines in (["Tried in turn: few."], ["Of few.", "", "Tried in turn: few."]):
        found = lines[:]
        load("_docstrings").as_rest(None, what, "steerlens.x", re.compile(""), None, found)
        config = napoleon.Config()
        shown = napoleon.GoogleDocstring(found, config, None, what, "x", 1.0, None).lines()
        assert [line for line in shown if line != "\\"] == lines
    bare = napoleon.GoogleDocstring(["Tried: few."], config, None, what, "x", 1.0, None).lines()
    assert ":type: Tried" in bare


def test_docstrings_become_rest():
    docstrings = load("_docstrings")
    lines = [
        "Return `score` of *x* and |y|.", "", "    a = b_U + `c`", "", "Where `W_U` is; the natural metric counts.", "",
        "- one", "  goes on", "", "Args:", "    x: what", "        is long", "            and longer",
    ]  # fmt: skip
    found = docstrings.explained(docstrings.converted(lines))
    assert found[0] == "Return :py:obj:`score <steerlens.models.score.score>` of \\*x* and \\|y|."
    assert found[2:6] == ["::", "", "    a = b_U + `c`", ""]
    assert "Where ``W_U`` is; the :term:`natural metric` counts." in found
    assert found[-3:] == ["    x: what", "        is long", "        and longer"]
