"""`steerlens fold`."""

import math
from pathlib import Path
from typing import Annotated

import typer

from steerlens.cli.input import (
    check_input,
    check_output_folder,
    load_both,
    plain_errors,
    quiet_libraries,
    speaker,
)
from steerlens.cli.options import Debug, Dtype, ModelOption, Quiet


def fold(
    model: ModelOption,
    steer: Annotated[Path, typer.Option(help="The steer's file, from `steerlens fit` on --model.")],
    strength: Annotated[float, typer.Option(help="One number; with a minus: --strength=-2.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    dtype: Dtype = "float32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier fold in that folder.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a plain Hugging Face checkpoint that is the steered model.

    Any loader, server or converter takes it. It is loaded again and compared with the steered model
    before it is put in place.
    """
    with plain_errors(debug):
        if not math.isfinite(strength):
            raise ValueError(f"--strength: got {strength}, expected a finite number")
        check_output_folder(out)
        check_input(model, steer)
        quiet_libraries()
        import steerlens as sl

        say = speaker(quiet)
        lm, value = load_both(model, steer, dtype, say)
        say(f"folding {value.name} at strength {strength:g}, and loading it again to compare")
        typer.echo(sl.export.fold(lm, value, strength, out, overwrite=overwrite))
