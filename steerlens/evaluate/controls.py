"""What a method is worth by chance: a random direction, and labels in random order."""

import torch

from steerlens.maths.numbers import generator, numpy_generator
from steerlens.values.copies import exchange
from steerlens.values.labelled import Labelled
from steerlens.values.readout import Readout
from steerlens.values.steer import Steer


def random_steer(on: Readout, *, seed: int = 0) -> Steer:
    """Return a steer that means nothing: entries of `W` independent, normal, of variance 1/d_model.

    Held at a cost in KL, it says what any push of that size does to the attribute and to the text.

    Example:
        >>> import steerlens as sl
        >>> random_steer(sl.readout(sl.load_model("toy-64"))).name
        'random direction'
    """
    d = on.d_model
    W = torch.randn(d, d, generator=generator(seed)) / d**0.5
    return Steer(W.to(on.W_U.device), on, "random direction")


def shuffle_labels(data: Labelled, *, seed: int = 0) -> Labelled:
    """Return the same texts with their labels in random order: what a method fitted to them finds
    is chance. Copies of a text take the labels of another's.

    Example:
        >>> data = Labelled(["a", "b", "c"], [1, 0, -1])
        >>> shuffled = shuffle_labels(data)
        >>> shuffled.texts, sorted(shuffled.labels)
        (('a', 'b', 'c'), [-1.0, 0.0, 1.0])
    """
    groups = data.copies()
    order = numpy_generator(seed).permutation(len(groups)).tolist()
    return Labelled(data.texts, exchange(data.labels, groups, order), data.prompts)
