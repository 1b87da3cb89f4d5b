"""What is written depends on the model, the steer, the strength and the seed, and on nothing
else."""

from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

import steerlens as sl
from steerlens.models.hooks import adapter
from steerlens.models.sampling import Warp, sample_tokens
from steerlens.models.writing import ROWS
from tests.models.test_collect import ids_of
from tests.models.zoo import BUILDERS, N_CTX, PADDING, folder, random_steer, zoo

PROMPTS = ["the film", "a very fine cast , and a slow", "nothing here is"]
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 6}
SAMPLED: dict[str, Any] = {"max_new_tokens": 6, "samples": 2}


def texts(*arguments: Any, **options: Any) -> list[str]:
    return sl.generate(*arguments, **options).text.tolist()


def forward_greedy(model: Any, prompt: str, steer: sl.Steer | None, strength: float, n: int) -> str:
    """The likeliest token again and again, each from a forward pass over everything before it."""
    start = ids_of(model, prompt, end=False)
    ids, words = list(start), sl.readout(model).n_tokens
    for _ in range(n):
        with (
            torch.no_grad(),
            sl.steered(model, steer or random_steer(model), strength if steer else 0.0),
        ):
            ids.append(int(model(torch.tensor([ids]))[0, -1, :words].argmax()))
        if ids[-1] == model.tokenizer.eos_token_id:
            break
    whole, before = (
        model.tokenizer.decode(part, skip_special_tokens=True) for part in (ids, start)
    )
    return whole[len(before) :]


@pytest.mark.parametrize("strength", [0.0, 1.5])
def test_cached_batched_writing_is_that_of_full_forward_passes_one_at_a_time(
    single, strength: float
) -> None:
    steer = random_steer(single)
    found = texts(single, PROMPTS, steer, strengths=(strength,), **GREEDY)
    assert found == [forward_greedy(single, p, steer, strength, 6) for p in PROMPTS]
    assert len(set(found)) > 1


def test_a_batch_is_each_prompt_at_each_strength_alone(single) -> None:
    steer, strengths = random_steer(single), (-1.0, 0.0, 2.0)
    table = sl.generate(single, PROMPTS, steer, strengths=strengths, seed=3, **SAMPLED)
    assert table.columns.tolist() == ["prompt", "strength", "sample", "text", "log_prob"]
    assert len(table) == len(PROMPTS) * len(strengths) * 2
    for prompt in PROMPTS[:2]:
        for strength in strengths:
            alone = sl.generate(single, [prompt], steer, strengths=(strength,), seed=3, **SAMPLED)
            rows = table[(table.prompt == prompt) & (table.strength == strength)]
            assert rows.text.tolist() == alone.text.tolist()
            assert rows.log_prob.to_numpy() == pytest.approx(alone.log_prob.to_numpy(), abs=1e-3)
    assert table[table.strength == 2.0].text.tolist() != table[table.strength == 0.0].text.tolist()


def test_strength_zero_writes_what_the_plain_model_writes(model) -> None:
    plain = sl.generate(model, PROMPTS, seed=1, **SAMPLED)
    zero = sl.generate(model, PROMPTS, random_steer(model), strengths=(0.0,), seed=1, **SAMPLED)
    assert zero.text.equals(plain.text)
    assert zero.log_prob.equals(plain.log_prob)


def test_the_same_seed_writes_the_same_and_another_seed_another_text(model) -> None:
    one, same, other = (texts(model, PROMPTS, seed=s, **SAMPLED) for s in (7, 7, 8))
    assert one == same != other
    assert one[0] != one[1]  # nor are two samples alike


def test_a_row_does_not_depend_on_how_many_are_asked_for_or_how_long(tiny) -> None:
    few = sl.generate(tiny, PROMPTS[:1], seed=2, samples=1, max_new_tokens=4)
    many = sl.generate(tiny, [*PROMPTS[1:], PROMPTS[0]], seed=2, samples=3, max_new_tokens=8)
    row = many[(many.prompt == PROMPTS[0]) & (many["sample"] == 0)].text.item()
    assert row.startswith(few.text[0])
    twice = texts(tiny, [PROMPTS[0], PROMPTS[0]], seed=2, max_new_tokens=8)
    assert twice[0] != twice[1]  # a prompt asked for twice is sampled twice


