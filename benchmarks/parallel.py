"""What collecting in parts costs beside a plain loop, and what a second worker gains.

    export MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=33554432    # see MEMORY
    python benchmarks/parallel.py                          # toy-128; some minutes
    python benchmarks/parallel.py --model FOLDER --parts 4     # a Hugging Face model
    python benchmarks/parallel.py --alone 0.42 2 10 --rounds 3     # Dask's own time on parts of so many seconds

Every way reads the same texts twice, N parts and 2 N parts; what a part costs is the difference over
N, so that what is done once per call, given by itself, does not count. Workers are started and the
model is loaded in them before. Wall clock, and processor time of this process and of all those it
started: on a machine with other work the second is the one to trust. Ways alternate; medians with
quartiles over the rounds. Results go to benchmarks/parallel.json, by model and size of a part. Needs
the extra `cluster`.
"""

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

for pool in ("OMP", "MKL"):  # a worker each, on a core each
    os.environ[f"{pool}_NUM_THREADS"] = "1"

import _measure
import _worker
import joblib
import psutil
import torch
from dask import config as config_of_dask
from distributed import Client, LocalCluster

import steerlens as sl
from steerlens.values.parts import PART_BYTES, in_parts

RESULTS = Path(__file__).parent / "parallel.json"


def processor_seconds() -> float:
    """Of this process and of all that it started and that still run."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def plain(load: Callable[[], object], texts: list[str], folder: str, part_bytes: int) -> None:
    """The loop that whoever has no engine writes: load, read each part, keep its states."""
    model = load()
    for part in in_parts(iter(texts), part_bytes=part_bytes):
        sl.collect(model, part.data, progress=False)


def in_folder(load: Callable[[], object], texts: list[str], folder: str, part_bytes: int) -> None:
    sl.models.collect_parts(load, iter(texts), folder, part_bytes=part_bytes, progress=False)


@contextmanager
def loky() -> Iterator[None]:
    with joblib.parallel_config("loky", n_jobs=2):
        yield


@contextmanager
def dask(client: Client) -> Iterator[None]:
    with joblib.parallel_config("dask", client=client):
        yield


MEMORY = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "33554432"}
"""Of glibc. Dask sets the first so low that tensors of some megabytes are cleared pages each time."""


@contextmanager
def cluster(memory: dict[str, str]) -> Iterator[Client]:
    """Two workers of Dask, a process each, with these settings of memory."""
    before = dict(os.environ)
    for name in MEMORY:
        os.environ.pop(name, None)
    os.environ |= memory
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as made:
        os.environ.clear()  # Dask changes it in this process too, and loky's workers would have it
        os.environ |= before
        with Client(made, set_as_default=False) as client:
            yield client


LESS = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
}
"""Of Dask: no sampling of each worker's stack a hundred times a second, no look at each process's
event loop fifty times."""
SECONDS = 0.42
"""That a part of the default size takes on toy-128."""
PLAIN, DASK, USUAL = "plain loop", "dask, 2 workers", "dask, 2 workers that give memory back"
NAMES = (PLAIN, "this process", "loky, 2 workers", DASK, USUAL)
Way = tuple[Callable[[], AbstractContextManager[None]], Callable[..., None]]


@contextmanager
def ways(names: Sequence[str]) -> Iterator[dict[str, Way]]:
    """The ways of these names; clusters are started for them alone, as idle workers cost time too."""
    with ExitStack() as held:
        found: dict[str, Way] = {
            PLAIN: (nullcontext, plain),
            "this process": (nullcontext, in_folder),
            "loky, 2 workers": (loky, in_folder),
        }
        for name, memory in ((DASK, MEMORY), (USUAL, {})):
            if name in names:
                found[name] = (partial(dask, held.enter_context(cluster(memory))), in_folder)
        yield {name: found[name] for name in names}


def run(way: Way, load: Callable[[], object], texts: list[str], size: int) -> tuple[float, float]:
    """Seconds of wall clock and of processors that one way takes."""
    engine, read = way
    with TemporaryDirectory() as folder, engine():
        begun, spent = time.perf_counter(), processor_seconds()
        read(load, texts, f"{folder}/states", size)
        return time.perf_counter() - begun, processor_seconds() - spent


def engine(client: Client, seconds: float, n: int) -> float:
    """Return the processor seconds per part that Dask itself takes, of two workers whose parts take
    so long and do nothing: messages, texts on their way, and watching."""
    size = int(PART_BYTES * seconds / SECONDS)
    texts = sl.toy.corpus("sentiment", n=1_000, seed=0).texts
    parts = list(islice(in_parts(cycle(texts), part_bytes=size), n))
    with dask(client):
        spent = processor_seconds()
        tasks = (joblib.delayed(_worker.wait)(part, seconds) for part in parts)
        done = list(joblib.Parallel(return_as="generator_unordered")(tasks))
        spent = processor_seconds() - spent
    assert sum(done) == sum(len(part.rows) for part in parts)
    return spent / n


def engine_alone(lengths: Sequence[float], rounds: int) -> None:
    """Measure `engine`, as Dask comes and with less watching, and keep it."""
    found: dict[str, dict[str, object]] = {}
    for how, config in (("as it comes", {}), ("watching less", LESS)):
        with config_of_dask.set(config), cluster(MEMORY) as client:
            engine(client, 0.1, 4)  # workers import what they need
            for seconds in lengths:
                spent = [engine(client, seconds, 8) for _ in range(rounds)]
                shares = _measure.quartiles([each / seconds for each in spent])
                found[f"{seconds:g} s, {how}"] = {
                    "processor seconds per part": _measure.quartiles(spent),
                    "of the part": shares,
                }
                print(f"{seconds:g} s per part, {how}: {shares[0]:.2%} of it", flush=True)
    setting = _measure.setting(quick=False, threads=1)._asdict()
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    command = f"python benchmarks/parallel.py --alone {' '.join(f'{s:g}' for s in lengths)} --rounds {rounds}"
    known["engine alone"] = {"command": command, "setting": setting, "parts": found}
    RESULTS.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--model", default="toy-128")
    asked.add_argument("--parts", type=int, default=12, help="N")
    asked.add_argument("--part-bytes", type=int, default=PART_BYTES)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--alone", nargs="+", type=float, help="seconds per part; the engine alone")
    asked.add_argument("--ways", nargs="+", choices=NAMES, default=NAMES)
    given = asked.parse_args()
    if given.alone:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        engine_alone(given.alone, given.rounds)
        return
    names = (PLAIN, *(name for name in NAMES[1:] if name in given.ways))
    torch.set_num_threads(1)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])  # workers'
    load = partial(_worker.load, given.model)
    data = sl.toy.corpus("sentiment", n=1200 * given.parts * given.part_bytes // PART_BYTES, seed=0)
    parts = list(islice(in_parts(iter(data.texts), part_bytes=given.part_bytes), 2 * given.parts))
    assert len(parts) == 2 * given.parts, "more texts are needed"
    texts = [text for part in parts for text in part.data.texts]
    half = texts[: sum(len(part.rows) for part in parts[: given.parts])]
    n_tokens = sl.collect(load(), texts[:200], progress=False).n_positions / 200 * len(texts)
    marginal: dict[str, list[tuple[float, float]]] = defaultdict(list)
    fixed: dict[str, list[float]] = defaultdict(list)
    with ways(names) as known_ways:
        for k in range(given.rounds + 1):
            for name, way in known_ways.items():
                short, long = (run(way, load, some, given.part_bytes) for some in (half, texts))
                if k:  # the first round starts the workers
                    a, b = ((y - x) / given.parts for x, y in zip(short, long, strict=True))
                    marginal[name].append((a, b))
                    fixed[name].append(short[1] - b * given.parts)
                    print(f"{name}: {a:.3f} s, {b:.3f} processor seconds per part", flush=True)
    wall, spent = ({name: [x[i] for x in xs] for name, xs in marginal.items()} for i in (0, 1))
    found = {
        "command": f"python benchmarks/parallel.py --model {Path(given.model).name} --parts {given.parts}"
        f" --part-bytes {given.part_bytes} --rounds {given.rounds}"
        + ("" if names == NAMES else " --ways " + " ".join(f'"{name}"' for name in names)),
        "setting": _measure.setting(quick=False, threads=1)._asdict(),
        "memory kept": all(os.environ.get(name) == value for name, value in MEMORY.items()),
        "parts": given.parts,
        "tokens per part": n_tokens / len(parts),
        "seconds per part": _measure.medians(wall),
        "processor seconds per part": _measure.medians(spent),
        "processor seconds once per call": _measure.medians(fixed),
        "parts per second": {name: 1 / _measure.quartiles(x)[0] for name, x in wall.items()},
        "processor time over the plain loop": {
            name: _measure.ratio(name, x, spent[PLAIN])[1:4] for name, x in spent.items()
        },
    }
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    size = "" if given.part_bytes == PART_BYTES else f", parts of {given.part_bytes:,} bytes"
    known[f"{Path(given.model).name}{size}"] = found
    RESULTS.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
