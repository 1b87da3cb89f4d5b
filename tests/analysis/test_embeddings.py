"""The embedding space: planted structure is found, shuffled structure is not, and the toy lexicon
is known."""

import numpy as np
import pytest
import torch

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
from steerlens.analysis.embeddings.probe import stem
from steerlens.values.metric import Metric
from steerlens.values.readout import Readout
from steerlens.values.steer import Steer
from tests.analysis.make import made


@pytest.fixture(scope="module")
def grades() -> dict[str, float]:
    classes = [c for c in sl.toy.grammar.classes if c.factor == "sentiment"]
    return {w: float(g) for c in classes for w, g in zip(c.words, c.levels, strict=True)}


def test_rows_are_the_models_own(model):
    on = sl.readout(model)
    out, into = embedding(model), embedding(model, "W_E")
    i = on.tokens.index("good")
    torch.testing.assert_close(out.vectors[out.place["good"]], on.W_U[:, i])
    torch.testing.assert_close(into.vectors[into.place["good"]], model.W_E[i])
    torch.testing.assert_close(embedding(on).vectors, out.vectors)
    assert "<|endoftext|>" not in out.place and "." not in out.place


def test_a_plain_model_of_hugging_face_has_the_same_rows():
    name = "toy-96-llama"  # whose embeddings are not tied
    model, plain = sl.load_model(name), sl.load_model(name, plain=True)
    for which in ("W_U", "W_E"):
        found, same = embedding(plain, which), embedding(model, which)
        assert found.words == same.words
        torch.testing.assert_close(found.vectors, same.vectors)
    assert not torch.allclose(embedding(plain, "W_E").vectors, embedding(plain, "W_U").vectors)


def test_the_causal_inner_product_does_not_see_the_basis(model):
    on = sl.readout(model)
    A = torch.eye(64) + 0.1 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    other = Readout((A @ on.W_U) + 3.0, on.b_U, on.tokens, on.special)

    def cosines(r: Readout, inner) -> torch.Tensor:
        unit = embedding(r, inner=inner).unit[:300]
        return unit @ unit.mT

    assert (cosines(on, "causal") - cosines(other, "causal")).abs().max() < 2e-2
    assert (cosines(on, "plain") - cosines(other, "plain")).abs().max() > 0.3


def test_neighbours_are_those_of_every_pair():
    emb = made(60, 5)
    table = neighbours(emb, [emb.words[3], "nowhere"], n=4)
    x = emb.vectors
    cosine = [
        float(torch.cosine_similarity(x[3], x[i], dim=0)) if i != 3 else -2 for i in range(60)
    ]
    best = np.argsort(cosine)[::-1][:4]
    assert table.table.neighbour.tolist() == [emb.words[i] for i in best]
    assert table.dropped == ("nowhere",) and "nowhere" in table._repr_html_()


@pytest.mark.parametrize("method", ["add", "mul"])
def test_planted_analogies_are_found_and_shuffled_ones_are_not(method):
    random = torch.Generator().manual_seed(0)
    base, shift = torch.randn(100, 20, generator=random), 2 * torch.randn(20, generator=random)
    words = [f"a{i}" for i in range(100)] + [f"b{i}" for i in range(100)]
    emb = Embedding(tuple(words), torch.cat([base, base + shift]))
    right = [(f"a{i}", f"b{i}", f"a{i + 1}", f"b{i + 1}") for i in range(60)]
    wrong = [(a, b, c, f"b{99 - i // 2}") for i, (a, b, c, _) in enumerate(right)]
    table = analogies(
        emb, {"right": right, "wrong": wrong, "none": [("a1", "b1", "x", "y")]}, method=method
    ).table
    accuracy = table.set_index("section").accuracy
    assert accuracy["right"] > (0.9 if method == "add" else 0.5) and accuracy["wrong"] < 0.1
    assert table.kept.tolist() == [60, 60, 0, 120] and table.asked.tolist() == [60, 60, 1, 121]
    assert (table.low[:2] <= table.accuracy[:2]).all() and (
        table.accuracy[:2] <= table.high[:2]
    ).all()


def test_the_question_is_no_answer():
    emb = Embedding(("a", "b", "c", "d"), torch.eye(4))
    assert (
        analogies(emb, [("a", "b", "c", "d")]).table.accuracy[0] == 1
    )  # of four words one is left


