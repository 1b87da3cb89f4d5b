"""Trajectories: states where they should be, planted clusters and walks found, and nothing found
where nothing is."""

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score
from torch import Tensor
from torch.testing import assert_close

import steerlens as sl
from steerlens.analysis.trajectories import (
    Trajectories,
    cluster_report,
    clusters,
    project,
    step_statistics,
    trajectories,
    write,
)
from steerlens.toy.tasks import TASKS, task
from tests.models.zoo import hook_count

D, N, NEW = 12, 12, 14


def made(
    *,
    texts: int = 12,
    tasks: int = 2,
    apart: float = 0.0,
    kind: str = "still",
    shortest: int = 12,
    seed: int = 0,
) -> Trajectories:
    """Texts of different lengths: about a place of their task, or random walks from there."""
    g = torch.Generator().manual_seed(seed)
    n = texts * tasks
    lengths = torch.randint(shortest, shortest + 9, (n,), generator=g)
    task_of = torch.arange(n) % tasks
    centres = apart * torch.eye(D)[:tasks]
    ways = [torch.randn(int(length), D, generator=g) for length in lengths]
    if kind == "walk":
        ways = [way.cumsum(0) for way in ways]
    found = torch.cat([way + centres[t] for way, t in zip(ways, task_of, strict=True)])
    names = tuple("abc"[:tasks])
    return Trajectories(
        found, torch.arange(n).repeat_interleave(lengths), task_of, names, ("x",) * n, "made"
    )


def relabelled(found: Trajectories, order: Tensor) -> Trajectories:
    return Trajectories(
        found.states, found.text, found.task[order], found.names, found.texts, found.site
    )


def row(table: pd.DataFrame, **where: Any) -> pd.Series:
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


@pytest.fixture(scope="module")
def small() -> Any:
    return sl.load_model("toy-tasks")


@pytest.fixture(scope="module")
def data() -> dict[str, sl.Labelled]:
    return {name: task(name, N, seed=11) for name in TASKS}


@pytest.fixture(scope="module")
def written(small, data) -> dict[str, sl.Labelled]:
    return write(small, data, max_new_tokens=NEW, seed=0)


# states


def test_states_are_those_of_one_whole_pass_at_the_written_positions(small, data):
    found = trajectories(small, data, layer=1, generated=False)
    assert found.site == "blocks.1.hook_resid_post" and found.names == TASKS
    rows = [
        (p, t) for name in TASKS for p, t in zip(data[name].prompts, data[name].texts, strict=True)
    ]
    for i in (0, 7, 25, 35):
        prompt, text = rows[i]
        _, cache = small.run_with_cache(f"{prompt} {text}")
        n = len(text.split())
        own = found.states[found.text == i]
        assert len(own) == n and found.texts[i] == f"{prompt} {text}"
        assert_close(own, cache["blocks.1.hook_resid_post"][0, -n:], rtol=1e-4, atol=1e-5)
    assert found.task.tolist() == [0] * N + [1] * N + [2] * N


def test_the_model_writes_first_and_the_states_are_along_that(small, data, written):
    found = trajectories(small, data, layer=0, max_new_tokens=NEW, seed=0)
    along = trajectories(small, written, layer=0, generated=False)
    assert found.texts == along.texts
    assert_close(found.states, along.states)
    said = sl.generate(small, list(data["arithmetic"].prompts), max_new_tokens=NEW, seed=0)
    assert [t for t, k in zip(found.texts, found.task, strict=True) if k == 2] == (
        said.prompt + said.text
    ).tolist()
    prompts = {"reviews": list(data["reviews"].prompts)}
    same, other = (
        trajectories(small, prompts, layer=0, max_new_tokens=NEW, seed=seed).texts
        for seed in (0, 1)
    )
    assert same == found.of(["reviews"]).texts != other
    assert int(found.lengths.max()) == NEW


def test_what_goes_on_inside_a_word_is_read_as_it_was_written():
    model, prompts = sl.load_model("toy-96-llama", plain=True), ["the fi", "thank yo"]
    found = trajectories(model, {"reviews": prompts}, layer=0, max_new_tokens=NEW, seed=0)
    said = sl.generate(model, prompts, max_new_tokens=NEW, seed=0)
    assert found.texts == tuple(said.prompt + said.text)
    assert not any(text[0].isspace() for text in said.text)
    heads, wholes = (
        sl.score(model, list(texts), end=False).groupby("text").size()
        for texts in (prompts, found.texts)
    )
    assert found.lengths.tolist() == (wholes - heads).tolist()


