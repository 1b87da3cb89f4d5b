"""llama.cpp writes what the hooked model writes; `make test-llamacpp` builds it and runs all of
this."""

import os
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch

import steerlens as sl
from steerlens.export.llama_cpp import processor
from steerlens.models.folders import find_model
from tests.export.gguf_of import write_gguf
from tests.export.test_logits import head, kl, steer_on, true_logits
from tests.models.zoo import random_steer, zoo

BUILT = "llama-cpp-python is not installed: make test-llamacpp builds it"
SMOLLM2 = Path(os.environ.get("STEERLENS_SMOLLM2", "~/.cache/steerlens-lms/smollm2-135m"))
MODEL, IDS = "toy-96-llama", [0, 5, 9, 33, 71]


# ---- without llama.cpp ----


def record(z: torch.Tensor) -> np.ndarray:
    """Logits as llama.cpp's records hold them: a column of an array of structures."""
    kind = np.dtype([("id", np.intc), ("logit", np.single), ("p", np.single)], align=True)
    whole = np.zeros(len(z), dtype=kind)
    whole["logit"] = z.numpy()
    return whole["logit"]


def test_a_column_of_records_is_steered() -> None:
    on, c = head(), torch.randn(1, 32)
    z = record(on.logits(c)[0])
    assert z.strides == (12,)
    z[:] = processor(sl.export.logit_steer(steer_on(on)), 2.0)(np.arange(3), z)
    assert kl(true_logits(steer_on(on), c, 2.0), torch.from_numpy(z.copy())[None]) < 1e-10


def test_a_schedule_counts_behind_the_prompt() -> None:
    on, z = head(), record(head().logits(torch.randn(1, 32))[0])
    it = sl.export.logit_steer(steer_on(on))
    late = processor(it, lambda n: 2.0 if n >= 3 else 0.0, prompt_length=4)
    assert np.array_equal(late(np.arange(6), z), z)
    assert np.array_equal(late(np.arange(7), z), processor(it, 2.0)(np.arange(7), z))
    late(np.arange(3), z)
    with pytest.raises(ValueError, match="prompt_length: got 4"):
        late.check()


def test_an_error_is_kept_and_raised_and_nothing_unsteered_is_written() -> None:
    it = processor(sl.export.logit_steer(steer_on(head())), 2.0)
    z = record(head(seed=4).logits(torch.randn(1, 32))[0])  # another model's
    found = it(np.arange(3), z)
    assert found.argmax() == 0 and found[1:].max() < -1e29
    with pytest.raises(ValueError, match="not those of"):
        it.check()
    assert it.check() is False  # raised once


def test_only_a_logit_steer_is_taken(unchecked) -> None:
    with pytest.raises(ValueError, match="expected a LogitSteer"):
        processor(random_steer(zoo("gpt2")))  # pyright: ignore


# ---- with it ----


@cache
def llama(folder: Path) -> Any:
    llama_cpp = pytest.importorskip("llama_cpp", reason=BUILT)
    path = write_gguf(folder, Path(mkdtemp(prefix="steerlens-gguf-")) / "model.gguf")
    return llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False)


def toy() -> Any:
    folder = find_model(MODEL)
    assert folder is not None
    return llama(folder)


def written(llm: Any, ids: list[int], n: int, **options: Any) -> list[int]:
    found: list[int] = []
    for token in llm.generate(ids, temp=0.0, **options):
        found.append(token)
        if len(found) == n:
            break
    return found


def hooked(model: Any, steer: sl.Steer, strength: float, ids: list[int], n: int) -> list[int]:
    tokens = torch.tensor([ids])
    with torch.no_grad(), sl.steered(model, steer, strength):
        for _ in range(n):
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens[0, len(ids) :].tolist()


@pytest.mark.parametrize("strength", [-3.0, 3.0])
def test_greedy_text_is_the_hooked_models_token_for_token(strength: float) -> None:
    llm, model = toy(), zoo(MODEL)
    steer = random_steer(model, size=0.3)
    it = processor(sl.export.logit_steer(steer, max_gain=1e3, precision=1e-4), strength)
    found = written(llm, IDS, 12, **it.options())
    assert found == hooked(model, steer, strength, IDS, 12)
    assert found != written(llm, IDS, 12) == hooked(model, steer, 0.0, IDS, 12)


def test_a_foreign_steer_stops_the_text() -> None:
    llm = toy()
    W_U = torch.randn(96, 897, generator=torch.Generator().manual_seed(0))
    other = sl.Readout(W_U, torch.zeros(897), ("w",) * 897)
    it = processor(sl.export.logit_steer(steer_on(other)), 1.0)
    with pytest.raises(ValueError, match="not those of"):
        written(llm, IDS, 5, **it.options())


def test_smollm2_in_16_bits() -> None:
    pytest.importorskip("llama_cpp", reason=BUILT)
    folder = SMOLLM2.expanduser()
    if not folder.is_dir():
        pytest.skip(f"no SmolLM2 in {folder}; STEERLENS_SMOLLM2 names its folder")
    import llama_cpp  # pyright: ignore[reportMissingImports]

    model = sl.load_model(folder)
    d = model.cfg.d_model
    r = torch.Generator().manual_seed(0)
    W = torch.randn(d, 8, generator=r) @ torch.randn(8, d, generator=r)
    steer = sl.Steer(0.5 * W / W.norm() * 8**0.5, sl.readout(model), "random")
    path = write_gguf(folder, Path(mkdtemp(prefix="steerlens-gguf-")) / "smollm2.gguf", np.float16)
    llm = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False)
    ids = model.tokenizer("The film was", add_special_tokens=False)["input_ids"]
    assert llm.tokenize(b"The film was", add_bos=False, special=False) == ids
    it = processor(sl.export.logit_steer(steer, precision=2.0**-8), 2.0)
    found = written(llm, ids, 16, **it.options())
    assert found == hooked(model, steer, 2.0, ids, 16) != written(llm, ids, 16)
