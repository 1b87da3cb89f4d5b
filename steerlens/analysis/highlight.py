"""Which words of a text speak for a steer: evidence token by token, and the spans that hold most of
it."""

import html
from dataclasses import dataclass
from itertools import accumulate

import pandas as pd
import regex
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.maths.numbers import as_count, as_number
from steerlens.maths.spans import Sign, best_spans
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.collect import collect
from steerlens.models.hooks import Model, adapter, convention
from steerlens.models.pieces import pieces
from steerlens.models.score import state_log_probs
from steerlens.models.steering import check_lives_on
from steerlens.values.arguments import line_of
from steerlens.values.fit import Fit
from steerlens.values.states import States
from steerlens.values.steer import Steer, SteerWithBackground
from steerlens.values.texts import as_choice, as_texts

RED, BLUE = "214, 82, 50", "52, 120, 190"
"""For and against; see-through on white or on black, the words keep the page's own colour."""
BOX = (
    "font-weight: normal; border: 1.5px solid currentColor; border-radius: 4px; padding: 2px 3px; "
    "box-decoration-break: clone; -webkit-box-decoration-break: clone"
)


NAMED = {" ": "␣", "\u00a0": "␣", "\u3000": "␣"}
NOISE = 1e-5
"""Nats: what rounding makes of no evidence. Words with less are at no end of a span."""


@dataclass(frozen=True, eq=False)
class Highlight:
    """A text with its evidence; made by `highlight`.

    `tokens`: one row per piece, `token` (joined they are the text) and `evidence` (nats); a piece
    is a token, or the tokens of one character together. `spans`: one row per span in order of
    position, `start`, `end` (pieces `start … end - 1`), `text`, `evidence` (their sum). `total` is
    the evidence of the whole text, `truncated` whether it was cut to the model's context, `note`
    why there is no span where there is none. In a notebook it shows itself.
    """

    name: str
    strength: float
    against: float
    tokens: pd.DataFrame
    spans: pd.DataFrame
    truncated: bool = False
    note: str = ""

    @property
    def total(self) -> float:
        return float(self.tokens.evidence.sum())

    def __str__(self) -> str:
        """Return the text with its spans in brackets: `a [truly wonderful +3.1] film`."""
        ends = zip(self.spans.end, self.spans.evidence, strict=True)
        closing = {int(end) - 1: f" {evidence:+.1f}]" for end, evidence in ends}
        opening = set(self.spans.start)
        parts = []
        for i, token in enumerate(self.tokens.token):
            bare = token.lstrip()
            space = token[: len(token) - len(bare)]
            parts.append(f"{space}{'[' if i in opening else ''}{bare}{closing.get(i, '')}")
        return "".join(parts).strip()

    def _repr_html_(self) -> str:
        """Return each piece shaded by its evidence (the value on hover), the spans boxed.

        There is no script, and nothing from elsewhere.
        """
        scale = max(float(self.tokens.evidence.abs().max()), 1e-9)
        opening = set(self.spans.start)
        ends = zip(self.spans.end, self.spans.evidence, strict=True)
        closing = {int(end) - 1: evidence for end, evidence in ends}
        parts: list[str] = []
        for i, (token, x) in enumerate(zip(self.tokens.token, self.tokens.evidence, strict=True)):
            colour = f"rgba({RED if x > 0 else BLUE}, {0.75 * abs(x) / scale:.2f})"
            bare = token.lstrip(" ")
            parts.append(
                token[: len(token) - len(bare)]
            )  # the space before a word is nobody's evidence
            if i in opening:
                parts.append(f"<b style='{BOX}'>")
            parts.append(
                f"<span title='{x:+.3f} nats' style='background: {colour}'>{_shown(bare)}</span>"
            )
            if i in closing:
                parts.append(
                    f"<span style='font-weight: normal; font-size: 75%; opacity: .8'> {closing[i]:+.1f}</span></b>"
                )
        note = f"{html.escape(self.name)}, strength {self.strength:+g} against {self.against:+g}: {self.total:+.2f} nats in all"
        note += f"; {html.escape(self.note)}" if self.note else ""
        note += "; the text was cut to the model's context" if self.truncated else ""
        # texts that are shown one after another stay apart, and each is written in its own
        # direction; two dollars in one are no formula to a notebook
        return (
            "<div class='tex2jax_ignore mathjax_ignore' style='line-height: 2; max-width: 60em; margin-bottom: 1em; "
            "border-left: 2px solid #8888; "
            f"padding-left: .6em'><div dir='auto'>{''.join(parts)}</div>"
            f"<div style='font-size: 85%; opacity: .75; line-height: 1.4'>{note}</div></div>"
        )


