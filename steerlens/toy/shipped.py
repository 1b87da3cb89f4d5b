"""Where the shipped language models are."""

from pathlib import Path

NAMES = ("toy-64", "toy-128", "toy-96-llama")
"""Models of the grammar's texts."""

TASK_MODEL = "toy-tasks"
"""A model of three tasks, see `steerlens.toy.tasks`: no model of the grammar alone, so it is not
among `NAMES`."""

SHIPPED = (*NAMES, TASK_MODEL)


def weights_folder(name: str) -> Path:
    """Return the folder of a shipped model, in Hugging Face's layout.

    Example:
        >>> weights_folder("toy-128").name
        'toy-128'
    """
    if name not in SHIPPED:
        raise ValueError(f"name is {name!r}; expected one of {SHIPPED}")
    return Path(__file__).parent / "weights" / name
