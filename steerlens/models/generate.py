"""Write with a model at many strengths at once."""

from collections.abc import Iterable

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.adapters import Model
from steerlens.models.adapters.protocol import Step
from steerlens.models.decoding import decoder, habits
from steerlens.models.guards import check_reached
from steerlens.models.hooks import adapter, apply_edits
from steerlens.models.pieces import continuation as _continuation
from steerlens.models.rows import check_prefix
from steerlens.models.sampling import Drawing, Warp
from steerlens.models.steering import check_lives_on
from steerlens.models.writing import Steps, generate_by
from steerlens.values.fit import Fit, value_of
from steerlens.values.intervention import Intervention
from steerlens.values.positions import TokenIndex, places_of


@torch_defaults()
def generate(
    model: Model,
    prompts: Iterable[str],
    intervention: Intervention | Fit | None = None,
    *,
    strengths: float | Iterable[float] = (1.0,),
    samples: int = 1,
    seed: int = 0,
    max_new_tokens: int = 30,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
) -> pd.DataFrame:
    """Continue prompts at every strength, with one pass of the model per new token for all
    together.

    Warp is by inverse cumulative probability with one uniform number per token, drawn for each
    prompt and sample from `seed` and shared by all strengths: a row's text does not depend on which
    other rows are asked for, strength 0 is exactly the plain model's text, and along the strengths
    only the steer changes.

    Args:
        model: of TransformerLens or of Hugging Face; unchanged afterwards.
        prompts: texts to continue; "" starts from nothing where the model has a begin-of-text
            token.
        intervention: a `Fit` stands for its value; None for the plain model (then all strengths
            count the same).
        strengths: one number or several; a fitted steer reproduces its labels' style at 1 and -1
            and usually bears more.
        samples: continuations per prompt and strength.
        seed: same seed, same texts.
        max_new_tokens: at most; a text ends earlier at the tokenizer's end-of-text token, or where the context
            is full.
        temperature: 0 is greedy.
        top_p: sample from the smallest set of likeliest tokens that holds this probability.
        top_k: and among at most so many tokens.

    Returns:
        One row per prompt, strength and sample: `prompt`, `strength`, `sample`, `text` (the
        continuation, with the space
        that belongs before it: `prompt + text` is the whole), `log_prob` (nats, of the continuation
        under the steered
        model at temperature 1, end of text included where reached).

    Raises:
        ValueError: an argument out of range, a prompt as long as the context, an empty prompt
            without begin-of-text.

    Example:
        >>> import steerlens as sl
        >>> sl.generate(sl.load_model("toy-64"), ["the film was"], max_new_tokens=5).columns.tolist()
        ['prompt', 'strength', 'sample', 'text', 'log_prob']
    """
    intervention = value_of(intervention)
    if intervention is not None:
        check_lives_on(intervention, model)
        check_prefix(intervention, model)
    drawing = Drawing(samples, seed, max_new_tokens, Warp(temperature, top_p, top_k))
    prefix = 0 if intervention is None else intervention.prefix
    steps = edited_steps(model, intervention)
    return generate_by(
        model, prompts, steps, strengths, drawing, prefix=prefix, as_text=_continuation
    )


def edited_steps(model: Model, intervention: Intervention | None) -> Steps:
    """Return the steps of a model under an intervention, None: of the plain model."""

    def steps(prompts: list[list[int]], strength: Float[Tensor, " rows"]) -> Step:
        device = adapter(model).W_U.device
        lengths = torch.tensor([len(ids) for ids in prompts], device=device)
        edits = () if intervention is None else tuple(intervention.edits(strength.to(device)))
        following = decoder(model, caches=habits(model).caches)

        def step(tokens: Tensor, mask: Tensor) -> Tensor:
            whole, reached = places_of(mask, lengths), set[int]()

            def places(k: int, t: Tensor) -> TokenIndex:
                reached.add(k)
                # a pass over new tokens alone holds the last of them
                return whole._replace(index=whole.index[:, -t.shape[1] :])

            with apply_edits(model, edits, places):
                logits = following(tokens, mask)
            check_reached([site for site, _ in edits], reached)
            return logits

        return step

    return steps
