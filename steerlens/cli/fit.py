"""`steerlens fit`."""

from pathlib import Path
from typing import Annotated

import typer

from steerlens.cli.input import (
    check_input,
    check_output,
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


def fit(
    model: ModelOption,
    data: Annotated[Path, typer.Option(help=DataHelp)],
    out: Annotated[Path, typer.Option(help="The steer's file, NAME.safetensors.")],
    background_out: Annotated[
        Path | None, typer.Option(help="File for the background steer.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the steer; that of its file if not given.")
    ] = None,
    kl: Annotated[
        float, typer.Option(help="What strength 1 is to cost, in nats per token.")
    ] = 0.05,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    labels: Labels = None,
    scale: Scale = None,
    dropna: DropNa = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fit a steer on labelled texts and save it."""
    with plain_errors(debug):
        for path in (out, background_out):
            check_output(path, overwrite)
        if background_out is not None and background_out.resolve() == out.resolve():
            raise ValueError(
                f"--background-out: got {background_out}, the file of --out; the background would be saved over the steer, "
                "choose another name"
            )
        check_input(model, data)
        if not 0 < kl < float("inf"):
            raise ValueError(
                f"--kl: got {kl:g}, expected a positive number of nats per token, e.g. 0.05"
            )
        meaning = read_meaning(labels), read_scale(scale)
        quiet_libraries()
        import steerlens as sl

        say = speaker(quiet)
        texts = read_data(data, text_column, label_column, meaning, dropna, say)
        say(f"loading {model}")
        lm = sl.load_model(model, device=device, dtype=dtype)
        say(f"reading {len(texts):,} texts")
        states = sl.collect(lm, texts, progress=False)
        say(f"fitting on {states.n_positions:,} positions")
        found = sl.fit_steer(states, name=name or out.stem, kl=kl, seed=seed, progress=not quiet)
        sl.save(found.value, out, report=found.report)
        if background_out is not None:
            sl.save(found.background, background_out, report=found.report)
        say(str(found.report))
        typer.echo(out)
