"""Train a model to write behind a control code that says which texts are wanted: CTRL."""

from pathlib import Path

from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.checks import as_sides, check_settings
from steerlens.methods.baselines.copies import USUAL, FineTuning, fine_tuned_copy
from steerlens.methods.baselines.mixing import Voice, encode_lead, toward_sides
from steerlens.methods.baselines.mixture import Mixture, count_parameters, of_sign
from steerlens.models.adapters import Model
from steerlens.models.readout import readout
from steerlens.values.labelled import Labelled
from steerlens.values.texts import as_name

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
        data: labelled texts, prompts only read; those with label 0 do not count.
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
    name = as_name(name)
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
    check_settings(tuning, "tuning", USUAL)
    texts, (first, second) = of_sign(data, 1, -1), as_sides(codes, "codes")
    leads = encode_lead(model, first, "codes"), encode_lead(model, second, "codes")
    if leads[0] == leads[1]:
        raise ValueError(f"codes: {first!r} and {second!r} are the same tokens; take others")
    copy = fine_tuned_copy(
        model,
        texts,
        leads=[leads[0 if y > 0 else 1] for y in texts.labels],
        tuning=tuning,
        folder=folder,
    )
    return copy, leads
