"""The command line: `steerlens report | fit | write | move`. Heavy modules are imported inside the
commands."""

import io
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from steerlens.values.labelled import Labelled

app = typer.Typer(
    help="Steer a language model at its unembedding, and read and measure the steer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelOption = Annotated[
    str, typer.Option("--model", help="A toy model, a Hugging Face folder or a hub id.")
]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="Of the model's weights: float32, bfloat16 or float16.")]
DataHelp = "Labelled texts: .csv, .tsv, .jsonl, .json or .parquet."
TextColumn = Annotated[str, typer.Option(help="Name of the column with the texts.")]
LabelColumn = Annotated[
    str, typer.Option(help="Name of the column with the labels, numbers in [-1, 1].")
]
Labels = Annotated[
    str | None, typer.Option(help="What labels mean that are words: positive=1,negative=-1.")
]
Scale = Annotated[str | None, typer.Option(help="The ends of a scale of labels: 1,5 for stars.")]
DropNa = Annotated[
    bool, typer.Option("--dropna", help="Leave out rows without text or label; they are counted.")
]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No lines of progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")]


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


@app.command()
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
    with _plain_errors(debug):
        _check_input(model, data)
        meaning = _meaning(labels), _scale(scale)
        _quiet_libraries()
        from steerlens.show.report.build import write_report

        found = (
            None
            if data is None
            else _read(data, text_column, label_column, meaning, dropna, _speaker(quiet))
        )
        name = "steer" if data is None else data.stem
        page = write_report(
            model,
            out,
            data=found,
            name=name,
            texts=texts,
            seed=seed,
            overwrite=overwrite,
            say=_speaker(quiet),
        )
        typer.echo(page)


@app.command()
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
    with _plain_errors(debug):
        for path in (out, background_out):
            _check_file(path, overwrite)
        _check_input(model, data)
        if not 0 < kl < float("inf"):
            raise ValueError(
                f"--kl: got {kl:g}, expected a positive number of nats per token, e.g. 0.05"
            )
        meaning = _meaning(labels), _scale(scale)
        _quiet_libraries()
        import steerlens as sl

        say = _speaker(quiet)
        texts = _read(data, text_column, label_column, meaning, dropna, say)
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


@app.command()
def write(
    model: ModelOption,
    steer: Annotated[Path, typer.Option(help="A steer's file, from `steerlens fit`.")],
    prompt: Annotated[list[str], typer.Option(help="A beginning; may be given several times.")],
    strengths: Annotated[
        str, typer.Option(help="Numbers with commas; with a minus in front: --strengths=-2,0,2")
    ] = "-2,0,2",
    samples: Annotated[int, typer.Option(min=1, help="Texts per prompt and strength.")] = 1,
    seed: Seed = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most.")] = 30,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 1.0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    debug: Debug = False,
) -> None:
    """Continue prompts at several strengths; the same random numbers at each.

    Before each text: its strength, and what the steer costs along it, KL(plain ‖ steered) in nats
    per token.
    """
    with _plain_errors(debug):
        values = _numbers("--strengths", strengths)
        _check_input(model, steer)
        _quiet_libraries()
        import steerlens as sl
        from steerlens.evaluate.sign_margin import written_kl
        from steerlens.show.text import continuations

        lm = sl.load_model(model, device=device, dtype=dtype)
        value = sl.load(steer, lm)
        table = sl.generate(
            lm, prompt, value, strengths=values, samples=samples, seed=seed,
            max_new_tokens=max_new_tokens, temperature=temperature,
        )  # fmt: skip
        typer.echo(continuations(table.assign(kl=written_kl(lm, table, value))))


