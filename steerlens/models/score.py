"""Log-probability of every token of given texts, at many strengths for one pass of the model."""

from collections.abc import Iterable, Sequence
from itertools import chain

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.maths.logits import apply_softcap
from steerlens.maths.numbers import as_floats
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.adapters import Model
from steerlens.models.collect import collect, reader
from steerlens.models.hooks import adapter, convention
from steerlens.models.pieces import pieces
from steerlens.models.steering import check_lives_on
from steerlens.values.fit import Fit, value_of
from steerlens.values.intervention import Intervention
from steerlens.values.labelled import Labelled
from steerlens.values.states import States
from steerlens.values.steer import Steer, SteerWithBackground
from steerlens.values.texts import as_texts
from steerlens.values.warn import warn_user

CHUNK = 512
BLOCK = 1 << 19
"""Logits that are taken through all strengths before the next: as many as stay in a processor's
cache."""


@torch_defaults()
def score(
    model: Model,
    texts: Labelled | Iterable[str],
    steer: Intervention | Fit | None = None,
    *,
    strengths: float | Iterable[float] | None = None,
    end: bool = True,
) -> pd.DataFrame:
    """Return the log-probability of each token of each text at each strength.

        log softmax(post(c W_U + b_U + s · (cW) W_U))[token]        of a steer

    For a steer one pass of the model serves all strengths: `c W_U` and `(cW) W_U` are computed
    once, and another strength costs a softmax. Any other intervention takes a pass per strength.

    Args:
        model: of TransformerLens or of Hugging Face.
        texts: what to read; not empty. Of labelled texts with prompts the texts alone are scored.
        steer: a `Steer`, `steer.with_background(background)`, a `Reft`, …, or None for the plain
            model.
        strengths: any number of them; None: 1, as everywhere, and 0 without an intervention.
        end: whether the end of a text is scored too.

    Returns:
        One row per token and strength: `text` (its index), `position`, `token`, `strength`,
        `log_prob` (nats). The sum of
        a text's rows at one strength is the log-probability of the text. `token` is the part of the
        text that the token stands for, so that joined they are the text; where several tokens make
        one character (emoji, accents) the first has it and the others are "".

    Warns:
        UserWarning: texts that are longer than the model's context, and were cut there.

    Raises:
        ValueError: no texts, a text that is empty, missing or no text (the message names
            the row), texts that the tokenizer does not know, a steer of another model.

    Example:
        >>> import steerlens as sl
        >>> sl.score(sl.load_model("toy-64"), ["the film was good ."], end=False).token.tolist()
        ['the', ' film', ' was', ' good', ' .']
    """
    steer = value_of(steer)
    strengths = as_floats(float(steer is not None) if strengths is None else strengths, "strengths")
    if steer is not None:
        check_lives_on(steer, model, "steer")
    data = texts if isinstance(texts, Labelled) else as_texts(texts)
    if steer is None or isinstance(steer, Steer | SteerWithBackground):
        states = collect(model, data, end=end, progress=False)
        log_probs = state_log_probs(states, steer, strengths)
    else:
        # the order of the positions depends on the texts alone
        at = reader(model, data, steer, end=end)
        each = [at(s) for s in strengths]
        states = each[0]
        log_probs = torch.cat([state_log_probs(one, None, (0.0,)) for one in each])
    warn_of_cut(model, states, "not scored")
    rows = next(states.chunks(max(states.n_positions, 1)))
    # stored order keeps the tokens of a text in order; a stable sort by text puts the texts in
    # order
    order = torch.argsort(rows.text, stable=True)
    text = rows.text[order]
    starts = torch.cat([torch.zeros(1, dtype=torch.long), states.lengths.cumsum(0)[:-1]])
    table = pd.DataFrame(
        {
            "text": text.numpy(),
            "position": (torch.arange(len(text)) - starts[text]).numpy(),
            "token": list(chain.from_iterable(_token_texts(model, data, states, steer, end))),
        }
    )
    parts = [
        table.assign(strength=float(s), log_prob=row[order].numpy())
        for s, row in zip(strengths, log_probs, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def _token_texts(
    model: Model, data: Labelled | list[str], states: States, steer: Intervention | None, end: bool
) -> list[list[str]]:
    """Return the part of its text that each predicted token stands for."""
    texts, prompts = (data.texts, data.prompts) if isinstance(data, Labelled) else (data, ())
    how = convention(model, states.readout)
    how = how._replace(n_ctx=how.n_ctx - (0 if steer is None else steer.prefix))
    cut = pieces(adapter(model).tokenizer, texts, how, end=end, prompts=prompts)
    return [of[len(of) - n :] for of, n in zip(cut, states.lengths.tolist(), strict=True)]


def state_log_probs(
    states: States, steer: Steer | SteerWithBackground | None, strengths: Sequence[float]
) -> Float[Tensor, "n_strengths n_positions"]:
    """Return the log-probability of each next token of some states at each strength.

    Positions are in stored order.
    """
    head = states.readout.head
    over = steer.background if isinstance(steer, SteerWithBackground) else None
    line = steer.steer if isinstance(steer, SteerWithBackground) else steer
    rows = max(BLOCK // head.W_U.shape[1], 1)
    found = []
    for c, target, text in states.chunks(CHUNK):
        c, target = c.to(head.W_U.device), target.to(head.W_U.device)
        z = (c if over is None else c + c @ over.W.to(c.device)) @ head.W_U + head.b_U
        if states.logit_edit is not None:
            z = states.logit_edit(z, text, c)
        along = None if line is None else (c @ line.W.to(c.device)) @ head.W_U
        log_probs = torch.empty(len(strengths), len(c), device=z.device)
        for start in range(0, len(c), rows):
            part = slice(start, start + rows)
            for k, s in enumerate(strengths):
                here = (
                    z[part] if along is None or s == 0 else torch.add(z[part], along[part], alpha=s)
                )
                log_p = torch.log_softmax(apply_softcap(head, here), 1)
                log_probs[k, part] = log_p.gather(1, target[part, None]).squeeze(1)
        found.append(log_probs)
    return torch.cat(found, dim=1).cpu()


def warn_of_cut(model: Model, states: States, what: str) -> None:
    """Warn where texts were longer than the model's context; `what` is what lies behind it."""
    if states.n_truncated:
        warn_user(
            f"texts: {states.n_truncated} of {states.n_texts} are longer than the model's context, "
            f"{adapter(model).n_ctx} tokens, and were cut there; what lies behind it is {what}"
        )
