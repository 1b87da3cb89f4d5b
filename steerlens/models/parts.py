"""Collect states part by part, in as many processes and on as many machines as are given."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from uuid import uuid4

import torch
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from steerlens.maths.brief import brief
from steerlens.maths.numbers import as_count
from steerlens.maths.torch_defaults import torch_defaults
from steerlens.models.adapters import HuggingFace, Model
from steerlens.models.collect import collect_whole, unlearned_end, unread_texts
from steerlens.models.collect_same import off_by, probe_states, rounding
from steerlens.models.dtypes import as_dtype
from steerlens.models.hooks import adapter
from steerlens.models.readout import readout
from steerlens.values.labelled import Labelled
from steerlens.values.parts import PART_BYTES, Part, in_parts
from steerlens.values.progress import hidden
from steerlens.values.read_states import read_origin, states_of
from steerlens.values.read_states import read_states as read_states
from steerlens.values.state_folder import READOUT, Origin, Settings, open_folder, part_path
from steerlens.values.states import States
from steerlens.values.streams import stream_labelled as stream_labelled
from steerlens.values.warn import warn_user
from steerlens.values.write_states import finished, write_index, write_origin, write_part


@torch_defaults()
def collect_parts(
    load: Callable[[], Model],
    data: Labelled | Iterable[str | Labelled],
    folder: str | Path,
    *,
    dtype: str | torch.dtype = torch.float32,
    end: bool = True,
    part_bytes: int = PART_BYTES,
    part: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> States:
    """Return final hidden states as `collect` does, of more texts than one process should read.

    The texts are cut into parts; each becomes a file in the folder, made by whichever worker is
    free. Workers are joblib's:

        with joblib.parallel_config("loky", n_jobs=4):      # processes of this machine
        with joblib.parallel_config("dask"):                # the workers of a dask.distributed.Client

    around the call, and without either this process alone. A worker loads the model once, and keeps
    it until it ends or is given other work. A file is put in place whole, and the index is written
    last; whatever ends a run, the same call goes on from the files that are there, and two runs of
    the same call may write one folder at once. `read_states` returns the states later, without a
    model. Files are the same to the bit whichever worker wrote them, where processors and numbers
    of threads are the same.

    Args:
        load: a function without arguments that returns the model, run in each worker, e.g.
            `functools.partial(steerlens.load_model, "gpt2", device="cuda")`.
        data: labelled texts, which are put in a random order; or an iterator, which is read once
            and in order: of texts (labels 0), or of labelled texts (`stream_labelled`).
        folder: for the parts, the read-out and the index; the same for all who work on them.
        dtype: of the stored states, or its name; "bfloat16" halves the space and loses nothing
            where the model computes in bfloat16.
        end: whether the end of a text is predicted too, as in `collect`.
        part_bytes: most UTF-8 bytes of text per part; at four bytes per token and d_model 4,096 a
            file of 268 MB in float32.
        part: `(rank, world)`: of all parts only each world-th from `rank` on, for launchers that
            run one program many times, `torchrun` or a Slurm array, without joblib. The states
            returned are those of this share; `read_states(folder)` has all once the last is done.
        progress: show a bar.

    Warns:
        UserWarning: the end of the texts costs more than any model that learned it would say; parts
            that are no random samples.

    Raises:
        ValueError: a model instead of a function; no texts; a folder that holds something else, or
            states of another model, text or setting; what is wrong with a text names its part.

    Example:
        >>> import steerlens as sl
        >>> data = sl.toy.corpus("tone", n=40, seed=0)
        >>> load = lambda: sl.load_model("toy-64")
        >>> states = sl.models.collect_parts(load, data, "states", part_bytes=2000, progress=False)
        >>> states.n_texts, len(states.shards)
        (40, 3)
    """
    _check_load(load)
    rank, world = _check_share(part)
    stored = as_dtype(dtype, among=("float32", "bfloat16"))
    settings = Settings(str(stored).removeprefix("torch."), bool(end))
    work = _Work(load, uuid4().hex, open_folder(folder), settings)
    digests: list[str] = []
    sizes: list[int] = []

    def missing() -> Iterator[Part]:
        for some in in_parts(data, part_bytes=part_bytes):
            digests.append(some.digest)
            sizes.append(len(some.rows))
            if some.number % world == rank and not finished(work.folder, some, settings):
                yield some
            else:
                bar.update(len(some.rows))

    n_texts = len(data) if isinstance(data, Labelled) else None
    with tqdm(total=n_texts, unit="text", desc="collect", disable=hidden(progress)) as bar:
        for n in _run(work, missing()):
            bar.update(n)
    share = range(rank, len(sizes), world)
    if not share:
        raise ValueError(
            f"part: these texts make {len(sizes)} parts, none for rank {rank}; take a smaller world, or part_bytes"
        )
    if lost := [number for number in share if not part_path(work.folder, number).exists()]:
        raise RuntimeError(
            f"parts {lost[:5]} of {work.folder} were not written, though no worker said why; run the same call again"
        )
    write_index(work.folder, digests, sum(sizes))
    return states_of([work.folder], share, sum(sizes))


def _run(work: "_Work", parts: Iterable[Part]) -> Iterator[int]:
    """Have joblib's workers write parts; yield how many texts each has, as they are done."""
    any_part = False
    try:
        tasks = (delayed(_collect_part)(work, part) for part in parts)
        done: Any = Parallel(return_as="generator_unordered")(tasks)
        for n, said in done:
            any_part = True
            if said is not None:
                warn_user(said)
            yield n
        if not any_part:  # whether the files are of this model is looked at all the same
            Parallel()([delayed(_check_model)(work)])
    finally:
        _LOADED.pop(work.key, None)


