"""The strength that explains a text best, with its likelihood curve."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import t as student
from torch import Tensor

from steerlens.maths.newton import LogProbDerivatives, log_prob_along, maximize_concave
from steerlens.maths.numbers import as_floats, as_number
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.collect import collect
from steerlens.models.hooks import Model
from steerlens.models.score import state_log_probs, warn_of_cut
from steerlens.models.steering import check_lives_on
from steerlens.values.arguments import line_of
from steerlens.values.fit import Fit
from steerlens.values.labelled import Labelled
from steerlens.values.states import States
from steerlens.values.steer import Steer, SteerWithBackground
from steerlens.values.texts import as_texts

CHUNK = 512


@dataclass(frozen=True, eq=False, repr=False)
class TextStrengths:
    """Hold texts with the strengths that explain them; made by `infer_strength`.

    `table`, one row per text: `text` (its index), `tokens`, `strength` (the likeliest), `error`
    (its standard error from the curvature), `robust_error` (half the reach of the 95 % interval
    from the spread of the tokens' slopes, which needs no trust in the steered model's spread), both
    in strengths; `gain`
    (log-likelihood above that at strength 0, nats), `evidence` (that at +1 less that at -1, nats),
    `at_limit` (no maximum within the limit: `strength` is the limit and says the side only).

    `tokens`, one row per token: `text`, `position`, `token`, `slope` (how the log-probability
    changes with the strength, at the text's own; they sum to 0, with a prior to `s/σ²`) and
    `information` (their sum is 1/error², with a prior less `1/σ²`).

    `curve`, one row per text and strength: `text`, `strength`, `log_likelihood` (nats, 0 at
    strength 0); `token_curve` the same for each token.
    """

    name: str
    table: pd.DataFrame
    tokens: pd.DataFrame
    token_curve: pd.DataFrame

    @property
    def curve(self) -> pd.DataFrame:
        sums = self.token_curve.groupby(["text", "strength"], sort=False).log_likelihood.sum()
        return sums.reset_index()

    def __repr__(self) -> str:
        """Return the table, at most twenty texts of it; tokens and curves are in their own."""
        more = f"\n... {len(self.table) - 20:,} more texts" if len(self.table) > 20 else ""
        return f"strengths of {self.name!r}\n{self.table.head(20).round(3).to_string(index=False)}{more}"

    def _repr_html_(self) -> str:
        return self.table.round(3).to_html(index=False, escape=True)


@torch_defaults()
def infer_strength(
    model: Model,
    steer: Steer | SteerWithBackground | Fit,
    texts: str | Sequence[str] | Labelled,
    *,
    prior: float | None = None,
    limit: float = 10.0,
    strengths: Sequence[float] = (-3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3),
    end: bool = True,
) -> TextStrengths:
    """Find the strength at which a steered model finds each text likeliest.

        ŝ = argmax_s Σ_t log softmax(z_t + s u_t)[x_t]      z = c W_U + b_U,   u = cW W_U
        error = (Σ_t I_t)^{-1/2}                             I_t = Var_{p_t}(u_t) at ŝ
        robust_error = t/2 · (Σ_t slope_t² / (1 − h_t))^{1/2} / Σ_t I_t      h_t = I_t / Σ I

    The log-likelihood is concave in `s` (not under a soft cap, where the maximum found is a local
    one), so Newton's method finds the maximum; its standard error is that of maximum likelihood. A
    label-1 text of the kind that the steer was fitted on has `ŝ` near 1. Twenty words say little:
    errors of ±1 and more are the rule, and a text of a few words may have no maximum at all.
    `prior` helps there.

    `strength ± 2 error` covers the strength that made a text in 95 % of cases if the steered model
    is true. Real texts vary more; `strength ± 2 robust_error` covers as often what the text's
    tokens pull to on average, if each token's slope has mean 0 there, whatever its spread. Few
    tokens carry most of a text's information, and the strength follows them: `1 − h_t` gives back
    what it took of their slopes (as HC2 does in regression), and t is the 97.5 % quantile of
    Student's t with (Σ I)² / Σ I² degrees of freedom, some half as many as tokens. Of short texts
    the interval is wide, and covers up to 98 %. With a prior, both are errors of strengths that
    were drawn from it.

    A strength compares texts under one steer; strengths of two steers have different units (compare
    `evidence`, in nats).

    Args:
        model: the one the steer lives on.
        steer: a `Steer`, or `steer.with_background(background)`: the background is then on at every
            strength.
        texts: one or several, not empty; cut to the model's context.
        prior: standard deviation of a normal prior around 0 on the strength; `strength`, `error`
            are then those of the posterior. 1 is natural where labels are ±1. None: none.
        limit: strengths are sought within ±limit.
        strengths: of the curves, each once; may be empty.
        end: whether the end of a text counts as a token.

    Raises:
        ValueError: an empty text, a prior or a limit that is not positive, a steer of another
            model, another intervention than a steer.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> joy = sl.fit_steer(sl.collect(model, sl.toy.corpus("sentiment", n=300, seed=0))).value
        >>> found = infer_strength(model, joy, ["the film was superb .", "the film was awful ."])
        >>> (found.table.strength > 0).tolist()
        [True, False]
    """
    steer = line_of(
        steer,
        instead="of other interventions the likelihood need not be concave in the strength, and its top need not be the only "
        "one: look at several with steerlens.score(model, texts, it, strengths=…)",
    )
    check_prior(prior)
    if not as_number(limit, "limit", "a positive number") > 0:
        raise ValueError(f"limit: got {limit}, expected a positive number")
    strengths = as_floats(strengths, "strengths", least=0)
    check_lives_on(steer, model, "steer")
    data = texts if isinstance(texts, Labelled) else as_texts(texts)
    states = collect(model, data, end=end, progress=False)
    warn_of_cut(model, states, "not asked")
    return state_strengths(states, steer, prior=prior, limit=limit, strengths=strengths)


def check_prior(prior: float | None) -> None:
    """Raise where the spread of a prior on the strength is no positive number; None is no
    prior."""
    expected = "a positive number, the standard deviation of strengths, or None for no prior"
    if prior is not None and not as_number(prior, "prior", expected) > 0:
        raise ValueError(f"prior: got {prior}, expected {expected}")


def state_strengths(
    states: States,
    steer: Steer | SteerWithBackground,
    *,
    prior: float | None = None,
    limit: float = 10.0,
    strengths: Sequence[float] = (),
) -> TextStrengths:
    """Do what `infer_strength` does for texts whose states are there already."""
    text, rows, token = _order(states)
    pull = 0.0 if prior is None else 1 / prior**2

    def derivatives(s: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        along = _along(states, steer, s)
        slope, information = (states.sum_by_text(x) for x in (along.slope, along.information))
        return slope - pull * s, information + pull

    found, beyond = maximize_concave(derivatives, len(states.labels), limit, tolerance=1e-5)
    there = _along(states, steer, found)
    strengths = list(dict.fromkeys(map(float, strengths)))  # twice would add a curve to itself
    values = [0.0, 1.0, -1.0, *strengths]
    log_probs = state_log_probs(states, steer, values).double()
    zero, up, down = (states.sum_by_text(x) for x in log_probs[:3])
    information = states.sum_by_text(there.information) + pull
    table = pd.DataFrame(
        {
            "text": range(len(states.labels)),
            "tokens": states.lengths.numpy(),
            "strength": found.numpy(),
            "error": information.rsqrt().numpy(),
            "robust_error": _robust_error(states, there, information, pull).numpy(),
            "gain": (states.sum_by_text(there.log_prob) - zero).numpy(),
            "evidence": (up - down).numpy(),
            "at_limit": beyond.numpy(),
        }
    )
    table.loc[table.at_limit, ["error", "robust_error"]] = math.inf
    table = table.loc[(states.keep & (states.lengths > 0)).numpy()].reset_index(drop=True)
    tokens = pd.DataFrame({"text": text.numpy(), "token": token})
    tokens.insert(1, "position", tokens.groupby("text").cumcount())
    change = (log_probs[3:] - log_probs[0])[:, rows]
    curve = [
        tokens.assign(strength=s, log_likelihood=row.numpy())
        for s, row in zip(strengths, change, strict=True)
    ]
    tokens = tokens.assign(
        slope=there.slope[rows].numpy(), information=there.information[rows].numpy()
    )
    empty = tokens[["text", "position", "token"]].head(0).assign(strength=0.0, log_likelihood=0.0)
    return TextStrengths(
        steer.name, table, tokens, pd.concat(curve, ignore_index=True) if curve else empty
    )


def _robust_error(
    states: States, there: LogProbDerivatives, information: Float[Tensor, " n_texts"], pull: float
) -> Float[Tensor, " n_texts"]:
    """Return half the reach of the 95 % interval that takes the slopes' spread from the slopes.

    A prior is one more observation, of known spread: it adds its information to the variance of the
    slopes and to the degrees of freedom. Infinite where nothing is known.
    """
    text = torch.cat([chunk.text for chunk in states.chunks(1 << 16)])
    # a token that has all the information has slope 0 at the top: 0 / 0 without the floor
    left = (1 - there.information / information[text]).clamp_min(1e-9)
    variance = states.sum_by_text(there.slope**2 / left) + pull
    freedom = (information**2 / states.sum_by_text(there.information**2)).numpy()
    reach = torch.from_numpy(student.ppf(0.975, freedom)) / 2
    return torch.where(information > 0, reach * variance.sqrt() / information, torch.inf)


def _along(
    states: States, steer: Steer | SteerWithBackground, s: Float[Tensor, " n_texts"]
) -> LogProbDerivatives:
    """Return the log-probability, slope and information of each position, in stored order, float64.

    Each text is at its own strength.
    """
    head = states.readout.head
    over = steer.background if isinstance(steer, SteerWithBackground) else None
    line = steer.steer if isinstance(steer, SteerWithBackground) else steer
    parts = []
    for c, target, text in states.chunks(CHUNK):
        c, target = c.to(head.W_U.device), target.to(head.W_U.device)
        z = (c if over is None else c + c @ over.W.to(c)) @ head.W_U + head.b_U
        u = (c @ line.W.to(c)) @ head.W_U
        parts.append(log_prob_along(head, z, u, s[text].to(c), target))
    return LogProbDerivatives(
        *(torch.cat(column).double().cpu() for column in zip(*parts, strict=True))
    )


def _order(states: States) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], list[str]]:
    """Return texts in order with their positions in order.

    The text of each position, its place in stored order, its token.
    """
    chunks = list(states.chunks(1 << 16))
    text = torch.cat([chunk.text for chunk in chunks])
    following = torch.cat([chunk.next for chunk in chunks])
    rows = torch.argsort(text, stable=True)
    return text[rows], rows, [states.readout.tokens[i] for i in following[rows].tolist()]
