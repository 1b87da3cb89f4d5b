"""Push what the model remembers of the text until a classifier likes what comes next: PPLM."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from steerlens.evaluate.classify import mean_states
from steerlens.evaluate.writer import check_base
from steerlens.maths.numbers import as_count, as_number
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.methods.baselines.checks import check_settings
from steerlens.methods.baselines.sign_classifier import fit_sign
from steerlens.models.adapters import Model
from steerlens.models.adapters.protocol import Step
from steerlens.models.collect import collect
from steerlens.models.embeddings import embeddings
from steerlens.models.history import (
    Pairs,
    changed,
    check_history,
    keys_and_values,
    read_behind,
)
from steerlens.models.hooks import eval_mode
from steerlens.models.reading import score_by
from steerlens.models.readout import readout
from steerlens.models.sampling import Drawing, Warp
from steerlens.models.writing import Steps, generate_by
from steerlens.values.arguments import check_labelled
from steerlens.values.labelled import Labelled
from steerlens.values.readout import Readout
from steerlens.values.texts import as_name

AHEAD = 1
"""Tokens beyond the next that are looked at; they need room in the context."""


@dataclass(frozen=True)
class Ascent:
    """Say how the history is pushed; the defaults are the paper's for detoxification.

    Args:
        step_size: `α` at strength 1; 0.03 for sentiment.
        n_iterations: steps per token.
        kl_scale: `λ`, what a nat of KL from the model costs beside a nat of the classifier.
        fusion: `γ_gm`, the pushed model's share in the geometric mean; 0.95 for sentiment.

    Raises:
        ValueError: a number out of range.
    """

    step_size: float = 0.02
    n_iterations: int = 10
    kl_scale: float = 0.01
    fusion: float = 0.9

    def __post_init__(self) -> None:
        as_count(self.n_iterations, "n_iterations")
        for name, good, expected in (
            ("step_size", lambda x: x > 0, "a positive number"),
            ("kl_scale", lambda x: x >= 0, "a number, at least 0"),
            ("fusion", lambda x: 0 < x <= 1, "a number in (0, 1]"),
        ):
            given = getattr(self, name)
            if not good(as_number(given, name, expected)):
                raise ValueError(f"{name}: got {given}, expected {expected}")


USUAL = Ascent()


@dataclass(frozen=True, eq=False)
class Pplm:
    """Before each token, gradient steps on the keys and values of all tokens before the last,
    towards what a linear classifier of the mean context takes for the side of the strength's sign:

        ΔH ← ΔH + |s| α ∇L / ‖∇L‖        L = log P(side | x̄) − λ KL(p̃ ‖ p)        in each layer
        p ∝ p̃^γ p^(1 − γ)                p̃ = LM(x_t | H + ΔH)

    with `x̄` the mean of the contexts up to here and of the one that follows, read for the mean
    embedding under `p̃`. What was pushed stays pushed for the tokens after. A
    `steerlens.evaluate.writer.Writer`, strength 1 is the paper's step size. Made by `fit_pplm`.

    Args:
        w, b: of the classifier, `P(+ | x̄) = σ(x̄ w + b)`.
        readout: of the model.
        ascent: how the history is pushed.
        name: for tables and figures.
    """

    w: Float[Tensor, " d_model"]
    b: float
    readout: Readout
    ascent: Ascent = USUAL
    name: str = "pplm"

    @property
    def n_parameters(self) -> int:
        """Numbers that were fitted: the classifier's."""
        return self.w.numel() + 1

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
        check_history(model)
        drawing = Drawing(samples, seed, max_new_tokens, Warp(top_p=top_p))
        return generate_by(
            model, prompts, pushed_steps(model, self), strengths, drawing, reserved=AHEAD
        )

    def score(
        self,
        model: Model,
        texts: Labelled | Iterable[str],
        *,
        strengths: float | Iterable[float] = (1.0,),
        end: bool = True,
    ) -> pd.DataFrame:
        """Score texts; see `steerlens.evaluate.writer.Writer`. The first token of a text without a
        prompt has no history, and is the model's."""
        check_base(self, model)
        check_history(model)
        return score_by(model, texts, pushed_steps(model, self), strengths, end=end, reserved=AHEAD)

    def __repr__(self) -> str:
        r = self.readout
        return f"Pplm({self.name!r}, {self.ascent}, on {r.model_id!r} [{r.digest[:8]}])"


def pushed_steps(model: Model, value: Pplm) -> Steps:
    """Return the steps of a model whose history is pushed before each token."""
    words = embeddings(model).to(value.readout.W_U.device)

    def steps(prompts: list[list[int]], strength: Float[Tensor, " rows"]) -> Step:
        by = strength.to(words.device)
        plain = past = None
        so_far = torch.zeros(len(prompts), words.shape[1], device=words.device)

        def step(tokens: Tensor, mask: Tensor) -> Tensor:
            nonlocal plain, past, so_far
            last, n_new = tokens[:, -1:], tokens.shape[1]
            if plain is None and n_new > 1:
                past = read_behind(model, tokens[:, :-1], mask[:, :-1]).history
            base = read_behind(model, tokens, mask, plain)
            plain, c = base.history, base.c * mask[:, -n_new:, None]
            if past is None:  # a single token, behind which there is nothing to push
                past, so_far = plain, so_far + c.sum(1)
                return base.logits
            task = _Task(model, value, words, last, mask, plain, so_far + c[:, :-1].sum(1))
            so_far = so_far + c.sum(1)
            past = changed(past, _push(task, past, by, base.logits.log_softmax(-1)))
            there = read_behind(model, last, mask, past)
            past = there.history
            log_p, log_q = (z.log_softmax(-1) for z in (base.logits, there.logits))
            fused = base.logits + value.ascent.fusion * (log_q - log_p)
            # at 0 nothing was pushed, and what is left is rounding
            return torch.where(by[:, None] == 0, base.logits, fused)

        return step

    return steps


