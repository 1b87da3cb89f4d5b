"""A pass that is resumed behind a layer gives what a whole pass gives, and leaves nothing
behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import steerlens as sl
from steerlens.methods.reft.reft import edits_at
from steerlens.models.hooks import eval_mode, run_until
from steerlens.models.partial_forward import (
    ResidualCache,
    batch_of,
    cache_residuals,
    final_states,
    resumed,
    resumes,
)
from steerlens.values.hook_names import resid_post
from steerlens.values.intervention import UNEMBED_IN
from tests.models.test_collect import by_text, ids_of
from tests.models.zoo import (
    IN_TURN,
    N_CTX,
    TEXTS,
    edited_by_hand,
    near,
    random_reft,
    random_steer,
    tokens_of,
    zoo,
)

DATA = sl.Labelled(
    TEXTS, (1.0, -0.5, 0.25, -1.0), ("", "the film .", "nothing here is worth", "we liked the")
)
ALL = list(range(len(TEXTS)))
RESUMING = [name for name in IN_TURN if name != "native"]


def layers_of(model: Any) -> range:
    return range(int(model.cfg.n_layers))


def states_of(
    model: Any, kept: ResidualCache, rows: list[int], value: Any, strength: Tensor
) -> Tensor:
    with eval_mode(model):
        return final_states(model, kept, batch_of(kept, rows), value.edits(strength))


def traces(model: Any) -> list[Any]:
    """Everything that a pass could leave on a model."""
    modules = list(model.modules())
    return [
        [m.training for m in modules],
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules],
        [{"forward", "_call_impl"} & m.__dict__.keys() for m in model.blocks],
        [sorted(block.__dict__) for block in model.blocks],
    ]


@contextmanager
def disturbed(model: Any) -> Iterator[list[Any]]:
    """A model whose modes and flags are not all alike, which is undone afterwards; gives its
    traces."""
    modes, flags = (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
    )
    for k, m in enumerate(model.modules()):
        m.training = k % 3 == 0
    for k, p in enumerate(model.parameters()):
        p.requires_grad_(k % 2 == 0)
    try:
        yield traces(model)
    finally:
        for m, training in zip(model.modules(), modes, strict=True):
            m.training = training
        for p, flag in zip(model.parameters(), flags, strict=True):
            p.requires_grad_(flag)


def test_every_model_whose_blocks_are_called_as_modules_resumes_and_the_others_fall_back(
    model,
) -> None:
    for layer in layers_of(model):
        assert resumes(model, layer) == (model is not zoo("native"))
    kept = cache_residuals(model, DATA, 1)
    assert kept.layer == (-1 if model is zoo("native") else 1)
    assert len(kept.resid) == (0 if model is zoo("native") else sum(map(len, kept.ids)))


def test_kept_states_that_are_not_the_models_are_noticed(tiny) -> None:
    """Where a hook of the user's own comes behind them, which a pass that is resumed leaves out."""
    assert resumes(tiny, 0)
    handle = tiny.blocks[0].register_forward_hook(lambda module, given, c: c.roll(1, -1))
    found = resumes(tiny, 0)
    handle.remove()
    assert not found and resumes(tiny, 0)


def test_what_a_pass_cannot_resume_is_noticed(tiny) -> None:
    """A block needs what one before it leaves beside its states, as keys that layers share."""
    assert resumes(tiny, 0)
    left: list[Tensor] = []

    def takes(*_: object) -> None:
        if not left:
            raise TypeError("the first block left nothing for this one")
        left.clear()

    hooks = (
        tiny.blocks[0].register_forward_hook(lambda module, given, c: left.append(c)),
        tiny.blocks[1].register_forward_pre_hook(takes),
    )
    found = resumes(tiny, 0)
    for hook in hooks:
        hook.remove()
    assert not found and resumes(tiny, 0)


def test_kept_states_are_those_of_each_text_alone(model) -> None:
    for layer in layers_of(model)[-1:]:
        kept = cache_residuals(model, DATA, layer)
        assert (len(kept), kept.n_truncated, kept.labels.tolist()) == (
            len(TEXTS),
            0,
            list(DATA.labels),
        )
        if kept.layer < 0:
            continue
        for row, ids in enumerate(kept.ids):
            site = resid_post(layer)
            with torch.no_grad():
                cache = model.run_with_cache(torch.tensor([ids]), names_filter=site)[1]
            found = kept.resid[kept.starts[row] : kept.starts[row] + len(ids)]
            assert_close(found, cache[site][0].float(), **near(model))


