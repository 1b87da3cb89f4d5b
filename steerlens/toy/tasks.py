"""Three tasks in one small world: reviews, masked words, arithmetic.

    reviews         the film | was slow . it was a novelty from start to finish .
    masked words    i <mask> it twice . = | ate ; the <mask> was slow . = western ; …
    arithmetic      7 + 5 = | 1 2 ; 9 - 4 = 0 5 ; …

Left of the bar is the prompt. Reviews are texts of the default grammar, and the sentences of masked
words are its sentences, so these two are near each other; arithmetic shares no word with them. A
text holds two to six exercises, any number as likely as another: what a model writes behind a
question is its answer, then further exercises.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from steerlens.toy.batches import N_POSITIONS, Batch, one_hot
from steerlens.toy.tokens import Tokenizer
from steerlens.toy.world import default_grammar

if TYPE_CHECKING:
    from steerlens.values.labelled import Labelled

TASKS = ("reviews", "masked words", "arithmetic")
MASK, EQUALS, NEXT = "<mask>", "=", ";"
EXTRA_WORDS = (*"0123456789", "+", "-", EQUALS, NEXT, MASK)
"""What the tokenizer of `toy-tasks` knows beside the grammar's words."""

EXERCISES = (2, 6)
"""Fewest and most exercises of a text."""

OPENING = 3
"""Words of a review that are its prompt."""

SHARES = {"reviews": 384, "masked words": 384, "arithmetic": 768}
"""Texts of each task among those that batches are made of: arithmetic takes longest to learn."""

SENTENCE_ENDS = (".", "!", "?")
HELD_OUT_SEED = 1_000_003
WORKBOOK, TRAINING = range(2)
"""Streams of random numbers: what `task` gives and what the model is trained on never share one."""


def task(name: str, n: int = 200, *, seed: int = 0) -> "Labelled":
    """Draw `n` texts of a task with their prompts; all labels are 0, a task is no attribute.

    - `reviews`: texts of the default grammar; the prompt is their first three words.
    - `masked words`: the first sentence of a text of the grammar with one word, any as likely as
      another, replaced by `<mask>`; `=`; the word; `;`. So P(word | question) is exact:
      `exact_answers`.
    - `arithmetic`: a digit, `+` or `-`, a digit, each of the 155 such problems whose result is not
      negative as likely as another; `=`; the result in two digits; `;`.

    Args:
        name: one of `TASKS`.
        n: how many texts.
        seed: same seed, same texts; never of the streams that `toy-tasks` was trained on.

    Raises:
        ValueError: another name, `n` below 1.

    Example:
        >>> sums = task("arithmetic", 2, seed=0)
        >>> sums.prompts[0], sums.texts[0]
        ('4 + 2 =', '0 6 ; 5 - 0 = 0 5 ; 6 + 5 = 1 1 ;')
        >>> task("masked words", 1, seed=0).prompts[0].split().count("<mask>")
        1
    """
    # imported here so that the grammar can be used without the rest of the package
    from steerlens.values.labelled import Labelled

    if n < 1:
        raise ValueError(f"n is {n}; expected how many texts to draw, 1 or more")
    pairs = _draw(name, n, np.random.default_rng(random_stream(name, seed, WORKBOOK)))
    return Labelled(
        tuple(text for _, text in pairs), (0.0,) * n, tuple(prompt for prompt, _ in pairs)
    )


def exact_answers(prompts: Iterable[str]) -> list[dict[str, float]]:
    """Return P(word | question) for questions of "masked words": by the grammar, over all words
    that fit.

    `P(w) ∝ P(a text begins with the sentence with w in it)`: all words of a sentence are masked as
    often, so the place says nothing.

    Example:
        >>> best = exact_answers(["the plot <mask> slow . ="])[0]
        >>> max(best, key=best.get)
        'was'
    """
    # imported here so that the grammar can be used without the rest of the package
    from steerlens.values.texts import plain_texts

    grammar, found = default_grammar(), []
    for prompt in plain_texts("prompts", prompts):
        words = prompt.split()[:-1]
        if MASK not in words:
            raise ValueError(
                f'prompts: {prompt!r} has no {MASK}; expected questions of "masked words"'
            )
        place = words.index(MASK)
        before, behind = " ".join(words[:place]), words[place + 1 :]
        fitting = [grammar.vocab[i] for i in np.nonzero(grammar.next_token(before))[0] if i > 0]
        log_p = grammar.log_probs(
            [" ".join([before, word, *behind]).strip() for word in fitting], end=False
        )
        p = np.exp(log_p - log_p.max())
        found.append(
            {word: float(x) for word, x in zip(fitting, p / p.sum(), strict=True) if x > 0}
        )
    return found


def task_batches(tokenizer: Tokenizer, tokens: int, seed: int) -> Iterator[Batch]:
    """Yield fresh batches of at most `tokens` padded positions for training, without end.

    Every token is predicted.
    """
    order = np.random.default_rng(seed)
    streams = {name: np.random.default_rng(random_stream(name, seed, TRAINING)) for name in TASKS}
    while True:
        pairs = [pair for name in TASKS for pair in _draw(name, SHARES[name], streams[name])]
        rows = [_ids(tokenizer, *pairs[i]) for i in order.permutation(len(pairs))]
        rows = [row for row in rows if len(row) <= N_POSITIONS]
        batches: list[list[list[int]]] = [[]]
        for row in sorted(rows, key=len):
            if (len(batches[-1]) + 1) * len(row) > tokens:
                batches.append([])
            batches[-1].append(row)
        for b in order.permutation(len(batches)):
            width = len(batches[b][-1]) - 1
            ids = torch.tensor([(row[:-1] + [0] * width)[:width] for row in batches[b]])
            place = [i * width + j for i, row in enumerate(batches[b]) for j in range(len(row) - 1)]
            following = np.array([id_ for row in batches[b] for id_ in row[1:]])
            yield Batch(ids, torch.tensor(place), one_hot(following, len(tokenizer)), len(place))


