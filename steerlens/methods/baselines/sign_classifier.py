"""A line that tells a label's sign by the means of a text's states: what rivals follow that need a
classifier with a gradient."""

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

PENALTIES = np.logspace(-3, 2, 6)


def fit_sign(
    x: Float[np.ndarray, "n d"], labels: Float[np.ndarray, " n"]
) -> tuple[Float[Tensor, " d"], float]:
    """Return `w` and `b` of `P(+ | x) = σ(x w + b)`, logistic regression of a label's sign, the
    penalty chosen by cross-validation.

    How large a label is does not count, and rows with label 0 do not.

    Raises:
        ValueError: fewer than two labels of a sign.

    Example:
        >>> x = np.array([[1.0], [2.0], [-1.0], [-2.0]])
        >>> w, b = fit_sign(x, np.array([1.0, 0.5, -1.0, -0.5]))
        >>> bool(w > 0), round(abs(b), 3)
        (True, 0.0)
    """
    y = np.sign(labels).astype(int)
    fewest = min(int((y == sign).sum()) for sign in (1, -1))
    if fewest < 2:
        raise ValueError(
            f"data: got {fewest} texts of one sign, expected at least two of each for a classifier"
        )
    search = GridSearchCV(
        LogisticRegression(solver="liblinear", random_state=0),
        {"C": PENALTIES},
        cv=min(3, fewest),
        scoring="neg_log_loss",
    )
    scale, found = make_pipeline(StandardScaler(), search).fit(x[y != 0], y[y != 0]).steps
    w = found[1].best_estimator_.coef_[0] / scale[1].scale_
    b = found[1].best_estimator_.intercept_[0] - w @ scale[1].mean_
    return torch.tensor(w, dtype=torch.float32), float(b)