def test_no_text_depends_on_its_company_or_its_padding(small, data):
    together = trajectories(small, data, layer=2, generated=False)
    one = {"reviews": sl.Labelled(data["reviews"].texts[3:4], (0.0,), data["reviews"].prompts[3:4])}
    assert_close(
        trajectories(small, one, layer=2, generated=False).states,
        together.states[together.text == 3],
    )
    tasks = [trajectories(small, {t: data[t]}, layer=2, generated=False).states for t in data]
    assert_close(torch.cat(tasks), together.states, rtol=1e-4, atol=1e-5)


def test_layers_differ_and_a_hooks_name_does_as_well(small, data):
    tasks = {"arithmetic": data["arithmetic"]}
    layers = [
        trajectories(small, tasks, layer=layer, generated=False)
        for layer in (0, 1, "blocks.1.hook_resid_pre")
    ]
    assert_close(layers[0].states, layers[2].states)
    assert (layers[0].states - layers[1].states).abs().max() > 0.1


def test_texts_without_prompts_are_read_from_their_beginning(small):
    found = trajectories(small, {"plain": ["it was slow .", "a gem ."]}, layer=0, generated=False)
    assert found.lengths.tolist() == [4, 3]


def test_the_model_is_left_as_it_was(small, data):
    before, hooks = {k: v.clone() for k, v in small.state_dict().items()}, hook_count(small)
    trajectories(small, data, layer=1, max_new_tokens=4)
    assert all(torch.equal(v, before[k]) for k, v in small.state_dict().items())
    assert hook_count(small) == hooks and not small.training


def test_some_tasks_only_and_means_are_what_they_say():
    found = made(tasks=3, apart=3)
    part = found.of(("c", "a"))
    assert part.names == ("c", "a") and len(part.task) == 24
    for i, text in enumerate(torch.nonzero(found.task != 1)[:, 0].tolist()):
        own = found.states[found.text == text]
        assert_close(part.states[part.text == i], own)
        assert_close(part.means[i], own.mean(0))
        assert part.names[part.task[i]] == found.names[found.task[text]]
    assert part.lengths.sum() == len(part.states)


# projections


def test_principal_components_keep_the_variance_and_have_one_sign():
    found = made(apart=4)
    shown = project(found, components=D)
    X = (found.states - found.states.mean(0)).double().numpy()
    assert sum(shown.explained) == pytest.approx(1) and list(shown.explained) == sorted(
        shown.explained, reverse=True
    )
    np.testing.assert_allclose(shown.points @ shown.points.T, X @ X.T, atol=1e-4)
    np.testing.assert_allclose(shown.points.var(0) / X.var(0).sum(), shown.explained, atol=1e-6)
    np.testing.assert_allclose(project(found).points, shown.points[:, :2])
    away = Trajectories(
        found.states + 5, found.text, found.task, found.names, found.texts, found.site
    )
    np.testing.assert_allclose(project(away).points, project(found).points, atol=1e-4)


def test_tsne_is_seeded_and_keeps_far_groups_apart():
    found = made(texts=3, apart=40)
    one, again = (project(found, method="tsne", seed=0) for _ in range(2))
    np.testing.assert_array_equal(one.points, again.points)
    assert one.points.shape == (len(found.states), 2) and one.explained == ()
    labels = found.task[found.text].numpy()
    assert KMeans(2, n_init=4, random_state=0).fit(one.points).labels_.tolist() in (
        labels.tolist(),
        (1 - labels).tolist(),
    )


def test_umap_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(
        ImportError, match='method: "umap" needs the package umap-learn, which is not installed'
    ):
        project(made(), method="umap")


# clusters


@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.parametrize("apart", [0.0, 2.0])
def test_silhouettes_and_rand_indices_are_those_of_scikit_learn(tasks: int, apart: float):
    found = made(tasks=tasks, apart=apart)
    table = cluster_report(found, pairs=False, permutations=2, draws=2, seed=4)
    label, of_text = found.task[found.text].numpy(), found.task.numpy()
    for points, X, y in (
        ("texts", found.means.numpy(), of_text),
        ("positions", found.states.numpy(), label),
    ):
        mine = table[table.points == points].set_index("measure").value
        assert mine["silhouette"] == pytest.approx(silhouette_score(X, y), abs=1e-6)
        cluster = KMeans(tasks, n_init=10, random_state=4).fit_predict(X)
        assert mine["adjusted Rand"] == pytest.approx(adjusted_rand_score(y, cluster), abs=1e-9)


