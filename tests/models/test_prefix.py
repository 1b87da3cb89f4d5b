"""Rows before the input: as exact as tokens that a model has read, in a batch or alone, cached or
not."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.methods.prompt.model_priors import states_of
from steerlens.methods.prompt.soft_prompt import Kind, prompt_sites
from steerlens.models.embeddings import embeddings
from steerlens.models.tokenization import Encoded, with_prefix
from tests.models.test_collect import by_text, ids_of
from tests.models.test_partial_forward import traces
from tests.models.zoo import BUILDERS, N_CTX, TEXTS, D, random_steer, zoo
from tests.values.make import random

MODELS = [n for n in ("gpt2", "llama", "hooked-gpt2", "hooked-llama") if n in BUILDERS]
TINY = ["gpt2", "llama"]
KINDS: dict[str, tuple[Kind, tuple[int, ...]]] = {
    "soft": ("soft", ()),
    "deep": ("deep", (0, 1)),
    "kv": ("kv", (0, 1)),
}
WORDS = (7, 3, 11)
CLOSE: dict[str, float] = {"rtol": 1e-4, "atol": 2e-4}


def layers_of(model: Any, kind: str) -> tuple[int, ...]:
    return () if kind == "soft" else tuple(range(model.cfg.n_layers))


@cache
def prompt_of(name: str, kind: Kind, moved: float = 0.0, directed: float = 0.0) -> sl.SoftPrompt:
    """A prompt that starts as the embeddings of tokens, and what the model makes of them; then its
    first rows moved."""
    model, layers = zoo(name), layers_of(zoo(name), kind)
    on = sl.readout(model)
    rows = states_of(model, on, embeddings(model)[list(WORDS)], prompt_sites(kind, layers)).clone()
    size = rows.std()
    rows[-1, 0] += moved * size * random(rows.shape[2], seed=5)
    return sl.SoftPrompt(
        rows, directed * size * random(*rows.shape, seed=6), kind, layers, on, "words"
    )


def by_hand(model: Any, ids: list[int], before: tuple[int, ...] = WORDS) -> torch.Tensor:
    """Log-probability of the tokens of a text behind some others, from one plain pass."""
    with torch.no_grad():
        logits = model(torch.tensor([[*before, *ids]]))[0].float()
    log_p = torch.log_softmax(logits, 1)[len(before) : -1]
    return log_p.gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)


def scored(model: Any, texts: Any, value: Any, strength: float = 0.0) -> list[torch.Tensor]:
    """Log-probabilities of each text."""
    table = sl.score(model, texts, value, strengths=(strength,))
    return [torch.tensor(part.log_prob.to_numpy()).float() for _, part in table.groupby("text")]


@cache
def warm(name: str) -> None:
    """TransformerLens hangs hooks of its own on a model in its first passes."""
    sl.score(zoo(name), TEXTS[:1])
    zoo(name).run_with_cache(torch.tensor([[1, 2]]), names_filter="hook_embed")


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> Any:
    """A model's name; afterwards it is as it was."""
    model = zoo(request.param)
    warm(request.param)
    before = traces(model)
    yield request.param
    assert traces(model) == before


# tokens


def test_fillers_are_only_read_and_the_text_behind_them_is_what_it_was(tiny) -> None:
    found = with_prefix(Encoded([[0, 5, 6], [0]], [1, 1], 3), 2, tiny.tokenizer)
    assert [ids[2:] for ids in found.ids] == [[0, 5, 6], [0]] and [
        len(ids) for ids in found.ids
    ] == [5, 3]
    assert (found.prompt, found.n_truncated) == ([3, 3], 3)
    same = Encoded([[0, 5]], [1], 0)
    assert with_prefix(same, 0, tiny.tokenizer) == same


# exactness


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_tokens_give_what_the_tokens_give(name: str, kind: Kind) -> None:
    """Scores of [those tokens][begin-of-text][text] from a plain pass of each text alone; ours are
    of a padded batch."""
    model = zoo(name)
    plain = scored(model, TEXTS, None)
    for strength in (0.0, 1.0):  # the directions are zero
        found = scored(model, TEXTS, prompt_of(name, kind), strength)
        for text, one, before in zip(TEXTS, found, plain, strict=True):
            expected = by_hand(model, ids_of(model, text))
            assert (before - expected).abs().max() > 1e-3
            assert_close(one, expected, **CLOSE)


