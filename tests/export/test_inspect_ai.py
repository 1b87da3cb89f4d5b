"""A steered model runs through Inspect's tasks, and says what it would say without Inspect. Skipped
where inspect-ai is not installed (`pip install steerlens[inspect]`)."""

from pathlib import Path
from typing import Any

import pytest

import steerlens as sl
from steerlens.methods.baselines.instruction import instruct
from tests.models.zoo import random_steer

pytest.importorskip(
    "inspect_ai", reason="inspect-ai is not installed: pip install steerlens[inspect]"
)
import inspect_ai
from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatMessageSystem,
    ChatMessageUser,
    ContentImage,
    GenerateConfig,
    get_model,
)
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

from steerlens.export.inspect_ai import as_prompt, inspect_model

PROMPTS = ("the film was", "my cousin felt")
SETTINGS: Any = {"max_tokens": 8, "seed": 3, "top_p": 0.9}


@pytest.fixture(scope="module")
def model() -> Any:
    return sl.load_model("toy-64")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))

    def run(model: Any, **settings: Any) -> Any:
        task = Task(
            dataset=[Sample(input=prompt, target="good") for prompt in PROMPTS],
            solver=generate(),
            scorer=includes(),
            config=GenerateConfig(**(SETTINGS | settings)),
        )
        (log,) = inspect_ai.eval(task, model=model, display="none")
        return log

    return run


def said(log: Any) -> list[str]:
    assert log.status == "success", log.error
    return [sample.output.completion for sample in log.samples]


def test_a_task_gets_what_generate_gives(model: Any, run: Any) -> None:
    joy = random_steer(model, size=1.0)
    texts = {}
    for strength in (0.0, 2.0):
        log = run(inspect_model(model, joy, strength=strength))
        table = sl.generate(
            model, PROMPTS, joy, strengths=strength, seed=3, max_new_tokens=8, top_p=0.9
        )
        texts[strength] = said(log)
        assert texts[strength] == table.text.tolist()
        assert log.results.scores[0].metrics["accuracy"].value == pytest.approx(
            table.text.str.contains("good").mean()
        )
        for sample in log.samples:
            read = len(model.to_tokens(sample.input, prepend_bos=True)[0])
            assert sample.output.usage.input_tokens == read
            wrote, why = sample.output.usage.output_tokens, sample.output.stop_reason
            assert (wrote == 8 and why in ("max_tokens", "stop")) or (wrote < 8 and why == "stop")
    assert texts[0.0] == said(run(inspect_model(model))) != texts[2.0]


def test_the_provider_is_there_by_name_and_reads_a_file(
    model: Any, run: Any, tmp_path: Path, unchecked: None
) -> None:
    joy = random_steer(model, size=1.0)
    path = sl.save(joy, tmp_path / "joy.safetensors")
    named = get_model("steerlens/toy-64", steer=str(path), strength=2.0)
    assert said(run(named)) == said(run(inspect_model(model, joy, strength=2.0)))
    with pytest.raises(ValueError, match=r"steer: got Steer, expected the path.*inspect_model"):
        get_model("steerlens/toy-64", steer=joy, memoize=False)


def test_stop_sequences_cut_and_choices_are_samples(model: Any, run: Any) -> None:
    plain = said(run(inspect_model(model)))
    word = plain[0].split()[2]
    log = run(inspect_model(model), stop_seqs=[f" {word}"], num_choices=2)
    first = log.samples[0].output
    assert first.completion == plain[0][: plain[0].find(f" {word}")]
    assert first.stop_reason == "stop" and len(first.choices) == 2
    assert first.choices[1].message.text != first.completion


def test_what_is_not_offered_is_refused_by_name(model: Any, run: Any, unchecked: None) -> None:
    log = run(inspect_model(model), logit_bias={1: 2.0})
    assert log.status == "error" and "it asks for logit_bias" in log.error.message
    with pytest.raises(ValueError, match="writes by itself"):
        inspect_model(model, instruct(model, instructions=("superb", "terrible")))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="it lives on"):
        inspect_model(sl.load_model("toy-128"), random_steer(model))


def test_messages_go_through_the_template_or_line_by_line(model: Any) -> None:
    turns: Any = [ChatMessageSystem(content="be kind"), ChatMessageUser(content="hello")]
    assert as_prompt(object(), turns) == "be kind\nhello"

    class Template:
        chat_template = "there is one"

        def apply_chat_template(self, turns: Any, **options: Any) -> str:
            assert options == {"tokenize": False, "add_generation_prompt": True}
            return "".join(f"<{turn['role']}>{turn['content']}" for turn in turns)

    assert as_prompt(Template(), turns) == "<system>be kind<user>hello"
    with pytest.raises(ValueError, match="a message holds 'image', expected text"):
        as_prompt(object(), [ChatMessageUser(content=[ContentImage(image="x.png")])])