@dataclass(frozen=True, eq=False)
class _Task:
    """What a push is judged by: the last token behind the history, and what the model would read
    next."""

    model: Model
    value: Pplm
    words: Float[Tensor, "n_tokens d_model"]
    last: Int[Tensor, "rows 1"]
    mask: Int[Tensor, "rows pos"]
    plain: Any
    before: Float[Tensor, "rows d_model"]

    def losses(
        self,
        past: Any,
        side: Float[Tensor, " rows"],
        log_p: Float[Tensor, "rows vocab"],
        kl_scale: float,
    ) -> Float[Tensor, " rows"]:
        """Return `λ KL(p̃ ‖ p) − log P(side | x̄)` of each row."""
        there = read_behind(self.model, self.last, self.mask, past)
        log_q = there.logits.log_softmax(-1)
        q = log_q.exp()
        meant = (q[:, : len(self.words)] @ self.words)[:, None]
        mask = torch.cat([self.mask, torch.ones_like(self.last)], 1)
        ahead = read_behind(self.model, self.last, mask, self.plain, embedded=meant)
        mean = self.before + there.c[:, 0].detach() + ahead.c[:, 0]
        mean = mean / mask.sum(1, keepdim=True)
        log_odds = mean @ self.value.w.to(mean.device) + self.value.b
        liked = logsigmoid(side * log_odds)
        return kl_scale * (q * (log_q - log_p)).sum(-1) - liked if kl_scale else -liked


def _push(
    task: _Task, past: Any, by: Float[Tensor, " rows"], log_p: Float[Tensor, "rows vocab"]
) -> Pairs:
    """Return what is added to keys and values of each layer, after all steps."""
    ascent = task.value.ascent
    size, side = (ascent.step_size * by.abs())[:, None, None, None], torch.where(by < 0, -1.0, 1.0)
    push = [
        (torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32))
        for k, v in keys_and_values(past)
    ]
    with eval_mode(task.model, gradients=True):
        for k in range(ascent.n_iterations):
            # before the first step the KL has no slope: what rounding leaves of it is no direction
            kl_scale = ascent.kl_scale if k else 0.0
            leaves = [t.requires_grad_() for pair in push for t in pair]
            pairs = list(zip(leaves[::2], leaves[1::2], strict=True))
            loss = task.losses(changed(past, pairs), side, log_p, kl_scale).sum()
            grads = torch.autograd.grad(loss, leaves)
            slopes = list(zip(grads[::2], grads[1::2], strict=True))
            push = [_stepped(*both, size) for both in zip(pairs, slopes, strict=True)]
    return push


def _stepped(
    pair: tuple[Tensor, Tensor], gradient: tuple[Tensor, Tensor], size: Tensor
) -> tuple[Tensor, Tensor]:
    """Return a layer's push after a step of a given length, keys and values together."""
    length = torch.stack([g.square().sum((1, 2, 3), keepdim=True) for g in gradient]).sum(0).sqrt()
    # a row without history has no gradient, and stays
    k, v = (
        t.detach() - size * g / length.clamp_min(1e-15) for t, g in zip(pair, gradient, strict=True)
    )
    return k, v


@torch_defaults()
def fit_pplm(model: Model, data: Labelled, *, ascent: Ascent = USUAL, name: str = "pplm") -> Pplm:
    """Fit the classifier that PPLM follows: logistic regression of a label's sign on the mean
    context of its text, its penalty chosen by cross-validation.

    The model is not trained at all. The price is paid in writing: per token `n_iterations` passes
    forward and back over two tokens. Left out are the paper's ranking of several samples by the
    classifier, which can be put on top of any method, and its window over the most recent tokens
    (the whole history is pushed, as in its experiments with a classifier).

    Source: Dathathri et al. (arXiv 1912.02164), sections 3.2 and 3.3, settings of table S18.

    Args:
        model: of TransformerLens or of Hugging Face, with keys and values; unchanged.
        data: labelled texts; how large a label is does not count, and those with label 0 do not.
        ascent: how the history is pushed.

    Raises:
        ValueError: fewer than two texts of a sign; a model that keeps no keys and values.

    Example:
        >>> import steerlens as sl
        >>> model, data = sl.load_model("toy-64"), sl.toy.corpus("tone", n=60, seed=0)
        >>> fit_pplm(model, data).n_parameters
        65
    """
    check_history(model)
    check_labelled(data)
    check_settings(ascent, "ascent", USUAL)
    name = as_name(name)
    x = mean_states(collect(model, data, progress=False))
    w, b = fit_sign(x, np.array(data.labels))
    return Pplm(w, b, readout(model), ascent, name)
