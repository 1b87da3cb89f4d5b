"""Threads with different interventions and verbs on one model get what each gets alone."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import steerlens as sl
from steerlens.models.guards import exclusive
from steerlens.models.hooks import adapter, eval_mode, run_until
from steerlens.models.partial_forward import resumed, resumes
from tests.models.zoo import TEXTS, random_reft, random_steer, zoo

PROMPTS = ("the film was", "a very fine cast")


def at_once(works: list[Callable[[], Any]]) -> list[Any]:
    """What each work gives, or the error it raises, all begun together."""
    found: list[Any] = [None] * len(works)
    start = threading.Barrier(len(works))

    def run(k: int) -> None:
        start.wait()
        try:
            found[k] = works[k]()
        except RuntimeError as error:
            found[k] = error

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


@pytest.mark.parametrize("name", ["gpt2", "plain-gpt2"])
def test_steers_and_verbs_do_not_meet(name: str) -> None:
    model = zoo(name)
    one, other, edit = random_steer(model), random_steer(model, seed=5), random_reft(model)
    works: list[Callable[[], Any]] = [
        lambda: sl.generate(model, PROMPTS, one, strengths=(2.0,), max_new_tokens=4).text.tolist(),
        lambda: sl.generate(model, PROMPTS, edit, strengths=(2.0,), max_new_tokens=4).text.tolist(),
        lambda: sl.score(model, TEXTS, other, strengths=(0.0, -2.0), end=False).log_prob.tolist(),
        lambda: sl.score(model, TEXTS, one, strengths=(2.0,), end=False).log_prob.tolist(),
        lambda: sl.collect(model, TEXTS, intervention=edit, progress=False).readout.digest,
    ]
    alone = [work() for work in works]
    assert alone[0] != alone[1]
    assert at_once(works) == alone


def test_of_two_threads_that_open_a_block_one_is_refused_by_name_or_comes_after() -> None:
    model = zoo("plain-gpt2")
    tokens = torch.tensor([[1, 2, 3, 4]])
    steers = [random_steer(model, seed=k) for k in range(4)]

    def steered(k: int) -> list[float]:
        with sl.steered(model, steers[k], 2.0):
            return [float(adapter(model).logits(tokens, None).sum()) for _ in range(5)]

    alone = [steered(k) for k in range(4)]
    assert len({tuple(x) for x in alone}) == 4
    for _ in range(5):
        for mine, found in zip(
            alone, at_once([lambda k=k: steered(k) for k in range(4)]), strict=True
        ):
            if isinstance(found, RuntimeError):
                assert "another thread has it inside `with steerlens.steered" in str(found)
            else:
                assert found == mine


def logits(model: Any) -> torch.Tensor:
    return adapter(model).logits(torch.tensor([[1, 2, 3, 4]]), None)


def test_of_two_tasks_of_one_event_loop_that_open_a_block_one_is_refused_by_name() -> None:
    model = zoo("plain-gpt2")
    steer = random_steer(model)

    def alone(strength: float) -> torch.Tensor:
        with sl.steered(model, steer, strength):
            return logits(model)

    async def task(strength: float) -> torch.Tensor:
        with sl.steered(model, steer, strength):
            await asyncio.sleep(0)  # here the other goes on
            return logits(model)

    async def both() -> list[Any]:
        return await asyncio.gather(task(3.0), task(-3.0), return_exceptions=True)

    first, second = asyncio.run(both())
    assert torch.equal(first, alone(3.0)) and not torch.equal(first, alone(-3.0))
    assert isinstance(second, RuntimeError)
    assert "another task has it inside `with steerlens.steered" in str(second)


def test_tasks_that_are_begun_inside_a_block_are_steered_by_it() -> None:
    model = zoo("plain-gpt2")
    steer = random_steer(model)

    async def ask(prompt: str) -> str:
        await asyncio.sleep(0)
        return sl.generate(model, [prompt], max_new_tokens=4).text[0]

    async def everyone() -> list[str]:
        with sl.steered(model, steer, 3.0):
            return await asyncio.gather(*map(ask, PROMPTS))

    options = {"strengths": 3.0, "max_new_tokens": 4}
    expected = [sl.generate(model, [p], steer, **options).text[0] for p in PROMPTS]
    assert expected != [sl.generate(model, [p], max_new_tokens=4).text[0] for p in PROMPTS]
    assert asyncio.run(everyone()) == expected


def in_a_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@pytest.mark.parametrize("name", ["gpt2", "plain-gpt2"])
def test_a_pass_of_the_users_own_amid_a_verb_is_plain_and_the_verb_goes_on(name: str) -> None:
    model = zoo(name)
    steer, main = random_steer(model), threading.get_ident()
    works: list[Callable[[], Any]] = [
        lambda: sl.generate(
            model, PROMPTS, steer, strengths=(3.0,), max_new_tokens=4
        ).text.tolist(),
        lambda: sl.score(model, TEXTS, end=False).log_prob.tolist(),
        lambda: (resumes(model, 0), passed_over(model).tolist()),
    ]
    with torch.no_grad():
        alone, plain = [work() for work in works], logits(model)
        beside: list[torch.Tensor] = []

        def another(*_: Any) -> None:
            if threading.get_ident() == main:
                beside.append(in_a_thread(lambda: logits(model)))

        # before the head, so amid whatever is done there; and before what is passed over
        modules = [adapter(model).unembedding, adapter(model).blocks[0]]
        handles = [module.register_forward_pre_hook(another) for module in modules if module]
        try:
            found = [work() for work in works]
        finally:
            for handle in handles:
                handle.remove()
    assert found == alone
    assert len(beside) > 6 and all(torch.equal(one, plain) for one in beside)


def passed_over(model: Any) -> torch.Tensor:
    tokens = torch.tensor([[1, 2, 3]])
    width = adapter(model).d_model
    with eval_mode(model), resumed(model, 0, torch.ones(1, 3, width)):
        return run_until(model, "unembed.hook_in", tokens, torch.ones_like(tokens))


def test_what_a_thread_older_than_a_block_runs_is_refused_and_a_younger_one_is_steered() -> None:
    model = zoo("plain-gpt2")
    steer, plain = random_steer(model), logits(model)
    with ThreadPoolExecutor(1) as older:
        assert torch.equal(older.submit(logits, model).result(), plain)
        with sl.steered(model, steer, 2.0):
            mine = logits(model)
            with pytest.raises(RuntimeError, match="run while another thread has it inside"):
                older.submit(logits, model).result()
            assert torch.equal(in_a_thread(lambda: logits(model)), mine)
        assert not torch.equal(mine, plain)
        assert torch.equal(older.submit(logits, model).result(), plain)


def test_what_a_task_beside_a_block_runs_is_refused_and_what_the_block_hands_on_is_steered() -> (
    None
):
    model = zoo("plain-gpt2")
    steer = random_steer(model)

    async def block() -> list[torch.Tensor]:
        with sl.steered(model, steer, 3.0):
            await asyncio.sleep(0)
            return [logits(model), await asyncio.to_thread(logits, model)]

    async def beside() -> torch.Tensor:
        return logits(model)

    async def both() -> list[Any]:
        await asyncio.to_thread(lambda: None)  # so that its thread is older than the block
        return await asyncio.gather(block(), beside(), return_exceptions=True)

    inside, refused = asyncio.run(both())
    with sl.steered(model, steer, 3.0):
        assert all(torch.equal(one, logits(model)) for one in inside)
    assert isinstance(refused, RuntimeError) and "another task has it inside" in str(refused)


def test_layers_are_found_whatever_else_runs_meanwhile() -> None:
    model, main = sl.load_model("toy-64", plain=True), threading.get_ident()

    def another(*_: Any) -> None:
        if threading.get_ident() == main:
            in_a_thread(lambda: logits(model))

    adapter(model).unembedding.register_forward_pre_hook(another)
    adapter(model).module.get_input_embeddings().register_forward_pre_hook(another)
    assert len(adapter(model).blocks) == model.model.config.num_hidden_layers  # type: ignore[union-attr]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_forked_amid_a_verb_of_another_thread_says_so_and_does_not_wait() -> None:
    model = zoo("plain-gpt2")
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(model):
            taken.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            with exclusive(model):
                os._exit(1)
        except RuntimeError as error:
            os._exit(0 if "forked while another thread" in str(error) else 2)
    done.set()
    thread.join(60)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with exclusive(model):  # the parent goes on
        pass
