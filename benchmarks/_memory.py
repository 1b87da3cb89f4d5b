"""Peak memory of a fit whose states lie on disk, each size in a process of its own.

python benchmarks/_memory.py FOLDER        # the child: fits the states there, prints seconds and peak RSS
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from _measure import Line, number
from safetensors.torch import save_file

import steerlens as sl
from steerlens.models.collect import SHARD_POSITIONS

LENGTH = 25
"""Tokens per text."""


def lines(quick: bool) -> Iterator[Line]:
    d, vocab, sizes = (64, 2_000, (2_500, 10_000)) if quick else (768, 50_257, (25_000, 100_000))
    found = {}
    for n in sizes:
        with TemporaryDirectory(prefix="steerlens-") as folder:
            synthetic(Path(folder), n, d)
            options = [str(d), str(vocab), str(n), str(torch.get_num_threads())]
            child = subprocess.run(
                [sys.executable, __file__, folder, *options],
                check=True,
                capture_output=True,
                text=True,
            )
            found[n] = json.loads(child.stdout.splitlines()[-1])
    gigabytes = [found[n]["gigabytes"] for n in sizes]
    loaded = [found[n]["loaded"] for n in sizes]
    yield Line(
        "memory", "memory of a fit", f"logits in memory: {sizes[-1] * vocab * 4 / 1e9:.3g} GB", "states on disk",
        "peak ≤ 2 GB, the same at both sizes",
        f"d {d}, vocabulary {vocab:,}, {sizes[0]:,} and {sizes[1]:,} tokens, synthetic states",
        (
            *(number(f"GB at {n:,}", [g], most=2.0) for n, g in zip(sizes, gigabytes, strict=True)),
            number("larger ÷ smaller", [gigabytes[1] / gigabytes[0]], most=1.1),
            number("GB before the fit", [max(loaded)]),
        ),
        {f"fit of {n:,} tokens": (found[n]["seconds"],) * 3 for n in sizes},
        note=f"beyond {SHARD_POSITIONS:,} tokens two shards are in memory for a moment, however many there are",
    )  # fmt: skip


def synthetic(folder: Path, n: int, d: int) -> None:
    """States on disk in the shards that `collect` would write; made here, so that the child's
    memory is that of the fit."""
    random = torch.Generator().manual_seed(0)
    for k, start in enumerate(range(0, n, SHARD_POSITIONS)):
        count = min(SHARD_POSITIONS, n - start)
        text = (torch.arange(start, start + count) // LENGTH).int()
        hidden = torch.randn(count, d, generator=random)
        following = torch.randint(2_000, (count,), generator=random, dtype=torch.int32)
        save_file(
            {"hidden": hidden, "next": following, "text": text}, folder / f"{k:05d}.safetensors"
        )


def child(folder: Path, d: int, vocab: int, n: int) -> None:
    random = torch.Generator().manual_seed(1)
    on = sl.Readout(
        torch.randn(d, vocab, generator=random) / d**0.5,
        torch.zeros(vocab),
        tuple(map(str, range(vocab))),
    )
    n_texts = -(-n // LENGTH)
    lengths = torch.full((n_texts,), LENGTH)
    lengths[-1] = n - LENGTH * (n_texts - 1)
    labels = torch.ones(n_texts)
    labels[::2] = -1
    states = sl.States(
        on, tuple(sorted(folder.iterdir())), labels, lengths, torch.ones(n_texts, dtype=torch.bool)
    )
    loaded, begun = peak(), time.perf_counter()
    sl.fit_steer(states, ridge=0.3, damping=1e-2, lr=0.1)
    print(
        json.dumps({"gigabytes": peak(), "loaded": loaded, "seconds": time.perf_counter() - begun})
    )


def peak() -> float:
    """Gigabytes at the most so far. Linux hands the parent's high mark in `ru_maxrss` on to the
    child; its own is in /proc."""
    status = Path("/proc/self/status")
    if status.exists():
        own = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(own.split()[1]) * 1024 / 1e9
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size * (1 if sys.platform == "darwin" else 1024) / 1e9


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[5]))
    child(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
