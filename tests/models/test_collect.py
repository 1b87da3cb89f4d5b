"""Collected states are those of one text at a time, in memory and on disk."""

import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

import steerlens as sl
import steerlens.models.collect as collecting
from steerlens.models.adapters import HuggingFace
from steerlens.models.folders import find_model
from steerlens.models.hooks import adapter, convention
from steerlens.models.tokenization import batch_tokens
from steerlens.values.states import Shard
from tests.models.families import model_of
from tests.models.zoo import N_CTX, TEXTS, contexts, near, tokenizer, zoo

LABELLED = sl.Labelled(TEXTS, (1.0, 0.5, 0.0, -1.0))


def ids_of(model, text: str, *, end: bool = True) -> list[int]:
    how = convention(model, sl.readout(model))
    text = " " + text if how.space else text
    plain = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return [model.tokenizer.bos_token_id] * how.bos + plain + [model.tokenizer.eos_token_id] * end


def by_text(states: sl.States) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    whole = next(states.chunks(10**9))
    return {
        i: (whole.hidden[whole.text == i], whole.next[whole.text == i])
        for i in range(len(states.labels))
    }


def all_positions(states: sl.States) -> list[torch.Tensor]:
    parts = list(states.chunks(10**9))
    return [torch.cat([part[k] for part in parts]) for k in range(3)]


@pytest.mark.parametrize("end", [True, False])
def test_states_are_those_of_each_text_alone(model, end: bool) -> None:
    states = sl.collect(model, LABELLED, end=end, progress=False)
    found = by_text(states)
    for i, text in enumerate(TEXTS):
        ids = ids_of(model, text, end=end)
        c = contexts(model, torch.tensor([ids]))[0, :-1].float()
        assert found[i][1].tolist() == ids[1:]  # begin-of-text is never predicted, padding neither
        assert_close(found[i][0], c, **near(model))
        assert int(states.lengths[i]) == len(ids) - 1
    assert states.labels.tolist() == list(LABELLED.labels)
    assert (states.n_texts, states.n_truncated) == (4, 0)


def test_the_unembedding_never_runs_on_the_texts(model) -> None:
    seen: list[tuple[int, ...]] = []
    with model.hooks(
        fwd_hooks=[("unembed.hook_out", lambda z, hook: seen.append(tuple(z.shape[:2])))]
    ):
        sl.collect(model, TEXTS, progress=False)
    assert seen == [(2, 6)]  # the probe of the read-out, and nothing else


ASKED_FIRST = {(2, 6), (1, 1)}
"""Shapes of the passes that look at the model before a text is read; no text is as short."""


@contextmanager
def masks_seen(model) -> Iterator[list[torch.Tensor]]:
    """The attention mask of each pass of a model over texts."""
    seen: list[torch.Tensor] = []

    def look(_: object, given: tuple[torch.Tensor], options: dict[str, torch.Tensor]) -> None:
        assert options["attention_mask"].shape == given[0].shape
        if tuple(given[0].shape) not in ASKED_FIRST:
            seen.append(options["attention_mask"])

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def test_the_attention_mask_is_passed_and_batches_hold_texts_of_similar_length(tiny) -> None:
    most, texts = batch_tokens(sl.readout(tiny).W_U), [*TEXTS * 100, "good . " * 15]
    with masks_seen(tiny) as seen:
        sl.collect(tiny, texts, progress=False)
    widths = [mask.shape[1] for mask in seen]
    assert len(seen) > 1 and widths == sorted(widths) and len(set(widths)) > 1
    lengths = sorted(int(row.sum()) for mask in seen for row in mask)
    assert lengths == sorted(len(ids_of(tiny, text)) for text in texts)
    assert any(not mask.all() for mask in seen)
    assert all((mask.diff(dim=1) <= 0).all() for mask in seen)  # padding is on the right
    assert all(mask.numel() <= most for mask in seen)


