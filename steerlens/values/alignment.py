"""Which tokens two models share, and the linear map between their output embeddings there."""

import html
from collections import Counter
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.values.readout import PART, Readout


@dataclass(frozen=True, eq=False)
class Alignment:
    """The map `H` with `e_src ≈ H e_tgt` on the tokens that two models share, and how well it
    holds. Made by `align`.

    Args:
        src, tgt: the read-outs.
        H: `[d_src, d_tgt]`, float64.
        tokens: the shared tokens as text, a leading space kept.
        src_ids, tgt_ids: their ids in the two vocabularies.
        weights: of each in the fit; they sum to 1.
        centred: whether weighted means were taken off before.
        ridge: that was used, relative to the mean eigenvalue of the target's embeddings.
        rank, condition: of the target's shared embeddings; below `d_tgt`, part of the target's
            space is out of reach.
        r2: weighted share of the source's variance that `H` explains on tokens that it was not
            fitted on (five folds); NaN where there are too few.
        residual: `‖e_src − H e_tgt‖ / ‖e_src‖` of each token, on the tokens that were fitted,
            centred as the fit.
    """

    src: Readout
    tgt: Readout
    H: Float[Tensor, "d_src d_tgt"]
    tokens: tuple[str, ...]
    src_ids: Int[Tensor, " n"]
    tgt_ids: Int[Tensor, " n"]
    weights: Float[Tensor, " n"]
    centred: bool
    ridge: float
    rank: int
    condition: float
    r2: float
    residual: Float[Tensor, " n"]

    def embeddings(self) -> tuple[Float[Tensor, "n d_tgt"], Float[Tensor, "n d_src"]]:
        """Return the shared tokens' embeddings on target and source, float64, centred as the
        fit."""
        X, Y = (
            on.W_U.detach().double().mT[ids.to(on.W_U.device)].cpu()
            for on, ids in ((self.tgt, self.tgt_ids), (self.src, self.src_ids))
        )
        return (X - self.weights @ X, Y - self.weights @ Y) if self.centred else (X, Y)

    def rows(self) -> list[tuple[str, str]]:
        """Return the alignment as names and readable values."""
        worst = sorted(range(len(self.tokens)), key=lambda i: -float(self.residual[i]))[:8]
        return [
            (
                "from, to",
                f"{self.src.model_id} (d_model {self.src.d_model}) → {self.tgt.model_id} ({self.tgt.d_model})",
            ),
            (
                "shared tokens",
                f"{len(self.tokens):,} of {len(text_ids(self.src)):,} and {len(text_ids(self.tgt)):,}",
            ),
            ("rank, condition", f"{self.rank}, {self.condition:.3g}"),
            ("ridge, centred", f"{self.ridge:g}, {'yes' if self.centred else 'no'}"),
            ("R² on tokens not fitted", f"{self.r2:.3f}"),
            ("relative residual, weighted mean", f"{float(self.weights @ self.residual):.3f}"),
            (
                "worst tokens",
                ", ".join(f"{self.tokens[i].strip()} {self.residual[i]:.2f}" for i in worst),
            ),
        ]

    def __repr__(self) -> str:
        return (
            f"Alignment({self.src.model_id!r} → {self.tgt.model_id!r}, {len(self.tokens)} shared tokens, rank {self.rank}, "
            f"R² {self.r2:.3f})"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self.rows()
        )
        return f"<table>{rows}</table>"


def text_ids(readout: Readout) -> list[int]:
    """Return the ids of tokens that stand for text that can be told.

    No special tokens, no padding rows, no broken characters.
    """
    whole = (
        i
        for i, token in enumerate(readout.tokens)
        if token and "\ufffd" not in token and not PART.search(token)
    )
    return [i for i in whole if i not in readout.special]


def spellings(readout: Readout) -> dict[str, int]:
    """Return each token's text with its id, spelled the same way whatever the tokenizer.

    A text that two tokens have is left out. Tokenizers mark where a word begins in three ways, and
    the read-out's token strings have the first already decoded:

        a space in front (`Ġword`, `▁word`)      ' word', and pieces of words without
        pieces marked instead (`##ing`)          word → ' word', ##ing → 'ing'
        no marks at all, whole words only        word → ' word'

    In the last two what is no letter or digit is left as it is: such tokenizers do not tell ' .'
    from '.'. Where the first kind has ' .' alone and no '.', it is spelled '.' too.

    Example:
        >>> on = Readout(torch.eye(3), torch.zeros(3), ("word", "##ing", "."))
        >>> spellings(on)
        {' word': 0, 'ing': 1, '.': 2}
    """
    ids = text_ids(readout)
    spaced = any(readout.tokens[i][0] == " " and len(readout.tokens[i]) > 1 for i in ids)
    bare = {readout.tokens[i] for i in ids}

    def spelled(token: str) -> str:
        if spaced:
            mark = token.strip()
            return mark if mark and not any(map(str.isalnum, mark)) and mark not in bare else token
        if token.startswith(
            "##"
        ):  # a mark that goes on, `##.`, is nowhere else told from one that begins
            return token[2:] if token[2:3].isalnum() else token
        return f" {token}" if token[0].isalnum() else token

    found = [(spelled(readout.tokens[i]), i) for i in ids]
    times = Counter(text for text, _ in found)
    return {text: i for text, i in found if times[text] == 1}


def shared_tokens(
    src: Readout, tgt: Readout
) -> tuple[tuple[str, ...], Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Return the tokens that two vocabularies share, by their text, with their ids in both.

    They are in the target's order.
    """
    mine, theirs = spellings(src), spellings(tgt)
    both = [text for text in theirs if text in mine]
    return (
        tuple(both),
        torch.tensor([mine[t] for t in both]).long(),
        torch.tensor([theirs[t] for t in both]).long(),
    )
