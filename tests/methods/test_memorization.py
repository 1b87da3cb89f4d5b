"""What one edit of one token holds is what greedy decoding under it says, token by token and not
one more."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import steerlens as sl
from steerlens.methods.reft import memorization as module
from steerlens.methods.reft.memorization import Memories, memorise
from tests.models.zoo import hook_count, zoo

PROMPT = "the film was"
RANDOM, TEXT = 16, "very good , and the waiter was good ."


def random_tokens(model: Any, n: int, seed: int = 0) -> list[int]:
    """None of them special: generation goes on behind them."""
    return torch.randint(
        2, len(model.tokenizer), (n,), generator=torch.Generator().manual_seed(seed)
    ).tolist()


def ids_of(model: Any, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def unlikely(model: Any, prompt: str, nth: int, n: int) -> list[int]:
    """The model's own way to go on behind a first word that is only the `nth` likeliest."""
    tokens = begin(model, prompt)
    for k in range(n):
        with torch.no_grad():
            likely = model(torch.tensor([tokens]))[0, -1].topk(nth + 1).indices.tolist()
        tokens.append(
            next(t for t in likely[0 if k else nth :] if t not in model.tokenizer.all_special_ids)
        )
    return tokens[-n:]


def sequences_of(model: Any, prompt: str = "") -> list[list[int]]:
    """Short ones that are recovered whole, long random ones that are not, and a sentence."""
    short = [random_tokens(model, 1), unlikely(model, prompt, 20, 2), unlikely(model, prompt, 9, 3)]
    return [
        *short,
        *(random_tokens(model, RANDOM, seed=100 + k) for k in range(2)),
        ids_of(model, TEXT),
    ]


@pytest.fixture(scope="module", params=[("toy-64", 0, ""), ("toy-96-llama", 1, PROMPT)], ids=str)
def case(request: pytest.FixtureRequest) -> tuple[Any, int, str, list[list[int]], Memories]:
    name, layer, prompt = request.param
    model = zoo(name)
    sequences = sequences_of(model, prompt)
    return (
        model,
        layer,
        prompt,
        sequences,
        memorise(model, sequences, layer=layer, prompt=prompt, steps=60, progress=False),
    )


def begin(model: Any, prompt: str) -> list[int]:
    return [model.tokenizer.bos_token_id, *ids_of(model, prompt)]


def continued(model: Any, prompt: str, n: int) -> list[int]:
    """Greedy decoding by TransformerLens itself, whatever the block it runs in does to the
    model."""
    tokens = torch.tensor([begin(model, prompt)])
    new = model.generate(
        tokens, max_new_tokens=n, do_sample=False, stop_at_eos=False, verbose=False
    )
    return new[0, tokens.shape[1] :].tolist()


def agreeing(one: list[int], other: list[int]) -> int:
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def states(model: Any, tokens: list[int], layer: int) -> Tensor:
    site = f"blocks.{layer}.hook_resid_post"
    with torch.no_grad():
        return model.run_with_cache(torch.tensor([tokens]), names_filter=site)[1][site][0]


def nll(model: Any, start: list[int], sequence: list[int]) -> float:
    with torch.no_grad():
        z = model(torch.tensor([start + sequence]))[0, len(start) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(z.float(), torch.tensor(sequence)))


def test_greedy_decoding_under_the_edit_says_what_was_recovered_and_not_one_token_more(case):
    model, _, prompt, sequences, found = case
    table = found.table
    for sequence, edit, recovered in zip(sequences, found.edits, table.recovered, strict=True):
        with sl.steered(model, edit):
            assert agreeing(continued(model, prompt, len(sequence)), sequence) == recovered
    assert (table.recovered == table.length).any() and (table.recovered < table.length).any()


def test_so_does_our_own_generation_at_strength_one_and_the_plain_model_does_not(case):
    model, _, prompt, sequences, found = case
    for sequence, edit, recovered in zip(
        sequences, found.edits, found.table.recovered, strict=True
    ):
        if recovered:
            written = sl.generate(
                model,
                [prompt],
                edit,
                strengths=(0.0, 1.0),
                temperature=0,
                max_new_tokens=int(recovered),
            )
            start = begin(model, prompt)
            expected = model.tokenizer.decode(
                [*start, *sequence[:recovered]], skip_special_tokens=True
            )
            plain, steered = (prompt + text for text in written.text)
            assert steered == expected != plain


