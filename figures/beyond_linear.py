"""What would a map beyond linear gain at the unembedding? Five kinds, in the limit and from texts.

    python figures/beyond_linear.py                # some five minutes on one core that is free

Writes figures/out/beyond_linear.{pdf,png,json}. Each kind adds a term that is zero at first to the
linear map, `c' = c + s (cW + term(c))`, is trained by the same descent, and stopped by the NLL of
texts that are held out:

    linear      more of W alone, as a control
    affine      a constant
    MLP         tanh(cA + a) B, 64 units
    quadratic   (cA ∘ cA') B, 32 products
    experts     Σ g_k(c) cA B_k, g = softmax(cR + r): four experts of rank 32, softly routed

Left: W and the term fitted to the grammar's exact distributions on 1,800 texts, the limit of ever
more labelled texts; share of the gap to the grammar told the grade, on 300 new texts. Right: the term
fitted to 2,000 labelled texts over the steer and its background; sign margin at 0.05 nats of KL less
the steer's, on 300 new texts, mean over three draws. 95 % intervals over texts.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from _setting import OUT

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor

import steerlens as sl
from steerlens.analysis.theory.truth import Truth, exact_truth, truth_of
from steerlens.evaluate.draws import compare_draws
from steerlens.maths.logits import apply_softcap, nll_gradient, token_nll
from steerlens.maths.stats import bootstrap_ratio
from steerlens.show.figures import save_figure
from steerlens.show.style import COLUMN, RED, SOFT, axes, ink, label_panels, look, neutral
from steerlens.show.tables import records
from steerlens.values.intervention import UNEMBED_IN
from steerlens.values.positions import TokenIndex
from steerlens.values.readout import Readout
from steerlens.values.steer import per_row

MODEL, ATTRIBUTE, DRAWS, TEXTS, JUDGES = "toy-128", "sentiment", (101, 102, 103), 2000, 300
KINDS = ("linear", "affine", "MLP", "quadratic", "experts")
EXPERTS, EPOCHS, LR, BATCH, CHUNK = 4, 8, 5e-4, 512, 2048
SIZES = {"MLP": 64, "quadratic": 32, "experts": 32}

Map = Callable[[Tensor], Tensor]


def term(kind: str, metric: sl.Metric, seed: int = 0) -> tuple[list[Tensor], Map]:
    """Return the parameters of a term and the term, zero at first; both sides are whitened."""
    d, m = len(metric.C), SIZES.get(kind, 0)
    random = torch.Generator().manual_seed(seed)
    read, write = metric.C_inverse_root, metric.S_inverse_root

    def drawn(*shape: int, size: float = 1.0) -> Tensor:
        return (size * torch.randn(*shape, generator=random)).requires_grad_()

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, requires_grad=True)

    if kind == "linear":
        (B,) = given = [zeros(d, d)]
        return given, lambda c: c @ read @ B @ write
    if kind == "affine":
        (v,) = given = [zeros(d)]
        return given, lambda c: (v @ write).expand_as(c)
    if kind == "MLP":
        A, a, B = given = [drawn(d, m, size=d**-0.5), zeros(m), zeros(m, d)]
        return given, lambda c: torch.tanh(c @ read @ A + a) @ B @ write
    if kind == "quadratic":
        A, A2, B = given = [drawn(d, m, size=d**-0.5), drawn(d, m, size=d**-0.5), zeros(m, d)]
        return given, lambda c: ((c @ read @ A) * (c @ read @ A2)) @ B @ write
    A, R, r = drawn(d, m, size=d**-0.5), drawn(d, EXPERTS, size=0.3), zeros(EXPERTS)
    B = zeros(EXPERTS * m, d)

    def experts(c: Tensor) -> Tensor:
        white = c @ read
        gate = torch.softmax(white @ R + r, 1)[:, :, None]
        return (gate * (white @ A)[:, None]).flatten(1) @ B @ write

    return [A, R, r, B], experts


def descend(
    parameters: list[Tensor], slope: Callable[[Tensor], None], n: int, held: Callable[[], float]
) -> int:
    """Run AdamW and keep the parameters with the best held-out loss; return their epoch.

    Args:
        slope: adds the gradients of some rows.
    """
    optimiser, random = torch.optim.AdamW(parameters, lr=LR, weight_decay=0), torch.Generator()
    random.manual_seed(0)
    best, kept, at, total = (
        held(),
        [p.detach().clone() for p in parameters],
        0,
        EPOCHS * ceil(n / BATCH),
    )
    epoch_kept = 0
    for epoch in range(1, EPOCHS + 1):
        for rows in torch.randperm(n, generator=random).split(BATCH):
            optimiser.param_groups[0]["lr"] = LR * min(1, 10 * (at + 1) / total) * (1 - at / total)
            optimiser.zero_grad()
            slope(rows)
            optimiser.step()
            at += 1
        if (loss := held()) < best:
            best, epoch_kept = loss, epoch
            kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, value in zip(parameters, kept, strict=True):
            p.copy_(value)
    return epoch_kept


@dataclass(frozen=True, eq=False)
class Curved:
    """`c' = c + s · map(c)`: the log-likelihood of a text stays concave in `s`, whatever the map."""

    map: Map
    readout: Readout
    name: str
    prefix = 0

    @torch.no_grad()
    def change(self, c: Tensor) -> Tensor:
        return self.map(c.float().flatten(0, -2)).reshape(c.shape)

    def edits(self, strength: float | Tensor):
        def edit(c: Tensor, places: TokenIndex) -> Tensor:
            return c + per_row(strength, c) * self.change(c)

        return ((UNEMBED_IN, edit),)


def bent_by_truth(
    fitting: Truth, held: Truth, W: Tensor, metric: sl.Metric, kind: str
) -> tuple[Map, int]:
    """Return the map that is fitted to the truth from a steer on, and the epoch that is kept."""
    head = fitting.readout.head
    more, along = term("linear", metric)
    extra, bent = term(kind, metric) if kind != "linear" else ([], torch.zeros_like)

    def change(c: Tensor) -> Tensor:
        return c @ W + along(c) + bent(c)

    def slope(rows: Tensor) -> None:
        c, y = fitting.c[rows], fitting.label[rows, None]
        moved = c + y * change(c)
        p = torch.softmax(torch.addmm(head.b_U, moved.detach(), head.W_U), 1)
        moved.backward((p @ head.W_U.mT - fitting.mean[rows]) / len(rows))

    @torch.no_grad()
    def loss() -> float:
        return float(held.nll(held.c + held.label[:, None] * change(held.c)).mean())

    return change, descend([*more, *extra], slope, len(fitting), loss)


@torch.no_grad()
def limits(model: object) -> pd.DataFrame:
    """Return what each kind closes of the gap when it is fitted to the truth."""
    data = sl.toy.corpus(ATTRIBUTE, n=TEXTS, seed=1)
    states = sl.collect(model, data, progress=False)
    truth = truth_of(model, data, ATTRIBUTE, states)
    fitting, held = (truth.pick(rows) for rows in (truth.text < 1800, truth.text >= 1800))
    new = exact_truth(model, ATTRIBUTE, n=JUDGES, seed=77)
    metric = sl.natural_metric(states.sample(16_384, seed=0), damping=0.03)
    fit = sl.fit_steer(states, progress=False)
    base, told = new.nll(new.c), new.entropy
    gap, closed, epochs = new.by_text(base - told).numpy(), {}, {}
    for kind in KINDS:
        with torch.enable_grad():
            change, epochs[kind] = bent_by_truth(
                fitting, held, fit.report.strength * fit.value.W, metric, kind
            )
        closed[kind] = new.by_text(
            base - new.nll(new.c + new.label[:, None] * change(new.c))
        ).numpy()
        print(kind, epochs[kind], closed[kind].sum() / gap.sum(), flush=True)
    rows = [
        (
            kind,
            *bootstrap_ratio(it, gap),
            *bootstrap_ratio(it - closed["linear"], gap),
            epochs[kind],
        )
        for kind, it in closed.items()
    ]
    names = [
        "kind",
        "share",
        "low",
        "high",
        "difference",
        "difference_low",
        "difference_high",
        "epoch_kept",
    ]
    # what the model knows of the grammar is the most that telling it the grade can be asked to close
    known = bootstrap_ratio(new.by_text(new.untold - told).numpy(), gap)[0]
    return pd.DataFrame(rows, columns=names).assign(knowing_the_grade=known)


def bent_by_texts(states: sl.States, fit: sl.Fit, kind: str) -> tuple[Curved, int]:
    """Return the steer with a term that is fitted to its texts, and the epoch that is kept."""
    head = states.readout.head
    parameters, bent = term(kind, sl.natural_metric(states.sample(16_384, seed=0), damping=0.03))
    W, D = fit.report.strength * fit.value.W, fit.background.W
    (c, following, y), held = (flat(part) for part in states.split(0.9, seed=0))

    def change(c: Tensor) -> Tensor:
        return c @ W + bent(c)

    def slope(rows: Tensor) -> None:
        at = c[rows]
        moved = at + at @ D + y[rows, None] * change(at)
        weight = torch.full((len(rows),), 1 / len(rows))
        moved.backward(nll_gradient(head, moved.detach(), following[rows], weight))

    @torch.no_grad()
    def loss() -> float:
        total = 0.0
        for at, target, label in zip(*(part.split(CHUNK) for part in held), strict=True):
            moved = at + at @ D + label[:, None] * change(at)
            logits = apply_softcap(head, moved @ head.W_U + head.b_U)
            total += float(token_nll(logits, target).double().sum())
        return total / len(held[0])

    epoch = descend(parameters, slope, len(c), loss)
    return Curved(change, states.readout, kind), epoch


def from_texts(model: object) -> pd.DataFrame:
    """Return what each kind gains over the steer at equal KL, fitted to labelled texts."""
    fits: dict[str, list] = {"steer": [], **{kind: [] for kind in KINDS}}
    epochs: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for seed in DRAWS:
        states = sl.collect(model, sl.toy.corpus(ATTRIBUTE, n=TEXTS, seed=seed), progress=False)
        fit = sl.fit_steer(states, progress=False)
        fits["steer"].append(fit.value)
        for kind in KINDS:
            value, epoch = bent_by_texts(states, fit, kind)
            fits[kind].append(value)
            epochs[kind].append(epoch)
            print(seed, kind, epoch, flush=True)
    test = sl.toy.corpus(ATTRIBUTE, n=JUDGES, seed=20_000)
    table = compare_draws(model, fits, test, against="steer").rename(columns={"name": "kind"})
    return table.assign(epochs_kept=[str(epochs.get(kind, "")) for kind in table.kind])


def flat(states: sl.States) -> tuple[Tensor, Tensor, Tensor]:
    hidden, following, text = (
        torch.cat(part) for part in zip(*states.chunks(1 << 16), strict=True)
    )
    return hidden, following, states.labels[text]


def points(ax: plt.Axes, table: pd.DataFrame, columns: tuple[str, str, str], unit: float) -> None:
    axes(ax)
    value, low, high = (table[column] / unit for column in columns)
    places = range(len(table))[::-1]
    ax.errorbar(value, places, xerr=[value - low, high - value], fmt="o", ms=4, lw=1, color=RED)
    ax.set_yticks(places, table.kind)
    ax.set_ylim(-0.6, len(table) - 0.4)


def draw(limit: pd.DataFrame, fitted: pd.DataFrame, about: dict) -> None:
    known, fitted_kinds = limit.knowing_the_grade[0], fitted[fitted.kind != "steer"]
    with look():
        fig, (left, right) = plt.subplots(1, 2, figsize=(2.1 * COLUMN, 2.0), layout="constrained")
        points(left, limit, ("share", "low", "high"), 1)
        left.axvline(known, color=ink(), lw=0.8, ls="--")
        left.set(xlabel="share of the gap that is closed", xlim=(0.45, 0.75))
        left.annotate("knowing the grade", (known, len(limit) - 0.5), xytext=(-3, 0), textcoords="offset points",
                      ha="right", va="top", size=6.5, color=neutral(SOFT))  # fmt: skip
        points(right, fitted_kinds, ("difference", "difference_low", "difference_high"), 1e-3)
        right.axvline(0, color=neutral(SOFT), lw=0.8)
        right.set(xlabel="margin less the steer's (thousandths of a nat)")
        label_panels((left, right), ("fitted to the truth", "fitted to 2,000 texts"))
    rows = {"limit": records(limit), "from_texts": records(fitted)}
    save_figure(fig, OUT, "beyond_linear", about | rows)


def main() -> None:
    model, start = sl.load_model(MODEL), time.perf_counter()
    limit, fitted = limits(model), from_texts(model)
    print(limit.round(4).to_string(), fitted.round(4).to_string(), sep="\n")
    settings = {"model": MODEL, "attribute": ATTRIBUTE, "draws": DRAWS, "texts": TEXTS, "judges": JUDGES, "kl": 0.05,
                "epochs": EPOCHS, "lr": LR, "sizes": SIZES, "experts": EXPERTS}  # fmt: skip
    about = {"command": "python figures/beyond_linear.py", "settings": settings}
    draw(limit, fitted, about | {"seconds": round(time.perf_counter() - start)})


if __name__ == "__main__":
    main()
