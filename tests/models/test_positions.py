"""An edit acts on the tokens it was asked for: read or written, in a batch or alone, cached or
not."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import steerlens as sl
from steerlens.models.adapters.bridge import read_behind
from steerlens.models.hooks import convention
from steerlens.models.tokenization import encode
from tests.models.test_collect import by_text, ids_of
from tests.models.zoo import IN_TURN, TEXTS, edited_by_hand, near, random_reft, random_steer, zoo

PROMPTS = ("the film was", "", "nothing here is worth the money .", "we liked the")
DATA = sl.Labelled(TEXTS, (1.0, 0.5, 0.0, -1.0), PROMPTS)
SOME = ["gpt2", "toy-96-llama", "bfloat16", "native", "gemma2", "cohere"]
STRENGTHS = (1.0, -0.5, 1.5, -2.0)
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 4}
WHERE: list[tuple[str, str, dict[str, Any]]] = [
    ("loreft", "f1+l2", {"layers": (0, 1), "tied": False}),
    ("consreft", "l1", {"layers": (1,)}),
    ("noreft", "new", {"layers": (0,)}),
    ("lobireft", "prompt", {"layers": (0, 1)}),
]


def encoded(model: Any, data: sl.Labelled) -> tuple[list[list[int]], list[int]]:
    found = encode(
        model.tokenizer,
        list(data.texts),
        convention(model, sl.readout(model)),
        end=True,
        prompts=data.prompts,
    )
    return found.ids, found.prompt


# prompts


def test_a_prompt_and_its_text_are_one_text_of_which_the_first_part_is_only_read(model) -> None:
    joined = [f"{prompt} {text}".strip() for prompt, text in zip(PROMPTS, TEXTS, strict=True)]
    ids, prompt = encoded(model, DATA)
    assert ids == [ids_of(model, text) for text in joined]
    assert prompt == [len(ids_of(model, p, end=False)) if p else 1 for p in PROMPTS]
    whole = by_text(sl.collect(model, joined, progress=False))
    states = sl.collect(model, DATA, progress=False)
    assert states.lengths.tolist() == [len(row) - n for row, n in zip(ids, prompt, strict=True)]
    for i, (c, following) in by_text(states).items():
        assert following.tolist() == ids[i][prompt[i] :]
        assert_close(c, whole[i][0][prompt[i] - 1 :], **near(model))
    assert states.labels.tolist() == list(DATA.labels)


@pytest.mark.parametrize(
    "prompt, text",
    [("the film ", "was good ."), ("the film", " was good ."), ("the film", "was good .")],
)
def test_a_space_goes_between_where_there_is_none(tiny, prompt: str, text: str) -> None:
    ids, n = encoded(tiny, sl.Labelled((text,), (0.0,), (prompt,)))
    assert ids == [ids_of(tiny, "the film was good .")]
    assert n == [len(ids_of(tiny, "the film", end=False))]


def test_tokens_that_a_prompt_has_not_alone_belong_to_the_text(tiny) -> None:
    # "th" ends in other tokens alone than before "e film": only what both have in common is read
    end, apart = ids_of(tiny, "a th", end=False), ids_of(tiny, "a th\ne film")
    ids, n = encoded(tiny, sl.Labelled(("\ne film",), (0.0,), ("a th",)))
    assert (ids, n) == ([apart], [len(end)])
    monkey = encode(
        tiny.tokenizer,
        ["good"],
        convention(tiny, sl.readout(tiny)),
        end=False,
        prompts=["the film \n"],
    )
    assert monkey.ids[0] == ids_of(tiny, "the film \ngood", end=False)
    alone = ids_of(tiny, "the film \n", end=False)
    common = next(
        (i for i, (x, y) in enumerate(zip(alone, monkey.ids[0], strict=False)) if x != y),
        len(alone),
    )
    assert monkey.prompt == [common] and common > 1


def test_without_prompts_begin_of_text_is_what_is_only_read(tiny) -> None:
    ids, prompt = encoded(tiny, sl.Labelled(TEXTS, (0.0,) * 4))
    empty = encoded(tiny, sl.Labelled(TEXTS, (0.0,) * 4, ("",) * 4))
    assert (ids, prompt) == empty == ([ids_of(tiny, text) for text in TEXTS], [1] * 4)


def test_a_prompt_that_fills_the_context_leaves_nothing_to_predict(tiny) -> None:
    long = sl.Labelled(("good .", "good ."), (1.0, -1.0), ("the film was " * 40, "the film was"))
    states = sl.collect(tiny, long, progress=False)
    assert states.n_truncated == 1 and states.lengths[0] == 0 < states.lengths[1]
    assert set(next(states.chunks(100)).text.tolist()) == {1}
    with pytest.raises(ValueError, match="no text holds a token to predict"):
        sl.collect(tiny, sl.Labelled(("good .",), (1.0,), ("the film was " * 40,)), progress=False)


def test_shards_on_disk_keep_to_the_prompts_and_other_prompts_are_other_states(
    tiny, tmp_path: Path
) -> None:
    memory = by_text(sl.collect(tiny, DATA, progress=False))
    disk = by_text(sl.collect(tiny, DATA, folder=tmp_path / "s", progress=False))
    for i in range(len(TEXTS)):
        assert disk[i][1].tolist() == memory[i][1].tolist()
        assert_close(disk[i][0], memory[i][0], **near(tiny))
    # the same tokens, but less of them a prompt
    moved = sl.Labelled(("was " + TEXTS[0], *TEXTS[1:]), DATA.labels, ("the film", *PROMPTS[1:]))
    assert encoded(tiny, moved)[0] == encoded(tiny, DATA)[0]
    with pytest.raises(ValueError, match="another model, text"):
        sl.collect(tiny, moved, folder=tmp_path / "s", progress=False)


# collected and scored


def test_states_under_an_edit_are_those_of_whole_passes_with_hooks_one_at_a_time(model) -> None:
    ids, prompts = encoded(model, DATA)
    plain = by_text(sl.collect(model, DATA, progress=False))
    for variant, positions, options in WHERE[:2]:
        reft = random_reft(model, variant, positions=positions, **options)
        found = by_text(
            sl.collect(model, DATA, intervention=reft, strength=STRENGTHS, progress=False)
        )
        for i, strength in enumerate(STRENGTHS):
            c, _ = edited_by_hand(model, ids[i], reft, strength, prompts[i])
            assert_close(found[i][0], c[prompts[i] - 1 : -1], **near(model))
            assert found[i][1].tolist() == plain[i][1].tolist()
        assert max((found[i][0] - plain[i][0]).abs().max() for i in range(4)) > 0.1


def test_one_strength_a_text_is_each_text_alone_and_one_number_all(tiny) -> None:
    reft = random_reft(tiny, positions="f1+l1+new")
    found = by_text(sl.collect(tiny, DATA, intervention=reft, strength=STRENGTHS, progress=False))
    for i, strength in enumerate(STRENGTHS):
        one = sl.Labelled(TEXTS[i : i + 1], DATA.labels[i : i + 1], PROMPTS[i : i + 1])
        alone = by_text(sl.collect(tiny, one, intervention=reft, strength=strength, progress=False))
        assert_close(found[i][0], alone[0][0], **near(tiny))
    number, equal, two = (
        next(
            sl.collect(tiny, DATA, intervention=reft, strength=s, progress=False).chunks(999)
        ).hidden
        for s in (0.5, (0.5,) * 4, 2.0)
    )
    assert torch.equal(number, equal)
    assert (number - two).abs().max() > 0.1


def test_strength_zero_is_the_plain_model_and_steers_are_interventions_too(tiny) -> None:
    plain = next(sl.collect(tiny, DATA, progress=False).chunks(999)).hidden
    for value in (random_reft(tiny), random_steer(tiny)):
        zero = sl.collect(tiny, DATA, intervention=value, strength=0.0, progress=False)
        assert torch.equal(next(zero.chunks(999)).hidden, plain)
    steer = random_steer(tiny)
    under = next(
        sl.collect(tiny, DATA, intervention=steer, strength=1.5, progress=False).chunks(999)
    ).hidden
    assert_close(under, steer.apply(plain, 1.5), **near(tiny))


def test_states_under_an_edit_are_refused_where_they_cannot_be(tiny, tmp_path: Path) -> None:
    reft = random_reft(tiny)
    with pytest.raises(ValueError, match="folder: .*memory only"):
        sl.collect(tiny, DATA, intervention=reft, folder=tmp_path / "s", progress=False)
    with pytest.raises(ValueError, match="strength: got 2 for 4 texts"):
        sl.collect(tiny, DATA, intervention=reft, strength=(1.0, 2.0), progress=False)
    with pytest.raises(ValueError, match="transfer"):
        sl.collect(tiny, DATA, intervention=random_reft(zoo("llama")), progress=False)


@pytest.mark.parametrize("name", SOME)
def test_scores_under_an_edit_are_log_softmax_of_whole_passes_with_hooks(name: str) -> None:
    model = zoo(name)
    reft = random_reft(model, layers=(0, 1), positions="f1+l1+new", tied=True)
    ids, prompts = encoded(model, DATA)
    table = sl.score(model, DATA, reft, strengths=(-1.0, 0.0, 1.5))
    plain = sl.score(model, DATA)
    assert table[table.strength == 0.0].reset_index(drop=True).equals(plain)
    on = sl.readout(model)
    for strength in (-1.0, 1.5):
        for i in range(4):
            part = table[(table.text == i) & (table.strength == strength)]
            _, logits = edited_by_hand(model, ids[i], reft, strength, prompts[i])
            log_p = torch.log_softmax(logits, 1)
            expected = [float(log_p[k - 1, ids[i][k]]) for k in range(prompts[i], len(ids[i]))]
            found = torch.tensor(part.log_prob.to_numpy())
            assert_close(found, torch.tensor(expected).to(found), **near(model))
            assert part.position.tolist() == list(range(len(expected)))
            # pieces of the text, in which a space belongs to the word after it, whatever the
            # tokenizer says
        assert [t.strip() for t in part.token] == [
            on.tokens[t].strip() for t in ids[i][prompts[i] :]
        ]
    assert (
        table[table.strength == 1.5].log_prob.to_numpy() - plain.log_prob.to_numpy()
    ).std() > 0.1


# written


def written_by_hand(
    model: Any, prompt: str, reft: sl.Reft, strength: float, n: int = 4
) -> tuple[str, float]:
    """The likeliest token again and again, each from a whole pass with hooks over everything before
    it; its log-probability."""
    start, log_prob = ids_of(model, prompt, end=False), 0.0
    ids, words = list(start), sl.readout(model).n_tokens
    for _ in range(n):
        _, logits = edited_by_hand(model, ids, reft, strength, len(start))
        ids.append(int(logits[-1, :words].argmax()))
        log_prob += float(torch.log_softmax(logits[-1], 0)[ids[-1]])
        if ids[-1] == model.tokenizer.eos_token_id:
            break
    whole, before = (
        model.tokenizer.decode(part, skip_special_tokens=True) for part in (ids, start)
    )
    return whole[len(before) :], log_prob


WRITTEN = ["the film", "a very fine cast , and a slow", "nothing here is"]
RICH: tuple[str, str, dict[str, Any]] = ("noreft", "f1+l1+new", {"layers": (0, 1), "tied": False})


def check_written(model: Any, variant: str, positions: str, options: dict[str, Any]) -> None:
    """What `generate` writes, cached and padded on the left, is what whole passes write one at a
    time."""
    reft, strength = random_reft(model, variant, positions=positions, **options), 1.5
    table = sl.generate(model, WRITTEN, reft, strengths=(0.0, strength), **GREEDY)
    found = table[table.strength == strength]
    for row in found.itertuples():
        text, log_prob = written_by_hand(model, row.prompt, reft, strength)
        assert row.text == text
        assert row.log_prob == pytest.approx(log_prob, abs=2e-3)
    alone = sl.generate(model, WRITTEN[:1], reft, strengths=(strength,), **GREEDY)
    assert found.text.tolist()[0] == alone.text[0]
    assert found.log_prob.tolist()[0] == pytest.approx(alone.log_prob[0], abs=2e-3)
    plain = table[table.strength == 0.0]
    assert abs(found.log_prob.to_numpy() - plain.log_prob.to_numpy()).max() > 0.01


def test_cached_writing_under_left_padding_is_that_of_whole_passes_one_at_a_time(single) -> None:
    check_written(single, *RICH)


@pytest.mark.parametrize("variant, positions, options", WHERE, ids=[w[1] for w in WHERE])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_so_it_is_wherever_the_edit_is_made(
    name: str, variant: str, positions: str, options: dict[str, Any]
) -> None:
    check_written(zoo(name), variant, positions, options)


# inside `steered`


@pytest.mark.parametrize("name", SOME)
def test_inside_the_block_a_pass_is_a_prompt_or_as_much_of_it_as_is_said(name: str) -> None:
    model = zoo(name)
    ids = ids_of(model, "the author wrote a dull and long book .", end=False)
    for variant, positions, options in (WHERE[0], WHERE[2]):
        reft = random_reft(model, variant, positions=positions, **options)
        found = {}
        for prompt in (None, 3, len(ids)):
            with torch.no_grad(), sl.steered(model, reft, 1.5, prompt=prompt):
                found[prompt] = model(torch.tensor([ids] * 2))[1].float()
                again = model(torch.tensor([ids]))[0].float()  # every pass begins anew
            assert_close(again, found[prompt], **near(model))
            _, expected = edited_by_hand(model, ids, reft, 1.5, prompt or len(ids))
            assert_close(found[prompt], expected, **near(model))
        assert torch.equal(found[None], found[len(ids)])
        assert (found[None] - found[3]).abs().max() > 0.1


def check_inside(model: Any, variant: str, positions: str, options: dict[str, Any]) -> None:
    """TransformerLens' own greedy writing under `steered` is that of whole passes with hooks."""
    reft = random_reft(model, variant, positions=positions, **options)
    prompts = WRITTEN[:2]
    expected = [written_by_hand(model, prompt, reft, 1.5)[0] for prompt in prompts]
    ids = [torch.tensor([ids_of(model, prompt, end=False)]) for prompt in prompts]
    writing: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "verbose": False}
    if model is zoo("native"):  # it keeps no cache, so it has to be told
        for start, text in zip(ids, expected, strict=True):
            with sl.steered(model, reft, 1.5, prompt=start.shape[1]):
                whole = model.tokenizer.decode(
                    model.generate(start, **writing)[0], skip_special_tokens=True
                )
            assert whole[len(model.tokenizer.decode(start[0], skip_special_tokens=True)) :] == text
        return
    with sl.steered(model, reft, 1.5):  # a second prompt in the same block is a prompt again
        tokens = [model.generate(start, **writing)[0] for start in ids]
    for start, found, text in zip(ids, tokens, expected, strict=True):
        whole, before = (
            model.tokenizer.decode(t, skip_special_tokens=True) for t in (found, start[0])
        )
        assert whole[len(before) :] == text
    assert expected == sl.generate(model, prompts, reft, strengths=(1.5,), **GREEDY).text.tolist()


