"""Write files whole: at once, or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a name beside a path to write to, and put what was written there in its place: at once,
    or not at all.

    Each caller gets a name of its own, so that two jobs that write one file do not meet: the last
    to finish wins. It begins with a dot and the path's name; one that was killed leaves its file
    behind.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)  # mkstemp makes files for the owner only
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole."""
    with written_whole(path) as aside:
        aside.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole; NaN and infinity are refused, they are not JSON."""
    write_bytes(
        path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    )