@app.command()
def move(
    model: ModelOption,
    steer: Annotated[Path, typer.Option(help="The steer's file, from `steerlens fit` on --model.")],
    to: Annotated[str, typer.Option(help="The model to move it to.")],
    out: Annotated[Path, typer.Option(help="The moved steer's file, NAME.safetensors.")],
    rule: Annotated[
        str,
        typer.Option(
            help="congruence, similarity, procrustes, authors; with --text: paired, distil, selftrain."
        ),
    ] = "congruence",
    text: Annotated[
        Path | None,
        typer.Option(
            help="Texts without labels: .txt, one per line; .csv, .tsv, .jsonl, .json, .parquet."
        ),
    ] = None,
    kl: Annotated[
        float | None,
        typer.Option(help="Scale it to cost this many nats per token of --text at strength 1."),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    text_column: TextColumn = "text",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that exists.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Move a steer to another model and save it there.

    The default rule looks at the vocabularies alone. With some thousand texts, which need no
    labels, --rule selftrain keeps about all of the effect, --rule distil most of it.
    """
    with _plain_errors(debug):
        _check_file(out, overwrite)
        from steerlens.values.rules import READ_TEXT, RULES

        if rule not in RULES:
            raise ValueError(f"--rule: got {rule!r}, expected one of {', '.join(RULES)}")
        if rule in READ_TEXT and text is None:
            raise ValueError(
                f"--rule: {rule!r} reads text; pass --text, some thousand texts without labels"
            )
        if kl is not None and text is None:
            raise ValueError("--kl: the cost is measured on text; pass --text too")
        if text is not None and kl is None and rule not in READ_TEXT:
            raise ValueError(
                f"--text: rule {rule!r} reads none; leave it out, or pass --kl to scale the steer on it"
            )
        for name, file in ((model, steer), (to, text)):
            _check_input(name, file)
        _quiet_libraries()
        import steerlens as sl
        from steerlens.values.readers import read_texts

        say = _speaker(quiet)
        texts = None if text is None else read_texts(text, text=text_column)
        say(f"loading {model} and {to}")
        source, target = (sl.load_model(one, device=device, dtype=dtype) for one in (model, to))
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
            strength = sl.strength_at_kl(moved, sample, kl=kl)
            say(f"strength 1 costs {kl:g} nats per token; it was strength {strength:.3g}")
            moved = replace(strength * moved, name=moved.name, terms=moved.terms)
        sl.save(moved, out)
        typer.echo(out)


@contextmanager
def _plain_errors(debug: bool) -> Iterator[None]:
    """What a user can mend is one line on stderr and exit code 2; anything else is ours and keeps
    its traceback."""
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


def _read(
    data: Path, text: str, label: str, meaning: tuple, dropna: bool, say: Callable[[str], None]
) -> "Labelled":
    """Labelled texts of a file; what was understood is said."""
    from steerlens.values.readers import read_labelled

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        found = read_labelled(
            data, text=text, label=label, labels=meaning[0], scale=meaning[1], dropna=dropna
        )
    for one in told:
        say(f"note: {one.message}")
    say(found.understood())
    return found


def _numbers(option: str, text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        raise ValueError(
            f"{option}: got {text!r}, expected numbers with commas, e.g. {option}=-2,0,2"
        )
    return found


def _scale(text: str | None) -> tuple[float, float] | None:
    """The two ends of a scale of labels."""
    if text is None:
        return None
    ends = _numbers("--scale", text)
    if len(ends) != 2:
        raise ValueError(f"--scale: got {text!r}, expected two numbers, e.g. --scale=1,5")
    return ends[0], ends[1]


def _meaning(text: str | None) -> dict[str, float] | None:
    """Words and the labels that they stand for."""
    if text is None:
        return None
    pairs = [part.rpartition("=") for part in text.split(",")]
    try:
        return {
            word.strip(): float(number) for word, sign, number in pairs if sign or number or word
        }
    except ValueError:
        raise ValueError(
            f"--labels: got {text!r}, expected words and numbers, e.g. --labels=positive=1,negative=-1"
        ) from None


def _check_input(model: str, file: Path | None) -> None:
    """Refuse what cannot be read before anything heavy is imported or loaded."""
    from steerlens.models.folders import find_model

    if file is not None and not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    find_model(model)


def _check_file(path: Path | None, overwrite: bool) -> None:
    if path is not None and path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a name that ends in .safetensors")
    if path is not None and path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name, or replace it with --overwrite")


if __name__ == "__main__":
    app()
