"""Ask at each word which class a class-conditional model would take the text for: GeDi."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.copies import USUAL, FineTuning
from steerlens.methods.baselines.ctrl import CODES, coded_copy
from steerlens.methods.baselines.mixing import Heard, Voice
from steerlens.methods.baselines.mixture import Mixture, count_parameters
from steerlens.models.adapters import Model
from steerlens.models.readout import readout
from steerlens.values.labelled import Labelled
from steerlens.values.texts import as_name


@torch_defaults()
def fit_gedi(
    model: Model,
    data: Labelled,
    *,
    codes: tuple[str, str] = CODES,
    tuning: FineTuning = USUAL,
    folder: str | Path | None = None,
    name: str = "gedi",
) -> Mixture:
    """Fine-tune one class-conditional copy; by Bayes' rule it weighs each word the base may write.

        log p(x_t) = log p_base(x_t) + |s| log P(side | x_1 … x_t) + const
        P(side | x_1 … x_t) ∝ p(x_1 … x_t | code of the side)^(1/t)

    with the side of the strength's sign. The likelihoods are length-normalised, as in the paper, so
    that long texts do not decide everything. The strength is the paper's `ω`; its default is 30.
    Two parts of it are left out: the copy learns by the likelihood of its texts alone (their `λ` =
    1, no discriminative loss, no learned scale), and no words are cut away by their posterior, so
    that every text has a likelihood.

    Source: Krause et al. (arXiv 2009.06367), equations 2 to 6.

    Args:
        model: of the copy; unchanged.
        data: labelled texts, prompts only read; those with label 0 do not count.
        codes: of positive and of negative texts, words that the model's vocabulary has.
        tuning: how the copy is trained.
        folder: where it is kept, the same as `fit_ctrl` of the same texts; see
            `copies.fine_tuned_copy`.

    Raises:
        ValueError: a code without a token, equal codes, fewer than four texts.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> fit_gedi(model, data, codes=("please", "idiots"), tuning=FineTuning(lr=3e-4, epochs=1)).name
        'gedi'
    """
    name = as_name(name)
    copy, leads = coded_copy(model, data, codes, tuning, folder)
    voices = Voice(copy, leads[0]), Voice(copy, leads[1])
    return Mixture(voices, weigh_by_class, readout(model), count_parameters(copy), name)


def weigh_by_class(heard: Heard, strength: Float[Tensor, "n 1"]) -> Float[Tensor, "n vocab"]:
    """Return `z_base + |s| log P(side | text and word)`, the side that of the sign."""
    log_p = heard.voices.log_softmax(-1)
    told = (heard.so_far[..., None] + log_p) / (heard.n_read[:, None] + 1)
    posterior = told.log_softmax(0)
    side = torch.where(strength > 0, posterior[0], posterior[1])
    return heard.base + strength.abs() * side
