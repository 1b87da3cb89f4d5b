"""vLLM's and SGLang's processors against stand-ins of their documented interfaces. No server ran."""

import sys
from abc import ABC, abstractmethod
from enum import Enum, auto
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import steerlens as sl
from steerlens.export import sglang, vllm
from steerlens.export.inspect_ai import inspect_model
from steerlens.export.logits import logit_steer
from steerlens.values.logit_steer import LogitSteer
from tests.export.test_logits import head, steer_on


class V1(ABC):
    """vLLM's first interface: what it asks of a class, and nothing else."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        return None

    @abstractmethod
    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None: ...

    @abstractmethod
    def apply(self, logits: Tensor) -> Tensor: ...

    @abstractmethod
    def is_argmax_invariant(self) -> bool: ...

    @abstractmethod
    def update_state(self, batch_update: Any) -> None: ...


class Move(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


class V2(ABC):
    """vLLM's second, of model runner V2."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:  # noqa: B027
        """It keeps nothing."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        return None

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        return True

    @abstractmethod
    def apply(self, logits: Tensor, ctx: Any) -> Tensor: ...


class Custom(ABC):
    """SGLang's."""

    @abstractmethod
    def __call__(self, logits: Tensor, custom_param_list: list | None = None) -> Tensor: ...


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of the names that the real packages have."""
    homes: dict[str, dict[str, Any]] = {
        "vllm.v1.sample.logits_processor": {"LogitsProcessor": V1, "MoveDirectionality": Move},
        "vllm.v1.worker.gpu.sample.logits_processor.interface": {"LogitsProcessor": V2},
        "sglang.srt.sampling.custom_logit_processor": {"CustomLogitProcessor": Custom},
    }
    for home, content in homes.items():
        parts = home.split(".")
        for n in range(1, len(parts) + 1):
            name = ".".join(parts[:n])
            if name not in sys.modules or n == len(parts):
                monkeypatch.setitem(sys.modules, name, ModuleType(name))
        vars(sys.modules[home]).update(content)


@pytest.fixture
def it() -> LogitSteer:
    return logit_steer(steer_on(head()))


@pytest.fixture
def path(it: LogitSteer, tmp_path: Path) -> Path:
    return it.save(tmp_path / "joy.logits.safetensors")


def request(strength: object = None, **options: object) -> SimpleNamespace:
    """Sampling parameters as vLLM's; what is not given is idle."""
    idle = {
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "logit_bias": None, "bad_words": [],
        "allowed_token_ids": None, "min_tokens": 0, "structured_outputs": None,
    }  # fmt: skip
    extra = None if strength is None else {"steer_strength": strength}
    return SimpleNamespace(**{**idle, **options}, extra_args=extra)


def logits(rows: int) -> Tensor:
    return head().logits(torch.randn(rows, 32, generator=torch.Generator().manual_seed(1)))


def test_runner_2_steers_the_rows_of_each_request(servers, path: Path, it: LogitSteer) -> None:
    Processor = vllm.processor(path)
    assert issubclass(Processor, V2)
    states = SimpleNamespace(device=torch.device("cpu"), max_num_reqs=8)
    made = Processor(None, states)
    assert [made.add_request(slot, request(s)) for slot, s in ((5, 2.0), (2, None), (0, -1))] == [
        True,
        False,
        True,
    ]
    slots = torch.tensor([2, 5, 5, 0], dtype=torch.int32)  # the second request has a draft token
    z = logits(4)
    found = made.apply(z.clone(), SimpleNamespace(expanded_idx_mapping=slots))
    assert torch.equal(found, it.apply(z, torch.tensor([0.0, 2.0, 2.0, -1.0])))
    assert torch.equal(found[0], z[0])
    made.add_request(5, request())  # the slot is given to another, who wants none
    assert torch.equal(made.apply(z, SimpleNamespace(expanded_idx_mapping=slots))[1], z[1])


