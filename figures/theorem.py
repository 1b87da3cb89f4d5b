"""When a steer of the belief is exact, and how it fails where the condition is drawn anew.

    python figures/theorem.py            # writes figures/out/theorem.{pdf,png,json}; some ten minutes

On the toy grammar itself, no model. The prior of the sentiment is turned from uniform to
∝ exp(2 · grade). Texts are drawn from the turned grammar whose condition is drawn anew, uniformly,
with chance δ after every word; KL is from its exact next-word distribution, nats per word, to the
grammar's without a steer, with the theorem's W = diag(π′/π), with the best diagonal W, and with the
best constant offset of the logits. Intervals are 95 % over texts.
"""

from _setting import OUT

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.optimize import minimize

from steerlens.maths.stats import bootstrap_ratio
from steerlens.show.figures import save_figure
from steerlens.show.style import COLUMN, look
from steerlens.show.tables import records
from steerlens.show.theory import plot_theorem
from steerlens.toy import default_grammar
from steerlens.toy.belief import (
    exact_linear_model,
    grades_of,
    kl_rows,
    sample_with_redraw,
    tilted_prior,
)
from steerlens.toy.theory import assumption_residuals, grammar_chain

TILT, TEXTS = 2.0, 150
REDRAWS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def best_diagonal(parts: np.ndarray, truth: np.ndarray, theorem: np.ndarray) -> np.ndarray:
    """Return the predictions of the best weights of the grades, whose parts of P(word) are given."""

    def predict(log_weight: np.ndarray) -> np.ndarray:
        rows = np.einsum("g,gnv->nv", np.exp(log_weight - log_weight.max()), parts)
        return rows / rows.sum(axis=1, keepdims=True)

    def loss(log_weight: np.ndarray) -> float:
        return float(kl_rows(truth, predict(log_weight)).mean())

    # the minimum lies between doing nothing and the theorem's weights
    start = min((np.zeros(len(parts)), theorem), key=loss)
    found = minimize(loss, start, method="BFGS", options={"gtol": 1e-6})
    found.x = min((found.x, start), key=loss)
    return predict(found.x)


def best_offset(plain: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the predictions of the best constant offset of the logits, a convex problem."""

    def predict(offset: np.ndarray) -> np.ndarray:
        rows = plain * np.exp(offset)
        return rows / rows.sum(axis=1, keepdims=True)

    def loss(offset: np.ndarray) -> tuple[float, np.ndarray]:
        q = predict(offset)
        return float(kl_rows(truth, q).mean()), (q - truth).mean(axis=0)

    found = minimize(loss, np.zeros(plain.shape[1]), jac=True, method="L-BFGS-B")
    return predict(found.x)


def study(redraw: float) -> pd.DataFrame:
    grammar = default_grammar()
    prior, grade = tilted_prior(grammar, "sentiment", TILT), grades_of(grammar, "sentiment")
    texts = sample_with_redraw(grammar, TEXTS, prior, redraw=redraw, seed=0)
    model = exact_linear_model(grammar, texts, redraw=redraw)
    truth = exact_linear_model(grammar, texts, prior, redraw=redraw).predict()
    plain = model.predict()
    parts = np.stack(
        [
            (
                model.c[:, (grade == g)[model.condition]] @ model.E[(grade == g)[model.condition]]
            ).toarray()
            for g in np.unique(grade)
        ]
    )
    ways = {
        "no steer": plain,
        "theorem's W": model.predict(len(prior) * prior),
        "best diagonal W": best_diagonal(parts, truth, TILT * np.unique(grade)),
        "best constant offset": best_offset(plain, truth),
    }
    lengths = np.bincount(model.text).astype(float)
    rows = []
    for way, q in ways.items():
        by_text = np.bincount(model.text, kl_rows(truth, q))
        rows.append((redraw, way, *bootstrap_ratio(by_text, lengths)))
    return pd.DataFrame(rows, columns=["redraw", "way", "kl", "low", "high"])


def main() -> None:
    parts = []
    for redraw in REDRAWS:
        parts.append(study(redraw))
        print(parts[-1].to_string(float_format="{:.3g}".format), flush=True)
    table = pd.concat(parts, ignore_index=True)
    residuals = assumption_residuals(*grammar_chain(default_grammar()))._asdict()
    print("assumption 1 on the grammar:", residuals)
    with look():
        fig, ax = plt.subplots(figsize=(COLUMN, 2.5), layout="constrained")
        plot_theorem(table, ax=ax)
    save_figure(fig, OUT, "theorem", {"kl": records(table), "assumption": [residuals]})


if __name__ == "__main__":
    main()
