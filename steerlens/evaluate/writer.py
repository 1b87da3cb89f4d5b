"""What a method offers that no edit of activations can express: the verbs `generate` and `score`
of its own."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import pandas as pd

from steerlens.maths.brief import class_name
from steerlens.models.hooks import Model, check_model
from steerlens.models.readout import readout
from steerlens.models.steering import check_lives_on
from steerlens.values.fit import Fit
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled
from steerlens.values.readout import Readout


@runtime_checkable
class Writer(Protocol):
    """A frozen value that writes and scores by itself: what mixes the logits of several models,
    follows a gradient while it writes, or puts words before the prompt.

    Whatever can be said as `Intervention.edits` is an `Intervention` and no writer. Both are held
    against each other by `steerlens.evaluate`, which asks for nothing but what follows.

    - `name`, for tables. `readout`, that of the base model: a model with another `W_U` is refused
      by both verbs (`check_base`). `n_parameters`, how many numbers were learned, those of helping
      models included; 0 where nothing was.
    - The base model comes first in each call, as everywhere, and is unchanged afterwards. Helping
      models are fields of the value; they share the base's tokenizer.
    - Strength 0 is the base model: `generate` gives the texts of `steerlens.generate(model, …)`
      with the same arguments, to the letter, and `score` its log-probabilities with `kl` 0. The
      sign of the strength is the side, its size how hard the method pushes; one whose mechanism
      has one side only refuses the other by name.
    - Same seed, same texts. A row's text depends on its prompt, strength, sample and the seed, and
      not on which other rows are asked for.
    - Nothing is dropped: an empty continuation is a row with the text "". Prompts that are as long
      as the context are refused as by `steerlens.generate`.

    Example:
        >>> import steerlens as sl
        >>> isinstance(sl.load_model("toy-64"), Writer)
        False
    """

    @property
    def name(self) -> str: ...

    @property
    def readout(self) -> Readout: ...

    @property
    def n_parameters(self) -> int: ...

    def generate(
        self,
        model: Model,
        prompts: Iterable[str],
        *,
        strengths: float | Iterable[float] = (1.0,),
        samples: int = 1,
        seed: int = 0,
        max_new_tokens: int = 30,
        top_p: float = 1.0,
    ) -> pd.DataFrame:
        """Continue prompts at every strength, sampling at temperature 1.

        Returns:
            What `steerlens.generate` does, in its order: one row per prompt, strength and sample,
            with `prompt`, `strength`, `sample` (0, 1, …), `text` (the continuation: `prompt + text`
            is the whole) and `log_prob` (nats, of the continuation under the method before `top_p`;
            NaN where the method has no next-token distribution).
        """
        ...

    def score(
        self,
        model: Model,
        texts: Labelled | Iterable[str],
        *,
        strengths: float | Iterable[float] = (1.0,),
        end: bool = True,
    ) -> pd.DataFrame:
        """Return the log-probability of each token of each text at each strength, and the cost.

        Of labelled texts with prompts the texts alone are scored; labels are not read.

        Returns:
            What `steerlens.score` does, in its order: for each strength all tokens of all texts,
            with `text` (index), `position`, `token`, `strength`, `log_prob` (nats, under the
            method), and besides `kl`: KL(base model ‖ method) of the distribution that the token
            was drawn from, in nats, exact (a sum over the vocabulary, no estimate). A method that
            has no next-token distribution gives NaN in both.
        """
        ...


Method = Intervention | Writer
"""What is held against each other; a `Fit` stands for its value."""


def method_of(value: object) -> Method:
    """Return the method itself, of a fit its value.

    Raises:
        ValueError: neither an `Intervention` nor a `Writer`.

    Example:
        >>> method_of("loud")
        Traceback (most recent call last):
            ...
        ValueError: method: got str, expected an Intervention, a Writer, or a Fit of one
    """
    found = value.value if isinstance(value, Fit) else value
    if not isinstance(found, Intervention | Writer):
        raise ValueError(
            f"method: got {class_name(value)}, expected an Intervention, a Writer, or a Fit of one"
        )
    return found


def check_base(method: Method, model: Model) -> None:
    """Raise where a method was made for another model than this one.

    Raises:
        ValueError: the model's `W_U` is not the one that the method lives on.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> tone = sl.fit_steer(sl.collect(model, sl.toy.corpus("tone", n=60, seed=0))).value
        >>> check_base(tone, model)
    """
    if isinstance(method, Intervention):
        check_lives_on(method, model)
        return
    check_model(model)
    here = readout(model)
    if not method.readout.same_as(here):
        raise ValueError(
            f"method: {method.name!r} was made for {method.readout.model_id!r} (digest "
            f"{method.readout.digest[:8]}), this model is {here.model_id!r} ({here.digest[:8]}); "
            "make it for this model"
        )
