"""A steer on logits alone is the steer, or an error that says why not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerlens.export.logits import logit_steer
from steerlens.maths import from_logits
from steerlens.maths.logits import logits
from steerlens.values.affine import AffineSteer
from steerlens.values.logit_steer import LogitSteer, load_logit_steer
from steerlens.values.readout import Readout
from steerlens.values.steer import Steer, zero_steer
from tests.values.make import make_readout, make_steer, random

EPS = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def head(
    d: int = 32,
    vocab: int = 600,
    *,
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    softcap: float | None = None,
    seed: int = 0,
) -> Readout:
    """A read-out of many more words than dimensions, as real ones have."""
    W_U, b_U = random(d, vocab, seed=seed) / 2, random(vocab, seed=seed + 1)
    return Readout(W_U.to(dtype), b_U.to(dtype), ("w",) * vocab, scale=scale, softcap=softcap)


def steer_on(on: Readout, *, rank: int = 4, size: float = 0.6) -> Steer:
    W = random(on.d_model, rank, seed=7) @ random(rank, on.d_model, seed=8)
    return Steer(size * W / W.norm() * rank**0.5, on, "joy")


def kl(true: Tensor, other: Tensor) -> float:
    """KL(true ‖ other), the mean of the rows, in nats."""
    p, q = true.double().log_softmax(-1), other.double().log_softmax(-1)
    return float((p.exp() * (p - q).nan_to_num()).sum(-1).mean())


def true_logits(steer: Steer, c: Tensor, strength: float) -> Tensor:
    """By the hidden states, in float64."""
    r = steer.readout
    exact = r.head._replace(W_U=r.W_U.double(), b_U=r.b_U.double())
    return logits(exact, c.double() + strength * c.double() @ steer.W.double())


FORMS = [(1.0, None), (0.25, None), (1.0, 6.0), (0.5, 8.0)]


@pytest.mark.parametrize("scale, softcap", FORMS)
def test_it_is_the_steer_at_the_rounding_of_float32(scale: float, softcap: float | None) -> None:
    on = head(scale=scale, softcap=softcap)
    steer, c = steer_on(on), random(20, on.d_model, seed=3)
    true, plain = true_logits(steer, c, 2.0), on.logits(c)
    found = logit_steer(steer).apply(plain, 2.0)
    assert kl(true, plain) > 0.005  # it steers
    assert kl(true, found) < 1e-10
    torch.testing.assert_close(found.double(), true, atol=2e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("softcap", [None, 12.0])
def test_rounded_logits_cost_no_more_than_rounding_alone(
    dtype: torch.dtype, softcap: float | None
) -> None:
    on = head(d=64, vocab=2000, dtype=dtype, softcap=softcap)
    steer, c = steer_on(on, size=0.3), random(60, on.d_model, seed=3)
    true, plain = true_logits(steer, c, 2.0), on.logits(c)
    found = logit_steer(steer, holes=True).apply(plain.to(dtype).float(), 2.0)
    rounding = kl(true, true.to(dtype))
    assert kl(true, plain) > 20 * rounding
    # the steer passes its own share of the rounding on: gain² of it, which is below 1
    assert kl(true, found) < 2 * rounding
    assert kl(true, found) > 0.1 * rounding  # what was rounded cannot come back


def test_on_the_head_of_a_real_size() -> None:
    on = head(d=96, vocab=49_152)
    steer, c = steer_on(on), random(8, on.d_model, seed=3)
    true, plain = true_logits(steer, c, 3.0), on.logits(c)
    assert kl(true, plain) > 0.01
    assert kl(true, logit_steer(steer).apply(plain, 3.0)) < 1e-10


@settings(max_examples=25)
@given(st.integers(1, 6), st.floats(-3, 3), st.integers(0, 1000))
def test_strengths_add_and_rank_is_free(rank: int, strength: float, seed: int) -> None:
    """Twice along is once at the sum, for a steer whose square is 0."""
    on = head(d=12, vocab=80)
    q = torch.linalg.qr(random(12, 12, seed=seed)).Q
    steer = Steer(q[:, :rank] @ q[:, 6 : 6 + rank].mT, on)  # reads one half, writes the other
    on_logits, z = logit_steer(steer), on.logits(random(5, 12, seed=seed))
    assert on_logits.P.shape == (80, rank)
    twice = on_logits.apply(on_logits.apply(z, strength), 1.0)
    torch.testing.assert_close(twice, on_logits.apply(z, strength + 1.0), atol=1e-4, rtol=1e-4)


def test_a_rank_is_the_nearest_steer_of_that_rank() -> None:
    on = head()
    steer = Steer(random(32, 32, seed=5) / 40, on)
    z = on.logits(random(9, 32, seed=2))
    cut = logit_steer(steer, rank=3)
    assert cut.P.shape == (600, 3)
    torch.testing.assert_close(
        cut.apply(z), logit_steer(steer.truncate(3)).apply(z), atol=1e-4, rtol=1e-4
    )


def test_strength_zero_is_the_same_bits_and_reads_nothing() -> None:
    on = head(softcap=6.0)
    on_logits, z = logit_steer(steer_on(on)), on.logits(random(3, 32))
    assert on_logits.apply(z, 0.0) is z
    z[0, 5] = -torch.inf  # not asked for, so not refused
    found = on_logits.apply(z, torch.tensor([0.0, 1.0, -1.0]))
    assert torch.equal(found[0], z[0]) and not torch.equal(found[1], z[1])


def test_a_strength_for_each_row_is_each_strength_alone() -> None:
    on = head(softcap=6.0)
    on_logits, z = logit_steer(steer_on(on)), on.logits(random(3, 4, 32))
    strengths = torch.tensor([-1.0, 0.5, 2.0])
    alone = torch.stack([on_logits.apply(z[k], float(strengths[k])) for k in range(3)])
    torch.testing.assert_close(on_logits.apply(z, strengths), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_numpy_arrays_come_back_as_they_came(dtype: type) -> None:
    on = head()
    on_logits, z = logit_steer(steer_on(on), precision=1e-3), on.logits(random(2, 32))
    given_array = z.numpy().astype(dtype)
    before = given_array.copy()
    given_array.flags.writeable = False
    found = on_logits.apply(given_array, 1.5)
    assert found.dtype == dtype and np.array_equal(before, given_array)
    expected = on_logits.apply(torch.from_numpy(before), 1.5).numpy()
    assert np.array_equal(found, expected)
    strided = np.repeat(before, 3, axis=1)[:, ::3]  # a view, as llama.cpp's records give it
    assert np.array_equal(on_logits.apply(strided, 1.5), expected)
    turned = np.ascontiguousarray(before[::-1])[::-1]  # strides below 0
    swapped = before.astype(before.dtype.newbyteorder(">"))
    for other in (turned, swapped, before.astype(np.longdouble)):
        again = on_logits.apply(other, 1.5)
        assert again.dtype == other.dtype and np.allclose(again, expected, atol=1e-2)


def test_by_hand_in_numpy_alone() -> None:
    """What a program without this package would write."""
    on = head()
    steer, c = steer_on(on), random(4, 32, seed=9)
    it = logit_steer(steer)
    P, Q, b, z = (t.numpy() for t in (it.P, it.Q, it.b, on.logits(c)))
    np.testing.assert_allclose(z + 2.0 * ((z - b) @ P) @ Q, true_logits(steer, c, 2.0), atol=2e-4)


def test_log_probabilities_do_as_well_without_a_soft_cap() -> None:
    on = head()
    it, z = logit_steer(steer_on(on)), on.logits(random(6, 32))
    assert float(z.logsumexp(1).abs().min()) > 1
    shifted = it.apply(z.log_softmax(1), 2.0)
    torch.testing.assert_close(
        shifted.log_softmax(1), it.apply(z, 2.0).log_softmax(1), atol=1e-4, rtol=1e-4
    )
    capped = logit_steer(steer_on(head(softcap=6.0)))
    with pytest.raises(ValueError, match="beyond the soft cap.*log-probabilities"):
        capped.apply(head(softcap=6.0).logits(random(6, 32)).log_softmax(1), 2.0)


# ---- holes ----


@pytest.mark.parametrize("softcap", [None, 6.0])
@pytest.mark.parametrize("n", [1, 50, 450])
def test_holes_are_read_around_exactly(n: int, softcap: float | None) -> None:
    on = head(softcap=softcap)
    steer, c = steer_on(on), random(7, 32, seed=3)
    true, z = true_logits(steer, c, 1.5), on.logits(c)
    hidden = torch.randperm(600, generator=torch.Generator().manual_seed(n))[:n]
    z[:5, hidden] = true[:5, hidden] = -torch.inf
    z[6, 0] = true[6, 0] = -torch.inf
    found = logit_steer(steer, holes=True).apply(z, 1.5)
    assert torch.equal(torch.isneginf(found), torch.isneginf(z))
    assert kl(true, z) > 0.005 and kl(true, found) < 1e-10
    with pytest.raises(ValueError, match="−∞.*holes=True"):
        logit_steer(steer).apply(z, 1.5)


def test_too_few_finite_logits_are_refused() -> None:
    on = head()
    it, z = logit_steer(steer_on(on), holes=True), on.logits(random(2, 32))
    z[:, 20:] = -torch.inf  # a grammar that allows 20 words; there are 32 dimensions
    with pytest.raises(ValueError, match="do not tell the context vector"):
        it.apply(z, 1.0)
    z[:] = -torch.inf
    with pytest.raises(ValueError, match="do not tell"):
        it.apply(z, 1.0)


def test_what_a_soft_cap_swallowed_is_a_hole() -> None:
    on = head(d=16, vocab=400, softcap=1.0)
    steer = steer_on(on, rank=2)
    c = 3 * random(5, 16, seed=3)
    z = on.logits(c)
    assert int((z.abs() > 1 - 1e-6).sum()) > 20 and torch.isfinite(z).all()
    true = true_logits(steer, c, 1.0)
    assert kl(true, logit_steer(steer, holes=True).apply(z, 1.0)) < 1e-8 < kl(true, z)
    with pytest.raises(ValueError, match="at the soft cap"):
        logit_steer(steer).apply(z, 1.0)


# ---- what it refuses ----


def _penalty(z: Tensor) -> Tensor:
    z[:, 3] /= 1.3
    return z


def _other_model(z: Tensor) -> Tensor:
    return head(seed=5).logits(random(2, 32))


def _temperature(z: Tensor) -> Tensor:
    return z / 0.7  # b is not scaled with it


def _top_words_lifted(z: Tensor) -> Tensor:
    return torch.where(z > z.quantile(0.95), z + 0.5, z)


@pytest.mark.parametrize("change", [_penalty, _other_model, _temperature, _top_words_lifted])
def test_logits_that_are_not_the_models_own_are_refused(change) -> None:
    it, z = logit_steer(steer_on(head())), head().logits(random(2, 32))
    it.apply(z.clone(), 1.0)
    with pytest.raises(ValueError, match="not those of"):
        it.apply(change(z.clone()), 1.0)


def test_a_head_in_eight_bits_is_refused_until_its_precision_is_said() -> None:
    on = head(d=64, vocab=4000)
    steer, c = steer_on(on, size=0.3), random(6, 64, seed=3)
    step = on.W_U.abs().amax(0) / 127
    coarse = c @ (step * (on.W_U / step).round()) + on.b_U
    with pytest.raises(ValueError, match="fewer bits"):
        logit_steer(steer).apply(coarse, 1.0)
    found = logit_steer(steer, precision=1e-2).apply(coarse, 1.0)
    assert kl(true_logits(steer, c, 1.0), found) < 1e-3


def test_a_strength_at_which_noise_grows_too_much_is_refused_with_the_largest_that_does() -> None:
    on = head()
    it, z = logit_steer(steer_on(on)), on.logits(random(2, 32))
    assert it.gain == pytest.approx(
        float(torch.linalg.matrix_norm(it.P @ it.Q, 2)), rel=1e-4
    )  # by the whole matrix
    largest = it.max_gain / it.gain
    it.apply(z, 0.99 * largest)
    with pytest.raises(ValueError, match=f"take at most {largest:.3g}"):
        it.apply(z, torch.tensor([0.0, 1.01 * largest]))


def test_a_read_out_that_hides_what_the_steer_reads_is_refused() -> None:
    on = head(d=8, vocab=100)
    flat = Readout(torch.cat([on.W_U[:7], on.W_U[:1]]), on.b_U, on.tokens)  # rank 7
    hidden = torch.zeros(8, 8)
    hidden[0, 1], hidden[7, 1] = 1.0, -1.0  # reads c₀ − c₇, of which logits know only c₀ + c₇
    with pytest.raises(ValueError, match="full row rank"):
        logit_steer(Steer(hidden, flat))
    seen = torch.zeros(8, 8)
    seen[0, 1], seen[7, 1] = 1.0, 1.0  # reads the sum: no harm
    steer, c = Steer(seen, flat), random(4, 8)
    assert kl(true_logits(steer, c, 1.0), logit_steer(steer).apply(flat.logits(c), 1.0)) < 1e-10


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda z: z[:, :-1], "599 columns, expected 600"),
        (lambda z: z.long(), "floating-point"),
        (lambda z: torch.full_like(z, torch.nan), "NaN"),
        (lambda z: torch.full_like(z, torch.inf), "NaN or \\+∞"),
    ],
)
def test_what_are_no_logits_is_refused(unchecked, wrong, message: str) -> None:
    it, z = logit_steer(steer_on(head())), head().logits(random(2, 32))
    with pytest.raises(ValueError, match=message):
        it.apply(wrong(z), 1.0)


def test_only_a_steer_is_taken(unchecked) -> None:
    both = make_steer(0).with_background(make_steer(1))
    with pytest.raises(ValueError, match=r"SteerWithBackground.*strength \* steer \+ background"):
        logit_steer(both)
    with pytest.raises(ValueError, match="rank"):
        logit_steer(make_steer(0), rank=0)


def test_zero_is_a_steer_too() -> None:
    on = head(d=8, vocab=40)
    z = on.logits(random(3, 8))
    torch.testing.assert_close(logit_steer(Steer(torch.zeros(8, 8), on)).apply(z, 9.0), z)


def test_as_many_words_as_dimensions_have_no_witness() -> None:
    on = make_readout(d=6, vocab=7)
    steer, c = make_steer(0, on=on), random(4, 6)
    it = logit_steer(steer, max_gain=200.0)
    assert it.witness.shape == (7, 0)
    assert kl(true_logits(steer, c, 0.5), it.apply(on.logits(c), 0.5)) < 1e-8


def test_witnesses_are_what_no_logits_have() -> None:
    on = head()
    v = from_logits.witnesses(on.W_U, from_logits.gram(on.W_U), 5)
    assert float((on.W_U.double() @ v).abs().max()) < 1e-12 and float(v.sum(0).abs().max()) < 1e-12
    torch.testing.assert_close(v.norm(dim=0), torch.ones(5).double())


# ---- on disk ----


@pytest.mark.parametrize("holes", [False, True])
def test_it_is_read_back_exactly(tmp_path: Path, holes: bool) -> None:
    on = head(softcap=6.0, scale=0.5)
    it, z = logit_steer(steer_on(on), holes=holes), on.logits(random(3, 32))
    back = load_logit_steer(it.save(tmp_path / "joy.logits.safetensors"))
    assert torch.equal(back.apply(z, 1.3), it.apply(z, 1.3)) and repr(back) == repr(it)
    assert (back.softcap, back.gain, back.precision) == (6.0, it.gain, it.precision)
    assert (back.W_U is not None) == holes


@pytest.mark.parametrize("cut", [0, 7, 8, 60, 400, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    path = logit_steer(steer_on(head())).save(tmp_path / "joy.safetensors")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"joy\.safetensors"):
        load_logit_steer(path)


def test_a_changed_number_is_noticed(tmp_path: Path) -> None:
    path = logit_steer(steer_on(head())).save(tmp_path / "joy.safetensors")
    whole = bytearray(path.read_bytes())
    whole[-20] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="digest"):
        load_logit_steer(path)


def test_other_files_and_paths_are_refused_by_name(tmp_path: Path) -> None:
    from steerlens.methods.files import save

    with pytest.raises(ValueError, match="expected a 'logit steer', got 'steer'"):
        load_logit_steer(save(make_steer(), tmp_path / "steer.safetensors"))
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_logit_steer(tmp_path / "nothing.safetensors")
    it = logit_steer(steer_on(head()))
    with pytest.raises(ValueError, match="safetensors"):
        it.save(tmp_path / "joy.pt")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        it.save(tmp_path / "nowhere" / "joy.safetensors")
    with pytest.raises(ValueError):  # JSON has no infinity; nothing is written
        replace(it, gain=float("inf")).save(tmp_path / "joy.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["steer.safetensors"]


def test_it_is_frozen() -> None:
    it = logit_steer(steer_on(head()))
    assert isinstance(it, LogitSteer)
    with pytest.raises(AttributeError):
        it.gain = 0.0  # pyright: ignore


# ---- a constant besides: a steering vector at the unembedding, and an affine steer ----


def affine_on(on: Readout, *, linear: bool = True) -> AffineSteer:
    steer = steer_on(on) if linear else zero_steer(on, "north")
    return AffineSteer(steer, random(on.d_model, seed=11) / 4)


@pytest.mark.parametrize("scale, softcap", FORMS)
@pytest.mark.parametrize("linear", [True, False])
def test_the_constant_of_an_affine_steer_is_a_bias_of_the_logits(
    scale: float, softcap: float | None, linear: bool, tmp_path: Path
) -> None:
    on = head(scale=scale, softcap=softcap)
    value, c = affine_on(on, linear=linear), random(20, on.d_model, seed=3)
    exact = on.head._replace(W_U=on.W_U.double(), b_U=on.b_U.double())
    true = logits(exact, value.apply(c.double(), 2.0))
    made = logit_steer(value)
    assert made.P.shape[1] == (4 if linear else 0)
    back = load_logit_steer(made.save(tmp_path / "x.safetensors"))
    for it in (made, back):
        assert kl(true, it.apply(on.logits(c), 2.0)) < 1e-10
    if linear:  # without it, as it was before, the result is another
        assert kl(true, logit_steer(value.steer).apply(on.logits(c), 2.0)) > 1e-3
    strengths = torch.arange(20) / 10 - 1
    rows = torch.stack([value.apply(c[k], float(strengths[k])) for k in range(20)])
    assert kl(on.logits(rows), made.apply(on.logits(c), strengths)) < 1e-10


def test_a_constant_alone_reads_nothing_so_a_mask_and_a_penalty_are_no_matter() -> None:
    on = head()
    value, z = affine_on(on, linear=False), on.logits(random(4, on.d_model, seed=3))
    before = torch.where(random(4, 600, seed=5) > 1, -torch.inf, 0.9 * z)
    it = logit_steer(value)
    assert not it.reads and it.gain == 0
    added = 2.0 * (value.shift @ on.W_U)
    torch.testing.assert_close(it.apply(before, 2.0), before + added, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="−∞"):
        logit_steer(affine_on(on)).apply(before, 2.0)
    with pytest.raises(ValueError, match="not those of"):
        logit_steer(affine_on(on)).apply(z + random(4, 600, seed=9), 2.0)


def test_what_acts_under_conditions_is_refused_by_name(unchecked) -> None:
    on = head()
    with pytest.raises(ValueError, match="joy when entropy > 1.*acts under conditions.*each step"):
        logit_steer(steer_on(on).when("entropy > 1"))  # pyright: ignore