def test_texts_are_read_as_everywhere_and_cut_to_the_context(tiny) -> None:
    data = sl.Labelled(("good .", "bad . " * 60), (1.0, -1.0))
    kept, without = cache_residuals(tiny, data, 0), cache_residuals(tiny, data, 0, end=False)
    assert list(kept.ids[0]) == ids_of(tiny, "good .")
    assert list(without.ids[0]) == ids_of(tiny, "good .", end=False)
    assert list(kept.ids[1]) == ids_of(tiny, "bad . " * 60)[:N_CTX]
    assert kept.n_truncated == 1 and kept.prompt.tolist() == [1, 1]


def test_batches_hold_every_text_once_with_those_of_similar_length(tiny) -> None:
    kept = cache_residuals(tiny, sl.Labelled(TEXTS * 3, (0.0,) * 12), 0)
    rows = [7, 0, 3, 11, 4, 6, 2]
    found = kept.batches(rows, max_tokens=30)
    assert sorted(row for batch in found for row in batch) == sorted(rows) and len(found) > 2
    lengths = [len(kept.ids[row]) for batch in found for row in batch]
    assert lengths == sorted(lengths)
    assert all(
        len(batch) == 1 or len(batch) * max(len(kept.ids[r]) for r in batch) <= 30
        for batch in found
    )


def test_a_batch_says_what_is_to_be_predicted(tiny) -> None:
    kept = cache_residuals(tiny, DATA, 0)
    batch = batch_of(kept, [2, 0, 3])
    assert batch.labels.tolist() == [0.25, 1.0, -1.0]
    predicted = [list(kept.ids[row][int(kept.prompt[row]) :]) for row in (2, 0, 3)]
    assert batch.targets.tolist() == sum(predicted, [])  # noqa: RUF017  (a few lists)
    assert batch.real.sum(1).tolist() == [len(p) for p in predicted]
    assert kept.prompt[0] == 1 < kept.prompt[2]


CASES: list[tuple[str, dict[str, Any]]] = [
    ("loreft", {"positions": "all"}),
    ("nodireft", {"positions": "f1+l2", "tied": False, "activation": "tanh"}),
    ("consreft", {"positions": "l1+new"}),
]


def test_resumed_states_are_those_of_whole_passes_with_hooks_at_every_layer(model) -> None:
    every, rows, strength = tuple(layers_of(model)), [3, 1], torch.tensor([1.0, -1.5])
    for k, layers in enumerate([*((layer,) for layer in every), every]):
        variant, options = CASES[k % 3]
        reft = random_reft(model, variant, layers=layers, **options)
        kept = cache_residuals(model, DATA, layers[0])
        found = states_of(model, kept, rows, reft, strength)
        expected = []
        for row, s in zip(rows, strength.tolist(), strict=True):
            prompt = int(kept.prompt[row])
            expected.append(
                edited_by_hand(model, list(kept.ids[row]), reft, s, prompt)[0][prompt - 1 : -1]
            )
        assert_close(found, torch.cat(expected), **near(model))
        assert (found - states_of(model, kept, rows, reft, 0 * strength)).abs().max() > 0.1
    each = [0.0, -1.5, 0.0, 1.0]
    under = by_text(sl.collect(model, DATA, intervention=reft, strength=each, progress=False))
    assert_close(found, torch.cat([under[row][0] for row in rows]), **near(model))


def test_steers_are_edits_behind_every_layer(tiny) -> None:
    steer, kept = random_steer(tiny), cache_residuals(tiny, DATA, 0)
    found = states_of(tiny, kept, ALL, steer, torch.tensor(DATA.labels))
    plain = by_text(sl.collect(tiny, DATA, progress=False))
    expected = [steer.apply(plain[row][0], DATA.labels[row]) for row in ALL]
    assert_close(found, torch.cat(expected), **near(tiny))


def test_a_batch_is_each_text_alone_whatever_the_padding(tiny) -> None:
    reft = random_reft(tiny, positions="f1+l1+new")
    kept = cache_residuals(tiny, DATA, 0)
    y = torch.tensor(DATA.labels)
    together = states_of(tiny, kept, [3, 0, 2, 1], reft, y[[3, 0, 2, 1]])
    alone = [states_of(tiny, kept, [row], reft, y[[row]]) for row in (3, 0, 2, 1)]
    assert len({len(c) for c in alone}) > 2
    assert_close(together, torch.cat(alone), **near(tiny))


def test_whole_passes_take_the_place_of_resumed_ones(tiny, no_resuming) -> None:
    reft, y = random_reft(tiny, layers=(0, 1), positions="prompt"), torch.tensor(DATA.labels)
    one = states_of(tiny, cache_residuals(tiny, DATA, 0), ALL, reft, y)
    no_resuming()
    kept = cache_residuals(tiny, DATA, 0)
    assert kept.layer == -1 and batch_of(kept, [0]).resid is None
    assert_close(states_of(tiny, kept, ALL, reft, y), one, **near(tiny))


