"""Where the shipped language models are."""

from pathlib import Path

NAMES = ("toy-64", "toy-128", "toy-96-llama")


def weights_folder(name: str) -> Path:
    """The folder of a shipped model, in Hugging Face's layout.

    Example:
        >>> weights_folder("toy-128").name
        'toy-128'
    """
    if name not in NAMES:
        raise ValueError(f"name is {name!r}; expected one of {NAMES}")
    return Path(__file__).parent / "weights" / name
