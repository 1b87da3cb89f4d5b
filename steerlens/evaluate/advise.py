"""Whether a method is to be trusted, and at which strength it is to be used."""

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest

from steerlens.evaluate.compare_writing import Recipe, fit_recipe
from steerlens.evaluate.controls import random_steer, shuffle_labels
from steerlens.evaluate.matched_kl import check_kl
from steerlens.evaluate.measures import Fluency, continuation_nll, fluency
from steerlens.evaluate.sign_margin import margin_interval
from steerlens.evaluate.signed import with_nonzero_label
from steerlens.evaluate.spend import Spent, remembered, spend
from steerlens.evaluate.verbs import Sampling, cost_on, given_margins, write
from steerlens.evaluate.writer import Method, check_base
from steerlens.maths.numbers import as_number, as_numpy_seed
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.hooks import Model
from steerlens.models.readout import readout
from steerlens.values.arguments import check_labelled
from steerlens.values.copies import by_distinct_text
from steerlens.values.fit import Fit
from steerlens.values.labelled import Labelled

SAMPLE, BEGINNINGS, FIRST = 100, 30, 3
"""Given texts on which the cost is measured; how many of them, and how many of their words, are
begun where no prompts are given."""
FLUENT = 1.5
"""What is written may be so many times as perplexing as what the model itself writes."""


class Gate(NamedTuple):
    """One question that a method has to pass: None where it could not be asked."""

    name: str
    passed: bool | None
    said: str


