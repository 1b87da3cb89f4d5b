"""Every public figure with a small table of the right kind."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

import steerlens.show as show
from steerlens.analysis.highlight import Highlight
from steerlens.analysis.svd import Spectrum
from steerlens.analysis.trajectories import Trajectories, cluster_report, project, step_statistics
from steerlens.evaluate.strength import TextStrengths

rng = np.random.default_rng(0)
STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
SEEDS = range(4)


def frame(columns: str, *rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=columns.split())


CURVE = frame(
    "label strength log_likelihood error", *((y, s, y * s - s * s / 2, 0.1) for y in (-1, -0.5, 0, 0.5, 1) for s in STRENGTHS)
)  # fmt: skip
WRITTEN = frame(
    "strength attribute", *((s, np.tanh(s + rng.normal())) for s in STRENGTHS for _ in range(40))
)
GAP = frame("grade gap_closed", (-1.0, 0.4), (0.0, 0.0), (1.0, 0.5), ("all", 0.3)).assign(
    low=lambda t: t.gap_closed - 0.1, high=lambda t: t.gap_closed + 0.1, best_gap_closed=lambda t: t.gap_closed,
    best_low=lambda t: t.low, best_high=lambda t: t.high, multiple=1.5,
)  # fmt: skip
LOSSES = frame(
    "label background steered flipped",
    *((y, 2.0, 1.9997, 2.0003) for y in (-1.0, -0.5, 0, 0.5, 1.0, "all")),
)
# as small as the scores of a weak steer, whose ticks once ran into one another
SCORES = frame(
    "direction side role word score",
    *((1, "+", "writes", f"$word{k}$", 5e-5 * (k - 5.5)) for k in range(12)),
)
KL = frame("strength kl", *((s, s * s / 10) for s in STRENGTHS))
COST = frame("strength nll error", *((s, 2 + s * s / 20, 0.02) for s in STRENGTHS))
SPECTRUM = Spectrum(
    frame("direction gain share cumulative", *((k, 2 / k, 0.5 / k, 1.0) for k in range(1, 25))),
    3.0,
    2.0,
)
KEPT = frame("direction gain kept spread", *((k, 2 / k, 1 - k / 9, 0.1) for k in range(1, 13)))
MEMORY = frame(
    "kind length recovered stored",
    *(
        (kind, n, min(n, m), 9.0 * n)
        for kind in ("text", "scrambled", "random")
        for n in (1, 4, 16)
        for m in (2, 5)
    ),
)
SUBSPACES = frame(
    "layer question overlap chance_high largest largest_chance_high",
    *(
        (k, q, 0.3, 0.1, 0.6, 0.2)
        for k in (0, 2)
        for q in ("writes", "reads", "mean difference", "probe", "other texts")
    ),
)
QUALITY = frame(
    "method layers parameters sign_margin low high",
    *(
        (m, "0, 1", 130 * r, 0.1, 0.05, 0.12)
        for m in ("steer", "loreft", "direft")
        for r in (1, 4, 16)
    ),
)
COMPOSED = frame(
    "edit task sign_margin low high",
    *(
        (e, t, 0.3, 0.2, 0.4)
        for e in ("sentiment", "tone", "together")
        for t in ("sentiment", "tone")
    ),
)
PRIORS = frame(
    "prior seed nll", *((p, s, 1.5 + 0.01 * s) for p in ("vocabulary", "Xavier") for s in SEEDS)
)
READ = frame(
    "what sign_margin seed",
    *((w, 0.05 + 0.01 * s, s) for w in ("prompt", "nearest words") for s in SEEDS),
)
MOVES = frame(
    "intervention steer question share chance_high seed",
    *(
        (i, t, "writes", 0.2 + 0.01 * s, 0.05, s)
        for i in ("soft", "kv")
        for t in ("joy", "tone")
        for s in SEEDS
    ),
)
ROWS = frame(
    "way length seed gap_closed",
    *(
        (w, n, s, 0.5 + 0.1 * s)
        for w in ("distilled", "last tokens", "random words")
        for n in (1, 2, 4)
        for s in SEEDS
    ),
)
RULES = frame(
    "rule share low high",
    ("trained", 1.0, 1.0, 1.0),
    ("distil", 1.3, 1.1, 1.5),
    ("similarity", -0.2, -0.4, 0.1),
)
TIMES = frame(
    "way size seconds", *((w, 10.0**n, 1e-4 * 10 ** (n * k)) for w, k in (("fit", 1), ("two products", 2)) for n in range(1, 5))
)  # fmt: skip
TOKENS = frame("token evidence", (" a", 0.0), (" $good$", 2.0), (" film", -0.5))
MARKED = Highlight(
    "joy", 1.0, -1.0, TOKENS, frame("start end text evidence", (1, 2, "$good$", 2.0))
)
TEXTS = TextStrengths(
    "joy",
    frame(
        "text strength error gain at_limit", (0, 1.0, 0.5, 0.5, False), (1, -1.0, 0.5, 0.5, False)
    ),
    pd.DataFrame(),
    frame(
        "text strength log_likelihood",
        *((t, s, (1 - 2 * t) * s - s * s / 2) for t in (0, 1) for s in STRENGTHS),
    ),
)


def walked() -> Trajectories:
    task, text = torch.arange(3).repeat_interleave(4), torch.arange(12).repeat_interleave(10)
    states = (
        torch.randn(120, 5, generator=torch.Generator().manual_seed(0))
        + 2 * torch.eye(5)[task[text]]
    )
    return Trajectories(
        states, text, task, ("reviews", "arithmetic", "masked words"), ("x",) * 12, "made"
    )


WALKED = walked()
CLUSTERS = cluster_report(WALKED, permutations=9, draws=9, n_init=1, seed=0).assign(layer=0)
FEW = frame(
    "method texts draw sign_margin found",
    *(
        (m, n, k, f * (0.01 * k + 0.02), bool(f))
        for m, f in (("steer", 1), ("LoReFT", 0))
        for n in (30, 300)
        for k in (0, 1)
    ),
)
STEPS = step_statistics(WALKED, walks=5, draws=9, seed=0).assign(layer=0)

AT_KL = frame(
    "method kl given_kl gain gain_low gain_high kind note",
    ("base", 0.0, 0.0, 0.0, -0.1, 0.1, "all", ""),
    *((m, k, k, k, k - 0.1, k + 0.1, "all", "") for m in ("steer", "LoReFT") for k in (0.05, 0.2)),
)

DRAWN: dict[str, Callable[[Axes | None], Axes]] = {
    "plot_at_kl": lambda ax: show.plot_at_kl(AT_KL, ax=ax),
    "plot_rows": lambda ax: show.plot_rows(AT_KL[AT_KL.kl != 0.2], "gain", ax=ax),
    "plot_clusters": lambda ax: show.plot_clusters(CLUSTERS, ax=ax),
    "plot_composition": lambda ax: show.plot_composition(COMPOSED, ax=ax),
    "plot_compression": lambda ax: show.plot_compression(ROWS, ax=ax),
    "plot_cost": lambda ax: show.plot_cost(KL, COST, ax=ax),
    "plot_gap_closed": lambda ax: show.plot_gap_closed(GAP, ax=ax),
    "plot_highlight": lambda ax: show.plot_highlight(MARKED, ax=ax),
    "plot_label_curve": lambda ax: show.plot_label_curve(CURVE, ax=ax),
    "plot_losses": lambda ax: show.plot_losses(LOSSES, ax=ax),
    "plot_map": lambda ax: show.plot_map(WALKED, project(WALKED), ax=ax),
    "plot_memory": lambda ax: show.plot_memory(MEMORY, title="layer 0", ax=ax),
    "plot_moves": lambda ax: show.plot_moves(MOVES, ax=ax),
    "plot_priors": lambda ax: show.plot_priors(PRIORS, ax=ax),
    "plot_quality": lambda ax: show.plot_quality(QUALITY, ax=ax),
    "plot_readability": lambda ax: show.plot_readability(READ, ax=ax),
    "plot_few_texts": lambda ax: show.plot_few_texts(FEW, ax=ax),
    "plot_scaling": lambda ax: show.plot_scaling(TIMES, what="tokens", ax=ax),
    "plot_singular_words": lambda ax: show.plot_singular_words(SCORES, ax=ax),
    "plot_spectrum": lambda ax: show.plot_spectrum(SPECTRUM, KEPT, ax=ax),
    "plot_steps": lambda ax: show.plot_steps(STEPS, ax=ax),
    "plot_subspaces": lambda ax: show.plot_subspaces(SUBSPACES, ax=ax),
    "plot_text_strengths": lambda ax: show.plot_text_strengths(TEXTS, ax=ax),
    "plot_transfer": lambda ax: show.plot_transfer(RULES, ax=ax),
    "plot_written_attribute": lambda ax: show.plot_written_attribute(WRITTEN, name="$joy$", ax=ax),
}