def test_a_silhouette_of_copies_is_that_of_drawn_texts_by_hand():
    random = np.random.default_rng(0)
    X, text = random.normal(size=(14, 3)), np.repeat(np.arange(6), [1, 2, 3, 4, 2, 2])
    of_text, weight = np.array([0, 0, 1, 1, 1, 0]), np.array([2.0, 1, 0, 3, 0, 0])
    sizes, far = np.bincount(text).astype(float), np.linalg.norm(X[:, None] - X[None], axis=2)
    expected = []
    for i in range(14):
        mean = {}
        for k in (0, 1):
            others = [
                (far[i, j], 1.0 if text[j] == text[i] else weight[text[j]])
                for j in range(14)
                if j != i and of_text[text[j]] == k
            ]
            mean[k] = sum(d * w for d, w in others) / sum(w for _, w in others)
        a, b = mean[of_text[text[i]]], mean[1 - of_text[text[i]]]
        expected.append((b - a) / max(a, b))
    labels, weights = (
        np.stack([of_text] * 40),
        np.stack([weight, np.ones(6)] * 20),
    )  # more than are looked at together
    found = clusters.silhouettes(clusters.distances_to_texts(X, text), text, sizes, labels, weights)
    np.testing.assert_allclose(found[::2], np.average(expected, weights=weight[text]))
    np.testing.assert_allclose(found[1::2], silhouette_score(X, of_text[text]))


def test_planted_clusters_are_found_and_only_the_pairs_that_are_apart():
    near = made(tasks=3, apart=0)
    centres = torch.zeros(3, D)
    centres[2] = 6.0
    far = Trajectories(
        near.states + centres[near.task[near.text]],
        near.text,
        near.task,
        near.names,
        near.texts,
        "made",
    )
    table = cluster_report(far, permutations=99, draws=40, n_init=3, seed=0)
    assert table.tasks.tolist() == [
        name for name in ("all", "a | b", "a | c", "b | c") for _ in range(4)
    ]
    for pair in ("a | c", "b | c"):
        assert (table[table.tasks == pair].p == 1 / 100).all() and (
            table[table.tasks == pair].value > 0.5
        ).all()
    assert (table[table.tasks == "a | b"].value < 0.1).all() and (
        table[table.tasks == "a | b"].p > 0.02
    ).all()
    found = table[table.measure == "silhouette"]
    assert (found.low <= found.value).all() and (found.value <= found.high).all()
    assert found[found.tasks == "a | c"].low.min() > found[found.tasks == "a | c"].null_high.max()
    assert table[table.measure == "adjusted Rand"][["low", "high"]].isna().all(None)


def test_what_was_sure_is_lost_when_whole_texts_change_labels():
    found = made(apart=3, texts=10)
    sure = cluster_report(found, permutations=99, draws=0)
    mixed = relabelled(found, torch.randperm(20, generator=torch.Generator().manual_seed(1)))
    lost = cluster_report(mixed, permutations=99, draws=0)
    assert (sure.p <= 0.01).all() and (lost.p > 0.05).all()
    assert (sure.value - lost.value).min() > 0.2
    assert (sure.null.abs() < 0.05).all()


def test_without_any_difference_p_is_uniform():
    p = []
    for seed in range(25):
        table = cluster_report(
            made(texts=6, shortest=4, seed=seed), permutations=19, draws=0, n_init=1, seed=seed
        )
        p.append(
            [row(table, points=points, measure="silhouette").p for points in ("texts", "positions")]
        )
    for column in np.array(p).T:
        assert 0.33 < column.mean() < 0.7
        assert (column <= 0.1).mean() < 0.3 and (column >= 0.9).mean() < 0.35


def test_labels_of_positions_would_find_what_is_not_there():
    """Positions of a text lie together: were they shuffled one by one, every labelling of texts
    would look sure."""
    g = torch.Generator().manual_seed(0)
    still = made(texts=6)
    moved = Trajectories(
        still.states + 3 * torch.randn(12, D, generator=g)[still.text],
        still.text,
        still.task,
        still.names,
        still.texts,
        "m",
    )
    table = cluster_report(moved, permutations=99, draws=0)
    single = Trajectories(
        moved.states,
        torch.arange(len(moved.text)),
        moved.task[moved.text],
        moved.names,
        ("x",) * len(moved.text),
        "m",
    )
    assert row(table, points="positions", measure="silhouette").p > 0.05
    wrong = cluster_report(single, permutations=99, draws=0)
    assert row(wrong, points="positions", measure="silhouette").p <= 0.02


