"""Imports point down only, files are short, and what is forbidden is nowhere."""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent / "steerlens"
LEVEL = {
    "maths": 0, "values": 1, "models": 2, "toy": 2, "evaluate": 3, "methods": 4, "analysis": 5, "export": 5,
    "show": 6, "cli": 7, "__main__": 8,
}  # fmt: skip
BUILDS_ON = {("gist", "prompt")}
"""A gist is a prompt, distilled."""
FILES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(ROOT.rglob("*.py"))
}


def on_each(files: Iterable[Any]) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """A rule as one test of all files: one per file and rule would be two thousand."""

    def over(rule: Callable[[Any], None]) -> Callable[[], None]:
        def test() -> None:
            broken = []
            for file in files:
                try:
                    rule(file)
                except AssertionError as error:
                    broken.append(f"{file}: {error}")
            assert not broken, "\n".join(broken)

        test.__doc__ = rule.__doc__
        return test

    return over


def imports(tree: ast.AST) -> set[str]:
    """Every module that is imported anywhere, in functions too."""
    nodes = list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), (
        "a relative import"
    )
    return names | {
        name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
    }


@on_each(FILES)
def test_values_that_hold_arrays_or_tables_are_equal_to_themselves_alone(file: str) -> None:
    """`==` of two arrays or tables is no truth value, and neither can be hashed."""
    held = {"Tensor", "ndarray", "DataFrame", "Series"}
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.ClassDef):
            made = " ".join(ast.unparse(d) for d in node.decorator_list)
            fields = [x.annotation for x in node.body if isinstance(x, ast.AnnAssign)]
            names = {x for field in fields for x in re.split(r"\W+", ast.unparse(field))}
            assert "dataclass" not in made or "eq=False" in made or not held & names, node.name


def test_no_file_is_longer_than_a_reader_takes_in() -> None:
    lines = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in FILES}
    assert max(lines.values()) > 200, "the package was not found"
    assert not {name: n for name, n in lines.items() if n > 300}


@on_each([name for name in FILES if name != "__init__.py"])
def test_imports_point_down_only(file: str) -> None:
    package, unit, *_ = [*Path(file).with_suffix("").parts, ""]
    for name in imports(FILES[file]):
        if name.startswith("steerlens."):
            _, target, *rest = name.split(".")
            if target not in LEVEL:
                continue  # a public name of the package, as `from steerlens import fit_steer`
            same = target == package
            assert same or LEVEL[target] < LEVEL[package], (
                f"{file} imports {name}, which is above it or beside it"
            )
            if same and package in ("methods", "analysis") and rest:
                # what all descents share is below them, and the files know every value
                below = (
                    rest[0] in (unit, "training") or unit == "files" or (unit, rest[0]) in BUILDS_ON
                )
                assert below, f"{file} imports its sibling {name}"


@on_each(FILES)
def test_logits_travel_as_terms_and_coefficients_not_as_callbacks(file: str) -> None:
    """See `maths.logit_stats`."""
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Callable":
            assert "UnembedWeights" not in ast.unparse(node.slice), f"line {node.lineno}"
        if isinstance(node, ast.FunctionDef):
            inner = [n for n in ast.walk(node) if isinstance(n, ast.FunctionDef) and n is not node]
            given = [ast.unparse(a.annotation) for n in inner for a in n.args.args if a.annotation]
            assert "UnembedWeights" not in given, f"line {node.lineno}: {node.name}"


PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIRED = {re.split(r"[^\w-]", name)[0].replace("-", "_") for name in PROJECT["dependencies"]} | {
    "sklearn", "matplotlib", "markupsafe", "steerlens", *sys.stdlib_module_names,
}  # fmt: skip
"""scikit-learn under its other name; seaborn brings Matplotlib, and Jinja2 MarkupSafe."""


def test_modules_are_loaded_without_any_extra() -> None:
    """Extras are asked for in the functions that use them."""
    for file, tree in FILES.items():
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        asked = {name.split(".")[0] for name in imports(ast.Module(top, []))}
        assert asked <= REQUIRED, f"{file} imports {asked - REQUIRED}"


@on_each(FILES)
def test_only_models_knows_transformer_lens(file: str) -> None:
    users = {name.split(".")[0] for name in imports(FILES[file])}
    assert file.startswith("models/") or "transformer_lens" not in users


@on_each([name for name in FILES if not name.startswith("models/")])
def test_a_model_is_asked_through_its_adapter(file: str) -> None:
    """What TransformerLens calls so, a plain model of Hugging Face does not have; a read-out does."""
    own = {"W_E", "tokenizer", "cfg", "unembed", "blocks"}
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id not in ("model", "lm") or node.attr not in own, (
                f"line {node.lineno}: {ast.unparse(node)}"
            )


