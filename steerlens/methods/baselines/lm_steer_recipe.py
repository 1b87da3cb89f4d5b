"""Train a steer as the authors of LM-Steer do: Adam over minibatches of texts, a thousand steps."""

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from steerlens.maths.logits import nll_gradient
from steerlens.maths.numbers import as_count, as_number, as_seed, generator
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.checks import check_settings
from steerlens.values.states import States, check_states
from steerlens.values.steer import Steer
from steerlens.values.texts import as_choice, as_name

UNIT = 1e-3
"""Their ε."""
STEPS, BATCH, RANK, MAX_LENGTH = 1000, 32, 1000, 256


@dataclass(frozen=True)
class Recipe:
    """What the training learns, and how.

    Args:
        form: "factors": `W = ε P1 P2ᵀ` of rank 1,000, entries N(0, 1) · 1e-2 at the start, as the
            authors' code has it; "matrix": `W = ε U`, entries of variance 1e-3, as their paper has
            it.
        lr: step of Adam.
        l2: the price of the sum of all squared parameters.

    Raises:
        ValueError: another form, a number out of range.
    """

    form: Literal["factors", "matrix"] = "factors"
    lr: float = 1e-2
    l2: float = 0.0

    def __post_init__(self) -> None:
        as_choice(self.form, "form", ("factors", "matrix"))
        for name in ("lr", "l2"):
            expected = "a number, at least 0"
            if as_number(given := getattr(self, name), name, expected) < 0:
                raise ValueError(f"{name}: got {given}, expected {expected}")


OFFICIAL = Recipe("factors", l2=1e-6)
"""The authors' command for SST-5; the one for toxicity has no L2."""
OF_PAPER = Recipe("matrix")

Loss = Callable[[list[int], Tensor, Tensor], Tensor]
"""From rows of texts, `W` and background to the mean NLL."""


@torch_defaults()
def fit_lm_steer_recipe(
    states: States,
    *,
    recipe: Recipe = OFFICIAL,
    n_steps: int = STEPS,
    seed: int = 0,
    name: str = "LM-Steer recipe",
) -> tuple[Steer, Steer]:
    """Train a steer and its background by the authors' recipe.

        minimise  mean CE(softmax((c + y·cW + cD) W_U + b_U), next token) + l2 · |parameters|²

    by Adam, 1,000 steps of 32 texts, the label the strength, the second steer `D` (their dummy)
    always on. The same problem as `fit_steer`, which is convex and solved there with a certificate;
    this is what a steer is held against. It needs no pass of the model at its steps: below the
    unembedding nothing changes. Two things are not theirs and can only help: padding counts for
    nothing, where in their code it is in the loss; and the product of the factors is made once per
    step.

    Source: Han et al. (arXiv 2305.12798), appendix D, and github.com/Glaciohound/LM-Steer (train.py,
    steers.py, README).

    Args:
        states: of labelled texts, from `steerlens.collect`.
        recipe: of the authors' code (`OFFICIAL`) or of their paper (`OF_PAPER`).
        n_steps: of Adam.
        seed: of the start and of the order of the texts.

    Returns:
        The steer and its background.

    Raises:
        ValueError: fewer than one step.

    Example:
        >>> import steerlens as sl
        >>> states = sl.collect(sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0), progress=False)
        >>> steer, background = fit_lm_steer_recipe(states, n_steps=3)
        >>> steer.W.shape
        torch.Size([64, 64])
    """
    check_states(states)
    check_settings(recipe, "recipe", OFFICIAL)
    n_steps, seed, name = as_count(n_steps, "n_steps"), as_seed(seed), as_name(name)
    loss, n = through_states(states), int((states.keep & (states.lengths > 0)).sum())
    W, D = next(
        islice(training_steps(loss, range(n), states.d_model, recipe, seed=seed), n_steps - 1, None)
    )
    on = states.readout
    return Steer(W.to(on.W_U.device), on, name), Steer(D.to(on.W_U.device), on, f"{name}, dummy")


def training_steps(
    loss: Loss, texts: Sized, d_model: int, recipe: Recipe = OFFICIAL, *, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `W` and background after each step of the authors' training, without end."""
    random = generator(seed)
    parameters = start(recipe.form, d_model, random)
    optimiser = torch.optim.Adam(parameters, lr=recipe.lr)
    W, D = matrices(parameters)
    for rows in minibatches(len(texts), random):
        optimiser.zero_grad()
        (loss(rows, W, D) + recipe.l2 * sum(p.square().sum() for p in parameters)).backward()
        optimiser.step()
        W, D = matrices(parameters)
        yield W.detach(), D.detach()


def start(form: str, d_model: int, random: torch.Generator) -> list[Tensor]:
    """Draw the parameters of steer and background: factors of both, or both themselves."""
    if form == "factors":
        drawn = [1e-2 * torch.randn(2, d_model, RANK, generator=random) for _ in range(2)]
    else:
        drawn = [UNIT**0.5 * torch.randn(2, d_model, d_model, generator=random)]
    return [p.requires_grad_() for p in drawn]


def matrices(parameters: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Make `W` and background of their parameters."""
    first, *second = parameters
    W, D = UNIT * (first @ second[0].mT if second else first)
    return W, D


def minibatches(n: int, random: torch.Generator) -> Iterator[list[int]]:
    """Deal out all texts in a new order each epoch, as the authors' loader does.

    The last batch of an epoch is smaller.
    """
    while True:
        yield from (rows.tolist() for rows in torch.randperm(n, generator=random).split(BATCH))


def through_states(states: States) -> Loss:
    """Return the loss of kept states, in a fraction of the time of whole passes.

    Row `k` is the `k`-th text that has a position; the gradient is made by hand.
    """
    hidden, following, text = (
        torch.cat(parts) for parts in zip(*states.chunks(1 << 16), strict=True)
    )
    order = text.argsort(stable=True)
    counts = text.bincount(minlength=len(states.labels)).tolist()
    of_text = [at[: MAX_LENGTH - 1] for at in order.split(counts) if len(at)]

    def loss(rows: list[int], W: Tensor, D: Tensor) -> Tensor:
        at = torch.cat([of_text[row] for row in rows])
        c, y = hidden[at], states.labels[text[at]][:, None]
        with torch.no_grad():
            moved = c + y * (c @ W) + c @ D
            share = torch.full((len(at),), 1 / len(at))
            slope = nll_gradient(states.readout.head, moved, following[at], share)
            to_W, to_D = (y * c).mT @ slope, c.mT @ slope
        return (W * to_W).sum() + (D * to_D).sum()  # another number with the loss's gradient

    return loss
