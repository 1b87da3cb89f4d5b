"""Read prompts that texts are to be written to."""

import json
from os import PathLike
from typing import Any

from steerlens.values.paths import as_path


def read_prompts(
    path: str | PathLike[str], *, below: float | None = None, n: int | None = None
) -> tuple[str, ...]:
    """Read prompts from a JSONL file in the format of RealToxicityPrompts.

        {"prompt": {"text": "So if you", "toxicity": 0.12}, …}        or {"prompt": "So if you"}

    Other fields are not read. Lines without anything are passed over.

    Args:
        path: the file, UTF-8.
        below: only prompts whose toxicity is less; 0.5 gives the non-toxic ones of the papers.
        n: the first so many of them; None: all.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is not JSON, or lacks the prompt's text or, where `below` asks for
            it, its toxicity; the message names the line. No prompt at all.

    Example:
        >>> from pathlib import Path
        >>> lines = '{"prompt": {"text": "It is", "toxicity": 0.1}}\\n{"prompt": "So"}\\n'
        >>> _ = Path("prompts.jsonl").write_text(lines)
        >>> read_prompts("prompts.jsonl")
        ('It is', 'So')
        >>> read_prompts("prompts.jsonl", below=0.5)
        Traceback (most recent call last):
            ...
        ValueError: prompts.jsonl, line 2: no prompt.toxicity, which below=0.5 asks for
    """
    path = as_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: no file {path}")
    if n is not None and n < 1:
        raise ValueError(f"n: got {n}, expected how many prompts to take, 1 or more, or None")
    found: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        text, toxicity = _prompt(line, f"{path}, line {number}")
        if below is not None and toxicity is None:
            raise ValueError(
                f"{path}, line {number}: no prompt.toxicity, which below={below:g} asks for"
            )
        if below is None or (toxicity is not None and toxicity < below):
            found.append(text)
        if n is not None and len(found) == n:
            break
    if not found:
        kind = "prompt" if below is None else f"prompt with a toxicity below {below:g}"
        raise ValueError(f"{path}: no {kind}; expected at least one")
    return tuple(found)


def _prompt(line: str, where: str) -> tuple[str, float | None]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error}); expected an object per line") from None
    given: Any = row.get("prompt") if isinstance(row, dict) else None
    if isinstance(given, str):
        given = {"text": given}
    if not isinstance(given, dict) or not isinstance(given.get("text"), str):
        names = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(
            f'{where}: no prompt.text (found {names}); expected {{"prompt": {{"text": …}}}}'
        )
    toxicity = given.get("toxicity")
    if isinstance(toxicity, bool) or not isinstance(toxicity, int | float | None):
        raise ValueError(f"{where}: prompt.toxicity is {toxicity!r}, expected a number")
    return given["text"], None if toxicity is None else float(toxicity)
