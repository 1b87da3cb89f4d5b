"""Whether the states of tasks lie apart: silhouettes and clusterings, against shuffled labels of
whole texts."""

from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans

from steerlens.analysis.trajectories.states import Trajectories
from steerlens.maths.numbers import numpy_generator
from steerlens.maths.torch_defaults import torch_defaults

ROWS = 512
TOGETHER = 16
"""Labellings that are looked at together."""


@torch_defaults()
def cluster_report(
    found: Trajectories,
    *,
    pairs: bool = True,
    permutations: int = 999,
    draws: int = 500,
    n_init: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Say whether the states lie by task.

    Silhouette and adjusted Rand index, over the texts' mean states and over all positions.

        silhouette          mean (b − a) / max(a, b)      a: mean distance to the others of its own task, b: to the nearest other
                                                          task; −1 … 1
        adjusted Rand       of k-means with as many clusters as tasks against the tasks; 1 the same, 0 what chance gives

    The null: the labels of whole texts change hands, never those of single positions, which are no
    independent sample. `p = (1 + permutations as large) / (1 + permutations)`. The interval of a
    silhouette: texts are drawn again within each task, and no text is a neighbour of its own
    copies. A clustering of other texts would be another one, so the index has no interval.

    Args:
        found: states of two tasks or more, two texts of each or more.
        pairs: also each pair of tasks by itself.
        permutations: of the labels.
        draws: bootstrap samples behind an interval; 0 for none.
        n_init: starts of k-means.
        seed: of all three.

    Returns:
        One row per set of tasks, kind of point and measure: `tasks` ("all", or a pair "a | b"),
        `points` ("texts" or
        "positions"), `measure` ("silhouette" or "adjusted Rand"), `value`, `low`, `high` (95 %),
        `null` (mean), `null_high` (95 % of permutations stay below), `p`, `texts`.

    Raises:
        ValueError: one task only, a task of less than two texts, no permutations.

    Example:
        >>> import steerlens as sl
        >>> from steerlens.analysis.trajectories import trajectories
        >>> from steerlens.toy.tasks import task
        >>> tasks = {name: task(name, n=10, seed=0) for name in ("reviews", "arithmetic")}
        >>> table = cluster_report(trajectories(sl.load_model("toy-tasks"), tasks, layer=1), pairs=False)
        >>> bool(table.p.max() < 0.01)
        True
    """
    count = torch.bincount(found.task, minlength=len(found.names)).tolist()
    if len(count) < 2 or min(count) < 2:
        raise ValueError(
            f"found: has {dict(zip(found.names, count, strict=True))} texts, expected two tasks or more, "
            "two texts of each or more; give more prompts"
        )
    if permutations < 1 or draws < 0:
        raise ValueError(
            f"permutations, draws: got {permutations} and {draws}, expected at least 1 and at least 0"
        )
    sets = {"all": found}
    if pairs and len(count) > 2:
        sets |= {f"{a} | {b}": found.of((a, b)) for a, b in combinations(found.names, 2)}
    rows = []
    for name, part in sets.items():
        task, k = part.task.numpy(), len(part.names)
        random = numpy_generator(seed)
        # the labels themselves, their permutations, and the labels again for the texts that are
        # drawn
        labels = np.stack(
            [task, *(random.permutation(task) for _ in range(permutations)), *[task] * draws]
        )
        copies = np.ones(labels.shape)
        copies[1 + permutations :] = [_drawn(task, random) for _ in range(draws)] or 1
        for points, X, text in (
            ("texts", part.means.numpy(), np.arange(len(task))),
            ("positions", part.states.numpy(), part.text.numpy()),
        ):
            sizes = np.bincount(text).astype(float)
            value, *others = silhouettes(distances_to_texts(X, text), text, sizes, labels, copies)
            null, again = np.array(others[:permutations]), others[permutations:]
            low, high = np.quantile(again, [0.025, 0.975]) if again else (np.nan, np.nan)
            rows.append(
                (name, points, "silhouette", value, low, high, *_against(value, null), len(task))
            )
            # scikit-learn's own default alone is a word
            means = KMeans(k, n_init=n_init, random_state=seed)  # pyright: ignore[reportArgumentType]
            found_in = means.fit_predict(X)
            table = np.zeros((len(task), k))
            np.add.at(table, (text, found_in), 1)
            value = adjusted_rand(table, task)
            null = np.array([adjusted_rand(table, other) for other in labels[1 : 1 + permutations]])
            rows.append(
                (
                    name,
                    points,
                    "adjusted Rand",
                    value,
                    np.nan,
                    np.nan,
                    *_against(value, null),
                    len(task),
                )
            )
    columns = [
        "tasks",
        "points",
        "measure",
        "value",
        "low",
        "high",
        "null",
        "null_high",
        "p",
        "texts",
    ]
    return pd.DataFrame(rows, columns=columns)


def silhouettes(
    M: Float[np.ndarray, "n n_texts"],
    text: Int[np.ndarray, " n"],
    sizes: Float[np.ndarray, " n_texts"],
    tasks: Int[np.ndarray, "many n_texts"],
    weights: Float[np.ndarray, "many n_texts"],
) -> Float[np.ndarray, " many"]:
    """Return the mean silhouette of points with the labels of their texts, for many labellings.

    `M` holds the sum of the distances of each point to the points of each text: what a permutation
    of the texts' labels needs of all distances. `weights` count copies of a text; a point's own
    text always counts once for it.
    """
    within, found = M[np.arange(len(M)), text][:, None], []
    for start in range(0, len(tasks), TOGETHER):
        task, weight = tasks[start : start + TOGETHER], weights[start : start + TOGETHER]
        member = np.eye(int(tasks.max()) + 1)[task] * weight[..., None]
        total = np.tensordot(M, member, axes=(1, 1))
        count = np.broadcast_to((sizes[:, None] * member).sum(1), total.shape)
        own, copies = task[:, text].T[..., None], weight[:, text].T
        in_own = np.take_along_axis(count, own, 2)[..., 0] + (1 - copies) * sizes[text][:, None] - 1
        a = (np.take_along_axis(total, own, 2)[..., 0] + (1 - copies) * within) / np.maximum(
            in_own, 1
        )
        mean = total / np.maximum(count, 1)
        np.put_along_axis(mean, own, np.inf, 2)
        b = mean.min(axis=2)
        s = np.where(in_own > 0, (b - a) / np.maximum(np.maximum(a, b), 1e-300), 0.0)
        found.append((s * copies).sum(0) / copies.sum(0))
    return np.concatenate(found)


def adjusted_rand(
    table: Float[np.ndarray, "n_texts k"], task: Int[np.ndarray, " n_texts"]
) -> float:
    """Return Hubert and Arabie's index of tasks against clusters.

    It is found from how many points of each text are in each cluster.
    """
    both = np.eye(int(task.max()) + 1)[task].T @ table

    def chosen(count: np.ndarray) -> float:
        return float((count * (count - 1) / 2).sum())

    together, rows, columns = chosen(both), chosen(both.sum(1)), chosen(both.sum(0))
    expected = rows * columns / chosen(both.sum(keepdims=True))
    most = (rows + columns) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def distances_to_texts(
    X: Float[np.ndarray, "n d"], text: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n n_texts"]:
    """Return the sum of each point's distances to the points of each text.

    All distances never exist together.
    """
    points, owner = torch.from_numpy(X).double(), torch.from_numpy(text)
    M = torch.zeros(len(X), int(text.max()) + 1, dtype=torch.float64)
    for start in range(0, len(X), ROWS):
        apart = torch.cdist(
            points[start : start + ROWS], points, compute_mode="donot_use_mm_for_euclid_dist"
        )
        M[start : start + ROWS].index_add_(1, owner, apart)
    return M.numpy()


def _drawn(
    task: Int[np.ndarray, " n_texts"], random: np.random.Generator
) -> Float[np.ndarray, " n_texts"]:
    """Return how often each text is drawn, as many of each task as there are.

    At least two of them differ.
    """
    weight = np.zeros(len(task))
    for t in np.unique(task):
        mine = np.flatnonzero(task == t)
        drawn = random.choice(mine, len(mine))
        while len(mine) > 1 and len(set(drawn)) < 2:
            drawn = random.choice(mine, len(mine))
        np.add.at(weight, drawn, 1)
    return weight


def _against(
    value: float | np.floating, null: Float[np.ndarray, " permutations"]
) -> tuple[float, float, float]:
    """Return the mean and 95 % quantile of the null, and p.

    Values that differ by rounding count as equal.
    """
    p = (1 + (null >= value - 1e-12).sum()) / (1 + len(null))
    return float(null.mean()), float(np.quantile(null, 0.95)), float(p)