def test_as_long_as_the_context_bears_takes_no_more_memory_than_that(tiny) -> None:
    whole = sl.generate(tiny, PROMPTS, seed=2, max_new_tokens=10**15)
    assert whole.equals(sl.generate(tiny, PROMPTS, seed=2, max_new_tokens=10**3))


def test_batches_of_any_size_write_the_same() -> None:
    # in float64: products of other sizes round differently, and in float32 one of a thousand draws
    # may lie on the edge between two words
    exact = AutoModelForCausalLM.from_pretrained(folder("gpt2"), dtype=torch.float64)
    options = {"strengths": (0, 1), "seed": 0, "samples": ROWS // 3, "max_new_tokens": 3}
    steer = random_steer(exact)
    whole = sl.generate(exact, PROMPTS, steer, **options)
    assert len(whole) > ROWS  # several batches, in which prompts meet
    parts = pd.concat(sl.generate(exact, [p], steer, **options) for p in PROMPTS)
    columns = ["prompt", "strength", "sample", "text"]
    one, other = (t[columns].sort_values(columns[:3], ignore_index=True) for t in (whole, parts))
    assert one.equals(other)


@pytest.mark.parametrize("strength", [0.0, 1.5])
def test_greedy_is_the_librarys_own_greedy_under_steered(single, strength: float) -> None:
    prompt, steer = "a very fine cast", random_steer(single)
    ids = torch.tensor([ids_of(single, prompt, end=False)])
    expected = texts(single, [prompt], steer, strengths=(strength,), **GREEDY)[0]
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    with sl.steered(single, steer, strength):
        written = {"generate": single.generate(ids, verbose=False, **options)}
        if hasattr(single, "generate_stream"):  # TransformerLens' alone
            stream = list(single.generate_stream(ids, verbose=False, **options))
            # it gives the prompt with the first tokens, then what is new
            written["generate_stream"] = torch.cat(stream, dim=1)
        if hasattr(single, "hf_generate") and single is not zoo("native"):
            written["hf_generate"] = single.hf_generate(ids, **options)
    words = single.tokenizer.decode(ids[0], skip_special_tokens=True)
    if sl.readout(single).n_tokens < sl.readout(single).d_vocab:
        return  # TransformerLens writes padding rows, which we never do
    for verb, tokens in written.items():
        new = tokens[0, ids.shape[1] :] if tokens.shape[1] > 6 else tokens[0]
        whole = single.tokenizer.decode([*ids[0].tolist(), *new.tolist()], skip_special_tokens=True)
        assert whole[len(words) :] == expected, verb


def test_the_users_hooks_act_while_writing_and_survive(tiny) -> None:
    plain = texts(tiny, PROMPTS, **GREEDY)
    point = tiny.hook_dict["unembed.hook_in"]
    try:
        tiny.add_hook("unembed.hook_in", lambda c, hook: -c)
        turned = texts(tiny, PROMPTS, random_steer(tiny), strengths=(0.0,), **GREEDY)
        assert turned == texts(tiny, PROMPTS, **GREEDY) != plain
    finally:
        point.remove_hooks()


def test_log_prob_is_the_score_of_the_whole_less_the_prompt(single, spelled) -> None:
    prompt, written = "the film was", spelled
    steer = random_steer(single, size=0.2)
    table = sl.generate(
        single, [prompt], steer, strengths=(0.0, 1.0), samples=4, max_new_tokens=5, seed=0
    )
    compared = 0
    for row, (before, new) in zip(table.itertuples(), written, strict=True):
        with torch.no_grad(), sl.steered(single, steer, row.strength):
            log_p = torch.log_softmax(single(torch.tensor([before + new]))[0].float(), 1)
        places = range(len(before) - 1, len(before + new) - 1)
        assert row.log_prob == pytest.approx(float(log_p[list(places), new].sum()), abs=2e-3)
        if (
            ids_of(single, prompt + row.text, end=False) == before + new
        ):  # the text is read as the tokens written
            score = sl.score(
                single, [prompt, prompt + row.text], steer, strengths=(row.strength,), end=False
            )
            sums = score.groupby("text").log_prob.sum()
            assert row.log_prob == pytest.approx(sums[1] - sums[0], abs=2e-3)
            compared += 1
    # tokens of bytes seldom spell text that is read the same way; words always do
    assert compared > 0 or sl.readout(single).n_tokens == 330


def test_padding_rows_of_the_vocabulary_are_never_written(spelled) -> None:
    model = sl.load_model(folder("gpt2", PADDING))
    on = sl.readout(model)
    padding = adapter(model).unembedding.weight[on.n_tokens :]
    with torch.no_grad():  # wherever a context lies, one of two that are opposite is the likeliest
        padding.normal_(std=20.0, generator=torch.Generator().manual_seed(0))
        padding[1::2] = -padding[: len(padding) // 2 * 2 : 2]
    prompt = torch.tensor([ids_of(model, "the film", end=False)])
    assert int(model(prompt)[0, -1].argmax()) >= on.n_tokens
    table = sl.generate(model, PROMPTS, samples=5, max_new_tokens=2)
    written = [token for _, new in spelled for token in new]
    assert len(written) > 15 and max(written) < on.n_tokens
    assert (
        table.log_prob < -20
    ).all()  # what is written is unlikely under the model, and the table says so


def test_writing_stops_at_the_end_of_text() -> None:
    model = zoo("toy-64")
    table = sl.generate(model, ["the film was"], samples=8, max_new_tokens=60, seed=0)
    ended = [text for text in table.text if text.rstrip().endswith((".", "!", "?"))]
    assert len(ended) >= 4  # the toy's texts are shorter than that
    assert not any("<|" in text for text in table.text)
    assert max(len(text.split()) for text in table.text) < 60


@pytest.mark.parametrize("plain", [False, True])
def test_writing_stops_where_a_chat_model_ends_its_turn(plain: bool) -> None:
    """Gemma's `<end_of_turn>` is no end-of-text of its tokenizer; `generation_config` names it."""
    model: Any = sl.load_model("toy-64", plain=plain)
    published = (model.model if plain else model.original_model).generation_config
    before = sl.generate(model, ["the film was"], samples=8, max_new_tokens=20, seed=0).text
    stop = adapter(model).tokenizer.encode(" .", add_special_tokens=False)[-1]
    published.eos_token_id = [0, stop]
    after = sl.generate(model, ["the film was"], samples=8, max_new_tokens=20, seed=0).text
    assert before.str.count(r"\.").max() > 1
    assert [text.split(".")[0] for text in before] == [text.split(".")[0] for text in after]
    assert after.str.count(r"\.").max() == 1 and not after.str.contains(r"\. .").any()


def test_writing_stops_where_the_context_is_full_and_no_row_takes_room_from_another(single) -> None:
    sentence = "the film was good . "
    longest = single.cfg.n_ctx // 4 * sentence
    while len(ids_of(single, longest, end=False)) >= single.cfg.n_ctx - 2:
        longest = longest[len(sentence) :]
    prompts = [longest[: -3 * len(sentence)].strip() or "the film", longest.strip()]
    room = {p: single.cfg.n_ctx - len(ids_of(single, p, end=False)) for p in prompts}
    eos, single.tokenizer.eos_token = (
        single.tokenizer.eos_token,
        None,
    )  # nothing ends a text but the context
    try:
        written = sl.generate(single, prompts, temperature=0, max_new_tokens=single.cfg.n_ctx + 5)
        alone = sl.generate(single, prompts[:1], temperature=0, max_new_tokens=single.cfg.n_ctx + 5)
    finally:
        single.tokenizer.eos_token = eos
    assert written.text[0] == alone.text[0]
    # every step adds one log-probability: the sums differ by as many tokens as there was room for
    assert room[prompts[0]] > room[prompts[1]] > 0
    assert len(written.text[0]) > len(written.text[1]) > 0


def test_one_candidate_is_greedy_however_it_is_asked_for(tiny) -> None:
    greedy = texts(tiny, PROMPTS, **GREEDY)
    assert texts(tiny, PROMPTS, top_k=1, max_new_tokens=6) == greedy
    assert texts(tiny, PROMPTS, top_p=1e-9, max_new_tokens=6) == greedy
    assert texts(tiny, PROMPTS, temperature=1e-4, max_new_tokens=6) == greedy
    assert texts(tiny, PROMPTS, max_new_tokens=6) != greedy


def test_an_empty_prompt_starts_from_nothing_where_there_is_a_beginning(tiny, no_bos) -> None:
    assert texts(tiny, [""], max_new_tokens=4)[0]
    no_bos(tiny)
    with pytest.raises(ValueError, match="no begin-of-text"):
        sl.generate(tiny, [""])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prompts": []}, "at least one text"),
        ({"prompts": ["good " * 50]}, f"the context is {N_CTX}"),
        ({"strengths": ()}, "strengths: got none"),
        ({"samples": 0}, "samples"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": "5"}, "top_k: got '5', expected a whole number"),
        ({"temperature": "1"}, "temperature: got '1', expected a number"),
        ({"samples": True}, "samples: got True, expected a whole number"),
        ({"seed": "x"}, "seed: got 'x', expected an integer"),
        ({"seed": 1.5}, "seed: got 1.5, expected an integer"),
    ],
)
def test_bad_arguments_are_refused_by_name(
    tiny, unchecked: None, options: dict[str, Any], message: str
) -> None:
    arguments = {"prompts": PROMPTS, **options}
    with pytest.raises(ValueError, match=message):
        sl.generate(tiny, arguments.pop("prompts"), **arguments)


def test_a_steer_for_another_model_is_refused(tiny) -> None:
    with pytest.raises(ValueError, match="transfer"):
        sl.generate(tiny, PROMPTS, random_steer(zoo("llama")))


def test_an_equal_model_is_checked_once_and_not_at_every_token() -> None:
    steer, model, passes = random_steer(zoo("gpt2")), BUILDERS["gpt2"](), []
    model.register_forward_pre_hook(lambda _, given: passes.append(tuple(given[0].shape)))
    sl.readout(model)
    passes.clear()
    sl.readout(model)  # the probe, of a model that was asked before
    probe, each = passes[0], len(passes)
    passes.clear()
    sl.generate(model, PROMPTS, steer, max_new_tokens=6)
    assert probe == (2, 6) and (3, 1) in passes
    assert each <= passes.count(probe) <= 2 * each


def test_modes_are_as_before(single) -> None:
    modes = [m.training for m in single.modules()]
    single.train()
    try:
        one, two = (texts(single, PROMPTS, **GREEDY) for _ in range(2))
        assert one == two
        assert single.training
    finally:
        for m, training in zip(single.modules(), modes, strict=True):
            m.training = training


LOGITS = torch.tensor([[2.0, 0.0, 1.0, -1.0, -torch.inf]])


@pytest.mark.parametrize(
    "temperature, top_p, top_k, kept",
    [
        (1.0, 1.0, None, (0, 1, 2, 3)),
        (0.5, 1.0, None, (0, 1, 2, 3)),
        (1.0, 1.0, 2, (0, 2)),
        (1.0, 0.7, None, (0, 2)),  # 0.64 is not enough, 0.88 is
        (1.0, 0.6, None, (0,)),
        (2.0, 0.95, 3, (0, 1, 2)),
    ],
)
def test_tokens_are_picked_as_often_as_they_are_likely(
    temperature: float, top_p: float, top_k: int | None, kept: tuple[int, ...]
) -> None:
    n = 20_000
    uniform = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = (
        torch.bincount(
            sample_tokens(LOGITS.expand(n, -1), uniform, Warp(temperature, top_p, top_k)),
            minlength=5,
        )
        / n
    )
    p = torch.zeros(5)
    p[list(kept)] = torch.softmax(LOGITS[0, list(kept)] / temperature, 0)
    # five standard deviations of a proportion
    assert ((counts - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all()


def test_the_smallest_and_largest_uniform_numbers_pick_tokens_that_were_kept() -> None:
    edges = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    picked = sample_tokens(LOGITS.expand(2, -1), edges)
    assert picked.tolist() == [0, 3]  # the likeliest and the least likely, never the impossible
    assert sample_tokens(LOGITS.expand(2, -1), edges, Warp(top_k=2)).tolist() == [0, 2]
    assert sample_tokens(LOGITS, edges[:1], Warp(0)).tolist() == [0]