def test_batches_of_any_size_give_the_same_states(tiny) -> None:
    found = by_text(sl.collect(tiny, TEXTS * 100, progress=False, seed=5))
    for i, text in enumerate(TEXTS):
        alone = by_text(sl.collect(tiny, [text], progress=False))[0]
        for row in range(i, len(found), len(TEXTS)):
            assert_close(found[row], alone, rtol=1e-4, atol=1e-4)


def test_texts_beyond_the_context_are_cut_and_counted(tiny) -> None:
    states = sl.collect(tiny, ["good . " * 60, "good .", "bad . " * 60], progress=False)
    assert states.n_truncated == 2 and "2 truncated" in repr(states)
    assert states.lengths.tolist()[0] == N_CTX - 1
    whole = ids_of(tiny, "good . " * 60)[:N_CTX]
    assert by_text(states)[0][1].tolist() == whole[1:]


def test_half_precision_storage_takes_half_and_comes_back_as_float32(tiny) -> None:
    full, half = (
        sl.collect(tiny, TEXTS, dtype=t, progress=False) for t in (torch.float32, torch.bfloat16)
    )
    assert half.shards[0].hidden.dtype == torch.bfloat16  # pyright: ignore[reportAttributeAccessIssue]
    for a, b in zip(full.chunks(50), half.chunks(50), strict=True):
        assert b.hidden.dtype == torch.float32
        assert_close(a.hidden, b.hidden, rtol=1e-2, atol=1e-2)
        assert not torch.equal(a.hidden, b.hidden)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_dtype_may_be_given_by_its_name(tiny, name: str, tmp_path: Path) -> None:
    dtype = getattr(torch, name)
    by_name, by_value = (sl.collect(tiny, TEXTS, dtype=t, progress=False) for t in (name, dtype))
    (one,), (other,) = by_name.shards, by_value.shards
    assert isinstance(one, Shard)
    assert isinstance(other, Shard)
    assert one.hidden.dtype == dtype
    assert torch.equal(one.hidden, other.hidden)
    for given in (name, dtype):  # the second call goes on from the folder of the first
        sl.collect(tiny, TEXTS, dtype=given, folder=tmp_path / "states", progress=False)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64, "int32", "float"])
def test_states_are_stored_in_no_other_dtype(tiny, dtype: str | torch.dtype) -> None:
    with pytest.raises(ValueError, match="dtype: got .* expected one of float32, bfloat16"):
        sl.collect(tiny, TEXTS, dtype=dtype, progress=False)


def test_states_that_a_dtype_cannot_hold_are_refused(tiny) -> None:
    tiny.add_hook("unembed.hook_in", lambda c, hook: 1e6 * c)
    try:
        kept = sl.collect(tiny, TEXTS, dtype="bfloat16", progress=False)
        assert next(kept.chunks(10**9)).hidden.abs().max() > 65_504
        with pytest.raises(ValueError, match="infinity.*store them as bfloat16"):
            sl.collect(tiny, TEXTS, dtype="float16", progress=False)
    finally:
        tiny.hook_dict["unembed.hook_in"].remove_hooks()


