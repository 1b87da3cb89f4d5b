"""Measure how the package is written: python tests/measure_style.py [folder of another checkout's
steerlens].

Prints sizes of files and functions, parameters of public functions, comments, docstrings that begin
with a verb, and in how many folders the modules of each method lie. No test: it measures, and
`LOG.md` says what came of it.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import numpy as np

IDEAS = ("steer", "reft", "prompt", "gist", "prior", "transfer")
VERBS = frozenset(
    """
    accept add align allow apply ask attach be bind bring build calculate calibrate call check choose clear
    clip collect compare complete compute condition contain convert copy count cut decide describe distil
    distill divide draw drop embed encode evaluate explain export fill find fit fold follow generate get give
    guess hand hide hold infer iterate join judge keep label leave let lift list load look lower make map mark
    match maximise maximize mean measure merge minimise minimize move name normalise open order pack parse
    pick place plan plot predict print project put raise rank read refuse regress render report resume return
    round run sample save say scale score search set show sketch solve sort split stand start steer stop sum
    take tell test trace train transfer transform truncate try turn undo unpack use walk warn weigh whiten
    write yield
    """.split()  # noqa: SIM905  (a list would be a line per word)
)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def public(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Yield the functions that a module offers, and methods of its classes."""
    for node in tree.body:
        inside = (
            node.body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
            else [node]
        )
        yield from (
            f for f in inside if isinstance(f, ast.FunctionDef) and not f.name.startswith("_")
        )


def parameters(function: ast.FunctionDef) -> int:
    names = [
        a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    ]
    return len([name for name in names if name not in ("self", "cls")])


def spread(values: list[int]) -> str:
    return "p50 {:.0f}, p90 {:.0f}, most {}".format(*np.quantile(values, (0.5, 0.9)), max(values))


def main(root: Path) -> None:
    files = {path: path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in files.items()}
    lines = {path: text.count("\n") for path, text in files.items()}
    tokens = [tokenize.generate_tokens(io.StringIO(text).readline) for text in files.values()]
    comments = sum(token.type == tokenize.COMMENT for part in tokens for token in part)
    sizes = [
        f.end_lineno - f.lineno + 1
        for tree in trees.values()
        for f in functions(tree)
        if f.end_lineno
    ]
    offered = [f for tree in trees.values() for f in public(tree)]
    documented = [
        doc.split()[0].strip(".,`").lower() for f in offered if (doc := ast.get_docstring(f))
    ]
    long = [path.relative_to(root).as_posix() for path, n in lines.items() if n > 300]
    many = sorted(((parameters(f), f.name) for f in offered if parameters(f) > 8), reverse=True)
    wide = sum(len(line) > 100 for text in files.values() for line in text.splitlines())
    print(
        f"files: {len(files)}, lines {sum(lines.values()):,}; over 300 lines: {', '.join(long) or 'none'}"
    )
    print(f"lines over 100 characters: {wide / sum(lines.values()):.1%}")
    print(f"functions: {len(sizes):,}, lines: {spread(sizes)}")
    print(
        f"public functions: {len(offered)}, parameters: {spread([parameters(f) for f in offered])}"
    )
    print(f"more than 8 parameters: {', '.join(f'{name} {n}' for n, name in many) or 'none'}")
    print(f"comments per 100 lines: {100 * comments / sum(lines.values()):.1f}")
    print(
        f"docstrings that begin with a verb: {sum(word in VERBS for word in documented) / len(documented):.0%}"
    )
    for idea in IDEAS:
        homes = {
            path.parent.relative_to(root).as_posix()
            for path in files
            if idea in path.relative_to(root).as_posix()
        }
        print(f"folders with {idea} in a path: {len(homes)} ({', '.join(sorted(homes))})")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "steerlens"))