def test_the_report_repeats_itself_and_size_does_not_matter():
    found = made(apart=1.5)
    large = Trajectories(
        7 * found.states, found.text, found.task, found.names, found.texts, found.site
    )
    one, again, scaled = (
        cluster_report(x, permutations=19, draws=20, seed=2) for x in (found, found, large)
    )
    pd.testing.assert_frame_equal(one, again)
    pd.testing.assert_frame_equal(one, scaled, rtol=1e-4)
    assert not cluster_report(found, permutations=19, draws=20, seed=3)[["low"]].equals(
        one[["low"]]
    )


def test_distant_tasks_lie_apart_on_a_small_model_and_shuffled_ones_do_not(small, written):
    """Reviews and arithmetic share no word; reviews and masked words share a grammar."""
    for layer in (0, 2):
        found = trajectories(small, written, layer=layer, generated=False)
        distant, near = (found.of(("reviews", other)) for other in ("arithmetic", "masked words"))
        mixed = relabelled(
            distant, torch.randperm(2 * N, generator=torch.Generator().manual_seed(0))
        )
        apart, close, lost = (
            row(
                cluster_report(x, permutations=99, draws=20, n_init=1),
                points="texts",
                measure="silhouette",
            )
            for x in (distant, near, mixed)
        )
        assert apart.p == 0.01 and apart.low > 0.3 > close.value
        assert lost.p > 0.05 and lost.value < 0.1


# steps


def test_a_random_walk_diffuses_and_lies_inside_its_own_null():
    table = step_statistics(made(kind="walk", texts=60, tasks=1, shortest=20), walks=50)
    assert row(table, statistic="exponent").value == pytest.approx(1, abs=0.05)
    assert row(table, statistic="cosine").value == pytest.approx(0, abs=0.03)
    for statistic in ("exponent", "cosine", "spread"):
        found = row(table, statistic=statistic)
        assert found.low < found.walk < found.high and found.walk == pytest.approx(
            found.value, rel=0.1, abs=0.03
        )
        assert not found.shuffled_low <= found.value <= found.shuffled_high


def test_states_in_no_order_turn_back_and_stay():
    table = step_statistics(made(kind="still", texts=60, tasks=1, shortest=20), walks=50)
    expected = {"exponent": 0, "cosine": -0.5, "spread": 0.5**0.5, "step": 2**0.5}
    for statistic, value in expected.items():
        found = row(table, statistic=statistic)
        assert found.value == pytest.approx(value, abs=0.04)
        assert found.shuffled == pytest.approx(value, abs=0.04)
    for statistic, value in {"exponent": 1, "cosine": 0}.items():
        assert row(table, statistic=statistic).walk == pytest.approx(value, abs=0.03)


def test_a_straight_line_is_ballistic():
    line = torch.arange(20.0)[:, None] * torch.ones(D)
    found = Trajectories(
        torch.cat([line, line + 1]),
        torch.arange(2).repeat_interleave(20),
        torch.zeros(2, dtype=torch.long),
        ("a",),
        ("x", "y"),
        "s",
    )
    table = step_statistics(found, walks=5).set_index("statistic").value
    assert table.exponent == pytest.approx(2) and table.cosine == pytest.approx(1)


def test_the_numbers_are_those_of_a_loop():
    found, lags = made(kind="walk", texts=5, tasks=2), 4
    table = step_statistics(found, lags=lags, walks=2, draws=5)
    for t, name in enumerate(found.names):
        ways = [
            found.states[found.text == i].double().numpy() for i in range(10) if found.task[i] == t
        ]
        steps = [np.diff(way, axis=0) for way in ways]
        far = np.concatenate([np.linalg.norm(s, axis=1) for s in steps])
        cos = [
            a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            for s in steps
            for a, b in zip(s[1:], s[:-1], strict=True)
        ]
        msd = [
            np.mean(
                [
                    ((way[i + lag] - way[i]) ** 2).sum()
                    for way in ways
                    for i in range(len(way) - lag)
                ]
            )
            for lag in range(1, lags + 1)
        ]
        all_ = np.concatenate(ways)
        about = sum(way.var(axis=0, ddof=1).sum() * len(way) for way in ways) / len(all_)
        expected = {
            "step": far.mean() / np.sqrt(all_.var(axis=0).sum()),
            "spread": np.sqrt(about / np.square(far).mean()),
            "cosine": np.mean(cos),
            "exponent": np.polyfit(np.log(range(1, lags + 1)), np.log(msd), 1)[0],
        }
        mine = table[table.task == name].set_index("statistic").value
        assert dict(mine) == pytest.approx(expected)


