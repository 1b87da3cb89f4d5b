"""Write files whole: at once, or not at all."""

import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a name beside a path to write to, and put what was written there in its place: at once,
    or not at all.

    Each caller gets a name of its own, so that two jobs that write one file do not meet: the last
    to finish wins. It begins with a dot and the path's name; one that was killed leaves its file
    behind.

    Raises:
        OSError: the system's own (a full disk, one that is read only), under the path's name.
    """
    name = ""
    try:
        there = Path(os.path.realpath(path))  # what a link leads to, not the link
        aside = there.with_name(f".{path.name}.{secrets.token_hex(6)}")
        # as the user makes new files, where tempfile's are for the owner only
        os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        name = str(aside)
        mode = (there if there.exists() else aside).stat().st_mode
        yield aside
        os.chmod(name, stat.S_IMODE(mode))
        os.replace(name, there)
    except BaseException as error:
        if name:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, SafetensorError):
            raise OSError(f"{path}: {error}; nothing was written") from error
        if isinstance(error, OSError) and error.errno and _is_aside(error.filename, path):
            said = f"{error.strerror}; nothing was written"
            raise OSError(error.errno, said, str(path)) from None
        raise


def _is_aside(name: Any, path: Path) -> bool:
    """Tell whether an error is about the file beside a path, of which a user knows nothing."""
    return name is None or Path(name).name.startswith(f".{path.name}.")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole."""
    with written_whole(path) as aside:
        aside.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole; NaN and infinity are refused, they are not JSON."""
    write_bytes(
        path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    )
