"""`steerlens explore`."""

from pathlib import Path
from typing import Annotated

import typer

from steerlens.cli.input import (
    check_input,
    check_output,
    plain_errors,
    quiet_libraries,
    read_numbers,
    speaker,
)
from steerlens.cli.options import Debug, Device, Dtype, ModelOption, Quiet, Seed, TextColumn

PROMPTS = ("the film was", "this soup is", "my friend", "the waiter")


def explore(
    model: ModelOption,
    steer: Annotated[
        list[Path],
        typer.Option(help="A steer's file, from `steerlens fit`; given twice, two steers."),
    ],
    out: Annotated[Path, typer.Option(help="The page to write, NAME.html.")] = Path(
        "explorer.html"
    ),
    prompt: Annotated[
        list[str] | None,
        typer.Option(help=f"A beginning; may be given several times. Else: {', '.join(PROMPTS)}."),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            help="Texts on which the cost is measured: .txt, one per line; .csv, .tsv, .jsonl, .json, .parquet. "
            "Without: on what the plain model writes."
        ),
    ] = None,
    text_column: TextColumn = "text",
    strengths: Annotated[
        str | None,
        typer.Option(
            help="Stops of the sliders: --strengths=-2,0,2; as far as 0.4 nats go if not given."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most.")] = 24,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a page that exists.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a page on which strengths are moved by hand: text, next words, evidence, cost.

    One HTML file that needs no server and no network. A steer's verdict comes from its file.
    """
    with plain_errors(debug):
        values = None if strengths is None else tuple(read_numbers("--strengths", strengths))
        if len(steer) > 2:
            raise ValueError(f"--steer: got {len(steer)}, expected one or two")
        check_output(out, overwrite, suffix=None)
        for file in (*steer, text):
            check_input(model, file)
        quiet_libraries()
        import steerlens as sl
        from steerlens.show.explorer.build import read_known
        from steerlens.values.readers import read_texts

        say = speaker(quiet)
        say(f"loading {model}")
        lm = sl.load_model(model, device=device, dtype=dtype)
        steers, known = {}, {}
        for file in steer:
            value = sl.load(file, lm)
            name = value.name if value.name not in steers else file.stem
            if name in steers:
                raise ValueError(
                    f"--steer: both are called {name!r}; copy one to another file name"
                )
            steers[name], known[name] = value, read_known(file)
        texts = None if text is None else read_texts(text, text=text_column)
        prompts = prompt or PROMPTS
        say(f"writing after {len(prompts)} prompts")
        page = sl.show.explore(
            lm, steers, prompts, texts=texts, known=known, strengths=values, max_new_tokens=max_new_tokens, seed=seed
        )  # fmt: skip
        typer.echo(page.save(out, overwrite=overwrite))