def test_nulls_keep_what_they_should():
    found = made(kind="walk", texts=3, tasks=1)
    from steerlens.analysis.trajectories import steps

    h, length = steps.padded_states(found, 0, 10)
    real = np.arange(h.shape[1]) < length[:, None]
    walk, shuffled = (
        null(h, real, np.random.default_rng(0))
        for null in (steps.random_walk, steps.shuffled_states)
    )
    for i, n in enumerate(length):
        own, other = np.diff(h[i, :n], axis=0), np.diff(walk[i, :n], axis=0)
        signs = (own * other).sum(1) / np.square(own).sum(1)
        np.testing.assert_allclose(np.abs(signs), 1)
        np.testing.assert_allclose(other, own * signs[:, None], atol=1e-9)
        assert len(set(signs.round())) == 2
        assert sorted(map(tuple, shuffled[i, :n])) == sorted(map(tuple, h[i, :n]))
        assert not np.array_equal(shuffled[i, :n], h[i, :n])


def test_steps_repeat_themselves_and_neither_place_nor_size_matters():
    found = made(kind="walk")
    moved = Trajectories(
        3 * found.states + 2, found.text, found.task, found.names, found.texts, found.site
    )
    one, again, other = (
        step_statistics(x, walks=5, draws=20, seed=1) for x in (found, found, moved)
    )
    pd.testing.assert_frame_equal(one, again)
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-5)
    assert (
        one.task.tolist() == ["a"] * 4 + ["b"] * 4
        and (one.low <= one.value).all()
        and (one.value <= one.high).all()
    )


def test_short_texts_are_left_out_and_too_few_refused():
    found = made(shortest=4)
    long = int((found.lengths[found.task == 0] >= 10).sum())
    assert (
        row(step_statistics(found, walks=2, draws=2), task="a", statistic="step").texts == long < 12
    )
    with pytest.raises(
        ValueError, match=r"found: 'a' has 0 texts of 32 positions or more, expected at least two"
    ):
        step_statistics(found, lags=30)


# refusals


@pytest.mark.parametrize(
    "change, message",
    [
        ({"texts": ("x",)}, "as many states as text numbers"),
        ({"text": torch.tensor([0, 1, 0])}, r"text: expected 0 … 1"),
        ({"task": torch.tensor([0, 2])}, "expected indices into names"),
        ({"states": torch.tensor([[1.0], [float("nan")], [2.0]])}, "states: some are not finite"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(change: dict, message: str):
    good = {
        "states": torch.zeros(3, 1), "text": torch.tensor([0, 0, 1]), "task": torch.tensor([0, 1]), "names": ("a", "b"),
        "texts": ("x", "y"), "site": "s",
    }  # fmt: skip
    Trajectories(**good)
    with pytest.raises(ValueError, match=message):
        Trajectories(**{**good, **change})


def test_arguments_out_of_range_are_refused(small, data):
    few = {"plain": ["it was slow ."]}
    with pytest.raises(ValueError, match=r"layer: got 3, expected 0 … 2"):
        trajectories(small, few, layer=3)
    with pytest.raises(KeyError, match="has no hook"):
        trajectories(small, few, layer="blocks.0.hook_nothing")
    with pytest.raises(ValueError, match=r"layer: .* expected \[batch, pos, d\]"):
        trajectories(small, few, layer="blocks.0.attn.hook_q", generated=False)
    with pytest.raises(ValueError, match="tasks: got none"):
        trajectories(small, {}, layer=0)
    with pytest.raises(ValueError, match="tasks: 'x' is .* at least one"):
        trajectories(small, {"x": []}, layer=0)
    with pytest.raises(ValueError, match="tasks: 'x' has texts without prompts"):
        trajectories(small, {"x": sl.Labelled(("it was slow .",), (0.0,))}, layer=0)
    with pytest.raises(
        ValueError, match="nothing of a text is left behind its prompt within 256 tokens"
    ):
        trajectories(
            small, {"x": sl.Labelled(("slow .",), (0.0,), ("it " * 300,))}, layer=0, generated=False
        )
    found = made()
    with pytest.raises(ValueError, match='method: got "?.?mds'):
        project(found, method="mds")
    with pytest.raises(ValueError, match=f"components: got 13, expected 1 … {D}"):
        project(found, components=13)
    with pytest.raises(ValueError, match="names: no task 'z'"):
        found.of(("z",))
    with pytest.raises(ValueError, match="expected two tasks or more, two texts of each or more"):
        cluster_report(made(texts=1))
    with pytest.raises(ValueError, match="permutations, draws: got 0 and 500"):
        cluster_report(found, permutations=0)
    with pytest.raises(ValueError, match="lags, walks, draws: got 1, 100 and 500"):
        step_statistics(found, lags=1)
