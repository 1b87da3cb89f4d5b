"""Docstrings of the package, which indent formulas and write code in single backticks, as reST."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import steerlens

GLOSSARY = Path(__file__).parent / "glossary.md"
# terms that are words of every day too would be links everywhere
EVERYDAY = {"steer", "strength", "label", "cost", "gain", "kept", "span", "states", "evidence"}
TERMS = sorted(set(re.findall(r"(?m)^([a-z][a-z -]+)$", GLOSSARY.read_text("utf-8"))) - EVERYDAY)
SECTION = re.compile(r"(Args|Returns|Raises|Yields|Source|Example|Examples)\b.*:\s*(.*)$")
ITEM = re.compile(r"(`[^`]+`|\**\w[\w., *|`']*):\s")


def as_rest(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make blocks that stand further in literal, and continuation lines stand where their item
    does."""
    value = what in ("data", "attribute", "property")  # its class may be another's
    if ((not value and getattr(obj, "__module__", "")) or name).split(".")[0] == "steerlens":
        lines[:] = explained(converted(lines))
        if value:
            lines.insert(0, "\\ ")  # or napoleon takes what stands before a colon for a type


def leave_out(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what Python says by itself of the fields of tuples, and what others wrote."""
    said = getattr(obj, "__doc__", None) or ""
    ours = str(getattr(obj, "__module__", None) or "steerlens").startswith("steerlens")
    if said.startswith("Alias for field number") or (
        callable(obj) and what == "module" and not ours
    ):
        return True
    return None


def converted(lines: list[str]) -> list[str]:
    """Return the lines of a docstring as reST that napoleon understands.

    Example:
        >>> converted(["Return it.", "", "    a = b_", "", "where."])
        ['Return it.', '', '::', '', '    a = b_', '', 'where.']
    """
    found: list[str] = []
    k, section = 0, ""
    while k < len(lines):
        line = lines[k]
        bare, depth = line.strip(), len(line) - len(line.lstrip())
        if depth == 0 and (head := SECTION.match(line)):
            section = head[1]
            found.append(line)
            k += 1
        elif depth == 0 and bare.startswith("- "):
            # an item of a list, with the lines that go on with it
            found.append(_plain(line))
            k += 1
            while k < len(lines) and lines[k].startswith("  ") and lines[k].strip():
                found.append(_plain(lines[k]))
                k += 1
        elif depth == 0 or not bare:
            section = section if not bare else ""
            found.append(_plain(line))
            k += 1
        else:
            block = [line]
            k += 1
            while k < len(lines) and (not lines[k].strip() or lines[k].startswith(" ")):
                block.append(lines[k])
                k += 1
            found += _section(section, block) if section else ["::", "", *block, ""]
    return found


def explained(lines: list[str]) -> list[str]:
    """Return the lines with the first use of each term of the glossary linked to it.

    The first line is left alone, it is shown in tables.
    """
    found = lines[:]
    for term in TERMS:
        # not where a line begins: there it may be the name of an argument
        pattern = re.compile(rf"(?<=[a-z,;(] ){term}(?![\w`*:-])")
        for k, line in enumerate(lines):
            prose = not line.startswith("     ") and not line.lstrip().startswith((">>>", "..."))
            if k and prose and pattern.search(found[k]):
                found[k] = pattern.sub(f":term:`{term}`", found[k], count=1)
                break
    return found


def _section(name: str, block: list[str]) -> list[str]:
    """Return what stands below the head of a section."""
    if name.startswith("Example"):
        return block
    text = [line.strip() for line in block]
    if name in ("Args", "Raises"):
        # an item, and all that goes on with it
        return [
            _plain(f"    {line}" if ITEM.match(line) else f"        {line}").rstrip()
            for line in text
        ]
    return [_plain(f"    {line}").rstrip() for line in text]


def _plain(line: str) -> str:
    """Return a line of prose in which nothing but backticks means something to reST.

    A name of the package in backticks becomes a link, anything else in them code.
    """
    parts = re.split(r"(``[^`]*``|`[^`]*`)", line)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            part = re.sub(r"(?<![\w*])([|*])(?!\*)", r"\\\1", part)
            parts[i] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", part)
        elif not part.startswith("``"):
            name = part.strip("`")
            short = name.removeprefix("steerlens.").removeprefix("sl.")
            if short in steerlens._HOME:
                parts[i] = f":py:obj:`{name} <{home_of(short)}>`"
            elif not name.startswith("steerlens."):
                parts[i] = f"``{name}``"
    return "".join(parts)


def home_of(name: str) -> str:
    """Return where a public name of the package is defined: a room may only list it."""
    found = getattr(import_module(f"steerlens.{steerlens._HOME[name]}"), name)
    return f"{found.__module__}.{name}"
