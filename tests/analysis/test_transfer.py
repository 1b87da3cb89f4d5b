"""Moving steers: what each rule must do exactly where the relation of the two models is planted."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import steerlens as sl
from steerlens.analysis.transfer import align, token_weights, transfer, transfer_report
from steerlens.analysis.transfer.distill import distil, selftrain, shift_match, strengths_of_texts
from steerlens.evaluate.losses import measure, sign_margins
from steerlens.evaluate.matched_kl import kl_at_strength
from steerlens.evaluate.sign_margin import sign_margin
from steerlens.maths.stats import even_weights
from steerlens.values.alignment import Alignment
from steerlens.values.pairs import Pairs
from steerlens.values.readout import Readout
from steerlens.values.rules import READ_TEXT
from steerlens.values.states import Shard, States
from steerlens.values.steer import Steer, zero_steer

D, V, N = 5, 40, 800
RULES_SEEN = ("congruence", "distil", "selftrain")
CLOSED = ("congruence", "similarity", "procrustes", "authors", "paired")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthogonal(seed: int = 0) -> Tensor:
    return torch.linalg.qr(random(D, D, seed=seed).double()).Q.float()


def general(seed: int = 0) -> Tensor:
    """Invertible, with singular values 0.6, …, 2.4: neither orthogonal nor a scale."""
    return orthogonal(seed) @ torch.diag(torch.linspace(0.6, 2.4, D)) @ orthogonal(seed + 1)


def states_of(on: Readout, c: Tensor, seed: int = 3) -> States:
    """Texts of ten positions with next tokens drawn from the model."""
    target = torch.multinomial(
        torch.softmax(on.logits(c), 1), 1, generator=torch.Generator().manual_seed(seed)
    ).squeeze(1)
    n = len(c) // 10
    shard = Shard(c, target.int(), torch.arange(n).repeat_interleave(10).int())
    return States(
        on, (shard,), torch.zeros(n), torch.full((n,), 10), torch.ones(n, dtype=torch.bool)
    )


def world(A: Tensor, *, softcap: float | None = None, seed: int = 0) -> tuple[Steer, Pairs, Tensor]:
    """A steer, the same model in another basis (`e → Ae, c → A⁻ᵀc`, tokens in another order), and
    the steer there."""
    tokens = tuple(f" t{i}" for i in range(V))
    order = torch.randperm(V, generator=torch.Generator().manual_seed(seed))
    src = Readout(
        random(D, V, seed=seed), random(V, seed=seed + 1), tokens, softcap=softcap, model_id="src"
    )
    renamed = tuple(tokens[i] for i in order.tolist())
    tgt = Readout(
        (A @ src.W_U)[:, order].contiguous(),
        src.b_U[order],
        renamed,
        softcap=softcap,
        model_id="tgt",
    )
    c = random(N, D, seed=seed + 2)
    steer = Steer(0.3 * random(D, D, seed=seed + 3), src, "joy")
    pairs = Pairs(
        states_of(src, c),
        states_of(tgt, c @ torch.linalg.inv(A)),
        torch.arange(N).expand(2, N).clone(),
    )
    return steer, pairs, A @ steer.W @ torch.linalg.inv(A)


def moved(rule, steer: Steer, pairs: Pairs) -> Steer:
    return transfer(steer, pairs.tgt.readout, rule=rule, text=pairs if rule in READ_TEXT else None)


def error(steer: Steer, truth: Tensor) -> float:
    return float((steer.W - truth).norm() / truth.norm())


@pytest.mark.parametrize("rule", CLOSED)
def test_a_move_to_the_model_itself_changes_nothing(rule):
    steer, pairs, truth = world(torch.eye(D))
    assert error(moved(rule, steer, pairs), truth) < 1e-5
    assert moved(rule, steer, pairs).name == "joy"


@pytest.mark.parametrize("rule", CLOSED)
@settings(max_examples=15)
@given(seed=st.integers(0, 20))
def test_every_closed_form_is_exact_under_an_orthogonal_change_of_basis(rule, seed: int):
    steer, pairs, truth = world(orthogonal(seed), seed=seed)
    assert error(moved(rule, steer, pairs), truth) < 1e-4
    assert error(steer, truth) > 0.3


@settings(max_examples=15)
@given(seed=st.integers(0, 20))
def test_under_a_general_change_of_basis_only_the_similarity_and_paired_contexts_are_exact(
    seed: int,
):
    steer, pairs, truth = world(general(seed), seed=seed)
    errors = {rule: error(moved(rule, steer, pairs), truth) for rule in CLOSED}
    assert errors["similarity"] < 1e-4 and errors["paired"] < 1e-4
    assert min(errors["congruence"], errors["authors"], errors["procrustes"]) > 0.1


def test_a_pure_scale_is_what_the_authors_normalisation_repairs():
    steer, pairs, truth = world(3 * torch.eye(D))
    assert error(moved("authors", steer, pairs), truth) < 1e-5
    assert error(9 * moved("congruence", steer, pairs), truth) < 1e-5


@pytest.mark.parametrize("softcap", [None, 4.0])
def test_matching_logit_shifts_finds_the_steer_in_any_basis(softcap):
    steer, pairs, truth = world(general(4), softcap=softcap)
    found = distil(steer, pairs)
    assert shift_match(steer, found, pairs) > 0.97
    assert shift_match(steer, Steer(random(D, D, seed=9), pairs.tgt.readout), pairs) < 0.5
    # the unit of the source: the scale of the best match is 1
    assert kl_at_strength(found, pairs.tgt, 1.0) == pytest.approx(
        kl_at_strength(steer, pairs.src, 1.0), rel=0.1
    )
    assert shift_match(steer, Steer(truth, pairs.tgt.readout), pairs) == pytest.approx(1, abs=1e-5)


def test_distil_is_the_minimum_of_its_quadratic():
    steer, pairs, _ = world(general(2))
    found, ridge = distil(steer, pairs), 0.3
    on, metric = (
        pairs.tgt.readout,
        sl.natural_metric(pairs.tgt.sample(16_384, seed=0), damping=1e-2),
    )
    order = torch.tensor([pairs.src.readout.tokens.index(token) for token in on.tokens])
    Ci, Si = metric.C_inverse_root.double(), metric.S_inverse_root.double()
    H, b = torch.zeros(D * D, D * D).double(), torch.zeros(D * D).double()
    for c, c_src in zip(pairs.c_tgt.double(), pairs.c_src.double(), strict=True):
        p = torch.softmax(c @ on.W_U.double() + on.b_U.double(), 0)
        u = ((c_src @ steer.W.double()) @ steer.readout.W_U.double())[order]
        e = on.W_U.double() - (on.W_U.double() @ p)[:, None]
        rows = torch.einsum("i,jv->ijv", c @ Ci, Si @ e).reshape(D * D, V)
        H += (rows * p) @ rows.mT / N
        b += (rows * p) @ (u - p @ u) / N
    V0 = torch.linalg.solve(H + ridge * torch.eye(D * D), b).reshape(D, D)
    W = Ci @ V0 @ Si
    scale = float((found.W.double() * W).sum() / (W * W).sum())
    assert scale >= 1  # the ridge shrinks; the final scale undoes it
    v, v0 = (metric.whiten(x.float()) for x in (found.W / scale, W))
    # within the certified share of the objective: 1/500 of the gap at zero
    gap = 0.5 * float(
        (v - v0).flatten().double() @ (H + ridge * torch.eye(D * D)) @ (v - v0).flatten().double()
    )
    assert gap < 2 * float(b @ b) / (2 * ridge) / 500


def test_there_and_back_is_the_identity_for_the_similarity_even_through_a_larger_model():
    tokens, E = tuple(f" t{i}" for i in range(V)), random(D, V)
    small = Readout(E, torch.zeros(V), tokens, model_id="small")
    large = Readout(random(D + 3, D, seed=1) @ E, torch.zeros(V), tokens, model_id="large")
    steer = Steer(random(D, D, seed=2), small)
    there = transfer(steer, large, rule="similarity", alignment=align(small, large, ridge=0.0))
    back = transfer(there, small, rule="similarity", alignment=align(large, small))
    assert error(back, steer.W) < 1e-4
    assert align(small, large).rank == D and there.W.shape == (D + 3, D + 3)


def test_a_round_trip_proves_little():
    """The paper's rule comes back exactly from a place where it was wrong: its two maps undo each
    other."""
    steer, pairs, truth = world(general(5))
    there = moved("congruence", steer, pairs)
    assert error(there, truth) > 0.1
    assert error(transfer(there, steer.readout), steer.W) < 1e-4


def test_moving_is_linear_for_every_closed_form():
    steer, pairs, _ = world(general(1))
    other = Steer(random(D, D, seed=8), steer.readout, "other")
    for rule in CLOSED:
        both = moved(rule, steer + 2 * other, pairs)
        assert_close(
            both.W,
            moved(rule, steer, pairs).W + 2 * moved(rule, other, pairs).W,
            rtol=1e-4,
            atol=1e-4,
        )


def test_shift_match_is_blind_to_scale_and_not_to_sign():
    steer, pairs, truth = world(orthogonal(3))
    on = pairs.tgt.readout
    assert shift_match(steer, Steer(0.01 * truth, on), pairs) == pytest.approx(1, abs=1e-5)
    assert shift_match(steer, Steer(-truth, on), pairs) == 0
    assert shift_match(steer, zero_steer(on), pairs) == 0


def test_strengths_of_texts_are_one_newton_step():
    steer, pairs, _ = world(torch.eye(D))
    states, on = pairs.src, pairs.src.readout
    chunk = next(states.chunks(N))
    s = torch.zeros(states.n_texts, dtype=torch.float64, requires_grad=True)
    c = chunk.hidden.double()
    z = (c + s[chunk.text][:, None] * (c @ steer.W.double())) @ on.W_U.double() + on.b_U.double()
    log_p = torch.log_softmax(z, 1).gather(1, chunk.next[:, None]).sum() - (s**2).sum() / 2
    (slope,) = torch.autograd.grad(log_p, s, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), s)
    assert_close(
        strengths_of_texts(steer, states).double(),
        (-slope / curvature).clamp(-1, 1).detach(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_selftrain_of_a_steer_that_does_nothing_does_nothing_much():
    _, pairs, _ = world(general(1))
    with pytest.raises(ValueError, match="every label is 0"):
        selftrain(zero_steer(pairs.src.readout), pairs)


# ---- alignment ----


def test_the_map_between_two_bases_is_found_and_described():
    A = general(0)
    _, pairs, _ = world(A)
    found = align(pairs.src.readout, pairs.tgt.readout)
    assert_close(found.H, torch.linalg.inv(A.double()), rtol=1e-5, atol=1e-5)
    assert found.rank == D and found.r2 > 0.999 and float(found.residual.max()) < 1e-5
    assert len(found.tokens) == V and "shared tokens" in dict(found.rows())
    e_tgt, e_src = found.embeddings()
    assert_close(e_tgt @ found.H.mT, e_src, rtol=1e-5, atol=1e-5)
    assert "<script>" not in dataclasses.replace(found, tokens=("<script>",) * V)._repr_html_()


def test_weights_leave_out_what_they_do_not_name():
    _, pairs, _ = world(general(0))
    src, tgt = pairs.src.readout, pairs.tgt.readout
    spoiled = dataclasses.replace(tgt, W_U=torch.cat([random(D, 10, seed=5), tgt.W_U[:, 10:]], 1))
    good = dict.fromkeys(tgt.tokens[10:], 1.0)
    assert_close(align(src, spoiled, weights=good).H, align(src, tgt).H, rtol=1e-4, atol=1e-4)
    assert align(src, spoiled).r2 < 0.95 < align(src, spoiled, weights=good).r2


def test_centring_takes_out_a_constant_that_softmax_does_not_see():
    _, pairs, _ = world(general(0))
    src, tgt = pairs.src.readout, pairs.tgt.readout
    shifted = dataclasses.replace(tgt, W_U=tgt.W_U + 5 * random(D, 1, seed=6))
    assert_close(align(src, shifted, centre=True).H, align(src, tgt).H, rtol=1e-3, atol=1e-3)
    assert float((align(src, shifted).H - align(src, tgt).H).norm()) > 0.05


def test_too_few_shared_tokens_are_counted():
    _, pairs, _ = world(general(0))
    src, tgt = pairs.src.readout, pairs.tgt.readout
    few = dataclasses.replace(tgt, tokens=(*tgt.tokens[:3], *(f" other{i}" for i in range(V - 3))))
    said = (
        r"src, tgt: .* share 3 tokens, expected at least {}.*pass ridge=0.1, to transfer alignment="
    )
    with pytest.raises(ValueError, match=said.format("5 .*without a ridge")):
        align(src, few)
    with pytest.raises(ValueError, match=said.format("10 to choose a ridge")):
        align(src, few, ridge=None)
    steer = Steer(random(D, D), src)
    with pytest.raises(ValueError, match=r"to transfer alignment=.*rule='distil'"):
        transfer(steer, few)
    # what it says to do can be done
    found = align(src, few, ridge=0.1)
    assert found.H.shape == (D, D)
    assert transfer(steer, few, alignment=found).W.norm() > 0
    part = Pairs(pairs.src, dataclasses.replace(pairs.tgt, readout=few), pairs.rows)
    assert transfer(steer, few, rule="distil", text=part).W.norm() > 0
    with pytest.raises(ValueError, match="text: both models read 4 places .*expected at least 10"):
        transfer(steer, tgt, rule="paired", text=Pairs(pairs.src, pairs.tgt, pairs.rows[:, :4]))
    none = dataclasses.replace(tgt, tokens=tuple(f" other{i}" for i in range(V)))
    with pytest.raises(ValueError, match="share 0 tokens"):
        align(src, none, ridge=None)
    with pytest.raises(ValueError, match="with a weight"):
        align(src, tgt, weights={"nothing": 1.0})
    with pytest.raises(ValueError, match="negative"):
        align(src, tgt, weights=dict.fromkeys(tgt.tokens, -1.0))


def test_token_weights_are_probabilities_and_frequencies(unchecked):
    model = sl.load_model("toy-64")
    states = sl.collect(model, sl.toy.corpus("tone", n=40, seed=0), progress=False)
    counted, predicted = token_weights(states, "counted"), token_weights(states)
    following = torch.cat([chunk.next for chunk in states.chunks(1 << 16)])
    the = states.readout.tokens.index("the")
    assert counted[" the"] == pytest.approx(float((following == the).float().mean()))
    assert sum(counted.values()) == pytest.approx(1 - float((following <= 1).float().mean()))
    p = torch.softmax(
        states.readout.logits(torch.cat([c.hidden for c in states.chunks(1 << 16)])), 1
    ).mean(0)
    assert predicted[" the"] == pytest.approx(float(p[the]), rel=1e-4)
    with pytest.raises(ValueError, match="'predicted' or 'counted'"):
        token_weights(states, "seen")  # pyright: ignore[reportArgumentType]


# ---- on models ----


@pytest.fixture(scope="module")
def toys():
    models = {name: sl.load_model(name) for name in ("toy-128", "toy-64", "toy-96-llama")}
    labelled, text, new = (
        sl.toy.corpus("sentiment", n=n, seed=s) for n, s in ((400, 0), (300, 1), (200, 2))
    )
    fits = {
        name: sl.fit_steer(
            sl.collect(models[name], labelled, progress=False),
            name="joy",
            ridge=0.1,
            damping=0.1,
            lr=0.1,
        )
        for name in ("toy-128", "toy-64")
    }
    states = {name: sl.collect(models[name], new, progress=False) for name in ("toy-128", "toy-64")}
    return models, fits, text, states


def test_rules_that_read_text_keep_more_than_those_that_do_not(toys):
    models, fits, text, states = toys
    pairs = sl.pair(models["toy-64"], models["toy-128"], text, progress=False)
    report = transfer_report(
        fits["toy-64"],
        fits["toy-128"],
        states["toy-128"],
        pairs=pairs,
        home=states["toy-64"],
        rules=RULES_SEEN,
    )
    share = report.table.set_index("rule").share
    assert list(share.index) == ["trained", *RULES_SEEN, "at home"]
    assert share["trained"] == 1
    assert min(share["distil"], share["selftrain"]) > share["congruence"] + 0.05
    table = report.table.set_index("rule")
    assert (table.low <= table.share).all() and (table.share <= table.high).all()
    assert table.match["distil"] == table.match[[*RULES_SEEN]].max() > 0.85
    # every steer costs what was asked for, over the background, on the sample that says so
    sample = states["toy-128"].sample(4_096, seed=0)
    for steer in report.steers.values():
        assert kl_at_strength(
            steer.with_background(fits["toy-128"].background), sample, 1.0
        ) == pytest.approx(0.05, rel=1e-3)
    # and the contrast is that of the fit's own measure, over texts that have a sign
    own = report.steers["trained"]
    signed = states["toy-128"].select(states["toy-128"].labels != 0)
    assert signed.n_texts < states["toy-128"].n_texts
    losses = measure(signed, own, fits["toy-128"].background).all
    gains = sign_margins(signed, [own], fits["toy-128"].background)[0].numpy()
    assert gains.sum() / signed.n_positions == pytest.approx(losses.sign_margin, abs=1e-4)
    tokens = (signed.lengths * signed.keep).double().numpy()
    weight = even_weights(tokens, signed.labels.double().numpy())
    even = (weight * gains).sum() / (weight * tokens).sum()
    assert table.sign_margin["trained"] == pytest.approx(even, abs=1e-5)
    assert even == pytest.approx(losses.sign_margin, abs=1e-3)
    assert "shared tokens" in report._repr_html_()


def test_the_margin_is_that_of_sign_margin_and_of_no_margin_there_is_no_share(toys):
    models, fits, _, states = toys
    fit, data = fits["toy-64"], states["toy-64"]
    found = transfer_report(fit, fit, data, rules=("congruence",))
    texts = sl.toy.corpus("sentiment", n=200, seed=2)
    steer = found.steers["trained"].with_background(fit.background)
    own = sign_margin(models["toy-64"], texts, steer).sign_margin
    assert 0 in texts.labels and found.table.sign_margin[0] == pytest.approx(own, abs=1e-5)
    turned = transfer_report(fit, fit, data.relabel(-data.labels), rules=("congruence",)).table
    assert turned.sign_margin[0] == pytest.approx(-own, abs=1e-5)
    assert turned[["share", "low", "high"]].isna().all(axis=None)
    # nor of a margin that may be 0 or less, as labels of chance give
    random = torch.Generator().manual_seed(1)
    chance = data.labels[torch.randperm(len(data.labels), generator=random)]
    noise = transfer_report(fit, fit, data.relabel(chance), rules=("congruence",)).table
    assert abs(noise.sign_margin[0]) < own / 3
    assert noise[["share", "low", "high"]].isna().all(axis=None)
    with pytest.raises(ValueError, match="home: its labels"):
        transfer_report(fit, fit, data, rules=("congruence",), home=data.relabel(-data.labels))


def test_a_report_between_models_that_share_few_words_aligns_them_with_a_ridge(toys):
    _, fits, _, states = toys
    src, tgt = fits["toy-64"], fits["toy-128"]
    on = src.value.readout
    few = dataclasses.replace(on, tokens=(*on.tokens[:30], *(f"_{t}" for t in on.tokens[30:])))
    src = dataclasses.replace(src, value=dataclasses.replace(src.value, readout=few))
    found = transfer_report(src, tgt, states["toy-128"], rules=("congruence",))
    assert found.alignment.ridge == 0.1 and len(found.alignment.tokens) < 30
    steer = transfer(src, tgt.value.readout, alignment=found.alignment)
    ratio = found.steers["congruence"].W / steer.W
    assert_close(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-3, atol=0)


def test_labels_are_never_seen(toys):
    models, fits, text, _ = toys
    text = text.first(60)  # more would show no more
    other = sl.Labelled(
        text.texts, tuple(np.random.default_rng(0).permutation(text.labels).tolist())
    )
    steer = fits["toy-128"].value
    for rule in ("paired", "distil"):
        a, b, c = (
            transfer(steer, models["toy-64"], rule=rule, text=texts, source=models["toy-128"]).W
            for texts in (text, other, list(text.texts))
        )
        assert torch.equal(a, b) and torch.equal(a, c)


def test_a_steer_reaches_a_model_with_another_tokenizer(toys):
    models, fits, text, _ = toys
    steer, llama = fits["toy-128"].value, models["toy-96-llama"]
    pairs = sl.pair(models["toy-128"], llama, text, progress=False)
    found = transfer(steer, llama, rule="distil", text=pairs)
    assert (
        shift_match(steer, found, pairs)
        > 0.8
        > shift_match(steer, transfer(steer, llama), pairs) + 0.3
    )
    new = sl.collect(llama, sl.toy.corpus("sentiment", n=100, seed=5), progress=False)
    right, by_rule = (
        sign_margins(new, [x], zero_steer(x.readout)).sum() for x in (found, transfer(steer, llama))
    )
    assert right > 3 * by_rule.abs() and right > 0


def test_what_cannot_be_moved_is_said(toys, unchecked):
    models, fits, text, states = toys
    steer, small = fits["toy-128"].value, models["toy-64"]
    texts = list(text.texts[:20])
    with pytest.raises(ValueError, match="rule: got 'magic'"):
        transfer(steer, small, rule="magic")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="reads no text"):
        transfer(steer, small, text=texts, source=models["toy-128"])
    with pytest.raises(ValueError, match=r"text=.*source="):
        transfer(steer, small, rule="distil")
    with pytest.raises(ValueError, match="pass the model of the steer"):
        transfer(steer, small, rule="distil", text=texts)
    with pytest.raises(ValueError, match="not its read-out"):
        transfer(steer, sl.readout(small), rule="paired", text=texts, source=models["toy-128"])
    with pytest.raises(ValueError, match=r"source: .*'toy-64'.*expected 'toy-128'"):
        transfer(steer, small, rule="paired", text=texts, source=small)
    back = align(small, models["toy-128"])
    with pytest.raises(ValueError, match=r"alignment: it is from 'toy-64' to 'toy-128'"):
        transfer(steer, small, alignment=back)
    pairs = sl.pair(models["toy-128"], small, texts, progress=False)
    with pytest.raises(ValueError, match="needs none"):
        transfer(steer, small, rule="distil", text=pairs, alignment=align(models["toy-128"], small))
    with pytest.raises(ValueError, match="data: they are of 'toy-128'"):
        transfer_report(fits["toy-128"], fits["toy-64"], states["toy-128"])
    with pytest.raises(ValueError, match="pairs: they are of"):
        transfer_report(fits["toy-128"], fits["toy-64"], states["toy-64"], pairs=pairs.reverse())
    plain = sl.collect(small, texts, progress=False)
    with pytest.raises(ValueError, match="all labels are 0"):
        transfer_report(fits["toy-128"], fits["toy-64"], plain)


def test_an_alignment_can_be_made_once_and_used_often(toys):
    models, fits, _, _ = toys
    steer = fits["toy-128"].value
    found: Alignment = align(models["toy-128"], models["toy-64"])
    assert torch.equal(
        transfer(steer, models["toy-64"], alignment=found).W,
        transfer(steer, sl.readout(models["toy-64"])).W,
    )


def test_between_vocabularies_that_have_nothing_in_common_a_move_is_said_to_be_noise() -> None:
    steer, pairs, _ = world(general())
    unlike = dataclasses.replace(pairs.tgt.readout, W_U=random(D, V, seed=9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transfer(steer, pairs.tgt.readout)
    with pytest.warns(UserWarning, match=r"src, tgt: on their 40 shared.*R² -.*is noise"):
        transfer(steer, unlike)
