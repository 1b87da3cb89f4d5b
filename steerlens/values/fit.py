"""What a fit returns: the answer, its background, and how well it was computed."""

import html
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from steerlens.values.losses import Losses
from steerlens.values.steer import Steer


@dataclass(frozen=True)
class Report:
    """How a steer was fitted and how good it is. All losses in nats per token.

    `heldout` texts were never trained on; damping, ridge, step and shrinkage were chosen on a sample of them, which makes
    its numbers a little too good (few choices, many texts). `kl` is KL(base ‖ steer alone) at strengths +1 and -1.
    `gap` bounds from above how far the objective is from its minimum; where it is None, `gap_reason` says why. `trials`
    lists the choices that were tried with their held-out NLL.
    """

    solver: str
    heldout: Losses
    train: Losses
    by_label: dict[float, Losses]
    kl: tuple[float, float]
    damping: float
    ridge: tuple[float, float]
    step: float | None
    threshold: float
    rank: int | None
    weights: str
    objective: float | None
    gap: float | None
    gap_reason: str | None
    passes: float
    seconds: float
    n_texts: int
    n_positions: int
    n_truncated: int
    seed: int
    scale: float = 1.0
    trials: tuple[dict[str, float], ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, ready for JSON."""
        plain = asdict(self)
        plain["by_label"] = {str(label): asdict(losses) for label, losses in self.by_label.items()}
        plain["contrast"] = self.heldout.contrast
        return plain

    def rows(self) -> list[tuple[str, str]]:
        """The report as names and readable values."""
        h, t = self.heldout, self.train
        gap = f"≤ {self.gap:.2g}" if self.gap is not None else f"none: {self.gap_reason}"
        step = "" if self.step is None else f", step {self.step:.3g}"
        return [
            (
                "held-out NLL, base → background → steered",
                f"{h.base:.4f} → {h.background:.4f} → {h.steered:.4f}",
            ),
            ("held-out NLL, sign flipped (contrast)", f"{h.flipped:.4f} ({h.contrast:+.4f})"),
            (
                "train NLL, base → background → steered",
                f"{t.base:.4f} → {t.background:.4f} → {t.steered:.4f}",
            ),
            ("KL from base at +1 / -1", f"{self.kl[0]:.4f} / {self.kl[1]:.4f}"),
            (
                "ridge (steer, background), damping",
                f"{self.ridge[0]:.3g}, {self.ridge[1]:.3g}, {self.damping:g}{step}",
            ),
            (
                "singular values lowered by, scaled by, rank",
                f"{self.threshold:.3g}, {self.scale:g}, {self.rank or 'full'}",
            ),
            ("objective, gap to its minimum", f"{_number(self.objective)}, {gap}"),
            ("texts, positions, truncated", f"{self.n_texts:,}, {self.n_positions:,}, {self.n_truncated:,}"),
            (
                "solver, passes over the data, seconds",
                f"{self.solver}, {self.passes:.1f}, {self.seconds:.1f}",
            ),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:<44}{value}" for name, value in self.rows())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self.rows()
        )
        return f"<table><caption>nats per token</caption>{rows}</table>"


@dataclass(frozen=True)
class Fit:
    """A fitted value, the background steer fitted with it, and the report. The background is never added silently:
    `fit.value.over(fit.background)` is the model that explains the training texts."""

    value: Steer
    background: Steer
    report: Report

    def _repr_html_(self) -> str:
        return f"<p><b>{html.escape(repr(self.value))}</b></p>{self.report._repr_html_()}"


def _number(x: float | None) -> str:
    return "not computed" if x is None or math.isnan(x) else f"{x:.4f}"
