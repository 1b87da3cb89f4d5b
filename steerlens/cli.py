"""The command line: `steerlens report | fit | write | move`. Heavy modules are imported inside the commands."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Steer a language model at its unembedding, and read and measure the steer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelOption = Annotated[str, typer.Option("--model", help="A toy model, a Hugging Face folder or a hub id.")]
TextColumn = Annotated[str, typer.Option(help="Name of the column with the texts.")]
LabelColumn = Annotated[str, typer.Option(help="Name of the column with the labels, numbers in [-1, 1].")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No lines of progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")]


@app.command()
def report(
    model: ModelOption = "toy-128",
    data: Annotated[Path | None, typer.Option(help="Labelled texts: .jsonl, .csv or .tsv.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("report"),
    seed: Seed = 0,
    texts: Annotated[int, typer.Option(min=40, help="Toy texts to fit each steer on.")] = 2000,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier report.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fit a steer, measure it, and show all of it on a page.

    On a toy model without --data: one steer for sentiment and one for tone, compared with the truth. With --data: one
    steer, fitted on 85 % of the texts and measured on the others.
    """
    with _plain_errors(debug):
        _quiet_libraries()
        from steerlens.show.report import write_report
        from steerlens.values.readers import read_labelled

        found = None if data is None else read_labelled(data, text=text_column, label=label_column)
        name = "steer" if data is None else data.stem
        page = write_report(
            model, out, data=found, name=name, texts=texts, seed=seed, overwrite=overwrite, say=_speaker(quiet)
        )
        typer.echo(page)


