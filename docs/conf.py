"""The documentation site: `make docs`. What can be had from the code is made here, not written."""

import re
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from _docstrings import as_rest, leave_out  # noqa: E402
from _math import add_renderer  # noqa: E402
from _pages import linked, sized, write_pages  # noqa: E402
from sphinx.errors import ExtensionError  # noqa: E402

LOADED = re.compile(
    r"<(?:script|img|iframe)[^>]* src=.?https?:[^>]*>|<link[^>]*stylesheet[^>]*https?:[^>]*>"
)

_about = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
project, release = _about["name"], _about["version"]
author = copyright = "steerlens authors"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

# tutorials are shown with the outputs that are stored in them
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": False}
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]

html_theme = "furo"
html_math_renderer = "mathml"
html_title = "steerlens"
html_static_path = ["_static"]
html_extra_path = ["made/site"]
html_css_files = ["extra.css"]
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


def lead_on(app, docname: str, source: list[str]) -> None:
    """Lead links that hold in the repository, as a reader of the files follows them, to pages."""
    if not docname.startswith("made/"):
        source[0] = sized(linked(source[0], HERE), HERE)


def loads_nothing(app, error: Exception | None) -> None:
    """Stop where a page would load a script or a style sheet from elsewhere."""
    if error is not None:
        return
    for page in Path(app.outdir).rglob("*.html"):
        if found := LOADED.search(page.read_text(encoding="utf-8")):
            raise ExtensionError(f"{page}: loads {found[0]}; keep it in docs/_static")


def setup(app) -> None:
    """Write the pages that are made from the code, and read docstrings as they are written."""
    write_pages(HERE)
    add_renderer(app)
    app.connect("source-read", lead_on)
    app.connect("build-finished", loads_nothing)
    app.connect("autodoc-process-docstring", as_rest, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", leave_out)
