"""Which words of a text speak for a steer: evidence token by token, and the spans that hold most of it."""

import html
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from steerlens.maths.spans import Sign, best_spans
from steerlens.models.attach import check_lives_on
from steerlens.models.collect import collect
from steerlens.models.score import state_log_probs
from steerlens.models.sites import Model, convention
from steerlens.models.tokens import encode
from steerlens.values.states import States
from steerlens.values.steer import Steer, SteerOver

RED, BLUE = "214, 82, 50", "52, 120, 190"
"""For and against; see-through on white or on black, the words keep the page's own colour."""
BOX = (
    "font-weight: normal; border: 1.5px solid currentColor; border-radius: 4px; padding: 2px 3px; "
    "box-decoration-break: clone; -webkit-box-decoration-break: clone"
)


@dataclass(frozen=True)
class Highlight:
    """A text with its evidence; made by `highlight`.

    `tokens`: one row a token, `token` (joined they are the text) and `evidence` (nats). `spans`: one row a span in order
    of position, `start`, `end` (positions `start … end - 1`), `text`, `evidence` (their sum). `total` is the evidence
    of the whole text, `truncated` whether it was cut to the model's context. In a notebook it shows itself.
    """

    name: str
    strength: float
    against: float
    tokens: pd.DataFrame
    spans: pd.DataFrame
    truncated: bool = False

    @property
    def total(self) -> float:
        return float(self.tokens.evidence.sum())

    def __str__(self) -> str:
        """The text with its spans in brackets: `a [truly wonderful +3.1] film`."""
        closing = {int(s.end) - 1: f" {s.evidence:+.1f}]" for s in self.spans.itertuples()}
        opening = set(self.spans.start)
        pieces = []
        for i, token in enumerate(self.tokens.token):
            bare = token.lstrip()
            space = token[: len(token) - len(bare)]
            pieces.append(f"{space}{'[' if i in opening else ''}{bare}{closing.get(i, '')}")
        return "".join(pieces).strip()

    def _repr_html_(self) -> str:
        """Each token shaded by its evidence (the value on hover), the spans boxed; no script, nothing from elsewhere."""
        scale = max(float(self.tokens.evidence.abs().max()), 1e-9)
        inside, opening, closing = set[int](), set[int](), {}
        for s in self.spans.itertuples():
            inside |= set(range(s.start, s.end))
            opening.add(s.start)
            closing[s.end - 1] = s.evidence
        pieces: list[str] = []
        for i, (token, x) in enumerate(zip(self.tokens.token, self.tokens.evidence, strict=True)):
            colour = f"rgba({RED if x > 0 else BLUE}, {0.75 * abs(x) / scale:.2f})"
            bare = token.lstrip()
            pieces.append(token[: len(token) - len(bare)])  # the space before a word is nobody's evidence
            if i in opening:
                pieces.append(f"<b style='{BOX}'>")
            shown = html.escape(bare or "␣").replace("\n", "⏎<br>")
            pieces.append(f"<span title='{x:+.3f} nats' style='background: {colour}'>{shown}</span>")
            if i in closing:
                pieces.append(
                    f"<span style='font-weight: normal; font-size: 75%; opacity: .8'> {closing[i]:+.1f}</span></b>"
                )
        note = f"{html.escape(self.name)}, strength {self.strength:+g} against {self.against:+g}: {self.total:+.2f} nats in all"
        if self.spans.empty:
            note += "; no token has any evidence" if scale <= 1e-9 else "; no span was asked for, or none has evidence"
        if self.truncated:
            note += "; the text was cut to the model's context"
        return (
            f"<div style='line-height: 2; max-width: 60em'>{''.join(pieces)}"
            f"<div style='font-size: 85%; opacity: .75; line-height: 1.4'>{note}</div></div>"
        )