@app.command()
def fit(
    model: ModelOption,
    data: Annotated[Path, typer.Option(help="Labelled texts: .jsonl, .csv or .tsv.")],
    out: Annotated[Path, typer.Option(help="The steer's file, NAME.safetensors.")],
    background_out: Annotated[Path | None, typer.Option(help="File for the background steer.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the steer; that of its file if not given.")] = None,
    kl: Annotated[float, typer.Option(help="What strength 1 is to cost, in nats per token.")] = 0.05,
    seed: Seed = 0,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fit a steer on labelled texts and save it."""
    with _plain_errors(debug):
        for path in (out, background_out):
            _check_file(path, overwrite)
        _quiet_libraries()
        import steerlens as sl

        say = _speaker(quiet)
        texts = sl.read_labelled(data, text=text_column, label=label_column)
        say(f"loading {model}")
        lm = sl.load_model(model)
        say(f"reading {len(texts):,} texts")
        states = sl.collect(lm, texts, progress=False)
        say(f"fitting on {states.n_positions:,} positions")
        found = sl.fit_steer(states, name=name or out.stem, kl=kl, seed=seed)
        sl.save(found.value, out, report=found.report)
        if background_out is not None:
            sl.save(found.background, background_out, report=found.report)
        say(str(found.report))
        typer.echo(out)


@app.command()
def write(
    model: ModelOption,
    steer: Annotated[Path, typer.Option(help="A steer's file, from `steerlens fit`.")],
    prompt: Annotated[list[str], typer.Option(help="A beginning; may be given several times.")],
    strengths: Annotated[
        str, typer.Option(help="Numbers with commas; with a minus in front: --strengths=-2,0,2")
    ] = "-2,0,2",
    samples: Annotated[int, typer.Option(min=1, help="Texts a prompt and strength.")] = 1,
    seed: Seed = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most.")] = 30,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 1.0,
    debug: Debug = False,
) -> None:
    """Continue prompts at several strengths; the same random numbers at each."""
    with _plain_errors(debug):
        values = _numbers(strengths)
        _quiet_libraries()
        import steerlens as sl

        lm = sl.load_model(model)
        table = sl.generate(
            lm, prompt, sl.load(steer, lm), strengths=values, samples=samples, seed=seed,
            max_new_tokens=max_new_tokens, temperature=temperature,
        )  # fmt: skip
        for (start, _), part in table.groupby(["prompt", "sample"], sort=False):
            typer.echo(start)
            for strength, text in zip(part.strength, part.text, strict=True):
                typer.echo(f"  {strength:+6.2f}  … {text.strip()}")


@app.command()
def move(
    model: ModelOption,
    steer: Annotated[Path, typer.Option(help="The steer's file, from `steerlens fit` on --model.")],
    to: Annotated[str, typer.Option(help="The model to move it to.")],
    out: Annotated[Path, typer.Option(help="The moved steer's file, NAME.safetensors.")],
    rule: Annotated[
        str, typer.Option(help="congruence, similarity, procrustes, authors; with --text: paired, distil, selftrain.")
    ] = "congruence",
    text: Annotated[
        Path | None, typer.Option(help="Texts without labels: .txt, a text a line; .jsonl, .csv, .tsv.")
    ] = None,
    kl: Annotated[
        float | None, typer.Option(help="Scale it to cost this many nats per token of --text at strength 1.")
    ] = None,
    seed: Seed = 0,
    text_column: TextColumn = "text",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Move a steer to another model and save it there.

    The default rule looks at the vocabularies alone. With some thousand texts, which need no labels, --rule selftrain
    keeps about all of the effect, --rule distil most of it.
    """
    with _plain_errors(debug):
        _check_file(out, overwrite)
        _quiet_libraries()
        import steerlens as sl
        from steerlens.analysis.transfer import READ_TEXT, RULES
        from steerlens.values.readers import read_texts

        if rule not in RULES:
            raise ValueError(f"--rule: got {rule!r}, expected one of {', '.join(RULES)}")
        if kl is not None and text is None:
            raise ValueError("--kl: the cost is measured on text; pass --text too")
        if text is not None and kl is None and rule not in READ_TEXT:
            raise ValueError(f"--text: rule {rule!r} reads none; leave it out, or pass --kl to scale the steer on it")
        say = _speaker(quiet)
        texts = None if text is None else read_texts(text, text=text_column)
        say(f"loading {model} and {to}")
        source, target = sl.load_model(model), sl.load_model(to)
        found = sl.load(steer, source)
        say(
            f"moving {found.name} by {rule}"
            + (f", reading {len(texts):,} texts" if texts and rule in READ_TEXT else "")
        )
        if rule in READ_TEXT:
            moved = sl.transfer(found, target, rule=rule, text=texts, source=source, seed=seed)
        else:
            moved = sl.transfer(found, target, rule=rule, seed=seed)
        if kl is not None and texts is not None:
            sample = sl.collect(target, texts, progress=False).sample(8_192, seed=seed)
            strength = sl.calibrate(moved, sample, kl=kl)
            say(f"strength 1 costs {kl:g} nats per token; it was strength {strength:.3g}")
            moved = replace(strength * moved, name=moved.name, terms=moved.terms)
        sl.save(moved, out)
        typer.echo(out)


@contextmanager
def _plain_errors(debug: bool) -> Iterator[None]:
    """What a user can mend is one line on stderr and exit code 2; anything else is ours and keeps its traceback."""
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        if debug:
            raise
        said = error.args[0] if isinstance(error, KeyError) and error.args else error
        typer.echo("error: " + " ".join(str(said).split()), err=True)
        raise typer.Exit(2) from None


def _quiet_libraries() -> None:
    """No bars and no advice from the libraries below us; figures need no screen."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformer_lens").setLevel(logging.ERROR)


def _speaker(quiet: bool):
    return (lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr, flush=True))


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--strengths: got {text!r}, expected numbers with commas, e.g. --strengths=-2,0,2") from None


def _check_file(path: Path | None, overwrite: bool) -> None:
    if path is not None and path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a name that ends in .safetensors")
    if path is not None and path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name, or replace it with --overwrite")


if __name__ == "__main__":
    app()