def test_without_the_edits_the_model_says_none_of_it(case):
    model, _, prompt, sequences, found = case
    plain = continued(model, prompt, RANDOM)
    before = [agreeing(plain[: len(sequence)], sequence) for sequence in sequences]
    assert (found.table.recovered >= before).all()
    assert sum(before[:5]) == 0 < found.table.recovered[:3].sum()


def test_the_edit_adds_one_vector_to_the_last_token_of_the_prompt_and_nothing_else(case):
    model, layer, prompt, sequences, found = case
    start = begin(model, prompt)
    h = states(model, start + sequences[2], layer)
    for edit in found.edits:
        learned = (edit.b[0, 0] - edit.R[0, 0] @ h[len(start) - 1]) * edit.R[0, 0]
        assert learned.norm() > 0.05 * h.norm(dim=1).mean()
        with sl.steered(model, edit, prompt=len(start)):
            added = states(model, start + sequences[2], layer) - h
        assert_close(added[len(start) - 1], learned, rtol=1e-3, atol=1e-4)
        assert added[torch.arange(len(h)) != len(start) - 1].abs().max() == 0


def test_other_variants_with_the_same_vector_say_the_same(case):
    model, layer, prompt, sequences, found = case
    edit, sequence = found.edits[2], sequences[2]
    h = states(model, begin(model, prompt), layer)[-1]
    for other in (
        replace(edit, A=torch.zeros_like(edit.R), variant="loreft"),
        replace(edit, b=edit.b - edit.R[:, 0] @ h, variant="lobireft"),
    ):
        with sl.steered(model, other):
            assert continued(model, prompt, len(sequence)) == sequence
    with sl.steered(model, replace(edit, b=-edit.b)):
        assert continued(model, prompt, len(sequence)) != sequence


def test_the_numbers_are_those_of_whole_passes(case):
    model, _, prompt, sequences, found = case
    table, start = found.table, begin(model, prompt)
    assert table.columns.tolist() == [
        "sequence",
        "length",
        "recovered",
        "nll_before",
        "nll",
        "stored",
    ]
    assert table.sequence.tolist() == list(range(len(sequences)))
    assert table.length.tolist() == [len(sequence) for sequence in sequences]
    for row, sequence, edit in zip(table.itertuples(), sequences, found.edits, strict=True):
        assert row.nll_before == pytest.approx(nll(model, start, sequence), rel=1e-3)
        with sl.steered(model, edit, prompt=len(start)):
            assert row.nll == pytest.approx(nll(model, start, sequence), rel=1e-3)
        assert row.stored == pytest.approx((row.nll_before - row.nll) * row.length, rel=1e-4)
        assert row.stored > 1


def test_edits_are_of_rank_one_at_the_last_token_of_the_prompt(case):
    model, layer, _, sequences, found = case
    assert len(found.edits) == len(sequences)
    for edit in found.edits:
        assert (edit.rank, edit.layers, edit.positions, edit.variant) == (
            1,
            (layer,),
            "l1",
            "consreft",
        )
        assert float(edit.R.norm()) == pytest.approx(1, abs=1e-5)
        assert edit.readout.same_as(sl.readout(model))
    assert len({edit.name for edit in found.edits}) == len(sequences)


def test_random_sequences_of_sixteen_tokens_are_not_recovered_whole_and_short_ones_are(case):
    table = case[-1].table
    short, long = table[:3], table[3:5]
    assert (short.recovered == short.length).all()
    assert (long.recovered < RANDOM / 2).all()
    assert (long.stored > 20).all()  # and not because nothing was learned


def test_a_single_token_is_always_recoverable_be_it_the_least_likely():
    model = zoo("toy-64")
    with torch.no_grad():
        logits = model(torch.tensor([begin(model, "")]))[0, -1]
    tokens = [
        *random_tokens(model, 8),
        *logits.topk(2, largest=False).indices.tolist(),
        *logits.topk(2).indices.tolist(),
    ]
    table = memorise(model, [[token] for token in tokens], layer=0, steps=100, progress=False).table
    assert (table.recovered == 1).all()
    assert (table.nll_before > table.nll).all() and table.nll_before.max() > 10


