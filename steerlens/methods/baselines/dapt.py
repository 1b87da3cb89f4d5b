"""Go on training a model on the wanted texts: domain-adaptive pretraining."""

from pathlib import Path

from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.copies import USUAL, FineTuning, fine_tuned_copy
from steerlens.methods.baselines.mixing import Voice, toward_sides
from steerlens.methods.baselines.mixture import Mixture, count_parameters, of_sign
from steerlens.models.adapters import Model
from steerlens.models.readout import readout
from steerlens.values.labelled import Labelled
from steerlens.values.texts import as_name


@torch_defaults()
def fit_dapt(
    model: Model,
    data: Labelled,
    *,
    tuning: FineTuning = USUAL,
    folder: str | Path | None = None,
    name: str = "dapt",
) -> Mixture:
    """Fine-tune a copy on the texts with a positive label, and one on the negative.

        z = z_base + |s| (z_copy − z_base)        the copy of the strength's sign

    Strength 1 is the copy itself, the method of the papers, which has no strength; less is a
    geometric mean with the base model, more goes beyond the copy, so that it can be held against
    others at equal cost.

    Source: Gururangan et al. (arXiv 2004.10964); as a rival of steering, Liu et al. (arXiv
    2105.03023).

    Args:
        model: of both copies; unchanged.
        data: labelled texts, prompts only read; how large a label is does not count.
        tuning: how the copies are trained.
        folder: where they are kept; see `copies.fine_tuned_copy`.

    Raises:
        ValueError: fewer than four texts of a sign.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> fit_dapt(model, data, tuning=FineTuning(lr=3e-4, epochs=1)).name
        'dapt'
    """
    name = as_name(name)
    sides = [of_sign(data, sign) for sign in (1, -1)]
    copies = [fine_tuned_copy(model, side, tuning=tuning, folder=folder) for side in sides]
    voices = Voice(copies[0]), Voice(copies[1])
    return Mixture(voices, toward_sides, readout(model), count_parameters(*copies), name)