@pytest.mark.parametrize("name", [name for name in IN_TURN if name not in ("padded", "bfloat16")])
def test_transformer_lens_own_writing_inside_the_block_is_ours(name: str) -> None:
    """Without the models that write padding rows, which we never do, or whose likeliest tokens
    tie."""
    check_inside(zoo(name), *RICH)


@pytest.mark.parametrize("variant, positions, options", WHERE, ids=[w[1] for w in WHERE])
@pytest.mark.parametrize("name", ["toy-64", "llama"])
def test_so_it_is_inside_the_block_wherever_the_edit_is_made(
    name: str, variant: str, positions: str, options: dict[str, Any]
) -> None:
    check_inside(zoo(name), variant, positions, options)


def test_every_site_counts_the_tokens_of_a_pass_for_itself(tiny) -> None:
    reft = random_reft(tiny, layers=(0, 1), positions="f1+l1+new", tied=False)
    seen: list[list[list[int]]] = []

    class Spied(sl.Reft):
        def edits(self, strength):
            def spy(edit):
                return lambda h, places: (
                    seen.append([places.index.tolist()[0], places.prompt.tolist()])
                    or edit(h, places)
                )

            return tuple((site, spy(edit)) for site, edit in super().edits(strength))

    spied = Spied(**{field.name: getattr(reft, field.name) for field in fields(reft)})
    with torch.no_grad(), sl.steered(tiny, spied):
        for widths in ((4, 1, 1), (3, 1), (1, 1)):
            cache, read = None, 0
            for width in widths:
                read += width
                tokens, mask = (torch.ones(2, n, dtype=torch.long) for n in (width, read))
                _, cache = read_behind(tiny, tokens, mask, cache, {})
    expected = [
        [[0, 1, 2, 3], [4, 4]],
        [[4], [4, 4]],
        [[5], [4, 4]],
        [[0, 1, 2], [3, 3]],
        [[3], [3, 3]],
        [[0], [1, 1]],
        [[1], [1, 1]],
    ]
    assert seen == [one for one in expected for _ in range(2)]


def test_an_edit_for_another_model_is_refused(tiny) -> None:
    other = random_reft(zoo("llama"))
    with pytest.raises(ValueError, match="transfer"), sl.steered(tiny, other):
        raise AssertionError("the block ran")
    for verb in (sl.generate, sl.score):
        with pytest.raises(ValueError, match="transfer"):
            verb(tiny, WRITTEN, other)


def test_an_edit_behind_a_layer_that_is_not_there_is_refused_with_the_nearest(tiny) -> None:
    deep = random_reft(tiny, layers=(9,))
    with pytest.raises(KeyError, match=r"blocks\.9\.hook_resid_post"), sl.steered(tiny, deep):
        raise AssertionError("the block ran")


def test_an_edit_survives_a_file_and_acts_the_same(tiny, tmp_path: Path) -> None:
    reft = random_reft(tiny, positions="f1+l1", layers=(0, 1), tied=False)
    back = sl.load(sl.save(reft, tmp_path / "edit.safetensors"), tiny)
    assert isinstance(back, sl.Reft)
    found, expected = (sl.score(tiny, DATA, value, strengths=(1.0,)) for value in (back, reft))
    assert found.equals(expected) and not expected.equals(sl.score(tiny, DATA, strengths=(1.0,)))
