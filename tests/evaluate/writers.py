"""Writers that tests hold against what they are made of."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

import steerlens as sl
from steerlens.evaluate.sign_margin import position_kl
from steerlens.models.collect import reader
from steerlens.values.readout import Readout


@dataclass(frozen=True)
class AsWriter:
    """A steer behind the two verbs of a writer, so that both ways of measuring must agree."""

    steer: sl.Steer
    name: str = "as writer"
    n_parameters: int = 7

    @property
    def readout(self) -> Readout:
        return self.steer.readout

    def generate(
        self,
        model: Any,
        prompts: Iterable[str],
        *,
        strengths: float | Iterable[float] = (1.0,),
        samples: int = 1,
        seed: int = 0,
        max_new_tokens: int = 30,
        top_p: float = 1.0,
    ) -> pd.DataFrame:
        return sl.generate(
            model, prompts, self.steer, strengths=strengths, samples=samples, seed=seed,
            max_new_tokens=max_new_tokens, top_p=top_p,
        )  # fmt: skip

    def score(
        self,
        model: Any,
        texts: Any,
        *,
        strengths: float | Iterable[float] = (1.0,),
        end: bool = True,
    ) -> pd.DataFrame:
        table = sl.score(model, texts, self.steer, strengths=strengths, end=end)
        costs = []
        for s in [strengths] if isinstance(strengths, float) else strengths:
            plain = reader(model, texts, None)(0.0)
            kl = np.concatenate(
                [part.numpy() for part in position_kl(plain, reader(model, texts, self.steer)(s))]
            )
            text = np.concatenate([chunk.text.numpy() for chunk in plain.chunks(1 << 14)])
            costs.append(kl[np.argsort(text, kind="stable")])
        return table.assign(kl=np.concatenate(costs))


@dataclass(frozen=True)
class OneSided(AsWriter):
    """One that refuses negative strengths."""

    name: str = "one-sided"

    def score(self, model: Any, texts: Any, **options: Any) -> pd.DataFrame:
        if min(np.atleast_1d(options["strengths"])) < 0:
            raise ValueError("strengths: 'one-sided' has no other side")
        return super().score(model, texts, **options)
