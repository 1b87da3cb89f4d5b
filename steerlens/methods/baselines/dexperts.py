"""Add what a model of wanted texts finds likelier than a model of unwanted ones: DExperts."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.copies import USUAL, FineTuning, fine_tuned_copy
from steerlens.methods.baselines.mixing import Heard, Voice
from steerlens.methods.baselines.mixture import Mixture, count_parameters, of_sign
from steerlens.models.adapters import Model
from steerlens.models.readout import readout
from steerlens.values.labelled import Labelled
from steerlens.values.texts import as_name


@torch_defaults()
def fit_dexperts(
    model: Model,
    data: Labelled,
    *,
    anti_only: bool = False,
    tuning: FineTuning = USUAL,
    folder: str | Path | None = None,
    name: str = "dexperts",
) -> Mixture:
    """Fine-tune an expert on the texts with a positive label and an anti-expert on the negative.

        z = z_base + s (z_expert − z_anti)

    Three models read the same text. The strength is the paper's `α` (2.0 for toxicity, 3.2 for
    sentiment). It cuts to a nucleus of the base model's distribution before it mixes; here `top_p`
    cuts the mixture, as for every method.

    Source: Liu et al. (arXiv 2105.03023), equation 2.

    Args:
        model: of both copies; unchanged.
        data: labelled texts, prompts only read; how large a label is does not count.
        anti_only: no expert; the base model stands for it.
        tuning: how the copies are trained.
        folder: where they are kept; see `copies.fine_tuned_copy`.

    Raises:
        ValueError: fewer than four texts of a sign.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> value = fit_dexperts(model, data, tuning=FineTuning(lr=3e-4, epochs=1))
        >>> [float(kl) > 0 for kl in value.score(model, ["my dear"], strengths=(0, 1)).groupby("strength").kl.max()]
        [False, True]
    """
    name = as_name(name)
    wanted, unwanted = None if anti_only else of_sign(data, 1), of_sign(data, -1)
    anti = fine_tuned_copy(model, unwanted, tuning=tuning, folder=folder)
    if wanted is None:
        voices, copies = (Voice(None), Voice(anti)), [anti]
    else:
        expert = fine_tuned_copy(model, wanted, tuning=tuning, folder=folder)
        voices, copies = (Voice(expert), Voice(anti)), [expert, anti]
    return Mixture(voices, add_difference, readout(model), count_parameters(*copies), name)


def add_difference(heard: Heard, strength: Float[Tensor, "n 1"]) -> Float[Tensor, "n vocab"]:
    """Return `z_base + s (z_first − z_second)`."""
    return heard.base + strength * (heard.voices[0] - heard.voices[1])
