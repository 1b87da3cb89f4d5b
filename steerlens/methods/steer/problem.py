"""The convex problem of a steer, in coordinates where it is nearly isotropic."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.logits import UnembedWeights, nll_and_gradient, nll_gradient, quickest
from steerlens.maths.moments import Moments, moments
from steerlens.maths.numbers import generator
from steerlens.maths.solvers import averaged_sgd, newton_step
from steerlens.maths.tail import draw_words
from steerlens.values.metric import Metric
from steerlens.values.states import Shard, States
from steerlens.values.texts import as_choice

CHUNK = 512
"""Positions per product: logits of 512 × 50,257 take 100 MB; the whole corpus' never exist."""

Weights = Literal["labels", "texts", "tokens"]


@dataclass(frozen=True, eq=False)
class Problem:
    """The fit of matrices in whitened coordinates, `V_k = C^{1/2} W_k S^{1/2}`: gradient and
    objective.

    A text is predicted under `Σ_k mix_k W_k`: its label and 1 for a steer and its background, 1
    for a background alone.
    """

    states: States
    metric: Metric
    mix: Float[Tensor, "n_texts k"]
    weights: Float[Tensor, " n_texts"]
    ridge: Float[Tensor, "k 1 1"]

    def gradient(
        self, chunk: Shard, V: Float[Tensor, "k d d"], rough: UnembedWeights | None = None
    ) -> Float[Tensor, "k d d"]:
        """Return the gradient of the summed weighted NLL of some positions; without the ridge.

        `rough`: a read-out to use instead, in whose words the targets of the chunk are then.
        """
        white, (head, *asked) = self._asked(chunk, V)
        return self._whitened(white, nll_gradient(rough or head, *asked))

    def _asked(
        self, chunk: Shard, V: Float[Tensor, "k d d"]
    ) -> tuple[list[Tensor], tuple[UnembedWeights, Tensor, Tensor, Tensor]]:
        """Return whitened states, times each of the mix, then what `nll_gradient` is asked.

        That is read-out, steered states, targets, weights.
        """
        head = self.states.readout.head
        head = head._replace(
            W_U=head.W_U.to(V), b_U=head.b_U.to(V)
        )  # a float64 point is judged in float64
        c, mix = chunk.hidden.to(V), self.mix[chunk.text].to(V)
        plain = c @ self.metric.C_inverse_root.to(V)
        white = [y[:, None] * plain for y in mix.mT]
        move = torch.stack([part @ one for part, one in zip(white, V, strict=True)]).sum(0)
        moved = torch.addmm(c, move, self.metric.S_inverse_root.to(V))
        return white, (head, moved, chunk.next, self.weights[chunk.text].to(V))

    def _whitened(
        self, white: list[Float[Tensor, "n d"]], slope: Float[Tensor, "n d"]
    ) -> Float[Tensor, "k d d"]:
        slope = slope @ self.metric.S_inverse_root.to(slope)
        return (torch.cat(white, 1).mT @ slope).unflatten(0, (len(white), -1))

    def batches(
        self, size: int, passes: int, seed: int, chances: Float[Tensor, " vocab"] | None = None
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield gradients of the mean objective on shuffled minibatches, ridge included.

        In bfloat16 where that is native.

        Args:
            chances: of each word to be in a step's softmax, see `draw_words`; None: all are.
        """
        device, random = self.mix.device, generator(seed)
        # what rounding does to a step is far below what the choice of its minibatch does
        rough = whole = quickest(self.states.readout.head)
        for epoch in range(passes):
            for chunk in self.states.chunks(size, seed=seed + epoch, device=device):
                if chances is not None:
                    rough, target = draw_words(whole, chances, chunk.next, random)
                    chunk = chunk._replace(next=target)
                # in place: a matrix of a wide model is larger than any cache
                yield (
                    lambda V, chunk=chunk, rough=rough: (
                        self.gradient(chunk, V, rough).div_(len(chunk.next)).addcmul_(self.ridge, V)
                    )
                )

    def objective(self, V: Float[Tensor, "k d d"]) -> tuple[float, Float[Tensor, "k d d"]]:
        """Return the objective over all positions and its gradient.

        One pass, two products with `W_U` per position.
        """
        total, slope = (
            torch.zeros_like(V[0, 0, 0], dtype=torch.float64),
            torch.zeros_like(V, dtype=torch.float64),
        )
        for chunk in self.states.chunks(CHUNK, device=self.mix.device):
            white, asked = self._asked(chunk, V)
            loss, part = nll_and_gradient(*asked)
            total += loss
            slope += self._whitened(white, part)
        n = self.states.n_positions
        penalty = float((self.ridge * V.double().square()).sum()) / 2
        return float(total) / n + penalty, (slope / n + self.ridge * V).to(V.dtype)


def problem_of(
    states: States,
    metric: Metric,
    weights: Weights,
    mix: Float[Tensor, "n_texts k"],
    ridges: Float[Tensor, " k"],
) -> Problem:
    """Return the problem of some states, where the metric lives; ridges are in positions."""
    device = metric.C.device
    ridge = (ridges / states.n_positions)[:, None, None].to(device)
    return Problem(states, metric, mix.to(device), text_weights(states, weights).to(device), ridge)


def text_weights(states: States, weights: Weights) -> Float[Tensor, " n_texts"]:
    """Return the weight of each position of a text; over all positions kept their mean is 1.

    See `fit_steer`.
    """
    as_choice(weights, "weights", get_args(Weights))
    n = (states.lengths * states.keep).double()
    if weights == "tokens":
        return states.keep.float()
    weight = torch.zeros_like(n)
    classes = [n * (states.labels.sign() == sign) for sign in (-1, 0, 1)]
    present = [size for size in classes if size.sum() > 0]
    for size in present:
        share = size > 0
        each = n[share].reciprocal() if weights == "texts" else torch.ones_like(n[share])
        weight[share] = each / (each * n[share]).sum() / len(present)
    return (weight * n.sum()).float()


def blind(states: States) -> States:
    """Return the same states with every label 0.

    What is fitted to them weighs no text by its label: a rare label's texts would be fitted more
    closely than others, and what is left of each text to explain would tell its label.
    """
    return states.relabel(torch.zeros_like(states.labels))


def copies_once(states: States, weight: Float[Tensor, " n_texts"]) -> Float[Tensor, " n_texts"]:
    """Return weights of which the copies of a text share one; their mean over all positions stays.

    A text that is there ten times is fitted more closely than others. Where copies make a rare
    label as frequent as the other, what is left of each text would tell its label.
    """
    if states.copy_of is None:
        return weight
    there = states.keep.float()
    copies = torch.zeros_like(there).index_add_(0, states.copy_of, there)[states.copy_of]
    tokens = (states.lengths * states.keep).to(weight)
    shared = weight / copies.clamp_min(1).to(weight)
    return shared * (weight @ tokens) / (shared @ tokens)


def mean_label(states: States, weight: Float[Tensor, " n_texts"]) -> float:
    """Return the mean label of the positions, weighted as something weighs them."""
    share = weight.double().cpu() * states.lengths
    # weights are in float32, so that balanced labels have a mean of some 1e-9
    return round(float((share * states.labels).sum() / share.sum()), 6)


def sums_over(states: States, weights: Weights, head: UnembedWeights | None = None) -> Moments:
    """Return the additive sums of some states, weighted as the fit weighs them.

    `head`: a read-out to use instead of the states' own.
    """
    head = head or states.readout.head
    device = head.W_U.device
    labels, weight = states.labels.to(device), text_weights(states, weights).to(device)
    total: Moments | None = None
    for c, target, text in states.chunks(CHUNK, device=device):
        part = moments(head, c, target, labels[text], weight[text])
        if total is None:
            total = part
            continue
        for all_, some in zip(total, part, strict=True):
            all_.add_(some)  # in place: of a wide model a few such matrices take a gigabyte
    assert total is not None  # states hold a position at least
    return total


def batch_size(n_positions: int) -> int:
    """Return the positions per minibatch."""
    return min(512, max(32, n_positions // 200))


def stable_lr(problem: Problem, lr: float, size: int | None = None) -> float:
    """Return the step, or what minibatches can bear where that is less: `1 / (1 + λ + R²/b)`.

    `b` is the size of the minibatch and `R²`, the mean squared length of a whitened position, the
    product of the dimensions that count (Jain et al. 2018, for least squares; beyond about twice
    that it diverges).
    """
    n_C, n_S = problem.metric.dimensions
    return min(
        lr,
        1
        / (
            1
            + float(problem.ridge.max())
            + n_C * n_S / (size or batch_size(problem.states.n_positions))
        ),
    )


def sgd(problem: Problem, lr: float, seed: int) -> tuple[Float[Tensor, "k d d"], float]:
    """Return what averaged SGD from zero finds, and its passes.

    It takes some 200 steps at least, so small data is read more than once.
    """
    n, d = problem.states.n_positions, problem.states.d_model
    size = batch_size(n)
    passes = max(1, math.ceil(200 * size / n))
    zero = torch.zeros(len(problem.ridge), d, d, device=problem.ridge.device)
    n_steps = passes * math.ceil(n / size)
    return averaged_sgd(
        problem.batches(size, passes, seed), zero, stable_lr(problem, lr), n_steps
    ), passes


def closed_form(problem: Problem, sums: Moments) -> Float[Tensor, "2 d d"]:
    """Return the first Newton step from zero, `(C, S)` damped as the problem's metric is.

    See `newton_step`.
    """
    metric, n = problem.metric, sums.weight
    slope = -torch.stack([sums.steer, sums.background]) / n
    white = metric.whiten_slope(slope)
    V = newton_step(white, float(sums.label / n), float(sums.label2 / n), problem.ridge)
    return V.float()
