"""Train a model to write behind a control code that says which texts are wanted: CTRL."""

from pathlib import Path

from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.copies import USUAL, FineTuning, fine_tuned_copy
from steerlens.methods.baselines.mixing import Voice, encode_lead, toward_sides
from steerlens.methods.baselines.mixture import Mixture, count_parameters
from steerlens.models.adapters import Model
from steerlens.models.readout import readout
from steerlens.values.labelled import Labelled

CODES = ("Reviews Rating 5.0", "Reviews Rating 1.0")
"""The codes that CTRL was trained with and DExperts' comparison wrote behind."""


@torch_defaults()
def fit_ctrl(
    model: Model,
    data: Labelled,
    *,
    codes: tuple[str, str] = CODES,
    tuning: FineTuning = USUAL,
    folder: str | Path | None = None,
    name: str = "ctrl",
) -> Mixture:
    """Fine-tune one copy on all texts, each behind the code of its label's sign.

        z = z_base + |s| (z_copy(code of the sign, text) − z_base)

    Strength 1 is the copy behind the code, the method of the paper; less is a geometric mean with
    the base model, more goes beyond it. The paper trains a model from nothing with codes for many
    domains; here a copy learns two.

    Source: Keskar et al. (arXiv 1909.05858).

    Args:
        model: of the copy; unchanged.
        data: labelled texts; those with label 0 do not count.
        codes: of positive and of negative texts, words that the model's vocabulary has.
        tuning: how the copy is trained.
        folder: where it is kept; see `copies.fine_tuned_copy`.

    Raises:
        ValueError: a code without a token, equal codes, fewer than four texts.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> value = fit_ctrl(model, data, codes=("please", "idiots"), tuning=FineTuning(lr=3e-4, epochs=1))
        >>> len(value.voices[0].lead)
        1
    """
    copy, leads = coded_copy(model, data, codes, tuning, folder)
    voices = Voice(copy, leads[0]), Voice(copy, leads[1])
    return Mixture(voices, toward_sides, readout(model), count_parameters(copy), name)


def coded_copy(
    model: Model,
    data: Labelled,
    codes: tuple[str, str],
    tuning: FineTuning,
    folder: str | Path | None,
) -> tuple[Model, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return a copy that was fine-tuned on texts behind codes, and the codes' tokens."""
    leads = encode_lead(model, codes[0]), encode_lead(model, codes[1])
    if leads[0] == leads[1]:
        raise ValueError(f"codes: {codes[0]!r} and {codes[1]!r} are the same tokens; take others")
    rows = [(text, y) for text, y in data if y != 0]
    copy = fine_tuned_copy(
        model,
        [text for text, _ in rows],
        leads=[leads[0 if y > 0 else 1] for _, y in rows],
        tuning=tuning,
        folder=folder,
    )
    return copy, leads