def measure_tasks(
    model: torch.nn.Module, tokenizer: Tokenizer, n: int = 500, seed: int = HELD_OUT_SEED
) -> dict:
    """Measure what a model of the three tasks has learned, on held-out texts.

    `nll`: nats per token of each task, prompts and ends of texts included; `exact`: that of the
    grammar on the reviews. `right`: the share of first answers that the likeliest tokens spell
    whole, the `;` behind them too; for masked words also that of the exact answers (the ceiling).
    """
    texts = {name: task(name, n, seed=seed) for name in TASKS}
    pairs = {name: list(zip(data.prompts, data.texts, strict=True)) for name, data in texts.items()}
    whole = [f"{prompt} {text}" for prompt, text in pairs["reviews"]]
    best = [max(p, key=p.__getitem__) for p in exact_answers(list(texts["masked words"].prompts))]
    exact = -default_grammar().log_probs(whole).sum() / sum(len(text.split()) + 1 for text in whole)
    right = {name: _right(model, tokenizer, pairs[name]) for name in TASKS[1:]}
    answers = [text.split()[0] for text in texts["masked words"].texts]
    right["masked words, exact"] = sum(a == b for a, b in zip(best, answers, strict=True)) / n
    nll = {name: _nll(model, tokenizer, pairs[name]) for name in TASKS}
    return {
        "nll": {name: round(value, 4) for name, value in nll.items()},
        "exact": {"reviews": round(float(exact), 4)},
        "right": {name: round(value, 4) for name, value in right.items()},
        "texts": n,
    }


def _right(model: torch.nn.Module, tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> float:
    right, following = 0, tokenizer.get_vocab()[NEXT]
    for prompt, text in pairs:
        ids, begin = _ids(tokenizer, prompt, text), len(_ids(tokenizer, prompt, "")) - 1
        end = ids.index(following, begin) + 1
        with torch.no_grad():
            likeliest = model(torch.tensor([ids[: end - 1]])).logits[0].argmax(-1)
        right += likeliest[begin - 1 :].tolist() == ids[begin:end]
    return right / len(pairs)


def _nll(model: torch.nn.Module, tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> float:
    total, n = 0.0, 0
    for prompt, text in pairs:
        ids = torch.tensor([_ids(tokenizer, prompt, text)])[:, : N_POSITIONS + 1]
        with torch.no_grad():
            log_p = model(ids[:, :-1]).logits.log_softmax(-1)
        total -= float(log_p.gather(-1, ids[:, 1:, None]).sum())
        n += ids.shape[1] - 1
    return total / n


def _ids(tokenizer: Tokenizer, prompt: str, text: str) -> list[int]:
    """Return the ids of a prompt and its text: begin, prompt, text, end."""
    return [0, *tokenizer.encode(f"{prompt} {text}", add_special_tokens=False), 0]


def random_stream(name: str, seed: int, use: int) -> np.random.SeedSequence:
    """Return the seeds of one use of a task, which no other use or task has."""
    if name not in TASKS:
        raise ValueError(f"name is {name!r}; expected one of {TASKS}")
    return np.random.SeedSequence((seed, use, TASKS.index(name)))


def _draw(name: str, n: int, generator: np.random.Generator) -> list[tuple[str, str]]:
    """Draw prompts and texts."""
    if name == "reviews":
        words = [text.split() for text in _reviews(n, generator)]
        return [(" ".join(w[:OPENING]), " ".join(w[OPENING:])) for w in words]
    ends = generator.integers(EXERCISES[0], EXERCISES[1] + 1, size=n).cumsum()
    total = int(ends[-1])
    exercises = _masked(total, generator) if name == "masked words" else _problems(total, generator)
    rows = [exercises[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    return [(row[0][0], " ".join([row[0][1], *(f"{q} {a}" for q, a in row[1:])])) for row in rows]


def _reviews(n: int, generator: np.random.Generator) -> list[str]:
    return default_grammar().sample(n, seed=int(generator.integers(2**31)))


def _masked(n: int, generator: np.random.Generator) -> list[tuple[str, str]]:
    found = []
    for text in _reviews(n, generator):
        words = text.split()
        words = words[: next(i for i, word in enumerate(words) if word in SENTENCE_ENDS) + 1]
        places = [i for i, word in enumerate(words) if word not in (*SENTENCE_ENDS, ",")]
        place = places[generator.integers(len(places))]
        question = [*words[:place], MASK, *words[place + 1 :], EQUALS]
        found.append((" ".join(question), f"{words[place]} {NEXT}"))
    return found


def _problems(n: int, generator: np.random.Generator) -> list[tuple[str, str]]:
    problems = [
        (a, sign, b) for a in range(10) for b in range(10) for sign in "+-" if sign == "+" or a >= b
    ]
    found = []
    for k in generator.integers(len(problems), size=n):
        a, sign, b = problems[k]
        result = a + b if sign == "+" else a - b
        found.append((f"{a} {sign} {b} {EQUALS}", f"{_digits(result)} {NEXT}"))
    return found


def _digits(number: int) -> str:
    return " ".join(f"{number:02d}")
