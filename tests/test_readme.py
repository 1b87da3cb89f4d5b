"""The README's code runs, and prints what the README shows, up to the last digits."""

import contextlib
import io
import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_fifteen_lines_print_what_the_readme_shows():
    code = re.search(r"## Fifteen lines\n+```python\n(.*?)```", README, re.DOTALL)
    shown = re.search(r"```text\n(.*?)```", README, re.DOTALL)
    assert code
    assert shown
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code[1], "README.md", "exec"), {})
    # numbers and sampled words may change in the last digit with the machine; the shape of the output may not
    assert [line[:12] for line in printed.getvalue().splitlines()] == [line[:12] for line in shown[1].splitlines()]


def test_the_code_is_no_longer_than_it_says():
    code = re.search(r"## Fifteen lines\n+```python\n(.*?)```", README, re.DOTALL)
    assert code
    assert len([line for line in code[1].splitlines() if line.strip()]) <= 15


def test_every_file_that_the_readme_links_is_there():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert not [link for link in links if not (Path(__file__).parent.parent / link).exists()]
