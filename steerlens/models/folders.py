"""Where a model of a name lies; light, so that a wrong name is said before anything heavy is
loaded."""

from pathlib import Path

TOYS = Path(__file__).parent.parent / "toy" / "weights"


def find_model(name: str | Path) -> Path | None:
    """Return the folder of a model: a toy's, or a local one; None for what can only be a hub id.

    Raises:
        ValueError: no name at all.
        FileNotFoundError: a path that is not there, or is no model folder.
    """
    if not str(name).strip():
        raise ValueError(
            f"name: got {str(name)!r}, expected a toy model's name, a Hugging Face folder or a hub id"
        )
    toys = sorted(p.name for p in TOYS.iterdir() if p.is_dir())
    # by name: "." and ".." lead from the folder of the toys too
    local = TOYS / name if str(Path(name)) in toys else Path(name).expanduser()
    if not local.is_dir():
        if str(name).startswith((".", "/", "~", "toy")) or local.exists():
            raise FileNotFoundError(
                f"name: no model folder at {str(name)!r}; toy models are {', '.join(toys)}"
            )
        return None
    if (local / "adapter_config.json").is_file() and not (local / "config.json").is_file():
        raise FileNotFoundError(
            f"name: {local} holds an adapter of peft, which is no model by itself; put it on its model and merge it, "
            "peft.PeftModel.from_pretrained(model, folder).merge_and_unload(), and give that to every function"
        )
    if not (local / "config.json").is_file():
        raise FileNotFoundError(
            f"name: {local} holds no config.json, so it is no Hugging Face model folder"
        )
    return local