@pytest.mark.parametrize("kind", ["deep", "kv"])
def test_every_kind_is_the_same_prompt_at_the_start_and_another_when_a_row_moves(
    name: str, kind: Kind
) -> None:
    model = zoo(name)
    soft, same, moved = (
        torch.cat(scored(model, TEXTS, p))
        for p in (prompt_of(name, "soft"), prompt_of(name, kind), prompt_of(name, kind, moved=3.0))
    )
    assert_close(same, soft, **CLOSE)
    assert (moved - soft).abs().max() > 1e-2


def test_embeddings_are_what_a_model_reads_for_each_token(name: str) -> None:
    model = zoo(name)
    found, ids = embeddings(model), torch.tensor([[5, 2, 9, 5]])
    with torch.no_grad():
        seen = model.run_with_cache(ids, names_filter="hook_embed")[1]["hook_embed"][0]
    assert (
        found.shape == (sl.readout(model).n_tokens, model.cfg.d_model)
        and found.dtype == torch.float32
    )
    assert_close(found[ids[0]], seen.float(), rtol=1e-5, atol=1e-6)
    assert (found[5] - found[2]).abs().max() > 1e-3 and not found.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_tokens_are_those_of_a_pass_over_them(name: str, kind: Kind) -> None:
    model, layers = zoo(name), layers_of(zoo(name), kind)
    sites = prompt_sites(kind, layers)
    with torch.no_grad():
        seen = model.run_with_cache(torch.tensor([WORDS]), names_filter=list(sites))[1]
    prompt = prompt_of(name, kind)
    assert prompt.rows.shape[:2] == (len(sites), len(WORDS))
    for row, site in zip(prompt.rows, sites, strict=True):
        assert_close(row, seen[site][0].flatten(1), rtol=1e-4, atol=1e-4)


def test_a_prompt_without_the_text_that_follows_gives_an_other_score_at_another_strength(
    tiny,
) -> None:
    prompt = prompt_of("gpt2", "soft", directed=1.0)
    table = sl.score(tiny, TEXTS, prompt, strengths=(-1.0, 0.0, 1.0))
    parts = {s: part.log_prob.to_numpy() for s, part in table.groupby("strength")}
    assert abs(parts[1.0] - parts[0.0]).max() > 0.01 and abs(parts[1.0] - parts[-1.0]).max() > 0.01
    for s in (-1.0, 1.0):
        still = sl.SoftPrompt(
            prompt.at(s), torch.zeros_like(prompt.rows), "soft", (), prompt.readout
        )
        assert_close(
            torch.tensor(parts[s]),
            torch.cat(scored(tiny, TEXTS, still)).to(torch.tensor(parts[s])),
            **CLOSE,
        )
    assert (
        table.position.tolist()
        == sl.score(tiny, TEXTS, strengths=(-1.0, 0.0, 1.0)).position.tolist()
    )
    assert table.token.tolist() == sl.score(tiny, TEXTS, strengths=(-1.0, 0.0, 1.0)).token.tolist()


# batches


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", TINY)
def test_a_batch_with_a_strength_a_text_is_each_text_alone(which: str, kind: Kind) -> None:
    model, prompt, strengths = (
        zoo(which),
        prompt_of(which, kind, moved=2.0, directed=1.0),
        (1.0, -0.5, 1.5, -2.0),
    )
    assert len({len(ids_of(model, text)) for text in TEXTS}) > 2
    found = by_text(
        sl.collect(model, TEXTS, intervention=prompt, strength=strengths, progress=False)
    )
    same = by_text(sl.collect(model, TEXTS, intervention=prompt, strength=1.0, progress=False))
    plain = by_text(sl.collect(model, TEXTS, progress=False))
    for i, s in enumerate(strengths):
        alone = by_text(
            sl.collect(model, TEXTS[i : i + 1], intervention=prompt, strength=s, progress=False)
        )
        assert_close(found[i][0], alone[0][0], **CLOSE)
        assert found[i][1].tolist() == alone[0][1].tolist() == plain[i][1].tolist()
        assert (found[i][0] - plain[i][0]).abs().max() > 0.01
        assert s == 1.0 or (found[i][0] - same[i][0]).abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_texts_with_prompts_are_read_behind_the_rows_and_only_the_texts_count(
    tiny, kind: Kind
) -> None:
    data = sl.Labelled(("was good .", "a dull book"), (1.0, -1.0), ("the film", "we liked"))
    table = sl.score(tiny, data, prompt_of("gpt2", kind), strengths=(0.0,))
    for i, whole in enumerate(("the film was good .", "we liked a dull book")):
        ids = ids_of(tiny, whole)
        read = len(ids_of(tiny, data.prompts[i], end=False))
        found = torch.tensor(table[table.text == i].log_prob.to_numpy()).float()
        assert_close(found, by_hand(tiny, ids)[read - 1 :], **CLOSE)
        assert (found - by_hand(tiny, ids, ())[read - 1 :]).abs().max() > 1e-3


