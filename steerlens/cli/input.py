"""Read what a command was given, and say in one line what is wrong with it."""

import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from steerlens.values.labelled import Labelled


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """Turn what a user can mend into one line on stderr and exit code 2, and a warning into a note.

    Anything else is ours and keeps its traceback.
    """
    try:
        with warnings_as_notes():
            yield
    except BrokenPipeError:
        raise  # `| head` has read enough, which is no error to speak of; typer ends quietly
    except (ValueError, KeyError, OSError, ImportError) as error:
        if debug:
            raise
        said = error.args[0] if isinstance(error, KeyError) and error.args else error
        typer.echo("error: " + " ".join(str(said).split()), err=True)
        raise typer.Exit(2) from None


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Say each of our warnings once, as one line on stderr without a place in the code."""
    said: set[str] = set()
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if not issubclass(category, UserWarning):
                usual(message, category, *where)
            elif str(message) not in said:
                said.add(str(message))
                typer.echo("note: " + " ".join(str(message).split()), err=True)

        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def quiet_libraries() -> None:
    """Silence bars and advice of the libraries below us; figures need no screen."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformer_lens").setLevel(logging.ERROR)


def speaker(quiet: bool) -> Callable[[str], None]:
    """Return what says a line of progress, or nothing."""
    return (lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr, flush=True))


def read_data(
    data: Path, text: str, label: str, meaning: tuple, dropna: bool, say: Callable[[str], None]
) -> "Labelled":
    """Read labelled texts of a file, and say what was understood."""
    from steerlens.values.readers import read_labelled

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        found = read_labelled(
            data, text=text, label=label, labels=meaning[0], scale=meaning[1], dropna=dropna
        )
    for one in told:
        # of the user's own data, so also where no lines of progress are wanted
        typer.echo(f"note: {' '.join(str(one.message).split())}", err=True)
    say(found.understood())
    return found


def read_numbers(option: str, text: str, example: str = "-2,0,2") -> list[float]:
    """Read numbers with commas between them."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        raise ValueError(
            f"{option}: got {text!r}, expected numbers with commas, e.g. {option}={example}"
        )
    return found


def read_scale(text: str | None) -> tuple[float, float] | None:
    """Read the two ends of a scale of labels."""
    if text is None:
        return None
    ends = read_numbers("--scale", text, "1,5")
    if len(ends) != 2:
        raise ValueError(f"--scale: got {text!r}, expected two numbers, e.g. --scale=1,5")
    return ends[0], ends[1]


def read_meaning(text: str | None) -> dict[str, float] | None:
    """Read words and the labels that they stand for."""
    if text is None:
        return None
    parts = [part.rpartition("=") for part in text.split(",") if part]
    try:
        pairs = [(word.strip(), float(number)) for word, _, number in parts]
    except ValueError:
        raise ValueError(
            f"--labels: got {text!r}, expected words and numbers, e.g. --labels=positive=1,negative=-1"
        ) from None
    meaning: dict[str, float] = {}
    for word, number in pairs:
        if meaning.setdefault(word, number) != number:
            raise ValueError(f"--labels: {word!r} is there twice, with two numbers")
    return meaning


def check_input(model: str, file: Path | None) -> None:
    """Refuse what cannot be read before anything heavy is imported or loaded."""
    from steerlens.models.folders import find_model
    from steerlens.values.paths import as_path

    if file is not None and not as_path(file).is_file():
        raise FileNotFoundError(f"no file {file}")
    find_model(model)


def check_output(
    path: Path | None, overwrite: bool, *, suffix: str | None = ".safetensors"
) -> None:
    """Refuse a file that cannot be written before anything is computed.

    Args:
        suffix: its ending; None: any.
    """
    from steerlens.values.paths import as_path, check_folder

    if path is None:
        return
    if suffix is not None and path.suffix != suffix:
        raise ValueError(f"{path}: expected a name that ends in {suffix}")
    check_folder(as_path(path), str(path))
    if as_path(path).is_dir():
        raise FileExistsError(f"{path} is a folder; choose the name of a file")
    if as_path(path).exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name, or replace it with --overwrite")
    _check_writable(as_path(path).parent)


def check_output_folder(path: Path) -> Path:
    """Return a folder; refuse one that cannot be made or written to before anything is computed."""
    from steerlens.values.paths import as_path, check_folder

    folder = check_folder(as_path(path), str(path))
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{path} is a file; choose the name of a folder")
    _check_writable(folder if folder.is_dir() else folder.parent)
    return folder


def _check_writable(path: Path) -> None:
    """Raise where a folder takes no new files."""
    if not os.access(path, os.W_OK):
        raise PermissionError(f"{path}: nothing can be written there; choose another folder")


def load_both(model: str, steer: Path, dtype: str, say: Callable[[str], None]) -> tuple[Any, Any]:
    """Return the model, and its steer; one that was fitted in another dtype is carried over."""
    import steerlens as sl

    fitted = sl.read_metadata(steer)["dtype"]
    say(f"loading {model}")
    source = sl.load_model(model, dtype=fitted)
    value = sl.load(steer, source)
    if fitted == dtype:
        return source, value
    say(f"loading {model} in {dtype}; the steer was fitted in {fitted}")
    target = sl.load_model(model, dtype=dtype)
    affine = hasattr(value, "shift")
    return target, (sl.export.rebase_affine if affine else sl.export.rebase)(value, target)
