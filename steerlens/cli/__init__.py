"""The command line, a module per command: report, fit, write, explore, move, compare, fold, export.

Heavy modules are imported inside the commands, so that help and errors come at once.
"""

import io
import sys
from typing import Annotated

import typer

from steerlens.cli.compare import compare
from steerlens.cli.explore import explore
from steerlens.cli.export import export
from steerlens.cli.fit import fit
from steerlens.cli.fold import fold
from steerlens.cli.move import move
from steerlens.cli.report import report
from steerlens.cli.write import write

app = typer.Typer(
    help="Steer a language model at its unembedding, and read and measure the steer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> bool:
    if asked:
        import steerlens

        typer.echo(f"steerlens {steerlens.__version__}")
        raise typer.Exit
    return asked


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Say the version and stop."
        ),
    ] = False,
) -> None:
    """Steer a language model at its unembedding, and read and measure the steer."""
    for stream in (sys.stdout, sys.stderr):
        # a terminal or a file in another encoding gets what it can show of a text, instead of an
        # error half way
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="backslashreplace")


for command in (report, fit, write, explore, move, compare, fold, export):
    app.command()(command)
