"""What a fit returns: the answer, its background, and how well it was computed."""

import html
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, cast

from typing_extensions import TypeVar

from steerlens.values.intervention import Intervention
from steerlens.values.losses import Losses
from steerlens.values.steer import Steer
from steerlens.values.verdict import Verdict, told


@dataclass(frozen=True)
class Report:
    """How a value was fitted and how good it is. All losses in nats per token.

    `verdict` says whether the value is better than one fitted to shuffled labels, None where the
    texts that were held out have one label only. `heldout` texts
    were never trained on; how much of the background to keep and how long the steer is to be were
    asked of a sample of them, which makes NLL a little too good (few choices, many texts). A steer
    is as long as its `kl`, KL(base ‖ steer alone) at strengths +1 and -1, was asked to be on the texts it
    was fitted to (`asked_kl`, None for other values);
    `strength` is the multiple of it that a label of 1 asks for, at which `heldout`, `train` and
    `by_label` are measured, around `mean_label` (of values fitted by descent the middle of the labels'
    range, so that labels of 0 and 1 turn into each other). `optimality_gap` bounds from above how far the
    objective is from its minimum; where it is None, `gap_reason` says why. `trials` lists the
    choices that were tried, with their held-out NLL or the margin that halves of the texts gave
    each other, in nats per token. What belongs to steers alone (`damping`, `ridge`, `whitening`,
    `few`, `threshold`, `background_threshold`, `weights`) is None for other values, whose own settings are in
    `settings`.
    """

    solver: str
    heldout: Losses
    train: Losses
    by_label: dict[float, Losses] = field(hash=False)
    kl: tuple[float, float]
    objective: float | None
    optimality_gap: float | None
    gap_reason: str | None
    passes: float
    seconds: float
    n_texts: int
    n_positions: int
    n_truncated: int
    seed: int
    rank: int | None = None
    lr: float | None = None
    damping: float | None = None
    ridge: tuple[float, float] | None = None
    whitening: float | None = None
    few: float | None = None
    threshold: float | None = None
    background_threshold: float | None = None
    strength: float = 1.0
    mean_label: float = 0.0
    weights: str | None = None
    verdict: Verdict | None = None
    asked_kl: float | None = None
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    trials: tuple[dict[str, float], ...] = field(default=(), repr=False, hash=False)

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, ready for JSON."""
        plain = asdict(self)
        plain["by_label"] = {str(label): asdict(losses) for label, losses in self.by_label.items()}
        plain["sign_margin"] = self.heldout.sign_margin
        return plain

    def rows(self) -> list[tuple[str, str]]:
        """Return the report as names and readable values."""
        h, t = self.heldout, self.train
        gap = (
            f"<= {self.optimality_gap:.2g}"
            if self.optimality_gap is not None
            else f"none: {self.gap_reason}"
        )
        return [
            ("verdict", told(self.verdict)),
            (
                "held-out NLL, base -> background -> steered",
                f"{h.base:.4f} -> {h.background:.4f} -> {h.steered:.4f}",
            ),
            ("held-out NLL, sign flipped (sign margin)", f"{h.flipped:.4f} ({h.sign_margin:+.4f})"),
            (
                "train NLL, base -> background -> steered",
                f"{t.base:.4f} -> {t.background:.4f} -> {t.steered:.4f}",
            ),
            ("KL from base at +1 / -1", f"{self.kl[0]:.4f} / {self.kl[1]:.4f}"),
            ("strength that a label of 1 asks for", f"{self.strength:.2f}"),
            *self._set(),
            ("objective, gap to its minimum", f"{_number(self.objective)}, {gap}"),
            (
                "texts, positions, truncated",
                f"{self.n_texts:,}, {self.n_positions:,}, {self.n_truncated:,}",
            ),
            (
                "solver, passes over the data, seconds",
                f"{self.solver}, {self.passes:.1f}, {self.seconds:.1f}",
            ),
        ]

    def _set(self) -> list[tuple[str, str]]:
        """Return the settings, as names and readable values."""
        found = []
        if self.ridge is not None:
            lr = "" if self.lr is None else f", lr {self.lr:.3g}"
            three = f"{self.ridge[0]:.3g}, {self.ridge[1]:.3g}, {self.damping:g}{lr}"
            found.append(("ridge (steer, background), damping", three))
        if self.threshold is not None:
            found.append(
                (
                    "part of few directions, lowered by, rank",
                    f"{self.few:g}, {self.threshold:.3g}, {self.rank or 'free'}",
                )
            )
        if self.background_threshold is not None:
            lowered = f"{self.background_threshold:.3g}"
            found.append(("background, singular values lowered by", lowered))
        return [
            *found,
            *((name.replace("_", " "), str(value)) for name, value in self.settings.items()),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:<44}{value}" for name, value in self.rows())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self.rows()
        )
        return f"<table><caption>nats per token</caption>{rows}</table>"


Other = TypeVar("Other")
Value = TypeVar("Value", bound=Intervention, default=Steer, covariant=True)


@dataclass(frozen=True, repr=False)
class Fit(Generic[Value]):
    """A fitted value, the background steer fitted with it, and the report. The background is never
    added silently: for a steer `(fit.report.strength * fit.value).with_background(fit.background)`
    is the model that explains the training texts, a label of 1 at strength 1."""

    value: Value
    background: Steer
    report: Report

    def __repr__(self) -> str:
        """Show the value and what texts say of it; all of it is in `report`."""
        return f"Fit({self.value!r})\n  {told(self.report.verdict)}"

    def __mul__(self, factor: Any) -> Any:
        """Scale the value; a fit stands for it in sums and multiples too."""
        return self.value * factor

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Any:
        return self.value / divisor

    def with_background(self, background: Steer) -> Any:
        """Return the value on a model whose background is always on; see `Steer.with_background`."""
        return self.value.with_background(background)  # pyright: ignore[reportAttributeAccessIssue]

    def when(self, *conditions: Any) -> Any:
        """Return the value under conditions; see `Steer.when`."""
        return self.value.when(*conditions)  # pyright: ignore[reportAttributeAccessIssue]

    def __add__(self, other: Any) -> Any:
        return self.value + value_of(other)

    def __radd__(self, other: Any) -> Any:
        return other + self.value

    def __sub__(self, other: Any) -> Any:
        return self.value - value_of(other)

    def __rsub__(self, other: Any) -> Any:
        return other - self.value

    def __neg__(self) -> Any:
        return -1 * self

    def _repr_html_(self) -> str:
        return f"<p><b>{html.escape(repr(self.value))}</b></p>{self.report._repr_html_()}"


def value_of(given: Other | Fit[Any]) -> Other:
    """Return the value of a fit, which stands for it wherever an intervention is asked for;
    anything else as it is.

    Example:
        >>> value_of("joy")
        'joy'
    """
    return cast(Other, given.value if isinstance(given, Fit) else given)


def _number(x: float | None) -> str:
    return "not computed" if x is None or math.isnan(x) else f"{x:.4f}"
