"""Write with a method and say what it costs, alike for edits of activations and for writers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from steerlens.evaluate.sign_margin import kl_by_text, position_kl, text_nll
from steerlens.evaluate.writer import Method, Writer
from steerlens.models.collect import reader
from steerlens.models.generate import generate
from steerlens.models.hooks import Model
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled

COLUMNS = ("prompt", "strength", "sample", "text", "log_prob")


@dataclass(frozen=True)
class Sampling:
    """How continuations are drawn.

    Args:
        samples: continuations per prompt.
        max_new_tokens: of each; it ends earlier at the end of its text.
        top_p: sample from the smallest set of likeliest tokens that holds this probability.
        seed: same seed, same texts; methods and strengths share their random numbers.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> Sampling(samples=2).top_p
        0.9
    """

    samples: int = 5
    max_new_tokens: int = 20
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("samples", self.samples >= 1, "at least 1"),
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("top_p", 0 < self.top_p <= 1, "a number in (0, 1]"),
        ):
            if not good:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected {expected}")


USUAL = Sampling()


def write(
    model: Model,
    method: Method | None,
    prompts: Sequence[str],
    *,
    strength: float,
    sampling: Sampling = Sampling(),
) -> pd.DataFrame:
    """Return continuations of prompts by a method at one strength; None: by the model itself.

    Returns:
        One row per prompt and sample, as from `steerlens.generate`.

    Raises:
        ValueError: a writer gave other columns or another number of rows than its protocol says.

    Example:
        >>> import steerlens as sl
        >>> len(write(sl.load_model("toy-64"), None, ["it was"], strength=0.0))
        5
    """
    s = sampling
    if isinstance(method, Writer) and not isinstance(method, Intervention):
        found = method.generate(
            model, prompts, strengths=(strength,), samples=s.samples, seed=s.seed,
            max_new_tokens=s.max_new_tokens, top_p=s.top_p,
        )  # fmt: skip
        _check_written(found, method.name, len(prompts) * s.samples)
        return found.reset_index(drop=True)
    return generate(
        model, prompts, method, strengths=(strength,), samples=s.samples, seed=s.seed,
        max_new_tokens=s.max_new_tokens, top_p=s.top_p,
    )  # fmt: skip


def _check_written(found: pd.DataFrame, name: str, n: int) -> None:
    missing = [column for column in COLUMNS if column not in found]
    if missing or len(found) != n:
        what = f"no column {missing[0]!r}" if missing else f"{len(found)} rows"
        raise ValueError(
            f"method: `generate` of {name!r} gave {what}, expected one row per prompt and sample, "
            f"{n} in all, with {', '.join(COLUMNS)}"
        )


def cost_on(
    model: Model, method: Method, data: Labelled | Sequence[str]
) -> Callable[[float], float]:
    """Return what a method costs on given texts, as a function of the strength:

        KL(model ‖ method at the strength)        nats per token, mean over all tokens

    The model is the plain one, so a method whose strength 0 is not the model itself (a prompt that
    is always there) costs something at strength 0 too. NaN where a writer has no next-token
    distribution. The plain model's states are read once; a call is one pass.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> cost = cost_on(model, sl.fit_steer(sl.collect(model, data, progress=False)).value, data)
        >>> [bool(x) for x in (cost(0.0) == 0, 0 < cost(1.0) < cost(2.0))]
        [True, True]
    """
    if isinstance(method, Intervention):
        at, plain = reader(model, data, method), reader(model, data, None)(0.0)

        def of_edits(strength: float) -> float:
            total = sum(float(part.sum()) for part in position_kl(plain, at(strength)))
            return total / plain.n_positions

        return of_edits
    return lambda strength: float(method.score(model, data, strengths=(strength,)).kl.mean())


def cost_in_writing(
    model: Model, method: Method, prompts: Sequence[str], *, sampling: Sampling = USUAL
) -> Callable[[float], float]:
    """Return what a method costs on the texts that it writes, as a function of the strength:

        KL(model ‖ method at the strength)        nats per token, mean over all tokens it wrote

    Prompts, seed and sampling are the same at every strength, so the cost is a function of nothing
    else; where a text takes another turn it has a small step. A strength at which nothing is
    written counts as infinitely dear; a writer without next-token distribution costs NaN.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> tone = sl.fit_steer(sl.collect(model, data, progress=False)).value
        >>> cost = cost_in_writing(model, tone, ["you are", "it was"])
        >>> [bool(x) for x in (cost(0.0) == 0, 0 < cost(1.0) < cost(2.0))]
        [True, True]
    """

    def at(strength: float) -> float:
        written = write(model, method, prompts, strength=strength, sampling=sampling)
        kl = np.concatenate(own_costs(model, method, written, strength=strength))
        return float(kl.mean()) if len(kl) else math.inf

    return at


def own_costs(
    model: Model, method: Method | None, written: pd.DataFrame, *, strength: float
) -> list[Float[np.ndarray, " n"]]:
    """Return what a method costs at each token of the texts that it wrote, one array per text:

        KL(model ‖ method at the strength)        nats

    exact at every position, the end of the text included. An empty text has no token here, and
    nor does one that continues the prompt's last word, which cannot be told apart in tokens once it
    is text.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> written = write(model, None, ["it was"], strength=0.0)
        >>> {float(kl.max()) for kl in own_costs(model, None, written, strength=0.0)}
        {0.0}
    """
    pairs = list(zip(written.prompt, written.text, strict=True))
    rows = [k for k, (prompt, text) in enumerate(pairs) if text.strip() and _apart(prompt, text)]
    found = [np.zeros(0) for _ in pairs]
    if not rows:
        return found
    texts = Labelled([pairs[k][1] for k in rows], [0.0] * len(rows), [pairs[k][0] for k in rows])
    if method is None or isinstance(method, Intervention):
        by_text = kl_by_text(model, texts, method, strength)
    else:
        scored = method.score(model, texts, strengths=(strength,))
        by_text = [kl.to_numpy(float) for _, kl in scored.groupby("text").kl]
    for k, kl in zip(rows, by_text, strict=True):
        found[k] = kl
    return found


def _apart(prompt: str, text: str) -> bool:
    return not prompt or prompt[-1].isspace() or text[0].isspace()


def given_margins(
    model: Model, method: Method, data: Labelled, *, strength: float
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return, for labelled texts, how much likelier the right sign makes each than the wrong one,
    in nats, and its tokens.

    A text with label y is read at `strength · y` and at `-strength · y`. For a writer the texts of
    one label go together. Texts with label 0 gain nothing.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> tone = sl.fit_steer(sl.collect(model, data, progress=False)).value
        >>> bool(given_margins(model, tone, data, strength=1.0)[0].sum() > 0)
        True
    """
    if isinstance(method, Intervention):
        (right, n), (wrong, _) = (
            text_nll(model, data, method, strength=sign * strength) for sign in (1, -1)
        )
        return wrong - right, n
    gains, tokens = np.zeros(len(data)), np.zeros(len(data))
    labels = np.array(data.labels)
    for y in sorted(set(data.labels)):
        rows = np.flatnonzero(labels == y)
        right, wrong = (
            method.score(model, data.pick(rows), strengths=(sign * strength * y,)).groupby("text")
            for sign in (1, -1)
        )
        gains[rows] = (right.log_prob.sum(min_count=1) - wrong.log_prob.sum()).to_numpy()
        tokens[rows] = right.size().to_numpy()
    return gains, tokens
