"""Every method that figures hold against each other, as functions of labelled texts; imported after
`_setting`."""

from collections.abc import Callable

import steerlens as sl
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
from steerlens.models.hooks import Model

RANK = 4


def recipes(model: Model, seed: int = 0, recipe_steps: int = 1000) -> dict[str, Recipe]:
    """Return all methods on a model, each by its defaults.

    Args:
        recipe_steps: of the authors' recipe; they take 1,000.
    """

    def states(data: sl.Labelled) -> sl.States:
        return sl.collect(model, data, progress=False)

    found: dict[str, Callable[[sl.Labelled], object]] = {
        "steer": lambda data: sl.fit_steer(states(data), seed=seed, progress=False),
        "authors' recipe": lambda data: fit_lm_steer_recipe(
            states(data), n_steps=recipe_steps, seed=seed
        )[0],
        "logit bias": lambda data: fit_logit_bias(states(data), seed=seed),
        "log-odds, top 50": lambda data: fit_log_odds(states(data)),
        "constant shift": lambda data: fit_shift(states(data), seed=seed),
        "mean difference": lambda data: fit_mean_difference(model, data),
        "mean difference, unembedding": lambda data: fit_mean_difference(
            model, data, layer="unembed"
        ),
        "causal direction": lambda data: fit_causal_direction(states(data)),
        "dual steering": lambda data: fit_dual_steering(states(data), seed=seed),
        "FishBack": lambda data: fit_fishback(states(data)),
        "latent vectors": lambda data: fit_latent_vectors(model, data, seed=seed),
        "LoReFT": lambda data: sl.fit_reft(model, data, rank=RANK, seed=seed, progress=False),
        "ReFT-r1": lambda data: sl.fit_reft(
            model, data, variant="r1", rank=1, seed=seed, progress=False
        ),
        "soft prompt": lambda data: sl.fit_prompt(model, data, seed=seed, progress=False),
        "prefix": lambda data: sl.fit_prompt(model, data, kind="kv", seed=seed, progress=False),
        "values' LoRA": lambda data: fit_value_lora(model, data, seed=seed, progress=False),
    }
    return found  # pyright: ignore[reportReturnType]
