"""The page on leaving the lab: its code runs from top to bottom."""

import re
from contextlib import chdir
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def test_the_pages_code_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) >= 8  # those that need a server are marked `py`
    names: dict[str, object] = {}
    with chdir(tmp_path):
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
    assert {p.name for p in tmp_path.iterdir()} >= {"joyful", "joy-lora", "joy.pt", "joy"}
