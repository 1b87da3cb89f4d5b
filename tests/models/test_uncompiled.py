"""torch.compile'd models are steered as they are, and nothing of a steer stays in compiled code."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch.testing import assert_close
from transformers.generation import CompileConfig

import steerlens as sl
from steerlens.models.guards import uncompiled
from steerlens.values.training import Training
from tests.models.zoo import N_CTX, TEXTS, folder, random_reft, random_steer

TOKENS = torch.tensor([[5, 6, 7, 8]])


def plain() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder("llama")).eval()


def whole(model: Any) -> Any:
    return torch.compile(model, backend="eager")


def forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def layers(model: Any) -> Any:
    for layer in model.model.layers:
        layer.compile(backend="eager")
    return model


@pytest.mark.parametrize(
    "compiled, make", [(whole, random_steer), (forward, random_steer), (layers, random_reft)]
)
@torch.no_grad()
def test_a_compiled_model_is_steered_as_the_plain_one_is(
    compiled: Callable[[Any], Any], make: Callable[[Any], Any]
) -> None:
    model, reference = compiled(plain()), plain()
    value, there = make(model), make(reference)
    before = model(TOKENS, use_cache=False).logits  # compiled, without a hook
    with sl.steered(reference, there, 3.0):
        expected = reference(TOKENS, use_cache=False).logits
    assert (expected - before).abs().max() > 0.1
    with sl.steered(model, value, 3.0):
        assert_close(model(TOKENS, use_cache=False).logits, expected)
    assert torch.equal(model(TOKENS, use_cache=False).logits, before)
    assert sl.score(model, TEXTS, value, strengths=3.0).equals(
        sl.score(reference, TEXTS, there, strengths=3.0)
    )


def test_a_hook_of_torch_alone_is_passed_over() -> None:
    """What the block is kept from: the same hook, set by hand."""
    model = forward(plain())
    before = model(TOKENS, use_cache=False).logits
    model.lm_head.register_forward_hook(lambda module, given, made: 2 * made)
    assert torch.equal(model(TOKENS, use_cache=False).logits, before)
    with uncompiled():
        assert_close(model(TOKENS, use_cache=False).logits, 2 * before)


def test_what_generate_compiles_for_a_static_cache_does_not_pass_the_steer_over() -> None:
    """On accelerators it does so by itself, here it is told to."""
    model = plain()
    steer = random_steer(model)
    told = CompileConfig(backend="eager", fullgraph=False, mode=None)
    told._compile_all_devices = True

    def texts(**options: Any) -> list[int]:
        tokens = model.generate(TOKENS, do_sample=False, max_new_tokens=N_CTX // 4, **options)
        return tokens[0].tolist()

    static = {"cache_implementation": "static", "compile_config": told}
    before = texts()
    assert texts(**static) == before
    for strength in (5.0, -5.0):
        with sl.steered(model, steer, strength):
            assert before != texts() == texts(**static)
    assert texts(**static) == before


def test_layers_that_were_compiled_are_passed_over_by_a_resumed_pass_too() -> None:
    data = sl.Labelled(TEXTS * 5, (1.0, -1.0) * (5 * len(TEXTS) // 2))

    def trained(model: Any) -> float:
        options = {"layers": 1, "rank": 1, "training": Training(epochs=1), "progress": False}
        return sl.fit_reft(model, data, **options).report.heldout.steered

    compiled = layers(plain())
    compiled(TOKENS)
    assert trained(compiled) == pytest.approx(trained(plain()), rel=1e-5)


def test_compiling_goes_on_after_the_last_block_alone() -> None:
    seen: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append(1)
        return graph.forward

    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    compiled = torch.compile(double, backend=backend)
    one, other = uncompiled(), uncompiled()
    one.__enter__(), other.__enter__()
    compiled(torch.ones(1))
    one.__exit__(None, None, None)  # blocks of two threads may end in any order
    compiled(torch.ones(1))
    assert not seen
    other.__exit__(None, None, None)
    assert compiled(torch.ones(1)) == 2 and seen
