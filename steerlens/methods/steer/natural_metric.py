"""The natural metric of a model on a text."""

from steerlens.maths.moments import second_moments
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.steer.problem import Weights, sums_over
from steerlens.values.metric import Metric
from steerlens.values.states import States, check_states


@torch_defaults()
def natural_metric(states: States, *, damping: float = 0.0, weights: Weights = "labels") -> Metric:
    """Return the natural metric of a model on a text: coordinates in which costs are nearly equal.
    See `Metric`.

    Args:
        states: of the model on the text.
        damping: see `Metric`.
        weights: as of `fit_steer`: by default texts with negative, zero and positive labels weigh
            the same in sum, however many there are. "tokens": every position the same, for the text
            as it is.

    Cost: two products with `W_U` a position; a sample of some thousand positions is plenty
    (`states.sample(16_384, seed=0)`).

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> states = sl.collect(model, sl.toy.corpus("tone", n=50, seed=0), progress=False)
        >>> sl.natural_metric(states).C.shape
        torch.Size([64, 64])
    """
    check_states(states)
    states.readout.check_unchanged()
    moments = second_moments(states.readout.head, sums_over(states, weights))
    return Metric(*moments, damping=damping, digest=states.readout.digest)
