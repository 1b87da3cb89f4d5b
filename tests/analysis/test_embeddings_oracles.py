"""The embedding space against independent computations, and what must not pass for a finding."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.spatial import procrustes
from scipy.stats import binom, spearmanr
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import steerlens as sl
from steerlens.analysis.embeddings import (
    Embedding,
    analogies,
    compare_embeddings,
    components,
    embedding,
    lexicon_alignment,
    neighbours,
    probe,
    word_similarity,
)  # fmt: skip
from steerlens.analysis.embeddings.compare import hsic
from steerlens.analysis.embeddings.probe import stem
from steerlens.maths.ridge import PENALTIES, predict_by_ridge, standardise
from steerlens.values.readout import Readout
from steerlens.values.steer import Steer, zero_steer
from tests.analysis.make import made


def on_random_words(n: int, d: int, seed: int = 0) -> Readout:
    emb = made(n, d, seed)
    return Readout(emb.vectors.mT.contiguous(), torch.zeros(n), emb.words)


def test_causal_vectors_are_white_and_plain_ones_are_not():
    on = sl.readout(sl.load_model("toy-64"))
    every = Readout(
        on.W_U[:, on.word_ids], on.b_U[on.word_ids], tuple(f"w{i}" for i in range(len(on.word_ids)))
    )
    words = embedding(
        every.__class__(every.W_U, every.b_U, made(every.d_vocab, 1).words), inner="causal"
    ).vectors
    covariance = torch.cov(words.mT.double(), correction=0)
    assert (covariance - torch.eye(64)).abs().max() < 1e-2
    assert torch.linalg.cond(torch.cov(every.W_U.double())) > 20


@pytest.mark.parametrize("method", ["add", "mul"])
def test_analogies_are_those_of_a_plain_loop(method):
    emb = made(40, 6)
    random = np.random.default_rng(0)
    questions = [tuple(emb.words[i] for i in random.permutation(40)[:4]) for _ in range(60)]
    x = emb.vectors.numpy() / np.linalg.norm(emb.vectors.numpy(), axis=1, keepdims=True)

    def cos(one: str, other: str, shift: bool = method == "mul") -> float:
        value = x[emb.place[one]] @ x[emb.place[other]]
        return (value + 1) / 2 if shift else value

    def score(w: str, a: str, b: str, c: str) -> float:
        return (
            cos(w, b) - cos(w, a) + cos(w, c)
            if method == "add"
            else cos(w, b) * cos(w, c) / (cos(w, a) + 1e-3)
        )

    ranks, near = [], []
    for a, b, c, d in questions:
        others = [w for w in emb.words if w not in (a, b, c)]
        ranks.append(1 + sum(score(w, a, b, c) > score(d, a, b, c) for w in others))
        near.append(max(others, key=lambda w: cos(w, c)) == d)
    row = analogies(emb, questions, method=method).table.iloc[0]
    assert row.reciprocal_rank == pytest.approx(np.mean(1 / np.array(ranks)))
    assert row.accuracy == pytest.approx(
        np.mean(np.array(ranks) == 1)
    ) and row.only_c == pytest.approx(np.mean(near))
    assert row.chance == 1 / 37


@pytest.mark.parametrize("vectors", [torch.zeros(10, 4), torch.ones(10, 4)])
def test_an_embedding_that_collapsed_answers_nothing(vectors: torch.Tensor):
    table = analogies(Embedding(tuple("abcdefghij"), vectors), [("a", "b", "c", "d")] * 3).table
    assert table.accuracy.tolist() == [0, 0] and table.kept.tolist() == [3, 3]


def test_a_question_that_holds_its_answer_is_left_out():
    table = analogies(
        made(10, 4), [(*made(10, 4).words[:3], made(10, 4).words[k]) for k in (0, 1, 2, 3)]
    ).table
    assert table.kept.tolist() == [1, 1] and table.asked.tolist() == [4, 4]


def test_what_is_near_to_c_is_seen_without_arithmetic():
    """Pairs that lie close together, in no common direction: analogies are "solved" by nearness
    alone."""
    x = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    emb = Embedding(
        tuple(f"{side}{i}" for side in "lr" for i in range(50)),
        torch.cat([x, x + 0.1 * torch.randn(50, 20, generator=torch.Generator().manual_seed(1))]),
    )
    row = analogies(
        emb, [(f"l{i}", f"r{i}", f"l{i + 1}", f"r{i + 1}") for i in range(49)]
    ).table.iloc[0]
    assert row.accuracy == 1 and row.only_c == 1


def test_similarity_is_scipys_on_noisy_judgements():
    emb = made(40, 6)
    random = np.random.default_rng(1)
    pairs = [(emb.words[i], emb.words[i + 1], float(random.normal())) for i in range(39)]
    cosine = [
        float(torch.cosine_similarity(emb.vectors[i], emb.vectors[i + 1], dim=0)) for i in range(39)
    ]
    row = word_similarity(emb, pairs).table.iloc[0]
    assert row.correlation == pytest.approx(spearmanr(cosine, [s for *_, s in pairs]).statistic)
    assert row.low < 0 < row.high and row.pairs == row.asked == 39


def test_hsic_is_the_sum_over_kernels_and_does_not_see_the_origin():
    X, Y = made(30, 4).vectors.double(), made(30, 7, seed=1).vectors.double()
    K, L = X @ X.mT, Y @ Y.mT
    K.fill_diagonal_(0), L.fill_diagonal_(0)
    n = 30
    brute = (
        (K @ L).trace() + K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 * (K @ L).sum() / (n - 2)
    ) / (n * (n - 3))
    torch.testing.assert_close(hsic(X, Y), brute)
    torch.testing.assert_close(hsic(X + 3, Y - 2), brute)


def test_noise_is_not_alike_where_dimensions_are_many():
    values = []
    for seed in range(0, 12, 2):
        one, other = made(60, 50, seed), made(60, 50, seed + 1)
        values.append(compare_embeddings(one, other, k=5).table.value[0])
    X, Y = (e.vectors - e.vectors.mean(0) for e in (one, other))
    plain = (X.mT @ Y).norm() ** 2 / ((X.mT @ X).norm() * (Y.mT @ Y).norm())
    assert plain > 0.4 and abs(np.mean(values)) < 0.05


def test_distances_are_scipys():
    one, other = made(80, 6), made(80, 6, seed=1)
    mixed = Embedding(
        one.words, one.vectors @ torch.diag(torch.linspace(0.3, 2, 6)) + 0.5 * other.vectors
    )
    found = compare_embeddings(one, mixed, k=5).table.set_index("measure").value
    X, Y = (e.vectors.double().numpy() for e in (one, mixed))
    assert found["procrustes"] == pytest.approx(procrustes(X, Y)[2], rel=1e-6)
    wide, noisy = made(200, 30), made(200, 30, seed=1)
    partly = Embedding(wide.words, wide.vectors + 0.7 * noisy.vectors)
    left, right = (
        np.linalg.svd(e.vectors.double().numpy() - e.vectors.double().numpy().mean(0))[0][:, :10]
        for e in (wide, partly)
    )
    value = compare_embeddings(wide, partly).table.set_index("measure").value["subspace"]
    assert value == pytest.approx(np.mean(np.cos(subspace_angles(left, right)) ** 2), rel=1e-6)


def test_words_of_one_side_alone_are_said():
    emb = made(30, 5)
    part = Embedding((*emb.words[:20], "other"), emb.vectors[:21])
    found = compare_embeddings(emb, part, k=3)
    assert set(found.dropped) == {*emb.words[20:], "other"} and len(found.words) == 20
    assert "20 words in common, 11 in one" in found._repr_html_()


FAMILIES = (
    "love loved loves loving lovely lover", "happy happier happiest happily happiness", "hope hopes hopeful hopeless",
    "terrible terribly", "beauty beautiful beautifully", "wonder wonders wonderful wonderfully", "stop stops stopped stopping",
    "disappoint disappointed disappointing disappointment", "fly flies", "enjoy enjoyed enjoyable enjoyment", "bad badly",
)  # fmt: skip


def test_a_family_of_words_has_one_stem():
    stems = [{stem(word) for word in family.split()} for family in FAMILIES]
    assert all(len(of) == 1 for of in stems)
    assert len(set.union(*stems)) == len(FAMILIES)  # and not all the same


@pytest.mark.parametrize("method", ["pca", "ica"])
def test_components_of_noise_are_at_chance(method):
    noise = components(made(600, 60), n=4, method=method).table
    assert (noise.stability.mean() - noise.chance[0]) < 0.12 and (
        noise.stability < noise.chance + 0.25
    ).all()
    sources = np.random.default_rng(0).laplace(size=(600, 60)) * np.array(
        [9.0, 7, 5, 4] + [1.0] * 56
    )
    there = components(
        Embedding(made(600, 1).words, torch.tensor(sources).float()), n=4, method=method
    ).table
    assert (there.stability > 0.9).all() and (there.chance < 0.8).all()


def test_chance_of_an_axis_is_its_share_of_the_dimensions():
    many = [components(made(400, 40, seed), n=4, repeats=2).table for seed in range(8)]
    assert np.mean([table.stability.mean() for table in many]) == pytest.approx(0.1, abs=0.03)
    assert many[0].chance.tolist() == [0.1] * 4


def test_labels_leak_through_families_unless_they_are_kept_together():
    """A label that is random by family, vectors that know the family alone."""
    random = torch.Generator().manual_seed(0)
    families = [f"{word[:-1]}{ending}" for word in made(40, 1).words for ending in ("p", "t", "g")]
    centre = torch.randn(40, 30, generator=random).repeat_interleave(3, 0)
    emb = Embedding(tuple(families), centre + 0.2 * torch.randn(120, 30, generator=random))
    up = np.random.default_rng(0).permutation(40) % 2
    labels = {word: ("up", "down")[int(up[i // 3])] for i, word in enumerate(families)}
    apart, together = (
        probe(emb, labels, groups=by, repeats=1, controls=1).table.iloc[0]
        for by in ({w: w for w in families}, {w: w[:-1] for w in families})
    )
    assert apart.score > 0.75 and apart.auc > 0.8 and apart.groups == 120
    assert abs(together.score - 0.5) < 0.2 and together.groups == 40


def test_two_classes_have_an_area_and_numbers_have_none():
    emb = made(200, 8)
    noisy = emb.vectors[:, 0] + 0.5 * emb.vectors[:, 1].roll(7)
    two = probe(
        emb, {w: bool(v > 0) for w, v in zip(emb.words, noisy, strict=True)}, repeats=2, controls=2
    ).table.iloc[0]
    assert two.classes == 2 and two.score < two.auc < 1 and two.auc > 0.85
    number = probe(
        emb, {w: float(v) for w, v in zip(emb.words, noisy, strict=True)}, repeats=2, controls=2
    ).table.iloc[0]
    assert number.classes == 0 and np.isnan(number.auc) and number.spearman > 0.7


def test_one_word_counts_once():
    emb = made(60, 5)
    y = {w: float(v[0]) for w, v in zip(emb.words, emb.vectors, strict=True)}
    once, twice = (
        probe(emb, labels, repeats=1, controls=1).table
        for labels in (y, {**y, **{w.upper(): v for w, v in y.items()}})
    )
    assert twice.equals(once) and once.words[0] == 60
    with pytest.raises(ValueError, match="labels: .* two spellings"):
        probe(emb, {**y, emb.words[0].upper(): 9.0})
    assert len(neighbours(emb, [emb.words[0], emb.words[0].upper()], n=2).table) == 2


def by_chance(hits: list[bool], share: float) -> bool:
    """Say whether so many hits come about in 99 of 100 cases, if each has this chance."""
    low, high = binom.interval(0.99, len(hits), share)
    return bool(low <= sum(hits) <= high)


def test_random_lexicons_have_even_chances():
    """Whatever is called a p, of embeddings with long axes that the steer writes along or not."""
    on = on_random_words(40, 12)
    on = Readout(on.W_U * torch.tensor([4.0, 3.0, 2.0] + [1.0] * 9)[:, None], on.b_U, on.tokens)
    steer = Steer(torch.outer(torch.ones(12), torch.eye(12)[0] + torch.eye(12)[5]), on)
    random = np.random.default_rng(0)
    lexicons = [
        dict(zip(on.tokens, scores.tolist(), strict=True))
        for scores in random.normal(size=(250, 40))
    ]
    found = [
        lexicon_alignment(steer, lexicon, rank=1, seed=i).table
        for i, lexicon in enumerate(lexicons)
    ]
    chances = [name for name in found[0].columns if name.startswith("p")]
    assert chances == ["p_shuffled"]
    for name in chances:
        p = [table[name][0] for table in found]
        assert all(by_chance([x <= level for x in p], level) for level in (0.05, 0.25, 0.5, 0.9))


@pytest.mark.parametrize("task", ["number", "classes"])
def test_random_labellings_score_within_the_range_of_chance(task: str):
    """One group a word, so that the range is exact."""
    emb = made(30, 4)
    random = np.random.default_rng(1)
    each = {word: word for word in emb.words}
    inside, low = [], []
    for seed in range(200 if task == "number" else 60):
        y = random.normal(size=30) if task == "number" else random.permutation(30) % 2 == 0
        row = probe(
            emb,
            dict(zip(emb.words, y.tolist(), strict=True)),
            groups=each,
            repeats=1,
            folds=3,
            seed=seed,
        )
        row = row.table.iloc[0]
        inside.append(row.control_low <= row.score <= row.control_high)
        low.append(row.p <= 0.1)
        assert row.control_low <= row.control <= row.control_high
    assert by_chance(inside, 0.95)
    # balanced accuracies of 30 words often tie, which counts against the labelling
    assert by_chance(low, 0.1) if task == "number" else sum(low) <= binom.isf(0.005, len(low), 0.1)


def test_random_labels_of_families_score_within_the_range_of_chance():
    """Families of two with one label and with two: the controls are made as the labels are."""
    centre = made(20, 4).vectors.repeat_interleave(2, 0)
    emb = Embedding(made(40, 4).words, centre + 0.3 * made(40, 4, seed=1).vectors)
    pairs = {word: str(i // 2) for i, word in enumerate(emb.words)}
    random = np.random.default_rng(2)
    for n, size in ((20, 2), (40, 1)):
        inside = []
        for seed in range(80):
            y = dict(zip(emb.words, random.normal(size=n).repeat(size).tolist(), strict=True))
            row = probe(emb, y, groups=pairs, repeats=1, folds=3, seed=seed).table.iloc[0]
            inside.append(row.control_low <= row.score <= row.control_high)
        assert by_chance(inside, 0.95)


@pytest.mark.parametrize(("n", "d"), [(60, 6), (40, 70)])
def test_the_probes_ridge_is_scikit_learns(n: int, d: int):
    X, more = made(n, d).vectors.double().numpy(), made(15, d, seed=1).vectors.double().numpy()
    random = np.random.default_rng(0)
    Y = X[:, :2] + random.normal(size=(n, 2)) * (0.3, 3)
    train, test = standardise(X, more)
    theirs = make_pipeline(StandardScaler(), RidgeCV(alphas=PENALTIES, alpha_per_target=True)).fit(
        X, Y
    )
    np.testing.assert_allclose(
        predict_by_ridge(train, Y, np.ones(n), test, True), theirs.predict(more), atol=1e-8
    )
    code = random.choice(3, n, p=(0.6, 0.3, 0.1))
    weights = n / (3 * np.bincount(code))[code]
    classes = make_pipeline(
        StandardScaler(), RidgeClassifierCV(alphas=PENALTIES, class_weight="balanced")
    )
    mine = predict_by_ridge(train, 2.0 * (code[:, None] == np.arange(3)) - 1, weights, test, False)
    np.testing.assert_allclose(mine, classes.fit(X, code).decision_function(more), atol=1e-8)


def test_a_long_axis_is_no_lexicon():
    """Embeddings with one long axis, a steer that writes along it, scores at random: only shuffling
    tells."""
    on = on_random_words(200, 24)
    on = Readout(on.W_U * torch.tensor([30.0] + [1.0] * 23)[:, None], on.b_U, on.tokens)
    along = Steer(torch.outer(torch.ones(24), torch.eye(24)[0]), on)
    random = np.random.default_rng(3)
    nothing = lexicon_alignment(
        along, {w: float(random.normal()) for w in on.tokens}, rank=1
    ).table.iloc[0]
    assert nothing.p_shuffled > 0.05
    even = on_random_words(200, 24)
    steer = Steer(torch.outer(torch.ones(24), torch.eye(24)[1]), even)
    there = lexicon_alignment(
        steer, {w: float(v) for w, v in zip(even.tokens, even.W_U[1], strict=True)}, rank=1
    )
    assert there.table.p_shuffled[0] < 0.01 and abs(there.table.spearman[0]) > 0.99


def test_directions_that_a_steer_does_not_have_say_nothing():
    on = on_random_words(50, 6)
    lexicon = {w: float(i) for i, w in enumerate(on.tokens)}
    one = lexicon_alignment(
        Steer(torch.outer(torch.ones(6), torch.arange(6.0)), on), lexicon, rank=3
    ).table
    assert one.cosine.notna().tolist() == [True, False, False]
    assert (
        lexicon_alignment(zero_steer(on), lexicon, rank=2)
        .table[["cosine", "p_shuffled", "spearman"]]
        .isna()
        .all(None)
    )


def test_what_is_shown_is_escaped():
    emb = Embedding(("<b>", "c", "d"), torch.randn(3, 2))
    shown = neighbours(emb, ["c", "<script>"], n=2)._repr_html_()
    assert "&lt;b&gt;" in shown and "<b>" not in shown and "<script>" not in shown


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: neighbours(e, [e.words[0]], n=0), "n: got 0"),
        (lambda e: analogies(e, {"all": [e.words[:4]]}), "named 'all'"),
        (lambda e: word_similarity(e, [(*e.words[:2], 1.0)] * 6), "every judgement"),
        (
            lambda e: word_similarity(e, [(e.words[0], e.words[i], np.nan) for i in range(9)]),
            "nan as a judgement",
        ),
        (lambda e: components(e, n=2, tokens=0), "tokens: got 0"),
        (
            lambda e: components(Embedding(e.words, e.vectors[:, :1].expand(-1, 3)), n=2),
            "in 1 directions only",
        ),
        (lambda e: components(Embedding(e.words, torch.ones(50, 3)), n=1), "in 0 directions only"),
        (lambda e: compare_embeddings(e, e, k=0), "k: got 0"),
        (
            lambda e: compare_embeddings(e, Embedding(e.words, torch.ones(50, 3))),
            "b: the vectors .* all the same",
        ),
        (lambda e: Embedding(("Good", "good"), torch.ones(2, 2)), "1 different up to case"),
        (lambda e: Embedding(("good",), torch.full((1, 2), torch.nan)), "'good' is not finite"),
        (
            lambda e: probe(e, dict.fromkeys(e.words, 1.0), folds=1),
            "folds, repeats, controls: got 1",
        ),
        (lambda e: probe(e, {w: float("nan") for w in e.words}), "labels: got nan"),
        (
            lambda e: probe(e, {w: "rare" if w == e.words[0] else "x" for w in e.words}),
            "class 'rare' are of one group",
        ),
    ],
)
def test_what_cannot_be_done_is_said(call, message: str):
    with pytest.raises(ValueError, match=message):
        call(made(50, 6))


def test_what_the_types_forbid_is_said_to_those_who_run_unchecked(unchecked: None):
    emb = made(50, 6)
    with pytest.raises(ValueError, match="float and str"):
        probe(emb, {w: "x" if i % 2 else 1.0 for i, w in enumerate(emb.words)})
    with pytest.raises(ValueError, match="NoneType"):
        probe(emb, {w: None if i % 2 else "x" for i, w in enumerate(emb.words)})
    with pytest.raises(ValueError, match="expected four words"):
        analogies(emb, [emb.words[:3]])
    with pytest.raises(ValueError, match="expected .word, word, judgement"):
        word_similarity(emb, [emb.words[:2]])


@pytest.mark.parametrize(
    ("scores", "message"),
    [(float("nan"), "has the score nan"), (1.0, "every word has the score 1")],
)
def test_a_lexicon_without_scores_is_refused(scores: float, message: str):
    on = on_random_words(30, 6)
    with pytest.raises(ValueError, match=message):
        lexicon_alignment(Steer(torch.eye(6), on), dict.fromkeys(on.tokens, scores))
