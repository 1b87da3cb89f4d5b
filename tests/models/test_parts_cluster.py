"""The same states from a cluster of Dask, whose workers and scheduler may be killed."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import joblib
import pytest
import torch

import steerlens as sl
from steerlens.models.parts import collect_parts
from tests.models.workers import fitted, load_mortal, load_plain, logging

distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")

DATA = sl.toy.corpus("tone", n=240, seed=0)
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def collected(folder: Path, load=load_plain) -> sl.States:
    return collect_parts(load, DATA, folder, part_bytes=3000, progress=False)


def files(folder: Path) -> dict[str, bytes]:
    """Without what a killed process had half written, which nobody reads."""
    found = (path for path in folder.iterdir() if path.name[0] != ".")
    return {path.name: path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("alone") / "states"
    collected(folder)
    return files(folder)


@pytest.fixture(scope="module")
def client() -> Iterator[object]:
    """Two workers, a process each."""
    from distributed import Client, LocalCluster

    made = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with made as cluster, Client(cluster) as client:
        yield client


def test_two_workers_write_the_same_files_and_give_the_same_fit(
    alone: dict[str, bytes], client: object, tmp_path: Path
) -> None:
    (tmp_path / "loads").mkdir()
    with joblib.parallel_config("dask"):
        states = collected(tmp_path / "states", partial(logging, tmp_path / "loads"))
    assert files(tmp_path / "states") == alone
    loads = [path.name.split("-")[0] for path in (tmp_path / "loads").iterdir()]
    assert 1 <= len(loads) == len(set(loads)) <= 2  # once per worker, though there are ten parts
    # a sweep with the same workers, each of which reads the folder
    with joblib.parallel_config("dask"):
        fits = joblib.Parallel()(joblib.delayed(fitted)(tmp_path / "states", k) for k in (0, 1))
    for seed, fit in enumerate(fits):
        here = sl.fit_steer(states, solver="closed-form", seed=seed, progress=False)
        assert torch.equal(fit.value.W, here.value.W)
        assert fit.report.heldout == here.report.heldout
    assert not torch.equal(fits[0].value.W, fits[1].value.W)


def test_a_killed_worker_costs_time_alone(
    alone: dict[str, bytes], client: object, tmp_path: Path
) -> None:
    with joblib.parallel_config("dask"):
        states = collected(tmp_path / "states", partial(load_mortal, tmp_path / "killed"))
    assert (tmp_path / "killed").exists()
    assert files(tmp_path / "states") == alone  # nothing lost, nothing there twice
    assert sum(len(chunk.text) for chunk in states.chunks(10**9)) == states.n_positions


@pytest.fixture
def mortal_cluster() -> Iterator[tuple[str, int]]:
    """The address of a scheduler with two workers, and its process; joblib would do the work of a
    single worker itself."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, quiet = f"tcp://127.0.0.1:{port}", {"stderr": subprocess.DEVNULL}
    run = [sys.executable, "-m"]
    scheduler = subprocess.Popen(
        [*run, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"], **quiet
    )  # fmt: skip
    options = ["--nthreads", "1", "--no-dashboard", "--no-nanny", "--death-timeout", "5"]
    workers = [
        subprocess.Popen([*run, "distributed.cli.dask_worker", address, *options], **quiet)
        for _ in range(2)
    ]
    yield address, scheduler.pid
    for process in (*workers, scheduler):
        process.kill()
        process.wait()


def test_when_the_scheduler_is_lost_the_same_call_goes_on(
    alone: dict[str, bytes], mortal_cluster: tuple[str, int], tmp_path: Path
) -> None:
    address, pid = mortal_cluster
    folder = tmp_path / "states"
    client = distributed.Client(address, timeout=60, set_as_default=False)
    try:
        client.wait_for_workers(2, timeout=60)
        lost = partial(load_mortal, tmp_path / "killed", pid)
        with joblib.parallel_config("dask", client=client), pytest.raises(Exception, match="lost"):
            collected(folder, lost)
    finally:
        client.close(timeout=1)
    done = {name: (folder / name).stat().st_mtime_ns for name in files(folder)}
    assert len(done) > 1 and "index.json" not in done
    collected(folder)
    assert files(folder) == alone
    assert {name: (folder / name).stat().st_mtime_ns for name in done} == done
