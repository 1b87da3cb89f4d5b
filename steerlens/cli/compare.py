"""`steerlens compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerlens.cli.input import (
    check_input,
    check_output_folder,
    plain_errors,
    quiet_libraries,
    read_data,
    read_meaning,
    read_numbers,
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

if TYPE_CHECKING:
    from steerlens.evaluate.protocols import Protocol
    from steerlens.values.labelled import Labelled

USUAL = ("steer", "logit bias", "mean difference")
SHOWN = (
    "method", "kl", "strength", "mean_score", "gain", "gain_low", "gain_high", "corpus_perplexity",
    "distinct_2", "own_kl", "parameters", "slowdown", "note",
)  # fmt: skip


def compare(
    model: ModelOption,
    data: Annotated[Path, typer.Option(help=DataHelp)],
    out: Annotated[Path, typer.Option(help="Folder for table, figure and texts.")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Name of a method to fit; several times. {', '.join(USUAL)} if not given."
        ),
    ] = None,
    steer: Annotated[
        list[Path] | None, typer.Option(help="A saved steer or other value; several times.")
    ] = None,
    kl: Annotated[
        str, typer.Option(help="Budgets, nats of KL per token, with commas.")
    ] = "0.02,0.05,0.15",
    own_text: Annotated[
        bool,
        typer.Option(
            help="Hold the budgets on what each method writes, not on given texts; fair to methods "
            "that put words before a text."
        ),
    ] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(help="JSONL with prompt.text; beginnings of the data's texts if not given."),
    ] = None,
    scorer: Annotated[
        str,
        typer.Option(
            help="What judges: data (a classifier fitted to the data), grammar:tone or "
            "grammar:sentiment on toy models, a .safetensors classifier, or a folder of Hugging Face."
        ),
    ] = "data",
    preset: Annotated[str, typer.Option(help="How much is written: small or lm-steer.")] = "small",
    seed: Seed = 0,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    labels: Labels = None,
    scale: Scale = None,
    dropna: DropNa = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Let methods write at the same cost in KL, and judge what they wrote.

    Methods are fitted to 70 % of the texts, the others set the cost. A base row and controls by a
    random direction and by shuffled labels are always there. A run that was stopped goes on when it
    is called again.
    """
    with plain_errors(debug):
        budgets = read_numbers("--kl", kl, "0.02,0.05")
        out = check_output_folder(out)
        check_names(method or [], steer or [])
        check_input(model, data)
        for file in [*(steer or []), *([] if prompts is None else [prompts])]:
            check_input(model, file)
        meaning = read_meaning(labels), read_scale(scale)
        quiet_libraries()
        import steerlens as sl
        from steerlens.analysis.recipes import recipes
        from steerlens.evaluate.compare_writing import compare_writing
        from steerlens.evaluate.spend import OwnText

        say = speaker(quiet)
        texts = read_data(data, text_column, label_column, meaning, dropna, say)
        train, held = texts.split(0.7, seed=seed)
        task = _task(held, train, prompts, scorer, preset, seed)
        say(f"judged by {task.scorer.card}")
        say(f"loading {model}")
        lm = sl.load_model(model, device=device, dtype=dtype)
        names = tuple(method or ([] if steer else USUAL))
        given: dict[str, Any] = recipes(lm, names, seed=seed) if names else {}
        given |= {path.stem: sl.load(path, lm) for path in steer or []}
        out.mkdir(exist_ok=True)
        table = compare_writing(
            lm, given, task, held, kl=OwnText(budgets) if own_text else budgets, train=train,
            folder=out / "texts", progress=not quiet,
        )  # fmt: skip
        _write(table, out)
        typer.echo(table[list(SHOWN)].round(3).to_string(index=False))
        typer.echo(out)


def check_names(methods: list[str], steers: list[Path]) -> None:
    """Refuse two rows of one name: one of them would be left out."""
    given = [(name, f"--method {name!r}") for name in methods]
    given += [(path.stem, f"--steer {str(path)!r}") for path in steers]
    first: dict[str, str] = {}
    for name, said in given:
        if (other := first.setdefault(name, said)) is not said:
            raise ValueError(
                f"{other} and {said} are both called {name!r} in the table; leave one out, or copy a "
                "file to another name"
            )


def _task(
    held: "Labelled", train: "Labelled", prompts: Path | None, scorer: str, preset: str, seed: int
) -> "Protocol":
    from steerlens.evaluate.prompts import read_prompts
    from steerlens.evaluate.protocols import sentiment

    if prompts is None:
        kind, begun = "beginnings", [" ".join(text.split()[:4]) for text in held.first(40).texts]
    else:
        kind, begun = prompts.stem, list(read_prompts(prompts))
    return sentiment({kind: begun}, _scorer(scorer, train, seed), preset=preset, seed=seed)


def _scorer(name: str, train: "Labelled", seed: int) -> Any:
    from steerlens.evaluate import scorers

    if name == "data":
        return scorers.fit_text_classifier(train, measures="how near label 1", seed=seed)
    if name.startswith("grammar:"):
        return scorers.oracle(name.removeprefix("grammar:"))  # pyright: ignore[reportArgumentType]
    if name.endswith(".safetensors"):
        return scorers.load_text_classifier(name)
    if Path(name).is_dir():
        return scorers.hugging_face_scorer(name)
    raise ValueError(
        f"--scorer: got {name!r}, expected data, grammar:tone, grammar:sentiment, a .safetensors file "
        "or a folder"
    )


def _write(table: Any, out: Path) -> None:
    import matplotlib.pyplot as plt

    from steerlens.show import plot_at_kl, save_figure

    table.to_csv(out / "compare.csv", index=False)
    plot_at_kl(table)
    save_figure(plt.gcf(), out, "compare", table)
    plt.close("all")