@dataclass(frozen=True, repr=False)
class Advice:
    """A strength under a budget, what it buys, and whether to trust it; made by `advise`."""

    name: str
    strength: float
    kl: float
    note: str
    margin: tuple[float, float, float]
    perplexity: float
    base_perplexity: float
    gates: tuple[Gate, ...]

    @property
    def trusted(self) -> bool:
        """Whether no gate was failed."""
        return all(gate.passed is not False for gate in self.gates)

    @property
    def verdict(self) -> str:
        """Say it in a sentence."""
        failed = [gate.said for gate in self.gates if gate.passed is False]
        if failed:
            return f"Do not trust {self.name!r}: {'; '.join(failed)}."
        open_ = [gate.name for gate in self.gates if gate.passed is None]
        asked = f" Not asked: {', '.join(open_)}." if open_ else ""
        margin, low, high = self.margin
        note = f" It {self.note}." if self.note else ""
        return (
            f"Use {self.name!r} at strength {self.strength:.3g}: for {self.kl:.3g} nats of KL per token the "
            f"right sign makes new texts {margin:.3g} nats per token likelier than the wrong one "
            f"[{low:.3g}, {high:.3g}], at a perplexity of {self.perplexity:.3g} against "
            f"{self.base_perplexity:.3g}.{note}{asked}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, ready for JSON."""
        gates = [gate._asdict() for gate in self.gates]
        return asdict(self) | {"gates": gates, "verdict": self.verdict, "trusted": self.trusted}

    def __repr__(self) -> str:
        marks = {True: "yes", False: "NO", None: "not asked"}
        lines = [f"  {marks[gate.passed]:<10}{gate.name}: {gate.said}" for gate in self.gates]
        return "\n".join([self.verdict, *lines])

    def _repr_html_(self) -> str:
        marks = {True: "yes", False: "<b>no</b>", None: "not asked"}
        rows = "".join(
            f"<tr><td>{marks[g.passed]}</td><td>{html.escape(g.name)}</td><td>{html.escape(g.said)}</td></tr>"
            for g in self.gates
        )
        return f"<p><b>{html.escape(self.verdict)}</b></p><table>{rows}</table>"


@torch_defaults()
def advise(
    model: Model,
    method: Method | Fit | Recipe,
    data: Labelled,
    *,
    kl: float | None = None,
    perplexity: float | None = None,
    prompts: Sequence[str] = (),
    train: Labelled | None = None,
    seed: int = 0,
) -> Advice:
    """Return the strength to use under a budget, with what it buys, and whether to trust it.

    The budget is either `kl`, what it costs on given texts in nats per token, or `perplexity`, the
    corpus perplexity under the model itself of what it writes. At that strength these gates are
    asked; an interval is 95 %, and texts of positive and of negative labels weigh the same in it
    (where all have one sign, what moves any text looks like a style):

    - *random direction*: the sign margin on `data` is above that of a random direction that costs
      as much (interval of the difference over the texts).
    - *shuffled labels*: the same against the recipe fitted to labels in random order.
    - *either half*: fitted to one half of `train` and to the other, at the same cost, it has a
      margin above 0 both times; how alike they are on single texts is said.
    - *right way*: fewer than half of the texts of `data` move the wrong way (interval).
    - *fluency*: what it writes is at most 1.5 times as perplexing as the model's own text.

    Args:
        method: a value, a fit, or a recipe: a function from labelled texts to either. Only a recipe
            can be asked the second and the third gate.
        data: labelled texts that it was not fitted to.
        kl, perplexity: one of both; neither: kl 0.05.
        prompts: beginnings to write to; none: the first three words of the first thirty texts.
        train: what a recipe is fitted to.
        seed: of the controls, the halves and the writing.

    Raises:
        ValueError: two budgets, a perplexity below the model's own, a recipe without `train`.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> train, data = (sl.toy.corpus("tone", n=200, seed=seed) for seed in (0, 1))
        >>> tone = sl.fit_steer(model, train, name="tone", progress=False)
        >>> advice = advise(model, tone, data)
        >>> advice.trusted, advice.verdict.split(":")[0][:22]
        (True, "Use 'tone' at strength")
    """
    if kl is not None:
        check_kl(kl)
    if perplexity is not None:
        as_number(perplexity, "perplexity", "a number above the model's own")
    if kl is not None and perplexity is not None:
        raise ValueError(f"kl, perplexity: got {kl:g} and {perplexity:g}, expected one budget")
    check_labelled(data)
    if train is not None:
        check_labelled(train, "train")
    seed = as_numpy_seed(seed)
    value, recipe = fit_recipe(method, train)
    check_base(value, model)
    sample, signed = data.first(SAMPLE), with_nonzero_label(data)
    begin = list(prompts) or [
        " ".join(text.split()[:FIRST]) for text in data.first(BEGINNINGS).texts
    ]
    sampling = Sampling(samples=2, max_new_tokens=20, seed=seed)

    def writes(who: Method | None, strength: float) -> Fluency:
        written = write(model, who, begin, strength=strength, sampling=sampling)
        return fluency(continuation_nll(model, written.prompt.tolist(), written.text.tolist()))

    base = writes(None, 0.0)
    cost = remembered(cost_on(model, value, sample))
    if perplexity is None:
        spent = spend(cost, 0.05 if kl is None else kl)
    else:
        spent = _under_perplexity(lambda s: writes(value, s).corpus_perplexity, perplexity, base)
        spent = spent._replace(cost=cost(spent.strength))
    margins, tokens = given_margins(model, value, signed, strength=spent.strength)

    def rival(other: Method) -> Float[np.ndarray, " n"]:
        strength = spend(cost_on(model, other, sample), max(spent.cost, 1e-6)).strength
        return given_margins(model, other, signed, strength=strength)[0]

    own = writes(value, spent.strength)
    gates = [
        _above(
            "random direction",
            margins - rival(random_steer(readout(model), seed=seed)),
            tokens,
            signed,
        )
    ]
    gates += _of_recipe(recipe, train, rival, margins, tokens, signed, seed)
    gates += [_right_way(margins, signed), _fluent(own, base, FLUENT)]
    return Advice(
        getattr(value, "name", type(value).__name__), spent.strength, spent.cost, spent.note,
        margin_interval(margins, tokens, signed), own.corpus_perplexity, base.corpus_perplexity, tuple(gates),
    )  # fmt: skip


def _under_perplexity(cost: Any, budget: float, base: Fluency) -> Spent:
    own = base.corpus_perplexity
    if not budget > own:
        raise ValueError(
            f"perplexity: got {budget:g}, and the model's own text has {own:.3g}; expected more"
        )
    return spend(lambda s: max(cost(s) - own, 0.0), budget - own)


def _of_recipe(
    recipe: Recipe | None,
    train: Labelled | None,
    rival: Any,
    margins: np.ndarray,
    tokens: np.ndarray,
    signed: Labelled,
    seed: int,
) -> list[Gate]:
    if recipe is None or train is None:
        said = "needs a recipe and its texts, train="
        return [Gate("shuffled labels", None, said), Gate("either half", None, said)]
    shuffled, _ = fit_recipe(recipe, shuffle_labels(train, seed=seed))
    halves = [rival(fit_recipe(recipe, half)[0]) for half in train.split(0.5, seed=seed)]
    found = [margin_interval(half, tokens, signed) for half in halves]
    alike = float(np.corrcoef(halves)[0, 1])
    said = " and ".join(_with_ends(*of_half) for of_half in found)
    passed = all(low > 0 for _, low, _ in found)
    return [
        _above("shuffled labels", margins - rival(shuffled), tokens, signed),
        Gate(
            "either half",
            passed,
            f"margins {said} of either half, correlation {alike:.2f} over texts",
        ),
    ]


def _above(
    control: str, difference: Float[np.ndarray, " n"], tokens: np.ndarray, signed: Labelled
) -> Gate:
    found, low, high = margin_interval(difference, tokens, signed)
    told = "better than" if low > 0 else "not told from"
    said = f"{told} {control} at the same KL by {_with_ends(found, low, high)} nats per token"
    return Gate(control, low > 0, said)


def _with_ends(margin: float, low: float, high: float) -> str:
    ends = f"{low:+.3g}, {high:+.3g}" if low == low else "no ends: one text of a sign"
    return f"{margin:+.3g} [{ends}]"


def _right_way(margins: Float[np.ndarray, " n"], signed: Labelled) -> Gate:
    margins, labels = by_distinct_text(margins, signed)
    # what does not move, moves neither way
    moved = margins != 0
    signs = [some for some in (moved & (labels > 0), moved & (labels < 0)) if some.any()]
    if not signs:
        return Gate("right way", False, "no text moves at all")
    shares = [float((margins[some] < 0).mean()) for some in signs]
    ends = [
        binomtest(int((margins[some] < 0).sum()), int(some.sum())).proportion_ci() for some in signs
    ]
    # the ends of a mean of two shares from those of either (Zou and Donner 2008)
    wrong = float(np.mean(shares))
    low, high = (
        wrong + side * float(np.linalg.norm(np.subtract(end, shares))) / len(signs)
        for side, end in ((-1, [e.low for e in ends]), (1, [e.high for e in ends]))
    )
    said = f"{wrong:.0%} of texts move the wrong way [{low:.0%}, {high:.0%}]; chance is 50%"
    return Gate("right way", high < 0.5, said)


def _fluent(own: Fluency, base: Fluency, most: float) -> Gate:
    ratio = own.corpus_perplexity / base.corpus_perplexity
    said = f"perplexity {own.corpus_perplexity:.3g}, {ratio:.2f} times the model's own (at most {most:g})"
    return Gate("fluency", bool(ratio <= most), said)
