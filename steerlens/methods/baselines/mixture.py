"""A method that writes with the logits of several models: the value of five rivals."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from steerlens.evaluate.writer import check_base
from steerlens.methods.baselines.checks import check_enough
from steerlens.methods.baselines.mixing import Mix, Voice, generate_mixed, score_mixed
from steerlens.models.adapters import Model
from steerlens.models.hooks import adapter
from steerlens.models.readout import readout
from steerlens.models.sampling import Drawing, Warp
from steerlens.values.arguments import check_labelled
from steerlens.values.labelled import Labelled
from steerlens.values.readout import Readout, check_readout
from steerlens.values.texts import as_name


@dataclass(frozen=True, eq=False)
class Mixture:
    """Next-token logits made of those of the base model and of voices: models, or the base itself,
    that read the text behind tokens of their own.

    A `steerlens.evaluate.writer.Writer`. At strength 0 it is the base model. Texts and prompts have
    as many tokens less room in the context as the longest lead of a voice takes. Not kept in files:
    its models are (see `copies.fine_tuned_copy`). Made by `fit_dexperts`, `fit_gedi`, `fit_ctrl`,
    `fit_dapt` and `instruct`.

    Args:
        voices: what is heard beside the base model.
        mix: logits from theirs, at a strength.
        readout: of the base model.
        n_parameters: numbers that were learned, of all copies together.
        name: for tables and figures.

    Raises:
        ValueError: a voice of another vocabulary.
    """

    voices: tuple[Voice, ...]
    mix: Mix
    readout: Readout
    n_parameters: int
    name: str

    def __post_init__(self) -> None:
        as_name(self.name)
        check_readout(self.readout)
        for voice in self.voices:
            if voice.model is not None and readout(voice.model).tokens != self.readout.tokens:
                raise ValueError(
                    f"voices: one of {self.name!r} has another vocabulary than {self.readout.model_id!r}, so their logits "
                    "cannot be mixed"
                )

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
        """Continue prompts; see `steerlens.evaluate.writer.Writer`."""
        check_base(self, model)
        drawing = Drawing(samples, seed, max_new_tokens, Warp(top_p=top_p))
        return generate_mixed(model, self.voices, self.mix, prompts, strengths, drawing)

    def score(
        self,
        model: Model,
        texts: Labelled | Iterable[str],
        *,
        strengths: float | Iterable[float] = (1.0,),
        end: bool = True,
    ) -> pd.DataFrame:
        """Score texts; see `steerlens.evaluate.writer.Writer`."""
        check_base(self, model)
        return score_mixed(model, self.voices, self.mix, texts, strengths, end=end)

    def __repr__(self) -> str:
        r = self.readout
        return (
            f"Mixture({self.name!r}, {len(self.voices)} voices, {self.n_parameters:,} parameters, on {r.model_id!r} "
            f"[{r.digest[:8]}])"
        )


def count_parameters(*models: Model) -> int:
    """Return how many numbers different models hold."""
    different = {id(model): model for model in models}.values()
    return sum(p.numel() for model in different for p in adapter(model).module.parameters())


def of_sign(data: Labelled, *signs: int) -> Labelled:
    """Return the texts whose label has one of some signs, with their prompts.

    Raises:
        ValueError: fewer than a copy can be trained on.
    """
    check_labelled(data)
    rows = [k for k, y in enumerate(data.labels) if any(sign * y > 0 for sign in signs)]
    kind = " or ".join("positive" if sign > 0 else "negative" for sign in signs)
    check_enough(len(rows), "data", f"with a {kind} label")
    return data.pick(rows)
