"""`steerlens move`."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from steerlens.cli.input import check_input, check_output, plain_errors, quiet_libraries, speaker
from steerlens.cli.options import Debug, Device, Dtype, ModelOption, Quiet, Seed, TextColumn


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
    with plain_errors(debug):
        check_output(out, overwrite)
        from steerlens.values.rules import READ_TEXT, RULES

        if rule not in RULES:
            raise ValueError(f"--rule: got {rule!r}, expected one of {', '.join(RULES)}")
        if rule in READ_TEXT and text is None:
            raise ValueError(
                f"--rule: {rule!r} reads text; pass --text, some thousand texts without labels"
            )
        if kl is not None and not 0 < kl < math.inf:
            raise ValueError(f"--kl: got {kl}, expected a positive number of nats per token")
        if kl is not None and text is None:
            raise ValueError("--kl: the cost is measured on text; pass --text too")
        if text is not None and kl is None and rule not in READ_TEXT:
            raise ValueError(
                f"--text: rule {rule!r} reads none; leave it out, or pass --kl to scale the steer on it"
            )
        for name, file in ((model, steer), (to, text)):
            check_input(name, file)
        quiet_libraries()
        import steerlens as sl
        from steerlens.values.readers import read_texts

        say = speaker(quiet)
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