@pytest.fixture
def shard_positions(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many positions a file holds, where scripts of others do too."""
    return lambda n: monkeypatch.setattr(collecting, "SHARD_POSITIONS", n)


@pytest.fixture
def small_shards(shard_positions: Callable[[int], None]) -> None:
    """Files of at most 15 positions."""
    shard_positions(15)


def test_shards_on_disk_hold_what_memory_would(model, tmp_path: Path, small_shards: None) -> None:
    memory = by_text(sl.collect(model, LABELLED, progress=False))
    disk = sl.collect(model, LABELLED, folder=tmp_path / "states", progress=False)
    assert len(disk.shards) > 1
    assert all(isinstance(path, Path) for path in disk.shards)
    c, following, text = all_positions(disk)
    for i in range(len(TEXTS)):
        assert following[text == i].tolist() == memory[i][1].tolist()
        assert_close(c[text == i], memory[i][0], **near(model))
    assert sorted(p.suffix for p in (tmp_path / "states").iterdir())[0] == ".json"


def test_an_interrupted_call_goes_on_where_it_stopped(
    tiny, tmp_path: Path, small_shards: None
) -> None:
    calls, at = [], -1

    def interrupted(_: object, given: tuple[torch.Tensor]) -> None:
        calls.append(tuple(given[0].shape) not in ASKED_FIRST)
        if sum(calls) == at:
            raise KeyboardInterrupt

    handle = tiny.register_forward_pre_hook(interrupted)
    whole = all_positions(sl.collect(tiny, TEXTS, folder=tmp_path / "whole", progress=False))
    n = len(list((tmp_path / "whole").glob("*.safetensors")))
    assert sum(calls) == n  # a batch each
    calls.clear()
    at = 2

    training = [module.training for module in tiny.modules()]
    with pytest.raises(KeyboardInterrupt):
        sl.collect(tiny, TEXTS, folder=tmp_path / "parts", progress=False)
    at = -1
    assert [module.training for module in tiny.modules()] == training
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) == 1 < n - 1
    (tmp_path / "parts" / "states-00001.part").write_bytes(
        b"half a shard"
    )  # as a kill while writing would leave
    again = sl.collect(tiny, TEXTS, folder=tmp_path / "parts", progress=False)
    # only the missing ones were run, that which was interrupted twice, and some texts of the one
    # that was there, to see that it is of this model
    assert sum(calls) == n + 2
    for a, b in zip(all_positions(again), whole, strict=True):
        assert torch.equal(a, b)
    sl.collect(tiny, TEXTS, folder=tmp_path / "parts", progress=False)
    handle.remove()
    assert sum(calls) == n + 4  # and a third call runs texts of the first and of the last alone


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("missing", [False, True])
def test_other_layers_under_the_same_read_out_are_another_model(
    tmp_path: Path, small_shards: None, dtype: str, missing: bool
) -> None:
    folder, model = tmp_path / "states", sl.load_model("toy-64", plain=True)
    data = [text.lower() for text in sl.toy.corpus("tone", n=12, seed=0).texts]
    sl.collect(model, data, folder=folder, dtype=dtype, progress=False)
    if missing:
        max(folder.glob("*.safetensors")).unlink()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    tuned = sl.load_model("toy-64", plain=True)
    with torch.no_grad():
        for name, p in adapter(tuned).module.named_parameters():
            if "mlp" in name:
                p.mul_(1.3)
    with pytest.raises(ValueError, match="states of another model with the same W_U"):
        sl.collect(tuned, data, folder=folder, dtype=dtype, progress=False)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    same = sl.load_model("toy-64", plain=True)
    assert sl.collect(same, data, folder=folder, dtype=dtype, progress=False).n_texts == 12


@pytest.mark.parametrize("index", ["{", "[1]", '"so"'])
def test_an_index_that_is_none_and_a_file_for_a_folder_are_named(
    tiny, tmp_path: Path, index: str
) -> None:
    sl.collect(tiny, TEXTS, folder=tmp_path / "states", progress=False)
    (tmp_path / "states" / "index.json").write_text(index)
    with pytest.raises(ValueError, match=r"index.json: not an index of states .* delete"):
        sl.collect(tiny, TEXTS, folder=tmp_path / "states", progress=False)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file is a file, expected a folder"):
        sl.collect(tiny, TEXTS, folder=tmp_path / "file", progress=False)


def test_a_file_that_was_changed_is_named_and_one_that_says_no_digest_is_read(
    tiny, tmp_path: Path, small_shards: None
) -> None:
    made = sl.collect(tiny, TEXTS, folder=tmp_path, progress=False)
    last = sorted(tmp_path.glob("states-*"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"{last.name}: was changed after it was written"):
        sl.collect(tiny, TEXTS, folder=tmp_path, progress=False)
    last.write_bytes(whole)
    save_file(load_file(last), last)  # as files were before
    again = sl.collect(tiny, TEXTS, folder=tmp_path, progress=False)
    assert torch.equal(next(again.chunks(1_000))[0], next(made.chunks(1_000))[0])


def test_a_folder_with_other_content_is_refused(tiny, tmp_path: Path, small_shards: None) -> None:
    sl.collect(tiny, TEXTS, folder=tmp_path / "states", progress=False)
    before = {p.name: p.read_bytes() for p in (tmp_path / "states").iterdir()}
    for other in (
        {"data": TEXTS[1:]},
        {"seed": 1},
        {"dtype": torch.bfloat16},
        {"model": zoo("padded")},
        {"end": False},
    ):
        arguments = {"model": tiny, "data": TEXTS, **other}
        with pytest.raises(ValueError, match="another model, text, dtype or seed"):
            sl.collect(
                arguments.pop("model"),
                arguments.pop("data"),
                folder=tmp_path / "states",
                progress=False,
                **arguments,
            )
    assert {p.name: p.read_bytes() for p in (tmp_path / "states").iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        sl.collect(tiny, TEXTS, folder=tmp_path / "mine", progress=False)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_shards_of_another_size_are_not_mixed(tiny, tmp_path: Path, shard_positions) -> None:
    shard_positions(15)
    sl.collect(tiny, TEXTS, folder=tmp_path / "states", progress=False)
    shard_positions(30)
    with pytest.raises(ValueError, match="holds the states of another"):
        sl.collect(tiny, TEXTS, folder=tmp_path / "states", progress=False)


@pytest.mark.parametrize("memory", [math.nan, math.inf, -1.0])
def test_memory_is_a_number_of_gigabytes(tiny, memory: float) -> None:
    with pytest.raises(ValueError, match="memory: got .* gigabytes"):
        sl.collect(tiny, TEXTS, memory=memory, progress=False)


def test_more_than_memory_allows_is_refused_with_what_to_do(tiny) -> None:
    with pytest.raises(ValueError, match=r"folder=.*bfloat16"):
        sl.collect(tiny, TEXTS, memory=1e-6, progress=False)


@pytest.mark.parametrize(
    "data, message",
    [([], "got none"), (["good", " "], r"texts\[1\] is empty")],
)
def test_bad_texts_are_refused(tiny, data, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sl.collect(tiny, data, progress=False)


def test_texts_with_nothing_to_predict_are_refused(tiny, no_bos) -> None:
    no_bos(tiny)
    with pytest.raises(ValueError, match="no text holds a token to predict"):
        sl.collect(tiny, ["a"], end=False, progress=False)
    mixed = sl.collect(tiny, ["a", "good ."], end=False, progress=False)
    assert mixed.lengths.tolist()[0] == 0 and set(all_positions(mixed)[2].tolist()) == {1}


def test_modes_and_gradients_are_as_before(model) -> None:
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    part = next(m for m in model.modules() if isinstance(m, torch.nn.Module) and m is not model)
    modes = [m.training for m in model.modules()]
    part.training = not part.training
    try:
        mixed = [m.training for m in model.modules()]
        states = sl.collect(model, TEXTS, progress=False)
        assert [m.training for m in model.modules()] == mixed
    finally:
        for m, training in zip(model.modules(), modes, strict=True):
            m.training = training
    assert [(p.requires_grad, p.grad) for p in model.parameters()] == flags
    assert not next(states.chunks(5)).hidden.requires_grad


def test_the_bar_can_be_silenced(tiny, capsys: pytest.CaptureFixture[str]) -> None:
    sl.collect(tiny, TEXTS, progress=False)
    assert capsys.readouterr() == ("", "")
    sl.collect(tiny, TEXTS)
    assert "collect" in capsys.readouterr().err


def test_batches_hold_fewer_tokens_of_wider_models() -> None:
    sizes = [
        batch_tokens(torch.empty(d, 3, device=device))
        for device in ("cpu", "meta")
        for d in (64, 192, 768, 8192)
    ]
    assert sizes == [2048, 2048, 512, 256, *[16_384] * 4]


def test_jobs_that_collect_into_one_folder_do_not_meet(tmp_path, shard_positions) -> None:
    from concurrent.futures import ThreadPoolExecutor

    shard_positions(64)
    data = sl.toy.corpus("sentiment", n=40, seed=0)
    models = [sl.load_model("toy-64") for _ in range(3)]  # each its own, as each job has
    with ThreadPoolExecutor(3) as jobs:
        found = list(
            jobs.map(
                lambda m: sl.collect(m, data, folder=tmp_path / "states", progress=False), models
            )
        )
    alone = sl.collect(models[0], data, folder=tmp_path / "alone", progress=False)
    for states in found:
        for a, b in zip(states.chunks(10**6), alone.chunks(10**6), strict=True):
            assert torch.equal(a.hidden, b.hidden) and torch.equal(a.next, b.next)
    assert not [path.name for path in (tmp_path / "states").iterdir() if path.name.startswith(".")]


def test_an_end_that_the_model_never_learned_is_said() -> None:
    model = HuggingFace(model_of("gptj"), tokenizer("bytes"))
    data = sl.Labelled(TEXTS, (1.0,) * len(TEXTS))

    def warned(**options: bool) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sl.collect(model, data, progress=False, **options)
        return [str(w.message) for w in caught if "end-of-text" in str(w.message)]

    with torch.no_grad():
        model.b_U[0] += 5
    assert warned() == []
    with torch.no_grad():
        model.b_U[0] -= 30
    (message,) = warned()
    assert re.search(r"'<\|end\|>' costs \d\d nats per text.*pass end=False", message)
    assert warned(end=False) == []


def test_a_tokenizer_of_the_right_size_that_is_not_the_models_own_is_said() -> None:
    """The model's own tokenizer with its words in another order: every check of sizes passes."""
    own = sl.load_model("toy-64", plain=True)
    written = json.loads(own.tokenizer.backend_tokenizer.to_str())
    written["model"]["vocab"] = {
        token: i if i < 8 else len(own.tokenizer) + 7 - i
        for token, i in written["model"]["vocab"].items()
    }
    names = {k: str(v) for k, v in own.tokenizer.special_tokens_map.items()}
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(written)), **names
    )
    data = sl.toy.corpus("sentiment", n=20, seed=0)

    def warned(model: HuggingFace) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sl.collect(model, data, end=False, progress=False)
        return [str(w.message) for w in caught]

    assert warned(HuggingFace(own.model, own.tokenizer)) == []
    (message,) = warned(HuggingFace(own.model, other))
    assert re.search(r"cost \d\d\.\d nats each.*'toy-64' is not trained, or this is not", message)


def test_a_model_that_reads_more_than_it_is_given_is_refused_by_name(unchecked: None) -> None:
    """As peft's prompt tuning does."""
    model = transformers.AutoModelForCausalLM.from_pretrained(find_model("toy-64"))
    plain = model.forward

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: object) -> object:
        rows = torch.full((len(input_ids), 4), 9)
        ids, mask = (
            torch.cat([rows, input_ids], 1),
            torch.cat([torch.ones_like(rows), attention_mask], 1),
        )
        return plain(input_ids=ids, attention_mask=mask, **options)

    assert sl.collect(model, ["it was good ."], progress=False).n_positions > 1
    model.forward = forward
    for read in (sl.collect, sl.score):
        with pytest.raises(
            ValueError, match=r"read \d+ tokens where \d+ were given.*get_base_model"
        ):
            read(model, ["it was good ."])


def test_without_a_console_nothing_is_shown(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sl.collect(tiny, TEXTS, progress=False)
    monkeypatch.setattr(sys, "stderr", None)
    found = sl.collect(tiny, TEXTS)
    assert_close(*(next(iter(s.chunks(999)))[0] for s in (found, expected)))