@on_each(FILES)
def test_no_options_by_mood_no_prints_no_pickle(file: str) -> None:
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            # but what stands in for a block must take whatever a model gives its blocks
            stand_in = file == "models/partial_forward.py" and isinstance(node, ast.Lambda)
            assert node.args.kwarg is None or stand_in, (
                f"line {node.lineno}: **{node.args.kwarg and node.args.kwarg.arg}"
            )
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if file == "export/authors.py" and called in ("torch.load", "torch.save"):
                # their format is torch's; reading it may run nothing
                safe = any(
                    k.arg == "weights_only" and ast.unparse(k.value) == "True"
                    for k in node.keywords
                )
                assert called == "torch.save" or safe
                continue
            assert called not in (
                "pickle.load",
                "pickle.loads",
                "torch.load",
                "torch.save",
                "eval",
                "exec",
            ), called
            assert called != "print" or file.startswith("cli/") or file == "toy/train.py", (
                f"line {node.lineno}: print"
            )
    found = {"pickle", "joblib", "dill"} & imports(FILES[file])
    if file == "models/parts.py":  # processes, not files
        named = {name for name in imports(FILES[file]) if name.startswith("joblib")}
        assert named == {"joblib", "joblib.Parallel", "joblib.delayed"}
        found -= {"joblib"}
    assert not found or (file == "export/authors.py" and found == {"pickle"})  # its error's name


SOLVERS = frozenset({"auto", "closed-form", "lbfgs"})


@on_each([name for name in FILES if name.startswith("methods/steer/")])
def test_a_fit_of_a_steer_asks_its_solver_and_no_field_by_name(file: str) -> None:
    """Which solver it is, only the one table of them knows; settings are fields, not strings."""
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.Compare):
            compared = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
            assert not compared & SOLVERS, f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "getattr" or isinstance(node.args[1], ast.Constant), (
                f"line {node.lineno}: {ast.unparse(node)}"
            )
            assert not called.endswith("_replace") or all(k.arg for k in node.keywords), (
                f"line {node.lineno}: {ast.unparse(node)}"
            )


PATCHED_BY_OTHERS = {("models/conftest.py", "_continuation")}
"""Where scripts of others look at what is written: it has to stay, so a test does as they do."""


@on_each(sorted(Path(__file__).parent.rglob("*.py")))
def test_tests_use_no_private_name_of_the_package(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = [
        (node.module, alias)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "steerlens"
        for alias in node.names
    ]
    used = {(module.split(".")[-1], alias.name) for module, alias in own}
    names = {alias.asname or alias.name for _, alias in own} | {
        alias.asname or "steerlens"
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.split(".")[0] == "steerlens"
    }
    private = [name for module, name in used if name.startswith("_") or module.startswith("_")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            whole = ast.unparse(node)
            if whole.split(".")[0] in names and re.match(
                r"_(?!_|repr_html_|fields|replace)", node.attr
            ):
                private.append(node.attr)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "monkeypatch.setattr":
            said = [n.value for n in node.args if isinstance(n, ast.Constant)]
            private += [
                s.split(".")[-1]
                for s in said
                if isinstance(s, str) and re.search(r"(^|\.)_[a-zA-Z]", s)
            ]
    allowed = {name for file, name in PATCHED_BY_OTHERS if path.as_posix().endswith(file)}
    assert not set(private) - allowed


MANY = {
    # each parameter is an option of the shell, which typer reads from the signature
    "cli/compare.py": "compare", "cli/fit.py": "fit", "cli/move.py": "move", "cli/explore.py": "explore",
    "cli/report.py": "report", "cli/write.py": "write", "cli/export.py": "export",
    # what a fit is asked in one call; how it descends is in Training, `epochs` is its short form
    "methods/reft/fit.py": "fit_reft fit_reft_tasks", "methods/prompt/fit.py": "fit_prompt",
    "methods/gist/distill.py": "distil_prompt", "methods/steer/fit.py": "fit_steer",
    "methods/prompt/vae.py": "fit_vae", "methods/baselines/value_lora.py": "fit_value_lora",
    # the names of sampling that every library of models has
    "models/generate.py": "generate",
    # where states go (folder, dtype, memory) and what is read (intervention, strength, end)
    "models/collect.py": "collect",
    # what is compared, at which settings, against how much chance (draws, controls, seed)
    "analysis/state_shift.py": "state_shift_overlap", "analysis/subspaces.py": "compare_subspaces",
    "analysis/prompts/compare.py": "compare_priors", "analysis/reft.py": "reft_quality",
    # how spans are cut and priced, each a switch of its own
    "analysis/highlight.py": "highlight",
}  # fmt: skip
"""Functions with more than eight parameters, and why: their keywords are what users write."""


@on_each(FILES)
def test_no_function_has_more_than_eight_parameters_without_a_reason(file: str) -> None:
    many = {
        f.name
        for f in ast.walk(FILES[file])
        if isinstance(f, ast.FunctionDef)
        if len(
            [
                a
                for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs)
                if a.arg not in ("self", "cls")
            ]
        )
        > 8
    }
    assert many == set(MANY.get(file, "").split())