def test_independent_axes_are_found_by_ica_and_not_by_pca():
    random = np.random.default_rng(0)
    sources = random.laplace(size=(900, 3)) ** 3
    sources /= sources.std(0)
    mixing = np.array(
        [[1.0, 0, 0, 0, 0, 0], [0.8, 0.6, 0, 0, 0, 0], [0.7, 0.5, 0.5, 0, 0, 0]]
    )  # far from orthogonal
    emb = Embedding(made(900, 1).words, torch.tensor(sources @ mixing).float())

    def recovered(table) -> float:
        """How many of the words farthest out on each source are at the ends of its best
        component."""
        ends = [
            set(top.split(", ")) | set(bottom.split(", "))
            for top, bottom in zip(table.top, table.bottom, strict=True)
        ]
        planted = [
            {emb.words[i] for i in np.argsort(-np.abs(sources[:, k]))[:10]} for k in range(3)
        ]
        return np.mean([max(len(p & end) for end in ends) / 10 for p in planted])

    ica = components(emb, n=3, method="ica", tokens=10).table
    assert recovered(ica) > 0.95 and (ica.stability > 0.85).all() and ica.converged.all()
    assert recovered(components(emb, n=3, tokens=10).table) < 0.95


def test_pca_shares_and_stability():
    strong = made(400, 8).vectors * torch.tensor([9.0, 5, 1, 1, 1, 1, 1, 1])
    table = components(Embedding(made(400, 8).words, strong), n=4).table
    assert table.share[0] == pytest.approx(81 / 112, abs=0.05)
    assert (table.stability[:2] > 0.98).all() and (table.stability[2:] < 0.9).all()
    noise = components(made(400, 40), n=4, method="ica").table
    assert noise.stability.min() < 0.9  # Gaussian noise has no axes to come back to


def test_a_probe_reads_what_is_there_and_its_control_does_not(model, grades: dict):
    emb = made(300, 20)
    y = {w: "up" if v[0] > 0 else "down" for w, v in zip(emb.words, emb.vectors, strict=True)}
    there = probe(emb, y, groups={w: w for w in emb.words}, repeats=2, controls=4).table.iloc[0]
    assert (
        there.score > 0.85
        and abs(there.control - 0.5) < 0.1
        and there.control_high < there.score
        and there.p == 0.2
    )
    nowhere = {w: "up" if i % 2 else "down" for i, w in enumerate(emb.words)}
    assert abs(probe(emb, nowhere, repeats=2, controls=4).table.selectivity[0]) < 0.15
    toy = probe(embedding(model), grades, repeats=2, controls=4).table.iloc[0]
    assert toy.task == "number" and toy.score > 0.4 > 0.15 > toy.control_high and toy.spearman > 0.6


def test_words_of_one_stem_are_on_one_side():
    assert len({stem(w) for w in ("love", "loved", "loves", "loving", "lovely")}) == 1
    emb = Embedding(tuple(f"{s}{e}" for s in ("bark", "jump", "talk", "walk", "sing", "kick") for e in ("", "s", "ed", "ing")),
                    torch.randn(24, 4, generator=torch.Generator().manual_seed(0)))  # fmt: skip
    assert (
        probe(
            emb, {w: float(i) for i, w in enumerate(emb.words)}, repeats=1, controls=2
        ).table.groups[0]
        == 6
    )


def test_similarity_is_spearmans():
    emb = made(40, 6)
    pairs = [
        (emb.words[i], emb.words[i + 1], float(emb.unit[i] @ emb.unit[i + 1]) ** 3)
        for i in range(0, 38, 2)
    ]
    found = word_similarity(emb, [*pairs, ("x", emb.words[0], 1.0)])
    assert (
        found.table.correlation[0] == pytest.approx(1)
        and found.table.pairs[0] == 19
        and found.dropped == ("x",)
    )
    turned = word_similarity(emb, [(a, b, -s) for a, b, s in pairs]).table
    assert turned.correlation[0] == pytest.approx(-1) and turned.low[0] <= -0.9