def _shown(piece: str) -> str:
    """Return a piece in HTML, with something to see in it."""
    if not any(
        map(str.isprintable, piece.strip())
    ):  # spaces, line ends, joiners and marks of direction alone
        piece = (
            "".join(
                c if c in "\r\n" or ord(c) < 0x20 else NAMED.get(c, f"U+{ord(c):04X}")
                for c in piece
            )
            or "␣"
        )
    shown = html.escape(piece.replace("\r\n", "\n")).replace("\n", "⏎<br>")
    return "".join(chr(0x2400 + ord(c)) if ord(c) < 0x20 else c for c in shown)


@torch_defaults()
def highlight(
    model: Model,
    steer: Steer | SteerWithBackground | Fit,
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
    """Return the evidence of each token for a steer, and the best spans.

        evidence_t = log P_s(x_t | x_<t) − log P_a(x_t | x_<t)       nats,    a = −s unless `against` is given

    The sum over a text is the log likelihood ratio of the two strengths. The spans are the exact
    optimum of at most `spans` disjoint runs of at most `max_len` pieces with the largest sums, or
    largest in size with `sign="both"`; see `steerlens.maths.spans.best_spans`. Source: Han et al.
    (arXiv 2305.12798), section 5.2, where `a = 0`.

    What it does not say: evidence is about how predictable a word is in its context at the two
    strengths. A word that the context has already announced carries little, however strong it is by
    itself; irony and negation are seen only as far as the model sees them. The first words of a
    text are judged with little context. Compare spans within a text, not between models.

    Args:
        model: the one the steer lives on.
        steer: a `Steer`, or `steer.with_background(background)`.
        text: not empty; what is beyond the model's context is cut, and said.
        strength, against: the two strengths compared.
        spans: how many at most; 0 for the evidence alone.
        max_len: pieces that a span may have; a text that is shorter is no error.
        sign: "+" for spans that speak for `strength`, "-" for those against, "both" for either.
        price: nats that a piece must be worth to be in a span; a little (0.05) takes out words that
            hardly count.
        whole_words: spans begin and end where words do; a word of more than `max_len` pieces is
            then in no span. Where a script puts no spaces between words, words are its characters.

    Returns:
        `Highlight`. Tokens that the model does not predict (the first, for a model without
        begin-of-text) have evidence 0. No span begins or ends with a word without evidence, or with
        a space.

    Raises:
        ValueError: an empty text, several texts, equal strengths, `spans` or `max_len` out of
            range, a steer of another model.

    Example:
        >>> import steerlens as sl
        >>> model = sl.load_model("toy-64")
        >>> joy = sl.fit_steer(sl.collect(model, sl.toy.corpus("sentiment", n=300, seed=0))).value
        >>> found = highlight(model, joy, "the plot was wonderful . the waiter was awful .", spans=2, max_len=1)
        >>> found.spans.text.tolist()
        ['wonderful', 'awful']
    """
    steer = line_of(steer)
    strength = as_number(strength, "strength")
    other = -strength if against is None else as_number(against, "against")
    if other == strength:
        raise ValueError(
            f"against: both strengths are {strength:g}, so no token has any evidence; give two that differ"
        )
    spans = as_count(spans, "spans", "a whole number, at least 0", least=0)
    max_len = as_count(max_len, "max_len")
    as_choice(sign, "sign", ("both", "+", "-"))
    if as_number(price, "price", "nats, at least 0") < 0:
        raise ValueError(f"price: got {price}, expected nats, at least 0")
    if not isinstance(text, str):
        raise ValueError(
            f"text: got {type(text).__name__}, expected one text; for several: [highlight(model, steer, t) for t in texts]"
        )
    check_lives_on(steer, model, "steer")
    if not text.strip():
        raise ValueError("text: it is empty, expected a text to read")
    states = collect(model, as_texts([text], "text"), end=False, progress=False)
    high, low = state_log_probs(states, steer, (strength, other))
    tokens, evidence = _pieces(model, states, text, (high - low).double())
    starts, ends = word_edges(tokens) if whole_words else (_visible(tokens),) * 2
    clear = torch.where(evidence.abs() < NOISE, 0.0, evidence)
    found = best_spans(clear, spans, max_len, sign=sign, price=price, starts=starts, ends=ends)
    table = [
        (
            s.start,
            s.end,
            "".join(tokens[s.start : s.end]).strip(),
            float(evidence[s.start : s.end].sum()),
        )
        for s in found
    ]
    unit = "whole words of at most" if whole_words else "at most"
    silent = (
        "no token has any evidence"
        if not clear.any()
        else (
            "no span was asked for"
            if not spans
            else f"no span of {unit} {max_len} pieces has evidence of the sign and size that was asked for"
        )
    )
    return Highlight(
        steer.name,
        strength,
        other,
        pd.DataFrame({"token": tokens, "evidence": evidence.numpy()}),
        pd.DataFrame(table, columns=["start", "end", "text", "evidence"]).astype(
            {"start": int, "end": int}
        ),
        states.n_truncated > 0,
        "" if found else silent,
    )


def word_edges(pieces: list[str]) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Return where words begin, and where they end, in a text cut into pieces.

    Words are Unicode's (UAX 29): letters with their marks, digits, apostrophes between letters.
    Scripts that put no spaces between words (Chinese, Japanese, Thai) have an edge after each
    character there, but between katakana. The space before a word is not part of it, and a piece
    without anything to see is at no edge.
    """
    text = "".join(pieces)
    edges = {0, len(text), *(found.start() for found in regex.finditer(r"(?w)\b", text))}
    stops = list(accumulate(map(len, pieces), initial=0))
    inner = [
        (i + len(p) - len(p.lstrip()), i + len(p.rstrip()))
        for i, p in zip(stops[:-1], pieces, strict=True)
    ]
    starts, ends = (
        torch.tensor([place in edges for place in places]) for places in zip(*inner, strict=True)
    )
    return starts & _visible(pieces), ends & _visible(pieces)


def _visible(pieces: list[str]) -> Bool[Tensor, " n"]:
    return torch.tensor([bool(piece.strip()) for piece in pieces])


def _pieces(
    model: Model, states: States, text: str, evidence: Float[Tensor, " n_tokens"]
) -> tuple[list[str], Float[Tensor, " n_pieces"]]:
    """Return a text in pieces of whole characters, and the evidence of the tokens of each."""
    how = convention(model, states.readout)
    (of,) = pieces(adapter(model).tokenizer, [text], how, end=False)
    found = torch.zeros(len(of), dtype=torch.float64)
    found[len(of) - len(evidence) :] = (
        evidence  # without begin-of-text nothing predicts the first token
    )
    piece = torch.tensor([bool(part) for part in of]).cumsum(0) - 1
    total = torch.zeros(int(piece[-1]) + 1, dtype=torch.float64).index_add(
        0, piece.clamp_min(0), found
    )
    return [part for part in of if part], total