def test_runner_1_follows_the_batch(servers, path: Path, it: LogitSteer) -> None:
    Processor = vllm.processor(path, runner=1)
    made = Processor(None, torch.device("cpu"), False)
    assert issubclass(Processor, V1) and made.is_argmax_invariant() is False
    z = logits(4)
    assert made.apply(z) is z
    made.update_state(None)

    def update(added=(), removed=(), moved=()) -> Tensor:
        rows = [(row, request(s), None, []) for row, s in added]
        made.update_state(SimpleNamespace(removed=removed, added=rows, moved=moved, batch_size=4))
        return made.apply(z.clone())

    def expected(*strengths: float) -> Tensor:
        return it.apply(z, torch.tensor(strengths))

    assert torch.equal(update(added=[(0, 1.0), (1, None), (3, -2.0)]), expected(1, 0, 0, -2))
    assert torch.equal(update(moved=[(3, 1, Move.UNIDIRECTIONAL)]), expected(1, -2, 0, 0))
    assert torch.equal(update(moved=[(0, 2, Move.SWAP)]), expected(0, -2, 1, 0))
    assert torch.equal(update(moved=[(1, 2, Move.SWAP)]), expected(0, 1, -2, 0))
    assert torch.equal(update(removed=[2], added=[(2, 0.5)]), expected(0, 1, 0.5, 0))
    assert torch.equal(update(added=[(1, None)]), expected(0, 0, 0.5, 0))  # in place of another
    assert torch.equal(update(moved=[(0, 2, Move.UNIDIRECTIONAL)]), z)


@pytest.mark.parametrize("runner", [1, 2])
@pytest.mark.parametrize(
    "options, message",
    [
        ({"strength": "2"}, "'2', expected a finite number"),
        ({"strength": True}, "True, expected a finite number"),
        ({"strength": float("nan")}, "nan, expected"),
        ({"strength": 1e6}, "take at most"),
        ({"strength": 1.0, "repetition_penalty": 1.1}, "repetition_penalty=1.1"),
        ({"strength": 1.0, "presence_penalty": 0.5}, "presence_penalty=0.5"),
        ({"strength": 1.0, "logit_bias": {3: 5.0}}, "logit_bias"),
        ({"strength": 1.0, "bad_words": ["no"]}, "bad_words"),
        ({"strength": 1.0, "min_tokens": 3}, "min_tokens=3"),
        ({"strength": 1.0, "structured_outputs": object()}, "structured_outputs"),
    ],
)
def test_a_request_that_cannot_be_steered_is_refused_at_the_door(
    servers, path: Path, runner: int, options: dict, message: str
) -> None:
    Processor = vllm.processor(path, runner=runner)
    with pytest.raises(ValueError, match=message):
        Processor.validate_params(request(**options))
    Processor.validate_params(request(**(options | {"strength": None})))  # unsteered, all is well
    Processor.validate_params(request(1.0))
    Processor.validate_params(request(1.0, logit_bias={}, bad_words=()))  # as clients send none


def test_masks_pass_where_the_steer_can_fill_them(servers, tmp_path: Path) -> None:
    whole = logit_steer(steer_on(head()), holes=True).save(tmp_path / "whole.safetensors")
    Processor = vllm.processor(whole)
    Processor.validate_params(request(1.0, bad_words=["no"]))
    with pytest.raises(ValueError, match="frequency_penalty"):
        Processor.validate_params(request(1.0, frequency_penalty=0.1))


def test_sglang_steers_each_row_by_its_own_parameters(servers, path: Path, it: LogitSteer) -> None:
    Processor = sglang.processor(path)
    assert issubclass(Processor, Custom)
    made, z = Processor(), logits(3)
    asked: list = [{"steer_strength": 2.0, "__req__": object()}, None, {"other": 1}]
    assert torch.equal(made(z.clone(), asked), it.apply(z, torch.tensor([2.0, 0.0, 0.0])))
    with pytest.raises(ValueError, match="got 1 for 3 rows"):
        made(z, [{"steer_strength": 2.0}])
    with pytest.raises(ValueError, match="'loud', expected a finite number"):
        made(z, [{"steer_strength": "loud"}] * 3)


def test_without_the_server_the_import_says_so(path: Path) -> None:
    for make in (vllm.processor, sglang.processor):
        with pytest.raises(ImportError, match="vllm|sglang"):
            make(path)
    with pytest.raises(ValueError, match="runner"):
        vllm.processor(path, runner=3)


def test_without_inspect_the_provider_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("inspect_ai", "inspect_ai.model"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"inspect_model needs inspect-ai.*steerlens\[inspect\]"):
        inspect_model(sl.load_model("toy-64"))
