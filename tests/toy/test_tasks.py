"""The three tasks: what their texts say is so, their streams share nothing, and the shipped model
has learned them."""

import json

import numpy as np
import pytest
import torch

from steerlens.toy import default_grammar, weights_folder
from steerlens.toy.shipped import NAMES, SHIPPED, TASK_MODEL
from steerlens.toy.tasks import (
    EXERCISES,
    EXTRA_WORDS,
    HELD_OUT_SEED,
    TASKS,
    exact_answers,
    measure_tasks,
    random_stream,
    task,
    task_batches,
)
from steerlens.toy.tokens import word_tokenizer
from steerlens.toy.train import RECIPES, Recipe, build_model, descend, load


def whole(name: str, n: int = 200, seed: int = 3) -> list[str]:
    data = task(name, n, seed=seed)
    return [f"{prompt} {text}" for prompt, text in zip(data.prompts, data.texts, strict=True)]


def exercises(text: str) -> list[tuple[list[str], list[str]]]:
    """Questions and answers."""
    assert text.endswith(" ;")
    rows = [item.split(" = ") for item in text.removesuffix(" ;").split(" ; ")]
    return [(question.split(), answer.split()) for question, answer in rows]


@pytest.fixture(scope="module")
def shipped():
    return load(TASK_MODEL)


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_gives_the_same_texts_and_another_others(name: str):
    one, again, other = (task(name, 20, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one.texts != other.texts
    assert len(one) == len(one.prompts) == 20 and set(one.labels) == {0.0}


def test_reviews_are_texts_of_the_grammar_cut_behind_three_words():
    assert np.isfinite(default_grammar().log_probs(whole("reviews"))).all()
    assert {len(prompt.split()) for prompt in task("reviews", 50).prompts} == {3}


@pytest.mark.parametrize("name", TASKS[1:])
def test_exercises_come_two_to_six_a_text_and_the_prompt_is_the_first_question(name: str):
    counts = {len(exercises(text)) for text in whole(name)}
    assert counts == set(range(EXERCISES[0], EXERCISES[1] + 1))
    for prompt, text in zip(task(name, 20).prompts, task(name, 20).texts, strict=True):
        assert prompt.endswith(" =") and prompt.count("=") == 1
        assert exercises(f"{prompt} {text}")[0][0] == prompt.split()[:-1]


def test_results_are_right_have_two_digits_and_all_problems_come():
    rows = [row for text in whole("arithmetic", 400) for row in exercises(text)]
    for question, answer in rows:
        a, sign, b = int(question[0]), question[1], int(question[2])
        assert len(question) == 3 and len(answer) == 2
        assert int("".join(answer)) == (a + b if sign == "+" else a - b)
    assert len({tuple(question) for question, _ in rows}) == 155


def test_masked_words_fit_where_they_were():
    rows = [row for text in whole("masked words", 60) for row in exercises(text)]
    for question, answer in rows:
        assert question.count("<mask>") == 1 and len(answer) == 1
        sentence = " ".join(answer[0] if word == "<mask>" else word for word in question)
        assert np.isfinite(default_grammar().log_prob(sentence, end=False))
        assert question[-1] in (".", "!", "?") and answer[0] not in (".", "!", "?", ",")
    assert len({question.index("<mask>") for question, _ in rows}) > 5


def test_exact_answers_are_bayes_rule_by_brute_force():
    grammar = default_grammar()
    data = task("masked words", 3, seed=5)
    for prompt, text, found in zip(
        data.prompts, data.texts, exact_answers(list(data.prompts)), strict=True
    ):
        sentences = [
            prompt.removesuffix(" =").replace("<mask>", word) for word in grammar.vocab[1:]
        ]
        p = np.exp(grammar.log_probs(sentences, end=False))
        expected = dict(zip(grammar.vocab[1:], p / p.sum(), strict=True))
        assert {word for word, x in expected.items() if x > 0} == set(found)
        assert all(found[word] == pytest.approx(expected[word], rel=1e-9) for word in found)
        assert text.split()[0] in found


def test_training_and_what_is_given_share_no_stream():
    states = {
        tuple(random_stream(name, seed, use).generate_state(4))
        for name in TASKS
        for seed in (0, 1)
        for use in (0, 1)
    }
    assert len(states) == 12
    tokenizer = word_tokenizer(default_grammar(), EXTRA_WORDS)
    batches = task_batches(tokenizer, 2048, seed=0)
    trained = {tuple(row.tolist()[1:9]) for _ in range(10) for row in next(batches).ids}
    mine = {
        tuple(tokenizer.encode(text)[:8]) for name in TASKS[:2] for text in whole(name, 50, seed=0)
    }
    assert len(mine & trained) < 5


def test_batches_predict_every_token_of_their_texts_and_all_tasks_come():
    tokenizer = word_tokenizer(default_grammar(), EXTRA_WORDS)
    stream = task_batches(tokenizer, 512, seed=0)
    seen = set()
    for _ in range(8):
        batch = next(stream)
        assert batch.ids.numel() <= 512 and len(batch.target) == len(batch.place) == batch.n_tokens
        assert (batch.target.sum(1) == 1).all()
        following = batch.target.argmax(1)
        inside = (batch.place + 1) % batch.ids.shape[1] != 0
        ahead = batch.ids.flatten()[batch.place[inside] + 1]
        assert ((ahead == following[inside]) | (ahead == 0) & (following[inside] == 0)).all()
        seen |= set(tokenizer.convert_ids_to_tokens(following.tolist()))
    assert {"<mask>", "+", "-", "<|endoftext|>", "the"} <= seen and "<|unk|>" not in seen


def test_training_on_tasks_repeats_itself():
    tokenizer = word_tokenizer(default_grammar(), EXTRA_WORDS)
    recipe = Recipe(d=8, layers=1, heads=1, steps=2, rate=1e-2, tokens=256)
    one, two = (
        descend(recipe, len(tokenizer), task_batches(tokenizer, 256, seed=0), seed=0)
        for _ in range(2)
    )
    assert all(
        torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items()
    )


def test_the_model_is_small_plain_and_not_among_those_of_the_grammar(shipped):
    assert TASK_MODEL not in NAMES and set(SHIPPED) == {*NAMES, TASK_MODEL}
    assert sum(path.stat().st_size for path in weights_folder(TASK_MODEL).iterdir()) < 600_000
    model, tokenizer = shipped
    assert model.dtype == torch.float32 and not model.training
    assert tokenizer.get_vocab() == word_tokenizer(default_grammar(), EXTRA_WORDS).get_vocab()
    texts = [text for name in TASKS for text in whole(name, 50)]
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts
    assert 1 not in tokenizer.encode(" ".join(texts))


def test_the_model_has_learned_the_tasks_and_an_untrained_one_has_not(shipped):
    model, tokenizer = shipped
    found = measure_tasks(model, tokenizer, n=80)
    kept = json.loads((weights_folder(TASK_MODEL) / "training.json").read_text())
    for name in TASKS:
        assert found["nll"][name] == pytest.approx(kept["nll"][name], abs=0.1)
        assert name == "reviews" or found["right"][name] == pytest.approx(
            kept["right"][name], abs=0.15
        )
    assert found["right"]["arithmetic"] > 0.8
    assert found["right"]["masked words"] > 0.7 * found["right"]["masked words, exact"]
    assert found["exact"]["reviews"] < found["nll"]["reviews"] < found["exact"]["reviews"] + 0.35
    torch.manual_seed(0)
    before = measure_tasks(
        build_model(RECIPES[TASK_MODEL], len(tokenizer)).eval(), tokenizer, n=10, seed=HELD_OUT_SEED
    )
    assert (
        max(before["right"][name] for name in TASKS[1:]) < 0.2 and min(before["nll"].values()) > 6
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: task("sums"),
            r"name is 'sums'; expected one of \('reviews', 'masked words', 'arithmetic'\)",
        ),
        (lambda: task("reviews", 0), "n is 0; expected how many texts to draw, 1 or more"),
    ],
)
def test_errors_say_what_was_expected(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
