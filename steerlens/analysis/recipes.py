"""Every method that can be fitted to labelled texts, by its defaults, so that all can be held
against each other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

from steerlens.evaluate.compare_writing import Recipe
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.causal_direction import fit_causal_direction
from steerlens.methods.baselines.copies import USUAL, FineTuning
from steerlens.methods.baselines.ctrl import CODES, fit_ctrl
from steerlens.methods.baselines.dapt import fit_dapt
from steerlens.methods.baselines.dexperts import fit_dexperts
from steerlens.methods.baselines.dual_steering import fit_dual_steering
from steerlens.methods.baselines.fishback import fit_fishback
from steerlens.methods.baselines.gedi import fit_gedi
from steerlens.methods.baselines.instruction import INSTRUCTIONS, instruct
from steerlens.methods.baselines.latent_vectors import fit_latent_vectors
from steerlens.methods.baselines.lm_steer_recipe import fit_lm_steer_recipe
from steerlens.methods.baselines.log_odds import fit_log_odds
from steerlens.methods.baselines.logit_bias import fit_logit_bias
from steerlens.methods.baselines.mean_difference import fit_mean_difference
from steerlens.methods.baselines.mixing import encode_lead
from steerlens.methods.baselines.mucola import fit_mucola
from steerlens.methods.baselines.pplm import fit_pplm
from steerlens.methods.baselines.shift import fit_shift
from steerlens.methods.baselines.value_lora import fit_value_lora
from steerlens.methods.prompt.fit import fit_prompt
from steerlens.methods.reft.fit import fit_reft
from steerlens.methods.steer.fit import fit_steer
from steerlens.models.collect import collect
from steerlens.models.hooks import Model
from steerlens.values.labelled import Labelled
from steerlens.values.states import States

RANK = 4
"""Of the edits of hidden states."""
NAMES = (
    "steer", "authors' recipe", "logit bias", "log-odds", "constant shift", "mean difference",
    "mean difference, unembedding", "causal direction", "dual steering", "FishBack",
    "latent vectors", "LoReFT", "ReFT-r1", "soft prompt", "prefix", "values' LoRA", "DAPT", "CTRL",
    "GeDi", "DExperts", "DExperts, anti-expert", "PPLM", "MuCoLa",
    "instruction",
)  # fmt: skip


class Words(NamedTuple):
    """What is said to the model by methods that use words: for positive labels, and for negative.

    A model of few words must be given words that it has.

    Args:
        codes: before the texts that CTRL and GeDi learn from.
        instructions: in the place of learning.
    """

    codes: tuple[str, str] = CODES
    instructions: tuple[str, str] = INSTRUCTIONS


SAID = Words()


@torch_defaults()
def recipes(
    model: Model,
    names: tuple[str, ...] = NAMES,
    *,
    seed: int = 0,
    words: Words = SAID,
    tuning: FineTuning = USUAL,
    folder: str | Path | None = None,
) -> dict[str, Recipe]:
    """Return methods as functions from labelled texts to what they fit, for `compare_writing`.

    Each is at its defaults, reads the texts itself, and shows no bar; what it takes is what its own
    fit takes.

    Args:
        names: which; see `NAMES`.
        seed: of each fit.
        words: of "CTRL", "GeDi" and "instruction".
        tuning: of the copies of the model that "DAPT", "CTRL", "GeDi" and "DExperts" learn; its
            seed is `seed`.
        folder: where copies are kept. DAPT and DExperts need the same two, CTRL and GeDi the same
            one: with a folder each is learned once, and whoever comes second takes no time to fit.

    Raises:
        ValueError: a name that is none; words that the model does not have.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> recipes(model, ("log-odds",))["log-odds"](data).name
        'log-odds'
    """
    known = _by_states(model, seed) | _by_texts(model, seed)
    known |= _by_other_logits(model, words, replace(tuning, seed=seed), folder)
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        got = repr(wrong[0]) if wrong else "none"
        raise ValueError(f"names: got {got}, expected some of {', '.join(known)}")
    said = [*words.codes] if {"CTRL", "GeDi"} & {*names} else []
    said += words.instructions if "instruction" in names else ()
    for text in said:
        _check_words(model, text)
    return {name: cast(Recipe, known[name]) for name in names}


Fitting = Callable[[Labelled], object]


def _by_states(model: Model, seed: int) -> dict[str, Fitting]:
    """Return the methods that are fitted to the contexts before the unembedding."""

    def read(data: Labelled) -> States:
        return collect(model, data, progress=False)

    return {
        "steer": lambda data: fit_steer(read(data), seed=seed, progress=False),
        "authors' recipe": lambda data: fit_lm_steer_recipe(read(data), seed=seed)[0],
        "logit bias": lambda data: fit_logit_bias(read(data), seed=seed),
        "log-odds": lambda data: fit_log_odds(read(data)),
        "constant shift": lambda data: fit_shift(read(data), seed=seed),
        "causal direction": lambda data: fit_causal_direction(read(data)),
        "dual steering": lambda data: fit_dual_steering(read(data), seed=seed),
        "FishBack": lambda data: fit_fishback(read(data)),
    }


def _by_texts(model: Model, seed: int) -> dict[str, Fitting]:
    """Return the methods that run the model to be fitted."""
    return {
        "mean difference": lambda data: fit_mean_difference(model, data),
        "mean difference, unembedding": lambda data: fit_mean_difference(
            model, data, layer="unembed"
        ),
        "latent vectors": lambda data: fit_latent_vectors(model, data, seed=seed),
        "LoReFT": lambda data: fit_reft(model, data, rank=RANK, seed=seed, progress=False),
        "ReFT-r1": lambda data: fit_reft(
            model, data, variant="r1", rank=1, seed=seed, progress=False
        ),
        "soft prompt": lambda data: fit_prompt(model, data, seed=seed, progress=False),
        "prefix": lambda data: fit_prompt(model, data, kind="kv", seed=seed, progress=False),
        "values' LoRA": lambda data: fit_value_lora(model, data, seed=seed, progress=False),
        "PPLM": lambda data: fit_pplm(model, data),
        "MuCoLa": lambda data: fit_mucola(model, data),
    }


def _by_other_logits(
    model: Model, words: Words, tuning: FineTuning, folder: str | Path | None
) -> dict[str, Fitting]:
    """Return the methods that mix in the logits of copies, or of the model behind other words."""
    codes, instructions = words
    return {
        "DAPT": lambda data: fit_dapt(model, data, tuning=tuning, folder=folder),
        "CTRL": lambda data: fit_ctrl(model, data, codes=codes, tuning=tuning, folder=folder),
        "GeDi": lambda data: fit_gedi(model, data, codes=codes, tuning=tuning, folder=folder),
        "DExperts": lambda data: fit_dexperts(model, data, tuning=tuning, folder=folder),
        "DExperts, anti-expert": lambda data: fit_dexperts(
            model, data, anti_only=True, tuning=tuning, folder=folder
        ),
        "instruction": lambda _: instruct(model, instructions=instructions),
    }


def _check_words(model: Model, text: str) -> None:
    """Stop before anything is fitted where a method will not be understood."""
    try:
        encode_lead(model, text)
    except ValueError as error:
        raise ValueError(
            f"words: {text!r} is not in this model's vocabulary ({error}); give others, or leave out "
            "the method that says it"
        ) from None
