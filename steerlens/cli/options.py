"""Options that several commands have, in one wording."""

from typing import Annotated

import typer

ModelOption = Annotated[
    str, typer.Option("--model", help="A toy model, a Hugging Face folder or a hub id.")
]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="Of the model's weights: float32, bfloat16 or float16.")]
DataHelp = "Labelled texts: .csv, .tsv, .jsonl, .json or .parquet."
TextColumn = Annotated[str, typer.Option(help="Name of the column with the texts.")]
LabelColumn = Annotated[
    str,
    typer.Option(
        help="Name of the column with the labels: numbers in [-1, 1], or what --labels or --scale says."
    ),
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
