"""Is a prompt what its nearest words say?"""

import math

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from steerlens.analysis.prompts.rows import distances, ordinary_words
from steerlens.evaluate.sign_margin import nll, sign_margin
from steerlens.evaluate.signed import with_nonzero_label
from steerlens.maths.brief import class_name
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.prompt.priors import Vocabulary
from steerlens.methods.prompt.soft_prompt import SoftPrompt
from steerlens.models.hooks import Model
from steerlens.models.readout import readout
from steerlens.values.fit import Fit, value_of
from steerlens.values.labelled import Labelled
from steerlens.values.readout import Readout


@torch_defaults()
def readability(
    model: Model,
    prompt: SoftPrompt | Fit[SoftPrompt],
    test: Labelled,
    *,
    draws: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Test whether a prompt is what its nearest words say: they are put in its place and tried.

    A continuous prompt can do its work and lie next to any words whatever (prompt waywardness,
    Khashabi et al., arXiv 2112.08348), so a reading by nearest words is worth what the words do
    when the model reads them: at +1 those nearest to `P(+1)`, at −1 those nearest to `P(−1)`.

    Args:
        prompt: kind "soft".
        test: labelled texts that it was not fitted to.
        draws: of random words, for comparison.
        seed: of them.

    Returns:
        One row each for `prompt`, `nearest words`, `random words`, `no prompt`: `what`, `nll` (nats
        per token, texts that have a sign at their own label), `sign_margin` of the signs with its
        95 % interval over texts `low`, `high`, and `kept`, the share of the prompt's sign margin (NaN
        where that is not clearly above 0). Random words are means over draws. A reading is faithful
        as far as the nearest words keep more than random ones.

    Raises:
        ValueError: a prompt of another kind.
    """
    prompt = value_of(prompt)
    if not isinstance(prompt, SoftPrompt) or prompt.kind != "soft":
        got = f"kind {prompt.kind!r}" if isinstance(prompt, SoftPrompt) else class_name(prompt)
        raise ValueError(
            f"prompt: got {got}, expected a prompt of kind 'soft'; rows of other kinds have no words near them"
        )
    on = readout(model)
    E, _ = ordinary_words(model, on)
    near = [E[distances(prompt.at(sign)[0].to(E), E).argmin(1)] for sign in (1.0, -1.0)]
    random = [
        [Vocabulary(E).sample(prompt.prefix, seed + 2 * k + j) for j in (0, 1)]
        for k in range(draws)
    ]
    ways = {
        "prompt": [prompt],
        "nearest words": [of_words(near[0], near[1], on)],
        "random words": [of_words(more, less, on) for more, less in random],
    }
    rows, columns = [], ["nll", "sign_margin", "low", "high"]
    for what, values in ways.items():
        rows.append(
            (
                what,
                *pd.DataFrame([sign_margin(model, test, value) for value in values])[
                    columns
                ].mean(),
            )
        )
    rows.append(("no prompt", nll(model, with_nonzero_label(test), None), 0.0, 0.0, 0.0))
    table = pd.DataFrame(rows, columns=["what", *columns])
    return table.assign(
        kept=table.sign_margin / table.sign_margin[0] if table.low[0] > 0 else math.nan
    )


@torch_defaults()
def of_words(
    plus: Float[Tensor, "n d"], minus: Float[Tensor, "n d"], on: Readout, name: str = "words"
) -> SoftPrompt:
    """Make the soft prompt that is exactly given token embeddings at strength 1, others at −1."""
    return SoftPrompt((plus + minus)[None] / 2, (plus - minus)[None] / 2, "soft", (), on, name)