def test_gradients_of_resumed_passes_are_those_of_whole_ones(single, no_resuming) -> None:
    on = sl.readout(single)
    values = [
        random_reft(single, "noreft", layers=(0, 1)).R,
        random_reft(single, "noreft", layers=(0, 1)).b,
    ]
    weight = torch.randn(on.d_model, generator=torch.Generator().manual_seed(3))

    def gradients() -> list[Tensor]:
        R, b = (t.clone().requires_grad_() for t in values)
        kept = cache_residuals(single, DATA, 0)
        with eval_mode(single, gradients=True):
            batch = batch_of(kept, ALL)
            edits = edits_at(
                (0, 1), "all", 2, lambda h, k, _: (b[k] - h @ R[k].mT) @ R[k], batch.labels
            )
            (final_states(single, kept, batch, edits) @ weight).sum().backward()
        assert R.grad is not None and b.grad is not None
        return [R.grad, b.grad]

    with disturbed(single) as before:
        one = gradients()
        assert traces(single) == before  # no gradient reaches the model's own numbers
        no_resuming()
        whole = gradients()
        assert traces(single) == before
    assert min(float(g.abs().max()) for g in one) > 0.1
    for found, expected in zip(one, whole, strict=True):
        size = float(expected.abs().max())
        assert_close(found / size, expected / size, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", RESUMING)
def test_blocks_below_are_not_run_and_their_hooks_do_not_fire(name: str) -> None:
    model = zoo(name)
    tokens, last = tokens_of(model), layers_of(model)[-1]
    sites = ["hook_embed", *(f"blocks.{k}.hook_resid_post" for k in layers_of(model)), UNEMBED_IN]
    fired: list[str] = []
    hooks = [(site, lambda t, hook, site=site: fired.append(site)) for site in sites]
    resid = torch.randn(3, 7, sl.readout(model).d_model, generator=torch.Generator().manual_seed(1))
    with eval_mode(model), model.hooks(fwd_hooks=hooks):
        model(tokens)
        assert fired == sites
        fired.clear()
        with resumed(model, last - 1, resid.to(model.W_U.dtype)):
            model(tokens)
    assert fired == ["hook_embed", sites[-2], UNEMBED_IN]


@pytest.mark.parametrize("name", RESUMING)
def test_what_is_put_in_is_what_the_next_block_reads(name: str) -> None:
    model = zoo(name)
    tokens = tokens_of(model)
    mask = torch.ones_like(tokens)
    for layer in layers_of(model):
        resid = 2 * torch.randn(
            3, 7, sl.readout(model).d_model, generator=torch.Generator().manual_seed(layer)
        )
        resid = resid.to(model.W_U.dtype)
        with eval_mode(model):
            plain = run_until(model, UNEMBED_IN, tokens, mask).float()
            with resumed(model, layer, resid):
                found = run_until(model, UNEMBED_IN, tokens, mask).float()
            with model.hooks(fwd_hooks=[(resid_post(layer), lambda t, hook, resid=resid: resid)]):
                expected = run_until(model, UNEMBED_IN, tokens, mask).float()
            after = run_until(model, UNEMBED_IN, tokens, mask).float()
        assert_close(found, expected, **near(model))
        assert (found - plain).abs().max() > 0.1
        assert torch.equal(after, plain)


def test_nothing_is_left_behind_whatever_happens_inside(model) -> None:
    reft, tokens = random_reft(model, layers=(0, 1)), tokens_of(model)
    resid = torch.zeros(3, 7, sl.readout(model).d_model, dtype=model.W_U.dtype)
    last = layers_of(model)[-1]
    with disturbed(model) as before:
        with resumed(model, last, resid):
            assert traces(model) != before  # there is something to take away
        assert traces(model) == before
        with pytest.raises(KeyboardInterrupt), resumed(model, last, resid):
            raise KeyboardInterrupt
        assert traces(model) == before
        resumes(model, last)
        kept = cache_residuals(model, DATA, 0)
        assert traces(model) == before
        with pytest.raises(ValueError, match="one value per row"), eval_mode(model, gradients=True):
            final_states(model, kept, batch_of(kept, ALL), reft.edits(torch.ones(len(ALL) + 1)))
        assert traces(model) == before
        with eval_mode(model, gradients=True):
            batch = batch_of(kept, ALL)
            final_states(model, kept, batch, reft.edits(batch.labels))
        assert traces(model) == before
    assert model(tokens).shape[:2] == tokens.shape


def test_a_layer_that_is_not_there_does_not_resume(tiny) -> None:
    before = traces(tiny)
    with pytest.raises(IndexError), resumed(tiny, 7, torch.zeros(1, 2, 32)):
        raise AssertionError("the block ran")
    assert traces(tiny) == before
