"""`steerlens report`."""

from pathlib import Path
from typing import Annotated

import typer

from steerlens.cli.input import (
    check_input,
    plain_errors,
    quiet_libraries,
    read_data,
    read_meaning,
    read_scale,
    speaker,
)
from steerlens.cli.options import (
    DataHelp,
    Debug,
    Device,
    DropNa,
    Dtype,
    LabelColumn,
    Labels,
    ModelOption,
    Quiet,
    Scale,
    Seed,
    TextColumn,
)


def report(
    model: ModelOption = "toy-128",
    data: Annotated[Path | None, typer.Option(help=DataHelp)] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("report"),
    seed: Seed = 0,
    texts: Annotated[int, typer.Option(min=40, help="Toy texts to fit each steer on.")] = 2000,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    labels: Labels = None,
    scale: Scale = None,
    dropna: DropNa = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier report.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fit a steer, measure it, and show all of it on a page.

    On a toy model without --data: one steer for sentiment and one for tone, compared with the
    truth. With --data: one steer, fitted on 85 % of the texts and measured on the others.
    """
    with plain_errors(debug):
        check_input(model, data)
        meaning = read_meaning(labels), read_scale(scale)
        quiet_libraries()
        import steerlens as sl
        from steerlens.show.report.build import check_report, write_report

        say = speaker(quiet)
        found = (
            None
            if data is None
            else read_data(data, text_column, label_column, meaning, dropna, say)
        )
        check_report(model, out, found, overwrite)
        say(f"loading {model}")
        lm = sl.load_model(model, device=device, dtype=dtype)
        name = "steer" if data is None else data.stem
        page = write_report(
            lm, out, data=found, name=name, texts=texts, seed=seed, overwrite=overwrite, say=say
        )
        typer.echo(page)
