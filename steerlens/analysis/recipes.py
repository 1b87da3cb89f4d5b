"""Every method that can be fitted to labelled texts, by its defaults, so that all can be held
against each other."""

from collections.abc import Callable
from typing import cast

from steerlens.evaluate.compare_writing import Recipe
from steerlens.methods.baselines.causal_direction import fit_causal_direction
from steerlens.methods.baselines.dual_steering import fit_dual_steering
from steerlens.methods.baselines.fishback import fit_fishback
from steerlens.methods.baselines.latent_vectors import fit_latent_vectors
from steerlens.methods.baselines.lm_steer_recipe import fit_lm_steer_recipe
from steerlens.methods.baselines.log_odds import fit_log_odds
from steerlens.methods.baselines.logit_bias import fit_logit_bias
from steerlens.methods.baselines.mean_difference import fit_mean_difference
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
    "latent vectors", "LoReFT", "ReFT-r1", "soft prompt", "prefix", "values' LoRA",
)  # fmt: skip


def recipes(model: Model, names: tuple[str, ...] = NAMES, *, seed: int = 0) -> dict[str, Recipe]:
    """Return methods as functions from labelled texts to what they fit, for `compare_writing`.

    Each is at its defaults, reads the texts itself, and shows no bar; what it takes is what its own
    fit takes.

    Args:
        names: which; see `NAMES`.
        seed: of each fit.

    Raises:
        ValueError: a name that is none.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> recipes(model, ("log-odds",))["log-odds"](data).name
        'log-odds'
    """

    def read(data: Labelled) -> States:
        return collect(model, data, progress=False)

    known: dict[str, Callable[[Labelled], object]] = {
        "steer": lambda data: fit_steer(read(data), seed=seed, progress=False),
        "authors' recipe": lambda data: fit_lm_steer_recipe(read(data), seed=seed)[0],
        "logit bias": lambda data: fit_logit_bias(read(data), seed=seed),
        "log-odds": lambda data: fit_log_odds(read(data)),
        "constant shift": lambda data: fit_shift(read(data), seed=seed),
        "mean difference": lambda data: fit_mean_difference(model, data),
        "mean difference, unembedding": lambda data: fit_mean_difference(
            model, data, layer="unembed"
        ),
        "causal direction": lambda data: fit_causal_direction(read(data)),
        "dual steering": lambda data: fit_dual_steering(read(data), seed=seed),
        "FishBack": lambda data: fit_fishback(read(data)),
        "latent vectors": lambda data: fit_latent_vectors(model, data, seed=seed),
        "LoReFT": lambda data: fit_reft(model, data, rank=RANK, seed=seed, progress=False),
        "ReFT-r1": lambda data: fit_reft(
            model, data, variant="r1", rank=1, seed=seed, progress=False
        ),
        "soft prompt": lambda data: fit_prompt(model, data, seed=seed, progress=False),
        "prefix": lambda data: fit_prompt(model, data, kind="kv", seed=seed, progress=False),
        "values' LoRA": lambda data: fit_value_lora(model, data, seed=seed, progress=False),
    }
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        got = repr(wrong[0]) if wrong else "none"
        raise ValueError(f"names: got {got}, expected some of {', '.join(known)}")
    return {name: cast(Recipe, known[name]) for name in names}
