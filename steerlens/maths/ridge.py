"""Ridge regression whose penalty has the least leave-one-out error, of many targets at once."""

import numpy as np
from jaxtyping import Float

PENALTIES = np.logspace(-1, 6, 15)
"""Those that are tried, `ρ`."""


def standardise(
    train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "m k"]]:
    """Return both in units of the training rows' spread, around their mean.

    Of more dimensions than training rows, those that these span.
    """
    mean, sd = train.mean(0), train.std(0)
    sd[sd <= 1e-12 * (1 + np.abs(mean))] = 1
    train, test = (train - mean) / sd, (test - mean) / sd
    # ridge coefficients lie in that span, so predictions are the same
    if train.shape[1] > len(train):
        basis = np.linalg.qr(train.T)[0]
        train, test = train @ basis, test @ basis
    return train, test


def predict_by_ridge(
    X: Float[np.ndarray, "n d"],
    Y: Float[np.ndarray, "n k"],
    weights: Float[np.ndarray, " n"],
    test: Float[np.ndarray, "m d"],
    apart: bool,
) -> Float[np.ndarray, "m k"]:
    """Predict by weighted ridge regression, the penalty of least leave-one-out error.

        minimise  Σ_i w_i ‖y_i − b − x_i M‖² + ρ ‖M‖²        error_i = (y_i − ŷ_i) / (1 − leverage_i)

    One decomposition serves all penalties and targets, so that relabellings of numbers cost next to
    nothing; scikit-learn's `RidgeCV` and `RidgeClassifierCV` give the same predictions.

    Args:
        apart: whether each target has a penalty of its own.
    """
    share, root = weights / weights.sum(), np.sqrt(weights)[:, None]
    middle, level = share @ X, share @ Y
    Xw, Yw = root * (X - middle), root * (Y - level)
    values, V = np.linalg.eigh(Xw.T @ Xw)
    Z = Xw @ V
    across = Z.T @ Yw
    shrunk = 1 / (values.clip(0) + PENALTIES[:, None])
    left = 1 - share[:, None] - Z**2 @ shrunk.T  # 1 − leverage, by penalty; the mean is fitted, too
    errors = (((Yw - Z @ (shrunk[:, :, None] * across)) / left.T[:, :, None]) ** 2).mean(1)
    best = errors.argmin(0) if apart else np.full(Y.shape[1], errors.mean(1).argmin())
    return level + (test - middle) @ V @ (shrunk[best].T * across)