class _Work(NamedTuple):
    """What a worker is told of a run.

    A tuple, as Dask keeps larger objects on one worker, with which they would be lost.
    """

    load: Callable[[], Model]
    key: str
    folder: Path
    settings: Settings


_LOADED: dict[str, Model] = {}
"""The model of the run that this process works for: loading is most of the cost of a small part."""
_LOADING = Lock()


def _model_of(work: _Work) -> Model:
    with _LOADING:
        if work.key not in _LOADED:
            _LOADED.clear()
            model = work.load()
            _check_origin(model, work)
            _LOADED[work.key] = model
        return _LOADED[work.key]


def _check_model(work: _Work) -> None:
    _model_of(work)


def _collect_part(work: _Work, part: Part) -> tuple[int, str | None]:
    """Write the states of one part, and return how many texts it has and what is to be warned of.

    Another run may have been quicker.
    """
    model = _model_of(work)
    if finished(work.folder, part, work.settings):
        return len(part.rows), None
    dtype = getattr(torch, work.settings.dtype)
    try:
        states, ids = collect_whole(model, part.data, dtype=dtype, end=work.settings.end)
    except ValueError as error:
        first = f"part {part.number}, whose text 0 is row {part.rows[0]} of all"
        raise ValueError(f"{first}: {error}") from None
    said = None
    if part.number == 0:
        said = unread_texts(states)
    if part.number == 0 and work.settings.end:
        tokenizer = adapter(model).tokenizer
        said = said or unlearned_end(states, tokenizer.eos_token_id, str(tokenizer.eos_token))
    write_part(work.folder, part, states, ids, work.settings)
    return len(part.rows), said


def _check_origin(model: Model, work: _Work) -> None:
    """Write where the states come from, or compare it with what is written there.

    Raises:
        ValueError: the folder holds states of another model or of other settings.
    """
    on = readout(model)
    origin = Origin(on, work.settings, probe_states(model))
    if not (work.folder / READOUT).exists():
        write_origin(work.folder, origin)
        return
    found = read_origin(work.folder)
    if found.settings != origin.settings:
        raise ValueError(
            f"folder: {work.folder} holds states of {found.settings}, and {origin.settings} are asked for; choose another "
            "folder or delete it"
        )
    same = found.readout.digest == on.digest and found.readout.W_U.dtype == on.W_U.dtype
    error = off_by(origin.probe, found.probe) if same else float("inf")
    if not error <= rounding(on.W_U.dtype):
        why = "their read-outs or dtypes" if not same else f"the states of a probe, by {error:.2g},"
        raise ValueError(
            f"folder: {work.folder} holds the states of another model ({found.readout.model_id!r}) than "
            f"{on.model_id!r}: {why} differ; choose another folder or delete it"
        )


def _check_load(load: object) -> None:
    if isinstance(load, torch.nn.Module | HuggingFace) or not callable(load):
        raise ValueError(
            f"load: got {type(load).__name__}, expected a function that returns the model, as each worker loads its own: "
            "functools.partial(steerlens.load_model, name); one process with a model at hand needs no parts: "
            "steerlens.collect(model, data, folder=...)"
        )


def _check_share(part: tuple[int, int]) -> tuple[int, int]:
    expected = "(rank, world) with 0 ≤ rank < world, e.g. (int(os.environ['RANK']), int(os.environ['WORLD_SIZE']))"
    try:
        rank, world = part
    except (TypeError, ValueError):
        raise ValueError(f"part: got {brief(part)}, expected {expected}") from None
    world = as_count(world, "part", expected)
    return as_count(rank, "part", expected, least=0, most=world - 1), world