# written


def written(
    model: Any, prompt: str, value: sl.SoftPrompt, strength: float, n: int
) -> tuple[str, float]:
    """The likeliest token again and again, each from a whole pass without a cache; its
    log-probability.

    Rows go in by TransformerLens' own hooks at every place of the kind.
    """
    rows, words, log_prob = value.at(strength), sl.readout(model).n_tokens, 0.0
    start = ids_of(model, prompt, end=False)
    ids = list(start)

    def hook_at(k: int) -> Any:
        def hook(t: torch.Tensor, hook: Any) -> torch.Tensor:
            t = t.clone()
            t[:, : value.prefix] = rows[k].reshape(t[0, : value.prefix].shape).to(t)
            return t

        return hook

    hooks = [(site, hook_at(k)) for k, site in enumerate(prompt_sites(value.kind, value.layers))]
    for _ in range(n):
        with torch.no_grad():
            logits = model.run_with_hooks(
                torch.tensor([[1] * value.prefix + ids]), fwd_hooks=hooks
            )[0, -1].float()
        ids.append(int(logits[:words].argmax()))
        log_prob += float(torch.log_softmax(logits, 0)[ids[-1]])
        if ids[-1] == model.tokenizer.eos_token_id:
            break
    whole, before = (
        model.tokenizer.decode(part, skip_special_tokens=True) for part in (ids, start)
    )
    return whole[len(before) :], log_prob


START = ["the film", "a very fine cast , and a slow"]


@pytest.mark.parametrize("kind", KINDS)
def test_cached_writing_of_a_padded_batch_is_that_of_whole_passes_one_at_a_time(
    name: str, kind: Kind
) -> None:
    model, value = zoo(name), prompt_of(name, kind, moved=2.0, directed=1.0)
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 4}
    table = sl.generate(model, START, value, strengths=(0.0, 1.5), **options)
    plain = sl.generate(model, START, strengths=(0.0,), **options)
    for row in table.itertuples():
        text, log_prob = written(model, row.prompt, value, row.strength, 4)
        assert row.text == text
        assert row.log_prob == pytest.approx(log_prob, abs=2e-3)
    at = {s: part.log_prob.to_numpy() for s, part in table.groupby("strength")}
    assert (
        abs(at[1.5] - at[0.0]).max() > 0.01
        and abs(at[0.0] - plain.log_prob.to_numpy()).max() > 0.01
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_of_what_was_written_is_its_log_probability(kind: Kind) -> None:
    """Of a model whose texts have the tokens that were written."""
    model, value = zoo("llama"), prompt_of("llama", kind, moved=2.0, directed=1.0)
    table = sl.generate(
        model, ["the film was"], value, strengths=(-1.0, 1.0), samples=3, max_new_tokens=4, seed=1
    )
    read, compared = len(ids_of(model, "the film was", end=False)), 0
    for row in table.itertuples():
        ids = ids_of(model, row.prompt + row.text, end=False)
        if len(ids) != read + 4:  # it ended, or wrote what no text holds
            continue
        found = sl.score(
            model, [row.prompt + row.text], value, strengths=(row.strength,), end=False
        ).log_prob
        other = sl.score(model, [row.prompt + row.text], end=False).log_prob
        assert float(found[read - 1 :].sum()) == pytest.approx(row.log_prob, abs=2e-3)
        assert abs(float(other[read - 1 :].sum()) - row.log_prob) > 1e-3
        compared += 1
    assert compared >= 1


# the context


def test_texts_are_cut_earlier_by_as_much_as_the_rows_need(tiny) -> None:
    prompt = prompt_of("gpt2", "soft")
    ids = ids_of(tiny, "the film was good . " * 12)
    assert len(ids) > N_CTX
    plain = sl.collect(tiny, ["the film was good . " * 12, "good ."], progress=False)
    found = sl.collect(
        tiny, ["the film was good . " * 12, "good ."], intervention=prompt, progress=False
    )
    assert (plain.n_truncated, found.n_truncated) == (1, 1)
    assert (plain.lengths - found.lengths).tolist() == [3, 0] and plain.lengths[0] == N_CTX - 1
    expected = by_hand(tiny, ids[: N_CTX - 3])
    assert_close(scored(tiny, ["the film was good . " * 12], prompt)[0], expected, **CLOSE)


def test_a_text_that_fits_by_itself_alone_is_counted_as_cut(tiny) -> None:
    text = "a" + " the" * (N_CTX - 4)
    assert N_CTX - 3 < len(ids_of(tiny, text)) <= N_CTX
    assert sl.collect(tiny, [text], progress=False).n_truncated == 0
    assert (
        sl.collect(tiny, [text], intervention=prompt_of("gpt2", "soft"), progress=False).n_truncated
        == 1
    )


def test_prompts_that_leave_no_room_behind_the_rows_are_refused_with_their_number(tiny) -> None:
    value = prompt_of("gpt2", "kv")
    long, room = ("a" + " the" * (N_CTX - 5 - k) for k in (0, 1))
    assert [len(ids_of(tiny, p, end=False)) for p in (long, room)] == [N_CTX - 3, N_CTX - 4]
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 9}
    assert len(sl.generate(tiny, [long], strengths=(0.0,), **options)) == 1
    with pytest.raises(
        ValueError,
        match=rf"has {N_CTX - 3} tokens behind 3 rows, the context is {N_CTX}; shorten it",
    ):
        sl.generate(tiny, [long], value, **options)
    last = sl.generate(tiny, [room], value, **options)
    text, log_prob = written(tiny, room, value, 1.0, 1)
    assert last.text[0] == text and last.log_prob[0] == pytest.approx(log_prob, abs=2e-3)