def test_a_rotated_copy_is_the_same_and_noise_is_not():
    emb, noise = made(400, 12), made(400, 12, seed=1)
    Q = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(2)))[0]
    same = compare_embeddings(emb, Embedding(emb.words, 3 * emb.vectors @ Q + 5 * Q[0] * 0), k=5)
    assert same.table.value.tolist() == pytest.approx([1, 0, same.table.value[2], 1], abs=1e-4)
    assert same.table.value[2] > 0.9 and same.words.overlap.min() == 1
    other = compare_embeddings(emb, noise, k=5).table.set_index("measure")
    assert (other.value - other.chance).abs().max() < 0.05
    assert (
        other.value["cka"] < 0.1
        and other.value["procrustes"] > 0.7
        and other.value["neighbours"] < 0.05
    )
    bent = compare_embeddings(
        emb, Embedding(emb.words, emb.vectors * torch.linspace(0.2, 3, 12)), k=5
    ).table
    assert 0.05 < bent.value[1] < 0.5 < bent.value[0] < 0.99


def test_a_planted_lexicon_direction_is_found(model, grades: dict):
    on = sl.readout(model)
    emb = embedding(on)
    rows, _ = emb.find(grades)
    y = torch.tensor([grades[emb.words[i]] for i in rows])
    line = (y - y.mean()) @ emb.vectors[rows]
    random = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    planted = Steer(torch.outer(random[0], line / line.norm()) + 0.02 * random, on)
    first = lexicon_alignment(planted, grades).table.iloc[0]
    assert first.cosine > 0.95 and first.p_shuffled < 0.002 and abs(first.spearman) > 0.5
    nothing = lexicon_alignment(Steer(random, on), grades).table
    assert nothing.cosine.max() < 0.45 and nothing.p_shuffled.min() > 1e-3
    A = torch.randn(64, 90, generator=torch.Generator().manual_seed(1)).double()
    metric = Metric(A @ A.T, A @ A.T, damping=0.0)
    natural = lexicon_alignment(planted, grades, metric=metric, rank=64).table
    assert (natural.cosine**2).sum() == pytest.approx(
        1, rel=1e-4
    )  # the whole of the direction is in all of them


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: neighbours(e, ["nowhere"]), "words: 0 of them.*nowhere"),
        (lambda e: analogies(e, [("p", "q", "r", "s")]), "questions: 0"),
        (lambda e: word_similarity(e, [(e.words[0], e.words[1], 1.0)]), "pairs: 1"),
        (lambda e: probe(e, {e.words[0]: "x"}), "labels: 1"),
        (lambda e: probe(e, dict.fromkeys(e.words, "x")), "label 'x'"),
        (
            lambda e: probe(
                e, {w: i % 2 for i, w in enumerate(e.words)}, groups=dict.fromkeys(e.words, "g")
            ),
            "groups: got 1",
        ),
        (lambda e: components(e, n=99), "n, repeats"),
        (
            lambda e: compare_embeddings(e, Embedding(("z",), torch.ones(1, 2))),
            "words in common: 0",
        ),
        (lambda e: Embedding(("a", "a"), torch.ones(2, 2)), "each row's word once"),
    ],
)
def test_what_cannot_be_done_is_said(call, message: str):
    with pytest.raises(ValueError, match=message):
        call(made(50, 6))


def test_names_that_do_not_exist(model, unchecked: None):
    with pytest.raises(ValueError, match="'W_X'"):
        embedding(model, "W_X")
    with pytest.raises(ValueError, match="Readout has no input"):
        embedding(sl.readout(model), "W_E")
    with pytest.raises(ValueError, match="method"):
        analogies(made(10, 2), [], method="div")
    with pytest.raises(ValueError, match="method"):
        components(made(50, 6), method="lda")
    steer = Steer(torch.eye(64), sl.readout(model))
    with pytest.raises(ValueError, match="lexicon: 0"):
        lexicon_alignment(steer, {"xyzzy": 1.0})
    with pytest.raises(ValueError, match="every word has the score"):
        lexicon_alignment(steer, dict.fromkeys(embedding(model).words[:30], 1.0))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_longer_tail_of_a_component_is_its_top(sign: float) -> None:
    vectors = 0.1 * torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    vectors[7, 0] = 10.0
    words = tuple(f"w{k}" for k in range(60))
    first = components(Embedding(words, sign * vectors), n=2).table.iloc[0]
    assert first.top.split(", ")[0] == "w7" and "w7" not in first.bottom
