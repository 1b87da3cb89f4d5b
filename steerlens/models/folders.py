"""Where a model of a name lies; light, so that a wrong name is said before anything heavy is
loaded."""

from pathlib import Path

TOYS = Path(__file__).parent.parent / "toy" / "weights"


def find_model(name: str | Path) -> Path | None:
    """Return the folder of a model: a toy's, or a local one; None for what can only be a hub id.

    Raises:
        FileNotFoundError: a path that is not there, or is no model folder.
    """
    toy = TOYS / str(name)
    local = toy if toy.is_dir() else Path(name).expanduser()
    if not local.is_dir():
        if str(name).startswith((".", "/", "~", "toy")) or local.exists():
            toys = ", ".join(sorted(p.name for p in TOYS.iterdir() if p.is_dir()))
            raise FileNotFoundError(
                f"name: no model folder at {str(name)!r}; toy models are {toys}"
            )
        return None
    if not (local / "config.json").is_file():
        raise FileNotFoundError(
            f"name: {local} holds no config.json, so it is no Hugging Face model folder"
        )
    return local
