"""How states step along a text: like a random walk, or about one place?"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from steerlens.analysis.trajectories.states import Trajectories
from steerlens.maths.numbers import as_numpy_seed
from steerlens.maths.torch_defaults import torch_defaults

STATISTICS = ("step", "spread", "cosine", "exponent")


@torch_defaults()
def step_statistics(
    found: Trajectories, *, lags: int = 8, walks: int = 100, draws: int = 500, seed: int = 0
) -> pd.DataFrame:
    """Measure how trajectories step, task by task.

    They stand beside random walks of the same steps and beside their own states in any order.

    With states `h_0 … h_m` of a text and steps `s_t = h_{t+1} − h_t`, means over the texts of a
    task:

        step        mean |s| / root mean square distance of the task's states from their mean
        spread      root mean square distance of a text's states from their mean / root mean square of |s|
        cosine      mean cosine of s_t and s_{t+1}
        exponent    slope of log MSD over log lag, MSD(lag) = mean |h_{t+lag} − h_t|², lags 1 … `lags`

    A random walk has cosine 0 and exponent 1 (diffusion), and its spread grows with the root of its
    length; states about one place in no order have cosine −½, exponent 0, spread √½. Two nulls have
    the texts' own lengths and numbers:

    - `walk`: each step of a text forwards or backwards, as a coin says: lengths and directions of
      the steps are kept, and what makes steps go on or turn back is lost. (Steps in another order
      would not do: they end at the same place, so that a trajectory that returns makes walks that
      return.)
    - `shuffled`: the states of a text in another order: where they lie is kept, the way is lost.

    Args:
        found: trajectories; texts of less than `lags + 2` positions are left out.
        lags: the longest.
        walks: samples of each null.
        draws: bootstrap samples of the texts behind an interval.
        seed: of all of these.

    Returns:
        One row per task and statistic: `task`, `statistic`, `value`, `low`, `high` (95 % over
        texts); for each null its mean and
        the ends of 95 % of its samples: `walk`, `walk_low`, `walk_high`, `shuffled`,
        `shuffled_low`, `shuffled_high`; `texts`.

    Raises:
        ValueError: fewer than two lags, no walks or no draws; a task with less than two texts
            that are long enough.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.analysis.trajectories import trajectories
        >>> from steerlens.toy.tasks import task
        >>> sums = {"sums": task("arithmetic", n=10, seed=0)}
        >>> found = trajectories(sl.load_model("toy-tasks"), sums, layer=1, generated=False)
        >>> step_statistics(found).statistic.tolist()
        ['step', 'spread', 'cosine', 'exponent']
    """
    if lags < 2 or walks < 1 or draws < 1:
        raise ValueError(
            f"lags, walks, draws: got {lags}, {walks} and {draws}, expected at least 2, 1 and 1"
        )
    rows = []
    for t, name in enumerate(found.names):
        h, length = padded_states(found, t, lags + 2)
        if len(h) < 2:
            raise ValueError(
                f"found: {name!r} has {len(h)} texts of {lags + 2} positions or more, expected at least two; let the model write "
                "more tokens, or take fewer lags"
            )
        random = np.random.default_rng((as_numpy_seed(seed), t))
        real = np.arange(h.shape[1]) < length[:, None]
        size = float(np.sqrt(np.square(h[real] - h[real].mean(0)).sum(1).mean()))
        sums = _sums(h, length, lags)
        own = _statistics(sums.sum(0), lags, size)
        pick = random.integers(len(h), size=(draws, len(h)))
        again = _statistics(sums[pick].sum(1), lags, size)
        nulls = [
            _statistics(
                np.stack([_sums(null(h, real, random), length, lags).sum(0) for _ in range(walks)]),
                lags,
                size,
            )
            for null in (random_walk, shuffled_states)
        ]
        for k, statistic in enumerate(STATISTICS):
            numbers = [own[k], *np.quantile(again[:, k], [0.025, 0.975])]
            for null in nulls:
                numbers += [null[:, k].mean(), *np.quantile(null[:, k], [0.025, 0.975])]
            rows.append((name, statistic, *map(float, numbers), len(h)))
    ends = [f"{null}{end}" for null in ("walk", "shuffled") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["task", "statistic", "value", "low", "high", *ends, "texts"])


def padded_states(
    found: Trajectories, task: int, shortest: int
) -> tuple[Float[np.ndarray, "texts pos d"], Int[np.ndarray, " texts"]]:
    """Return the long enough texts of a task, zeros behind their ends, and their lengths."""
    keep = np.flatnonzero((found.task == task).numpy() & (found.lengths >= shortest).numpy())
    length = found.lengths.numpy()[keep]
    h = np.zeros((len(keep), int(length.max(initial=shortest)), found.states.shape[1]))
    start = (found.lengths.cumsum(0) - found.lengths).numpy()
    for i, text in enumerate(keep):
        h[i, : length[i]] = found.states[start[text] : start[text] + length[i]].double().numpy()
    return h, length


def _sums(
    h: Float[np.ndarray, "texts pos d"], length: Int[np.ndarray, " texts"], lags: int
) -> Float[np.ndarray, "texts sums"]:
    """Return what the statistics are made of, text by text: each a sum and its count.

    Sums over texts add.
    """
    place = np.arange(h.shape[1])
    real = place < length[:, None]
    s = np.diff(h, axis=1)
    far = np.linalg.norm(s, axis=2)
    cos = (s[:, 1:] * s[:, :-1]).sum(2) / np.maximum(far[:, 1:] * far[:, :-1], 1e-300)
    mean = (h * real[..., None]).sum(1) / length[:, None]
    about = np.square(h - mean[:, None]).sum(2)
    columns = [*_counted(far, real[:, 1:]), *_counted(cos, real[:, 2:])]
    # unbiased, so that states in no order give √½ at any length
    columns += [(about * real).sum(1) * length / (length - 1), length]
    for lag in range(1, lags + 1):
        columns += _counted(np.square(h[:, lag:] - h[:, :-lag]).sum(2), real[:, lag:])
    return np.stack(columns, axis=1).astype(float)


def _counted(
    x: Float[np.ndarray, "texts pos"], real: Bool[np.ndarray, "texts pos"]
) -> list[NDArray]:
    return [(x * real).sum(1), real.sum(1)]


def _statistics(
    sums: Float[np.ndarray, "*draws sums"], lags: int, size: float
) -> Float[np.ndarray, "*draws 4"]:
    """Turn sums over texts into `STATISTICS`."""
    mean = sums[..., ::2] / sums[..., 1::2]
    step, cosine, about, msd = mean[..., 0], mean[..., 1], mean[..., 2], mean[..., 3:]
    x = np.log(np.arange(1, lags + 1))
    x = x - x.mean()
    slope = (np.log(np.maximum(msd, 1e-300)) * x).sum(-1) / np.square(x).sum()
    tiny = 1e-300
    return np.stack(
        [step / max(size, tiny), np.sqrt(about / np.maximum(msd[..., 0], tiny)), cosine, slope],
        axis=-1,
    )


def random_walk(
    h: Float[np.ndarray, "texts pos d"],
    real: Bool[np.ndarray, "texts pos"],
    random: np.random.Generator,
) -> Float[np.ndarray, "texts pos d"]:
    """Return walks of the same steps, each step with a sign of its own."""
    s = np.diff(h, axis=1) * random.choice([-1.0, 1.0], size=real[:, 1:].shape)[..., None]
    return np.concatenate([h[:, :1], h[:, :1] + s.cumsum(1)], axis=1)


def shuffled_states(
    h: Float[np.ndarray, "texts pos d"],
    real: Bool[np.ndarray, "texts pos"],
    random: np.random.Generator,
) -> Float[np.ndarray, "texts pos d"]:
    """Return the same states in another order; what is behind a text's end stays there."""
    order = np.where(real, random.random(real.shape), 2.0).argsort(1)
    return np.take_along_axis(h, order[..., None], 1)
