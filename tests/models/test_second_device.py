"""Whatever is made on the CPU works on a model that is elsewhere, or is spread over two devices."""

import copy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import steerlens as sl
from steerlens.methods.prompt.soft_prompt import SoftPrompt
from steerlens.models.adapters import HuggingFace
from steerlens.values.affine import AffineSteer
from tests.models.families import model_of
from tests.models.second_device import NAME, There, put, second_device
from tests.models.zoo import TEXTS, random_reft, random_steer, tokenizer

DATA = sl.Labelled(TEXTS, (1.0, -1.0, 0.5, -0.5))


@pytest.fixture(scope="module")
def here() -> HuggingFace:
    return HuggingFace(model_of("llama"), tokenizer("bytes"))


@pytest.fixture(params=["all of it", "its head"])
def there(request: pytest.FixtureRequest, here: HuggingFace) -> HuggingFace:
    """The same model: on the second device, or with its head alone there, as by `device_map`."""
    model = copy.deepcopy(here.model)
    if request.param == "all of it":
        put(model)
        return HuggingFace(model, tokenizer("bytes"))
    put(model.lm_head)

    def moved(device: str | torch.device) -> Callable[..., Any]:  # as accelerate's hooks do
        def move(_: Any, given: Any, named: dict[str, Any]) -> Any:
            where = [x.to(device) if isinstance(x, Tensor) else x for x in given]
            tensors = {n: x for n, x in named.items() if isinstance(x, Tensor)}
            return tuple(where), named | {n: x.to(device) for n, x in tensors.items()}

        return move

    model.model.register_forward_pre_hook(moved("cpu"), with_kwargs=True)
    model.lm_head.register_forward_pre_hook(moved(NAME), with_kwargs=True)
    return HuggingFace(model, tokenizer("bytes"))


def near(found: Any, expected: Any) -> None:
    torch.testing.assert_close(
        torch.tensor(list(found)), torch.tensor(list(expected)), atol=1e-4, rtol=1e-4
    )


def test_the_second_device_is_one() -> None:
    with second_device():
        one = torch.ones(2, 2, device=NAME)
        assert isinstance(one, There) and one.device == NAME
        with pytest.raises(RuntimeError, match="two devices"):
            _ = one + torch.ones(2, 2)
        assert torch.equal((one @ one).cpu(), torch.full((2, 2), 2.0))


def interventions(model: HuggingFace) -> dict[str, Any]:
    joy = random_steer(model)
    rows = torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(0))
    return {
        "affine": AffineSteer(joy, torch.ones(32)),
        "by entropy": joy.when("entropy > 1"),
        "reft": random_reft(model),
        "prompt": SoftPrompt(rows, rows, "soft", (), sl.readout(model)),
    }


def test_what_was_made_on_the_cpu_scores_and_writes_there(
    here: HuggingFace, there: HuggingFace
) -> None:
    for name, value in interventions(here).items():
        expected = sl.score(here, TEXTS[:2], value).log_prob
        written = sl.generate(here, ["the film"], value, max_new_tokens=2, temperature=0)
        with second_device():
            found = sl.score(there, TEXTS[:2], value).log_prob
            again = sl.generate(there, ["the film"], value, max_new_tokens=2, temperature=0)
        near(found, expected)
        assert again.text.tolist() == written.text.tolist(), name


def test_states_fits_moves_and_files_there_are_those_here(
    here: HuggingFace, there: HuggingFace, tmp_path: Path
) -> None:
    states = sl.collect(here, DATA, progress=False)
    joy = sl.fit_steer(states, solver="closed-form", progress=False).value
    path = sl.save(joy, tmp_path / "joy.safetensors")
    with second_device():
        again = sl.collect(there, DATA, progress=False)
        assert again.readout.digest == states.readout.digest
        fit = sl.fit_steer(again, solver="closed-form", progress=False).value
        loaded, moved = sl.load(path, there), sl.transfer(joy, there)
        strengths = sl.infer_strength(there, joy, TEXTS[:2]).table.strength
        evidence = sl.highlight(there, joy, TEXTS[1]).tokens.evidence
        made = sl.export.logit_steer(joy)
        logits = there.logits(torch.tensor([[1, 2, 3]]).to(NAME), None)[0]
        steered = made.apply(logits, 0.5)
        assert {t.device for t in (fit.W, loaded.W, moved.W, steered)} == {NAME}
        assert torch.equal(loaded.W.cpu(), joy.W)
        torch.testing.assert_close(fit.W.cpu(), joy.W, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(moved.W.cpu(), joy.W, atol=1e-4, rtol=1e-3)
        steered = steered.cpu()
    plain = here.logits(torch.tensor([[1, 2, 3]]), None)[0].detach()
    torch.testing.assert_close(steered, made.apply(plain, 0.5), atol=1e-4, rtol=1e-4)
    near(strengths, sl.infer_strength(here, joy, TEXTS[:2]).table.strength)
    near(evidence, sl.highlight(here, joy, TEXTS[1]).tokens.evidence)


class Copies(TorchDispatchMode):
    """Counts float32 copies of a matrix of some size that live at once."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers, self.made, self.most = numbers, 0, 0
        self.alive: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        copied = func is torch.ops.aten._to_copy.default and made.dtype == torch.float32
        if copied and made.numel() == self.numbers:
            self.alive = [t for t in self.alive if t() is not None] + [weakref.ref(made)]
            self.made, self.most = self.made + 1, max(self.most, len(self.alive))
        return made


def test_a_large_read_out_in_half_precision_stands_once_in_float32() -> None:
    wide = model_of("llama", hidden_size=288).to(torch.bfloat16)  # its digest is of 256 rows each
    model = HuggingFace(wide, tokenizer("bytes"))
    numbers = model.W_U.numel()
    with Copies(numbers) as control:
        held = [model.W_U.float(), model.W_U.float()]
    assert control.most == len(held)
    del held
    with Copies(numbers) as copies:
        steer = random_steer(model)
        sl.score(model, TEXTS[:2], steer, strengths=(0.0, 1.0), end=False)
        sl.generate(model, ["the film"], steer, max_new_tokens=2)
        sl.collect(model, DATA, progress=False)
        sl.score(model, TEXTS[:2], steer.when("top 20"), end=False)
    assert copies.most == copies.made == 1