def test_a_sequence_does_not_depend_on_the_others():
    model, sequences = zoo("toy-64"), sequences_of(zoo("toy-64"))
    together = memorise(model, [sequences[3], sequences[5]], layer=0, steps=6, progress=False)
    alone = memorise(model, [sequences[3]], layer=0, steps=6, progress=False)
    assert together.table.nll[0] == pytest.approx(alone.table.nll[0], rel=1e-2)
    assert abs(together.table.nll[1] - alone.table.nll[0]) > 0.1


def test_the_same_seed_gives_the_same_table_and_another_another():
    model, sequences = zoo("toy-64"), sequences_of(zoo("toy-64"))[2:5]
    one, again, other = (
        memorise(model, sequences, layer=0, steps=4, seed=s, progress=False) for s in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(one.table, again.table)
    assert all(
        torch.equal(a.R, b.R) and torch.equal(a.b, b.b)
        for a, b in zip(one.edits, again.edits, strict=True)
    )
    assert not torch.equal(one.edits[1].R, other.edits[1].R)


def test_more_steps_hold_more(case):
    model, layer, prompt, sequences, found = case
    few, many = (
        memorise(model, sequences, layer=layer, prompt=prompt, steps=2, progress=False).table,
        found.table,
    )
    assert many.recovered.sum() > few.recovered.sum()
    assert many.stored.sum() > 2 * few.stored.sum() > 0


def test_where_passes_cannot_be_resumed_the_result_is_the_same(
    monkeypatch: pytest.MonkeyPatch, no_resuming
):
    model, sequences = zoo("toy-64"), sequences_of(zoo("toy-64"))[2:4]
    kept, layers = module.cache_residuals_of_tokens, []

    def keeping(*args: Any) -> Any:
        found = kept(*args)
        layers.append(found.layer)
        return found

    monkeypatch.setattr(module, "cache_residuals_of_tokens", keeping)
    here = memorise(model, sequences, layer=1, steps=6, progress=False)
    no_resuming()
    there = memorise(model, sequences, layer=1, steps=6, progress=False)
    assert layers == [1, -1]
    assert there.table.recovered.tolist() == here.table.recovered.tolist()
    assert there.table.nll.tolist() == pytest.approx(here.table.nll.tolist(), rel=1e-3)


def test_the_model_is_left_as_it_was():
    model = sl.load_model("toy-64")
    first = next(iter(model.parameters()))
    first.requires_grad_(False)
    model.blocks[1].train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    learned = [p.requires_grad for p in model.parameters()]
    modes, hooks = [m.training for m in model.modules()], hook_count(model)
    assert len(set(learned)) == len(set(modes)) == 2
    found = memorise(model, [[5]], layer=1, steps=20, progress=False)
    assert found.table.stored[0] > 0.5  # something was done
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert [p.requires_grad for p in model.parameters()] == learned
    assert [m.training for m in model.modules()] == modes
    assert hook_count(model) == hooks
    assert all(p.grad is None for p in model.parameters())
    assert all("forward" not in block.__dict__ for block in model.blocks)


@pytest.mark.parametrize(
    "sequences, options, message",
    [
        ([], {}, "sequences: got none"),
        ([[5], []], {}, "sequences: got none, or an empty one"),
        ([[5, 1286]], {}, "sequences: token 1286 is not among the 1286"),
        ([[5], [-1]], {}, "sequences: token -1 is not"),
        ([[5] * 256], {}, "sequences: 256 tokens and 1 of the prompt, the context is 256"),
        (
            [[5] * 253],
            {"prompt": PROMPT},
            "sequences: 253 tokens and 4 of the prompt, the context is 256",
        ),
        ([[5]], {"layer": 3}, "layer: got 3, expected 0 … 2"),
        ([[5]], {"layer": -1}, "layer: got -1"),
    ],
)
def test_errors_name_the_argument(
    sequences: list[list[int]], options: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        memorise(zoo("toy-64"), sequences, **{"layer": 0, "steps": 5, "progress": False, **options})


def test_as_many_tokens_as_fit_the_context_do():
    found = memorise(zoo("toy-64"), [[5] * 255], layer=2, steps=2, progress=False)
    assert found.table.length.tolist() == [255]


def test_an_empty_prompt_needs_a_begin_of_text(no_bos):
    model = zoo("toy-64")
    assert memorise(model, [[5]], layer=0, steps=1, progress=False).table.length.tolist() == [1]
    no_bos(model)
    with pytest.raises(ValueError, match="prompt: it holds no token"):
        memorise(model, [[5]], layer=0, steps=1, progress=False)
