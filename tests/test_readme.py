"""The README's code runs, and prints lines of the kind that the README shows."""

import contextlib
import io
import re
from pathlib import Path

import pytest

NUMBERS = re.compile(r"\d")
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_fifteen_lines_run_and_print_the_lines_that_the_readme_shows():
    code = re.search(r"## Fourteen lines\n+```python\n(.*?)```", README, re.DOTALL)
    shown = re.search(r"```text\n(.*?)```", README, re.DOTALL)
    assert code
    assert shown
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code[1], "README.md", "exec"), {})
    ours, theirs = printed.getvalue().splitlines(), shown[1].splitlines()
    assert len(ours) == len(theirs)
    # numbers and sampled words may change with the machine's last digits, what the lines are about
    # may not
    for new, old in zip(ours, theirs, strict=True):
        assert NUMBERS.split(new)[0][:4] == NUMBERS.split(old)[0][:4]


def test_the_code_is_no_longer_than_it_says():
    code = re.search(r"## Fourteen lines\n+```python\n(.*?)```", README, re.DOTALL)
    assert code
    assert len([line for line in code[1].splitlines() if line.strip()]) <= 15


def test_every_file_that_the_readme_links_is_there():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert not [link for link in links if not (Path(__file__).parent.parent / link).exists()]


def test_every_notebook_is_kept_with_its_pictures():
    found = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
    assert found
    assert not [
        path.name for path in found if '"image/png"' not in path.read_text(encoding="utf-8")
    ]