# where it cannot be


@pytest.mark.parametrize("kind", KINDS)
def test_inside_a_block_there_is_no_room_for_rows_and_the_error_says_what_to_use(
    tiny, kind: Kind
) -> None:
    value = prompt_of("gpt2", kind)
    with (
        pytest.raises(
            ValueError,
            match="needs 3 rows before the input.*use steerlens.generate, score or collect",
        ),
        sl.steered(tiny, value),
    ):
        raise AssertionError("the block ran")


def test_a_prompt_of_another_model_is_refused(tiny) -> None:
    other = prompt_of("llama", "soft")
    for verb in (sl.generate, sl.score):
        with pytest.raises(ValueError, match="transfer"):
            verb(tiny, TEXTS, other)
    wide = sl.SoftPrompt(
        torch.zeros(1, 2, D + 1), torch.zeros(1, 2, D + 1), "soft", (), sl.readout(tiny)
    )
    with pytest.raises(ValueError, match=f"rows: width {D + 1} at a site of width {D}"):
        sl.score(tiny, TEXTS, wide)


def test_values_without_rows_need_no_room(tiny) -> None:
    assert random_steer(tiny).prefix == 0 and prompt_of("gpt2", "soft").prefix == 3
    assert random_steer(tiny).with_background(random_steer(tiny, seed=1)).prefix == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_survives_a_file_and_the_model_stays_as_it_was(
    tiny, kind: Kind, tmp_path: Path
) -> None:
    value = prompt_of("gpt2", kind, moved=2.0, directed=1.0)
    weights = {key: t.clone() for key, t in tiny.state_dict().items()}
    warm("gpt2")
    before, plain = traces(tiny), sl.score(tiny, TEXTS)
    back = sl.load(sl.save(value, tmp_path / "words.safetensors"), tiny)
    assert isinstance(back, sl.SoftPrompt)
    found, expected = (sl.score(tiny, TEXTS, v, strengths=(1.0,)) for v in (back, value))
    assert found.equals(expected) and abs(found.log_prob - plain.log_prob).max() > 0.01
    sl.generate(tiny, ["the film"], value, max_new_tokens=2)
    assert sl.score(tiny, TEXTS).equals(plain) and traces(tiny) == before
    assert all(torch.equal(t, weights[key]) for key, t in tiny.state_dict().items())
