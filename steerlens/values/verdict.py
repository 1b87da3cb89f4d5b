"""Whether a fit is better than one to shuffled labels, in a sentence."""

from dataclasses import dataclass
from typing import Literal

CHANCE = 0.05
"""The p-value above which a fit is not told from one to shuffled labels."""
UNTESTED = (
    "Not tested against shuffled labels: the texts that were held out have one label only. Collect more texts of "
    "another label, or fit with another seed."
)
"""What is said of a fit without a verdict."""


@dataclass(frozen=True)
class Verdict:
    """What texts that a fit did not see say of it.

    `margin` is how much likelier the right sign makes a token than the wrong one, around the mean
    label and at each text's own, in nats per token, mean over all texts (those at the mean label
    gain nothing), with its 95 % interval over the texts, of which copies are one. So what all texts
    share cannot raise it, and labels of 0 and 1 have that of labels of ±1; where labels of ±1 are
    skewed it is smaller than the `sign_margin` of balanced texts, `4 p₊ p₋` times that. `p` is of
    the same sum against labels in random order. With `how="halves"` each half of the training texts
    gave a steer that the other half judges, at a KL of `kl` nats per token (of half the texts: the
    fit to all is better), and `agreement` is the cosine of both steers in whitened coordinates.
    With `how="held-out"` texts that were held out judge the fit itself, at the report's strength;
    where they chose its epoch and strength too, each half of them judges what the other half would
    have chosen, and `p` is of the largest margin of all that was tried. (The damping of `"lbfgs"`
    and `"closed-form"`, one of a few, was chosen by a sample of the same texts.)
    `learnt` is false where these texts chose the untrained start: then nothing is found, whatever
    `p`.
    """

    margin: float
    low: float
    high: float
    p: float
    kl: float
    n_texts: int
    how: Literal["halves", "held-out"]
    agreement: float | None = None
    learnt: bool = True

    @property
    def found(self) -> bool:
        """Whether the fit is better than one to shuffled labels, at p ≤ 0.05."""
        return self.learnt and self.p <= CHANCE and self.margin > 0

    def __str__(self) -> str:
        number = f"{self.margin:+.4f} nats per token [{self.low:+.4f}, {self.high:+.4f}]"
        judged = (
            f"steers of either half of the {self.n_texts:,} texts, judged by the other at {self.kl:g} nats of KL"
            if self.how == "halves"
            else f"judged by {self.n_texts:,} held-out texts at the strength that others of them ask for"
        )
        agreed = (
            ""
            if self.agreement is None
            else f"; the halves' steers have cosine {self.agreement:.2f}"
        )
        if self.found:
            return f"Better than shuffled labels (p = {self.p:.2g}): sign margin {number}, {judged}{agreed}."
        if not self.learnt:
            return (
                f"Nothing was learnt: the untrained start predicts the held-out texts best. Its sign margin is {number}, "
                f"{judged}. Collect more labelled texts, train with another lr, or check that the labels belong to them."
            )
        return (
            f"Not told from shuffled labels (p = {self.p:.2g}): sign margin {number}, {judged}{agreed}. Do not read its "
            "words or trust its text; collect more labelled texts, or check that the labels belong to them."
        )


def told(verdict: Verdict | None) -> str:
    """Return what is to be said of a fit; None: that it was not tested, and why.

    Example:
        >>> told(None).split(":")[0]
        'Not tested against shuffled labels'
    """
    return UNTESTED if verdict is None else str(verdict)
