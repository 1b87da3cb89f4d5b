"""`steerlens export`."""

from pathlib import Path
from typing import Annotated

import typer

from steerlens.cli.input import (
    check_input,
    check_output,
    check_output_folder,
    load_both,
    plain_errors,
    quiet_libraries,
    speaker,
)
from steerlens.cli.options import Debug, Dtype, ModelOption, Quiet

FORMATS = ("logits", "lora", "lm-steer")


def export(
    model: ModelOption,
    steer: Annotated[Path, typer.Option(help="The steer's file, from `steerlens fit` on --model.")],
    out: Annotated[
        Path, typer.Option(help="logits: NAME.safetensors; lora: a folder; lm-steer: NAME.pt.")
    ],
    to: Annotated[
        str,
        typer.Option(
            help="logits (for servers, which steer by logits alone), lora (peft), lm-steer (the authors' checkpoint)."
        ),
    ] = "logits",
    strength: Annotated[
        float | None, typer.Option(help="Of a lora, which has only one: 1 if not given.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="The nearest steer of a rank; all of it if not given.")
    ] = None,
    holes: Annotated[
        bool, typer.Option("--holes", help="logits: keep W_U, so that −∞ may be among the logits.")
    ] = False,
    dtype: Dtype = "float32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a steer in a form that others load: for servers, for peft, for the authors' code.

    With --to logits, --dtype is that of the model that will be served.
    """
    with plain_errors(debug):
        if to not in FORMATS:
            raise ValueError(f"--to: got {to!r}, expected one of {', '.join(FORMATS)}")
        for option, given, its in (
            ("--strength", strength is not None, "lora"),
            ("--holes", holes, "logits"),
        ):
            if given and to != its:
                raise ValueError(f"{option}: --to {to} has none; leave it out, or write --to {its}")
        if to != "lora":
            check_output(out, overwrite, suffix=".safetensors" if to == "logits" else ".pt")
        elif check_output_folder(out).exists() and not overwrite:
            raise FileExistsError(
                f"{out} exists; choose another name, or replace it with --overwrite"
            )
        check_input(model, steer)
        quiet_libraries()
        import steerlens as sl

        say = speaker(quiet)
        lm, value = load_both(model, steer, dtype, say)
        if to == "logits":
            it = sl.export.logit_steer(value, rank=rank, holes=holes)
            say(f"{it}: noise on logits grows at most {it.gain:.3g} times at strength 1")
            typer.echo(it.save(out))
        elif to == "lora":
            typer.echo(
                sl.export.lora(lm, value, 1.0 if strength is None else strength, out, rank=rank)
            )
        else:
            typer.echo(sl.export.export_lm_steer(value, out, rank=rank))
