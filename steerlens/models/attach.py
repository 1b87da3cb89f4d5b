"""Put an intervention into a running model, and take it out again."""

from collections.abc import Iterator
from contextlib import contextmanager

from steerlens.models.sites import Model, hooked, readout
from steerlens.values.intervention import Intervention, Strength


@contextmanager
def steered(model: Model, intervention: Intervention, strength: Strength = 1.0) -> Iterator[Model]:
    """The model, steered inside the block and as before after it, however the block is left.

    Everything works under it: `model(...)`, `model.generate`, `generate_stream`, `hf_generate`, `run_with_cache`. Hooks
    that were there before stay. Nested blocks compose as maps, the inner one acting on what the outer one made:
    `c (I + aA)(I + bB)`; the sum `c (I + aA + bB)` is `steered(model, a * A + b * B)`.

    Args:
        model: a TransformerLens model of either class.
        intervention: e.g. a `Steer`, or `steer.over(background)`.
        strength: a number, or a tensor with one value a row of the batch.

    Raises:
        ValueError: the intervention lives on another `W_U`.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> joy = sl.fit_steer(sl.collect(model, sl.toy.corpus("sentiment", n=100, seed=0))).value
        >>> with sl.steered(model, joy, strength=2.0):
        ...     text = model.generate("the film was", max_new_tokens=5, verbose=False)
    """
    check_lives_on(intervention, model)
    with hooked(model, intervention.edits(strength)):
        yield model


def check_lives_on(intervention: Intervention, model: Model) -> None:
    """Raise where an intervention's numbers do not refer to this model's unembedding."""
    home, W_U = intervention.readout, model.W_U
    if W_U.data_ptr() == home.W_U.data_ptr() and W_U.shape == home.W_U.shape:
        return  # the very same tensor
    here = readout(model)
    if not home.same_as(here):
        raise ValueError(
            f"intervention: it lives on the W_U of {home.model_id!r} (d_model {home.d_model}, digest {home.digest[:8]}), this "
            f"model is {here.model_id!r} (d_model {here.d_model}, digest {here.digest[:8]}); folding a norm, centring W_U or "
            "fine-tuning changes it too. Load the raw weights (steerlens.load_model), or move the steer with "
            "steerlens.transfer"
        )
