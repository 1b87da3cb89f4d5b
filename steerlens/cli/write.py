"""`steerlens write`."""

from pathlib import Path
from typing import Annotated

import typer

from steerlens.cli.input import check_input, plain_errors, quiet_libraries, read_numbers
from steerlens.cli.options import Debug, Device, Dtype, ModelOption, Seed


def write(
    model: ModelOption,
    steer: Annotated[Path, typer.Option(help="A steer's file, from `steerlens fit`.")],
    prompt: Annotated[list[str], typer.Option(help="A beginning; may be given several times.")],
    strengths: Annotated[
        str, typer.Option(help="Numbers with commas; with a minus in front: --strengths=-2,0,2")
    ] = "-2,0,2",
    when: Annotated[
        list[str] | None,
        typer.Option(
            help="Where the steer acts: new, 'from 5', 'every 3', 'fade 20', 'rise 20', 'entropy > 1.5', 'top 50'. Several: "
            "all have to hold."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Texts per prompt and strength.")] = 1,
    seed: Seed = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most.")] = 30,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 1.0,
    top_p: Annotated[
        float, typer.Option(help="Of the likeliest words, those that hold this probability.")
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="And at most so many words.")] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    debug: Debug = False,
) -> None:
    """Continue prompts at several strengths; the same random numbers at each.

    Before each text: its strength, and what the steer costs along it, KL(plain ‖ steered) in nats
    per token.
    """
    with plain_errors(debug):
        values = read_numbers("--strengths", strengths)
        check_input(model, steer)
        quiet_libraries()
        import steerlens as sl
        from steerlens.evaluate.sign_margin import written_kl
        from steerlens.show.text import continuations
        from steerlens.values.gate import when as gated

        lm = sl.load_model(model, device=device, dtype=dtype)
        value = sl.load(steer, lm)
        value = gated(value, *when) if when else value
        table = sl.generate(
            lm, prompt, value, strengths=values, samples=samples, seed=seed,
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k,
        )  # fmt: skip
        typer.echo(continuations(table.assign(kl=written_kl(lm, table, value))))