def highlight(
    model: Model,
    steer: Steer | SteerOver,
    text: str,
    *,
    strength: float = 1.0,
    against: float | None = None,
    spans: int = 2,
    max_len: int = 10,
    sign: Sign = "both",
    price: float = 0.0,
    whole_words: bool = True,
) -> Highlight:
    """The evidence of each token for a steer, and the best spans.

        evidence_t = log P_s(x_t | x_<t) − log P_a(x_t | x_<t)       nats,    a = −s unless `against` is given

    The sum over a text is the log likelihood ratio of the two strengths. The spans are the exact optimum of at most
    `spans` disjoint runs of at most `max_len` tokens with the largest sums, or largest in size with `sign="both"`; see
    `steerlens.maths.spans.best_spans`. Source: Han et al. (arXiv 2305.12798), section 5.2, where `a = 0`.

    What it does not say: evidence is about how predictable a word is in its context at the two strengths. A word that the
    context has already announced carries little, however strong it is by itself; irony and negation are seen only as far as
    the model sees them. The first words of a text are judged with little context. Compare spans within a text,
    not between models.

    Args:
        model: the one the steer lives on.
        steer: a `Steer`, or `steer.over(background)`.
        text: not empty; what is beyond the model's context is cut, and said.
        strength, against: the two strengths compared.
        spans: how many at most; 0 for the evidence alone.
        max_len: tokens a span may have; a text that is shorter is no error.
        sign: "+" for spans that speak for `strength`, "-" for those against, "both" for either.
        price: nats that a token must be worth to be in a span; a little (0.05) takes out words that hardly count.
        whole_words: spans begin and end where words do. A word of more than `max_len` tokens is then in no span.

    Returns:
        `Highlight`. Tokens that the model does not predict (the first, for a model without begin-of-text) have evidence 0.

    Raises:
        ValueError: an empty text, equal strengths, `spans` or `max_len` out of range, a steer of another model.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> joy = sl.fit_steer(sl.collect(model, sl.toy.corpus("sentiment", n=300, seed=0))).value
        >>> found = highlight(model, joy, "the plot was wonderful . the waiter was awful .", spans=2, max_len=1)
        >>> found.spans.text.tolist()
        ['wonderful', 'awful']
    """
    other = -strength if against is None else against
    if other == strength:
        raise ValueError(
            f"against: both strengths are {strength:g}, so no token has any evidence; give two that differ"
        )
    if spans < 0 or max_len < 1 or sign not in ("both", "+", "-"):
        raise ValueError(
            f"spans, max_len, sign: got {spans}, {max_len}, {sign!r}, expected ≥ 0, ≥ 1 and one of 'both', '+', '-'"
        )
    check_lives_on(steer, model)
    states = collect(model, [text], end=False, progress=False)
    high, low = state_log_probs(states, steer, (strength, other))
    tokens = _pieces(model, states, text)
    # without begin-of-text nothing predicts the first token
    evidence = torch.cat([torch.zeros(len(tokens) - len(high)), high - low]).double()
    starts, ends = word_edges(tokens) if whole_words else (None, None)
    found = best_spans(evidence, spans, max_len, sign=sign, price=price, starts=starts, ends=ends)
    table = [(s.start, s.end, "".join(tokens[s.start : s.end]).strip(), s.value) for s in found]
    return Highlight(
        steer.name,
        strength,
        other,
        pd.DataFrame({"token": tokens, "evidence": evidence.numpy()}),
        pd.DataFrame(table, columns=["start", "end", "text", "evidence"]).astype({"start": int, "end": int}),
        states.n_truncated > 0,
    )


def word_edges(pieces: list[str]) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Where words begin, and where they end, in a text cut into pieces.

    A piece goes on with the word before it where the characters at the seam are letters, digits or apostrophes.
    """
    inner = [all(c.isalnum() or c == "'" for c in (a[-1:] or " ", b[:1] or " ")) for a, b in pairwise(pieces)]
    edge = ~torch.tensor(inner, dtype=torch.bool)
    always = torch.ones(1, dtype=torch.bool)
    return torch.cat([always, edge]), torch.cat([edge, always])


def _pieces(model: Model, states: States, text: str) -> list[str]:
    """The tokens of a text as strings that give the text when joined."""
    on = states.readout
    begins = convention(model, on)
    (ids,) = encode(model.tokenizer, [text], begins, end=False).ids
    tokens = [on.tokens[i] for i in (ids[1:] if len(ids) > int(states.lengths[0]) and begins.bos else ids)]
    if any(on.tokens[i].startswith(" ") for i in on.word_ids.tolist()):
        return tokens
    return [f" {token}" for token in tokens]  # a tokenizer that marks no spaces parts words by them
